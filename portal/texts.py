"""gettext for texts that are written in Python: the locale is that of the portal being served."""

from contextvars import ContextVar
from functools import cache
from gettext import NullTranslations, translation
from pathlib import Path

_FOLDER = Path(__file__).parent / "locale"
locale: ContextVar[str] = ContextVar("locale", default="en")


@cache
def translations(name: str) -> NullTranslations:
    """The catalogue of a locale; English stands in the source."""
    return translation("portal", _FOLDER, [name.replace("-", "_")], fallback=True)


def gettext(text: str) -> str:
    """The text in the locale of the portal being served, or of the mail being written."""
    return translations(locale.get()).gettext(text)
