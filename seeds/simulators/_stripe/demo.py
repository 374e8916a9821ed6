"""What demo and tests ask of every simulator: accounts, histories, subscriptions in a situation, and forgeries."""

import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from seeds.simulators._stripe import billing, pages
from seeds.simulators._stripe.books import Books, signature
from seeds.simulators._stripe.wire import Json
from seeds.simulators._stripe.world import Account
from seeds.simulators.harness import Delivery, Forgery, Sample, Situation, Standing

SAMPLES = [
    Sample(
        "Stripe",
        {"secret_key": "sk_test_MapleBooks000000000001", "webhook_secret": "whsec_MapleBooks000001"},
    ),
    Sample(
        "Stripe, a stranger's",
        {"secret_key": "sk_test_FjordTea00000000000001", "webhook_secret": "whsec_FjordTea00000001"},
    ),
    Sample(
        "Stripe, a restricted key",
        {
            "secret_key": "rk_test_MapleBooksPortal000001",
            "webhook_secret": "whsec_MapleBooksPortal2",
            "webhook_secret_old": "whsec_MapleBooksPortal1",
        },
    ),
]
# What the restricted key may do; what it may write it may read too.
PERMISSIONS = {
    *("customer_write", "subscription_write", "invoice_write", "checkout_session_write"),
    *("customer_portal_write", "charge_read", "payment_method_read", "setup_intent_read"),
    *("product_read", "plan_read", "payment_intent_read"),
}
CATALOGUE = {
    "Book box": (2400, "month"),
    "Large book box": (3600, "month"),
    "Book box, once a year": (24000, "year"),
}
SORTS = (None, "managed_payments", "schedule")


def furnish(shop: Account) -> None:
    """What a merchant has set up before the first customer comes: a catalogue, and the portal's settings."""
    prices = {
        name: shop.price(shop.product(name), minor, "usd", "year" if unit == "year" else "month")
        for name, (minor, unit) in CATALOGUE.items()
    }
    shop.books.state["catalogue"] = prices
    shop.portal_configuration()


def _price(shop: Account, name: str = "Book box") -> str:
    return str(shop.books.state["catalogue"][name])


def plans(shop: Account) -> list[Json]:
    """What customers may switch to from the plan on which `stage` puts them."""
    return [
        {
            "title": name,
            "plan": _price(shop, name),
            "minor": minor,
            "currency": "USD",
            "unit": unit,
            "count": 1,
        }
        for name, (minor, unit) in list(CATALOGUE.items())[1:]
    ]


# A history


def fill(shop: Account, now: datetime) -> None:
    """Two people: noor, with one of the usual things each, and somebody who has met everything."""

    def ago(days: float) -> datetime:
        return now - timedelta(days=days)

    noor = shop.customer("noor@example.com", "Noor Novak", ago(120))
    visa = shop.card(noor)
    shop.subscription(noor, _price(shop), ago(65), visa)
    shop.order(noor, [("Atlas of remote islands", 1, 4200)], ago(20), "usd", visa, invoice=True)

    mine = shop.customer("stripe@example.com", "Sol Strand", ago(500))
    card = shop.card(mine, "mastercard", "5454", 6, now.year + 1)
    _subscriptions(shop, mine, card, ago)
    _orders(shop, mine, card, ago)
    twin = shop.customer("Stripe@Example.com", "Sol Strand", ago(3))  # the same person, without a card
    shop.subscription(twin, _price(shop, "Large book box"), ago(0.2))
    shop.subscription(twin, _price(shop), ago(3))


def _subscriptions(shop: Account, mine: str, card: str, ago: Callable[[float], datetime]) -> None:
    """One of every state; the two that never began are the twin's."""
    box, yearly = _price(shop), _price(shop, "Book box, once a year")
    yen = shop.price(shop.product("Manga of the month"), 1800, "jpy")
    dinar = shop.price(shop.product("Poetry quarterly"), 12500, "kwd", "month", 3)
    shop.subscription(mine, box, ago(95), card, quantity=2)
    shop.subscription(mine, yen, ago(40), card)
    shop.subscription(mine, yearly, ago(4), card, trial_days=14)
    poor = shop.card(mine, "visa", "0341", declines="insufficient_funds")
    shop.fail_renewal(shop.subscription(mine, box, ago(50), poor))
    shop.pause_collection(shop.subscription(mine, dinar, ago(130), card))
    shop.subscription(mine, box, ago(72), card, cancel_at_period_end=True)
    by_date = shop.subscription(mine, yearly, ago(200), card, flexible=True)
    shop.cancel_at(by_date, ago(-30))
    shop.cancel(shop.subscription(mine, box, ago(250), card), ago(100))
    shop.schedule(shop.subscription(mine, yearly, ago(300), card))
    shop.subscription(mine, box, ago(15), card, managed=True)


def _orders(shop: Account, mine: str, card: str, ago: Callable[[float], datetime]) -> None:
    def sold(name: str, minor: int, days: float, currency: str = "usd", **more: Any) -> str:
        return shop.charge_of(shop.order(mine, [(name, 1, minor)], ago(days), currency, card, **more))

    sold("Reading lamp", 5900, 80, tax=590)
    shop.refund(sold("Bookends, walnut", 4800, 70), 1800, ago(60))
    shop.refund(sold("Globe", 15900, 55), 15900, ago(50))
    shop.refund(sold("Magnifier", 2500, 9), 2500, ago(1), status="pending")
    shop.dispute(sold("First edition", 84000, 45), ago(30))
    sold("Letter opener", 3100, 2, captured=False)
    sold("Calligraphy set", 12750, 33, "kwd")
    shop.guest_order("stripe@example.com", [("Gift wrap", 3, 250)], ago(12), "eur")


