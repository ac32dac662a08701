"""Values of the keys: checked as tedge checks them, and then for what the broker and the file system take.

Three questions, kept apart because they have different answers: would tedge read this (`from_toml`), would
`tedge config set` take it (`from_text`), may it go into a broker's configuration or be a path of ours (`objection`).
"""

import ipaddress
import re

from .config_keys import Kind
from .model import IPAddress
from .toml_text import described, quoted

Value = bool | int | str | IPAddress

_U16 = range(1 << 16)
_SEGMENTS = 4  # of an entity topic identifier
_TIME_FORMATS = {"rfc-3339": "rfc-3339", "rfc3339": "rfc-3339", "unix": "unix"}
# humantime 2.2, which tedge uses; its later versions add fractions.
_DURATION = re.compile(r"\s*(?:[0-9]+(?:\.[0-9]+)?\s*(?:[a-zA-Z]+|µs)\s*)+")
_INTERFACE = re.compile(r"[A-Za-z0-9._:@-]{1,15}")  # IFNAMSIZ - 1; what the kernel and the broker's parser both take
_LONGEST_PATH = 4095  # PATH_MAX counts the final NUL
_TIDY = re.compile(r"/(?:\.?/)+")


class WrongValueError(ValueError):
    """tedge does not read or take the value; the text says why, without naming the key."""


# From the file ----------------------------------------------------------------------------------------------


def from_toml(kind: Kind, value: object) -> Value:
    """Return the value as its type. WrongValueError: tedge rejects the whole file because of it."""
    match kind:
        case Kind.FLAG:
            if isinstance(value, bool):
                return value
        case Kind.PORT | Kind.PORT_OR_ZERO:
            if type(value) is int and value in _U16 and (value or kind is Kind.PORT_OR_ZERO):
                return value
        case Kind.DURATION:
            if type(value) is int and value >= 0:
                return value
            if isinstance(value, str) and _is_duration(value):
                return value
        case _:
            if isinstance(value, str):
                return _from_string(kind, value)
    raise WrongValueError(f"{described(value)}; tedge expects {kind.value}")


def _from_string(kind: Kind, text: str) -> Value:
    try:
        if kind is Kind.ADDRESS:
            return address(text)
        if kind is Kind.TOPIC_ID:
            return topic_id(text)
        if kind is Kind.TIME_FORMAT:
            return time_format(text)
    except WrongValueError as error:
        raise WrongValueError(f"{described(text)}; tedge expects {kind.value} ({error})") from None
    return text


def address(text: str) -> IPAddress:
    """An address as Rust's IpAddr takes it, which unlike Python's knows no zone (facts/thin-edge.md 2)."""
    try:
        if "%" not in text:
            return ipaddress.ip_address(text)
    except ValueError:
        pass
    raise WrongValueError("invalid IP address syntax")


def topic_id(text: str) -> str:
    """An entity topic identifier, filled up to four segments as tedge does."""
    missing = _SEGMENTS - 1 - text.count("/")
    if missing < 0:
        raise WrongValueError("An entity topic identifier has at most 4 segments")
    if any(char in text for char in "+#\0"):
        raise WrongValueError("An entity topic identifier must be a valid MQTT topic")
    return text + "/" * missing


def time_format(text: str) -> str:
    """How a time is written, under the name that tedge stores it by."""
    if text not in _TIME_FORMATS:
        raise WrongValueError(f"Failed to parse flag: {text}. Supported values are: 'rfc-3339' or 'unix'")
    return _TIME_FORMATS[text]


def _is_duration(text: str) -> bool:
    return bool(_DURATION.fullmatch(text)) or (text.isascii() and text.isdigit())


# From the command line --------------------------------------------------------------------------------------


