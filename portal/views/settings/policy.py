"""Policy: how customers may cancel and what is offered beside it, who is asked, which plans there are to switch to, and
how long things are kept."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, merchants, models, offers, plans, policy, render, retention, saving, tenancy
from portal.gateways import facts
from portal.ids import id_text
from portal.policy_form import PolicyForm
from portal.saving import Late
from portal.texts import gettext as _

DONE: dict[str, Callable[[], str]] = {
    "saved": lambda: _("Saved."),
    "added": lambda: _("The plan is on the list."),
    "removed": lambda: _("The plan is off the list. Who has it keeps it."),
}


def done(request: Request) -> str | None:
    found = DONE.get(request.query_params.get("done", ""))
    return found() if found else None


def late_problems(
    request: Request, late: Late, words: Callable[[str, Any], tuple[str, str]]
) -> dict[str, str]:
    """What the later of two is told. `words` gives the field of the form and the value in words."""
    problems = {}
    if late.who and late.at:
        site = request.state.site
        time = render.formats(site.locale, site.time_zone).time(late.at)
        first = _("{who} has saved meanwhile, at {time}. Look at what differs, and save again to keep yours.")
        problems["form"] = first.format(who=late.who, time=time.striptags())
    else:
        problems["form"] = _(
            "This has changed meanwhile. Look at what differs, and save again to keep yours."
        )
    for name, value in late.now_there.items():
        field, text = words(name, value)
        problems[field] = _("Saved meanwhile: “{value}”").format(value=text or "–")
    return problems


def version_of(fields: Any) -> int:
    text = str(fields.get("version", ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


# Cancelling, reasons, who is asked


@dataclass(frozen=True, slots=True)
class Effect:
    """What a policy comes to at one account: per way to cancel, how it goes there."""

    label: str
    account: str
    period_end: str  # a mode, or "barred"
    now: str


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    return await _show(request, said=done(request))


@merchants.in_portal("editor")
async def change(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=80)
    form = PolicyForm.typed(fields)
    wish = str(fields.get("do", "save"))
    if wish != "save":
        return await _show(request, form.moved(wish), version=version_of(fields), unsaved=True)
    found = await _accounts(request)
    problems = form.problems(_titles(found))
    if problems:
        return await _show(request, form, problems, version=version_of(fields))
    late = await request.app.state.database.write(
        _save, request.state.person, request.state.site.id, version_of(fields), form
    )
    if late is not None:
        problems = late_problems(request, late, lambda name, value: _there(name, value, form))
        return await _show(request, form, problems, version=late.version)
    return render.see_other(request, f"/settings/portals/{id_text(request.state.site.id)}/policy?done=saved")


def _save(
    db: Session, person: merchants.Person, portal_id: int, version: int, form: PolicyForm
) -> Late | None:
    row = saving.portal_of(db, person, portal_id)
    return saving.save(db, person, row, version, form.columns(), "policy.changed", row.name)


def _there(name: str, value: Any, form: PolicyForm) -> tuple[str, str]:
    """Which field of the form a column belongs to, and what now stands in it."""
    if name == "cancel_policy":
        kept = policy.CancelPolicy.of(value)
        words = {
            "both": _("customers choose"),
            "period_end": _("at the end of what is paid"),
            "now": _("at once"),
        }
        return "when", _("{when}, {days} days of notice").format(when=words[kept.when], days=kept.notice_days)
    if name == "cancel_reasons":
        return "reasons", "; ".join(value or ())
    if name == "save_offers":
        kinds = {"pause": _("pause"), "plan": _("another plan"), "ask": _("something you are asked for")}
        kept_offers = (value or {}).items()
        return "offers", "; ".join(f"{reason}: {kinds.get(one['kind'], '')}" for reason, one in kept_offers)
    return name, str(value if value is not None else "")


async def _show(
    request: Request,
    form: PolicyForm | None = None,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    version: int | None = None,
    unsaved: bool = False,
) -> Response:
    site = request.state.site
    found = await _accounts(request)
    titles = _titles(found)
    view = await request.app.state.database.read(
        tenancy.portal_by_id, site.id, request.app.state.settings.base_domain
    )
    shown = form or PolicyForm.of(site)
    return render.settings(
        request,
        "settings/policy.html",
        _("Cancelling"),
        "policy",
        422 if problems else 200,
        form=shown,
        titles=titles,
        gone=[row.plan for row in shown.rows if row.kind == "plan" and row.plan not in titles],
        effects=[effect(account, view) for account in found],
        problems=problems or {},
        said=said,
        unsaved=unsaved,
        version=site.version if version is None else version,
        most=policy.REASONS_MOST,
        notice_most=policy.NOTICE_MOST,
    )


async def _accounts(request: Request) -> list[models.Account]:
    found: list[models.Account] = await request.app.state.database.read(_of_site, request.state.site.id)
    return found


def _of_site(db: Session, portal_id: int) -> list[models.Account]:
    row = models.Account
    return list(
        db.execute(
            select(row)
            .where(col(row.portal_id) == portal_id, col(row.disconnected_at).is_(None))
            .order_by(col(row.id))
            .limit(100)
        ).scalars()
    )


def _titles(accounts: list[models.Account]) -> list[str]:
    """The titles of all plans of a portal, each once."""
    return list(dict.fromkeys(str(plan["title"]) for one in accounts for plan in one.plans or ()))


def effect(account: models.Account, view: tenancy.PortalView) -> Effect:
    """What a customer meets with an ordinary subscription there, paid until a month from now."""
    now = clock.now()
    row = models.Subscription(
        portal_id=account.portal_id,
        account_id=account.id,
        remote_id="",
        placed_at=now,
        as_of=now,
        stamps={},
        status="active",
        interval_unit="month",
        interval_count=1,
        current_period_end=now + timedelta(days=policy.NOTICE_MOST + 1),
        method={"kind": "card", "remote_id": "known"},
    )
    found = offers.available(row, account, view, now)

    def word(key: Any) -> str:
        offer = found[key]
        if offer.ok:
            return offer.mode
        if key in account.switched_off:
            return "off"
        return "barred" if offer.mode != "none" and view.cancel_policy.bars(key) else "none"

    return Effect(
        facts(account.processor).label, account.label, word("cancel_at_period_end"), word("cancel_now")
    )


# Plans


@merchants.in_portal("viewer")
async def list_plans(request: Request) -> Response:
    """Every account with the plans that its customers may switch to."""
    found = await _accounts(request)
    return render.settings(
        request,
        "settings/plans.html",
        _("Plans"),
        "policy",
        rows=[(one, facts(one.processor).label, plans.reach(one.processor)) for one in found],
        said=done(request),
    )


@merchants.in_portal("viewer")
async def account_plans(request: Request) -> Response:
    """One account's plans. `?edit=2` opens the second one in the form; else the form adds one."""
    account = await _account(request)
    at = _number(request.query_params.get("edit"), account)
    form = None if at is None else plans.PlanForm.of((account.plans or [])[at])
    return await _show_plans(request, account, form or _fresh(account), at, said=done(request))


