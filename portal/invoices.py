"""The document of a payment: the processor's own file where it has one, else ours, numbered and frozen once issued.

Ours is called a receipt until the merchant has entered what an invoice needs. Its words are frozen together with its
number, in one transaction; its bytes are made from those words alone and kept. So a crash in between loses nothing:
the next click makes the same document under the same number.
"""

import contextlib
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import anyio.to_thread
import structlog
from babel import Locale
from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, store
from portal.connect import open_gateway, simulator
from portal.db import Database
from portal.gateways import facts
from portal.gateways.base import Document, GatewayError, Ref
from portal.gateways.capabilities import Circumstances
from portal.ids import id_text
from portal.pdf import Press, Sheet
from portal.queries import DOCUMENTED
from portal.render import Format, environment
from portal.settings import Settings
from portal.sync import insert_once
from portal.tenancy import PortalView
from portal.texts import gettext as _
from portal.texts import translations
from portal.vault import Vault, VaultError

log = structlog.get_logger()

Kind = Literal["invoice", "receipt"]
RECEIPT_PREFIX = "REC-"
LINES = 200  # more than these are summed up in one
LETTERS = 200  # of one text; a name that fills a page is no name
LETTER = frozenset(["US", "CA", "MX", "PH", "PR", "CL", "CO", "CR", "DO", "GT", "HN", "NI", "PA", "SV", "VE"])
_CSS = Path(__file__).parent / "static" / "invoice.css"
_UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")


class Seller(Protocol):
    @property
    def can_invoice(self) -> bool: ...


def document_kind(portal: Seller) -> Kind:
    """What our document is called now: an invoice once the merchant has entered what one needs."""
    return "invoice" if portal.can_invoice else "receipt"


@dataclass(frozen=True, slots=True)
class Asked:
    """A payment whose document somebody may have, and where it may come from, best first."""

    payment: models.Payment
    account: models.Account
    invoice: models.Invoice | None  # the processor's, where it speaks of this payment
    kind: Kind
    sources: tuple[str, ...]  # of processor, page, ours; empty where the merchant has switched invoices off


def asked(db: Session, portal_id: int, customer_id: int, payment_id: int) -> Asked | None:
    """A payment of this customer in this portal; None for anybody else's."""
    payment, account = models.Payment, models.Account
    found = db.execute(
        select(payment, account, models.Portal)
        .join(
            account, (col(account.id) == payment.account_id) & (col(account.portal_id) == payment.portal_id)
        )
        .join(models.Portal, col(models.Portal.id) == payment.portal_id)
        .where(
            col(payment.portal_id) == portal_id,
            col(payment.customer_id) == customer_id,
            col(payment.id) == payment_id,
        )
    ).one_or_none()
    if found is None:
        return None
    row, of, portal = found
    return Asked(row, of, _their_invoice(db, row), document_kind(portal), _sources(row, of, portal))


def _their_invoice(db: Session, payment: models.Payment) -> models.Invoice | None:
    invoice = models.Invoice
    links = [col(invoice.payment_remote) == payment.remote_id]
    if payment.invoice_remote:
        links.append(col(invoice.remote_id) == payment.invoice_remote)
    found = [
        row
        for link in links  # each by its index: asked for together, SQLite takes neither
        for row in db.execute(
            select(invoice).where(
                col(invoice.portal_id) == payment.portal_id,
                col(invoice.account_id) == payment.account_id,
                or_(col(invoice.customer_id).is_(None), col(invoice.customer_id) == payment.customer_id),
                col(invoice.status).not_in(("draft", "void")),
                link,
            )
        ).scalars()
    ]
    return min(found, key=lambda row: (not row.document, row.id), default=None)


def _sources(payment: models.Payment, account: models.Account, portal: models.Portal) -> tuple[str, ...]:
    if "invoice" in (account.switched_off or ()):
        return ()
    offer = (
        facts(account.processor)
        .capabilities["invoice"]
        .under(
            Circumstances(
                state=payment.status,
                method=(payment.method or {}).get("kind"),
                variant=account.variant,
                option=frozenset(account.options or ()),
                country=portal.country,
                object=payment.object,
            )
        )
    )
    return tuple(offer.documents or ("ours",))


def why_not(wanted: Asked, portal: PortalView) -> str | None:
    """Why there is no document, as a sentence for the page; None where there is one."""
    payment = wanted.payment
    if payment.status not in DOCUMENTED or payment.amount_minor is None or payment.currency is None:
        if wanted.kind == "invoice":
            return _("There is an invoice once this payment has gone through.")
        return _("There is a receipt once this payment has gone through.")
    if not wanted.sources:
        return _("{shop} has switched this off. Write to {support}.").format(
            shop=portal.name, support=portal.support_email
        )
    return None


