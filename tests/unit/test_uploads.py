"""Logos: what is drawn of good pictures, what is said of others, and that hostile ones gain nothing."""

import asyncio
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import uvloop
from PIL import Image, ImageCms, ImageDraw

from bench import uploads as corpus
from bench.uploads import chunk, ihdr, png_of, saved, segment, stray
from portal import _png, _redraw, uploads
from portal.uploads import BadPicture, Logo, Picture, redraw_logo

ROOT = Path(__file__).parents[2]
SECRET = "canary-9b1e77"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a busy machine fails nothing; processor time is limited all the same."""
    for name in ("WALL_S", "START_S", "WAIT_S"):
        monkeypatch.setattr(uploads, name, 60.0)


def drawn(content: bytes) -> Logo:
    logo = asyncio.run(redraw_logo(content))
    for picture in (logo.once, logo.twice):
        assert stray(picture.content) == []
        assert picture.sha256 == sha256(picture.content).hexdigest()
        assert opened(picture).size == (picture.width, picture.height)
    assert (logo.twice.width, logo.twice.height) == (2 * logo.once.width, 2 * logo.once.height)
    assert len(logo.once.content) <= 8 << 10
    assert len(logo.twice.content) <= 24 << 10
    return logo


def refused(content: bytes) -> BadPicture:
    with pytest.raises(BadPicture) as raised:
        asyncio.run(redraw_logo(content))
    assert str(raised.value) == raised.value.sentence
    assert raised.value.sentence.endswith(".")
    return raised.value


def opened(picture: Picture) -> Image.Image:
    return Image.open(BytesIO(picture.content)).convert("RGBA")


def at(picture: Picture, across: float, down: float) -> tuple[int, ...]:
    """The colour at that part of the way from the left and from the top."""
    image = opened(picture)
    found = image.getpixel((int(across * image.width), int(down * image.height)))
    assert isinstance(found, tuple)
    return found


def near(one: tuple[int, ...], other: tuple[int, ...], by: int = 6) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


NAVY, WHITE, CLEAR = (0, 0, 128, 255), (255, 255, 255, 255), (0, 0, 0, 0)


# What is drawn


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_each_kind_is_drawn_32_pixels_high(form: str, options: dict[str, Any]) -> None:
    logo = drawn(saved(corpus.mark(400, 160), form, **options))
    assert (logo.once.width, logo.once.height) == (80, 32)
    for picture in (logo.once, logo.twice):
        assert near(at(picture, 0.5, 0.5), NAVY)
        assert near(at(picture, 0.1, 0.1), WHITE)
    assert logo.notes == ("Drawn 32 pixels high.",)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1000, 50), (160, 8)), ((5000, 4), (160, 1)), ((50, 1000), (2, 32)), ((2000, 2000), (32, 32))],
)
def test_wide_ones_are_lower_and_tall_ones_narrower(size: tuple[int, int], shown: tuple[int, int]) -> None:
    logo = drawn(saved(Image.new("RGB", size, "navy")))
    assert (logo.once.width, logo.once.height) == shown
    assert near(at(logo.once, 0.5, 0.5), NAVY)
    assert logo.notes == (f"Drawn {shown[1]} pixels high.",)


@pytest.mark.parametrize("size", [(20, 10), (1, 1), (160, 32), (31, 32), (90, 5)])
def test_small_ones_stand_as_they_are_in_the_middle(size: tuple[int, int]) -> None:
    source = Image.effect_noise(size, 80).convert("RGB")
    logo = drawn(saved(source))
    assert (logo.once.width, logo.once.height) == (size[0], 32)
    top = (32 - size[1]) // 2
    image = opened(logo.once)
    assert image.crop((0, top, size[0], top + size[1])).convert("RGB").tobytes() == source.tobytes()
    around = [image.crop((0, 0, size[0], top)), image.crop((0, top + size[1], size[0], 32))]
    assert all(part.getcolors() in ([(part.width * part.height, CLEAR)], []) for part in around)
    assert logo.notes == ("It is small, so it was not made larger.",)


def test_transparency_stays_and_what_it_hides_does_not() -> None:
    source = corpus.mark(200, 80, "RGBA")
    source.putpixel((0, 0), (10, 20, 30, 255))
    source.putpixel((199, 79), (10, 20, 30, 255))
    source.paste((80, 69, 75, 0), (1, 1, 199, 10))  # a colour that nobody sees
    logo = drawn(saved(source))
    assert near(at(logo.once, 0.5, 0.5), NAVY)
    assert at(logo.once, 0.5, 0.1) == CLEAR
    assert {colour[:3] for colour in colours(logo.twice) if colour[3] == 0} == {(0, 0, 0)}


def colours(picture: Picture) -> set[tuple[int, ...]]:
    data = opened(picture).tobytes()
    return {tuple(data[start : start + 4]) for start in range(0, len(data), 4)}


def test_an_empty_edge_is_cut_off() -> None:
    source = Image.new("RGBA", (900, 900), CLEAR)
    source.paste(NAVY, (100, 400, 500, 500))
    logo = drawn(saved(source))
    assert (logo.once.width, logo.once.height) == (128, 32)
    assert colours(logo.once) == {NAVY}
    assert logo.notes == ("The empty edge was cut off.", "Drawn 32 pixels high.")


CORNERS = {"tl": (200, 0, 0, 255), "tr": (0, 150, 0, 255), "bl": (0, 0, 200, 255), "br": (220, 200, 0, 255)}
INVERSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize(
    ("orientation", "form"), [*((number, "JPEG") for number in range(1, 9)), (6, "PNG"), (6, "WEBP")]
)
def test_photographs_are_turned_upright(orientation: int, form: str) -> None:
    upright = Image.new("RGB", (300, 120))
    for name, colour in CORNERS.items():
        left, top = 150 * (name[1] == "r"), 60 * (name[0] == "b")
        upright.paste(colour[:3], (left, top, left + 150, top + 60))
    lying = upright.transpose(INVERSE[orientation]) if orientation > 1 else upright
    data = Image.Exif()
    data[0x0112] = orientation
    logo = drawn(saved(lying, form, exif=data, quality=95))
    assert (logo.once.width, logo.once.height) == (80, 32)
    for name, colour in CORNERS.items():
        found = at(logo.once, 0.75 if name[1] == "r" else 0.25, 0.75 if name[0] == "b" else 0.25)
        assert near(found, colour, 14), (name, found)
    assert ("Turned upright." in logo.notes) == (orientation > 1)


def of_rows(kind: int, depth: int, pixel: bytes, *between: bytes) -> bytes:
    """A PNG of one colour, 80 x 80, given as it stands in the file."""
    row = b"\0" + (pixel * 80)[: 80 * len(pixel) if depth >= 8 else 80 * depth // 8]
    return png_of(ihdr(80, 80, depth, kind), *between, chunk(b"IDAT", zlib.compress(row * 80)))


PALETTE, OPACITIES = chunk(b"PLTE", b"\xff\0\0\0\xff\0\0\0\x80"), chunk(b"tRNS", b"\xff\0\x80")
CYAN, VEIL = Image.new("CMYK", (80, 80), (255, 0, 0, 0)), Image.new("RGBA", (80, 80), (100, 50, 200, 128))


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        pytest.param(of_rows(0, 1, b"\xff"), WHITE, id="one bit"),
        pytest.param(of_rows(0, 2, b"\x55"), (85, 85, 85, 255), id="two bits"),
        pytest.param(of_rows(0, 8, b"\x64"), (100, 100, 100, 255), id="grey"),
        pytest.param(of_rows(0, 16, b"\x64\0"), (100, 100, 100, 255), id="grey of 16 bits"),
        pytest.param(of_rows(2, 16, b"\x64\0\x32\0\xc8\0"), (100, 50, 200, 255), id="colour of 16 bits"),
        pytest.param(of_rows(4, 8, b"\x64\x80"), (100, 100, 100, 128), id="grey with opacity"),
        pytest.param(of_rows(4, 16, b"\x64\0\x80\0"), (100, 100, 100, 128), id="grey with opacity of 16 bits"),
        pytest.param(of_rows(6, 8, b"\x64\x32\xc8\x80"), (100, 50, 200, 128), id="colour with opacity"),
        pytest.param(of_rows(6, 16, b"\x64\0\x32\0\xc8\0\x80\0"), (100, 50, 200, 128), id="the same of 16 bits"),
        pytest.param(of_rows(3, 8, b"\2", PALETTE), NAVY, id="palette"),
        pytest.param(of_rows(3, 4, b"\x22", PALETTE), NAVY, id="palette of 4 bits"),
        pytest.param(of_rows(3, 8, b"\2", PALETTE, OPACITIES), (0, 0, 128, 128), id="palette with opacity"),
        pytest.param(saved(Image.new("L", (80, 80), 100), "JPEG"), (100, 100, 100, 255), id="grey JPEG"),
        pytest.param(saved(CYAN, "JPEG"), (0, 255, 255, 255), id="printing JPEG"),
        pytest.param(saved(VEIL, "WEBP", lossless=True), (100, 50, 200, 128), id="WebP with opacity"),
    ],
)  # fmt: skip
def test_every_way_to_write_a_colour_is_understood(content: bytes, colour: tuple[int, ...]) -> None:
    logo = drawn(content)
    assert near(at(logo.once, 0.5, 0.5), colour, 2)
    assert near(at(logo.twice, 0.5, 0.5), colour, 2)


@pytest.mark.parametrize(
    ("kind", "depth", "ink", "ground", "clear"),
    [
        pytest.param(0, 8, b"\x64", b"\xff", b"\0\xff", id="grey"),
        pytest.param(0, 16, b"\x64\0", b"\x64\1", b"\x64\1", id="grey of 16 bits"),
        pytest.param(2, 8, b"\x64\x64\x64", b"\xff\0\xff", b"\0\xff\0\0\0\xff", id="colour"),
    ],
)
def test_one_colour_may_be_the_transparent_one(
    kind: int, depth: int, ink: bytes, ground: bytes, clear: bytes
) -> None:
    lines = b"\0" + ink * 10 + ground * 60 + ink * 10
    pixels = chunk(b"IDAT", zlib.compress(lines * 80))
    logo = drawn(png_of(ihdr(80, 80, depth, kind), chunk(b"tRNS", clear), pixels))
    assert at(logo.twice, 0.5, 0.5) == CLEAR
    assert near(at(logo.twice, 0.03, 0.5), (100, 100, 100, 255), 2)


def test_colours_of_a_profile_become_those_of_screens() -> None:
    """A profile in which what is written as red is green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"swap").replace(b"gXYZ", b"rXYZ").replace(b"swap", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "ours".encode("utf-16-be"))
    for mode, red in (("RGB", (255, 0, 0)), ("RGBA", (255, 0, 0, 128))):
        source = Image.new(mode, (80, 80), red)
        assert near(at(drawn(saved(source, icc_profile=swapped)).once, 0.5, 0.5)[:3], (0, 255, 0), 2)
        for no_help in (profile, swapped[:200], b"noise" * 99):
            logo = drawn(saved(source, icc_profile=no_help))
            assert at(logo.once, 0.5, 0.5)[:3] == (255, 0, 0)


