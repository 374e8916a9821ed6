"""The merchant's own words for the mails to customers: which mails there are, what may stand in their words, and what
becomes of these when a mail is written. Plain paragraphs with a fixed list of placeholders; the button, the code and
whatever the law or safety asks for stay ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from unicodedata import category

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models, saving, sync
from portal.ids import new_id
from portal.merchants import Person
from portal.saving import Late
from portal.texts import gettext as _

SUBJECT_LENGTH, BODY_LENGTH = 150, 2000


def _N(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Kind:
    """A mail to customers. `body` are our words with placeholders, or "" where the merchant's stand above ours."""

    name: str
    title: str
    when: str
    subject: str
    placeholders: tuple[str, ...]
    body: str = ""
    date: str = ""  # what {date} is in it
    always: str | None = None  # why it can't be switched off
    keep: str | None = None  # why it had better not be

    @property
    def instead(self) -> bool:
        """Whether the merchant's words stand in place of ours."""
        return bool(self.body)


_CONFIRMED = ("shop", "name", "title", "amount", "date", "reference", "processor")
_NEXT = _N("the day of the next payment")
_PROOF = _N("It is the customer's receipt, which the law asks for in many places. It always goes out.")

KINDS: dict[str, Kind] = {
    one.name: one
    for one in (
        Kind(
            "login",
            _N("Sign-in"),
            _N("When somebody asks to sign in with a customer's address. It carries the link and the code."),
            _N("Sign in to {shop}"),
            ("shop",),
            always=_N("Without it nobody could sign in. It always goes out."),
        ),
        Kind(
            "address_asked",
            _N("A further address"),
            _N("When a customer adds an address that was bought with. It carries the link and the code."),
            _N("Add this address to your {shop} account?"),
            ("shop",),
            always=_N("Without it no address could be added. It always goes out."),
        ),
        Kind(
            "address_added",
            _N("Address added"),
            _N("To both addresses, when two were proved to be one person's."),
            _N("A further address at {shop}"),
            ("shop", "name"),
            always=_N("By it customers notice what was not theirs. It always goes out."),
        ),
        Kind(
            "address_removed",
            _N("Address removed"),
            _N("To both addresses, when they are parted again."),
            _N("An address is removed at {shop}"),
            ("shop", "name"),
            always=_N("By it customers notice what was not theirs. It always goes out."),
        ),
        Kind(
            "order_found",
            _N("Order found"),
            _N(
                "When somebody looks for an order by its number, its amount and four digits of the card. It goes to "
                "the address on the order alone, with the link."
            ),
            _N("The order you looked for: {title}"),
            ("shop", "name", "title", "date"),
            date=_N("the day on which it was looked for"),
            always=_N("Without it nobody could find a lost order. It always goes out."),
        ),
        Kind(
            "order_moved",
            _N("Order moved"),
            _N("To the address that had an order, when you show it to another one."),
            _N("Now shown to another address: {title}"),
            ("shop", "name", "title"),
            always=_N("Who loses sight of an order has to know. It always goes out."),
        ),
        Kind(
            "new_device",
            _N("New browser"),
            _N("When a customer signs in with a browser that was not used before."),
            _N("A new browser is signed in to your {shop} account"),
            ("shop", "name", "date", "time", "browser"),
            date=_N("the day of the sign-in"),
            keep=_N("By it customers notice that somebody else reads their mail."),
        ),
        Kind(
            "cancelled",
            _N("Cancelled"),
            _N(
                "When a cancellation is confirmed, or booked. Ours says until when it is paid and who confirmed it."
            ),
            _N("Your {title} is cancelled"),
            _CONFIRMED,
            date=_N("the day until which it is paid"),
            always=_PROOF,
        ),
        Kind(
            "cancel_undone",
            _N("Goes on after all"),
            _N("When a cancellation is taken back."),
            _N("Your {title} goes on"),
            _CONFIRMED,
            _N(
                "The cancellation is taken back, and your subscription goes on as before.\n\n"
                "The next payment is {amount} on {date}."
            ),
            _NEXT,
        ),
        Kind(
            "paused",
            _N("Paused"),
            _N("When a subscription is paused."),
            _N("Your {title} is paused"),
            _CONFIRMED,
            _N("No payments are taken while it is paused. It can be resumed on your subscriptions page."),
            _NEXT,
        ),
        Kind(
            "resumed",
            _N("Resumed"),
            _N("When a paused subscription goes on."),
            _N("Your {title} is resumed and goes on"),
            _CONFIRMED,
            _N("Payments go on as before.\n\nThe next payment is {amount} on {date}."),
            _NEXT,
        ),
        Kind(
            "card_changed",
            _N("Payment method changed"),
            _N("When a new payment method is in use."),
            _N("The payment method of your {title} has changed"),
            (*_CONFIRMED, "method"),
            _N("From now on it is paid with {method}.\n\nThe next payment is {amount} on {date}."),
            _NEXT,
            keep=_N("By it customers notice a change that was not theirs."),
        ),
        Kind(
            "plan_changed",
            _N("Plan changed"),
            _N("When another plan is agreed."),
            _N("The plan of your {title} has changed"),
            _CONFIRMED,
            _N(
                "The new plan holds from the next payment on, unless your subscriptions page names another day."
            ),
            _NEXT,
        ),
        Kind(
            "payment_skipped",
            _N("Payment left out"),
            _N("When one payment is skipped."),
            _N("A payment for your {title} is left out"),
            _CONFIRMED,
            _N("One payment is left out. The next one is on the day that your subscriptions page shows."),
            _NEXT,
        ),
        Kind(
            "payment_failed",
            _N("Payment failed"),
            _N("When a payment did not go through."),
            _N("Your payment for {title} did not go through"),
            ("shop", "name", "title", "amount", "date", "reason"),
            _N(
                "The payment of {amount} on {date} did not go through.\n\n"
                "Usual reasons: the card has expired, was replaced, or its limit was reached. "
                "Nothing else was changed."
            ),
            _N("the day of the payment"),
        ),
        Kind(
            "request_received",
            _N("Request received"),
            _N("When a customer asks you for something. Ours says for what, and by when you answer."),
            _N("{shop} has your request {reference}"),
            ("shop", "name", "title", "date", "reference"),
            date=_N("the day by which you answer"),
            always=_PROOF,
        ),
        Kind(
            "request_answered",
            _N("Request answered"),
            _N("When you have answered, or the processor shows it done. Ours says how."),
            _N("{shop} answered your request {reference}"),
            ("shop", "name", "title", "date", "reference"),
            date=_N("the day by which you wanted to answer"),
            always=_N("Who asks gets an answer. It always goes out."),
        ),
        Kind(
            "charged_after_end",
            _N("Charged after the end"),
            _N("When a payment was taken although its subscription had ended."),
            _N("Charged after it had ended: {title}"),
            ("shop", "name", "title", "amount", "date", "processor"),
            date=_N("the day of the payment"),
            always=_N("Money was taken that may not be owed: the customer has to know. It always goes out."),
        ),
    )
}
MEANINGS: dict[str, str] = {
    "shop": _N("your name, as customers know it"),
    "name": _N("the customer's name, where it is known"),
    "title": _N("what it is about, such as “Monthly coffee box”"),
    "amount": _N("the amount, such as $24.00"),
    "time": _N("the time of the sign-in"),
    "browser": _N("such as “Firefox on Windows”"),
    "reference": _N("the reference, such as K7M-2QX"),
    "processor": _N("who confirmed it: the payment company"),
    "method": _N("such as “Visa ending 4242”"),
    "reason": _N("why it failed, where the processor says so"),
}