async def theirs(settings: Settings, vault: Vault, wanted: Asked) -> Document | str | None:
    """The processor's own file, fresh; or the address of its page; None where ours is what there is.

    A processor that is down, slow or has nothing does not keep anybody from a document: then it is ours too.
    """
    for source in wanted.sources:
        if source == "ours":
            return None
        if source == "page" and (page := _page(settings, wanted)):
            return page
        if source == "processor" and (document := await _file(settings, vault, wanted)):
            return document
    return None


def _page(settings: Settings, wanted: Asked) -> str | None:
    url = wanted.invoice.page_url if wanted.invoice else None
    stand_in = simulator(settings, wanted.account.processor)
    allowed = url and facts(wanted.account.processor).allows_link(url, {"": stand_in} if stand_in else None)
    return url if allowed else None


async def _file(settings: Settings, vault: Vault, wanted: Asked) -> Document | None:
    if wanted.invoice is None or not wanted.invoice.document:
        return None
    try:
        gateway = open_gateway(settings, vault, wanted.account)
        try:
            document = await gateway.invoice_document(Ref("invoice", wanted.invoice.remote_id))
        finally:
            await gateway.aclose()
    except (GatewayError, VaultError) as error:
        log.warning("no document from the processor", account=wanted.account.id, why=type(error).__name__)
        return None
    if document and document.content_type == "application/pdf" and document.content[:5] != b"%PDF-":
        log.warning("the processor's document is no PDF", account=wanted.account.id)
        return None
    return document


async def ours(
    database: Database, press: Press, wanted: Asked, place: store.Store | None = None
) -> Document | None:
    """Our own document: issued at the first click, the same bytes ever after.

    None where it was issued to somebody to whom this payment no longer belongs. Raises NotMade; StoreDown; Lost where
    its bytes are gone and what its words make now is not the same.
    """
    payment = wanted.payment
    assert payment.customer_id is not None
    whose = (payment.portal_id, payment.customer_id, payment.id)
    issued = await database.read(_issued, payment.portal_id, payment.id, wanted.kind)
    if issued is None:
        issued = await database.write(issue, *whose, wanted.kind, clock.now())
    if issued.customer_id != payment.customer_id:
        return None
    kept = Kept(issued.content, issued.sha256)
    made = None
    if kept.sha256 is None:
        made = await _made(database, press, issued)
        kept = await _keep(database, place, issued, made)
    if made is not None and kept.sha256 == hashlib.sha256(made).hexdigest():
        content = made
    else:
        content = await _read(database, press, place, issued, kept)
    return Document("application/pdf", f"{_title(issued.facts)}.pdf", content)


async def _made(database: Database, press: Press, issued: models.IssuedDocument) -> bytes:
    logo = await database.read(_logo, issued)
    return await press.make(await anyio.to_thread.run_sync(drawn, issued, logo))


async def _keep(
    database: Database, place: store.Store | None, issued: models.IssuedDocument, content: bytes
) -> "Kept":
    """Keep what was made, unless something is kept already; the object is there before the row says so."""
    sha256 = hashlib.sha256(content).hexdigest()
    if place is not None:
        await store.ask(store.put_bytes, place, _key(issued, sha256), content)
    return await database.write(keep, issued, sha256, content if place is None else None)


async def _read(
    database: Database, press: Press, place: store.Store | None, issued: models.IssuedDocument, kept: "Kept"
) -> bytes:
    """The bytes as they were issued. Where they are gone, what the frozen words make now, if it is the same."""
    assert kept.sha256 is not None
    key = _key(issued, kept.sha256)
    with contextlib.suppress(store.Lost):
        if kept.content is not None:
            return store.proved(kept.content, kept.sha256, key)
        if place is not None:
            return await store.ask(store.whole, place, key)
        log.error("a document lies in a store, and none is set", key=key)
    content = store.proved(await _made(database, press, issued), kept.sha256, key)
    with contextlib.suppress(store.StoreDown):  # the next one mends it then
        if place is not None:
            await store.ask(store.put_bytes, place, key, content)
        whose = issued.portal_id, issued.id, kept.sha256
        await database.write(set_content, *whose, content if place is None else None)
    return content


def _key(issued: models.IssuedDocument, sha256: str) -> str:
    return store.key_of("document", issued.portal_id, issued.id, sha256)


