"""The keys of tedge.toml that the daemon reads, and every other name they ever went by.

Sources: facts/thin-edge.md 1.1 (types, defaults), 1.2 (aliases), 1.3 (migration), 8 (the guide's names).
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .model import Area

Path = tuple[str, ...]


class Kind(enum.Enum):
    """What a value is; its own value is how an operator is told what is expected."""

    FLAG = "true or false"
    PORT = "a port number from 1 to 65535"  # NonZeroU16
    PORT_OR_ZERO = "a port number from 0 to 65535"  # u16: tedge takes 0, the broker does not
    ADDRESS = 'an IP address in quotes, such as "127.0.0.1"'
    INTERFACE = 'the name of a network interface in quotes, such as "wlan0"'
    HOST = "a host name or an IP address in quotes"
    TEXT = "a text in quotes"
    TOPIC_ROOT = 'an MQTT topic in quotes, such as "te"'
    TOPIC_ID = 'an entity topic identifier in quotes, such as "device/main//"'
    PATH = "an absolute path in quotes"
    DURATION = 'a duration, such as "30s" or 30'
    TIME_FORMAT = '"rfc-3339" or "unix"'
    VERSION = '"1" or "2"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key under today's name.

    `default` is what `tedge config get` prints when the key is unset (None: nothing), `default_below` the same as
    a path below the tedge directory; `default_keys` stand in before `default`, the first one that is set.
    `area` is what an unusable value keeps from being changed; None where the daemon can do without the value.
    """

    name: str
    kind: Kind
    doc: str
    area: Area | None
    default: str | None = None
    default_below: str | None = None
    default_keys: tuple[str, ...] = ()
    example: str = ""
    settable: bool = True

    @property
    def path(self) -> Path:
        return tuple(self.name.split("."))