def test_colours_for_printing_are_mentioned() -> None:
    logo = drawn(saved(Image.new("CMYK", (80, 80), (0, 200, 0, 0)), "JPEG"))
    assert "Its colours were made for printing and may look different on screens." in logo.notes


def noise(width: int, height: int, channels: int) -> Image.Image:
    bands = [Image.effect_noise((width, height), 90) for _ in range(channels)]
    return Image.merge("RGB" if channels == 3 else "RGBA", bands)


@pytest.mark.parametrize(("size", "channels"), [((320, 64), 3), ((320, 64), 4), ((640, 128), 4)])
def test_the_noisiest_picture_fits(size: tuple[int, int], channels: int) -> None:
    source = noise(*size, channels)
    logo = drawn(saved(source))
    assert logo.notes[-1] == "Reduced to 256 colours."
    assert len(colours(logo.once)) <= 256
    wanted = (
        source.convert("RGBA")
        .resize((160, 32), Image.Resampling.LANCZOS)
        .resize((1, 1), Image.Resampling.BOX)
    )
    found = opened(logo.once).resize((1, 1), Image.Resampling.BOX)
    assert near(tuple(found.tobytes()), tuple(wanted.tobytes()), 3)


def test_few_colours_are_kept_to_the_letter() -> None:
    """Up to 256, each with its opacity."""
    source = Image.new("RGBA", (160, 32))
    for across in range(160):
        for down in range(32):
            step = (across * 7 + down * 13) % 250 + 1
            source.putpixel((across, down), (step, 255 - step, 77, 255 if step % 3 else step))
    logo = drawn(saved(source))
    assert opened(logo.once).tobytes() == source.tobytes()
    assert "Reduced to 256 colours." not in logo.notes
    assert len(logo.once.content) <= len(saved(source, optimize=True))


