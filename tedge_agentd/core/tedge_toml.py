"""Bytes of tedge.toml -> typed settings, with located findings. Read as tedge reads them.

No bytes raise. Callers must honour `blocks` of the findings: a value that was asked for and cannot be used is absent
from the settings, and absent means something else (an unset cert_file is a plaintext listener), so that nothing in
the blocked area may be derived from these settings. Rules: facts/thin-edge.md 1, contract 6.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .config_keys import KEYS, Key, Kind, Path
from .model import (
    Area,
    BindSettings,
    ClientSettings,
    ExternalSettings,
    Finding,
    IPAddress,
    Severity,
    TedgeSettings,
)
from .toml_ignored import ignored_keys
from .toml_layout import Layout, Table, today
from .toml_load import load, refused
from .toml_system import parse_system
from .toml_text import described, scalar_text, shell_word
from .toml_values import Value, WrongValueError, from_text, from_toml, objection, to_text

__all__ = ["Parsed", "Reading", "parse", "parse_system", "read", "read_layout"]

_TABLES = frozenset(key.path[:length] for key in KEYS.values() for length in range(1, len(key.path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What tedge.toml says. `settings` is None where tedge would refuse the whole file."""

    settings: TedgeSettings | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The same by key: only keys that are set and usable are in `values`. None: tedge would refuse the whole file.

    `unusable` holds what tedge reads and findings object to, for display alone.
    """

    values: Mapping[str, Value] | None
    findings: tuple[Finding, ...]
    unusable: Mapping[str, Value] = field(default_factory=dict)


def parse(data: bytes | None, where: str) -> Parsed:
    """Return the settings of tedge.toml. data None is a missing file: all defaults, as tedge takes it."""
    reading = read(data, where)
    if reading.values is None:
        return Parsed(settings=None, findings=reading.findings)
    settings = _settings(_Values(reading.values))
    if any(finding.blocks is Area.CLIENTS for finding in reading.findings):
        return Parsed(settings=settings, findings=reading.findings)  # the missing half may be the unusable one
    return Parsed(settings=settings, findings=(*reading.findings, *_half_set(settings.client)))


def read(data: bytes | None, where: str) -> Reading:
    """Return the values of the known keys, for `config get` and for parse."""
    if data is None:
        return Reading(values={}, findings=())
    document = load(data, where)
    if isinstance(document, Finding):
        return Reading(values=None, findings=(document,))
    return read_layout(today(document))


def read_layout(layout: Layout, *, skip: frozenset[str] = frozenset()) -> Reading:
    """The same from a document that is loaded; keys to `skip` are about to be replaced, whatever they hold."""
    wrong = [*layout.findings, *_wrong_tables(layout)]
    values: dict[str, Value] = {}
    unusable: dict[str, Value] = {}
    objections: list[Finding] = []
    for key, raw in _present(layout.table, skip):
        try:
            value = from_toml(key.kind, raw)
        except WrongValueError as error:
            wrong.append(_wrong_type(key, raw, layout, str(error)))
            continue
        reason = objection(key.kind, value)
        if reason is None:
            values[key.name] = value
        else:
            unusable[key.name] = value
            objections.append(_unusable(key, layout, reason))
    if wrong:
        # The layout may have stumbled over the same value already, and then said more about it.
        first = {(one.code, one.where): one for one in reversed(wrong)}
        return Reading(values=None, findings=tuple(first.values())[::-1])
    return Reading(values=values, findings=(*objections, *ignored_keys(layout)), unusable=unusable)


def _present(table: Table, skip: frozenset[str]) -> Iterator[tuple[Key, object]]:
    for key in KEYS.values():
        holder = _holder(table, key.path)
        if key.name not in skip and holder is not None and key.path[-1] in holder:
            yield key, holder[key.path[-1]]


def _holder(table: Table, path: Path) -> Table | None:
    for part in path[:-1]:
        inner = table.get(part)
        if not isinstance(inner, dict):
            return None
        table = inner
    return table


# Findings ---------------------------------------------------------------------------------------------------


def _wrong_tables(layout: Layout) -> list[Finding]:
    """A value where tedge expects a table: it rejects the whole file."""
    findings = []
    for path in sorted(_TABLES):
        holder = _holder(layout.table, path)
        if path == ("config",) or holder is None or path[-1] not in holder or isinstance(holder[path[-1]], dict):
            continue
        message = (
            f"{layout.name(path)} is {described(holder[path[-1]])}; tedge expects a table and rejects the whole file"
        )
        findings.append(refused("wrong-type", layout.place(path), message))
    return findings


def _wrong_type(key: Key, raw: object, layout: Layout, reason: str) -> Finding:
    """`tedge config set` cannot mend this, for it must read the file first; ours replaces the value unread."""
    place = layout.place(key.path)
    command = f"tedge-agentd config set {key.name}={_intended(key.kind, raw)}" if key.settable else f"edit {place}"
    message = f"{layout.name(key.path)} is {reason}, and rejects the whole file: its services do not start"
    return refused("wrong-type", place, message, f"{command}, or edit {place}" if key.settable else command)


def _intended(kind: Kind, raw: object) -> str:
    """What was probably meant by a value of the wrong type, to be offered as a command; else a placeholder."""
    text = scalar_text(raw)
    try:
        if text is not None:
            value = from_text(kind, text.strip())
            word = shell_word(to_text(value))
            if word is not None and objection(kind, value) is None:
                return word
    except WrongValueError:
        pass
    return "VALUE"


def _unusable(key: Key, layout: Layout, reason: str) -> Finding:
    area = key.area
    effect = {
        None: "the default is assumed",
        Area.BROKER: "the broker is left as it is",
        Area.CLIENTS: "the thin-edge services are left as they are",
        Area.ALL: "everything is left as it is",
    }[area]
    return Finding(
        code="invalid-value",
        severity=Severity.WARNING if area is None else Severity.ERROR,
        where=layout.place(key.path),
        message=f"{layout.name(key.path)}: {reason}; {effect}",
        remedy=f"tedge config set {key.name} VALUE, or tedge config unset {key.name}",
        blocks=area,
    )


def _half_set(client: ClientSettings) -> tuple[Finding, ...]:
    """What tedge silently does without (facts/thin-edge.md 1.4): its services log in with less than was asked."""
    prefix = "mqtt.client.auth"
    has_ca = client.ca_file is not None or client.ca_dir is not None
    findings = []
    for one, other, has_one, has_other in (
        ("cert_file", "key_file", client.cert_file is not None, client.key_file is not None),
        ("key_file", "cert_file", client.key_file is not None, client.cert_file is not None),
        ("password_file", "username", client.password_file is not None, bool(client.username)),
    ):
        if has_one and not has_other:
            message = f"{prefix}.{one} is set without {prefix}.{other}; tedge silently ignores it"
            findings.append(_incomplete(f"{prefix}.{one}", message, f"tedge config set {prefix}.{other} VALUE"))
    if client.cert_file is not None and client.key_file is not None and not has_ca:
        message = (
            f"{prefix}.cert_file and {prefix}.key_file are set without {prefix}.ca_file or {prefix}.ca_dir; "
            "tedge then connects without TLS and never uses them"
        )
        findings.append(_incomplete(f"{prefix}.cert_file", message, f"tedge config set {prefix}.ca_file VALUE"))
    return tuple(findings)


def _incomplete(where: str, message: str, remedy: str) -> Finding:
    return Finding(
        code="incomplete-client-auth", severity=Severity.WARNING, where=where, message=message, remedy=remedy
    )


# Settings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Values:
    """Typed access to values by key; a default is the key's own, from one table."""

    values: Mapping[str, Value]

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def address(self, name: str) -> IPAddress | None:
        value = self.values.get(name)
        return None if value is None or isinstance(value, bool | int | str) else value

    def number(self, name: str) -> int | None:
        value = self.values.get(name)
        return value if type(value) is int else None

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name)
        return value if isinstance(value, bool) else default


