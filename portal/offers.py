"""What a customer may do with a subscription: `available` is the one function that draws the buttons and guards the
POSTs, and that says why where something is not to be had."""

from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from portal import models, policy
from portal.gateways import adapter, facts
from portal.gateways.capabilities import Capability, Circumstances, Key
from portal.policy import Notice
from portal.tenancy import PortalView
from portal.texts import gettext as _

# When a wish makes sense at all, by our word for the state.
SENSE: dict[Key, frozenset[str]] = {
    "update_payment_method": frozenset(
        {"incomplete", "trialing", "active", "past_due", "paused", "cancels_at_period_end"}
    ),
    "cancel_now": frozenset({"active", "trialing", "past_due", "paused", "cancels_at_period_end"}),
    "cancel_at_period_end": frozenset({"active", "trialing", "past_due", "paused"}),
    "undo_cancel": frozenset({"cancels_at_period_end"}),
    "pause": frozenset({"active"}),
    "resume": frozenset({"paused"}),
    "skip_next_payment": frozenset({"active"}),
    "change_plan": frozenset({"active", "trialing"}),
    "pay_now": frozenset({"past_due", "active", "incomplete", "cancels_at_period_end"}),
}
OURS = frozenset({"direct", "hosted", "emulated"})


@dataclass(frozen=True, slots=True)
class Offer:
    """What becomes of one wish here and now: taken (`ok`) in a mode, or `why` not."""

    key: Key
    mode: str
    how: str | None
    ok: bool
    why: str | None = None
    proof: str = "read_back"
    steps: tuple[str, ...] = ()  # guided: what to do at the processor, in the customer's language
    link: str | None = None
    plans: tuple[dict[str, Any], ...] = ()  # change_plan: what may be switched to
    notice: Notice | None = None  # a cancel that comes too late for the end of what is paid


def state_of(row: models.Subscription) -> str:
    """Our word for the state, our own scheduled cancel included."""
    if row.cancel_scheduled_at and row.status in ("active", "trialing", "past_due", "paused"):
        return "cancels_at_period_end"
    return row.status


def end_of_paid(row: models.Subscription) -> datetime | None:
    """Until when the customer has paid: the end of the period, or of the trial."""
    return row.current_period_end or row.trial_ends_at


def available(
    row: models.Subscription,
    account: models.Account,
    portal: PortalView,
    now: datetime,
    busy: bool = False,
    asked: frozenset[str] = frozenset(),
) -> dict[Key, Offer]:
    """Every wish that makes sense for this subscription, with its answer. `asked` are open requests to the merchant."""
    state = state_of(row)
    kept = state == "cancelled" and row.access_until is not None and row.access_until > now
    circumstances = circumstances_of(row, account, portal)
    offers = {}
    for key, states in SENSE.items():
        sensible = state in states or (key == "undo_cancel" and kept)
        if sensible and not (key == "pay_now" and not row.due_minor):
            offers[key] = _Asking(key, row, account, portal, circumstances, now).offer(busy, asked)
    return offers


def circumstances_of(row: models.Subscription, account: models.Account, portal: PortalView) -> Circumstances:
    """What the conditions of the facts are held against for this subscription."""
    return Circumstances(
        state=state_of(row),
        method=(row.method or {}).get("kind"),
        variant=account.variant,
        option=frozenset(account.options),
        country=portal.country,
        object=row.object,
        due=bool(row.due_minor),
        token=bool((row.method or {}).get("remote_id")),
    )


def way_back(
    row: models.Subscription, account: models.Account, portal: PortalView, cancel: Offer
) -> str | None:
    """How this cancel could be taken back before its end: schedule, direct, emulated or request; None: not at all."""
    if cancel.key != "cancel_at_period_end":
        return None
    kept = cancel.how == "keep"
    circumstances = Circumstances(
        state="cancelled" if kept else "cancels_at_period_end",
        method=(row.method or {}).get("kind"),
        variant=account.variant,
        option=frozenset(account.options),
        country=portal.country,
        object=row.object,
        token=bool((row.method or {}).get("remote_id")),
    )
    shape = facts(account.processor).capabilities["undo_cancel"].under(circumstances)
    if shape.how == "schedule":
        return "request" if kept else "schedule"
    return None if shape.mode in ("none", "guided") else shape.mode


