"""One POST to an address that somebody gave us: only to the public net, only to the very address that was looked at,
without redirects, and not for long. Nothing inside our own network can be reached through it."""

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import httpx2 as httpx

from portal.gateways.http import retry_after
from portal.texts import gettext as _

TOTAL_S = 10.0
MOST = 64 * 1024  # of an answer; what comes after is not read
LONGEST = 500
_HOST = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_SAFE = re.compile(r"[\x21-\x7e]+")

# What is no part of the public net, and that `is_global` takes for it (in some version of Python at least).
_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "168.63.129.16/32",  # a cloud's own services, under a public number
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "224.0.0.0/3",
        "::/8",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/9",
        "ff00::/8",
    )
)
_NAT64 = ip_network("64:ff9b::/96")


class Refused(Exception):
    """We do not go there; the sentence says why."""


class NoAnswer(Exception):
    """It could not be reached, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: float | None  # seconds


@dataclass(frozen=True, slots=True)
class Target:
    """An address taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def name(self) -> str:
        """As it stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def target(url: str, private: bool = False) -> Target:
    """Take an address apart; Refused where it is none that we would call. Looks nothing up.

    `private` is for development: plain http, and hosts of one's own network.
    """
    if len(url) > LONGEST or not _SAFE.fullmatch(url) or "\\" in url:
        raise Refused(
            _("Give an address of at most 500 plain characters, such as https://app.example.com/hooks.")
        )
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
    except ValueError as error:
        raise Refused(_("This is no address.")) from error
    schemes = ("https", "http") if private else ("https",)
    if parts.scheme not in schemes:
        raise Refused(_("The address has to begin with https://."))
    if parts.username is not None or parts.password is not None:
        raise Refused(_("Leave name and password out of the address; each delivery is signed."))
    if "#" in url:
        raise Refused(_("Leave out what comes after #."))
    if not (_literal(host) if "[" in parts.netloc else _HOST.fullmatch(host)):
        raise Refused(_("This is no name of a host. Write it in its ASCII form."))
    port = port if port is not None else (443 if parts.scheme == "https" else 80)
    if not private and port != 443 and port < 1024:
        raise Refused(_("Of the ports below 1024, only 443 is called."))
    found = _literal(host)
    if found is not None and not private and not is_public(found):
        raise Refused(_("This address is not in the public net."))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the public net, an IPv4 address wrapped in an IPv6 one included."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address.teredo is not None:
            return False
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return not any(address in network for network in _NOT_PUBLIC if network.version == address.version)


async def post(url: str, headers: Mapping[str, str], body: bytes, private: bool = False) -> Answer:
    """Send it; the answer's status. Refused, or NoAnswer."""
    aim = target(url, private)
    try:
        async with asyncio.timeout(TOTAL_S):
            address = await _looked_up(aim, private)
            return await _send(aim, address, headers, body)
    except TimeoutError as error:
        raise NoAnswer("It did not answer within 10 seconds.") from error
    except ssl.SSLError as error:
        raise NoAnswer("Its certificate is not good.") from error
    except (httpx.TransportError, httpx.DecodingError, OSError) as error:
        raise NoAnswer(_plain(error)) from error


async def _looked_up(aim: Target, private: bool) -> str:
    """The one address that is called. Where any of a name's addresses is not public, none is."""
    found = _literal(aim.host)
    addresses = [found] if found is not None else await _addresses(aim.host, aim.port)
    if not private and not all(is_public(one) for one in addresses):
        raise Refused(_("Its name leads to an address that is not in the public net."))
    return str(addresses[0])


async def _addresses(host: str, port: int) -> list[IPv4Address | IPv6Address]:
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    except (socket.gaierror, UnicodeError) as error:
        raise NoAnswer("Its name can't be found.") from error
    # An IPv6 address may carry a zone, which belongs to our own machine.
    found = [ip_address(str(row[4][0])) for row in rows if "%" not in str(row[4][0])]
    if not found:
        raise NoAnswer("Its name can't be found.")
    return found


async def _send(aim: Target, address: str, headers: Mapping[str, str], body: bytes) -> Answer:
    literal = f"[{address}]" if ":" in address else address
    async with httpx.AsyncClient(
        timeout=TOTAL_S, follow_redirects=False, trust_env=False, verify=_trusted()
    ) as client:
        request = client.build_request(
            "POST",
            f"{aim.scheme}://{literal}:{aim.port}{aim.path}",
            headers={**headers, "Host": aim.name},
            content=body,
            # The certificate is that of the name, though the number is called.
            extensions={"sni_hostname": aim.host},
        )
        answer = await client.send(request, stream=True)
        try:
            seen = 0
            async for chunk in answer.aiter_raw():
                seen += len(chunk)
                if seen > MOST:
                    break
        finally:
            await answer.aclose()
    return Answer(answer.status_code, retry_after(answer))


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@cache
def _trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def _plain(error: Exception) -> str:
    if "CERTIFICATE" in str(error).upper():
        return "Its certificate is not good."
    if isinstance(error, httpx.ConnectError | ConnectionError):
        return "It can't be reached."
    return f"The connection broke ({type(error).__name__})."
