"""One house per processor and kind of account, opened once; each test begins with everything as it was opened."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from portal import clock, letters, middleware
from portal.gateways import http
from portal.settings import Settings
from tests.contract.house import House, open_house

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """House by house, so that each is opened once."""
    ours = [at for at, item in enumerate(items) if item.path.parent == HERE]
    for at, item in zip(ours, sorted((items[at] for at in ours), key=_house), strict=True):
        items[at] = item


def _house(item: pytest.Item) -> tuple[str, str]:
    parameters = getattr(item, "callspec", None)
    if parameters is None:
        return ("", "")
    case = parameters.params.get("case")
    processor = parameters.params.get("processor") or getattr(case, "processor", "")
    return (processor, getattr(case, "variant", None) or "")


@pytest.fixture(scope="session")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Any]]:
    """The houses that are open, with what closes them; only the newest is kept."""
    kept: dict[Any, Any] = {"folder": tmp_path_factory.mktemp("contract")}
    yield kept
    _close(kept)


def _close(kept: dict[Any, Any]) -> None:
    if "manager" in kept:
        kept.pop("manager").__exit__(None, None, None)
        kept.pop("key")
        kept.pop("house")


async def _taken(
    settings: Settings, mails: Sequence[Any], taken: Callable[[int], Awaitable[None]]
) -> list[None]:
    """A mail server that takes everything: what is refused would be written anew, again and again."""
    for number in range(len(mails)):
        await taken(number)
    return [None] * len(mails)


@pytest.fixture
def house(
    request: pytest.FixtureRequest, houses: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """The house of the test's processor (and variant, where the test names one)."""
    monkeypatch.setattr(http, "PAUSE_S", 0.01)
    monkeypatch.setattr(letters, "send_batch", _taken)
    monkeypatch.setattr(middleware, "KNOWN_FOR_S", 0)
    parameters = request.node.callspec.params
    case = parameters.get("case")
    key = (parameters.get("processor") or case.processor, getattr(case, "variant", None))
    if houses.get("key") != key:
        _close(houses)
        manager = open_house(key[0], str(houses["folder"]), key[1])
        houses.update(key=key, manager=manager, house=manager.__enter__())
    found: House = houses["house"]
    found.reset()
    yield found
    clock.set_offset(timedelta(0))
