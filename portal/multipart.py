"""Forms that carry a picture. What is typed is kept even where the picture is too big: its bytes are let go as they
arrive, and the form can be shown again as it was."""

from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

MOST_FIELDS, MOST_TEXT = 40, 20_000
IN_MEMORY = 1024 * 1024  # of a file that is large by its nature; what is more lies on the disk meanwhile


@dataclass(slots=True)
class Upload:
    """A file of a form. Of one that was `too_large`, `content` is the beginning: one byte more than is taken. Where it
    was asked for, the bytes are in `file` instead, which the caller closes."""

    filename: str
    content: bytes = b""
    too_large: bool = False
    file: IO[bytes] | None = None
    size: int = 0


@dataclass(slots=True)
class Form:
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)

    def text(self, name: str, most: int = 200) -> str:
        return self.fields.get(name, "").strip()[:most]

    def file(self, name: str) -> Upload | None:
        """The file of a field; None where none was chosen."""
        found = self.files.get(name)
        return found if found and (found.filename or found.size or found.too_large) else None

    def close(self) -> None:
        """Let the files go that lie on the disk."""
        for upload in self.files.values():
            if upload.file is not None:
                upload.file.close()


async def read_form(request: Request, most: int, on_disk: bool = False) -> Form:
    """A form with files of up to `most` bytes each. HTTPException 400 where it is none, 413 where it is too much."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        plain = await request.form(max_files=0, max_fields=MOST_FIELDS)
        return Form({name: value for name, value in plain.items() if isinstance(value, str)})
    boundary = options.get(b"boundary")
    if not boundary:
        raise HTTPException(400)
    parts = _Parts(most, on_disk)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": parts.begin,
            "on_part_data": parts.data,
            "on_part_end": parts.end,
            "on_header_field": parts.header_name,
            "on_header_value": parts.header_value,
            "on_header_end": parts.header_end,
            "on_headers_finished": parts.headers_done,
        },
    )
    try:
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError:
        parts.form.close()
        raise HTTPException(400) from None
    except BaseException:
        parts.form.close()
        raise
    return parts.form


class _Parts:
    """What the parser calls: collects texts, and files up to their limit."""

    def __init__(self, most: int, on_disk: bool = False) -> None:
        self.form = Form()
        self._most = most
        self._on_disk = on_disk
        self._name, self._value = b"", b""
        self._disposition = b""
        self._field = ""
        self._text: bytearray | None = None
        self._file: Upload | None = None
        self._bytes = bytearray()

    def begin(self) -> None:
        self._disposition, self._text, self._file = b"", None, None
        self._bytes = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def headers_done(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        if len(self.form.fields) + len(self.form.files) >= MOST_FIELDS:
            raise HTTPException(413)
        if b"filename" in options:
            self._file = Upload(options[b"filename"].decode("utf-8", "replace")[:200])
            if self._on_disk and self._field not in self.form.files:
                self._file.file = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (handed over)
                self.form.files[self._field] = self._file  # so that it is closed, whatever happens
        else:
            self._text = bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            if self._file.too_large:
                return
            self._file.size += end - start
            if self._on_disk:
                self._keep(self._file, data[start:end])
                return
            self._bytes += data[start:end]
            if len(self._bytes) > self._most:
                self._file.too_large = True
                del self._bytes[self._most + 1 :]
        elif self._text is not None:
            self._text += data[start:end]
            if len(self._text) > MOST_TEXT:
                raise HTTPException(413)

    def _keep(self, upload: Upload, piece: bytes) -> None:
        if upload.size > self._most:
            upload.too_large = True
        elif upload.file is not None:
            upload.file.write(piece)

    def end(self) -> None:
        if self._file is not None:
            self._file.content = bytes(self._bytes)
            self.form.files.setdefault(self._field, self._file)
        elif self._text is not None:
            self.form.fields.setdefault(self._field, self._text.decode("utf-8", "replace"))
