"""The overview: how a portal's subscriptions, payments, sign-ins and mails are doing, drawn and as a file."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from zoneinfo import ZoneInfo

from markupsafe import Markup
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from portal import charts, clock, export, figures, merchants, models, render
from portal.charts import Bar
from portal.figures import Failed, Outlook, Overview, Period, Series, Span
from portal.ids import id_text, parse_id
from portal.money import Money, exponent
from portal.render import Format
from portal.texts import gettext as _
from portal.words import words


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    site: models.Portal = request.state.site
    after = parse_id(request.query_params.get("after", ""))
    database, now = request.app.state.database, clock.now()
    page = await database.read(
        figures.overview,
        site.id,
        ZoneInfo(site.time_zone),
        _period(request),
        now,
        after,
        anew="anew" in request.query_params,
    )
    is_kept = page.totals.counted_at != now
    if page.totals.many and not is_kept:
        with suppress(DBAPIError):  # the page is there, whether it can be kept or not
            await database.write(figures.keep, site.id, page.totals)
    return render.settings(
        request,
        "settings/overview.html",
        _("Overview"),
        "overview",
        page=page,
        kept=is_kept,
        drawn=_Drawn(page, render.formats(site.locale, site.time_zone)),
        after=after,
        periods=[("30d", _("30 days")), ("90d", _("13 weeks")), ("12m", _("12 months"))],
    )


@merchants.in_portal("viewer")
async def download(request: Request) -> Response:
    """Everything on the page, and all failed payments, as one table."""
    site: models.Portal = request.state.site
    page, failed = await request.app.state.database.read(
        _everything, site.id, ZoneInfo(site.time_zone), _period(request)
    )
    head = ("figure", "from", "to", "name", "count", "amount", "currency", "note")
    name = f"overview-{site.slug}-{page.period}-{page.today.isoformat()}.csv"
    return Response(
        export.BOM + export.lines([head, *_rows(page, failed)]),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _everything(db: Session, portal_id: int, zone: ZoneInfo, period: Period) -> tuple[Overview, list[Failed]]:
    page = figures.overview(db, portal_id, zone, period, clock.now())
    return page, list(figures.every_failed(db, portal_id))


def _period(request: Request) -> Period:
    asked = request.query_params.get("range", "")
    return next((period for period in figures.PERIODS if period == asked), figures.PERIODS[0])


# The pictures


@dataclass(frozen=True, slots=True)
class Column:
    """A name over numbers, and their sum."""

    name: str
    counts: tuple[int, ...]
    total: int


class _Drawn:
    """The page's charts, and the words of their tables."""

    def __init__(self, page: Overview, format: Format) -> None:
        self._page = page
        self._format = format
        self.mixed = len(page.totals.outlooks) > 1
        self.columns = [Column(_reason(series), series.counts, series.total) for series in page.cancellations]

    @property
    def times(self) -> list[str]:
        """What each bar stands for."""
        return [self._name(span) for span in self._page.spans]

    def _name(self, span: Span) -> str:
        if self._page.period == "12m":
            return self._format.month(span.first)
        first = self._format.day_text(span.first)
        return first if span.first == span.last else f"{first} – {self._format.day_text(span.last)}"

    def _bars(self, counts: tuple[int, ...]) -> list[Bar]:
        short = [
            self._format.month(span.first)
            if self._page.period == "12m"
            else self._format.day_text(span.first)
            for span in self._page.spans
        ]
        return [Bar(*both) for both in zip(short, counts, strict=True)]

    def share(self, count: int) -> Markup:
        return charts.share(count, self._page.totals.live)

    def sign_ins(self) -> Markup:
        bars = self._bars(self._page.sign_ins.counts)
        return charts.bars(
            "sign-ins", _("Sign-ins"), bars, _("Nobody signed in during this time."), rtl=self._rtl
        )

    def mails(self) -> Markup:
        bars = self._bars(self._page.mails_sent.counts)
        empty = _("No mail was sent during this time.")
        return charts.bars("mails-sent", _("Mails that were taken"), bars, empty, rtl=self._rtl)

    def refused(self) -> Markup:
        bars = self._bars(self._page.mails_refused.counts)
        empty = _("None was refused.")
        return charts.bars(
            "mails-refused", _("Mails that were refused"), bars, empty, small=True, tone="bad", rtl=self._rtl
        )

    def cancellations(self) -> list[tuple[Column, Markup]]:
        """One small chart for each reason, all on one scale."""
        highest = max((max(column.counts) for column in self.columns), default=0)
        return [
            (
                column,
                charts.bars(
                    f"reason-{number}",
                    column.name,
                    self._bars(column.counts),
                    "",
                    highest=highest,
                    small=True,
                    tone="bad",
                    rtl=self._rtl,
                ),
            )
            for number, column in enumerate(self.columns)
        ]

    def coming(self, outlook: Outlook) -> Markup:
        return charts.bars(
            f"coming-{outlook.currency}",
            _("Coming payments in {currency}").format(currency=outlook.currency),
            [Bar(self._format.day_text(day), minor) for day, minor in outlook.days],
            _("No amount is known yet."),
            text=lambda minor: self._format.money(minor, outlook.currency, self.mixed),
            unit=10 ** exponent(outlook.currency),
            rtl=self._rtl,
        )

    def coming_days(self, outlook: Outlook) -> list[tuple[date, int]]:
        return [(day, minor) for day, minor in outlook.days if minor]

    @property
    def _rtl(self) -> bool:
        return False  # the merchant's side is read from left to right


