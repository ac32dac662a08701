"""Bytes of system.toml -> who the thin-edge services run as."""

import re

from .model import Finding, SystemSettings
from .toml_load import load, refused
from .toml_text import described, quoted

# Debian's adduser takes more with a flag, but neither "/" nor ":" nor a leading dash is ever part of a name.
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")


def parse_system(data: bytes | None, where: str) -> tuple[SystemSettings, tuple[Finding, ...]]:
    """Return who the thin-edge services run as, from the keys `user` and `group` at the top of system.toml.

    data None is a missing file: tedge:tedge. "" means the current user to tedge, which changes no owner then
    (facts/thin-edge.md 4); here it is root, the user of a system that runs thin-edge without an account of its own.
    What cannot be used leaves the default in its place and an error that blocks everything, so that no file changes
    hands by mistake.
    """
    if data is None:
        return SystemSettings(), ()
    document = load(data, where)
    if isinstance(document, Finding):
        return SystemSettings(), (document,)
    names: dict[str, str] = {}
    findings = []
    for key in ("user", "group"):
        value = document.table.get(key)
        if value is None:
            continue
        if value == "":
            names[key] = "root"
        elif isinstance(value, str) and _ACCOUNT.fullmatch(value):
            names[key] = value
        else:
            found = quoted(value) if isinstance(value, str) else described(value)
            message = f"{key} is {found}, which is no name of a {key}"
            findings.append(refused("invalid-value", document.place((key,)), message))
    default = SystemSettings()
    user, group = names.get("user", default.user), names.get("group", default.group)
    return SystemSettings(user=user, group=group), tuple(findings)
