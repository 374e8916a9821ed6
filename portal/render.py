"""Jinja, and the only place that knows HX- headers: `page`, `tab`, `piece`, `leave`, `see_other`."""

from datetime import date, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_skeleton, format_time, parse_pattern
from babel.numbers import format_decimal
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from portal import assets, clock
from portal.ids import id_text
from portal.money import money_text
from portal.queries import OrdersPage
from portal.texts import translations
from portal.words import every, method_text, words

__all__ = [
    "Format",
    "environment",
    "id_text",
    "is_partial",
    "leave",
    "page",
    "piece",
    "see_other",
    "settings",
    "settings_error",
    "tab",
    "translations",
]

_HERE = Path(__file__).parent
_RTL = {"ar", "fa", "he", "ur"}


def tab(request: Request, name: str, page: Any, **context: Any) -> Response:
    """A tab: tabs and body alone when htmx asks for a partial, else the document that includes the very same file.

    `body` names another partial than the tab's own, for a page behind it, and `title` says what that page is. Where
    htmx asks for more rows, they come alone.
    """
    context = {"tab": name, "body": f"partials/{name}.html", "page": page, "title": None, **context}
    if is_partial(request) and request.headers.get("HX-Target", "").endswith("#more"):
        return _answer(request, f"partials/{name}_more.html", 200, **context)
    template = "partials/tabs.html" if is_partial(request) else "tab.html"
    return _answer(request, template, 200, partial=is_partial(request), with_heading=False, **context)


def piece(request: Request, template: str, status: int = 200, tab: str = "", **context: Any) -> Response:
    """One piece alone for htmx, else inside a document of its own with the tabs around it."""
    if is_partial(request):
        return _answer(request, template, status, tab=tab, **context)
    context = {"title": None, "page": None, **context}
    return _answer(
        request, "tab.html", status, tab=tab, body=template, partial=False, with_heading=True, **context
    )


def settings(
    request: Request, body: str, title: str, section: str, status: int = 200, **context: Any
) -> Response:
    """A page of the merchant's side: `partials/<body>` alone when htmx asks for a partial, else in its document."""
    context = {"title": title, "section": section, "body": f"partials/{body}", "said": None, **context}
    context = {"problems": {}, "site": getattr(request.state, "site", None), **context}
    context["person"] = getattr(request.state, "person", None)
    template = context["body"] if is_partial(request) else "settings.html"
    return _answer(request, template, status, partial=is_partial(request), **context)


def settings_error(request: Request, status: int, heading: str, sentence: str, request_id: str) -> Response:
    """What went wrong on the merchant's side."""
    context = {"heading": heading, "sentence": sentence, "request_id": request_id}
    return settings(request, "settings/error.html", heading, "", status, **context)


