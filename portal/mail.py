"""Mails: composed from one layout with their plain text beside it, sent over one connection a batch."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cache
from types import MappingProxyType
from typing import Any, TypedDict
from uuid import uuid4

import aiosmtplib
from jinja2 import Environment

from portal import clock, render
from portal.settings import Settings
from portal.tenancy import PortalView
from portal.texts import locale

TIMEOUT_S = 20


# What each mail is told. Moments are aware, days are billing days, amounts are texts.


class Login(TypedDict):
    """The link and the code of a sign-in; `browser` in words, or empty."""

    link: str
    code: str
    asked_at: datetime
    browser: str


class FurtherAddress(Login):
    """A link and a code that prove a further address; `other` is the masked address of who asks."""

    other: str


class NewDevice(TypedDict):
    """A sign-in from a browser that this customer was not seen in before."""

    at: datetime
    browser: str


class PaymentFailed(TypedDict):
    """`amount` and `reason`, a sentence, where they are known."""

    title: str
    amount: str | None
    reason: str | None
    at: datetime


class AboutAction(TypedDict):
    """Something a customer did. `ends`: what is paid for runs until then; None where it ended at once."""

    title: str
    label: str  # of the processor
    reference: str
    confirmed_at: datetime
    ends: datetime | None
    scheduled: bool
    undoable: bool
    next_on: date | None
    price: str | None
    method: Mapping[str, Any]
    customer: str
    what: str
    since: datetime


class Note(TypedDict):
    """Sentences, what somebody wrote, a page of ours with the words of its button, and a reference; None: left out."""

    paragraphs: list[str]
    quote: str | None
    link: tuple[str, str] | None
    reference: str | None


NEEDS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "login": Login,
        "address": FurtherAddress,
        "new_device": NewDevice,
        "payment_failed": PaymentFailed,
        "cancelled": AboutAction,
        "cancel_undone": AboutAction,
        "paused": AboutAction,
        "resumed": AboutAction,
        "card_changed": AboutAction,
        "merchant_alarm": AboutAction,
        "plan_changed": AboutAction,
        "payment_skipped": AboutAction,
        "note": Note,
        "merchant_note": Note,
        "invitation": Note,
        "owner_note": Note,
    }
)


def compose(
    settings: Settings, portal: PortalView, template: str, to: str, subject: str, context: Mapping[str, Any]
) -> EmailMessage:
    """A mail of a portal to one address: HTML from `mail/<template>.html`, text from `mail/<template>.txt`.

    `context` holds what `NEEDS` says. ValueError where the address is anything but one plain address or something
    is missing.
    """
    if missing := NEEDS[template].__required_keys__ - context.keys():
        raise ValueError(f"{template} is not told: {', '.join(sorted(missing))}")
    subject = _one_line(subject)[:180]
    text, html = written(settings, portal, template, to, subject, context)
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = Address(_one_line(portal.sender_name or portal.name)[:80], addr_spec=settings.mail_from)
    message["To"] = one_address(to)
    message["Reply-To"] = one_address(portal.support_email)
    message["Subject"] = subject
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = f"<{uuid4().hex}@{portal.host}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def written(
    settings: Settings,
    portal: PortalView,
    template: str,
    to: str,
    subject: str,
    context: Mapping[str, Any],
    layout: str = "mail/layout.html",
    parts: str = "mail/parts.html",
) -> tuple[str, str]:
    """The two parts of a mail: its text, and its HTML. With another layout and other parts, the same words and blocks
    stand in a page of ours, which allows no style of its own."""
    values = {
        "own": (),  # the merchant's paragraphs
        "named": None,  # what it is about, where the merchant's subject does not say it
        "notice": None,
        **{name: _one_line(value) if isinstance(value, str) else value for name, value in context.items()},
        "portal": portal,
        "to": to,
        "origin": settings.origin(portal.host),
        "subject": _one_line(subject)[:180],
        "format": render.formats(portal.locale, portal.time_zone),
        "fill": dict(portal.brand).get("brand-light", "#1b1c1e"),
        "on_fill": dict(portal.brand).get("on-brand-light", "#ffffff"),
        "layout": layout,
        "parts_file": parts,
    }
    token = locale.set(portal.locale)
    try:
        text = _texts(portal.locale).get_template(f"mail/{template}.txt").render(values)
        html = render.environment(portal.locale).get_template(f"mail/{template}.html").render(values)
    finally:
        locale.reset(token)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", html


_ADDRESS = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    re.ASCII | re.IGNORECASE,
)


def one_address(text: str) -> Address:
    """Exactly one plain address; ValueError for lists, display names, quotes, comments and what is not ASCII."""
    if len(text) > 254 or len(text.partition("@")[0]) > 64 or not _ADDRESS.fullmatch(text):
        raise ValueError("not one plain e-mail address")
    return Address(addr_spec=text)


def _one_line(text: str) -> str:
    """Without line breaks and other control characters: they have no place in a header, nor in a sentence of ours."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split(" ")).strip()


