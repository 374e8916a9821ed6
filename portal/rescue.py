"""Finding an order that was bought with a mistyped or forgotten address: what a receipt or a bank statement shows is
typed, and whoever typed it is told the same whatever is found. A match mails the address on the order, and nobody else;
where that mailbox is out of reach, the shop is asked. Nothing here answers a browser: the worker decides."""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import login, models, requests, search, sync
from portal.ids import id_text
from portal.jobs import enqueue
from portal.mail import one_address
from portal.money import exponent
from portal.texts import gettext as _

KIND = "find_order"  # of the request to the shop
PER_NETWORK = ((timedelta(minutes=15), 5), (timedelta(days=1), 20))
PER_BROWSER = ((timedelta(minutes=15), 5), (timedelta(days=1), 10))
PER_REFERENCE = (timedelta(days=1), 5)  # whoever asks for it: four digits are not to be tried out
PER_PORTAL = (timedelta(hours=1), 100)
PER_SUBJECT = (timedelta(days=1), 2)  # mails about one payment
PER_MAILBOX = (timedelta(days=1), 3)
TO_SHOP = ((timedelta(days=1), 3), (timedelta(days=1), 30))  # requests from one network, and to one shop
CANDIDATES = 20
DAYS = timedelta(days=4)  # a statement books later than a shop sells
TAKEN = frozenset({"paid", "authorized", "pending", "partially_refunded", "refunded", "disputed"})
KEEP = timedelta(days=2)  # longer than the longest limit looks back


# What is typed


@dataclass(frozen=True, slots=True)
class Typed:
    reference: str
    last4: str
    amount: str
    currency: str
    placed_on: date | None
    contact: str | None  # None: only the address on the order is mailed


def read(fields: Mapping[str, str]) -> tuple[dict[str, str], Typed | None]:
    """What is wrong with the form, field by field, as far as the form itself shows it; else what was typed."""
    problems: dict[str, str] = {}
    reference = normalized(fields.get("reference", ""))
    last4 = re.sub(r"[\s*•xX.-]", "", fields.get("last4", ""))
    amount = fields.get("amount", "").strip()
    currency = fields.get("currency", "").strip().upper()
    contact = fields.get("contact", "").strip()
    if not reference:
        problems["reference"] = _("Enter the number of the order, or the reference on your bank statement.")
    if not re.fullmatch(r"[0-9]{4}", last4, re.ASCII):
        problems["last4"] = _("Enter four digits, such as 4242.")
    if not readings(amount):
        problems["amount"] = _("Enter the amount with digits, such as 24.00.")
    if not re.fullmatch(r"[A-Z]{3}", currency, re.ASCII):
        problems["currency"] = _("Enter the three letters of the currency, such as USD.")
    placed_on: date | None = None
    if day := fields.get("date", "").strip():
        try:
            placed_on = date.fromisoformat(day)
        except ValueError:
            problems["date"] = _("Enter the day as year-month-day, such as 2026-11-12, or leave it empty.")
    asks_shop = fields.get("way") == "shop"
    if asks_shop and not _is_address(contact):
        problems["contact"] = _("Enter an address such as name@example.com, where you can be answered.")
    if problems:
        return problems, None
    where = contact.lower() if asks_shop else None
    return {}, Typed(reference, last4, amount[:40], currency, placed_on, where)


def normalized(text: str) -> str:
    """A number as it is compared: no blanks around it, no sign before it, one case."""
    plain = "".join(c for c in text if c.isprintable()).strip().removeprefix("#").strip()
    return plain.upper() if len(plain) <= 100 else ""


def readings(amount: str) -> frozenset[Decimal]:
    """What an amount may mean; its currency is asked for apart."""
    return search.read(amount).amounts


def _is_address(text: str) -> bool:
    try:
        one_address(text)
    except ValueError:
        return False
    return "." in text.rpartition("@")[2]


def ask(
    db: Session, portal_id: int, typed: Typed, browser: str, user_agent: str, network: str, now: datetime
) -> int:
    """Write down what was typed. The same statements whatever it is; the worker finds out."""
    row = models.OrderAsk(
        portal_id=portal_id,
        reference=typed.reference,
        last4=typed.last4,
        amount=typed.amount,
        currency=typed.currency,
        placed_on=typed.placed_on,
        contact=typed.contact,
        browser_hash=login.digest(browser),
        user_agent=user_agent[:200],
        network=network[:60],
        created_at=now,
    )
    db.add(row)
    db.flush()
    enqueue(db, "find_order", {"ask": row.id}, now, f"find_order:{row.id}")
    return row.id


# What the worker makes of it


