"""Settings > Customer Portal: create by three fields, edit, logo, preview, the switch, a customer's eyes."""

import io
import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from PIL import Image
from sqlalchemy import select
from sqlmodel import col

from portal import clock, models
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import make_customer
from tests.unit.settings.conftest import HTMX, Desk, address, make_person, sign_in, sign_in_as


def picture(colour: str = "#2f6f4f", size: tuple[int, int] = (200, 100), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def row(database: Database, portal_id: int) -> models.Portal:
    return database.read_now(lambda db: db.get_one(models.Portal, portal_id))


def portals(database: Database, merchant_id: int) -> list[models.Portal]:
    found = select(models.Portal).where(col(models.Portal.merchant_id) == merchant_id)
    statement = found.order_by(col(models.Portal.id))
    return database.read_now(lambda db: list(db.execute(statement).scalars()))


def form(site: models.Portal, **values: str) -> dict[str, str]:
    """The edit form as it stands, with some fields typed anew."""
    return {
        "version": str(site.version),
        "name": site.name,
        "support_email": site.support_email,
        "locale": "en",
        "time_zone": "UTC",
        "invoice_prefix": "INV-",
        **values,
    }


def test_a_portal_of_three_things(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    page = client.get("/settings/portals/new").text
    inputs = re.findall(r'<input[^>]* name="(\w+)"', page.split("<main")[1])
    assert inputs == ["name", "domain", "logo"]
    answer = client.post(
        "/settings/portals/new",
        data={"name": "Blue Öl & Söhne", "domain": "account.blue.example"},
        files={"logo": ("logo.png", picture(), "image/png")},
    )
    assert answer.status_code == 303, answer.text
    made = portals(database, site.merchant_id)[-1]
    assert answer.headers["location"] == f"/settings/portals/{id_text(made.id)}?done=created"
    assert (made.name, made.slug) == ("Blue Öl & Söhne", "blue-ol-sohne")
    assert made.domain is None  # unproved
    claims = database.read_now(lambda db: list(db.execute(select(models.DomainClaim)).scalars()))
    assert [(claim.portal_id, claim.name) for claim in claims] == [(made.id, "account.blue.example")]
    asset = database.read_now(lambda db: db.get_one(models.Asset, made.logo_id))
    assert (asset.height, asset.width) == (32, 64)
    assert Image.open(io.BytesIO(asset.content), formats=["PNG"]).size == (64, 32)
    assert asset.twice is not None
    assert Image.open(io.BytesIO(asset.twice), formats=["PNG"]).size == (128, 64)
    # It is there at once under a name of the installation, and its pictures with it.
    shop = Desk(client.app, "blue-ol-sohne.localhost")  # type: ignore[arg-type]
    front = shop.get("/customers")
    assert front.status_code == 200
    for name in (asset.sha256, asset.twice_sha256):
        assert f"/customers/logo/{name}.png" in front.text
        kept = shop.get(f"/customers/logo/{name}.png")
        assert kept.status_code == 200
        assert "immutable" in kept.headers["cache-control"]
        assert kept.headers["x-content-type-options"] == "nosniff"


def test_a_name_alone_is_enough_and_names_of_the_installation_are_told_apart(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site)
    for name in ("Acme", "ACME!", "admin", "日本"):
        assert client.post("/settings/portals/new", data={"name": name}).status_code == 303
    slugs = [one.slug for one in portals(database, site.merchant_id)]
    assert slugs == ["acme", "acme-2", "acme-3", "admin-2", "portal-2"]


@pytest.mark.parametrize(
    ("domain", "says"),
    [
        ("acme", "such as"),
        ("*.acme.example", ""),
        ("192.0.2.7", ""),
        ("acme.example/path", ""),
        ("kora.localhost", ""),
        ("exa mple.com", ""),
    ],
)
def test_a_bad_domain_loses_nothing(
    client: Desk, database: Database, site: models.Portal, domain: str, says: str
) -> None:
    sign_in(client, database, site)
    answer = client.post("/settings/portals/new", data={"name": "Blue", "domain": domain})
    assert answer.status_code == 422
    assert 'value="Blue"' in answer.text
    assert f'value="{domain}"' in answer.text
    assert 'id="domain-error"' in answer.text
    assert says in answer.text
    assert len(portals(database, site.merchant_id)) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7 ...", "PDF"),
        (picture(size=(3000, 3000)), "million pixels"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 2_000_000, "1 MB"),
        (picture()[:-30], ""),
    ],
)
def test_a_bad_logo_is_said_and_loses_nothing(
    client: Desk, database: Database, site: models.Portal, content: bytes, says: str
) -> None:
    sign_in(client, database, site)
    answer = client.post(
        "/settings/portals/new",
        data={"name": "Blue", "domain": "account.blue.example"},
        files={"logo": ("logo.png", content, "image/png")},
    )
    assert answer.status_code == 422
    error = re.search(r'id="logo-error">(.*?)</p>', answer.text, re.S)
    assert error is not None
    assert says in error[1]
    assert 'value="Blue"' in answer.text
    assert 'value="account.blue.example"' in answer.text