def page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A whole document, whoever asks."""
    return _answer(request, template, status, **context)


def leave(request: Request, url: str) -> Response:
    """Send the browser to `GET /customers/leave/{sealed}` (our own address `url`), from there to the processor.

    With htmx by header; without it as a page with one link, because `form-action 'self'` stops redirects of forms.
    """
    if request.headers.get("HX-Request"):
        return Response(status_code=204, headers={"HX-Redirect": url})
    return _answer(request, "leave.html", 200, leave_url=url)


def see_other(request: Request, url: str) -> Response:
    """After a POST: on to a page of ours."""
    if is_partial(request):
        return Response(status_code=204, headers={"HX-Redirect": url})
    return RedirectResponse(url, 303)


def is_partial(request: Request) -> bool:
    return request.headers.get("HX-Request-Type") == "partial"


def _answer(request: Request, template: str, status: int, **context: Any) -> HTMLResponse:
    portal = getattr(request.state, "portal", None)
    site = portal or getattr(request.state, "site", None)
    locale = portal.locale if portal else "en"
    html = (
        environment(locale)
        .get_template(template)
        .render(
            request=request,
            portal=portal,
            customer=getattr(request.state, "customer", None),
            format=formats(site.locale if site else locale, site.time_zone if site else "UTC"),
            **context,
        )
    )
    answer = HTMLResponse(html, status)
    answer.headers["Vary"] = "HX-Request-Type, HX-Target"
    return answer


@cache
def environment(locale: str) -> Environment:
    """The one Jinja environment, per language. Everything is escaped, whatever a file is called."""
    found = Environment(
        loader=FileSystemLoader([_HERE / "templates", _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        extensions=["jinja2.ext.i18n"],
    )
    texts = translations(locale)
    found.install_gettext_callables(texts.gettext, texts.ngettext, newstyle=True)  # type: ignore[attr-defined]
    found.globals.update(
        id_text=id_text,
        moment=datetime.fromisoformat,
        script=assets.script,
        stylesheet=assets.stylesheet,
        admin_stylesheet=assets.admin_stylesheet,
        passkey_script=assets.passkey_script,
        login_style=assets.login_style,
        direction="rtl" if locale.split("-")[0] in _RTL else "ltr",
        locale=locale,
        words=words(locale),
    )
    return found


@cache
def formats(locale: str, zone: str) -> "Format":
    return Format(locale, zone)


class OrderText(NamedTuple):
    """An order as its row reads."""

    ref: str
    name: str
    small: str | None
    day: Markup
    tone: str
    word: str
    amount: str


class Format:
    """Money, days and moments as text of one locale and zone; for templates as `format`."""

    __slots__ = ("_zone", "locale", "zone")

    def __init__(self, locale: str, zone: str) -> None:
        self.locale = locale
        self.zone = zone
        self._zone = ZoneInfo(zone)

    def money(self, minor: int, currency: str, with_code: bool = False) -> str:
        return money_text(minor, currency, self.locale, with_code)

    def amount(self, minor: int, currency: str, with_code: bool = False) -> Markup:
        """The same, kept apart from the direction of the sentence it stands in."""
        return Markup("<bdi>{}</bdi>").format(self.money(minor, currency, with_code))

    def day(self, value: date | datetime) -> Markup:
        """A billing day in words inside `<time>`: moments by the portal's zone, days as they are."""
        return _day_tag(self._date(value), self.locale)

    def day_text(self, value: date | datetime) -> str:
        return _day_text(self._date(value), self.locale)

    def _date(self, value: date | datetime) -> date:
        """The day on which a moment falls in the portal's zone; days as they are."""
        return value.astimezone(self._zone).date() if isinstance(value, datetime) else value

    def time(self, value: datetime) -> Markup:
        """The time of day with its zone: 14:02 CET."""
        local = value.astimezone(self._zone)
        text = f"{format_time(local, 'HH:mm', locale=_babel(self.locale))}\u00a0{_zone_name(local)}"
        return Markup('<time datetime="{}">{}</time>').format(local.isoformat(timespec="minutes"), text)

    def is_today(self, value: datetime) -> bool:
        return self._date(value) == self._date(clock.now())

    def orders(self, page: OrdersPage) -> list[OrderText]:
        """A page of orders, ready to stand in its rows. Not in the template: this page is asked for most."""
        pills, untitled = words(self.locale).orders, words(self.locale).order
        return [
            OrderText(
                id_text(row.id),
                row.number or row.title or untitled,
                row.title if row.number else None,
                self.day(row.placed_at),
                (pill := pills[row.status]).tone,
                pill.word,
                ""
                if row.amount_minor is None or row.currency is None
                else self.money(row.amount_minor, row.currency, page.mixed),
            )
            for row in page.rows
        ]

    def count(self, number: int) -> str:
        return format_decimal(number, locale=_babel(self.locale))

    def month(self, value: date) -> str:
        return format_date(value, "LLLL y", locale=_babel(self.locale))

    def method(self, method: dict[str, Any] | None, expiry: bool = False) -> str | None:
        return method_text(method, self.locale, expiry)

    def every(self, unit: str | None, count: int | None) -> str:
        return every(unit, count, self.locale)


def _zone_name(local: datetime) -> str:
    """CET where the zone has such a name, else GMT+05:45."""
    name = local.tzname() or ""
    return name if name.isalpha() else f"GMT{name[:3]}{':' if name[3:] else ''}{name[3:]}"


@lru_cache(maxsize=16_384)
def _day_text(value: date, locale: str) -> str:
    return (
        parse_pattern("d MMM y").apply(value, _babel(locale))
        if locale.startswith("en")
        else format_skeleton("yMMMd", value, locale=_babel(locale))
    )


@lru_cache(maxsize=16_384)
def _day_tag(value: date, locale: str) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), _day_text(value, locale))


@cache
def _babel(locale: str) -> Locale:
    return Locale.parse(locale, sep="-")
