"""What the DNS says of a merchant's name: whether the TXT proof is there, and whether the name leads to us.

The zone's own name servers are asked, so that no cache stands between a change and our seeing it. Nothing that goes
wrong on the way is raised: it is a problem with a code, which `domains.sentence` puts into words.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Any, Literal

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.TXT import TXT
from publicsuffixlist import PublicSuffixList

from portal.settings import Settings

PROOF = "_portal-proof"
QUERY_S = 3.0  # for one server's answer, asked twice if need be
LOOK_S = 10.0  # in all
HOPS = 8
SERVERS = 6  # of one zone
PAYLOAD = 1232  # bytes that pass without being cut into fragments

Record = Literal["txt", "cname", "zone", "name"]
Where = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is not as it should be. `seen` is what stands there instead, or whose servers it is about."""

    record: Record
    code: str
    seen: str = ""


# These say nothing about the records: somebody did not answer, or not sensibly.
UNANSWERED = frozenset({"no_answer", "failed", "lame", "no_resolver"})


@dataclass(frozen=True, slots=True)
class Look:
    problems: tuple[Problem, ...] = ()

    @property
    def right(self) -> bool:
        """Both records are as they should be."""
        return not self.problems

    @property
    def wrong(self) -> bool:
        """A name server has said that one of them is not."""
        return any(problem.code not in UNANSWERED for problem in self.problems)


async def look(name: str, token: str, target: str, settings: Settings) -> Look:
    """Look the two records of a claim up. Never raises for what the DNS does or does not answer."""
    asker = _Asker(settings)
    tasks = [
        asyncio.create_task(_proof(asker, name, proof_value(token))),
        asyncio.create_task(_way(asker, name, target, settings)),
    ]
    try:
        _, late = await asyncio.wait(tasks, timeout=LOOK_S)
        found = [Problem("zone", "no_answer", domain(name)) if one in late else one.result() for one in tasks]
        problems = tuple(dict.fromkeys(one for one in found if one is not None))
        unanswered = problems and all(one.code == "no_answer" for one in problems)
        if unanswered and not late and not await asker.is_answered():
            problems = (Problem("zone", "no_resolver"),)
        return Look(problems)
    finally:
        await asker.close(tasks)


async def texts(name: str, settings: Settings) -> tuple[str, ...] | None:
    """The TXT values of any name, through CNAMEs, as our resolvers know them; None where nobody answers."""
    asker, here = _Asker(settings), name
    with suppress(_Unknown):
        for _ in range(HOPS):
            answer = await asker.resolve(here, "TXT")
            if answer.alias is None:
                return tuple(_texts(answer))
            here = answer.alias
    return None


def proof_name(name: str) -> str:
    return f"{PROOF}.{name}"


def proof_value(token: str) -> str:
    return f"portal-proof={token}"


def domain(name: str) -> str:
    """The registered domain that a name stands in; the name itself where it is one or there is none."""
    return registered_suffixes().privatesuffix(name) or name


@cache
def registered_suffixes() -> PublicSuffixList:
    """The suffixes under which registries sell names."""
    return PublicSuffixList(only_icann=True)


# The two records


async def _proof(asker: "_Asker", name: str, value: str) -> Problem | None:
    """The TXT record, through CNAMEs where somebody keeps it elsewhere."""
    record = end = proof_name(name)
    been = {record}
    try:
        while (answer := await asker.ask(end, "TXT", lambda answer: value in _texts(answer))).alias:
            end = _step(answer.alias, been)
        texts = _texts(answer)
        if value in texts:
            return None
        if texts:
            return Problem("txt", "other", _shown(texts))
        if end != record:
            return Problem("txt", "led_away", end)
        return await _misplaced(asker, name, value) or Problem("txt", "missing")
    except _Circle:
        return Problem("txt", "circle")
    except _Unknown as unknown:
        led_away = end != record and not unknown.is_open
        return Problem("txt", "led_away", end) if led_away else unknown.problem


async def _misplaced(asker: "_Asker", name: str, value: str) -> Problem | None:
    """The two slips that people make: the value at the name itself, and a DNS page that added the domain once more."""
    with suppress(_Unknown, _Circle):
        answer = await asker.ask(name, "TXT", lambda answer: value in _texts(answer))
        if value in _texts(answer):
            return Problem("txt", "at_name")
        doubled = f"{proof_name(name)}.{domain(name)}"
        answer = await asker.ask(doubled, "TXT", lambda answer: value in _texts(answer))
        if value in _texts(answer):
            return Problem("txt", "doubled", doubled)
    return None


