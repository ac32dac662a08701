"""`secure none|server|mutual`: the whole guide in one command, thin-edge's own clients included.

Certificates come from the local PKI where none are configured; all keys are set in one write of tedge.toml, so that
the daemon sees no half of it; then its result is waited for.
"""

import contextlib
import io
import ipaddress
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import certs, certs_output, config_command, settings, status_command
from .core import desired, model, tedge_toml
from .host import files, opened
from .world import World

WAIT_S = 20.0
DEFAULT_HOST = "127.0.0.1"  # of mqtt.client.host
EXTERNAL, AUTH = "mqtt.external", "mqtt.client.auth"
Changes = dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What `config set` needs for its write: see config_command.change."""

    lock_path: str
    check: config_command.Check
    user: str
    group: str


def secure(level: model.Level, world: World, rules: Rules) -> int:
    """Set a level up and wait for it; the exit status is that of `status --wait`, or 1 where it was refused."""
    options = world.settings
    parsed = tedge_toml.parse(_read(options.tedge_toml), options.tedge_toml)
    if parsed.settings is None:
        return certs_output.refused(
            f"{parsed.findings[0].where}: {parsed.findings[0].message}", parsed.findings[0].remedy
        )
    context = certs.this_machine(world.settings_path)
    now = parsed.settings
    if level is not model.Level.NONE and not _certificates(level, now, context):
        return 1
    changes = _lowered(now) if level is model.Level.NONE else _raised(level, now, context)
    changes = {key: value for key, value in changes.items() if value != _current(now, key)}
    if changes:
        said = config_command.change(
            options.tedge_toml,
            changes,
            lock_path=rules.lock_path,
            check=rules.check,
            user=rules.user,
            group=rules.group,
        )
        if said != 0:
            return said
        for key, value in sorted(changes.items()):
            print(f"{key} {'unset' if value is None else f'= {value}'}")
    else:
        print("tedge.toml asks for it already.")
    return _report(level, world, context)


# Certificates -----------------------------------------------------------------------------------------------


def _certificates(level: model.Level, now: model.TedgeSettings, context: certs.Context) -> bool:
    """Make what no setting names yet; quietly, unless it fails."""
    needed: list[Callable[[], int]] = []
    if now.external.cert_file in (None, context.server_pair[0]):
        needed += [lambda: certs.init(context), lambda: certs.issue_server(context)]
    if level is model.Level.MUTUAL and now.client.cert_file in (None, context.client_pair[0]):
        needed += [lambda: certs.init(context), lambda: certs.issue_tedge(context)]
    for make in needed:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = make()
        if code != 0:
            sys.stderr.write(said.getvalue())
            return False
    return True


# Settings ---------------------------------------------------------------------------------------------------


def _raised(level: model.Level, now: model.TedgeSettings, context: certs.Context) -> Changes:
    """The keys of a level with TLS. What an operator has set is kept: a pair, a CA, an address."""
    external, client = now.external, now.client
    own_pair = external.cert_file in (None, context.server_pair[0])
    cert, key = context.server_pair if own_pair else (external.cert_file, external.key_file)
    mutual = level is model.Level.MUTUAL
    port = external.port if external.port not in (None, desired.PLAIN_PORT) else desired.TLS_PORT
    changes: Changes = {
        f"{EXTERNAL}.cert_file": cert,
        f"{EXTERNAL}.key_file": key,
        f"{EXTERNAL}.ca_path": (external.ca_path or context.bundle) if mutual else None,
        f"{EXTERNAL}.bind.port": str(port),
    }
    host = _reached_at(external)
    trusted = client.ca_file or (None if client.ca_dir else context.bundle if own_pair else None)
    if host is None or (trusted is None and client.ca_dir is None):
        return changes  # thin-edge's own services stay on the internal listener
    other_host = None if host == DEFAULT_HOST else host
    changes |= {"mqtt.client.host": other_host, "mqtt.client.port": str(port), f"{AUTH}.ca_file": trusted}
    own_client = client.cert_file in (None, context.client_pair[0])
    if mutual and own_client:
        changes |= {f"{AUTH}.cert_file": context.client_pair[0], f"{AUTH}.key_file": context.client_pair[1]}
    elif own_client:
        changes |= {f"{AUTH}.cert_file": None, f"{AUTH}.key_file": None}
    return changes


def _reached_at(external: model.ExternalSettings) -> str | None:
    """Where the gateway's own services find the listener; None behind an interface, whose address may change."""
    if external.interface is not None:
        return None
    address = external.address
    if address is None or address.is_unspecified:
        return "::1" if isinstance(address, ipaddress.IPv6Address) else DEFAULT_HOST
    return str(address)


