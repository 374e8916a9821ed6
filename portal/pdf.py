"""HTML to PDF, made by WeasyPrint in a process apart, with limits of time and memory and with nothing to fetch.

`Press` is the side that asks. Run as a program, this file is the process that answers: frames on its standard input
and output, so that it ends when the one who started it ends.
"""

import atexit
import base64
import contextlib
import json
import os
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from threading import Lock, Timer
from typing import IO, Any

import anyio
import anyio.to_thread

LOGO = "portal:logo"  # the one name that a document may ask for
WALL_S = 10.0
START_S = 30.0
MEMORY = 512 << 20  # above what the warm process has already
DOCUMENTS = 50  # then a process is replaced: it grows a little with each
WAITING = 32  # more than these in the queue would only be told later


class NotMade(Exception):
    """The document could not be made now: too long, too large, or too many at once. Says which, and nothing else."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What becomes a PDF: whole HTML, its CSS, the bytes of the picture named `LOGO`, and the identifier of the file.

    The same sheet gives the same bytes.
    """

    html: str
    css: str
    identifier: str
    logo: bytes | None = None


class Press:
    """Up to `size` warm processes that make PDFs; one that takes too long or too much memory is killed."""

    def __init__(self, size: int = 2, wall_s: float = WALL_S) -> None:
        self.wall_s = wall_s
        self._size = size
        self._asked = 0
        self._limiter: anyio.CapacityLimiter | None = None
        self._idle: deque[_Process] = deque()
        self._lock = Lock()

    async def make(self, sheet: Sheet) -> bytes:
        """The PDF of a sheet; raises NotMade. Other tasks go on meanwhile."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._size)
        if self._asked >= self._size + WAITING:
            raise NotMade("too many at once")
        self._asked += 1
        try:
            return await anyio.to_thread.run_sync(self.make_now, sheet, limiter=self._limiter)
        finally:
            self._asked -= 1

    def make_now(self, sheet: Sheet) -> bytes:
        """`make`, in this thread."""
        process = self._take()
        try:
            content = process.make(sheet, self.wall_s)
        except NotMade:
            process.end()
            raise
        self._give_back(process)
        return content

    def close(self) -> None:
        """End the processes that have nothing to do."""
        while self._idle:
            self._idle.pop().end()

    def _take(self) -> "_Process":
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.alive:
                    return process
                process.end()
        return _Process()

    def _give_back(self, process: "_Process") -> None:
        with self._lock:
            if process.documents < DOCUMENTS and len(self._idle) < self._size:
                self._idle.append(process)
                return
        process.end()


@cache
def press() -> Press:
    """The press of this process; what it has started ends with it."""
    found = Press()
    atexit.register(found.close)
    return found


class _Process:
    """One child, warm once it has been started. None of our environment reaches it."""

    def __init__(self) -> None:
        self.documents = 0
        self._killed = False
        self._child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-s", "-P", "-W", "ignore", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        )
        try:
            self._ask(None, START_S)
        except NotMade:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        return not self._killed and self._child.poll() is None

    def make(self, sheet: Sheet, seconds: float) -> bytes:
        logo = base64.b64encode(sheet.logo).decode() if sheet.logo else None
        self.documents += 1
        return self._ask(json.dumps(asdict(sheet) | {"logo": logo}).encode(), seconds)

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # what could not be written any more
                    pipe.close()

    def _ask(self, question: bytes | None, seconds: float) -> bytes:
        assert self._child.stdin
        assert self._child.stdout
        timer = Timer(seconds, self._kill)
        timer.daemon = True
        timer.start()
        try:
            if question is not None:
                _write(self._child.stdin, b"?", question)
            verdict, answer = _read(self._child.stdout)
        except (OSError, EOFError):
            raise NotMade("it took too long" if self._killed else "its process ended") from None
        finally:
            timer.cancel()
            timer.join()
        if verdict != b"+":
            raise NotMade(answer.decode())
        return answer

    def _kill(self) -> None:
        self._killed = True
        self._child.kill()


def _write(stream: IO[bytes], mark: bytes, content: bytes) -> None:
    stream.write(mark + struct.pack(">I", len(content)) + content)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[bytes, bytes]:
    head = stream.read(5)
    if len(head) < 5:
        raise EOFError
    (length,) = struct.unpack(">I", head[1:])
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return head[:1], content


def render(sheet: Sheet) -> bytes:
    """The tagged PDF/A-3a of a sheet, in this process and without limits; the program below is where it belongs.

    Whatever HTML and CSS say, nothing is fetched and no file is read: the only picture to be had is the logo.
    """
    from weasyprint import CSS, HTML

    fetcher = _closed(sheet.logo)
    html = HTML(string=sheet.html, url_fetcher=fetcher)
    css = CSS(string=sheet.css, url_fetcher=fetcher)

    # render() and write_pdf() drop in silence what only the other one is given; this call hands it to both.
    content: bytes = html.write_pdf(
        stylesheets=[css],
        pdf_variant="pdf/a-3a",
        pdf_identifier=sheet.identifier.encode(),
    )
    return content


def _closed(logo: bytes | None) -> Any:
    from weasyprint.urls import URLFetcher, URLFetcherResponse

    class Closed(URLFetcher):  # type: ignore[misc]
        """Gives the logo under its name and refuses everything else."""

        def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> URLFetcherResponse:
            if url == LOGO and logo is not None:
                return URLFetcherResponse(url, logo, {"Content-Type": "image/png"})
            raise ValueError("Nothing is fetched for a document.")

    return Closed()


def main() -> None:
    """The program: warm up, accept limits, then answer one sheet after the other until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the frames
    render(Sheet("<html lang='en'><title>-</title><p>0 <b>1</b>", "p { font-family: DejaVu Sans }", "warm"))
    _limit_memory()
    _seal()
    _write(answers, b"+", b"")
    with contextlib.suppress(EOFError):
        while True:
            _, question = _read(sys.stdin.buffer)
            _limit_time()
            _answer(answers, question)


def _answer(answers: IO[bytes], question: bytes) -> None:
    try:
        fields = json.loads(question)
        logo = base64.b64decode(fields["logo"]) if fields["logo"] else None
        content = render(Sheet(**fields | {"logo": logo}))
    except Exception as error:  # the words of an error may hold what the document says
        _write(answers, b"-", type(error).__name__.encode())
    else:
        _write(answers, b"+", content)


def _limit_memory() -> None:
    import resource

    used = 0
    with contextlib.suppress(OSError):  # /proc is Linux's alone
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, used + MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def _limit_time() -> None:
    """Ten more seconds of processor time, should nobody be there to watch the clock."""
    import resource

    spent = resource.getrusage(resource.RUSAGE_SELF)
    most = int(spent.ru_utime + spent.ru_stime + WALL_S) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


_REFUSED = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "urllib.",
)


def _seal() -> None:
    """A second wall behind the closed fetcher: no socket, no program, no file but the program's own to read."""
    own = tuple({str(Path(folder).resolve()) for folder in (sys.prefix, sys.base_prefix, *_library())})

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(event)
        if event == "open" and not isinstance(args[0], int):
            path = os.path.normpath(os.fsdecode(args[0]))
            if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or not path.startswith(own):
                raise PermissionError(event)

    sys.addaudithook(refuse)


def _library() -> list[str]:
    import sysconfig

    return [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


if __name__ == "__main__":
    main()
