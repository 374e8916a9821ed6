"""Static files: joined, hashed and compressed at start; one stylesheet per portal, as it ends in its colours."""

import gzip
import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import brotli
from markupsafe import Markup

_FOLDER = Path(__file__).parent / "static"
_SCRIPTS = ("htmx-4.0.1.min.js", "portal.js")
_BRAND = ("brand", "on-brand", "link", "brand-edge")


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it goes over the wire. `name` carries a hash of the content, so it may be kept for ever."""

    name: str
    content_type: str
    raw: bytes
    brotli: bytes
    gzip: bytes
    csp_hash: str  # of the text, for an inline block of the same bytes

    @property
    def text(self) -> Markup:
        """The content, to stand inline in a page: our own words, in which nothing is escaped."""
        return Markup(self.raw.decode())  # noqa: S704


@cache
def script() -> Asset:
    """htmx and ours in one file."""
    joined = b"\n".join((_FOLDER / name).read_bytes() for name in _SCRIPTS)
    return _asset("portal", "js", "text/javascript; charset=utf-8", joined)


@cache
def passkey_script() -> Asset:
    """What asks the browser for a passkey; on the merchant's side only."""
    return _asset("passkey", "js", "text/javascript; charset=utf-8", (_FOLDER / "passkey.js").read_bytes())


@lru_cache(maxsize=1024)
def stylesheet(brand: tuple[tuple[str, str], ...] = ()) -> Asset:
    """portal.css, ending in the colours of one portal (`brand_css`)."""
    css = (_FOLDER / "portal.css").read_text() + brand_css(brand)
    return _asset("portal", "css", "text/css; charset=utf-8", minified(css).encode())


@cache
def admin_stylesheet() -> Asset:
    """The merchant side's: portal.css and what its own pages need beside it."""
    css = (_FOLDER / "portal.css").read_text() + (_FOLDER / "admin.css").read_text()
    return _asset("admin", "css", "text/css; charset=utf-8", minified(css).encode())


@lru_cache(maxsize=1024)
def login_style(brand: tuple[tuple[str, str], ...] = ()) -> Asset:
    """The part of the stylesheet that the sign-in page needs, to stand inline in it."""
    css = (_FOLDER / "login.css").read_text() + brand_css(brand)
    return _asset("login", "css", "text/css; charset=utf-8", minified(css).encode())


def brand_css(brand: tuple[tuple[str, str], ...]) -> str:
    """The six derived colours as custom properties: light and dark in one `light-dark()` each."""
    values = dict(brand)
    pairs = [
        f"--{name}:light-dark({values[f'{name}-light']},{values[f'{name}-dark']})"
        for name in _BRAND
        if f"{name}-light" in values
    ]
    if values.get("on-brand-light") == "#000000":
        pairs.append("--brand-away:#fff")  # under the pointer a button goes away from its words' colour
    return f"@layer tokens{{:root{{{';'.join(pairs)}}}}}" if pairs else ""


def minified(css: str) -> str:
    """Without comments and line breaks; enough, since what goes out is compressed."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    css = re.sub(r"\s+", " ", css)
    return re.sub(r"\s*([{};,>])\s*", r"\1", css).replace(";}", "}").strip()


def _asset(stem: str, suffix: str, content_type: str, raw: bytes) -> Asset:
    digest = hashlib.sha256(raw).digest()
    return Asset(
        name=f"{stem}.{digest.hex()[:12]}.{suffix}",
        content_type=content_type,
        raw=raw,
        brotli=brotli.compress(raw, quality=11),
        gzip=gzip.compress(raw, 9, mtime=0),
        csp_hash=f"sha256-{b64encode(digest).decode()}",
    )
