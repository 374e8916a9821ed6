"""Our states, ways to pay and intervals in the customer's words, one table per language."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from portal.texts import translations


@dataclass(frozen=True, slots=True)
class Pill:
    """A state as people read it: a word or two, and the tone it is said in (ok, info, warn, bad, off)."""

    tone: str
    word: str


class Pills(dict[str, Pill]):
    """State -> pill. A state we have no word for yet is shown as it is spelt rather than not at all."""

    def __missing__(self, state: str) -> Pill:
        return Pill("off", state.replace("_", " ").capitalize())


@dataclass(frozen=True, slots=True)
class Words:
    """What lists say again and again, looked up once per language."""

    orders: Pills
    payments: Pills
    refunds: Pills
    subscriptions: Pills
    tabs: Mapping[str, str]


@cache
def words(locale: str) -> Words:
    """The words of one language."""
    _ = translations(locale).gettext
    return Words(
        orders=Pills(
            open=Pill("info", _("Open")),
            paid=Pill("ok", _("Paid")),
            partially_refunded=Pill("off", _("Partly refunded")),
            refunded=Pill("off", _("Refunded")),
            failed=Pill("bad", _("Payment failed")),
            cancelled=Pill("off", _("Cancelled")),
            expired=Pill("off", _("Expired")),
        ),
        payments=Pills(
            pending=Pill("info", _("Processing")),
            authorized=Pill("info", _("Reserved")),
            paid=Pill("ok", _("Paid")),
            partially_refunded=Pill("off", _("Partly refunded")),
            refunded=Pill("off", _("Refunded")),
            disputed=Pill("bad", _("Disputed")),
            failed=Pill("bad", _("Payment failed")),
            cancelled=Pill("off", _("Cancelled")),
            expired=Pill("off", _("Expired")),
        ),
        refunds=Pills(
            pending=Pill("info", _("Refund started")),
            sent=Pill("ok", _("Refund sent")),
            failed=Pill("bad", _("Refund failed")),
            cancelled=Pill("off", _("Refund cancelled")),
        ),
        subscriptions=Pills(
            incomplete=Pill("warn", _("Not started")),
            trialing=Pill("info", _("Trial")),
            active=Pill("ok", _("Active")),
            past_due=Pill("bad", _("Payment failed")),
            paused=Pill("off", _("Paused")),
            cancels_at_period_end=Pill("warn", _("Ending")),
            cancelled=Pill("off", _("Cancelled")),
            expired=Pill("off", _("Expired")),
        ),
        tabs={
            "orders": _("Orders"),
            "subscriptions": _("Subscriptions"),
            "upcoming": _("Upcoming payments"),
            "payments": _("Payment history"),
        },
    )


def method_text(method: Mapping[str, Any] | None, locale: str, expiry: bool = False) -> str | None:
    """How somebody pays: "Visa ending 4242", with "expires 09/2028" where that is asked for; None where unknown."""
    if not method:
        return None
    expires = method.get("expires") if expiry else None
    return _method_text(method.get("kind") or "", method.get("brand"), method.get("last4"), expires, locale)


@lru_cache(maxsize=4096)
def _method_text(kind: str, brand: str | None, last4: str | None, expires: str | None, locale: str) -> str:
    _ = translations(locale).gettext
    kinds = {
        "card": _("Card"),
        "foreign_card": _("Card"),
        "wallet": _("Wallet"),
        "bank_debit": _("Bank account"),
        "emandate": _("Bank account"),
        "upi": "UPI",
    }
    text = brand or kinds.get(kind) or kind.replace("_", " ").capitalize() or _("Unknown")
    if last4:
        text = _("{name} ending {digits}").format(name=text, digits=last4)
    if expires:
        year, month = expires.split("-")[:2]
        text = _("{method}, expires {month}/{year}").format(method=text, month=month, year=year)
    return text


@lru_cache(maxsize=1024)
def every(unit: str | None, count: int | None, locale: str) -> str:
    """How often: "every month", "every 3 months"; empty where there is no interval."""
    ngettext = translations(locale).ngettext
    n = count or 1
    texts = {
        "day": ngettext("every day", "every {n} days", n),
        "week": ngettext("every week", "every {n} weeks", n),
        "month": ngettext("every month", "every {n} months", n),
        "year": ngettext("every year", "every {n} years", n),
    }
    return texts.get(unit or "", "").format(n=n)
