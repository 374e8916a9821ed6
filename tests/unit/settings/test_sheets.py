"""Settings > Import, as its users meet it: a file is given, its columns are named, it is tried, imported, and what was
wrong is taken along."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.applications import Starlette

from portal import models, sheetfile
from portal.db import Database
from portal.settings import Settings
from portal.store import Folder
from portal.work import Worker
from tests.unit.builders import make_account
from tests.unit.settings.conftest import HTMX, Desk, address, sign_in

HEAD = "email,order,product,amount,currency,paid_at\n"
GOOD = HEAD + "ana@example.com,SO-1,Coffee,24.00,USD,2026-03-04\n"
BAD = GOOD + "<b>nobody</b>,=1+1,Tea,12.00,USD,2026-03-04\n"
CHOICE = {f"column-{number}": name for number, name in enumerate(HEAD.strip().split(","))}


def give(client: Desk, site: models.Portal, content: str | bytes, **data: str) -> Any:
    return client.post(address(site, "/sheets"), files={"file": ("orders.csv", content)}, data=data)


def work(settings: Settings, database: Database) -> None:
    asyncio.run(Worker(settings, database).drain())


def counts(text: str) -> list[str]:
    found = re.search(r'data-testid="counts">(.*?)</dl>', text, re.S)
    assert found is not None
    return re.findall(r"<dd>(\d+)</dd>", found[1])


def orders(database: Database) -> int:
    return database.read_now(
        lambda db: db.execute(select(func.count()).select_from(models.Order)).scalar_one()
    )


def test_a_file_is_refused_while_it_can_be_kept_nowhere(
    client: Desk, app: Starlette, database: Database, site: models.Portal, tmp_path: Path
) -> None:
    sign_in(client, database, site, "editor")
    (tmp_path / "no-folder").touch()
    app.state.store = Folder(tmp_path / "no-folder" / "kept")
    answer = give(client, site, GOOD)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert "Nothing of it was taken in" in answer.text
    row = select(func.count()).select_from(models.Sheet)
    assert database.read_now(lambda db: db.execute(row).scalar_one()) == 0
    app.state.store = Folder(tmp_path / "kept")
    assert give(client, site, GOOD).status_code == 303


def test_from_a_file_to_orders(
    client: Desk, database: Database, settings: Settings, site: models.Portal
) -> None:
    account = make_account(database, site, label="Shop")
    sign_in(client, database, site, "editor")
    page = client.get(address(site, "/sheets")).text
    assert "up to 200 MB" in page
    assert 'aria-current="page">Import' in page
    given = give(client, site, BAD)
    assert given.status_code == 303
    there = given.headers["location"]
    page = client.get(there).text
    assert page.count("selected") >= 7  # each column is known by its name, and the only account is chosen
    assert "24.00" in page
    assert "&lt;b&gt;nobody&lt;/b&gt;” is no e-mail address" in page
    choice = {**CHOICE, "account": models_id(account)}
    looked = client.post(there, data={**choice, "do": "look", "column-2": ""})
    assert looked.status_code == 200
    assert "Coffee" not in re.search(r'data-testid="first".*', looked.text, re.S)[0]  # type: ignore[index]

    tried = client.post(there, data={**choice, "do": "import"})  # what was not tried is tried first
    assert tried.headers["location"] == there
    assert 'data-state="checking"' in client.get(there).text
    assert 'hx-trigger="every 2s"' in client.get(f"{there}/state", headers=HTMX).text
    work(settings, database)
    page = client.get(there).text
    assert (counts(page), orders(database)) == (["1", "0", "0", "1"], 0)
    assert client.get(f"{there}/state", headers=HTMX).headers["HX-Redirect"] == there

    assert client.post(there, data={**choice, "do": "import"}).status_code == 303
    work(settings, database)
    page = client.get(there).text
    assert (counts(page), orders(database)) == (["1", "0", "0", "1"], 1)
    assert 'data-testid="problem"' in page
    wrong = client.get(f"{there}/problems.csv")
    assert wrong.headers["content-disposition"] == 'attachment; filename="acme-problems.csv"'
    lines = wrong.content.decode("utf-8-sig").split("\r\n")
    assert lines[0] == "line,column,problem"
    assert lines[1] == "3,email,“<b>nobody</b>” is no e-mail address."
    assert "Imported" in client.get(address(site, "/sheets")).text
    gone = client.post(there, data={"do": "discard"})
    assert gone.headers["location"] == address(site, "/sheets?done=discarded")
    assert "not kept any more" in client.get(there).text


def models_id(row: Any) -> str:
    from portal.ids import id_text

    return id_text(row.id)


def test_what_is_wrong_with_a_file_is_said_beside_it(
    client: Desk, database: Database, site: models.Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, database, site)
    assert "Connect a processor first" in client.get(address(site, "/sheets")).text
    make_account(database, site)
    for content, sentence in (
        (b"", "Choose a file first"),
        (b"\x89PNG\0\0", "no file of rows"),
        (HEAD, "no rows below"),
    ):
        answer = give(client, site, content) if content else client.post(address(site, "/sheets"))
        assert answer.status_code == 422
        assert sentence in answer.text
    monkeypatch.setattr("portal.views.settings.sheets.MOST_BYTES", 10)
    answer = give(client, site, GOOD)
    assert answer.status_code == 422
    assert "A file may have up to" in answer.text
    foreign = make_account(database, site, "mollie")
    monkeypatch.undo()
    assert "no such account" in give(client, site, GOOD, sort=models_id(foreign)).text


def test_wrong_columns_keep_what_was_chosen(client: Desk, database: Database, site: models.Portal) -> None:
    account = make_account(database, site, label="Shop")
    make_account(database, site, label="Other")
    sign_in(client, database, site)
    there = give(client, site, "Mailbox,Thing\nana@example.com,SO-1\n").headers["location"]
    answer = client.post(
        there,
        data={
            "column-1": "order",
            "account": models_id(account),
            "as_of": "soon",
            "dates": "dmy",
            "do": "check",
        },
    )
    assert answer.status_code == 422
    assert "No column is the e-mail address (email). The file has: “Mailbox”, “Thing”." in answer.text
    assert "Write the day as 2026-03-04." in answer.text
    assert 'value="soon"' in answer.text
    assert re.search(r'<option value="order" selected', answer.text)
    assert re.search(r'<option value="dmy" selected', answer.text)


def test_a_large_file_goes_to_the_disk_and_a_larger_one_is_cut_off(
    app: Starlette, client: Desk, database: Database, site: models.Portal
) -> None:
    """This one form may carry two hundred megabytes; any other keeps its limit."""
    make_account(database, site)
    sign_in(client, database, site)
    lines = "".join(f"p{number}@example.com,L-{number},Tea,1.00,USD,2026-03-05\n" for number in range(30_000))
    assert len(lines) > 1_400_000
    there = give(client, site, HEAD + lines)
    assert there.status_code == 303, there.text
    assert "30,000 rows" in client.get(there.headers["location"]).text
    headers = {"Content-Length": str(sheetfile.MOST_BYTES + 3 * 1024 * 1024)}
    assert client.post(address(site, "/sheets"), content=b"", headers=headers).status_code == 413
    assert client.post(address(site, "/privacy"), content=b"x" * 70_000).status_code == 413


def test_template_has_every_column_and_can_be_read_as_it_is(
    client: Desk, database: Database, settings: Settings, site: models.Portal
) -> None:
    account = make_account(database, site)
    sign_in(client, database, site, "editor")
    template = client.get(address(site, "/sheets/template.csv"))
    assert "attachment" in template.headers["content-disposition"]
    there = give(client, site, template.content).headers["location"]
    header = template.text.lstrip("\ufeff").split("\r\n")[0].split(",")
    choice = {f"column-{number}": name for number, name in enumerate(header)}
    client.post(there, data={**choice, "account": models_id(account), "do": "check"})
    work(settings, database)
    assert counts(client.get(there).text) == ["2", "0", "0", "0"]


def test_a_list_in_a_processors_form(
    client: Desk, database: Database, settings: Settings, site: models.Portal
) -> None:
    account = make_account(database, site, "payfast", label="Rand")
    sign_in(client, database, site)
    assert (
        "Rand: E-mails and tokens (email, m_payment_id, token)" in client.get(address(site, "/sheets")).text
    )
    content = "email,m_payment_id,token\nthandi@example.org,SO-7,\n"
    there = give(client, site, content, sort=models_id(account)).headers["location"]
    assert "What the columns are" not in client.get(there).text
    for do in ("check", "import"):
        assert client.post(there, data={"do": do}).status_code == 303
        work(settings, database)
    assert (counts(client.get(there).text), orders(database)) == (["1", "0", "0", "0"], 1)


def test_viewers_look_and_strangers_find_nothing(
    client: Desk, other: Any, database: Database, site: models.Portal, stranger: models.Portal
) -> None:
    make_account(database, site)
    sign_in(client, database, site)
    there = give(client, site, GOOD).headers["location"]
    viewer = sign_in(other(), database, site, "viewer")
    assert "An editor or an owner can import" in viewer.get(address(site, "/sheets")).text
    assert viewer.get(there).status_code == 200
    assert viewer.post(there, data={"do": "check"}).status_code == 403
    assert viewer.get(f"{there}/problems.csv").status_code == 403
    theirs = sign_in(other(), database, stranger)
    moved = there.replace(models_id(site), models_id(stranger))
    for path in (there, moved, f"{moved}/state", f"{moved}/problems.csv"):
        assert theirs.get(path).status_code == 404
    assert theirs.post(moved, data={"do": "discard"}).status_code == 404
