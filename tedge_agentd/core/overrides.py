"""Environment variables that beat tedge.toml in the services that have them (facts/thin-edge.md 2)."""

import re
from collections.abc import Iterable, Mapping

from . import model
from .config_keys import KEYS

_PREFIX = "TEDGE_MQTT_"
_NAME = re.compile(r"TEDGE_MQTT_[A-Z0-9_]{1,64}\Z")
_BY_VARIABLE = {"TEDGE_" + key.upper().replace(".", "_"): key for key in KEYS}


def names(assignments: Iterable[str]) -> tuple[str, ...]:
    """Return the TEDGE_MQTT_* variables among `NAME=value` assignments, last one first counted; empty means unset."""
    values: dict[str, str] = {}
    for entry in assignments:
        name, _, value = entry.partition("=")
        if name.startswith(_PREFIX) and _NAME.match(name):
            values[name] = value
    return tuple(sorted(name for name, value in values.items() if value))


def in_file(data: bytes) -> tuple[str, ...]:
    """Return the assignments of an EnvironmentFile=, as far as they matter here (systemd.exec(5))."""
    lines = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;")
    return tuple(f"{name.strip()}={value.strip().strip(chr(34) + chr(39))}" for name, _, value in pairs)


def findings(by_unit: Mapping[str, tuple[str, ...]]) -> tuple[model.Finding, ...]:
    """One finding a unit: what tedge.toml says is not what it does. The values stay where they are."""
    return tuple(
        model.Finding(
            code="env-override",
            severity=model.Severity.WARNING,
            where=unit,
            message=f"{', '.join(found)} in its environment beats {_keys(found)} of tedge.toml in this service alone",
            remedy=f"systemctl cat {unit} shows where; set the key with `tedge config set` instead",
        )
        for unit, found in sorted(by_unit.items())
        if found
    )


def _keys(found: Iterable[str]) -> str:
    known = [_BY_VARIABLE[name] for name in found if name in _BY_VARIABLE]
    return ", ".join(known) or "settings"
