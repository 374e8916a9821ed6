"""Files of the merchant's own rows: each bad one by its name, and runs that are cut off, repeated and only tried."""

import asyncio
import io
import json
import tracemalloc
import zipfile
import zlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bench import sheets as bench
from portal import clock, models, sheetrows, sheets, sync, upkeep, work
from portal.db import Database
from portal.gateways import facts, wire
from portal.gateways.base import PaymentRecord, Snapshot
from portal.settings import Settings
from portal.sheetfile import Unreadable, open_file
from portal.sheets import Choice, Refused
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_customer,
    make_order,
    make_payment,
    make_portal,
    save,
)

HEAD = "email,order,product,amount,currency,paid_at\n"
ANA = "ana@example.com,SO-1,Coffee,24.00,USD,2026-03-04\n"
BEN = "ben@example.com,SO-2,Tea,12.50,USD,2026-03-05\n"


class Desk:
    """A portal and somebody who gives it files."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.portal = make_portal(database, time_zone="Europe/Berlin")
        self.account = make_account(database, self.portal, label="Shop")

    def give(self, content: str | bytes, own: bool = False) -> int:
        raw = content.encode() if isinstance(content, str) else content
        own_of = self.account.id if own else None
        return sheets.take(
            self.database, self.portal.id, io.BytesIO(raw), "orders.csv", "owner@acme.example", own_of
        )

    def begin(self, sheet_id: int, what: Any = "importing", **choice: Any) -> int:
        def write(db: Session) -> int:
            sheet = sheets.sheet_of(db, self.portal.id, sheet_id, lock=True)
            assert sheet is not None
            values = {"mapping": tuple(sheet.mapping), "account_id": self.account.id, **choice}
            return sheets.begin(db, sheet, Choice(**values), what, clock.now())

        return self.database.write_now(write)

    def step(self, sheet_id: int, run: int) -> bool:
        return self.database.write_now(sheets.step, sheet_id, run, clock.now())

    def run(self, sheet_id: int, what: Any = "importing", **choice: Any) -> models.Sheet:
        run = self.begin(sheet_id, what, **choice)
        while self.step(sheet_id, run):
            pass
        return self.sheet(sheet_id)

    def load(self, content: str | bytes, **choice: Any) -> models.Sheet:
        return self.run(self.give(content), **choice)

    def sheet(self, sheet_id: int) -> models.Sheet:
        return self.database.read_now(lambda db: db.get_one(models.Sheet, sheet_id))

    def problems(self, sheet: models.Sheet) -> list[tuple[int, str, str]]:
        found = self.database.read_now(sheets.problems, self.portal.id, sheet.id, 0, 100)
        return [(one.line, one.column, one.sentence) for one in found]

    def all(self, model: Any) -> list[Any]:
        return list(self.database.read_now(lambda db: db.execute(select(model)).scalars().all()))

    def count(self, *models_: Any) -> list[int]:
        def read(db: Session) -> list[int]:
            return [db.execute(select(func.count()).select_from(one)).scalar_one() for one in models_]

        return self.database.read_now(read)


WRITTEN = (
    models.Customer,
    models.CustomerKey,
    models.RemoteCustomer,
    models.Order,
    models.Payment,
    models.Subscription,
    models.Invoice,
    models.Job,
)


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


def counts(sheet: models.Sheet) -> tuple[int, int, int, int]:
    return sheet.created, sheet.changed, sheet.unchanged, sheet.refused


# What a row becomes


def test_a_row_becomes_an_order_a_payment_and_a_person(desk: Desk) -> None:
    head = "E-Mail;Bestellnummer;Produkt;Betrag;Währung;Datum;Kunde;Menge;Rechnungsnummer\n"
    sheet = desk.load(head + "Ana@Example.com ;SO-1;Kaffee;1.234,56;eur;04.03.2026;Ana Silva;2;R-77\n")
    assert (sheet.state, counts(sheet)) == ("done", (1, 0, 0, 0)), desk.problems(sheet)
    (order,), (payment,), (person,), (invoice,) = map(
        desk.all, (models.Order, models.Payment, models.Customer, models.Invoice)
    )
    paid_at = datetime(2026, 3, 3, 23, tzinfo=UTC)  # midnight in Berlin
    assert (person.email, person.name) == ("ana@example.com", "Ana Silva")
    assert (order.remote_id, order.number, order.title, order.status) == ("SO-1", "SO-1", "Kaffee", "paid")
    assert (order.amount_minor, order.currency, order.created_at) == (123456, "EUR", paid_at)
    assert order.lines == [{"name": "Kaffee", "quantity": 2, "minor": 123456, "currency": "EUR"}]
    assert (payment.remote_id, payment.order_remote, payment.paid_at) == ("order:SO-1", "SO-1", paid_at)
    assert (invoice.number, invoice.payment_remote) == ("R-77", "order:SO-1")
    assert {one.customer_id for one in (order, payment, invoice)} == {person.id}


def test_a_subscription_is_kept_with_its_next_payment_and_the_processor_is_asked(desk: Desk) -> None:
    sheet = desk.load(
        "email,subscription,product,amount,currency,interval,next_payment\n"
        "ana@example.com,sub_1,Box,19.00,USD,3 months,2026-12-24\n"
        "ben@example.com,sub_2,Box,19.00,USD,month,2026-12-25\n"
    )
    assert counts(sheet) == (2, 0, 0, 0)
    one, two = sorted(desk.all(models.Subscription), key=lambda row: row.remote_id)
    assert (one.status, one.interval_unit, one.interval_count) == ("active", "month", 3)
    assert (one.next_on, one.next_minor, one.next_certainty) == (date(2026, 12, 24), 1900, "merchant")
    asked = {job.payload["subscription"]: job.run_at for job in desk.all(models.Job) if job.kind == "refresh"}
    assert asked[two.id] - asked[one.id] == timedelta(seconds=sheets.ASK_EVERY_S)
    assert counts(desk.run(sheet.id)) == (0, 0, 2, 0)


def test_a_payment_that_the_processor_has_told_of_is_not_made_twice(desk: Desk) -> None:
    known = make_payment(
        desk.database, desk.account, None, remote_id="pf_9", order_remote="SO-1", email=None, title=None
    )
    desk.load(HEAD + ANA)
    (payment,) = desk.all(models.Payment)
    assert (payment.id, payment.remote_id) == (known.id, "pf_9")
    (person,) = desk.all(models.Customer)
    assert payment.customer_id == person.id


@pytest.mark.parametrize(
    ("cells", "column", "says"),
    [
        ("nobody,SO-1,Coffee,24.00,USD,2026-03-04", "email", "is no e-mail address"),
        (",SO-1,Coffee,24.00,USD,2026-03-04", "email", "no e-mail address"),
        ("guest@shop.example,SO-1,Coffee,24.00,USD,2026-03-04", "email", "nobody's"),
        ('a@example.com,SO-1,Coffee,"1,234",USD,2026-03-04', "amount", "two ways"),
        ("a@example.com,SO-1,Coffee,12.50,JPY,2026-03-04", "amount", "more decimals than JPY"),
        ("a@example.com,SO-1,Coffee,-5,USD,2026-03-04", "amount", "less than nothing"),
        ("a@example.com,SO-1,Coffee,24.00,QQQ,2026-03-04", "currency", "is no currency"),
        ("a@example.com,SO-1,Coffee,24.00,USD,03/04/2026", "paid_at", "two ways"),
        ("a@example.com,SO-1,Coffee,24.00,USD,2026-02-30", "paid_at", "no such day"),
        ("a@example.com,SO-1,Coffee,24.00,USD,2099-01-01", "paid_at", "future"),
        ("a@example.com,SO-1,Coffee,24.00,USD,", "paid_at", "missing"),
        ("a@example.com,SO-1,Coffee,,,2026-03-04", "amount", "missing"),
        ("a@example.com,,Coffee,24.00,USD,2026-03-04", "order", "about nothing"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_with_a_sentence(cells: str, column: str, says: str) -> None:
    outcome = understood(HEAD, cells)
    assert any(name == column and says in sentence for name, sentence in outcome), outcome


def understood(head: str, line: str, **rules: Any) -> list[tuple[str, str]]:
    """What is wrong with one row, without a database."""
    opened = open_file(io.BytesIO(f"{head}{line}\n".encode()))
    ((_number, cells),) = opened.rows
    names = sheetrows.guess(opened.header)
    read = sheetrows.Rules(ZoneInfo("UTC"), datetime(2026, 11, 28, tzinfo=UTC), **rules)
    found = sheetrows.understand(sheets.cells_of(names, cells), read)
    if not found.wrong and facts("stripe").is_placeholder(found.row.email):
        return [("email", "nobody's")]
    return found.wrong


def test_what_is_ambiguous_is_read_once_it_is_said_how() -> None:
    line = 'a@example.com,SO-1,Coffee,"1,234",USD,03/04/2026'
    assert understood(HEAD, line, decimal=".", dates="dmy") == []
    assert understood(HEAD, line, decimal=".", dates="mdy") == []
    assert [name for name, _ in understood(HEAD, line, decimal=",", dates="dmy")] == ["amount"]


# The file itself


@pytest.mark.parametrize(
    ("encoding", "said", "guessed"),
    [
        ("utf-8", "UTF-8", False),
        ("utf-8-sig", "UTF-8", False),
        ("utf-16", "UTF-16", False),
        ("utf-16-le", "UTF-16", True),
        ("utf-16-be", "UTF-16", True),
        ("cp1252", "Windows-1252", True),
    ],
)
def test_another_encoding(encoding: str, said: str, guessed: bool) -> None:
    opened = open_file(io.BytesIO("email;product\r\nana@example.com;Kräuter “für” 5 €\r\n".encode(encoding)))
    assert (opened.encoding, opened.guessed, opened.separator) == (said, guessed, ";")
    assert list(opened.rows) == [(2, ["ana@example.com", "Kräuter “für” 5 €"])]


@pytest.mark.parametrize(
    "text",
    [
        "a,b\r\n1,2\r\n",
        "a;b\n1;2\n",
        "a\tb\r1\t2\r",
        "a|b\n1|2",
        "\n\nsep=;\na;b\n1;2\n",
        '"a","b"\n"1","2"\n',
    ],
)
def test_separators_and_line_ends(text: str) -> None:
    opened = open_file(io.BytesIO(text.encode()))
    assert opened.header == ("a", "b")
    assert [cells for _line, cells in opened.rows] == [["1", "2"]]


def test_lines_are_counted_as_an_editor_does() -> None:
    opened = open_file(io.BytesIO(b'a,b\n"two\nlines",x\n\nlast,y\n'))
    assert [line for line, _cells in opened.rows] == [2, 5]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0", "no file of rows"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
        (b"PK\x03\x04 and nothing more", "can't be read as an Excel file"),
        (b"email,order\n\x81\x8d\n", "letters"),
        (b'email,order\n"open,x\ny,z\n', "line 2 does not end"),
        (b'email,order\na,"b"c\n', "Line 2"),
        (b"email\n" + b"x" * 1_100_000, "too long"),
        (b"email,order\n" + b"," * 200 + b"x\n", "more than 100 columns"),
    ],
)
def test_what_is_no_file_of_rows_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        list(open_file(io.BytesIO(content)).rows)


def test_formulas_are_text_and_harmless_when_they_go_out_again(desk: Desk) -> None:
    sheet = desk.load(
        HEAD
        + "ana@example.com,=1+2,\"=cmd|' /C calc'!A0\",24.00,USD,2026-03-04\n"
        + "ben@example.com,SO-2,Tea,=SUM(1;2),USD,2026-03-04\n"
    )
    (order,) = desk.all(models.Order)
    assert (order.number, order.title) == ("=1+2", "=cmd|' /C calc'!A0")
    ((line, column, sentence),) = desk.problems(sheet)
    assert (line, column) == (3, "amount")
    assert "=SUM(1;2)" in sentence
    told = sheets.problem_lines([sheets.Problem(1, 3, "=amount", "@SUM")])
    assert told == b"3,'=amount,'@SUM\r\n"


# Workbooks


def workbook(rows: list[list[Any]]) -> bytes:
    from openpyxl import Workbook

    book, out = Workbook(), io.BytesIO()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    book.save(out)
    return out.getvalue()


def test_a_workbook_is_read_with_its_numbers_and_days(desk: Desk) -> None:
    content = workbook(
        [
            ["email", "order", "amount", "currency", "paid_at"],
            ["ana@example.com", 1001, 1234.5, "EUR", datetime(2026, 4, 3)],
            [],
            ["ben@example.com", "=1+1", 12, "EUR", datetime(2026, 4, 3, 14, 2)],
        ]
    )
    sheet = desk.load(content)
    assert (sheet.kind, sheet.rows, counts(sheet)) == ("xlsx", 2, (1, 0, 0, 1))
    (order,) = desk.all(models.Order)
    assert (order.number, order.amount_minor) == ("1001", 123450)
    assert order.created_at == datetime(2026, 4, 2, 22, tzinfo=UTC)
    # A formula whose result nobody has worked out is an empty cell: the row is about nothing.
    assert desk.problems(sheet)[0][:2] == (4, "order")


def packed(parts: dict[str, bytes], level: int = 6) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_a_workbook_that_would_burst_is_refused_before_it_is_unpacked() -> None:
    whole = workbook([["email"], ["ana@example.com"]])
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    bomb = packed({**parts, "xl/worksheets/sheet2.xml": b" " * 40_000_000})
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(Unreadable, match="too large once it is unpacked"):
        open_file(io.BytesIO(bomb))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    entity = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><sst>&a;</sst>'
    with pytest.raises(Unreadable, match="no such file needs"):
        open_file(io.BytesIO(packed({**parts, "xl/sharedStrings.xml": entity})))
    with pytest.raises(Unreadable, match="no Excel file"):
        open_file(io.BytesIO(packed({"word/document.xml": b"<x/>"})))
    broken = packed({**parts, "xl/worksheets/sheet1.xml": b"<worksheet><sheetData><row>"})
    with pytest.raises(Unreadable, match="can't be read as an Excel file"):
        list(open_file(io.BytesIO(broken)).rows)


# Columns


def test_wrong_columns_are_named_in_the_sentence(desk: Desk) -> None:
    sheet_id = desk.give("Mailbox,Thing,Total\nana@example.com,x,24\n")
    with pytest.raises(Refused, match=r"No column is the e-mail address.*“Mailbox”, “Thing”, “Total”"):
        desk.begin(sheet_id)
    with pytest.raises(Refused, match=r"No column says which order.*“Mailbox”"):
        desk.begin(sheet_id, mapping=("email", "", "amount"))
    with pytest.raises(Refused, match="No column is the currency"):
        desk.begin(sheet_id, mapping=("email", "order", "amount"))
    with pytest.raises(Refused, match="Two columns are said to be “Order number”: “Thing”, “Total”"):
        desk.begin(sheet_id, mapping=("email", "order", "order"))
    with pytest.raises(Refused, match="Choose the account these"):
        desk.begin(sheet_id, mapping=("email", "order", "amount"), currency="USD", account_id=None)
    assert desk.sheet(sheet_id).state == "new"


def test_columns_of_well_known_exports_are_recognised() -> None:
    said = sheetrows.guess(
        ["id", "Customer Email", "Amount", "Currency", "Created (UTC)", "Status", "Amount Refunded", "Fee"]
    )
    assert said == ["payment", "email", "amount", "currency", "ordered_at", "status", "refunded", ""]
    said = sheetrows.guess(
        ["Date", "Name", "Gross", "From Email Address", "Transaction ID", "Custom Number", "Net"]
    )
    assert said == ["paid_at", "name", "amount", "email", "payment", "order", ""]


# Runs


def test_duplicate_rows(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same row again says nothing new; another row about the same order is refused, however far apart they are."""
    monkeypatch.setattr(sheets, "SLICE", 10)
    other = ANA.replace("24.00", "25.00")
    filler = "".join(f"p{n}@example.com,F-{n},Tea,1.00,USD,2026-03-05\n" for n in range(sheets.SLICE))
    sheet = desk.load(HEAD + ANA + ANA + other + filler + other + ANA)
    assert counts(sheet) == (1 + sheets.SLICE, 0, 2, 2)
    assert [line for line, _column, _sentence in desk.problems(sheet)] == [4, 5 + sheets.SLICE]
    assert "earlier row with other content" in desk.problems(sheet)[0][2]


