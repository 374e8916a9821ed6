"""Logos: whatever is uploaded is decoded in a process apart, drawn anew, and only our own drawing is kept.

The bytes that came in are looked at here for their first few, to call a wrong kind by its name, and opened nowhere but
in `portal._redraw`. What comes back from there is taken for a stranger's too, and checked byte by byte.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Timer

import anyio
import anyio.to_thread
import structlog

from portal._png import CAP_ONCE, CAP_TWICE, HEIGHT, MAX_BYTES, WIDTH, NotClean, measured
from portal.texts import gettext as _
from portal.turns import Turns

AT_ONCE = 2
WAIT_S = 10.0  # for a place among them
START_S = 10.0  # until the process is ready to read: a tenth of a second where nothing else runs
WALL_S = 2.0  # then, until it has ended

_ANSWER = (64 << 10) + CAP_ONCE + CAP_TWICE  # more is no answer
_READY = b"R"
_START = "import sys; sys.path += sys.argv[1:]; from portal._redraw import main; main()"

log = structlog.get_logger()
_turns = Turns("uploads", AT_ONCE)


class BadPicture(Exception):
    """A file that is not taken. Says what is wrong and what to do; `reason` is the same in one word:
    empty, too_large, kind, pixels, animated, broken or slow."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG of ours: nothing in it but pixels, and perhaps their palette."""

    content: bytes
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Logo:
    """A logo in two densities, with what was done to it and where it would hardly be seen.

    `once` has the size in which it is shown, in CSS pixels: 32 high, or less where it would be wider than 160. A
    picture that is smaller than that is not enlarged: it stands as it is in the middle of those 32 pixels, because
    pages and mails draw every logo at that height. `twice`, for dense screens, is always exactly double.

    They have at most 8 KB and 24 KB. What is larger is reduced to 256 colours, which always fits.
    """

    once: Picture
    twice: Picture
    notes: tuple[str, ...]
    vanishes_on_light: bool
    vanishes_on_dark: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to decode a picture. `peak` is the memory in bytes, 0 where the process had no time to say."""

    cpu_s: float
    wall_s: float
    peak: int
    status: int


async def redraw_logo(content: bytes) -> Logo:
    """Our drawing of an uploaded PNG, JPEG or WebP; raises BadPicture. Other tasks go on meanwhile.

    At most two are decoded at once, and who would wait for more than ten seconds is told to try again.
    """
    look(content)
    async with _place():
        found, cost = await anyio.to_thread.run_sync(draw, content)
    log.info(
        "logo decoded",
        verdict=found.reason if isinstance(found, BadPicture) else "drawn",
        status=cost.status,
        cpu_ms=round(cost.cpu_s * 1000),
        wall_ms=round(cost.wall_s * 1000),
        peak_kb=cost.peak >> 10,
    )
    if isinstance(found, BadPicture):
        raise found
    return found


@contextlib.asynccontextmanager
async def _place() -> AsyncIterator[None]:
    places = _turns.places()
    try:
        with anyio.fail_after(WAIT_S):
            await places.acquire()
    except TimeoutError:
        raise BadPicture("slow", _busy()) from None
    try:
        yield
    finally:
        places.release()


def look(content: bytes) -> None:
    """Refuse what need not be opened to be refused: raises BadPicture."""
    if not content:
        raise BadPicture("empty", _("No file was chosen, or the file is empty. Choose your logo."))
    if len(content) > MAX_BYTES:
        raise BadPicture(
            "too_large",
            _(
                "This file is larger than 1 MB. Save your logo smaller (640 pixels wide is plenty) and choose that."
            ),
        )
    if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return
    raise BadPicture("kind", _wrong_kind(content))


def _wrong_kind(content: bytes) -> str:
    kind = _kind(content)
    if kind == "SVG":
        return _(
            "This is an SVG, which can hold scripts. Save it as PNG, at least 64 pixels high, and choose that file."
        )
    if kind == "HTML":
        return _(
            "This is a web page, not a picture. Save the logo itself as PNG, JPEG or WebP and choose that file."
        )
    if kind:
        sentence = _("{kind} files can't be used. Save your logo as PNG, JPEG or WebP and choose that file.")
        return sentence.format(kind=kind)
    return _("This is no picture that we can read. Save your logo as PNG, JPEG or WebP and choose that file.")


_KINDS = (
    (b"GIF8", "GIF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"PK\3\4", "ZIP"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)


def _kind(content: bytes) -> str | None:
    """What it is, going by its first bytes."""
    for start, name in _KINDS:
        if content.startswith(start):
            return name
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12])
    if b"%PDF-" in content[:1024]:
        return "PDF"
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = (
        content[:8192].decode("utf-16" if wide else "latin-1", "replace").removeprefix("ï»¿").lstrip().lower()
    )
    if not text.startswith("<"):
        return None
    if "<html" in text or text.startswith(("<!doctype html", "<script", "<body", "<head")):
        return "HTML"
    return "SVG" if "<svg" in text or "<!doctype svg" in text else None


def draw(content: bytes) -> tuple[Logo | BadPicture, Cost]:
    """The drawing, or why there is none, and what it took: in this thread and without a limit on how many at once."""
    try:
        answer, late, cost = _ask(content)
    except OSError:  # no process to be had
        return BadPicture("slow", _busy()), Cost(0, 0, 0, -1)
    if late:
        return BadPicture("slow", _busy() if late == "start" else _too_slow()), cost
    if cost.status in (-signal.SIGXCPU, -signal.SIGKILL) and len(answer) < _ANSWER:  # the system ended it
        return _refusal("slow"), cost
    try:
        if cost.status:
            raise NotClean("process")
        line, _newline, pictures = answer.partition(b"\n")
        head = dict(word.split("=") for word in line.decode("ascii").split())
        cost = Cost(cost.cpu_s, cost.wall_s, int(head["peak"]), cost.status)
        if "refused" in head:
            return _refusal(head["refused"]), cost
        return _logo(head, pictures), cost
    except (ValueError, KeyError, NotClean):
        return _refusal("broken"), cost


def _ask(content: bytes) -> tuple[bytes, str, Cost]:
    """One process for one picture: its answer, where it was late, and what it used.

    It gets none of our environment and starts from nothing but the interpreter, Pillow and two modules of ours.
    """
    began = time.monotonic()
    child = subprocess.Popen(  # noqa: S603
        _command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"LANG": "C.UTF-8"},
    )
    assert child.stdin
    assert child.stdout
    answer = b""
    with child.stdin, child.stdout:
        with _within(START_S, child) as starting:
            ready = child.stdout.read(len(_READY)) == _READY
        with _within(WALL_S, child) as working:
            if ready:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    child.stdin.write(content)
                    child.stdin.close()
                answer = child.stdout.read(_ANSWER)
            if not ready or len(answer) == _ANSWER:
                child.kill()
            _pid, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    late = "start" if starting.is_set() else "work" if working.is_set() else ""
    cost = Cost(used.ru_utime + used.ru_stime, time.monotonic() - began, 0, child.returncode)
    return answer, late, cost


def _command() -> list[str]:
    """The interpreter alone, told where Pillow is and where we are."""
    spec = find_spec("PIL")
    assert spec
    assert spec.origin
    folders = (str(path.resolve().parents[1]) for path in (Path(spec.origin), Path(__file__)))
    return [sys.executable, "-I", "-S", "-W", "ignore", "-c", _START, *folders]


@contextlib.contextmanager
def _within(seconds: float, child: "subprocess.Popen[bytes]") -> Iterator[Event]:
    """Kill the process when this takes longer, and say so."""
    late = Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()


def _logo(head: dict[str, str], pictures: bytes) -> Logo:
    """What the process says it drew, checked; raises NotClean, ValueError or KeyError."""
    end = int(head["once"])
    once, twice = _picture(pictures[:end], CAP_ONCE), _picture(pictures[end:], CAP_TWICE)
    if once.width > WIDTH or once.height > HEIGHT or end + int(head["twice"]) != len(pictures):
        raise NotClean("size")
    if (twice.width, twice.height) != (2 * once.width, 2 * once.height):
        raise NotClean("size")
    notes = tuple(_note(word, once.height) for word in head["did"].split(","))
    return Logo(once, twice, notes, head["on_light"] == "1", head["on_dark"] == "1")


def _picture(content: bytes, cap: int) -> Picture:
    if len(content) > cap:
        raise NotClean("bytes")
    return Picture(content, sha256(content).hexdigest(), *measured(content))


def _note(word: str, height: int) -> str:
    return {
        "turned": _("Turned upright."),
        "trimmed": _("The empty edge was cut off."),
        "print": _("Its colours were made for printing and may look different on screens."),
        "drawn": _("Drawn {height} pixels high.").format(height=height),
        "kept": _("It is small, so it was not made larger."),
        "colours": _("Reduced to 256 colours."),
    }[word]


def _refusal(reason: str) -> BadPicture:
    sentences = {
        "empty": _("This picture is transparent all over: there is nothing to see. Choose another file."),
        "pixels": _(
            "This picture has more than 4 million pixels. Save it smaller (640 pixels wide is plenty) and choose that."
        ),
        "animated": _("This picture moves. Save one still of it as PNG and choose that file."),
        "slow": _too_slow(),
        "broken": _(
            "This picture can't be read: the file seems damaged. Save it again as PNG and choose that file."
        ),
    }
    return BadPicture(reason, sentences[reason])


def _too_slow() -> str:
    return _(
        "This picture takes too long to read. Save it again as a plain PNG, 640 pixels wide, and choose that file."
    )


def _busy() -> str:
    return _("Other pictures are being read just now. Nothing was changed; try again in a minute.")