def _reason(series: Series) -> str:
    return _("Other reasons") if series.rest else series.name or _("No reason given")


# The file


def _rows(page: Overview, failed: list[Failed]) -> Iterator[tuple[object, ...]]:
    """figure, from, to, name, count, amount, currency, note"""
    pills = words("en").subscriptions
    for one in page.totals.states:
        yield "subscriptions", "", "", pills[one.state].word, one.count, "", "", ""
    yield "subscriptions", "", "", _("Ended"), page.totals.ended, "", "", ""
    for outlook in page.totals.outlooks:
        first, last = outlook.days[0][0], outlook.days[-1][0]
        note = _("estimate") if outlook.estimated else ""
        yield "coming", first, last, "", outlook.charges, *_amount(outlook.minor, outlook.currency), note
        for day, minor in outlook.days:
            if minor:
                yield "coming by day", day, day, "", "", *_amount(minor, outlook.currency), note
    for sum in page.totals.failed:
        yield "failed payments", "", "", "", sum.count, *_amount(sum.minor, sum.currency), ""
    for row in failed:
        note = "; ".join(part for part in (row.email, row.account, row.reason, id_text(row.id)) if part)
        when = row.failed_at.date() if row.failed_at else ""
        yield "failed payment", when, "", row.title or "", 1, *_amount(row.minor, row.currency), note
    for series in page.cancellations:
        yield from _over_time("cancellations", _reason(series), page, series)
    yield "cancellations taken back", *_whole(page), "", page.taken_back, "", "", ""
    yield from _over_time("sign-ins", "", page, page.sign_ins)
    yield from _over_time("mails sent", "", page, page.mails_sent)
    yield from _over_time("mails refused", "", page, page.mails_refused)
    yield "mails waiting", "", "", "", page.mails_waiting, "", "", ""
    yield "open requests", "", "", "", page.requests.open, "", "", ""
    yield "overdue requests", "", "", "", page.requests.overdue, "", "", ""


def _over_time(figure: str, name: str, page: Overview, series: Series) -> Iterator[tuple[object, ...]]:
    for span, count in zip(page.spans, series.counts, strict=True):
        yield figure, span.first, span.last, name, count, "", "", ""


def _whole(page: Overview) -> tuple[date, date]:
    return page.spans[0].first, page.spans[-1].last


def _amount(minor: int | None, currency: str | None) -> tuple[Decimal | str, str]:
    if minor is None or currency is None:
        return "", currency or ""
    return Money(minor, currency).decimal, currency
