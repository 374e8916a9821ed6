"""What becomes of hostile uploads: bombs, files that are two things at once, damaged files. Each is decoded as the
portal would decode it, and what is drawn is parsed anew.

    python -m bench.uploads [--json] [--trace 20]
    python -m bench.uploads --fetch          # the test pictures of Pillow too, 45 MB from the package index, kept

Ends with status 1 where anything unsafe would be kept, where a decoder tried to reach outside, or where one took more
than 2 s of processor time or 256 MB.
"""

import argparse
import io
import json
import os
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from portal import uploads
from portal._redraw import CPU_S, MEMORY, SEALED

CACHE = Path(__file__).parents[1] / ".cache"
MARK = b"CANARY-4f0c2b"  # in every payload; in nothing that is kept


@dataclass(frozen=True)
class Sample:
    """A file somebody might upload. `never` says that it must be refused whatever else is fine about it."""

    group: str
    name: str
    content: bytes
    never: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a sample: `verdict` is drawn, or the reason of the refusal."""

    sample: Sample
    verdict: str
    sentence: str
    cost: uploads.Cost | None
    logo: uploads.Logo | None
    stray: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--fetch", action="store_true", help="fetch Pillow's test pictures where they are missing"
    )
    parser.add_argument(
        "--trace", type=int, default=0, metavar="N", help="watch every Nth decoder with strace"
    )
    options = parser.parse_args()
    if options.fetch:
        fetch()
    samples = [*bombs(), *polyglots(), *pillows()]
    outcomes = run(samples)
    found = summary(outcomes)
    if options.trace:
        found["traced"] = trace(samples[:: options.trace])
    print(json.dumps(found) if options.json else _table(found))
    if broken_promises(outcomes) or (options.trace and found["traced"]["reached"]):
        sys.exit(1)


def run(samples: Iterable[Sample]) -> list[Outcome]:
    """Each sample in a decoder of its own, as many at once as the portal allows."""
    with ThreadPoolExecutor(uploads.AT_ONCE) as pool:
        return list(pool.map(attempt, samples))


def attempt(sample: Sample) -> Outcome:
    try:
        uploads.look(sample.content)
    except uploads.BadPicture as refused:
        return Outcome(sample, refused.reason, refused.sentence, None, None, ())
    found, cost = uploads.draw(sample.content)
    if isinstance(found, uploads.BadPicture):
        return Outcome(sample, found.reason, found.sentence, cost, None, ())
    wrong = (*stray(found.once.content), *stray(found.twice.content))
    return Outcome(sample, "drawn", "", cost, found, wrong)


def broken_promises(outcomes: Iterable[Outcome]) -> list[str]:
    """What should not have been, in words."""
    found = []
    for one in outcomes:
        name = f"{one.sample.group}/{one.sample.name}"
        found += [f"{name}: {wrong}" for wrong in one.stray]
        if one.sample.never and one.logo:
            found.append(f"{name}: drawn")
        if one.cost and one.cost.status == SEALED:
            found.append(f"{name}: tried to reach outside")
        if one.cost and one.cost.status < 0 and one.verdict != "slow":
            found.append(f"{name}: ended by signal {-one.cost.status}")
        if one.cost and one.cost.cpu_s > CPU_S + 0.2:
            found.append(f"{name}: {one.cost.cpu_s:.2f} s")
        if one.cost and one.cost.peak > MEMORY:
            found.append(f"{name}: {one.cost.peak >> 20} MB")
    return found


def stray(content: bytes) -> list[str]:
    """What a PNG holds beyond pixels; written apart from the portal's check, not to share its mistakes."""
    found = []
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return ["signature"]
    rest, names = content[8:], []
    while rest:
        length, name = int.from_bytes(rest[:4], "big"), rest[4:8]
        if zlib.crc32(rest[4 : 8 + length]) != int.from_bytes(rest[8 + length : 12 + length], "big"):
            found.append("checksum")
        names.append(name.decode("latin-1"))
        rest = rest[12 + length :]
        if name == b"IEND" and (rest or length):
            found.append("bytes after the end")
            break
    if (
        names[:1] != ["IHDR"]
        or names[-1:] != ["IEND"]
        or not set(names) <= {"IHDR", "PLTE", "tRNS", "IDAT", "IEND"}
    ):
        found.append("chunks " + " ".join(names))
    if MARK in content:
        found.append("the payload")
    return found


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    groups = list(dict.fromkeys(one.sample.group for one in outcomes))
    return {group: _figures([one for one in outcomes if one.sample.group == group]) for group in groups} | {
        "all": _figures(outcomes),
        "broken promises": broken_promises(outcomes),
    }


