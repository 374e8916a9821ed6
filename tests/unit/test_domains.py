"""Domains of merchants' own: which names can be claimed, what the DNS says of them, and from a claim to a name that is
served, mailed, lost and let go."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import dns.message
import dns.rrset
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, domains, letters, lookups, models, tenancy, work
from portal.db import Database
from portal.domains import BadName, Look, Problem
from portal.middleware import parse_host
from portal.settings import Settings
from tests.dns_server import DnsServer
from tests.unit.builders import MASTER_KEY, make_portal, save
from tests.unit.plans import plan_of, wholes

BASE = "portals.example.net"
NAME, TOKEN, TARGET = "kunden.brand.example", "0123456789abcdef", "acme.portals.example.net"
PROOF, VALUE = "_portal-proof.kunden.brand.example", "portal-proof=0123456789abcdef"


def make_settings(**fields: Any) -> Settings:
    values = {
        "base_domain": BASE,
        "admin_host": f"admin.{BASE}",
        "master_keys": MASTER_KEY,
        "local_names": True,
    }
    return Settings(**{**values, **fields})


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("kunden.example.com", "kunden.example.com"),
        ("  Kunden.EXAMPLE.com\n", "kunden.example.com"),
        ("kunden.example.com.", "kunden.example.com"),
        ("https://kunden.example.com/", "kunden.example.com"),
        ("HTTP://kunden.example.com", "kunden.example.com"),
        ("kunden.example.com/", "kunden.example.com"),
        ("example.com", "example.com"),
        ("shop.co.uk", "shop.co.uk"),
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("XN--MNCHEN-3YA.de", "xn--mnchen-3ya.de"),
        ("faß.de", "xn--fa-hia.de"),
        ("日本語カナ.jp", "xn--lck2c295sncbk91h.jp"),
        ("ｋｕｎｄｅｎ。example。com", "kunden.example.com"),
        ("kun\u200bden.example.com", "kunden.example.com"),
        ("a-b--c.example.com", "a-b--c.example.com"),
        ("evil-portals.example.net", "evil-portals.example.net"),
        ("myportals.example.net", "myportals.example.net"),
        ("portals.example.net.brand.com", "portals.example.net.brand.com"),
        ("kunden.brand.test", "kunden.brand.test"),
    ],
)
def test_what_can_be_claimed(text: str, name: str) -> None:
    assert domains.normalized(text, make_settings()) == name
    assert domains.normalized(name, make_settings()) == name
    assert parse_host(name.encode()) == name  # so a request for it is understood


A_NAME, PATH, PORT, IP = (
    "Enter a name, such as",
    "without the path",
    "without the port",
    "This is an IP address",
)
DOTS, SIGNS, OURS, AWAY = (
    "a dot too many",
    "can't be part of a name",
    "belongs to this installation",
    "not reached",
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *[(text, A_NAME) for text in ("", "   ", "https://", ".", "/", "http:///")],
        *[
            (text, PATH)
            for text in ("a.example.com/x", "https://a.example.com/?x", "a.example.com?b", "a.com#x")
        ],
        ("a.example.com\\x", PATH),
        ("ftp://a.example.com", "without “ftp://”"),
        ("a.example.com:8443", "(“:8443”)"),
        ("https://a.example.com:443/", "(“:443”)"),
        ("ana@example.com", "e-mail address"),
        ("https://ana:secret@a.example.com/", "e-mail address"),
        ("*.example.com", "stands for many"),
        *[
            (text, IP)
            for text in ("192.0.2.7", "127.1", "0x7f.1", "0x7F000001", "2130706433", "017700000001")
        ],
        *[
            (text, IP)
            for text in ("::1", "[::1]", "[2001:db8::1]:443", "fe80::1%eth0", "192.0.2.7.", "1.2.3.0x")
        ],
        ("１９２.０.２.７", IP),
        ("http://192.0.2.7/", IP),
        *[(text, "is one word") for text in ("com", "intern", "xn--p1ai")],
        *[(text, DOTS) for text in ("a..example.com", ".example.com", "a.example.com..")],
        *[
            (text, "no spaces")
            for text in ("a b.example.com", "a.example.com b.example.com", "a.example\t.com")
        ],
        ("a\x00b.example.com", "no spaces"),
        ("a_b.example.com", "underscore"),
        *[
            (text, SIGNS)
            for text in ("-a.example.com", "a-.example.com", "ab--c.example.com", "xn--zz.example.com")
        ],
        *[
            (text, SIGNS)
            for text in ("☕.example.com", "a,b.example.com", "a;b.example.com", "xn--example.com")
        ],
        ("'.example.com", SIGNS),
        ("<b>.example.com", SIGNS),
        ("a" * 64 + ".example.com", "at most 63"),
        (".".join(["a" * 60] * 4) + ".example.com", "at most 239"),
        ("x" * 3000, "too long"),
        ("gооgle.com", "several scripts"),  # two Cyrillic letters
        ("xn--ggle-55da.com", "several scripts"),  # the same in A-labels
        *[(text, OURS) for text in (BASE, f"acme.{BASE}", f"a.b.{BASE}", f"ACME.{BASE}.", f"admin.{BASE}")],
        (f"x.admin.{BASE}", OURS),
        (f"acme。{BASE}", OURS),
        *[(text, "many register") for text in ("co.uk", "github.io", "公司.cn")],
        *[
            (text, AWAY)
            for text in ("shop.onion", "shop.invalid", "1.0.10.in-addr.arpa", "localhost", "test")
        ],
    ],
)
def test_what_cannot_be_claimed_and_why(text: str, words: str) -> None:
    with pytest.raises(BadName) as refused:
        domains.normalized(text, make_settings())
    assert words in refused.value.sentence


@pytest.mark.parametrize(
    "name", ["shop.local", "shop.test", "shop.localhost", "a.internal", "a.b.example", "x.lan"]
)
def test_names_of_one_network_only_where_one_tries_out(name: str) -> None:
    with pytest.raises(BadName, match="not reached from everywhere"):
        domains.normalized(name, make_settings(local_names=None))
    assert domains.normalized(name, make_settings()) == name
    assert domains.normalized(name, make_settings(base_domain="portal.test", local_names=None)) == name


def test_in_the_demo_names_two_steps_below_localhost_are_merchants_own() -> None:
    settings = Settings(base_domain="localhost", admin_host="admin.localhost")
    assert domains.normalized("kunden.brand.localhost", settings) == "kunden.brand.localhost"
    for name in ("localhost", "acme.localhost", "admin.localhost", "x.admin.localhost"):
        with pytest.raises(BadName, match="belongs to this installation"):
            domains.normalized(name, settings)
    with pytest.raises(BadName, match="belongs to this installation"):
        domains.normalized("x.acme.portal.test", make_settings(base_domain="portal.test"))


def test_the_target_of_all_is_nobodys() -> None:
    settings = make_settings(cname_target="edge.example.org")
    for name in ("edge.example.org", "x.edge.example.org"):
        with pytest.raises(BadName, match="belongs to this installation"):
            domains.normalized(name, settings)
    assert domains.target_of("acme", settings) == "edge.example.org"
    assert domains.target_of("acme", make_settings()) == f"acme.{BASE}"


def test_whether_it_was_typed_like_that() -> None:
    assert domains.is_as_typed(" Kunden.Example.com. ", "kunden.example.com")
    assert domains.is_as_typed("MÜNCHEN.de", "xn--mnchen-3ya.de")
    assert not domains.is_as_typed("https://kunden.example.com/", "kunden.example.com")


def test_registered_domains_are_told_from_names_below_them() -> None:
    assert [domains.is_apex(name) for name in ("brand.com", "brand.co.uk", "a.brand.co.uk")] == [
        True,
        True,
        False,
    ]


# Looking


@pytest.fixture
def server() -> Iterator[DnsServer]:
    """A resolver that is asked about everything, as PORTAL_DNS_SERVERS has it; both records are right."""
    with DnsServer(recursive=True) as found:
        found.zone("brand.example", {"_portal-proof.kunden TXT": [VALUE], "kunden CNAME": [f"{TARGET}."]})
        found.zone("example.net", {"acme.portals A": ["192.0.2.10"], "acme.portals AAAA": ["2001:db8::10"]})
        yield found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server is given up sooner; one that answers has the time of a busy machine."""
    monkeypatch.setattr(lookups, "QUERY_S", 0.9)


