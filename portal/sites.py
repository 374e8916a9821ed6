"""A merchant's portals: made, changed, furnished with a logo, switched off. Every change is written down."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

from babel import Locale
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import brand, merchants, models
from portal.merchants import Person
from portal.texts import gettext as _
from portal.uploads import Logo

RESERVED = frozenset(
    (
        *(
            "admin",
            "api",
            "app",
            "assets",
            "auth",
            "cdn",
            "customers",
            "ftp",
            "health",
            "help",
            "internal",
            "mail",
        ),
        *("mx", "ns", "portal", "root", "settings", "smtp", "static", "status", "support", "webhooks", "www"),
    )
)
LOCALES = (
    "en",
    "en-GB",
    "en-US",
    "en-ZA",
    "en-IN",
    "en-AU",
    "en-NZ",
    "en-IE",
    "en-CA",
    "en-SG",
    "en-NG",
    "en-KE",
)
# What the page of a portal edits, with the most characters each may have.
FIELDS: dict[str, int] = {
    "name": 80,
    "brand_colour": 20,
    "support_email": 254,
    "shop_url": 500,
    "sender_name": 80,
    "terms_url": 500,
    "privacy_url": 500,
    "locale": 20,
    "time_zone": 60,
    "country": 40,
    "legal_name": 160,
    "legal_address": 500,
    "tax_id": 60,
    "invoice_prefix": 12,
}
_WANTED = ("name", "support_email", "locale", "time_zone", "invoice_prefix")


def create(db: Session, person: Person, name: str, base_domain: str, admin_host: str) -> models.Portal:
    """A new portal of the person's merchant, under a name of the installation that is still free."""
    row = models.Portal(
        merchant_id=person.merchant_id,
        slug=_free_slug(db, name, base_domain, admin_host),
        name=name,
        support_email=person.email,
        brand={},
        cancel_reasons=[],
    )
    db.add(row)
    db.flush()
    merchants.audit(db, person, "portal.created", subject=name, after={"name": name}, portal_id=row.id)
    return row


def _free_slug(db: Session, name: str, base_domain: str, admin_host: str) -> str:
    wanted = slug_of(name)
    taken = set(
        db.execute(
            select(col(models.Portal.slug)).where(col(models.Portal.slug).like(f"{wanted}%"))
        ).scalars()
    )
    if admin_host.endswith(f".{base_domain}"):
        taken.add(admin_host.removesuffix(f".{base_domain}"))
    number, slug = 1, wanted
    while slug in taken or slug in RESERVED:
        number += 1
        slug = f"{wanted}-{number}"
    return slug


def slug_of(name: str) -> str:
    """A name as it stands in an address: Latin letters and digits, at most 40."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "portal"


def problems_of_name(name: str) -> str | None:
    if not name:
        return _("Enter a name, such as the name of your shop.")
    if any(not c.isprintable() for c in name):
        return _("The name has signs that can't be shown.")
    return None


@dataclass(frozen=True, slots=True)
class Late:
    """Somebody else has saved meanwhile: who, when, and what now stands where something else was typed."""

    who: str | None
    at: datetime | None
    now_there: dict[str, str]
    version: int


def language(locale: str) -> str:
    """A locale by its own name: English (United Kingdom)."""
    return Locale.parse(locale, sep="-").get_display_name() or locale


def typed(fields: Mapping[str, Any]) -> dict[str, str]:
    """What a form says, trimmed and cut."""
    return {name: str(fields.get(name, "")).strip()[:most] for name, most in FIELDS.items()}


def problems_of(values: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with a portal's settings, field by field."""
    found: dict[str, str] = {}
    if sentence := problems_of_name(values["name"]):
        found["name"] = sentence
    if values["brand_colour"]:
        try:
            brand.parse(values["brand_colour"])
        except ValueError as error:
            found["brand_colour"] = str(error)
    if not _ADDRESS.fullmatch(values["support_email"]):
        found["support_email"] = _("Enter an address such as help@example.com.")
    for name in ("shop_url", "terms_url", "privacy_url"):
        if values[name] and not _HTTPS.fullmatch(values[name]):
            found[name] = _("Enter an address that begins with https://, such as https://example.com/terms.")
    if values["locale"] not in LOCALES:
        found["locale"] = _("Choose one of the languages.")
    if values["time_zone"] not in available_timezones():
        found["time_zone"] = _("Enter a time zone such as Europe/Berlin.")
    if values["country"] and not re.fullmatch(r"[A-Za-z]{2}", values["country"]):
        found["country"] = _("Enter two letters, such as DE.")
    if not re.fullmatch(r"[A-Za-z0-9/-]{1,12}", values["invoice_prefix"]):
        found["invoice_prefix"] = _("Up to twelve letters, digits and dashes, such as INV-.")
    return found


