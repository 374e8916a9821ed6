"""A name server of our own on loopback, over UDP and TCP, with zones in memory and every bad habit that servers have.

`with DnsServer(zones={"example.com": {"kunden TXT": ["hello"]}}) as server: server.port`. Keys are a name within the
zone (`@` for its top, `*` for a wildcard) and a type; values are texts as in a zone file, TXT as they are.
"""

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Records = Mapping[str, Sequence[str]]
Values = dict[tuple[dns.name.Name, dns.rdatatype.RdataType], list[dns.rdata.Rdata]]
MOST = 512
TTL = 60


class DnsServer:
    """`recursive`: speaks as a resolver, for all zones and not with their authority. The switches hold suffixes of
    names; `"."` is all of them."""

    def __init__(
        self,
        zones: Mapping[str, Records] | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        recursive: bool = False,
    ) -> None:
        self.address, self.recursive = address, recursive
        self.silent: set[str] = set()  # no answer
        self.failing: set[str] = set()  # SERVFAIL
        self.refusing: set[str] = set()  # REFUSED
        self.lame: set[str] = set()  # answers without authority
        self.truncating: set[str] = set()  # over UDP: too long, come by TCP
        self.wrong_id: set[str] = set()  # over UDP: a forged answer first
        self.only_forged: set[str] = set()  # and nothing else after it
        self.no_edns: set[str] = set()  # FORMERR to what knows more than 1987
        self.poisoned: dict[
            str, Callable[[dns.message.Message], None]
        ] = {}  # what else is put into an answer
        self.asked: Counter[str] = Counter()  # "kunden.example.com TXT" -> how often
        self.by_tcp = 0
        self._zones: dict[dns.name.Name, Values] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        for name, records in (zones or {}).items():
            self.zone(name, records)
        self._udp, self._tcp = _sockets(address, port)
        self.port: int = self._udp.getsockname()[1]

    def __enter__(self) -> "DnsServer":
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._serve_udp, self._serve_tcp)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()

    @property
    def where(self) -> str:
        """As `PORTAL_DNS_SERVERS` takes it."""
        return f"{self.address}#{self.port}"

    def zone(self, name: str, records: Records) -> None:
        """Put a zone in place of the one of that name."""
        top = dns.name.from_text(name)
        values: Values = {}
        for key, texts in {"@ SOA": ["ns hostmaster 1 60 60 60 60"], **records}.items():
            label, kind_text = key.split(" ")
            kind = dns.rdatatype.from_text(kind_text)
            owner = top if label == "@" else dns.name.from_text(label, top)
            values[(owner, kind)] = [_rdata(kind, text, top) for text in texts]
        with self._lock:
            self._zones[top] = values

    def change(self, zone: str, **records: Sequence[str] | None) -> None:
        """Change single records: `change("example.com", **{"kunden CNAME": None})` takes one away."""
        top = dns.name.from_text(zone)
        with self._lock:
            values = dict(self._zones[top])
            for key, texts in records.items():
                label, kind_text = key.split(" ")
                kind = dns.rdatatype.from_text(kind_text)
                owner = top if label == "@" else dns.name.from_text(label, top)
                values.pop((owner, kind), None)
                if texts is not None:
                    values[(owner, kind)] = [_rdata(kind, text, top) for text in texts]
            self._zones[top] = values

    # Serving

    def _serve_udp(self) -> None:
        while not self._stop.is_set():
            try:
                wire, sender = self._udp.recvfrom(4096)
            except TimeoutError:
                continue
            except OSError:
                return
            with suppress(dns.exception.DNSException, OSError):
                for answer in self._answers(wire, tcp=False):
                    self._udp.sendto(answer, sender)

    def _serve_tcp(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._tcp.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with connection, suppress(dns.exception.DNSException, OSError, struct.error):
                connection.settimeout(2)
                length = struct.unpack("!H", _exactly(connection, 2))[0]
                for answer in self._answers(_exactly(connection, length), tcp=True):
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answers(self, wire: bytes, tcp: bool) -> list[bytes]:
        question = dns.message.from_wire(wire)
        name, kind = question.question[0].name, question.question[0].rdtype
        with self._lock:
            self.asked[f"{_plain(name)} {dns.rdatatype.to_text(kind)}"] += 1
            self.by_tcp += tcp
            zones = dict(self._zones)
        if _on(self.silent, name):
            return []
        answer = dns.message.make_response(question, our_payload=1232)
        if _on(self.failing, name):
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif _on(self.refusing, name):
            answer.set_rcode(dns.rcode.REFUSED)
        elif _on(self.no_edns, name) and question.edns >= 0:
            answer.set_rcode(dns.rcode.FORMERR)
        else:
            self._fill(answer, zones, name, kind)
            for suffix, poison in self.poisoned.items():
                if _on({suffix}, name):
                    poison(answer)
        if not tcp and (_on(self.truncating, name) or len(answer.to_wire(max_size=65_535)) > MOST):
            answer = dns.message.make_response(question)
            answer.flags |= dns.flags.TC
        wires = [answer.to_wire(max_size=65_535)]
        if not tcp and (_on(self.wrong_id, name) or _on(self.only_forged, name)):
            forged = dns.message.make_response(question)
            forged.id = question.id ^ 0x5A5A
            forged.flags |= dns.flags.AA
            forged.set_rcode(dns.rcode.NXDOMAIN)
            wires = [forged.to_wire(), *([] if _on(self.only_forged, name) else wires)]
        return wires

    def _fill(
        self,
        answer: dns.message.Message,
        zones: Mapping[dns.name.Name, Values],
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
    ) -> None:
        tops = [top for top in zones if name.is_subdomain(top)]
        if not tops:
            answer.set_rcode(dns.rcode.NXDOMAIN if self.recursive else dns.rcode.REFUSED)
            return
        if not self.recursive and not _on(self.lame, name):
            answer.flags |= dns.flags.AA
        here, steps = name, 0
        while True:
            top = max((top for top in zones if here.is_subdomain(top)), key=len, default=None)
            if top is None:
                if self.recursive:
                    answer.set_rcode(dns.rcode.NXDOMAIN)
                return
            found = _standing(zones[top], top, here)
            if found is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
                return
            alias = found.get(dns.rdatatype.CNAME)
            if alias and kind != dns.rdatatype.CNAME:
                answer.answer.append(dns.rrset.from_rdata_list(here, TTL, alias))
                here, steps = alias[0].target, steps + 1  # type: ignore[attr-defined]
                if steps > 16 or not self.recursive:
                    return
                continue
            if kind in found:
                answer.answer.append(dns.rrset.from_rdata_list(here, TTL, found[kind]))
            return


def _standing(
    values: Values, top: dns.name.Name, name: dns.name.Name
) -> dict[dns.rdatatype.RdataType, list[dns.rdata.Rdata]] | None:
    """What stands at a name, by itself or by a wildcard beside its nearest neighbour; None where it is not there."""
    found = {kind: rdata for (owner, kind), rdata in values.items() if owner == name}
    if found:
        return found
    owners = {owner for owner, _ in values}
    if any(owner.is_subdomain(name) for owner in owners):
        return {}  # there are names below it
    above = name.parent()
    while above != top and not any(owner.is_subdomain(above) for owner in owners):
        above = above.parent()
    star = dns.name.from_text("*", above)
    return {kind: rdata for (owner, kind), rdata in values.items() if owner == star} or None


def _rdata(kind: dns.rdatatype.RdataType, text: str, top: dns.name.Name) -> dns.rdata.Rdata:
    if kind == dns.rdatatype.TXT and not text.startswith('"'):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return dns.rdata.from_text(dns.rdataclass.IN, kind, text, origin=top, relativize=False)


def _on(suffixes: set[str], name: dns.name.Name) -> bool:
    return any(name.is_subdomain(dns.name.from_text(suffix)) for suffix in suffixes)


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _exactly(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        part = connection.recv(length - len(got))
        if not part:
            raise OSError("cut off")
        got += part
    return got


def _sockets(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """One port for both kinds."""
    for _ in range(50):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind((address, port))
            tcp.bind((address, udp.getsockname()[1]))
        except OSError:
            udp.close()
            tcp.close()
            if port:
                raise
            time.sleep(0.01)
            continue
        tcp.listen(64)
        udp.settimeout(0.1)
        tcp.settimeout(0.1)
        return udp, tcp
    raise OSError("no port was free for both")