@pytest.mark.parametrize("many", [1, 2, 3, 5, 16, 17, 256])
@pytest.mark.parametrize("opacity", [255, 200])
def test_palettes_of_every_length_are_right(many: int, opacity: int) -> None:
    canvas = Image.new("RGBA", (160, 32))
    canvas.putdata([(n % many, 3 * (n % many) % 256, 9, opacity) for n in range(160 * 32)])
    content, lossy = _redraw._png(canvas, 8 << 10)
    assert not lossy
    assert stray(content) == []
    assert _png.measured(content) == (160, 32)
    assert Image.open(BytesIO(content)).convert("RGBA").tobytes() == canvas.tobytes()


def test_the_same_picture_gives_the_same_bytes() -> None:
    content = saved(noise(400, 90, 4))
    assert drawn(content) == drawn(content)


def test_it_works_in_the_event_loop_that_serves() -> None:
    logo = uvloop.run(redraw_logo(saved(corpus.mark())))
    assert logo.once.height == 32


def word(ink: str, ground: str | tuple[int, ...], mode: str = "RGBA") -> bytes:
    source = Image.new(mode, (640, 160), ground)
    ImageDraw.Draw(source).text((40, 20), "Acme", fill=ink, font_size=110)
    return saved(source)


@pytest.mark.parametrize(
    ("content", "on_light", "on_dark"),
    [
        pytest.param(word("black", CLEAR), False, True, id="black"),
        pytest.param(word("#303030", CLEAR), False, True, id="dark grey"),
        pytest.param(word("white", CLEAR), True, False, id="white"),
        pytest.param(word("#f0e68c", CLEAR), True, False, id="pale yellow"),
        pytest.param(word("#0066cc", CLEAR), False, False, id="blue"),
        pytest.param(word("black", "white", "RGB"), False, False, id="black on white"),
        pytest.param(word("white", "black", "RGB"), False, False, id="white on black"),
        pytest.param(word("#fafafa", "white", "RGB"), True, False, id="white on white"),
        pytest.param(word("#202020", "black", "RGB"), False, True, id="black on black"),
    ],
)
def test_what_would_hardly_be_seen_is_known(content: bytes, on_light: bool, on_dark: bool) -> None:
    logo = drawn(content)
    assert (logo.vanishes_on_light, logo.vanishes_on_dark) == (on_light, on_dark)


