"""The plans of an account that customers may switch to: what is typed of one, what is wrong with it, and how it is
kept. Amounts are typed in units of the currency and kept in minor ones."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babel import Locale

from portal import money
from portal.gateways import facts
from portal.gateways.capabilities import Capability
from portal.policy_form import whole
from portal.texts import gettext as _

UNITS = ("day", "week", "month", "year")
MOST = 50  # plans of an account
TITLE_LENGTH = 80
_PLAIN = re.compile(r"\d{1,12}(\.\d{1,4})?|\d{1,3}(,\d{3}){1,3}(\.\d{1,4})?", re.ASCII)
_CURRENCIES = frozenset(Locale("en").currencies)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a processor can change a subscription to, by its facts."""

    mode: str
    changes: frozenset[str]
    currencies: frozenset[str] | None  # None: any

    @property
    def by_itself(self) -> bool:
        """Whether the list is used at all: elsewhere customers ask for another plan in their own words."""
        return self.mode in ("direct", "hosted", "emulated")

    @property
    def needs_plan(self) -> bool:
        """Whether a plan has to be one of the processor's own."""
        return "amount" not in self.changes


def reach(processor: str) -> Reach:
    table = facts(processor)
    shapes: list[Capability] = table.capabilities["change_plan"].shapes()
    ours = [one for one in shapes if one.mode in ("direct", "hosted", "emulated")]
    best = ours[0] if ours else shapes[0]
    currencies = None if table.currencies == "any" else frozenset(table.currencies)
    return Reach(best.mode, frozenset(what for one in ours for what in one.changes or ()), currencies)


@dataclass(frozen=True, slots=True)
class PlanForm:
    """A plan as it is typed."""

    title: str = ""
    plan: str = ""
    amount: str = ""
    currency: str = ""
    count: str = "1"
    unit: str = "month"
    quantity: str = ""

    @classmethod
    def typed(cls, fields: Mapping[str, Any]) -> "PlanForm":
        def text(name: str) -> str:
            return str(fields.get(name, "")).strip()[:300]

        return cls(
            text("title"),
            text("plan"),
            text("amount"),
            text("currency").upper(),
            text("count"),
            text("unit"),
            text("quantity"),
        )

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "PlanForm":
        amount = money.Money(kept["minor"], kept["currency"]).decimal
        return cls(
            str(kept["title"]),
            str(kept.get("plan") or ""),
            f"{amount:.{money.exponent(kept['currency'])}f}",
            kept["currency"],
            str(kept["count"]),
            kept["unit"],
            str(kept.get("quantity") or ""),
        )

    def problems(self, there: Reach, others: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """What is wrong, field by field; `others` are the account's other plans."""
        found: dict[str, str] = {}
        if not self.title or len(self.title) > TITLE_LENGTH or not self.title.isprintable():
            found["title"] = _("Enter a name of at most {most} characters; customers read it.").format(
                most=TITLE_LENGTH
            )
        elif any(str(one["title"]).casefold() == self.title.casefold() for one in others):
            found["title"] = _("Another plan of this account has this name.")
        if self.plan and (len(self.plan) > 200 or not re.fullmatch(r"[\x21-\x7e]+", self.plan)):
            found["plan"] = _("Copy the plan's id from the processor; it has no spaces.")
        elif there.by_itself and there.needs_plan and not self.plan:
            found["plan"] = _("This processor changes to plans of its own only: enter the plan's id there.")
        found |= self._wrong_price(there)
        if whole(self.count, 1, 60) is None:
            found["count"] = _("Enter a whole number from 1 to 60.")
        if self.unit not in UNITS:
            found["unit"] = _("Choose days, weeks, months or years.")
        if self.quantity and whole(self.quantity, 1, 9999) is None:
            found["quantity"] = _("Enter a whole number from 1 to 9999, or leave it empty.")
        return found

    def _wrong_price(self, there: Reach) -> dict[str, str]:
        if self.currency not in _CURRENCIES:
            return {"currency": _("Enter the three letters of a currency, such as USD.")}
        if there.currencies is not None and self.currency not in there.currencies:
            names = ", ".join(sorted(there.currencies))
            return {"currency": _("This processor takes {currencies} only.").format(currencies=names)}
        try:
            minor_of(self.amount, self.currency)
        except ValueError as error:
            return {"amount": str(error)}
        return {}

    def kept(self) -> dict[str, Any]:
        """The plan as the account keeps it, of a form without problems."""
        return {
            "title": self.title,
            "plan": self.plan or None,
            "minor": minor_of(self.amount, self.currency),
            "currency": self.currency,
            "unit": self.unit,
            "count": int(self.count),
            "quantity": int(self.quantity) if self.quantity else None,
        }


def minor_of(text: str, currency: str) -> int:
    """An amount as a person types it, in minor units; ValueError says what is wrong.

    A comma may only part thousands: "24,00" would be read as 24 or as 2400, so it is not read at all.
    """
    digits = money.exponent(currency)
    example = money.Money(2400 * 10**digits // 100, currency).decimal if digits else 2400
    wrong = _("Enter the amount with a point before the decimals, such as {example}.").format(
        example=f"{example:.{digits}f}"
    )
    if not _PLAIN.fullmatch(text) or (digits == 3 and "," in text):
        raise ValueError(wrong)
    try:
        found = money.from_major(text, currency)
    except ValueError:
        raise ValueError(
            _("{currency} has {digits} decimals. {wrong}").format(
                currency=currency, digits=digits, wrong=wrong
            )
            if digits
            else _("{currency} has no decimals. Enter a whole amount, such as {example}.").format(
                currency=currency, example=example
            )
        ) from None
    if found.minor <= 0:
        raise ValueError(_("Enter an amount above zero."))
    return found.minor


def moved(kept: Sequence[Mapping[str, Any]], at: int, verb: str) -> list[dict[str, Any]]:
    """The list with one plan up, down or away; as it is where there is no such plan."""
    rows = [dict(one) for one in kept]
    if not 0 <= at < len(rows):
        return rows
    row = rows.pop(at)
    if verb == "up":
        rows.insert(max(0, at - 1), row)
    elif verb == "down":
        rows.insert(at + 1, row)
    elif verb != "remove":
        rows.insert(at, row)
    return rows
