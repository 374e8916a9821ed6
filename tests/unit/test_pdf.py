"""The press: what it makes, what it refuses to fetch, and how it ends what does not end."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import product
from pathlib import Path

import pikepdf
import pytest
from PIL import Image

from portal import pdf
from portal.pdf import NotMade, Press, Sheet

CANARY = "canary-4f0c2b"
CSS = '@page { size: A4; margin: 1cm } html { font: 10pt "DejaVu Sans" }'


@pytest.fixture(scope="module")
def press() -> Iterator[Press]:
    press = Press(
        size=1, wall_s=60
    )  # so that a busy machine fails nothing; processor time is limited all the same
    yield press
    press.close()


def page(body: str = "<h1>Receipt</h1><p>Thank you.</p>", head: str = "") -> str:
    return f"<!doctype html><html lang='en'><head><title>Receipt 1</title>{head}</head><body>{body}</body></html>"


def png(colour: str = "green") -> bytes:
    out = BytesIO()
    Image.new("RGB", (64, 16), colour).save(out, "PNG")
    return out.getvalue()


def opened(content: bytes) -> pikepdf.Pdf:
    return pikepdf.open(BytesIO(content))


def inflated(content: bytes) -> bytes:
    """All objects and streams of a file, so that one can search it."""
    found = [content]
    for thing in opened(content).objects:
        if isinstance(thing, pikepdf.Stream):
            with_filters = thing.read_raw_bytes()
            try:
                found.append(thing.read_bytes())
            except pikepdf.PdfError:
                found.append(with_filters)
        else:
            found.append(repr(thing).encode())
    return b"\n".join(found)


def pictures(document: pikepdf.Pdf) -> int:
    return sum(
        isinstance(thing, pikepdf.Stream) and thing.get("/Subtype") == "/Image" for thing in document.objects
    )


def test_is_tagged_pdf_a_3a(press: Press) -> None:
    document = opened(press.make_now(Sheet(page(), CSS, "one")))
    root = document.Root
    assert root.OutputIntents[0].S == "/GTS_PDFA1"
    assert root.MarkInfo.Marked
    assert str(root.StructTreeRoot.K[0].S) == "/Document"
    assert str(root.Lang) == "en"
    assert str(document.docinfo.Title) == "Receipt 1"
    with document.open_metadata() as metadata:
        assert metadata["pdfaid:part"] == "3"
        assert metadata["pdfaid:conformance"] == "A"
    assert not document.is_encrypted


def test_the_same_sheet_gives_the_same_bytes_in_any_process() -> None:
    sheet = Sheet(page("<img src='portal:logo' alt='Acme'>"), CSS, "portal-1", png())
    made = []
    for _ in range(2):
        press = Press(size=1)
        made += [press.make_now(sheet), press.make_now(sheet)]
        press.close()
    assert len(set(made)) == 1


def test_the_logo_is_the_one_picture_to_be_had(press: Press) -> None:
    with_logo = opened(press.make_now(Sheet(page("<img src='portal:logo' alt='Acme'>"), CSS, "1", png())))
    without = opened(press.make_now(Sheet(page("<img src='portal:other' alt='Acme'>"), CSS, "1", png())))
    assert pictures(with_logo) == 1
    assert pictures(without) == 0


# Every way in which HTML and CSS can ask for something, filled with every way to say where it is.

HTML_WAYS = [
    "<img src='{url}' alt='x'>",
    "<img srcset='{url} 2x' src='{url}' alt='x'>",
    "<object data='{url}'>x</object>",
    "<embed src='{url}'>",
    "<iframe src='{url}'></iframe>",
    "<svg xmlns='http://www.w3.org/2000/svg'><image href='{url}' width='9' height='9'/></svg>",
    "<svg xmlns='http://www.w3.org/2000/svg'><use href='{url}#a'/></svg>",
    "<svg xmlns='http://www.w3.org/2000/svg'><style>@import '{url}';</style><rect width='9' height='9'/></svg>",
    "<p style=\"background: url('{url}')\">x</p>",
    "<p style=\"content: url('{url}')\">x</p>",
    "<ul><li style=\"list-style-image: url('{url}')\">x</li></ul>",
    "<table background='{url}'><tr><td>x</td></tr></table>",
]
HEAD_WAYS = [
    "<link rel='stylesheet' href='{url}'>",
    "<link rel='attachment' href='{url}' title='x'>",
    "<link rel='icon' href='{url}'>",
    "<base href='{url}'><link rel='stylesheet' href='a.css'>",
    "<style>@import url('{url}');</style>",
    "<style>@import '{url}';</style>",
    "<style>@font-face {{ font-family: X; src: url('{url}') }} p {{ font-family: X }}</style>",
    "<meta http-equiv='refresh' content='0; url={url}'>",
]
CSS_WAYS = [
    "@import url('{url}');",
    "@import '{url}' print;",
    "@font-face {{ font-family: X; src: url('{url}'), local('x') }} p {{ font-family: X }}",
    "p {{ background-image: url('{url}') }}",
    "p {{ background: image-set('{url}' 1x) }}",
    "p::before {{ content: url('{url}') }}",
    "li {{ list-style: url('{url}') }}",
    "p {{ border-image: url('{url}') 30 }}",
    "p {{ mask: url('{url}') }}",
    "@color-profile device-cmyk {{ src: url('{url}') }} p {{ color: device-cmyk(0 0 0 1) }}",
    "@page {{ background: url('{url}') }}",
    "@page {{ @top-left {{ content: url('{url}') }} }}",
]


class Canary:
    """A listening socket that counts who comes, and a file whose words must turn up nowhere."""

    def __init__(self, folder: Path) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)
        self.port = self.listening.getsockname()[1]
        self.file = folder / f"{CANARY}.txt"
        self.file.write_text(f"{CANARY}-content")

    def places(self) -> list[str]:
        at = f"127.0.0.1:{self.port}"
        return [
            f"http://{at}/a",
            f"HTTP://{at}/a",
            f"http://x@{at}/a",
            f"http://2130706433:{self.port}/a",
            f"http://[::ffff:127.0.0.1]:{self.port}/a",
            f"https://{at}/a",
            f"ftp://{at}/a",
            f"//{at}/a",
            f"file://{self.file}",
            f"FILE://localhost{self.file}",
            str(self.file),
            "data:text/css,p%7Bcolor:red%7D",
        ]

    def visits(self) -> int:
        seen = 0
        while True:
            try:
                connection, _ = self.listening.accept()
            except BlockingIOError:
                return seen
            connection.close()
            seen += 1


@contextmanager
def canary(folder: Path) -> Iterator[Canary]:
    found = Canary(folder)
    try:
        yield found
    finally:
        found.listening.close()


def hostile(place: str) -> Sheet:
    """One document that asks for this place in every way that does not end the rendering at once."""

    def filled(ways: list[str]) -> str:
        return "\n".join(
            way.format(url=place)
            for way in ways
            if "@color-profile" not in way and (":" in place.split("/")[0] or "@import" not in way)
        )

    return Sheet(page(filled(HTML_WAYS), filled(HEAD_WAYS)), filled(CSS_WAYS) + CSS, "hostile")


def test_the_canary_sees_who_comes(tmp_path: Path) -> None:
    with canary(tmp_path) as watching:
        socket.create_connection(("127.0.0.1", watching.port)).close()
        assert watching.visits() == 1


def test_fetcher_alone_lets_nothing_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, so that only the fetcher stands in the way: each way with each place, one by one."""
    from weasyprint.css import InvalidValues
    from weasyprint.urls import URLFetcher, URLFetchingError

    let_through: list[str] = []
    monkeypatch.setattr(URLFetcher, "fetch", lambda self, url, headers=None: let_through.append(url))
    with canary(tmp_path) as watching, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways = [
            *((way, "", "") for way in HTML_WAYS),
            *(("", way, "") for way in HEAD_WAYS),
            *(("", "", way) for way in CSS_WAYS),
        ]
        tried = 0
        for (body, head, css), place in product(ways, watching.places()):
            sheet = Sheet(
                page(body.format(url=place) + "<p>x</p>", head.format(url=place)),
                css.format(url=place) + CSS,
                "1",
            )
            with suppress(
                URLFetchingError, InvalidValues
            ):  # a document that is not made leaks nothing either
                assert f"{CANARY}-content".encode() not in inflated(pdf.render(sheet))
            tried += 1
        assert watching.visits() == 0
    assert let_through == []
    assert tried >= 350


