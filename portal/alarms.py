"""Troubles that a merchant is told of by mail: once when one begins and once when it is over, however long it lasts."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models, rhythm, sync
from portal.gateways import facts
from portal.jobs import enqueue
from portal.texts import gettext as _

EVERY = timedelta(minutes=5)
MOST = 500  # accounts that are looked at
FAILURES = 5  # looks in a row
LONGEST_BLIND = timedelta(hours=6)  # without one whole look
# Of the installation: the oldest due job waits this long, or so many are due. Over it is well below that.
LATE_S, IN_TIME_S = 600.0, 60.0
BACKLOG, CLEARED = 5000, 500

KINDS = ("silence", "failing", "differences", "late")
_WATCHED = "watched"


def watch(db: Session, now: datetime) -> None:
    """Look whether anything is wrong or over. Of several workers that call it every few seconds, one does, every few
    minutes."""
    row = models.Setting
    mine = db.execute(
        update(row)
        .where(col(row.name) == _WATCHED, col(row.at) <= now - EVERY)
        .values(at=now)
        .returning(col(row.name))
    ).first()
    values = {"name": _WATCHED, "value": "", "at": now}
    if mine is None and not sync.insert_once(db, row.__table__, values):  # type: ignore[attr-defined]
        return
    _look(db, now)


def _look(db: Session, now: datetime) -> None:
    state, account, site = models.SyncState, models.Account, models.Portal
    rows = db.execute(
        select(state, account, col(site.merchant_id))
        .join(account, col(account.id) == col(state.account_id))
        .join(site, col(site.id) == col(account.portal_id))
        .where(col(account.disconnected_at).is_(None))
        .order_by(col(account.id))
        .limit(MOST)
    ).all()
    count, seconds = _lag(db, now)
    told: set[int] = set()
    for kept, one, merchant_id in rows:
        before = dict(kept.troubles or {})
        after = {kind: before.get(kind) or now.isoformat() for kind in _troubles(db, kept, one, now)}
        if merchant_id not in told:  # the installation's troubles: one mail a merchant
            told.add(merchant_id)
            late = seconds > LATE_S or count > BACKLOG
            still = "late" in before and (seconds > IN_TIME_S or count > CLEARED)
            if late or still:
                after["late"] = before.get("late") or now.isoformat()
        for kind in KINDS:
            if kind in after and kind not in before:
                _tell(db, one, kind, after[kind], _begun(kind, kept, one), now)
            if kind in before and kind not in after:
                _tell(db, one, f"{kind}:over", before[kind], _over(kind, one), now)
        if before != after:
            kept.troubles = after or None


def _troubles(db: Session, state: models.SyncState, account: models.Account, now: datetime) -> Iterator[str]:
    if rhythm.too_quiet(account, rhythm.last_times(db, account.id), now):
        yield "silence"
    if failing(state, account, now):
        yield "failing"
    if state.differences:
        yield "differences"


def failing(state: models.SyncState, account: models.Account, now: datetime) -> bool:
    """Whether an account has not been looked at for long, since it can't be."""
    blind = max(LONGEST_BLIND, 4 * timedelta(minutes=facts(account.processor).sync.minutes))
    return state.failures >= FAILURES and now - (state.looked_at or state.since) > blind


def _lag(db: Session, now: datetime) -> tuple[int, float]:
    """How many jobs are due, and for how many seconds the oldest has been."""
    row = models.Job
    due = (col(row.done_at).is_(None), col(row.parked_at).is_(None), col(row.run_at) <= now)
    count, oldest = db.execute(select(func.count(), func.min(col(row.run_at))).where(*due)).one()
    return count, (now - oldest).total_seconds() if oldest else 0.0


def _begun(kind: str, state: models.SyncState, account: models.Account) -> str:
    name = account.label
    if kind == "silence":
        return _(
            "No webhook of “{name}” has come for longer than usual. What changes there is still looked for every few "
            "minutes, but seen later. Look at the processor whether its webhook is still switched on; under Processors "
            "it can be tested."
        ).format(name=name)
    if kind == "failing":
        words = _(
            "“{name}” can’t be asked about changes, so what your customers see may be out of date. {why}"
        )
        return words.format(name=name, why=state.error or "").strip()
    if kind == "differences":
        words = _("{count} differences were found between “{name}” and what the portal shows.")
        todo = _("Run `portal reconcile` with --fix, or ask who runs the portal to.")
        return f"{words.format(count=state.differences, name=name)} {todo}"
    return _(
        "The portal’s work is late: mails and changes of orders wait. Look at the doctor page, and whether a worker "
        "runs."
    )


def _over(kind: str, account: models.Account) -> str:
    return {
        "silence": _("Webhooks of “{name}” come again."),
        "failing": _("“{name}” can be asked about changes again; what was missed has been looked up."),
        "differences": _("“{name}” and what the portal shows agree again."),
        "late": _("The portal’s work is in time again."),
    }[kind].format(name=account.label)


def _tell(db: Session, account: models.Account, kind: str, since: str, words: str, now: datetime) -> None:
    payload = {"template": "merchant_notice", "account": account.id, "text": words}
    enqueue(db, "mail", payload, now, f"alarm:{account.id}:{kind}:{since}")
