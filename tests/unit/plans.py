"""How the database would read: its plan of a statement, as it is really sent, and what may not stand in it."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Executable, event, text
from sqlalchemy.orm import Session

from portal.db import Database


def plan(
    database: Database,
    statement: Executable,
    values: Mapping[str, Any] | None = None,
    off: tuple[str, ...] = (),
    counted: bool = True,
) -> list[str]:
    """The plan of a statement with these values, line by line; of what it does not take, nothing is given to it."""
    known = statement.compile().params  # type: ignore[attr-defined]
    wanted = {name: value for name, value in (values or {}).items() if name in known}
    return plan_of(database, lambda db: db.connection().execute(statement, wanted).all(), "", off, counted)


def plan_of(
    database: Database,
    read: Callable[[Session], Any],
    which: str = "",
    off: tuple[str, ...] = (),
    counted: bool = True,
) -> list[str]:
    """The plan of what a function asks of the database: of the last statement that has `which` in it.

    On PostgreSQL it is the plan for many rows, whose figures are known. On few, reading them all would be cheaper than
    any index, and sorting them cheaper than an order that is there; `off` are further ways of few rows, as `hashjoin`.
    `counted` is whether it knows how many rows there are; else it goes by what it takes a table to be.
    """

    def explain(db: Session) -> list[str]:
        connection = db.connection()
        if not database.is_sqlite:
            for way in ("seqscan", *off):
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
        sent: list[tuple[str, Any]] = []

        def note(_c: Any, _k: Any, sql: str, parameters: Any, *_: Any) -> None:
            sent.append((sql, parameters))

        event.listen(connection, "before_cursor_execute", note)
        try:
            read(db)
        finally:
            event.remove(connection, "before_cursor_execute", note)
        sql, parameters = [one for one in sent if which in one[0]][-1]
        word = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        return [str(row[-1]) for row in connection.exec_driver_sql(f"{word} {sql}", parameters)]

    if counted:
        _count(database)
    return database.write_now(explain)  # SET LOCAL needs a transaction


_ALL = re.compile(r"^SCAN (?!CONSTANT|\(subquery)|\((account_id|portal_id)=\?( AND id[<>]\?)*\)$")


@contextmanager
def reads_little(database: Database, *small: str) -> Iterator[list[str]]:
    """Fails where a statement sent in this block reads a table whole, or all that a portal or an account has in it.

    On SQLite alone, which goes by the statement and not by how many rows there are: what it would read is known
    without them. Of tables that stay `small` nothing is asked. Gives the lines of all plans.
    """
    if not database.is_sqlite:
        yield []
        return
    sent: dict[str, Any] = {}
    plans: list[str] = []

    def note(_c: Any, _k: Any, sql: str, parameters: Any, _x: Any, many: bool) -> None:
        if sql.split()[0] in ("SELECT", "UPDATE", "DELETE"):
            sent.setdefault(sql, parameters[0] if many else parameters)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield plans
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert sent
    for sql, asked in sent.items():
        with database.engine.connect() as connection:
            lines = [str(line[-1]) for line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", asked)]
        much = [line for line in lines if _ALL.search(line) and line.split()[1] not in small]
        assert much == [], sql
        plans += lines


def _count(database: Database) -> None:
    """Have PostgreSQL know how many rows there are of what, which it does for who owns the tables alone. SQLite never
    knows: nothing has it count."""
    if database.is_sqlite:
        return
    owners = database.engine.url.set(username="portal").render_as_string(hide_password=False)
    with psycopg.connect(owners, autocommit=True) as connection:
        connection.execute("ANALYZE")


def wholes(lines: list[str]) -> list[str]:
    """Where a table is read whole."""
    return [line for line in lines if re.match(r"SCAN\b", line) or "Seq Scan" in line]


def sorts(lines: list[str]) -> list[str]:
    """Where rows are sorted; putting those of one moment in order as they come is no sorting of the whole."""
    return [line for line in lines if "TEMP B-TREE" in line or re.search(r"(?<!Incremental )Sort  \(", line)]


def uses(lines: list[str], *indexes: str) -> bool:
    """Whether one of the indexes is read. SQLite has names of its own for those of unique columns and of ids."""
    names = [
        *indexes,
        *("sqlite_autoindex" for one in indexes if one.startswith("uq_")),
        *("INTEGER PRIMARY KEY" for one in indexes if one.startswith("pk_")),
    ]
    return any(re.search(rf"\b{name}", line) for name in names for line in lines)
