"""Whose pages are asked for: the portal of a host, and nothing where the host is not exactly one of ours."""

from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models
from portal.policy import CancelPolicy, SaveOffer, offers_of
from portal.settings import Settings


@dataclass(frozen=True, slots=True)
class LogoView:
    """A picture as pages show it; `twice` is the name of the same at double the size."""

    sha256: str
    width: int
    height: int
    twice: str | None = None


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
    cancel_policy: CancelPolicy = field(default_factory=CancelPolicy)
    save_offers: tuple[SaveOffer, ...] = ()
    enabled: bool = True  # the merchant's off switch
    logo_dark: LogoView | None = None


def portal_by_host(db: Session, host: str, base_domain: str) -> PortalView | None:
    """The portal that answers on this host: by its proved domain, or by its name of the installation."""
    row = db.execute(select(models.Portal).where(*_answers(host, base_domain))).scalar_one_or_none()
    return view(db, row, base_domain) if row else None


def is_served(db: Session, host: str, base_domain: str) -> bool:
    """Whether a portal answers on this host, by one indexed read."""
    found = db.execute(select(col(models.Portal.id)).where(*_answers(host, base_domain)))
    return found.first() is not None


def _answers(host: str, base_domain: str) -> list[ColumnElement[bool]]:
    """One label before the base domain is a portal's name of the installation; all else is a domain, served for some
    days longer when its proof is lost."""
    row = models.Portal
    slug = host.removesuffix(f".{base_domain}")
    if slug != host and "." not in slug:
        return [col(row.slug) == slug]
    until = col(row.domain_until)
    return [col(row.domain) == host, or_(until.is_(None), until > clock.now())]


def portal_by_id(db: Session, portal_id: int, base_domain: str) -> PortalView:
    """The same for a portal we know."""
    return view(db, db.get_one(models.Portal, portal_id), base_domain)


def installation(settings: Settings) -> PortalView:
    """What stands in a portal's place where the installation itself writes: to merchants' people, about signing in."""
    return PortalView(
        id=0,
        slug="",
        name="Customer Portal",
        host=settings.admin_host,
        locale="en",
        time_zone="UTC",
        country=None,
        support_email=settings.mail_from,
        shop_url=None,
        sender_name=None,
        terms_url=None,
        privacy_url=None,
        cancel_reasons=(),
        can_invoice=False,
        request_days=0,
        brand=(),
        logo=None,
    )


def view(db: Session, row: models.Portal, base_domain: str) -> PortalView:
    logos = _logos(db, row)
    return PortalView(
        id=row.id,
        slug=row.slug,
        name=row.name,
        # A domain whose proof is lost is in no link any more.
        host=row.domain if row.domain and row.domain_until is None else f"{row.slug}.{base_domain}",
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
        logo=logos.get(row.logo_id),
        cancel_policy=CancelPolicy.of(row.cancel_policy),
        save_offers=offers_of(row.save_offers, row.cancel_reasons or ()),
        enabled=row.enabled,
        logo_dark=logos.get(row.logo_dark_id),
    )


def _logos(db: Session, row: models.Portal) -> dict[int | None, LogoView]:
    """The portal's pictures by their ids."""
    wanted = [asset_id for asset_id in (row.logo_id, row.logo_dark_id) if asset_id]
    if not wanted:
        return {}
    asset = models.Asset
    found = db.execute(
        select(
            col(asset.id), col(asset.sha256), col(asset.width), col(asset.height), col(asset.twice_sha256)
        ).where(col(asset.portal_id) == row.id, col(asset.id).in_(wanted))
    )
    return {one.id: LogoView(one.sha256, one.width, one.height, one.twice_sha256) for one in found}
