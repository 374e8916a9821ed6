"""What a migration may do to a database on which the version before it still runs; docs/migrations.md says it in
words."""

import re

_NAME = r'"?(?:public\.)?"?(\w+)"?'
_CONTRACTS = {
    rf"^DROP TABLE (?:IF EXISTS )?{_NAME}": "takes a table away",
    rf"^ALTER TABLE (?:ONLY )?{_NAME} DROP COLUMN": "takes a column away",
    rf"^ALTER TABLE (?:ONLY )?{_NAME} RENAME": "renames what older versions name",
    rf"^ALTER TABLE (?:ONLY )?{_NAME} ALTER COLUMN \w+ SET NOT NULL": "forbids what older versions write",
    rf"^ALTER TABLE (?:ONLY )?{_NAME} FORCE ROW LEVEL SECURITY": "hides rows from who does not say whose they want",
}
_HOLDS_UP = {
    rf"^ALTER TABLE (?:ONLY )?{_NAME} ALTER COLUMN \w+ (?:SET DATA )?TYPE": "writes a table anew under a lock",
    rf"^CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON {_NAME}": "builds an index, and nobody writes: build_index",
    rf"^ALTER TABLE (?:ONLY )?{_NAME} ADD CONSTRAINT (?!.*(?:NOT VALID|USING INDEX))": "looks all rows over: NOT VALID",
    rf"^(?:LOCK TABLE|LOCK|VACUUM FULL|CLUSTER|TRUNCATE(?: TABLE)?) {_NAME}": "locks a table",
}
_ADDED = re.compile(rf"^ALTER TABLE (?:ONLY )?{_NAME} ADD COLUMN (.*)$", re.IGNORECASE)
_CREATED = re.compile(rf"^CREATE TABLE (?:IF NOT EXISTS )?{_NAME}", re.IGNORECASE)


def troubles(statements: list[str], contracts: bool = False) -> list[str]:
    """What would break, or hold up, an older version that runs on; tables of the migration's own apart. The step that
    contracts may take away what no version in use needs any more."""
    own: set[str] = set()
    found = []
    rules = _HOLDS_UP if contracts else {**_CONTRACTS, **_HOLDS_UP}
    for statement in statements:
        words = " ".join(statement.split()).rstrip(";")
        if made := _CREATED.match(words):
            own.add(made[1].lower())
            continue
        for pattern, why in rules.items():
            hit = re.match(pattern, words, re.IGNORECASE)
            if hit and hit[1].lower() not in own:
                found.append(f"{why}: {words}")
        added = _ADDED.match(words)
        if added and added[1].lower() not in own:
            column = added[2].upper()
            if "NOT NULL" in column and "DEFAULT" not in column:
                found.append(f"adds a column that older versions leave out: {words}")
            if "UNIQUE" in column or "REFERENCES" in column:
                found.append(f"looks all rows over under a lock: {words}")
    return found
