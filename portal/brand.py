"""A merchant gives one colour; what is drawn with it is derived here, so that it can be read in light and in dark.

All lightness is moved in OKLCH, where the hue stays what it was. What leaves the screen's colours on the way loses
chroma, not hue."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from math import atan2, cos, hypot, sin

from portal.texts import gettext as _

TEXT = 4.5  # the least contrast of words
SHAPE = 3.0  # and of what is not words
# What links and buttons stand on: the tokens of the stylesheet, light and dark.
GROUNDS = {
    "light": {
        "surface": "#ffffff",
        "bg": "#f7f7f5",
        "sunken": "#f1f1ee",
        "warn-bg": "#fcf0d9",
        "bad-bg": "#fde8e6",
    },
    "dark": {
        "surface": "#1a1b1d",
        "bg": "#121314",
        "sunken": "#222426",
        "warn-bg": "#38290f",
        "bad-bg": "#3d1c1a",
    },
}
_BUTTONS_ON = ("surface", "bg")
_WHITE, _BLACK = "#ffffff", "#000000"
_STEPS = 512  # from the colour to black or white

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Brand:
    """`values` stand at the end of the portal's stylesheet: six-digit hex each, or `transparent` where a button needs
    no edge. `notes` say what was done to the colour."""

    values: dict[str, str]
    notes: tuple[str, ...]


def parse(text: str) -> str:
    """The colour as `#rrggbb`. Raises ValueError with a sentence for the person who typed it."""
    found = re.fullmatch(r"#?([0-9a-f]{6}|[0-9a-f]{3})", "".join(text.split()).lower())
    if found is None:
        raise ValueError(_("Enter a colour as # and six characters, such as #2f6f4f."))
    digits = found[1]
    return "#" + (digits if len(digits) == 6 else "".join(digit * 2 for digit in digits))


def derive(colour: str) -> Brand:
    """Fill, words on the fill, its edge and links, each for light and for dark."""
    fill = parse(colour)
    # White and black multiply to 21:1 on any colour, so where white misses 4.5:1, black has at least 4.66:1.
    on_fill = _WHITE if contrast(_WHITE, fill) >= TEXT else _BLACK
    values: dict[str, str] = {}
    for scheme, grounds in GROUNDS.items():
        under_buttons = [grounds[name] for name in _BUTTONS_ON]
        edge = _reach(fill, under_buttons, SHAPE, scheme)
        values |= {
            f"brand-{scheme}": fill,
            f"on-brand-{scheme}": on_fill,
            f"link-{scheme}": _reach(fill, list(grounds.values()), TEXT, scheme),
            f"brand-edge-{scheme}": "transparent" if edge == fill else edge,
        }
    return Brand(values, tuple(_notes(fill, values)))


def contrast(one: str, other: str) -> float:
    """As WCAG 2 counts it: 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def to_oklch(colour: str) -> Triple:
    """Lightness 0 to 1, chroma, and hue in radians."""
    red, green, blue = (_linear(part) for part in _parts(colour))
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    middle = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    lightness = 0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short
    a = 1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short
    b = 0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short
    return lightness, hypot(a, b), atan2(b, a)


def from_oklch(lightness: float, chroma: float, hue: float) -> str:
    """The nearest colour of that lightness and hue that a screen has: as much of the chroma as fits."""
    low, high = 0.0, chroma
    if _on_screen(_to_linear(lightness, chroma, hue)):
        low = chroma
    else:
        for _turn in range(20):
            half = (low + high) / 2
            low, high = (half, high) if _on_screen(_to_linear(lightness, half, hue)) else (low, half)
    return "#" + "".join(f"{round(_gamma(part) * 255):02x}" for part in _to_linear(lightness, low, hue))


def _reach(colour: str, grounds: list[str], least: float, scheme: str) -> str:
    """The colour itself if it stands out from all grounds, else the first shade that does: darker on light pages,
    lighter on dark ones. Who stands out from the nearest ground stands out from the others."""
    nearest = (min if scheme == "light" else max)(grounds, key=_luminance)
    if contrast(colour, nearest) >= least:
        return colour
    lightness, chroma, hue = to_oklch(colour)
    end = 0.0 if scheme == "light" else 1.0

    def shade(step: int) -> str:
        return from_oklch(lightness + (end - lightness) * step / _STEPS, chroma, hue)

    first = bisect_left(range(_STEPS), True, key=lambda step: contrast(shade(step), nearest) >= least)
    return shade(first)


def _notes(fill: str, values: dict[str, str]) -> Iterator[str]:
    if values["on-brand-light"] == _BLACK:
        yield _("White words could not be read on your colour; buttons have black ones.")
    if values["link-light"] != fill:
        yield _("Your colour is too light for text on white; links use a darker shade of it.")
    if values["link-dark"] != fill:
        yield _("Your colour is too dark for text on dark pages; links use a lighter shade of it there.")
    if values["brand-edge-light"] != "transparent":
        yield _("Your colour hardly stands out from white; buttons get a thin darker edge.")
    if values["brand-edge-dark"] != "transparent":
        yield _("Your colour hardly stands out from dark pages; buttons get a thin lighter edge there.")


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(part) for part in _parts(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _parts(colour: str) -> Triple:
    return int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _gamma(part: float) -> float:
    part = min(max(part, 0.0), 1.0)
    return part * 12.92 if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055


def _to_linear(lightness: float, chroma: float, hue: float) -> Triple:
    a, b = chroma * cos(hue), chroma * sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )


def _on_screen(linear: Triple) -> bool:
    return all(-0.0001 <= part <= 1.0001 for part in linear)
