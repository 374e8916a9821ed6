"""Our states, ways to pay and intervals in the customer's words, one table per language."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from markupsafe import Markup

from portal.texts import gettext, translations


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
    order: str  # one without number and name
    tabs: Mapping[str, str]
    card: Mapping[str, Markup]


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
        order=_("Order"),
        tabs={
            "orders": _("Orders"),
            "subscriptions": _("Subscriptions"),
            "upcoming": _("Upcoming payments"),
            "payments": _("Payment history"),
        },
        card=_card(locale),
    )


def _card(locale: str) -> Mapping[str, Markup]:
    """What a subscription's card says. `.format()` of these escapes what is put into them."""
    _ = translations(locale).gettext
    texts = {
        "untitled": _("Subscription"),
        "price": _("Price"),
        "next": _("Next payment"),
        "pays_with": _("Pays with"),
        "started": _("Started"),
        "open": _("Open now"),
        "price_every": _("{amount} {every}"),
        "pieces": _("{quantity} pieces"),
        "about": _("about {amount}"),
        "next_with": _("{amount} on {day}, with {method}"),
        "next_on": _("{amount} on {day}"),
        "no_next": _("None"),
        "unknown_amount": _("Amount not known yet"),
        "unknown_method": _("Not known yet"),
        "estimated": _("An estimate: the price may still change."),
        "merchant": _("Planned by {shop}."),
        # The one date of a card, by its state
        "renews": _("Renews"),
        "ends": _("Ends"),
        "ended": _("Ended"),
        "access": _("Access until"),
        "resumes": _("Resumes"),
        "retries": _("Next try"),
        "trial_ends": _("Trial ends"),
        # The buttons
        "cancel": _("Cancel subscription"),
        "cancel_today": _("Cancel today instead"),
        "undo_cancel": _("Keep subscription"),
        "update_payment_method": _("Update payment method"),
        "pause": _("Pause subscription"),
        "resume": _("Resume subscription"),
        "pay_now": _("Pay now"),
        "change_plan": _("Change plan"),
        # The same where the shop is asked to do it
        "to_cancel": _("Ask to cancel"),
        "to_undo_cancel": _("Ask to go on"),
        "to_update_payment_method": _("Ask to change the payment method"),
        "to_pause": _("Ask to pause"),
        "to_resume": _("Ask to resume"),
        "to_pay_now": _("Ask how to pay"),
        "to_change_plan": _("Ask for another plan"),
        "to_skip_next_payment": _("Ask to skip a payment"),
        # What is known besides
        "kept_access": _("Cancelled. You keep access until {day}."),
        "paused": _("Paused. No payments are taken until you resume it."),
        "stopped": _("The last payment failed, and {label} does not try again by itself."),
        "tries_again": _("The last payment failed. {label} tries again on {day}."),
        "failed": _("The last payment failed."),
        "visited": _("You were on {label}'s page at {time}; the next charge shows the new card."),
        "visited_on": _("You were on {label}'s page on {day} at {time}; the next charge shows the new card."),
        "change_on": _("From {day}:"),
        "change": _("From the next period:"),
        "change_price": _("{old} becomes {new}"),
        "change_to": _("Changes to {title}"),
        "change_pieces": _("{old} pieces become {new}"),
        # How the newest action stands
        "pending": _("Checking with {label} …"),
        "pending_more": _("You may leave this page; it goes on without you. Reference {reference}."),
        "late": _("This takes longer than usual. {shop} has been told."),
        "away": _("You went to {label}'s page at {time}. Nothing has changed yet."),
        "confirmed": _("{label} confirmed at {time}. Reference {reference}. A copy is in your mail."),
        "confirmed_on": _(
            "{label} confirmed on {day} at {time}. Reference {reference}. A copy is in your mail."
        ),
        "accepted": _("{label} accepted it at {time}. Reference {reference}. A copy is in your mail."),
        "accepted_on": _(
            "{label} accepted it on {day} at {time}. Reference {reference}. A copy is in your mail."
        ),
        "scheduled": _("It ends on {day}, and no more payments are taken. Reference {reference}."),
        "scheduled_later": _("It ends on {day}; until then payments go on. Reference {reference}."),
        "undone": _("It goes on as before. Reference {reference}."),
        "done_cancel": _("Cancelled."),
        "done_undo_cancel": _("Kept."),
        "done_update_payment_method": _("Payment method updated."),
        "done_pause": _("Paused."),
        "done_resume": _("Resumed."),
        "done_pay_now": _("Paid."),
        "done_change_plan": _("Plan changed."),
        "done_skip_next_payment": _("Next payment skipped."),
        "skip_next_payment": _("Skip next payment"),
        "lesser": _("Not possible here"),
        # What is asked of the merchant
        "ask_cancel": _("You asked {shop} to cancel this."),
        "ask_undo_cancel": _("You asked {shop} to let this go on."),
        "ask_update_payment_method": _("You asked {shop} to change the payment method."),
        "ask_pause": _("You asked {shop} to pause this."),
        "ask_resume": _("You asked {shop} to resume this."),
        "ask_pay_now": _("You asked {shop} for a way to pay."),
        "ask_change_plan": _("You asked {shop} for another plan."),
        "ask_skip_next_payment": _("You asked {shop} to skip a payment."),
        "ask_offer": _("You asked {shop} for what they offer."),
        "ask_open": _("{shop} answers by {day}; until then nothing has changed. Reference {reference}."),
        "ask_late": _(
            "{shop} wanted to answer by {day} and is late; we have reminded them. Reference {reference}."
        ),
        "ask_done": _("Done on {day}. Reference {reference}."),
        "ask_declined": _("{shop} declined on {day}: {answer} Reference {reference}."),
        "ask_withdrawn": _("You took it back on {day}. Reference {reference}."),
        "withdraw": _("Take back"),
        "not_cancel": _("Not cancelled; the subscription goes on."),
        "not_undo_cancel": _("Not kept; the subscription still ends."),
        "not_update_payment_method": _("The payment method was not changed."),
        "not_pause": _("Not paused; payments go on."),
        "not_resume": _("Not resumed; the subscription is still paused."),
        "not_pay_now": _("Nothing was paid."),
        "not_change_plan": _("The plan was not changed."),
        "not_skip_next_payment": _("The next payment was not skipped."),
    }
    return {name: Markup(text) for name, text in texts.items()}  # noqa: S704 (our own words)


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
    if not brand and not last4 and kind in ("card", "foreign_card"):
        return _("Card on file")  # there are processors that tell no more
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


def circumstance_words(name: str, value: object) -> str:
    """A circumstance of which the facts speak, as people say it: by UPI, while something is open."""
    _ = gettext
    if name == "due":
        return _("while something is open") if value else _("when nothing is open")
    if name == "token":
        return _("with a saved way to pay") if value else _("without a saved way to pay")
    if name == "method":
        return by_method().get(str(value)) or _("by {method}").format(method=str(value).replace("_", " "))
    return str(value).replace("_", " ")


def by_method() -> dict[str, str]:
    """Ways to pay, as they follow a state: active, by card."""
    _ = gettext
    return {
        "card": _("by card"),
        "foreign_card": _("by a foreign card"),
        "wallet": _("by wallet"),
        "bank_debit": _("by bank debit"),
        "emandate": _("by bank mandate"),
        "upi": _("by UPI"),
    }