@dataclass(frozen=True, slots=True)
class _Asking:
    """One wish, and everything that decides about it."""

    key: Key
    row: models.Subscription
    account: models.Account
    portal: PortalView
    circumstances: Circumstances
    now: datetime

    def offer(self, busy: bool, asked: frozenset[str]) -> Offer:
        shape, why = self._shape()
        if self.account.disconnected_at is not None:
            return self._no(shape, _("{shop} no longer uses {label} here. Write to {support}."))
        if why is not None:
            return Offer(self.key, shape.mode, shape.how, False, why)
        if self.key in self.account.switched_off:
            return self._no(shape, _("{shop} has switched this off. Write to {support}."))
        if shape.mode == "none":
            return self._no(shape, self._reason(shape))
        if (other := self.portal.cancel_policy.bars(self.key)) and self._stays(other, shape):
            return self._no(shape, self._not_wanted())
        if self.key in asked:
            return self._no(shape, _("You have asked {shop} for this."))
        if busy:
            return self._no(shape, _("Another change is still being checked with {label}."))
        plans = self._plans(shape) if self.key == "change_plan" else ()
        if self.key == "change_plan" and shape.mode in OURS and not plans:
            return self._no(shape, _("{shop} offers no other plan for this."))
        notice = self._notice()
        if notice is not None and not self._can_wait(shape, notice):
            return Offer(self.key, "request", None, True, notice=notice)
        return Offer(
            self.key,
            shape.mode,
            shape.how,
            True,
            proof=shape.proof or "read_back",
            steps=tuple(_(step) for step in shape.steps or ()) if shape.mode == "guided" else (),
            link=shape.link if shape.mode == "guided" else None,
            plans=plans,
            notice=notice,
        )

    def _stays(self, other: Key, shape: Capability) -> bool:
        """Whether the other way to cancel is there, so that this one may be kept from customers.

        A way that needs nobody's answer is not taken away for one that does.
        """
        if self.circumstances.state not in SENSE[other]:
            return self.circumstances.state == "cancels_at_period_end"  # it is cancelled already
        there, why = replace(self, key=other)._shape()
        if why is not None or there.mode == "none" or other in self.account.switched_off:
            return False
        return there.mode != "request" or shape.mode == "request"

    def _not_wanted(self) -> str:
        if self.key == "cancel_now":
            return _("At {shop} it ends at the end of what is paid, not earlier.")
        return _("At {shop} it ends on the day on which it is cancelled.")

    def _notice(self) -> Notice | None:
        """What the merchant's notice makes of a cancel today; it holds for what is paid, not for a trial."""
        if self.key != "cancel_at_period_end" or self.circumstances.state != "active":
            return None
        zone = ZoneInfo(self.portal.time_zone)
        row = self.row
        return policy.notice(
            self.portal.cancel_policy,
            _day(end_of_paid(row), zone),
            row.interval_unit,
            row.interval_count,
            _day(row.trial_ends_at or row.started_at, zone),
            self.now.astimezone(zone).date(),
        )

    def _can_wait(self, shape: Capability, notice: Notice) -> bool:
        """Whether a job of ours can end it later while it goes on until then: without that, the merchant is asked."""
        waits = shape.how == "schedule" and not adapter(self.account.processor).pauses_until_cancel
        return waits and notice.ends_on is not None

    def _shape(self) -> tuple[Capability, str | None]:
        """The capability as it stands for this one, and why it cannot be taken where our rows know better."""
        base = facts(self.account.processor).capabilities[self.key]
        shape = base.under(self.circumstances)
        if self.key == "undo_cancel" and shape.how == "schedule" and not self.row.cancel_scheduled_at:
            return base, None  # no job of ours is waiting any more
        unknown = end_of_paid(self.row) is None
        if self.key == "cancel_at_period_end" and shape.mode == "emulated" and unknown:
            return shape, self._say(_("{label} names no day until which this is paid; it can end today."))
        return shape, None

    def _no(self, shape: Capability, sentence: str) -> Offer:
        return Offer(self.key, shape.mode, shape.how, False, self._say(sentence))

    def _say(self, sentence: str) -> str:
        label = facts(self.account.processor).label
        return sentence.format(label=label, shop=self.portal.name, support=self.portal.support_email)

    def _reason(self, shape: Capability) -> str:
        """Why there is no such thing: the fact's own note where it was written for this case."""
        base = facts(self.account.processor).capabilities[self.key]
        if shape is not base and shape.note and shape.note != base.note:
            return _(shape.note).replace("{", "{{").replace("}", "}}")
        return {
            "update_payment_method": _("The payment method can't be changed at {label}."),
            "cancel_now": _("{label} can't end this today."),
            "cancel_at_period_end": _("{label} can't end this at the end of the paid time."),
            "undo_cancel": _("{label} can't take back a cancellation."),
            "pause": _("{label} can't pause this."),
            "resume": _("{label} can't resume this."),
            "skip_next_payment": _("{label} can't leave out a single payment."),
            "change_plan": _("{label} can't change the plan of a subscription."),
            "pay_now": _("{label} has no page on which this could be paid; it tries again by itself."),
        }[self.key]

    def _plans(self, shape: Capability) -> tuple[dict[str, Any], ...]:
        """The merchant's plans that differ from this one and that the processor can change to."""
        row = self.row
        found = []
        for plan in self.account.plans or ():
            changed = {
                "amount": plan["minor"] != row.amount_minor,
                "interval": (plan["unit"], plan["count"]) != (row.interval_unit, row.interval_count),
                "quantity": plan.get("quantity") not in (None, row.quantity),
            }
            fits = plan["currency"] == row.currency and any(changed.values())
            by_plan = bool(plan.get("plan")) and "plan" in (shape.changes or ())
            if fits and (
                by_plan or all(what in (shape.changes or ()) for what, is_so in changed.items() if is_so)
            ):
                found.append(plan)
        return tuple(found)


def _day(moment: datetime | None, zone: ZoneInfo) -> date | None:
    return moment.astimezone(zone).date() if moment else None


def order_can_be_paid(status: str, due_link: str | None, account: models.Account) -> bool:
    """Whether an open order has a page of the processor on which it can be paid now."""
    shape = (
        facts(account.processor)
        .capabilities["pay_now"]
        .under(Circumstances(variant=account.variant, option=frozenset(account.options), due=True))
    )
    off = "pay_now" in account.switched_off or account.disconnected_at is not None
    return status == "open" and bool(due_link) and shape.mode == "hosted" and not off
