"""Stylesheet and script: what they weigh, how they are named and served, and what they may not hold."""

import gzip
import hashlib
import re
from pathlib import Path

import brotli
import pytest

from portal import assets

STATIC = Path(assets.__file__).parent / "static"
BRAND = (
    ("brand-dark", "#86cfa6"),
    ("brand-light", "#2f6f4f"),
    ("link-dark", "#86cfa6"),
    ("link-light", "#22613f"),
)
KB = 1024


def test_the_stylesheet_weighs_at_most_4_kb() -> None:
    assert len(assets.stylesheet(BRAND).brotli) <= 4 * KB


def test_the_script_weighs_at_most_16_kb_and_ours_2() -> None:
    assert len(assets.script().brotli) <= 16 * KB
    assert len(brotli.compress((STATIC / "portal.js").read_bytes(), quality=11)) <= 2 * KB


@pytest.mark.parametrize("asset", [assets.script(), assets.stylesheet(), assets.stylesheet(BRAND)])
def test_a_name_carries_the_hash_of_its_content(asset: assets.Asset) -> None:
    assert hashlib.sha256(asset.raw).hexdigest()[:12] in asset.name
    assert brotli.decompress(asset.brotli) == asset.raw
    assert gzip.decompress(asset.gzip) == asset.raw


def test_the_brand_stands_at_the_end_and_gives_another_name() -> None:
    plain, branded = assets.stylesheet(), assets.stylesheet(BRAND)
    assert plain.name != branded.name
    assert branded.text.endswith(
        "@layer tokens{:root{--brand:light-dark(#2f6f4f,#86cfa6);--link:light-dark(#22613f,#86cfa6)}}"
    )


def test_minified_css_says_the_same() -> None:
    css = "/* why */\na > b,\nc  d {\n  color: red;\n  margin: 0 auto;\n}\n"
    assert assets.minified(css) == "a>b,c d{color: red;margin: 0 auto}"


def test_distances_are_logical_so_that_right_to_left_works() -> None:
    css = (STATIC / "portal.css").read_text().replace("safe-area-inset-left", "")
    physical = re.findall(
        r"(?:margin|padding|border|inset)-(?:left|right|top|bottom)|[^-]\b(?:left|right):|float", css
    )
    assert physical == []
    assert re.findall(r"text-align:\s*(?:left|right)", css) == []


def test_nothing_is_fetched_from_elsewhere() -> None:
    css = (STATIC / "portal.css").read_text()
    assert re.findall(r"url\(|@import|@font-face|https?:", css) == []
    ours = (STATIC / "portal.js").read_text()
    assert (
        re.findall(r"\beval\b|new Function|innerHTML|insertAdjacentHTML|document\.write|https?:", ours) == []
    )


def test_every_colour_of_a_pair_has_contrast_enough() -> None:
    """4.5 to 1 for text on its ground, light and dark (WCAG 1.4.3)."""
    css = (STATIC / "portal.css").read_text()
    tokens = {
        name: (light, dark)
        for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", css)
    }
    pairs = [(tone, f"{tone}-bg") for tone in ("ok", "info", "warn", "bad", "off")]
    grounds = ("bg", "surface", "sunken")
    pairs += [(text, ground) for text in ("text", "muted", "link") for ground in grounds]
    pairs += [("text", f"{tone}-bg") for tone in ("ok", "info", "warn", "bad")]
    for text, ground in pairs:
        for scheme in (0, 1):
            assert contrast(tokens[text][scheme], tokens[ground][scheme]) >= 4.5, (text, ground, scheme)


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
