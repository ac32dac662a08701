"""`tedge-agentd config get/set/unset/list`: the keys of tedge.toml, in the words of `tedge config` (contract 4).

Each function prints, and returns the exit status: 0, or 1 for refused. Several keys are one write.
"""

import grp
import os
import pwd
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from . import config_write
from .core import tedge_edit, tedge_toml
from .core.config_keys import KEYS, Key
from .core.model import Finding, Severity
from .core.toml_names import resolve, similar
from .core.toml_text import printable, shown
from .core.toml_values import to_text
from .host import files, opened

# What would be found in a tedge.toml of these bytes: one that blocks, and did not before, is not written.
Check = Callable[[bytes], Iterable[Finding]]


class _RefusedError(Exception):
    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__()
        self.findings = findings


# Reading ----------------------------------------------------------------------------------------------------


def get(tedge_toml_path: str, key: str) -> int:
    """Print the value of a key, or its default, as `tedge config get`."""
    resolved = resolve(key)
    if resolved is None:
        return _unknown(key)
    reading = _reading(tedge_toml_path)
    if reading is None:
        return 1
    if resolved.note:
        _say(f"The key '{shown(key)}' is deprecated. Use '{resolved.key.name}' instead.")
    value = _value(resolved.key, reading, tedge_toml_path)
    if value is None:
        _say(f"The provided config key: '{resolved.key.name}' is not set")
        return 1
    print(value)
    return 0


def list_(tedge_toml_path: str, *, everything: bool = False, doc: bool = False, filter_: str = "") -> int:
    """Print `key=value` of each key that has a value, as `tedge config list [--all] [--doc] [FILTER]`."""
    keys = [key for key in KEYS.values() if key.settable and filter_ in key.name]
    if doc:
        _print_doc(keys)
        return 0
    reading = _reading(tedge_toml_path)
    if reading is None:
        return 1
    values = {key.name: _value(key, reading, tedge_toml_path) for key in keys}
    for name, value in values.items():
        if value is not None:
            print(f"{name}={value}")
    unset_names = [name for name, value in values.items() if value is None]
    if everything and unset_names:
        print("\n" + "\n".join(f"{name}=" for name in unset_names))
    return 0


def _print_doc(keys: Sequence[Key]) -> None:
    width = max((len(key.name) for key in keys), default=0)
    for key in keys:
        print(f"{key.name:>{width}}  {key.doc}")
        example = key.example or key.default
        if example:
            print(f"{'':{width}}  Example: {example}")


def _value(key: Key, reading: tedge_toml.Reading, path: str) -> str | None:
    for name in (key.name, *key.default_keys):
        for values in (reading.values or {}, reading.unusable):
            if name in values:
                return printable(to_text(values[name]))
    if key.default_below is not None:
        return os.path.join(os.path.dirname(path), key.default_below)
    return key.default


def _reading(path: str) -> tedge_toml.Reading | None:
    """The keys of the file, None with the reason printed. A missing file has the defaults."""
    try:
        data = _bytes(path)
    except OSError as error:
        _say(f"Error: {path} cannot be read: {error.strerror}")
        return None
    reading = tedge_toml.read(data, path)
    if reading.values is None:
        _print_findings(reading.findings)
        return None
    return reading


def _bytes(path: str) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "it is no regular file", path)
        return config_write.read_all(file)
    finally:
        os.close(file)


# Writing ----------------------------------------------------------------------------------------------------


def set_(  # noqa: PLR0913  # keyword-only: where, whose, and what it must pass
    tedge_toml_path: str,
    assignments: Sequence[str],
    *,
    lock_path: str,
    check: Check,
    user: str = "tedge",
    group: str = "tedge",
) -> int:
    """Set `KEY=VALUE ...`, or `KEY VALUE` as tedge spells it, in one write or not at all."""
    changes = parse_assignments(assignments)
    if isinstance(changes, str):
        _say(f"Error: {changes}")
        return 1
    return change(tedge_toml_path, changes, lock_path=lock_path, check=check, user=user, group=group)


def unset(  # noqa: PLR0913  # as set_
    tedge_toml_path: str,
    keys: Sequence[str],
    *,
    lock_path: str,
    check: Check,
    user: str = "tedge",
    group: str = "tedge",
) -> int:
    """Unset keys in one write or not at all."""
    changes: dict[str, str | None] = dict.fromkeys(keys)
    return change(tedge_toml_path, changes, lock_path=lock_path, check=check, user=user, group=group)


