"""tedge.toml's settings -> the listeners they ask for, whose files are whose, and what to watch."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

from . import model
from .device_pairs import DevicePair
from .shell import word

CLIENT_KEYS = "mqtt.client.auth"
EXTERNAL_KEYS = "mqtt.external"
TLS_PORT = 8883
PLAIN_PORT = 1883


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Who reads what: the broker's account and that of the thin-edge services."""

    broker_user: str = "mosquitto"
    broker_group: str = "mosquitto"
    client_user: str = "tedge"
    client_group: str = "tedge"


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """The external listener that is asked for, before the machine's network and the staged copies are known."""

    port: int
    address: model.IPAddress | None
    interface: str | None
    level: model.Level
    cert: str | None = None
    key: str | None = None
    client_ca: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the settings ask for. `findings` may block parts of it: see model.Finding.blocks."""

    internal: model.Listener | None
    external: External | None
    rules: tuple[model.FileRule, ...]
    client: model.ClientSettings
    client_user: str
    client_values: tuple[str, ...]  # what clients read at their start, files by their paths
    agent_values: tuple[str, ...]  # what tedge-agent reads besides
    topic_root: str = "te"
    device_topic_id: str = "device/main//"
    service_type: str = "service"
    service_times: str = "unix"
    tedge_dir: str = "/etc/tedge"
    device_certs: frozenset[str] = frozenset()  # which thin-edge itself renews
    findings: tuple[model.Finding, ...] = ()

    def client_paths(self) -> tuple[str, ...]:
        """The files and the directory whose contents clients read at their start."""
        client = self.client
        paths = (client.ca_file, client.ca_dir, client.cert_file, client.key_file, client.password_file)
        return tuple(path for path in paths if path)


def derive(
    settings: model.TedgeSettings,
    accounts: Accounts,
    *,
    tedge_dir: str,
    device_pairs: tuple[DevicePair, ...] = (),
) -> Desired:
    """Return what the settings ask for. Pure arithmetic on the settings: no file has been looked at yet.

    `device_pairs` are those of single clouds and mappers, besides the settings' own.
    """
    bind = settings.bind
    devices = _device_files(settings, tedge_dir, device_pairs)
    internal = model.Listener(port=bind.port, address=bind.address) if bind.enabled else None
    external, findings = _external(settings.external)
    return Desired(
        internal=internal,
        external=external,
        rules=_rules(settings, accounts, devices),
        client=settings.client,
        client_user=accounts.client_user,
        client_values=_client_values(settings),
        agent_values=(str(settings.http_bind_address or settings.external.address or bind.address),),
        topic_root=settings.topic_root,
        device_topic_id=settings.device_topic_id,
        service_type=settings.service_type,
        service_times=settings.service_times,
        tedge_dir=tedge_dir,
        device_certs=frozenset(_same(one.path) for one in devices if one.kind is model.FileKind.CERTIFICATE),
        findings=findings,
    )


def _external(asked: model.ExternalSettings) -> tuple[External | None, tuple[model.Finding, ...]]:
    if not asked.any_set():
        return None, ()
    incomplete = _incomplete_tls(asked)
    if incomplete is not None:
        return None, (incomplete,)
    level = (
        model.Level.NONE
        if asked.cert_file is None
        else model.Level.SERVER
        if asked.ca_path is None
        else model.Level.MUTUAL
    )
    # The guide promises these ports; thin-edge opens nothing without one (facts/thin-edge.md 0.4).
    port = asked.port if asked.port is not None else PLAIN_PORT if level is model.Level.NONE else TLS_PORT
    external = External(
        port=port,
        address=asked.address,
        interface=asked.interface,
        level=level,
        cert=asked.cert_file,
        key=asked.key_file,
        client_ca=asked.ca_path,
    )
    if level is model.Level.NONE and not (asked.address is not None and asked.address.is_loopback):
        return external, (_insecure(external),)
    return external, ()


def _incomplete_tls(asked: model.ExternalSettings) -> model.Finding | None:
    """Half of a TLS setting opens nothing: Mosquitto 2.0.11 would serve it as plaintext (facts/mosquitto.md 0.8)."""
    cert, key, ca = asked.cert_file, asked.key_file, asked.ca_path
    if (cert is None) == (key is None) and (ca is None or cert is not None):
        return None
    missing, given = _halves(asked)
    set_missing = (
        f"tedge config set {missing[0]} PATH"
        if len(missing) == 1
        else f"tedge-agentd config set {' '.join(f'{key}=PATH' for key in missing)}"
    )
    return model.Finding(
        code="incomplete-tls",
        severity=model.Severity.ERROR,
        where=missing[0],
        message=f"{' and '.join(given)} set, but {' and '.join(missing)} not: nothing is opened",
        remedy=f"{set_missing}, or tedge-agentd config unset {' '.join(given)}",
        blocks=model.Area.BROKER,
    )


def _halves(asked: model.ExternalSettings) -> tuple[list[str], list[str]]:
    """The keys that TLS still needs, and those of it that are set."""
    pair = (("cert_file", asked.cert_file), ("key_file", asked.key_file))
    missing = [f"{EXTERNAL_KEYS}.{name}" for name, value in pair if value is None]
    given = [f"{EXTERNAL_KEYS}.{name}" for name, value in (*pair, ("ca_path", asked.ca_path)) if value is not None]
    return missing, given


def together(asked: model.ExternalSettings) -> str:
    """The command that sets what TLS needs in one write: before one is written, there is nothing to add a half to."""
    missing, given = _halves(asked)
    values = {f"{EXTERNAL_KEYS}.{name}": getattr(asked, name) for name in ("cert_file", "key_file", "ca_path")}
    words = [word(f"{key}={values[key]}") for key in given] + [f"{key}=PATH" for key in missing]
    return f"set them in one command: tedge-agentd config set {' '.join(words)}"


def _insecure(external: External) -> model.Finding:
    where = f"{external.address or external.interface or 'all addresses'} port {external.port}"
    return model.Finding(
        code="insecure-listener",
        severity=model.Severity.WARNING,
        where=f"{EXTERNAL_KEYS}.bind",
        message=f"anyone who reaches {where} may read and publish everything: no TLS, no login",
        remedy="tedge-agentd secure server, or set mqtt.external.cert_file and mqtt.external.key_file",
    )


# Files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeviceFile:
    path: str
    key: str
    kind: model.FileKind
    may_be_bridged: bool  # whether the broker reads it where the mosquitto bridge is configured


def _device_files(
    settings: model.TedgeSettings, tedge_dir: str, pairs: tuple[DevicePair, ...]
) -> tuple[_DeviceFile, ...]:
    default = DevicePair(
        mapper="",
        cert=settings.device_cert_path or f"{tedge_dir}/device-certs/tedge-certificate.pem",
        key=settings.device_key_path or f"{tedge_dir}/device-certs/tedge-private-key.pem",
    )
    files = []
    for pair in (default, *pairs):
        suffix = f" ({pair.mapper})" if pair.mapper else ""
        named = (
            (pair.cert, "device.cert_path", model.FileKind.CERTIFICATE),
            (pair.key, "device.key_path", model.FileKind.KEY),
        )
        files += [
            _DeviceFile(path=path, key=key + suffix, kind=kind, may_be_bridged=pair is default or pair.may_be_bridged)
            for path, key, kind in named
            if path is not None
        ]
    return tuple(files)


def _rules(
    settings: model.TedgeSettings, accounts: Accounts, devices: tuple[_DeviceFile, ...]
) -> tuple[model.FileRule, ...]:
    """One rule a path, in the order of the keys.

    A file that both need is the client user's, as the broker has its copy; its bridge alone reads what it is given.
    """
    client = settings.client
    kind = model.FileKind
    auth = CLIENT_KEYS
    client_files = [
        (client.cert_file, f"{auth}.cert_file", kind.CERTIFICATE),
        (client.key_file, f"{auth}.key_file", kind.KEY),
        (client.password_file, f"{auth}.password_file", kind.PASSWORD),
    ]
    broker_files = [
        (settings.external.cert_file, f"{EXTERNAL_KEYS}.cert_file", kind.CERTIFICATE),
        (settings.external.key_file, f"{EXTERNAL_KEYS}.key_file", kind.KEY),
    ]
    # Without the built-in bridge it is the broker itself that connects to the cloud (facts/thin-edge.md 4).
    bridged = [one for one in devices if one.may_be_bridged and not settings.bridge_built_in]
    broker_files += [(one.path, one.key, one.kind) for one in bridged]
    # A file with certificate and key is a key: as a certificate it would be published.
    keys = {_same(path) for path, _, what in (*client_files, *broker_files) if path and what is kind.KEY}
    in_place = {_same(one.path) for one in bridged}
    # The mappers read the device pairs as the client user, and `tedge connect` gives them to that user.
    shared = {_same(one.path) for one in devices if one not in bridged}
    rules: dict[str, model.FileRule] = {}
    for files, others, for_both, for_one in (
        (client_files, in_place, _common_rule, _client_rule),
        (broker_files, shared, _client_rule, _broker_rule),
    ):
        for path, key, what in files:
            if not path or (what is kind.CERTIFICATE and _same(path) in keys):
                continue
            make = for_both if _same(path) in others else for_one
            rules.setdefault(_same(path), make(path, key, what, accounts))
    for path, key, readers in (
        (settings.external.ca_path, f"{EXTERNAL_KEYS}.ca_path", (accounts.broker_user,)),
        (client.ca_file, f"{auth}.ca_file", (accounts.client_user,)),
        (client.ca_dir, f"{auth}.ca_dir", (accounts.client_user,)),
    ):
        if path:
            rules.setdefault(_same(path), _ca_rule(path, key, readers))
    return tuple(rules.values())


def _same(path: str) -> str:
    return posixpath.normpath(path)


def _client_rule(path: str, key: str, kind: model.FileKind, accounts: Accounts) -> model.FileRule:
    return model.FileRule(
        path=path,
        key=key,
        role=model.Role.CLIENT,
        kind=kind,
        owner=accounts.client_user,
        group=accounts.client_group,
        readers=(accounts.client_user,),
    )


def _broker_rule(path: str, key: str, kind: model.FileKind, accounts: Accounts) -> model.FileRule:
    return model.FileRule(
        path=path,
        key=key,
        role=model.Role.BROKER,
        kind=kind,
        owner=accounts.broker_user,
        group=accounts.broker_group,
        readers=(accounts.broker_user,),
    )


def _common_rule(path: str, key: str, kind: model.FileKind, accounts: Accounts) -> model.FileRule:
    """What the broker's bridge and the clients both read where it lies: no owner is right, so none is set.

    `tedge connect` gives it to the broker's user.
    """
    return model.FileRule(
        path=path,
        key=key,
        role=model.Role.CLIENT,
        kind=kind,
        owner=None,
        group=None,
        readers=(accounts.broker_user, accounts.client_user),
    )


def _ca_rule(path: str, key: str, readers: tuple[str, ...]) -> model.FileRule:
    return model.FileRule(
        path=path, key=key, role=model.Role.CA, kind=model.FileKind.CA, owner=None, group=None, readers=readers
    )


# Clients ----------------------------------------------------------------------------------------------------


def _client_values(settings: model.TedgeSettings) -> tuple[str, ...]:
    client = settings.client
    values: Iterable[object] = (
        client.host,
        client.port,
        client.ca_file,
        client.ca_dir,
        client.cert_file,
        client.key_file,
        client.username,
        client.password_file,
        settings.topic_root,
        settings.device_topic_id,
    )
    return tuple("" if value is None else str(value) for value in values)
