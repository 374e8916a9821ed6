"""A portal with one account at a simulated processor, in this process: webhooks are carried by hand, so that nothing
depends on timing, and everything a customer does goes through the routes that a browser uses."""

import asyncio
import html
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2 as httpx
from sqlalchemy import select
from starlette.testclient import TestClient

from portal import clock, login, models, offers, sync, tenancy
from portal.app import create_app
from portal.connect import open_gateway
from portal.db import Database
from portal.gateways import http
from portal.gateways.base import Gateway, Ref, Snapshot, SubscriptionRecord
from portal.ids import id_text
from portal.settings import Settings
from portal.vault import Vault
from portal.work import Worker
from seeds.simulators.harness import Delivery, Harness, Sample, Servers, Situation, simulator
from tests.shared import migrated_sqlite
from tests.unit.builders import MASTER_KEY, make_account, make_customer, make_portal, save

HOST = "acme.localhost"
WAITS = ("READ_S", "TOTAL_S", "PATIENT_S")


@dataclass
class House:
    """One processor's portal. `tell` carries webhooks and lets the worker do what is due."""

    processor: str
    simulator: Harness
    database: Database
    settings: Settings
    worker: Worker
    client: TestClient
    sample: Sample
    account: models.Account
    stranger: models.Account
    posted: list[Delivery] = field(default_factory=list)  # on their way
    past: list[Delivery] = field(default_factory=list)  # delivered
    people: int = 0

    def reset(self) -> None:
        """The simulator as it was opened, the account as it was connected, the clock right."""
        clock.set_offset(timedelta(0))
        http._breakers.clear()
        self.simulator.reset()
        self.posted.clear()
        self.past.clear()
        self.client.cookies.clear()
        self.database.write_now(_empty)
        self.connect()

    def connect(self, options: tuple[str, ...] | None = None, country: str | None = None) -> None:
        """Switch options on, and say where the shop is."""
        wanted = list(self.sample.options if options is None else options)

        def change(db: Any) -> None:
            row = db.get_one(models.Account, self.account.id)
            row.options = wanted
            row.plans = self.simulator.plans(self.sample)
            row.credentials = Vault(MASTER_KEY).seal(row.portal_id, row.id, dict(self.sample.credentials))
            row.previous_credentials = row.previous_until = None
            db.get_one(models.Portal, row.portal_id).country = country

        self.database.write_now(change)
        self.account = self.database.read_now(lambda db: db.get_one(models.Account, self.account.id))

    # People

    def newcomer(self) -> str:
        """An address that nobody has had so far."""
        self.people += 1
        return f"person{self.people}@example.com"

    def sign_in(self, email: str) -> models.Customer:
        """A session of this person's, as after a mailed link."""

        def person(db: Any) -> models.Customer | None:
            found: models.Customer | None = db.execute(
                select(models.Customer).where(
                    models.Customer.portal_id == self.account.portal_id,  # type: ignore[arg-type]
                    models.Customer.email == email,  # type: ignore[arg-type]
                )
            ).scalar_one_or_none()
            return found

        customer = self.database.read_now(person)
        if customer is None:
            portal = self.database.read_now(lambda db: db.get_one(models.Portal, self.account.portal_id))
            customer = make_customer(self.database, portal, email)
        now = clock.now()
        token = f"session-{customer.id}-{now.timestamp()}"
        row = models.SignIn(
            token_hash=login.digest(token),
            portal_id=customer.portal_id,
            customer_id=customer.id,
            user_agent="",
            created_at=now,
            last_seen_at=now,
            expires_at=now + timedelta(days=400),
        )
        save(self.database, row)
        self.client.cookies.clear()
        self.client.cookies.set(login.cookie_name(self.settings), token)
        return customer

    # Time and messages

    def tell(self) -> None:
        """Deliver what is posted and do what is due, until nothing moves any more."""
        for _ in range(12):
            posted, self.posted[:] = list(self.posted), []
            for one in posted:
                self.past.append(one)
                self.deliver(one.headers.items(), one.body, urlsplit(one.url).path)
            done = asyncio.run(self.worker.once())
            if not posted and not done and not self.posted:
                return

    def deliver(self, headers: Any, body: bytes, path: str | None = None) -> httpx.Response:
        """Post a delivery to the account's own address."""
        wire = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
        return self.client.post(
            path or f"/webhooks/{self.account.token}",
            content=body,
            headers=wire,
        )

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Do not wait long for an answer that is known not to come."""
        before = [getattr(http, name) for name in WAITS]
        for name, seconds in zip(WAITS, (0.5, 0.7, 0.7), strict=True):
            setattr(http, name, seconds)
        try:
            yield
        finally:
            for name, seconds in zip(WAITS, before, strict=True):
                setattr(http, name, seconds)

    def until_ended(self, row: models.Subscription, times: int, **delta: float) -> None:
        """Let time pass step by step, until it is known that a subscription has ended, and a step more: nothing may
        follow."""
        for _ in range(times):
            action = self.action(row)
            over = action is None or action.phase == "confirmed"
            over = over and self.row(row.id).status in ("cancelled", "expired")
            self.later(**delta)
            if over:
                return

    def later(self, **delta: float) -> None:
        """Move the clock on, let the processor do what falls due, and hear of it."""
        clock.set_offset(clock.offset() + timedelta(**delta))
        http._breakers.clear()
        self.simulator.tick()
        self.tell()

    # What is bought

    def stage(self, situation: Situation, email: str | None = None) -> models.Subscription | None:
        """A subscription in a situation, known to the portal; None where the processor cannot have it."""
        address = email or self.newcomer()
        remote = self.simulator.stage(self.sample, address, situation)
        if remote is None:
            return None
        self.tell()
        row = self.find(remote)
        if row is None or row.status != situation.state:
            self.learn(Ref("subscription", remote))
            row = self.find(remote)
        assert row is not None, f"{remote} is not known after a fetch"
        if row.customer_id is None:
            self._belongs(row, address)
        self.sign_in(address)
        return self.row(row.id)

    def _belongs(self, row: models.Subscription, email: str) -> None:
        """Where neither webhook nor fetch names an address, the merchant's own list does."""
        record = SubscriptionRecord(remote_id=row.remote_id, email=email, knows=frozenset({"email"}))

        def write(db: Any) -> None:
            sync.apply(db, self.account, Snapshot(as_of=clock.now(), subscriptions=(record,)))

        self.database.write_now(write)

    def learn(self, ref: Ref) -> None:
        """Ask the processor and write what it says."""

        async def ask() -> Any:
            gateway = self.gateway()
            try:
                return await gateway.fetch(ref)
            finally:
                await gateway.aclose()

        snapshot = asyncio.run(ask())
        self.database.write_now(lambda db: sync.apply(db, self.account, snapshot))

    def gateway(self) -> Gateway:
        return open_gateway(self.settings, Vault(MASTER_KEY), self.account, patient=True)

    def find(self, remote: str) -> models.Subscription | None:
        return self.database.read_now(
            lambda db: db.execute(
                select(models.Subscription).where(
                    models.Subscription.account_id == self.account.id,  # type: ignore[arg-type]
                    models.Subscription.remote_id == remote,  # type: ignore[arg-type]
                )
            ).scalar_one_or_none()
        )

    def row(self, subscription_id: int) -> models.Subscription:
        return self.database.read_now(lambda db: db.get_one(models.Subscription, subscription_id))

    def offer(self, row: models.Subscription, key: Any) -> offers.Offer | None:
        view = self.database.read_now(tenancy.portal_by_host, HOST, "localhost")
        assert view is not None
        return offers.available(row, self.account, view, clock.now()).get(key)

    def action(self, row: models.Subscription) -> models.Action | None:
        """The newest action of a subscription."""
        return self.database.read_now(
            lambda db: db.execute(
                select(models.Action)
                .where(models.Action.subscription_id == row.id)  # type: ignore[arg-type]
                .order_by(models.Action.created_at.desc(), models.Action.id.desc())  # type: ignore[attr-defined]
                .limit(1)
            ).scalar_one_or_none()
        )

    def requests(self, row: models.Subscription) -> list[models.Request]:
        return self.database.read_now(
            lambda db: list(
                db.execute(
                    select(models.Request).where(models.Request.subject_id == row.id)  # type: ignore[arg-type]
                ).scalars()
            )
        )

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        """All mirrored rows, for before and after."""
        return self.database.read_now(
            lambda db: {
                table.__tablename__: [  # type: ignore[misc]
                    dict(row)
                    for row in db.execute(table.__table__.select()).mappings()  # type: ignore[attr-defined]
                ]
                for table in models.MIRRORED
            }
        )

    # Clicking

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path, follow_redirects=False)

    def press(self, row: models.Subscription, step: str, wish: str, **form: str) -> httpx.Response:
        """Open a step without JavaScript and press its button."""
        here = f"/customers/subscriptions/{id_text(row.id)}/{step}"
        drawn = self.get(here)
        assert drawn.status_code == 200, drawn.text
        return self.client.post(
            here,
            data={"wish": wish, **form},
            headers={"Sec-Fetch-Site": "same-origin"},
            follow_redirects=False,
        )

    def post(self, path: str, data: Mapping[str, str] | None = None) -> httpx.Response:
        return self.client.post(
            path, data=dict(data or {}), headers={"Sec-Fetch-Site": "same-origin"}, follow_redirects=False
        )

    def go(self, page: str, answer: str = "accept") -> str | None:
        """From a page with our leave link to the processor's, press a button there, and come back as a browser would.
        The path we were sent back to; None where the processor sends nobody back."""
        found = re.search(r'href="(/customers/leave/[^"]+)"', page)
        assert found, page
        left = self.get(html.unescape(found[1]))
        if left.status_code == 303:
            return self.visit(left.headers["location"], answer)
        assert left.status_code == 200, left.text
        return self.visit(*self._by_script(left), answer)

    def _by_script(self, left: httpx.Response) -> tuple[str]:
        """The bare page: what its script would open, told by the simulator."""
        found = re.search(r'data-options="([^"]*)"', left.text)
        assert found
        opened: str = self.simulator.opened_by_script(html.unescape(found[1]))
        return (opened,)

    def visit(self, url: str, answer: str = "accept") -> str | None:
        """A hosted page: press its button and follow it home."""
        with httpx.Client(trust_env=False, follow_redirects=False, timeout=10) as browser:
            method, data = "GET", None
            for _ in range(10):
                response = browser.request(method, url, data=data)
                if response.is_redirect:
                    method, data = ("GET", None) if response.status_code != 307 else (method, data)
                    url = urljoin(url, response.headers["location"])
                    if urlsplit(url).netloc != urlsplit(self.simulator.address).netloc:
                        return self._home(url)
                    continue
                form = press(response.text, answer)
                if form is None:
                    back = re.search(r'<a[^>]*data-test="back"[^>]*>', response.text)
                    if back is None:
                        return None
                    href = re.search(r'href="([^"]*)"', back[0])
                    assert href
                    return self._home(urljoin(url, html.unescape(href[1])))
                method, action, data = form
                target = urljoin(url, action or url)
                if urlsplit(target).netloc != urlsplit(self.simulator.address).netloc:
                    return self._home(target, data)
                if method == "GET":
                    target, data = f"{target.partition('?')[0]}?{httpx.QueryParams(data)}", None
                url = target
        raise AssertionError(f"the hosted page leads nowhere: {url}")

    def _home(self, url: str, form: Mapping[str, str] | None = None) -> str:
        """Back at our own address, as the processor sent them: by GET, or by a form across sites."""
        parts = urlsplit(url)
        assert parts.netloc.split(":")[0] == HOST, url
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        if form is None:
            answer = self.get(path)
        else:
            kept = dict(self.client.cookies)
            self.client.cookies.clear()  # a browser sends none of ours with a form across sites
            answer = self.client.post(
                path, data=dict(form), headers={"Sec-Fetch-Site": "cross-site"}, follow_redirects=False
            )
            self.client.cookies.update(kept)
        assert answer.status_code == 303, answer.text
        return path


