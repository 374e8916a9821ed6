"""Sealing keys anew, answering requests from the command line, and secrets that stand nowhere."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from portal import clock, models, requests, upkeep
from portal.db import Database
from portal.migrate import upgrade
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
def installation(tmp_path: Path) -> tuple[Database, dict[str, str]]:
    url = f"sqlite:///{tmp_path}/portal.db"
    upgrade(url)
    environment = {**os.environ, "PORTAL_DATABASE_URL": url, "PORTAL_MASTER_KEYS": MASTER_KEY}
    return Database(url, threads=1), environment


def ask(database: Database) -> models.Request:
    portal = make_portal(database)
    account, customer = make_account(database, portal), make_customer(database, portal)
    return database.write_now(
        lambda db: requests.ask(
            db, portal.id, account.id, customer.id, 7, "pause", "Coffee box", clock.now(), words="Away in May"
        )
    )


def portal(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "portal", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_requests_are_listed_shown_and_answered(installation: tuple[Database, dict[str, str]]) -> None:
    database, environment = installation
    reference = ask(database).reference
    listed = json.loads(portal(environment, "requests", "list", "--json").stdout)
    assert [(row["reference"], row["words"], row["late"]) for row in listed] == [
        (reference, "Away in May", False)
    ]
    assert reference in portal(environment, "requests", "list").stdout
    answered = portal(environment, "requests", "decline", reference.lower(), "--say", "We roast on.")
    assert answered.returncode == 0, answered.stderr
    shown = json.loads(portal(environment, "requests", "show", reference).stdout)
    assert (shown["status"], shown["answer"]) == ("declined", "We roast on.")
    again = portal(environment, "requests", "done", reference)
    assert again.returncode == 1
    assert "declined already" in again.stderr
    assert portal(environment, "requests", "list").stdout.strip() == "Nobody waits for an answer."
    database.dispose()


def test_an_unknown_reference_says_where_to_look(installation: tuple[Database, dict[str, str]]) -> None:
    database, environment = installation
    done = portal(environment, "requests", "done", "AAA-AAA")
    assert done.returncode == 1
    assert "portal requests list --all" in done.stderr
    database.dispose()


def test_what_is_due_first_stands_on_top(installation: tuple[Database, dict[str, str]]) -> None:
    database, _ = installation
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
    database.dispose()
