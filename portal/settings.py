"""The environment, read once into one frozen object; nothing else reads it."""

import re
import secrets
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# Last parts of names that no public name has; merchants' own names end in none of them, save where one tries out.
LOCAL = frozenset(
    {
        *("localhost", "local", "localdomain", "lan", "home", "internal", "intranet", "private", "corp"),
        *("test", "example", "invalid"),
    }
)


class Settings(BaseSettings):
    """Every setting is `PORTAL_<NAME>` in the environment. Without any, a portal runs on SQLite beside you."""

    model_config = SettingsConfigDict(env_prefix="PORTAL_", frozen=True, extra="ignore")

    database_url: str = Field(
        default="sqlite:///portal.db",
        description="sqlite:///<file> or postgresql://<user>:<password>@<host>/<name>.",
    )
    database_direct_url: str = Field(
        default="",
        description="The same database for migrations and backups: as the PostgreSQL role that owns the tables, and "
        "without PgBouncer. Unset: database_url. See docs/tenancy.md.",
    )
    secret_key: SecretStr = Field(
        default_factory=lambda: SecretStr(secrets.token_urlsafe(32)),
        description="Signs and seals what browsers hand back. Keep it the same over restarts and processes.",
    )
    master_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Comma-separated key ring (base64, 32 bytes each) for processor keys; the first one seals.",
    )
    scheme: Literal["https", "http"] = Field(
        default="https", description="How browsers reach us; http is for trying it out on your own machine."
    )
    public_port: int | None = Field(default=None, description="Port in the links we mail, where unusual.")
    base_domain: str = Field(default="localhost", description="<slug>.<base_domain> reaches every portal.")
    admin_host: str = Field(
        default="admin.localhost", description="The one host on which the merchant side answers."
    )
    signup: Literal["closed", "invite", "open"] = Field(
        default="closed",
        description="Who may begin a merchant: closed, only `portal merchant add`; invite, also who is invited by an "
        "owner; open, whoever proves an e-mail address.",
    )
    outgoing_private: bool = Field(
        default=False,
        description="Development only: webhooks to merchants' apps may go to http and to one's own network.",
    )
    trusted_proxies: str = Field(default="", description="Networks whose X-Forwarded-For is believed.")
    local_names: bool | None = Field(
        default=None,
        description="Whether merchants may use names that exist on one network only, such as shop.localhost or "
        "shop.test. Unset: only where base_domain is of that kind itself.",
    )
    cname_target: str = Field(
        default="",
        description="Where merchants point a domain of their own by CNAME. Unset: <slug>.<base_domain>.",
    )
    addresses: str = Field(
        default="",
        description="Comma-separated addresses of this installation, for domains that cannot have a CNAME.",
    )
    dns_servers: str = Field(
        default="",
        description="Comma-separated resolvers, ip or ip#port, that alone are asked about merchants' domains. Unset: "
        "the system's resolvers find a domain's own name servers, and those are asked.",
    )
    dns_port: int = Field(
        default=53, ge=1, le=65_535, description="Port of domains' own name servers, where unusual."
    )
    tls_ask_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Lets a proxy on another machine ask which names may have a certificate; this machine may anyway.",
    )
    smtp_host: str = Field(default="127.0.0.1", description="The server that takes our mails.")
    smtp_port: int = 25
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_tls: Literal["none", "starttls", "tls"] = "starttls"
    mail_from: str = Field(
        default="portal@localhost", description="Address of the sender; the name before it is the merchant's."
    )
    dkim_selector: str = Field(
        default="",
        description="Under which name the DKIM key of the sender's domain stands (<selector>._domainkey.<domain>); "
        "`portal doctor` looks it up.",
    )
    pg_bin: str = Field(
        default="",
        description="Folder with pg_dump and pg_restore, for backups. Unset: of the server's version, or on the PATH.",
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""),
        description="Lets a monitor on another machine read /metrics, as a bearer token; this machine may anyway.",
    )
    store: str = Field(
        default="",
        description="Where documents and uploaded files lie: database; file:///path, for one machine only; or "
        "s3://bucket/prefix?endpoint=https://…&region=…. Unset: in a folder beside a SQLite file; in PostgreSQL.",
    )
    store_key: SecretStr = Field(
        default=SecretStr(""), description="Access key of the S3-compatible store, and its secret."
    )
    store_secret: SecretStr = SecretStr("")
    threads: int = Field(default=16, ge=1, le=200, description="Database threads, and connections.")
    log_format: Literal["json", "text"] = Field(
        default="json", description="json for machines, text for people."
    )
    demo: bool = Field(
        default=False, description="Sample portals and simulated processors; never in earnest."
    )
    simulators: dict[str, str] = Field(
        default_factory=dict, description="Demo only: processor -> address of its simulator."
    )

    @field_validator("base_domain", "admin_host", "cname_target")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower().strip(".")

    @cached_property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(part.strip()) for part in self.trusted_proxies.split(",") if part.strip())

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, value: str) -> str:
        return ",".join(str(ip_address(part)) for part in _parts(value))

    @field_validator("dns_servers")
    @classmethod
    def _servers(cls, value: str) -> str:
        for part in _parts(value):
            address, mark, port = part.partition("#")
            ip_address(address)
            if mark and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
                raise ValueError(f"{part} names no port")
        return value

    @field_validator("store")
    @classmethod
    def _store(cls, value: str) -> str:
        if trouble := trouble_with_store(value):
            raise ValueError(trouble)
        return value

    @cached_property
    def takes_local_names(self) -> bool:
        """Whether names count that exist on one network only."""
        if self.local_names is None:
            return self.base_domain.rpartition(".")[2] in LOCAL
        return self.local_names

    @cached_property
    def own_addresses(self) -> frozenset[str]:
        return frozenset(_parts(self.addresses))

    @cached_property
    def resolvers(self) -> tuple[tuple[str, int], ...]:
        """Address and port of what `dns_servers` names."""
        split = [part.partition("#") for part in _parts(self.dns_servers)]
        return tuple((address, int(port or 53)) for address, _, port in split)

    @property
    def direct_url(self) -> str:
        """The database itself, past a pooler: for what needs a connection of its own."""
        return self.database_direct_url or self.database_url

    @property
    def secure(self) -> bool:
        """Whether browsers reach us by https: decides on cookie names and flags."""
        return self.scheme == "https"

    def origin(self, host: str) -> str:
        """Scheme, host and port of a portal's pages, for links in mails. The host comes from the database."""
        usual = 443 if self.secure else 80
        port = f":{self.public_port}" if self.public_port not in (None, usual) else ""
        return f"{self.scheme}://{host}{port}"


def trouble_with_store(url: str) -> str | None:
    """What is wrong with the address of a store, as far as one can see."""
    if url in ("", "database"):
        return None
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc or not parts.path.strip("/") or parts.query or parts.fragment:
            return "a folder is written file:///path/to/it"
        return None
    if parts.scheme != "s3":
        return "write database, file:///path or s3://bucket/prefix?endpoint=https://host&region=name"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", parts.netloc) or parts.fragment:
        return "s3:// is followed by the name of a bucket; keys stand in PORTAL_STORE_KEY and PORTAL_STORE_SECRET"
    if not re.fullmatch(r"[A-Za-z0-9/._-]*", parts.path):
        return "the prefix may have letters, digits and / . _ -"
    query = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(query) - {"endpoint", "region"}):
        return f"there is no {unknown[0]} in the address of a store; endpoint and region may be"
    endpoint = urlsplit(query.get("endpoint", ["https://s3"])[-1])
    if endpoint.scheme not in ("https", "http") or not endpoint.hostname or "@" in endpoint.netloc:
        return "the endpoint is written https://host or https://host:port"
    return None


def _parts(text: str) -> list[str]:
    """What stands between the commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