def issue(
    db: Session, portal_id: int, customer_id: int, payment_id: int, kind: Kind, now: datetime
) -> models.IssuedDocument:
    """The document of a payment with its number and its frozen words; a second call finds the first one's.

    The series has no gaps: whoever holds the counter's row is alone, and a number that is not used goes back with
    its transaction.
    """
    counter = _counter(db, portal_id, kind)
    found = _issued(db, portal_id, payment_id, kind)
    if found is not None:
        return found
    words = _frozen(db, portal_id, customer_id, payment_id)
    invoice_prefix = words.pop("invoice_prefix")
    prefix = invoice_prefix if kind == "invoice" else RECEIPT_PREFIX
    number = f"{prefix}{counter.next:05}"
    row = models.IssuedDocument(
        portal_id=portal_id,
        customer_id=customer_id,
        payment_id=payment_id,
        kind=kind,
        sequence=counter.next,
        number=number,
        facts=words | {"kind": kind, "number": number, "issued_at": now.isoformat()},
        issued_at=now,
    )
    counter.next += 1
    db.add(row)
    db.flush()
    return row


def _counter(db: Session, portal_id: int, kind: Kind) -> models.Counter:
    table = models.Counter.__table__  # type: ignore[attr-defined]
    insert_once(db, table, {"portal_id": portal_id, "name": kind, "next": 1})
    return db.get_one(models.Counter, (portal_id, kind), with_for_update=True)


def _issued(db: Session, portal_id: int, payment_id: int, kind: Kind) -> models.IssuedDocument | None:
    row = models.IssuedDocument
    return db.execute(
        select(row).where(
            col(row.portal_id) == portal_id, col(row.payment_id) == payment_id, col(row.kind) == kind
        )
    ).scalar_one_or_none()


class Kept(NamedTuple):
    """What a row holds of a document: its bytes, or only their hash where they are in the store."""

    content: bytes | None
    sha256: str | None


def keep(db: Session, issued: models.IssuedDocument, sha256: str, content: bytes | None) -> Kept:
    """Note what was made unless something is noted already; returns what is there now."""
    row = models.IssuedDocument
    here = (col(row.portal_id) == issued.portal_id, col(row.id) == issued.id)
    db.execute(update(row).where(*here, col(row.sha256).is_(None)).values(content=content, sha256=sha256))
    return Kept(*db.execute(select(col(row.content), col(row.sha256)).where(*here)).one())


def set_content(db: Session, portal_id: int, row_id: int, sha256: str, content: bytes | None) -> None:
    """The same bytes once more: in the row from now on, or (None) in the store."""
    row = models.IssuedDocument
    db.execute(
        update(row)
        .where(col(row.portal_id) == portal_id, col(row.id) == row_id, col(row.sha256) == sha256)
        .values(content=content)
    )


# The words of a document, as they are frozen: plain JSON, amounts in minor units of `currency`, moments in ISO 8601.


def _frozen(db: Session, portal_id: int, customer_id: int, payment_id: int) -> dict[str, Any]:
    portal = db.get_one(models.Portal, portal_id)
    payment = _one(db, models.Payment, portal_id, id=payment_id, customer_id=customer_id)
    buyer = _one(db, models.Customer, portal_id, id=customer_id)
    assert payment is not None
    assert buyer is not None
    order = payment.order_remote and _one(
        db, models.Order, portal_id, account_id=payment.account_id, remote_id=payment.order_remote
    )
    if order and order.customer_id not in (None, customer_id):
        order = None
    logo = portal.logo_id and _one(db, models.Asset, portal_id, id=portal.logo_id)
    words = {
        "locale": portal.locale,
        "time_zone": portal.time_zone,
        "paper": "letter" if (portal.country or "").upper() in LETTER else "A4",
        "invoice_prefix": portal.invoice_prefix,
        "logo": {"id": logo.id, "sha256": logo.sha256} if logo else None,
        "seller": {
            "name": portal.name,
            "legal_name": portal.legal_name,
            "address": portal.legal_address,
            "country": portal.country,
            "tax_id": portal.tax_id,
            "email": portal.support_email,
        },
        "buyer": {"name": buyer.name, "email": buyer.email},
        "references": {"order": order.number if order else None, "payment": payment.remote_id},
        "paid_at": payment.paid_at.isoformat() if payment.paid_at else None,
        "method": payment.method,
        "currency": payment.currency,
        "refunded": payment.refunded_minor or 0,
        **_sums(payment, order or None, _their_invoice(db, payment)),
    }
    clean: dict[str, Any] = _clean(words)
    return clean


