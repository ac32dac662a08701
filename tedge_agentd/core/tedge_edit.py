"""tedge.toml and changes to it -> the new tedge.toml, as `tedge config set` and `unset` would make it. Pure.

Unlike tedge's, an edit keeps what it does not know, takes several keys at once, mends a value of the wrong type by
replacing it, and refuses what the daemon would have to refuse later (facts/thin-edge.md 2, contract 6).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import tomli_w

from . import tedge_toml
from .config_keys import KEYS, Key, Kind, Path
from .model import Area, Finding, Severity
from .toml_layout import Layout, Table, today
from .toml_load import load, refused
from .toml_names import resolve, similar
from .toml_names import today as todays_name
from .toml_text import dotted, shown
from .toml_values import WrongValueError, from_text, objection, to_toml

# What a new file holds: without a version tedge would take it for version 1 and rewrite it on its next start.
_VERSION: Path = ("config", "version")
_READ = frozenset(key.path for key in KEYS.values())
# Refusals of what was typed, not of what the file holds: there is no place to name.
OPERATORS_OWN = frozenset({"refused-value", "unknown-key"})

Wanted = dict[Key, bool | int | str | None]  # None: to be unset


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """What an edit comes to. With `refusals` nothing is to be written, and `data` is what there was.

    `data` is the very object that was given if nothing changes. `notes` are sentences for the operator.
    """

    data: bytes | None
    changed: bool = False
    notes: tuple[str, ...] = ()
    refusals: tuple[Finding, ...] = ()


def edit(data: bytes | None, changes: Mapping[str, str | None], where: str = "tedge.toml") -> EditResult:
    """Return tedge.toml with the changes made. data None is a missing file, a change of None unsets the key.

    Keys may have any name that `tedge config` accepts, and those of thin-edge's guide. A file that tedge would not
    read is refused, unless the changes mend it.
    """
    wanted, notes, refusals = _wanted(changes)
    document = load(data or b"", where)
    if isinstance(document, Finding):
        refusals.append(document)
        return EditResult(data=data, refusals=tuple(refusals))
    replaced = frozenset(key.name for key in wanted)
    layout = today(document, replaced=replaced)
    reading = tedge_toml.read_layout(layout, skip=replaced)
    if reading.values is None:
        refusals.extend(reading.findings)
    if refusals:
        return EditResult(data=data, refusals=tuple(refusals))
    return _changed(data, layout, wanted, tuple(notes))


def _wanted(changes: Mapping[str, str | None]) -> tuple[Wanted, list[str], list[Finding]]:
    wanted: Wanted = {}
    notes: list[str] = []
    refusals: list[Finding] = []
    for name, text in changes.items():
        resolved = resolve(name)
        if resolved is None:
            refusals.append(_unknown(name))
            continue
        key = resolved.key
        try:
            value = None if text is None else _value(key, text)
        except WrongValueError as error:
            refusals.append(_refused(name, text or "", str(error), _takes(key, text or "")))
            continue
        if key in wanted and wanted[key] != value:
            refusals.append(
                _refused(
                    name, text or "", f"{key.name} is given twice, with different values", f"give {key.name} once"
                )
            )
        wanted[key] = value
        if resolved.note:
            notes.append(resolved.note)
    return wanted, notes, refusals


def _value(key: Key, text: str) -> bool | int | str:
    value = from_text(key.kind, text)
    reason = objection(key.kind, value)
    if reason is not None:
        raise WrongValueError(reason)
    return to_toml(value)


def _changed(data: bytes | None, layout: Layout, wanted: Wanted, notes: tuple[str, ...]) -> EditResult:
    table, where = layout.table, layout.document.where
    dropped = [name for key in wanted for name in _drop_ignored(table, key)]
    if not (dropped or layout.mended) and all(same(_get(table, key.path), value) for key, value in wanted.items()):
        return EditResult(data=data, notes=notes)
    for key, value in wanted.items():
        if value is None:
            _unset(table, key.path)
        else:
            _set(table, key.path, value)
    _set(table, _VERSION, "2")
    new = tomli_w.dumps(table).encode("utf-8")
    refusals = _proof(new, table, where)
    if refusals:
        return EditResult(data=data, refusals=refusals)
    gone = tuple(f"{name} is removed: tedge ignored it." for name in dropped)
    return EditResult(data=new, changed=True, notes=(*notes, *gone))


def _proof(new: bytes, table: Table, where: str) -> tuple[Finding, ...]:
    """The refusals of what is about to be written: it must read back as it was meant, and tedge must read it."""
    document = load(new, where)
    if isinstance(document, Finding):
        return (document,)
    if not same(document.table, table):
        return (refused("round-trip", where, f"{where} holds values that cannot be written back unchanged"),)
    return tuple(finding for finding in tedge_toml.read(new, where).findings if finding.blocks is Area.ALL)


# Tables -----------------------------------------------------------------------------------------------------


def _get(table: Table, path: Path) -> object:
    inner: object = table
    for part in path:
        inner = inner.get(part) if isinstance(inner, dict) else None
    return inner


def _set(table: Table, path: Path, value: bool | int | str) -> None:
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        assert isinstance(inner, dict)  # read_layout has refused anything else on the way to a known key
        table = inner
    table[path[-1]] = value


def _unset(table: Table, path: Path) -> None:
    """Remove a value, and the tables that become empty by it."""
    inner = table.get(path[0])
    if len(path) == 1:
        table.pop(path[0], None)
    elif isinstance(inner, dict):
        had = bool(inner)
        _unset(inner, path[1:])
        if had and not inner:
            del table[path[0]]


def _drop_ignored(table: Table, key: Key) -> list[str]:
    """Remove other spellings of a key that is being changed: tedge reads none of them, and would drop them too."""
    return _drop_below(table, (key.path[0],), key, [])


def _drop_below(table: Table, path: Path, key: Key, dropped: list[str]) -> list[str]:
    inner = _get(table, path)
    for name, value in list(inner.items()) if isinstance(inner, dict) else []:
        deeper = (*path, name)
        if isinstance(value, dict):
            _drop_below(table, deeper, key, dropped)
        elif deeper not in _READ and todays_name(".".join(deeper)) == key.name:
            _unset(table, deeper)
            dropped.append(dotted(deeper))
    return dropped


def same(one: object, other: object) -> bool:
    """Equality of TOML values, for which 1, 1.0 and true are three, and not-a-number is itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


# Refusals ---------------------------------------------------------------------------------------------------


def _refused(name: str, text: str, cause: str, remedy: str) -> Finding:
    """The words of `tedge config set`, so that what is known about them helps here, too."""
    message = (
        f"failed to set the configuration key: '{shown(name)}' with value: {shown(text)}.\n\n"
        f"Caused by:\n    0: Failed to parse input\n    1: {cause}"
    )
    return Finding(
        code="refused-value",
        severity=Severity.ERROR,
        where=shown(name),
        message=message,
        remedy=remedy,
        blocks=Area.ALL,
    )


def _takes(key: Key, text: str) -> str:
    kind = Kind.PORT if key.kind is Kind.PORT_OR_ZERO else key.kind
    unset = "" if text else f"; to unset it: tedge-agentd config unset {key.name}"
    return f"{key.name} takes {kind.value.replace(' in quotes', '')}{unset}"


def _unknown(name: str) -> Finding:
    like = similar(name)
    return Finding(
        code="unknown-key",
        severity=Severity.ERROR,
        where=shown(name),
        message=f"Unknown tedge config key: '{shown(name)}'",
        remedy=f"did you mean {like}?" if like else "see `tedge-agentd config list --doc` for the keys",
        blocks=Area.ALL,
    )
