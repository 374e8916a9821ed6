"""Whose pages are asked for: the portal of a host, and nothing where the host is not exactly one of ours."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models


@dataclass(frozen=True, slots=True)
class LogoView:
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PortalView:
    """What every page of a portal needs to know of it. `host` is the name its links are built from."""

    id: int
    slug: str
    name: str
    host: str
    locale: str
    time_zone: str
    country: str | None
    support_email: str
    shop_url: str | None
    sender_name: str | None
    terms_url: str | None
    privacy_url: str | None
    cancel_reasons: tuple[str, ...]
    can_invoice: bool
    request_days: int
    brand: tuple[tuple[str, str], ...]
    logo: LogoView | None


def portal_by_host(db: Session, host: str, base_domain: str) -> PortalView | None:
    """The portal that answers on this host: by its proved domain, or by its name of the installation."""
    slug = host.removesuffix(f".{base_domain}")
    named = col(models.Portal.domain) == host if slug == host else col(models.Portal.slug) == slug
    row = db.execute(select(models.Portal).where(named)).scalar_one_or_none()
    return view(db, row, base_domain) if row else None


def portal_by_id(db: Session, portal_id: int, base_domain: str) -> PortalView:
    """The same for a portal we know."""
    return view(db, db.get_one(models.Portal, portal_id), base_domain)


def view(db: Session, row: models.Portal, base_domain: str) -> PortalView:
    logo = None
    if row.logo_id:
        asset = models.Asset
        found = db.execute(
            select(col(asset.sha256), col(asset.width), col(asset.height)).where(
                col(asset.portal_id) == row.id, col(asset.id) == row.logo_id
            )
        ).one_or_none()
        logo = LogoView(*found) if found else None
    return PortalView(
        id=row.id,
        slug=row.slug,
        name=row.name,
        host=row.domain or f"{row.slug}.{base_domain}",
        locale=row.locale,
        time_zone=row.time_zone,
        country=row.country,
        support_email=row.support_email,
        shop_url=row.shop_url,
        sender_name=row.sender_name,
        terms_url=row.terms_url,
        privacy_url=row.privacy_url,
        cancel_reasons=tuple(row.cancel_reasons or ()),
        can_invoice=row.can_invoice,
        request_days=row.request_days,
        brand=tuple(sorted((row.brand or {}).items())),
        logo=logo,
    )
