"""Who may open what: every route of the table, every actor. Strangers get no foreign byte and change nothing.

The table below is written by hand. A route that does not stand in it fails the tests, and so does one whose guard says
something else.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from portal import api, clock, login, merchants, models
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text
from portal.routes import routes
from portal.settings import Settings
from portal.vault import Vault
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_action,
    make_customer,
    make_invoice,
    make_order,
    make_payment,
    make_portal,
    make_request,
    make_subscription,
    save,
)

# Route by name -> who may. PUBLIC: anybody, and nothing of anybody's is told. CUSTOMER: who is signed in, their own.
# A role: people of the merchant with at least that. KEY: a bearer key of the portal. MACHINE: no person at all.
PUBLIC, CUSTOMER, KEY, MACHINE = "public", "customer", "key", "machine"
TABLE: dict[str, str] = {
    **dict.fromkeys(
        (
            *("root", "sign_in", "what_can_i_do", "ask", "check_mail", "redeem_code", "link", "redeem_link"),
            *(
                "come_back",
                "end_view",
                "view_link",
                "begin_view",
                "entry",
                "enter",
                "static",
                "logo",
                "sign_out",
            ),
            *("merchant_sign_in", "merchant_ask", "merchant_check_mail", "merchant_redeem_code"),
            *(
                "merchant_link",
                "merchant_redeem_link",
                "second",
                "give_second",
                "ask_passkey",
                "show_passkey",
            ),
            *("join_link", "prove_join", "find_order", "ask_for_order", "find_order_sent"),
            *("merchant_sign_out", "setup", "take_setup", "invitation", "take_invitation", "merchant_static"),
        ),
        PUBLIC,
    ),
    **dict.fromkeys(
        (
            *(
                "orders",
                "order",
                "subscriptions",
                "card",
                "instead",
                "take_offer",
                "step",
                "act",
                "look_again",
            ),
            *(
                "withdraw_here",
                "requests",
                "withdraw",
                "refund",
                "pay_order",
                "check_order",
                "check_order_again",
                "check_payment_again",
                "leave_start",
                "leave",
                "invoice",
            ),
            *("upcoming", "calendar", "payments", "sessions", "end_sessions", "end_session"),
            *("addresses", "add_address", "prove_address", "ask_remove_address", "remove_address"),
        ),
        CUSTOMER,
    ),
}
TABLE |= {
    **dict.fromkeys(
        (
            *(
                "portals",
                "confirm",
                "do_confirm",
                "switch_merchant",
                "people",
                "audit",
                "security",
                "brand_css",
            ),
            *("begin_app", "confirm_app", "remove_app", "begin_passkey", "add_passkey", "remove_passkey"),
            *("new_codes", "end_merchant_session", "end_others"),
            *(
                "portal",
                "preview",
                "site_logo",
                "overview",
                "overview_csv",
                "domain",
                "domain_state",
                "view_as",
            ),
            *(
                "processors",
                "matrix",
                "account",
                "account_events",
                "account_import",
                "developers",
                "endpoint",
                "deliveries",
            ),
            *("doctor", "doctor_area", "merchant_requests", "ready_answers", "merchant_request"),
            *("merchant_customers", "unassigned", "unassigned_record", "assigned", "merchant_customer"),
            *("merchant_order", "merchant_customer_list", "merchant_events", "merchant_event", "event_body"),
            *("sheets", "sheet_template", "sheet", "sheet_state"),
            *("delivery", "policy", "plans", "account_plans", "mails", "mail", "preview_mail", "privacy"),
        ),
        "viewer",
    ),
    **dict.fromkeys(
        (
            *(
                "new_portal",
                "create_portal",
                "change_portal",
                "put_logo",
                "put_dark_logo",
                "switch",
                "look_now",
            ),
            *("start_import", "stop_import"),
            *("change_account", "check_account", "test_event", "test_endpoint", "resend_delivery"),
            *("change_policy", "save_plan", "move_plan", "change_sender", "change_mail", "our_words"),
            *("test_mail", "change_privacy", "doctor_keys", "save_ready_answer", "answer_request", "export"),
            *("assign_record", "undo_assignment", "export_customer", "ask_join", "undo_join"),
            *("replay_parked", "retry_sync", "replay_event"),
            *("take_sheet", "run_sheet", "sheet_problems"),
        ),
        "editor",
    ),
    **dict.fromkeys(
        (
            *("invite", "rename_merchant", "change_member", "withdraw_invitation"),
            *("domain_name", "claim_domain", "ask_release", "release_domain"),
            *("new_account", "connect_account", "register_webhook", "account_keys", "rotate_keys"),
            *(
                "ask_disconnect",
                "disconnect",
                "return_urls",
                "new_key",
                "make_key",
                "ask_revoke",
                "revoke_key",
            ),
            *("new_endpoint", "add_endpoint", "change_endpoint", "rotate_secret", "switch_endpoint"),
            *("ask_remove_endpoint", "remove_endpoint", "doctor_mail"),
        ),
        "owner",
    ),
    **dict.fromkeys(
        (
            *("api_portal_sessions", "api_accounts", "api_customers", "api_customer", "api_orders"),
            *(
                "api_push_orders",
                "api_add_orders",
                "api_order",
                "api_subscriptions",
                "api_payments",
                "api_requests",
            ),
            *("api_request_done", "api_request_decline", "api_events"),
        ),
        KEY,
    ),
    **dict.fromkeys(
        (
            *("api_description", "webhook", "live", "ready", "metrics", "tls_ask", "demo_mailbox"),
            *("demo_mailbox_json", "demo_mail", "demo_reset", "demo_clock", "demo_switch"),
        ),
        MACHINE,
    ),
}
ROLES = ("viewer", "editor", "owner")
OWN = {"Sec-Fetch-Site": "same-origin"}
CANARY, HERS = "ACMECANARY", "ANACANARY"


def guard_of(route: Route) -> str | None:
    """What the view itself says of who may; None where it guards nothing."""
    found = getattr(route.endpoint, "guard", None)
    if found is None:
        return None
    return {"customer": CUSTOMER, "key": KEY}.get(found[0]) or str(found[1])


def all_routes() -> list[Route]:
    return [route for route in routes() if isinstance(route, Route)]


def test_every_route_stands_in_the_table_and_is_guarded_as_it_says() -> None:
    names = [route.name for route in all_routes()]
    assert len(names) == len(set(names)), "two routes share a name"
    assert sorted(set(names) - set(TABLE)) == [], "routes that the table does not know"
    for route in all_routes():
        wanted = TABLE[route.name]
        assert guard_of(route) == (None if wanted in (PUBLIC, MACHINE) else wanted), route.name


# Two worlds with everything in them


@dataclass
class World:
    """A portal with one of everything. All its words carry a canary."""

    portal: models.Portal
    ana: models.Customer
    ben: models.Customer
    ids: dict[str, int]
    texts: dict[str, str]
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


def build(database: Database, slug: str, canary: str, hers: str) -> World:
    now = clock.now()
    portal = make_portal(
        database,
        slug,
        legal_name=f"{canary} Ltd",
        cancel_reasons=[f"{canary} reason"],
    )
    account = make_account(
        database, portal, "stripe", {"secret_key": f"sk_test_{canary}0000000000"}, label=f"{canary} account"
    )
    ana = make_customer(
        database, portal, f"ana-{canary.lower()}{hers.lower()}@example.com", name=f"{canary}{hers}"
    )
    ben = make_customer(database, portal, f"ben-{canary.lower()}@example.com")
    order = make_order(database, account, ana, title=f"{canary}{hers} order", number=f"{canary}{hers}-1")
    subscription = make_subscription(
        database,
        account,
        ana,
        title=f"{canary}{hers} box",
        current_period_start=now - timedelta(days=10),
        current_period_end=now + timedelta(days=20),
    )
    payment = make_payment(
        database, account, ana, title=f"{canary}{hers} payment", order_remote=order.remote_id
    )
    make_invoice(database, account, ana, number=f"{canary}{hers}-I", payment_remote=payment.remote_id)
    make_action(database, subscription, closed_at=now, phase="confirmed", params={"title": f"{canary}{hers}"})
    request = make_request(database, subscription, words=f"{canary}{hers} please")
    lone = make_order(database, account, None, title=f"{canary} unassigned", email=None)
    common: dict[str, Any] = {"portal_id": portal.id}
    asset = save(
        database,
        models.Asset(
            **common, sha256=secrets.token_hex(32), content_type="image/png", width=1, height=1,
            content=canary.encode(),
        ),
    )  # fmt: skip
    event = save(
        database,
        models.Event(
            **common, account_id=account.id, event_id=f"evt_{canary}", type=f"{canary}.paid", headers=[],
            body=f'{{"id": "{canary}"}}'.encode(), received_at=now, parked_at=now, error=f"{canary} error",
        ),
    )  # fmt: skip
    save(
        database,
        models.DomainClaim(**common, name=f"shop.{canary.lower()}.example", token=canary, created_at=now),
    )
    vault = Vault(MASTER_KEY)
    endpoint = models.Endpoint(
        **common, url=f"https://{canary.lower()}.example/hook", secret=b"", events=[], created_at=now
    )
    endpoint.secret = vault.seal(portal.id, endpoint.id, {"endpoint_secret": "whsec_" + "a" * 40})
    save(database, endpoint)
    ids = {
        "portal_id": portal.id, "account_id": account.id, "customer_id": ana.id, "order_id": order.id,
        "subscription_id": subscription.id, "payment_id": payment.id, "request_id": request.id,
        "event_id": event.id, "endpoint_id": endpoint.id, "record_id": lone.id,
    }  # fmt: skip
    texts = {"sha": asset.sha256, "reference": request.reference}
    world = World(portal, ana, ben, ids, texts)
    people(database, world, slug, canary)
    more(database, world, canary)
    return world


def people(database: Database, world: World, slug: str, canary: str) -> None:
    """Somebody of each role, and two customers, with their cookies; an invitation, a passkey, keys."""
    now, merchant = clock.now(), world.portal.merchant_id
    for role in ROLES:
        user = save(database, models.User(email=f"{role}-{canary.lower()}@{slug}.example", created_at=now))
        member = save(
            database, models.Member(merchant_id=merchant, user_id=user.id, role=role, created_at=now)
        )
        token = database.write_now(merchants.open_session, user.id, merchant, "", "", now, strong=True)
        world.cookies[role] = {"portal-merchant": token}
        if role == "viewer":
            world.ids["member_id"] = member.id
    world.ids["invitation_id"] = save(
        database,
        models.Invitation(
            token_hash=secrets.token_hex(32), merchant_id=merchant, email=f"guest-{canary.lower()}@example.com",
            role="viewer", created_at=now, expires_at=now + timedelta(days=1),
        ),
    ).id  # fmt: skip
    for name, customer in (("ana", world.ana), ("ben", world.ben)):
        secret = secrets.token_urlsafe(32)
        session = save(
            database,
            models.SignIn(
                token_hash=login.digest(secret), portal_id=world.portal.id, customer_id=customer.id,
                user_agent=f"{canary}", created_at=now, last_seen_at=now, expires_at=now + timedelta(hours=5),
            ),
        )  # fmt: skip
        world.cookies[name] = {"portal": secret}
        if name == "ana":
            world.ids["session_id"] = session.id
    for name, scopes in (("all", list(api.SCOPES)), ("none", [])):
        made, text = database.write_now(api.new_key, world.portal.id, f"{canary} {name}", scopes, None, now)
        world.keys[name] = text
        world.ids["key_id"] = made.id


def more(database: Database, world: World, canary: str) -> None:
    """What hangs on other rows."""
    now = clock.now()
    told = save(
        database,
        models.OwnEvent(
            portal_id=world.portal.id,
            customer_id=world.ana.id,
            type="customer.signed_in",
            data={"canary": canary},
            at=now,
        ),
    )
    delivery = models.Delivery(
        portal_id=world.portal.id,
        endpoint_id=world.ids["endpoint_id"],
        event_id=told.id,
        created_at=now,
        last_error=canary,
    )
    world.ids["delivery_id"] = save(database, delivery).id
    payload = {"account": world.ids["account_id"], "canary": canary}
    job = models.Job(
        kind="backfill", payload=payload, run_at=now, created_at=now, parked_at=now, error=canary
    )
    world.ids["job_id"] = save(database, job).id
    sheet = models.Sheet(
        portal_id=world.portal.id, account_id=world.ids["account_id"], name=f"{canary}.csv", kind="csv",
        header=[canary], mapping=["email"], rules={}, first=[[2, canary]], state="done", asked_by=canary,
        created_at=now,
    )  # fmt: skip
    world.ids["sheet_id"] = save(database, sheet).id
    wrong = {"portal_id": world.portal.id, "sheet_id": world.ids["sheet_id"], "line": 2}
    save(database, models.SheetProblem(**wrong, column=canary, sentence=canary))
    assignment = models.Assignment(
        portal_id=world.portal.id,
        account_id=world.ids["account_id"],
        kind="order",
        remote_id=f"{canary}-lone",
        customer_id=world.ben.id,
        at=now,
    )
    world.ids["assignment_id"] = save(database, assignment).id
    join = models.Join(
        portal_id=world.portal.id,
        from_id=world.ben.id,
        into_id=world.ana.id,
        created_at=now,
        expires_at=now + timedelta(days=1),
        proved_at=now,
    )
    world.ids["join_id"] = save(database, join).id


TEXTS = {
    "token": "A" * 43, "state": "A" * 43, "sealed": "A" * 60, "name": "portal.css", "step": "cancel",
    "colour": "2f6f4f", "processor": "stripe", "kind": "cancelled", "number": "1", "template": "cancelled",
    "section": "orders", "what": "orders", "area": "worker",
}  # fmt: skip


OF_ROUTE = {"unassigned_record": "order", "assign_record": "order", "doctor_area": "tls"}


def address_of(route: Route, world: World) -> str:
    """The route's address with this world's ids in it."""

    def fill(match: re.Match[str]) -> str:
        name, _, kind = match[1].partition(":")
        if kind == "id":
            return id_text(world.ids[name])
        return world.texts.get(name) or OF_ROUTE.get(route.name, TEXTS[name])

    return re.sub(r"\{([^}]+)\}", fill, route.path)


# The tries


@dataclass
class Actor:
    """Somebody, on one host, with what they hold."""

    name: str
    host: str
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def app(database: Database) -> Starlette:
    settings = Settings(
        scheme="http",
        base_domain="localhost",
        master_keys=SecretStr(MASTER_KEY),
        secret_key=SecretStr("the secret of these tests"),
    )
    return create_app(settings, database)


@pytest.fixture
def worlds(database: Database) -> tuple[World, World]:
    if not database.is_sqlite:
        pytest.skip("guards and queries are the same code on both; this is a thousand requests a test")
    return build(database, "acme", CANARY, HERS), build(database, "kora", "KORASOWN", "KORASHERS")


@pytest.fixture
def ask(app: Starlette) -> Iterator[Callable[..., Any]]:
    with TestClient(
        app, "http://acme.localhost", headers=OWN, follow_redirects=False, raise_server_exceptions=False
    ) as client:

        def ask(actor: Actor, method: str, path: str, **more: Any) -> Any:
            client.cookies.clear()
            cookie = "; ".join(f"{name}={value}" for name, value in actor.cookies.items())
            headers = {"Host": actor.host, **({"Cookie": cookie} if cookie else {}), **actor.headers}
            return client.request(method, path, headers=headers, **more)

        yield ask


def methods(route: Route) -> list[str]:
    return sorted((route.methods or set()) - {"HEAD"})


def customers_strangers(acme: World, kora: World) -> list[Actor]:
    """Who must get nothing of Ana's on the customers' pages."""
    shop, other = "acme.localhost", "kora.localhost"
    return [
        Actor("nobody", shop),
        Actor("another customer", shop, acme.cookies["ben"]),
        Actor("a stranger's cookie here", shop, kora.cookies["ana"]),
        Actor("a stranger at home", other, kora.cookies["ana"]),
        Actor("Ana at the stranger's", other, acme.cookies["ana"]),
        Actor("the merchant's own cookie", shop, acme.cookies["owner"]),
        Actor("a key", shop, headers={"Authorization": f"Bearer {kora.keys['all']}"}),
        Actor("on the merchant's host", "admin.localhost", acme.cookies["ana"]),
    ]


def merchants_strangers(acme: World, kora: World) -> list[Actor]:
    """Who must get nothing of Acme's on the merchant's side."""
    desk = "admin.localhost"
    return [
        Actor("nobody", desk),
        Actor("a customer", desk, acme.cookies["ana"]),
        Actor(
            "a customer's secret in the other cookie",
            desk,
            {"portal-merchant": acme.cookies["ana"]["portal"]},
        ),
        *(Actor(f"the stranger's {role}", desk, kora.cookies[role]) for role in ROLES),
        Actor("the owner on a customers' host", "acme.localhost", acme.cookies["owner"]),
        Actor("a key", desk, headers={"Authorization": f"Bearer {acme.keys['all']}"}),
    ]


def rows_of(db: Session, world: World) -> str:
    """Everything that belongs to a world, as text; what one's own being there changes is left out."""
    said = []
    for table in models.metadata.sorted_tables:
        if table.name in ("job", "login_request", "login_token", "setting", "api_use", "tally", "session"):
            continue
        owner = next((c for c in ("portal_id", "merchant_id") if c in table.c), None)
        if owner is None:
            continue
        mine = world.portal.id if owner == "portal_id" else world.portal.merchant_id
        rows = db.execute(select(table).where(table.c[owner] == mine)).all()
        said += sorted(repr(tuple(row)) for row in rows)
    portal = models.metadata.tables["portal"]
    said += [repr(tuple(row)) for row in db.execute(select(portal).where(portal.c.id == world.portal.id))]
    return "\n".join(said)


