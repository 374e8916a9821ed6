"""gettext for texts that are written in Python: the locale is that of the portal being served."""

import tomllib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from gettext import NullTranslations, translation
from pathlib import Path
from typing import IO, Any

_FOLDER = Path(__file__).parent / "locale"
locale: ContextVar[str] = ContextVar("locale", default="en")


@cache
def translations(name: str) -> NullTranslations:
    """The catalogue of a locale; English stands in the source."""
    return translation("portal", _FOLDER, [name.replace("-", "_")], fallback=True)


def gettext(text: str) -> str:
    """The text in the locale of the portal being served, or of the mail being written."""
    return translations(locale.get()).gettext(text)


def ngettext(one: str, many: str, n: int) -> str:
    """The same for a text that counts."""
    return translations(locale.get()).ngettext(one, many, n)


def extract_facts(
    fileobj: IO[bytes], keywords: object, comment_tags: object, options: object
) -> Iterator[tuple[int, str, str, list[str]]]:
    """For `pybabel extract`: what people read of a fact table. Customers read steps and the reasons why not, merchants
    what is asked for and what may be switched on."""
    table = tomllib.load(fileobj)
    for asked in (*table["credentials"], *table.get("options", {}).values(), *table.get("files", [])):
        yield from ((1, "gettext", asked[name], []) for name in ("label", "help"))
    for capability in table["capabilities"].values():
        shapes: list[dict[str, Any]] = [capability, *capability.get("when", [])]
        for shape in shapes:
            texts = list(shape.get("steps", []))
            if shape is not capability and shape.get("mode") == "none" and shape.get("note"):
                texts.append(shape["note"])
            yield from ((1, "gettext", text, []) for text in texts)
