"""The tab *Upcoming payments*, and the same as a calendar file."""

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from portal import clock, queries, render, upcoming
from portal.login import signed_in
from portal.render import Format, id_text
from portal.tenancy import PortalView
from portal.texts import gettext as _
from portal.upcoming import Charge, Entry, Month, Total


@dataclass(frozen=True, slots=True)
class Where:
    """The month that a page begins with; `lost`: the address named one that is not there."""

    first: date | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class UpcomingPage:
    """Whole months, as many as hold some 25 charges. `later` is the month the next page begins with."""

    months: tuple[Month, ...]
    later: str | None
    totals: tuple[Total, ...]  # of all twelve months
    mixed: bool


@signed_in
async def index(request: Request) -> Response:
    months = upcoming.months(await _charges(request))
    where = _asked(request, months)
    return render.tab(request, "upcoming", _page(months, where.first), where=where)


@signed_in
async def calendar(request: Request) -> Response:
    portal = request.state.portal
    origin = request.app.state.settings.origin(portal.host)
    format = render.formats(portal.locale, portal.time_zone)
    entries = [_entry(charge, portal, origin, format) for charge in await _charges(request)]
    name = _("{shop}: upcoming payments").format(shop=portal.name)
    return Response(
        upcoming.calendar(name, entries, clock.now()),
        media_type="text/calendar; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="upcoming-payments.ics"'},
    )


async def _charges(request: Request) -> list[Charge]:
    portal = request.state.portal
    plans = await request.app.state.database.read(queries.plans, portal.id, request.state.customer.id)
    zone = ZoneInfo(portal.time_zone)
    return upcoming.charges(plans, clock.now().astimezone(zone).date(), zone)


def _asked(request: Request, months: list[Month]) -> Where:
    text = request.query_params.get("from")
    if text is None:
        return Where()
    found = next((month.first for month in months if f"{month.first:%Y-%m}" == text), None)
    return Where(found, lost=found is None)


def _page(months: list[Month], first: date | None) -> UpcomingPage:
    shown: list[Month] = []
    later = None
    for month in months:
        if first and month.first < first:
            continue
        if sum(len(one.charges) for one in shown) >= queries.PAGE:
            later = f"{month.first:%Y-%m}"
            break
        shown.append(month)
    every_charge = [charge for month in months for charge in month.charges]
    totals = upcoming.totals(every_charge)
    return UpcomingPage(tuple(shown), later, totals, mixed=len(totals) > 1)


def _entry(charge: Charge, portal: PortalView, origin: str, format: Format) -> Entry:
    title = charge.title or _("Subscription")
    summary, lines = title, []
    if charge.minor is not None and charge.currency:
        amount = format.money(charge.minor, charge.currency, with_code=True)
        if charge.certainty != "fixed":
            amount = _("about {amount}").format(amount=amount)
        summary = _("{title}: {amount}").format(title=title, amount=amount)
    if charge.is_retry:
        lines.append(_("{label} tries again on this day.").format(label=charge.label))
    if method := format.method(charge.method):
        lines.append(_("Paid with {method}").format(method=method))
    lines.append(portal.name)
    return Entry(
        uid=f"{charge.uid}@{portal.host}",
        on=charge.on,
        summary=summary,
        description="\n".join(lines),
        url=f"{origin}/customers/subscriptions#sub-{id_text(charge.subscription_id)}",
    )
