"""Serving: what is refused at the start, and a stop that finishes what is in hand."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from portal.migrate import upgrade
from tests.unit.builders import MASTER_KEY


def start(folder: Path, *words: str, **settings: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "portal", *words],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")},
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PORTAL_MASTER_KEYS": MASTER_KEY,
            **settings,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def said(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=60)
    return output.decode()


@pytest.mark.parametrize(
    ("words", "settings", "sentence"),
    [
        (("serve",), {}, "portal migrate"),
        (("worker",), {}, "PORTAL_SECRET_KEY"),
        (("serve", "--no-worker"), {}, "PORTAL_SECRET_KEY"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path, words: tuple[str, ...], settings: dict[str, str], sentence: str
) -> None:
    process = start(tmp_path, *words, **settings)
    output = said(process)
    assert process.returncode == 1
    assert sentence in output
    assert "Traceback" not in output


def test_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path}/portal.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(tmp_path, "serve", "--port", str(port))
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        answer = httpx.get(f"http://127.0.0.1:{port}/customers", trust_env=False)
        assert answer.status_code == 421
    finally:
        process.send_signal(signal.SIGTERM)
    output = said(process)
    assert process.returncode == 0, output
    assert '"request_id"' in output
    assert "Traceback" not in output