def parse_assignments(arguments: Sequence[str]) -> dict[str, str | None] | str:
    """The keys and values of `config set`'s arguments; a sentence if they are none."""
    if len(arguments) == 2 and "=" not in arguments[0]:
        return {arguments[0]: arguments[1]}
    changes: dict[str, str | None] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            return f"'{shown(argument)}' is not KEY=VALUE"
        if changes.get(key, value) != value:
            return f"{shown(key)} is given twice, with different values"
        changes[key] = value
    return changes or "nothing to set; give KEY=VALUE"


def change(  # noqa: PLR0913  # as set_
    tedge_toml_path: str,
    changes: Mapping[str, str | None],
    *,
    lock_path: str,
    check: Check,
    user: str = "tedge",
    group: str = "tedge",
) -> int:
    """Set and unset keys (None: unset) in one write, under the lock. `user` and `group` get a new file.

    Nothing is written that `check` finds to block what was not blocked before: somebody with two mistakes to mend
    may mend them one by one.
    """
    said: list[tuple[str, ...]] = []

    def edited(data: bytes | None) -> bytes | None:
        result = tedge_edit.edit(data, changes, tedge_toml_path)
        if result.refusals:
            raise _RefusedError(result.refusals)
        if result.changed and result.data is not None:
            said.append((*result.notes, *_checked(data, result.data, check)))
        else:
            said.append(result.notes)
        return result.data if result.changed else None

    try:
        config_write.update(tedge_toml_path, edited, lock_path=lock_path, owner=_owner(user, group))
    except _RefusedError as refused:
        _print_findings(refused.findings)
        return 1
    except config_write.NotWrittenError as error:
        return _failed(str(error), error.remedy)
    except opened.Refused as error:
        return _failed(str(error), error.remedy)
    except files.Locked as error:
        return _failed(str(error), "wait until it is done")
    except PermissionError as error:
        return _failed(f"{tedge_toml_path} cannot be written: {error.strerror}", "run this command with sudo")
    except OSError as error:
        return _failed(f"{tedge_toml_path} cannot be written: {error.strerror}")
    for note in said[-1] if said else ():
        _say(note)
    return 0


def _checked(old: bytes | None, new: bytes, check: Check) -> tuple[str, ...]:
    """What the operator is told of the new file; raises what must not be written."""
    findings = list(check(new))
    blocking = [finding for finding in findings if _blocks(finding)]
    if blocking:
        known = {(finding.code, finding.message) for finding in check(old or b"") if _blocks(finding)}
        if any((finding.code, finding.message) not in known for finding in blocking):
            raise _RefusedError(blocking)
    return tuple(_line(finding) for finding in findings if finding.severity is not Severity.INFO)


def _blocks(finding: Finding) -> bool:
    """What waits is expected to pass by itself: a certificate that is yet to come refuses no setting."""
    return finding.blocks is not None and not finding.waits


def _owner(user: str, group: str) -> config_write.Owner:
    """Accounts that do not exist yet leave a new file with whoever runs the command, as tedge does."""
    try:
        uid = pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        uid = os.geteuid()
    try:
        gid = grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        gid = os.getegid()
    return config_write.Owner(uid=uid, gid=gid)


# Saying -----------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _failed(message: str, remedy: str = "") -> int:
    _say(f"Error: {message}" + (f"\n  {remedy}" if remedy else ""))
    return 1


def _unknown(key: str) -> int:
    like = similar(key)
    hint = f"did you mean {like}?" if like else "see `tedge-agentd config list --doc` for the keys"
    return _failed(f"Unknown tedge config key: '{shown(key)}'", hint)


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.code in tedge_edit.OPERATORS_OWN:
            _failed(finding.message, finding.remedy)
        else:
            _say(_line(finding))


def _line(finding: Finding) -> str:
    label = {Severity.ERROR: "Error", Severity.WARNING: "Warning", Severity.INFO: "Note"}[finding.severity]
    remedy = f"\n  {finding.remedy}" if finding.remedy else ""
    return f"{label}: {finding.where}: {finding.message}{remedy}"
