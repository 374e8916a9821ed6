"""What Adyen says, in our words: items of its webhooks, stored payment methods, and amounts in its units.

Pure. An item is read in a flat form that `kept` makes of it: clean texts by Adyen's own names.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from portal.gateways import base, wire
from portal.gateways.base import (
    BadSignature,
    CustomerRecord,
    Event,
    Failure,
    Method,
    OrderRecord,
    PaymentRecord,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.gateways.wire import Json, part, spoken, text
from portal.money import Money, exponent

PAYING, SAVING = "portal-pay-", "portal-method-"  # how our own references begin
# What an event that succeeded does to the payment, or the refund, that it is about.
FOLLOWED: dict[str, base.PaymentStatus] = {
    **dict.fromkeys(("CAPTURE", "CHARGEBACK_REVERSED", "PREARBITRATION_WON"), "paid"),
    **dict.fromkeys(("CHARGEBACK", "NOTIFICATION_OF_CHARGEBACK", "SECOND_CHARGEBACK"), "disputed"),
    **dict.fromkeys(("CANCELLATION", "TECHNICAL_CANCEL"), "cancelled"),
    "CAPTURE_FAILED": "failed",
    "EXPIRE": "expired",
}
REFUNDS: dict[str, base.RefundStatus] = {
    **dict.fromkeys(("REFUND", "REFUND_WITH_DATA"), "sent"),
    **dict.fromkeys(("REFUND_FAILED", "REFUNDED_REVERSED"), "failed"),
}
RESULTS: dict[str, base.PaymentStatus] = {
    **dict.fromkeys(("Authorised", "Success"), "paid"),
    **dict.fromkeys(("Refused", "Error"), "failed"),
    **dict.fromkeys(("Pending", "Received", "PresentToShopper", "PartiallyAuthorised"), "pending"),
    **dict.fromkeys(("RedirectShopper", "IdentifyShopper", "ChallengeShopper"), "pending"),
    "Cancelled": "cancelled",
}
LINKS: dict[str, base.OrderStatus] = {
    **dict.fromkeys(("active", "paymentPending"), "open"),
    **dict.fromkeys(("completed", "paid"), "paid"),
    "expired": "expired",
}
BRANDS = {
    "card": {"visa": "Visa", "mc": "Mastercard", "amex": "American Express", "maestro": "Maestro"}
    | {
        "bcmc": "Bancontact",
        "jcb": "JCB",
        "diners": "Diners Club",
        "discover": "Discover",
        "cup": "UnionPay",
    },
    "wallet": {"paypal": "PayPal", "applepay": "Apple Pay", "googlepay": "Google Pay"},
    "bank_debit": {"sepadirectdebit": "SEPA", "ach": "ACH", "directdebit_gb": "Bacs"},
}
KINDS = {name: (kind, brand) for kind, brands in BRANDS.items() for name, brand in brands.items()}
# What is kept of an item. Of its unsigned part, whom it is about stays only where the sender is proved.
FIELDS = (
    *("pspReference", "originalReference", "merchantReference", "eventCode", "success", "eventDate"),
    *("paymentMethod", "reason"),
)
SHOWN = ("cardSummary", "expiryDate", "modification.action", "refusalReasonRaw")
BELIEVED = (
    *("shopperReference", "shopperEmail", "shopperInteraction", "recurringProcessingModel"),
    *("tokenization.shopperReference", "tokenization.storedPaymentMethodId"),
    *("recurring.shopperReference", "recurring.recurringDetailReference"),
)


# The proof, and what is kept of what is proved


def items(said: Json) -> list[Json]:
    """The items of a standard webhook, one or more; BadSignature where there is none or one has another form."""
    listed = said.get("notificationItems")
    found = [part(one, "NotificationRequestItem") for one in listed] if isinstance(listed, list) else []
    if not found or not all(found):
        raise BadSignature("This is neither a standard webhook nor one about a stored payment method.")
    return found


def signed(item: Json) -> bytes:
    """The eight signed fields, joined by colons with nothing escaped.

    So a colon may stand in the merchant's reference alone: anywhere else, the same text could mean other fields.
    """
    amount = part(item, "amount")
    names = ("pspReference", "originalReference", "merchantAccountCode", "merchantReference")
    values = [item.get(name) for name in names]
    values += [amount.get("value"), amount.get("currency"), item.get("eventCode"), item.get("success")]
    words = ["" if value is None else value for value in values]
    if not all(isinstance(word, str | int) and not isinstance(word, bool) for word in words):
        raise BadSignature("A signed field is neither text nor a whole number.")
    if any(":" in str(word) for at, word in enumerate(words) if at != 3):
        raise BadSignature("A colon stands where no field has one.")
    return ":".join(map(str, words)).encode(errors="surrogatepass")


def kept(item: Json, origin: bool) -> dict[str, str]:
    """What is of use in an item; `origin` says whether the sender of the unsigned part is proved."""
    details, amount = part(item, "additionalData"), part(item, "amount")
    said = {name: item.get(name) for name in FIELDS}
    said |= {name: details.get(name) for name in (*SHOWN, *(BELIEVED if origin else ()))}
    said |= {"value": amount.get("value"), "currency": amount.get("currency")}
    words = {name: _clean(text(value) or "") for name, value in said.items()}
    return {name: word for name, word in words.items() if word not in ("", "null")}


def _clean(word: str) -> str:
    """Text that every database takes."""
    return word.replace("\0", "").encode(errors="replace").decode()[:256]


# Events


def event(item: Json) -> Event:
    """The event of a kept item. Of what is about nothing that we show, nothing is kept."""
    psp, code, name = item.get("pspReference", ""), _code(item), item.get("eventCode", "unknown")
    shopper, payment = shopper_of(item), payment_of(item)
    subject = Ref("payment", payment.remote_id) if payment else None
    nameless = is_about_subscription(item) and not _stored_id(item)  # then what our rows know decides
    if code == "RECURRING_CONTRACT" or (code == "AUTHORISATION" and not _money(item)):
        subject = Ref("subscription", shopper) if shopper else None
    elif shopper and nameless:
        subject = Ref("subscription", shopper)
    elif refund_of(item):
        subject = Ref("refund", psp)
    number = f"{psp}:{name}:{item.get('success', '')}"
    return Event(number, name, subject, wire.moment(item.get("eventDate")), item if subject else {})


def token_event(said: Json) -> Event:
    """The event of a notice about a stored method, which does not say whether a subscription uses it."""
    name, shopper = _clean(str(said.get("type"))), text(part(said, "data").get("shopperReference"))
    number = text(said.get("eventId")) or wire.digest(repr(said))
    subject = Ref("subscription", _clean(shopper)) if shopper else None
    return Event(f"{_clean(number)}:{name}", name, subject, wire.moment(said.get("createdAt")))


def _code(item: Json) -> str:
    """The event, with the classic cancel-or-refund told apart."""
    code = text(item.get("eventCode")) or ""
    told_apart = {"refund": "REFUND", "cancel": "CANCELLATION"}
    return told_apart.get(str(item.get("modification.action")), code) if code == "CANCEL_OR_REFUND" else code


def shopper_of(item: Json) -> str | None:
    names = ("shopperReference", "tokenization.shopperReference", "recurring.shopperReference")
    return next((found for name in names if (found := text(item.get(name)))), None)


def _stored_id(item: Json) -> str | None:
    names = ("tokenization.storedPaymentMethodId", "recurring.recurringDetailReference")
    return next((found for name in names if (found := text(item.get(name)))), None)


# Payments, orders, refunds


def told(item: Json, as_of: datetime, by_hand: Sequence[str]) -> Snapshot:
    """All that a kept item says; `by_hand` is how methods begin that are paid only when captured."""
    payment, order, refund = payment_of(item, by_hand), order_of(item), refund_of(item)
    tell = ""
    if payment and payment.status == "paid" and _is_ours(item):
        tell = f"The open amount of the shopperReference {shopper_of(item)} was paid at Adyen, with the reference"
        tell += f" {item['merchantReference']}. Settle it in your billing engine, so that it is not charged again."
    return Snapshot(
        as_of=as_of,
        tell=tell,
        orders=(order,) if order else (),
        payments=(payment,) if payment else (),
        refunds=(refund,) if refund else (),
    )


def _is_ours(item: Json) -> bool:
    return str(item.get("merchantReference")).startswith((PAYING, SAVING))


def payment_of(item: Json, by_hand: Sequence[str] = ("klarna",)) -> PaymentRecord | None:
    """The payment of an authorisation, or what a later event changes about it. Over nothing there is no payment."""
    code = _code(item)
    if code in FOLLOWED:
        return _followed(item, code)
    amount, psp, at = _money(item), text(item.get("pspReference")), wire.moment(item.get("eventDate"))
    if code != "AUTHORISATION" or not amount or not psp:
        return None
    ok = item.get("success") == "true"
    later = item.get("paymentMethod", "").lower().startswith(tuple(by_hand))
    status: base.PaymentStatus = "failed" if not ok else "authorized" if later else "paid"
    reason, order = item.get("reason", "Refused"), order_of(item)
    ongoing = item.get("recurringProcessingModel") == "Subscription" or _is_ours(item)
    return spoken(
        PaymentRecord,
        psp,
        status=status,
        raw_status="AUTHORISATION" if ok else "AUTHORISATION refused",
        amount=amount,
        created_at=at,
        paid_at=at if status == "paid" else None,
        email=item.get("shopperEmail"),
        customer=shopper_of(item),
        method=_paid_with(item),
        order=order.remote_id if order else None,
        subscription=shopper_of(item) if ongoing else None,
        failure=None if ok else Failure(item.get("refusalReasonRaw", reason), reason),
    )


def _followed(item: Json, code: str) -> PaymentRecord | None:
    """Of an authorisation that ran out, Adyen's own sample names no other reference than its own."""
    about = item.get("originalReference") or (item.get("pspReference") if code == "EXPIRE" else None)
    if not about:
        return None
    ok = item.get("success") == "true"
    return spoken(
        PaymentRecord,
        about,
        status=FOLLOWED[code] if ok else None,
        raw_status=code if ok else f"{code} refused",
        paid_at=wire.moment(item.get("eventDate")) if ok and code == "CAPTURE" else None,
    )


