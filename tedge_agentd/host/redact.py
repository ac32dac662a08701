"""Keep passwords and private keys out of everything that is said aloud.

Two rules: the value of a key that names a secret is never shown, at any depth; and no text is shown that holds a PEM
private key, whole or cut off. A key that names where a secret is (`password_file`, `key_file`) is no secret.
"""

import dataclasses
import enum
import os
import re
from collections.abc import Iterable, Mapping

REDACTED = "[redacted]"
DEPTH = 8  # levels of nesting that are shown

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]

_SECRET = re.compile(
    r"(?:^|_)(?:passwords?|passwd|passphrases?|secrets?|tokens?|credentials?|pins?|pem|"
    r"private_keys?|key_(?:pem|material|bytes|der|data))$"
)
_BEGIN = r"-----BEGIN[^-]{0,40}PRIVATE KEY[^-]{0,40}-----"
_END = r"-----END[^-]{0,40}PRIVATE KEY[^-]{0,40}-----"
_WHOLE = re.compile(rf"{_BEGIN}.*?(?:{_END}|\Z)", re.DOTALL | re.IGNORECASE)
_TAIL = re.compile(rf"\A.*{_END}", re.DOTALL | re.IGNORECASE)
_MARK = re.compile(rf"{_BEGIN}|{_END}", re.IGNORECASE)


def names_secret(key: object) -> bool:
    """Whether a value of this name is a secret: `password`, `key_pin`, `privateKey`; not `key_file`, `key_type`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _text(key))
    return _SECRET.search(re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")) is not None


def redact(value: object, depth: int = DEPTH) -> Plain:
    """Return a value as plain data without secrets; what is unknown as its scrubbed repr, binary as its size."""
    match value:
        case enum.Enum():
            return redact(value.value, depth - 1)
        case None | bool() | int() | float():
            return value
        case str() | bytes() | bytearray() | memoryview() | os.PathLike() | BaseException():
            return scrub(_text(value))
    if depth <= 0:
        return "..."
    if isinstance(value, Mapping):
        return _fields(value.items(), depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)), depth)
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return _fields(zip(value._fields, value, strict=True), depth)
    if isinstance(value, list | tuple | set | frozenset):
        if any(isinstance(item, str | bytes) and _MARK.search(_text(item)) for item in value):
            return REDACTED  # a PEM file as lines: each of them is a part of the key
        return [redact(item, depth - 1) for item in value]
    return scrub(_text(value))


def scrub(text: str) -> str:
    """Return text without private keys; one that is cut off takes the rest of the text with it."""
    if not _MARK.search(text):
        return text
    return _TAIL.sub(REDACTED, _WHOLE.sub(REDACTED, text))


def _fields(items: Iterable[tuple[object, object]], depth: int) -> dict[str, Plain]:
    return {scrub(_text(name)): REDACTED if names_secret(name) else redact(value, depth - 1) for name, value in items}


def _text(value: object) -> str:
    """Return any value as text, whatever its methods do."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return f"<{len(data)} bytes>"
    try:
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