# One subscription in a situation


def stage(shop: Account, email: str, situation: Situation, now: datetime) -> str | None:
    """Cards alone are kept here; a subscription that never began has none, and something open."""
    state = situation.state
    begun = state not in ("incomplete", "expired")
    open_now = state in ("past_due", "incomplete")
    if state not in _STATES or situation.object not in SORTS or situation.method not in (None, "card"):
        return None
    if situation.due not in (None, open_now) or situation.token not in (None, begun):
        return None
    if situation.object is not None and not begun:
        return None
    one_id = _STATES[state](shop, email, now, managed=situation.object == "managed_payments")
    if situation.object == "schedule":
        shop.schedule(one_id)
    books = shop.books
    books.emit("customer.subscription.updated", books.objects[one_id])
    return one_id


def _subscribed(
    shop: Account, email: str, now: datetime, days: float = 40, card: str = "good", **more: Any
) -> str:
    """A subscription that began so many days ago, of a customer with a card or without."""
    began = now - timedelta(days=days)
    customer = shop.customer(email, email.partition("@")[0].title(), began)
    if card != "none":
        shop.card(customer, declines=card == "poor")
    return shop.subscription(customer, _price(shop), began, **more)


def _past_due(shop: Account, email: str, now: datetime, **more: Any) -> str:
    one_id = _subscribed(shop, email, now, card="poor", **more)
    shop.fail_renewal(one_id)
    return one_id


def _paused(shop: Account, email: str, now: datetime, **more: Any) -> str:
    one_id = _subscribed(shop, email, now, **more)
    shop.pause_collection(one_id)
    return one_id


def _cancelled(shop: Account, email: str, now: datetime, **more: Any) -> str:
    one_id = _subscribed(shop, email, now, **more)
    shop.cancel(one_id)
    return one_id


_STATES: dict[str, Callable[..., str]] = {
    "active": _subscribed,
    "trialing": partial(_subscribed, days=4, trial_days=14),
    "past_due": _past_due,
    "paused": _paused,
    "cancels_at_period_end": partial(_subscribed, cancel_at_period_end=True),
    "cancelled": _cancelled,
    "incomplete": partial(_subscribed, days=0.1, card="none"),
    "expired": partial(_subscribed, days=2, card="none"),
}


def standing(books: Books, one: Json) -> Standing:
    """How a subscription stands, told by the books."""
    goes_on = one["status"] in ("active", "trialing", "past_due") and one["cancel_at"] is None
    charges = goes_on and not one["pause_collection"]
    method = billing.method_for(books, one)
    end = datetime.fromtimestamp(billing.period_of(one)[1], UTC).date()
    paid = [invoice for invoice in billing.invoices_of(books, one) if invoice["status"] == "paid"]
    return Standing(
        raw=one["status"],
        charges=charges,
        next_on=end if charges else None,
        method=method["id"] if method else None,
        payments=len([invoice for invoice in paid if invoice["amount_paid"]]),
        amount=sum(item["price"]["unit_amount"] * item["quantity"] for item in one["items"]),
    )


def charge(books: Books, one: Json, succeeds: bool) -> None:
    """What is open, else the next period, as if its day had come; of what has ended, one period more by mistake."""
    method = billing.method_for(books, one) or pages.new_card(books, one["customer"], "4242")
    kept, method["_declines"] = method["_declines"], None if succeeds else "insufficient_funds"
    waiting = [invoice for invoice in billing.invoices_of(books, one) if invoice["status"] == "open"]
    if one["status"] in ("canceled", "incomplete_expired"):
        lines = [billing.cycle_line(books, item) for item in one["items"]]
        invoice = billing.draft(books, one, lines, books.now, "subscription_cycle")
        billing.finalize(books, invoice, books.now)
        billing.collect(books, invoice, method, books.now)
    elif waiting:
        billing.collect(books, waiting[-1], method, books.now)
    else:
        billing.fall_due(books, one)
    method["_declines"] = kept


# Proofs

HEADER = "Stripe-Signature"


def with_proof(delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
    rest = [(name, value) for name, value in delivery.headers.items() if name != HEADER]
    return [*rest, *((HEADER, proof) for proof in proofs)], delivery.body


def forgeries(sample: Sample, delivery: Delivery, now: datetime) -> list[Forgery]:
    """Signatures made by another rule, with another secret, or for another time."""
    secret, body, at = str(sample.credentials["webhook_secret"]), delivery.body, int(now.timestamp())
    good = signature(secret, body, at).partition("v1=")[2]
    others = {
        "too old": signature(secret, body, at - 301),
        "from the future": signature(secret, body, at + 330),
        "of another secret": signature(f"{secret}x", body, at),
        "of the secret without its prefix": signature(secret.removeprefix("whsec_"), body, at),
        "of the empty secret": signature("", body, at),
        "of the body alone": f"t={at},v1={hmac.new(secret.encode(), body, 'sha256').hexdigest()}",
        "with SHA-512": f"t={at},v1={hmac.new(secret.encode(), f'{at}.'.encode() + body, 'sha512').hexdigest()}",
        "a hash without a secret": f"t={at},v1={hashlib.sha256(f'{at}.'.encode() + body).hexdigest()}",
        "under the scheme v0": f"t={at},v0={good}",
        "under the scheme v2": f"t={at},v2={good}",
        "without a time": f"v1={good}",
        "with two times": f"t={at},t={at},v1={good}",
        "with another time": f"t={at + 1},v1={good}",
        "in capitals": f"t={at},v1={good.upper()}",
        "two, both wrong": f"t={at},v1={'0' * 64},v1={'f' * 64}",
    }
    return [Forgery(what, *with_proof(delivery, [proof])) for what, proof in others.items()]
