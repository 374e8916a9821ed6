"""The doctor: what each check says of what it finds, asked of real servers with certificates, refusals and silence."""

import asyncio
import json
import secrets
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import aiosmtplib
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from portal import clock, doctor, domains, models, rhythm, tally
from portal.db import Database
from portal.doctor import Finding
from portal.gateways import http
from portal.settings import Settings
from portal.vault import Vault, new_key
from tests.dns_server import DnsServer
from tests.unit.builders import MASTER_KEY, NOW, make_account, make_portal, save
from tests.unit.test_mail import Sink, sink

BASE = "portals.example.net"
Result = TypeVar("Result")


def make_settings(**fields: Any) -> Settings:
    values: dict[str, Any] = {
        "base_domain": BASE,
        "admin_host": f"admin.{BASE}",
        "master_keys": MASTER_KEY,
        "secret_key": "a secret that stays",
        "mail_from": "portal@brand.example",
        "smtp_tls": "none",
    }
    return Settings(**{**values, **fields})


def states(found: list[Finding], area: str) -> list[str]:
    return [one.state for one in found if one.area == area]


def the(found: list[Finding], area: str) -> Finding:
    (one,) = [one for one in found if one.area == area]
    return one


def merchants(
    database: Database, settings: Settings | None = None, merchant: int | None = None
) -> list[Finding]:
    return database.read_now(doctor.of_merchant, settings or make_settings(), merchant, NOW)


def installation(database: Database, settings: Settings | None = None) -> list[Finding]:
    return database.read_now(doctor.of_installation, settings or make_settings(), None, NOW)


# Certificates


