"""Bars, drawn by the server as SVG. The table beside them says the same in numbers; these are for who looks.

Lengths across are per cent and lengths up are pixels, so that a chart fits any width while its words keep their size.
Colours are classes of the stylesheet: a style attribute would be blocked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from portal.texts import gettext as _

_HIGH, _LOW = 144, 56  # of the plot
_LABELS = 20  # room under it
_GUTTERS = ((4, "gutter-1"), (9, "gutter-2"))  # letters of the longest figure, and the room for it
_FEW = 4  # bars that all bear their label
_SHARE = 0.7  # of its place that a bar takes
_LEAST = 2  # pixels of a bar that is not nothing


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. `label` stands under it, or is said of it."""

    label: str
    value: int


def bars(
    ident: str,
    title: str,
    found: Sequence[Bar],
    empty: str,
    *,
    text: Callable[[int], str] = str,
    unit: int = 1,
    highest: int | None = None,
    small: bool = False,
    tone: str = "",
    rtl: bool = False,
) -> Markup:
    """A chart of bars from the first to the last; where there is nothing to draw, the sentence `empty`.

    `ident` is unique in its page. `text` puts a value into words and `unit` is what the scale counts in (100 for
    amounts in cents). Charts beside each other share a scale by `highest`. `tone` is a class of the stylesheet.
    """
    tallest = max((bar.value for bar in found), default=0)
    if tallest <= 0:
        return Markup('<p class="hint">{}</p>').format(empty)
    scale = ticks(max(tallest, highest or 0), unit, 1 if small else 4)
    height = _LOW if small else _HIGH
    parts = [_line(tick, scale[-1], height, text(tick), rtl) for tick in scale]
    parts += [
        _bar(bar, place, len(found), scale[-1], height, text(bar.value), rtl)
        for place, bar in enumerate(found)
        if bar.value > 0
    ]
    parts += [_label(found[place].label, place, len(found), height, rtl) for place in _named(len(found))]
    return Markup(
        '<svg class="{kind}" role="img" aria-labelledby="{ident}-title {ident}-said" width="100%"'
        ' height="{height}"><title id="{ident}-title">{title}</title><desc id="{ident}-said">{said}</desc>'
        '<g direction="ltr">{parts}</g></svg>'
    ).format(
        kind=" ".join(word for word in ("chart", _gutter([text(tick) for tick in scale]), tone) if word),
        ident=ident,
        height=height + _LABELS,
        title=title,
        said=summary(found, text),
        parts=Markup("").join(parts),
    )


def share(value: int, whole: int) -> Markup:
    """A bar for a row of a table: so much of the whole. The number stands beside it, so readers need not hear of it."""
    part = min(max(value / whole, 0), 1) if whole > 0 else 0
    return Markup(
        '<svg class="share" aria-hidden="true" width="100%" height="8">'
        '<rect class="ground" width="100%" height="8" rx="2"/><rect width="{}%" height="8" rx="2"/></svg>'
    ).format(_number(part * 100))


def summary(found: Sequence[Bar], text: Callable[[int], str] = str) -> str:
    """What a chart shows, in a sentence."""
    tallest = max(found, key=lambda bar: bar.value)
    sentence = _("From {first} to {last}: {total} in all, at most {most} ({when}).")
    return sentence.format(
        first=found[0].label,
        last=found[-1].label,
        total=text(sum(bar.value for bar in found)),
        most=text(tallest.value),
        when=tallest.label,
    )


def ticks(highest: int, unit: int = 1, most: int = 4) -> list[int]:
    """From nothing to at least the highest, in at most `most` round steps of whole units."""
    unit = unit if highest >= unit else 1
    size = 1
    while True:
        for lead in (1, 2, 5):
            step = lead * size * unit
            steps = max(1, -(-highest // step))
            if steps <= most:
                return [step * number for number in range(steps + 1)]
        size *= 10


def _line(tick: int, top: int, height: int, words: str, rtl: bool) -> Markup:
    """A line across, with what it stands for in the gutter before it."""
    across = _up(tick, top, height)
    return Markup(
        '<line class="{kind}" x2="100%" y1="{y}" y2="{y}"/>'
        '<text class="figure" x="{x}" dx="{dx}" y="{y}" dy=".32em" text-anchor="{anchor}">{words}</text>'
    ).format(
        kind="ground" if tick == 0 else "grid",
        y=_number(across),
        x="100%" if rtl else "0",
        dx="8" if rtl else "-8",
        anchor="start" if rtl else "end",
        words=words,
    )


def _bar(bar: Bar, place: int, places: int, top: int, height: int, words: str, rtl: bool) -> Markup:
    upper = min(_up(bar.value, top, height), height - _LEAST)
    wide = 100 / places
    left = (places - 1 - place if rtl else place) * wide + wide * (1 - _SHARE) / 2
    return Markup(
        '<rect x="{}%" y="{}" width="{}%" height="{}" rx="1.5"><title>{}: {}</title></rect>'
    ).format(_number(left), _number(upper), _number(wide * _SHARE), _number(height - upper), bar.label, words)


def _label(words: str, place: int, places: int, height: int, rtl: bool) -> Markup:
    """Under its bar; the first and the last of many begin and end with the chart, so that they stand inside of it."""
    shown = places - 1 - place if rtl else place
    anchor, across = "middle", (shown + 0.5) * 100 / places
    if places > _FEW and shown == 0:
        anchor, across = "start", 0.0
    if places > _FEW and shown == places - 1:
        anchor, across = "end", 100.0
    kind = "label between" if 0 < shown < places - 1 else "label"  # left out where there is no room
    return Markup('<text class="{}" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
        kind, _number(across), height + _LABELS - 4, anchor, words
    )


def _named(places: int) -> list[int]:
    """Which bars bear their label: all of a few, else the first, the middle and the last."""
    return list(range(places)) if places <= _FEW else [0, places // 2, places - 1]


def _gutter(figures: Sequence[str]) -> str:
    longest = max(map(len, figures))
    return next((name for letters, name in _GUTTERS if longest <= letters), "gutter-3")


def _up(value: int, top: int, height: int) -> float:
    return height - value / top * height


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
