"""Settings > Processors: who may what, the form of every processor, keys that are wrong or of another mode, nobody
there, changing keys, two who save at once, disconnecting, and that no secret is ever shown."""

import asyncio
import html
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.applications import Starlette

from portal import accounts, clock, models
from portal.accounts import Checked
from portal.app import create_app
from portal.db import Database
from portal.gateways import facts, processors
from portal.gateways.base import Health, Registration
from portal.ids import id_text
from portal.settings import Settings
from portal.vault import Vault, new_key
from portal.work import Worker
from seeds.simulators.harness import Harness, Sample, Servers, names, simulator
from seeds.simulators.stripe import sign
from tests.unit.builders import MASTER_KEY, make_account, make_customer, make_subscription
from tests.unit.settings.conftest import HTMX, Desk, address, make_person, make_settings, sign_in, sign_in_as

VAULT = Vault(MASTER_KEY)
HOOK = "http://127.0.0.1:9/webhooks/nowhere"  # where simulators tell of what happens in these tests


@pytest.fixture(scope="module")
def simulators() -> Iterator[dict[str, Harness]]:
    found = {name: simulator(name, clock.now) for name in names()}
    with Servers(list(found.values())):
        for one in found.values():
            one._send = lambda _delivery: None  # type: ignore[method-assign,assignment]
            for sample in one.samples():
                one.open(sample, HOOK)
            one.save()
        yield found


@pytest.fixture(autouse=True)
def _as_they_were(simulators: dict[str, Harness]) -> Iterator[None]:
    yield
    for one in simulators.values():
        one.reset()


@pytest.fixture
def settings(simulators: dict[str, Harness]) -> Settings:
    return make_settings(demo=True, simulators={name: one.address for name, one in simulators.items()})


def sample_of(simulators: dict[str, Harness], name: str, number: int = 0) -> Sample:
    return simulators[name].samples()[number]


def form_of(sample: Sample, live: str = "test", **more: str) -> dict[str, str]:
    """What somebody types who connects the account of a sample."""
    typed = {f"key_{name}": value for name, value in sample.credentials.items()}
    if sample.variant:
        typed["variant"] = sample.variant
    return {"label": "Our shop", "live": live, **typed, **more}


def here(site: models.Portal, path: str = "") -> str:
    return address(site, f"/processors{path}")


def rows(database: Database, model: Any) -> list[Any]:
    return database.read_now(lambda db: list(db.execute(select(model).order_by(model.id)).scalars()))


def the_account(database: Database) -> models.Account:
    [account] = rows(database, models.Account)
    return account  # type: ignore[no-any-return]


def keys_of(account: models.Account) -> dict[str, str]:
    return dict(VAULT.open(account.portal_id, account.id, account.credentials))


def hidden(page: str, name: str) -> str:
    found = re.search(rf'<input type="hidden" name="{name}" value="([^"]*)"', page)
    assert found, name
    return html.unescape(found[1])


def make_stale(database: Database, minutes: int = 11) -> None:
    def age(db: Session) -> None:
        for row in db.execute(select(models.MerchantSession)).scalars():
            row.proved_at -= timedelta(minutes=minutes)

    database.write_now(age)


def make_fresh(database: Database) -> None:
    make_stale(database, minutes=-11)


STRIPE = "stripe"


def connected(
    database: Database, site: models.Portal, simulators: dict[str, Harness], name: str = STRIPE, **more: Any
) -> models.Account:
    sample = sample_of(simulators, name)
    values = {"label": "Cards", "variant": sample.variant, **more}
    return make_account(database, site, name, dict(sample.credentials), **values)


def at(account: models.Account, path: str = "") -> str:
    return f"/settings/portals/{id_text(account.portal_id)}/processors/{id_text(account.id)}{path}"


# The list


def test_every_processor_of_the_registry_can_be_connected(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site)
    page = client.get(here(site)).text
    for name in processors():
        assert f'data-processor="{name}"' in page
        assert html.escape(facts(name).label) in page
        assert f'href="{here(site)}/new/{name}"' in page
    assert "No processor yet" in page


def test_the_list_shows_accounts_and_only_owners_enter_keys(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site, "editor")
    page = client.get(here(site)).text
    assert f'data-ref="{id_text(account.id)}"' in page
    assert "Not checked yet" in page
    assert "/new/" not in page
    assert "Keys are entered by an owner." in page


# Connecting


