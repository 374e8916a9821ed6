"""From a job to a mail: what it says, to whom, and what stands in none of its headers."""

import asyncio
from collections.abc import Sequence
from email.message import EmailMessage

import pytest

from portal import clock, letters, login
from portal.db import Database
from portal.mail import Outcome
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, make_customer, make_portal


def test_the_code_of_a_sign_in_mail_stands_in_its_body_and_in_no_header(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = make_portal(database)
    make_customer(database, portal)
    sent: list[tuple[str, EmailMessage]] = []

    async def keep(
        settings: Settings, messages: Sequence[tuple[str, EmailMessage]], taken: object
    ) -> list[Outcome | None]:
        sent.extend(messages)
        return [None] * len(messages)

    monkeypatch.setattr(letters, "send_batch", keep)
    who = ("browser-of-ana-0001", "Firefox", "127.0.0.1", "/customers/orders")
    asked = database.write_now(login.ask, portal.id, "Ana@Example.com", *who, clock.now())
    settings = Settings(master_keys=MASTER_KEY, scheme="http")
    assert asyncio.run(letters.send(database, settings, [("login_mail", {"request": asked})])) == [None]
    ((to, message),) = sent
    assert to == "ana@example.com"
    body = message.get_body(("plain",))
    assert body is not None
    code = next(line for line in body.get_content().splitlines() if len(line) == 6 and line.isalnum())
    assert not any(code in str(value) for value in message.values())