def _lowered(now: model.TedgeSettings) -> Changes:
    """The keys of plain MQTT. A listener on all addresses is closed: its port is the internal listener's, too."""
    external, client = now.external, now.client
    changes: Changes = {f"{EXTERNAL}.{name}": None for name in ("cert_file", "key_file", "ca_path")}
    if external.port == desired.TLS_PORT:
        changes[f"{EXTERNAL}.bind.port"] = None
    everywhere = external.interface is None and (external.address is None or external.address.is_unspecified)
    if everywhere and external.port in (None, desired.TLS_PORT, now.bind.port):
        changes[f"{EXTERNAL}.bind.address"] = None
    if client.port in (external.port, desired.TLS_PORT):
        changes |= {"mqtt.client.port": None, "mqtt.client.host": None}
        changes |= {f"{AUTH}.{name}": None for name in ("ca_file", "cert_file", "key_file")}
    return changes


def _current(now: model.TedgeSettings, key: str) -> str | None:
    """What a key is set to, as `config set` would be given it; a default counts as unset."""
    client, external = now.client, now.external
    values: Mapping[str, object] = {
        f"{EXTERNAL}.cert_file": external.cert_file,
        f"{EXTERNAL}.key_file": external.key_file,
        f"{EXTERNAL}.ca_path": external.ca_path,
        f"{EXTERNAL}.bind.port": external.port,
        f"{EXTERNAL}.bind.address": external.address,
        "mqtt.client.host": None if client.host == DEFAULT_HOST else client.host,
        "mqtt.client.port": None if client.port == now.bind.port else client.port,
        f"{AUTH}.ca_file": client.ca_file,
        f"{AUTH}.cert_file": client.cert_file,
        f"{AUTH}.key_file": client.key_file,
    }
    return None if values[key] is None else str(values[key])


# Saying so --------------------------------------------------------------------------------------------------


def _report(level: model.Level, world: World, context: certs.Context) -> int:
    data, timed_out = status_command.view(settings.RUNTIME_DIR, wait=WAIT_S)
    if data is None:
        print("tedge-agentd is not running: the settings take effect when it starts", file=sys.stderr)
        print("  try: systemctl start tedge-agentd", file=sys.stderr)
        return status_command.NOT_RUNNING
    print(status_command.text(data))
    code = 2 if timed_out else status_command.CODES[str(data["state"])]
    if code == 0:
        settings_now = tedge_toml.parse(_read(world.settings.tedge_toml), world.settings.tedge_toml).settings
        if settings_now is not None:
            print(_how_to_connect(level, settings_now, context))
    return code


def _how_to_connect(level: model.Level, now: model.TedgeSettings, context: certs.Context) -> str:
    """A line that works when pasted here; a child device uses the gateway's name or address instead."""
    external = now.external
    host = _reached_at(external) or context.names[0]
    topic = "-t te/device/sensor1///m/ -m '{\"temperature\": 21}'"
    if level is model.Level.NONE:
        if not external.any_set():
            return "Nothing is open to other devices; the gateway's own services use the internal listener."
        where = f"{external.address or external.interface} port {external.port or desired.PLAIN_PORT}"
        return f"Open to everybody who reaches {where}:\n  mosquitto_pub -h {host} -p {external.port or 1883} {topic}"
    trusted = now.client.ca_file or context.bundle
    line = f"mosquitto_pub -h {host} -p {external.port} --cafile {trusted}"
    if level is model.Level.SERVER:
        return f"A child device needs {trusted}, and then:\n  {line} {topic}"
    if external.ca_path != context.bundle:
        return f"A child device needs a certificate of {external.ca_path}:\n  {line} --cert FILE --key FILE {topic}"
    return (
        "A child device needs a certificate, and then connects with it:\n"
        "  tedge-agentd certs issue child sensor1 --out ./sensor1\n"
        f"  mosquitto_pub -h {host} -p {external.port} --cafile sensor1/ca.crt"
        f" --cert sensor1/sensor1.crt --key sensor1/sensor1.key {topic}"
    )


def _read(path: str) -> bytes | None:
    try:
        return files.read_limited(path)
    except opened.Refused:
        return None