# What is refused, and in which words


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        pytest.param(b"", "empty", "No file was chosen", id="nothing"),
        pytest.param(saved(corpus.mark()) + bytes(1 << 20), "too_large", "larger than 1 MB", id="large"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "kind", "an SVG", id="SVG"),
        pytest.param(b"<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "kind", "an SVG", id="SVG with a preamble"),
        pytest.param(b"\xef\xbb\xbf\n <SVG>", "kind", "an SVG", id="SVG after space"),
        pytest.param("\ufeff<svg/>".encode("utf-16-le"), "kind", "an SVG", id="wide SVG"),
        pytest.param("\ufeff<svg/>".encode("utf-16-be"), "kind", "an SVG", id="wide SVG the other way"),
        pytest.param(b"<!doctype html><svg>", "kind", "a web page", id="HTML"),
        pytest.param(b"GIF89a" + bytes(20), "kind", "GIF files", id="GIF"),
        pytest.param(b"GIF87a" + bytes(20), "kind", "GIF files", id="old GIF"),
        pytest.param(b"%PDF-1.7\n", "kind", "PDF files", id="PDF"),
        pytest.param(b"\n\n%PDF-1.4", "kind", "PDF files", id="PDF after space"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0", "kind", "PostScript files", id="EPS"),
        pytest.param(b"\xc5\xd0\xd3\xc6" + bytes(30), "kind", "PostScript files", id="EPS for DOS"),
        pytest.param(b"\0\0\0\x18ftypheic" + bytes(30), "kind", "HEIC files", id="HEIC"),
        pytest.param(b"\0\0\0\x18ftypmif1" + bytes(30), "kind", "HEIC files", id="HEIF"),
        pytest.param(b"\0\0\0\x1cftypavif" + bytes(30), "kind", "AVIF files", id="AVIF"),
        pytest.param(b"\0\0\0\x1cftypmp42" + bytes(30), "kind", "no picture that we can read", id="film"),
        pytest.param(b"II*\0" + bytes(30), "kind", "TIFF files", id="TIFF"),
        pytest.param(b"MM\0*" + bytes(30), "kind", "TIFF files", id="TIFF the other way"),
        pytest.param(b"BM" + bytes(60), "kind", "BMP files", id="BMP"),
        pytest.param(b"\0\0\1\0\1\0" + bytes(60), "kind", "ICO files", id="ICO"),
        pytest.param(b"8BPS\0\1", "kind", "Photoshop files", id="Photoshop"),
        pytest.param(b"PK\3\4" + bytes(60), "kind", "ZIP files", id="ZIP"),
        pytest.param(b"\xff\x0a" + bytes(9), "kind", "JPEG XL files", id="JPEG XL"),
        pytest.param(b"just words", "kind", "no picture that we can read", id="words"),
        pytest.param(b"<?php echo 1;", "kind", "no picture that we can read", id="PHP"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", "kind", "no picture that we can read", id="sound"),
        pytest.param(b"x" + saved(corpus.mark()), "kind", "no picture that we can read", id="PNG after something"),
        pytest.param(saved(Image.new("1", (2001, 2000))), "pixels", "more than 4 million pixels", id="pixels"),
        pytest.param(saved(Image.new("RGB", (2001, 2000)), "JPEG"), "pixels", "more than 4", id="JPEG pixels"),
        pytest.param(saved(Image.new("RGB", (2001, 2000)), "WEBP"), "pixels", "more than 4", id="WebP pixels"),
        pytest.param(saved(Image.new("RGBA", (90, 90), CLEAR)), "empty", "transparent all over", id="transparent"),
        pytest.param(saved(corpus.mark())[:-40], "broken", "seems damaged", id="half a PNG"),
        pytest.param(saved(noise(90, 90, 3), "JPEG")[:-900], "broken", "seems damaged", id="half a JPEG"),
        pytest.param(saved(noise(90, 90, 3), "WEBP")[:-900], "broken", "seems damaged", id="half a WebP"),
        pytest.param(corpus._many_scans(2000), "slow", "takes too long", id="two thousand scans"),
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong_and_what_to_do(content: bytes, reason: str, words: str) -> None:
    bad = refused(content)
    assert bad.reason == reason
    assert words in bad.sentence
    assert "hoose" in bad.sentence


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_what_moves_is_refused(form: str) -> None:
    stills = [Image.new("RGB", (60, 60), colour) for colour in ("red", "green")]
    bad = refused(saved(stills[0], form, save_all=True, append_images=stills[1:]))
    assert (bad.reason, bad.sentence[:19]) == ("animated", "This picture moves.")


def test_specks_that_are_lost_leave_nothing_to_see() -> None:
    source = Image.new("RGBA", (1900, 1900), CLEAR)
    for corner in ((0, 0), (1899, 1899)):
        source.putpixel(corner, (0, 0, 0, 1))
    assert refused(saved(source)).reason == "empty"


def test_a_phones_second_picture_is_not_looked_at() -> None:
    first = saved(corpus.mark(), "MPO", save_all=True, append_images=[Image.new("RGB", (60, 60))])
    assert drawn(first).once.width == 80


# The corpus: bombs, damaged files, files that are two things at once


@pytest.fixture(scope="module")
def outcomes() -> Iterator[list[corpus.Outcome]]:
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(uploads, "WALL_S", 60.0)
        patient.setattr(uploads, "START_S", 60.0)
        yield corpus.run([*corpus.bombs(), *corpus.polyglots()])


def test_hostile_files_gain_nothing(outcomes: list[corpus.Outcome]) -> None:
    """Nothing of theirs is kept, no decoder reaches outside, none needs more than 2 s or 256 MB."""
    assert corpus.broken_promises(outcomes) == []
    groups = [one.sample.group for one in outcomes]
    assert groups.count("bombs") >= 60
    assert groups.count("polyglots") >= 80


def test_hostile_files_are_many_and_all_answered(outcomes: list[corpus.Outcome]) -> None:
    names = [one.sample.name for one in outcomes]
    assert len(set(names)) == len(names)
    verdicts = {one.verdict for one in outcomes}
    assert {"drawn", "kind", "broken", "pixels", "animated", "slow"} <= verdicts
    assert all(one.sentence for one in outcomes if one.verdict != "drawn")


def test_payloads_are_in_what_was_uploaded(outcomes: list[corpus.Outcome]) -> None:
    """Else it would prove nothing that they are not in what is kept."""
    samples = [one.sample for one in outcomes if one.sample.group == "polyglots"]
    elsewise = ("packed", "png-profile", "utf-16", "-palette")
    plain = [sample for sample in samples if not any(how in sample.name for how in elsewise)]
    assert len(plain) > 80
    assert [sample.name for sample in plain if corpus.MARK not in sample.content] == []


def test_the_benchmark_counts_them(outcomes: list[corpus.Outcome]) -> None:
    found = corpus.summary(outcomes)
    both = found["all"]
    assert both["files"] == len(outcomes) == both["drawn"] + sum(both["refused"].values())
    assert (both["unsafe"], found["broken promises"]) == (0, [])
    assert 0 < both["decoded"] < both["files"]
    for least, middle, most in (both["cpu_ms"], both["wall_ms"], both["peak_mb"]):
        assert 0 < least <= middle <= most
    table = corpus._table(found)
    assert "broken promises: none" in table
    assert all(f"{reason}" in table for reason in both["refused"])


def test_pillows_own_test_pictures_gain_nothing() -> None:
    if corpus.pictures() is None:
        pytest.skip("Pillow's test pictures are not here; python -m bench.uploads --fetch gets them")
    outcomes = corpus.run(corpus.pillows())
    assert corpus.broken_promises(outcomes) == []
    assert len(outcomes) >= 1000
    assert sum(one.verdict == "drawn" for one in outcomes) >= 400


def test_the_corpus_notices_what_is_kept() -> None:
    plain = saved(corpus.mark())
    assert stray(plain) == []
    assert stray(plain + b"x") == ["bytes after the end"]
    assert stray(plain[:-1] + b"x") == ["checksum"]
    assert stray(plain[:33] + chunk(b"tEXt", b"a\0" + corpus.MARK) + plain[33:])[0].startswith(
        "chunks IHDR tEXt"
    )
    assert "the payload" in stray(plain[:33] + chunk(b"tEXt", b"a\0" + corpus.MARK) + plain[33:])
    assert stray(b"GIF89a") == ["signature"]
    sample, cost = corpus.Sample("a", "b", b"", never=True), uploads.Cost(3.0, 3.0, 300 << 20, 86)
    bad = corpus.Outcome(sample, "drawn", "", cost, drawn(plain), ("x",))
    assert corpus.broken_promises([bad]) == [
        "a/b: x",
        "a/b: drawn",
        "a/b: tried to reach outside",
        "a/b: 3.00 s",
        "a/b: 300 MB",
    ]


# The process that decodes


def child(program: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A program in a process like the decoder's, which can also find what it would not have loaded."""
    start = f"import sys; sys.path += [{str(ROOT)!r}, *{sys.path!r}]\nimport os\nfrom portal import _redraw\n{program}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder or "/",
    )


@pytest.mark.parametrize(
    "attempt",
    [
        "open('new', 'w')",
        "open('new', 'ab')",
        "os.open('new', os.O_CREAT | os.O_RDWR)",
        "import subprocess; subprocess.Popen(['true'])",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.spawnv(os.P_WAIT, '/bin/true', ['true'])",
        "os.fork()",
        "os.forkpty()",
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo(b'localhost', 80)",
        "os.remove('there')",
        "os.rename('there', 'new')",
        "os.mkdir('new')",
        "os.chmod('there', 0o777)",
        "os.kill(os.getppid(), 0)",
        "import ctypes; ctypes.CDLL(None)",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
    ],
)
def test_a_sealed_process_ends_when_it_reaches_outside(attempt: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    module, _, rest = attempt.rpartition("; ")
    done = child(f"{module or 'pass'}\n_redraw._seal()\n{rest}\nprint('done')", tmp_path)
    assert (done.returncode, done.stdout) == (_redraw.SEALED, ""), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "x"


@pytest.mark.parametrize("attempt", ["open('/etc/passwd')", "os.listdir('/')", "os.open('/etc/passwd', 0)"])
def test_a_sealed_process_reads_no_file(attempt: str) -> None:
    done = child(f"_redraw._seal()\ntry:\n    {attempt}\nexcept PermissionError:\n    print('refused')")
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')",
        "open('new', 'w')",
        "os.fork()",
        "import socket; socket.socket()",
        "import subprocess; subprocess.Popen(['true'])",
        "os.pipe()",
        "os.dup(1)",
    ],
)
def test_limits_alone_would_hold_too(attempt: str, tmp_path: Path) -> None:
    """As for code that is not Python: the hook is not there, and yet nothing can be opened or started."""
    tmp_path.chmod(0o777)
    module, _, rest = attempt.rpartition("; ")
    program = f"{module or 'pass'}\n_redraw._limit()\ntry:\n    {rest}\nexcept OSError:\n    os.write(1, b'refused')"
    done = child(program, tmp_path)
    assert done.stdout == "refused", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_limits_are_those_that_are_promised() -> None:
    done = child(
        "import resource\n_redraw._limit()\n"
        "names = ('AS', 'CPU', 'NPROC', 'NOFILE', 'FSIZE', 'CORE')\n"
        "print(*[resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[0] for name in names], os.geteuid())"
    )
    *limits, user = (int(number) for number in done.stdout.split())
    assert limits == [256 << 20, 2, 0, 0, 0, 0]
    assert user == (os.geteuid() or _redraw.NOBODY)


def test_memory_has_an_end() -> None:
    done = child(
        "_redraw._limit()\ntry:\n    bytearray(256 << 20)\nexcept MemoryError:\n    os.write(1, b'no')"
    )
    assert done.stdout == "no", done.stderr


def program(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """What runs in place of the decoder: says that it is ready, reads, and then this."""
    start = (
        "import sys, os, time\nsys.path += sys.argv[1:]\nos.write(1, b'R')\ngiven = sys.stdin.buffer.read()\n"
    )
    monkeypatch.setattr(uploads, "_START", start + body)


def test_what_computes_for_ever_is_ended_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "from portal import _redraw\n_redraw._limit()\nwhile True: pass")
    found, cost = uploads.draw(saved(corpus.mark()))
    assert isinstance(found, BadPicture)
    assert found.reason == "slow"
    assert 1.5 < cost.cpu_s < 3.5


@pytest.mark.parametrize("body", ["time.sleep(60)", "os.close(1); time.sleep(60)"])
def test_what_only_waits_is_ended_by_us(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program(monkeypatch, body)
    monkeypatch.setattr(uploads, "WALL_S", 0.3)
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*args: Any, **how: Any) -> "subprocess.Popen[bytes]":
        started.append(start(*args, **how))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    began = time.monotonic()
    bad = refused(saved(corpus.mark()))
    assert (bad.reason, "takes too long" in bad.sentence) == ("slow", True)
    assert time.monotonic() - began < 30
    (process,) = started
    assert not Path(f"/proc/{process.pid}").exists()


def test_what_does_not_even_start_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(uploads, "START_S", 0.3)
    bad = refused(saved(corpus.mark()))
    assert (bad.reason, "try again" in bad.sentence) == ("slow", True)
    monkeypatch.setattr(uploads, "_command", lambda: ["/nowhere/python"])
    bad = refused(saved(corpus.mark()))
    assert (bad.reason, "try again" in bad.sentence) == ("slow", True)


HEAD = "once={once} twice={twice} did=drawn on_light=0 on_dark=0 peak=1"
ONCE, TWICE = saved(Image.new("RGB", (80, 32), "navy")), saved(Image.new("RGB", (160, 64), "navy"))


def answer(head: str, once: bytes, twice: bytes) -> str:
    head = head.format(once=len(once), twice=len(twice))
    return f"os.write(1, {head.encode() + bytes([10]) + once + twice!r})"


def test_a_right_answer_of_a_stranger_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, answer(HEAD, ONCE, TWICE))
    logo = drawn(saved(corpus.mark()))
    assert (logo.once.content, logo.twice.content) == (ONCE, TWICE)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("os._exit(3)", id="ends"),
        pytest.param("os.abort()", id="crashes"),
        pytest.param("pass", id="says nothing"),
        pytest.param("os.write(1, b'\\xff\\xfe\\n')", id="says nonsense"),
        pytest.param("sys.stdout.write('x' * 900_000)", id="does not stop"),
        pytest.param(answer(HEAD.replace(" on_dark=0", ""), ONCE, TWICE), id="leaves something out"),
        pytest.param(answer(HEAD.replace("{once}", "x"), ONCE, TWICE), id="no number"),
        pytest.param(answer(HEAD.replace("{twice}", "5"), ONCE, TWICE), id="wrong length"),
        pytest.param(answer(HEAD.replace("drawn", "<b>"), ONCE, TWICE), id="words of its own"),
        pytest.param(answer("refused=nonsense peak=1", b"", b""), id="reason of its own"),
        pytest.param(answer(HEAD, ONCE, ONCE), id="not double"),
        pytest.param(answer(HEAD, TWICE, TWICE), id="too wide"),
        pytest.param(answer(HEAD, ONCE + b"<script>", TWICE), id="a tail"),
        pytest.param(answer(HEAD, ONCE[:33] + chunk(b"tEXt", b"a\0b") + ONCE[33:], TWICE), id="a text"),
        pytest.param(answer(HEAD, saved(noise(80, 32, 4).resize((160, 32))), TWICE), id="too heavy"),
        pytest.param(answer(HEAD, b"GIF89a", TWICE), id="no PNG"),
    ],
)  # fmt: skip
def test_what_comes_back_is_not_believed(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program(monkeypatch, body)
    assert refused(saved(corpus.mark())).reason == "broken"


def test_a_decoder_that_ends_while_it_is_given_the_picture_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "_START", "import os; os.write(1, b'R'); os._exit(0)")
    assert refused(saved(corpus.mark()) + bytes(900_000)).reason == "broken"


