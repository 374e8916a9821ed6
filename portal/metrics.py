"""Figures for a monitor, in the text format of Prometheus. All are read from the database when they are asked for, so
they are the same whichever process answers."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import figures, models, rhythm
from portal.ids import id_text

MOST = 500  # accounts that have figures of their own
LABELS = ("portal", "account", "processor")


def exposition(db: Session, now: datetime) -> bytes:
    """Everything there is to be told."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told([*_of_accounts(db, now), *_of_installation(db, now)]))
    return generate_latest(registry)


class _Told:
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        yield from self.families


def _of_accounts(db: Session, now: datetime) -> Iterator[Metric]:
    def gauge(name: str, words: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"portal_{name}", words, labels=LABELS)

    silence = gauge("webhook_silence_seconds", "Since the last webhook was delivered.")
    patience = gauge("webhook_patience_seconds", "How long this account may be silent, by its own rhythm.")
    quiet = gauge("webhook_silent", "1 where webhooks should have come by now.")
    missed = CounterMetricFamily(
        "portal_events_missed", "Events that were never delivered and had to be asked for.", labels=LABELS
    )
    age = gauge("sync_age_seconds", "Since the account was last looked at as a whole.")
    failures = gauge("sync_failures", "Looks in a row that failed.")
    night = gauge("night_age_seconds", "Since all that may change was last asked about.")
    gone = gauge("objects_missing", "Objects that the processor did not know any more, by the last night.")
    differences = gauge("reconcile_differences", "Of the last comparison.")
    compared = gauge("reconcile_age_seconds", "Since the last comparison.")
    for account, slug, state in _accounts(db):
        who = (slug, id_text(account.id), account.processor)
        times = rhythm.last_times(db, account.id)
        silence.add_metric(who, _since(times[0] if times else account.created_at, now))
        patience.add_metric(who, rhythm.patience(times).total_seconds())
        quiet.add_metric(who, float(rhythm.too_quiet(account, times, now)))
        if state is None:
            continue
        missed.add_metric(who, state.missed)
        age.add_metric(who, _since(state.looked_at or state.since, now))
        failures.add_metric(who, state.failures)
        gone.add_metric(who, state.missing)
        if state.night_done_at:
            night.add_metric(who, _since(state.night_done_at, now))
        if state.compared_at:
            differences.add_metric(who, state.differences or 0)
            compared.add_metric(who, _since(state.compared_at, now))
    yield from (silence, patience, quiet, missed, age, failures, night, gone, differences, compared)


def _accounts(db: Session) -> list[tuple[models.Account, str, models.SyncState | None]]:
    account, site, state = models.Account, models.Portal, models.SyncState
    found = db.execute(
        select(account, col(site.slug), state)
        .join(site, col(site.id) == col(account.portal_id))
        .outerjoin(state, col(state.account_id) == col(account.id))
        .where(col(account.disconnected_at).is_(None))
        .order_by(col(account.id))
        .limit(MOST)
    )
    return [(one, slug, kept) for one, slug, kept in found]


def _since(at: datetime, now: datetime) -> float:
    return max(0.0, (now - at).total_seconds())


# The very words of the indexes.
_WAITING = text("handled_at IS NULL AND parked_at IS NULL")
_PARKED = text("parked_at IS NOT NULL")
_UNDONE = text("done_at IS NULL AND parked_at IS NULL")


def _of_installation(db: Session, now: datetime) -> Iterator[Metric]:
    event, job, run = models.Event, models.Job, models.ImportRun

    def count(model: Any, *where: Any) -> float:
        return float(db.execute(select(func.count()).select_from(model).where(*where)).scalar_one())

    due = (_UNDONE, col(job.run_at) <= now)
    oldest = db.execute(select(func.min(col(job.run_at))).where(*due)).scalar_one()
    beat = db.get(models.Setting, "worker")
    mails = col(job.kind).in_(figures.MAILS)
    yield _one("events_waiting", "Events that came and are not handled yet.", count(event, _WAITING))
    yield _one("events_parked", "Events that were given up.", count(event, _PARKED))
    yield _one("jobs_due", "Jobs whose time has come.", count(job, *due))
    yield _one("jobs_lag_seconds", "How long the oldest of them has waited.", _since(oldest or now, now))
    yield _one("jobs_parked", "Jobs that were given up.", count(job, _PARKED))
    yield _one("mails_waiting", "Mails that are due and not sent yet.", count(job, *due, mails))
    yield _one("imports_running", "Accounts that are being read in.", count(run, text("finished_at IS NULL")))
    if beat is not None:
        yield _one("worker_beat_age_seconds", "Since a worker last drew breath.", _since(beat.at, now))


def _one(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"portal_{name}", words, value=value)