@cache
def _texts(name: str) -> Environment:
    """For the plain text twins, where nothing is escaped because nothing is markup."""
    return render.environment(name).overlay(autoescape=False, trim_blocks=False, lstrip_blocks=False)


# Handing over


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why a mail was not taken. `permanent`: asking again will not help. Holds no address."""

    error: str
    permanent: bool


async def send_batch(
    settings: Settings,
    messages: Sequence[tuple[str, EmailMessage]],
    taken: Callable[[int], Awaitable[None]] | None = None,
) -> list[Outcome | None]:
    """Send each message to its one recipient over one connection; None where it was taken.

    `taken` is called with the number of each as soon as it was. One that is refused does not hold up the others. A
    connection that breaks is opened once more.
    """
    smtp = client(settings)
    outcomes: list[Outcome | None] = []
    failed_connections = 0
    try:
        for number, (recipient, message) in enumerate(messages):
            if failed_connections == 2:
                outcomes.append(Outcome("the mail server is not to be had", permanent=False))
                continue
            went = False
            try:
                if not smtp.is_connected:
                    await smtp.connect()
                await smtp.sendmail(
                    settings.mail_from, [one_address(recipient).addr_spec], message.as_bytes()
                )
                outcomes.append(None)
                went = True
            except (aiosmtplib.SMTPException, OSError, ValueError) as error:
                outcomes.append(_outcome(error))
                if not _is_about_the_mail(error):
                    failed_connections += 1
                    smtp.close()
                    smtp = client(settings)
            if went and taken is not None:
                await taken(number)
    finally:
        await _goodbye(smtp)
    return outcomes


def client(settings: Settings, timeout: float = TIMEOUT_S) -> aiosmtplib.SMTP:
    """Not connected yet."""
    return aiosmtplib.SMTP(
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        username=settings.smtp_username or None,
        password=settings.smtp_password.get_secret_value() or None,
        use_tls=settings.smtp_tls == "tls",
        start_tls=settings.smtp_tls == "starttls",
        timeout=timeout,
    )


def _outcome(error: Exception) -> Outcome:
    """Only a mail that is itself refused for good is given up; a server that refuses us may be mended."""
    code = _code(error)
    permanent = isinstance(error, ValueError) or (_is_about_the_mail(error) and (code or 0) >= 500)
    return Outcome(f"{type(error).__name__} {code}" if code else type(error).__name__, permanent)


def _code(error: Exception) -> int | None:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return max(refused.code for refused in error.recipients)
    return error.code if isinstance(error, aiosmtplib.SMTPResponseException) else None


def _is_about_the_mail(error: Exception) -> bool:
    """Whether another mail may fare better on the same connection."""
    refused = isinstance(error, aiosmtplib.SMTPRecipientsRefused | aiosmtplib.SMTPDataError | ValueError)
    return refused and _code(error) != 421  # 421: the server is about to hang up


async def _goodbye(smtp: aiosmtplib.SMTP) -> None:
    try:
        if smtp.is_connected:
            await smtp.quit()
    except (aiosmtplib.SMTPException, OSError):
        smtp.close()
