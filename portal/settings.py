"""The environment, read once into one frozen object; nothing else reads it."""

import secrets
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting is `PORTAL_<NAME>` in the environment. Without any, a portal runs on SQLite beside you."""

    model_config = SettingsConfigDict(env_prefix="PORTAL_", frozen=True, extra="ignore")

    database_url: str = Field(
        default="sqlite:///portal.db",
        description="sqlite:///<file> or postgresql://<user>:<password>@<host>/<name>.",
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
    trusted_proxies: str = Field(default="", description="Networks whose X-Forwarded-For is believed.")
    smtp_host: str = Field(default="127.0.0.1", description="The server that takes our mails.")
    smtp_port: int = 25
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_tls: Literal["none", "starttls", "tls"] = "starttls"
    mail_from: str = Field(
        default="portal@localhost", description="Address of the sender; the name before it is the merchant's."
    )
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

    @field_validator("base_domain", "admin_host")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower().strip(".")

    @cached_property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(part.strip()) for part in self.trusted_proxies.split(",") if part.strip())

    @property
    def secure(self) -> bool:
        """Whether browsers reach us by https: decides on cookie names and flags."""
        return self.scheme == "https"

    def origin(self, host: str) -> str:
        """Scheme, host and port of a portal's pages, for links in mails. The host comes from the database."""
        usual = 443 if self.secure else 80
        port = f":{self.public_port}" if self.public_port not in (None, usual) else ""
        return f"{self.scheme}://{host}{port}"