# What may stand in them


_HOLE = re.compile(r"\{([^{}]*)\}")
_LINK = re.compile(r"(?i)\b(?:https?|ftp|mailto|javascript|data)\s*:|://|\bwww\.")
_MARKUP = re.compile(r"<\s*[A-Za-z/!]")


def tidy(text: str) -> str:
    """Typed words as they are kept: line ends alike, no blanks at their ends, paragraphs apart by one empty line."""
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").strip().split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def problems(kind: Kind, subject: str, body: str) -> dict[str, str]:
    """What is wrong with a merchant's words, field by field."""
    found = {}
    if "\n" in subject or any(not c.isprintable() for c in subject):
        found["subject"] = _("The subject is one line.")
    elif len(subject) > SUBJECT_LENGTH:
        found["subject"] = _("At most {most} characters.").format(most=SUBJECT_LENGTH)
    elif sentence := _wrong(kind, subject):
        found["subject"] = sentence
    if any(not c.isprintable() for c in body if c != "\n"):
        found["words"] = _("There is a sign in it that can't be shown. Type it anew without it.")
    elif len(body) > BODY_LENGTH:
        found["words"] = _("At most {most} characters.").format(most=BODY_LENGTH)
    elif sentence := _wrong(kind, body):
        found["words"] = sentence
    return found