def test_run_twice_changes_nothing_and_a_corrected_file_changes_what_it_corrects(desk: Desk) -> None:
    sheet = desk.load(HEAD + ANA + BEN)
    before = desk.count(*WRITTEN), [(one.id, one.stamps) for one in desk.all(models.Order)]
    clock.set_offset(timedelta(seconds=5))
    again = desk.load(HEAD + ANA + BEN)
    assert (counts(sheet), counts(again)) == ((2, 0, 0, 0), (0, 0, 2, 0))
    assert desk.count(*WRITTEN) == before[0]
    clock.set_offset(timedelta(seconds=10))
    corrected = desk.load(HEAD + ANA.replace("Coffee", "Aged coffee") + BEN)
    assert counts(corrected) == (0, 1, 1, 0)
    assert {one.title for one in desk.all(models.Order)} == {"Aged coffee", "Tea"}


def test_kill_between_slices_then_resume(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is written whole or not at all, with its counts: whoever goes on does each row once."""
    monkeypatch.setattr(sheets, "SLICE", 10)
    rows = "".join(f"p{n}@example.com,K-{n},Tea,1.00,USD,2026-03-05\n" for n in range(3 * sheets.SLICE))
    sheet_id = desk.give(HEAD + rows)
    run = desk.begin(sheet_id)
    assert desk.step(sheet_id, run)

    def cut_off(db: Session) -> None:
        sheets.step(db, sheet_id, run, clock.now())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.database.write_now(cut_off)
    assert (desk.sheet(sheet_id).position, desk.count(models.Order)) == (1, [sheets.SLICE])
    while desk.step(sheet_id, run):
        pass
    sheet = desk.sheet(sheet_id)
    assert (sheet.state, counts(sheet)) == ("done", (3 * sheets.SLICE, 0, 0, 0))
    assert desk.count(models.Order, models.Payment) == [3 * sheets.SLICE] * 2
    assert not desk.step(sheet_id, run)  # a job that comes late finds nothing to do
    assert not desk.step(sheet_id, run - 1)


def test_dry_run_writes_nothing(desk: Desk) -> None:
    make_order(desk.database, desk.account, make_customer(desk.database, desk.portal), remote_id="SO-2")
    before = desk.count(*WRITTEN), [one.stamps for one in desk.all(models.Order)]
    sheet_id = desk.give(HEAD + ANA + ANA + BEN + "x,SO-3,,1,USD,2026-03-04\n")
    sheet = desk.run(sheet_id, "checking")
    assert (sheet.state, counts(sheet)) == ("checked", (1, 1, 1, 1))
    assert (desk.count(*WRITTEN), [one.stamps for one in desk.all(models.Order)]) == before
    done = desk.run(sheet_id)
    assert (done.state, counts(done)) == ("done", (1, 1, 1, 1))
    assert len(desk.problems(done)) == 1  # those of the last run alone


def test_newer_news_of_the_processor_stays(desk: Desk) -> None:
    now = clock.now()
    make_order(
        desk.database, desk.account, make_customer(desk.database, desk.portal), remote_id="SO-1",
        status="refunded", title="Theirs", as_of=now, stamps={"*": sync._microseconds(now)},
    )  # fmt: skip
    assert counts(desk.load(HEAD + ANA)) == (0, 1, 0, 0)  # its payment was not known
    (order,) = desk.all(models.Order)
    assert (order.status, order.title) == ("refunded", "Theirs")


def test_the_day_of_a_file_is_its_beginning_at_the_portal(desk: Desk) -> None:
    sheet_id = desk.give(HEAD + ANA)
    sheet = desk.run(sheet_id, as_of="2026-03-10")
    assert sheet.as_of is not None
    assert sheet.as_of.replace(microsecond=0) == datetime(2026, 3, 9, 23, tzinfo=UTC)
    with pytest.raises(Refused, match="not come yet"):
        desk.begin(sheet_id, as_of="2099-01-01")


def test_other_portals_account_is_refused(desk: Desk) -> None:
    other = make_portal(desk.database, "kora")
    theirs = make_account(desk.database, other, label="Kora's till")
    head = HEAD.replace("\n", ",processor\n")
    sheet_id = desk.give(head + ANA.replace("\n", ",Kora's till\n") + BEN.replace("\n", ",shop\n"))
    sheet = desk.run(sheet_id, account_id=None)
    assert counts(sheet) == (1, 0, 0, 1)
    ((line, column, sentence),) = desk.problems(sheet)
    assert (line, column) == (2, "processor")
    assert sentence.startswith("This portal has no account “Kora's till”. Connect it first")
    assert "“Shop”" in sentence
    with pytest.raises(Refused, match="Nothing says which processor account"):
        desk.begin(sheet_id, account_id=theirs.id)
    assert desk.database.read_now(sheets.sheet_of, other.id, sheet_id) is None


def test_accounts_are_named_by_their_label_or_their_processor(desk: Desk) -> None:
    make_account(desk.database, desk.portal, label="Second")
    make_account(desk.database, desk.portal, "mollie", label="Old till", disconnected_at=clock.now())
    found = desk.database.read_now(lambda db: sheets.Accounts(db, desk.portal.id, None))
    assert found.named("SHOP").id == desk.account.id
    with pytest.raises(Refused, match=r"several accounts here.*“Shop”, “Second”"):
        found.named("Stripe")
    with pytest.raises(Refused, match="is disconnected"):
        found.named("old till")


def test_an_account_that_is_taken_away_ends_the_run(desk: Desk) -> None:
    sheet_id = desk.give(HEAD + ANA)
    run = desk.begin(sheet_id)
    desk.account.disconnected_at = clock.now()
    save(desk.database, desk.account)
    assert not desk.step(sheet_id, run)
    sheet = desk.sheet(sheet_id)
    assert (sheet.state, sheet.error) == ("failed", "“Shop” is disconnected. Connect it again first.")


def test_a_run_that_fails_again_and_again_ends_and_can_be_started_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet_id = desk.give(HEAD + ANA)
    run = desk.begin(sheet_id)
    desk.database.write_now(lambda db: sheets.want(db, db.get_one(models.Sheet, sheet_id), run, clock.now()))

    def fail(*_: Any) -> bool:
        raise KeyError("surprise")

    worker = work.Worker(Settings(master_keys=MASTER_KEY), desk.database)
    with monkeypatch.context() as patch:
        patch.setattr(sheets, "step", fail)
        patch.setattr(work, "TRIES", 1)
        assert asyncio.run(worker.once()) == 1
    failed = desk.sheet(sheet_id)
    assert (failed.state, failed.finished_at is not None) == ("failed", True)
    assert "Start it again; no row comes in twice." in (failed.error or "")
    done = desk.run(sheet_id)
    assert (done.state, done.error, done.created) == ("done", None, 1)
    # A job of before that is given up late says nothing of what was done since.
    desk.database.write_now(sheets.break_off, sheet_id, run, clock.now())
    assert desk.sheet(sheet_id).state == "done"


# Lists in a processor's own form


def test_a_list_in_the_processors_form_is_taken_as_a_whole(desk: Desk) -> None:
    desk.account = make_account(desk.database, desk.portal, "payfast", label="Rand")
    token = "dc0521d3-55fe-269b-fa00-b647310d760f"
    bad = desk.run(
        desk.give(f"email,m_payment_id,token\nnobody,SO-8,\nthandi@example.org,SO-7,{token}\n", True)
    )
    assert (bad.state, bad.refused, desk.count(models.Order)) == ("failed", 1, [0])
    assert desk.problems(bad) == [(2, "", "this is no e-mail address")]
    good = desk.run(desk.give(f"email,m_payment_id,token\nthandi@example.org,SO-7,{token}\n", True))
    assert (good.state, counts(good)) == ("done", (2, 0, 0, 0))
    (subscription,) = desk.all(models.Subscription)
    assert (subscription.remote_id, subscription.email) == (token, "thandi@example.org")
    with pytest.raises(Unreadable, match="up to 2 MB"):
        desk.give("email,m_payment_id,token\n" * 100_000, True)


def test_a_report_tells_how_old_it_is_and_newer_news_stay(desk: Desk) -> None:
    desk.account = make_account(desk.database, desk.portal, "adyen", label="Shop NL")
    header = (
        "Merchant Account,Psp Reference,Merchant Reference,Creation Date,TimeZone,Type,Modification Reference,"
        "Gross Currency,Gross Debit (GC),Gross Credit (GC)\n"
    )
    told = (
        "ShopNL,QFQTPCQ8HXSKGK82,SO-1,2026-07-26 19:58:55,UTC,Settled,QFQTPCQ8HXSKGK90,EUR,,45.99\n"
        "ShopNL,QFQTPCQ8HXSKGK82,SO-1,2026-07-28 08:00:00,UTC,Refunded,QFQTPCQ8HXSKGK91,EUR,5.00,\n"
        "ShopNL,QFQTPCQ8HXSKGK83,SO-2,2026-07-27 10:00:00,UTC,Settled,QFQTPCQ8HXSKGK92,EUR,,10.00\n"
        "ShopNL,,,2026-07-29 00:00:00,UTC,MerchantPayout,,EUR,50.99,\n"
    )
    newer = Snapshot(
        as_of=datetime(2026, 8, 20, tzinfo=UTC),
        payments=(wire.spoken(PaymentRecord, "QFQTPCQ8HXSKGK83", status="disputed"),),
    )
    desk.database.write_now(sync.apply, desk.account, newer)
    done = desk.run(desk.give(header + told, True))
    assert (done.state, done.refused, done.rows) == ("done", 0, 5)
    assert {row.remote_id: row.status for row in desk.all(models.Payment)} == {
        "QFQTPCQ8HXSKGK82": "partially_refunded",
        "QFQTPCQ8HXSKGK83": "disputed",
    }
    assert sorted((row.number, row.status) for row in desk.all(models.Order)) == [
        ("SO-1", "paid"),
        ("SO-2", "paid"),
    ]
    (refund,) = desk.all(models.Refund)
    assert (refund.remote_id, refund.status) == ("QFQTPCQ8HXSKGK91", "sent")
    again = desk.run(desk.give(header + told, True))
    assert counts(again) == (0, 0, 5, 0)


# Two million lines


def test_long_files_weigh_no_more_than_short_ones(tmp_path: Path) -> None:
    """Taking a file in, and going through it, holds a few of its lines at a time: measured over 20,000 (and, by
    `bench.sheets`, over millions)."""
    peaks = []
    for lines in (200, 20_000):
        with (tmp_path / f"{lines}.csv").open("w+b") as file:
            bench.write(file, lines)
            database = _Forgets()
            tracemalloc.start()
            sheets.take(database, 1, file, "long.csv", "somebody")  # type: ignore[arg-type]
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert database.rows == lines
    assert peaks[1] < peaks[0] + 3_000_000


class _Forgets:
    """In place of a database: takes parts, opens them and forgets them, as what goes through them does."""

    def __init__(self) -> None:
        self.rows = 0

    def write_now(self, fn: Any, *args: Any) -> int:
        if fn is sheets._add_parts:
            for part in args[3]:
                self.rows += len(json.loads(zlib.decompress(part["content"])))
        return 1


def test_the_bench_measures_what_it_says(database: Database, tmp_path: Path) -> None:
    with (tmp_path / "orders.csv").open("w+b") as file:
        bench.write(file, 40)
        found = bench.measure(database, file, 40)
    assert (found["check"], found["import"], found["again"]) == (
        [40, 0, 0, 0],
        [40, 0, 0, 0],
        [0, 0, 40, 0],
    )
    assert 0 < found["base_mb"] <= found["peak_mb"] < found["base_mb"] + 60
    assert found["import_longest_step_ms"] > 0 < found["import_cpu_us_row"]


# The command line


def test_import_file_on_the_command_line(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upkeep, "_with_database", lambda _settings, run: run(desk.database))
    file, wrong = tmp_path / "orders.csv", tmp_path / "wrong.csv"
    file.write_text("Mailbox,Nr,product,Sum,paid_at\n" + ANA.replace(",USD", "") + "x,SO-9,,1,2026-03-04\n")
    mapped = ("email=mailbox", "order=Nr", "amount=Sum")

    def run(only_try: bool = False, problems: Path | None = None, slug: str = "acme", **chosen: Any) -> int:
        values = {"account": "shop", "columns": mapped, "currency": "USD", **chosen}
        choice = upkeep.FileChoice(**values)
        return upkeep.import_file(Settings(), file, slug, choice, only_try, problems)

    assert run(only_try=True) == 1
    assert capsys.readouterr() == (
        "created 1, changed 0, unchanged 0, refused 1\n",
        "line 3: Mailbox: “x” is no e-mail address.\n",
    )
    assert desk.count(models.Order, models.SheetPart) == [0, 0]
    assert run(problems=wrong) == 1
    assert wrong.read_bytes().endswith(b"3,Mailbox,\xe2\x80\x9cx\xe2\x80\x9d is no e-mail address.\r\n")
    assert desk.count(models.Order) == [1]
    for chosen, says in (
        ({"slug": "nobody"}, "no portal nobody"),
        ({"account": "Kora's till"}, "no account “Kora's till”"),
        ({"columns": ("mail=Mailbox",)}, "no column mail"),
        ({"columns": ("email=Post",)}, "no column Post; it has: Mailbox, Nr"),
        ({"currency": ""}, "No column is the currency"),
        ({"own": True, "account": None}, "Name the account"),
    ):
        with pytest.raises(RuntimeError, match=says):
            run(**chosen)


# What stays and what goes


def test_files_go_after_two_weeks_and_what_was_wrong_after_three_months(desk: Desk) -> None:
    sheet = desk.load(HEAD + ANA + "x,,,,,\n")
    broken = desk.give(HEAD + ANA)
    desk.database.write_now(
        lambda db: setattr(db.get_one(models.Sheet, broken), "state", "taken")  # its upload broke off
    )
    for days, parts, wrong, files in ((1, 1, 1, 1), (15, 0, 1, 1), (91, 0, 0, 1)):
        desk.database.write_now(sheets.forget_old, clock.now() + timedelta(days=days))
        assert desk.count(models.SheetPart, models.Sheet) == [parts, files]
        assert (desk.count(models.SheetProblem)[0] > 0) is bool(wrong)
    with pytest.raises(Refused, match="not kept any more"):
        desk.begin(sheet.id)


def test_what_was_wrong_goes_of_all_old_files(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "PROBLEMS_AT_ONCE", 1)
    for _ in range(3):
        desk.load(HEAD + "x,,,,,\n")
    for left in (2, 1, 0):
        desk.database.write_now(sheets.forget_old, clock.now() + timedelta(days=91))
        assert desk.count(models.SheetProblem) == [left]
    assert desk.count(models.Sheet) == [3]


def test_so_many_files_and_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MOST_KEPT", 1)
    monkeypatch.setattr(sheets, "MOST_PROBLEMS", 2)
    sheet = desk.load(HEAD + "x,,,,,\n" * 5)
    assert (sheet.refused, len(desk.problems(sheet))) == (5, 2)
    with pytest.raises(Refused, match="1 files are kept"):
        desk.give(HEAD + ANA)
    desk.database.write_now(lambda db: sheets.empty(db, db.get_one(models.Sheet, sheet.id), clock.now()))
    with pytest.raises(Unreadable, match="no rows below"):
        desk.give(HEAD)
