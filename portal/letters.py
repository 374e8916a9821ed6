"""Which mail says what: from the job that wants one to the words of it. Mails are made from the rows as they are when
they are sent; the link and the code of a sign-in mail are made then too, so that they stand in no table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Any

import structlog
from sqlalchemy.orm import Session

from portal import clock, login, models, render, tenancy
from portal.db import Database
from portal.gateways import facts
from portal.mail import Outcome, compose, send_batch
from portal.settings import Settings
from portal.tenancy import PortalView
from portal.texts import gettext as _
from portal.texts import locale

KINDS = frozenset({"mail", "login_mail"})
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Letter:
    """What `compose` needs."""

    portal: PortalView
    template: str
    to: str
    subject: str
    context: dict[str, Any]


async def send(
    database: Database, settings: Settings, jobs: Sequence[tuple[str, dict[str, Any]]]
) -> list[Outcome | None]:
    """Write and send the mails of a batch of jobs; None for each that is done with, sent or not to be sent."""
    outcomes: list[Outcome | None] = [None] * len(jobs)
    ready: list[tuple[int, str, EmailMessage]] = []
    for number, (kind, payload) in enumerate(jobs):
        write = _login_letter if kind == "login_mail" else _letter
        try:
            letter = await database.write(write, payload, settings)
            if letter is not None:
                message = compose(
                    settings, letter.portal, letter.template, letter.to, letter.subject, letter.context
                )
                ready.append((number, letter.to, message))
        except (ValueError, LookupError) as error:
            log.warning("mail not written", kind=kind, error=type(error).__name__)
            outcomes[number] = Outcome(f"{type(error).__name__} while writing", permanent=True)
    if ready:
        sent = await send_batch(settings, [(to, message) for _number, to, message in ready])
        for (number, _to, _message), outcome in zip(ready, sent, strict=True):
            outcomes[number] = outcome
    return outcomes


def _login_letter(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    secret = settings.secret_key.get_secret_value()
    prepared = login.prepare_mail(db, payload["request"], secret, clock.now())
    if prepared is None:
        return None
    portal = tenancy.portal_by_id(db, prepared.portal_id, settings.base_domain)
    context = {
        "link": f"{settings.origin(portal.host)}/customers/login/{prepared.token}",
        "code": prepared.code,
        "asked_at": prepared.asked_at,
        "browser": login.browser_words(prepared.user_agent),
    }
    token = locale.set(portal.locale)
    try:
        subject = _("Sign in to {shop}").format(shop=portal.name)
    finally:
        locale.reset(token)
    return Letter(portal, "login", prepared.to, subject, context)


def _letter(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    template = payload["template"]
    if template == "new_device":
        return _new_device(db, payload, settings)
    if template == "payment_failed":
        return _payment_failed(db, payload, settings)
    return _about_action(db, payload, settings)


def _new_device(db: Session, payload: dict[str, Any], settings: Settings) -> Letter:
    customer = db.get_one(models.Customer, payload["customer"])
    portal = tenancy.portal_by_id(db, customer.portal_id, settings.base_domain)
    context = {"at": datetime.fromisoformat(payload["at"]), "browser": payload["browser"]}
    subject = _in(portal, _N("A new browser is signed in to your {shop} account"), shop=portal.name)
    return Letter(portal, "new_device", customer.email, subject, context)


def _payment_failed(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    payment = db.get_one(models.Payment, payload["payment"])
    if payment.customer_id is None or payment.status != "failed":
        return None
    customer = db.get_one(models.Customer, payment.customer_id)
    portal = tenancy.portal_by_id(db, payment.portal_id, settings.base_domain)
    title = payment.title or portal.name
    context = {
        "title": title,
        "amount": _money(portal, payment.amount_minor, payment.currency),
        "reason": payment.failure_reason,
        "at": payment.placed_at,
    }
    subject = _in(portal, _N("Your payment for {title} did not go through"), title=title)
    return Letter(portal, "payment_failed", customer.email, subject, context)


def _N(text: str) -> str:
    return text


_SUBJECTS = {
    "cancelled": _N("Your {title} is cancelled"),
    "cancel_undone": _N("Your {title} goes on"),
    "paused": _N("Your {title} is paused"),
    "resumed": _N("Your {title} is resumed and goes on"),
    "card_changed": _N("The payment method of your {title} has changed"),
    "merchant_alarm": _N("Not confirmed: {title}"),
}


def _about_action(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    template = payload["template"]
    action = db.get_one(models.Action, payload["action"])
    row = db.get_one(models.Subscription, action.subscription_id)
    account = db.get_one(models.Account, action.account_id)
    customer = db.get_one(models.Customer, action.customer_id)
    portal = tenancy.portal_by_id(db, action.portal_id, settings.base_domain)
    title = row.title or portal.name
    to = customer.email
    if template == "merchant_alarm":
        if action.closed_at is not None:
            return None
        to = portal.support_email
    ends = row.access_until or row.cancels_at or row.ended_at
    context = {
        "title": title,
        "label": facts(account.processor).label,
        "reference": action.reference,
        "confirmed_at": action.confirmed_at or clock.now(),
        "ends": ends if ends and ends > clock.now() else None,
        "scheduled": action.phase == "scheduled",
        "undoable": action.phase == "scheduled"
        or (action.how is None and action.capability == "cancel_at_period_end"),
        "next_on": row.next_on,
        "price": _money(portal, row.amount_minor, row.currency),
        "method": row.method or {},
        "customer": customer.email,
        "what": action.capability.replace("_", " "),
        "since": action.created_at,
    }
    subject = _in(portal, _SUBJECTS[template], title=title)
    return Letter(portal, template, to, subject, context)


def _in(portal: PortalView, text: str, **values: str) -> str:
    """A subject in the portal's language, on one line."""
    token = locale.set(portal.locale)
    try:
        words = _(text).format(**values)
    finally:
        locale.reset(token)
    return "".join(c if c.isprintable() else " " for c in words)[:180]


def _money(portal: PortalView, minor: int | None, currency: str | None) -> str | None:
    if minor is None or currency is None:
        return None
    return render.Format(portal.locale, portal.time_zone).money(minor, currency)
