"""One colour in, eight out: whatever a merchant chooses, words and buttons can be made out."""

import colorsys
import re
from collections.abc import Callable
from math import degrees, remainder
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from portal import assets, brand

SCHEMES = ("light", "dark")
COLOURS = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")
Test = TypeVar("Test", bound=Callable[..., None])
GREY = 0.04  # under this, the hue of a screen colour is rough


def every_example(test: Test) -> Test:
    for colour in ("#000000", "#ffffff", "#ffff00", "#808080", "#0000ff", "#777777", "#00ff00", "#ff00ff"):
        test = example(colour)(test)
    return test


def mixed(colour: str, other: str, share: float) -> str:
    """`color-mix(in oklab, colour share, other)` with black or white as the other."""
    lightness, chroma, hue = brand.to_oklch(colour)
    towards = 1.0 if other == "#ffffff" else 0.0
    return brand.from_oklch(lightness * share + towards * (1 - share), chroma * share, hue)


@given(COLOURS)
@every_example
def test_every_colour_gives_words_that_can_be_read(colour: str) -> None:
    values = brand.derive(colour).values
    for scheme in SCHEMES:
        assert brand.contrast(values[f"on-brand-{scheme}"], values[f"brand-{scheme}"]) >= 4.5
        for ground in brand.GROUNDS[scheme].values():
            assert brand.contrast(values[f"link-{scheme}"], ground) >= 4.5


@given(COLOURS)
@every_example
def test_every_button_stands_out_by_its_fill_or_by_its_edge(colour: str) -> None:
    values = brand.derive(colour).values
    for scheme in SCHEMES:
        edge = values[f"brand-edge-{scheme}"]
        seen = values[f"brand-{scheme}"] if edge == "transparent" else edge
        assert brand.contrast(seen, brand.GROUNDS[scheme]["surface"]) >= 3
        assert brand.contrast(seen, brand.GROUNDS[scheme]["bg"]) >= 3


@given(COLOURS)
@every_example
def test_the_fill_is_the_colour_as_given(colour: str) -> None:
    values = brand.derive(colour).values
    assert values["brand-light"] == values["brand-dark"] == colour


@given(COLOURS)
@every_example
def test_words_on_a_button_can_be_read_under_the_pointer_too(colour: str) -> None:
    values = brand.derive(colour).values
    css = assets.brand_css(tuple(sorted(values.items())))
    away = "#ffffff" if "--brand-away:#fff" in css else "#000000"
    assert brand.contrast(values["on-brand-light"], mixed(colour, away, 0.9)) >= 4.5


@given(COLOURS)
@every_example
def test_links_and_edges_keep_the_hue(colour: str) -> None:
    _, chroma, hue = brand.to_oklch(colour)
    values = brand.derive(colour).values
    for name in ("link-light", "link-dark", "brand-edge-light", "brand-edge-dark"):
        if values[name] == "transparent":
            continue
        _, chroma_now, hue_now = brand.to_oklch(values[name])
        if chroma < GREY:
            assert chroma_now < GREY + 0.005
        elif chroma_now >= GREY:
            assert abs(remainder(degrees(hue_now - hue), 360)) < 5


@given(COLOURS)
@every_example
def test_links_go_darker_on_light_pages_and_lighter_on_dark_ones(colour: str) -> None:
    values = brand.derive(colour).values
    lightness = brand.to_oklch(colour)[0]
    assert brand.to_oklch(values["link-light"])[0] <= lightness + 1e-9
    assert brand.to_oklch(values["link-dark"])[0] >= lightness - 1e-9


@given(COLOURS)
@every_example
def test_a_colour_that_is_fine_is_left_alone(colour: str) -> None:
    values = brand.derive(colour).values
    for scheme in SCHEMES:
        assert brand.derive(values[f"link-{scheme}"]).values[f"link-{scheme}"] == values[f"link-{scheme}"]
    assert brand.derive(values["brand-light"]).values == values


@given(COLOURS)
@every_example
def test_the_values_are_hex_and_just_those_of_the_stylesheet(colour: str) -> None:
    values = brand.derive(colour).values
    assert set(values) == {f"{name}-{scheme}" for name in assets._BRAND for scheme in SCHEMES}
    for name, value in values.items():
        assert re.fullmatch(r"#[0-9a-f]{6}", value) or (value == "transparent" and "edge" in name)