def test_nothing_of_our_environment_reaches_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_MASTER_KEYS", SECRET)
    monkeypatch.setenv("PYTHONPATH", f"/nowhere/{SECRET}")
    seen = (
        "(dict(os.environ), sys.argv, sys.path, [name for name in sys.modules if name.startswith('portal')])"
    )
    program(monkeypatch, f"from portal import _redraw\nos.write(1, repr({seen}).encode())")
    said, late, cost = uploads._ask(b"\x89PNG")
    assert (late, cost.status) == ("", 0)
    environment, *_, modules = eval(said)
    assert SECRET not in said.decode()
    assert set(environment) <= {"LANG", "LC_CTYPE"}
    assert sorted(modules) == ["portal", "portal._png", "portal._redraw"]


def test_we_never_load_a_decoder_ourselves() -> None:
    program = "import sys; from portal import uploads; print([name for name in sys.modules if name.startswith('PIL')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.stdout == "[]\n", done.stderr


def test_two_are_decoded_at_once_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most = 0, 0

    def slowly(content: bytes) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.05)
        at_work -= 1
        return BadPicture("broken", "No."), uploads.Cost(0, 0, 0, 0)

    async def crowd() -> list[Any]:
        pictures = [redraw_logo(saved(corpus.mark())) for _ in range(9)]
        return await asyncio.gather(*pictures, return_exceptions=True)

    monkeypatch.setattr(uploads, "draw", slowly)
    answers = asyncio.run(crowd())
    assert [one.reason for one in answers] == ["broken"] * 9
    assert most == 2
    monkeypatch.setattr(uploads, "WAIT_S", 0.01)
    answers = asyncio.run(crowd())
    assert sorted(one.reason for one in answers) == ["broken"] * 2 + ["slow"] * 7
    assert {one.sentence for one in answers if one.reason == "slow"} == {uploads._busy()}