def _empty(db: Any) -> None:
    """Only the portals and their accounts stay: the simulator gives the same ids again."""
    for table in reversed(models.metadata.sorted_tables):
        if table.name not in ("merchant", "portal", "account", "asset"):
            db.execute(table.delete())


def press(page: str, answer: str) -> tuple[str, str, dict[str, str]] | None:
    """Method, address and fields of the form that holds the button; None where there is no such button."""
    for form in re.findall(r"<form\b.*?</form>", page, re.S):
        button = re.search(rf'<button[^>]*data-test="{answer}"[^>]*>', form)
        if button is None:
            continue
        opening = re.match(r"<form\b[^>]*>", form)
        assert opening
        fields = {
            html.unescape(_attribute(one, "name")): html.unescape(_attribute(one, "value"))
            for one in re.findall(r"<input[^>]*>", form)
            if _attribute(one, "name")
            and (_attribute(one, "type") not in ("radio", "checkbox") or " checked" in one)
        }
        for name, body in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', form, re.S):
            chosen = re.search(r'<option[^>]*value="([^"]*)"[^>]*selected', body) or re.search(
                r'<option[^>]*value="([^"]*)"', body
            )
            fields[name] = html.unescape(chosen[1]) if chosen else ""
        if _attribute(button[0], "name"):
            fields[_attribute(button[0], "name")] = html.unescape(_attribute(button[0], "value"))
        target = _attribute(button[0], "formaction") or _attribute(opening[0], "action")
        return (_attribute(opening[0], "method") or "get").upper(), html.unescape(target), fields
    return None


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\s{name}="([^"]*)"', tag)
    return found[1] if found else ""