@pytest.mark.parametrize("name", names())
def test_the_form_of_every_processor_takes_the_samples_of_its_simulator(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness], name: str
) -> None:
    """One account of each kind: the form shows the fields of the facts in order, and the keys are asked about."""
    sign_in(client, database, site)
    kinds: dict[str | None, Sample] = {}
    for sample in simulators[name].samples():
        kinds.setdefault(sample.variant, sample)
    for variant, sample in kinds.items():
        first = client.get(here(site, f"/new/{name}"))
        if variant is not None:
            assert 'type="radio"' in first.text
            assert "key_" not in first.text
        query = {"variant": variant} if variant else {}
        page = client.get(here(site, f"/new/{name}"), params=query).text
        asked = re.findall(r'\bid="key_([a-z0-9_]+)"', page)
        wanted = [one for one in facts(name).credentials if one.variant in (None, variant)]
        assert asked == [one.name for one in wanted]
        for one in wanted:
            assert one.label in html.unescape(page)
            assert one.help in html.unescape(page)
            tag = re.search(rf'<(?:input|select|textarea)[^>]*id="key_{one.name}"[^>]*>', page)
            assert tag
            if one.secret:
                assert 'type="password"' in tag[0] or "<textarea" in tag[0]
                assert 'autocomplete="off"' in tag[0]
                assert "value=" not in tag[0]
        address_of = re.search(r'data-testid="webhook-address">([^<]+)<', page)
        answer = client.post(here(site, f"/new/{name}"), data=form_of(sample))
        if answer.status_code == 422 and "This is a live key, you chose test." in answer.text:
            answer = client.post(here(site, f"/new/{name}"), data=form_of(sample, "live"))
        assert answer.status_code == 303, answer.text
        account = rows(database, models.Account)[-1]
        done = "connected" if accounts.lists(name, variant) else "connected_quiet"
        assert answer.headers["location"] == f"{at(account)}?done={done}"
        assert (account.processor, account.variant) == (name, variant)
        assert keys_of(account) == dict(sample.credentials)
        assert account.health["ok"] is True
        if address_of is not None:  # the address that the form showed is the one it has
            assert address_of[1] == f"http://admin.localhost/webhooks/{account.token}"
        managed = client.get(answer.headers["location"])
        assert managed.status_code == 200
        for one in wanted:
            value = sample.credentials.get(one.name, "")
            if one.secret and len(value) > 4:
                assert value not in html.unescape(managed.text)


