"""The queue on screen, a request and its answer, who was first, and the ready answers."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from portal import clock, merchants, models
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import (
    make_account,
    make_customer,
    make_payment,
    make_request,
    make_subscription,
    save,
)
from tests.unit.settings.conftest import HTMX, Desk, address, make_person, sign_in, sign_in_as


class Shop:
    """A portal with an open request of Ana's."""

    def __init__(self, database: Database, site: models.Portal) -> None:
        self.database, self.site = database, site
        self.account = make_account(database, site)
        self.ana = make_customer(database, site, name="Ana <b>")
        self.row = make_subscription(database, self.account, self.ana, remote_id="sub_42")
        self.asked = self.ask(words="Because <script>alert(1)</script>")

    def ask(self, **fields: Any) -> models.Request:
        row = (
            make_subscription(self.database, self.account, self.ana)
            if fields.pop("anew", False)
            else self.row
        )
        now = clock.now()
        values = {"due_at": now + timedelta(days=3), "created_at": now, **fields}
        return make_request(self.database, row, **values)

    def now(self, request_id: int) -> models.Request:
        return self.database.read_now(lambda db: db.get_one(models.Request, request_id))

    def all(self, model: Any) -> list[Any]:
        return self.database.read_now(lambda db: list(db.execute(select(model)).scalars()))

    def page(self, row: models.Request | None = None) -> str:
        return address(self.site, f"/requests/{id_text((row or self.asked).id)}")


@pytest.fixture
def shop(database: Database, site: models.Portal) -> Shop:
    return Shop(database, site)


