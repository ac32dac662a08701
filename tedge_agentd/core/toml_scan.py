"""Where in a TOML text its keys stand, found without believing that the text is TOML.

tomllib says where a syntax error is, but not where a value came from. This scanner reads left to right as TOML does,
never raises, and takes time and memory linear in the text. It stops at the depth where thin-edge's own parser gives
up, which also keeps from tomllib what it handles in quadratic time (long dotted keys) or by recursion.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from .config_keys import Path

# tomllib works through all parts of a key for each of them: 4 million such steps are one to two seconds.
MAX_WORK = 4_000_000
MAX_DEPTH = 80  # the limit of the toml crate that thin-edge uses; deeper files are refused by tedge, too

_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\r]+ | \#[^\n]* )
    | (?P<newline> \n )
    | (?P<string> \"{3} | '{3} | ["'] )
    | (?P<bare> [A-Za-z0-9_-]+ )
    | (?P<mark> [\[\]{}=,.] )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
# What may end a string, by how it began; an escape is found first, so that an escaped quote is none.
_END = {
    '"""': re.compile(r'\\.|"{3,5}', re.DOTALL),
    "'''": re.compile(r"'{3,5}"),
    '"': re.compile(r'\\[^\n]|["\n]'),
    "'": re.compile(r"['\n]"),
}
_ELEMENT = "[]"  # stands for any element of a list; no header or key of a table can collide with it inside a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """`offsets` of the first mention of each key and table; `too_deep` the offset where a limit was passed."""

    offsets: Mapping[Path, int]
    too_deep: int | None = None


@dataclass(slots=True)
class _Scanner:
    """State between two tokens. `stack` holds the open brackets of a value, each with the path before it."""

    offsets: dict[Path, int] = field(default_factory=dict)
    prefix: Path = ()
    stack: list[tuple[str, Path]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    start: int = 0
    in_key: bool = True
    header: int = 0  # brackets opened by a table header, 0 outside of one
    base: Path = ()  # what keys are read below: the table, then the inline table or list
    current: Path = ()  # the key whose value is being read
    work: int = 0

    def feed(self, kind: str, text: str, offset: int) -> None:
        if kind == "newline":
            self._newline()
        elif kind in {"string", "bare"}:
            self._word(kind, text, offset)
        elif kind == "mark":
            self._mark(text)

    def depth(self) -> int:
        return len(self.base) + len(self.parts)

    def _newline(self) -> None:
        if self.stack:
            return
        self.parts, self.in_key, self.header, self.base = [], True, 0, self.prefix

    def _word(self, kind: str, text: str, offset: int) -> None:
        if not self.in_key:
            return
        if not self.parts:
            self.start = offset
        self.parts.append(text if kind == "bare" else _unquoted(text))

    def _mark(self, mark: str) -> None:
        if self.in_key and not self.stack and mark == "[" and not self.parts and self.header < 2:
            self.header += 1
            self.base = ()
        elif self.header and mark == "]":
            if self.parts:
                self.prefix = tuple(self.parts)
                self._note(self.prefix, self.start)
            self.parts, self.in_key = [], False
        elif self.in_key and mark == "=":
            self.current = self.base + tuple(self.parts)
            self._note(self.current, self.start)
            self.parts, self.in_key = [], False
        elif (self.stack and mark == "}") or not (self.in_key or self.header):
            self._bracket(mark)

    def _bracket(self, mark: str) -> None:
        if mark in "{[":
            self.stack.append((mark, self.base))
            self.base = self.current if mark == "{" else (*self.current, _ELEMENT)
            self.current = self.base
            self.parts, self.in_key = [], mark == "{"
        elif mark in "}]" and self.stack:
            _, self.base = self.stack.pop()
            self.parts, self.in_key = [], False
            self.current = self.base
        elif mark == "," and self.stack:
            self.parts, self.in_key = [], self.stack[-1][0] == "{"
            self.current = self.base

    def _note(self, path: Path, offset: int) -> None:
        self.work += len(path) ** 2
        for length in range(len(path), 0, -1):
            if path[:length] in self.offsets:
                return
            self.offsets[path[:length]] = offset


def scan(text: str) -> Scan:
    """Return where each key is first mentioned. Any text will do; of what is not TOML the result is a best effort."""
    scanner, offset = _Scanner(), 0
    while match := _TOKEN.match(text, offset):
        kind, end = match.lastgroup or "other", match.end()
        if kind == "string":
            end = _string_end(text, end, match.group())
        scanner.feed(kind, text[offset:end], offset)
        if scanner.depth() > MAX_DEPTH or scanner.work > MAX_WORK:
            return Scan(offsets=scanner.offsets, too_deep=offset)
        offset = end
    return Scan(offsets=scanner.offsets)


def _string_end(text: str, start: int, quote: str) -> int:
    """Where a string ends that began before `start`: after its closing quotes, or before the line's or text's end."""
    for match in _END[quote].finditer(text, start):
        if match.group() == "\n":
            return match.start()
        if not match.group().startswith("\\"):
            return match.end()
    return len(text)


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Both from 1, in characters, as editors and tomllib count."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _unquoted(token: str) -> str:
    """The key that a quoted key means; the token itself where it is no valid string."""
    try:
        return str(tomllib.loads(f"key = {token}")["key"])
    except (ValueError, KeyError):
        return token
