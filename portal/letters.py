"""Which mail says what: from the job that wants one to the words of it. Mails are made from the rows as they are when
they are sent; the link and the code of a sign-in mail are made then too, so that they stand in no table."""

from collections import Counter
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import (
    addresses,
    clock,
    desk,
    domains,
    login,
    mailtexts,
    merchants,
    models,
    people,
    render,
    requests,
    rescue,
    tally,
    tenancy,
    walls,
)
from portal.db import Database
from portal.gateways import facts
from portal.ids import id_text
from portal.mail import Outcome, compose, send_batch
from portal.settings import Settings
from portal.tenancy import PortalView
from portal.texts import gettext as _
from portal.texts import locale, ngettext

KINDS = frozenset({"mail", "login_mail"})
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Letter:
    """What `compose` needs. `kind` and `values` are what the merchant's own words go by; None: ours alone."""

    portal: PortalView
    template: str
    to: str
    subject: str
    context: dict[str, Any]
    kind: str | None = None
    values: Mapping[str, str | None] = field(default_factory=dict)


async def send(
    database: Database,
    settings: Settings,
    jobs: Sequence[tuple[str, dict[str, Any]]],
    last: Container[int] = (),
    ids: Sequence[int] = (),
    taken: Callable[[int], Awaitable[None]] | None = None,
    homes: Sequence[int | None] = (),
) -> list[Outcome | None]:
    """Write and send the mails of a batch of jobs; None for each that is done with, sent or not to be sent.

    `last` are the numbers of those that are not tried again, whatever becomes of them now. `ids` are the jobs': a mail
    bears its job's, so that one that is sent again after a crash can be told to be the same. `taken` is called with the
    number of each as soon as the mail server has it. `homes` are the portals in whose walls they are written.
    """
    outcomes: list[Outcome | None] = [None] * len(jobs)
    ready: list[tuple[int, str, EmailMessage]] = []
    portals: dict[int, int] = {}
    for number, (kind, payload) in enumerate(jobs):
        write = _login_letter if kind == "login_mail" else _letter
        try:
            home = homes[number] if homes else walls.home()
            with walls.within(home) if home else walls.wide("worker"):
                letter = await database.write(_worded, write, payload, settings)
            if letter is not None:
                message = compose(
                    settings, letter.portal, letter.template, letter.to, letter.subject, letter.context
                )
                if ids and kind != "login_mail":  # whose codes are made anew each time
                    message.replace_header("Message-ID", f"<{id_text(ids[number])}@{letter.portal.host}>")
                ready.append((number, letter.to, message))
                portals[number] = letter.portal.id
        except (ValueError, LookupError) as error:
            log.warning("mail not written", kind=kind, error=type(error).__name__)
            outcomes[number] = Outcome(f"{type(error).__name__} while writing", permanent=True)
    if ready:

        async def one_taken(at: int) -> None:
            if taken is not None:
                await taken(ready[at][0])

        sent = await send_batch(settings, [(to, message) for _number, to, message in ready], one_taken)
        for (number, _to, _message), outcome in zip(ready, sent, strict=True):
            outcomes[number] = outcome
        await _count(database, portals, outcomes, last)
    return outcomes


async def _count(
    database: Database, portals: dict[int, int], outcomes: Sequence[Outcome | None], last: Container[int]
) -> None:
    """What was taken and what was refused for good, by portal. That it can't be written down takes no mail back."""
    counts = Counter(
        (portal, tally.MAIL_SENT if outcome is None else tally.MAIL_REFUSED)
        for number, portal in portals.items()
        if (outcome := outcomes[number]) is None or outcome.permanent or number in last
    )
    try:
        await database.write(tally.count_all, counts, clock.now())
    except DBAPIError as error:
        log.warning("mails not counted", error=type(error.orig).__name__)


def _worded(
    db: Session,
    write: Callable[[Session, dict[str, Any], Settings], Letter | None],
    payload: dict[str, Any],
    settings: Settings,
) -> Letter | None:
    """A letter in the merchant's words, where they have some; None where they do not want it sent."""
    letter = write(db, payload, settings)
    if letter is None or letter.kind is None:
        return letter
    said = mailtexts.words(db, letter.portal.id, letter.kind)
    return in_words(letter, said.subject, said.body) if said.enabled else None


