"""Accounts: the form from the facts, what is kept of a check, keys that change, and an account that goes."""

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from portal import accounts, clock, merchants, models, offers, tenancy, webhooks, work
from portal.accounts import Change, Checked, Late, New, Typed
from portal.connect import Disconnected, open_gateway
from portal.db import Database
from portal.gateways import facts, processors
from portal.gateways.base import Declined, Event, Gateway, Health, Registration, Unavailable
from portal.merchants import Person
from portal.settings import Settings
from portal.vault import Seal, Vault, new_key
from portal.work import Worker
from seeds.simulators.harness import names, simulator
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_customer,
    make_portal,
    make_subscription,
    save,
)
from tests.unit.plans import plan, sorts, uses, wholes

SECRET = "sk_test_CanarySecret0000000001"
WEBHOOK = "whsec_CanaryWebhook00001"
KEYS = {"secret_key": SECRET, "webhook_secret": WEBHOOK}
GOOD = Checked(Health(True, False, "acct_1"))
VAULT = Vault(MASTER_KEY)


def person_of(portal: models.Portal, session: int = 7, role: merchants.Role = "owner") -> Person:
    return Person(
        user_id=1,
        email="ana@acme.example",
        name="Ana",
        merchant_id=portal.merchant_id,
        merchant="Acme",
        role=role,
        session_id=session,
        proved_at=clock.now(),
    )


def rows(database: Database, model: Any) -> list[Any]:
    return database.read_now(lambda db: list(db.execute(select(model).order_by(model.id)).scalars()))


def again(database: Database, account: models.Account) -> models.Account:
    return database.read_now(lambda db: db.get_one(models.Account, account.id))


def everything(database: Database) -> str:
    """All rows of all tables as text."""

    def dump(db: Session) -> str:
        return "\n".join(
            repr(dict(row))
            for table in models.metadata.sorted_tables
            for row in db.execute(table.select()).mappings()
        )

    return database.read_now(dump)


# The form


def kinds(name: str) -> list[str | None]:
    return list(facts(name).variants or [None])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("pattern", "begins", "whole"),
    [
        ("^(live|test)_[A-Za-z0-9]{30,64}$", ("live_", "test_"), False),
        ("^[sr]k_(live|test)_[A-Za-z0-9_]{4,247}$", ("sk_live_", "sk_test_", "rk_live_", "rk_test_"), False),
        ("^FLWSECK(_TEST)?-[A-Za-z0-9-]{6,200}$", ("FLWSECK-", "FLWSECK_TEST-"), False),
        ("^(eu|na|oc)$", ("eu", "na", "oc"), True),
        (r"^(sandbox-api|live)\.acme\.example$", ("sandbox-api.acme.example", "live.acme.example"), True),
        ("^[0-9]{8}$", (), False),
        ("^([A-Z]{1,2}[0-9]{3,10}|x)$", (), False),
        (r"^[^\s]([^\r\n]{0,98}[^\s])?$", (), False),
        ("^ab+$", (), False),
        ("^(a|b)(a|b)(a|b)(a|b)x$", (), False),
        ("^acct_$", ("acct_",), False),
    ],
)
def test_people_are_told_how_a_value_begins(pattern: str, begins: tuple[str, ...], whole: bool) -> None:
    assert accounts.beginnings(pattern) == (begins, whole)


@pytest.mark.parametrize("name", processors())
def test_what_a_form_says_of_a_wrong_value_holds_no_pattern_and_no_value(name: str) -> None:
    for variant in kinds(name):
        fields = accounts.fields(name, variant)
        assert [one.name for one in fields] == [
            one.name for one in facts(name).credentials if one.variant in (None, variant)
        ]
        typed = Typed("A", True, {one.name: "\t§ nonsense \n" for one in fields})
        found = accounts.problems(name, variant, typed, registers=False)
        assert set(found) == {f"key_{one.name}" for one in fields}
        for one in fields:
            sentence = found[f"key_{one.name}"]
            assert one.label in sentence
            assert one.pattern not in sentence
            assert not {"^", "$", "{8", "[A-Z", "\\"} & set(sentence.split())
            assert "nonsense" not in sentence


