"""Stripe's own pages, with real buttons that need no script: Checkout, portal, hosted invoice, receipt; and files."""

import html
from collections.abc import Mapping
from typing import Any

from seeds.simulators._stripe import billing, shapes
from seeds.simulators._stripe.books import Books
from seeds.simulators._stripe.wire import Json, amount_text, decline_sentence

PORTAL_LINK_LIVES_S = 300

# Test cards: brand, last four, words, decline code at saving, decline code at charging.
CARDS: dict[str, tuple[str, str, str | None, str | None]] = {
    "4242": ("visa", "Visa ending in 4242, works", None, None),
    "4444": ("mastercard", "Mastercard ending in 4444, works", None, None),
    "0341": ("visa", "Visa ending in 0341, can be saved, charges are declined", None, "generic_decline"),
    "0002": ("visa", "Visa ending in 0002, is declined", "generic_decline", "generic_decline"),
}

_CSS = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:2rem auto;padding:0 1rem;color:#1a1f36}"
    "fieldset{border:1px solid #697386;border-radius:.5rem;margin:1rem 0}label{display:block;padding:.4rem 0}"
    "button{font:inherit;padding:.6rem 1.2rem;margin:0 .5rem .5rem 0;border-radius:.4rem;border:1px solid #5046c8;"
    "background:#5046c8;color:#fff}button.quiet{background:#fff;color:#3a329c}"
    ".alert{border-left:.3rem solid #b3093c;padding:.5rem 1rem;background:#fff0f3}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem}td+td,th+th{text-align:right}"
    "footer{margin-top:2rem;color:#4f566b;font-size:.9rem}"
)


def document(title: str, body: str) -> str:
    """A whole page around a body; the title is also its heading."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_CSS}</style></head>'
        f"<body><main><h1>{_safe(title)}</h1>{body}</main>"
        "<footer>This page is a simulator of Stripe. No real card is asked for, no money moves.</footer>"
        "</body></html>"
    )


def note(title: str, sentence: str) -> str:
    return document(title, f"<p>{_safe(sentence)}</p>")


def card_form(title: str, intro: str, save: str, back: str | None, problem: str = "") -> str:
    """A page that asks for one of the test cards."""
    choices = "".join(
        f'<label><input type="radio" name="card" value="{last4}"{" checked" if last4 == "4242" else ""}> '
        f"{_safe(words)}</label>"
        for last4, (_, words, _, _) in CARDS.items()
    )
    alert = f'<p class="alert" role="alert">{_safe(problem)}</p>' if problem else ""
    refuse = '<button class="quiet" name="action" value="decline" data-test="decline">Let it fail</button>'
    leave = (
        f'<button class="quiet" name="action" value="back" data-test="back">{_safe(back)}</button>'
        if back is not None
        else ""
    )
    return document(
        title,
        f'{intro}{alert}<form method="post"><fieldset><legend>Card</legend>{choices}</fieldset>'
        f'<button name="action" value="save" data-test="accept">{_safe(save)}</button>{refuse}{leave}</form>',
    )


def chosen(form: Mapping[str, str]) -> str | None:
    """The card with which somebody goes on; one of the buttons takes the one that is declined. None: they do not."""
    return {"save": form.get("card", ""), "decline": "0002"}.get(form.get("action", ""))


def checkout_intro(books: Books, session: Json) -> str:
    shop = books.account["business_profile"]["name"]
    email = (session["customer_details"] or {}).get("email")
    whose = f" for {email}" if email else ""
    return f"<p>{_safe(shop)} would like to save a card{_safe(whose)} for later payments.</p>"


def portal_intro(books: Books, session: Json) -> str:
    shop = books.account["business_profile"]["name"]
    email = books.objects[session["customer"]]["email"] or "this customer"
    return f"<p>Update the payment method of {_safe(email)} at {_safe(shop)}.</p>"


def invoice_intro(invoice: Json) -> str:
    rows = "".join(
        f"<tr><td>{_safe(line['description'])}</td>"
        f"<td>{amount_text(line['amount'], invoice['currency'])}</td></tr>"
        for line in invoice["lines"]
    )
    total = amount_text(invoice["total"], invoice["currency"])
    due = amount_text(invoice["amount_remaining"], invoice["currency"])
    return (
        f"<p>Invoice {_safe(invoice['number'])}, status: {_safe(invoice['status'])}.</p>"
        f"<table><thead><tr><th>Description</th><th>Amount</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p>Total {total}. Amount due {due}.</p>"
    )


def receipt(charge: Json) -> str:
    card = charge["payment_method_details"]["card"]
    paid = amount_text(charge["amount_captured"], charge["currency"])
    back = charge["amount_refunded"]
    refunded = f" Refunded: {amount_text(back, charge['currency'])}." if back else ""
    return note(
        "Receipt",
        f"{paid} was paid by {card['brand']} ending in {card['last4']}.{refunded} Charge {charge['id']}.",
    )


# What the buttons do


def try_card(books: Books, last4: str) -> str | None:
    """Why a card can't be saved, as a sentence; None where it can."""
    if last4 not in CARDS:
        return "Choose a card."
    refused = "generic_decline" if books.simulator.mode == "decline" else CARDS[last4][2]
    return decline_sentence(refused) if refused else None