def from_text(kind: Kind, text: str) -> Value:
    """Return what `tedge config set` would store. WrongValueError: the last cause that it would print.

    Stricter in one point: a relative path is refused, where tedge silently takes the current directory for its start.
    """
    match kind:
        case Kind.FLAG:
            if text in {"true", "false"}:
                return text == "true"
            raise WrongValueError("provided string was not `true` or `false`")
        case Kind.PORT | Kind.PORT_OR_ZERO:
            return _port(text, zero=kind is Kind.PORT_OR_ZERO)
        case Kind.ADDRESS:
            return address(text)
        case Kind.TOPIC_ID:
            return topic_id(text)
        case Kind.TIME_FORMAT:
            return time_format(text)
        case Kind.DURATION:
            if _is_duration(text):
                return text
            raise WrongValueError(f"expected {Kind.DURATION.value}")
        case Kind.PATH:
            return _tidied(text)
        case _:
            return text


def _port(text: str, *, zero: bool) -> int:
    """Rust's parse of an integer, which reads from the left: an overflow is told before a later wrong digit."""
    if not text:
        raise WrongValueError("cannot parse integer from empty string")
    digits = text[1:] if text.startswith("+") else text
    number = 0
    for char in digits:
        if char not in "0123456789":
            raise WrongValueError("invalid digit found in string")
        number = number * 10 + int(char)
        if number not in _U16:
            raise WrongValueError("number too large to fit in target type")
    if not digits:
        raise WrongValueError("invalid digit found in string")
    if not number and not zero:
        raise WrongValueError("number would be zero for non-zero type")
    return number


def _tidied(path: str) -> str:
    """An absolute path without empty and `.` parts and without a slash at the end, as tedge stores it."""
    if not path.startswith("/"):
        raise WrongValueError("an absolute path is needed, beginning with /")
    tidy = _TIDY.sub("/", path)
    return tidy.removesuffix("/.").rstrip("/") or "/"


# For the broker and for ourselves ---------------------------------------------------------------------------


def objection(kind: Kind, value: Value) -> str | None:
    """Why a value that tedge takes cannot be used; None if it can.

    Mosquitto's configuration is read by lines and knows no quoting, so that a value must be refused, never escaped
    (facts/mosquitto.md 10).
    """
    if kind is Kind.PORT_OR_ZERO:
        return None if value else "0 is no port a broker can listen on"
    if not isinstance(value, str) or kind is Kind.DURATION:
        return None
    unfit = _unfit_character(value)
    if unfit is not None:
        return unfit
    match kind:
        case Kind.PATH:
            return _path_objection(value)
        case Kind.INTERFACE:
            if not _INTERFACE.fullmatch(value) or value in {".", ".."}:
                return f"{quoted(value)} is no name of a network interface"
        case Kind.HOST:
            if not value or any(char.isspace() for char in value):
                return f"{quoted(value)} is no host"
        case Kind.TOPIC_ROOT:
            if not value or "+" in value or "#" in value:
                return f"{quoted(value)} is no MQTT topic"
    return None


def _unfit_character(text: str) -> str | None:
    """What the broker's own check of texts rejects: control characters, surrogates and non-characters."""
    for char in text:
        code = ord(char)
        control = code < 0x20 or 0x7F <= code < 0xA0
        if control or 0xD800 <= code < 0xE000 or 0xFDD0 <= code < 0xFDF0 or code & 0xFFFE == 0xFFFE:
            return f"{quoted(text)} contains the character U+{code:04X}, which no setting may"
    return None


def _path_objection(path: str) -> str | None:
    if not path.startswith("/"):
        return f"{quoted(path)} is not an absolute path"
    if path != path.strip():
        return f"{quoted(path)} begins or ends with a space"
    if ".." in path.split("/"):
        return f"{quoted(path)} contains `..`"
    if len(path.encode("utf-8")) > _LONGEST_PATH:
        return f"the path is longer than {_LONGEST_PATH} bytes"
    return None


# Back again -------------------------------------------------------------------------------------------------


def to_text(value: Value) -> str:
    """A value as `tedge config get` prints it and, an address, as tedge stores it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ipaddress.IPv6Address) and value.ipv4_mapped is not None:
        return f"::ffff:{value.ipv4_mapped}"  # Rust's form; Python before 3.13 writes hexadecimal digits
    return str(value)


def to_toml(value: Value) -> bool | int | str:
    return value if isinstance(value, bool | int | str) else to_text(value)
