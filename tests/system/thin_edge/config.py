"""tedge.toml as thin-edge.io 2.0 reads, migrates and writes it, and the listener file it renders."""

import contextlib
import ipaddress
import os
import pathlib
import secrets
import shutil
import tomllib
from collections.abc import Callable
from typing import Any

import tomli_w

ETC = pathlib.Path("/etc/tedge")
TOML = ETC / "tedge.toml"

Table = dict[str, Any]


class ConfigError(Exception):
    """What `tedge` would print before it ends with status 1."""


def _integer(lowest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text == "":
            raise ConfigError("cannot parse integer from empty string")
        if not text.removeprefix("+").isdecimal():
            raise ConfigError("invalid digit found in string")
        if int(text) > 65535:
            raise ConfigError("number too large to fit in target type")
        if int(text) < lowest:
            raise ConfigError("number would be zero for non-zero type")
        return int(text)

    return parse


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError("invalid IP address syntax") from None


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError("provided string was not `true` or `false`")
    return text == "true"


def _time_format(text: str) -> str:
    if text not in ("rfc-3339", "rfc3339", "unix"):
        raise ConfigError(f"Failed to parse flag: {text}. Supported values are: 'rfc-3339' or 'unix'")
    return "unix" if text == "unix" else "rfc-3339"


def _path(text: str) -> str:
    return os.path.join(os.getcwd(), text)


KEYS: dict[str, Callable[[str], Any]] = {
    "mqtt.topic_root": str,
    "mqtt.device_topic_id": str,
    "mqtt.bind.enabled": _boolean,
    "mqtt.bind.address": _address,
    "mqtt.bind.port": _integer(1),
    "mqtt.client.host": str,
    "mqtt.client.port": _integer(1),
    "mqtt.client.auth.ca_file": _path,
    "mqtt.client.auth.ca_dir": _path,
    "mqtt.client.auth.cert_file": _path,
    "mqtt.client.auth.key_file": _path,
    "mqtt.client.auth.username": str,
    "mqtt.client.auth.password_file": _path,
    "mqtt.external.bind.port": _integer(0),
    "mqtt.external.bind.address": _address,
    "mqtt.external.bind.interface": str,
    "mqtt.external.ca_path": _path,
    "mqtt.external.cert_file": _path,
    "mqtt.external.key_file": _path,
    "mqtt.bridge.built_in": _boolean,
    "service.type": str,
    "service.timestamp_format": _time_format,
    "device.id": str,
    "device.cert_path": _path,
    "device.key_path": _path,
    "http.bind.address": _address,
    "http.bind.port": _integer(1),
    "c8y.url": str,
}
DEPRECATED = {
    "mqtt.port": "mqtt.bind.port",
    "mqtt.client.auth.cafile": "mqtt.client.auth.ca_file",
    "mqtt.client.auth.cadir": "mqtt.client.auth.ca_dir",
    "mqtt.client.auth.certfile": "mqtt.client.auth.cert_file",
    "mqtt.client.auth.keyfile": "mqtt.client.auth.key_file",
    "mqtt.external.port": "mqtt.external.bind.port",
    "mqtt.external.capath": "mqtt.external.ca_path",
    "mqtt.external.certfile": "mqtt.external.cert_file",
    "mqtt.external.keyfile": "mqtt.external.key_file",
}
VERSION_1 = {
    "mqtt.port": "mqtt.bind.port",
    "mqtt.bind_address": "mqtt.bind.address",
    "mqtt.client_host": "mqtt.client.host",
    "mqtt.client_port": "mqtt.client.port",
    "mqtt.client_ca_file": "mqtt.client.auth.ca_file",
    "mqtt.client_ca_path": "mqtt.client.auth.ca_dir",
    "mqtt.client_auth.cert_file": "mqtt.client.auth.cert_file",
    "mqtt.client_auth.key_file": "mqtt.client.auth.key_file",
    "mqtt.external_port": "mqtt.external.bind.port",
    "mqtt.external_bind_address": "mqtt.external.bind.address",
    "mqtt.external_bind_interface": "mqtt.external.bind.interface",
    "mqtt.external_capath": "mqtt.external.ca_path",
    "mqtt.external_certfile": "mqtt.external.cert_file",
    "mqtt.external_keyfile": "mqtt.external.key_file",
}


def lookup(table: Table, key: str) -> Any:
    """Return the value of a dotted key, or None."""
    value: Any = table
    for word in key.split("."):
        value = value.get(word) if isinstance(value, dict) else None
    return value


def assign(table: Table, key: str, value: Any) -> None:
    """Set a dotted key; None removes it, and the tables that this leaves empty."""
    first, _, rest = key.partition(".")
    if rest:
        assign(table.setdefault(first, {}), rest, value)
        if not table[first]:
            del table[first]
    elif value is None:
        table.pop(first, None)
    else:
        table[first] = value


def load(*, environment: bool = False, migrate: bool = True) -> Table:
    """Read tedge.toml as every tedge process does: unreadable means empty, version 1 is rewritten as version 2."""
    try:
        text = TOML.read_text()
    except OSError:
        text = ""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"TOML parse error: {error}") from None
    outdated = bool(raw) and lookup(raw, "config.version") != "2"
    if outdated:
        for old, new in VERSION_1.items():
            if (value := lookup(raw, old)) is not None and not isinstance(value, dict):
                assign(raw, old, None)
                assign(raw, new, value)
        assign(raw, "config.version", "2")
    for old, new in DEPRECATED.items():  # of these, serde accepts in the file only the aliases of client.auth
        if new.startswith("mqtt.client.auth.") and (value := lookup(raw, old)) is not None:
            assign(raw, old, None)
            assign(raw, new, value)
    for key in KEYS:
        _check_type(key, lookup(raw, key))
    if outdated and migrate:
        with contextlib.suppress(PermissionError):
            store(raw)
    if environment:
        for key, parse in KEYS.items():
            if value := os.environ.get("TEDGE_" + key.upper().replace(".", "_")):
                assign(raw, key, parse(value))
    return raw


