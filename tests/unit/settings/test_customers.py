"""Finding customers, their page, records of nobody, further addresses, and taking data out, on screen."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from portal import clock, login, models, names, people
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import (
    make_account,
    make_action,
    make_customer,
    make_order,
    make_payment,
    make_refund,
    make_request,
    make_subscription,
    save,
)
from tests.unit.settings.conftest import HTMX, Desk, address, sign_in


class Shop:
    """Ana with one of everything, and an order of nobody."""

    def __init__(self, database: Database, site: models.Portal) -> None:
        self.database, self.site = database, site
        self.account = make_account(database, site, label="Main till")
        self.ana = make_customer(database, site, name="Ana <i> Almeida")
        self.order = make_order(database, self.account, self.ana, number="1001", remote_id="o_1")
        self.row = make_subscription(database, self.account, self.ana, remote_id="sub_1")
        self.payment = make_payment(database, self.account, self.ana, remote_id="ch_1", order_remote="o_1")
        make_refund(database, self.account, self.payment, amount_minor=400)
        self.nobodys = make_order(database, self.account, None, number="1002", remote_id="o_2")
        database.write_now(names.write_missing)

    def page(self, path: str = "") -> str:
        return address(self.site, f"/customers{path}")

    def of_ana(self, path: str = "") -> str:
        return self.page(f"/{id_text(self.ana.id)}{path}")

    def record(self) -> str:
        return self.page(f"/unassigned/order/{id_text(self.nobodys.id)}")

    def all(self, model: Any) -> list[Any]:
        return self.database.read_now(lambda db: list(db.execute(select(model).order_by(model.id)).scalars()))

    def audits(self) -> list[str]:
        return [one.what for one in self.all(models.Audit)]


@pytest.fixture
def shop(database: Database, site: models.Portal) -> Shop:
    return Shop(database, site)


# Finding


def test_without_a_text_the_newest_customers(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    page = client.get(shop.page())
    assert page.status_code == 200
    assert "Newest customers" in page.text
    assert "Ana &lt;i&gt; Almeida" in page.text
    assert 'role="search"' in page.text
    assert "Download CSV" not in page.text  # that is an editor's
    piece = client.get(shop.page(), headers=HTMX)
    assert "<html" not in piece.text


@pytest.mark.parametrize(
    ("typed", "groups"),
    [
        ("ana@", ["people"]),
        ("almeida", ["people"]),
        ("1001", ["orders"]),
        ("o_2", ["orders"]),
        ("24.00 USD", ["orders", "payments", "subscriptions"]),
        ("sub_1", ["subscriptions"]),
        ("nothing like it", []),
    ],
)
def test_results_stand_in_their_groups(client: Desk, shop: Shop, typed: str, groups: list[str]) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    page = client.get(shop.page(), params={"q": typed})
    assert page.status_code == 200
    assert re.findall(r'<section class="stack g2" id="(\w+)"', page.text) == groups
    assert ("Nothing matches" in page.text) == (not groups)
    assert f'value="{typed}"' in page.text


def test_what_is_found_leads_to_its_page(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    page = client.get(shop.page(), params={"q": "o_1"}).text
    assert f'href="{shop.of_ana()}/orders/{id_text(shop.order.id)}"' in page
    page = client.get(shop.page(), params={"q": "o_2"}).text
    assert f'href="{shop.record()}"' in page
    assert "nobody's yet" in page
    asked = make_request(shop.database, shop.row)
    page = client.get(shop.page(), params={"q": asked.reference}).text
    assert address(shop.site, f"/requests/{id_text(asked.id)}") in page


def test_one_group_goes_on_page_by_page(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    for _ in range(40):
        make_payment(shop.database, shop.account, shop.ana, amount_minor=777)
    path = client.get(shop.page(), params={"q": "7.77"}).text
    found = re.search(r'href="([^"]+only=payments[^"]+)"', path)
    seen, link = 10, found[1] if found else None
    while link:
        page = client.get(link.replace("&amp;", "&")).text
        seen += page.count('data-testid="thing"')
        more = re.search(r'rel="next" href="([^"]+)"', page)
        link = more[1] if more else None
    assert seen == 41 - 1


@pytest.mark.parametrize(
    "query", ["?after=%00", "?q=ana&only=nothing", "?q=24&only=orders&after=zzz", "?after=AAAA"]
)
def test_strange_addresses_are_no_error(client: Desk, shop: Shop, query: str) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    assert client.get(shop.page(query)).status_code == 200


# A customer


def test_the_page_of_a_customer_has_all_of_theirs(client: Desk, shop: Shop) -> None:
    make_action(
        shop.database,
        shop.row,
        phase="confirmed",
        confirmed_at=clock.now(),
        closed_at=clock.now(),
        created_at=clock.now(),
        reference="AAA-AAA",
    )
    asked = make_request(shop.database, shop.row, reference="BBB-BBB")
    save(
        shop.database,
        models.Job(
            kind="mail",
            payload={"template": "request_received", "request": asked.id},
            run_at=clock.now(),
            created_at=clock.now(),
            done_at=clock.now(),
            dedupe=f"mail:request_received:{asked.id}",
        ),
    )
    shop.database.write_now(
        login._open_session,
        shop.site.id,
        shop.ana.email,
        "browser-of-ana-01",
        "Mozilla (Windows) Firefox/1",
        None,
        clock.now(),
    )
    sign_in(client, shop.database, shop.site, "viewer")
    page = client.get(shop.of_ana()).text
    for words in (
        "Ana &lt;i&gt; Almeida",
        "ana@example.com",
        '<code class="copy">sub_1</code>',
        "Main till",
        "Can do here",
        "<bdi>1001</bdi>",
        "ch_1",
        "Refunded",
        "AAA-AAA",
        "Proven",
        "BBB-BBB",
        "Order placed",
        "Wanted: Pause",
        "Mail sent",
        "We have your request",
        "Signed in",
        "Firefox on Windows",
        f'action="{shop.of_ana()}/view"',
    ):
        assert words in page, words
    assert "/customers/subscriptions/" not in page.replace(
        shop.page(), ""
    )  # nothing leads to the customers' own pages
    assert page.count("<h1") == 1
    assert "Download their data" not in page


def test_what_a_customer_can_do_stands_there_as_text(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    page = client.get(shop.of_ana()).text
    found = re.search(r"<dt>Can do here</dt><dd>([^<]*)</dd>", page)
    assert found
    assert "Update the payment method" in found[1]
    assert "Cancel" in found[1]
    assert "/cancel" not in page


def test_lists_and_orders_behind_the_page(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    for number in range(30):
        make_order(shop.database, shop.account, shop.ana, number=f"n{number}")
    page = client.get(shop.of_ana("/orders")).text
    assert page.count('data-testid="order"') == 25
    more = re.search(r'rel="next" href="([^"]+)"', page)
    assert more
    assert client.get(more[1]).text.count('data-testid="order"') == 6
    for name in ("payments", "subscriptions", "requests", "actions"):
        assert client.get(shop.of_ana(f"/{name}")).status_code == 200
    assert client.get(shop.of_ana("/secrets")).status_code == 404
    order = client.get(shop.of_ana(f"/orders/{id_text(shop.order.id)}"))
    assert order.status_code == 200
    for words in ("Order 1001", "Ethiopia Guji", "What happened", '<code class="copy">o_1</code>', "ch_1"):
        assert words in order.text, words


def test_a_strangers_customer_is_not_there(
    client: Desk, shop: Shop, stranger: models.Portal, database: Database
) -> None:
    sign_in(client, database, stranger, "owner")
    theirs = address(stranger, f"/customers/{id_text(shop.ana.id)}")
    for path in ("", "/orders", "/subscriptions", f"/orders/{id_text(shop.order.id)}"):
        assert client.get(shop.of_ana(path)).status_code == 404
        assert client.get(theirs + path).status_code == 404
    for path in ("/export", "/join", f"/joins/{id_text(5)}/undo"):
        assert client.post(theirs + path, data={"email": "x@example.com"}).status_code == 404
    kora = address(stranger, "/customers")
    assert client.get(f"{kora}/unassigned/order/{id_text(shop.nobodys.id)}").status_code == 404
    assert (
        client.post(
            f"{kora}/unassigned/order/{id_text(shop.nobodys.id)}", data={"email": "x@example.com"}
        ).status_code
        == 404
    )
    assert "ana@" not in client.get(kora, params={"q": "ana"}).text
    assert shop.audits() == []


# Records of nobody


def test_a_record_is_assigned_by_an_address(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    page = client.get(shop.page("/unassigned")).text
    assert page.count('data-testid="record"') == 1
    assert shop.record() in page
    form = client.get(shop.record()).text
    assert "It stays so until you undo it" in form
    refused = client.post(shop.record(), data={"email": "nothing"})
    assert refused.status_code == 422
    assert 'value="nothing"' in refused.text
    done = client.post(shop.record(), data={"email": "Ben@example.com"})
    assert done.headers["location"] == shop.page("/unassigned?done=assigned")
    assert "Nothing is unassigned" in client.get(done.headers["location"]).text
    ben = next(one for one in shop.all(models.Customer) if one.email == "ben@example.com")
    # Who comes late goes where it is now.
    assert client.get(shop.record()).headers["location"] == shop.page(f"/{id_text(ben.id)}")
    late = client.post(shop.record(), data={"email": "eve@example.com"})
    assert late.status_code == 422
    assert "This belongs to ben@example.com by now." in late.text
    said = client.get(shop.page("/assigned")).text
    assert "ben@example.com" in said
    undo = re.search(r'action="([^"]+/undo)"', said)
    assert undo
    assert client.post(undo[1]).headers["location"] == shop.page("/assigned?done=back")
    assert client.post(undo[1]).status_code == 404
    assert client.get(shop.page("/unassigned")).text.count('data-testid="record"') == 1
    assert shop.audits() == ["record.assigned", "record.taken_back"]


def test_a_record_is_left_alone(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    assert client.post(shop.record(), data={"ignore": "1"}).headers["location"].endswith("done=ignored")
    assert client.get(shop.record()).headers["location"] == shop.page("/assigned")
    assert "left alone" in client.get(shop.page("/assigned")).text
    assert client.get(shop.page("/unassigned/nothing/0000000000000")).status_code == 404


def test_a_viewer_changes_nothing(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "viewer")
    assert "not say whose it is" in client.get(shop.record()).text
    for path, data in (
        (shop.record(), {"email": "eve@example.com"}),
        (shop.page(f"/assigned/{id_text(5)}/undo"), {}),
        (shop.of_ana("/join"), {"email": "eve@example.com"}),
        (shop.of_ana(f"/joins/{id_text(5)}/undo"), {}),
        (shop.of_ana("/export"), {}),
        (shop.page("/export"), {"what": "customers"}),
    ):
        assert client.post(path, data=data).status_code == 403, path
    assert shop.audits() == []


# Further addresses


def test_an_address_is_joined_by_the_customer_and_parted_by_the_merchant(
    client: Desk, shop: Shop, other: Callable[..., Desk]
) -> None:
    second = make_customer(shop.database, shop.site, "old@example.com")
    make_order(shop.database, shop.account, second, number="old-1")
    sign_in(client, shop.database, shop.site, "editor")
    asked = client.post(shop.of_ana("/join"), data={"email": "old@example.com"})
    assert asked.headers["location"] == f"{shop.of_ana()}?done=asked"
    page = client.get(asked.headers["location"]).text
    assert "a mail has gone to it" in page
    assert "the link works until" in page
    join = shop.all(models.Join)[0]
    link = shop.database.write_now(people.new_link, join.id, clock.now())
    assert link is not None
    browser, path = other("acme.localhost"), f"/customers/join/{link[1]}"
    question = browser.get(path)
    assert question.status_code == 200
    assert "o•••@example.com" in question.text
    assert "a•••@example.com" in question.text
    assert "old@example.com" not in question.text
    assert browser.head(path).status_code == 200
    assert shop.all(models.Join)[0].proved_at is None
    assert "shown together" in browser.post(path).text
    assert browser.get(path).status_code == 410
    assert browser.post(path).status_code == 410
    page = client.get(shop.of_ana()).text
    assert "joined on" in page
    assert "<bdi>old-1</bdi>" in page
    of_second = client.get(shop.page(f"/{id_text(second.id)}")).text
    assert "This address belongs to <bdi>ana@example.com</bdi>" in of_second
    undo = f"{shop.of_ana()}/joins/{id_text(join.id)}/undo"
    assert undo in page
    parted = client.post(undo)
    assert parted.headers["location"] == f"{shop.of_ana()}?done=parted"
    assert "<bdi>old-1</bdi>" not in client.get(shop.of_ana()).text
    assert client.post(undo).status_code == 404


def test_an_unknown_address_is_answered_alike(client: Desk, shop: Shop) -> None:
    make_customer(shop.database, shop.site, "old@example.com")
    sign_in(client, shop.database, shop.site, "editor")
    answers = [
        client.post(shop.of_ana("/join"), data={"email": email})
        for email in ("old@example.com", "nobody@example.com")
    ]
    assert len({(one.status_code, one.headers["location"]) for one in answers}) == 1
    assert len([job for job in shop.all(models.Job) if job.kind == "mail"]) == 1
    refused = client.post(shop.of_ana("/join"), data={"email": "ana@example.com"})
    assert refused.status_code == 422
    assert "have already" in refused.text


def test_a_link_of_another_portal_opens_nothing(
    shop: Shop, stranger: models.Portal, other: Callable[..., Desk]
) -> None:
    second = make_customer(shop.database, shop.site, "old@example.com")
    now = clock.now()
    join = save(
        shop.database,
        models.Join(
            portal_id=shop.site.id,
            from_id=second.id,
            into_id=shop.ana.id,
            created_at=now,
            expires_at=now + timedelta(days=1),
        ),
    )
    link = shop.database.write_now(people.new_link, join.id, now)
    assert link is not None
    browser = other("kora.localhost")
    assert browser.get(f"/customers/join/{link[1]}").status_code == 410
    assert browser.post(f"/customers/join/{link[1]}").status_code == 410
    for strange in ("x", "a" * 3000, "%00", "../../x"):
        assert other("acme.localhost").get(f"/customers/join/{strange}").status_code in (404, 410)
    assert shop.all(models.Join)[0].proved_at is None


# Taking out


def test_lists_are_downloaded_and_that_is_written_down(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    for name in ("customers", "orders", "subscriptions", "payments", "requests"):
        answer = client.post(shop.page("/export"), data={"what": name})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert re.fullmatch(
            rf'attachment; filename="acme-{name}-\d{{4}}-\d\d-\d\d\.csv"',
            answer.headers["content-disposition"],
        )
        assert answer.headers["cache-control"] == "private, no-store"
        rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
        assert len(rows) == {"orders": 2, "requests": 0}.get(name, 1)
    assert client.post(shop.page("/export"), data={"what": "keys"}).status_code == 404
    audits = [one for one in shop.all(models.Audit) if one.what == "data.exported"]
    assert [one.subject for one in audits] == ["customers", "orders", "subscriptions", "payments", "requests"]


def test_a_persons_data_is_downloaded_and_that_is_written_down(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.site, "editor")
    answer = client.post(shop.of_ana("/export"))
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        data = json.loads(archive.read("data.json"))
    assert data["customer"]["email"] == "ana@example.com"
    assert [one["number"] for one in data["orders"]] == ["1001"]
    (audit,) = shop.all(models.Audit)
    assert (audit.what, audit.subject) == ("customer.exported", "ana@example.com")
