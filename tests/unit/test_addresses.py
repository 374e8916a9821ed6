"""Further addresses that a person adds themselves, and that records merge by verified addresses alone."""

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlmodel import col

from portal import addresses, clock, letters, login, models, people, sync, work
from portal.db import Database
from portal.gateways.base import CustomerRecord, OrderRecord, PaymentRecord, Snapshot, SubscriptionRecord
from portal.ids import id_text
from tests.unit.builders import NOW, make_account, make_customer, make_order, make_portal, save
from tests.unit.test_login_views import OWN, SECRET, Browser, words

HERE = "/customers/addresses"


class Person(Browser):
    """Somebody signed in, whose mails are kept as they are sent."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch, slug: str = "acme") -> None:
        super().__init__(database, slug)
        self.worker = work.Worker(self.app.state.settings, database)  # type: ignore[attr-defined]
        self.mails: list[tuple[str, str, str]] = []
        monkeypatch.setattr(letters, "send_batch", self._send)

    async def _send(self, _settings: Any, messages: Any, taken: Any = None) -> list[None]:
        for number, (to, message) in enumerate(messages):
            text = message.get_body(("plain",)).get_content()
            self.mails.append((to, message["Subject"], text))
            await taken(number)
        return [None] * len(messages)

    def work(self) -> None:
        asyncio.run(self.worker.drain())

    def told(self, to: str) -> list[str]:
        self.work()
        return [subject for whom, subject, _ in self.mails if whom == to]

    def add(self, email: str) -> Any:
        return self.post(HERE, data={"email": email})

    def proof(self, to: str) -> tuple[str, str]:
        """The link's path and the code of the newest mail to an address."""
        self.work()
        text = next(
            text for whom, _, text in reversed(self.mails) if whom == to and "/customers/join/" in text
        )
        code = re.search(r"^([0-9A-Z]{6})$", text, re.M)
        link = re.search(r"(/customers/join/\S+)", text)
        assert code
        assert link
        return link[1], code[1]

    def listed(self) -> list[str]:
        found = re.findall(r'<th scope="row"><bdi>([^<]+)</bdi>', self.get(HERE).text)
        return [unescape(one) for one in found]


@pytest.fixture
def portal(database: Database) -> models.Portal:
    return make_portal(database)


@pytest.fixture
def ana(database: Database, portal: models.Portal) -> models.Customer:
    return make_customer(database, portal)


@pytest.fixture
def old(database: Database, portal: models.Portal) -> models.Customer:
    found = make_customer(database, portal, "old@example.org")
    make_order(database, make_account(database, portal), found, remote_id="o_old", number="0815")
    return found


