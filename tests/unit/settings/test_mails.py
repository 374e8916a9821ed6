"""Mails as a person of the merchant meets them: the list, their own words beside a faithful preview, a real test."""

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from email import message_from_bytes
from email.policy import default
from html import unescape
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import clock, mailtexts, models, work
from portal.db import Database
from portal.ids import id_text
from portal.mailtexts import KINDS
from portal.settings import Settings
from tests.unit.builders import make_account, save
from tests.unit.settings.conftest import HTMX, Desk, address, make_person, make_settings, sign_in, sign_in_as
from tests.unit.test_mail import Sink, sink


def words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def of(database: Database, site: models.Portal, kind: str = "paused") -> mailtexts.Words:
    return database.read_now(mailtexts.words, site.id, kind)


def test_the_list_shows_every_mail_and_which_are_the_merchants(
    client: Desk, database: Database, site: models.Portal
) -> None:
    now = clock.now()
    save(
        database,
        models.MailText(portal_id=site.id, template="paused", enabled=False, body="Hi.", changed_at=now),
    )
    sign_in(client, database, site, "viewer")
    html = client.get(address(site, "/mails")).text
    rows = {
        match[1]: words(match[2])
        for match in re.finditer(r'data-testid="mail" data-ref="(\w+)">(.*?)</tr>', html, re.S)
    }
    assert list(rows) == list(KINDS)
    assert "Your words Off" in rows["paused"]
    assert "Our words Always goes out" in rows["login"]
    assert "Our words Goes out" in rows["resumed"]


def test_sender_and_reply_address_are_saved(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site, "editor")
    here = address(site, "/mails")
    wrong = {"sender_name": "x" * 81, "support_email": "nobody", "version": "1"}
    refused = client.post(here, data=wrong, headers=HTMX)
    assert refused.status_code == 422
    assert 'value="nobody"' in refused.text
    assert 'id="sender_name-error"' in refused.text
    right = {"sender_name": "Acme service", "support_email": "hello@acme.example", "version": "1"}
    assert client.post(here, data=right).headers["location"] == f"{here}?done=saved"
    row = database.read_now(lambda db: db.get_one(models.Portal, site.id))
    assert (row.sender_name, row.support_email) == ("Acme service", "hello@acme.example")
    late = client.post(here, data={**right, "sender_name": "Mine"}, headers=HTMX)
    assert late.status_code == 422
    assert "Saved meanwhile: “Acme service”" in words(late.text)
    page = client.get(address(site, "/mails/paused")).text
    assert "Acme service" in words(page[page.index('data-testid="shown"') :])


@pytest.mark.parametrize("kind", KINDS)
def test_every_mail_has_a_page_with_its_preview(
    client: Desk, database: Database, site: models.Portal, kind: str
) -> None:
    sign_in(client, database, site)
    answer = client.get(address(site, f"/mails/{kind}"))
    assert answer.status_code == 200
    html = answer.text
    for name in KINDS[kind].placeholders:
        assert f"{{{name}}}" in html
    assert (KINDS[kind].always is None) == ('name="enabled"' in html)
    shown = html[html.index('data-testid="shown"') :]
    assert "This mail went to ana@example.com" in words(shown)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert " style=" not in html
    assert "<iframe" not in html


def test_words_are_saved_shown_and_given_back(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site, "editor")
    here = address(site, "/mails/paused")
    typed = {
        "version": "0",
        "enabled": "1",
        "subject": "Rest, {title}",
        "words": "Hello {name},\r\n\r\nrest well.",
    }
    assert client.post(here, data=typed).headers["location"] == f"{here}?done=saved"
    assert of(database, site) == mailtexts.Words(True, "Rest, {title}", "Hello {name},\n\nrest well.", 1)
    page = client.get(here).text
    shown = words(page[page.index('data-testid="shown"') :])
    assert "Rest, Monthly coffee box" in shown
    assert "Hello Ana Example, rest well." in shown
    assert "No payments are taken" not in shown
    assert "Back to our words" in page
    client.post(f"{here}/ours", data={"version": "1"})
    assert of(database, site) == mailtexts.Words(True, None, None, 2)
    page = client.get(here).text
    assert "No payments are taken while it is paused." in page
    assert "Back to our words" not in page