def looked(server: DnsServer, name: str = NAME, token: str = TOKEN, **fields: Any) -> Look:
    settings = make_settings(**{"dns_servers": server.where, **fields})
    return asyncio.run(lookups.look(name, token, TARGET, settings))


def found(server: DnsServer, **fields: Any) -> list[tuple[str, str, str]]:
    return [(one.record, one.code, one.seen) for one in looked(server, **fields).problems]


def change(server: DnsServer, **records: Sequence[str] | None) -> None:
    """Records of the merchant's zone, by kind."""
    names = {
        "txt": "_portal-proof.kunden TXT",
        "cname": "kunden CNAME",
        "a": "kunden A",
        "aaaa": "kunden AAAA",
    }
    server.change("brand.example", **{names[kind]: values for kind, values in records.items()})


def test_both_records_are_right(server: DnsServer) -> None:
    assert looked(server) == Look()
    assert looked(server).right
    assert not looked(server).wrong


TXT_CASES: Mapping[str, tuple[list[str] | None, list[tuple[str, str, str]]]] = {
    "not there": (None, [("txt", "missing", "")]),
    "another value": (["v=spf1 -all"], [("txt", "other", "v=spf1 -all")]),
    "of an earlier claim": (["portal-proof=ffff"], [("txt", "other", "portal-proof=ffff")]),
    "in other letters": ([VALUE.upper()], [("txt", "other", VALUE.upper())]),
    "more than the value": ([VALUE + "x"], [("txt", "other", VALUE + "x")]),
    "among several": (["v=spf1 -all", VALUE, "x"], []),
    "in two strings": ([f'"{VALUE[:9]}" "{VALUE[9:]}"'], []),
    "with quotation marks": ([f'"\\"{VALUE}\\""'], []),
    "with spaces around": ([f" {VALUE} "], []),
    "not text at all": (['"\\255\\000"'], [("txt", "other", "�?")]),
    "many long ones": (["b" * 200, "2", "0", "1"], [("txt", "other", "0, 1, 2 …")]),
}


@pytest.mark.parametrize("case", TXT_CASES)
def test_the_txt_record(server: DnsServer, case: str) -> None:
    values, expected = TXT_CASES[case]
    change(server, txt=values)
    assert found(server) == expected


def test_a_long_answer_comes_by_tcp(server: DnsServer) -> None:
    change(server, txt=[f"{n:02}" + "x" * 200 for n in range(20)] + [VALUE])
    assert looked(server).right
    assert server.by_tcp > 0


def test_the_proof_may_stand_in_another_zone(server: DnsServer) -> None:
    server.zone("proofs.example", {"k TXT": [VALUE]})
    server.change(
        "brand.example",
        **{
            "_portal-proof.kunden TXT": None,
            "_portal-proof.kunden CNAME": ["k.proofs.example."],
        },
    )
    assert looked(server).right
    server.zone("proofs.example", {"other TXT": ["x"]})
    assert found(server) == [("txt", "led_away", "k.proofs.example")]


def test_slips_with_the_txt_record_are_seen(server: DnsServer) -> None:
    server.change(
        "brand.example",
        **{
            "_portal-proof.kunden TXT": None,
            "_portal-proof.kunden.brand.example TXT": [VALUE],
        },
    )
    assert found(server) == [("txt", "doubled", f"{PROOF}.brand.example")]
    server.change(
        "brand.example",
        **{
            "_portal-proof.kunden.brand.example TXT": None,
            "kunden CNAME": None,
            "kunden TXT": [VALUE],
        },
    )
    assert found(server) == [("txt", "at_name", ""), ("cname", "missing", "")]


def test_a_wildcard_may_stand_for_the_name_and_hide_the_proof(server: DnsServer) -> None:
    server.zone("brand.example", {"* CNAME": [f"{TARGET}."], "_portal-proof.kunden TXT": [VALUE]})
    # kunden.brand.example exists now, by what stands below it: the wildcard does not answer for it
    assert found(server) == [("cname", "missing", "")]
    server.zone("brand.example", {"* CNAME": [f"{TARGET}."]})
    assert found(server) == [("txt", "led_away", TARGET)]
    server.zone("brand.example", {"*.kunden TXT": [VALUE], "kunden CNAME": [f"{TARGET}."]})
    assert looked(server).right


