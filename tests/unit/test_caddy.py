"""The shipped Caddyfile, with Debian's Caddy and Pebble, an authority for tests: names that we serve get a certificate
when they are first asked for, and a thousand others get none."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import ASGIApp, Receive, Scope, Send

from portal import clock, domains, models
from portal.app import create_app
from portal.db import Database
from portal.migrate import upgrade
from portal.settings import Settings
from tests.dns_server import DnsServer
from tests.unit.builders import MASTER_KEY, make_portal

ROOT = Path(__file__).parents[2]
BASE, DESK, NAME = "portals.example.net", "desk.portals.example.net", "kunden.brand.example.com"
UNKNOWN = 1000
AT_ONCE = 50

missing = [program for program in ("caddy", "pebble") if shutil.which(program) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"not here: {', '.join(missing)}; install Debian's packages of that name"
)


class Counting:
    """The application, and how often it was asked for a name."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.asked: Counter[str] = Counter()
        self.seen: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/internal/tls-ask":
                self.asked[scope["query_string"].decode().removeprefix("domain=")] += 1
            else:
                self.seen.append(scope)
        await self.app(scope, receive, send)


class World:
    """Everything that runs, on ports of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        web, self.http, self.https, acme, manage = free_ports(5)
        self.database = self._database(folder)
        settings = Settings(
            base_domain=BASE,
            admin_host=DESK,
            master_keys=MASTER_KEY,
            scheme="https",
            trusted_proxies="127.0.0.1/32",
        )
        self.app = Counting(create_app(settings, self.database))
        stack.callback(self.database.dispose)
        stack.enter_context(serving(self.app, web))
        dns = stack.enter_context(DnsServer({".": {"* A": ["127.0.0.1"]}}))
        certificate, key = own_certificate(folder)
        self.pebble_log = folder / "pebble.log"
        config = folder / "pebble.json"
        config.write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"127.0.0.1:{acme}",
                        "managementListenAddress": f"127.0.0.1:{manage}",
                        "certificate": str(certificate),
                        "privateKey": str(key),
                        "httpPort": self.http,
                        "tlsPort": self.https,
                        "ocspResponderURL": "",
                        "externalAccountBindingRequired": False,
                    }
                }
            )
        )
        stack.enter_context(
            running(
                ["pebble", "-config", str(config), "-dnsserver", f"127.0.0.1:{dns.port}"],
                self.pebble_log,
                {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"},
            )
        )
        wait_for(manage)
        self.roots = own_roots(certificate, manage)
        stack.enter_context(
            running(
                ["caddy", "run", "--config", str(ROOT / "deploy/Caddyfile"), "--adapter", "caddyfile"],
                folder / "caddy.log",
                {
                    "CADDY_HTTP_PORT": str(self.http),
                    "CADDY_HTTPS_PORT": str(self.https),
                    "ACME_DIRECTORY": f"https://127.0.0.1:{acme}/dir",
                    "PORTAL_UPSTREAM": f"127.0.0.1:{web}",
                    "PORTAL_ASK": f"http://127.0.0.1:{web}/internal/tls-ask",
                    "CADDY_OPTIONS": f"admin off\n\tacme_ca_root {certificate}",
                    "XDG_DATA_HOME": str(folder / "data"),
                    "XDG_CONFIG_HOME": str(folder / "config"),
                    "HOME": str(folder),
                },
            )
        )
        wait_for(self.https)

    def _database(self, folder: Path) -> Database:
        url = f"sqlite:///{folder}/portal.db"
        upgrade(url)
        database = Database(url, threads=8)
        self.portal = make_portal(database)
        claim = database.write_now(domains.claim, self.portal.id, NAME, clock.now())
        wanted = domains.Wanted(claim.id, self.portal.id, NAME, claim.token, f"acme.{BASE}")
        database.write_now(domains.settle, wanted, domains.Look(), clock.now())
        claimed = make_portal(database, "kora")
        database.write_now(domains.claim, claimed.id, "unproved.example.com", clock.now())
        return database

    def certificates(self) -> set[str]:
        """The names that Caddy holds certificates for."""
        return {path.stem for path in (self.folder / "data").rglob("*.crt")}

    def orders(self) -> int:
        """How many certificates were ever ordered."""
        return self.pebble_log.read_text().count('Added order "')

    def get(self, name: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """A request over TLS, of which the certificate is checked by name and root."""
        context = ssl.create_default_context(cadata=self.roots)
        with (
            socket.create_connection(("127.0.0.1", self.https), timeout=20) as raw,
            context.wrap_socket(raw, server_hostname=name) as stream,
        ):
            lines = [f"GET {path} HTTP/1.1", f"Host: {headers.pop('host', name)}", "Connection: close"]
            lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
            stream.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = HTTPResponse(stream)
            answer.begin()
            body = answer.read().decode()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, body

    async def refused(self, names: list[str]) -> int:
        """How many of these names get no TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is enough that there is a certificate at all
        free = asyncio.Semaphore(AT_ONCE)

        async def shake(name: str) -> bool:
            async with free:
                try:
                    _, writer = await asyncio.wait_for(
                        asyncio.open_connection("127.0.0.1", self.https, ssl=context, server_hostname=name),
                        20,
                    )
                except (ssl.SSLError, ConnectionError):
                    return True
                writer.close()
                with suppress(ssl.SSLError, ConnectionError):
                    await writer.wait_closed()
                return False

        return sum(await asyncio.gather(*(shake(name) for name in names)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("caddy"), stack)


def test_a_name_that_is_proved_gets_a_certificate_and_reaches_its_portal(world: World) -> None:
    status, headers, body = world.get(NAME, "/customers")
    assert status == 200
    assert "Acme Coffee" in body
    assert headers["strict-transport-security"]
    assert world.certificates() == {NAME}
    assert world.app.asked[NAME] >= 1
    begun = time.monotonic()
    assert world.get(NAME, "/customers")[0] == 200
    assert time.monotonic() - begun < 2  # without another order


@pytest.mark.parametrize("name", [f"acme.{BASE}", DESK])
def test_names_of_the_installation_get_one_too(world: World, name: str) -> None:
    status, _, _ = world.get(name, "/sign-in" if name == DESK else "/customers")
    assert status == 200
    assert name in world.certificates()


def test_a_thousand_other_names_get_none(world: World) -> None:
    before, ordered = world.certificates(), world.orders()
    names = [f"n{number}.evil.example" for number in range(UNKNOWN - 4)]
    names += ["unproved.example.com", BASE, f"x.acme.{BASE}", f"{NAME}.evil.example"]
    assert asyncio.run(world.refused(names)) == UNKNOWN
    assert world.certificates() == before
    assert world.orders() == ordered == len(before)
    assert sum(world.app.asked[name] for name in names) >= UNKNOWN  # each was asked about, and denied


def test_a_good_name_in_the_handshake_and_another_in_the_request(world: World) -> None:
    assert world.get(NAME, "/customers", host="evil.example")[0] == 421
    assert world.get(NAME, "/settings", host=NAME)[0] == 404


@pytest.mark.parametrize(
    "path", ["/internal/tls-ask?domain=acme", "/metrics", "/health/ready", "/__demo/mailbox"]
)
def test_what_is_for_machines_beside_us_is_not_passed_on(world: World, path: str) -> None:
    passed = len(world.app.seen), world.app.asked.total()
    assert world.get(NAME, path)[0] == 404
    assert (len(world.app.seen), world.app.asked.total()) == passed


def test_the_address_of_who_asks_is_that_of_the_connection(world: World) -> None:
    world.get(NAME, "/customers", X_Forwarded_For="192.0.2.7", X_Forwarded_Host="evil.example")
    headers = dict(world.app.seen[-1]["headers"])
    assert headers[b"x-forwarded-for"] == b"127.0.0.1"
    assert headers[b"host"] == NAME.encode()


def test_plain_http_leads_to_https(world: World) -> None:
    with socket.create_connection(("127.0.0.1", world.http), timeout=10) as stream:
        stream.sendall(f"GET /customers HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        answer = HTTPResponse(stream)
        answer.begin()
        assert answer.status == 308
        assert answer.getheader("location") == f"https://{NAME}/customers"


def test_a_name_that_is_let_go_gets_no_new_certificate(world: World) -> None:
    database = world.database
    other = make_portal(database, "nova")
    name = "gone.brand.example.com"
    claim = database.write_now(domains.claim, other.id, name, clock.now())
    wanted = domains.Wanted(claim.id, other.id, name, claim.token, f"nova.{BASE}")
    database.write_now(domains.settle, wanted, domains.Look(), clock.now())
    assert database.read_now(lambda db: db.get_one(models.Portal, other.id)).domain == name
    database.write_now(domains.release, other.id, clock.now())
    assert asyncio.run(world.refused([name])) == 1
    assert name not in world.certificates()


# What runs beside us


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A program with its output in a file; ended by its own number."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": os.environ["PATH"], **environment},
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(app: ASGIApp, port: int) -> Iterator[None]:
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, log_config=None, access_log=False, ws="none", lifespan="off"
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(port)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """For the authority's own address: signed by itself, so that it is its own root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "pebble.pem", folder / "pebble.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return certificate, private


def own_roots(certificate: Path, port: int) -> str:
    """The root under which the authority signs, made anew at each of its starts."""
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as stream,
    ):
        stream.sendall(b"GET /roots/0 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = HTTPResponse(stream)
        answer.begin()
        return answer.read().decode()