def test_strangers_get_no_byte_and_change_nothing(
    database: Database, worlds: tuple[World, World], ask: Callable[..., Any]
) -> None:
    acme, kora = worlds
    before = database.read_now(rows_of, acme)
    tried, faults = 0, []
    for route in all_routes():
        group = TABLE[route.name]
        if group == CUSTOMER:
            actors, canary = customers_strangers(acme, kora), HERS
        elif group in ROLES:
            actors, canary = merchants_strangers(acme, kora), CANARY
        elif group == KEY:
            actors, canary = keys_strangers(acme, kora), CANARY
        else:
            continue
        for method in methods(route):
            for actor in actors:
                path = address_of(route, acme)
                more = (
                    {}
                    if method == "GET"
                    else {"json": {}}
                    if group == KEY
                    else {"data": {"name": "x", "role": "viewer"}}
                )
                answer = ask(actor, method, path, **more)
                tried += 1
                # Looked for in the text and not in the address one was sent on to.
                if canary in answer.text or answer.status_code >= 500:
                    faults.append(f"{actor.name}: {method} {route.name} -> {answer.status_code}")
                has_id = "_id:id}" in route.path or "{reference}" in route.path
                if has_id and answer.status_code < 300:
                    faults.append(
                        f"{actor.name}: {method} {route.name} -> {answer.status_code}, and should not"
                    )
                if method != "GET" and database.read_now(rows_of, acme) != before:
                    faults.append(f"{actor.name}: {method} {route.name} changed something")
                    before = database.read_now(rows_of, acme)
    assert faults == []
    assert tried > 900