def _check_type(key: str, value: Any) -> None:
    if value is None:
        return
    parse = KEYS[key]
    if key.endswith(".port"):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"invalid type: {value!r}, expected u16 in '{key}'")
        parse(str(value))
    elif parse is _boolean:
        if not isinstance(value, bool):
            raise ConfigError(f"invalid type: {value!r}, expected a boolean in '{key}'")
    elif not isinstance(value, str):
        raise ConfigError(f"invalid type: {value!r}, expected a string in '{key}'")
    elif parse is _address:
        _address(value)


def store(table: Table) -> None:
    """Write tedge.toml: unknown mqtt keys and all comments are lost; then the owner, the mode and the directory's."""
    kept = {name: value for name, value in table.items() if name != "mqtt"}
    for key in KEYS:
        if key.startswith("mqtt.") and (value := lookup(table, key)) is not None:
            assign(kept, key, value)
    replace(TOML, tomli_w.dumps(kept).encode())
    user, group = service_user()
    for path, mode in ((TOML, 0o644), (ETC, 0o755)):
        with contextlib.suppress(PermissionError):
            shutil.chown(path, user, group)
            path.chmod(mode)


def replace(path: pathlib.Path, data: bytes) -> None:
    """Write a file as thin-edge does: a temporary name beside it, fsync, rename, fsync of the directory."""
    temporary = path.parent / f".tmp{secrets.token_urlsafe(8)[:6].replace('-', 'a').replace('_', 'b')}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def service_user() -> tuple[str, str]:
    """Return user and group of thin-edge's services, from system.toml."""
    try:
        system = tomllib.loads((ETC / "system.toml").read_text())
    except OSError:
        system = {}
    return system.get("user", "tedge"), system.get("group", "tedge")


def render(table: Table) -> str:
    """Return tedge-mosquitto.conf byte for byte as thin-edge 2.0 renders it, mistakes included."""
    lines = ["per_listener_settings true", "connection_messages true"]
    lines += [
        f"log_type {kind}" for kind in ("error", "warning", "notice", "information", "subscribe", "unsubscribe")
    ]
    lines.append("message_size_limit 268435455")
    port, address = lookup(table, "mqtt.bind.port") or 1883, lookup(table, "mqtt.bind.address") or "127.0.0.1"
    lines += [f"listener {port} {address}", "allow_anonymous true", "require_certificate false"]
    external = lookup(table, "mqtt.external") or {}
    if (port := lookup(external, "bind.port")) is not None:
        mutual = "ca_path" in external
        lines.append(f"listener {port} {lookup(external, 'bind.address') or ''}")
        lines += [f"allow_anonymous {str(not mutual).lower()}", f"require_certificate {str(mutual).lower()}"]
        options = {
            "bind_interface": "bind.interface",
            "capath": "ca_path",
            "certfile": "cert_file",
            "keyfile": "key_file",
        }
        for option, key in options.items():
            if (value := lookup(external, key)) is not None:
                lines.append(f"{option} {value}")
    return "".join(f"{line}\n" for line in lines)