def order_of(item: Json) -> OrderRecord | None:
    """What the merchant's reference stands for, renewals and our own apart.

    A refusal leaves its state as it is: the next try has the same reference, and may have come before.
    """
    reference, amount = item.get("merchantReference"), _money(item)
    renewal = item.get("shopperInteraction") == "ContAuth" or _is_ours(item)
    if _code(item) != "AUTHORISATION" or not reference or not amount or renewal:
        return None
    return spoken(
        OrderRecord,
        reference,
        status="paid" if item.get("success") == "true" else None,
        number=reference,
        amount=amount,
        created_at=wire.moment(item.get("eventDate")),
        email=item.get("shopperEmail"),
        customer=shopper_of(item),
    )


def refund_of(item: Json) -> RefundRecord | None:
    code, psp, payment = _code(item), text(item.get("pspReference")), text(item.get("originalReference"))
    if code not in REFUNDS or not psp or not payment:
        return None
    status = REFUNDS[code] if item.get("success") == "true" else "failed"
    return spoken(
        RefundRecord,
        psp,
        payment=payment,
        status=status,
        raw_status=code,
        amount=_money(item),
        reason=item.get("reason") if status == "failed" else None,
        created_at=wire.moment(item.get("eventDate")) if code == "REFUND" else None,
    )


