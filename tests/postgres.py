"""A PostgreSQL of our own on a free loopback port, from the programs that are on this machine; gone with its folder."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psycopg

# It lives as long as our end of its standard input: however we end, it does not outlive us.
_GUARD = """
exec 3<&0
"$@" 3<&- & server=$!
{ read -r _ <&3; kill -INT $server 2>/dev/null; } &
wait $server
"""
APP = "portal_app"
# PostgreSQL refuses to run as root; Debian's package brings a user for it.
_USER = "postgres" if os.geteuid() == 0 else None
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "60",
    "logging_collector": "off",
}


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest where there are several; None where there is none."""
    on_path = shutil.which("initdb")
    if on_path and shutil.which("postgres"):
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


class Server:
    """`with Server() as server: server.url("a_database")`. Settings are given by name: `Server(jit="off")`."""

    def __init__(self, **settings: str) -> None:
        found = programs()
        if found is None:
            raise RuntimeError("There is no PostgreSQL here: install the package postgresql.")
        self._programs = found
        self._settings = {**_SETTINGS, **settings}
        self._password = secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="portal-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> "Server":
        try:
            self._make()
            self._start()
            with psycopg.connect(self.url(), autocommit=True) as connection:
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [APP]).fetchone():
                    connection.execute(f"CREATE ROLE {APP} LOGIN CREATEDB PASSWORD '{self._password}'")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://portal:{self._password}@127.0.0.1:{self.port}/{database}"

    def app_url(self, database: str = "postgres") -> str:
        """As a role that owns nothing and for which row-level security holds: the portal's own, as it should be run."""
        return f"postgresql://{APP}:{self._password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> str:
        """A new database; gives its address."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database} TEMPLATE {template}")
        return self.url(database)

    def _make(self) -> None:
        word = self._folder / "password"
        word.write_text(self._password)
        word.chmod(0o600)
        if _USER:
            owner = pwd.getpwnam(_USER)
            for path in (self._folder, word):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [
            *(str(self._programs / "initdb"), "-D", str(self._folder / "data")),
            *("--username=portal", f"--pwfile={word}", "--auth=password"),
            *("--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"),
        ]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, user=_USER, group=_USER
        )

    def _start(self, port: int = 0) -> None:
        for _ in range(5):
            self.port = port or _free_port()  # until the server takes it, somebody else may
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _GUARD, "guard", *self._command()],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    user=_USER,
                    group=_USER,
                )
            if self._answers():
                return
            self._stop()
        raise RuntimeError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()}")

    def _command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        return [
            str(self._programs / "postgres"),
            "-D",
            str(self._folder / "data"),
            f"--port={self.port}",
            *settings,
        ]

    def _answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _stop(self) -> None:
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """As if it had gone away, until `go_on`."""
        self._stop()

    def go_on(self) -> None:
        """With what it had, where it was."""
        self._start(self.port)

    def _end(self) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