def test_ones_own_portal_opens_nothing_of_anothers(
    database: Database, worlds: tuple[World, World], ask: Callable[..., Any]
) -> None:
    """The stranger's owner names their own portal and, below it, what is Acme's: one thing, or everything."""
    acme, kora = worlds
    before = database.read_now(rows_of, acme)
    owner = Actor("owner", "admin.localhost", kora.cookies["owner"])
    tried, faults = 0, []
    for route in all_routes():
        below = [name for name in re.findall(r"\{(\w+):id\}", route.path) if name != "portal_id"]
        if TABLE[route.name] not in ROLES or not below:
            continue
        for stolen in [below] if len(below) == 1 else [below, *([name] for name in below)]:
            ids = {**kora.ids, **{name: acme.ids[name] for name in stolen}}
            path = address_of(route, World(kora.portal, kora.ana, kora.ben, ids, kora.texts))
            for method in methods(route):
                answer = ask(
                    owner,
                    method,
                    path,
                    **({} if method == "GET" else {"data": {"name": "x", "role": "viewer"}}),
                )
                tried += 1
                if answer.status_code != 404 or CANARY in answer.text:
                    faults.append(f"{method} {route.name} ({', '.join(stolen)}) -> {answer.status_code}")
                if method != "GET" and database.read_now(rows_of, acme) != before:
                    faults.append(f"{method} {route.name} changed something")
    assert faults == []
    assert tried > 40