# Subscriptions


def is_about_subscription(item: Json) -> bool:
    """Whether the billing engine charged, or one of our own pages was used with success. A refusal of a shopper who
    was there is not: they have not begun, or try again."""
    ok, there = item.get("success") == "true", item.get("shopperInteraction") == "Ecommerce"
    charge = item.get("recurringProcessingModel") == "Subscription" and bool(_money(item))
    return _code(item) == "AUTHORISATION" and ((_is_ours(item) and ok) or (charge and (ok or not there)))


def charged(
    item: Json, shopper: str, methods: Sequence[Json] | None, over: bool = False
) -> SubscriptionRecord:
    """A subscription after a charge. `methods` are those stored now, None where nobody has asked.

    Where none is, it has ended if what was charged is one that is gone, or if our rows know it is `over`: a charge by
    mistake brings nothing back. Else the merchant charges without storing anything at Adyen.
    """
    token, amount, ok = _stored_id(item), _money(item), item.get("success") == "true"
    if not amount:
        return spoken(SubscriptionRecord, shopper, customer=shopper)
    ended = methods is not None and not methods and (token is not None or over)
    stored = next((method for method in methods or () if method["id"] == token), None)
    by_engine = not _is_ours(item)
    return spoken(
        SubscriptionRecord,
        shopper,
        also=("due",),
        customer=shopper,
        email=item.get("shopperEmail") if methods is None else None,
        status="cancelled" if ended else "active" if ok else "past_due",
        raw_status="nothing stored" if ended else "charged" if ok else "charge refused",
        due=None if ok or ended else amount,
        amount=amount if by_engine else None,
        method=(_method(stored) if stored else _paid_with(item)) if by_engine else None,
    )