class Authority:
    """Signs certificates that nobody else trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority of these tests")])
        self.certificate = self._made(self.name, self.key, True, 400, [])
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str, days: float = 90, self_signed: bool = False) -> ssl.SSLContext:
        """What a server shows that has a certificate for these names, good for so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._made(subject, key, False, days, list(names), own=self_signed)
        file = self.folder / f"{secrets.token_hex(4)}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.file))

    def _made(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        authority: bool,
        days: float,
        names: list[str],
        own: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if own or authority else self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=100))
            .not_valid_after(now + timedelta(days=days, minutes=5))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key((key if own else self.key).public_key()),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, authority, authority, False, False),
                critical=True,
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return builder.sign(key if own else self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trusting(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """This process trusts the authority, as it does those of the world."""
    monkeypatch.setattr(doctor, "_trusted", authority.trusted)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


def beside(
    context: ssl.SSLContext | None, greeting: bytes | None, ask: Callable[[int], Awaitable[Result]]
) -> Result:
    """Ask while a server runs on a port of its own. `greeting` None: it takes the connection and says nothing."""

    async def run() -> Result:
        open_ones: list[asyncio.StreamWriter] = []

        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_ones.append(writer)
            if greeting is not None:
                writer.write(greeting)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        try:
            return await ask(server.sockets[0].getsockname()[1])
        finally:
            for writer in open_ones:
                writer.transport.abort()
            server.close()
            await asyncio.sleep(0.05)

    return asyncio.run(run())


def look(context: ssl.SSLContext | None, greeting: bytes = b"", name: str = "localhost") -> Finding:
    return beside(context, greeting, lambda port: doctor.certificate(name, port, private=True))


@pytest.mark.parametrize(
    ("days", "state"), [(90, "ok"), (14, "ok"), (13, "warn"), (4, "warn"), (3, "bad"), (0, "bad")]
)
def test_a_certificate_is_judged_by_the_days_it_is_good_for(
    trusting: Authority, days: int, state: str
) -> None:
    found = look(trusting.server("localhost", days=days))
    assert found.state == state
    assert f"{days} days from now" in found.sentence
    assert bool(found.todo) == (state != "ok")
    assert found.about == "localhost"


@pytest.mark.parametrize(
    ("names", "days", "self_signed", "sentence"),
    [
        (["localhost"], -3, False, "The certificate has expired."),
        (["elsewhere.example"], 90, False, "The certificate is for another name."),
        (["localhost"], 90, True, "The certificate is self-signed; browsers refuse it."),
    ],
)
def test_a_certificate_that_browsers_refuse_is_named(
    trusting: Authority, names: list[str], days: int, self_signed: bool, sentence: str
) -> None:
    found = look(trusting.server(*names, days=days, self_signed=self_signed))
    assert (found.state, found.sentence) == ("bad", sentence)
    assert found.todo


def test_a_certificate_of_an_authority_that_nobody_knows(authority: Authority) -> None:
    found = look(authority.server("localhost"))
    assert found.state == "bad"
    assert found.sentence.startswith("The certificate is not from anyone that browsers trust")


def test_a_server_without_tls_one_that_is_not_there_and_a_name_that_is_none() -> None:
    found = look(None, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert (found.state, found.sentence) == (
        "bad",
        "What answers there speaks no TLS for this name, so browsers show an error.",
    )
    gone = beside(None, b"", _port)
    found = asyncio.run(doctor.certificate("localhost", gone, private=True))
    assert (found.state, found.sentence) == ("bad", f"Nothing answers at port {gone}.")
    found = asyncio.run(doctor.certificate("no-such-name.invalid", gone, private=True))
    assert (found.state, found.sentence) == ("bad", "The name can’t be found.")


async def _port(port: int) -> int:
    return port


def test_nothing_of_our_own_network_is_connected_to(trusting: Authority) -> None:
    seen: list[int] = []

    async def ask(port: int) -> Finding:
        seen.append(port)
        return await doctor.certificate("localhost", port)

    found = beside(trusting.server("localhost"), None, ask)
    assert found.state == "unknown"
    assert "is not in the public net" in found.sentence


def test_a_server_that_says_nothing_costs_its_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ONE_S", 0.3)

    async def ask(port: int) -> list[Finding]:
        settings = make_settings(public_port=port, local_names=True)
        names = [doctor.Name(name, "t", "x", True) for name in ("localhost", "localhost")]
        return await doctor._certificates(names, settings)

    begun = time.monotonic()
    found = beside(None, None, ask)
    assert [(one.state, one.sentence) for one in found] == [("bad", "It does not answer in time.")] * 2
    assert time.monotonic() - begun < 3


def test_certificates_are_looked_at_only_where_there_is_https_and_a_domain() -> None:
    names = [doctor.Name("account.brand.example", "t", "x", False)]
    (found,) = asyncio.run(doctor._certificates(names, make_settings(scheme="http")))
    assert (found.state, "PORTAL_SCHEME" in found.sentence) == ("unknown", True)
    (found,) = asyncio.run(doctor._certificates(names, make_settings()))
    assert (found.state, found.sentence) == ("ok", "No portal has a domain of its own.")


# The mail server


@contextmanager
def smtp(**options: Any) -> Iterator[Sink]:
    server = Sink()
    free = beside(None, b"", _port)
    controller = Controller(server, hostname="127.0.0.1", port=free, **options)
    controller.start()
    server.port = free
    try:
        yield server
    finally:
        controller.stop()


def mail_server(port: int, **fields: Any) -> Finding:
    settings = make_settings(smtp_host="localhost", smtp_port=port, **fields)
    (found,) = asyncio.run(doctor.mail_server(settings))
    return found


def test_a_mail_server_that_answers_is_good_and_gets_no_mail() -> None:
    with sink() as server:
        found = mail_server(server.port)
    assert (found.state, found.sentence) == ("ok", f"localhost:{server.port} answers, without encryption.")
    assert server.connections == 1
    assert server.messages == []


def test_a_mail_server_with_starttls(trusting: Authority) -> None:
    with smtp(tls_context=trusting.server("localhost"), require_starttls=True) as server:
        found = mail_server(server.port, smtp_tls="starttls")
    assert found.state == "ok"
    assert "encrypted by TLSv1.3" in found.sentence


def test_a_mail_server_whose_certificate_is_not_good(authority: Authority) -> None:
    with smtp(tls_context=authority.server("localhost")) as server:
        found = mail_server(server.port, smtp_tls="starttls")
    assert found.state == "bad"
    assert f"The certificate of localhost:{server.port} is not good" in found.sentence
    assert "PORTAL_SMTP_HOST" in found.todo


def test_a_mail_server_that_cannot_encrypt() -> None:
    with sink() as server:
        found = mail_server(server.port, smtp_tls="starttls")
    assert found.state == "bad"
    assert "STARTTLS extension not supported" in found.sentence
    assert "PORTAL_SMTP_TLS" in found.todo


def test_a_mail_server_that_refuses_the_password(trusting: Authority) -> None:
    def authenticate(
        _server: Any, _session: Any, _envelope: Any, _kind: str, data: LoginPassword
    ) -> AuthResult:
        return AuthResult(success=data.password == b"right", handled=False)

    options = {
        "tls_context": trusting.server("localhost"),
        "authenticator": authenticate,
        "auth_required": True,
    }
    with smtp(**options) as server:
        account = {"smtp_tls": "starttls", "smtp_username": "portal"}
        assert mail_server(server.port, **account, smtp_password="right").state == "ok"
        found = mail_server(server.port, **account, smtp_password="the-wrong-one")
    assert found.state == "bad"
    assert "refuses the name and password: “535" in found.sentence
    assert "PORTAL_SMTP_PASSWORD" in found.todo
    assert "the-wrong-one" not in found.sentence + found.todo


def test_a_mail_server_that_is_not_there_is_busy_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = beside(None, b"", _port)
    assert mail_server(gone).sentence == f"Nothing answers at localhost:{gone}."
    monkeypatch.setattr(doctor, "ONE_S", 0.3)

    async def ask(port: int) -> Finding:
        (found,) = await doctor.mail_server(make_settings(smtp_host="127.0.0.1", smtp_port=port))
        return found

    busy = beside(None, b"554 5.3.2 Closed for \x07today\r\n", ask)
    assert (busy.state, "turns us away: “554" in busy.sentence, "\x07" in busy.sentence) == (
        "bad",
        True,
        False,
    )
    silent = beside(None, None, ask)
    assert (silent.state, "does not answer in time" in silent.sentence) == ("bad", True)
    assert "PORTAL_SMTP_PORT" in silent.todo


def test_a_mail_server_elsewhere_should_encrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    with sink() as server:
        monkeypatch.setattr(doctor, "_is_here", lambda host: False)
        assert mail_server(server.port).state == "warn"
        assert "PORTAL_SMTP_TLS" in mail_server(server.port).todo


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("mail.example", False), ("10.0.0.1", False)],
)
def test_what_is_on_this_machine_need_not_encrypt(host: str, here: bool) -> None:
    assert doctor._is_here(host) is here


# A mail to oneself


def test_a_mail_to_oneself_really_goes_out() -> None:
    with sink() as server:
        settings = make_settings(smtp_host="127.0.0.1", smtp_port=server.port)
        found = asyncio.run(doctor.send_test(settings, "owner@acme.example"))
    assert found.state == "ok"
    assert "“OK”" in found.sentence
    assert "owner@acme.example" in found.sentence
    assert server.recipients == ["owner@acme.example"]
    (message,) = server.messages
    assert b"Subject: A mail to yourself from your customer portal" in message
    assert b"From: portal@brand.example" in message


@pytest.mark.parametrize("step", ["recipient", "data"])
def test_a_mail_to_oneself_that_is_refused_says_what_the_server_said(step: str) -> None:
    with sink() as server:
        if step == "recipient":
            server.answers["owner@acme.example"] = "550 5.7.1 relaying denied"
        else:
            server.after_data = ["554 5.7.1 relaying denied"]
        settings = make_settings(smtp_host="127.0.0.1", smtp_port=server.port)
        found = asyncio.run(doctor.send_test(settings, "owner@acme.example"))
    assert found.state == "bad"
    assert "5.7.1 relaying denied" in found.sentence
    assert "portal@brand.example" in found.todo
    assert server.messages == []


def test_a_mail_to_oneself_without_a_server() -> None:
    settings = make_settings(smtp_host="127.0.0.1", smtp_port=beside(None, b"", _port))
    found = asyncio.run(doctor.send_test(settings, "owner@acme.example"))
    assert (found.state, "Nothing answers" in found.sentence) == ("bad", True)


def test_what_a_server_says_is_kept_short_and_on_one_line() -> None:
    error = aiosmtplib.SMTPResponseException(550, "no\r\nway \x1b[31m" + "x" * 500)
    words = doctor._answer(error)
    assert words.startswith("550 no way ")
    assert len(words) <= 200
    assert words.isprintable()


# The sender's domain

GOOD = {
    "@ TXT": ["v=spf1 mx -all", "something else"],
    "s1._domainkey CNAME": ["key.hoster.example."],
    "_dmarc TXT": ["v=DMARC1; p=quarantine; rua=mailto:x@brand.example"],
}


@pytest.fixture
def resolver() -> Iterator[DnsServer]:
    with DnsServer(recursive=True) as server:
        server.zone("brand.example", GOOD)
        server.zone("hoster.example", {"key TXT": ["v=DKIM1; k=ed25519; p=MCowBQYDK2VwAyEA"]})
        yield server


def sender(server: DnsServer, **fields: Any) -> dict[str, Finding]:
    settings = make_settings(**{"dns_servers": server.where, "dkim_selector": "s1", **fields})
    return {one.about.split(" ")[0]: one for one in asyncio.run(doctor.sender(settings))}


def test_a_senders_domain_that_is_set_up(resolver: DnsServer) -> None:
    found = sender(resolver)
    assert {name: one.state for name, one in found.items()} == {"SPF": "ok", "DKIM": "ok", "DMARC": "ok"}
    assert "v=spf1 mx -all" in found["SPF"].sentence
    assert "s1._domainkey.brand.example" in found["DKIM"].sentence
    assert "p=quarantine" in found["DMARC"].sentence


def test_a_senders_domain_with_nothing(resolver: DnsServer) -> None:
    resolver.zone("brand.example", {"@ TXT": ["verify=1"]})
    found = sender(resolver)
    assert {name: one.state for name, one in found.items()} == {"SPF": "bad", "DKIM": "bad", "DMARC": "warn"}
    assert all(one.todo for one in found.values())
    assert "_dmarc.brand.example" in found["DMARC"].todo


@pytest.mark.parametrize(
    ("records", "name", "state", "words"),
    [
        ({"@ TXT": ["v=spf1 mx -all", "v=spf1 a -all"]}, "SPF", "bad", "There are 2 SPF records."),
        ({"@ TXT": ["v=spf1 include:x.example ?all"]}, "SPF", "warn", "lets anybody send"),
        ({"@ TXT": ["V=SPF1 +all"]}, "SPF", "warn", "lets anybody send"),
        ({"@ TXT": ["v=spf10 -all"]}, "SPF", "bad", "There is no SPF record."),
        ({"s1._domainkey TXT": ["v=DKIM1; k=rsa; p="]}, "DKIM", "bad", "is revoked"),
        (
            {"_dmarc TXT": ["v=DMARC1; p=none", "v=DMARC1; p=reject"]},
            "DMARC",
            "bad",
            "There are 2 DMARC records.",
        ),
        ({"_dmarc TXT": ["v=DMARC1"]}, "DMARC", "ok", "p=none"),
    ],
)
def test_records_that_are_not_as_they_should_be(
    resolver: DnsServer, records: dict[str, list[str]], name: str, state: str, words: str
) -> None:
    resolver.zone("brand.example", records)
    found = sender(resolver)[name]
    assert found.state == state
    assert words in found.sentence
    assert bool(found.todo) == (state != "ok")


def test_the_policy_of_the_registered_domain_holds_for_a_name_below_it(resolver: DnsServer) -> None:
    resolver.zone("shop.com", {"_dmarc TXT": ["v=DMARC1; p=reject"], "mail TXT": ["v=spf1 -all"]})
    found = sender(resolver, mail_from="portal@mail.shop.com")
    assert (found["DMARC"].state, found["SPF"].state) == ("ok", "ok")


def test_dkim_is_not_known_without_a_selector(resolver: DnsServer) -> None:
    found = sender(resolver, dkim_selector="")["DKIM"]
    assert (found.state, "PORTAL_DKIM_SELECTOR" in found.todo) == ("unknown", True)


def test_a_resolver_that_fails_makes_nothing_wrong(resolver: DnsServer) -> None:
    resolver.failing = {"."}
    assert {one.state for one in sender(resolver).values()} == {"unknown"}


@pytest.mark.parametrize("address", ["portal@localhost", "portal@mail.internal", "portal@shop.test"])
def test_a_sender_that_no_mailbox_knows(address: str) -> None:
    (found,) = asyncio.run(doctor.sender(make_settings(mail_from=address)))
    assert (found.state, address in found.sentence) == ("bad", True)
    (found,) = asyncio.run(doctor.sender(make_settings(mail_from=address, demo=True)))
    assert found.state == "unknown"


# Keys


def test_keys_are_as_the_last_check_left_them(database: Database) -> None:
    portal = make_portal(database)
    for label, health, hours in (
        ("good", {"ok": True, "missing": []}, 2),
        ("old", {"ok": True, "missing": []}, 24 * 5),
        ("part", {"ok": False, "missing": ["rak_charge_write"], "hint": ""}, 2),
        ("refused", {"ok": False, "missing": [], "hint": "Invalid API key"}, 2),
        ("silent", {"ok": None, "missing": [], "hint": "timeout"}, 2),
        ("new", None, 0),
    ):
        at = NOW - timedelta(hours=hours) if health else None
        make_account(database, portal, label=label, health=health, checked_at=at)
    make_account(database, portal, label="gone", disconnected_at=NOW)
    found = {one.about: one for one in merchants(database) if one.area == "keys"}
    assert {about.split(": ")[1]: one.state for about, one in found.items()} == {
        "good": "ok",
        "old": "warn",
        "part": "warn",
        "refused": "bad",
        "silent": "warn",
        "new": "unknown",
    }
    assert "rak_charge_write" in found["Acme Coffee: part"].sentence
    assert "Invalid API key" in found["Acme Coffee: refused"].sentence
    assert "5 days old" in found["Acme Coffee: old"].todo
    assert all(one.todo for one in found.values() if one.state != "ok")


def test_without_an_account_there_is_nothing_to_check(database: Database) -> None:
    make_portal(database)
    found = the(merchants(database), "keys")
    assert (found.state, found.sentence) == ("unknown", "No processor is connected.")


# Silence


def make_event(database: Database, account: models.Account, at: datetime, **fields: Any) -> None:
    save(
        database,
        models.Event(
            portal_id=account.portal_id,
            account_id=account.id,
            event_id=secrets.token_hex(8),
            type="invoice.paid",
            headers=[],
            received_at=at,
            **fields,
        ),
    )


def test_an_account_is_held_against_its_own_rhythm(database: Database) -> None:
    portal = make_portal(database)
    hourly = make_account(database, portal, label="busy", live=True)
    weekly = make_account(database, portal, label="slow", live=True)
    for number in range(30):
        make_event(database, hourly, NOW - timedelta(days=3) - timedelta(hours=2 * number))
        make_event(database, weekly, NOW - timedelta(days=3) - timedelta(days=7 * number))
    busy, slow = [one for one in merchants(database) if one.area == "webhooks"]
    assert (busy.about, busy.state) == ("Acme Coffee: busy", "bad")
    assert "The last one came 3 days ago. Usually one comes within 2 hours." in busy.sentence
    assert busy.todo
    assert (slow.about, slow.state, slow.todo) == ("Acme Coffee: slow", "ok", "")


@pytest.mark.parametrize(
    ("days", "live", "state"),
    [(0.5, True, "ok"), (1.5, True, "warn"), (2.5, True, "bad"), (2.5, False, "warn")],
)
def test_longer_silence_is_worse_and_less_so_for_test_keys(days: float, live: bool, state: str) -> None:
    account: Any = SimpleNamespace(processor="stripe", variant=None, live=live, created_at=NOW)
    times = [NOW - timedelta(days=days) - timedelta(hours=2 * number) for number in range(20)]
    assert doctor._silence(account, "", times, NOW).state == state


def test_a_burst_of_events_is_no_rhythm() -> None:
    begin = NOW - timedelta(days=30)
    bursts = [begin + timedelta(days=5 * day, seconds=second) for day in range(6) for second in range(20)]
    assert rhythm.longest_usual(bursts) is not None
    assert timedelta(days=4) < (rhythm.longest_usual(bursts) or timedelta(0)) <= timedelta(days=5)
    assert rhythm.longest_usual(bursts[:40]) is None  # two of them tell nothing


def test_an_account_that_never_heard_anything(database: Database) -> None:
    portal = make_portal(database)
    make_account(database, portal, label="old")
    save(database, _account_of(portal, "fresh", created_at=NOW))
    found = {
        one.about.split(": ")[1]: one
        for one in database.read_now(doctor.of_merchant, make_settings(), None, NOW + timedelta(days=2))
        if one.area == "webhooks"
    }
    assert (found["old"].state, found["fresh"].state) == ("warn", "warn")
    found = {one.about.split(": ")[1]: one for one in merchants(database) if one.area == "webhooks"}
    assert found["fresh"].state == "unknown"


def _account_of(portal: models.Portal, label: str, **fields: Any) -> models.Account:
    row = models.Account(
        portal_id=portal.id,
        processor="stripe",
        label=label,
        token=secrets.token_urlsafe(16),
        credentials=b"",
        options=[],
        switched_off=[],
        **fields,
    )
    row.credentials = Vault(MASTER_KEY).seal(portal.id, row.id, {})
    return row


def test_events_that_could_not_be_handled_are_counted_by_portal(database: Database) -> None:
    acme, kora = make_portal(database), make_portal(database, "kora", name="Kora Yoga")
    assert the(merchants(database), "events").state == "ok"
    for _ in range(3):
        make_event(database, make_account(database, acme), NOW, parked_at=NOW)
    make_event(database, make_account(database, kora), NOW)
    found = the(merchants(database), "events")
    assert (found.state, found.about) == ("bad", "Acme Coffee")
    assert "3 events" in found.sentence
    assert found.todo


# Domains


@pytest.fixture
def claimed(database: Database) -> models.Portal:
    portal = make_portal(database)
    database.write_now(domains.claim, portal.id, "account.brand.example", NOW)
    return portal


def token_of(database: Database, portal: models.Portal) -> str:
    def read(db: Any) -> str:
        found = db.query(models.DomainClaim).filter_by(portal_id=portal.id).one()
        return str(found.token)

    return database.read_now(read)


def set_claim(database: Database, portal: models.Portal, **values: Any) -> None:
    def write(db: Any) -> None:
        db.query(models.DomainClaim).filter_by(portal_id=portal.id).update(values)
        if values.get("state") == "proved":
            db.query(models.Portal).filter_by(id=portal.id).update({"domain": "account.brand.example"})

    database.write_now(write)


def test_domains_are_as_the_last_look_left_them(database: Database, claimed: models.Portal) -> None:
    settings = make_settings(local_names=True)
    assert the(merchants(database, settings), "domains").state == "warn"
    set_claim(database, claimed, state="proved", checked_at=NOW, proved_at=NOW)
    assert the(merchants(database, settings), "domains").state == "ok"
    set_claim(database, claimed, problems=[{"record": "cname", "code": "elsewhere", "seen": "old.example"}])
    found = the(merchants(database, settings), "domains")
    assert (found.state, "points to old.example" in found.sentence) == ("warn", True)
    set_claim(database, claimed, state="lost", lost_at=NOW)
    found = the(merchants(database, settings), "domains")
    assert (found.state, bool(found.todo)) == ("bad", True)


@pytest.mark.parametrize(
    ("right", "serves", "state"), [(True, True, "ok"), (False, True, "bad"), (False, False, "warn")]
)
def test_domains_are_looked_up_now(
    database: Database, claimed: models.Portal, right: bool, serves: bool, state: str
) -> None:
    value = domains.proof_value(token_of(database, claimed)) if right else "another"
    if serves:
        set_claim(database, claimed, state="proved", proved_at=NOW)
    with DnsServer(recursive=True) as server:
        server.zone(
            "brand.example",
            {"_portal-proof.account TXT": [value], "account CNAME": [f"acme.{BASE}."]},
        )
        settings = make_settings(dns_servers=server.where, local_names=True)
        (found,) = asyncio.run(doctor.ask(database, settings, None, ["domains"]))
    assert (found.area, found.state, found.about) == ("domains", state, "account.brand.example")
    assert bool(found.todo) == (state != "ok")


def test_a_dns_that_does_not_answer_makes_no_domain_wrong(
    database: Database, claimed: models.Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ONE_S", 0.3)
    with DnsServer(recursive=True) as server:
        server.silent = {"."}
        settings = make_settings(dns_servers=server.where, local_names=True)
        (found,) = asyncio.run(doctor.ask(database, settings, None, ["domains"]))
    assert (found.state, found.sentence) == ("unknown", "The DNS did not answer in time.")


# Mails to customers


@pytest.mark.parametrize(
    ("sent", "refused", "waiting", "state"),
    [
        (100, 0, 0, "ok"),
        (100, 4, 0, "ok"),
        (100, 10, 0, "warn"),
        (0, 3, 0, "bad"),
        (0, 0, 0, "unknown"),
        (50, 0, 2, "warn"),
    ],
)
def test_mails_are_judged_by_what_became_of_them(
    database: Database, sent: int, refused: int, waiting: int, state: str
) -> None:
    portal = make_portal(database)
    for name, count in ((tally.MAIL_SENT, sent), (tally.MAIL_REFUSED, refused)):
        database.write_now(tally.count, portal.id, name, NOW, count)
        database.write_now(tally.count, portal.id, name, NOW - timedelta(days=8), 1000)
    for _ in range(waiting):
        save(database, models.Job(portal_id=portal.id, kind="mail", payload={}, run_at=NOW, created_at=NOW))
    found = the(merchants(database), "delivery")
    assert found.state == state
    assert f"{sent} were taken and {refused} refused; {waiting} wait" in found.sentence


# The installation


def beat(database: Database, name: str, at: datetime) -> None:
    save(database, models.Setting(name=name, value="", at=at))


def test_a_worker_is_known_by_its_beat_and_by_what_waits(database: Database) -> None:
    assert the(installation(database), "worker").state == "bad"
    beat(database, "worker", NOW - timedelta(seconds=5))
    assert the(installation(database), "worker").state == "ok"
    job = save(
        database, models.Job(kind="mail", payload={}, run_at=NOW - timedelta(minutes=3), created_at=NOW)
    )
    assert the(installation(database), "worker").state == "warn"
    database.write_now(lambda db: setattr(db.get_one(models.Job, job.id), "run_at", NOW - timedelta(hours=1)))
    found = the(installation(database), "worker")
    assert (found.state, "60 minutes" in found.sentence or "1 hour" in found.sentence) == ("bad", True)
    late = database.read_now(doctor.of_installation, make_settings(), None, NOW + timedelta(minutes=5))
    assert "No worker has been at work for 5 minutes" in the(late, "worker").sentence


def test_work_that_was_given_up_is_counted(database: Database) -> None:
    assert the(installation(database), "jobs").state == "ok"
    for _ in range(2):
        save(database, models.Job(kind="mail", payload={}, run_at=NOW, created_at=NOW, parked_at=NOW))
    found = the(installation(database), "jobs")
    assert (found.state, "2 jobs" in found.sentence, bool(found.todo)) == ("bad", True, True)


@pytest.mark.parametrize(("hours", "state"), [(None, "unknown"), (3, "ok"), (30, "warn"), (24 * 8, "bad")])
def test_a_backup_is_judged_by_its_age(database: Database, hours: int | None, state: str) -> None:
    if hours is not None:
        beat(database, "backup", NOW - timedelta(hours=hours))
    found = the(installation(database), "backup")
    assert found.state == state
    assert bool(found.todo) == (state != "ok")


def test_the_database_says_what_it_is(database: Database) -> None:
    found = the(installation(database), "database")
    assert found.state == "ok"
    assert found.sentence.startswith("SQLite 3." if database.is_sqlite else "PostgreSQL ")


@pytest.mark.parametrize(
    ("free", "total", "state"),
    [(50, 100, "ok"), (5, 100, "warn"), (1.5, 10, "warn"), (1, 100, "bad"), (0.2, 1, "bad")],
)
def test_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, total: float, state: str
) -> None:
    giga = 1024**3
    usage = SimpleNamespace(free=int(free * giga), total=int(total * giga), used=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    found = doctor._room(tmp_path)
    assert found.state == state
    assert f"{free:.1f} GB" in found.sentence


def test_the_disk_is_that_of_the_database(tmp_path: Path) -> None:
    found = doctor._disk(make_settings(database_url=f"sqlite:///{tmp_path}/portal.db"))
    assert "GB are free where the database lies" in found.sentence
    assert doctor._disk(make_settings(database_url="postgresql://x@db.example/portal")).state == "unknown"
    assert doctor._room(tmp_path / "nowhere").state == "unknown"


def test_clocks_are_held_against_each_other(database: Database) -> None:
    assert states(installation(database), "clock") == ["ok"]
    http.clocks.update({"stripe": 1.0, "mollie": -0.4, "adyen": 90.0})
    assert states(installation(database), "clock") == ["ok", "ok"]  # one that is off alone is wrong itself
    http.clocks.update({"stripe": 80.0})
    found = [one for one in installation(database) if one.state == "bad" and one.area == "clock"]
    assert [(one.about, "80 seconds" in one.sentence, "NTP" in one.todo) for one in found] == [
        ("Processors", True, True)
    ]
    assert doctor._skewed(-12, "Database").state == "warn"


def test_what_is_sealed_is_tried_with_the_ring(database: Database) -> None:
    portal = make_portal(database)
    make_account(database, portal, credentials={"secret_key": "sk_test_1"})

    def ring(keys: str) -> Finding:
        found = installation(database, make_settings(master_keys=keys))
        (one,) = [one for one in found if one.about == "PORTAL_MASTER_KEYS"]
        return one

    assert ring(MASTER_KEY).state == "ok"
    fresh = new_key()
    assert (ring(f"{fresh},{MASTER_KEY}").state, ring(f"{fresh},{MASTER_KEY}").todo) == (
        "warn",
        "Run `portal keys rotate`.",
    )
    assert (ring(fresh).state, "1 accounts can’t be opened" in ring(fresh).sentence) == ("bad", True)
    for broken in ("", "not base64!", "c2hvcnQ="):
        assert (ring(broken).state, bool(ring(broken).todo)) == ("bad", True)


def test_settings_that_are_not_for_earnest() -> None:
    good = doctor.of_settings(make_settings())
    assert [one.state for one in good] == ["ok", "ok"]
    bad = doctor.of_settings(Settings(base_domain=BASE, scheme="http"))
    assert [(one.area, one.state, bool(one.todo)) for one in bad] == [
        ("secrets", "bad", True),
        ("address", "bad", True),
    ]


# Whose lines


def test_a_merchant_sees_nothing_of_another(database: Database) -> None:
    acme, kora = make_portal(database), make_portal(database, "kora", name="Kora Yoga")
    for portal in (acme, kora):
        account = make_account(
            database,
            portal,
            label=f"keys of {portal.slug}",
            health={"ok": False, "hint": f"no {portal.slug}"},
        )
        make_event(database, account, NOW, parked_at=NOW)
        database.write_now(domains.claim, portal.id, f"account.{portal.slug}.example", NOW)
    settings = make_settings(local_names=True)
    text = doctor.as_json(merchants(database, settings, acme.merchant_id))
    assert "keys of acme" in text
    assert "account.acme.example" in text
    assert "kora" not in text.lower()
    names = database.read_now(doctor._names, settings, acme.merchant_id)
    assert [one.name for one in names] == ["account.acme.example"]
    connected = database.read_now(doctor._connected, acme.merchant_id)
    assert [account.label for account, _ in connected] == ["keys of acme"]


def test_every_trouble_says_what_to_do_and_every_area_has_a_name(database: Database) -> None:
    portal = make_portal(database)
    make_account(database, portal, health={"ok": False, "missing": []})
    settings = make_settings(master_keys="", scheme="http")
    for one in [*merchants(database, settings), *installation(database, settings)]:
        assert one.sentence.endswith((".", ")."))
        if one.state in ("bad", "warn"):
            assert one.todo.endswith(".")
    assert {*doctor.MERCHANTS, *doctor.INSTALLATION} == set(doctor.Area.__args__)  # type: ignore[attr-defined]
    assert all(doctor.label(area) for area in (*doctor.MERCHANTS, *doctor.INSTALLATION))


# The command


def run(url: str, *words: str, **values: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PORTAL_DATABASE_URL": url,
        "PORTAL_MASTER_KEYS": MASTER_KEY,
        "PORTAL_SECRET_KEY": "a secret that stays",
        "PORTAL_MAIL_FROM": "portal@localhost",
        "PORTAL_DEMO": "true",
        "PORTAL_SMTP_TLS": "none",
        "PORTAL_SMTP_HOST": "127.0.0.1",
        **values,
    }
    return subprocess.run(
        [sys.executable, "-m", "portal", "doctor", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(doctor.__file__).parents[1],
        timeout=60,
    )


def test_the_command_exits_0_where_all_is_well(database: Database) -> None:
    save(database, models.Setting(name="worker", value="", at=clock.now()))
    url = database.engine.url.render_as_string(hide_password=False)
    with sink() as server:
        done = run(url, "--json", PORTAL_SMTP_PORT=str(server.port))
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    of_portals = {"webhooks", "delivery", "sync"}  # of which there are none
    assert {one["area"] for one in found} == {*doctor.MERCHANTS, *doctor.INSTALLATION} - of_portals
    assert not [one for one in found if one["state"] == "bad"]
    assert set(found[0]) == {"area", "state", "sentence", "todo", "about"}


def test_the_command_exits_1_and_says_what_to_do(sqlite: Database) -> None:
    database = sqlite
    portal = make_portal(database)
    make_account(database, portal, credentials={"secret_key": "sk_live_very_secret"}, health={"ok": True})
    url = database.engine.url.render_as_string(hide_password=False)
    done = run(url, PORTAL_SMTP_PORT=str(beside(None, b"", _port)), PORTAL_MASTER_KEYS=new_key())
    assert done.returncode == 1
    assert "BAD  Worker: No worker has ever been at work.\n     -> Start `portal worker`" in done.stdout
    assert "BAD  Mail server: Nothing answers" in done.stdout
    assert "sk_live" not in done.stdout + done.stderr
    assert MASTER_KEY not in done.stdout + done.stderr


def test_the_command_with_an_old_database(new_database: Callable[[], str]) -> None:
    done = run(new_database())
    assert done.returncode == 1
    assert "portal migrate" in done.stdout


def test_the_command_without_a_database(tmp_path: Path) -> None:
    done = run(f"sqlite:///{tmp_path}/none.db")
    assert (done.returncode, "There is no database at" in done.stdout) == (1, True)
    assert not (tmp_path / "none.db").exists()
    done = run("postgresql://nobody@127.0.0.1:1/none")
    assert (done.returncode, "The database does not answer" in done.stdout) == (1, True)
    assert "Traceback" not in done.stderr