def _one(db: Session, model: type[Any], portal_id: int, **where: Any) -> Any:
    conditions = [getattr(model, name) == value for name, value in where.items()]
    return db.execute(select(model).where(model.portal_id == portal_id, *conditions)).scalar_one_or_none()


def _sums(
    payment: models.Payment, order: models.Order | None, invoice: models.Invoice | None
) -> dict[str, Any]:
    """What was bought and what it comes to: by the order, else by the processor's invoice, else by the payment."""
    assert payment.amount_minor is not None
    known: list[tuple[models.Order | models.Invoice, int, int]] = []
    if order:
        known.append((order, order.tax_minor or 0, order.discount_minor or 0))
    if invoice:
        known.append((invoice, 0, 0))
    for source, tax, discount in known:
        if source.lines and all(line["currency"] == payment.currency for line in source.lines):
            total = payment.amount_minor if source.amount_minor is None else source.amount_minor
            return _added_up(source.lines, total, tax, discount, payment.amount_minor)
    only = {"name": payment.title or (order and order.title), "quantity": 1, "minor": payment.amount_minor}
    tax = (order.tax_minor or 0) if order and order.amount_minor == payment.amount_minor else 0
    return _added_up([only], payment.amount_minor, tax, 0, payment.amount_minor)


def _added_up(lines: list[dict[str, Any]], total: int, tax: int, discount: int, paid: int) -> dict[str, Any]:
    """Lines and named sums that add up to the total, whether the lines hold the tax or not."""
    subtotal = sum(line["minor"] for line in lines)
    rest = total - subtotal + discount
    if rest != tax and rest in (discount, discount + tax):  # the lines are what they cost after the discount
        rest, discount = rest - discount, 0
    tax_included = bool(tax) and rest != tax
    other = rest if tax_included else rest - tax
    sums: list[tuple[str, int]] = []
    if discount or other or (tax and not tax_included):
        sums.append(("subtotal", subtotal))
    if discount:
        sums.append(("discount", -discount))
    if other:
        sums.append(("other", other))
    if tax and not tax_included:
        sums.append(("tax", tax))
    if paid != total:
        sums.append(("order_total", total))
    shown, folded = (lines, []) if len(lines) <= LINES else (lines[: LINES - 1], lines[LINES - 1 :])
    return {
        "lines": [{name: line[name] for name in ("name", "quantity", "minor")} for line in shown],
        "more": {"count": len(folded), "minor": sum(line["minor"] for line in folded)} if folded else None,
        "sums": sums,
        "total": paid,
        "tax_included": tax if tax_included else 0,
    }


def _clean(value: Any) -> Any:
    """Texts without signs that cannot be seen or that turn the reading direction, and none without end."""
    if isinstance(value, str):
        return _UNSEEN.sub(" ", value.replace("\r\n", "\n"))[:LETTERS].strip()
    if isinstance(value, dict):
        return {name: _clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value


# From the frozen words to what is printed.


def drawn(issued: models.IssuedDocument, logo: bytes | None) -> Sheet:
    """The sheet of a document: the same words always give the same one."""
    words = issued.facts
    locale, seller = words["locale"], words["seller"]
    html = (
        environment(locale)
        .get_template("invoice.html")
        .render(
            document=words,
            title=_title(words),
            issued_at=datetime.fromisoformat(words["issued_at"]),
            paid_at=datetime.fromisoformat(words["paid_at"]) if words["paid_at"] else None,
            country=_country(seller["country"], locale),
            has_logo=logo is not None,
            format=Format(locale, words["time_zone"]),
        )
    )
    return Sheet(html, _CSS.read_text(), f"portal-{id_text(issued.id)}", logo)


def _title(words: dict[str, Any]) -> str:
    gettext = translations(words["locale"]).gettext
    form = gettext("Invoice {number}") if words["kind"] == "invoice" else gettext("Receipt {number}")
    return form.format(number=words["number"])


def _country(code: str | None, locale: str) -> str | None:
    return Locale.parse(locale, sep="-").territories.get(code.upper(), code) if code else None


def _logo(db: Session, issued: models.IssuedDocument) -> bytes | None:
    """The logo as it was when the document was issued; None where it is no longer kept."""
    wanted = issued.facts["logo"]
    logo = wanted and _one(db, models.Asset, issued.portal_id, id=wanted["id"], sha256=wanted["sha256"])
    return logo.content if logo else None
