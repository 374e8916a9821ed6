"""A trouble is told once when it begins and once when it is over; and the figures for a monitor say what is."""

import secrets
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.testclient import TestClient

from portal import alarms, clock, doctor, keeping, metrics, models
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text, new_id
from portal.jobs import enqueue
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, make_account, make_portal, save

DAY = timedelta(days=1)


@pytest.fixture
def account(sqlite: Database) -> models.Account:
    return kept(sqlite)


def kept(database: Database, **fields: Any) -> models.Account:
    """An account that is looked at, and whose webhooks came until now, every two hours."""
    found = make_account(database, make_portal(database), "stripe", label="Shop", live=True, **fields)
    now = clock.now()
    database.write_now(keeping.want, now)
    for number in range(20):
        came(database, found, now - timedelta(hours=2 * number))
    change(database, found, looked_at=now)
    return found


def came(database: Database, account: models.Account, at: datetime, **fields: Any) -> None:
    save(
        database,
        models.Event(
            portal_id=account.portal_id,
            account_id=account.id,
            event_id=secrets.token_hex(8),
            type="invoice.paid",
            headers=[],
            received_at=at,
            **fields,
        ),
    )


def change(database: Database, account: models.Account, **values: Any) -> None:
    database.write_now(lambda db: keeping.save(db, account.id, **values))


def later(database: Database, span: timedelta, idle: bool = False) -> list[str]:
    """Let time go by in steps of a watch; the mails that it brought. Jobs are done at once, but where all is `idle`."""
    before = set(mails(database))
    end = clock.now() + span
    while clock.now() < end:
        clock.set_offset(clock.now() - datetime.now(end.tzinfo) + max(timedelta(minutes=6), span / 20))
        if not idle:
            database.write_now(_do_everything)
        database.write_now(alarms.watch, clock.now())
    return [text for text in mails(database) if text not in before]


def _do_everything(db: Session) -> None:
    db.execute(update(models.Job).values(done_at=clock.now()))


def mails(database: Database) -> list[str]:
    return database.read_now(
        lambda db: [
            one.payload["text"]
            for one in db.query(models.Job).order_by(col(models.Job.id))
            if one.kind == "mail"
        ]
    )


def test_silence_is_told_once_and_once_when_it_is_over(sqlite: Database, account: models.Account) -> None:
    assert later(sqlite, DAY / 2) == []
    (text,) = later(sqlite, 3 * DAY)
    assert "No webhook of “Shop” has come for longer than usual." in text
    assert later(sqlite, 2 * DAY) == []
    came(sqlite, account, clock.now(), asked_at=clock.now())  # was asked for: that is no delivery
    assert later(sqlite, DAY / 8) == []
    came(sqlite, account, clock.now())
    assert later(sqlite, DAY / 8) == ["Webhooks of “Shop” come again."]
    assert sqlite.read_now(lambda db: db.get_one(models.SyncState, account.id)).troubles is None


def test_looks_that_fail_for_hours_are_told_with_their_reason(
    sqlite: Database, account: models.Account
) -> None:
    change(sqlite, account, failures=9, error="The key was refused.")
    assert later(sqlite, DAY / 8) == []
    (text,) = later(sqlite, DAY / 3)
    assert text.endswith("may be out of date. The key was refused.")
    change(sqlite, account, failures=0, error=None)
    assert len(later(sqlite, DAY / 24)) == 1


def test_differences_are_told_until_there_are_none(sqlite: Database, account: models.Account) -> None:
    change(sqlite, account, differences=3, compared_at=clock.now())
    (text,) = later(sqlite, DAY / 24)
    assert text.startswith("3 differences were found between “Shop” and what the portal shows.")
    change(sqlite, account, differences=2)
    assert later(sqlite, DAY / 24) == []
    change(sqlite, account, differences=0)
    assert later(sqlite, DAY / 24) == ["“Shop” and what the portal shows agree again."]


def test_late_work_is_told_to_each_merchant_once(sqlite: Database, account: models.Account) -> None:
    portal = sqlite.read_now(lambda db: db.get_one(models.Portal, account.portal_id))
    new = {"created_at": clock.now()}
    for processor in ("paypal", "mollie"):
        _made(sqlite, portal, processor, **new)
    other = _made(sqlite, make_portal(sqlite, "kora"), "stripe", **new)
    sqlite.write_now(keeping.want, clock.now())
    sqlite.write_now(enqueue, "look_at_customer", {"customer": 1}, clock.now(), None)
    (text,) = set(later(sqlite, DAY / 24, idle=True))
    assert text.startswith("The portal’s work is late")
    told = sqlite.read_now(
        lambda db: [one.payload["account"] for one in db.query(models.Job) if one.kind == "mail"]
    )
    assert sorted(told) == sorted([account.id, other.id])
    assert set(later(sqlite, DAY / 48)) == {"The portal’s work is in time again."}


def _made(database: Database, portal: models.Portal, processor: str, created_at: datetime) -> models.Account:
    found = make_account(database, portal, processor)
    found.created_at = created_at
    return save(database, found)  # type: ignore[no-any-return]


def test_of_several_workers_one_watches(database: Database) -> None:
    account = kept(database)
    change(database, account, differences=1)
    now = clock.now()
    for _ in range(3):
        database.write_now(alarms.watch, now)
    change(database, account, differences=0)
    database.write_now(alarms.watch, now + timedelta(minutes=1))
    assert len(mails(database)) == 1
    database.write_now(alarms.watch, now + timedelta(minutes=6))
    assert len(mails(database)) == 2


