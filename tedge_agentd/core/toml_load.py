"""Bytes -> one TOML document with the places of its keys, or the finding that says why not. Never an exception."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .config_keys import Path
from .model import Area, Finding, Severity
from .toml_scan import line_and_column, scan
from .toml_text import dotted, shown

MAX_BYTES = 1 << 20  # a thousand times a long tedge.toml; what is larger is no configuration
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z")
_INTEGERS = range(-(1 << 63), 1 << 63)  # of TOML, and of tedge; Python's have no end


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed file. `offsets` are those of its text, see toml_scan."""

    where: str
    text: str
    table: dict[str, object]
    offsets: Mapping[Path, int]

    def place(self, path: Path) -> str:
        """file:line:column of a key, or of the nearest table that holds it; the file alone where nothing is known."""
        for length in range(len(path), 0, -1):
            offset = self.offsets.get(path[:length])
            if offset is not None:
                return at(self.where, *line_and_column(self.text, offset))
        return self.where


def at(where: str, line: int, column: int) -> str:
    return f"{where}:{line}:{column}"


def load(data: bytes, where: str) -> Document | Finding:
    """Return the document, or one error that blocks everything and names line and column where there is one."""
    if len(data) > MAX_BYTES:
        return refused("too-large", where, f"{where} has {len(data)} bytes; more than {MAX_BYTES} are not read")
    text = _decoded(data, where)
    if isinstance(text, Finding):
        return text
    scanned = scan(text)
    if scanned.too_deep is not None:
        return _misplaced(where, text, scanned.too_deep, "tables or lists are nested too deeply")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        return refused("toml-syntax", where, "tables or lists are nested too deeply")
    except tomllib.TOMLDecodeError as error:
        return _syntax(where, text, str(error))
    except ValueError:  # CPython's own limit, 4300 digits
        return refused("toml-syntax", where, "a number has too many digits")
    document = Document(where=where, text=text, table=table, offsets=scanned.offsets)
    for path, value in leaves(table):
        if type(value) is int and value not in _INTEGERS:
            return refused("toml-syntax", document.place(path), f"{dotted(path)} does not fit into 64 bits")
    return document


def leaves(table: Mapping[str, object], prefix: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value that is neither a table nor in one, lists included as one value each besides their elements."""
    for key, value in table.items():
        path = (*prefix, key)
        if isinstance(value, dict):
            yield from leaves(value, path)
            continue
        yield path, value
        if isinstance(value, list):
            yield from _elements(value, path)


def _elements(values: list[object], path: Path) -> Iterator[tuple[Path, object]]:
    for value in values:
        if isinstance(value, dict):
            yield from leaves(value, path)
        elif isinstance(value, list):
            yield from _elements(value, path)
        else:
            yield path, value


def refused(code: str, where: str, message: str, remedy: str = "") -> Finding:
    """A file that cannot be used at all: everything stays as it is."""
    return Finding(
        code=code,
        severity=Severity.ERROR,
        where=where,
        message=message,
        remedy=remedy or f"correct {where}, then see `tedge-agentd plan`",
        blocks=Area.ALL,
    )


def _decoded(data: bytes, where: str) -> str | Finding:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return refused("toml-syntax", at(where, 1, 1), "the file is UTF-16; tedge reads UTF-8 and takes it for empty")
    if data.startswith(b"\xef\xbb\xbf"):
        remedy = f"sed -i '1s/^\\xEF\\xBB\\xBF//' {where}"
        return refused("toml-syntax", at(where, 1, 1), "the file begins with a byte order mark", remedy)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        place = at(where, *line_and_column(before, len(before)))
        found = f"the byte 0x{data[error.start]:02x} is not UTF-8; tedge takes such a file for empty"
        return refused("toml-syntax", place, found)
    nul = text.find("\0")
    return text if nul < 0 else _misplaced(where, text, nul, "there is a NUL byte")


def _misplaced(where: str, text: str, offset: int, message: str) -> Finding:
    return refused("toml-syntax", at(where, *line_and_column(text, offset)), message)


def _syntax(where: str, text: str, problem: str) -> Finding:
    """tomllib's own words, its place taken out of them; the end of the document is a place, too."""
    found = _AT.search(problem)
    if found is None:
        return refused("toml-syntax", where, f"this is not TOML: {shown(problem)}")
    line, column = line_and_column(text, len(text))
    if found.group(1):
        line, column = int(found.group(1)), int(found.group(2))
    return refused("toml-syntax", at(where, line, column), f"this is not TOML: {shown(problem[: found.start()])}")
