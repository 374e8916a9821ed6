"""The process that decodes an uploaded picture: one process, one picture, nothing to do harm with.

`portal.uploads` starts it. It loads what it needs, gives up every right, says that it is ready, and only then reads
what was uploaded. It may not open, start or connect to anything after that: the limits of the operating system say so,
and before they would have to, a hook of the interpreter ends the process.
"""

import contextlib
import heapq
import io
import os
import resource
import sys
from bisect import bisect_left
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple, cast

from PIL import Image, ImageChops, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL import TiffImagePlugin as _ReadsExif

from portal._png import CAP_ONCE, CAP_TWICE, HEIGHT, MAX_BYTES, MAX_PIXELS, WIDTH, speaks

READY = b"R"
SEALED = 86  # the status with which it ends when something tries what is not allowed
MEMORY = 256 << 20
CPU_S = 2  # its own start included, which takes a tenth of one
SCANS = 200  # of a JPEG; each one costs time that has nothing to do with its size, and ten are usual
NOBODY = 65534

FORMATS = ("PNG", "JPEG", "WEBP")
_PLUGINS = (PngImagePlugin, JpegImagePlugin, WebPImagePlugin, _ReadsExif)

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_LIGHT, _DARK = (0xFF, 0xFF, 0xFF), (0x1A, 0x1B, 0x1D)  # what pages are drawn on
_SEEN = 1.5  # the least contrast with it
_LINEAR = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in range(256)]


class Refused(Exception):
    """The picture cannot be taken; the argument is the reason in one word."""


def main() -> None:
    """The program: give up rights, say so, read one picture, answer, end."""
    memory = _memory()
    _prepare()
    _limit()
    _seal()
    os.write(1, READY)
    content = sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        head, pictures = _drawn(content)
    except Refused as refused:
        head, pictures = f"refused={refused}", b""
    except Image.DecompressionBombError:
        head, pictures = "refused=pixels", b""
    except Exception:  # decoders raise whatever they like
        head, pictures = "refused=broken", b""
    sys.stdout.buffer.write(f"{head} peak={_peak(memory)}\n".encode() + pictures)
    sys.stdout.buffer.flush()
    os._exit(0)


