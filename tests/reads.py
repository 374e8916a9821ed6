"""What the tests have SQLite read: a statement of ours that goes through a big table whole, or through all that a
portal or an account has in it, fails the test that first sent it. SQLite goes by the statement and by the indexes
alone, so what it would read of ten million rows is known from none."""

import re
import sys
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pysqlite3.dbapi2
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.shared import empty_sqlite

ROOT = Path(__file__).parents[1]
OURS = f"{ROOT}/portal/"
NOT_THE_SENDER = (f"{OURS}db.py", f"{OURS}walls.py")
LATER = f"{OURS}migrations/"

# There are few of each in a portal, or they are gone after some days.
SMALL = frozenset(
    (
        *(
            "account",
            "address_join",
            "alembic_version",
            "api_key",
            "asset",
            "audit",
            "domain_claim",
            "endpoint",
            "import_run",
        ),
        *("mail_text", "merchant", "merchant_invitation", "merchant_member", "merchant_user", "passkey"),
        *("portal", "save_offer", "setting", "sheet", "totals"),
        *(
            "api_use",
            "delivery",
            "job",
            "login_request",
            "login_token",
            "merchant_session",
            "order_ask",
            "session",
        ),
    )
)

# By module and table: why all of it is read there.
ON_PURPOSE = {
    ("accounts.py", "event"): "the newest of each account, by its index",
    ("figures.py", "subscription"): "added up, and then kept for some minutes",
    ("requests.py", "request"): "the command line lists all portals' together",
    ("upkeep.py", "request"): "the command line is told a reference without its portal",
}


_READS = ("SELECT", "UPDATE", "DELETE", "WITH")


class Reads:
    """Notes each statement once, and says what is wrong with those that came since it was last asked."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._new: list[tuple[str, str, Any]] = []
        event.listen(Engine, "before_cursor_execute", self._note)

    def close(self) -> None:
        event.remove(Engine, "before_cursor_execute", self._note)

    def wrong(self) -> list[str]:
        """Not asked while a statement is sent: that may be in the middle of a migration."""
        new, self._new = self._new, []
        return [
            f"portal/{module}: {line}\n{sql}"
            for module, sql, parameters in new
            for table, line in much(sql, parameters)
            if (module, table) not in ON_PURPOSE
        ]

    def _note(
        self, connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        if sql in self._seen:
            return
        self._seen.add(sql)
        if connection.dialect.name != "sqlite" or sql.split(None, 1)[0] not in _READS:
            return
        short = re.sub(r"\(\?(, \?)+\)", "(?)", sql)
        if short != sql and short in self._seen:
            return
        self._seen.add(short)
        if (sender := _sender()) is not None:
            self._new.append((sender.removeprefix(OURS), sql, parameters[0] if many else parameters))


def _sender() -> str | None:
    """The file of ours that sent the statement that is being sent; None where a test did."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(f"{ROOT}/") and ".venv/" not in name and name not in NOT_THE_SENDER:
            return name if name.startswith(OURS) and not name.startswith(LATER) else None
        frame = frame.f_back
    return None


_SCAN = re.compile(r"^SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?$")
_SEARCH = re.compile(
    r"^SEARCH (\w+) USING (?:COVERING )?INDEX (\w+) \((?:account_id|portal_id)=\?(?: AND id[<>]\?)*\)$"
)


def much(sql: str, parameters: Any) -> list[tuple[str, str]]:
    """Tables of which a statement reads all that there is, or all that a portal or an account has, and the line of the
    plan. An index over a few of the rows is no such thing; nor is a page that is read in the order of an index."""
    if " WHERE 1!=1" in sql:  # in none of no values: it reads nothing
        return []
    try:
        lines = [str(row[-1]) for row in _empty().execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    except pysqlite3.dbapi2.OperationalError:  # about a table of the test's own
        return []
    tables = {alias: table for table, alias in re.findall(r"\b(\w+) AS \"?(\w+)\"?", sql)}
    out = []
    for line in lines:
        found = _SCAN.match(line) or _SEARCH.match(line)
        if found is None:
            continue
        table, index = tables.get(found[1], found[1]), found[2]
        if table in _whole() and table not in SMALL and not (index and _is_partial(index)):
            if line.startswith("SEARCH") and _is_page(sql, lines, found[1], line):
                continue
            out.append((table, line))
    return out


def _is_page(sql: str, lines: list[str], name: str, line: str) -> bool:
    """Whether it ends after some rows, which nothing but the index has put in order or picked out."""
    if not re.search(r"LIMIT \? OFFSET \?\s*$", sql) or any("TEMP B-TREE" in one for one in lines):
        return False
    of_few = re.findall(rf"\b{name}\.(\w+_id|\w*remote\w*|email|number) (?:= \?|IN \()", sql)
    return all(f"{column}=?" in line for column in of_few)


@cache
def _empty() -> Any:
    return pysqlite3.dbapi2.connect(empty_sqlite(), check_same_thread=False)


@cache
def _whole() -> frozenset[str]:
    return frozenset(
        row[0] for row in _empty().execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    )


@cache
def _is_partial(index: str) -> bool:
    made = _empty().execute("SELECT sql FROM sqlite_master WHERE name = ?", (index,)).fetchone()
    return bool(made and made[0] and " WHERE " in made[0].upper())
