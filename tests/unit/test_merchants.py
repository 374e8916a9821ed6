"""People of the merchant's side: the first link, invitations, roles, sessions, and the record of changes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from portal import clock, login, merchants, models
from portal.db import Database
from portal.merchants import Person
from tests.unit.builders import make_portal

AGENT = "Mozilla/5.0 (Windows NT 10.0) Firefox/140.0"


def begin(database: Database, email: str = "olga@acme.example", name: str = "Acme") -> Person:
    """An owner, by the one-time link of the first start."""
    token = database.write_now(merchants.new_setup, clock.now())
    session = take(database, token, email, merchant=name)
    assert session is not None
    return who(database, session)


def take(database: Database, token: str, email: str = "", name: str = "", merchant: str = "") -> str | None:
    return database.write_now(
        merchants.take_invitation, token, email, name, merchant, AGENT, "192.0.2.1", clock.now()
    )


def who(database: Database, session: str) -> Person:
    found = database.read_now(merchants.load_session, session, clock.now())
    assert found is not None
    return found.person


def invited(database: Database, by: Person, email: str, role: merchants.Role) -> str:
    """The secret of an invitation's link, as the worker puts it into the mail."""
    number = database.write_now(merchants.invite, by, email, role, clock.now())
    found = database.write_now(merchants.invitation_link, number, clock.now())
    assert found is not None
    return found[1]


def join(database: Database, by: Person, email: str, role: merchants.Role) -> Person:
    session = take(database, invited(database, by, email, role), name="Somebody")
    assert session is not None
    return who(database, session)


def changes(database: Database, person: Person) -> list[str]:
    return [row.what for row in database.read_now(merchants.audit_page, person, None).rows]


def test_the_first_link_makes_an_owner_once(database: Database) -> None:
    assert database.read_now(merchants.is_empty)
    token = database.write_now(merchants.new_setup, clock.now())
    session = take(database, token, "Olga@Acme.example", "Olga", "Acme Ltd")
    assert session is not None
    olga = who(database, session)
    assert (olga.email, olga.name, olga.merchant, olga.role) == (
        "olga@acme.example",
        "Olga",
        "Acme Ltd",
        "owner",
    )
    assert not database.read_now(merchants.is_empty)
    assert take(database, token, "eve@evil.example", merchant="Evil") is None


def test_a_link_ends_after_an_hour_and_by_a_newer_one(database: Database) -> None:
    first = database.write_now(merchants.new_setup, clock.now())
    second = database.write_now(merchants.new_setup, clock.now())
    assert take(database, first, "a@acme.example", merchant="Acme") is None
    clock.set_offset(timedelta(minutes=61))
    assert take(database, second, "a@acme.example", merchant="Acme") is None


def test_twenty_hands_on_one_link_make_one_merchant(database: Database) -> None:
    token = database.write_now(merchants.new_setup, clock.now())
    with ThreadPoolExecutor(8) as pool:
        taken = list(
            pool.map(lambda n: take(database, token, f"p{n}@acme.example", merchant="Acme"), range(20))
        )
    assert sum(session is not None for session in taken) == 1
    assert database.read_now(lambda db: len(db.execute(select(models.Merchant)).all())) == 1


def test_an_open_link_lets_nobody_in_as_somebody_else(database: Database) -> None:
    begin(database)
    token = database.write_now(merchants.new_setup, clock.now())
    with pytest.raises(merchants.Refused, match="already"):
        take(database, token, "olga@acme.example", merchant="Evil")
    assert take(database, token, "new@other.example", merchant="Other") is not None  # the link was not spent