def new_card(books: Books, customer_id: str | None, last4: str) -> Json:
    """Keep a payment method of one of the test cards, attached where there is a customer."""
    brand, _, _, declines = CARDS[last4]
    owner = books.objects.get(customer_id or "", {})
    method = shapes.card_method(
        books.new_id("payment_method"),
        books.now,
        customer_id,
        {"brand": brand, "last4": last4, "exp_month": 12, "exp_year": 2034},
        shapes.billing_details(owner.get("email"), owner.get("name")),
        declines,
    )
    books.put(method)
    if customer_id:
        books.emit("payment_method.attached", method)
    return method


def complete_setup(books: Books, session: Json, last4: str) -> None:
    """Save a card in a setup session. The customer's default stays what it was: that is for the shop to change."""
    method = new_card(books, session["customer"], last4)
    intent = books.objects[session["setup_intent"]]
    books.change(intent, "setup_intent.succeeded", status="succeeded", payment_method=method["id"])
    books.change(session, "checkout.session.completed", status="complete")


def refuse_setup(books: Books, session: Json, sentence: str) -> None:
    """Tell of a card that could not be saved."""
    intent = books.objects[session["setup_intent"]]
    error = {
        "code": "card_declined",
        "decline_code": "generic_decline",
        "message": sentence,
        "type": "card_error",
    }
    intent["last_setup_error"] = error
    books.emit("setup_intent.setup_failed", intent)


def complete_portal(books: Books, session: Json, last4: str) -> None:
    """Save a card in the portal: it becomes the customer's default, and that of managed subscriptions."""
    customer = books.objects[session["customer"]]
    method = new_card(books, customer["id"], last4)
    settings = customer["invoice_settings"] | {"default_payment_method": method["id"]}
    books.change(customer, "customer.updated", invoice_settings=settings)
    for one in books.all("subscription"):
        if one["customer"] == customer["id"] and one["managed_payments"]["enabled"] and not one["ended_at"]:
            books.change(one, "customer.subscription.updated", default_payment_method=method["id"])
    session["_used"] = True


def pay_invoice(books: Books, invoice: Json, last4: str) -> str | None:
    """Pay an open invoice with a test card; a sentence where that does not work."""
    if last4 not in CARDS:
        return "Choose a card."
    refused = CARDS[last4][3] or ("generic_decline" if books.simulator.mode == "decline" else None)
    method = new_card(books, None if refused else invoice["customer"], last4)
    code = billing.collect(books, invoice, method, books.now)
    return decline_sentence(code) if code else None


# Files


def invoice_pdf(books: Books, invoice: Json) -> bytes:
    """The file of an invoice."""
    currency = invoice["currency"]
    lines = [
        f"Invoice {invoice['number']}",
        str(books.account["business_profile"]["name"]),
        f"Bill to: {invoice['customer_name'] or ''} {invoice['customer_email'] or ''}",
        f"Status: {invoice['status']}",
        *(f"{line['description']}: {amount_text(line['amount'], currency)}" for line in invoice["lines"]),
        f"Total: {amount_text(invoice['total'], currency)}",
        f"Amount paid: {amount_text(invoice['amount_paid'], currency)}",
    ]
    return pdf(lines)


def credit_note_pdf(books: Books, credit: Json) -> bytes:
    return pdf(
        [f"Credit note {credit['number']}", f"Total: {amount_text(credit['total'], credit['currency'])}"]
    )


def pdf(lines: list[str]) -> bytes:
    """One A4 page with these lines of text, in Helvetica."""
    shown = b"".join(b"(%s) Tj T*\n" % _pdf_text(line) for line in lines)
    content = b"BT /F1 12 Tf 18 TL 60 780 Td\n" + shown + b"ET"
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 5 0 R>>>>/Contents 4 0 R>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(body))
        body += b"%d 0 obj%s endobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + end


def _pdf_text(line: str) -> bytes:
    raw = line.encode("cp1252", "replace")
    return raw.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _safe(value: Any) -> str:
    return html.escape(str(value))
