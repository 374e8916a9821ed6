"""Which mail says what: from the job that wants one to the words of it. Mails are made from the rows as they are when
they are sent; the link and the code of a sign-in mail are made then too, so that they stand in no table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Any

import structlog
from sqlalchemy.orm import Session

from portal import clock, login, models, render, requests, tenancy
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
    if "request" in payload:
        return _about_request(db, payload, settings)
    if template in ("charged_after_end", "merchant_charged_after_end"):
        return _charged_after_end(db, payload, settings)
    if template == "merchant_notice":
        return _notice(db, payload, settings)
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
    "plan_changed": _N("The plan of your {title} has changed"),
    "payment_skipped": _N("A payment for your {title} is left out"),
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


# What is asked of the merchant

_WISHES = {
    "update_payment_method": _N("to change the payment method of {what}"),
    "cancel_now": _N("to cancel {what} at once"),
    "cancel_at_period_end": _N("to cancel {what} at the end of the paid time"),
    "undo_cancel": _N("to let {what} go on after all"),
    "pause": _N("to pause {what}"),
    "resume": _N("to let {what} go on after a pause"),
    "skip_next_payment": _N("to leave out the next payment for {what}"),
    "change_plan": _N("to change the plan of {what}"),
    "pay_now": _N("for a way to pay what is open for {what}"),
    "refund": _N("to get back a payment for {what}"),
}
_TO_MERCHANT = frozenset({"request_new", "request_withdrawn", "request_late"})


def _about_request(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    row = db.get_one(models.Request, payload["request"])
    template = payload["template"]
    if template == "request_late" and row.closed_at is not None:
        return None
    merchant = db.get_one(models.Portal, row.portal_id)
    customer = db.get_one(models.Customer, row.customer_id)
    account = db.get_one(models.Account, row.account_id)
    portal = tenancy.portal_by_id(db, row.portal_id, settings.base_domain)
    token = locale.set(portal.locale)
    try:
        subject, paragraphs = _request_words(row, template, portal, customer, account)
        see = _("See your requests")
    finally:
        locale.reset(token)
    to_merchant = template in _TO_MERCHANT
    context = {
        "paragraphs": paragraphs,
        "quote": row.words if to_merchant else row.answer,
        "link": None if to_merchant else ("/customers/requests", see),
        "reference": row.reference,
    }
    to = requests.merchants_address(merchant) if to_merchant else customer.email
    return Letter(portal, "merchant_note" if to_merchant else "note", to, _one_line(subject), context)


def _request_words(
    row: models.Request,
    template: str,
    portal: PortalView,
    customer: models.Customer,
    account: models.Account,
) -> tuple[str, list[str]]:
    """Subject and sentences of a mail about a request, in the portal's language."""
    wish = _(_WISHES[row.kind]).format(what=row.what or portal.name)
    due = render.Format(portal.locale, portal.time_zone).day_text(row.due_at)
    words = {
        "customer": customer.email,
        "wish": wish,
        "label": f"{facts(account.processor).label} ({account.label})",
        "due": due,
        "shop": portal.name,
        "reference": row.reference,
    }
    to_do = row.params.get("to_do")
    texts = {
        "request_new": (
            _("{customer} asks {wish}"),
            [
                _("{customer} asks {wish}. It was paid through {label}."),
                *([to_do.replace("{", "{{").replace("}", "}}")] if to_do else []),
                _("Please answer by {due}. Nothing is shown as done before you, or {label}, say so."),
                _(
                    'To answer: portal requests done {reference}, or portal requests decline {reference} --say "…".'
                ),
            ],
        ),
        "request_received": (
            _("{shop} has your request {reference}"),
            [
                _("You asked {shop} {wish}."),
                _(
                    "{shop} answers by {due}. Until then nothing has changed. You can take it back on your page."
                ),
            ],
        ),
        "request_withdrawn": (
            _("Withdrawn: {reference}"),
            [_("{customer} no longer asks {wish}. There is nothing to do.")],
        ),
        "request_late": (
            _("Late: {customer} asks {wish}"),
            [
                _("{customer} asked {wish}, and was told an answer by {due}."),
                _("Their page now says that it is late. Please answer."),
            ],
        ),
        "request_answered": (
            _("{shop} did it: {reference}") if row.status == "done" else _("{shop} declined: {reference}"),
            [
                _("You asked {shop} {wish}."),
                _("It is done.") if row.status == "done" else _("{shop} declined, and writes:"),
            ],
        ),
    }
    subject, paragraphs = texts[template]
    return subject.format(**words), [paragraph.format(**words) for paragraph in paragraphs]