def test_an_unknown_processor_is_not_found(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    assert client.get(here(site, "/new/acmepay")).status_code == 404
    assert client.post(here(site, "/new/acmepay"), data={}).status_code == 404


def test_a_kind_that_is_none_is_asked_for_again(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sign_in(client, database, site)
    sample = sample_of(simulators, "klarna")
    answer = client.post(here(site, "/new/klarna"), data={**form_of(sample), "variant": "v9"})
    assert answer.status_code == 422
    assert "Choose the kind of account." in answer.text
    assert rows(database, models.Account) == []


def test_a_wrong_shape_is_said_in_words_and_nothing_typed_is_lost(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sign_in(client, database, site)
    simulators["razorpay"].calls.clear()
    good = sample_of(simulators, "razorpay")
    typed = form_of(good, label="Chai cards", key_key_id="pk_something_else")
    answer = client.post(here(site, "/new/razorpay"), data=typed)
    assert answer.status_code == 422
    page = html.unescape(answer.text)
    assert "This does not look like “Key id”, which begins with rzp_live_ or rzp_test_." in page
    assert "{10,40}" not in page
    assert 'value="Chai cards"' in page
    assert 'value="pk_something_else"' in page  # no secret, so it stands there to be mended
    assert good.credentials["key_secret"] not in page
    assert "••••0001" in page
    assert simulators["razorpay"].calls == []  # nobody was asked
    # Mended, with nothing typed again but the one field.
    mended = {
        "label": "Chai cards",
        "live": "test",
        "kept": hidden(answer.text, "kept"),
        "key_key_id": good.credentials["key_id"],
    }
    answer = client.post(here(site, "/new/razorpay"), data=mended)
    assert answer.status_code == 303, answer.text
    assert keys_of(the_account(database)) == dict(good.credentials)


def test_wrong_keys_are_not_saved(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sign_in(client, database, site)
    wrong = "sk_test_NobodysKey00000000001"
    typed = form_of(sample_of(simulators, STRIPE), key_secret_key=wrong)
    for wish in ("", "later", "despite"):  # there is no way round
        answer = client.post(here(site, "/new/stripe"), data={**typed, "do": wish})
        assert answer.status_code == 422
        assert "does not accept this" in answer.text
        assert "Save anyway" not in answer.text
        assert wrong not in answer.text
    assert rows(database, models.Account) == []
    assert rows(database, models.Job) == []


def test_what_was_kept_can_be_replaced(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sign_in(client, database, site)
    good = sample_of(simulators, STRIPE)
    answer = client.post(
        here(site, "/new/stripe"), data=form_of(good, key_secret_key="sk_test_NobodysKey00000000001")
    )
    again = {
        "label": "Our shop",
        "live": "test",
        "kept": hidden(answer.text, "kept"),
        "key_secret_key": good.credentials["secret_key"],
    }
    assert client.post(here(site, "/new/stripe"), data=again).status_code == 303
    assert keys_of(the_account(database)) == dict(good.credentials)


def test_what_was_kept_is_of_no_use_to_another_session_or_another_form(
    client: Desk,
    database: Database,
    site: models.Portal,
    stranger: models.Portal,
    simulators: dict[str, Harness],
    other: Callable[..., Desk],
) -> None:
    sign_in(client, database, site)
    good = sample_of(simulators, STRIPE)
    page = client.post(here(site, "/new/stripe"), data={**form_of(good), "label": ""}).text
    stolen = {"label": "Mine", "live": "test", "kept": hidden(page, "kept")}
    thief = other()
    sign_in(thief, database, stranger)
    answer = thief.post(here(stranger, "/new/stripe"), data=stolen)
    assert answer.status_code == 422
    assert "“Secret or restricted key” is missing." in html.unescape(answer.text)
    colleague = other()
    user = make_person(database, site.merchant_id, "owner", "ben@acme.example")
    sign_in_as(colleague, database, user, site.merchant_id)
    assert colleague.post(here(site, "/new/stripe"), data=stolen).status_code == 422
    clock.set_offset(timedelta(minutes=16))
    make_fresh(database)
    assert client.post(here(site, "/new/stripe"), data=stolen).status_code == 422
    assert rows(database, models.Account) == []


def test_a_key_of_the_other_mode_is_said(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sign_in(client, database, site)
    answer = client.post(here(site, "/new/stripe"), data=form_of(sample_of(simulators, STRIPE), "live"))
    assert answer.status_code == 422
    assert "This is a test key, you chose live." in answer.text
    live = next(
        one for one in simulators["mollie"].samples() if one.credentials["api_key"].startswith("live_")
    )
    answer = client.post(here(site, "/new/mollie"), data=form_of(live, "test"))
    assert "This is a live key, you chose test." in answer.text
    assert rows(database, models.Account) == []


def test_nobody_there_can_be_saved_and_is_checked_later(
    client: Desk,
    database: Database,
    site: models.Portal,
    settings: Settings,
    simulators: dict[str, Harness],
) -> None:
    sign_in(client, database, site)
    good = sample_of(simulators, STRIPE)
    simulators[STRIPE].switch("down")
    answer = client.post(here(site, "/new/stripe"), data=form_of(good))
    assert answer.status_code == 422
    assert "Stripe does not answer" in answer.text
    assert "Save anyway, check later" in answer.text
    assert rows(database, models.Account) == []
    kept = hidden(answer.text, "kept")
    later = {"label": "Our shop", "live": "test", "kept": kept, "do": "later"}
    answer = client.post(here(site, "/new/stripe"), data=later)
    assert answer.status_code == 303
    assert answer.headers["location"].endswith("?done=connected_later")
    assert "No answer" in client.get(answer.headers["location"]).text
    assert the_account(database).health["ok"] is None  # type: ignore[index]
    simulators[STRIPE].switch("ok")
    clock.set_offset(timedelta(minutes=3))
    from portal.gateways import http

    http._breakers.clear()
    worker = Worker(settings, database)
    asyncio.run(worker.drain())
    assert the_account(database).health["ok"] is True  # type: ignore[index]


def test_permissions_that_are_missing_are_named_and_one_may_go_on(
    client: Desk,
    database: Database,
    site: models.Portal,
    simulators: dict[str, Harness],
) -> None:
    sign_in(client, database, site)
    stripe: Any = simulators[STRIPE]
    narrow = "rk_test_NarrowKey0000000001"
    sample = sample_of(simulators, STRIPE)
    account = stripe.add_account(sample.credentials["secret_key"])
    stripe.add_key(account, narrow, {"rak_customer_read"})
    typed = form_of(sample, key_secret_key=narrow)
    answer = client.post(here(site, "/new/stripe"), data=typed)
    assert answer.status_code == 422
    assert "The keys work, but may not do everything. Missing:" in answer.text
    assert narrow not in answer.text
    answer = client.post(here(site, "/new/stripe"), data={**typed, "do": "despite"})
    assert answer.status_code == 303, answer.text
    page = client.get(answer.headers["location"]).text
    assert "Works in part" in page
    assert "<dt>Missing</dt>" in page


def test_the_same_account_twice_is_said(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sign_in(client, database, site)
    sample = sample_of(simulators, STRIPE)
    assert client.post(here(site, "/new/stripe"), data=form_of(sample)).status_code == 303
    first = the_account(database)
    answer = client.post(here(site, "/new/stripe"), data=form_of(sample, another="1"))
    assert answer.status_code == 422
    assert "These keys are connected already, as “Our shop”." in html.unescape(answer.text)
    assert f'href="{at(first)}"' in answer.text
    other_hook = form_of(sample, key_webhook_secret="whsec_AnotherHook0001")
    answer = client.post(here(site, "/new/stripe"), data=other_hook)
    assert answer.status_code == 422
    assert "It is another account" in answer.text
    assert client.post(here(site, "/new/stripe"), data={**other_hook, "another": "1"}).status_code == 303
    assert len(rows(database, models.Account)) == 2
    # Another account of the same processor is nothing to speak of.
    stranger = sample_of(simulators, STRIPE, 1)
    assert client.post(here(site, "/new/stripe"), data=form_of(stranger)).status_code == 303
    assert len({one.token for one in rows(database, models.Account)}) == 3


def test_a_form_that_is_sent_twice_connects_once(
    client: Desk,
    database: Database,
    site: models.Portal,
    simulators: dict[str, Harness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both have looked for a twin before either has written."""
    sign_in(client, database, site)
    sample = sample_of(simulators, STRIPE)
    seen = accounts.coming_token

    def before_the_first(db: Session, *args: Any) -> str:
        return first

    first = database.read_now(seen, client.app.state.seal, site.id, STRIPE)  # type: ignore[attr-defined]
    real, looked = accounts.twin, []

    def twin(*args: Any) -> Any:
        looked.append(1)
        return real(*args) if len(looked) > 2 else None

    monkeypatch.setattr(accounts, "twin", twin)
    monkeypatch.setattr(accounts, "coming_token", before_the_first)
    assert client.post(here(site, "/new/stripe"), data=form_of(sample)).status_code == 303
    answer = client.post(here(site, "/new/stripe"), data=form_of(sample))
    assert answer.status_code == 422
    assert "These keys are connected already" in answer.text
    # Two different accounts under one coming address: the later one gets one of its own, and is told.
    stranger = sample_of(simulators, STRIPE, 1)
    answer = client.post(here(site, "/new/stripe"), data=form_of(stranger))
    assert answer.headers["location"].endswith("?done=moved")
    assert len({one.token for one in rows(database, models.Account)}) == 2


def test_who_has_to_confirm_first_keeps_what_they_typed(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sign_in(client, database, site)
    make_stale(database)
    answer = client.get(here(site, "/new/stripe"))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/settings/confirm?next=")
    good = sample_of(simulators, STRIPE)
    answer = client.post(here(site, "/new/stripe"), data=form_of(good))
    assert answer.status_code == 422
    assert 'href="/settings/confirm?next=' in answer.text
    assert simulators[STRIPE].calls == []
    assert rows(database, models.Account) == []
    make_fresh(database)
    again = {"label": "Our shop", "live": "test", "kept": hidden(answer.text, "kept")}
    assert client.post(here(site, "/new/stripe"), data=again).status_code == 303
    assert keys_of(the_account(database)) == dict(good.credentials)


def test_a_webhook_registers_itself_with_the_account(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    """Where a call can do it, what comes out of it may be left empty."""
    sign_in(client, database, site)
    able = [
        name
        for name in names()
        if accounts.registers(name, sample_of(simulators, name).variant)
        and any(one.from_webhook and one.required for one in facts(name).credentials)
    ]
    assert able
    for name in able:
        sample = sample_of(simulators, name)
        by_itself = {one.name for one in facts(name).credentials if one.from_webhook}
        left = {key: value for key, value in sample.credentials.items() if key not in by_itself}
        typed = form_of(Sample(sample.label, left, sample.variant), register="1")
        answer = client.post(here(site, f"/new/{name}"), data=typed)
        if answer.status_code == 422 and "you chose test" in answer.text:
            answer = client.post(here(site, f"/new/{name}"), data={**typed, "live": "live"})
        assert answer.status_code == 303, (name, answer.text)
        account = rows(database, models.Account)[-1]
        page = client.get(answer.headers["location"]).text
        if answer.headers["location"].endswith("?done=registered"):
            assert account.webhook_remote
            assert "Register it again" in page
            required = {one.name for one in facts(name).credentials if one.from_webhook and one.required}
            assert {key for key in required if keys_of(account).get(key)} == {
                one.name for one in accounts.fields(name, sample.variant) if one.from_webhook and one.required
            }
        else:
            assert answer.headers["location"].endswith("?done=unregistered")
            assert "Register it for me" in page
    assert any(one.webhook_remote for one in rows(database, models.Account))


# Managing


def test_an_account_shows_what_is_known_and_no_secret(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site, "viewer")
    page = client.get(at(account)).text
    assert f"http://admin.localhost/webhooks/{account.token}" in page
    assert "••••0001" in page
    for secret in keys_of(account).values():
        assert secret not in page
    for path in ("/check", "/webhook", "/test-event", "/keys", "/disconnect"):
        assert f'"{at(account, path)}"' not in page
    assert "<button" not in page.partition("<main")[2]


def test_check_now_asks_and_says_what_came_of_it(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site, "editor")
    answer = client.post(at(account, "/check"))
    assert answer.headers["location"] == f"{at(account)}?done=checked"
    page = client.get(answer.headers["location"]).text
    assert "Checked just now." in page
    assert ">Works<" in page
    simulators[STRIPE].switch("refused_keys")
    client.post(at(account, "/check"))
    assert ">Refused<" in client.get(at(account)).text
    [mail] = [job for job in rows(database, models.Job) if job.kind == "mail"]
    assert mail.payload["template"] == "merchant_notice"
    simulators[STRIPE].switch("down")
    client.post(at(account, "/check"))
    assert ">No answer<" in client.get(at(account)).text


POSTS = {
    "": "editor",
    "/check": "editor",
    "/test-event": "editor",
    "/webhook": "owner",
    "/keys": "owner",
    "/disconnect": "owner",
}
PAGES = {"": "viewer", "/events": "viewer", "/keys": "owner", "/disconnect": "owner"}
ROLES = ("viewer", "editor", "owner")


@pytest.mark.parametrize("role", ROLES)
def test_roles(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness], role: str
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site, role)

    def may(least: str) -> bool:
        return ROLES.index(role) >= ROLES.index(least)

    for path, least in PAGES.items():
        assert (client.get(at(account, path)).status_code == 200) == may(least), path
    for path in ("", "/matrix"):
        assert client.get(here(site, path)).status_code == 200
    assert client.get(here(site, "/new/stripe")).status_code == (200 if may("owner") else 403)
    before = everything(database)
    for path, least in POSTS.items():
        if not may(least):
            assert client.post(at(account, path), data={"version": "1", "label": "X"}).status_code == 403, (
                path
            )
    if not may("owner"):
        typed = form_of(sample_of(simulators, STRIPE, 1))
        assert client.post(here(site, "/new/stripe"), data=typed).status_code == 403
    assert everything(database) == before
    assert simulators[STRIPE].calls == []


def everything(database: Database) -> str:
    """All rows of all tables as text, sessions apart."""

    def dump(db: Session) -> str:
        return "\n".join(
            repr(dict(row))
            for table in models.metadata.sorted_tables
            if table.name != "merchant_session"
            for row in db.execute(table.select()).mappings()
        )

    return database.read_now(dump)


def test_strangers_find_nothing(
    client: Desk,
    database: Database,
    site: models.Portal,
    stranger: models.Portal,
    simulators: dict[str, Harness],
) -> None:
    """Another merchant's portal; and one's own portal with another's account in the address."""
    ours = connected(database, site, simulators)
    theirs = make_account(database, stranger, STRIPE, dict(sample_of(simulators, STRIPE, 1).credentials))
    sign_in(client, database, site)
    mixed = at(theirs).replace(id_text(stranger.id), id_text(site.id))
    wrong_way = at(ours).replace(id_text(site.id), id_text(stranger.id))
    before = everything(database)
    for base in (at(theirs), mixed, wrong_way):
        for path in PAGES:
            assert client.get(base + path).status_code == 404, base + path
        for path in POSTS:
            typed = {"version": "1", "label": "Mine", "key_secret_key": "sk_test_Mine00000000000000001"}
            assert client.post(base + path, data=typed).status_code == 404, base + path
    for path in ("", "/matrix", "/new/stripe"):
        assert client.get(here(stranger, path)).status_code == 404
    typed = form_of(sample_of(simulators, STRIPE))
    assert client.post(here(stranger, "/new/stripe"), data=typed).status_code == 404
    asked = client.get(here(site, f"/matrix?account={id_text(theirs.id)}&option=suspend_to_cancel"))
    assert 'data-testid="compared"' not in asked.text
    assert everything(database) == before
    assert simulators[STRIPE].calls == []


def test_keys_and_disconnecting_ask_for_a_fresh_proof(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site)
    make_stale(database)
    for path in ("/keys", "/disconnect"):
        answer = client.get(at(account, path))
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/settings/confirm")
    for path in ("/disconnect", "/webhook"):
        assert client.post(at(account, path)).headers["location"].startswith("/settings/confirm")
    new = {"version": "1", "key_secret_key": "sk_test_FjordTea00000000000001", "overlap": "24"}
    answer = client.post(at(account, "/keys"), data=new)
    assert answer.status_code == 422
    assert "Confirm first that it is you." in answer.text
    assert the_account(database).version == 1


def test_switches_are_saved(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators, "paypal")
    sign_in(client, database, site, "editor")
    page = client.get(at(account)).text
    assert 'value="suspend_to_cancel"' in page
    shown = re.findall(r'name="allow" value="([a-z_]+)" checked', page)
    assert "pause" in shown
    assert (
        "skip_next_payment" not in shown
    )  # this processor has no such thing: there is nothing to switch off
    typed = {
        "version": "1",
        "label": "Wallet",
        "option": ["suspend_to_cancel"],
        "allow": [key for key in shown if key != "pause"],
    }
    answer = client.post(at(account), data=typed)
    assert answer.headers["location"] == f"{at(account)}?done=saved"
    kept = the_account(database)
    assert (kept.label, kept.options, kept.switched_off) == ("Wallet", ["suspend_to_cancel"], ["pause"])
    assert client.post(at(account), data={**typed, "version": "2", "label": " "}).status_code == 422


def test_of_two_who_save_at_once_the_later_is_told_and_keeps_their_choice(
    client: Desk,
    database: Database,
    site: models.Portal,
    simulators: dict[str, Harness],
    other: Callable[..., Desk],
) -> None:
    account = connected(database, site, simulators, "paypal")
    sign_in(client, database, site)
    ben = other()
    sign_in_as(
        ben, database, make_person(database, site.merchant_id, "editor", "ben@acme.example"), site.merchant_id
    )
    shown = re.findall(r'name="allow" value="([a-z_]+)"', client.get(at(account)).text)
    first = {"version": "1", "label": "Ben's", "option": ["suspend_to_cancel"], "allow": shown}
    assert ben.post(at(account), data=first).status_code == 303
    mine = {"version": "1", "label": "Mine", "allow": [key for key in shown if key != "pause"]}
    answer = client.post(at(account), data=mine, headers=HTMX)
    assert answer.status_code == 422
    page = html.unescape(answer.text)
    assert "ben@acme.example changed this at" in page
    assert "Name: “Cards” → “Ben's”" in page
    assert "Options: – → Suspend now" in page
    assert 'value="Mine"' in page  # what I chose stands there still
    assert not re.search(r'value="pause" checked', page)
    version = hidden(answer.text, "version")
    assert version == "2"
    assert the_account(database).label == "Ben's"
    assert client.post(at(account), data={**mine, "version": version}).status_code == 303
    assert the_account(database).label == "Mine"


def test_keys_that_cannot_be_opened_are_said_and_entered_anew(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)

    def seal_elsewhere(db: Session) -> None:
        row = db.get_one(models.Account, account.id)
        row.credentials = Vault(new_key()).seal(site.id, row.id, {"secret_key": "sk_test_x"})

    database.write_now(seal_elsewhere)
    sign_in(client, database, site)
    assert 'data-testid="locked"' in client.get(at(account)).text
    for path in ("/check", "/test-event", "/webhook"):
        answer = client.post(at(account, path))
        assert answer.status_code == 422, path
        assert "PORTAL_MASTER_KEYS" in answer.text
    assert "Enter all of them" in client.get(at(account, "/keys")).text
    sample = sample_of(simulators, STRIPE)
    typed = {"version": "1", **{f"key_{name}": value for name, value in sample.credentials.items()}}
    assert client.post(at(account, "/keys"), data=typed).status_code == 303
    assert keys_of(the_account(database)) == dict(sample.credentials)


# Changing keys


def roll(simulators: dict[str, Harness]) -> None:
    """A second key of the first sample's account at the processor."""
    known = simulators[STRIPE].state["keys"]
    known[NEW] = dict(known[sample_of(simulators, STRIPE).credentials["secret_key"]])


NEW = "sk_test_RolledKey00000000001"


def test_new_keys_are_asked_about_before_the_old_ones_go(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site)
    page = client.get(at(account, "/keys")).text
    assert "••••0001" in page
    for secret in keys_of(account).values():
        assert secret not in page
    assert 'value="24" selected' in page
    answer = client.post(
        at(account, "/keys"), data={"version": "1", "key_secret_key": "sk_test_Nobodys000000000001"}
    )
    assert answer.status_code == 422
    assert "does not accept this" in answer.text
    assert client.post(at(account, "/keys"), data={"version": "1"}).status_code == 422
    typed = {"version": "1", "key_secret_key": "nonsense", "remove": ["webhook_secret_old"], "overlap": "1"}
    odd = client.post(at(account, "/keys"), data=typed)
    assert "This does not look like “Secret or restricted key”" in html.unescape(odd.text)
    assert 'value="1" selected' in odd.text  # what was chosen is chosen still
    assert "is kept. Type only to replace it." not in odd.text  # it has to be copied once more
    assert the_account(database).version == 1
    roll(simulators)
    answer = client.post(at(account, "/keys"), data={"version": "1", "key_secret_key": NEW, "overlap": "72"})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == f"{at(account)}?done=keys"
    kept = the_account(database)
    assert keys_of(kept)["secret_key"] == NEW
    assert kept.previous_until is not None
    assert timedelta(hours=71) < kept.previous_until - clock.now() <= timedelta(hours=72)
    page = client.get(at(account)).text
    assert "The keys of before still prove deliveries until" in page
    assert NEW not in page
    # The later of two is told, and loses nothing.
    late = client.post(
        at(account, "/keys"), data={"version": "1", "key_webhook_secret": "whsec_Later0000001"}
    )
    assert late.status_code == 422
    assert "changed this at" in late.text
    assert hidden(late.text, "version") == "2"
    done = client.post(at(account, "/keys"), data={"version": "2", "kept": hidden(late.text, "kept")})
    assert done.status_code == 303, done.text
    assert keys_of(the_account(database))["webhook_secret"] == "whsec_Later0000001"


def test_keys_of_the_other_mode_or_of_another_account_are_not_taken_for_new_ones(
    client: Desk,
    database: Database,
    site: models.Portal,
    simulators: dict[str, Harness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site)
    client.post(at(account, "/check"))
    new = {"version": "1", "key_secret_key": NEW}

    async def answers(*_: Any) -> Checked:
        return Checked(told)

    monkeypatch.setattr(accounts, "check", answers)
    told = Health(True, True, "acct_1")
    answer = client.post(at(account, "/keys"), data=new)
    assert answer.status_code == 422
    assert "These are live keys, and “Cards” is for tests." in html.unescape(answer.text)
    told = Health(True, False, "acct_of_somebody_else")
    answer = client.post(at(account, "/keys"), data=new)
    assert answer.status_code == 422
    assert "says that these keys are of “acct_of_somebody_else”" in html.unescape(answer.text)
    assert the_account(database).version == 1
    assert client.post(at(account, "/keys"), data={**new, "another": "1"}).status_code == 303


def test_an_optional_key_can_be_emptied_and_a_required_one_cannot(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    sample = sample_of(simulators, STRIPE)
    extra = {**sample.credentials, "webhook_secret_old": "whsec_Older0000001"}
    account = make_account(database, site, STRIPE, extra)
    sign_in(client, database, site)
    typed = {"version": "1", "remove": ["webhook_secret_old", "secret_key"], "overlap": "0"}
    assert client.post(at(account, "/keys"), data=typed).status_code == 303
    assert keys_of(the_account(database)) == dict(sample.credentials)
    assert the_account(database).previous_credentials is None


def delivery(secret: str, event_id: str) -> tuple[dict[str, str], bytes]:
    body = json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": "customer.subscription.updated",
            "api_version": "2026-10-28.endive",
            "created": int(clock.now().timestamp()),
            "livemode": False,
            "data": {"object": {"id": "sub_1", "object": "subscription", "status": "active"}},
        }
    ).encode()
    return {"Stripe-Signature": sign(secret, body, clock.now())}, body


def post(client: Desk, account: models.Account, secret: str, event_id: str) -> int:
    headers, body = delivery(secret, event_id)
    return client.post(f"/webhooks/{account.token}", content=body, headers=headers).status_code


def test_deliveries_of_both_secrets_count_during_the_overlap_and_no_longer(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    old = keys_of(account)["webhook_secret"]
    sign_in(client, database, site)
    assert post(client, account, old, "evt_1") == 200
    typed = {"version": "1", "key_webhook_secret": "whsec_RolledSecret01", "overlap": "1"}
    assert client.post(at(account, "/keys"), data=typed).status_code == 303
    assert post(client, account, old, "evt_2") == 200
    assert post(client, account, "whsec_RolledSecret01", "evt_3") == 200
    clock.set_offset(timedelta(minutes=61))
    assert post(client, account, old, "evt_4") == 400
    assert post(client, account, "whsec_RolledSecret01", "evt_5") == 200


# The webhook


def test_register_again_and_what_a_processor_says_against_it(
    client: Desk,
    database: Database,
    site: models.Portal,
    simulators: dict[str, Harness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = next(one for one in names() if accounts.registers(one, sample_of(simulators, one).variant))
    account = connected(database, site, simulators, name)
    sign_in(client, database, site)

    async def refuses(*_: Any) -> tuple[Registration | None, str]:
        return None, "Ten webhooks are there already."

    with monkeypatch.context() as patched:
        patched.setattr(accounts, "register", refuses)
        answer = client.post(at(account, "/webhook"))
    assert answer.status_code == 422
    assert "did not register it: Ten webhooks are there already." in answer.text
    assert the_account(database).webhook_remote is None

    async def registers(*_: Any) -> tuple[Registration | None, str]:
        return Registration("hook_1", {}, "Switch on the e-mail there."), ""

    with monkeypatch.context() as patched:
        patched.setattr(accounts, "register", registers)
        answer = client.post(at(account, "/webhook"))
    assert answer.status_code == 303
    page = client.get(answer.headers["location"]).text
    assert "Switch on the e-mail there." in page
    assert "Registered by the portal" in page
    assert the_account(database).webhook_remote == "hook_1"


def test_no_registration_where_there_is_no_call_for_it(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    name = next(one for one in names() if not accounts.registers(one, sample_of(simulators, one).variant))
    account = connected(database, site, simulators, name)
    sign_in(client, database, site)
    assert "Register it for me" not in client.get(at(account)).text
    assert client.post(at(account, "/webhook")).status_code == 404


def test_a_test_event_is_asked_for_and_shown_when_it_comes(
    client: Desk,
    database: Database,
    site: models.Portal,
    simulators: dict[str, Harness],
) -> None:
    name = next(
        one
        for one in names()
        if any(fact.test_event for fact in accounts.webhook_facts(one, sample_of(simulators, one).variant))
    )
    account = connected(database, site, simulators, name)
    sign_in(client, database, site, "editor")
    assert "Send me a test event" in client.get(at(account)).text
    answer = client.post(at(account, "/test-event"))
    if answer.status_code == 422:  # it wants a registered webhook first
        assert "sent no test event" in answer.text
        asked = int(clock.now().timestamp())
    else:
        asked = int(answer.headers["location"].partition("asked=")[2].partition("#")[0])
    piece = client.get(at(account, f"/events?asked={asked}")).text
    assert 'hx-trigger="every 2s"' in piece
    assert 'data-testid="awaited"' in piece

    def came(db: Session) -> None:
        db.add(
            models.Event(
                portal_id=site.id,
                account_id=account.id,
                event_id="evt_test",
                type="a.test",
                headers=[],
                received_at=clock.now() + timedelta(seconds=1),
            )
        )

    database.write_now(came)
    piece = client.get(at(account, f"/events?asked={asked}")).text
    assert "The test event has come in" in piece
    assert "hx-trigger" not in piece
    clock.set_offset(timedelta(minutes=3))
    for odd in ("nonsense", "9" * 30, "0", str(asked + 10_000)):
        assert client.get(at(account, f"/events?asked={odd}")).status_code == 200


def test_a_test_event_that_does_not_come_is_said(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site)
    asked = int(clock.now().timestamp())
    clock.set_offset(timedelta(minutes=3))
    piece = client.get(at(account, f"/events?asked={asked}")).text
    assert "The test event has not come in." in piece
    assert "hx-trigger" not in piece


# Disconnecting


def test_disconnecting_says_what_is_lost_and_closes_the_door(
    client: Desk,
    database: Database,
    site: models.Portal,
    simulators: dict[str, Harness],
    other: Callable[..., Desk],
) -> None:
    account = connected(database, site, simulators)
    secret = keys_of(account)["webhook_secret"]
    ana = make_customer(database, site)
    for _ in range(2):
        make_subscription(database, account, ana)
    make_subscription(database, account, ana, status="cancelled")
    sign_in(client, database, site)
    page = client.get(at(account, "/disconnect")).text
    assert re.search(r'data-key="cancel_now">Cancel at once: 2 subscriptions<', page)
    assert 'data-key="resume"' not in page
    answer = client.post(at(account, "/disconnect"))
    assert answer.headers["location"] == f"{at(account)}?done=gone"
    kept = the_account(database)
    assert json.loads(kept.credentials) == {}
    page = client.get(answer.headers["location"]).text
    assert "The keys are forgotten" in page
    assert "Connect again" in page
    assert post(client, account, secret, "evt_1") == 410
    for path in ("/check", "/webhook", "/test-event", "/disconnect"):
        assert client.post(at(account, path)).status_code == 404, path
    assert "Disconnected" in client.get(here(site)).text
    assert 'data-testid="sheet"' not in client.get(here(site, "/matrix")).text
    assert "Stripe" not in other("acme.localhost").get("/customers/help/what-can-i-do").text


def test_a_disconnected_account_is_connected_again_where_it_was(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators)
    sign_in(client, database, site)
    client.post(at(account, "/check"))
    client.post(at(account, "/disconnect"))
    sample = sample_of(simulators, STRIPE)
    # Whoever tries it as a new one is led to the old one.
    answer = client.post(here(site, "/new/stripe"), data=form_of(sample))
    assert answer.status_code == 422
    assert f'href="{at(account, "/keys")}"' in answer.text
    version = hidden(client.get(at(account, "/keys")).text, "version")
    typed = {"version": version, "key_secret_key": sample.credentials["secret_key"]}
    none = client.post(at(account, "/keys"), data={"version": version})
    assert "“Secret or restricted key” is missing." in html.unescape(none.text)
    whole = {**typed, "key_webhook_secret": sample.credentials["webhook_secret"]}
    answer = client.post(at(account, "/keys"), data=whole)
    assert answer.headers["location"] == f"{at(account)}?done=back", answer.text
    kept = the_account(database)
    assert kept.disconnected_at is None
    assert kept.token == account.token
    assert post(client, account, sample.credentials["webhook_secret"], "evt_1") == 200
    assert [job.kind for job in rows(database, models.Job) if job.kind == "backfill"] == ["backfill"]


def test_cancels_that_wait_for_us_are_named_before_they_become_requests(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    account = connected(database, site, simulators, "paypal", options=["suspend_to_cancel"])
    until = clock.now() + timedelta(days=5)
    make_subscription(
        database,
        account,
        make_customer(database, site),
        status="paused",
        cancel_scheduled_at=until,
        access_until=until,
    )
    sign_in(client, database, site)
    assert "1 customer has cancelled for a later day" in client.get(at(account, "/disconnect")).text
    assert client.post(at(account, "/disconnect")).status_code == 303
    [asked] = rows(database, models.Request)
    assert asked.kind == "cancel_at_period_end"


# The matrix


def test_the_matrix_shows_each_account_and_links_its_evidence(
    client: Desk, database: Database, site: models.Portal, simulators: dict[str, Harness]
) -> None:
    first = connected(database, site, simulators)
    second = connected(database, site, simulators, "paypal", label="Wallet")
    make_subscription(database, first, make_customer(database, site))
    sign_in(client, database, site, "viewer")
    page = client.get(here(site, "/matrix")).text
    for account in (first, second):
        assert f'id="a-{id_text(account.id)}"' in page
        for key, capability in facts(account.processor).capabilities.items():
            assert f'id="c-{id_text(account.id)}-{key}"' in page
            assert html.escape(capability.source, quote=False) in html.unescape(page)
    assert "docs/processors.md#stripe-cancel-now" in page
    assert "1 of 1" in page
    assert 'data-testid="grid"' in page
    assert page.count("<h1") == 1
    asked = client.get(
        here(site, f"/matrix?account={id_text(second.id)}&option=suspend_to_cancel"), headers=HTMX
    ).text
    assert "If you switch on “Suspend now" in html.unescape(asked)
    assert 'data-testid="difference"' in asked
    assert rows(database, models.Account)[1].options == []


def test_a_portal_without_accounts_has_an_empty_matrix(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site)
    page = client.get(here(site, "/matrix")).text
    assert "No processor yet" in page


# Secrets


def test_no_secret_is_ever_shown_written_down_or_logged(
    client: Desk,
    database: Database,
    site: models.Portal,
    settings: Settings,
    simulators: dict[str, Harness],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every way through the forms, for every processor, wrong and right: then one looks everywhere."""
    caplog.set_level(logging.DEBUG)
    sign_in(client, database, site)
    pages = io.StringIO()
    secrets: set[str] = set()

    def send(path: str, **typed: Any) -> Any:
        answer = client.post(path, data=typed)
        pages.write(answer.text + str(answer.headers))
        if answer.status_code == 303:
            pages.write(client.get(answer.headers["location"]).text)
        return answer

    for name in names():
        sample = sample_of(simulators, name)
        hidden_ones = {one.name for one in facts(name).credentials if one.secret}
        secrets |= {value for key, value in sample.credentials.items() if key in hidden_ones}
        typed = form_of(sample)
        mode = "test"
        send(here(site, f"/new/{name}"), **{**typed, "label": ""})
        simulators[name].switch("refused_keys")
        send(here(site, f"/new/{name}"), **typed)
        simulators[name].switch("down")
        send(here(site, f"/new/{name}"), **typed)
        simulators[name].switch("ok")
        from portal.gateways import http

        http._breakers.clear()
        if send(here(site, f"/new/{name}"), **typed).status_code == 422:
            mode = "live"
            assert send(here(site, f"/new/{name}"), **{**typed, "live": mode}).status_code == 303
        send(here(site, f"/new/{name}"), **{**typed, "live": mode})  # twice
        account = rows(database, models.Account)[-1]
        pages.write(client.get(at(account, "/keys")).text)
        again = {key: value for key, value in typed.items() if key.startswith("key_")}
        send(at(account, "/keys"), version="1", **again)
        send(at(account, "/keys"), version="9", **{**again, "key_secret_key": "nonsense"})
        send(at(account, "/check"))
    pages.write(client.get(here(site)).text)
    pages.write(client.get("/settings/audit").text)
    said = capfd.readouterr()
    everywhere = {
        "pages": html.unescape(pages.getvalue()),
        "tables": everything(database),
        "output": said.out + said.err,
        "log": caplog.text,
    }
    assert len(secrets) > len(names())
    for secret in secrets:
        for where, text in everywhere.items():
            assert secret not in text, where


@pytest.fixture
def app(database: Database, settings: Settings) -> Starlette:
    return create_app(settings, database)