def _fresh(account: models.Account) -> plans.PlanForm:
    """An empty form in the currency of the plans that are there."""
    currencies = plans.reach(account.processor).currencies or ()
    there = [str(one["currency"]) for one in account.plans or ()]
    only = next(iter(currencies)) if len(currencies) == 1 else ""
    return plans.PlanForm(currency=there[-1] if there else only)


@merchants.in_portal("editor")
async def save_plan(request: Request) -> Response:
    """Add a plan, or change the one whose place in the list the form names."""
    account = await _account(request)
    fields = await request.form(max_files=0, max_fields=20)
    form = plans.PlanForm.typed(fields)
    kept = list(account.plans or ())
    at = _number(fields.get("at"), account)
    others = [one for number, one in enumerate(kept) if number != at]
    problems = form.problems(plans.reach(account.processor), others)
    if at is None and len(kept) >= plans.MOST:
        problems["form"] = _("An account has at most {most} plans. Remove one first.").format(most=plans.MOST)
    if problems:
        return await _show_plans(request, account, form, at, problems, version=version_of(fields))
    if at is None:
        kept.append(form.kept())
    else:
        kept[at] = form.kept()
    return await _keep_plans(
        request, account, kept, version_of(fields), form, at, "saved" if at is not None else "added"
    )


@merchants.in_portal("editor")
async def move_plan(request: Request) -> Response:
    """Put a plan up, down or away, by its place in the list."""
    account = await _account(request)
    fields = await request.form(max_files=0, max_fields=5)
    verb, _colon, number = str(fields.get("do", "")).partition(":")
    at = _number(number, account)
    kept = plans.moved(account.plans or (), -1 if at is None else at, verb)
    word = "removed" if verb == "remove" else "saved"
    return await _keep_plans(request, account, kept, version_of(fields), _fresh(account), None, word)