def keys_strangers(acme: World, kora: World) -> list[Actor]:
    """Who must get nothing of Acme's through the API."""
    return [
        Actor("nobody", "api.example"),
        Actor("a wrong key", "api.example", headers={"Authorization": f"Bearer {acme.keys['all'][:-1]}x"}),
        Actor("the stranger's key", "api.example", headers={"Authorization": f"Bearer {kora.keys['all']}"}),
        Actor(
            "a key without scopes", "api.example", headers={"Authorization": f"Bearer {kora.keys['none']}"}
        ),
        Actor("the owner's cookie", "admin.localhost", acme.cookies["owner"]),
        Actor("a customer's cookie", "acme.localhost", acme.cookies["ana"]),
    ]


def test_roles_are_kept(database: Database, worlds: tuple[World, World], ask: Callable[..., Any]) -> None:
    """Who has a lesser role than a route wants is refused, and nothing changes."""
    acme, _ = worlds
    before = database.read_now(rows_of, acme)
    faults = []
    for route in all_routes():
        wanted = TABLE[route.name]
        for role in ROLES[: ROLES.index(wanted)] if wanted in ROLES else ():
            for method in methods(route):
                more = {} if method == "GET" else {"data": {"name": "x", "role": "viewer"}}
                actor = Actor(role, "admin.localhost", acme.cookies[role])
                answer = ask(actor, method, address_of(route, acme), **more)
                if answer.status_code != 403:
                    faults.append(f"{role}: {method} {route.name} -> {answer.status_code}")
                if method != "GET" and database.read_now(rows_of, acme) != before:
                    faults.append(f"{role}: {method} {route.name} changed something")
    assert faults == []


