"""The way in for merchants, as a browser sees it: link, code, second step, invitations, proving oneself again."""

import base64
import re
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, login, merchants, models, totp
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text
from portal.vault import Vault
from tests.unit.builders import MASTER_KEY
from tests.unit.settings.conftest import (
    SECRET,
    Desk,
    address,
    make_person,
    make_settings,
    sign_in,
    sign_in_as,
)

VAULT = Vault(MASTER_KEY)


def mail(database: Database, open_to_all: bool = False) -> login.Prepared | None:
    """The mail to the newest ask, as the worker makes it."""

    def newest(db: Session) -> int:
        row = models.LoginRequest
        return db.execute(select(col(row.id)).order_by(col(row.id).desc()).limit(1)).scalar_one()

    number = database.read_now(newest)
    return database.write_now(login.prepare_mail, number, SECRET, clock.now(), open_to_all)


def test_in_by_the_link(client: Desk, database: Database, site: models.Portal) -> None:
    olga = make_person(database, site.merchant_id, email="olga@acme.example")
    answer = client.post("/sign-in", data={"email": "Olga@Acme.example", "next": address(site)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in/check")
    sent = mail(database)
    assert sent is not None
    assert sent.to == olga.email
    assert sent.portal_id is None
    page = client.get(f"/sign-in/link/{sent.token}")
    assert page.status_code == 200
    assert "o•••@acme.example" in page.text
    assert "olga@acme.example" not in page.text
    assert client.get("/settings").status_code == 303  # opening it changed nothing
    done = client.post(f"/sign-in/link/{sent.token}")
    assert (done.status_code, done.headers["location"]) == (303, address(site))
    assert client.get(address(site)).status_code == 200
    assert client.post(f"/sign-in/link/{sent.token}").status_code == 410


def test_in_by_the_code_in_the_browser_that_asked(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    make_person(database, site.merchant_id, email="olga@acme.example")
    client.post("/sign-in", data={"email": "olga@acme.example"})
    sent = mail(database)
    assert sent is not None
    assert other().post("/sign-in/code", data={"code": sent.code}).status_code == 422
    wrong = client.post("/sign-in/code", data={"code": "AAAAAA"})
    assert wrong.status_code == 422
    assert "4 more times" in wrong.text
    assert client.post("/sign-in/code", data={"code": sent.code.lower()}).headers["location"] == "/settings"
    assert client.get("/settings").status_code == 200


def test_strangers_are_answered_alike_and_get_no_mail(
    client: Desk, database: Database, site: models.Portal
) -> None:
    make_person(database, site.merchant_id, email="olga@acme.example")
    known = client.post("/sign-in", data={"email": "olga@acme.example"})
    unknown = client.post("/sign-in", data={"email": "eve@evil.example"})
    assert (known.status_code, known.headers["location"]) == (
        unknown.status_code,
        unknown.headers["location"],
    )
    assert mail(database) is None
    # A customer is nobody here.
    assert "eve@evil.example" in client.get("/sign-in/check").text


def test_where_all_may_begin_a_mail_makes_a_merchant(database: Database) -> None:
    with Desk(create_app(make_settings(signup="open"), database)) as browser:
        browser.post("/sign-in", data={"email": "new@shop.example"})
        sent = mail(database, open_to_all=True)
        assert sent is not None
        assert browser.post(f"/sign-in/link/{sent.token}").status_code == 303
        page = browser.get("/settings")
        assert page.status_code == 200
        assert "No portal yet" in page.text


def test_a_bad_address_is_kept_and_said(client: Desk) -> None:
    answer = client.post("/sign-in", data={"email": "olga at acme"})
    assert answer.status_code == 422
    assert 'value="olga at acme"' in answer.text
    assert "Enter an address such as" in answer.text


def test_the_cookie_is_the_merchants_own(client: Desk, database: Database, site: models.Portal) -> None:
    make_person(database, site.merchant_id, email="olga@acme.example")
    client.post("/sign-in", data={"email": "olga@acme.example"})
    sent = mail(database)
    assert sent is not None
    cookie = client.post(f"/sign-in/link/{sent.token}").headers["set-cookie"]
    assert cookie.startswith("portal-merchant=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    secure = create_app(make_settings(scheme="https"), database)
    assert merchants.cookie_name(secure.state.settings) == "__Host-portal-merchant"


def test_signing_out_ends_the_session(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    answer = client.post("/sign-out")
    assert answer.status_code == 303
    assert "cache" in answer.headers["clear-site-data"]
    assert client.get("/settings").status_code == 303
    assert database.read_now(lambda db: db.execute(select(models.MerchantSession)).all()) == []


def test_a_post_from_another_site_is_refused(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert (
            client.post("/settings/people/name", data={"merchant": "Evil"}, headers=headers).status_code
            == 403
        )


# The second step


def with_app(database: Database, user: models.User) -> tuple[bytes, list[str]]:
    secret = database.write_now(totp.begin, VAULT, user.id)
    code = totp.code_at(secret, int(clock.now().timestamp()) // 30)
    codes = database.write_now(totp.confirm, VAULT, user.id, code, clock.now())
    assert codes is not None
    return secret, codes


def test_with_an_app_the_mail_alone_opens_nothing(
    client: Desk, database: Database, site: models.Portal
) -> None:
    olga = make_person(database, site.merchant_id, email="olga@acme.example")
    _secret, codes = with_app(database, olga)
    client.post("/sign-in", data={"email": "olga@acme.example"})
    sent = mail(database)
    assert sent is not None
    client.post(f"/sign-in/link/{sent.token}")
    for path in ("/settings", address(site), "/settings/security"):
        assert client.get(path).headers["location"].startswith("/sign-in/second")
    assert (
        client.post("/settings/people/name", data={"merchant": "X"})
        .headers["location"]
        .startswith("/sign-in/second")
    )
    assert client.get("/sign-in/second").status_code == 200
    assert client.post("/sign-in/second", data={"code": "000000"}).status_code == 422
    answer = client.post("/sign-in/second", data={"code": codes[0], "next": address(site)})
    assert answer.headers["location"] == address(site)
    assert client.get(address(site)).status_code == 200


def test_the_app_is_set_up_on_the_page(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    assert client.post("/settings/security/app").status_code == 303
    page = client.get("/settings/security").text
    found = re.search(r'data-testid="secret">([A-Z2-7 ]+)<', page)
    assert found is not None
    assert client.post("/settings/security/app/confirm", data={"code": "12"}).status_code == 422
    secret = base64.b32decode(found[1].replace(" ", ""))
    code = totp.code_at(secret, int(clock.now().timestamp()) // 30)
    done = client.post("/settings/security/app/confirm", data={"code": code})
    assert done.status_code == 200
    assert len(re.findall(r"<li>[0-9a-f]{8}-[0-9a-f]{8}</li>", done.text)) == 10
    assert "factor.app_added" in client.get("/settings/audit").text
    assert client.get("/settings").status_code == 200  # this browser goes on


# Proving oneself again


def test_after_ten_minutes_people_are_changed_only_after_a_proof(
    client: Desk, database: Database, site: models.Portal
) -> None:
    olga = make_person(database, site.merchant_id, email="olga@acme.example")
    sign_in_as(client, database, olga, site.merchant_id)
    clock.set_offset(timedelta(minutes=11))
    asked = {"email": "edda@acme.example", "role": "editor"}
    answer = client.post("/settings/people/invite", data=asked)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/settings/confirm")
    assert database.read_now(lambda db: db.execute(select(models.Invitation)).all()) == []
    assert "Mail a code to olga@acme.example" in client.get("/settings/confirm").text
    client.post("/settings/confirm", data={"mail": "1", "next": "/settings/people"})
    sent = mail(database)
    assert sent is not None
    wrong = client.post("/settings/confirm", data={"code": "AAAAAA", "next": "/settings/people"})
    assert wrong.status_code == 422
    right = client.post("/settings/confirm", data={"code": sent.code, "next": "/settings/people"})
    assert right.headers["location"] == "/settings/people"
    assert client.post("/settings/people/invite", data=asked).headers["location"].endswith("done=invited")


def test_another_persons_code_proves_nothing(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    make_person(database, site.merchant_id, "viewer", "vera@acme.example")
    client.post("/sign-in", data={"email": "vera@acme.example"})  # of this very browser
    sent = mail(database)
    assert sent is not None
    clock.set_offset(timedelta(minutes=9, seconds=30))

    def long_ago(db: Session) -> None:
        db.execute(update(models.MerchantSession).values(proved_at=clock.now() - timedelta(hours=1)))

    database.write_now(long_ago)
    assert client.post("/settings/confirm", data={"code": sent.code}).status_code == 422


# The first start, and invitations


def test_the_set_up_link_leads_to_a_portal(client: Desk, database: Database) -> None:
    token = database.write_now(merchants.new_setup, clock.now())
    page = client.get(f"/setup/{token}")
    assert page.status_code == 200
    missing = client.post(f"/setup/{token}", data={"email": "olga", "merchant": "", "name": "Olga"})
    assert missing.status_code == 422
    assert 'value="olga"' in missing.text
    assert "Enter the name of your business" in missing.text
    done = client.post(f"/setup/{token}", data={"email": "olga@acme.example", "merchant": "Acme Ltd"})
    assert (done.status_code, done.headers["location"]) == (303, "/settings")
    assert "No portal yet" in client.get("/settings").text
    assert client.get(f"/setup/{token}").status_code == 410


def test_an_invitation_by_mail(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site)
    client.post("/settings/people/invite", data={"email": "edda@acme.example", "role": "editor"})
    number = database.read_now(lambda db: db.execute(select(col(models.Invitation.id))).scalar_one())
    found = database.write_now(merchants.invitation_link, number, clock.now())
    assert found is not None
    guest = other()
    page = guest.get(f"/invitations/{found[1]}")
    assert "edda@acme.example" in page.text
    assert guest.post(f"/invitations/{found[1]}", data={"name": "Edda"}).status_code == 303
    assert guest.get(address(site)).status_code == 200
    assert guest.post("/settings/people/name", data={"merchant": "Mine"}).status_code == 403
    people = client.get("/settings/people").text
    assert "Edda" in people
    assert "person.joined" in client.get("/settings/audit").text


def test_only_an_owner_asks_somebody_in(client: Desk, database: Database, site: models.Portal) -> None:
    for role in ("viewer", "editor"):
        sign_in(client, database, site, role)
        answer = client.post("/settings/people/invite", data={"email": "e@acme.example", "role": "owner"})
        assert answer.status_code == 403
        assert "Ask an owner" in answer.text
    assert database.read_now(lambda db: db.execute(select(models.Invitation)).all()) == []


def test_the_last_owner_is_told_why_they_stay(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    member = database.read_now(lambda db: db.execute(select(col(models.Member.id))).scalar_one())
    answer = client.post(f"/settings/people/{id_text(member)}", data={"remove": "1"})
    assert answer.status_code == 422
    assert "Somebody has to be the owner" in answer.text