def standing(shopper: str, methods: Sequence[Json], token: str | None, seen: bool) -> SubscriptionRecord:
    """A subscription by what is stored: ended where something was (`seen`) and nothing is. Whether its last charge
    went through cannot be seen there."""
    if not methods and seen:
        ended: dict[str, Any] = {"status": "cancelled", "raw_status": "nothing stored"}
        return spoken(SubscriptionRecord, shopper, also=("due",), customer=shopper, **ended)
    known = next((method for method in methods if method["id"] == token), None)
    if known is None and methods and (token or len(methods) == 1):
        known = newest(methods)
    method, raw = (_method(known) if known else None), ("stored" if methods else None)
    return spoken(SubscriptionRecord, shopper, customer=shopper, raw_status=raw, method=method)


def seen(shopper: str, methods: Sequence[Json], found: SubscriptionRecord, as_of: datetime) -> Snapshot:
    return Snapshot(as_of=as_of, customers=(customer_of(shopper, methods),), subscriptions=(found,))


def customer_of(shopper: str, methods: Sequence[Json]) -> CustomerRecord:
    email = next((email for method in methods if (email := text(method.get("shopperEmail")))), None)
    return spoken(CustomerRecord, shopper, email=email)


# Stored methods


def methods_of(said: Json) -> list[Json]:
    """The stored methods that can be charged without the shopper; one that can't is of no use to a subscription.

    Unavailable where one cannot be told from another: it must not count as gone.
    """
    listed = wire.objects(said.get("storedPaymentMethods", []))
    if not all(_is_id(one.get("id")) for one in listed):
        raise Unavailable(
            "Adyen does not answer at the moment.", "A stored payment method has no readable id."
        )
    return [one for one in listed if _is_for_charges(one)]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[A-Za-z0-9]{1,64}", value) is not None


def _is_for_charges(method: Json) -> bool:
    models = method.get("supportedRecurringProcessingModels")
    return (
        not isinstance(models, list)
        or not models
        or bool({"Subscription", "UnscheduledCardOnFile"} & {*models})
    )


def newest(methods: Sequence[Json]) -> Json:
    beginning = datetime.min.replace(tzinfo=UTC)
    return max(methods, key=lambda method: wire.moment(method.get("createdAt")) or beginning)


def _method(stored: Json) -> Method:
    kind, brand = _kind(text(stored.get("brand")) or text(stored.get("type")) or "")
    return Method(
        kind=kind,
        brand=brand,
        last4=wire.last4(stored.get("lastFour") or stored.get("iban")),
        expires=wire.expiry(stored.get("expiryMonth"), stored.get("expiryYear")),
        remote_id=stored["id"],
    )


