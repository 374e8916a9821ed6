"""Our own kind of picture: the limits that it keeps, and the check that some bytes are one.

Read by `portal.uploads`, which asks for pictures, and by `portal._redraw`, the process that makes them.
"""

import re
import struct
import zlib

MAX_BYTES = 1 << 20  # of an upload
MAX_PIXELS = 4_000_000

WIDTH, HEIGHT = 160, 32  # the most, in CSS pixels
# A palette of 256 colours needs at most 6.3 KB for the one size and 21.8 KB for the other, so everything fits.
CAP_ONCE, CAP_TWICE = 8 << 10, 24 << 10

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORDER = re.compile(rb"IHDR(PLTE(tRNS)?)?(IDAT)+IEND")
_CHANNELS = {2: 3, 3: 1, 6: 4}  # by colour type: RGB, palette, RGBA

# Beginnings of what another program might take for its own. Among pixels they stand by intent, or once in a few
# hundred pictures by chance; then the colours are moved by a step that nobody sees.
_SPEAKS = re.compile(
    rb"<\?(php|=|xml)|<%[=@]|<!(--|doctype|entity)|<(script|svg|html|head|body|iframe|img|link|object)"
    rb"|javascript:|%PDF|%!PS|PK\x03\x04|#!/|\x7fELF",
    re.IGNORECASE,
)


class NotClean(Exception):
    """These bytes are no PNG as we make them."""


def speaks(content: bytes) -> bool:
    """Whether the bytes hold a piece of a script, a page or a document."""
    return _SPEAKS.search(content) is not None


def measured(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG of ours, after each of its bytes has been accounted for; raises NotClean.

    A header, perhaps a palette, pixels and the end: nothing else, in this order, with right checksums, and the pixels
    unpack to exactly the rows that the header promises.
    """
    chunks = _chunks(content)
    if not _ORDER.fullmatch(b"".join(name for name, _ in chunks)):
        raise NotClean("chunks")
    header = chunks[0][1]
    if len(header) != 13:
        raise NotClean("header")
    width, height, depth, kind, *methods = struct.unpack(">IIBBBBB", header)
    if not (0 < width <= 2 * WIDTH and 0 < height <= 2 * HEIGHT) or any(methods) or kind not in _CHANNELS:
        raise NotClean("header")
    if depth != 8 and not (kind == 3 and depth in (1, 2, 4)):
        raise NotClean("depth")
    _check_palette(dict(chunks), kind)
    row = 1 + (width * depth * _CHANNELS[kind] + 7) // 8
    _check_pixels(b"".join(part for name, part in chunks if name == b"IDAT"), row, height)
    if speaks(content):
        raise NotClean("words")
    return width, height


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    if not content.startswith(_SIGNATURE):
        raise NotClean("signature")
    found, at = [], len(_SIGNATURE)
    while at < len(content):
        if len(content) - at < 12:
            raise NotClean("length")
        length, name = struct.unpack_from(">I4s", content, at)
        part = content[at + 8 : at + 8 + length]
        if len(part) < length or content[at + 8 + length : at + 12 + length] != _crc(name + part):
            raise NotClean("length or checksum")
        found.append((name, part))
        at += 12 + length
    if not found or found[-1] != (b"IEND", b""):
        raise NotClean("end")
    return found


def _crc(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def _check_palette(chunks: dict[bytes, bytes], kind: int) -> None:
    palette, transparency = chunks.get(b"PLTE", b""), chunks.get(b"tRNS", b"")
    entries, rest = divmod(len(palette), 3)
    if rest or entries > 256 or (kind == 3) != bool(palette) or len(transparency) > entries:
        raise NotClean("palette")


def _check_pixels(packed: bytes, row: int, rows: int) -> None:
    unpacking = zlib.decompressobj()
    try:
        pixels = unpacking.decompress(packed, row * rows + 1)
    except zlib.error:
        raise NotClean("pixels") from None
    if len(pixels) != row * rows or not unpacking.eof or unpacking.unused_data:
        raise NotClean("pixels")
    if max(pixels[::row]) > 4:
        raise NotClean("filter")