_KEYS = (
    Key(
        name="config.version", kind=Kind.VERSION, area=None, default="1", settable=False, doc="Layout of tedge.toml."
    ),
    Key(
        name="device.key_path",
        kind=Kind.PATH,
        area=None,
        default_below="device-certs/tedge-private-key.pem",
        example="/etc/tedge/device-certs/tedge-private-key.pem",
        doc="Path of the device's private key.",
    ),
    Key(
        name="device.cert_path",
        kind=Kind.PATH,
        area=None,
        default_below="device-certs/tedge-certificate.pem",
        example="/etc/tedge/device-certs/tedge-certificate.pem",
        doc="Path of the device's certificate.",
    ),
    Key(name="mqtt.topic_root", kind=Kind.TOPIC_ROOT, area=Area.CLIENTS, default="te", doc="MQTT topic root."),
    Key(
        name="mqtt.device_topic_id",
        kind=Kind.TOPIC_ID,
        area=Area.CLIENTS,
        default="device/main//",
        example="device/child_001//",
        doc="MQTT topic identifier of the device.",
    ),
    Key(
        name="mqtt.bind.enabled",
        kind=Kind.FLAG,
        area=Area.BROKER,
        default="true",
        doc="Whether thin-edge provides the internal listener.",
    ),
    Key(
        name="mqtt.bind.address",
        kind=Kind.ADDRESS,
        area=Area.BROKER,
        default="127.0.0.1",
        doc="Address of the internal listener.",
    ),
    Key(
        name="mqtt.bind.port", kind=Kind.PORT, area=Area.BROKER, default="1883", doc="Port of the internal listener."
    ),
    Key(
        name="mqtt.client.host",
        kind=Kind.HOST,
        area=Area.CLIENTS,
        default="127.0.0.1",
        doc="Host the thin-edge services connect to.",
    ),
    Key(
        name="mqtt.client.port",
        kind=Kind.PORT,
        area=Area.CLIENTS,
        default="1883",
        default_keys=("mqtt.bind.port",),
        doc="Port the thin-edge services connect to; mqtt.bind.port when unset.",
    ),
    Key(
        name="mqtt.client.auth.ca_file",
        kind=Kind.PATH,
        area=Area.CLIENTS,
        example="/etc/mosquitto/ca_certificates/ca.crt",
        doc="CA certificate the services verify the broker with.",
    ),
    Key(
        name="mqtt.client.auth.ca_dir",
        kind=Kind.PATH,
        area=Area.CLIENTS,
        example="/etc/mosquitto/ca_certificates",
        doc="Directory of CA certificates the services verify the broker with.",
    ),
    Key(
        name="mqtt.client.auth.cert_file",
        kind=Kind.PATH,
        area=Area.CLIENTS,
        example="/etc/tedge/device-certs/local-tedge.crt",
        doc="Certificate the services show to the broker; needs mqtt.client.auth.key_file and a CA.",
    ),
    Key(
        name="mqtt.client.auth.key_file",
        kind=Kind.PATH,
        area=Area.CLIENTS,
        example="/etc/tedge/device-certs/local-tedge.key",
        doc="Private key of mqtt.client.auth.cert_file.",
    ),
    Key(
        name="mqtt.client.auth.username",
        kind=Kind.TEXT,
        area=Area.CLIENTS,
        example="myuser",
        doc="User name the services log in with.",
    ),
    Key(
        name="mqtt.client.auth.password_file",
        kind=Kind.PATH,
        area=Area.CLIENTS,
        example="/etc/tedge/.client_password",
        doc="File with the password in its first line; needs mqtt.client.auth.username.",
    ),
    Key(
        name="mqtt.external.bind.port",
        kind=Kind.PORT_OR_ZERO,
        area=Area.BROKER,
        example="8883",
        doc="Port of the external listener; 8883 with TLS and 1883 without when unset.",
    ),
    Key(
        name="mqtt.external.bind.address",
        kind=Kind.ADDRESS,
        area=Area.BROKER,
        example="0.0.0.0",  # noqa: S104  # text of the help
        doc="Address of the external listener.",
    ),
    Key(
        name="mqtt.external.bind.interface",
        kind=Kind.INTERFACE,
        area=Area.BROKER,
        example="wlan0",
        doc="Network interface the external listener accepts connections from.",
    ),
    Key(
        name="mqtt.external.ca_path",
        kind=Kind.PATH,
        area=Area.BROKER,
        example="/etc/mosquitto/ca_certificates/clients.crt",
        doc="CA certificate, or directory of them, that clients of the external listener must be signed by.",
    ),
    Key(
        name="mqtt.external.cert_file",
        kind=Kind.PATH,
        area=Area.BROKER,
        example="/etc/tedge/server-certs/tedge-certificate.pem",
        doc="Certificate of the external listener; needs mqtt.external.key_file.",
    ),
    Key(
        name="mqtt.external.key_file",
        kind=Kind.PATH,
        area=Area.BROKER,
        example="/etc/tedge/server-certs/tedge-private-key.pem",
        doc="Private key of mqtt.external.cert_file.",
    ),
    Key(
        name="mqtt.bridge.built_in",
        kind=Kind.FLAG,
        area=Area.BROKER,
        default="true",
        doc="Whether the mapper bridges to the cloud itself instead of the broker.",
    ),
    Key(
        name="mqtt.bridge.reconnect_policy.initial_interval",
        kind=Kind.DURATION,
        area=None,
        default="5s",
        doc="Shortest time the built-in bridge waits before it reconnects.",
    ),
    Key(
        name="mqtt.bridge.reconnect_policy.maximum_interval",
        kind=Kind.DURATION,
        area=None,
        default="10m",
        doc="Longest time the built-in bridge waits before it reconnects.",
    ),
    Key(
        name="mqtt.bridge.reconnect_policy.reset_window",
        kind=Kind.DURATION,
        area=None,
        default="5m",
        doc="Time a connection must last before the built-in bridge waits the shortest time again.",
    ),
    Key(
        name="http.bind.address",
        kind=Kind.ADDRESS,
        area=Area.CLIENTS,
        default="127.0.0.1",
        default_keys=("mqtt.external.bind.address", "mqtt.bind.address"),
        doc="Address of tedge-agent's file transfer service; follows mqtt.external.bind.address when unset.",
    ),
    Key(
        name="service.type",
        kind=Kind.TEXT,
        area=None,
        default="service",
        example="systemd",
        doc="Type that services of thin-edge register with.",
    ),
    Key(
        name="service.timestamp_format",
        kind=Kind.TIME_FORMAT,
        area=None,
        default="unix",
        example="rfc-3339",
        doc="Format of the time in health messages.",
    ),
)

KEYS: Mapping[str, Key] = MappingProxyType({key.name: key for key in _KEYS})