def test_the_event_loop_goes_on_meanwhile() -> None:
    async def beats_while() -> int:
        beats = 0
        drawing = asyncio.create_task(redraw_logo(saved(corpus.mark())))
        while not drawing.done():
            await asyncio.sleep(0.005)
            beats += 1
        await drawing
        return beats

    assert asyncio.run(beats_while()) > 3


# The check of what comes back

PIXELS = zlib.compress((b"\0" + bytes(240)) * 32)
BODY = chunk(b"IDAT", PIXELS)
LISTED = chunk(b"PLTE", bytes(6))
OPACITIES_TOO_MANY = chunk(b"tRNS", bytes(3))
OF_FILTER_5 = chunk(b"IDAT", zlib.compress((b"\5" + bytes(240)) * 32))
OF_WORDS = chunk(b"IDAT", zlib.compress((b"\0" + b"<script>" * 30) * 32, 0))
NUMBERS = chunk(b"IDAT", zlib.compress((b"\0" + bytes(80)) * 32))


@pytest.mark.parametrize(
    "content",
    [
        png_of(ihdr(80, 32), BODY),
        png_of(ihdr(80, 32), chunk(b"IDAT", PIXELS[:9]), chunk(b"IDAT", PIXELS[9:])),
        png_of(ihdr(80, 32, 8, 3), LISTED, NUMBERS),
        png_of(ihdr(80, 32, 8, 3), LISTED, chunk(b"tRNS", b"\0"), NUMBERS),
        png_of(ihdr(80, 32, 1, 3), LISTED, chunk(b"IDAT", zlib.compress(bytes(11 * 32)))),
    ],
)
def test_our_own_pictures_pass(content: bytes) -> None:
    assert _png.measured(content) == (80, 32)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"", "signature", id="nothing"),
        pytest.param(b"GIF89a", "signature", id="GIF"),
        pytest.param(png_of(ihdr(80, 32), BODY)[:-12], "end", id="no end"),
        pytest.param(png_of(ihdr(80, 32), BODY)[:-3], "length", id="half an end"),
        pytest.param(png_of(ihdr(80, 32), BODY) + b"x", "length", id="a byte more"),
        pytest.param(png_of(ihdr(80, 32), BODY, chunk(b"IEND")), "chunks", id="two ends"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"IDAT", PIXELS, crc=1)), "checksum", id="checksum"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"IDAT", PIXELS, length=2**32 - 1)), "length", id="too long"),
        pytest.param(png_of(BODY, ihdr(80, 32)), "chunks", id="order"),
        pytest.param(png_of(ihdr(80, 32), ihdr(80, 32), BODY), "chunks", id="two headers"),
        pytest.param(png_of(ihdr(80, 32)), "chunks", id="no pixels"),
        pytest.param(png_of(BODY), "chunks", id="no header"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"tEXt", b"a\0b"), BODY), "chunks", id="text"),
        pytest.param(png_of(ihdr(80, 32), BODY, chunk(b"tEXt", b"a\0b")), "chunks", id="text afterwards"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"gAMA", bytes(4)), BODY), "chunks", id="gamma"),
        pytest.param(png_of(ihdr(80, 32), BODY, LISTED), "chunks", id="palette afterwards"),
        pytest.param(png_of(ihdr(80, 32, 8, 3), LISTED, LISTED, NUMBERS), "chunks", id="two palettes"),
        pytest.param(png_of(chunk(b"IHDR", bytes(12)), BODY), "header", id="short header"),
        pytest.param(png_of(ihdr(0, 32), BODY), "header", id="no width"),
        pytest.param(png_of(ihdr(321, 32), BODY), "header", id="wide"),
        pytest.param(png_of(ihdr(80, 65), BODY), "header", id="high"),
        pytest.param(png_of(ihdr(80, 32, methods=b"\0\0\1"), BODY), "header", id="interlaced"),
        pytest.param(png_of(ihdr(80, 32, 8, 0), BODY), "header", id="grey"),
        pytest.param(png_of(ihdr(80, 32, 16, 2), BODY), "depth", id="16 bits"),
        pytest.param(png_of(ihdr(80, 32, 8, 3), NUMBERS), "palette", id="no palette"),
        pytest.param(png_of(ihdr(80, 32), LISTED, BODY), "palette", id="a palette nobody needs"),
        pytest.param(png_of(ihdr(80, 32, 8, 3), chunk(b"PLTE", bytes(7)), NUMBERS), "palette", id="7 bytes"),
        pytest.param(png_of(ihdr(80, 32, 8, 3), chunk(b"PLTE", bytes(771)), NUMBERS), "palette", id="257 colours"),
        pytest.param(png_of(ihdr(80, 32, 8, 3), LISTED, OPACITIES_TOO_MANY, NUMBERS), "palette", id="opacities"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"IDAT", PIXELS + b"<script>")), "pixels", id="more pixels"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"IDAT", PIXELS[:-5])), "pixels", id="pixels cut short"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"IDAT", b"noise")), "pixels", id="noise"),
        pytest.param(png_of(ihdr(80, 31), BODY), "pixels", id="a row too many"),
        pytest.param(png_of(ihdr(80, 33), BODY), "pixels", id="a row too few"),
        pytest.param(png_of(ihdr(80, 32), chunk(b"IDAT", corpus.deep(500))), "pixels", id="bomb"),
        pytest.param(png_of(ihdr(80, 32), OF_FILTER_5), "filter", id="filter"),
        pytest.param(png_of(ihdr(80, 32), OF_WORDS), "words", id="words"),
    ],
)  # fmt: skip
def test_anything_more_or_less_is_no_picture_of_ours(content: bytes, why: str) -> None:
    with pytest.raises(_png.NotClean, match=why):
        _png.measured(content)