CNAME_CASES: Mapping[str, tuple[dict[str, list[str]], list[tuple[str, str, str]]]] = {
    "not there": ({}, [("cname", "missing", "")]),
    "elsewhere": ({"kunden CNAME": ["shops.else.example."]}, [("cname", "elsewhere", "shops.else.example")]),
    "to nowhere": ({"kunden CNAME": ["gone.else.example."]}, [("cname", "elsewhere", "gone.else.example")]),
    "in other letters": ({"kunden CNAME": [f"{TARGET.upper()}."]}, []),
    "over another name": ({"kunden CNAME": ["b"], "b CNAME": ["via.else.example."]}, []),
    "to something like it": (
        {"kunden CNAME": [f"{TARGET}.brand.example."]},
        [("cname", "elsewhere", f"{TARGET}.brand.example")],
    ),
    "to itself": ({"kunden CNAME": ["kunden"]}, [("cname", "circle", "")]),
    "in a circle": ({"kunden CNAME": ["b"], "b CNAME": ["kunden"]}, [("cname", "circle", "")]),
    "too far": (
        {"kunden CNAME": ["c0"], **{f"c{n} CNAME": [f"c{n + 1}"] for n in range(12)}},
        [("cname", "circle", "")],
    ),
    "a strange address": ({"kunden A": ["198.51.100.1"]}, [("cname", "address", "198.51.100.1")]),
    "our addresses": ({"kunden A": ["192.0.2.10"], "kunden AAAA": ["2001:db8::10"]}, []),
    "one of ours": ({"kunden A": ["192.0.2.10"]}, []),
    "ours and a strange one": (
        {"kunden A": ["192.0.2.10", "198.51.100.1"]},
        [("cname", "address", "198.51.100.1")],
    ),
    "ours and an old AAAA": (
        {"kunden A": ["192.0.2.10"], "kunden AAAA": ["2001:db8::99"]},
        [("cname", "address", "2001:db8::99")],
    ),
}


@pytest.mark.parametrize("case", CNAME_CASES)
def test_where_the_name_leads(server: DnsServer, case: str) -> None:
    records, expected = CNAME_CASES[case]
    server.zone("brand.example", {"_portal-proof.kunden TXT": [VALUE], **records})
    server.zone("else.example", {"shops A": ["198.51.100.7"], "via CNAME": [f"{TARGET}."]})
    assert found(server) == expected


def test_addresses_that_the_installation_names_count_too(server: DnsServer) -> None:
    server.zone(
        "brand.example", {"_portal-proof TXT": [VALUE], "@ A": ["203.0.113.5"], "@ AAAA": ["2001:db8::5"]}
    )
    assert found(server, name="brand.example") == [("cname", "address", "2001:db8::5, 203.0.113.5")]
    assert found(server, name="brand.example", addresses="203.0.113.5, 2001:DB8:0::5") == []


def test_both_at_once(server: DnsServer) -> None:
    change(server, txt=None, cname=["shops.else.example."])
    look = looked(server)
    assert [problem.code for problem in look.problems] == ["missing", "elsewhere"]
    assert look.wrong


# What goes wrong on the way says nothing about the records


@pytest.mark.usefixtures("quick")
def test_silence_is_not_an_answer(server: DnsServer) -> None:
    server.silent = {"brand.example"}
    look = looked(server)
    assert look.problems == (Problem("zone", "no_answer", "brand.example"),)
    assert not look.wrong
    assert not look.right
    assert server.asked[f"{PROOF} TXT"] >= 2  # a lost packet is not the end


@pytest.mark.usefixtures("quick")
def test_our_own_resolver_may_be_the_one_that_is_silent(server: DnsServer) -> None:
    server.silent = {"."}
    look = looked(server)
    assert look.problems == (Problem("zone", "no_resolver"),)
    assert not look.wrong


@pytest.mark.usefixtures("quick")
def test_no_server_at_all() -> None:
    with DnsServer() as gone:
        where = gone.where
    settings = make_settings(dns_servers=where)
    begun = time.monotonic()
    look = asyncio.run(lookups.look(NAME, TOKEN, TARGET, settings))
    assert not look.wrong
    assert not look.right
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("switch", ["failing", "refusing"])
def test_errors_are_not_answers(server: DnsServer, switch: str) -> None:
    setattr(server, switch, {"brand.example"})
    look = looked(server)
    assert look.problems == (Problem("zone", "failed", "brand.example"),)
    assert not look.wrong


@pytest.mark.usefixtures("quick")
def test_one_record_unanswered_and_the_other_right(server: DnsServer) -> None:
    server.silent = {PROOF}
    look = looked(server)
    assert look.problems == (Problem("zone", "no_answer", "brand.example"),)
    assert not look.wrong


@pytest.mark.usefixtures("quick")
def test_a_chain_that_breaks_off_in_silence_may_yet_lead_to_us(server: DnsServer) -> None:
    change(server, cname=["via.else.example."])
    server.silent = {"else.example"}
    look = looked(server)
    assert look.problems == (Problem("zone", "no_answer", "else.example"),)
    assert not look.wrong


def test_truncated_answers_are_asked_for_again(server: DnsServer) -> None:
    server.truncating = {"brand.example"}
    assert looked(server).right
    assert server.by_tcp >= 2


def test_an_old_server_is_asked_in_the_old_way(server: DnsServer) -> None:
    server.no_edns = {"brand.example"}
    assert looked(server).right


def test_a_forged_answer_before_the_real_one_is_passed_over(server: DnsServer) -> None:
    server.wrong_id = {"brand.example"}
    assert looked(server).right


@pytest.mark.usefixtures("quick")
def test_a_forged_answer_alone_is_none(server: DnsServer) -> None:
    server.only_forged = {"brand.example"}
    look = looked(server)
    assert [problem.code for problem in look.problems] == ["no_answer"]
    assert not look.wrong


def rrset(name: str, kind: str, value: str) -> Any:
    return dns.rrset.from_text(f"{name}.", 60, "IN", kind, value)


@pytest.mark.parametrize("section", ["answer", "additional", "authority"])
def test_what_an_answer_says_of_other_names_is_not_believed(server: DnsServer, section: str) -> None:
    change(server, txt=None, cname=None)

    def poison(message: dns.message.Message) -> None:
        for extra in (rrset(PROOF, "TXT", f'"{VALUE}"'), rrset(NAME, "CNAME", f"{TARGET}.")):
            if section != "answer" or extra.name != message.question[0].name:
                getattr(message, section).append(extra)

    server.poisoned["brand.example"] = poison
    assert found(server) == [("txt", "missing", ""), ("cname", "missing", "")]