async def _way(asker: "_Asker", name: str, target: str, settings: Settings) -> Problem | None:
    """The CNAME to us, or addresses that are ours."""
    if name == target:
        return None
    first: str | None = None
    here, been = name, {name}
    try:
        while (answer := await asker.ask(here, "A", lambda answer: answer.alias == target)).alias:
            if answer.alias == target:
                return None
            first = first or answer.alias
            here = _step(answer.alias, been)
        addresses = set(answer.values)
        with suppress(_Unknown):  # a server that knows no IPv6 may say so by silence
            addresses |= set((await asker.ask(here, "AAAA")).values)
    except _Circle:
        return Problem("cname", "circle")
    except _Unknown as unknown:
        # A chain that breaks off where no name servers are leads away; where none answers, it may yet lead to us.
        if first is not None and not unknown.is_open:
            return Problem("cname", "elsewhere", first)
        return unknown.problem
    strange = addresses - settings.own_addresses
    if strange:
        strange -= await asker.addresses(target)
    if addresses and not strange:
        return None
    if first is not None:
        return Problem("cname", "elsewhere", first)
    return (
        Problem("cname", "address", ", ".join(sorted(strange)[:4]))
        if strange
        else Problem("cname", "missing")
    )


def _step(alias: str, been: set[str]) -> str:
    """On along a chain of CNAMEs."""
    if alias in been or len(been) > HOPS:
        raise _Circle
    been.add(alias)
    return alias


# Asking


class _Unknown(Exception):
    """Nobody gave an answer that could be used."""

    def __init__(self, code: str, seen: str = "") -> None:
        self.problem = Problem("zone", code, seen)

    @property
    def is_open(self) -> bool:
        """Whether another time there may be one."""
        return self.problem.code in UNANSWERED


class _Circle(Exception):
    """CNAMEs that lead on and on."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What stands at exactly the name asked for: a CNAME, or values; neither where there is nothing."""

    alias: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Zone:
    name: str
    servers: tuple[Where, ...]


Wanted = Callable[[_Answer], bool]


def _anything(answer: _Answer) -> bool:
    return True


class _Asker:
    """Asks for one look, remembering whose servers stand for which zone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.resolvers = settings.resolvers or system_resolvers()
        self._zones: dict[str, asyncio.Task[_Zone]] = {}

    async def close(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Leave nothing behind that still asks."""
        everything = [*tasks, *self._zones.values()]
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)

    async def ask(self, name: str, kind: str, wanted: Wanted = _anything) -> _Answer:
        """What the name's own servers say, all at once: the first wanted answer, else the first one. So a record counts
        as there once one of them shows it, and as missing only when none does."""
        if self.settings.resolvers:
            return await _among(self.resolvers, name, kind, wanted, None)
        zone = await self._zone(name)
        return await _among(zone.servers, name, kind, wanted, zone.name)

    async def resolve(self, name: str, kind: str) -> _Answer:
        """The same by our resolvers, for what is not the merchant's own."""
        return await _among(self.resolvers, name, kind, _anything, None)

    async def addresses(self, name: str) -> frozenset[str]:
        """All addresses of a name, through CNAMEs; none where it cannot be told."""
        found: set[str] = set()
        for kind in ("A", "AAAA"):
            here = name
            with suppress(_Unknown):
                for _ in range(HOPS):
                    answer = await self.resolve(here, kind)
                    found |= set(answer.values)
                    if answer.alias is None:
                        break
                    here = answer.alias
        return frozenset(found)

    async def is_answered(self) -> bool:
        """Whether our resolvers answer anything at all."""
        try:
            await self.resolve(".", "NS")
        except _Unknown as unknown:
            return unknown.problem.code != "no_answer"
        return True

    async def _zone(self, name: str) -> _Zone:
        if name not in self._zones:
            self._zones[name] = asyncio.create_task(self._find_zone(name))
        return await asyncio.shield(self._zones[name])

    async def _find_zone(self, name: str) -> _Zone:
        """The zone that a name stands in: of the name itself or the nearest one above it that has name servers."""
        above = name.partition(".")[2]
        if not above or registered_suffixes().is_public(name):
            raise _Unknown("no_zone", name)
        try:
            found = (await self.resolve(name, "NS")).values
        except _Unknown as trouble:
            if trouble.problem.code == "no_answer":
                raise
            try:
                return await self._zone(above)
            except _Unknown as unknown:
                raise (unknown if unknown.is_open else trouble) from None
        if found:
            return _Zone(name, await self._servers(name, found))
        try:
            return await self._zone(above)
        except _Unknown as unknown:
            raise (unknown if unknown.is_open else _Unknown("no_zone", domain(name))) from None

    async def _servers(self, zone: str, names: Sequence[str]) -> tuple[Where, ...]:
        """Where to ask. What comes along beside an answer is not trusted: each name is looked up."""
        asking = [self.resolve(name, kind) for kind in ("A", "AAAA") for name in sorted(names)[:SERVERS]]
        found: dict[str, None] = {}
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(answer, _Answer):
                found |= dict.fromkeys(answer.values)
            elif not isinstance(answer, _Unknown):
                raise answer
        usable = [one for one in found if self._may_be_asked(one)][:SERVERS]
        if not usable:
            raise _Unknown("lame", zone)
        return tuple((one, self.settings.dns_port) for one in usable)

    def _may_be_asked(self, address: str) -> bool:
        """No merchant's zone makes us knock at our own network."""
        return ip_address(address).is_global or self.settings.takes_local_names


