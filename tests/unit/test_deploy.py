"""What lies in deploy/ fits the portal: its commands, its settings, its paths; and holds no secret."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from portal.__main__ import app
from portal.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
KNOWN = {f"PORTAL_{name.upper()}" for name in Settings.model_fields}
UNITS = sorted(path.name for path in DEPLOY.iterdir() if path.suffix in (".service", ".timer"))
INSTALLED = "/opt/portal/.venv/bin/portal"


def understood(words: list[str]) -> None:
    """The command line takes these words."""
    command = COMMANDS[words[0]]
    command.make_context(words[0], list(words[1:]))


# compose.yaml


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def portals(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in compose["services"].items() if one["image"].startswith("portal:")}


def test_the_services(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"db", "migrate", "web", "worker", "caddy", "backup"}
    assert services["web"]["deploy"]["replicas"] == services["worker"]["deploy"]["replicas"] == 2
    assert set(portals(compose)) == {"migrate", "web", "worker", "backup"}
    assert len({(one["image"], str(one["build"])) for one in portals(compose).values()}) == 1
    for one in portals(compose).values():
        understood(one["command"])
    assert services["web"]["command"][:2] == ["serve", "--no-worker"]  # the worker is a service of its own
    for name in ("web", "worker"):
        waits = services[name]["depends_on"]
        assert waits["migrate"]["condition"] == "service_completed_successfully"
        assert waits["db"]["condition"] == "service_healthy"


def test_all_that_stays_up_is_looked_after(compose: dict[str, Any]) -> None:
    for name in ("db", "web", "worker", "caddy"):
        assert compose["services"][name]["healthcheck"]["test"][0] == "CMD"
        assert compose["services"][name]["restart"] == "unless-stopped"


def test_no_service_may_write_or_do_more_than_it_needs(compose: dict[str, Any]) -> None:
    for name, one in compose["services"].items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "caddy" else []), name
        assert ("ports" in one) == (name == "caddy"), name
        assert not one.get("privileged"), name
        for volume in one.get("volumes", []):
            source, _, rest = volume.partition(":")
            assert source in compose["volumes"] or (rest.endswith(":ro") and (DEPLOY / source).exists())
    assert compose["networks"]["inside"]["internal"] is True
    assert compose["services"]["db"]["networks"] == ["inside"]
    assert "inside" not in compose["services"]["caddy"]["networks"]


def test_its_settings_are_ours_and_no_secret_stands_in_it(compose: dict[str, Any]) -> None:
    example = (DEPLOY / "env.example").read_text()
    offered = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    for name, one in portals(compose).items():
        assert set(one["environment"]) <= KNOWN, name
        assert one["env_file"] == [".env"]
    assert {name for name in offered if name.startswith("PORTAL_")} <= KNOWN
    text = (DEPLOY / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert wanted == set(re.findall(r"\$\{([A-Z_]+)", text))  # each must be set
    assert wanted <= set(offered)
    for name, value in offered.items():
        assert value == "" or not re.search(r"SECRET|PASSWORD|KEY", name)
    for one in compose["services"].values():
        for name, value in one.get("environment", {}).items():
            if re.search(r"SECRET|PASSWORD|KEY", name):
                assert value.startswith("${"), name
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    db = compose["services"]["db"]["environment"]
    owner = f"postgresql://{db['POSTGRES_USER']}:{db['POSTGRES_PASSWORD']}@db/{db['POSTGRES_DB']}"
    for name, one in portals(compose).items():
        assert one["environment"].get("PORTAL_DATABASE_DIRECT_URL") == (owner if name == "migrate" else None)
        address = one["environment"]["PORTAL_DATABASE_URL"]  # of a role that owns nothing
        assert re.fullmatch(
            r"postgresql://portal_app:\$\{POSTGRES_APP_PASSWORD:\?[^}]*\}@db/" + db["POSTGRES_DB"], address
        )


def test_caddy_is_believed_and_finds_the_portal(compose: dict[str, Any]) -> None:
    caddyfile = (DEPLOY / "Caddyfile").read_text()
    given = compose["services"]["caddy"]["environment"]
    for name in given:
        assert f"{{${name}:" in caddyfile
    command = compose["services"]["web"]["command"]
    assert given["PORTAL_UPSTREAM"] == f"web:{command[command.index('--port') + 1]}"
    assert given["PORTAL_ASK"].startswith("http://web:8000/internal/tls-ask?secret=${PORTAL_TLS_ASK_SECRET")
    (net,) = compose["networks"]["front"]["ipam"]["config"]
    environment = compose["services"]["web"]["environment"]
    assert environment["PORTAL_TRUSTED_PROXIES"] == net["subnet"]
    values = {"trusted_proxies": net["subnet"], "scheme": environment["PORTAL_SCHEME"], "secret_key": "x"}
    assert Settings(**values).proxy_networks


def test_the_image(compose: dict[str, Any]) -> None:
    build = compose["services"]["web"]["build"]
    assert ((DEPLOY / build["context"]).resolve(), build["dockerfile"]) == (ROOT, "deploy/Dockerfile")
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    assert 'ENTRYPOINT ["portal"]' in lines
    assert "USER portal" in lines
    taken = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for name in shlex.split(line)[1:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name.removeprefix('./')}" in taken
    (cmd,) = [line for line in lines if line.startswith("CMD ")]
    understood(yaml.safe_load(cmd.removeprefix("CMD ")))
    assert re.search(r"^(ENV|ARG) .*(SECRET|PASSWORD|KEY)", text, re.MULTILINE) is None
    # pg_dump must not be older than the server
    server = re.fullmatch(r"postgres:(\d+)\S*", compose["services"]["db"]["image"])
    assert server
    assert f"postgresql-client-{server[1]} " in text
    setup = (ROOT / "bin/_setup").read_text()
    packages = re.search(r'^DEMO_PACKAGES="([^"]+)"', setup, re.MULTILINE)
    assert packages
    assert [name for name in packages[1].split() if name not in text] == []


# systemd


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((DEPLOY / name).read_text())
    return found


def test_the_units_are_there() -> None:
    assert UNITS == [
        "portal-backup.service",
        "portal-backup.timer",
        "portal-web.service",
        "portal-worker.service",
    ]


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_a_unit_names_what_there_is_and_may_do_little(name: str) -> None:
    service = unit(name)["Service"]
    for key in ("ExecStartPre", "ExecStart"):
        if key in service:
            program, *words = shlex.split(service[key])
            assert program == INSTALLED
            understood(words)
    assert (service["User"], service["CapabilityBoundingSet"], service["UMask"]) == ("portal", "", "0077")
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictSUIDSGID"):
        assert service[key] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["EnvironmentFile"] == "/etc/portal/portal.env"
    assert "Environment" not in service  # settings and secrets have one place
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    for path in unit(name)["Unit"]["Documentation"].split():
        assert (ROOT / path.removeprefix("file:/opt/portal/")).exists()


def test_the_backup_goes_where_it_may_write() -> None:
    service = unit("portal-backup.service")["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[2] in service["ReadWritePaths"].split()
    assert unit("portal-backup.timer")["Timer"]["Persistent"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    here = Path(sys.executable).with_name("portal")
    for name in UNITS:
        (tmp_path / name).write_text((DEPLOY / name).read_text().replace(INSTALLED, str(here)))
    paths = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line or "portal-" in line] == []