# A charge after the end, and other things that a merchant should know


def _charged_after_end(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    payment = db.get_one(models.Payment, payload["payment"])
    if payment.customer_id is None:
        return None
    customer = db.get_one(models.Customer, payment.customer_id)
    merchant = db.get_one(models.Portal, payment.portal_id)
    account = db.get_one(models.Account, payment.account_id)
    portal = tenancy.portal_by_id(db, payment.portal_id, settings.base_domain)
    words = {
        "amount": _money(portal, payment.amount_minor, payment.currency) or "",
        "title": payment.title or portal.name,
        "label": facts(account.processor).label,
        "day": render.Format(portal.locale, portal.time_zone).day_text(payment.paid_at or payment.placed_at),
        "shop": portal.name,
        "customer": customer.email,
    }
    to_merchant = payload["template"] == "merchant_charged_after_end"
    token = locale.set(portal.locale)
    try:
        subject = _("Charged after it had ended: {title}").format(**words)
        if to_merchant:
            sentences = [
                _("{label} took {amount} from {customer} on {day} for {title}, which had ended before."),
                _(
                    "The customer was told and can ask for it back with one click. Please look it up at {label}."
                ),
            ]
        else:
            sentences = [
                _("{label} took {amount} on {day} for {title}, although it had ended before."),
                _(
                    "{shop} has been told. You can ask for the money back in your payment history with one click."
                ),
            ]
        link = None if to_merchant else ("/customers/payments", _("See your payment history"))
    finally:
        locale.reset(token)
    context = {
        "paragraphs": [sentence.format(**words) for sentence in sentences],
        "quote": None,
        "link": link,
        "reference": None,
    }
    to = requests.merchants_address(merchant) if to_merchant else customer.email
    return Letter(portal, "merchant_note" if to_merchant else "note", to, _one_line(subject), context)


def _notice(db: Session, payload: dict[str, Any], settings: Settings) -> Letter:
    """What an adapter has to tell the merchant about an action, or about an event of an account."""
    action = db.get_one(models.Action, payload["action"]) if "action" in payload else None
    account = db.get_one(models.Account, action.account_id if action else payload["account"])
    merchant = db.get_one(models.Portal, account.portal_id)
    portal = tenancy.portal_by_id(db, account.portal_id, settings.base_domain)
    paragraphs, title = [payload["text"]], account.label
    if action is not None:
        title = str(action.params.get("title") or portal.name)
        paragraphs.append(f"{db.get_one(models.Customer, action.customer_id).email}: {title}")
    context = {
        "paragraphs": paragraphs,
        "quote": None,
        "link": None,
        "reference": action.reference if action else None,
    }
    subject = _in(portal, _N("For you to know: {title}"), title=title)
    return Letter(portal, "merchant_note", requests.merchants_address(merchant), subject, context)


def _in(portal: PortalView, text: str, **values: str) -> str:
    """A subject in the portal's language, on one line."""
    token = locale.set(portal.locale)
    try:
        words = _(text).format(**values)
    finally:
        locale.reset(token)
    return _one_line(words)


def _one_line(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)[:180]


def _money(portal: PortalView, minor: int | None, currency: str | None) -> str | None:
    if minor is None or currency is None:
        return None
    return render.Format(portal.locale, portal.time_zone).money(minor, currency)
