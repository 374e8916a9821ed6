"""A PgBouncer of our own in front of a PostgreSQL of our own, in transaction mode; gone with its folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psycopg
from sqlalchemy.engine import make_url

from tests.postgres import _GUARD, _USER, APP, Server, _free_port


def program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Pooler:
    """`with Pooler(server) as pooler: pooler.url("a_database")`. Settings are given by name, as its file has them."""

    def __init__(self, server: Server, **settings: str) -> None:
        found = program()
        if found is None:
            raise RuntimeError("There is no PgBouncer here: install the package pgbouncer.")
        self._program = found
        self._server = make_url(server.url())
        self._settings = {
            "listen_addr": "127.0.0.1",
            "unix_socket_dir": "",
            "auth_type": "plain",
            "admin_users": "portal",
            "pool_mode": "transaction",
            "default_pool_size": "2",
            "max_client_conn": "200",
            **settings,
        }
        self._folder = Path(tempfile.mkdtemp(prefix="portal-pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> "Pooler":
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def url(self, database: str) -> str:
        return self._server.set(port=self.port, database=database).render_as_string(hide_password=False)

    def ask(self, what: str) -> list[dict[str, object]]:
        """Of its own console, such as "SHOW POOLS"."""
        with psycopg.connect(
            self.url("pgbouncer"), autocommit=True, row_factory=psycopg.rows.dict_row
        ) as console:
            # It knows the simple protocol alone.
            return psycopg.ClientCursor(console).execute(what.encode()).fetchall()

    def _start(self) -> None:
        for _ in range(5):
            self.port = _free_port()
            configuration = self._write()
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _GUARD, "guard", self._program, "-q", str(configuration)],
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
        raise RuntimeError(f"PgBouncer did not start: {(self._folder / 'log').read_text()}")

    def _write(self) -> Path:
        people, configuration = self._folder / "people", self._folder / "pgbouncer.ini"
        names = (self._server.username, APP)
        people.write_text("".join(f'"{name}" "{self._server.password}"\n' for name in names))
        lines = [f"{name} = {value}" for name, value in self._settings.items()]
        configuration.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._server.port}\n[pgbouncer]\n"
            + "\n".join([*lines, f"listen_port = {self.port}", f"auth_file = {people}", ""])
        )
        for path in (people, configuration):
            path.chmod(0o600)
        if _USER:
            owner = pwd.getpwnam(_USER)
            for path in (self._folder, people, configuration):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        return configuration

    def _answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
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

    def _end(self) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)