@pytest.mark.parametrize("name", names())
def test_the_samples_of_every_simulator_fit_the_form(name: str) -> None:
    for sample in simulator(name).samples():
        typed = Typed(sample.label, False, sample.credentials)
        assert accounts.problems(name, sample.variant, typed, registers=False) == {}
        known = {one.name for one in accounts.fields(name, sample.variant)}
        assert set(sample.credentials) <= known


def test_what_comes_out_of_a_registration_may_be_left_empty_until_then() -> None:
    with_such = [
        (name, one)
        for name in processors()
        for one in accounts.fields(name, kinds(name)[0])
        if one.from_webhook and one.required
    ]
    assert with_such  # else this says nothing
    for name, one in with_such:
        typed = Typed("A", True, {})
        variant = kinds(name)[0]
        assert f"key_{one.name}" in accounts.problems(name, variant, typed, registers=False)
        assert f"key_{one.name}" not in accounts.problems(name, variant, typed, registers=True)


def test_a_name_and_the_mode_are_asked_for() -> None:
    found = accounts.problems("stripe", None, Typed("", None, KEYS), registers=False)
    assert set(found) == {"label", "live"}


def test_of_a_secret_four_characters_are_shown_at_most() -> None:
    assert accounts.masked("whsec_CanaryWebhook00001") == "••••0001"
    assert accounts.masked("short") == "••••"
    assert accounts.masked("fifteen-letters") == "••••"


def test_what_was_typed_is_kept_for_one_session_one_form_and_15_minutes() -> None:
    seal = Seal("the secret")
    portal = models.Portal(id=5, merchant_id=1, slug="a", name="A", support_email="a@b.example")
    who = person_of(portal)
    text = accounts.keep(seal, who, 5, "new/stripe/None", KEYS)
    assert SECRET not in text
    assert accounts.kept(seal, who, 5, "new/stripe/None", text) == KEYS
    assert accounts.kept(seal, who, 6, "new/stripe/None", text) == {}
    assert accounts.kept(seal, who, 5, "new/mollie/None", text) == {}
    assert accounts.kept(seal, person_of(portal, session=8), 5, "new/stripe/None", text) == {}
    assert accounts.kept(Seal("another"), who, 5, "new/stripe/None", text) == {}
    assert accounts.kept(seal, who, 5, "new/stripe/None", text[:-2]) == {}
    assert accounts.kept(seal, who, 5, "new/stripe/None", "") == {}
    assert accounts.keep(seal, who, 5, "new/stripe/None", {}) == ""
    clock.set_offset(timedelta(minutes=15, seconds=1))
    assert accounts.kept(seal, who, 5, "new/stripe/None", text) == {}


def test_the_webhook_address_is_known_before_and_stays_until_one_is_connected(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, "kora")
    seal = Seal("the secret")

    def token(site: models.Portal, name: str = "stripe", by: Seal = seal) -> str:
        return database.read_now(accounts.coming_token, by, site.id, name)

    first = token(portal)
    assert first == token(portal)
    assert len(first) == 32
    assert len({first, token(other), token(portal, "mollie"), token(portal, by=Seal("another"))}) == 4
    make_account(database, portal, "stripe", KEYS)
    assert token(portal) != first
    settings = Settings(scheme="https", admin_host="admin.example.com")
    assert accounts.webhook_address(settings, first) == f"https://admin.example.com/webhooks/{first}"


# Asking


class Fake(Gateway):
    """Answers `check` as it is told."""

    def __init__(self, answer: Any, credentials: Mapping[str, str] = KEYS) -> None:
        super().__init__(credentials)
        self.answer = answer

    async def check(self) -> Health:
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer == "hang":
            await asyncio.sleep(60)
        assert isinstance(self.answer, Health)
        return self.answer


def ask(answer: Any) -> Checked:
    return asyncio.run(accounts.checked("stripe", Fake(answer)))


def test_a_processor_that_repeats_a_key_is_not_quoted() -> None:
    told = ask(Health(False, None, hint=f"No such key: {SECRET} (with {WEBHOOK})"))
    assert told.health is not None
    assert told.health.hint == "No such key: •••• (with ••••)" == told.sentence
    told = ask(Health(True, True, SECRET, (f"read of {SECRET}",)))
    assert told.health is not None
    assert told.health.account == "••••"
    assert told.health.missing == ("read of ••••",)
    assert ask(Declined("", f"{SECRET} is unknown")).sentence == "•••• is unknown"