def _figures(outcomes: list[Outcome]) -> dict[str, Any]:
    decoded = [one.cost for one in outcomes if one.cost]
    cpu, wall = [cost.cpu_s for cost in decoded], [cost.wall_s for cost in decoded]
    peaks = [cost.peak for cost in decoded if cost.peak]
    return {
        "files": len(outcomes),
        "drawn": sum(one.logo is not None for one in outcomes),
        "unsafe": sum(bool(one.stray) for one in outcomes),
        "refused": dict(Counter(one.verdict for one in outcomes if not one.logo).most_common()),
        "decoded": len(decoded),
        "cpu_ms": _three(cpu, 1000),
        "wall_ms": _three(wall, 1000),
        "peak_mb": _three(peaks, 1 / (1 << 20)),
    }


def _three(values: list[Any], scale: float) -> list[int]:
    """Least, middle and most."""
    if not values:
        return [0, 0, 0]
    return [round(value * scale) for value in (min(values), statistics.median(values), max(values))]


def _table(found: dict[str, Any]) -> str:
    lines = [
        f"{'':10}{'files':>6}{'drawn':>7}{'unsafe':>8}{'decoded':>9}  least/middle/most  cpu ms, wall ms, peak MB"
    ]
    for group, figures in found.items():
        if group in ("broken promises", "traced"):
            continue
        three = ", ".join("/".join(map(str, figures[name])) for name in ("cpu_ms", "wall_ms", "peak_mb"))
        lines.append(
            f"{group:10}{figures['files']:6}{figures['drawn']:7}{figures['unsafe']:8}{figures['decoded']:9}  {three}"
        )
        lines.append(
            " " * 12 + "refused: " + (", ".join(f"{n} {r}" for r, n in figures["refused"].items()) or "none")
        )
    if "traced" in found:
        lines.append(
            f"traced: {found['traced']['decoders']} decoders, reached outside: {found['traced']['reached'] or 'none'}"
        )
    return "\n".join([*lines, "broken promises: " + ("; ".join(found["broken promises"]) or "none")])


# --- Watched from outside ---------------------------------------------------------------------------------------------


_OUTSIDE = (
    "execve",
    "execveat",
    "fork",
    "vfork",
    "clone",
    "clone3",
    "socket",
    "connect",
    "open",
    "openat",
    "creat",
)


def trace(samples: Iterable[Sample]) -> dict[str, Any]:
    """Decoders under strace: every call of theirs that would open, start or connect to something, once they read."""
    reached: Counter[str] = Counter()
    decoders = 0
    plain, wall = uploads._command, uploads.WALL_S
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        watching = ["strace", "-f", "-o", str(log), "-e", "trace=write," + ",".join(_OUTSIDE)]
        uploads._command = lambda: [*watching, *plain()]
        uploads.WALL_S = 60.0
        try:
            for sample in samples:
                if attempt(sample).cost:
                    decoders += 1
                    _before, _ready, after = log.read_text(errors="replace").partition('write(1, "R"')
                    assert _ready, "strace did not see the decoder begin"
                    calls = (line.split(maxsplit=1)[-1] for line in after.splitlines()[1:])
                    reached.update(call for call in calls if call.partition("(")[0] in _OUTSIDE)
        finally:
            uploads._command, uploads.WALL_S = plain, wall
    return {"decoders": decoders, "reached": dict(reached)}


# --- Pillow's own test pictures ---------------------------------------------------------------------------------------


def pillows() -> Iterator[Sample]:
    """Whatever lies in the folder; nothing where nobody has fetched it."""
    folder = pictures()
    if folder is None:
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield Sample("pillow", str(path.relative_to(folder)), path.read_bytes())