def test_fifty_megabytes_are_read_to_the_end_and_answered(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site)

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nBlue\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="logo"; filename="a.png"\r\n\r\n'
        for _ in range(50):
            yield b"x" * 1_048_576
        yield b"\r\n--b--\r\n"

    answer = client.post(
        "/settings/portals/new",
        content=body(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code == 422
    assert 'value="Blue"' in answer.text
    assert "1 MB" in answer.text


def test_viewers_make_no_portal_and_editors_no_domain(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site, "viewer")
    assert client.get("/settings/portals/new").status_code == 403
    assert client.post("/settings/portals/new", data={"name": "Blue"}).status_code == 403
    editor = sign_in(other(), database, site, "editor")
    answer = editor.post("/settings/portals/new", data={"name": "Blue", "domain": "a.blue.example"})
    assert answer.status_code == 422
    assert "owner" in answer.text
    assert editor.post("/settings/portals/new", data={"name": "Blue"}).status_code == 303


# Edit


def test_settings_are_saved_and_written_down(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    values = form(
        site,
        name="Acme Tea",
        brand_colour="#FC0",
        support_email="tea@acme.example",
        terms_url="https://acme.example/terms",
        time_zone="Asia/Kathmandu",
        country="np",
    )
    answer = client.post(address(site), data=values)
    assert answer.headers["location"] == address(site, "?done=saved")
    saved = row(database, site.id)
    assert (saved.name, saved.brand_colour, saved.country, saved.version) == ("Acme Tea", "#ffcc00", "NP", 2)
    assert saved.brand["brand-light"] == "#ffcc00"
    assert saved.brand["on-brand-light"] == "#000000"
    page = client.get("/settings/audit").text
    for words in ("portal.changed", "Acme Tea", "tea@acme.example", "Asia/Kathmandu"):
        assert words in page
    assert "shop_url" not in page  # what did not change is not told


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("brand_colour", "greenish"),
        ("support_email", "help"),
        ("terms_url", "javascript:alert(1)"),
        ("shop_url", "http://acme.example"),
        ("privacy_url", 'https://acme.example/"><script>'),
        ("time_zone", "Mars/Olympus"),
        ("locale", "xx"),
        ("country", "Germany"),
        ("invoice_prefix", "A B!"),
    ],
)
def test_what_is_wrong_is_said_and_kept(
    client: Desk, database: Database, site: models.Portal, field: str, value: str
) -> None:
    sign_in(client, database, site)
    answer = client.post(address(site), data=form(site, **{"tax_id": "DE 77", field: value}))
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert 'value="DE 77"' in answer.text
    assert "<title>Error:" in answer.text
    assert "<script>" not in answer.text.split("<main")[1]
    assert row(database, site.id).version == 1


def test_the_later_of_two_sees_what_changed(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    olga = make_person(database, site.merchant_id, email="olga@acme.example")
    edda = make_person(database, site.merchant_id, "editor", "edda@acme.example")
    sign_in_as(client, database, olga, site.merchant_id)
    second = sign_in_as(other(), database, edda, site.merchant_id)
    assert client.post(address(site), data=form(site, name="Olga's name")).status_code == 303
    late = second.post(address(site), data=form(site, name="Edda's name", tax_id="DE 1"))
    assert late.status_code == 422
    assert "olga@acme.example has saved meanwhile" in late.text
    assert "Saved meanwhile: “Olga&#39;s name”" in late.text
    assert "Edda&#39;s name" in late.text
    assert 'value="DE 1"' in late.text
    version = re.search(r'name="version" value="(\d+)"', late.text)
    assert version is not None
    again = second.post(address(site), data=form(site, name="Edda's name", version=version[1]))
    assert again.status_code == 303
    assert row(database, site.id).name == "Edda's name"


def test_the_preview_shows_what_is_typed_and_saves_nothing(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    piece = client.post(
        address(site, "/preview"), data=form(site, name="Typed", brand_colour="#ffcc00"), headers=HTMX
    )
    assert piece.status_code == 200
    assert piece.text.strip().startswith('<div id="preview"')
    assert "Typed" in piece.text
    sheet = re.search(r'href="(/settings/brand/[0-9a-f]{6}\.css)"', piece.text)
    assert sheet is not None
    css = client.get(sheet[1])
    assert css.headers["content-type"].startswith("text/css")
    assert "--brand:light-dark(#ffcc00" in css.text
    assert row(database, site.id).name == site.name
    assert client.get("/settings/brand/zzz.css").status_code == 404


# The logo


def test_a_logo_is_put_up_changed_and_taken_down(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    up = client.post(address(site, "/logo"), files={"logo": ("a.webp", picture(kind="WEBP"), "image/webp")})
    assert up.status_code == 200
    assert "The logo is up" in up.text
    first = row(database, site.id).logo_id
    src = re.search(r'src="([^"]*/logo/[0-9a-f]{64}\.png)"', up.text)
    assert src is not None
    assert client.get(src[1]).content.startswith(b"\x89PNG")
    dark = client.post(address(site, "/logo_dark"), files={"logo_dark": ("a.png", picture("#ffffff"), "x")})
    assert dark.status_code == 200
    client.post(address(site, "/logo"), files={"logo": ("b.png", picture("#aa0000"), "image/png")})
    saved = row(database, site.id)
    assert saved.logo_id != first
    assert saved.logo_dark_id is not None
    assert database.read_now(lambda db: db.get(models.Asset, first)) is None
    shop = Desk(client.app, "acme.localhost")  # type: ignore[arg-type]
    assert 'media="(prefers-color-scheme:dark)"' in shop.get("/customers").text
    client.post(address(site, "/logo"), data={"remove": "1"}, files={"logo": ("", b"")})
    assert row(database, site.id).logo_id is None
    assert client.post(address(site, "/logo"), files={"logo": ("", b"")}).status_code == 422


def test_a_strangers_picture_is_not_found(
    client: Desk, database: Database, site: models.Portal, stranger: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site)
    client.post(address(site, "/logo"), files={"logo": ("a.png", picture(), "image/png")})
    asset = database.read_now(lambda db: db.execute(select(models.Asset)).scalar_one())
    thief = sign_in(other(), database, stranger)
    assert thief.get(address(site, f"/logo/{asset.sha256}.png")).status_code == 404
    assert thief.get(address(stranger, f"/logo/{asset.sha256}.png")).status_code == 404
    assert other("kora.localhost").get(f"/customers/logo/{asset.sha256}.png").status_code == 404


# The switch, and a customer's eyes


def test_switched_off_customers_are_told_and_nothing_else_changes(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site)
    assert other("acme.localhost").get("/customers").status_code == 200
    assert client.post(address(site, "/switch"), data={"enabled": "0"}).status_code == 303
    shop = other("acme.localhost")
    for path in ("/customers", "/customers/orders"):
        closed = shop.get(path)
        assert closed.status_code == 503
        assert "Closed for now" in closed.text
        assert "help@acme.example" in closed.text
    assert shop.post("/customers/login", data={"email": "ana@example.com"}).status_code == 503
    assert client.post("/webhooks/nobody").status_code == 404  # the machines' addresses are not asked
    client.post(address(site, "/switch"), data={"enabled": "1"})
    assert shop.get("/customers").status_code == 200
    page = client.get("/settings/audit").text
    assert "portal.switched_off" in page
    assert "portal.switched_on" in page


def test_view_as_customer_sees_all_and_changes_nothing(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    ana = make_customer(database, site)
    sign_in(client, database, site, "viewer")
    page = client.post(address(site, f"/customers/{id_text(ana.id)}/view"))
    link = re.search(r'href="http://acme\.localhost(/customers/view/[A-Za-z0-9_-]{43})"', page.text)
    assert link is not None
    shop = other("acme.localhost")
    assert shop.get(link[1]).status_code == 200
    assert shop.get("/customers/orders").status_code == 303  # the link alone opened nothing
    assert shop.post(link[1]).headers["location"] == "/customers/orders"
    assert shop.post(link[1]).status_code == 410
    seen = shop.get("/customers/orders")
    assert 'data-testid="viewing"' in seen.text
    for path in ("/customers/sessions/end", "/customers/requests/0000000000000/withdraw"):
        assert shop.post(path, data={}).status_code == 403, path
    assert shop.post("/customers/sessions/end").status_code == 403
    assert "viewed_as_customer" in client.get("/settings/audit").text
    assert shop.post("/customers/view/end").status_code == 303
    assert shop.get("/customers/orders").status_code == 303


def test_a_view_ends_after_half_an_hour_and_its_link_after_two_minutes(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    ana = make_customer(database, site)
    sign_in(client, database, site)
    for wait, status in ((timedelta(minutes=1), 303), (timedelta(minutes=3), 410)):
        clock.set_offset(timedelta(0))
        page = client.post(address(site, f"/customers/{id_text(ana.id)}/view"))
        link = re.search(r"(/customers/view/[A-Za-z0-9_-]{43})", page.text)
        assert link is not None
        clock.set_offset(wait)
        shop = other("acme.localhost")
        assert shop.post(link[1]).status_code == status
        if status == 303:
            clock.set_offset(timedelta(minutes=32))
            assert shop.get("/customers/orders").status_code == 303


def test_a_strangers_customer_is_not_looked_at(
    client: Desk, database: Database, site: models.Portal, stranger: models.Portal
) -> None:
    theirs = make_customer(database, stranger)
    sign_in(client, database, site)
    for portal in (site, stranger):
        assert client.post(address(portal, f"/customers/{id_text(theirs.id)}/view")).status_code == 404
    assert database.read_now(lambda db: db.execute(select(models.Entry)).all()) == []