@pytest.mark.parametrize(
    ("values", "state", "words"),
    [
        ({"missed": 0}, "ok", "Looked at 1 minute ago."),
        ({"looked_at": None}, "unknown", "Not looked at yet."),
        ({"failures": 2, "error": "It is down."}, "warn", "The last 2 looks failed: It is down."),
        ({"differences": 4}, "bad", "The last comparison found 4 differences."),
        ({"missed": 7, "missed_at": "now"}, "warn", "never been delivered, 7 in all"),
    ],
)
def test_the_doctor_knows_what_the_looks_have_found(
    sqlite: Database, account: models.Account, values: dict[str, Any], state: str, words: str
) -> None:
    change(
        sqlite, account, **{name: clock.now() if value == "now" else value for name, value in values.items()}
    )
    found = sqlite.read_now(doctor.of_merchant, Settings(), None, clock.now())
    (one,) = [finding for finding in found if finding.area == "sync"]
    assert one.state == state
    assert words in one.sentence
    assert bool(one.todo) == (state in ("warn", "bad"))


# Figures


def figures(said: bytes) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(said.decode())
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_database(database: Database) -> None:
    now = clock.now()
    account = kept(database)
    came(database, account, now - DAY / 2, parked_at=now)
    came(database, account, now - DAY / 2, handled_at=now)
    values = {"missed": 5, "failures": 2, "differences": 3, "missing": 4}
    at = {"looked_at": now - timedelta(seconds=90), "compared_at": now - DAY, "night_done_at": now - DAY / 4}
    change(database, account, **values, **at)
    database.write_now(enqueue, "mail", {"template": "test_mail"}, now - timedelta(seconds=30), None)
    database.write_now(enqueue, "look_at_customer", {"customer": 1}, now - timedelta(seconds=60), None)
    database.write_now(enqueue, "look_at_customer", {"customer": 1}, now + DAY, None)
    save(database, models.Setting(name="worker", value="beat", at=now - timedelta(seconds=7)))
    run = models.ImportRun(
        id=new_id(),
        portal_id=account.portal_id,
        account_id=account.id,
        reasons=[],
        trail={},
        created_at=now,
        updated_at=now,
    )
    save(database, run)
    said = database.read_now(metrics.exposition, now)
    found = figures(said)
    assert {name: round(value) for name, value in found.items()} == {
        "portal_webhook_silence_seconds": 0,
        "portal_webhook_patience_seconds": 86_400,
        "portal_webhook_silent": 0,
        "portal_events_missed_total": 5,
        "portal_sync_age_seconds": 90,
        "portal_sync_failures": 2,
        "portal_night_age_seconds": 21_600,
        "portal_objects_missing": 4,
        "portal_reconcile_differences": 3,
        "portal_reconcile_age_seconds": 86_400,
        "portal_events_waiting": 20,
        "portal_events_parked": 1,
        "portal_jobs_due": 2,
        "portal_jobs_lag_seconds": 60,
        "portal_jobs_parked": 0,
        "portal_mails_waiting": 1,
        "portal_imports_running": 1,
        "portal_worker_beat_age_seconds": 7,
    }
    labels = f'portal="acme",account="{id_text(account.id)}",processor="stripe"'
    assert all(part in said.decode() for part in labels.split(","))
    later_on = figures(database.read_now(metrics.exposition, now + 9 * DAY))
    assert (later_on["portal_webhook_silent"], later_on["portal_jobs_due"]) == (1, 3)


@pytest.fixture
def client(sqlite: Database) -> Any:
    def make(token: str = "", host: str = "127.0.0.1") -> TestClient:
        settings = Settings(
            master_keys=SecretStr(MASTER_KEY),
            metrics_token=SecretStr(token),
            database_url=str(sqlite.engine.url),
        )
        return TestClient(create_app(settings), client=(host, 5000), base_url="http://whatever.example")

    return make


@pytest.mark.parametrize(
    ("token", "host", "headers", "status"),
    [
        ("", "127.0.0.1", {}, 200),
        ("", "::1", {}, 200),
        ("", "127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, 404),
        ("", "203.0.113.9", {}, 404),
        ("", "203.0.113.9", {"Authorization": "Bearer "}, 404),
        ("s3cret", "203.0.113.9", {}, 404),
        ("s3cret", "203.0.113.9", {"Authorization": "Bearer s3cret"}, 200),
        ("s3cret", "203.0.113.9", {"Authorization": "bearer s3cret", "X-Forwarded-For": "203.0.113.9"}, 200),
        ("s3cret", "203.0.113.9", {"Authorization": "Bearer other"}, 404),
        ("s3cret", "127.0.0.1", {"Authorization": "Bearer other"}, 404),
        ("s3cret", "203.0.113.9", {"Authorization": "Basic s3cret"}, 404),
    ],
)
def test_figures_are_for_this_machine_and_who_has_the_token(
    client: Any, token: str, host: str, headers: dict[str, str], status: int
) -> None:
    with client(token, host) as asking:
        answer = asking.get("/metrics", headers=headers)
    assert answer.status_code == status
    if status == 200:
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert answer.headers["cache-control"] == "no-store"
        assert "portal_jobs_due 0.0" in answer.text
    else:
        assert "portal_" not in answer.text