def test_nobody_there_and_keys_refused_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(Unavailable("Busy.", "HTTP 503")).health is None
    assert ask(Unavailable("Keys.", "HTTP 401: bad key")).health == Health(
        False, None, hint="HTTP 401: bad key"
    )
    assert ask(Unavailable("Keys.", "HTTP 403: not you")).health == Health(
        False, None, hint="HTTP 403: not you"
    )
    assert ask(Declined("No.", "Wrong pair")).health == Health(False, None, hint="Wrong pair")
    unusable = ask(ValueError(SECRET))
    assert unusable.health is not None
    assert not unusable.health.ok
    assert SECRET not in str(unusable.health)
    monkeypatch.setattr(accounts, "PATIENCE_S", 0.01)
    assert ask("hang") == Checked(None, "It took too long to answer.")


def test_a_check_in_three_words() -> None:
    assert GOOD.good
    assert not GOOD.in_part
    part = Checked(Health(False, True, missing=("Customers",)))
    assert part.in_part
    assert not part.good
    assert not Checked(Health(False, True)).in_part
    assert not Checked(None).good


# Connecting


def connect(
    database: Database, portal: models.Portal, processor: str = "stripe", **values: Any
) -> models.Account:
    new = New(
        **{
            "processor": processor,
            "variant": None,
            "label": "Cards",
            "live": False,
            "token": "token-of-its-own",
            "values": KEYS,
            "health": GOOD.health,
            **values,
        }
    )
    made = database.write_now(accounts.connect, VAULT, person_of(portal), portal.id, new, clock.now())
    return database.read_now(lambda db: db.get_one(models.Account, made))


def test_connecting_seals_the_keys_and_wants_everything(database: Database) -> None:
    portal = make_portal(database)
    account = connect(database, portal)
    assert VAULT.open(portal.id, account.id, account.credentials) == KEYS
    assert account.health == {"ok": True, "live": False, "account": "acct_1", "missing": [], "hint": None}
    assert account.checked_at is not None
    [run] = rows(database, models.ImportRun)
    assert (run.account_id, run.state) == (account.id, "waiting")
    assert [(job.kind, job.payload) for job in rows(database, models.Job)] == [
        ("backfill", {"account": account.id, "run": run.id})
    ]
    [written] = rows(database, models.Audit)
    assert (written.what, written.subject, written.portal_id) == (
        "account.connected",
        "Cards · Stripe",
        portal.id,
    )
    assert written.after == {
        "processor": "Stripe",
        "live": False,
        "Secret or restricted key": "••••0001",
        "Webhook signing secret": "••••0001",
    }
    stored = everything(database)
    assert SECRET not in stored
    assert WEBHOOK not in stored


def test_nothing_is_read_in_where_there_is_no_list(database: Database) -> None:
    without = next(name for name in processors() if not facts(name).backfill)
    sample = simulator(without).samples()[0]
    connect(database, make_portal(database), without, values=dict(sample.credentials))
    assert rows(database, models.Job) == []


def test_saved_without_an_answer_is_asked_again_soon(database: Database) -> None:
    account = connect(database, make_portal(database), health=None, live=True)
    assert account.health is not None
    assert account.health["ok"] is None
    assert accounts.standing(account).word == "No answer"
    [job] = [job for job in rows(database, models.Job) if job.kind == "check_account"]
    assert job.payload == {"account": account.id, "tries": 0}
    assert timedelta(0) < job.run_at - clock.now() <= timedelta(minutes=2)


def test_an_address_is_given_once(database: Database) -> None:
    portal = make_portal(database)
    connect(database, portal)
    with pytest.raises(Late):
        connect(database, portal)


def look_for_twin(
    database: Database, portal: models.Portal, values: Mapping[str, str], health: Health | None
) -> accounts.Twin | None:
    return database.read_now(accounts.twin, VAULT, portal.id, "stripe", None, values, health)