def pictures() -> Path | None:
    """The folder of Pillow's test pictures: the one that PORTAL_PILLOW_IMAGES names, else the fetched one."""
    named = os.environ.get("PORTAL_PILLOW_IMAGES")
    folder = Path(named) if named else CACHE / f"pillow-{version('pillow')}" / "Tests/images"
    return folder if folder.is_dir() else None


def fetch() -> None:
    """The source of the very Pillow that is installed, for its test pictures."""
    if pictures():
        return
    release = version("pillow")
    with tempfile.TemporaryDirectory() as folder:
        asked = ["download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", "pillow"]
        subprocess.run([sys.executable, "-m", "pip", *asked, "-d", folder, f"pillow=={release}"], check=True)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as source:
            inside = [
                one for one in source.getmembers() if one.name.startswith(f"pillow-{release}/Tests/images/")
            ]
            source.extractall(CACHE, inside, filter="data")


# --- Pieces of files --------------------------------------------------------------------------------------------------


def chunk(name: bytes, content: bytes = b"", crc: int | None = None, length: int | None = None) -> bytes:
    right = zlib.crc32(name + content)
    return (
        struct.pack(">I", len(content) if length is None else length)
        + name
        + content
        + struct.pack(">I", right if crc is None else crc)
    )


def ihdr(width: int, height: int, depth: int = 8, kind: int = 2, methods: bytes = b"\0\0\0") -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, kind) + methods)


SIGNATURE = b"\x89PNG\r\n\x1a\n"
IEND = chunk(b"IEND")


