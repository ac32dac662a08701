"""The words of the product as frozen data: findings, settings, listeners, files, units."""

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


# Findings ---------------------------------------------------------------------------------------------------


class Severity(enum.Enum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Area(enum.Enum):
    """What a finding keeps from being changed."""

    BROKER = "broker"  # listener file, staged material, the broker unit
    CLIENTS = "clients"  # restarts of the thin-edge services
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A coded statement about the input or the machine, in the operator's terms.

    `where` is a key of tedge.toml, a path, `path:line` or a unit. `remedy` is a command or an edit that mends it.
    `blocks` names what is left untouched while it stands; None for a remark. `waits` marks a state that is expected
    to pass by itself (half a renewal, a package not installed yet): the pass is then pending, not blocked.
    """

    code: str
    severity: Severity
    where: str
    message: str
    remedy: str = ""
    blocks: Area | None = None
    waits: bool = False


# What tedge.toml says ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BindSettings:
    """mqtt.bind.*: the internal listener."""

    enabled: bool = True
    address: IPAddress = ipaddress.IPv4Address("127.0.0.1")
    port: int = 1883


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """mqtt.client.*: how the thin-edge services reach the broker. Paths as written, "" counts as unset."""

    host: str = "127.0.0.1"
    port: int = 1883
    ca_file: str | None = None
    ca_dir: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    username: str | None = None
    password_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSettings:
    """mqtt.external.*: the listener for child devices. None is unset."""

    port: int | None = None
    address: IPAddress | None = None
    interface: str | None = None
    ca_path: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def any_set(self) -> bool:
        """Whether one key is set, which is what asks for an external listener."""
        values = (self.port, self.address, self.interface, self.ca_path, self.cert_file, self.key_file)
        return any(value is not None for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TedgeSettings:
    """The part of tedge.toml that decides about MQTT, as tedge reads it."""

    bind: BindSettings = BindSettings()
    client: ClientSettings = ClientSettings()
    external: ExternalSettings = ExternalSettings()
    bridge_built_in: bool = True
    topic_root: str = "te"
    device_topic_id: str = "device/main//"
    device_cert_path: str | None = None  # None: the default below the tedge directory
    device_key_path: str | None = None
    http_bind_address: IPAddress | None = None
    service_type: str = "service"
    service_times: str = "unix"  # or "rfc-3339"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSettings:
    """system.toml: who the thin-edge services run as (facts/thin-edge.md 4: do not hard-code tedge:tedge)."""

    user: str = "tedge"
    group: str = "tedge"


# Listeners --------------------------------------------------------------------------------------------------


class Level(enum.Enum):
    """The three levels of thin-edge's MQTT guide."""

    NONE = "none"
    SERVER = "server"
    MUTUAL = "mutual"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCa:
    """What a mutual listener verifies its clients with: a file (`cafile`) or a hashed directory (`capath`)."""

    path: str
    is_dir: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS on a listener. certfile and keyfile always come together (facts/mosquitto.md 0.8)."""

    certfile: str
    keyfile: str
    client_ca: ClientCa | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listener block of the listener file, exactly as the broker is to see it. address None: all addresses."""

    port: int
    address: IPAddress | None = None
    interface: str | None = None
    socket_domain: str | None = None  # "ipv4" or "ipv6"
    tls: Tls | None = None

    @property
    def level(self) -> Level:
        if self.tls is None:
            return Level.NONE
        return Level.SERVER if self.tls.client_ca is None else Level.MUTUAL


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerFile:
    """What the listener file means. `sources` are remarks for its reader: (role, path) staged from where."""

    internal: Listener | None = None
    external: Listener | None = None
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(listener for listener in (self.internal, self.external) if listener is not None)


# Files ------------------------------------------------------------------------------------------------------


class Role(enum.Enum):
    """Who needs to read a file, which decides whose it becomes (contract 7)."""

    BROKER = "broker"
    CLIENT = "client"
    CA = "ca"


class FileKind(enum.Enum):
    CERTIFICATE = "certificate"
    KEY = "key"
    PASSWORD = "password"  # noqa: S105  # the kind of a file, not a password
    CA = "ca"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRule:
    """Whose a named file is to be. `key` is the key of tedge.toml that names it, for findings.

    owner None: never chowned, only checked to be readable for `readers`.
    """

    path: str
    key: str
    role: Role
    kind: FileKind
    owner: str | None
    group: str | None
    readers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What the safe walk found at a path. `problem` is a sentence why the file may not be changed; None: it may.

    `real` is where the walk ended after a final symlink; `readable_by` those of the rule's readers who can read it.
    """

    path: str
    real: str
    exists: bool
    uid: int = -1
    gid: int = -1
    mode: int = 0  # permission bits only
    problem: str | None = None
    remedy: str = ""
    readable_by: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What the broker's operators ask of one certificate. Times in seconds since the epoch, UTC."""

    path: str
    subject: str
    issuer: str
    sans: tuple[str, ...]
    not_before: int
    not_after: int
    key_type: str  # "EC", "RSA", "Ed25519", ...
    key_bits: int
    sha256: str  # of the DER, lower-case hex
    is_ca: bool
    version: int  # 1 or 3, as written in X.509
    self_signed: bool
    server_auth: bool  # extended key usage allows it, or there is none
    client_auth: bool


# Units ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFacts:
    """One systemd unit at one moment. Times in microseconds of CLOCK_MONOTONIC, 0 for never."""

    name: str
    load_state: str  # "loaded", "not-found", "masked", ...
    active_state: str  # "active", "inactive", "failed", "activating", ...
    sub_state: str = ""
    invocation: str = ""  # lower-case hex; "" when it never ran
    started_usec: int = 0  # ExecMainStartTimestampMonotonic
    main_pid: int = 0
    result: str = ""
    job: bool = False  # a job that starts or stops it is queued
    failed_usec: int = 0  # of one that has failed for good: InactiveEnterTimestampMonotonic
    is_enabled: bool = False  # of one that has failed for good: started by the next boot

    @property
    def has_failed(self) -> bool:
        """Failed for good, or between two of systemd's own attempts."""
        return self.active_state == "failed" or self.sub_state.startswith("auto-restart")

    @property
    def is_active(self) -> bool:
        return self.active_state in {"active", "reloading"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A moment that survives clock jumps: microseconds of CLOCK_MONOTONIC within one boot."""

    boot_id: str
    usec: int


# The network ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """First address per family, which is what `bind_interface` binds (facts/mosquitto.md 6)."""

    name: str
    ipv4: ipaddress.IPv4Address | None = None
    ipv6: ipaddress.IPv6Address | None = None  # None also where there are only link-local ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """A listening TCP socket. address unspecified (0.0.0.0, ::) is all of its family."""

    address: IPAddress
    port: int
    uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    sockets: tuple[Socket, ...] = ()
    local_addresses: frozenset[IPAddress] = frozenset()  # of those asked for, the ones this machine has
    unprivileged_port_start: int = 1024
