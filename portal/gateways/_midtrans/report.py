"""The report of transactions by BI-SNAP, Bank Indonesia's standard: its own host, keys and signatures.

Sources: https://docs.midtrans.com/reference/signature-generation, /access-token-api and /transaction-history-list-api
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from uuid import uuid4

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key

from portal import clock
from portal.gateways import wire
from portal.gateways._midtrans.common import WIB
from portal.gateways.base import Declined, Unavailable
from portal.gateways.wire import Json

FIELDS = ("client_id", "client_secret", "partner_id", "channel_id", "private_key")
TOKEN, HISTORY = "/v1.0/access-token/b2b", "/v1.0/transaction-history-list"
ROWS, MONTHS = 50, 6
NO_ANSWER = "Midtrans does not answer at the moment."


class Report:
    """The report of one account; `ask` posts to its host: path, headers and the body's bytes."""

    def __init__(
        self, credentials: Mapping[str, str], ask: Callable[[str, dict[str, str], bytes], Awaitable[Json]]
    ) -> None:
        self._keys = {name: credentials.get(f"bisnap_{name}", "") for name in FIELDS}
        self._ask = ask
        self._bearer: tuple[str, datetime] | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(f"bisnap_{name}" for name, value in self._keys.items() if not value)

    async def page(self, until: str, number: int) -> list[Json]:
        """One page of payments up to a moment, newest first. It reaches back to a first of the month, six ago."""
        end = datetime.fromisoformat(until)
        months = end.year * 12 + end.month - 1 - MONTHS
        begin = datetime(months // 12, months % 12 + 1, 1, tzinfo=WIB)
        asked = {"fromDateTime": stamp(begin), "toDateTime": until, "pageSize": ROWS, "pageNumber": number}
        more = {"additionalInfo": {"types": ["PAYMENT"], "sortOrder": "DESC"}}
        body, token, now = _body(asked | more), await self.token(), stamp(clock.now())
        headers = {"Authorization": f"Bearer {token}", "X-TIMESTAMP": now, "X-EXTERNAL-ID": str(uuid4())} | {
            "X-SIGNATURE": _symmetric(self._keys["client_secret"], HISTORY, token, body, now),
            "X-PARTNER-ID": self._keys["partner_id"],
            "CHANNEL-ID": self._keys["channel_id"],
        }
        said = await self._ask(HISTORY, headers, body)
        if not (wire.text(said.get("responseCode")) or "").startswith("200"):
            raise Unavailable(NO_ANSWER, "The list of transactions has no code of success.")
        return wire.objects(said.get("detailData"))

    async def token(self) -> str:
        """Good for 15 minutes, and proof of all keys but the partner's and the secret."""
        if self._bearer and self._bearer[1] > clock.now():
            return self._bearer[0]
        client, now = self._keys["client_id"], stamp(clock.now())
        signature = _asymmetric(self._keys["private_key"], f"{client}|{now}")
        headers = {"X-TIMESTAMP": now, "X-CLIENT-KEY": client, "X-SIGNATURE": signature}
        said = await self._ask(TOKEN, headers, _body({"grantType": "client_credentials"}))
        token, lives = wire.text(said.get("accessToken")), wire.whole(said.get("expiresIn")) or 0
        if token is None:
            raise Unavailable(NO_ANSWER, "The answer holds no access token.")
        self._bearer = (token, clock.now() + timedelta(seconds=lives - 60))
        return token


def stamp(moment: datetime) -> str:
    return moment.astimezone(WIB).isoformat(timespec="seconds")


def _body(said: Json) -> bytes:
    """Without a blank, as it is signed."""
    return json.dumps(said, separators=(",", ":")).encode()


def _symmetric(secret: str, path: str, token: str, body: bytes, now: str) -> str:
    covered = f"POST:{path}:{token}:{hashlib.sha256(body).hexdigest()}:{now}"
    return base64.b64encode(hmac.digest(secret.encode(), covered.encode(), "sha512")).decode()


def _asymmetric(pem: str, covered: str) -> str:
    """The key's lines may have been lost on the way through a form."""
    try:
        key = load_der_private_key(base64.b64decode(re.sub(r"-----[A-Z ]+-----|\s", "", pem)), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Declined(
            "The shop's keys can't be used.", "bisnap_private_key is no RSA key in PKCS#8 or PKCS#1."
        )
    return base64.b64encode(key.sign(covered.encode(), padding.PKCS1v15(), SHA256())).decode()