def _settings(values: _Values) -> TedgeSettings:
    bind_default, client_default, default = BindSettings(), ClientSettings(), TedgeSettings()
    bind = BindSettings(
        enabled=values.flag("mqtt.bind.enabled", bind_default.enabled),
        address=values.address("mqtt.bind.address") or bind_default.address,
        port=values.number("mqtt.bind.port") or bind_default.port,
    )
    auth = "mqtt.client.auth"
    client = ClientSettings(
        host=values.text("mqtt.client.host") or client_default.host,
        port=values.number("mqtt.client.port") or bind.port,
        ca_file=values.text(f"{auth}.ca_file"),
        ca_dir=values.text(f"{auth}.ca_dir"),
        cert_file=values.text(f"{auth}.cert_file"),
        key_file=values.text(f"{auth}.key_file"),
        username=values.text(f"{auth}.username"),
        password_file=values.text(f"{auth}.password_file"),
    )
    external = ExternalSettings(
        port=values.number("mqtt.external.bind.port"),
        address=values.address("mqtt.external.bind.address"),
        interface=values.text("mqtt.external.bind.interface"),
        ca_path=values.text("mqtt.external.ca_path"),
        cert_file=values.text("mqtt.external.cert_file"),
        key_file=values.text("mqtt.external.key_file"),
    )
    return TedgeSettings(
        bind=bind,
        client=client,
        external=external,
        bridge_built_in=values.flag("mqtt.bridge.built_in", default.bridge_built_in),
        topic_root=values.text("mqtt.topic_root") or default.topic_root,
        device_topic_id=values.text("mqtt.device_topic_id") or default.device_topic_id,
        device_cert_path=values.text("device.cert_path"),
        device_key_path=values.text("device.key_path"),
        http_bind_address=values.address("http.bind.address"),
        service_type=values.text("service.type") or default.service_type,
        service_times=values.text("service.timestamp_format") or default.service_times,
    )