@given(COLOURS)
@every_example
def test_oklch_there_and_back_is_the_same_colour(colour: str) -> None:
    assert brand.from_oklch(*brand.to_oklch(colour)) == colour


@given(st.floats(0.1, 1), st.floats(0, 0.4), st.floats(-3.14, 3.14))
def test_whatever_is_asked_for_a_colour_of_the_screen_comes_out(
    lightness: float, chroma: float, hue: float
) -> None:
    got = brand.from_oklch(lightness, chroma, hue)
    assert re.fullmatch(r"#[0-9a-f]{6}", got)
    assert abs(brand.to_oklch(got)[0] - lightness) < 0.02


@pytest.mark.parametrize(
    ("colour", "on_fill", "link_light", "link_dark"),
    [
        ("#000000", "#ffffff", "#000000", None),
        ("#ffffff", "#000000", None, "#ffffff"),
        ("#ffff00", "#000000", None, "#ffff00"),
        ("#808080", "#000000", None, None),
        ("#0000ff", "#ffffff", "#0000ff", None),
        ("#2f6f4f", "#ffffff", "#2f6f4f", None),
    ],
)
def test_known_colours(colour: str, on_fill: str, link_light: str | None, link_dark: str | None) -> None:
    values = brand.derive(colour).values
    assert values["on-brand-light"] == on_fill
    assert (values["link-light"] == colour) == (link_light is not None)
    assert (values["link-dark"] == colour) == (link_dark is not None)


def test_yellow_gets_black_words_a_darker_edge_and_olive_links() -> None:
    derived = brand.derive("#FFFF00")
    red, green, blue = (int(derived.values["link-light"][at : at + 2], 16) / 255 for at in (1, 3, 5))
    hue, lightness, _ = colorsys.rgb_to_hls(red, green, blue)
    assert 55 <= hue * 360 <= 70
    assert lightness < 0.3
    assert derived.values["brand-edge-light"] != "transparent"
    assert derived.values["brand-edge-dark"] == "transparent"
    assert derived.notes == (
        "White words could not be read on your colour; buttons have black ones.",
        "Your colour is too light for text on white; links use a darker shade of it.",
        "Your colour hardly stands out from white; buttons get a thin darker edge.",
    )


def test_black_gets_a_light_edge_and_light_links_on_dark_pages_only() -> None:
    derived = brand.derive("#000")
    assert derived.values["brand-edge-light"] == "transparent"
    assert derived.values["brand-edge-dark"] != "transparent"
    assert derived.notes == (
        "Your colour is too dark for text on dark pages; links use a lighter shade of it there.",
        "Your colour hardly stands out from dark pages; buttons get a thin lighter edge there.",
    )


def test_grey_stays_grey() -> None:
    for value in brand.derive("#808080").values.values():
        assert value == "transparent" or value[1:3] == value[3:5] == value[5:7]


def test_contrast_is_that_of_wcag() -> None:
    assert brand.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert brand.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert brand.contrast("#123456", "#123456") == pytest.approx(1)


@pytest.mark.parametrize("typed", ["#aabbcc", "AABBCC", "abc", "#ABC", "  # a b c ", "#aa bb cc\n"])
def test_a_colour_is_taken_in_all_its_spellings(typed: str) -> None:
    assert brand.parse(typed) == "#aabbcc"


@pytest.mark.parametrize("typed", ["", "#", "#abcd", "#aabbc", "red", "#aabbccdd", "##abc", "#gggggg", "١٢٣"])
def test_anything_else_is_refused_with_a_sentence(typed: str) -> None:
    with pytest.raises(ValueError, match="Enter a colour as # and six characters, such as #2f6f4f"):
        brand.parse(typed)
    with pytest.raises(ValueError, match="Enter a colour"):
        brand.derive(typed)


def test_the_grounds_are_those_of_the_stylesheet() -> None:
    css = (Path(assets.__file__).parent / "static" / "portal.css").read_text()
    for name in brand.GROUNDS["light"]:
        found = re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", css)
        assert found is not None
        light, dark = (brand.parse(value) for value in found.groups())
        assert (light, dark) == (brand.GROUNDS["light"][name], brand.GROUNDS["dark"][name])


def test_the_hover_of_the_stylesheet_is_the_one_counted_here() -> None:
    css = (Path(assets.__file__).parent / "static" / "portal.css").read_text()
    assert "color-mix(in oklab, var(--brand) 90%, var(--brand-away, #000))" in css
