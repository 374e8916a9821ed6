"""Documents and their pieces, words and days, and what no template may hold."""

import re
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po
from starlette.requests import Request

from portal import render
from portal.gateways import base
from portal.render import Format, formats
from portal.words import Pill, every, method_text, words

PORTAL = Path(render.__file__).parent
TEMPLATES = sorted([*PORTAL.glob("templates/*.html"), *PORTAL.glob("partials/*.html")])
PAGES = [path for path in TEMPLATES if path.name not in ("demo_mailbox.html", "invoice.html")]


def make_request(**headers: str) -> Request:
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "state": {},
        }
    )
    request.state.portal = SimpleNamespace(
        name="Acme",
        locale="en",
        time_zone="UTC",
        brand=(),
        logo=None,
        support_email="help@acme.example",
        terms_url=None,
        privacy_url=None,
    )
    request.state.customer = None
    return request


# The words


@pytest.mark.parametrize(
    ("pills", "states"),
    [
        ("orders", base.OrderStatus),
        ("payments", base.PaymentStatus),
        ("refunds", base.RefundStatus),
        ("subscriptions", base.SubscriptionStatus),
    ],
)
def test_every_state_has_a_word_and_a_tone(pills: str, states: Any) -> None:
    table: dict[str, Pill] = getattr(words("en"), pills)
    assert set(table) == set(get_args(states))
    for pill in table.values():
        assert pill.tone in ("ok", "info", "warn", "bad", "off")
        assert 1 <= len(pill.word.split()) <= 2


def test_an_unknown_state_is_shown_as_it_is_spelt() -> None:
    assert words("en").orders["on_hold"] == Pill("off", "On hold")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (None, None),
        ({}, None),
        ({"kind": "card", "brand": "Visa", "last4": "4242", "expires": "2028-09"}, "Visa ending 4242"),
        ({"kind": "foreign_card", "last4": "4242"}, "Card ending 4242"),
        ({"kind": "bank_debit", "last4": "3000"}, "Bank account ending 3000"),
        ({"kind": "upi"}, "UPI"),
        ({"kind": "carrier_billing"}, "Carrier billing"),
        ({"kind": ""}, "Unknown"),
    ],
)
def test_ways_to_pay(method: dict[str, Any] | None, text: str | None) -> None:
    assert method_text(method, "en") == text


def test_when_a_card_expires_is_said_where_it_is_asked_for() -> None:
    method = {"kind": "card", "brand": "Visa", "last4": "4242", "expires": "2028-09"}
    assert method_text(method, "en", expiry=True) == "Visa ending 4242, expires 09/2028"


@pytest.mark.parametrize(
    ("unit", "count", "text"),
    [
        ("month", 1, "every month"),
        ("month", 3, "every 3 months"),
        ("week", 2, "every 2 weeks"),
        ("day", 1, "every day"),
        ("year", None, "every year"),
        (None, None, ""),
    ],
)
def test_intervals_in_words(unit: str | None, count: int | None, text: str) -> None:
    assert every(unit, count, "en") == text


# Days and times


def test_days_are_those_of_the_portals_zone() -> None:
    late = datetime(2026, 12, 11, 23, 30, tzinfo=UTC)
    assert formats("en", "UTC").day(late) == '<time datetime="2026-12-11">11 Dec 2026</time>'
    assert formats("en", "Europe/Berlin").day(late) == '<time datetime="2026-12-12">12 Dec 2026</time>'
    assert formats("en", "Europe/Berlin").day_text(date(2026, 12, 11)) == "11 Dec 2026"


@pytest.mark.parametrize(
    ("locale", "text"), [("en", "5 Mar 2027"), ("de", "5. März 2027"), ("fr", "5 mars 2027")]
)
def test_months_are_letters_in_every_language(locale: str, text: str) -> None:
    assert Format(locale, "UTC").day_text(date(2027, 3, 5)) == text


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        ("Europe/Berlin", "14:02\u00a0CET"),
        ("Asia/Kolkata", "18:32\u00a0IST"),
        ("Asia/Kathmandu", "18:47\u00a0GMT+05:45"),
        ("America/Sao_Paulo", "10:02\u00a0GMT-03"),
        ("UTC", "13:02\u00a0UTC"),
    ],
)
def test_times_carry_their_zone(zone: str, text: str) -> None:
    assert f">{text}</time>" in Format("en", zone).time(datetime(2026, 12, 1, 13, 2, tzinfo=UTC))


