"""The environment becomes one frozen object, and `.env.example` names all of it."""

import ast
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from portal import env_example
from portal.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PORTAL_")]:
        monkeypatch.delenv(name)


def test_example_is_current() -> None:
    assert (ROOT / ".env.example").read_text() == env_example.text(), (
        "run: python -m portal.env_example > .env.example"
    )


def test_example_with_every_line_counting_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        line[1:] for line in (ROOT / ".env.example").read_text().splitlines() if line.startswith("#PORTAL_")
    ]
    assert len(lines) == len(Settings.model_fields)
    for line in lines:
        name, _, value = line.partition("=")
        if value:
            monkeypatch.setenv(name, value)
    assert Settings().model_dump(exclude={"secret_key"}) == Settings.model_construct().model_dump(
        exclude={"secret_key"}
    )


def test_no_secret_has_a_default_anybody_could_know() -> None:
    one, other = Settings(), Settings()
    assert one.secret_key.get_secret_value() != other.secret_key.get_secret_value()
    assert len(one.secret_key.get_secret_value()) >= 43
    assert one.master_keys.get_secret_value() == ""


def test_settings_cannot_be_changed_or_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_SMTP_PASSWORD", "hunter2")
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.demo = True  # type: ignore[misc]
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())


@pytest.mark.parametrize(
    ("name", "value"),
    [("SCHEME", "gopher"), ("THREADS", "0"), ("THREADS", "many"), ("SMTP_TLS", "maybe"), ("DEMO", "perhaps")],
)
def test_nonsense_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"PORTAL_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_hosts_are_lower_case_without_dots_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_BASE_DOMAIN", ".Portal.Example.")
    assert Settings().base_domain == "portal.example"


@pytest.mark.parametrize(
    ("scheme", "port", "expected"),
    [
        ("https", None, "https://acme.example"),
        ("https", 443, "https://acme.example"),
        ("https", 8443, "https://acme.example:8443"),
        ("http", 80, "http://acme.example"),
        ("http", 8000, "http://acme.example:8000"),
        ("http", 443, "http://acme.example:443"),
    ],
)
def test_origin(scheme: str, port: int | None, expected: str) -> None:
    assert Settings(scheme=scheme, public_port=port).origin("acme.example") == expected


def test_proxies_are_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::/32")
    assert [str(network) for network in Settings().proxy_networks] == ["10.0.0.0/8", "2001:db8::/32"]
    assert Settings(trusted_proxies="").proxy_networks == ()


def test_nothing_else_reads_the_environment() -> None:
    readers = [
        path.name
        for path in sorted((ROOT / "portal").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    ]
    assert readers == []
