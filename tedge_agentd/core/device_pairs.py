"""Which device certificates there are besides `[device]`: one for each cloud, profile or mapper that says so.

tedge.toml has them as `[c8y.device]` and `[c8y.profiles.NAME.device]`, until a mapper.toml takes that table's place
(facts/thin-edge.md 1.1). What cannot be read names nothing here: the mapper itself will say so.
"""

import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from .model import Finding
from .toml_load import load

CLOUDS = frozenset({"c8y", "az", "aws"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePair:
    """What one mapper presents to its cloud; None where it is what `[device]` says. `mapper`: "c8y.NAME"."""

    mapper: str
    cert: str | None
    key: str | None

    @property
    def may_be_bridged(self) -> bool:
        """Whether the broker may be the one who presents it: a mapper of the site's own always does it itself."""
        return self.mapper.partition(".")[0] in CLOUDS


def of_mapper(mapper: str, data: bytes, directory: str) -> DevicePair | None:
    """The pair of a mapper.toml; its paths may be relative to its directory."""
    document = load(data, directory)
    return None if isinstance(document, Finding) else _pair(mapper, document.table, directory)


def of_tedge_toml(data: bytes | None, where: str, *, mappers: Collection[str]) -> tuple[DevicePair, ...]:
    """The pairs of the clouds' tables, those of `mappers` apart, which have a file of their own."""
    document = load(data or b"", where)
    if isinstance(document, Finding):
        return ()
    found = (_pair(name, table, "") for name, table in _clouds(document.table) if name not in mappers)
    return tuple(pair for pair in found if pair is not None)


def _clouds(table: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    for cloud in sorted(CLOUDS):
        inner = table.get(cloud)
        if not isinstance(inner, dict):
            continue
        yield cloud, inner
        profiles = inner.get("profiles")
        for name, profile in sorted(profiles.items()) if isinstance(profiles, dict) else ():
            if isinstance(profile, dict):
                yield f"{cloud}.{name}", profile


def _pair(mapper: str, table: Mapping[str, object], directory: str) -> DevicePair | None:
    device = table.get("device")
    if not isinstance(device, dict):
        return None
    cert, key = (_path(device.get(name), directory) for name in ("cert_path", "key_path"))
    return None if cert is None and key is None else DevicePair(mapper=mapper, cert=cert, key=key)


def _path(value: object, directory: str) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    path = posixpath.normpath(posixpath.join(directory, value))
    return path if path.startswith("/") else None