def decide(db: Session, ask_id: int, now: datetime) -> None:
    """Look an order up, and mail the address on it; ask the shop where that was wished. Safe to run again."""
    asked = db.execute(
        select(models.OrderAsk).where(col(models.OrderAsk.id) == ask_id).with_for_update()
    ).scalar_one_or_none()
    if asked is None or asked.looked_at is not None:
        return
    asked.looked_at = now
    if _too_often(db, asked):
        return
    found = match(db, asked)
    if found is not None:
        asked.subject_id = found.id
        _mail(db, asked, found, now)
    if asked.contact is not None and not _too_often_to_shop(db, asked):
        _ask_shop(db, asked, found, now)


def _too_often(db: Session, asked: models.OrderAsk) -> bool:
    row = models.OrderAsk
    return (
        any(_many(db, asked, *one, col(row.network) == asked.network) for one in PER_NETWORK)
        or any(_many(db, asked, *one, col(row.browser_hash) == asked.browser_hash) for one in PER_BROWSER)
        or _many(db, asked, *PER_REFERENCE, col(row.reference) == asked.reference)
        or _many(db, asked, *PER_PORTAL)
    )


def _too_often_to_shop(db: Session, asked: models.OrderAsk) -> bool:
    row = models.OrderAsk
    to_shop, network = col(row.contact).is_not(None), col(row.network) == asked.network
    return _many(db, asked, *TO_SHOP[0], to_shop, network) or _many(db, asked, *TO_SHOP[1], to_shop)


def _many(db: Session, asked: models.OrderAsk, span: timedelta, most: int, *where: Any) -> bool:
    """Whether there were as many asks of a sort before this one as may be."""
    row = models.OrderAsk
    found = (
        select(col(row.id))
        .where(
            col(row.portal_id) == asked.portal_id,
            *where,
            col(row.created_at) > asked.created_at - span,
            col(row.created_at) <= asked.created_at,
            col(row.id) != asked.id,
        )
        .limit(most)
    )
    return db.execute(select(func.count()).select_from(found.subquery())).scalar_one() >= most


# Looking it up. Whatever is typed, the same statements run, each by an index.

_order: Any = models.Order.__table__  # type: ignore[attr-defined]
_payment: Any = models.Payment.__table__  # type: ignore[attr-defined]
_invoice: Any = models.Invoice.__table__  # type: ignore[attr-defined]
_issued: Any = models.IssuedDocument.__table__  # type: ignore[attr-defined]
_accounts: Any = bindparam("accounts", expanding=True)
_texts: Any = bindparam("texts", expanding=True)
_portal: Any = bindparam("portal")


def _newest(table: Any, *where: Any) -> Select[Any]:
    return select(table.c.account_id, table.c.remote_id).where(*where).limit(CANDIDATES)


ORDERS_BY_NUMBER = _newest(_order, _order.c.portal_id == _portal, _order.c.number.in_(_texts))
ORDERS_BY_REMOTE = _newest(_order, _order.c.account_id.in_(_accounts), _order.c.remote_id.in_(_texts))
INVOICED = (
    select(_invoice.c.payment_remote)
    .where(_invoice.c.portal_id == _portal, _invoice.c.number.in_(_texts))
    .limit(CANDIDATES)
)
ISSUED = (
    select(_issued.c.payment_id)
    .where(_issued.c.portal_id == _portal, _issued.c.number.in_(_texts))
    .limit(CANDIDATES)
)


def _payments(*where: Any) -> Select[Any]:
    return (
        select(_payment)
        .where(_payment.c.portal_id == _portal, *where)
        .order_by(_payment.c.placed_at.desc())
        .limit(CANDIDATES)
    )


PAYMENTS = {
    "remote": _payments(_payment.c.account_id.in_(_accounts), _payment.c.remote_id.in_(_texts)),
    "order": _payments(_payment.c.account_id.in_(_accounts), _payment.c.order_remote.in_(_texts)),
    "subscription": _payments(
        _payment.c.account_id.in_(_accounts), _payment.c.subscription_remote.in_(_texts)
    ),
    "id": _payments(_payment.c.id.in_(bindparam("ids", expanding=True))),
}


def match(db: Session, asked: models.OrderAsk) -> models.Payment | None:
    """The payment that all that was typed is true of; the newest where there are several."""
    texts = _forms(asked.reference)
    row = models.Account
    accounts = list(db.execute(select(col(row.id)).where(col(row.portal_id) == asked.portal_id)).scalars())
    values: dict[str, Any] = {"portal": asked.portal_id, "accounts": accounts, "texts": texts}
    orders = [
        one.remote_id
        for statement in (ORDERS_BY_NUMBER, ORDERS_BY_REMOTE)
        for one in db.execute(statement, values)
    ]
    invoiced = [remote for remote in db.execute(INVOICED, values).scalars() if remote]
    issued = list(db.execute(ISSUED, values).scalars())
    candidates: dict[int, Any] = {}
    for name, statement in PAYMENTS.items():
        more = {"remote": [*texts, *invoiced], "order": [*texts, *orders]}.get(name, texts)
        given = {**values, "texts": more, "ids": issued}
        candidates |= {one.id: one for one in db.execute(statement, given)}
    minors = _minors(asked)
    newest_first = sorted(candidates.values(), key=lambda one: one.placed_at, reverse=True)
    right = [one.id for one in newest_first if _is_right(one, asked, minors)]
    return db.get_one(models.Payment, right[0]) if right else None


