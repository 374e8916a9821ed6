"""For all tests: nothing but loopback is reached, and no test inherits another's clock or open breaker."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pytest_socket import socket_allow_hosts

from portal import clock
from portal.gateways import http

SHARED = Path(__file__).parents[2] / "shared"  # specifications and samples, where somebody has them


@pytest.fixture(autouse=True)
def _only_loopback() -> None:
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    yield
    clock.set_offset(timedelta(0))
    http._breakers.clear()