def test_an_amount_is_kept_apart_from_its_sentence() -> None:
    assert Format("en", "UTC").amount(-2400, "USD", True) == "<bdi>−$24.00\u00a0USD</bdi>"


# Documents and pieces


def test_a_document_stands_in_no_other_and_says_what_it_varies_by() -> None:
    answer = render.page(make_request(), "leave_over.html", status=410)
    html = bytes(answer.body).decode()
    assert answer.status_code == 410
    assert "HX-Request-Type" in answer.headers["Vary"]
    assert html.count("<h1>") == 1
    assert html.startswith("<!doctype html>")


def test_leaving_is_a_header_for_htmx_and_a_link_without_script() -> None:
    there = "/customers/leave/sealed"
    assert render.leave(make_request(**{"HX-Request": "true"}), there).headers["HX-Redirect"] == there
    assert f'href="{there}"' in bytes(render.leave(make_request(), there).body).decode()


def test_after_a_post_the_browser_goes_on() -> None:
    answer = render.see_other(make_request(), "/customers/orders")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/customers/orders")
    answer = render.see_other(make_request(**{"HX-Request-Type": "partial"}), "/customers/orders")
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, "/customers/orders")


def test_right_to_left_is_said_at_the_root() -> None:
    request = make_request()
    request.state.portal.locale = "ar"
    assert '<html lang="ar" dir="rtl">' in bytes(render.page(request, "leave_over.html").body).decode()


def test_everything_is_escaped() -> None:
    request = make_request()
    request.state.portal.name = '<script>alert("1")</script>'
    html = bytes(render.page(request, "leave_over.html").body).decode()
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html


# What no template may hold


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_template_has_inline_style_script_or_unescaped_words(path: Path) -> None:
    source = path.read_text()
    assert re.findall(r"\sstyle=|\son[a-z]+=|javascript:|\|\s*safe\b|hx-on|autoescape", source) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)", source) == []
    if path.name != "login_page.html":
        assert "<style" not in source


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_template_looks_up_a_text_inside_a_loop(path: Path) -> None:
    depth = 0
    for tag in re.findall(r"{%-?\s*(for|endfor)\b|(\b_\(|{%-?\s*trans\b)", path.read_text()):
        depth += {"for": 1, "endfor": -1}.get(tag[0], 0)
        assert not (tag[1] and depth), path.name
    assert depth == 0


def test_templates_and_shared_code_name_no_processor() -> None:
    names = {"stripe", "paypal", "adyen", "klarna", "mollie", "razorpay", "paystack"}
    names |= {"flutterwave", "payfast", "midtrans", "xendit", "instamojo"}
    shared = [*PAGES, *PORTAL.glob("static/portal.*"), *PORTAL.glob("views/*.py")]
    shared += [
        PORTAL / name for name in ("queries.py", "words.py", "upcoming.py", "render.py", "intervals.py")
    ]
    for path in shared:
        found = set(re.findall(r"[a-z]+", path.read_text().lower())) & names
        assert found == set(), path.name


def test_the_catalogue_holds_every_text() -> None:
    """`pybabel extract` as the documents say; what it finds must stand in portal.pot already."""
    with (PORTAL / "locale/babel.cfg").open() as file:
        mapping, options = parse_mapping_cfg(file)  # type: ignore[no-untyped-call]
    found = {
        message[2] if isinstance(message[2], str) else message[2][0]
        for message in extract_from_dir(PORTAL, mapping, options)
    }
    kept = read_po(BytesIO((PORTAL / "locale/portal.pot").read_bytes()))
    known = {message.id if isinstance(message.id, str) else message.id[0] for message in kept if message.id}
    assert found - known == set(), "run: pybabel extract, see docs"
    assert known - found == set(), "run: pybabel extract, see docs"
