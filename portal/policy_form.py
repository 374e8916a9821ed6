"""The form of the policy page: what is typed into it, what is wrong with that, and what is kept of it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from portal import models
from portal.policy import (
    NOTICE_MOST,
    OFFER_KINDS,
    OFFER_LENGTH,
    REASON_LENGTH,
    REASONS_MOST,
    WHENS,
    CancelPolicy,
    offers_of,
)
from portal.texts import gettext as _

ADDRESS = re.compile(r"[^\s@,;:<>\"()\[\]\\]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
ANSWER_MOST = 30  # days


@dataclass(frozen=True, slots=True)
class Row:
    """A reason, and what is offered to who names it; `kind` "" where nothing is."""

    reason: str = ""
    kind: str = ""
    plan: str = ""
    text: str = ""

    @property
    def offer(self) -> str:
        """The choice as the form has it: "", "pause", "ask", or "plan:" with its title."""
        return f"{self.kind}:{self.plan}" if self.kind == "plan" else self.kind

    @property
    def empty(self) -> bool:
        return not (self.reason or self.kind or self.text)


@dataclass(frozen=True, slots=True)
class PolicyForm:
    """Everything as it is typed, so that nothing is lost where something is wrong."""

    when: str
    notice_days: str
    request_email: str
    request_days: str
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, site: models.Portal) -> "PolicyForm":
        policy = CancelPolicy.of(site.cancel_policy)
        offers = {one.reason: one for one in offers_of(site.save_offers, site.cancel_reasons or ())}
        rows = []
        for reason in site.cancel_reasons or ():
            offer = offers.get(reason)
            if offer is None:
                rows.append(Row(reason))
            else:
                rows.append(Row(reason, offer.kind, offer.plan or "", offer.text or ""))
        return cls(
            policy.when,
            str(policy.notice_days),
            site.request_email or "",
            str(site.request_days),
            tuple(rows),
        )

    @classmethod
    def typed(cls, fields: Mapping[str, Any]) -> "PolicyForm":
        def text(name: str, most: int = 300) -> str:
            return str(fields.get(name, "")).strip()[:most]

        def row(number: int) -> Row:
            kind, _colon, plan = text(f"offer_{number}").partition(":")
            return Row(text(f"reason_{number}"), kind, plan, text(f"text_{number}", 600))

        rows = [row(number) for number in range(1, REASONS_MOST + 1)]
        return cls(
            text("when"),
            text("notice_days"),
            text("request_email"),
            text("request_days"),
            tuple(row for row in rows if not row.empty),
        )

    def moved(self, wish: str) -> "PolicyForm":
        """With a row up, down or away, as one of the buttons beside it says ("up:2"); else as it is."""
        verb, _colon, number = wish.partition(":")
        rows = list(self.rows)
        at = int(number) - 1 if number.isascii() and number.isdigit() else -1
        if not 0 <= at < len(rows):
            return self
        row = rows.pop(at)
        if verb == "up":
            rows.insert(max(0, at - 1), row)
        elif verb == "down":
            rows.insert(at + 1, row)
        elif verb != "remove":
            return self
        return replace(self, rows=tuple(rows))

    def problems(self, plans: Collection[str]) -> dict[str, str]:
        """What is wrong, field by field; `plans` are the titles that can be offered."""
        found: dict[str, str] = {}
        if self.when not in WHENS:
            found["when"] = _("Choose when it may end.")
        if (days := whole(self.notice_days, 0, NOTICE_MOST)) is None:
            found["notice_days"] = _("Enter a whole number of days from 0 to {most}.").format(
                most=NOTICE_MOST
            )
        elif days and self.when != "period_end":
            found["notice_days"] = _(
                "Notice goes with “at the end of what is paid” alone. Choose that above, or enter 0."
            )
        seen: set[str] = set()
        for number, row in enumerate(self.rows, 1):
            found |= _wrong(row, number, seen, plans)
            seen.add(row.reason.casefold())
        if self.request_email and not ADDRESS.fullmatch(self.request_email):
            found["request_email"] = _("Enter an address such as help@example.com, or leave it empty.")
        if whole(self.request_days, 1, ANSWER_MOST) is None:
            found["request_days"] = _("Enter a whole number of days from 1 to {most}.").format(
                most=ANSWER_MOST
            )
        return found

    def columns(self) -> dict[str, Any]:
        """What is kept, of a form without problems."""
        offers = {
            row.reason: {
                "kind": row.kind,
                "plan": row.plan if row.kind == "plan" else None,
                "text": row.text or None,
            }
            for row in self.rows
            if row.kind
        }
        days = whole(self.notice_days, 0, NOTICE_MOST) or 0
        return {
            "cancel_policy": {"when": self.when, "notice_days": days},
            "cancel_reasons": [row.reason for row in self.rows],
            "save_offers": offers or None,
            "request_email": self.request_email or None,
            "request_days": int(self.request_days),
        }


def _wrong(row: Row, number: int, seen: set[str], plans: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if not row.reason:
        found[f"reason_{number}"] = _("Name the reason that this is offered for, or remove the row.")
    elif len(row.reason) > REASON_LENGTH or not row.reason.isprintable():
        found[f"reason_{number}"] = _("A reason has at most {most} characters, on one line.").format(
            most=REASON_LENGTH
        )
    elif row.reason.casefold() in seen:
        found[f"reason_{number}"] = _("This reason stands above already.")
    if row.kind not in ("", *OFFER_KINDS):
        found[f"offer_{number}"] = _("Choose what is offered.")
    if row.kind == "plan" and row.plan not in plans:
        found[f"offer_{number}"] = _("Choose one of your plans. They are listed under “Plans”.")
    if row.kind == "ask" and not row.text:
        found[f"text_{number}"] = _("Say what you offer; customers ask you for it by this sentence.")
    if len(row.text) > OFFER_LENGTH or any(not c.isprintable() for c in row.text):
        found[f"text_{number}"] = _("At most {most} characters, on one line.").format(most=OFFER_LENGTH)
    return found


def whole(text: str, least: int, most: int) -> int | None:
    """A whole number within its bounds; None where it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        return None
    return int(text) if least <= int(text) <= most else None