async def _among(servers: Sequence[Where], name: str, kind: str, wanted: Wanted, zone: str | None) -> _Answer:
    """Ask several at once. `zone`: they are its own servers, and must speak for it."""
    whose = zone or domain(name)
    tasks = [asyncio.create_task(_query(server, name, kind, zone is not None)) for server in servers]
    best: _Answer | None = None
    codes = {"no_answer"}
    try:
        for next_one in asyncio.as_completed(tasks):
            try:
                answer = await next_one
            except _Unknown as unknown:
                codes.add(unknown.problem.code)
                continue
            if wanted(answer):
                return answer
            best = best or answer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if best is not None:
        return best
    # Of several troubles the one that says most.
    raise _Unknown(next(code for code in ("lame", "failed", "no_answer") if code in codes), whose)


def system_resolvers() -> tuple[Where, ...]:
    """The resolvers of this machine."""
    try:
        found = dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return ()
    return tuple((str(address), found.port) for address in found.nameservers)[:SERVERS]


async def _query(server: Where, name: str, kind: str, directly: bool) -> _Answer:
    """One question to one server. `directly`: it is one of the zone's own, and must speak for the zone."""
    try:
        owner = dns.name.from_text(name)
        async with asyncio.timeout(QUERY_S):
            answer = await _exchange(server, owner, kind, directly, edns=True)
            if answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS):
                answer = await _exchange(server, owner, kind, directly, edns=False)
        return _read(answer, owner, kind, directly)
    except (dns.exception.Timeout, TimeoutError, OSError, EOFError) as error:
        raise _Unknown("no_answer") from error
    except (dns.exception.DNSException, ValueError) as error:
        raise _Unknown("failed") from error


async def _exchange(
    server: Where, owner: dns.name.Name, kind: str, directly: bool, edns: bool
) -> dns.message.Message:
    """Over UDP, a second time where nothing came; over TCP where the answer was too long. What is no answer to our very
    question, by its sender, number and words, is passed over."""
    question = dns.message.make_query(owner, kind, use_edns=0 if edns else False, payload=PAYLOAD)
    if directly:
        question.flags &= ~dns.flags.RD
    where, port = server
    for seconds in (QUERY_S / 3, QUERY_S * 2 / 3):
        try:
            return await dns.asyncquery.udp(
                question,
                where,
                seconds,
                port,
                ignore_unexpected=True,
                raise_on_truncation=True,
                ignore_errors=True,
            )
        except dns.message.Truncated:
            return await dns.asyncquery.tcp(question, where, QUERY_S, port)
        except dns.exception.Timeout:
            continue
    raise TimeoutError


def _read(message: dns.message.Message, owner: dns.name.Name, kind: str, directly: bool) -> _Answer:
    """Only what the answer says of exactly this name: a chain is followed by asking again, each zone by its own."""
    code = message.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise _Unknown("lame" if directly and code in (dns.rcode.REFUSED, dns.rcode.NOTAUTH) else "failed")
    if directly and not message.flags & dns.flags.AA:
        raise _Unknown("lame")
    alias = message.get_rrset(message.answer, owner, dns.rdataclass.IN, dns.rdatatype.CNAME)
    if alias:
        return _Answer(alias=_name(alias[0].target))
    wanted = dns.rdatatype.from_text(kind)
    found = message.get_rrset(message.answer, owner, dns.rdataclass.IN, wanted)
    return _Answer(values=tuple(_value(one) for one in found or ()))


def _value(rdata: dns.rdata.Rdata) -> str:
    if isinstance(rdata, TXT):
        return b"".join(rdata.strings).decode("utf-8", "replace")
    return _name(rdata.target) if isinstance(rdata, NS) else rdata.to_text()


def _name(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _text(value: str) -> str:
    """A TXT value as it is meant: many DNS pages take quotation marks for part of it."""
    return value.strip().strip('"').strip()


def _texts(answer: _Answer) -> list[str]:
    return [_text(value) for value in answer.values]


def _shown(texts: Sequence[str]) -> str:
    """Foreign values, short enough for a sentence."""
    clean = ["".join(c if c.isprintable() else "?" for c in text)[:80] for text in sorted(texts)]
    return ", ".join(clean[:3]) + (" …" if len(clean) > 3 else "")
