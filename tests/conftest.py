"""For all tests: nothing but loopback is reached, and no test inherits another's clock or open breaker."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_socket import socket_allow_hosts

from portal import clock
from portal.gateways import http
from tests.postgres import programs
from tests.reads import Reads
from tests.shared import share
from tests.sharing_out import SharingOut, place

SHARED = Path(__file__).parents[2] / "shared"  # specifications and samples, where somebody has them


share()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--db",
        choices=["auto", "sqlite", "postgresql", "both"],
        default="auto",
        help="Databases for the tests that use one; by default both, or SQLite alone where there is no PostgreSQL.",
    )
    parser.addoption("--screenshots", action="store_true", help="Write the pictures of the documents.")


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--db") == "auto" and programs() is None:
        return "databases: SQLite only; for PostgreSQL too, install the package postgresql"
    return f"databases: {config.getoption('--db')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place(item.nodeid.split("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the browser tests wait for much of their time."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharingOut | None:
    return SharingOut(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _no_folder() -> Iterator[None]:
    """Settings without a database of their own would have a folder beside whatever runs the tests."""
    before = os.environ.get("PORTAL_STORE")
    os.environ["PORTAL_STORE"] = "database"
    yield
    os.environ.pop("PORTAL_STORE")
    if before is not None:
        os.environ["PORTAL_STORE"] = before


@pytest.fixture(autouse=True)
def _only_loopback() -> None:
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(scope="session")
def every_read() -> Iterator[Reads]:
    found = Reads()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _reads_little(every_read: Reads) -> Iterator[None]:
    """Whatever a test has the portal ask of SQLite reads no big table whole, unless that stands in `tests.reads`."""
    yield
    assert every_read.wrong() == []


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    yield
    clock.set_offset(timedelta(0))
    http._breakers.clear()
    http.clocks.clear()