@pytest.mark.usefixtures("quick")
def test_a_second_resolver_stands_in_for_the_first(server: DnsServer) -> None:
    with DnsServer(recursive=True) as dead:
        dead.silent = {"."}
        assert looked(server, dns_servers=f"{dead.where}, {server.where}").right


# The zone's own name servers


class Internet:
    """A resolver, and two servers that stand for the merchant's zone."""

    def __init__(self, stack: ExitStack) -> None:
        self.resolver = stack.enter_context(DnsServer(recursive=True))
        self.one = stack.enter_context(DnsServer(address="127.0.0.2"))
        self.two = stack.enter_context(DnsServer(address="127.0.0.3", port=self.one.port))
        self.resolver.zone(
            "brand.example",
            {
                "@ NS": ["ns1.hoster.example.", "ns2.hoster.example."],
                "kunden TXT": ["what caches still remember"],
            },
        )
        self.resolver.zone("hoster.example", {"ns1 A": ["127.0.0.2"], "ns2 A": ["127.0.0.3"]})
        self.resolver.zone("example.net", {"acme.portals A": ["192.0.2.10"]})
        for server in (self.one, self.two):
            server.zone(
                "brand.example", {"_portal-proof.kunden TXT": [VALUE], "kunden CNAME": [f"{TARGET}."]}
            )

    def look(self, name: str = NAME, **fields: Any) -> Look:
        settings = make_settings(**{"dns_port": self.one.port, **fields})
        return asyncio.run(lookups.look(name, TOKEN, TARGET, settings))


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    with ExitStack() as stack:
        made = Internet(stack)
        monkeypatch.setattr(
            lookups, "system_resolvers", lambda: ((made.resolver.address, made.resolver.port),)
        )
        yield made


def test_the_zones_own_servers_are_asked_and_no_cache(internet: Internet) -> None:
    assert internet.look() == Look()
    assert f"{PROOF} TXT" not in internet.resolver.asked
    assert f"{NAME} A" not in internet.resolver.asked
    assert internet.one.asked[f"{PROOF} TXT"] + internet.two.asked[f"{PROOF} TXT"] >= 1


def test_one_server_that_has_it_is_enough(internet: Internet) -> None:
    internet.two.zone("brand.example", {})
    assert internet.look().right
    internet.one.zone("brand.example", {})
    assert [problem.code for problem in internet.look().problems] == ["missing", "missing"]


@pytest.mark.parametrize("switch", ["silent", "failing", "refusing", "lame"])
def test_one_bad_server_does_not_matter_two_do(
    internet: Internet, switch: str, request: pytest.FixtureRequest
) -> None:
    if switch == "silent":
        request.getfixturevalue("quick")
    setattr(internet.one, switch, {"."})
    assert internet.look().right
    setattr(internet.two, switch, {"."})
    code = {"silent": "no_answer", "failing": "failed"}.get(switch, "lame")
    look = internet.look()
    assert look.problems == (Problem("zone", code, "brand.example"),)
    assert not look.wrong


def test_servers_that_do_not_know_the_zone_are_lame(internet: Internet) -> None:
    internet.resolver.zone("hoster.example", {"ns1 A": ["127.0.0.3"]})
    internet.two._zones.clear()
    assert internet.look().problems == (Problem("zone", "lame", "brand.example"),)


def test_name_servers_without_addresses(internet: Internet) -> None:
    internet.resolver.zone("hoster.example", {"other A": ["127.0.0.2"]})
    assert internet.look().problems == (Problem("zone", "lame", "brand.example"),)


def test_a_domain_that_is_not_registered(internet: Internet) -> None:
    look = internet.look("kunden.nobody.example")
    assert look.problems == (Problem("zone", "no_zone", "nobody.example"),)
    assert look.wrong


def test_a_resolver_that_fails_says_nothing(internet: Internet) -> None:
    internet.resolver.failing = {"brand.example"}
    look = internet.look()
    assert look.problems == (Problem("zone", "failed", "brand.example"),)
    assert not look.wrong


@pytest.mark.usefixtures("quick")
def test_a_resolver_that_is_silent_is_ours(internet: Internet) -> None:
    internet.resolver.silent = {"."}
    assert internet.look().problems == (Problem("zone", "no_resolver"),)


def test_a_zone_below_the_domain_has_its_own_servers(internet: Internet) -> None:
    internet.resolver.change("brand.example", **{"kunden NS": ["ns2.hoster.example."], "kunden TXT": None})
    internet.two.zone("kunden.brand.example", {"_portal-proof TXT": [VALUE], "@ A": ["192.0.2.10"]})
    internet.one.zone("brand.example", {})
    assert internet.look().right


def test_a_chain_is_followed_to_the_servers_of_each_zone(internet: Internet) -> None:
    internet.resolver.zone(
        "else.example", {"@ NS": ["ns2.hoster.example."], "via CNAME": ["cached.example."]}
    )
    internet.two.zone("else.example", {"via CNAME": [f"{TARGET}."]})
    for server in (internet.one, internet.two):
        server.change("brand.example", **{"kunden CNAME": ["via.else.example."]})
    assert internet.look().right
    assert internet.two.asked["via.else.example A"] >= 1


def test_a_server_does_not_speak_for_another_zone(internet: Internet) -> None:
    """It may say where its name leads, not what stands there."""
    internet.resolver.zone("else.example", {"@ NS": ["ns2.hoster.example."]})
    internet.two.zone("else.example", {"shops A": ["198.51.100.7"]})
    for server in (internet.one, internet.two):
        server.change("brand.example", **{"kunden CNAME": ["shops.else.example."]})
        server.poisoned["brand.example"] = lambda message: message.answer.append(
            rrset("shops.else.example", "CNAME", f"{TARGET}.")
        )
    assert internet.look().problems == (Problem("cname", "elsewhere", "shops.else.example"),)


def test_a_chain_to_a_domain_that_is_gone_leads_elsewhere(internet: Internet) -> None:
    for server in (internet.one, internet.two):
        server.change("brand.example", **{"kunden CNAME": ["shop.expired.example."]})
    look = internet.look()
    assert look.problems == (Problem("cname", "elsewhere", "shop.expired.example"),)
    assert look.wrong


