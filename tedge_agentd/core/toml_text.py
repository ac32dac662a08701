"""How keys and values of a TOML file are shown to an operator: escaped, bounded, and safe to paste into a shell."""

import re

from .config_keys import Path

_LONGEST = 120  # characters of a foreign value in a message: enough to recognise a path, bounded for the journal
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHELL_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def shown(text: str) -> str:
    """Foreign text for a message: nothing unprintable is left that could forge a line or a terminal code."""
    return printable(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")


def printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def quoted(text: str) -> str:
    """Foreign text as TOML would quote it."""
    return '"' + shown(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def dotted(path: Path) -> str:
    """A key as an operator writes it: mqtt.external.cert_file, with quotes around parts that need them."""
    return shown(".".join(part if _BARE.fullmatch(part) else quoted(part) for part in path))


def shell_word(text: str) -> str | None:
    """Text as one word of a shell command, None where it cannot be shown faithfully: nobody shall paste a guess."""
    if len(text) > _LONGEST or not text.isprintable():
        return None
    return text if _SHELL_SAFE.fullmatch(text) else "'" + text.replace("'", "'\"'\"'") + "'"


def described(value: object) -> str:
    """A value of TOML with its type, in words: the text "8883", the whole number 99999, a table."""
    if isinstance(value, bool):
        return f"the flag {str(value).lower()}"
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, int):
        return f"the whole number {shown(str(value))}"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else f"the date or time {value}"


def scalar_text(value: object) -> str | None:
    """A value as it is typed after `config set KEY`; None for what cannot be: tables, lists, dates."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int) else None