def test_who_may_gets_in(worlds: tuple[World, World], ask: Callable[..., Any]) -> None:
    """The other half: the addresses above are right, so that a refusal is a refusal."""
    acme, _ = worlds
    faults, opened = [], 0
    for route in all_routes():
        group = TABLE[route.name]
        if "GET" not in (route.methods or ()) or group in (PUBLIC, MACHINE) or route.name in NOT_THERE:
            continue
        if group == CUSTOMER:
            actor = Actor("ana", "acme.localhost", acme.cookies["ana"])
        elif group == KEY:
            actor = Actor("key", "api.example", headers={"Authorization": f"Bearer {acme.keys['all']}"})
        else:
            actor = Actor(group, "admin.localhost", acme.cookies[group])
        answer = ask(actor, "GET", address_of(route, acme))
        opened += 1
        if answer.status_code not in (200, 204, 302, 303):
            faults.append(f"{actor.name}: {route.name} -> {answer.status_code}: {answer.text[:200]}")
        if answer.status_code == 303 and "sign-in" in answer.headers["location"]:
            faults.append(f"{actor.name}: {route.name} -> the door")
    assert faults == []
    assert opened > 50


# What needs more than an id to be there: sealed addresses, a processor that answers, a job of a test mail.
NOT_THERE = {"leave", "leave_start", "invoice", "test_mail"}