def test_no_zone_makes_us_knock_at_our_own_network(internet: Internet) -> None:
    """Name servers with addresses of loopback or a private network are asked only where one tries out."""
    look = internet.look(local_names=False)
    assert look.problems == (Problem("zone", "lame", "brand.example"),)
    assert internet.one.asked.total() + internet.two.asked.total() == 0


@pytest.mark.usefixtures("quick")
def test_a_look_has_an_end(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "QUERY_S", 5.0)
    monkeypatch.setattr(lookups, "LOOK_S", 0.5)
    internet.one.silent = internet.two.silent = {"."}
    begun = time.monotonic()
    look = internet.look()
    assert time.monotonic() - begun < 2
    assert look.problems == (Problem("zone", "no_answer", "brand.example"),)


# Every problem is a sentence


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (
            Problem("cname", "elsewhere", "shops.example.org"),
            f"points to shops.example.org, it should point to {TARGET}",
        ),
        (Problem("txt", "missing"), f"The TXT record {PROOF} is not there yet."),
        (Problem("txt", "other", "{x}"), "another value: “{x}”"),
        (Problem("zone", "no_answer", "brand.example"), "The name servers of brand.example do not answer."),
        (Problem("zone", "no_zone", "brand.example"), "is not registered"),
        (Problem("name", "taken"), "proved by another portal"),
        (Problem("name", "something new"), "did not work out"),
    ],
)
def test_problems_in_words(problem: Problem, words: str) -> None:
    assert words in domains.sentence(problem, NAME, TARGET)


def test_no_problem_is_without_words() -> None:
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(lookups))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    pairs = {
        tuple(arg.value for arg in call.args[:2] if isinstance(arg, ast.Constant))
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Problem"
    }
    known = {pair for pair in pairs if len(pair) == 2}
    assert len(known) >= 10
    for record, code in known | {("zone", code) for code in lookups.UNANSWERED | {"no_zone"}}:
        assert "did not work out" not in domains.sentence(Problem(record, code), NAME, TARGET)  # type: ignore[arg-type]


# From a claim to a name that is served