def test_an_invitation_joins_its_merchant_with_its_role(database: Database) -> None:
    olga = begin(database)
    edda = join(database, olga, "Edda@acme.example", "editor")
    assert (edda.merchant_id, edda.role, edda.email) == (olga.merchant_id, "editor", "edda@acme.example")
    assert {row.email: row.role for row in database.read_now(merchants.people, olga)} == {
        "olga@acme.example": "owner",
        "edda@acme.example": "editor",
    }
    with pytest.raises(merchants.Refused, match="belongs"):
        database.write_now(merchants.invite, olga, "edda@acme.example", "viewer", clock.now())


def test_the_address_of_an_invitation_is_not_the_guests_to_choose(database: Database) -> None:
    olga = begin(database)
    session = take(
        database, invited(database, olga, "edda@acme.example", "viewer"), email="olga@acme.example"
    )
    assert session is not None
    assert who(database, session).email == "edda@acme.example"


def test_a_withdrawn_invitation_opens_nothing(database: Database) -> None:
    olga = begin(database)
    token = invited(database, olga, "edda@acme.example", "viewer")
    (row,) = database.read_now(merchants.open_invitations, olga, clock.now())
    stranger = begin(database, "kurt@kora.example", "Kora")
    assert not database.write_now(merchants.withdraw_invitation, stranger, row.id, clock.now())
    assert database.write_now(merchants.withdraw_invitation, olga, row.id, clock.now())
    assert take(database, token) is None


def test_the_last_owner_stays_one(database: Database) -> None:
    olga = begin(database)
    member = database.read_now(merchants.people, olga)[0].id
    with pytest.raises(merchants.Refused, match="owner"):
        database.write_now(merchants.change_role, olga, member, "viewer")
    with pytest.raises(merchants.Refused, match="owner"):
        database.write_now(merchants.remove, olga, member)
    join(database, olga, "otto@acme.example", "owner")
    database.write_now(merchants.change_role, olga, member, "viewer")
    assert database.read_now(merchants.people, olga)[0].role == "viewer"


def test_who_is_removed_is_signed_out_at_once(database: Database) -> None:
    olga = begin(database)
    session = take(database, invited(database, olga, "edda@acme.example", "editor"))
    assert session is not None
    edda = next(row for row in database.read_now(merchants.people, olga) if row.role == "editor")
    database.write_now(merchants.remove, olga, edda.id)
    assert database.read_now(merchants.load_session, session, clock.now()) is None


def test_a_stranger_changes_nobodys_role(database: Database) -> None:
    olga, kurt = begin(database), begin(database, "kurt@kora.example", "Kora")
    member = database.read_now(merchants.people, olga)[0].id
    with pytest.raises(LookupError):
        database.write_now(merchants.change_role, kurt, member, "viewer")
    with pytest.raises(LookupError):
        database.write_now(merchants.remove, kurt, member)


def test_sessions_end_by_idling_and_by_age(database: Database) -> None:
    token = database.write_now(merchants.new_setup, clock.now())
    session = take(database, token, "olga@acme.example", merchant="Acme")
    assert session is not None
    person = who(database, session)
    for hours in (0.9, 1.8, 2.7):
        clock.set_offset(timedelta(hours=hours))
        database.write_now(merchants.touch, person.session_id, clock.now())
    assert database.read_now(merchants.load_session, session, clock.now()) is not None
    clock.set_offset(timedelta(hours=3.8))
    assert database.read_now(merchants.load_session, session, clock.now()) is None
    clock.set_offset(timedelta(hours=24.1))
    database.write_now(merchants.touch, person.session_id, clock.now())
    assert database.read_now(merchants.load_session, session, clock.now()) is None
    database.write_now(merchants.forget_old, clock.now())
    assert database.read_now(lambda db: db.execute(select(models.MerchantSession)).all()) == []


def test_an_address_of_nobody_gets_no_session(database: Database) -> None:
    def sign_in(open_to_all: bool) -> str | None:
        return database.write_now(
            merchants.sign_in, "eve@evil.example", AGENT, "192.0.2.9", None, clock.now(), open_to_all
        )

    assert sign_in(False) is None
    session = sign_in(True)
    assert session is not None
    assert who(database, session).merchant == "evil.example"