def test_process_fetches_and_reads_nothing(press: Press, tmp_path: Path) -> None:
    with canary(tmp_path) as watching:
        for place in watching.places():
            content = press.make_now(hostile(place))
            text = inflated(content)
            assert f"{CANARY}-content".encode() not in text
            assert b"/EmbeddedFiles" not in text
        assert watching.visits() == 0


def test_sealed_process_opens_no_socket_and_no_foreign_file(tmp_path: Path) -> None:
    """The second wall, by itself: what would happen if something did get past the fetcher."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    attempts = [
        f"open({str(secret)!r}).read()",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "open('/etc/passwd').read()",
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1/')",
    ]
    script = (
        "from portal import pdf\npdf._seal()\nrefused = 0\n"
        + "".join(f"try:\n    {one}\nexcept PermissionError:\n    refused += 1\n" for one in attempts)
        + "print(refused)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(len(attempts)), done.stderr
    assert not (tmp_path / "new").exists()


def test_what_does_not_end_is_killed_and_the_next_document_is_made() -> None:
    endless = Sheet(page("<p>" + "word " * 400_000 + "</p>"), CSS, "1")
    press = Press(size=1, wall_s=1.0)
    try:
        press.make_now(Sheet(page(), CSS, "1"))
        pid = press._idle[0]._child.pid
        started = time.monotonic()
        with pytest.raises(NotMade, match="too long"):
            press.make_now(endless)
        assert time.monotonic() - started < 4
        assert not Path(f"/proc/{pid}").exists()
        press.wall_s = 10
        assert press.make_now(Sheet(page(), CSS, "1")).startswith(b"%PDF-")
    finally:
        press.close()


def empty_png(width: int, height: int) -> bytes:
    """A small file that is width x height x 4 bytes when unpacked."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    packer = zlib.compressobj(1)
    row = bytes(1 + 4 * width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_memory_has_an_end() -> None:
    """A picture that is a few hundred kilobytes, and more than half a gigabyte once it is unpacked."""
    logo = empty_png(15_000, 9_500)
    assert len(logo) < 4 << 20
    press = Press(size=1, wall_s=60)
    try:
        with pytest.raises(NotMade, match=r"MemoryError|its process ended"):
            press.make_now(Sheet(page("<img src='portal:logo' alt='x'>"), CSS, "1", logo))
        assert press.make_now(Sheet(page(), CSS, "1")).startswith(b"%PDF-")
    finally:
        press.close()


def test_limits_stand_in_the_process(press: Press) -> None:
    press.make_now(Sheet(page(), CSS, "1"))
    pid = press._idle[0]._child.pid
    limits = {
        line[:25].strip(): line[25:].split()[0]
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    }
    assert int(limits["Max address space"]) <= pdf.MEMORY + (400 << 20)
    assert int(limits["Max cpu time"]) <= 60
    assert limits["Max file size"] == "0"
    assert limits["Max core file size"] == "0"


def test_nothing_of_our_environment_reaches_the_process(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_MASTER_KEYS", CANARY)
    fresh = Press(size=1)
    try:
        fresh.make_now(Sheet(page(), CSS, "1"))
        environment = Path(f"/proc/{fresh._idle[0]._child.pid}/environ").read_bytes()
    finally:
        fresh.close()
    assert CANARY.encode() in os.environ["PORTAL_MASTER_KEYS"].encode()
    assert CANARY.encode() not in environment


async def _beats_while(press: Press, sheet: Sheet) -> tuple[int, bytes]:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    content = await press.make(sheet)
    beating.cancel()
    return beats, content


def test_the_event_loop_goes_on_meanwhile(press: Press) -> None:
    long = Sheet(page("<p>" + "word " * 20_000 + "</p>"), CSS, "1")
    beats, content = asyncio.run(_beats_while(press, long))
    assert content.startswith(b"%PDF-")
    assert beats > 10


def test_a_crowd_is_served_in_turn_and_too_large_a_one_is_told() -> None:
    async def crowd(press: Press, many: int) -> list[bytes | BaseException]:
        sheets = [press.make(Sheet(page(), CSS, "1")) for _ in range(many)]
        return await asyncio.gather(*sheets, return_exceptions=True)

    press = Press(size=2)
    try:
        answers = asyncio.run(crowd(press, pdf.WAITING + 12))
        assert len(press._idle) <= 2
    finally:
        press.close()
    made = [one for one in answers if isinstance(one, bytes)]
    assert len(set(made)) == 1
    assert len(made) >= pdf.WAITING
    assert all(isinstance(one, NotMade) for one in answers if not isinstance(one, bytes))
    assert len(made) < len(answers)


def test_a_process_that_died_meanwhile_is_replaced() -> None:
    press = Press(size=1)
    try:
        press.make_now(Sheet(page(), CSS, "1"))
        press._idle[0]._child.kill()
        press._idle[0]._child.wait()
        assert press.make_now(Sheet(page(), CSS, "1")).startswith(b"%PDF-")
    finally:
        press.close()


def test_a_process_is_replaced_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "DOCUMENTS", 2)
    press = Press(size=1)
    try:
        press.make_now(Sheet(page(), CSS, "1"))
        assert len(press._idle) == 1
        press.make_now(Sheet(page(), CSS, "1"))
        assert len(press._idle) == 0
    finally:
        press.close()


def test_an_error_names_its_kind_and_nothing_of_the_document(press: Press) -> None:
    secret = "4242 4242"
    with pytest.raises(NotMade) as raised:
        press.make_now(Sheet(page(secret), 4242_4242, "1"))  # type: ignore[arg-type]
    assert str(raised.value) in ("TypeError", "AttributeError")