class House:
    """A portal with a claim, its worker, and the DNS it looks at."""

    def __init__(self, database: Database, server: DnsServer) -> None:
        self.database, self.server = database, server
        self.settings = make_settings(dns_servers=server.where)
        self.worker = work.Worker(self.settings, database)
        self.portal = make_portal(database)
        self.owner = self.make_owner(self.portal)

    def make_owner(
        self, portal: models.Portal, email: str = "owner@acme.example", role: str = "owner"
    ) -> models.User:
        user = save(self.database, models.User(email=email, created_at=clock.now()))
        save(
            self.database,
            models.Member(merchant_id=portal.merchant_id, user_id=user.id, role=role, created_at=clock.now()),
        )
        return user  # type: ignore[no-any-return]

    def claim(self, portal: models.Portal | None = None, name: str = NAME) -> models.DomainClaim:
        return self.database.write_now(domains.claim, (portal or self.portal).id, name, clock.now())

    def set_records(self, claim: models.DomainClaim, target: str | None = None) -> None:
        slug = self.read(models.Portal, claim.portal_id).slug
        change(
            self.server,
            txt=[domains.proof_value(claim.token)],
            cname=[f"{target or domains.target_of(slug, self.settings)}."],
        )

    def work(self) -> None:
        """What is due, but the mails."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        batch = self.database.write_now(work.claim, clock.now(), 100, ("mail",))
        await asyncio.gather(*(self.worker._each([job]) for job in batch))

    def prove(self, portal: models.Portal | None = None) -> models.DomainClaim:
        claim = self.claim(portal)
        self.set_records(claim)
        self.work()
        return self.claim_of(portal)

    def later(self, **gap: float) -> None:
        clock.set_offset(clock.offset() + timedelta(**gap))

    def claim_of(self, portal: models.Portal | None = None) -> models.DomainClaim:
        def read(db: Session) -> models.DomainClaim:
            row = models.DomainClaim
            return db.execute(
                select(row).where(col(row.portal_id) == (portal or self.portal).id)
            ).scalar_one()

        return self.database.read_now(read)

    def read(self, model: Any, row_id: int) -> Any:
        return self.database.read_now(lambda db: db.get_one(model, row_id))

    def domain(self, portal: models.Portal | None = None) -> str | None:
        found: str | None = self.read(models.Portal, (portal or self.portal).id).domain
        return found

    def served(self, host: str = NAME) -> str | None:
        view = self.database.read_now(tenancy.portal_by_host, host, BASE)
        assert self.database.read_now(tenancy.is_served, host, BASE) == (view is not None)
        return view.slug if view else None

    def mailed_with(self, portal: models.Portal | None = None) -> str:
        return self.database.read_now(tenancy.portal_by_id, (portal or self.portal).id, BASE).host

    def mails(self) -> list[dict[str, Any]]:
        def read(db: Session) -> list[dict[str, Any]]:
            rows = select(col(models.Job.payload)).where(col(models.Job.kind) == "mail")
            return list(db.execute(rows.order_by(col(models.Job.id))).scalars())

        return self.database.read_now(read)

    def letters(self) -> list[letters.Letter]:
        made = [self.database.write_now(letters._letter, payload, self.settings) for payload in self.mails()]
        return [letter for letter in made if letter is not None]

    def events(self) -> list[str]:
        def read(db: Session) -> list[str]:
            return list(db.execute(select(col(models.Audit.what)).order_by(col(models.Audit.id))).scalars())

        return self.database.read_now(read)

    def next_look(self) -> timedelta | None:
        due = self.claim_of().next_check_at
        return due - clock.now() if due else None

    def job(self) -> models.Job:
        def read(db: Session) -> models.Job:
            row = models.Job
            return db.execute(
                select(row).where(col(row.dedupe) == f"domain_look:{self.claim_of().id}")
            ).scalar_one()

        return self.database.read_now(read)


@pytest.fixture
def house(database: Database, server: DnsServer) -> House:
    change(server, txt=None, cname=None)
    return House(database, server)


def about(gap: timedelta | None, **wanted: float) -> bool:
    return gap is not None and abs(gap - timedelta(**wanted)) < timedelta(seconds=10)


def test_a_claim_reserves_nothing_and_is_neither_served_nor_mailed(house: House) -> None:
    claim = house.claim()
    house.work()
    assert house.claim_of().state == "pending"
    assert house.domain() is None
    assert house.served() is None
    assert house.mailed_with() == f"acme.{BASE}"
    assert house.served(f"acme.{BASE}") == "acme"
    other = make_portal(house.database, "kora")
    second = house.claim(other)
    assert second.token != claim.token
    house.set_records(second)
    house.later(seconds=61)
    house.work()
    assert house.served() == "kora"
    assert house.claim_of(other).state == "proved"
    assert house.claim_of().problems == [
        {"record": "txt", "code": "other", "seen": domains.proof_value(second.token)},
        {"record": "cname", "code": "elsewhere", "seen": f"kora.{BASE}"},
    ]


def test_proved_it_is_served_and_mailed(house: House) -> None:
    claim = house.prove()
    assert claim.state == "proved"
    assert claim.problems is None
    assert house.domain() == NAME
    assert house.served() == "acme"
    assert house.mailed_with() == NAME
    assert house.served(f"acme.{BASE}") == "acme"
    assert house.events() == ["domain.proved"]
    assert house.mails() == []
    assert about(house.next_look(), days=1)


def test_one_record_alone_proves_nothing(house: House) -> None:
    claim = house.claim()
    change(house.server, txt=[domains.proof_value(claim.token)])
    house.work()
    assert house.claim_of().problems == [{"record": "cname", "code": "missing", "seen": ""}]
    change(house.server, txt=None, cname=[f"acme.{BASE}."])
    house.later(seconds=61)
    house.work()
    assert house.claim_of().problems == [{"record": "txt", "code": "missing", "seen": ""}]
    assert house.served() is None


@pytest.mark.parametrize(
    ("age", "gap"),
    [
        ({"minutes": 0}, {"seconds": 60}),
        ({"minutes": 59}, {"seconds": 60}),
        ({"minutes": 61}, {"minutes": 15}),
        ({"hours": 23}, {"minutes": 15}),
        ({"hours": 25}, {"hours": 1}),
        ({"days": 6, "hours": 23}, {"hours": 1}),
    ],
)
def test_the_longer_it_takes_the_rarer_are_the_looks(house: House, age: Any, gap: Any) -> None:
    house.claim()
    house.later(**age)
    house.work()
    assert about(house.next_look(), **gap)
    job = house.job()
    assert abs(job.run_at - (house.claim_of().next_check_at or clock.now())) < timedelta(seconds=2)
    assert job.done_at is None


def test_after_a_week_only_by_hand(house: House) -> None:
    claim = house.claim()
    house.later(days=7, minutes=1)
    house.work()
    assert house.claim_of().next_check_at is None
    assert house.job().done_at is not None
    house.set_records(claim)
    house.later(days=1)
    house.work()
    assert house.claim_of().state == "pending"
    assert house.database.write_now(domains.look_soon, house.portal.id, clock.now())
    house.work()
    assert house.claim_of().state == "proved"


def test_a_look_by_hand_is_taken_once_in_ten_seconds(house: House) -> None:
    house.claim()

    def ask() -> bool:
        return house.database.write_now(domains.look_soon, house.portal.id, clock.now())

    assert not ask()  # one is due already
    house.work()
    assert not ask()  # one was just taken
    house.later(seconds=11)
    assert ask()
    assert not ask()
    house.work()
    house.later(seconds=11)
    assert ask()
    other = make_portal(house.database, "kora")
    assert not house.database.write_now(domains.look_soon, other.id, clock.now())


def test_a_new_claim_does_not_get_round_the_limit(house: House) -> None:
    house.claim()
    house.work()
    second = house.claim(name="other.brand.example")
    assert second.next_check_at is not None
    assert second.next_check_at - clock.now() > timedelta(seconds=5)


def test_the_same_claim_again_keeps_its_value(house: House) -> None:
    claim = house.claim()
    assert house.claim().token == claim.token
    proved = house.prove()
    assert house.claim().id == proved.id
    assert house.served() == "acme"


def test_another_name_takes_the_place_of_the_first(house: House) -> None:
    first = house.prove()
    second = house.claim(name="shop.brand.example")
    assert (second.state, second.token == first.token) == ("pending", False)
    assert house.domain() is None
    assert house.served() is None
    assert house.mailed_with() == f"acme.{BASE}"
    house.work()  # the first one's look, if any is left, changes nothing
    house.later(days=1, minutes=1)
    house.work()
    assert house.served() is None


def test_a_released_name_is_not_served_and_needs_a_new_proof(house: House) -> None:
    first = house.prove()
    house.database.write_now(domains.release, house.portal.id, clock.now())
    assert house.served() is None
    assert house.mailed_with() == f"acme.{BASE}"
    assert house.claim_of().state == "released"
    assert house.database.write_now(domains.release, house.portal.id, clock.now()) is None
    house.later(days=2)
    house.work()
    assert house.served() is None
    second = house.claim()  # the old records still stand in the DNS
    assert second.token != first.token
    house.work()
    assert house.claim_of().state == "pending"
    assert house.served() is None
    house.set_records(second)
    house.later(seconds=61)
    house.work()
    assert house.served() == "acme"


def test_a_name_somebody_let_go_needs_another_one_to_prove_it(house: House) -> None:
    house.prove()
    house.database.write_now(domains.release, house.portal.id, clock.now())
    other = make_portal(house.database, "kora")
    claim = house.claim(other)
    house.work()
    assert house.domain(other) is None  # what stands in the DNS is Acme's proof
    house.set_records(claim)
    house.later(seconds=61)
    house.work()
    assert house.served() == "kora"


def test_taken_is_said_only_to_who_could_have_it(house: House) -> None:
    house.prove()
    other = make_portal(house.database, "kora")
    claim = house.claim(other)
    house.work()
    assert "taken" not in str(house.claim_of(other).problems)
    both = [domains.proof_value(house.claim_of().token), domains.proof_value(claim.token)]
    change(house.server, txt=both, cname=[f"kora.{BASE}."])
    house.later(seconds=61)
    house.work()
    found = house.claim_of(other)
    assert found.problems == [{"record": "name", "code": "taken", "seen": ""}]
    assert found.state == "pending"
    assert house.served() == "acme"
    view = house.database.read_now(domains.of_portal, other.id, house.settings, clock.now())
    assert view.state == "taken"
    assert "acme" not in " ".join(view.problems).lower()
    # Acme's own look, long due again, finds that the name no longer leads to it
    house.later(hours=2)
    house.work()
    house.work()
    assert house.claim_of().state == "lost"
    house.later(hours=73)
    house.work()
    house.later(hours=1)
    house.work()
    assert house.served() == "kora"
    assert house.domain() is None


def test_two_prove_one_name_at_once(database: Database, server: DnsServer) -> None:
    """Both proofs are right; one gets it, the other is told, and nothing is left half done."""
    portals = [make_portal(database, slug) for slug in ("acme", "kora", "nova", "milo")]
    for _round in range(5):
        for portal in portals:
            database.write_now(domains.release, portal.id, clock.now())
        claims = [database.write_now(domains.claim, portal.id, NAME, clock.now()) for portal in portals]
        start = threading.Barrier(len(claims))

        def settle(claim: models.DomainClaim, start: threading.Barrier = start) -> None:
            wanted = domains.Wanted(claim.id, claim.portal_id, claim.name, claim.token, TARGET)
            start.wait()
            database.write_now(domains.settle, wanted, Look(), clock.now())

        threads = [threading.Thread(target=settle, args=(claim,)) for claim in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        states = database.read_now(
            lambda db: sorted(db.execute(select(col(models.DomainClaim.state))).scalars())
        )
        assert states == ["pending", "pending", "pending", "proved"]
        holders = database.read_now(
            lambda db: db.execute(
                select(col(models.Portal.id), col(models.DomainClaim.state))
                .join(models.DomainClaim, col(models.DomainClaim.portal_id) == col(models.Portal.id))
                .where(col(models.Portal.domain) == NAME)
            ).all()
        )
        assert [state for _, state in holders] == ["proved"]


def test_let_go_while_somebody_looks(house: House) -> None:
    """What a look finds of a claim that is replaced or released meanwhile has no effect."""
    claim = house.claim()
    wanted = domains.Wanted(claim.id, claim.portal_id, claim.name, claim.token, TARGET)
    house.database.write_now(domains.release, house.portal.id, clock.now())
    assert house.database.write_now(domains.settle, wanted, Look(), clock.now()) is None
    house.claim(name="shop.brand.example")
    assert house.database.write_now(domains.settle, wanted, Look(), clock.now()) is None
    assert house.domain() is None


# Proved names are looked at again


def test_lost_it_is_mailed_no_more_and_served_for_three_days(house: House) -> None:
    house.prove()
    change(house.server, txt=None)
    house.later(hours=24, seconds=5)
    house.work()
    claim = house.claim_of()
    assert claim.state == "lost"
    assert house.served() == "acme"
    assert house.mailed_with() == f"acme.{BASE}"
    assert about(house.next_look(), hours=1)
    (letter,) = house.letters()
    assert letter.to == "owner@acme.example"
    assert letter.subject == f"The proof for {NAME} is gone"
    text = " ".join(letter.context["paragraphs"])
    assert f"link to acme.{BASE} instead" in text
    assert f"The TXT record {PROOF} is not there yet." in text
    for _ in range(10):
        house.later(hours=7)
        house.work()
    assert house.claim_of().state == "lost"
    assert house.served() == "acme"
    house.later(hours=1, minutes=59)
    house.work()
    house.later(minutes=2)
    house.work()
    assert house.claim_of().state == "released"
    assert house.domain() is None
    assert house.served() is None
    assert house.claim_of().next_check_at is None
    assert [letter.subject for letter in house.letters()][1:] == [f"{NAME} answers no more"]
    assert house.events() == ["domain.proved", "domain.lost", "domain.ended"]
    view = house.database.read_now(domains.of_portal, house.portal.id, house.settings, clock.now())
    assert view.state == "ended"


def test_the_three_days_end_without_a_worker_too(house: House) -> None:
    house.prove()
    change(house.server, cname=["shops.else.example."])
    house.later(hours=24, seconds=5)
    house.work()
    house.later(hours=71, minutes=59)
    assert house.served() == "acme"
    house.later(minutes=2)
    assert house.domain() == NAME
    assert house.served() is None


def test_back_it_is_mailed_again(house: House) -> None:
    claim = house.prove()
    change(house.server, cname=["shops.else.example."])
    house.later(hours=24, seconds=5)
    house.work()
    assert house.mailed_with() == f"acme.{BASE}"
    house.set_records(claim)
    house.later(hours=71)
    house.work()
    assert house.claim_of().state == "proved"
    assert house.claim_of().lost_at is None
    assert house.mailed_with() == NAME
    house.later(days=3)
    assert house.served() == "acme"
    assert [letter.subject for letter in house.letters()][1:] == [f"{NAME} is in use again"]
    assert house.events() == ["domain.proved", "domain.lost", "domain.back"]


@pytest.mark.usefixtures("quick")
def test_silence_alone_is_no_loss_for_a_day(house: House) -> None:
    house.prove()
    house.server.silent = {"brand.example"}
    house.later(hours=24, seconds=5)
    for _ in range(6):
        house.work()
        assert house.claim_of().state == "proved"
        assert house.mailed_with() == NAME
        assert about(house.next_look(), hours=1)
        house.later(hours=4)
    house.work()
    assert house.claim_of().state == "lost"
    assert "do not answer" in " ".join(house.letters()[0].context["paragraphs"])


@pytest.mark.usefixtures("quick")
def test_an_answer_ends_the_silence(house: House) -> None:
    house.prove()
    house.server.silent = {"brand.example"}
    house.later(hours=24, seconds=5)
    house.work()
    house.later(hours=20)
    house.server.silent = set()
    house.work()
    assert house.claim_of().silent_since is None
    assert about(house.next_look(), days=1)
    house.server.silent = {"brand.example"}
    house.later(hours=24, seconds=5)
    house.work()
    assert house.claim_of().state == "proved"
    assert house.mails() == []


def test_every_owner_is_told_and_nobody_else(house: House) -> None:
    house.make_owner(house.portal, "second@acme.example")
    house.make_owner(house.portal, "viewer@acme.example", "viewer")
    house.make_owner(make_portal(house.database, "kora"), "owner@kora.example")
    house.prove()
    change(house.server, txt=None)
    house.later(hours=24, seconds=5)
    house.work()
    assert [letter.to for letter in house.letters()] == ["owner@acme.example", "second@acme.example"]

    def demote(db: Session) -> None:
        row = models.Member
        member = db.execute(select(row).where(col(row.user_id) == house.owner.id)).scalar_one()
        member.role = "viewer"

    house.database.write_now(demote)
    assert [letter.to for letter in house.letters()] == ["second@acme.example"]


def test_without_owners_the_merchants_address_is_told(database: Database, server: DnsServer) -> None:
    house = House(database, server)
    portal = make_portal(database, "kora")
    house.prove(portal)
    change(server, txt=None)
    house.later(hours=24, seconds=5)
    house.work()
    assert [letter.to for letter in house.letters()] == ["owner@acme.example"]


def test_letters_are_whole_and_go_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    async def keep(settings: Settings, messages: Any, taken: object = None) -> list[None]:
        sent.extend(messages)
        return [None] * len(messages)

    monkeypatch.setattr(letters, "send_batch", keep)
    house.prove()
    change(house.server, txt=None)
    house.later(hours=24, seconds=5)
    asyncio.run(house.worker.drain())
    ((to, message),) = sent
    assert to == "owner@acme.example"
    text = message.get_body(("plain",)).get_content()
    assert f"https://admin.{BASE}/settings/portals/" in text
    assert f"https://{NAME}" not in text


def test_a_look_that_was_set_aside_comes_back(house: House) -> None:
    house.claim()

    def park(db: Session) -> None:
        job = db.get_one(models.Job, house.job().id)
        job.parked_at = clock.now()

    house.database.write_now(park)
    house.work()
    assert house.claim_of().checked_at is None
    house.later(hours=1, minutes=1)
    house.database.write_now(domains.revive, clock.now())
    house.work()
    assert house.claim_of().checked_at is not None


def test_there_is_one_job_for_a_claim(house: House) -> None:
    house.claim()
    for _ in range(3):
        house.work()
        house.later(seconds=61)
        house.database.write_now(domains.look_soon, house.portal.id, clock.now())
    count = house.database.read_now(
        lambda db: db.execute(
            select(func.count()).select_from(models.Job).where(col(models.Job.kind) == "domain_look")
        ).scalar_one()
    )
    assert count == 1


def test_a_name_below_the_base_domain_is_a_portals_own_and_deeper_ones_are_domains(house: House) -> None:
    house.prove()
    assert house.served(f"kora.{BASE}") is None
    assert house.served(f"x.acme.{BASE}") is None
    assert house.served(BASE) is None
    assert house.served(f"{NAME}.{BASE}") is None


def test_a_host_is_found_by_one_indexed_read(house: House) -> None:
    from sqlalchemy import event

    house.prove()
    statements: list[str] = []
    event.listen(house.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for host in (NAME, f"acme.{BASE}", "nobody.example"):
        statements.clear()
        house.database.read_now(tenancy.is_served, host, BASE)
        reads = [text for text in statements if text.startswith("SELECT")]
        assert len(reads) == 1
        lines = plan_of(house.database, lambda db, host=host: tenancy.is_served(db, host, BASE))  # type: ignore[misc]
        assert any(re.search(r"SEARCH portal USING|Index.* Scan using .* on portal", line) for line in lines)
        assert not wholes(lines), lines


# What the page is told


def view(house: House, portal: models.Portal | None = None) -> domains.DomainView:
    return house.database.read_now(
        domains.of_portal, (portal or house.portal).id, house.settings, clock.now()
    )


def test_the_page_of_a_portal_without_a_domain(house: House) -> None:
    shown = view(house)
    assert (shown.state, shown.own, shown.host, shown.refreshes) == (
        "none",
        f"acme.{BASE}",
        f"acme.{BASE}",
        False,
    )


def test_the_page_names_both_records_and_what_is_wrong_with_each(house: House) -> None:
    claim = house.claim()
    shown = view(house)
    assert [(one.kind, one.name, one.short, one.value) for one in shown.records] == [
        ("TXT", PROOF, "_portal-proof.kunden", domains.proof_value(claim.token)),
        ("CNAME", NAME, "kunden", f"acme.{BASE}"),
    ]
    assert shown.is_looking
    assert shown.refreshes
    change(house.server, txt=[domains.proof_value(claim.token)], cname=["shops.else.example."])
    house.work()
    txt, cname = view(house).records
    assert (txt.is_right, txt.problem) == (True, None)
    assert not cname.is_right
    assert cname.problem == f"{NAME} points to shops.else.example, it should point to acme.{BASE}."


@pytest.mark.usefixtures("quick")
def test_nothing_is_called_right_that_was_not_seen(house: House) -> None:
    house.set_records(house.claim())
    house.server.silent = {"brand.example"}
    house.work()
    shown = view(house)
    assert [record.is_right for record in shown.records] == [False, False]
    assert shown.problems == ("The name servers of brand.example do not answer.",)


def test_the_page_stops_refreshing_when_there_is_nothing_to_see(house: House) -> None:
    house.claim()
    house.later(hours=2)
    house.work()
    assert not view(house).refreshes  # the next look is in a quarter of an hour
    house.later(minutes=14)
    assert view(house).refreshes
    house.later(minutes=2)
    house.prove()
    assert view(house).state == "proved"
    assert not view(house).refreshes


def test_the_page_of_a_registered_domain_says_so(house: House) -> None:
    house.claim(name="brand.example")
    shown = view(house)
    assert shown.is_apex
    assert [record.short for record in shown.records] == ["_portal-proof", "@"]


# Settings


def test_resolvers_and_addresses_are_read_once_and_as_one_writes_them() -> None:
    settings = make_settings(
        dns_servers="192.0.2.1, 2001:db8::1#5353 ,", addresses=" 2001:DB8:0::5,192.0.2.9 "
    )
    assert settings.resolvers == (("192.0.2.1", 53), ("2001:db8::1", 5353))
    assert settings.own_addresses == {"2001:db8::5", "192.0.2.9"}
    assert make_settings().resolvers == ()
    assert make_settings().own_addresses == frozenset()


@pytest.mark.parametrize(
    "fields",
    [
        {"dns_servers": "ns.example.net"},
        {"dns_servers": "192.0.2.1#"},
        {"dns_servers": "192.0.2.1#99999"},
        {"dns_servers": "192.0.2.1#dns"},
        {"addresses": "acme.example"},
        {"dns_port": 0},
    ],
)
def test_nonsense_about_the_dns_is_refused_at_start(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        make_settings(**fields)