def _prepare() -> None:
    """Three formats, one picture each, nothing half read."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image._initialized = 2  # else opening and saving load all other formats
    # Phones append further pictures to a JPEG; without this a second decoder would look for them.
    plain = JpegImagePlugin.JpegImageFile
    Image.register_open("JPEG", plain, Image.OPEN["JPEG"][1])


def _limit() -> None:
    """What the operating system refuses from now on, even to code that is not Python.

    The open pipes stay; no other file, socket or directory can be opened, no byte goes to a file, no process starts.
    """
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    if os.geteuid() == 0:  # whom the limit on processes does not bind
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)


_ENDS = ("os.", "subprocess.", "socket.", "ctypes.", "pty.", "shutil.", "tempfile.", "urllib.", "resource.")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LOOKS = ("os.listdir", "os.scandir")  # for a module that is not there, at the worst


def _seal() -> None:
    """End the process at the first try to start, connect to or change anything; refuse to read any file."""

    def guard(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if args[2] & _WRITES:
                os._exit(SEALED)
            raise PermissionError(event)
        if event.startswith(_ENDS):
            if event in _LOOKS:
                raise PermissionError(event)
            os._exit(SEALED)

    sys.addaudithook(guard)


def _drawn(content: bytes) -> tuple[str, bytes]:
    """The two pictures, and what stands before them in the answer; raises Refused, or anything at all."""
    if content.count(b"\xff\xda") > SCANS and content.startswith(b"\xff\xd8"):
        raise Refused("slow")
    with Image.open(io.BytesIO(content), formats=FORMATS) as source:
        if source.width * source.height > MAX_PIXELS:
            raise Refused("pixels")
        if getattr(source, "n_frames", 1) > 1:
            raise Refused("animated")
        source.load()
        drawing = _Drawing.of(source)
    canvas = drawing.at(1)
    once, few = _png(canvas, CAP_ONCE)
    twice, too = _png(drawing.at(2), CAP_TWICE)
    did = drawing.did + ["colours"] * (few or too)
    ink = _Ink.of(canvas, drawing.opaque)
    if not ink.pixels:  # specks that are lost when it is made smaller
        raise Refused("empty")
    head = (
        f"once={len(once)} twice={len(twice)} did={','.join(did)}"
        f" on_light={ink.vanishes(_LIGHT):d} on_dark={ink.vanishes(_DARK):d}"
    )
    return head, once + twice


class _Drawing(NamedTuple):
    """A decoded picture in one of three modes (RGB, RGBA, CMYK), and how it is to be drawn."""

    source: Image.Image
    turn: Image.Transpose | None
    profile: bytes | None
    did: list[str]

    @classmethod
    def of(cls, source: Image.Image) -> "_Drawing":
        did = []
        turn = _turn(source)
        if turn is not None:
            did.append("turned")
        plain = _plain(source)
        if plain.mode == "RGBA":
            box = plain.getchannel("A").getbbox()
            if box is None:
                raise Refused("empty")
            if box != (0, 0, *plain.size):
                plain = plain.crop(box)
                did.append("trimmed")
        if source.mode == "CMYK":
            did.append("print")
        drawing = cls(plain, turn, source.info.get("icc_profile"), did)
        did.append("drawn" if drawing._scale < 1 else "kept")
        return drawing

    def at(self, density: int) -> Image.Image:
        """On a new canvas. What is smaller than the place of a logo stands in the middle of its height."""
        size = tuple(max(1, round(side * self._scale)) * density for side in self._upright)
        aside = (size[1], size[0]) if self._lies else (size[0], size[1])
        shrinks = aside[0] < self.source.width
        how = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
        small = self.source.resize(aside, how, reducing_gap=3.0 if shrinks else None)
        if self.turn is not None:
            small = small.transpose(self.turn)
        small = _for_screens(small, self.profile)
        height = size[1] if self._scale < 1 else HEIGHT * density
        canvas = Image.new("RGBA", (size[0], height))
        canvas.alpha_composite(small, (0, (height - size[1]) // 2))
        return canvas

    @property
    def opaque(self) -> bool:
        return self.source.mode != "RGBA" or _opaque(self.source)

    @property
    def _lies(self) -> bool:
        return self.turn in (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8])

    @property
    def _upright(self) -> tuple[int, int]:
        width, height = self.source.size
        return (height, width) if self._lies else (width, height)

    @property
    def _scale(self) -> float:
        width, height = self._upright
        return min(1.0, HEIGHT / height, WIDTH / width)


def _turn(source: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(int(source.getexif().get(_ORIENTATION, 1)))
    except Exception:  # what cannot be read turns nothing
        return None


def _plain(source: Image.Image) -> Image.Image:
    if source.mode == "CMYK" and source.info.get("icc_profile"):
        return source
    if source.mode == "I;16":
        source = _grey_of_16_bits(source)
    transparent = "transparency" in source.info or source.mode in ("LA", "PA", "RGBA")
    return source.convert("RGBA" if transparent else "RGB")


def _grey_of_16_bits(source: Image.Image) -> Image.Image:
    """Pillow would clip these to 8 bits; the upper half of each value is what is meant."""
    values = source.tobytes()
    low, high = values[::2], values[1::2]
    grey = Image.frombytes("L", source.size, high)
    clear = source.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    same = [
        Image.frombytes("L", source.size, half.translate(bytes(255 * (v == wanted) for v in range(256))))
        for half, wanted in ((low, clear & 255), (high, clear >> 8))
    ]
    return Image.merge("LA", (grey, ImageChops.invert(ImageChops.darker(*same))))


def _for_screens(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """In the colours of screens (sRGB), which is what a picture without a profile is taken to have."""
    clear = picture.getchannel("A") if picture.mode == "RGBA" else None
    if profile:
        with contextlib.suppress(Exception):  # a profile that is broken, or of other colours, says nothing
            theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in (theirs.profile.profile_description or ""):
                opaque = picture if clear is None else picture.convert("RGB")
                ours = ImageCms.createProfile("sRGB")
                picture = ImageCms.profileToProfile(opaque, theirs, ours, outputMode="RGB") or opaque
    picture = picture.convert("RGBA")
    if clear is not None:
        picture.putalpha(clear)
    return picture


def _png(canvas: Image.Image, cap: int) -> tuple[bytes, bool]:
    """As a PNG of at most so many bytes, and whether colours were lost for that."""
    moved = canvas.point([v | 1 for v in range(256)] * 3 + list(range(256)))
    for picture in (canvas, moved):
        for make, lossy in ((_without_loss, False), (_of_256_colours, True)):
            for made in sorted(make(picture), key=len):
                if len(made) <= cap and not speaks(made):
                    return made, lossy
    raise Refused("broken")


def _without_loss(canvas: Image.Image) -> list[bytes]:
    """Which is smaller, pixels or a palette and numbers, only shows when both are there."""
    made = [_saved(canvas.convert("RGB") if _opaque(canvas) else canvas)]
    colours = [colour for _, colour in _colours(canvas, 256)]
    if colours:
        made.append(_saved(_by_number(canvas, colours)))
    return made


def _colours(canvas: Image.Image, most: int) -> list[tuple[int, bytes]]:
    """How many pixels have which colour; nothing where there are more colours than that."""
    return [(many, bytes(cast("tuple[int, ...]", colour))) for many, colour in canvas.getcolors(most) or []]


def _of_256_colours(canvas: Image.Image) -> list[bytes]:
    """Colours that are alike become one: the group that differs most is halved until there are as many as may be.

    Pillow would do it for opaque pictures alone; what it has for others breaks soft edges into steps.
    """
    every = [
        (*_seen(*colour), many, colour) for many, colour in _colours(canvas, canvas.width * canvas.height)
    ]
    groups = [_group(every)]
    while len(groups) < 256 and groups[0][0]:
        _, channel, alike = heapq.heappop(groups)
        for half in _halves(alike, channel):
            heapq.heappush(groups, _group(half))
    means = {colour[-1]: mean for _, _, alike in groups for mean in (_mean(alike),) for colour in alike}
    pixels = canvas.tobytes()
    few = b"".join(means[pixels[at : at + 4]] for at in range(0, len(pixels), 4))
    return _without_loss(Image.frombytes("RGBA", canvas.size, few))


def _seen(red: int, green: int, blue: int, opacity: int) -> tuple[int, int, int, int]:
    """A colour as far as one sees it: the less there is of it, the less it matters which."""
    return red * opacity, green * opacity, blue * opacity, 255 * opacity


def _group(colours: list[Any]) -> tuple[float, int, list[Any]]:
    """With how much they differ, as a negative number so that the worst comes first, and in which channel."""
    ranges = [max(channel) - min(channel) for channel in list(zip(*colours, strict=True))[:4]]
    many = sum(colour[4] for colour in colours)
    return -max(ranges) * many**0.5, ranges.index(max(ranges)), colours


def _halves(colours: list[Any], channel: int) -> tuple[list[Any], list[Any]]:
    """Apart in that channel, with as many pixels on either side."""
    ordered = sorted(colours, key=itemgetter(channel))
    passed = list(accumulate(colour[4] for colour in ordered))
    at = min(bisect_left(passed, passed[-1] / 2) + 1, len(ordered) - 1)
    return ordered[:at], ordered[at:]


def _mean(colours: list[Any]) -> bytes:
    *seen, opacity = (sum(colour[channel] * colour[4] for colour in colours) for channel in range(4))
    many = sum(colour[4] for colour in colours)
    return bytes([*(round(255 * value / max(1, opacity)) for value in seen), round(opacity / 255 / many)])


def _opaque(canvas: Image.Image) -> bool:
    return canvas.getchannel("A").getextrema()[0] == 255


def _saved(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _by_number(canvas: Image.Image, colours: list[bytes]) -> Image.Image:
    """The same picture with a palette. Colours that let something through come first, so that fewer are listed."""
    colours.sort(key=lambda colour: (colour[3] == 255, colour))
    numbers = {colour: number for number, colour in enumerate(colours)}
    pixels = canvas.tobytes()
    indexes = bytes(numbers[pixels[at : at + 4]] for at in range(0, len(pixels), 4))
    picture = Image.frombytes("P", canvas.size, indexes)
    opaque = colours[0][3] == 255
    palette = b"".join(colour[: 3 if opaque else 4] for colour in colours)
    picture.putpalette(palette, "RGB" if opaque else "RGBA")
    return picture


class _Ink(NamedTuple):
    """How light a picture is: each pixel's luminance with its opacity, those left out that nobody sees."""

    pixels: list[tuple[float, float]]
    own_ground: bool

    @classmethod
    def of(cls, canvas: Image.Image, opaque: bool) -> "_Ink":
        data = canvas.tobytes()
        inked = (at for at in range(0, len(data), 4) if data[at + 3])
        return cls([(_luminance(data[at : at + 3]), data[at + 3] / 255) for at in inked], opaque)

    def vanishes(self, surface: tuple[int, int, int]) -> bool:
        """Whether it can hardly be told from the page, going by how light it is on the whole.

        A picture without transparency brings its own ground: a dark word on white is seen on white, however light the
        whole is. There it is enough that one pixel in fifty stands out.
        """
        ground = _luminance(bytes(surface))
        if self.own_ground:
            seen = sum(_contrast(light, ground) >= _SEEN for light, _ in self.pixels)
            return seen < len(self.pixels) / 50
        inked = sum(opacity for _, opacity in self.pixels)
        return _contrast(sum(light * opacity for light, opacity in self.pixels) / inked, ground) < _SEEN


def _luminance(colour: bytes) -> float:
    red, green, blue = (_LINEAR[value] for value in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def _memory() -> int | None:
    """An open file that says how much memory this process has had; None where there is no such file."""
    try:
        return os.open("/proc/self/status", os.O_RDONLY)
    except OSError:
        return None


def _peak(memory: int | None) -> int:
    """The most memory so far, in bytes; 0 where nobody can say."""
    if memory is not None:
        for line in os.read(memory, 8192).splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