@contextmanager
def open_house(processor: str, folder: str, variant: str | None = None) -> Iterator[House]:
    """The portal of one processor, on a fresh SQLite file, with its simulator served on loopback."""
    one = simulator(processor, clock.now)
    one.slow_s = 0.0
    posted: list[Delivery] = []
    one._send = posted.append  # type: ignore[method-assign,assignment]
    with Servers([one]):
        settings = Settings(
            database_url=f"sqlite:///{folder}/{processor}-{secrets.token_hex(4)}.db",
            master_keys=MASTER_KEY,
            secret_key="a secret of thirty-two characters",
            scheme="http",
            base_domain="localhost",
            demo=True,
            simulators={processor: one.address},
        )
        migrated_sqlite(Path(settings.database_url.removeprefix("sqlite:///")))
        database = Database(settings.database_url, 2)
        samples = [sample for sample in one.samples() if variant in (None, sample.variant)]
        portal = make_portal(database)
        other = make_portal(database, "other")
        accounts = [
            make_account(
                database,
                owner,
                processor,
                dict(sample.credentials),
                options=list(sample.options),
                variant=sample.variant,
            )
            for owner, sample in zip((portal, other), (samples[0], one.samples()[1]), strict=True)
        ]
        for account, sample in zip(accounts, (samples[0], one.samples()[1]), strict=True):
            one.open(sample, f"http://{HOST}/webhooks/{account.token}")
        one.save()
        app = create_app(settings, database)
        with TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=True) as client:
            house = House(
                processor=processor,
                simulator=one,
                database=database,
                settings=settings,
                worker=Worker(settings, database),
                client=client,
                sample=samples[0],
                account=accounts[0],
                stranger=accounts[1],
                posted=posted,
            )
            house.reset()
            yield house
        database.dispose()


Check = Callable[[House], None]
__all__ = ["Check", "House", "open_house", "parse_qs", "press"]
