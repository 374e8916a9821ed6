"""The migrations make exactly the tables of `models`, on both databases, and can be taken back."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from portal import migrate, models
from portal.db import Database
from portal.migrate import downgrade, head, is_current, upgrade
from tests.unit.builders import make_account, make_customer, make_portal, make_subscription

NewDatabase = Callable[[], str]


def test_migrated_tables_are_those_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, models.metadata) == []


def test_migrated_keys_indexes_and_constraints_are_those_of_the_models(new_database: NewDatabase) -> None:
    migrated, created = new_database(), new_database()
    upgrade(migrated)
    with opened(created) as database:
        models.metadata.create_all(database.engine)
    assert shape(migrated) == shape(created)


def shape(url: str) -> dict[str, Any]:
    """Everything the database itself says of its tables, in an order that does not depend on history."""
    with opened(url) as database:
        eyes = inspect(database.engine)
        return {
            table: {
                "columns": sorted(
                    (c["name"], str(c["type"]), c["nullable"]) for c in eyes.get_columns(table)
                ),
                "key": eyes.get_pk_constraint(table),
                "foreign": sorted(map(repr, eyes.get_foreign_keys(table))),
                "unique": sorted(map(repr, eyes.get_unique_constraints(table))),
                "indexes": sorted(index_text(index) for index in eyes.get_indexes(table)),
            }
            for table in eyes.get_table_names()
            if table != "alembic_version"
        }


def index_text(index: Any) -> str:
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return f"{index['name']} {index['column_names']} {bool(index['unique'])} {options}"


class opened:
    def __init__(self, url: str) -> None:
        self.database = Database(url, threads=2)

    def __enter__(self) -> Database:
        return self.database

    def __exit__(self, *_: object) -> None:
        self.database.dispose()


def test_upgrade_says_current_and_does_nothing_twice(new_database: NewDatabase) -> None:
    url = new_database()
    with opened(url) as database:
        assert not is_current(database)
        upgrade(url)
        assert is_current(database)
        make_portal(database)
        upgrade(url)
        assert is_current(database)
        assert inspect(database.engine).get_table_names()


def test_down_to_nothing_and_up_again(new_database: NewDatabase) -> None:
    url = new_database()
    upgrade(url)
    downgrade(url, "base")
    with opened(url) as database:
        assert inspect(database.engine).get_table_names() == ["alembic_version"]
        assert not is_current(database)
        upgrade(url)
        assert is_current(database)


def test_processes_that_migrate_at_once_wait_for_each_other(new_database: NewDatabase) -> None:
    url = new_database()
    failures: list[BaseException] = []

    def one() -> None:
        try:
            upgrade(url)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with opened(url) as database:
        assert is_current(database)


LATER = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    with op.batch_alter_table("portal", recreate="{recreate}") as table:
        table.add_column(sa.Column("motto", sa.String(), nullable=True))
{more}


def downgrade() -> None:
    with op.batch_alter_table("portal", recreate="{recreate}") as table:
        table.drop_column("motto")
"""


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """A migration after the newest one, in a copy of the folder."""

    def write(recreate: str = "auto", more: str = "") -> None:
        newest, folder = head(), tmp_path / "migrations"
        shutil.copytree(migrate._FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions/9999_later.py").write_text(
            LATER.format(head=newest, recreate=recreate, more=more)
        )
        monkeypatch.setattr(migrate, "_FOLDER", folder)
        head.cache_clear()

    yield write
    monkeypatch.undo()
    head.cache_clear()


def test_a_table_written_anew_keeps_the_rows_that_point_to_it(new_database: NewDatabase, later: Any) -> None:
    url = new_database()
    upgrade(url)
    with opened(url) as database:
        portal = make_portal(database)
        account = make_account(database, portal)
        make_subscription(database, account, make_customer(database, portal))
        database.dispose()
        later(recreate="always" if database.is_sqlite else "auto")
        upgrade(url)
        with database.engine.connect() as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM subscription").scalar_one()
            assert count == 1
            assert connection.exec_driver_sql("SELECT motto FROM portal").all() == [(None,)]


def test_a_migration_that_fails_leaves_nothing_behind(new_database: NewDatabase, later: Any) -> None:
    url = new_database()
    upgrade(url)
    later(more='    op.execute("INSERT INTO nowhere VALUES (1)")')
    with pytest.raises(Exception, match="nowhere"):
        upgrade(url)
    with opened(url) as database:
        assert "motto" not in {column["name"] for column in inspect(database.engine).get_columns("portal")}
        assert not is_current(database)


def test_a_migration_that_leaves_rows_pointing_nowhere_is_refused(tmp_path: Path, later: Any) -> None:
    url = f"sqlite:///{tmp_path}/portal.db"
    upgrade(url)
    with opened(url) as database:
        make_portal(database)
    later(more='    op.execute("DELETE FROM merchant")')
    with pytest.raises(RuntimeError, match="point nowhere"):
        upgrade(url)
    with opened(url) as database, database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM merchant").scalar_one() == 1


def test_a_drafted_migration_holds_what_the_models_have_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, later: Any
) -> None:
    later()  # the copy of the folder has a column that the models have not
    path = migrate.draft("Without the motto")
    assert path.parent == tmp_path / "migrations/versions"
    words = path.read_text()
    assert 'batch_op.drop_column("motto")' in words.replace("'", '"')
    assert 'down_revision = "9999"' in words
    assert "sqlmodel" not in words