_ADDRESS = re.compile(r"[^\s@,;:<>\"()\[\]\\]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
_HTTPS = re.compile(r"https://[A-Za-z0-9.-]+(:\d{1,5})?(/[^\s\"'<>\\]*)?")


def change(
    db: Session, person: Person, portal_id: int, version: int, values: Mapping[str, str]
) -> models.Portal | Late:
    """Save a portal's settings (checked by `problems_of`), unless somebody else has saved since `version`."""
    row = merchants.portal_of(db, person.merchant_id, portal_id)
    if row is None:
        raise LookupError(portal_id)
    wanted = _columns(values)
    before = {name: getattr(row, name) for name in FIELDS}
    if row.version != version:
        return _late(db, row, before, wanted)
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if not changed:
        return row
    saved = db.execute(
        update(models.Portal)
        .where(col(models.Portal.id) == row.id, col(models.Portal.version) == version)
        .values(**changed, version=version + 1, **_derived(changed))
    )
    if not saved.rowcount:  # type: ignore[attr-defined]
        db.refresh(row)
        return _late(db, row, {name: getattr(row, name) for name in FIELDS}, wanted)
    merchants.audit(
        db,
        person,
        "portal.changed",
        subject=row.name,
        before={name: before[name] for name in changed},
        after=changed,
        portal_id=row.id,
    )
    db.refresh(row)
    return row


def _columns(values: Mapping[str, str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {
        name: value if value or name in _WANTED else None for name, value in values.items()
    }
    if found["brand_colour"]:
        found["brand_colour"] = brand.parse(str(found["brand_colour"]))
    if found["country"]:
        found["country"] = str(found["country"]).upper()
    return found


def _derived(changed: Mapping[str, str | None]) -> dict[str, Any]:
    if "brand_colour" not in changed:
        return {}
    colour = changed["brand_colour"]
    return {"brand": brand.derive(colour).values if colour else {}}


def _late(db: Session, row: models.Portal, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Late:
    last = db.execute(
        select(models.Audit)
        .where(
            col(models.Audit.merchant_id) == row.merchant_id,
            col(models.Audit.portal_id) == row.id,
            col(models.Audit.what) == "portal.changed",
        )
        .order_by(col(models.Audit.id).desc())
        .limit(1)
    ).scalar_one_or_none()
    differs = {name: str(there[name] or "") for name in FIELDS if there[name] != wanted[name]}
    return Late(last.who if last else None, last.at if last else None, differs, row.version)


def set_logo(
    db: Session, person: Person, portal_id: int, logo: Logo | None, now: datetime, dark: bool = False
) -> None:
    """Put up a logo, or take it down. The bytes are our own drawing of what was sent."""
    row = merchants.portal_of(db, person.merchant_id, portal_id)
    if row is None:
        raise LookupError(portal_id)
    asset_id = None
    if logo is not None:
        asset = models.Asset(
            portal_id=row.id,
            sha256=logo.once.sha256,
            content_type="image/png",
            width=logo.once.width,
            height=logo.once.height,
            content=logo.once.content,
            twice_sha256=logo.twice.sha256,
            twice=logo.twice.content,
        )
        db.add(asset)
        db.flush()
        asset_id = asset.id
    what = "portal.dark_logo" if dark else "portal.logo"
    merchants.audit(
        db,
        person,
        what if logo is not None else f"{what}_removed",
        subject=row.name,
        after={"sha256": logo.once.sha256[:12]} if logo else None,
        portal_id=row.id,
    )
    old_id = row.logo_dark_id if dark else row.logo_id
    if dark:
        row.logo_dark_id = asset_id
    else:
        row.logo_id = asset_id
    db.flush()
    if old_id is not None:
        _let_go(db, row.id, old_id)


def _let_go(db: Session, portal_id: int, asset_id: int) -> None:
    """An old picture goes, unless it is still the other one."""
    old = db.get(models.Asset, asset_id)
    if old is not None and old.portal_id == portal_id:
        db.delete(old)


def set_enabled(db: Session, person: Person, portal_id: int, enabled: bool) -> None:
    """The off switch: customers are told that the portal is closed, and nothing is lost."""
    row = merchants.portal_of(db, person.merchant_id, portal_id)
    if row is None:
        raise LookupError(portal_id)
    if row.enabled != enabled:
        row.enabled = enabled
        what = "portal.switched_on" if enabled else "portal.switched_off"
        merchants.audit(db, person, what, subject=row.name, portal_id=row.id)


@dataclass(frozen=True, slots=True)
class LogoView:
    sha256: str
    width: int
    height: int
    twice: str | None


def logos(db: Session, site: models.Portal) -> tuple[LogoView | None, LogoView | None]:
    """The portal's pictures, on light and on dark."""
    return _picture(db, site.id, site.logo_id), _picture(db, site.id, site.logo_dark_id)


def _picture(db: Session, portal_id: int, asset_id: int | None) -> LogoView | None:
    if asset_id is None:
        return None
    row = models.Asset
    found = db.execute(
        select(col(row.sha256), col(row.width), col(row.height), col(row.twice_sha256)).where(
            col(row.portal_id) == portal_id, col(row.id) == asset_id
        )
    ).one_or_none()
    return LogoView(*found) if found else None