def _paid_with(item: Json) -> Method | None:
    """The method of a payment. Where the account sends no card data, a card's reason is code:last4:MM/YYYY."""
    name, reason = item.get("paymentMethod"), item.get("reason", "")
    if not name:
        return None
    found = re.fullmatch(r"[^:]*:([0-9]{4}):([0-9]{1,2}/[0-9]{4})", reason)
    month, _, year = item.get("expiryDate", found[2] if found else "").partition("/")
    last4 = wire.last4(item.get("cardSummary") or (found[1] if found else None))
    kind, brand = _kind(name)
    return Method(kind, brand, last4, wire.expiry(month, year), _stored_id(item))


def _kind(name: str) -> tuple[str, str | None]:
    """Our word and the brand: a card in a wallet (visa_applepay) is that wallet, and what is unknown its own word."""
    name = name.lower().replace("paywithgoogle", "googlepay")
    wallet = KINDS.get(name.rpartition("_")[2])
    found = KINDS.get(name) or (wallet if wallet and wallet[0] == "wallet" else None)
    return found or (("card", None) if name in ("scheme", "card") else (name, None))


# Amounts


def _money(item: Json) -> Money | None:
    amount = part(item, "amount") or item
    return wire.minor(amount.get("value"), amount.get("currency"), facts("adyen").exponents)


def units(money: Money) -> int:
    """The amount in Adyen's minor units; Unsupported where they cannot say it (half a rupiah)."""
    shift = facts("adyen").exponents.get(money.currency, exponent(money.currency)) - exponent(money.currency)
    value = money.decimal.scaleb(exponent(money.currency) + shift)
    if value != value.to_integral_value():
        raise Unsupported(
            "This amount can't be paid here.", f"Adyen has no unit as small as {money.currency} needs."
        )
    return int(value)


# One object as the API shows it


def record(kind: base.Kind | Literal["event"], said: Mapping[str, Any]) -> base.Record | None:
    """Our record of a kept item, of a shopper's stored methods or one of them, of the answer to a payment or a
    refund, or of a payment link; None for what is no such thing."""
    shopper = shopper_of(said)
    match kind:
        case "payment":
            return payment_of(said) or _answered(said)
        case "order":
            return order_of(said) or _link(said)
        case "refund":
            return refund_of(said) or _asked_refund(said)
        case "customer" if shopper:
            email = text(said.get("shopperEmail"))
            return (
                spoken(CustomerRecord, shopper, email=email)
                if email
                else customer_of(shopper, methods_of(said))
            )
        case "subscription" if shopper and is_about_subscription(said):
            return charged(said, shopper, None)
        case "subscription" if shopper and ("storedPaymentMethods" in said or _is_id(said.get("id"))):
            listed = said if "storedPaymentMethods" in said else {"storedPaymentMethods": [said]}
            return standing(shopper, methods_of(listed), None, seen="storedPaymentMethods" in said)
    return None


def _answered(said: Json) -> PaymentRecord | None:
    psp, result = text(said.get("pspReference")), text(said.get("resultCode"))
    if not psp or not result:
        return None
    method, reason = part(said, "paymentMethod"), text(said.get("refusalReason"))
    kind, brand = _kind(text(method.get("brand")) or text(method.get("type")) or "")
    return spoken(
        PaymentRecord,
        psp,
        status=RESULTS.get(result),
        raw_status=result,
        amount=_money(said),
        order=text(said.get("merchantReference")),
        method=Method(kind, brand) if kind else None,
        failure=Failure(text(said.get("refusalReasonCode")) or reason, reason) if reason else None,
    )


def _asked_refund(said: Json) -> RefundRecord | None:
    psp, payment = text(said.get("pspReference")), text(said.get("paymentPspReference"))
    if not psp or not payment or said.get("status") != "received" or not _money(said):
        return None
    return spoken(
        RefundRecord, psp, payment=payment, status="pending", raw_status="received", amount=_money(said)
    )


def _link(said: Json) -> OrderRecord | None:
    reference, url, status = (text(said.get(name)) for name in ("reference", "url", "status"))
    if not reference or not url:
        return None
    return spoken(
        OrderRecord,
        reference,
        status=LINKS.get(status or ""),
        raw_status=status,
        number=reference,
        amount=_money(said),
        email=text(said.get("shopperEmail")),
        customer=shopper_of(said),
        due_link=url if status == "active" else None,
    )
