"""Sealing keys anew, answering requests from the command line, and secrets that stand nowhere."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portal import clock, models, requests, upkeep
from portal.__main__ import app
from portal.db import Database
from portal.vault import Vault, VaultError, new_key
from tests.unit.builders import MASTER_KEY, make_account, make_customer, make_portal

ROOT = Path(__file__).parents[2]


def test_rotation_seals_everything_with_the_first_key(database: Database) -> None:
    portal = make_portal(database)
    accounts = [
        make_account(database, portal, credentials={"secret_key": f"sk_{number}"}) for number in range(3)
    ]

    def overlap(db: Any) -> None:
        row = db.get_one(models.Account, accounts[0].id)
        row.previous_credentials = Vault(MASTER_KEY).seal(portal.id, row.id, {"secret_key": "sk_before"})

    database.write_now(overlap)
    fresh = new_key()
    assert upkeep.rotate_keys(database, f"{fresh},{MASTER_KEY}") == 3

    def stored(db: Any, account_id: int) -> models.Account:
        found: models.Account = db.get_one(models.Account, account_id)
        return found

    for number, account in enumerate(accounts):
        row = database.read_now(stored, account.id)
        assert Vault(fresh).open(portal.id, row.id, row.credentials) == {"secret_key": f"sk_{number}"}
        with pytest.raises(VaultError):
            Vault(MASTER_KEY).open(portal.id, row.id, row.credentials)
    row = database.read_now(stored, accounts[0].id)
    assert row.previous_credentials is not None
    assert Vault(fresh).open(portal.id, row.id, row.previous_credentials) == {"secret_key": "sk_before"}
    assert upkeep.rotate_keys(database, fresh) == 3  # and once more, without the old key


def test_rotation_goes_on_over_many_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BATCH", 2)
    portal = make_portal(database)
    for _ in range(5):
        make_account(database, portal, credentials={"secret_key": "sk"})
    assert upkeep.rotate_keys(database, f"{new_key()},{MASTER_KEY}") == 5


def test_rotation_without_the_old_key_says_so(database: Database) -> None:
    make_account(database, make_portal(database), credentials={"secret_key": "sk"})
    with pytest.raises(VaultError, match="No key"):
        upkeep.rotate_keys(database, new_key())


@pytest.fixture
def installation(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("PORTAL_DATABASE_URL", str(sqlite.engine.url))
    monkeypatch.setenv("PORTAL_MASTER_KEYS", MASTER_KEY)
    return sqlite


def ask(database: Database) -> models.Request:
    portal = make_portal(database)
    account, customer = make_account(database, portal), make_customer(database, portal)
    return database.write_now(
        lambda db: requests.ask(
            db, portal.id, account.id, customer.id, 7, "pause", "Coffee box", clock.now(), words="Away in May"
        )
    )


def in_a_process(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "portal", *words], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def here(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("portal", [in_a_process, here])
def test_requests_are_listed(installation: Database, portal: Callable[..., tuple[int, str, str]]) -> None:
    reference = ask(installation).reference
    listed = json.loads(portal("requests", "list", "--json")[1])
    assert [(row["reference"], row["words"], row["late"]) for row in listed] == [
        (reference, "Away in May", False)
    ]


def test_requests_are_shown_and_answered(installation: Database) -> None:
    reference = ask(installation).reference
    assert reference in here("requests", "list")[1]
    code, _, said = here("requests", "decline", reference.lower(), "--say", "We roast on.")
    assert code == 0, said
    shown = json.loads(here("requests", "show", reference)[1])
    assert (shown["status"], shown["answer"]) == ("declined", "We roast on.")
    code, _, said = here("requests", "done", reference)
    assert code == 1
    assert "declined already" in said
    assert here("requests", "list")[1].strip() == "Nobody waits for an answer."


def test_an_unknown_reference_says_where_to_look(installation: Database) -> None:
    code, _, said = here("requests", "done", "AAA-AAA")
    assert code == 1
    assert "portal requests list --all" in said


def test_what_is_due_first_stands_on_top(installation: Database) -> None:
    database = installation
    first = ask(database)

    def later(db: Any) -> None:
        requests.ask(
            db,
            first.portal_id,
            first.account_id,
            first.customer_id,
            8,
            "resume",
            "Tea",
            clock.now() + timedelta(days=1),
        )
        requests.ask(
            db,
            first.portal_id,
            first.account_id,
            first.customer_id,
            9,
            "refund",
            "Cup",
            clock.now() - timedelta(days=9),
        )

    database.write_now(later)
    found = database.read_now(requests.queue, None)
    assert [row.what for row in found] == ["Cup", "Coffee box", "Tea"]
