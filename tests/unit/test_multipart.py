"""Forms with a picture: what is typed survives a picture that is too big, however it arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from portal.multipart import MOST_FIELDS, read_form

MOST = 1000


async def echo(request: Request) -> Response:
    form = await read_form(request, MOST)
    return JSONResponse(
        {
            "fields": form.fields,
            "files": {
                name: {"filename": file.filename, "size": len(file.content), "large": file.too_large}
                for name, file in form.files.items()
            },
            "chosen": form.file("logo") is not None,
        }
    )


client = TestClient(Starlette(routes=[Route("/", echo, methods=["POST"])]), raise_server_exceptions=False)


def post(data: dict[str, str], files: dict[str, tuple[str, bytes]]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = client.post("/", data=data, files=files).json()
    return found


def test_texts_and_a_file() -> None:
    found = post({"name": " Acme ☕ ", "domain": ""}, {"logo": ("a.png", b"x" * MOST)})
    assert found["fields"] == {"name": " Acme ☕ ", "domain": ""}
    assert found["files"] == {"logo": {"filename": "a.png", "size": MOST, "large": False}}


def test_a_file_that_is_too_big_is_let_go_and_the_texts_stay() -> None:
    found = post({"name": "Acme"}, {"logo": ("big.png", b"x" * 500_000)})
    assert found["fields"] == {"name": "Acme"}
    assert found["files"] == {"logo": {"filename": "big.png", "size": MOST + 1, "large": True}}


def test_a_field_without_a_chosen_file_is_none() -> None:
    assert post({"name": "Acme"}, {"logo": ("", b"")})["chosen"] is False  # type: ignore[comparison-overlap]


def test_a_plain_form_is_read_too() -> None:
    assert client.post("/", data={"name": "Acme"}).json()["fields"] == {"name": "Acme"}


@given(st.binary(max_size=3000), st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_whatever_bytes_a_file_has_they_arrive(content: bytes, name: str) -> None:
    found = post({"name": name}, {"logo": ("a", content)})
    assert found["files"]["logo"]["size"] == min(len(content), MOST + 1)  # type: ignore[index]


@pytest.mark.parametrize(
    "body",
    [b"", b"--x", b"--x\r\nContent-Disposition: form-data; name=a\r\n", b"nonsense", b"--x--\r\nmore"],
)
def test_what_is_no_form_is_refused_or_empty(body: bytes) -> None:
    answer = client.post("/", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json()["files"] == {}
    assert client.post("/", content=body, headers={"Content-Type": "multipart/form-data"}).status_code == 400


def test_too_many_fields_and_too_long_texts_are_refused() -> None:
    many = {f"f{number}": "x" for number in range(MOST_FIELDS + 1)}
    assert client.post("/", data=many, files={"logo": ("a", b"x")}).status_code == 413
    assert client.post("/", data={"a": "x" * 30_000}, files={"logo": ("a", b"x")}).status_code == 413


async def on_disk(request: Request) -> Response:
    form = await read_form(request, MOST, on_disk=True)
    found = form.file("file")
    assert found is not None
    assert found.file is not None
    found.file.seek(0)
    told = {
        "size": found.size,
        "large": found.too_large,
        "kept": len(found.file.read()),
        "text": form.text("a"),
    }
    form.close()
    assert found.file.closed
    return JSONResponse(told)


def test_a_file_that_is_large_by_its_nature_lies_on_the_disk() -> None:
    app = Starlette(routes=[Route("/", on_disk, methods=["POST"])])
    with TestClient(app) as there:
        fits = there.post("/", data={"a": "b"}, files={"file": ("a.csv", b"x" * MOST)}).json()
        large = there.post("/", data={"a": "b"}, files={"file": ("a.csv", b"x" * 300_000)}).json()
    assert fits == {"size": MOST, "large": False, "kept": MOST, "text": "b"}
    assert (large["large"], large["text"]) == (True, "b")
    assert large["kept"] <= MOST
