"""Keys below mqtt that tedge drops from the file, with a misleading word or none (facts/thin-edge.md 1.2)."""

from collections.abc import Set
from dataclasses import replace

from .config_keys import KEYS, Path
from .model import Area, Finding, Severity
from .toml_layout import Layout
from .toml_load import leaves
from .toml_names import COMMAND_ALIASES, similar
from .toml_names import today as todays_name
from .toml_text import dotted, scalar_text, shell_word

_READ = frozenset(key.path for key in KEYS.values())
# Written under a name that nobody reads, these leave the external listener open to more than was meant.
_PROTECTING = frozenset(
    f"mqtt.external.{name}" for name in ("cert_file", "key_file", "ca_path", "bind.address", "bind.interface")
)
_MOST = 20  # findings of this kind; a file full of foreign keys is told about, not recited


def ignored_keys(layout: Layout) -> tuple[Finding, ...]:
    """One finding for each key below mqtt that no tedge reads: a warning if it had a meaning once, else a remark.

    Where the meaning was to protect an external listener that is asked for, the finding blocks the broker.
    """
    mqtt = layout.table.get("mqtt")
    if not isinstance(mqtt, dict):
        return ()
    values: dict[Path, object] = {}
    for path, value in leaves(mqtt, ("mqtt",)):
        values.setdefault(path, value)  # a list comes before its elements
    paths = [path for path in values if path not in _READ]
    findings = [_finding(layout, path, values[path], values.keys()) for path in paths]
    findings.sort(key=lambda finding: finding.blocks is None)  # of the many, those that count
    del findings[_MOST:]
    if len(paths) > _MOST:
        message = f"{len(paths) - _MOST} more keys below mqtt are ignored by tedge"
        findings.append(_remark(layout.document.where, message, "", Severity.INFO))
    return tuple(findings)


def _finding(layout: Layout, path: Path, value: object, present: Set[Path]) -> Finding:
    name, place = dotted(path), layout.place(path)
    known = todays_name(".".join(path))
    if known is None:
        like = similar(".".join(path))
        hint = f"; did you mean {like}?" if like else ""
        message = f"tedge does not know {name} and ignores it{hint}"
        return _remark(place, message, f"remove it: {place}", Severity.INFO)
    calls_it = " (it logs that the key is deprecated, but does not use the value)" if _logs_deprecated(path) else ""
    message = f"tedge ignores {name} in this file{calls_it}: the value is not honoured; today's key is {known}"
    if KEYS[known].path in present:
        return _remark(place, f"{message}, which is set", f"remove {name}: {place}", Severity.WARNING)
    text = scalar_text(value)
    word = shell_word(text) if text else None
    remedy = f"tedge config set {known} {word or 'VALUE'}"
    if known in _PROTECTING and any(path[:2] == ("mqtt", "external") and path in _READ for path in present):
        # tedge itself would open the listener without it (contract 2, it fails closed).
        message += "; without it the listener would be open to more than was meant, so nothing is opened"
        return replace(_remark(place, message, remedy, Severity.ERROR), blocks=Area.BROKER)
    return _remark(place, message, remedy, Severity.WARNING)


def _logs_deprecated(path: Path) -> bool:
    """tedge's loader parses each key as its command line would, and logs what that says (facts/thin-edge.md 1.2)."""
    name = ".".join(path)
    return name in COMMAND_ALIASES or name.replace(".", "_") in {key.replace(".", "_") for key in KEYS}


def _remark(where: str, message: str, remedy: str, severity: Severity) -> Finding:
    return Finding(code="ignored-key", severity=severity, where=where, message=message, remedy=remedy)
