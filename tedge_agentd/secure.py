"""`secure none|server|mutual`: the whole guide in one command, thin-edge's own clients included.

Certificates come from the local PKI where none are configured; all keys are set in one write of tedge.toml, so that
the daemon sees no half of it; then its result is waited for.
"""

import contextlib
import io
import ipaddress
import itertools
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from . import RUNTIME_DIR, certs, certs_output, config_command, status_command
from .core import desired, errors, model, shell, tedge_toml
from .core.pki_register import Role
from .host import files, opened
from .host.pki_store import Store
from .world import World

WAIT_S = 20.0
DEFAULT_HOST = "127.0.0.1"  # of mqtt.client.host
_LOOPBACK = frozenset({DEFAULT_HOST, "::1"})
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
    return _report(level, now, world, context)


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


def _report(level: model.Level, before: model.TedgeSettings, world: World, context: certs.Context) -> int:
    data, timed_out = status_command.view(RUNTIME_DIR, wait=WAIT_S)
    if data is None:
        print("tedge-agentd is not running: the settings take effect when it starts", file=sys.stderr)
        print("  try: systemctl start tedge-agentd", file=sys.stderr)
        return status_command.NOT_RUNNING
    print(status_command.text(data))
    code = 2 if timed_out else status_command.CODES[str(data["state"])]
    if code == 0:
        settings_now = tedge_toml.parse(_read(world.settings.tedge_toml), world.settings.tedge_toml).settings
        if settings_now is not None:
            served = next(
                (one for one in data["certificates"] if one["role"] == "server"), {"issuer": "", "sans": []}
            )
            print(_opened(level, before.external, settings_now.external))
            print(_how_to_connect(level, settings_now, context, served), end="")
    return code


def _opened(level: model.Level, before: model.ExternalSettings, now: model.ExternalSettings) -> str:
    """Who gets in now; on the way down, what protected it before and does no more."""
    if not now.any_set():
        return "Nothing is open to other devices; the gateway's own services use the internal listener."
    plain = desired.PLAIN_PORT if level is model.Level.NONE else desired.TLS_PORT
    where = f"port {now.port or plain} on {now.address or now.interface or 'all addresses'}"
    match level:
        case model.Level.NONE:
            gone = ": there is no TLS any more" if before.cert_file else ""
            return f"Everybody who reaches {where} may read and publish everything, unencrypted{gone}."
        case model.Level.SERVER:
            gone = ": client certificates are not asked for any more" if before.ca_path else ""
            return f"Everybody who reaches {where} may read and publish everything, encrypted{gone}."
        case model.Level.MUTUAL:
            return f"Only who has a certificate that {now.ca_path} vouches for gets in at {where}."


def _for_devices(external: model.ExternalSettings, context: certs.Context, sans: Collection[str]) -> str:
    """Where a child device finds the listener: an address of this machine that the certificate, if any, names."""
    host = _reached_at(external)
    if host is None or host in _LOOPBACK:
        named = [one for one in context.addresses if not sans or f"IP:{one}" in sans]
        host = next((one for one in named if one not in _LOOPBACK), host)
    return host or (*context.addresses, *context.names)[0]


def _how_to_connect(
    level: model.Level, now: model.TedgeSettings, context: certs.Context, served: Mapping[str, Any]
) -> str:
    """Lines that work when pasted, on a child device as well as here."""
    external = now.external
    if not external.any_set():
        return ""
    host = _for_devices(external, context, served["sans"])
    topic = "-t te/device/sensor1///m/ -m '{\"temperature\": 21}'"
    if level is model.Level.NONE:
        return f"  mosquitto_pub -h {host} -p {external.port or desired.PLAIN_PORT} {topic}\n"
    own_pair = external.cert_file == context.server_pair[0]
    trusted = now.client.ca_file or (context.bundle if own_pair else None)
    needs = shell.word(trusted) if trusted else f"the certificate of {served['issuer']}"
    line = f"mosquitto_pub -h {host} -p {external.port} --cafile"
    if level is model.Level.SERVER:
        return f"A child device needs {needs}, and then:\n  {line} {shell.word(trusted or 'FILE')} {topic}\n"
    if external.ca_path != context.bundle:
        return (
            f"A child device needs {needs} and a certificate of {external.ca_path}:\n"
            f"  {line} {shell.word(trusted or 'FILE')} --cert FILE --key FILE {topic}\n"
        )
    name = _unused_name(context)
    verifies = f"{name}/ca.crt" if own_pair else shell.word(trusted or "FILE")
    return (
        f"A child device needs a certificate{'' if own_pair else f' and {needs}'}, and then connects with it:\n"
        f"  tedge-agentd certs issue child {name} --out ./{name}\n"
        f"  {line} {verifies} --cert {name}/{name}.crt --key {name}/{name}.key {topic.replace('sensor1', name)}\n"
    )


def _unused_name(context: certs.Context) -> str:
    """A name for a child device to which nothing was issued yet."""
    issued = set()
    with contextlib.suppress(errors.TedgeAgentdError, opened.Refused, OSError):
        issued = {one.name for one in Store(context.state_dir).register().issued if one.role is Role.CHILD}
    return next(name for number in itertools.count(1) if (name := f"sensor{number}") not in issued)


def _read(path: str) -> bytes | None:
    try:
        return files.read_limited(path)
    except opened.Refused:
        return None
