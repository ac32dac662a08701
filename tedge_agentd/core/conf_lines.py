"""The lines of a Mosquitto configuration: how the broker splits them, and which settings belong where.

The rules are those of Mosquitto 2.0.11, 2.0.21 and 2.1.2 (facts/mosquitto.md 2 and 10; src/conf.c).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

BLANKS = " \t\n\v\f\r"  # what C's isspace() trims around a value; Unicode's other spaces stay
STRING_LIMIT = 65535  # bytes; a longer value ends the broker without a reason (facts/mosquitto.md 10)

# With per_listener_settings these belong to the listener before them, without it to the whole broker.
SECURITY_OPTIONS = frozenset(
    {
        "acl_file",
        "allow_anonymous",
        "allow_zero_length_clientid",
        "auth_plugin",
        "auto_id_prefix",
        "password_file",
        "plugin",
        "psk_file",
    }
)
OLD_STYLE = frozenset({"port", "bind_address"})

_LISTENER_STRINGS = frozenset(
    {
        "bind_interface",
        "cafile",
        "capath",
        "certfile",
        "ciphers",
        "ciphers_tls1.3",
        "crlfile",
        "dhparamfile",
        "http_dir",
        "keyfile",
        "mount_point",
        "psk_hint",
        "tls_engine",
        "tls_engine_kpass_sha1",
        "tls_keyform",
        "tls_version",
    }
)
_LISTENER_BOOLEANS = frozenset(
    {"require_certificate", "use_identity_as_username", "use_subject_as_username", "use_username_as_clientid"}
)
_LISTENER_WORDS = frozenset({"max_connections", "max_qos", "max_topic_alias", "protocol", "socket_domain"})
LISTENER_OPTIONS = _LISTENER_STRINGS | _LISTENER_BOOLEANS | _LISTENER_WORDS
STRINGS = _LISTENER_STRINGS | frozenset(
    {
        "acl_file",
        "bind_address",
        "password_file",
        "persistence_file",
        "persistence_location",
        "pid_file",
        "psk_file",
        "user",
    }
)

# Outside of a block, a value other than these opens a listener on all addresses (conf.c, config__parse_args).
_HARMLESS = {"max_qos": "2", "protocol": "mqtt", "tls_keyform": "pem"}
_INERT = frozenset({"tls_version", "http_dir", "max_topic_alias", "mount_point"})
_OPENING_SECURITY = frozenset({"password_file", "psk_file", "auth_plugin", "plugin"})

_NAME = re.compile(r"[A-Za-z0-9_.]+\Z")
_FREE_NAMES = ("auth_opt_", "plugin_opt_")
_ATOI = re.compile(r"[\t\v\f\r]*([+-]?[0-9]{1,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """One line that says something. `value` is the rest of the line, trimmed as the broker trims it."""

    file: str
    line: int
    name: str
    value: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def first_word(self) -> str:
        """What the broker reads of a number, a boolean or a choice: it ignores the words that follow."""
        return words(self.value)[0] if words(self.value) else ""

    def is_true(self) -> bool:
        return self.first_word() in {"true", "1"}

    def is_known_shape(self) -> bool:
        """Whether any version of the broker could have a setting of this name."""
        return bool(_NAME.match(self.name)) or self.name.startswith(_FREE_NAMES)


def directives_of(path: str, data: bytes) -> Iterator[Directive]:
    """Yield what the broker reads of one file: split at the first space, comments only in column 1."""
    for number, raw in enumerate(lines(data), start=1):
        if not raw or raw[:1] in {b"#", b"\r"}:
            continue
        name, _, rest = raw.rstrip(b"\r").decode("utf-8", "surrogateescape").lstrip(" ").partition(" ")
        if name:
            # include_dir alone is not trimmed: a space too many becomes a part of the path.
            yield Directive(
                file=path, line=number, name=name, value=rest if name == "include_dir" else rest.strip(BLANKS)
            )


def is_broker_text(value: str) -> bool:
    """Whether the broker takes this as a string: MQTT's UTF-8, without control and non-characters."""
    return not any(_is_refused(ord(character)) for character in value)


def _is_refused(code: int) -> bool:
    is_control = code < 0x20 or 0x7F <= code <= 0x9F
    is_non_character = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return is_control or is_non_character or 0xD800 <= code <= 0xDFFF


def printable(text: str) -> str:
    """The text for an operator's terminal and journal: nothing in a file's name or value can act on them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def lines(data: bytes) -> Iterator[bytes]:
    """The lines the broker sees: after a NUL byte it sees nothing more of the file (facts/mosquitto.md 0.8)."""
    for raw in data.split(b"\n"):
        before, nul, _ = raw.partition(b"\0")
        yield before
        if nul:
            return


def words(value: str) -> list[str]:
    return [word for word in value.split(" ") if word]


def atoi(word: str) -> int:
    """2.0.x reads the port with atoi(); 2.1 is strict and refuses what is not plain."""
    match = _ATOI.match(word)
    return int(match.group(1)) if match else 0


def is_string(value: str) -> bool:
    return value != "" and is_broker_text(value) and len(value.encode()) <= STRING_LIMIT


def opens_listener(directive: Directive, *, per_listener: bool) -> bool:
    """Whether this line outside of any block opens a listener on all addresses (facts/mosquitto.md 2)."""
    name, word = directive.name, directive.first_word()
    if name in SECURITY_OPTIONS:
        refuses_empty = name == "allow_zero_length_clientid" and not directive.is_true()
        return per_listener and (name in _OPENING_SECURITY or refuses_empty)
    if name in _INERT:
        return False
    if name in _LISTENER_BOOLEANS:
        return directive.is_true()
    if name == "max_connections":
        return atoi(word) >= 0
    return _HARMLESS.get(name) != word
