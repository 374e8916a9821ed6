"""Writes `.env.example` out of the settings: `python -m portal.env_example > .env.example`."""

import json
import sys
from textwrap import wrap
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from portal.settings import Settings

_HEAD = """\
# Every setting of Portal with its default. A line counts when its # is gone.
# Made by: python -m portal.env_example > .env.example
"""


def text() -> str:
    """The whole file."""
    return "\n".join([_HEAD, *(_entry(name, field) for name, field in Settings.model_fields.items())])


def _entry(name: str, field: FieldInfo) -> str:
    prefix = Settings.model_config["env_prefix"]
    words = [f"# {line}" for line in wrap(field.description or "", 100)]
    return "\n".join([*words, f"#{prefix}{name.upper()}={_value(field)}", ""])


def _value(field: FieldInfo) -> str:
    default: Any = field.default
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return default if isinstance(default, str) else json.dumps(default)


if __name__ == "__main__":
    sys.stdout.write(text())
