"""The second factor: codes of RFC 6238, each once, few tries; recovery codes."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from portal import models, totp
from portal.db import Database
from portal.vault import Vault
from tests.unit.builders import MASTER_KEY, save

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
VAULT = Vault(MASTER_KEY)


@pytest.mark.parametrize(
    ("seconds", "code"),  # the last six digits of RFC 6238, appendix B, SHA-1
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_the_standard(seconds: int, code: str) -> None:
    assert totp.code_at(b"12345678901234567890", seconds // 30) == code


def make_user(database: Database, email: str = "olga@acme.example") -> int:
    user: models.User = save(database, models.User(email=email, created_at=NOW))
    return user.id


def code(secret: bytes, at: datetime = NOW) -> str:
    return totp.code_at(secret, int(at.timestamp()) // totp.STEP_S)


def set_up(database: Database) -> tuple[int, bytes, list[str]]:
    user = make_user(database)
    secret = database.write_now(totp.begin, VAULT, user)
    codes = database.write_now(totp.confirm, VAULT, user, code(secret), NOW)
    assert codes is not None
    return user, secret, codes


def spend(database: Database, user: int, typed: str, at: datetime) -> bool:
    return database.write_now(totp.spend, VAULT, user, typed, at)


def test_it_counts_only_once_a_code_was_given(database: Database) -> None:
    user = make_user(database)
    secret = database.write_now(totp.begin, VAULT, user)
    assert database.read_now(totp.pending, VAULT, user) == secret
    assert not database.read_now(totp.factors, user).any
    assert database.write_now(totp.confirm, VAULT, user, "000000", NOW) is None
    assert not spend(database, user, code(secret), NOW)
    assert database.write_now(totp.confirm, VAULT, user, code(secret), NOW) is not None
    assert database.read_now(totp.factors, user) == totp.Factors(True, 0, 10)
    assert database.read_now(totp.pending, VAULT, user) is None


def test_a_code_works_once_and_near_its_time(database: Database) -> None:
    user, secret, _ = set_up(database)
    assert not spend(database, user, code(secret), NOW)  # the one that confirmed it
    later = NOW + timedelta(minutes=1)
    assert spend(database, user, f" {code(secret, later)[:3]} {code(secret, later)[3:]}", later)
    assert not spend(database, user, code(secret, later), later)
    assert not spend(database, user, code(secret, later - timedelta(minutes=5)), later)


def test_a_recovery_code_works_once(database: Database) -> None:
    user, _, codes = set_up(database)
    assert len(set(codes)) == 10
    assert spend(database, user, codes[3].upper().replace("-", " "), NOW)
    assert not spend(database, user, codes[3], NOW)
    assert database.read_now(totp.factors, user).recovery == 9


def test_after_five_wrong_codes_even_the_right_one_waits(database: Database) -> None:
    user, secret, _ = set_up(database)
    later = NOW + timedelta(minutes=1)
    for _number in range(5):
        assert not spend(database, user, "123456", later)
    assert not spend(database, user, code(secret, later), later)
    much_later = later + timedelta(minutes=6)
    assert spend(database, user, code(secret, much_later), much_later)


def test_the_secret_rests_sealed_for_its_user_alone(database: Database) -> None:
    user, secret, _ = set_up(database)
    row = database.read_now(lambda db: db.get_one(models.User, user))
    assert row.totp is not None
    assert totp.grouped(secret).replace(" ", "").encode() not in row.totp
    other = make_user(database, "otto@acme.example")
    with pytest.raises(Exception, match="opens"):
        VAULT.open(0, other, row.totp)


def test_switched_off_it_is_gone(database: Database) -> None:
    user, _secret, codes = set_up(database)
    database.write_now(totp.remove, user)
    assert database.read_now(totp.factors, user) == totp.Factors(False, 0, 0)
    assert not spend(database, user, codes[0], NOW)


def test_the_address_for_the_app() -> None:
    parts = urlsplit(totp.address(b"12345678901234567890", "olga@acme.example", "Customer Portal"))
    assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
    assert parts.path == "/Customer%20Portal%3Aolga%40acme.example"
    assert parse_qs(parts.query) == {
        "secret": ["GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"],
        "issuer": ["Customer Portal"],
    }