def test_the_same_account_twice_is_noticed(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, "kora")
    account = connect(database, portal)
    twin = look_for_twin(database, portal, KEYS, GOOD.health)
    assert twin == accounts.Twin(account.id, "Cards", certain=True, disconnected=False)
    rolled = {**KEYS, "secret_key": "sk_test_AnotherKey0000000001"}
    likely = look_for_twin(database, portal, rolled, GOOD.health)
    assert likely == accounts.Twin(account.id, "Cards", certain=False, disconnected=False)
    # The key alone, where the processor does not name the account
    hooked = {**KEYS, "webhook_secret": "whsec_Another0000001"}
    assert look_for_twin(database, portal, hooked, Health(True, False)) == likely
    # Another one by the processor's word, whatever they share; the same name in the other mode; another portal
    assert look_for_twin(database, portal, hooked, Health(True, False, "acct_2")) is None
    assert look_for_twin(database, portal, rolled, Health(True, True, "acct_1")) is None
    assert look_for_twin(database, portal, rolled, Health(True, False)) is None
    assert look_for_twin(database, other, KEYS, GOOD.health) is None


def test_a_disconnected_account_is_still_recognised_by_its_name(database: Database) -> None:
    portal = make_portal(database)
    account = connect(database, portal)
    database.write_now(accounts.disconnect, VAULT, person_of(portal), portal.id, account.id, clock.now())
    assert look_for_twin(database, portal, KEYS, GOOD.health) == accounts.Twin(
        account.id, "Cards", False, True
    )


# Health


def note(database: Database, account: models.Account, result: Checked) -> models.Account:
    database.write_now(accounts.noted, account.id, result, clock.now())
    return again(database, account)


def test_health_in_words(database: Database) -> None:
    account = make_account(database, make_portal(database), "stripe", KEYS)
    assert accounts.standing(account).word == "Not checked yet"
    account = note(database, account, GOOD)
    found = accounts.standing(account)
    assert (found.tone, found.word, found.account) == ("ok", "Works", "acct_1")
    account = note(database, account, Checked(None, "HTTP 503"))
    found = accounts.standing(account)
    assert (found.tone, found.word, found.account) == ("warn", "No answer", "acct_1")
    assert "HTTP 503" in found.sentence
    account = note(
        database, account, Checked(Health(False, False, missing=("Customers: read",), hint="Give it."))
    )
    found = accounts.standing(account)
    assert (found.tone, found.missing) == ("warn", ("Customers: read",))
    account = note(database, account, Checked(Health(False, False, hint="Invalid key")))
    found = accounts.standing(account)
    assert (found.tone, found.word, found.sentence) == ("bad", "Refused", "Invalid key")


def test_the_merchant_is_told_once_a_day_when_keys_stop_working(database: Database) -> None:
    account = make_account(database, make_portal(database), "stripe", KEYS)
    bad = Checked(Health(False, False, hint="Invalid key"), "Invalid key")
    note(database, account, bad)
    assert rows(database, models.Job) == []  # they never worked: the page says so
    note(database, account, GOOD)
    note(database, account, bad)
    note(database, account, GOOD)
    note(database, account, bad)
    [job] = rows(database, models.Job)
    assert job.kind == "mail"
    assert job.payload["text"] == "The keys of “Stripe” do not work any more. Invalid key"


def test_the_mode_is_the_processors_word(database: Database) -> None:
    account = make_account(database, make_portal(database), "stripe", KEYS, live=True)
    assert note(database, account, GOOD).live is False