def png_of(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + IEND


def rows(width: int, height: int, channels: int = 3, value: int = 120) -> bytes:
    return chunk(b"IDAT", zlib.compress((b"\0" + bytes([value]) * width * channels) * height, 1))


@cache
def deep(megabytes: int) -> bytes:
    """A zlib stream of zeros, a thousandth of what it unpacks to."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    check = struct.pack(">HH", (megabytes << 20) % 65521, 1)
    return b"\x78\xda" + part * megabytes + b"\3\0" + check


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def mark(width: int = 200, height: int = 80, mode: str = "RGB") -> Image.Image:
    """A plain logo: a bar on a ground."""
    picture = Image.new(mode, (width, height), "white" if mode != "RGBA" else (0, 0, 0, 0))
    picture.paste(Image.new(mode, (width // 2, height // 2), "navy"), (width // 4, height // 4))
    return picture


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(
        3, "little"
    )


def inner(webp: bytes) -> tuple[bytes, bytes]:
    """The picture of a simple WebP, to be wrapped otherwise."""
    length = struct.unpack_from("<I", webp, 16)[0]
    return webp[12:16], webp[20 : 20 + length]


# --- Bombs and damaged files ------------------------------------------------------------------------------------------


def bombs() -> Iterator[Sample]:
    for make in (_png_bombs, _jpeg_bombs, _webp_bombs, _cut_short):
        for name, content, *never in make():
            yield Sample("bombs", name, content, bool(never))


def _png_bombs() -> Iterator[tuple[Any, ...]]:
    head, body = ihdr(200, 80), rows(200, 80)
    yield "png-65535-square", png_of(ihdr(65535, 65535), body), 1
    yield "png-2-gigapixels-in-one-row", png_of(ihdr(2**31 - 1, 1), body), 1
    yield "png-169-megapixels", png_of(ihdr(13000, 13000, 1, 0), chunk(b"IDAT", deep(21))), 1
    yield "png-4000001-pixels", png_of(ihdr(4_000_001, 1), rows(4_000_001, 1)), 1
    yield "png-8-megapixels", png_of(ihdr(4000, 2000), rows(4000, 2000)), 1
    yield "png-no-width", png_of(ihdr(0, 80), body), 1
    yield "png-no-size", png_of(ihdr(0, 0), body), 1
    yield "png-4-megapixels-of-64-bits", png_of(ihdr(2000, 2000, 16, 6), chunk(b"IDAT", deep(31)))
    yield "png-4-megapixels-interlaced", png_of(ihdr(2000, 2000, 16, 6, b"\0\0\1"), chunk(b"IDAT", deep(31)))
    yield "png-one-row", png_of(ihdr(4_000_000, 1), rows(4_000_000, 1))
    yield "png-one-column", png_of(ihdr(1, 4_000_000), rows(1, 4_000_000))
    for megabytes in (100, 500, 1000):
        yield f"png-idat-{megabytes}-mb", png_of(head, chunk(b"IDAT", deep(megabytes)))
    for megabytes in (2, 60, 900):
        packed = deep(megabytes)
        yield f"png-ztxt-{megabytes}-mb", png_of(head, chunk(b"zTXt", b"a\0\0" + packed), body)
        yield f"png-itxt-{megabytes}-mb", png_of(head, chunk(b"iTXt", b"a\0\1\0\0\0" + packed), body)
        yield f"png-iccp-{megabytes}-mb", png_of(head, chunk(b"iCCP", b"a\0\0" + packed), body)
    yield "png-ztxt-after-the-pixels", png_of(head, body, chunk(b"zTXt", b"a\0\0" + deep(900)))
    yield "png-900-ztxt-of-1-mb", png_of(head, *[chunk(b"zTXt", b"a\0\0" + deep(1))] * 900, body)
    yield "png-70000-texts", png_of(head, *[chunk(b"tEXt", b"a\0")] * 70_000, body)
    yield "png-80000-empty-idat", png_of(head, *[chunk(b"IDAT")] * 80_000, body)
    packed = zlib.compress((b"\0" + bytes(600)) * 80)
    yield (
        "png-idat-byte-by-byte",
        png_of(head, *[chunk(b"IDAT", packed[at : at + 1]) for at in range(len(packed))]),
    )
    for length in (0, 1, 2**31 - 1, 2**32 - 1):
        yield f"png-ihdr-says-{length}", png_of(chunk(b"IHDR", head[8:21], length=length), body), 1
        yield f"png-idat-says-{length}", png_of(head, chunk(b"IDAT", body[8:-4], length=length))
    yield "png-text-says-too-much", png_of(head, chunk(b"tEXt", b"a\0b", length=1 << 20), body), 1
    yield "png-text-says-too-little", png_of(head, chunk(b"tEXt", b"a\0b", length=1), body), 1
    yield "png-header-checksum", png_of(chunk(b"IHDR", head[8:21], crc=1), body), 1
    yield "png-text-checksum", png_of(head, chunk(b"tEXt", b"a\0b", crc=1), body), 1
    yield "png-pixels-checksum", png_of(head, chunk(b"IDAT", body[8:-4], crc=1))
    yield "png-end-checksum", SIGNATURE + head + body + chunk(b"IEND", crc=1)
    yield "png-adler", png_of(head, chunk(b"IDAT", body[8:-8] + b"\0\0\0\0"))
    yield "png-pixels-are-noise", png_of(head, chunk(b"IDAT", bytes(range(256)) * 40)), 1
    yield "png-filter-9", png_of(head, chunk(b"IDAT", zlib.compress((b"\x09" + bytes(600)) * 80))), 1
    yield "png-too-few-rows", png_of(head, rows(200, 40))
    yield "png-no-pixels", png_of(head), 1
    yield "png-no-header", png_of(body), 1
    yield "png-nothing", SIGNATURE, 1
    yield "png-two-headers", png_of(head, ihdr(60000, 60000), body), 1
    yield "png-header-after-pixels", png_of(body, head), 1
    yield "png-no-end", SIGNATURE + head + body
    yield "png-depth-3", png_of(ihdr(200, 80, 3), body), 1
    yield "png-kind-5", png_of(ihdr(200, 80, 8, 5), body), 1
    yield "png-kind-and-depth", png_of(ihdr(200, 80, 16, 3), body), 1
    yield "png-interlace-9", png_of(ihdr(200, 80, methods=b"\0\0\x09"), body)
    yield "png-method-1", png_of(ihdr(200, 80, methods=b"\1\1\0"), body), 1
    yield "png-no-palette", png_of(ihdr(200, 80, 8, 3), rows(200, 80, 1))
    yield "png-palette-of-300", png_of(ihdr(200, 80, 8, 3), chunk(b"PLTE", bytes(900)), rows(200, 80, 1))
    yield "png-palette-of-7-bytes", png_of(ihdr(200, 80, 8, 3), chunk(b"PLTE", bytes(7)), rows(200, 80, 1))
    yield (
        "png-transparency-of-9000",
        png_of(
            ihdr(200, 80, 8, 3), chunk(b"PLTE", bytes(768)), chunk(b"tRNS", b"\xff" * 9000), rows(200, 80, 1)
        ),
    )
    frames = [mark(64, 64).rotate(turn) for turn in range(0, 360, 3)]
    yield "apng-120-frames", saved(frames[0], save_all=True, append_images=frames[1:]), 1
    control = struct.pack(">IIIIIHHBB", 0, 200, 80, 0, 0, 1, 100, 0, 0)
    for claimed in (0, 1, 2**31 - 1):
        counted = chunk(b"acTL", struct.pack(">II", claimed, 0))
        yield (
            f"apng-says-{claimed}-frames",
            png_of(head, counted, chunk(b"fcTL", control), body),
            *[1] * (claimed > 1),
        )
    far = struct.pack(">IIIIIHHBB", 0, 60000, 60000, 9, 9, 1, 100, 0, 0)
    yield (
        "apng-frame-outside",
        png_of(head, chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", far), body),
        1,
    )
    yield "png-exif-loop", png_of(head, chunk(b"eXIf", _exif_loop()), body)


def _jpeg_bombs() -> Iterator[tuple[Any, ...]]:
    plain = saved(mark(), "JPEG")
    frame = plain.index(b"\xff\xc0")
    scan = plain.index(b"\xff\xda")

    def sized(width: int, height: int) -> bytes:
        return plain[: frame + 5] + struct.pack(">HH", height, width) + plain[frame + 9 :]

    yield "jpeg-65500-square", sized(65500, 65500), 1
    yield "jpeg-2001-by-2000", sized(2001, 2000), 1
    yield "jpeg-no-height", sized(200, 0), 1
    yield "jpeg-no-width", sized(0, 80), 1
    yield "jpeg-4-megapixels-of-nothing", sized(2000, 2000)
    large = saved(Image.effect_noise((2000, 2000), 3).convert("RGB"), "JPEG", quality=5, progressive=True)
    yield "jpeg-progressive", large
    yield "jpeg-cmyk", saved(Image.new("CMYK", (1990, 2000), (9, 99, 0, 9)), "JPEG", progressive=True)
    for scans in (150, 2000, 30_000):
        yield f"jpeg-{scans}-scans", _many_scans(scans), *[1] * (scans > 200)
    yield (
        "jpeg-two-frames",
        plain[:scan] + segment(0xC0, b"\x08\xff\xdc\xff\xdc\x01\x01\x11\0") + plain[scan:],
    )
    yield (
        "jpeg-255-components",
        plain[:frame] + segment(0xC0, b"\x08\0\x50\0\xc8\xff" + b"\1\x11\0" * 255) + plain[scan:],
        1,
    )
    yield "jpeg-12-bits", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :], 1
    yield "jpeg-lossless", plain[: frame + 1] + b"\xc3" + plain[frame + 2 :], 1
    yield "jpeg-arithmetic", plain[: frame + 1] + b"\xc9" + plain[frame + 2 :]
    yield "jpeg-broken-codes", plain[:2] + segment(0xC4, b"\0" + b"\xff" * 16 + bytes(300)) + plain[2:]
    yield "jpeg-15-comments-of-64-kb", plain[:2] + segment(0xFE, bytes(65_500)) * 15 + plain[2:]
    yield "jpeg-200000-segments", plain[:2] + segment(0xE5, b"") * 200_000 + plain[2:]
    yield "jpeg-fill-bytes", plain[:2] + b"\xff" * 900_000 + plain[2:]
    yield "jpeg-restarts", plain[:-2] + b"\xff\xd0\xff\xd1" * 200_000 + plain[-2:]
    yield "jpeg-no-codes", plain[:frame] + plain[frame : frame + 19] + plain[scan:]
    yield "jpeg-exif-loop", plain[:2] + segment(0xE1, b"Exif\0\0" + _exif_loop()) + plain[2:]
    huge = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHII", 0x0112, 3, 2**32 - 1, 8) + bytes(4)
    yield "jpeg-exif-count", plain[:2] + segment(0xE1, huge) + plain[2:]
    yield "jpeg-profile-out-of-255", plain[:2] + segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(90)) + plain[2:]
    lut = (
        b"\0\0\1\0"
        + b"lcms\2\x10\0\0mntrRGB XYZ "
        + bytes(16)
        + b"acsp"
        + bytes(92)
        + b"\xff\xff\xff\xff"
        + bytes(90)
    )
    yield "jpeg-profile-of-many-tags", plain[:2] + segment(0xE2, b"ICC_PROFILE\0\1\1" + lut) + plain[2:]
    yield "jpeg-nothing", b"\xff\xd8\xff\xd9", 1
    yield "jpeg-start-alone", b"\xff\xd8\xff", 1


def _many_scans(scans: int) -> bytes:
    """A progressive JPEG of 4 megapixels whose scans say nothing: each makes the decoder pass over all of it."""
    out = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    out += segment(0xC2, struct.pack(">BHHB", 8, 2000, 2000, 1) + b"\1\x11\0")
    out += segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    out += segment(0xDA, b"\1\1\0\0\0\0") + bytes(7900)
    runs = bytes(4 * 2)
    each = segment(0xDA, b"\1\1\0\1\x3f\0") + runs
    return out + each * min(scans, (1_000_000 - len(out)) // len(each)) + b"\xff\xd9"


def _exif_loop() -> bytes:
    """A directory that says of itself that it goes on in itself."""
    entries = struct.pack(">HHII", 0x8769, 4, 1, 8) + struct.pack(">HHII", 0x0112, 3, 1, 6 << 16)
    return b"MM\0*\0\0\0\x08\0\2" + entries + struct.pack(">I", 8)


def _webp_bombs() -> Iterator[tuple[Any, ...]]:
    lossy, lossless = inner(saved(mark(), "WEBP")), inner(saved(mark(), "WEBP", lossless=True))
    yield "webp-canvas-16777216", riff(vp8x(1 << 24, 1 << 24), lossy), 1
    yield "webp-canvas-16383", riff(vp8x(16383, 16383), lossy), 1
    yield "webp-canvas-2001-by-2000", riff(vp8x(2001, 2000), lossy), 1
    yield "webp-canvas-too-small", riff(vp8x(20, 8), lossy)
    start = lossy[1].index(b"\x9d\x01\x2a")
    wide = lossy[1][: start + 3] + struct.pack("<HH", 0x3FFF, 0x3FFF) + lossy[1][start + 7 :]
    yield "webp-vp8-16383", riff((b"VP8 ", wide)), 1
    yield "webp-vp8l-16384", riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + lossless[1][5:])), 1
    yield "webp-4-megapixels", saved(Image.effect_noise((2000, 2000), 50).convert("RGB"), "WEBP", quality=1)
    yield (
        "webp-4-megapixels-lossless",
        saved(Image.new("RGBA", (2000, 2000), (9, 99, 9, 99)), "WEBP", lossless=True),
    )
    frames = [mark(64, 64).rotate(turn) for turn in range(0, 360, 6)]
    yield "webp-60-frames", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]), 1
    still = struct.pack("<I", len(lossy[1])).join((lossy[0], lossy[1]))
    one = bytes(6) + (199).to_bytes(3, "little") + (79).to_bytes(3, "little") + bytes(4) + still
    yield "webp-2000-frames", riff(vp8x(200, 80, 2), (b"ANIM", bytes(6)), *[(b"ANMF", one)] * 2000), 1
    yield "webp-moves-without-frames", riff(vp8x(200, 80, 2), (b"ANIM", bytes(6))), 1
    yield "webp-says-4-gb", riff(lossy, size=2**32 - 2)
    yield "webp-says-nothing", riff(lossy, size=4), 1
    yield "webp-alpha-is-noise", riff(vp8x(200, 80, 16), (b"ALPH", b"\1" + bytes(range(256))), lossy)
    yield "webp-profile-is-noise", riff(vp8x(200, 80, 32), (b"ICCP", bytes(range(256)) * 99), lossy)
    yield "webp-exif-loop", riff(vp8x(200, 80, 8), lossy, (b"EXIF", _exif_loop()))
    yield "webp-50000-chunks", riff(vp8x(200, 80), *[(b"JUNK", b"")] * 50_000, lossy)
    yield "webp-nothing", riff(), 1


def _cut_short() -> Iterator[tuple[Any, ...]]:
    noise = Image.effect_noise((300, 120), 60).convert("RGB")
    for name, whole in (
        ("png", saved(noise)),
        ("jpeg", saved(noise, "JPEG")),
        ("jpeg-progressive", saved(noise, "JPEG", progressive=True)),
        ("webp", saved(noise, "WEBP")),
        ("webp-lossless", saved(noise, "WEBP", lossless=True)),
    ):
        for percent in (1, 10, 50, 90):
            yield f"{name}-cut-at-{percent}", whole[: max(20, len(whole) * percent // 100)], 1
        torn = bytearray(whole)
        for at in range(len(whole) // 3, len(whole), 97):
            torn[at] ^= 0x55
        yield f"{name}-torn", bytes(torn)


# --- Two things at once -----------------------------------------------------------------------------------------------


PAYLOADS: dict[str, bytes] = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert("%s")</script></svg>',
    "svg-entity": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;%s</svg>',
    "html": b'<!doctype html><html><body onload="alert(1)"><script>fetch("//%s")</script></body></html>',
    "pdf": b"%%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert('%s'))>>>>endobj\ntrailer<</Root 1 0 R>>\n",
    "postscript": b"%%!PS-Adobe-3.0 EPSF-3.0\n%%%%BoundingBox: 0 0 9 9\n(%%pipe%%touch /tmp/%s) (w) file\nshowpage\n",
    "gif": b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xfe\x0f%s\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    "gif-script": b"GIF89a/*\0\0\0\0\0*/=1;alert('%s');",
    "tiff": b"II*\0\x08\0\0\0\0\0%s\0\0\0\0",
    "bmp": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0%s",
    "ico": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x04\0\0\0\x16\0\0\0%s",
    "zip": b"PK\3\4\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0a%sPK\5\6" + bytes(18),
    "script": b"/*\xff\xd8*/;import('data:text/javascript,alert(\"%s\")')//",
    "php": b"<?php system($_GET['c']); echo '%s'; ?>",
    "jsp": b'<%%@ page import="java.io.*" %%><%%= Runtime.getRuntime().exec("%s") %%>',
    "shell": b"#!/bin/sh\ntouch /tmp/%s\n",
    "magick": b"push graphic-context\nfill 'url(https://x/\"|touch \"/tmp/%s)'\npop graphic-context\n",
    "msl": b'<?xml version="1.0"?><image><read filename="caption:%s"/><write filename="/tmp/x.php"/></image>',
    "elf": b"\x7fELF\2\1\1" + bytes(9) + b"\2\0>\0%s",
    "class": b"\xca\xfe\xba\xbe\0\0\0\x34%s",
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic%s",
    "avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif%s",
    "photoshop": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\1\0\0\0\1\0\x08\0\3%s",
    "mail": b"From: x\r\nContent-Type: text/html\r\n\r\n<script>'%s'</script>",
    "words": b"Just some words and %s.",
}


def payload(name: str) -> bytes:
    return PAYLOADS[name] % MARK


def polyglots() -> Iterator[Sample]:
    """Every payload by itself, and each carrier with a few of them in turn."""
    for name in PAYLOADS:
        yield Sample("polyglots", name, payload(name), never=True)
        if name.startswith(("svg", "html", "msl")):
            yield Sample(
                "polyglots",
                f"{name}-in-utf-16",
                b"\xff\xfe" + payload(name).decode().encode("utf-16-le"),
                True,
            )
            yield Sample("polyglots", f"{name}-after-space", b"\xef\xbb\xbf \r\n\t" + payload(name), True)
    turn = count()
    names = list(PAYLOADS)
    for carrier, carry in CARRIERS.items():
        for _ in range(4):
            name = names[next(turn) % len(names)]
            yield Sample("polyglots", f"{name}-in-{carrier}", carry(payload(name)))
    for name in ("php", "svg", "html", "pdf", "jsp"):
        yield Sample("polyglots", f"png-after-{name}", payload(name) + saved(mark()), never=True)
        yield Sample("polyglots", f"jpeg-after-{name}", payload(name) + saved(mark(), "JPEG"), never=True)


def _in_png(name: bytes, before: bytes = b"") -> Callable[[bytes], bytes]:
    return lambda content: png_of(ihdr(200, 80), chunk(name, before + content), rows(200, 80))


def _in_compressed(name: bytes, before: bytes) -> Callable[[bytes], bytes]:
    return lambda content: png_of(ihdr(200, 80), chunk(name, before + zlib.compress(content)), rows(200, 80))


def _in_palette(content: bytes) -> bytes:
    """As colours: a picture of one row that uses them all, in their order."""
    content = content[: len(content) // 3 * 3][:768]
    colours = len(content) // 3
    pixels = zlib.compress(b"\0" + bytes(range(colours)))
    return png_of(ihdr(colours, 1, 8, 3), chunk(b"PLTE", content), chunk(b"IDAT", pixels))


def _in_pixels(content: bytes) -> bytes:
    """As the colours of pixels, in a picture so small that it is not resized, and too noisy to be packed."""
    content = (content * 200)[: 3 * 40 * 30]
    lines = b"".join(b"\0" + content[at : at + 120] for at in range(0, len(content), 120))
    return png_of(ihdr(40, 30), chunk(b"IDAT", zlib.compress(lines, 0)))


def _in_exif(content: bytes) -> bytes:
    data = Image.Exif()
    data[0x010E] = content.decode("latin-1")
    data[0x0112] = 1
    return data.tobytes()


def _in_jpeg(marker: int, before: bytes = b"") -> Callable[[bytes], bytes]:
    plain = saved(mark(), "JPEG")
    return lambda content: plain[:2] + segment(marker, before + content) + plain[2:]


def _in_webp(name: bytes, flags: int) -> Callable[[bytes], bytes]:
    return lambda content: riff(vp8x(200, 80, flags), inner(saved(mark(), "WEBP")), (name, content))


def _after(form: str) -> Callable[[bytes], bytes]:
    return lambda content: saved(mark(), form) + content


def _text(content: bytes) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", content.decode("latin-1"))
    return saved(mark(), pnginfo=info)


CARRIERS: dict[str, Callable[[bytes], bytes]] = {
    "png-comment": _in_png(b"tEXt", b"Comment\0"),
    "png-packed-comment": _in_compressed(b"zTXt", b"Comment\0\0"),
    "png-xmp": _text,
    "png-profile": _in_compressed(b"iCCP", b"a\0\0"),
    "png-private-chunk": _in_png(b"prVt"),
    "png-exif": _in_png(b"eXIf"),
    "png-tail": _after("PNG"),
    "png-tail-in-pixels": lambda content: png_of(ihdr(200, 80), rows(200, 80)[:-12], chunk(b"IDAT", content)),
    "png-palette": _in_palette,
    "png-pixels": _in_pixels,
    "jpeg-comment": _in_jpeg(0xFE),
    "jpeg-exif": lambda content: _in_jpeg(0xE1)(_in_exif(content)),
    "jpeg-xmp": _in_jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "jpeg-profile": _in_jpeg(0xE2, b"ICC_PROFILE\0\1\1"),
    "jpeg-photoshop": _in_jpeg(0xED, b"Photoshop 3.0\0"),
    "jpeg-tail": _after("JPEG"),
    "webp-exif": _in_webp(b"EXIF", 8),
    "webp-xmp": _in_webp(b"XMP ", 4),
    "webp-chunk": _in_webp(b"JUNK", 0),
    "webp-tail": _after("WEBP"),
}


if __name__ == "__main__":
    main()
