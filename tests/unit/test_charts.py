"""Charts: right in their proportions, readable by readers, and nothing in them that the policy of our pages blocks."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal import charts
from portal.charts import Bar
from portal.money import money_text

WEEK = [Bar("16 Nov", 3), Bar("17 Nov", 0), Bar("18 Nov", 12), Bar("19 Nov", 6), Bar("20 Nov", 1)]


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def rects(svg: str) -> list[dict[str, float]]:
    return [
        {name: float(value.rstrip("%")) for name, value in rect.attrib.items()}
        for rect in parsed(svg).iter("rect")
    ]


def drawn(found: list[Bar] = WEEK, **more: object) -> str:
    return charts.bars("sign-ins", "Sign-ins", found, "Nobody signed in.", **more)  # type: ignore[arg-type]


def test_heights_stand_to_each_other_as_the_values_do() -> None:
    by_value = {
        float(bar.value): rect["height"]
        for bar, rect in zip([WEEK[0], *WEEK[2:]], rects(drawn()), strict=True)
    }
    assert by_value[12] == pytest.approx(2 * by_value[6], abs=0.05)
    assert by_value[12] == pytest.approx(4 * by_value[3], abs=0.05)


def test_bars_stand_on_the_ground_and_inside() -> None:
    for rect in rects(drawn()):
        assert rect["y"] >= 0
        assert rect["y"] + rect["height"] == pytest.approx(144, abs=0.02)
        assert rect["x"] >= 0
        assert rect["x"] + rect["width"] <= 100.01


def test_it_has_a_name_and_says_what_it_shows() -> None:
    svg = parsed(drawn())
    title, said = svg.find("title"), svg.find("desc")
    assert svg.attrib["role"] == "img"
    assert title is not None
    assert said is not None
    assert svg.attrib["aria-labelledby"].split() == [title.attrib["id"], said.attrib["id"]]
    assert title.text == "Sign-ins"
    assert said.text == "From 16 Nov to 20 Nov: 22 in all, at most 12 (18 Nov)."
    assert [bar.text for bar in svg.findall("g/rect/title")] == [
        "16 Nov: 3",
        "18 Nov: 12",
        "19 Nov: 6",
        "20 Nov: 1",
    ]


def test_where_there_is_nothing_a_sentence_stands_in_its_place() -> None:
    for nothing in ([], [Bar("16 Nov", 0), Bar("17 Nov", 0)]):
        assert drawn(nothing) == '<p class="hint">Nobody signed in.</p>'


def test_nothing_of_it_is_blocked_or_can_run() -> None:
    evil = '"><script>alert(1)</script>'
    svg = charts.bars("a", evil, [Bar(evil, 3)], evil, text=lambda value: f"{evil}{value}")
    assert "style=" not in svg
    assert "<script" not in svg
    assert {element.tag for element in parsed(svg).iter()} == {
        "svg",
        "g",
        "title",
        "desc",
        "line",
        "text",
        "rect",
    }
    assert "<script" not in charts.bars("a", "b", [], evil)


def test_three_of_many_bars_bear_their_label_and_all_of_a_few() -> None:
    def labels(number: int) -> list[tuple[str | None, str]]:
        svg = parsed(drawn([Bar(f"no {place}", 1) for place in range(number)]))
        return [
            (text.text, text.attrib["text-anchor"])
            for text in svg.iter("text")
            if "label" in text.attrib["class"]
        ]

    assert labels(30) == [("no 0", "start"), ("no 15", "middle"), ("no 29", "end")]
    assert labels(3) == [("no 0", "middle"), ("no 1", "middle"), ("no 2", "middle")]


def test_from_right_to_left_time_runs_the_other_way() -> None:
    there, back = rects(drawn()), rects(drawn(rtl=True))
    for one, other in zip(there, back, strict=True):
        assert one["height"] == other["height"]
        assert one["x"] + one["width"] + other["x"] == pytest.approx(100, abs=0.05)
    figures = [text for text in parsed(drawn(rtl=True)).iter("text") if text.attrib.get("class") == "figure"]
    assert {(text.attrib["x"], text.attrib["text-anchor"]) for text in figures} == {("100%", "start")}


def test_charts_beside_each_other_share_a_scale() -> None:
    low = drawn([Bar("Nov", 2)], highest=8, small=True)
    high = drawn([Bar("Nov", 8)], highest=8, small=True)
    assert rects(high)[0]["height"] == pytest.approx(4 * rects(low)[0]["height"], abs=0.05)


def test_the_smallest_can_still_be_seen() -> None:
    assert min(rect["height"] for rect in rects(drawn([Bar("a", 1), Bar("b", 100_000)]))) == 2


def test_amounts_are_scaled_in_whole_units_of_their_currency() -> None:
    svg = parsed(
        drawn(
            [Bar("1 Dec", 123_456), Bar("2 Dec", 5000)], unit=100, text=lambda minor: money_text(minor, "USD")
        )
    )
    figures = [text.text for text in svg.iter("text") if text.attrib.get("class") == "figure"]
    assert figures == ["$0.00", "$500.00", "$1,000.00", "$1,500.00"]
    assert "gutter-2" in svg.attrib["class"]


@pytest.mark.parametrize(
    ("highest", "unit", "most", "expected"),
    [
        (1, 1, 4, [0, 1]),
        (3, 1, 4, [0, 1, 2, 3]),
        (5, 1, 4, [0, 2, 4, 6]),
        (12, 1, 4, [0, 5, 10, 15]),
        (100, 1, 4, [0, 50, 100]),
        (7, 1, 1, [0, 10]),
        (50, 100, 4, [0, 20, 40, 60]),
        (25_000, 100, 4, [0, 10_000, 20_000, 30_000]),
    ],
)
def test_the_scale_is_round(highest: int, unit: int, most: int, expected: list[int]) -> None:
    assert charts.ticks(highest, unit, most) == expected


@given(st.integers(1, 10**15), st.sampled_from([1, 10, 100, 1000]), st.integers(1, 6))
def test_the_scale_reaches_the_highest_in_whole_even_steps(highest: int, unit: int, most: int) -> None:
    found = charts.ticks(highest, unit, most)
    step = found[1] - found[0]
    assert found == list(range(0, found[-1] + 1, step))
    assert len(found) - 1 <= most
    assert found[-1] - step < highest <= found[-1]
    assert step % (unit if highest >= unit else 1) == 0


@pytest.mark.parametrize(
    ("value", "whole", "width"), [(1, 4, "25%"), (0, 4, "0%"), (9, 4, "100%"), (1, 0, "0%")]
)
def test_a_share_is_as_wide_as_its_part(value: int, whole: int, width: str) -> None:
    svg = charts.share(value, whole)
    assert re.findall(r'<rect width="([^"]+)"', svg) == [width]
    assert 'aria-hidden="true"' in svg
