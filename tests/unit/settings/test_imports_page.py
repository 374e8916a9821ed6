"""Settings > Processors > one account > Reading everything in."""

from collections.abc import Callable

import pytest
from sqlalchemy import select

from portal import clock, imports, models
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import make_account
from tests.unit.settings.conftest import HTMX, Desk, address, sign_in


@pytest.fixture
def account(database: Database, site: models.Portal) -> models.Account:
    return make_account(database, site, "paypal", label="Our PayPal")


def at(site: models.Portal, account: models.Account, path: str = "") -> str:
    return address(site, f"/processors/{id_text(account.id)}{path}")


def run_of(database: Database, account: models.Account) -> models.ImportRun:
    run = database.read_now(imports.newest, account.id)
    assert run is not None
    return run


def change(database: Database, account: models.Account, **fields: object) -> None:
    def write(db: object) -> None:
        run = imports.newest(db, account.id)  # type: ignore[arg-type]
        for name, value in fields.items():
            setattr(run, name, value)

    database.write_now(write)


def test_an_editor_starts_stops_and_goes_on_by_plain_forms(
    client: Desk, database: Database, site: models.Portal, account: models.Account
) -> None:
    sign_in(client, database, site, "editor")
    page = client.get(at(site, account)).text
    assert "Nothing has been read in yet." in page
    assert f'<form method="post" action="{at(site, account, "/import")}" data-once><button' in page
    assert "What PayPal lists" in page
    assert "the last 3 years" in page
    assert "PayPal has no list of: Orders." in page
    assert f'<a href="/settings/portals/{id_text(site.id)}/sheets">Import a file</a>' in page
    assert "every 2s" not in page.split('id="reading"')[1].split("</section>")[0]

    answer = client.post(at(site, account, "/import"))
    assert answer.status_code == 303
    assert answer.headers["location"] == at(site, account, "?done=reading#reading")
    run = run_of(database, account)
    assert (run.state, run.asked_by) == ("waiting", f"editor-{site.merchant_id}@merchant.example")
    client.post(at(site, account, "/import"))  # pressed twice
    assert run_of(database, account).id == run.id

    page = client.get(at(site, account)).text
    assert 'role="status"' in page
    assert f'hx-get="{at(site, account, "/import")}" hx-trigger="every 2s"' in page
    assert "without JavaScript, load the page again" in page
    change(database, account, state="running", pages=1200, objects=120_000, total=240_000, seconds=600.0)
    piece = client.get(at(site, account, "/import"), headers=HTMX).text
    assert piece.lstrip().startswith('<section class="card stack" id="reading"')
    assert "Records: 120,000 of about 240,000 · pages: 1,200 · about 10 minutes to go" in piece
    assert '<progress max="100" value="50"' in piece

    assert client.post(at(site, account, "/import/stop")).status_code == 303
    assert run_of(database, account).state == "stopped"
    page = client.get(at(site, account)).text
    assert ">Go on</button>" in page
    assert ">Begin anew</button>" in page
    client.post(at(site, account, "/import"))
    assert (run_of(database, account).state, run_of(database, account).objects) == ("waiting", 120_000)

    audits = database.read_now(lambda db: list(db.execute(select(models.Audit)).scalars()))
    assert [one.what for one in audits] == [
        "import.started",
        "import.stopped",
        "import.started",
    ]


def test_what_was_left_out_is_told_with_its_reason(
    client: Desk, database: Database, site: models.Portal, account: models.Account
) -> None:
    sign_in(client, database, site, "viewer")
    database.write_now(imports.start, account, clock.now(), None)
    reasons = [{"what": "orders", "id": "o_<1>", "why": "“amount” is missing."}]
    change(database, account, state="done", objects=9, pages=1, skipped=1, reasons=reasons)
    change(database, account, finished_at=clock.now())
    page = client.get(at(site, account)).text
    assert "Records: 9 · pages: 1 · left out: 1" in page
    assert "<bdi>o_&lt;1&gt;</bdi>: “amount” is missing." in page


def test_a_viewer_sees_how_far_it_is_and_may_not_start_or_stop(
    client: Desk, database: Database, site: models.Portal, account: models.Account
) -> None:
    sign_in(client, database, site, "viewer")
    database.write_now(imports.start, account, clock.now(), None)
    page = client.get(at(site, account)).text
    assert 'data-testid="progress"' in page
    assert "/import/stop" not in page
    for path in ("/import", "/import/stop"):
        assert client.post(at(site, account, path)).status_code == 403
    assert run_of(database, account).state == "waiting"


def test_a_stranger_finds_no_such_account(
    client: Desk,
    other: Callable[..., Desk],
    database: Database,
    site: models.Portal,
    stranger: models.Portal,
    account: models.Account,
) -> None:
    sign_in(client, database, stranger, "owner")
    for where in (site, stranger):
        assert client.get(at(where, account, "/import")).status_code == 404
        assert client.post(at(where, account, "/import")).status_code == 404
        assert client.post(at(where, account, "/import/stop")).status_code == 404
    nobody = other()
    assert nobody.get(at(site, account, "/import")).status_code == 303
    assert database.read_now(imports.newest, account.id) is None


def test_where_nothing_is_listed_it_is_said_and_cannot_be_started(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "owner")
    account = make_account(database, site, "adyen")
    page = client.get(at(site, account)).text
    assert "Adyen lists nothing of the past." in page
    to_sheets = f"/settings/portals/{id_text(site.id)}/sheets"
    assert f'<a href="{to_sheets}">Import a file</a>' in page
    assert client.get(to_sheets).status_code == 200
    assert client.post(at(site, account, "/import")).status_code == 404