def _forms(reference: str) -> list[str]:
    """Numbers are kept as the processor writes them: in capitals, in small letters, or as somebody types a mixture of
    both, which is then not found."""
    return list(dict.fromkeys((reference, reference.lower(), f"#{reference}")))


def _minors(asked: models.OrderAsk) -> frozenset[int]:
    found = set()
    for value in readings(asked.amount):
        minor = value.scaleb(exponent(asked.currency))
        if minor == minor.to_integral_value():
            found.add(int(minor))
    return frozenset(found)


def _is_right(payment: Any, asked: models.OrderAsk, minors: frozenset[int]) -> bool:
    """All of it, always compared to the end."""
    last4 = str((payment.method or {}).get("last4") or "")
    checks = [
        hmac.compare_digest(last4.encode().rjust(8), asked.last4.encode().rjust(8)),
        payment.currency == asked.currency,
        payment.amount_minor in minors,
        payment.status in TAKEN,
        asked.placed_on is None
        or abs((payment.paid_at or payment.placed_at).date() - asked.placed_on) <= DAYS,
    ]
    return all(checks)


# The mail to the address on the order


def _mail(db: Session, asked: models.OrderAsk, payment: models.Payment, now: datetime) -> None:
    """A link to the address that the order was bought with, as it is stored; no code, and nothing for this browser."""
    if payment.customer_id is None:
        return
    # Locked: two workers would both see the last mail that is still allowed.
    owner = select(models.Customer).where(col(models.Customer.id) == payment.customer_id).with_for_update()
    email = db.execute(owner).scalar_one().email
    about, (span, most) = models.OrderAsk, PER_SUBJECT
    told = select(func.count()).where(
        col(about.portal_id) == asked.portal_id,
        col(about.subject_id) == payment.id,
        col(about.created_at) > now - span,
        col(about.id) != asked.id,
    )
    if db.execute(told).scalar_one() >= most:
        return
    row = models.LoginRequest
    span, most = PER_MAILBOX
    sent = db.execute(
        select(func.count()).where(
            col(row.portal_id) == asked.portal_id,
            col(row.email) == email,
            col(row.purpose) == login.RESCUE,
            col(row.created_at) > now - span,
        )
    ).scalar_one()
    if sent >= most:
        return
    proof = row(
        portal_id=asked.portal_id,
        purpose=login.RESCUE,
        email=email,
        customer_id=payment.customer_id,
        browser_hash=asked.browser_hash,
        user_agent=asked.user_agent,
        network=asked.network,
        next_path=_page_of(db, payment),
        typed=False,
        created_at=asked.created_at,
        expires_at=now + login.LINK_LIFE,
    )
    db.add(proof)
    db.flush()
    payload = {"template": "order_found", "ask": proof.id, "payment": payment.id}
    if asked.contact is not None:
        payload["to_shop"] = True
    enqueue(db, "mail", payload, now, f"order_found:{asked.id}")


def order_of(db: Session, payment: models.Payment) -> models.Order | None:
    if payment.order_remote is None:
        return None
    row = models.Order
    return db.execute(
        select(row).where(
            col(row.account_id) == payment.account_id, col(row.remote_id) == payment.order_remote
        )
    ).scalar_one_or_none()


def _page_of(db: Session, payment: models.Payment) -> str:
    order = order_of(db, payment)
    if order is None or order.customer_id != payment.customer_id:
        return "/customers/payments"
    return f"/customers/orders/{id_text(order.id)}"


# The shop


def _ask_shop(db: Session, asked: models.OrderAsk, payment: models.Payment | None, now: datetime) -> None:
    """A tracked request, with an address that nobody has proved. What matches is for the shop to know alone."""
    order = order_of(db, payment) if payment is not None else None
    params = {
        "reference": asked.reference,
        "last4": asked.last4,
        "amount": asked.amount,
        "currency": asked.currency,
        "placed_on": asked.placed_on.isoformat() if asked.placed_on else None,
        "payment": id_text(payment.id) if payment is not None else None,
    }
    what = asked.reference
    if payment is not None:
        what = (order and (order.number or order.title)) or payment.title or asked.reference
    try:
        requests.ask(
            db,
            asked.portal_id,
            payment.account_id if payment is not None else None,
            None,
            payment.id if payment is not None else asked.id,
            KIND,
            what,
            now,
            params=params,
            contact=sync.normalized(asked.contact),
        )
    except requests.AlreadyAsked:
        return


def forget_old(db: Session, now: datetime) -> None:
    """Asks that no limit looks at any more."""
    row = models.OrderAsk
    db.execute(row.__table__.delete().where(col(row.created_at) <= now - KEEP))  # type: ignore[attr-defined]