def test_colours_that_spell_something_are_written_otherwise() -> None:
    """Two colours whose palette would read `<svg/o`."""
    spelled = Image.new("RGB", (20, 20), (0x3C, 0x73, 0x76))
    spelled.putpixel((0, 0), (0x67, 0x2F, 0x6F))
    assert b"<svg/o" in saved(spelled.quantize(2))
    logo = drawn(saved(spelled))
    for picture in (logo.once, logo.twice):
        assert not _png.speaks(picture.content)
    assert opened(logo.once).getpixel((10, 16)) == (0x3C, 0x73, 0x76, 255)


def test_where_no_other_way_is_left_colours_move_by_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def speaks(content: bytes) -> bool:
        asked.append(content)
        return len(asked) <= 4

    monkeypatch.setattr(_redraw, "speaks", speaks)
    content, _lossy = _redraw._png(Image.new("RGBA", (9, 9), (10, 20, 31, 40)), 8 << 10)
    assert len(asked) == 5
    assert Image.open(BytesIO(content)).convert("RGBA").getpixel((0, 0)) == (11, 21, 31, 40)
    monkeypatch.setattr(_redraw, "speaks", lambda content: True)
    with pytest.raises(_redraw.Refused, match="broken"):
        _redraw._png(Image.new("RGBA", (9, 9)), 8 << 10)


def test_metadata_of_a_camera_is_gone() -> None:
    data = Image.Exif()
    data[0x010F], data[0x8825] = SECRET, {1: "N", 2: (52.0, 31.0, 0.0)}
    content = saved(corpus.mark(), "JPEG", exif=data, comment=SECRET.encode())
    content = content[:2] + segment(0xE2, b"FPXR\0" + SECRET.encode()) + content[2:]
    assert content.count(SECRET.encode()) == 3
    logo = drawn(content)
    for picture in (logo.once, logo.twice):
        assert SECRET.encode() not in picture.content
        assert set(Image.open(BytesIO(picture.content)).info) <= {"transparency"}