def _wrong(kind: Kind, text: str) -> str | None:
    allowed = ", ".join(f"{{{name}}}" for name in kind.placeholders)
    for name in _HOLE.findall(text):
        if name not in kind.placeholders:
            return _("{{{name}}} is not known in this mail. There are: {allowed}.").format(
                name=name[:40], allowed=allowed
            )
    if re.search(r"[{}]", _HOLE.sub("", text)):
        return _("A curly bracket stands alone. Placeholders are: {allowed}.").format(allowed=allowed)
    if _MARKUP.search(text):
        return _("HTML is not read here; it would be shown as typed. Leave it out.")
    if _LINK.search(text):
        return _("Links don't stand in the words: the button of the mail leads to the customer's page.")
    return None


# Filling them


def filled(text: str, values: Mapping[str, str | None]) -> str | None:
    """Words with their values; None where one of them is not known this time."""
    if any(not values.get(name) for name in _HOLE.findall(text)):
        return None
    return _HOLE.sub(lambda hole: one_line(str(values[hole[1]])), text)


def paragraphs(body: str, values: Mapping[str, str | None]) -> list[str]:
    """The paragraphs that can be said; one with a value that is not known is left out."""
    parts = (filled(part, values) for part in re.split(r"\n{2,}", body.strip()))
    return [part for part in parts if part]


def one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def name_of(text: str | None) -> str | None:
    """A customer's name where it reads like one. Whoever buys with a stranger's address chooses the name that a mail
    would say to them."""
    found = one_line(text or "")
    letters = all(category(c)[0] in "LM" or c in " .-'’" for c in found)
    return found if found and letters and len(found) <= 60 and not re.search(r"\.\S", found) else None


# Kept


@dataclass(frozen=True, slots=True)
class Words:
    """What a merchant says of a mail; None: our words."""

    enabled: bool = True
    subject: str | None = None
    body: str | None = None
    version: int = 0


def words(db: Session, portal_id: int, kind: str) -> Words:
    row = _row(db, portal_id, kind)
    return Words(row.enabled, row.subject, row.body, row.version) if row is not None else Words()


def all_words(db: Session, portal_id: int) -> dict[str, Words]:
    """Of every mail that the merchant has said something about."""
    row = models.MailText
    found = db.execute(select(row).where(col(row.portal_id) == portal_id)).scalars()
    return {one.template: Words(one.enabled, one.subject, one.body, one.version) for one in found}


def _row(db: Session, portal_id: int, kind: str) -> models.MailText | None:
    row = models.MailText
    return db.execute(
        select(row).where(col(row.portal_id) == portal_id, col(row.template) == kind)
    ).scalar_one_or_none()


def save(
    db: Session, person: Person, portal_id: int, kind: Kind, version: int, wanted: Words, now: datetime
) -> Late | None:
    """Keep a merchant's words (checked by `problems`). A mail that always goes out stays on."""
    portal = saving.portal_of(db, person, portal_id)
    first = {"id": new_id(), "portal_id": portal.id, "template": kind.name, "enabled": True, "version": 0}
    table = models.MailText.__table__  # type: ignore[attr-defined]
    sync.insert_once(db, table, {**first, "changed_at": now})
    row = _row(db, portal.id, kind.name)
    assert row is not None
    return saving.save(
        db,
        person,
        row,
        version,
        {
            "enabled": wanted.enabled or kind.always is not None,
            "subject": wanted.subject or None,
            "body": wanted.body or None,
            "changed_at": now,
        },
        "mail.changed",
        kind.name,
    )