def test_what_was_mailed_for_a_portal_opens_nothing_here(database: Database) -> None:
    portal = make_portal(database)
    olga = begin(database)

    def customer(db: Session) -> None:
        db.add(models.Customer(portal_id=portal.id, email=olga.email, created_at=clock.now()))

    database.write_now(customer)
    for mine, other in ((portal.id, None), (None, portal.id)):
        asked = database.write_now(
            login.ask, mine, olga.email, "b" * 32, AGENT, "192.0.2.1", "/customers/orders", clock.now()
        )
        prepared = database.write_now(login.prepare_mail, asked, "secret", clock.now())
        assert prepared is not None
        assert database.read_now(login.look_at_link, other, prepared.token, None, clock.now()) == "foreign"
        assert database.write_now(login.spend_link, other, prepared.token, clock.now()) == "foreign"
        code = database.write_now(login.spend_code, other, prepared.code, "b" * 32, "secret", clock.now())
        assert isinstance(code, login.WrongCode)
        spent = database.write_now(login.spend_link, mine, prepared.token, clock.now())
        assert isinstance(spent, login.Spent)


def test_who_belongs_to_two_goes_from_one_to_the_other(database: Database) -> None:
    olga, kurt = begin(database), begin(database, "kurt@kora.example", "Kora")
    both = take(database, invited(database, olga, "kurt@kora.example", "viewer"))
    assert both is not None
    person = who(database, both)
    assert (person.merchant, person.others) == ("Acme", ((kurt.merchant_id, "Kora"),))
    assert database.write_now(merchants.switch, person, kurt.merchant_id)
    assert (who(database, both).merchant, who(database, both).role) == ("Kora", "owner")
    assert not database.write_now(merchants.switch, olga, kurt.merchant_id)


def test_every_change_is_written_down(database: Database) -> None:
    olga = begin(database)
    join(database, olga, "edda@acme.example", "editor")
    edda = next(row for row in database.read_now(merchants.people, olga) if row.role == "editor")
    database.write_now(merchants.change_role, olga, edda.id, "viewer")
    database.write_now(merchants.rename_merchant, olga, "Acme AG")
    database.write_now(merchants.remove, olga, edda.id)
    assert changes(database, olga) == [
        "person.removed",
        "merchant.renamed",
        "person.role",
        "person.joined",
        "person.invited",
        "merchant.begun",
    ]
    row = database.read_now(merchants.audit_page, olga, None).rows[2]
    assert (row.who, row.before, row.after, row.network) == (
        olga.email,
        {"role": "editor"},
        {"role": "viewer"},
        "192.0.2.1",
    )
    kurt = begin(database, "kurt@kora.example", "Kora")
    assert changes(database, kurt) == ["merchant.begun"]


def test_the_record_is_paged(database: Database) -> None:
    olga = begin(database)

    def many(db: Session) -> None:
        for number in range(120):
            merchants.audit(db, olga, f"thing.{number}")

    database.write_now(many)
    seen, before = [], None
    while True:
        page = database.read_now(merchants.audit_page, olga, before)
        seen += [row.what for row in page.rows]
        before = page.older
        if before is None:
            break
    assert seen[0] == "thing.119"
    assert len(seen) == len(set(seen)) == 121


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("/settings/people", True),
        ("/settings/portals/0abc?tab=1", True),
        ("//evil.example/settings", False),
        ("/settings//evil", False),
        ("https://evil.example/settings", False),
        ("/settings/confirm?next=/settings", False),
        ("/customers/orders", False),
        ("/settings\\evil", False),
        ("", False),
    ],
)
def test_after_signing_in_one_goes_to_a_page_of_the_settings(text: str, safe: bool) -> None:
    assert (merchants.safe_next(text) == text) is safe
    assert merchants.safe_next(text).startswith("/settings")
