"""Gather everything a pass may look at. Reads only; what cannot be read becomes a finding."""

import contextlib
import fnmatch
import os
import re
from dataclasses import dataclass, replace

from . import settings
from .core import (
    apparmor,
    client_port,
    conflicts,
    desired,
    device_pairs,
    ledger,
    leftovers,
    model,
    mosquitto_conf,
    observed,
    overrides,
    tedge_toml,
)
from .host import bus, network, opened, ownership, shared, walk
from .world import World

_MAPPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_MOST_MAPPERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What operators write: tedge.toml, system.toml and the broker's configuration, parsed."""

    wish: desired.Desired | None
    system: model.SystemSettings
    conf: mosquitto_conf.BrokerConf | None
    listener_path: str | None
    findings: tuple[model.Finding, ...]
    mapper_files: tuple[str, ...] = ()  # mapper.toml of each mapper, there or not
    garbled: bool = False  # tedge.toml cannot be read, by anybody
    leftovers: tuple[str, ...] = ()  # listener files of ours in other places; `conf` is read without them


# Inputs -----------------------------------------------------------------------------------------------------


def load(world: World) -> Inputs:
    """Read what operators write. A machine without thin-edge or without a broker is no error: they may come."""
    options = world.settings
    if not os.path.isdir(options.tedge_dir):
        absent = _waiting(
            "tedge-not-installed",
            options.tedge_dir,
            "thin-edge.io is not installed: there is nothing to do",
            "apt install tedge",
            severity=model.Severity.INFO,
            waits=False,
        )
        return Inputs(wish=None, system=model.SystemSettings(), conf=None, listener_path=None, findings=(absent,))
    data, findings = _read_config(world, options.system_toml, reader="")
    system, found = tedge_toml.parse_system(data, options.system_toml)
    findings += found
    findings += _presumptuous(world, system)
    data, unread = _read_config(world, options.tedge_toml, reader=system.user)
    findings += unread
    wish, garbled = None, bool(unread)
    mappers = _mappers(world)
    if not any(finding.blocks is model.Area.ALL for finding in findings):
        parsed = tedge_toml.parse(data, options.tedge_toml)
        findings += parsed.findings
        garbled = parsed.settings is None
        if parsed.settings is not None:
            pairs = (*mappers.pairs, *device_pairs.of_tedge_toml(data, options.tedge_toml, mappers=mappers.names))
            wish = desired.derive(
                parsed.settings, world.accounts(system), tedge_dir=options.tedge_dir, device_pairs=pairs
            )
            if any(finding.blocks is model.Area.BROKER for finding in parsed.findings):
                # A value that cannot be used is absent here: that half of TLS is missing would be said of it, too.
                wish = replace(wish, findings=tuple(f for f in wish.findings if f.code != "incomplete-tls"))
    conf, listener_path, misread = _broker_conf(world)
    findings += misread
    behind = leftovers.find(conf, listener_path) if conf is not None else ()
    return Inputs(
        wish=wish,
        system=system,
        conf=leftovers.without(conf, behind) if conf is not None else None,
        listener_path=listener_path,
        findings=tuple(findings),
        mapper_files=mappers.files,
        garbled=garbled,
        leftovers=behind,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mappers:
    """What lies below /etc/tedge/mappers: where a mapper.toml is or may come, whose there is, what they present."""

    files: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    pairs: tuple[device_pairs.DevicePair, ...] = ()


def _mappers(world: World) -> _Mappers:
    """Read every mapper.toml, by the rules for files that user tedge writes. What cannot be read is the mapper's."""
    top = f"{world.settings.tedge_dir}/mappers"
    try:
        directories = sorted(name for name in os.listdir(top) if _MAPPER.fullmatch(name))[:_MOST_MAPPERS]
    except OSError:
        return _Mappers()
    contents = {}
    for name in directories:
        with contextlib.suppress(opened.Refused):
            contents[name] = shared.read(f"{top}/{name}/mapper.toml", world.roots())
    pairs = (device_pairs.of_mapper(name, data, f"{top}/{name}") for name, data in contents.items())
    return _Mappers(
        files=tuple(f"{top}/{name}/mapper.toml" for name in directories),
        names=frozenset(contents),
        pairs=tuple(pair for pair in pairs if pair is not None),
    )


def _read_config(world: World, path: str, *, reader: str) -> tuple[bytes | None, list[model.Finding]]:
    """Return a file's bytes, None where there is none. Root reads no more than the file's own user could.

    User tedge may make tedge.toml a symlink; an error message about its content must not be one about /etc/shadow.
    """
    account = world.people.account(reader) if reader else None
    try:
        if account is None:
            return shared.read(path, world.roots()), []
        with walk.open_source(path, world.roots(), model.Role.CLIENT, account) as source:
            if not opened.readable(source, account):
                return None, [_not_readable(path, reader)]
            return opened.read(source), []
    except opened.Missing:
        return None, []
    except opened.Refused as error:
        return None, [_refused(path, error)]


def _presumptuous(world: World, system: model.SystemSettings) -> list[model.Finding]:
    """Whether system.toml gives files to another account than that of who may write it.

    User tedge owns its directory. Were it to name root there, root's reading on the clients' behalf would read all.
    """
    where = world.settings.system_toml
    try:
        writer = shared.writer(where)
    except opened.Refused as error:
        return [_refused(where, error)]
    named = world.people.account(system.user)
    if writer is None or named is None or writer.uid == named.uid:
        return []
    if writer.uid == shared.NOBODY and writer.gid in named.groups:
        return []
    return [
        model.Finding(
            code="system-toml-untrusted",
            severity=model.Severity.ERROR,
            where=where,
            message=f"it names {system.user} as thin-edge's user, but user {writer.name} may write it; nothing is"
            " changed",
            remedy=f"chown {system.user} {world.settings.tedge_dir}, or correct `user` in {where}",
            blocks=model.Area.ALL,
        )
    ]


def _broker_conf(
    world: World,
) -> tuple[mosquitto_conf.BrokerConf | None, str | None, list[model.Finding]]:
    options = world.settings
    if not os.path.exists(options.broker_config):
        return (
            None,
            None,
            [
                _waiting(
                    "broker-not-installed",
                    options.broker_config,
                    "Mosquitto is not installed yet: its listeners are set up once it is",
                    "apt install mosquitto",
                )
            ],
        )
    reader = _Reader(world.roots())
    conf = mosquitto_conf.read_tree(options.broker_config, reader)
    path, findings = mosquitto_conf.find_listener_file(conf, options.tedge_dir)
    return conf, path, list(findings)


class _Reader:
    """Reads the broker's configuration from disk, and nothing that a less trusted writer only points at."""

    def __init__(self, roots: walk.Roots) -> None:
        self._roots = roots

    def read(self, path: str) -> bytes:
        try:
            return shared.read(path, self._roots)
        except opened.Refused as error:
            missing = isinstance(error, opened.Missing)
            raise mosquitto_conf.ConfReadError(error.reason, missing=missing) from error

    def list_dir(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(os.listdir(path))
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            raise mosquitto_conf.ConfReadError(str(error.strerror), missing=missing) from error


# The machine ------------------------------------------------------------------------------------------------


def look(world: World, inputs: Inputs, known: ledger.Ledger) -> observed.Observed:
    """Look at the machine as far as the inputs make it matter."""
    wish = inputs.wish
    broker, clients, findings = _units(world, inputs)
    ids, absent = _ids(world, inputs)
    account = world.people.account(world.settings.broker_user)
    client = world.people.account(inputs.system.user)
    found = world.material.read(wish, world.roots(), account, client, world.epoch())
    broker_uids = frozenset({account.uid} if account is not None else ())
    net = _network(wish, world.listening.look(broker, broker_uids, _ports(wish)))
    return observed.Observed(
        now=world.stamp(),
        broker_installed=inputs.conf is not None and account is not None,
        listener_path=inputs.listener_path,
        listener_data=_listener_data(world, inputs.listener_path),
        listener_clashes=_clashes(inputs, net),
        leftovers=inputs.leftovers,
        broker=broker,
        clients=clients,
        last_lines={unit.name: world.last_lines.of(unit) for unit in clients if unit.has_failed},
        files=_files(world, wish),
        uids=ids[0],
        gids=ids[1],
        pair=found.pair,
        client_cas=found.client_cas,
        certificates=found.in_use,
        staged=world.staged.digests() if inputs.conf is not None else {},
        network=net,
        broker_uids=broker_uids,
        client_contents=_client_contents(world, inputs),
        garbled=inputs.garbled,
        ledger=known,
        findings=(
            *inputs.findings,
            *findings,
            *absent,
            *found.findings,
            *_conflicts(inputs, net),
            *client_port.find(wish, inputs.conf, inputs.listener_path),
            *_confined(world, inputs),
        ),
    )


def _units(
    world: World, inputs: Inputs
) -> tuple[model.UnitFacts | None, tuple[model.UnitFacts, ...], list[model.Finding]]:
    options = world.settings
    try:
        broker = world.systemd.unit(options.broker_unit)
        units = world.systemd.units((*options.client_units, *options.extra_client_units))
        clients = tuple(unit for unit in units if not _is_never_restarted(unit.name))
        beaten = {unit.name: world.environments.beating(unit) for unit in clients if unit.is_active}
        findings = list(overrides.findings(beaten))
    except bus.BusUnavailableError as error:
        return None, (), [_waiting("systemd-unavailable", "systemd", str(error), error.remedy, blocks=model.Area.ALL)]
    if inputs.conf is not None and broker.load_state != "loaded":
        findings.append(_no_broker_unit(broker))
    return broker, clients, findings


def _confined(world: World, inputs: Inputs) -> tuple[model.Finding, ...]:
    """What AppArmor keeps from the broker, of the files it has to read."""
    wish = inputs.wish
    if wish is None or inputs.conf is None or inputs.listener_path is None:
        return ()
    profile = world.confinement.profile(world.settings.broker_binary)
    if profile is None:
        return ()
    # Of what is included the broker also reads the directory; the CA lies beside the pair.
    paths = [f"{os.path.dirname(inputs.listener_path)}/", inputs.listener_path]
    if wish.external is not None and wish.external.cert is not None:
        paths.append(f"{world.settings.staging_dir}/{observed.SERVER_PAIR}")
    # With the mosquitto bridge the broker reads the device's pair where it lies.
    paths += [rule.path for rule in wish.rules if rule.role is model.Role.BROKER and rule.key.startswith("device.")]
    return apparmor.findings(profile, paths)


def _is_never_restarted(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.NEVER)


def _files(world: World, wish: desired.Desired | None) -> dict[str, model.FileFacts]:
    rules = wish.rules if wish is not None else ()
    return {rule.path: ownership.examine(rule, world.roots(), world.people) for rule in rules}


def _client_contents(world: World, inputs: Inputs) -> tuple[str, ...]:
    account = world.people.account(inputs.system.user)
    if inputs.wish is None or account is None:
        return ()
    return tuple(world.contents.digest(path, world.roots(), account) for path in inputs.wish.client_paths())


def _ids(world: World, inputs: Inputs) -> tuple[tuple[dict[str, int], dict[str, int]], list[model.Finding]]:
    """Return the uids and gids that the rules name, and a finding for each account that is not there (yet)."""
    uids, gids, findings = {}, {}, []
    for rule in inputs.wish.rules if inputs.wish is not None else ():
        if rule.owner is None or rule.group is None or rule.owner in uids:
            continue
        account, gid = world.people.account(rule.owner), world.people.group(rule.group)
        if account is None or gid is None:
            missing = rule.owner if account is None else f"group {rule.group}"
            findings.append(
                _waiting(
                    "account-missing", rule.key, f"there is no account {missing} yet", f"getent passwd {rule.owner}"
                )
            )
            continue
        uids[rule.owner], gids[rule.group] = account.uid, gid
    return (uids, gids), findings


def _listener_data(world: World, path: str | None) -> bytes | None:
    """The listener file's bytes; what is there but is no plain file means nothing of ours, and is replaced."""
    if path is None:
        return None
    try:
        return shared.read(path, world.roots())
    except opened.Missing:
        return None
    except opened.Refused:
        return observed.NOT_A_FILE


def _ports(wish: desired.Desired | None) -> frozenset[int]:
    entries = (wish.internal, wish.external) if wish is not None else ()
    return frozenset(entry.port for entry in entries if entry is not None)


def _network(wish: desired.Desired | None, sockets: tuple[model.Socket, ...]) -> model.Network:
    if wish is None:
        return network.observe((), (), sockets)
    external = wish.external
    addresses = [
        address
        for address in (
            wish.internal.address if wish.internal is not None else None,
            external.address if external is not None else None,
        )
        if address is not None
    ]
    interfaces = [external.interface] if external is not None and external.interface is not None else []
    return network.observe(addresses, interfaces, sockets)


def _conflicts(inputs: Inputs, net: model.Network) -> tuple[model.Finding, ...]:
    wish = inputs.wish
    if inputs.conf is None or wish is None or inputs.listener_path is None:
        return ()
    external = wish.external
    wanted = model.ListenerFile(
        internal=wish.internal,
        external=None
        if external is None
        else model.Listener(
            port=external.port,
            # 0.0.0.0 is not written beside an interface (facts/mosquitto.md 6).
            address=None if external.interface and _is_everywhere(external.address) else external.address,
            interface=external.interface,
        ),
    )
    return conflicts.find(inputs.conf, inputs.listener_path, wanted, net.interfaces)


def _clashes(inputs: Inputs, net: model.Network) -> bool:
    if inputs.conf is None or inputs.listener_path is None:
        return False
    return conflicts.clash(inputs.conf, inputs.listener_path, net.interfaces)


def _is_everywhere(address: model.IPAddress | None) -> bool:
    return address is not None and address.is_unspecified


# Findings ---------------------------------------------------------------------------------------------------


def _waiting(  # noqa: PLR0913  # a finding's fields
    code: str,
    where: str,
    message: str,
    remedy: str,
    *,
    severity: model.Severity = model.Severity.WARNING,
    blocks: model.Area | None = None,
    waits: bool = True,
) -> model.Finding:
    return model.Finding(
        code=code, severity=severity, where=where, message=message, remedy=remedy, blocks=blocks, waits=waits
    )


def _not_readable(path: str, user: str) -> model.Finding:
    return _waiting(
        "tedge-toml-unreadable",
        path,
        f"user {user} cannot read it, so thin-edge takes it for empty; nothing is changed",
        f"chown {user}:{user} {path} && chmod 0644 {path}",
        severity=model.Severity.ERROR,
        blocks=model.Area.ALL,
        waits=False,
    )


def _refused(path: str, error: opened.Refused) -> model.Finding:
    remedy = error.remedy or f"ls -l {path}"
    if isinstance(error, opened.NotRegular | opened.TooLarge):
        remedy = f"mv {path} {path}.wrong; then set the keys again, or put a copy of the file back"
    return model.Finding(
        code="tedge-toml-unreadable",
        severity=model.Severity.ERROR,
        where=path,
        message=f"it {error.reason}",
        remedy=remedy,
        blocks=model.Area.ALL,
    )


def _no_broker_unit(broker: model.UnitFacts) -> model.Finding:
    return model.Finding(
        code="broker-unit",
        severity=model.Severity.ERROR,
        where=broker.name,
        message=f"systemd knows the unit as {broker.load_state}: files are kept right, but nobody serves them",
        remedy=f"systemctl unmask {broker.name}" if broker.load_state == "masked" else "apt install mosquitto",
    )