@pytest.fixture
def person(database: Database, ana: models.Customer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    with Person(database, monkeypatch) as found:
        found.sign_in()
        yield found


def whose(person: Person, remote_id: str = "o_old") -> int | None:
    row = models.Order
    wanted = select(col(row.customer_id)).where(col(row.remote_id) == remote_id)
    return person.database.read_now(lambda db: db.execute(wanted).scalar_one())


# Adding


def test_by_the_code_in_the_browser_that_asked(
    person: Person, ana: models.Customer, old: models.Customer
) -> None:
    assert person.listed() == ["ana@example.com"]
    answer = person.add(" Old@Example.org ")
    assert answer.headers["location"] == f"{HERE}#asked"
    assert "old@example.org" in words(person.get(HERE))
    link, code = person.proof("old@example.org")
    assert whose(person) == old.id  # nothing before the proof
    answer = person.post(f"{HERE}/code", data={"code": code.lower()})
    assert answer.headers["location"] == f"{HERE}?done=added"
    assert whose(person) == ana.id
    assert person.listed() == ["ana@example.com", "old@example.org"]
    assert "0815" in person.get("/customers/orders").text
    for mailbox in ("ana@example.com", "old@example.org"):
        assert "A further address at Acme Coffee" in person.told(mailbox)
    assert person.get(link).status_code == 200  # the link is still there, and can do no more
    assert person.post(link).status_code == 409
    audits = person.database.read_now(lambda db: list(db.execute(select(models.Audit)).scalars()))
    assert [one.what for one in audits] == ["address.joined"] * 2


def test_by_the_link_in_any_browser_and_opening_it_changes_nothing(
    database: Database, person: Person, ana: models.Customer, old: models.Customer
) -> None:
    person.add("old@example.org")
    link, _ = person.proof("old@example.org")
    with Browser(database) as phone:
        for _ in range(3):
            assert phone.get(link).status_code == 200
            assert phone.head(link).status_code == 200
        page = phone.get(link)
        assert "a•••@example.com" in words(page)
        assert "ana@example.com" not in page.text
        assert whose(person) == old.id
        assert "Joined" in words(phone.post(link))
        assert phone.post(link).status_code == 410
    assert whose(person) == ana.id


@pytest.mark.usefixtures("sqlite_only")
def test_the_mail_warns_who_did_not_ask(person: Person, old: models.Customer) -> None:
    person.add("old@example.org")
    person.proof("old@example.org")
    _, subject, text = person.mails[-1]
    assert subject == "Add this address to your Acme Coffee account?"
    assert "ana@example.com" not in text
    assert "tell nobody the code" in text


def test_the_answer_is_the_same_whether_an_address_is_known(
    database: Database, person: Person, old: models.Customer
) -> None:
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    answers, pages, statements = [], [], []
    for email in ("old@example.org", "nix@example.org", "void@razorpay.com"):
        event.listen(database.engine, "before_cursor_execute", note)
        seen.clear()
        answer = person.add(email)
        event.remove(database.engine, "before_cursor_execute", note)
        statements.append(list(seen))
        person.work()
        answers.append((answer.status_code, answer.headers["location"], answer.content))
        pages.append(person.get(HERE).text.replace(email, "*"))
    assert statements[0] == statements[1] == statements[2]
    assert answers[0] == answers[1] == answers[2]
    assert pages[0] == pages[1] == pages[2]
    assert [to for to, _, text in person.mails if "/customers/join/" in text] == ["old@example.org"]


@pytest.mark.usefixtures("sqlite_only")
def test_a_wrong_code_says_the_same_to_everybody_and_dies_after_five(
    person: Person, old: models.Customer
) -> None:
    shown = []
    for email in ("old@example.org", "nix@example.org"):
        person.add(email)
        person.work()
        tries = [person.post(f"{HERE}/code", data={"code": "ZZZZZZ"}) for _ in range(6)]
        shown.append([(one.status_code, one.text.replace(email, "*")) for one in tries])
    assert shown[0] == shown[1]
    assert {status for status, _ in shown[0]} == {422}
    person.add("old@example.org")


@pytest.mark.usefixtures("sqlite_only")
def test_a_code_is_of_the_person_and_the_browser_that_asked(
    database: Database, person: Person, portal: models.Portal, old: models.Customer
) -> None:
    make_customer(database, portal, "eve@example.com")
    person.add("old@example.org")
    link, code = person.proof("old@example.org")
    with Browser(database) as eve:
        eve.sign_in("eve@example.com")
        eve.post(HERE, data={"email": "old@example.org"})
        assert eve.post(f"{HERE}/code", data={"code": code}).status_code == 422
        # A code of signing in proves no further address, and the other way round.
        assert eve.post("/customers/login/code", data={"code": code}).status_code == 422
        assert eve.get(link.replace("/join/", "/login/")).status_code == 404
    person.sign_in("eve@example.com")  # in the browser that asked, somebody else
    assert person.post(f"{HERE}/code", data={"code": code}).status_code == 422
    assert whose(person) == old.id


@pytest.mark.usefixtures("sqlite_only")
def test_it_is_over_after_ten_minutes_and_of_one_portal(
    database: Database, person: Person, old: models.Customer
) -> None:
    make_portal(database, "kora")
    person.add("old@example.org")
    link, code = person.proof("old@example.org")
    with Browser(database, "kora") as stranger:
        assert stranger.get(link).status_code == 410
        assert stranger.post(link).status_code == 410
    clock.set_offset(timedelta(minutes=10, seconds=1))
    assert person.get(link).status_code == 410
    assert person.post(link).status_code == 410
    assert person.post(f"{HERE}/code", data={"code": code}).status_code == 422
    assert whose(person) == old.id


@pytest.mark.usefixtures("sqlite_only")
def test_who_has_not_proved_their_mailbox_for_a_while_does_so_first(
    person: Person, old: models.Customer
) -> None:
    clock.set_offset(addresses.FRESH + timedelta(seconds=1))
    assert 'name="code"' not in person.get(HERE).text
    answer = person.add("old@example.org")
    assert answer.status_code == 403
    assert 'name="next" value="/customers/addresses"' in answer.text
    person.work()
    assert not any("/customers/join/" in text for _, _, text in person.mails)


@pytest.mark.usefixtures("sqlite_only")
def test_who_came_from_the_merchants_app_has_proved_no_mailbox(person: Person) -> None:
    def from_app(db: Any) -> None:
        db.execute(models.SignIn.__table__.update().values(return_url="https://app.example"))  # type: ignore[attr-defined]

    person.database.write_now(from_app)
    assert person.add("old@example.org").status_code == 403


@pytest.mark.parametrize("typed", ["", "ana", "a@b,c@d.example", "ana@example.com", "ANA@example.com "])
@pytest.mark.usefixtures("sqlite_only")
def test_what_is_no_further_address_is_said(person: Person, typed: str) -> None:
    answer = person.add(typed)
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert "<title>Error:" in answer.text


@pytest.mark.usefixtures("sqlite_only")
def test_limits_are_silent(person: Person, portal: models.Portal) -> None:
    for number in range(8):
        make_customer(person.database, portal, f"p{number}@example.org")
        assert person.add(f"p{number}@example.org").headers["location"] == f"{HERE}#asked"
    for _ in range(5):
        person.add("p0@example.org")
    person.work()
    asked = [to for to, _, text in person.mails if "/customers/join/" in text]
    assert len(asked) == addresses.ASKS_A_DAY


def test_an_address_with_further_ones_is_told_why_not_after_its_proof_alone(
    database: Database, person: Person, portal: models.Portal, old: models.Customer
) -> None:
    third = make_customer(database, portal, "third@example.org")

    def join(db: Any) -> None:
        second, into = people.both_locked(db, third.id, old.id)
        assert people.join(db, portal.id, second, into, clock.now()) is None

    database.write_now(join)
    person.add("old@example.org")
    _, code = person.proof("old@example.org")
    answer = person.post(f"{HERE}/code", data={"code": code})
    assert answer.status_code == 422
    assert "has further addresses of its own" in words(answer)
    assert person.listed() == ["ana@example.com"]


# Removing


def test_removing_parts_them_and_tells_both(
    database: Database, person: Person, ana: models.Customer, old: models.Customer
) -> None:
    person.add("old@example.org")
    _, code = person.proof("old@example.org")
    person.post(f"{HERE}/code", data={"code": code})
    with Browser(database) as other:
        other.sign_in("old@example.org")
        assert "0815" in other.get("/customers/orders").text
        join = database.read_now(lambda db: db.execute(select(models.Join)).scalar_one())
        here = f"{HERE}/{id_text(join.id)}/remove"
        page = person.get(here)
        assert "Nothing is cancelled" in words(page)
        assert whose(person) == ana.id
        assert person.post(here).headers["location"] == f"{HERE}?done=removed"
        assert whose(person) == old.id
        assert not other.is_in()  # who came in by that address is signed out
    assert person.is_in()
    assert person.listed() == ["ana@example.com"]
    assert person.post(here).status_code == 404
    for mailbox in ("ana@example.com", "old@example.org"):
        assert "An address is removed at Acme Coffee" in person.told(mailbox)
    audits = database.read_now(lambda db: list(db.execute(select(models.Audit)).scalars()))
    assert [(one.what, one.who) for one in audits][2:] == [("address.parted", "ana@example.com")] * 2


@pytest.mark.usefixtures("sqlite_only")
def test_nobody_removes_anothers(
    database: Database, person: Person, portal: models.Portal, old: models.Customer
) -> None:
    ben = make_customer(database, portal, "ben@example.com")
    row = save(
        database,
        models.Join(
            portal_id=portal.id, from_id=old.id, into_id=ben.id, created_at=NOW, expires_at=NOW, proved_at=NOW
        ),
    )
    assert person.get(f"{HERE}/{id_text(row.id)}/remove").status_code == 404
    assert person.post(f"{HERE}/{id_text(row.id)}/remove").status_code == 404


@pytest.mark.usefixtures("sqlite_only")
def test_no_other_site_adds_or_removes(person: Person) -> None:
    cross = {**OWN, "Sec-Fetch-Site": "cross-site"}
    assert person.post(HERE, data={"email": "old@example.org"}, headers=cross).status_code == 403
    assert SECRET


# Merging


def test_one_address_is_one_person_over_records_accounts_and_processors(
    database: Database, portal: models.Portal
) -> None:
    stripe, more = make_account(database, portal), make_account(database, portal, label="Second shop")
    paystack, kora = make_account(database, portal, "paystack"), make_portal(database, "kora")
    elsewhere = make_account(database, kora)

    def hear(account: models.Account, prefix: str, email: str) -> None:
        said = Snapshot(
            as_of=NOW,
            customers=(
                CustomerRecord(remote_id=f"{prefix}_c1", email=email),
                CustomerRecord(remote_id=f"{prefix}_c2", email=f" {email.upper()} "),
            ),
            orders=(OrderRecord(remote_id=f"{prefix}_guest", status="paid", email=email.title()),),
            subscriptions=(
                SubscriptionRecord(remote_id=f"{prefix}_s", status="active", customer=f"{prefix}_c2"),
            ),
            payments=(PaymentRecord(remote_id=f"{prefix}_p", status="paid", order=f"{prefix}_guest"),),
        )
        database.write_now(sync.apply, account, said)

    for prefix, account in (("a", stripe), ("b", more), ("c", paystack), ("d", elsewhere)):
        hear(account, prefix, "ana.example@mail.example")
    hear(stripe, "e", "anaexample@mail.example")
    hear(stripe, "f", "ana.example+shop@mail.example")
    hear(paystack, "g", "guest@mail.example")

    def owners(db: Any) -> dict[str, set[str | None]]:
        emails = {one.id: one.email for one in db.execute(select(models.Customer)).scalars()}
        found: dict[str, set[str | None]] = {}
        for model in (models.RemoteCustomer, models.Order, models.Subscription, models.Payment):
            for row in db.execute(select(model)).scalars():
                found.setdefault(row.remote_id[0], set()).add(emails.get(row.customer_id))
        return found

    found = database.read_now(owners)
    assert found["a"] == found["b"] == found["c"] == found["d"] == {"ana.example@mail.example"}
    assert found["e"] == {"anaexample@mail.example"}  # dots and plus signs tell mailboxes apart
    assert found["f"] == {"ana.example+shop@mail.example"}
    assert found["g"] == {None}
    rows = database.read_now(lambda db: list(db.execute(select(models.Customer)).scalars()))
    assert len([one for one in rows if one.email == "ana.example@mail.example"]) == 2  # one in each portal
    assert login.masked("ana@example.com") == "a•••@example.com"
