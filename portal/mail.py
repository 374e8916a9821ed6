"""Mails: composed from one layout with their plain text beside it, sent over one connection a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiosmtplib
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from portal import clock, render
from portal.settings import Settings
from portal.tenancy import PortalView
from portal.texts import locale, translations

TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why a mail was not taken. `permanent`: asking again will not help."""

    error: str
    permanent: bool


def compose(
    settings: Settings, portal: PortalView, template: str, to: str, subject: str, context: Mapping[str, Any]
) -> EmailMessage:
    """A mail of a portal to one address: HTML from `mail/<template>.html`, text from `mail/<template>.txt`.

    ValueError where the address or a header could carry more than it should.
    """
    values = {
        "portal": portal,
        "to": to,
        "origin": settings.origin(portal.host),
        "subject": subject,
        "format": render.Format(portal.locale, portal.time_zone),
        **context,
    }
    token = locale.set(portal.locale)
    try:
        html = render.environment(portal.locale).get_template(f"mail/{template}.html").render(values)
        text = _plain(portal.locale).get_template(f"mail/{template}.txt").render(values)
    finally:
        locale.reset(token)
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = Address(_clean(portal.sender_name or portal.name), addr_spec=settings.mail_from)
    message["To"] = one_address(to)
    message["Reply-To"] = one_address(portal.support_email)
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = f"<{uuid4().hex}@{portal.host}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def one_address(text: str) -> Address:
    """Exactly one plain address; ValueError for lists, display names, quotes and what is not ASCII."""
    name, at, host = text.partition("@")
    plain = text.isascii() and text.isprintable() and not any(c in text for c in ' ,;<>"()[]\\:')
    if not (plain and at and name and host and "@" not in host and len(text) <= 254):
        raise ValueError("not one plain e-mail address")
    return Address(addr_spec=text)


def _clean(name: str) -> str:
    return "".join(c for c in name if c.isprintable())[:80]


@cache
def _plain(name: str) -> Environment:
    """For the plain text twins, where nothing is escaped because nothing is markup."""
    found = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    texts = translations(name)
    found.install_gettext_callables(texts.gettext, texts.ngettext, newstyle=False)  # type: ignore[attr-defined]
    return found


async def send_batch(
    settings: Settings, messages: Sequence[tuple[str, EmailMessage]]
) -> list[Outcome | None]:
    """Send each message to its one recipient over one connection; None where it was taken."""
    smtp = aiosmtplib.SMTP(
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        username=settings.smtp_username or None,
        password=settings.smtp_password.get_secret_value() or None,
        use_tls=settings.smtp_tls == "tls",
        start_tls=settings.smtp_tls == "starttls",
        timeout=TIMEOUT_S,
    )
    try:
        await smtp.connect()
    except (aiosmtplib.SMTPException, OSError) as error:
        return [Outcome(f"{type(error).__name__} on connecting", permanent=False)] * len(messages)
    outcomes: list[Outcome | None] = []
    try:
        for recipient, message in messages:
            outcomes.append(await _send(smtp, settings, recipient, message))
    finally:
        smtp.close()
    return outcomes


async def _send(
    smtp: aiosmtplib.SMTP, settings: Settings, recipient: str, message: EmailMessage
) -> Outcome | None:
    try:
        await smtp.send_message(message, sender=settings.mail_from, recipients=[recipient])
    except aiosmtplib.SMTPRecipientsRefused as refused:
        return Outcome("recipient refused", permanent=all(r.code >= 500 for r in refused.recipients))
    except aiosmtplib.SMTPResponseException as error:
        return Outcome(f"answered {error.code}", permanent=error.code >= 500)
    except (aiosmtplib.SMTPException, OSError) as error:
        return Outcome(type(error).__name__, permanent=False)
    return None