def test_a_check_that_comes_late_changes_nothing_of_a_disconnected_account(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    database.write_now(accounts.disconnect, VAULT, person_of(portal), portal.id, account.id, clock.now())
    assert note(database, account, GOOD).health is None


class House:
    """A worker whose gateway answers as it is told."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worker = Worker(Settings(master_keys=MASTER_KEY, scheme="http"), database)
        self.gateway: Any = None
        monkeypatch.setattr(accounts, "open_gateway", self.open)

    def open(self, *args: Any, **kwargs: Any) -> Gateway:
        open_gateway(*args, **kwargs)  # it would be refused where the account is gone
        found: Gateway = self.gateway
        return found


@pytest.mark.usefixtures("sqlite_only")
def test_the_worker_asks_until_somebody_answers(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(database, monkeypatch)
    account = connect(database, make_portal(database), health=None)
    house.gateway = Fake(Unavailable("", "HTTP 503"))
    asyncio.run(house.worker.drain())
    for tries in range(8):
        clock.set_offset(clock.offset() + timedelta(hours=3))
        asyncio.run(house.worker.drain())
        waiting = [
            job
            for job in rows(database, models.Job)
            if job.kind == "check_account" and job.done_at is None and job.parked_at is None
        ]
        assert len(waiting) == (1 if tries < 6 else 0)
    assert again(database, account).health["ok"] is None  # type: ignore[index]
    clock.set_offset(clock.offset() + timedelta(days=1))
    database.write_now(accounts.keep_house, clock.now())
    house.gateway = Fake(GOOD.health)
    asyncio.run(house.worker.drain())
    assert accounts.standing(again(database, account)).word == "Works"


def test_every_account_is_asked_once_a_day_and_old_keys_go(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    gone = make_account(database, portal, "stripe", {}, disconnected_at=clock.now())
    rotate(database, portal, account, {"secret_key": "sk_test_NewKey00000000000001"}, overlap=1)
    database.write_now(accounts.keep_house, clock.now())
    assert again(database, account).previous_credentials is not None
    assert [job for job in rows(database, models.Job) if job.kind == "check_account"] == []
    clock.set_offset(timedelta(hours=25))
    database.write_now(accounts.keep_house, clock.now())
    database.write_now(accounts.keep_house, clock.now())
    account = again(database, account)
    assert account.previous_credentials is None
    assert account.previous_until is None
    assert [job.payload for job in rows(database, models.Job) if job.kind == "check_account"] == [
        {"account": account.id}
    ]
    assert again(database, gone).checked_at is None


# Keys


def rotate(
    database: Database,
    portal: models.Portal,
    account: models.Account,
    values: Mapping[str, str],
    removed: frozenset[str] = frozenset(),
    overlap: int = 24,
    version: int | None = None,
) -> models.Account:
    database.write_now(
        accounts.rotate,
        VAULT,
        person_of(portal),
        portal.id,
        account.id,
        account.version if version is None else version,
        Change(values, removed),
        timedelta(hours=overlap),
        GOOD,
        clock.now(),
    )
    return again(database, account)


NEW_KEY = "sk_test_NewKey00000000000001"


def test_new_keys_count_at_once_and_old_ones_for_the_overlap(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    account = rotate(database, portal, account, {"secret_key": NEW_KEY}, overlap=72)
    assert VAULT.open(portal.id, account.id, account.credentials) == {**KEYS, "secret_key": NEW_KEY}
    assert account.previous_credentials is not None
    assert VAULT.open(portal.id, account.id, account.previous_credentials) == KEYS
    assert account.previous_until is not None
    assert timedelta(hours=71) < account.previous_until - clock.now() <= timedelta(hours=72)
    [written] = rows(database, models.Audit)
    assert written.what == "account.keys_changed"
    assert written.before == {"Secret or restricted key": "••••0001"}
    assert written.after == {
        "Secret or restricted key": "••••0001",
        "old ones until": account.previous_until.isoformat(),
    }
    stored = everything(database)
    assert SECRET not in stored
    assert NEW_KEY not in stored


def test_without_an_overlap_the_old_keys_are_gone(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", {**KEYS, "webhook_secret_old": "whsec_Older00000001"})
    account = rotate(
        database, portal, account, {"secret_key": NEW_KEY}, frozenset({"webhook_secret_old"}), overlap=0
    )
    assert account.previous_credentials is None
    assert account.previous_until is None
    assert VAULT.open(portal.id, account.id, account.credentials) == {**KEYS, "secret_key": NEW_KEY}


def test_of_two_who_change_keys_at_once_one_is_late(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    rotate(database, portal, account, {"secret_key": NEW_KEY})
    with pytest.raises(Late):
        rotate(database, portal, account, {"webhook_secret": "whsec_Mine000000001"})
    kept = again(database, account)
    assert VAULT.open(portal.id, kept.id, kept.credentials)["webhook_secret"] == WEBHOOK


def test_a_strangers_account_cannot_be_changed(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, "kora")
    account = make_account(database, portal, "stripe", KEYS)
    with pytest.raises(LookupError):
        rotate(database, other, account, {"secret_key": NEW_KEY})
    with pytest.raises(LookupError):
        database.write_now(
            accounts.change, person_of(other), other.id, account.id, account.version, "Mine", (), ()
        )
    with pytest.raises(LookupError):
        database.write_now(accounts.disconnect, VAULT, person_of(other), other.id, account.id, clock.now())
    with pytest.raises(LookupError):
        database.write_now(
            accounts.registered,
            VAULT,
            person_of(other),
            other.id,
            account.id,
            Registration("we_1", {}),
            clock.now(),
        )
    assert again(database, account).version == account.version


# Switches


def change(
    database: Database,
    portal: models.Portal,
    account: models.Account,
    label: str,
    options: tuple[str, ...] = (),
    off: tuple[str, ...] = (),
) -> None:
    database.write_now(
        accounts.change, person_of(portal), portal.id, account.id, account.version, label, options, off
    )


def test_switches_take_what_the_facts_know_and_write_down_what_changed(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "paypal", {}, label="Wallet")
    change(database, portal, account, "Wallet", ("suspend_to_cancel", "none of ours"), ("pause", "refunds"))
    account = again(database, account)
    assert account.options == ["suspend_to_cancel"]
    assert account.switched_off == ["pause"]  # refunds are no button that could go
    [written] = rows(database, models.Audit)
    assert written.before == {"options": [], "switched_off": []}
    assert written.after == {"options": ["suspend_to_cancel"], "switched_off": ["pause"]}
    change(database, portal, account, "Wallet", ("suspend_to_cancel",), ("pause",))
    assert len(rows(database, models.Audit)) == 1  # nothing changed
    with pytest.raises(Late):
        change(database, portal, account, "Purse")


def test_who_was_first_can_be_told(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "paypal", {}, label="Wallet")
    change(database, portal, account, "Purse")
    make_account(database, portal, "paypal", {}, label="Till")
    account = again(database, account)
    last = database.read_now(accounts.last_change, person_of(portal), account)
    assert last is not None
    assert (last.before, last.after) == ({"label": "Wallet"}, {"label": "Purse"})
    other = make_portal(database, "kora")
    assert database.read_now(accounts.last_change, person_of(other), account) is None


# Webhooks


def test_a_registration_is_merged_and_the_secret_of_before_still_counts(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    done = Registration("we_1", {"webhook_secret": "whsec_Fresh0000000001"}, "Switch it on there.")
    database.write_now(
        accounts.registered, VAULT, person_of(portal), portal.id, account.id, done, clock.now()
    )
    account = again(database, account)
    assert account.webhook_remote == "we_1"
    assert VAULT.open(portal.id, account.id, account.credentials) == {**KEYS, **done.credentials}
    assert account.previous_credentials is not None
    assert database.read_now(accounts.webhook_note, account.id) == "Switch it on there."
    assert accounts.webhook_words(account, None) == "Registered by the portal"
    # Once more, without anything new
    quiet = Registration("we_1", dict(done.credentials))
    database.write_now(
        accounts.registered, VAULT, person_of(portal), portal.id, account.id, quiet, clock.now()
    )
    assert database.read_now(accounts.webhook_note, account.id) == ""
    assert again(database, account).version == account.version
    assert "whsec_Fresh" not in everything(database)


def test_a_first_registration_has_no_secret_of_before(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", {"secret_key": SECRET})
    done = Registration("we_1", {"webhook_secret": "whsec_Fresh0000000001"})
    database.write_now(
        accounts.registered, VAULT, person_of(portal), portal.id, account.id, done, clock.now()
    )
    assert again(database, account).previous_credentials is None


def test_keys_that_no_key_of_the_ring_opens_are_entered_anew(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS, webhook_remote="we_1")
    lost = Vault(new_key())
    assert accounts.opened(lost, account) == {}
    assert {shown for _field, shown in accounts.shown_keys(account, lost)} == {""}
    assert database.read_now(accounts.twin, lost, portal.id, "stripe", None, KEYS, None) is None
    settings = Settings(master_keys=new_key())
    assert not asyncio.run(accounts.unregister(settings, lost, account))
    database.write_now(
        accounts.rotate,
        lost,
        person_of(portal),
        portal.id,
        account.id,
        account.version,
        Change(KEYS),
        timedelta(hours=24),
        GOOD,
        clock.now(),
    )
    account = again(database, account)
    assert accounts.opened(lost, account) == KEYS
    assert account.previous_credentials is None  # what nobody can open proves nothing


def test_an_event_that_comes_once_more_is_noted(database: Database) -> None:
    account = make_account(database, make_portal(database), "stripe", KEYS)
    event = Event("evt_1", "thing.changed", None, None)
    now = clock.now()
    assert database.write_now(webhooks.store, account, [event], [], b"{}", now) == 1
    assert database.read_now(accounts.repeated_at, account.id) is None
    for later in (1, 2):
        at = now + timedelta(seconds=later)
        assert database.write_now(webhooks.store, account, [event], [], b"{}", at) == 0
        assert database.read_now(accounts.repeated_at, account.id) == at


# The list


def add_event(database: Database, account: models.Account, minutes: int, **fields: Any) -> models.Event:
    return save(database, event_of(account, minutes, **fields))  # type: ignore[no-any-return]


def event_of(account: models.Account, minutes: int, **fields: Any) -> models.Event:
    return models.Event(
        portal_id=account.portal_id,
        account_id=account.id,
        event_id=f"evt_{minutes}",
        type="thing.changed",
        headers=[],
        received_at=clock.now() - timedelta(minutes=minutes),
        **fields,
    )


def test_the_list_shows_each_account_with_its_last_event(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, "kora")
    account = make_account(database, portal, "stripe", KEYS, label="Cards")
    gone = make_account(database, portal, "mollie", {}, label="Old", disconnected_at=clock.now())
    quiet = make_account(database, portal, "paypal", {}, label="Wallet")
    make_account(database, other, "stripe", KEYS, label="Theirs")
    add_event(database, account, 90)
    newest = add_event(database, account, 5)
    found = database.read_now(accounts.listed, portal.id)
    assert [(row.id, row.label) for row in found] == [
        (quiet.id, "Wallet"),
        (account.id, "Cards"),
        (gone.id, "Old"),
    ]
    assert [row.last_event_at for row in found] == [None, newest.received_at, None]
    assert [row.webhook for row in found] == ["Nothing has come yet", "Events come in", "Closed"]
    assert [row.disconnected for row in found] == [False, False, True]


def test_the_newest_event_is_one_step_into_the_index(database: Database) -> None:
    portal = make_portal(database)
    for _ in range(4):
        account = make_account(database, portal, "stripe", KEYS)
        events = [event_of(account, minutes) for minutes in range(100)]
        database.write_now(lambda db, events=events: db.add_all(events))  # type: ignore[misc]
    statement = select(models.Account.id, accounts._last_event_at()).where(  # type: ignore[call-overload]
        models.Account.portal_id == portal.id
    )
    lines = plan(database, statement)
    assert uses(lines, "ix_event_of_account"), lines
    assert not wholes(lines), lines
    assert not sorts(lines), lines


def test_last_events_say_how_they_stand(database: Database) -> None:
    account = make_account(database, make_portal(database), "stripe", KEYS)
    now = clock.now()
    add_event(database, account, 3)
    add_event(database, account, 2, handled_at=now)
    add_event(database, account, 1, parked_at=now, error="It never worked.")
    for minutes in range(10, 14):
        add_event(database, account, minutes, handled_at=now)
    found = database.read_now(accounts.last_events, account.id)
    assert [(row.word, row.error) for row in found] == [
        ("Set aside", "It never worked."),
        ("Handled", None),
        ("Waiting", None),
        ("Handled", None),
        ("Handled", None),
    ]


# Disconnecting


def disconnect(database: Database, portal: models.Portal, account: models.Account) -> int:
    return database.write_now(
        accounts.disconnect, VAULT, person_of(portal), portal.id, account.id, clock.now()
    )


def test_disconnecting_forgets_the_keys_and_keeps_the_history(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS, webhook_remote="we_1")
    account = rotate(database, portal, account, {"secret_key": NEW_KEY})
    row = make_subscription(database, account, make_customer(database, portal))
    assert disconnect(database, portal, account) == 0
    account = again(database, account)
    assert json.loads(account.credentials) == {}
    assert account.previous_credentials is None
    assert account.webhook_remote is None
    assert accounts.standing(account).word == "Disconnected"
    with pytest.raises(Disconnected):
        open_gateway(Settings(master_keys=MASTER_KEY), VAULT, account)
    kept = database.read_now(lambda db: db.get_one(models.Subscription, row.id))
    assert kept.status == "active"
    assert disconnect(database, portal, account) == 0  # twice is once
    assert [one.what for one in rows(database, models.Audit)] == [
        "account.keys_changed",
        "account.disconnected",
    ]


def test_customers_read_in_one_sentence_why_nothing_can_be_done(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    row = make_subscription(database, account, make_customer(database, portal))
    disconnect(database, portal, account)
    view = database.read_now(tenancy.portal_by_id, portal.id, "localhost")
    found = offers.available(row, again(database, account), view, clock.now())
    assert found
    assert {(offer.ok, offer.why) for offer in found.values()} == {
        (False, "Acme Coffee no longer uses Stripe here. Write to help@acme.example.")
    }
    assert not offers.order_can_be_paid("open", "https://pay.stripe.com/x", again(database, account))


def test_a_cancel_that_our_job_was_to_make_becomes_a_request_to_the_merchant(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "paypal", {}, options=["suspend_to_cancel"])
    ana = make_customer(database, portal)
    until = clock.now() + timedelta(days=1)
    row = make_subscription(
        database, account, ana, status="paused", cancel_scheduled_at=until, access_until=until
    )
    over = make_subscription(database, account, ana, status="cancelled", cancel_scheduled_at=until)
    assert database.read_now(accounts.waiting, account.id) == accounts.Waiting(1, 0)
    assert disconnect(database, portal, account) == 1
    [asked] = rows(database, models.Request)
    assert (asked.kind, asked.subject_id, asked.status) == ("cancel_at_period_end", row.id, "open")
    assert asked.due_at == until  # not in three days, when it would be too late
    kept = database.read_now(lambda db: db.get_one(models.Subscription, row.id))
    assert kept.cancel_scheduled_at is None
    assert kept.access_until is None
    untouched = database.read_now(lambda db: db.get_one(models.Subscription, over.id))
    assert untouched.cancel_scheduled_at == until
    [written] = rows(database, models.Audit)
    assert written.after == {"cancels handed to you": 1}


def test_jobs_of_a_disconnected_account_end_quietly(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    ana = make_customer(database, portal)
    row = make_subscription(database, account, ana)
    event = add_event(database, account, 1)
    action = save(
        database,
        models.Action(
            portal_id=portal.id,
            account_id=account.id,
            customer_id=ana.id,
            subscription_id=row.id,
            capability="cancel_now",
            reference="ABC-DEF",
            params={},
            phase="checking",
            created_at=clock.now(),
        ),
    )
    disconnect(database, portal, account)
    for kind, payload in (
        ("backfill", {"account": account.id}),
        ("check_account", {"account": account.id}),
        ("refresh", {"subscription": row.id}),
        ("read_back", {"action": action.id}),
        (
            "event",
            {
                "event": event.id,
                "id": "evt_1",
                "type": "thing.changed",
                "subject": {"kind": "subscription", "id": row.remote_id},
                "occurred_at": None,
                "body": {},
            },
        ),
    ):
        save(
            database,
            models.Job(kind=kind, payload=payload, run_at=clock.now(), created_at=clock.now()),
        )
    worker = Worker(Settings(master_keys=MASTER_KEY, scheme="http"), database)
    asyncio.run(worker.drain())
    for job in rows(database, models.Job):
        assert (job.done_at is not None, job.parked_at, job.error) == (True, None, None), job.kind
    [closed] = rows(database, models.Action)
    assert closed.phase == "failed"
    assert closed.closed_at is not None
    assert closed.error
    [handled] = rows(database, models.Event)
    assert (handled.handled_at is not None, handled.error) == (True, "The account is disconnected.")


def test_connecting_again_goes_on_under_the_same_address(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", KEYS)
    token = account.token
    disconnect(database, portal, account)
    account = rotate(database, portal, again(database, account), KEYS)
    assert account.disconnected_at is None
    assert account.token == token
    assert VAULT.open(portal.id, account.id, account.credentials) == KEYS
    assert account.previous_credentials is None
    assert [job.kind for job in rows(database, models.Job)] == ["backfill"]
    assert rows(database, models.Audit)[-1].what == "account.reconnected"
    view = database.read_now(tenancy.portal_by_id, portal.id, "localhost")
    row = make_subscription(database, account, make_customer(database, portal))
    assert offers.available(row, account, view, clock.now())["cancel_now"].ok


def test_the_worker_knows_the_job_of_a_check(database: Database) -> None:
    worker = Worker(Settings(master_keys=MASTER_KEY, scheme="http"), database)
    assert "check_account" in worker._handlers
    assert work.SWEEP <= accounts.CHECK_EVERY
