"""Environment variables that beat tedge.toml in the services that have them (facts/thin-edge.md 2)."""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import model
from .config_keys import KEYS

_NAME = re.compile(r"TEDGE_MQTT_[A-Z0-9_]{1,64}\Z")
_BY_VARIABLE = {"TEDGE_" + key.upper().replace(".", "_"): key for key in KEYS}
LIVE = ""  # the place of what `systemctl set-environment` has set


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A variable that a service was started with, and where it is set: a path, or LIVE."""

    name: str
    place: str


def names(assignments: Iterable[str]) -> tuple[str, ...]:
    """Return the TEDGE_MQTT_* variables that `NAME=value` assignments are about, sorted."""
    return tuple(sorted({name for entry in assignments if _NAME.match(name := entry.partition("=")[0])}))


def effective(sources: Iterable[tuple[str, str]], unset: Iterable[str] = ()) -> tuple[Override, ...]:
    """Return what is set at last by assignments and their places, in the order in which they beat each other.

    An empty value means unset to thin-edge; `unset` is UnsetEnvironment=, of names and of whole assignments.
    """
    gone = frozenset(unset)
    last: dict[str, tuple[str, str]] = {}
    for assignment, place in sources:
        name = assignment.partition("=")[0]
        if _NAME.match(name):
            last[name] = assignment, place
    return tuple(
        Override(name=name, place=place)
        for name, (assignment, place) in sorted(last.items())
        if assignment.partition("=")[2] and not {name, assignment} & gone
    )


def in_file(data: bytes) -> tuple[str, ...]:
    """Return the assignments of an EnvironmentFile=, as far as they matter here (systemd.exec(5))."""
    lines = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;")
    return tuple(f"{name.strip()}={value.strip().strip(chr(34) + chr(39))}" for name, _, value in pairs)


def findings(by_unit: Mapping[str, tuple[Override, ...]]) -> tuple[model.Finding, ...]:
    """One finding a unit: what tedge.toml says is not what it does. The values stay where they are."""
    return tuple(
        model.Finding(
            code="env-override",
            severity=model.Severity.WARNING,
            where=unit,
            message=f"{', '.join(one.name for one in found)} in its environment, set {_places(found)},"
            f" beats {_keys(found)} of tedge.toml in this service",
            remedy=f"{_removal(found)} and systemctl restart {unit}; set the key with `tedge config set` instead",
        )
        for unit, found in sorted(by_unit.items())
        if found
    )


def _places(found: Iterable[Override]) -> str:
    return " and ".join(
        f"in {place}" if place else "with `systemctl set-environment`"
        for place in sorted({one.place for one in found}, reverse=True)
    )


def _removal(found: Iterable[Override]) -> str:
    live = " ".join(one.name for one in found if one.place == LIVE)
    files = sorted({shlex.quote(one.place) for one in found if one.place != LIVE})
    steps = [f"systemctl unset-environment {live}"] if live else []
    steps += [f"remove it from {' and '.join(files)}, systemctl daemon-reload"] if files else []
    return ", ".join(steps)


def _keys(found: Iterable[Override]) -> str:
    known = [_BY_VARIABLE[one.name] for one in found if one.name in _BY_VARIABLE]
    return ", ".join(known) or "settings"