def in_words(letter: Letter, subject: str | None, body: str | None) -> Letter:
    """The letter with a merchant's subject and paragraphs. What can't be said this time is said in our words."""
    own = mailtexts.paragraphs(body, letter.values) if body else []
    line = mailtexts.filled(subject, letter.values) if subject else None
    context = {**letter.context, "own": own}
    if subject and line and "{title}" not in subject:
        context["named"] = letter.values.get("title")
    return replace(letter, subject=_one_line(line) if line else letter.subject, context=context)


def _login_letter(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    secret = settings.secret_key.get_secret_value()
    open_to_all = settings.signup == "open"
    prepared = login.prepare_mail(db, payload["request"], secret, clock.now(), open_to_all)
    if prepared is None:
        return None
    if prepared.portal_id is None:
        return _merchants_login(prepared, settings)
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
    return Letter(portal, "login", prepared.to, subject, context, "login", {"shop": portal.name})


def _merchants_login(prepared: login.Prepared, settings: Settings) -> Letter:
    """The sign-in mail of the merchant's side."""
    context = {
        "link": f"{settings.origin(settings.admin_host)}/sign-in/link/{prepared.token}",
        "code": prepared.code,
        "asked_at": prepared.asked_at,
        "browser": login.browser_words(prepared.user_agent),
    }
    subject = _("Sign in to the settings of your customer portal")
    return Letter(tenancy.installation(settings), "login", prepared.to, subject, context)


def _invitation(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """Somebody is asked in. The link is made here, so that it stands nowhere but in the mail."""
    found = merchants.invitation_link(db, payload["invitation"], clock.now())
    if found is None:
        return None
    row, token = found
    assert row.email is not None
    inviter = db.get(models.User, row.invited_by) if row.invited_by else None
    merchant = db.get(models.Merchant, row.merchant_id) if row.merchant_id else None
    words = {"who": inviter.email if inviter else "", "merchant": merchant.name if merchant else ""}
    if merchant is not None:
        sentence = _("{who} asks you to look after the customer portal of {merchant}.").format(**words)
    else:
        sentence = _("{who} asks you to set up a customer portal of your own.").format(**words)
    context = {
        "paragraphs": [sentence, _("The link works once, for seven days. Nothing happens if you leave it.")],
        "quote": None,
        "link": (f"/invitations/{token}", _("Look at the invitation")),
        "reference": None,
    }
    subject = _("You are invited to {merchant}").format(**words) if merchant else _("You are invited")
    return Letter(tenancy.installation(settings), "invitation", row.email, _one_line(subject), context)


def _letter(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    template = payload["template"]
    if template == "invitation":
        return _invitation(db, payload, settings)
    if template == "domain":
        return _about_domain(db, payload, settings)
    if template == "new_device":
        return _new_device(db, payload, settings)
    if template == "payment_failed":
        return _payment_failed(db, payload, settings)
    if template == "address_asked":
        return _address_asked(db, payload, settings)
    if template == "order_found":
        return _order_found(db, payload, settings)
    if template == "order_moved":
        return _order_moved(db, payload, settings)
    if "request" in payload:
        return _about_request(db, payload, settings)
    if template == "request_digest":
        return _digest(db, payload, settings)
    if template == "join_asked":
        return _join_asked(db, payload, settings)
    if template in ("joined", "parted"):
        return _about_join(db, payload, settings)
    if template in ("charged_after_end", "merchant_charged_after_end"):
        return _charged_after_end(db, payload, settings)
    if template == "merchant_notice":
        return _notice(db, payload, settings)
    if template == "endpoint_off":
        return _endpoint_off(db, payload, settings)
    if template == "test_mail":
        return _test(db, payload, settings)
    return _about_action(db, payload, settings)


def _new_device(db: Session, payload: dict[str, Any], settings: Settings) -> Letter:
    customer = db.get_one(models.Customer, payload["customer"])
    portal = tenancy.portal_by_id(db, customer.portal_id, settings.base_domain)
    context = {"at": datetime.fromisoformat(payload["at"]), "browser": payload["browser"]}
    return _about_browser(portal, customer, context)


def _about_browser(portal: PortalView, customer: models.Customer, context: dict[str, Any]) -> Letter:
    zone = render.formats(portal.locale, portal.time_zone)
    values = {
        **_who(portal, customer),
        "date": zone.day_text(context["at"]),
        "time": zone.time(context["at"]).striptags(),
        "browser": context["browser"],
    }
    subject = _in(portal, _N("A new browser is signed in to your {shop} account"), shop=portal.name)
    return Letter(portal, "new_device", customer.email, subject, context, "new_device", values)


def _who(portal: PortalView, customer: models.Customer) -> dict[str, str | None]:
    return {"shop": portal.name, "name": mailtexts.name_of(customer.name)}


def _payment_failed(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    payment = db.get_one(models.Payment, payload["payment"])
    if payment.customer_id is None or payment.status != "failed":
        return None
    customer = db.get_one(models.Customer, payment.customer_id)
    portal = tenancy.portal_by_id(db, payment.portal_id, settings.base_domain)
    return _about_failure(portal, customer, payment)


def _about_failure(portal: PortalView, customer: models.Customer, payment: models.Payment) -> Letter:
    title = payment.title or portal.name
    context: dict[str, Any] = {
        "title": title,
        "amount": _money(portal, payment.amount_minor, payment.currency),
        "reason": payment.failure_reason,
        "at": payment.placed_at,
    }
    values = {
        **_who(portal, customer),
        "title": title,
        "amount": context["amount"],
        "date": render.formats(portal.locale, portal.time_zone).day_text(payment.placed_at),
        "reason": payment.failure_reason,
    }
    subject = _in(portal, _N("Your payment for {title} did not go through"), title=title)
    return Letter(portal, "payment_failed", customer.email, subject, context, "payment_failed", values)


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
    if template == "merchant_alarm" and action.closed_at is not None:
        return None
    return _about_subscription(portal, template, action, row, account, customer)


def _about_subscription(
    portal: PortalView,
    template: str,
    action: models.Action,
    row: models.Subscription,
    account: models.Account,
    customer: models.Customer,
) -> Letter:
    title = row.title or portal.name
    notice = action.params.get("notice") if action.phase == "scheduled" else None
    ends = row.access_until or row.cancels_at or row.ended_at
    context: dict[str, Any] = {
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
        "notice": notice if notice and notice["charges"] else None,
        "notice_amount": _charge(portal, notice) if notice else None,
    }
    subject = _in(portal, _SUBJECTS[template], title=title)
    if template == "merchant_alarm":
        return Letter(portal, template, portal.support_email, subject, context)
    zone = render.formats(portal.locale, portal.time_zone)
    day = context["ends"] if template == "cancelled" else row.next_on
    values = {
        **_who(portal, customer),
        "title": title,
        "amount": context["price"],
        "date": zone.day_text(day) if day else None,
        "reference": action.reference,
        "processor": context["label"],
        "method": zone.method(row.method),
    }
    return Letter(portal, template, customer.email, subject, context, template, values)


def _charge(portal: PortalView, notice: Mapping[str, Any]) -> str:
    """What is taken each time until a notice has run out."""
    return _money(portal, notice["minor"], notice["currency"]) or _in(
        portal, _N("an amount that is not known yet")
    )


def _notice_words(portal: PortalView, notice: Mapping[str, Any]) -> str:
    """What the customer was told before they asked: when it ends with the notice, and what is taken until then."""
    zone = render.formats(portal.locale, portal.time_zone)
    days = [date.fromisoformat(day) for day in notice["charges"]]
    words = {
        "days": notice["days"],
        "end": zone.day_text(date.fromisoformat(notice["ends_on"])) if notice["ends_on"] else "",
        "count": len(days),
        "amount": _charge(portal, notice),
        "first": zone.day_text(days[0]) if days else "",
    }
    if not notice["ends_on"]:
        sentences = [_("You have {days} days of notice; on which day it ends then is still to be said.")]
    else:
        sentences = [_("With {days} days of notice it ends on {end}.")]
    if len(days) == 1:
        sentences.append(_("Until then one more payment of {amount} is taken, on {first}."))
    elif days:
        sentences.append(_("Until then {count} more payments of {amount} are taken, the first on {first}."))
    return " ".join(sentences).format(**words)


# For the merchant to look at


def sample(portal: PortalView, kind: str, processor: str, origin: str, now: datetime) -> Letter:
    """A mail as an invented customer gets it, made in the same way as the real ones."""
    customer = models.Customer(
        portal_id=portal.id, email="ana@example.com", name="Ana Example", created_at=now
    )
    about: dict[str, Any] = {"portal_id": portal.id, "account_id": 0, "customer_id": customer.id}
    seen: dict[str, Any] = {**about, "remote_id": "", "placed_at": now, "as_of": now, "stamps": {}}
    priced: dict[str, Any] = {"title": "Monthly coffee box", "amount_minor": 2400, "currency": "USD"}
    account = models.Account(
        portal_id=portal.id, processor=processor, label="", token="", credentials=b"", created_at=now
    )
    if kind == "login":
        context = {
            "link": f"{origin}/customers",
            "code": "K7M2QX",
            "asked_at": now,
            "browser": "Firefox on Mac",
        }
        subject = _in(portal, _N("Sign in to {shop}"), shop=portal.name)
        return Letter(portal, "login", customer.email, subject, context, "login", {"shop": portal.name})
    if kind == "address_asked":
        link = f"{origin}/customers"
        return _asking_address(portal, customer, link, "K7M2QX", now, "Firefox on Mac", "a•••@example.org")
    if kind in ("address_added", "address_removed"):
        return _of_join(portal, kind, customer, "a•••@example.org", "ana@example.com")
    if kind == "order_found":
        link = f"{origin}/customers"
        return _of_found(portal, customer, "1001", link, now, "Firefox on Mac", to_shop=False)
    if kind == "order_moved":
        return _of_moved(portal, customer, "Monthly coffee box", "a•••@example.org")
    if kind == "new_device":
        return _about_browser(portal, customer, {"at": now, "browser": "Firefox on Mac"})
    if kind in ("payment_failed", "charged_after_end"):
        payment = models.Payment(**seen, **priced, failure_reason=None)
        if kind == "payment_failed":
            return _about_failure(portal, customer, payment)
        return _of_charge(portal, payment, account, customer, customer.email, to_merchant=False)
    if kind in ("request_received", "request_answered"):
        asked = models.Request(
            **about,
            subject_id=0,
            kind="pause",
            reference="K7M-2QX",
            what="Monthly coffee box",
            params={},
            status="done",
            history=[],
            due_at=now + timedelta(days=portal.request_days),
            created_at=now,
        )
        return _of_request(portal, kind, asked, customer, account, customer.email)
    row = models.Subscription(
        **seen,
        **priced,
        next_on=(now + timedelta(days=14)).date(),
        cancels_at=now + timedelta(days=14) if kind == "cancelled" else None,
        method={"kind": "card", "brand": "Visa", "last4": "4242"},
    )
    action = models.Action(
        **about,
        subscription_id=row.id,
        capability="cancel_at_period_end",
        reference="K7M-2QX",
        params={},
        phase="confirmed",
        created_at=now,
        confirmed_at=now,
    )
    return _about_subscription(portal, kind, action, row, account, customer)


def _test(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """The sample in the merchant's words, to a person of theirs who asked for it and still belongs to them."""
    merchant = db.get_one(models.Portal, payload["portal"])
    member, user = models.Member, models.User
    to = db.execute(
        select(col(user.email))
        .join(member, col(member.user_id) == col(user.id))
        .where(col(member.merchant_id) == merchant.merchant_id, col(user.id) == payload["user"])
    ).scalar_one_or_none()
    if to is None:
        return None
    portal = tenancy.portal_by_id(db, merchant.id, settings.base_domain)
    letter = sample(portal, payload["kind"], payload["processor"], settings.origin(portal.host), clock.now())
    letter = in_words(letter, payload["subject"], payload["body"])
    subject = _in(portal, _N("Test: {subject}"), subject=letter.subject)
    return replace(letter, to=to, subject=subject, kind=None)


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
    "offer": _N("for what is offered in place of cancelling {what}"),
    "find_order": _N("to find the order {what}"),
}
_TO_MERCHANT = frozenset({"request_new", "request_withdrawn", "request_late"})


def _about_request(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    row = db.get_one(models.Request, payload["request"])
    template = payload["template"]
    if template == "request_late" and row.closed_at is not None:
        return None
    merchant = db.get_one(models.Portal, row.portal_id)
    # Who has not signed in: a person of this mail alone, at the address that they typed.
    customer = (
        db.get_one(models.Customer, row.customer_id)
        if row.customer_id is not None
        else models.Customer(portal_id=row.portal_id, email=row.contact or "", created_at=row.created_at)
    )
    account = db.get_one(models.Account, row.account_id) if row.account_id is not None else None
    portal = tenancy.portal_by_id(db, row.portal_id, settings.base_domain)
    to = requests.merchants_address(merchant) if template in _TO_MERCHANT else customer.email
    here = f"{settings.origin(settings.admin_host)}{desk.queue_path(row.portal_id)}/{id_text(row.id)}"
    return _of_request(portal, template, row, customer, account, to, here)


def _of_request(
    portal: PortalView,
    template: str,
    row: models.Request,
    customer: models.Customer,
    account: models.Account | None,
    to: str,
    here: str = "",  # its page on the merchant's side
) -> Letter:
    to_merchant = template in _TO_MERCHANT
    token = locale.set(portal.locale)
    try:
        subject, paragraphs = _request_words(row, template, portal, customer, account)
        see = _("Look at the request") if to_merchant else _("See your requests")
        if row.contact is not None and not to_merchant:
            see = _("Sign in")
    finally:
        locale.reset(token)
    context = {
        "paragraphs": paragraphs,
        "quote": row.words if to_merchant else row.answer,
        "link": (
            here if to_merchant else "/customers/requests" if row.contact is None else "/customers",
            see,
        ),
        "reference": row.reference,
    }
    if to_merchant:
        return Letter(portal, "merchant_note", to, _one_line(subject), context)
    values = {
        **_who(portal, customer),
        "title": row.what or portal.name,
        "date": render.formats(portal.locale, portal.time_zone).day_text(row.due_at),
        "reference": row.reference,
    }
    return Letter(portal, "note", to, _one_line(subject), context, template, values)


def _request_words(
    row: models.Request,
    template: str,
    portal: PortalView,
    customer: models.Customer,
    account: models.Account | None,
) -> tuple[str, list[str]]:
    """Subject and sentences of a mail about a request, in the portal's language."""
    wish = _(_WISHES[row.kind]).format(what=row.what or portal.name)
    due = render.Format(portal.locale, portal.time_zone).day_text(row.due_at)
    words = {
        "customer": customer.email,
        "wish": wish,
        "label": f"{facts(account.processor).label} ({account.label})" if account else portal.name,
        "due": due,
        "shop": portal.name,
        "reference": row.reference,
    }
    notice = row.params.get("notice")
    to_do = row.params.get("to_do") or (_notice_words(portal, notice) if notice else None)
    told = [_plain(_notice_words(portal, notice))] if notice else []
    paid = _("{customer} asks {wish}. It was paid through {label}.")
    if row.contact is not None:
        paid = _(
            "Somebody who has not signed in asks {wish}, and left the address {customer}. It is not verified."
        )
    texts = {
        "request_new": (
            _("{customer} asks {wish}"),
            [
                paid,
                *([_plain(to_do)] if to_do else []),
                _("Please answer by {due}. Nothing is shown as done before you, or {label}, say so."),
                _(
                    "Answer on its page; or on the command line: portal requests done {reference}, or "
                    'portal requests decline {reference} --say "…".'
                ),
            ],
        ),
        "request_received": (
            _("{shop} has your request {reference}"),
            [
                _("You asked {shop} {wish}."),
                *told,
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


def _digest(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """What is open this morning, for whoever is asked; nothing where all is answered by now."""
    merchant = db.get_one(models.Portal, payload["portal"])
    day, now = date.fromisoformat(payload["day"]), clock.now()
    found = desk.digest(db, merchant.id, day, merchant.time_zone, now)
    if found is None:
        return None
    portal = tenancy.portal_by_id(db, merchant.id, settings.base_domain)
    zone = render.formats(portal.locale, portal.time_zone)
    token = locale.set(portal.locale)
    try:
        subject = ngettext("{n} request waits for an answer", "{n} requests wait for an answer", found.open)
        late = ngettext("{n} is overdue.", "{n} are overdue.", found.overdue)
        today = ngettext("{n} is due today.", "{n} are due today.", found.today)
        counts = [(late, found.overdue), (today, found.today)]
        told = [sentence.format(n=n) for sentence, n in counts if n]
        line = {
            True: _("Overdue since {due}: {customer} asks {wish}."),
            False: _("By {due}: {customer} asks {wish}."),
        }
        lines = [
            line[row.is_late].format(
                due=zone.day_text(row.due_at),
                customer=row.email,
                wish=_(_WISHES[row.kind]).format(what=row.what or portal.name),
            )
            for row in found.first
        ]
        if found.open > len(lines):
            more = found.open - len(lines)
            lines.append(ngettext("And {n} more.", "And {n} more.", more).format(n=more))
        see = _("See the requests")
    finally:
        locale.reset(token)
    address = f"{settings.origin(settings.admin_host)}{desk.queue_path(merchant.id)}"
    context = {
        "paragraphs": [*([" ".join(told)] if told else []), *lines],
        "quote": None,
        "link": (address, see),
        "reference": None,
    }
    to = requests.merchants_address(merchant)
    return Letter(portal, "merchant_note", to, _one_line(subject.format(n=found.open)), context)


# A further address of one person


def _join_asked(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """To the further address: whoever reads this may say that both are theirs. The link is made here."""
    found = people.new_link(db, payload["join"], clock.now())
    if found is None:
        return None
    row, secret = found
    second = db.get_one(models.Customer, row.from_id)
    into = db.get_one(models.Customer, row.into_id)
    portal = tenancy.portal_by_id(db, row.portal_id, settings.base_domain)
    words = {"shop": portal.name, "other": login.masked(into.email)}
    token = locale.set(portal.locale)
    try:
        context = {
            "paragraphs": [
                sentence.format(**words)
                for sentence in (
                    _(
                        "{shop} thinks that {other} is yours, too, and would show what belongs to both in one place."
                    ),
                    _(
                        "Only if both are yours, say so within a day. If not, do nothing, and nothing changes."
                    ),
                )
            ],
            "quote": None,
            "link": (f"/customers/join/{secret}", _("Look at the question")),
            "reference": None,
        }
    finally:
        locale.reset(token)
    subject = _in(portal, _N("Is this address yours, too? {shop} asks"), shop=portal.name)
    return Letter(portal, "note", second.email, subject, context)


def _about_join(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """To both mailboxes: a further address shows what is theirs from now on, and signs in as them; or no longer."""
    row = db.get_one(models.Join, payload["join"])
    added = payload["template"] == "joined"
    if added and row.undone_at is not None:
        return None
    second, into = db.get_one(models.Customer, row.from_id), db.get_one(models.Customer, row.into_id)
    portal = tenancy.portal_by_id(db, row.portal_id, settings.base_domain)
    whose = second if payload.get("whose") == "further" else into
    # The person of the account sees the whole of what is joined with it; the other mailbox may be a stranger's.
    other = login.masked(into.email) if whose is second else second.email
    return _of_join(portal, "address_added" if added else "address_removed", whose, other, second.email)


def _of_join(portal: PortalView, kind: str, whose: models.Customer, other: str, further: str) -> Letter:
    words = {"shop": portal.name, "other": other, "support": portal.support_email}
    token = locale.set(portal.locale)
    try:
        texts = {
            "address_added": [
                _("From now on this address and {other} are one person at {shop}."),
                _("What was bought with either is shown together, to whoever signs in with either."),
                _(
                    "Is that address not yours? Remove it under “Your addresses”, or write to {support}; {shop} "
                    "takes it apart again with one click."
                ),
            ],
            "address_removed": [
                _("This address and {other} are no longer one person at {shop}."),
                _("What was bought with either is shown only to who signs in with that address."),
                _("Was that not you? Write to {support}."),
            ],
        }
        link = ("/customers/addresses", _("See your addresses"))
    finally:
        locale.reset(token)
    context = {
        "paragraphs": [sentence.format(**words) for sentence in texts[kind]],
        "quote": None,
        "link": link,
        "reference": None,
    }
    subjects = {
        "address_added": _N("A further address at {shop}"),
        "address_removed": _N("An address is removed at {shop}"),
    }
    subject = _in(portal, subjects[kind], shop=portal.name)
    return Letter(portal, "note", whose.email, subject, context, kind, _who(portal, whose))


def _address_asked(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """To the further address: the link and the code that prove it, if it is a customer's and not asked too often."""
    secret = settings.secret_key.get_secret_value()
    prepared = addresses.prepare_mail(db, payload["ask"], secret, clock.now())
    if prepared is None or prepared.portal_id is None:
        return None
    asked = db.get_one(models.LoginRequest, payload["ask"])
    asker = db.get(models.Customer, asked.customer_id) if asked.customer_id is not None else None
    if asker is None:
        return None
    portal = tenancy.portal_by_id(db, prepared.portal_id, settings.base_domain)
    whose = models.Customer(portal_id=portal.id, email=prepared.to, created_at=asked.created_at)
    link = f"{settings.origin(portal.host)}/customers/join/{prepared.token}"
    browser, other = login.browser_words(prepared.user_agent), login.masked(asker.email)
    return _asking_address(portal, whose, link, prepared.code, prepared.asked_at, browser, other)


def _asking_address(
    portal: PortalView,
    whose: models.Customer,
    link: str,
    code: str,
    asked_at: datetime,
    browser: str,
    other: str,
) -> Letter:
    context = {"link": link, "code": code, "asked_at": asked_at, "browser": browser, "other": other}
    subject = _in(portal, _N("Add this address to your {shop} account?"), shop=portal.name)
    return Letter(portal, "address", whose.email, subject, context, "address_asked", {"shop": portal.name})


# An order that was lost


def _order_found(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """To the address on the order, and to it alone: the way in. The link is made here, so it stands in no table."""
    asked = db.get(models.LoginRequest, payload["ask"])
    if asked is None or asked.portal_id is None or asked.expires_at <= clock.now():
        return None
    payment = db.get_one(models.Payment, payload["payment"])
    if payment.customer_id is None or payment.customer_id != asked.customer_id:
        return None
    customer = db.get_one(models.Customer, payment.customer_id)
    portal = tenancy.portal_by_id(db, asked.portal_id, settings.base_domain)
    secret = settings.secret_key.get_secret_value()
    proof = login.new_proof(db, asked, customer.email, secret, clock.now(), "customer")
    order = rescue.order_of(db, payment)
    what = (order and (order.number or order.title)) or payment.title or portal.name
    link = f"{settings.origin(portal.host)}/customers/login/{proof.token}"
    browser = login.browser_words(asked.user_agent)
    return _of_found(portal, customer, what, link, asked.created_at, browser, payload.get("to_shop", False))


def _of_found(
    portal: PortalView,
    customer: models.Customer,
    what: str,
    link: str,
    asked_at: datetime,
    browser: str,
    to_shop: bool,
) -> Letter:
    zone = render.formats(portal.locale, portal.time_zone)
    words = {
        "shop": portal.name,
        "what": what,
        "hint": login.masked(customer.email),
        "day": zone.day_text(asked_at),
        "time": zone.time(asked_at).striptags(),
        "browser": browser,
    }
    token = locale.set(portal.locale)
    try:
        asked = _("Somebody looked for the order {what} at {shop} on {day} at {time}, in {browser}.")
        if not browser:
            asked = _("Somebody looked for the order {what} at {shop} on {day} at {time}.")
        sentences = [
            asked,
            _("It was bought with this address, {hint}. Sign in with the link to see it; it works once."),
            _("The link shows a button and is good for 10 minutes. Later, sign in with this address."),
        ]
        if to_shop:
            sentences.append(
                _(
                    "They also asked {shop} to show it to another address. Not you? Answer this mail and say so."
                )
            )
        else:
            sentences.append(_("If that was not you, do nothing: who looked for it was told nothing."))
        see = _("Sign in")
    finally:
        locale.reset(token)
    context = {
        "paragraphs": [sentence.format(**words) for sentence in sentences],
        "quote": None,
        "link": (link, see),
        "reference": None,
    }
    subject = _in(portal, _N("The order you looked for: {title}"), title=what)
    values = {**_who(portal, customer), "title": what, "date": words["day"]}
    return Letter(portal, "note", customer.email, subject, context, "order_found", values)


def _order_moved(db: Session, payload: dict[str, Any], settings: Settings) -> Letter:
    """To the mailbox that had it: the merchant shows an order to another address from now on."""
    customer = db.get_one(models.Customer, payload["customer"])
    portal = tenancy.portal_by_id(db, customer.portal_id, settings.base_domain)
    return _of_moved(portal, customer, payload["what"] or portal.name, login.masked(payload["to"]))


def _of_moved(portal: PortalView, customer: models.Customer, what: str, other: str) -> Letter:
    words = {"shop": portal.name, "what": what, "other": other}
    token = locale.set(portal.locale)
    try:
        sentences = [
            _("{shop} was told that {what} belongs to {other}, and shows it there from now on."),
            _("It is no longer shown here. Is it yours? Answer this mail: {shop} can take it back."),
        ]
    finally:
        locale.reset(token)
    context = {
        "paragraphs": [sentence.format(**words) for sentence in sentences],
        "quote": None,
        "link": None,
        "reference": None,
    }
    subject = _in(portal, _N("Now shown to another address: {title}"), title=what)
    values = {**_who(portal, customer), "title": what}
    return Letter(portal, "note", customer.email, subject, context, "order_moved", values)


def _plain(text: str) -> str:
    """Words in which nothing is to be filled in."""
    return text.replace("{", "{{").replace("}", "}}")


# A charge after the end, and other things that a merchant should know


def _charged_after_end(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    payment = db.get_one(models.Payment, payload["payment"])
    if payment.customer_id is None:
        return None
    customer = db.get_one(models.Customer, payment.customer_id)
    merchant = db.get_one(models.Portal, payment.portal_id)
    account = db.get_one(models.Account, payment.account_id)
    portal = tenancy.portal_by_id(db, payment.portal_id, settings.base_domain)
    to_merchant = payload["template"] == "merchant_charged_after_end"
    to = requests.merchants_address(merchant) if to_merchant else customer.email
    return _of_charge(portal, payment, account, customer, to, to_merchant)


def _of_charge(
    portal: PortalView,
    payment: models.Payment,
    account: models.Account,
    customer: models.Customer,
    to: str,
    to_merchant: bool,
) -> Letter:
    words = {
        "amount": _money(portal, payment.amount_minor, payment.currency) or "",
        "title": payment.title or portal.name,
        "label": facts(account.processor).label,
        "day": render.Format(portal.locale, portal.time_zone).day_text(payment.paid_at or payment.placed_at),
        "shop": portal.name,
        "customer": customer.email,
    }
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
    if to_merchant:
        return Letter(portal, "merchant_note", to, _one_line(subject), context)
    values = {
        **_who(portal, customer),
        "title": words["title"],
        "amount": words["amount"],
        "date": words["day"],
        "processor": words["label"],
    }
    return Letter(portal, "note", to, _one_line(subject), context, "charged_after_end", values)


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


# The merchant's domain


def _about_domain(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """Its proof was lost, came back, or was missing for too long. To an owner, if they still are one."""
    portal = db.get_one(models.Portal, payload["portal"])
    to = domains.address_of_owner(db, portal.merchant_id, payload["user"])
    if to is None:
        return None
    name, event = payload["name"], payload["event"]
    own = f"{portal.slug}.{settings.base_domain}"
    until = datetime.fromisoformat(payload["until"]) if payload["until"] else clock.now()
    zone = render.formats("en", portal.time_zone)
    words = {
        "name": domains.readable(name),
        "own": own,
        "shop": portal.name,
        "until": f"{zone.day_text(until)}, {zone.time(until).striptags()}",
    }
    target = domains.target_of(portal.slug, settings)
    seen = [
        domains.sentence(domains.Problem(p["record"], p["code"], p["seen"]), name, target)
        for p in payload["problems"]
    ]
    texts = {
        "lost": (
            _("The proof for {name} is gone"),
            [
                _("{name} leads customers to the pages of {shop}. The DNS no longer says that it is yours."),
                *(text.replace("{", "{{").replace("}", "}}") for text in seen),
                _(
                    "From now on our mails link to {own} instead. {name} itself goes on answering until {until}; "
                    "after that it answers no more, unless the records are back before."
                ),
            ],
        ),
        "back": (
            _("{name} is in use again"),
            [_("Both DNS records of {name} are as they should be. Our mails link to it again.")],
        ),
        "ended": (
            _("{name} answers no more"),
            [
                _(
                    "The proof for {name} has been missing for three days. It no longer leads to the pages of {shop}."
                ),
                _(
                    "Customers reach them at {own}. To use {name} again, claim it anew: it gets a new value to prove."
                ),
            ],
        ),
    }
    subject, paragraphs = texts[event]
    context = {
        "paragraphs": [paragraph.format(**words) for paragraph in paragraphs],
        "quote": None,
        "link": (f"/settings/portals/{id_text(portal.id)}/domain", _("See the domain")),
        "reference": None,
    }
    subject = _one_line(subject.format(**words))
    ours = replace(tenancy.installation(settings), name=portal.name, time_zone=portal.time_zone)
    return Letter(ours, "owner_note", to, subject, context)


def _endpoint_off(db: Session, payload: dict[str, Any], settings: Settings) -> Letter | None:
    """The merchant's server takes no events any more, and none are sent to it."""
    row = db.get(models.Endpoint, payload["endpoint"])
    if row is None or row.disabled_at is None:
        return None
    merchant = db.get_one(models.Portal, row.portal_id)
    portal = tenancy.portal_by_id(db, row.portal_id, settings.base_domain)
    page = f"{settings.origin(settings.admin_host)}/settings/portals/{id_text(row.portal_id)}/developers"
    token = locale.set(portal.locale)
    try:
        subject = _("Switched off: webhooks to your server")
        paragraphs = [
            _("The portal delivers no more events to {url}.").format(url=row.url),
            row.problem or "",
            _("When the server takes events again, switch it on under {page}.").format(page=page),
            _("What was told meanwhile can be fetched by the API for thirty days."),
        ]
    finally:
        locale.reset(token)
    context = {
        "paragraphs": [one for one in paragraphs if one],
        "quote": None,
        "link": None,
        "reference": None,
    }
    return Letter(portal, "merchant_note", requests.merchants_address(merchant), _one_line(subject), context)


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