async def _keep_plans(
    request: Request,
    account: models.Account,
    kept: list[dict[str, Any]],
    version: int,
    form: plans.PlanForm,
    at: int | None,
    word: str,
) -> Response:
    late = await request.app.state.database.write(
        _save_plans, request.state.person, request.state.site.id, account.id, version, kept
    )
    if late is not None:
        problems = late_problems(request, late, lambda _name, _value: ("", ""))
        problems = {"form": problems["form"]}  # the list below is as it stands now
        return await _show_plans(request, await _account(request), form, None, problems)
    here = f"/settings/portals/{id_text(request.state.site.id)}/plans/{id_text(account.id)}"
    return render.see_other(request, f"{here}?done={word}")


def _save_plans(
    db: Session,
    person: merchants.Person,
    portal_id: int,
    account_id: int,
    version: int,
    kept: list[dict[str, Any]],
) -> Late | None:
    row = _of_account(db, saving.portal_of(db, person, portal_id).id, account_id)
    if row is None:
        raise LookupError(account_id)
    return saving.save(db, person, row, version, {"plans": kept or None}, "account.plans", row.label)


async def _show_plans(
    request: Request,
    account: models.Account,
    form: plans.PlanForm,
    at: int | None,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    version: int | None = None,
) -> Response:
    label = facts(account.processor).label
    return render.settings(
        request,
        "settings/plans_account.html",
        _("Plans: {account}").format(account=account.label),
        "policy",
        422 if problems else 200,
        account=account,
        label=label,
        rows=list(account.plans or ()),
        there=plans.reach(account.processor),
        form=form,
        at=at,
        problems=problems or {},
        said=said,
        version=account.version if version is None else version,
        most=plans.MOST,
    )


async def _account(request: Request) -> models.Account:
    found: models.Account | None = await request.app.state.database.read(
        _of_account, request.state.site.id, request.path_params["account_id"]
    )
    if found is None:
        raise HTTPException(404)
    return found


def _of_account(db: Session, portal_id: int, account_id: int) -> models.Account | None:
    row = models.Account
    return db.execute(
        select(row).where(
            col(row.portal_id) == portal_id, col(row.id) == account_id, col(row.disconnected_at).is_(None)
        )
    ).scalar_one_or_none()


def _number(text: Any, account: models.Account) -> int | None:
    """A place in an account's list, counted from 1 in addresses and forms."""
    typed = str(text or "")
    at = int(typed) - 1 if typed.isascii() and typed.isdigit() and len(typed) < 4 else -1
    return at if 0 <= at < len(account.plans or ()) else None


# Privacy


@merchants.in_portal("viewer")
async def show_privacy(request: Request) -> Response:
    return _show_privacy(request, said=done(request))


@merchants.in_portal("editor")
async def change_privacy(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=10)
    typed = {name: str(fields.get(name, "")).strip()[:20] for name in retention.BOUNDS}
    problems, wanted = retention.read(typed)
    if problems:
        return _show_privacy(request, typed, problems, version=version_of(fields))
    late = await request.app.state.database.write(
        _save_privacy, request.state.person, request.state.site.id, version_of(fields), wanted
    )
    if late is not None:
        told = retention.typed(policy.Privacy.of(late.now_there.get("privacy")))
        problems = late_problems(request, late, lambda _name, _value: ("", ""))
        differs = {
            name: _("Saved meanwhile: “{value}”").format(value=told[name] or "–")
            for name in typed
            if "privacy" in late.now_there and told[name] != typed[name]
        }
        problems = {"form": problems["form"], **differs}
        return _show_privacy(request, typed, problems, version=late.version)
    return render.see_other(request, f"/settings/portals/{id_text(request.state.site.id)}/privacy?done=saved")


def _save_privacy(
    db: Session, person: merchants.Person, portal_id: int, version: int, wanted: policy.Privacy
) -> Late | None:
    row = saving.portal_of(db, person, portal_id)
    return saving.save(db, person, row, version, {"privacy": wanted.kept()}, "privacy.changed", row.name)


def _show_privacy(
    request: Request,
    typed: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    version: int | None = None,
) -> Response:
    site = request.state.site
    return render.settings(
        request,
        "settings/privacy.html",
        _("Privacy"),
        "privacy",
        422 if problems else 200,
        values=typed or retention.typed(policy.Privacy.of(site.privacy)),
        problems=problems or {},
        said=said,
        version=site.version if version is None else version,
    )