def test_what_is_just_ours_is_not_kept_as_theirs(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    kind = KINDS["resumed"]
    typed = {"version": "0", "subject": kind.subject, "words": kind.body.replace("\n", "\r\n")}
    client.post(address(site, "/mails/resumed"), data=typed)
    assert of(database, site, "resumed") == mailtexts.Words(False, None, None, 1)  # only that it is off


def test_what_is_wrong_is_named_and_nothing_typed_is_lost(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    typed = {"version": "0", "subject": "Rest {nmae}", "words": "Dear <b>{name}</b>"}
    answer = client.post(address(site, "/mails/paused"), data=typed, headers=HTMX)
    assert answer.status_code == 422
    assert "{nmae} is not known in this mail. There are: {shop}, {name}," in words(answer.text)
    assert 'id="words-error"' in answer.text
    assert 'value="Rest {nmae}"' in answer.text
    assert "Dear &lt;b&gt;{name}&lt;/b&gt;" in answer.text
    assert "this shows our words" in answer.text
    assert 'name="enabled" value="1">' in answer.text  # it was not ticked, and still is not
    assert of(database, site).version == 0


def test_a_mail_that_always_goes_out_can_not_be_switched_off(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    for kind in ("login", "cancelled", "request_received"):
        client.post(address(site, f"/mails/{kind}"), data={"version": "0", "subject": "Hello"})
        assert of(database, site, kind).enabled
        assert "It always goes out." in client.get(address(site, f"/mails/{kind}")).text


def test_the_preview_shows_what_is_typed_and_keeps_nothing(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    typed = {"version": "0", "subject": "{title} & <co>", "words": "One.\n\nTwo {unknown}."}
    wrong = client.post(address(site, "/mails/paused/preview"), data=typed)
    assert wrong.status_code == 200
    assert "this shows our words" in wrong.text
    typed = {"version": "0", "subject": "{title} & co", "words": "Until {date}: 1 < 2."}
    piece = client.post(address(site, "/mails/paused/preview"), data=typed).text
    assert piece.count(' id="shown"') == 1
    assert "<html" not in piece
    assert "Monthly coffee box &amp; co" in piece
    assert "1 &lt; 2" in piece
    whole = client.post(
        address(site, "/mails/paused"), data={**typed, "do": "preview"}
    ).text  # without JavaScript
    assert "<html" in whole
    assert "Monthly coffee box &amp; co" in whole
    assert of(database, site).version == 0


def test_the_later_of_two_is_told(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site, "editor")
    ana = make_person(database, site.merchant_id, "owner", "ana@merchant.example")
    hers = sign_in_as(other(), database, ana, site.merchant_id)
    here = address(site, "/mails/paused")
    hers.post(here, data={"version": "0", "subject": "Hers", "enabled": "1"})
    answer = client.post(here, data={"version": "0", "subject": "Mine", "enabled": "1"}, headers=HTMX)
    assert answer.status_code == 422
    assert "ana@merchant.example has saved meanwhile" in words(answer.text)
    assert "Saved meanwhile: “Hers”" in words(answer.text)
    assert 'value="Mine"' in answer.text
    assert client.post(here, data={"version": "1", "subject": "Mine", "enabled": "1"}).status_code == 303
    assert client.post(f"{here}/ours", data={"version": "1"}, headers=HTMX).status_code == 422
    assert of(database, site).subject == "Mine"


def test_roles_and_strangers(
    client: Desk, database: Database, site: models.Portal, stranger: models.Portal
) -> None:
    sign_in(client, database, site, "viewer")
    here = address(site, "/mails/paused")
    assert client.get(here).status_code == 200
    assert "Save mail" not in client.get(here).text
    for path in ("/mails", "/mails/paused", "/mails/paused/ours"):
        assert client.post(address(site, path), data={"version": "0", "do": "test"}).status_code == 403
        assert client.post(address(stranger, path), data={"version": "0"}).status_code == 404
    assert client.get(address(site, "/mails/merchant_alarm")).status_code == 404
    assert client.get(address(site, "/mails/note")).status_code == 404
    assert client.get(address(stranger, "/mails/paused")).status_code == 404


# A test mail


def work_at(database: Database, settings: Settings) -> None:
    asyncio.run(work.Worker(settings, database).once())


def with_sink(server: Sink, **fields: Any) -> Settings:
    return make_settings(smtp_port=server.port, smtp_tls="none", **fields)


def test_a_test_really_goes_out_as_typed_and_its_result_is_shown(
    client: Desk, database: Database, site: models.Portal
) -> None:
    make_account(database, site, "mollie")
    person = sign_in(client, database, site, "editor")
    here = address(site, "/mails/paused")
    typed = {"version": "0", "subject": "Rest, {title}", "words": "Hello {name}.", "do": "test"}
    with sink() as server:
        settings = with_sink(server)
        page = person.post(here, data=typed, headers=HTMX)
        assert page.status_code == 200
        assert 'data-test="waiting"' in page.text
        assert 'value="Rest, {title}"' in page.text
        found = re.search(rf'hx-get="({re.escape(here)}/test/[0-9a-z]{{13}})"', page.text)
        assert found is not None
        work_at(database, settings)
        piece = person.get(found[1], headers=HTMX).text
        assert 'data-test="sent"' in piece
        assert "The mail server took it for editor-" in words(piece)
        assert "hx-trigger" not in piece
        assert 'data-test="sent"' in person.get(found[1]).text  # and without JavaScript
        assert server.recipients == [f"editor-{site.merchant_id}@merchant.example"]
        message = message_from_bytes(server.messages[0], policy=default)
    assert message["Subject"] == "Test: Rest, Monthly coffee box"
    assert "Hello Ana Example." in server.messages[0].decode()
    assert "Mollie confirmed it on" in server.messages[0].decode()
    assert of(database, site).version == 0  # sent, and not saved


def test_a_test_that_is_refused_says_so(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site, "editor")
    here = address(site, "/mails/login")
    with sink() as server:
        server.answers[f"editor-{site.merchant_id}@merchant.example"] = "550 No such user"
        page = client.post(here, data={"version": "0", "do": "test"}, headers=HTMX).text
        work_at(database, with_sink(server))
    link = re.search(r'hx-get="([^"]+/test/[^"]+)"', page)
    assert link is not None
    piece = client.get(link[1], headers=HTMX).text
    assert 'data-test="refused"' in piece
    assert "SMTPRecipientsRefused 550" in piece


def test_a_mail_server_that_is_not_there_is_tried_again_and_said(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    page = client.post(address(site, "/mails/login"), data={"version": "0", "do": "test"}, headers=HTMX).text
    work_at(database, make_settings(smtp_port=9, smtp_tls="none"))
    link = re.search(r'hx-get="([^"]+/test/[^"]+)"', page)
    assert link is not None
    piece = client.get(link[1], headers=HTMX).text
    assert 'data-test="waiting"' in piece
    assert "It could not be sent yet" in piece


def test_two_presses_are_one_test(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site, "editor")
    clock.set_offset(timedelta(seconds=10 - clock.now().timestamp() % 10))
    for _press in range(3):
        client.post(address(site, "/mails/paused"), data={"version": "0", "do": "test"})
    jobs = database.read_now(
        lambda db: list(
            db.execute(select(col(models.Job.id)).where(col(models.Job.kind) == "mail")).scalars()
        )
    )
    assert len(jobs) == 1


def test_nobody_sees_what_became_of_anothers_test_or_of_any_other_job(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site, "editor")
    here = address(site, "/mails/paused")
    page = client.post(here, data={"version": "0", "do": "test"}, headers=HTMX).text
    link = re.search(r'hx-get="([^"]+/test/[^"]+)"', page)
    assert link is not None
    ana = make_person(database, site.merchant_id, "owner", "ana@merchant.example")
    hers = sign_in_as(other(), database, ana, site.merchant_id)
    assert hers.get(link[1]).status_code == 404
    job = save(
        database,
        models.Job(kind="backfill", payload={"account": 1}, run_at=clock.now(), created_at=clock.now()),
    )
    assert client.get(f"{here}/test/{id_text(job.id)}").status_code == 404