def test_the_queue_shows_what_is_open_and_what_is_overdue_on_top(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    late = shop.ask(anew=True, due_at=clock.now() - timedelta(hours=1))
    shop.ask(anew=True, status="done", closed_at=clock.now(), answer="Yes")
    page = client.get(address(shop.site, "/requests"))
    assert page.status_code == 200
    refs = re.findall(r'data-ref="(\w+)"', page.text)
    assert refs == [id_text(late.id), id_text(shop.asked.id)]
    assert "2 requests wait for your answer. 1 is overdue." in page.text
    assert 'class="pill bad">Overdue' in page.text
    overdue = client.get(address(shop.site, "/requests?show=overdue"))
    assert re.findall(r'data-ref="(\w+)"', overdue.text) == [id_text(late.id)]
    answered = client.get(address(shop.site, "/requests?show=answered"))
    assert answered.text.count('data-testid="request"') == 1
    piece = client.get(address(shop.site, "/requests"), headers=HTMX)
    assert "<html" not in piece.text
    assert piece.text.count('id="body"') == 1


def test_an_empty_queue_says_so(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site, "viewer")
    for show, words in (
        ("open", "Nothing is open"),
        ("overdue", "Nothing is overdue"),
        ("answered", "Nothing is answered"),
    ):
        assert words in client.get(address(site, f"/requests?show={show}")).text


def test_a_request_has_all_that_decides(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    page = client.get(shop.page()).text
    for words in (
        shop.asked.reference,
        "Let it go on: <bdi>Monthly coffee box</bdi>",
        "Ana &lt;b&gt;",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        '<code class="copy">sub_42</code>',
        "$24.00</bdi> every month",
        f"/customers/{id_text(shop.ana.id)}",
    ):
        assert words in page, words


def test_a_strangers_request_is_not_there(
    client: Desk, shop: Shop, stranger: models.Portal, database: Database
) -> None:
    sign_in(client, database, stranger, "owner")
    for path in (shop.page(), address(stranger, f"/requests/{id_text(shop.asked.id)}")):
        assert client.get(path).status_code == 404
        assert client.post(path, data={"do": "done"}).status_code == 404
    assert shop.now(shop.asked.id).status == "open"


def test_a_viewer_reads_and_does_not_answer(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    page = client.get(shop.page()).text
    assert "It is done" not in page
    assert "not answer them" in page
    assert client.post(shop.page(), data={"do": "done"}).status_code == 403
    assert client.post(address(shop.site, "/requests/answers"), data={}).status_code == 403


def test_an_answer_goes_to_the_customer_and_is_written_down(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    answer = client.post(shop.page(), data={"do": "declined", "sentence": "  We no longer roast it.  "})
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{shop.page()}?done=answered"
    row = shop.now(shop.asked.id)
    assert (row.status, row.answer) == ("declined", "We no longer roast it.")
    who = f"editor-{shop.site.merchant_id}@merchant.example"
    assert (row.history[-1]["who"], row.history[-1]["by"]) == ("merchant", who)
    (mail,) = [job for job in shop.all(models.Job) if job.kind == "mail"]
    assert mail.payload == {"template": "request_answered", "request": row.id}
    (audit,) = [one for one in shop.all(models.Audit) if one.what == "request.answered"]
    assert (audit.who, audit.subject, audit.after["status"]) == (who, row.reference, "declined")
    page = client.get(answer.headers["location"]).text
    assert "The customer gets a mail." in page
    assert who in page
    assert 'name="sentence"' not in page


def test_customers_are_not_told_which_person_answered(
    client: Desk, shop: Shop, other: Callable[..., Desk]
) -> None:
    from portal import login

    sign_in(client, shop.database, shop.site, "editor")
    client.post(shop.page(), data={"do": "done", "sentence": ""})
    browser = other("acme.localhost")
    token = shop.database.write_now(
        login._open_session, shop.site.id, shop.ana.email, "browser-of-ana-01", "Firefox", None, clock.now()
    )
    browser.cookies.set("portal", token or "")
    page = browser.get("/customers/requests").text
    assert "Done" in page
    assert "merchant.example" not in page


def test_to_decline_takes_a_sentence(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    answer = client.post(shop.page(), data={"do": "declined", "sentence": " "}, headers=HTMX)
    assert answer.status_code == 422
    assert "Say why, in a sentence" in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert client.post(shop.page(), data={"do": "burn", "sentence": "x"}).status_code == 422
    assert shop.now(shop.asked.id).status == "open"


def test_the_second_is_told_who_was_first_and_loses_nothing(
    client: Desk, shop: Shop, other: Callable[..., Desk]
) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    ben = make_person(shop.database, shop.site.merchant_id, "editor", "ben@merchant.example")
    second = sign_in_as(other(), shop.database, ben, shop.site.merchant_id)
    assert second.post(shop.page(), data={"do": "done", "sentence": "I did it."}).status_code == 303
    late = client.post(shop.page(), data={"do": "declined", "sentence": "No <i>way</i>, my long answer."})
    assert late.status_code == 422
    assert "ben@merchant.example has answered this on" in late.text
    assert "No &lt;i&gt;way&lt;/i&gt;, my long answer." in late.text
    row = shop.now(shop.asked.id)
    assert (row.status, row.answer) == ("done", "I did it.")
    assert len([one for one in shop.all(models.Audit) if one.what == "request.answered"]) == 1


def test_what_the_customer_took_back_is_said(client: Desk, shop: Shop) -> None:
    from portal import requests

    sign_in(client, shop.database, shop.site, "editor")
    shop.database.write_now(requests.withdraw, shop.site.id, shop.ana.id, shop.asked.id, clock.now())
    late = client.post(shop.page(), data={"do": "done", "sentence": ""})
    assert late.status_code == 422
    assert "taken this back meanwhile" in late.text


# Ready answers


def ready(shop: Shop, *texts: str) -> None:
    def write(db: Any) -> None:
        row = db.get_one(models.Portal, shop.site.id)
        row.answer_templates = [{"title": f"No. {n}", "text": text} for n, text in enumerate(texts)]

    shop.database.write_now(write)


def test_a_ready_answer_is_filled_in_after_what_was_typed_and_sends_nothing(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    ready(shop, "Dear {customer}, {what} ({reference}) at {shop}. {unknown} {0} {customer.email} 100%")
    answer = client.post(shop.page(), data={"do": "fill", "template": "0", "sentence": "Hello."})
    assert answer.status_code == 200
    assert "Hello.\n\nDear Ana &lt;b&gt;, Monthly coffee box (" in answer.text
    assert (
        f"({shop.asked.reference}) at Acme Coffee. {{unknown}} {{0}} {{customer.email}} 100%" in answer.text
    )
    assert shop.now(shop.asked.id).status == "open"
    for wrong in ("9", "x", "-1", ""):
        refused = client.post(shop.page(), data={"do": "fill", "template": wrong, "sentence": "Hello."})
        assert refused.status_code == 422
        assert ">Hello.</textarea>" in refused.text


def test_ready_answers_are_written_changed_and_deleted(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    path = address(shop.site, "/requests/answers")

    def version() -> str:
        found = re.search(r'name="version" value="(\d+)"', client.get(path).text)
        assert found
        return found[1]

    def send(**fields: str) -> Any:
        return client.post(path, data={"version": version(), "index": "", **fields})

    def stored() -> Any:
        return shop.database.read_now(lambda db: db.get_one(models.Portal, shop.site.id).answer_templates)

    assert send(title="Yes", text="It is done, {customer}.").headers["location"] == f"{path}?done=saved"
    assert send(title="No", text="We can't.").status_code == 303
    assert send(index="0", title="Yes!", text="Done.").status_code == 303
    assert stored() == [{"title": "Yes!", "text": "Done."}, {"title": "No", "text": "We can't."}]
    refused = send(title="", text="Kept <text>")
    assert refused.status_code == 422
    assert "Kept &lt;text&gt;" in refused.text
    assert send(index="1", title="", text="", delete="1").headers["location"] == f"{path}?done=deleted"
    assert stored() == [{"title": "Yes!", "text": "Done."}]
    assert send(index="7", title="x", text="y").status_code == 404
    assert [one.what for one in shop.all(models.Audit)] == ["portal.answers"] * 4


def test_of_two_who_save_at_once_the_later_one_is_told(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    path = address(shop.site, "/requests/answers")
    first = {"version": "1", "index": "", "title": "Yes", "text": "Done."}
    assert client.post(path, data=first).status_code == 303
    late = client.post(path, data={**first, "title": "No", "text": "My long text."})
    assert late.status_code == 422
    assert "has changed the settings of this portal meanwhile" in late.text
    assert "My long text." in late.text
    found = re.search(r'name="version" value="(\d+)"', late.text)
    assert found
    again = client.post(path, data={**first, "title": "No", "text": "My long text.", "version": found[1]})
    assert again.status_code == 303


def test_there_are_only_so_many(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    ready(shop, *["text"] * 30)
    answer = client.post(
        address(shop.site, "/requests/answers"), data={"version": "1", "index": "", "title": "x", "text": "y"}
    )
    assert answer.status_code == 422
    assert "Delete one first" in answer.text


def test_the_page_is_one_of_the_merchants_alone(client: Desk, shop: Shop) -> None:
    assert client.get(address(shop.site, "/requests")).status_code == 303
    assert merchants.ROLES[0] == "viewer"


# An order that somebody looks for


def looked_for(shop: Shop, payment: models.Payment | None) -> models.Request:
    now, params = clock.now(), {"reference": "A-1001", "last4": "4242", "amount": "24.00", "currency": "USD"}
    row = models.Request(
        portal_id=shop.site.id,
        account_id=payment.account_id if payment else None,
        contact="ana@right.example",
        subject_id=payment.id if payment else shop.row.id,
        kind="find_order",
        reference="FND-234",
        what="A-1001",
        params={**params, "placed_on": "2026-11-12", "payment": id_text(payment.id) if payment else None},
        history=[{"at": now.isoformat(), "who": "customer", "what": "asked", "text": None}],
        due_at=now + timedelta(days=3),
        created_at=now,
    )
    return save(shop.database, row)  # type: ignore[no-any-return]


def test_who_looks_for_an_order_is_shown_unverified_and_given_it_by_a_tick(client: Desk, shop: Shop) -> None:
    payment = make_payment(shop.database, shop.account, shop.ana)
    row = looked_for(shop, payment)
    sign_in(client, shop.database, shop.site, "editor")
    listed = client.get(address(shop.site, "/requests")).text
    assert "ana@right.example" in listed
    page = client.get(shop.page(row)).text
    assert "Not verified" in page
    assert payment.remote_id in page
    assert "All of it is true of a payment of" in page
    assert client.post(shop.page(row), data={"do": "done", "give": "1"}).status_code in (204, 303)
    (said,) = shop.all(models.Assignment)
    moved = shop.database.read_now(lambda db: db.get_one(models.Payment, payment.id))
    whose = shop.database.read_now(lambda db: db.get_one(models.Customer, moved.customer_id or 0))
    assert (whose.email, said.customer_id) == ("ana@right.example", whose.id)
    assert "Answered" in client.get(shop.page(row)).text


def test_what_was_not_found_can_be_answered_and_not_given(client: Desk, shop: Shop) -> None:
    row = looked_for(shop, None)
    sign_in(client, shop.database, shop.site, "editor")
    page = client.get(shop.page(row)).text
    assert "Nothing the portal knows" in page
    assert 'name="give"' not in page
    client.post(shop.page(row), data={"do": "declined", "sentence": "Write to us.", "give": "1"})
    assert shop.now(row.id).status == "declined"
    assert shop.all(models.Assignment) == []
