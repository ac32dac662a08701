"""A service of thin-edge: reads mqtt.client.* once at its start, connects, comes back for ever when it is cut off."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import ssl
import sys
import time
from typing import Any, NoReturn

from . import config, wire

PAUSE = 1.0  # seconds; mqtt_channel's
KEEPALIVE = 60


def main() -> None:
    name = sys.argv[1]
    try:
        table = config.load(environment=True)
        context = _tls(table)
    except (config.ConfigError, OSError) as error:
        print(f"ERROR {name}: {error}", flush=True)
        sys.exit(1)
    signal.signal(signal.SIGTERM, _terminate)
    http = _http(table) if name == "tedge-agent" else None
    _notify("READY=1")
    service = Service(name, table, context)
    try:
        while True:
            try:
                service.serve()
            except (OSError, ssl.SSLError, config.ConfigError) as error:
                print(f"ERROR {name}: MQTT connection error: {error!r}", flush=True)
            _notify("WATCHDOG=1")
            time.sleep(PAUSE)
    finally:
        service.farewell()
        if http is not None:
            http.close()


def _terminate(*_: object) -> NoReturn:
    sys.exit(0)


class Service:
    """One service's MQTT connection, with the settings of its start."""

    def __init__(self, name: str, table: config.Table, context: ssl.SSLContext | None) -> None:
        self.name = name
        self.context = context
        self.host = config.lookup(table, "mqtt.client.host") or "127.0.0.1"
        port = config.lookup(table, "mqtt.client.port") or config.lookup(table, "mqtt.bind.port")
        self.port = int(port or 1883)
        self.username, self.password = _login(table)
        root = config.lookup(table, "mqtt.topic_root") or "te"
        device = (config.lookup(table, "mqtt.device_topic_id") or "device/main//").split("/")
        self.device = "/".join(device)
        self.topic = f"{root}/{device[0]}/{device[1]}/service/{name}"
        self.connection: wire.Connection | None = None

    def serve(self) -> None:
        """Connect, tell the service's health, and stay until the connection ends."""
        self.connection = None
        plain = socket.create_connection((self.host, self.port), timeout=10)
        connection: wire.Connection = plain
        if self.context is not None:
            connection = tls = self.context.wrap_socket(plain, server_hostname=self.host)
            certificate: dict[str, Any] = dict(tls.getpeercert() or {})
            if certificate["version"] != 3:
                raise config.ConfigError("invalid peer certificate: UnsupportedCertVersion")  # rustls takes v3 alone
        will = (f"{self.topic}/status/health", self._health("down"))
        connection.sendall(
            wire.connect(self.name, username=self.username, password=self.password, keepalive=KEEPALIVE, will=will)
        )
        kind, body = wire.read(connection)
        if kind != wire.CONNACK or body[1] != 0:
            raise config.ConfigError(f"connection refused, CONNACK {body[1]}")
        self.connection = connection
        kind_of = "tls" if self.context is not None else "plain"
        print(f"INFO {self.name}: connected to {self.host}:{self.port} ({kind_of})", flush=True)
        registration = {"@parent": self.device, "@type": "service", "name": self.name, "type": "service"}
        connection.sendall(wire.publish(self.topic, json.dumps(registration).encode(), retain=True, packet_id=1))
        connection.sendall(wire.publish(f"{self.topic}/status/health", self._health("up"), retain=True, packet_id=2))
        connection.settimeout(KEEPALIVE / 4)
        while True:
            try:
                wire.read(connection)
            except TimeoutError:
                connection.sendall(wire.PINGREQ)
                _notify("WATCHDOG=1")

    def farewell(self) -> None:
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.sendall(
                    wire.publish(f"{self.topic}/status/health", self._health("down"), retain=True)
                )
                self.connection.sendall(wire.DISCONNECT)

    def _health(self, status: str) -> bytes:
        return json.dumps({"pid": os.getpid(), "status": status, "time": time.time()}).encode()


def _tls(table: config.Table) -> ssl.SSLContext | None:
    """Return the TLS settings; TLS is on if, and only if, ca_file or ca_dir yields a certificate."""
    bundle = ""
    if ca_file := config.lookup(table, "mqtt.client.auth.ca_file"):
        bundle += pathlib.Path(ca_file).read_text()
    if ca_dir := config.lookup(table, "mqtt.client.auth.ca_dir"):
        for path in sorted(pathlib.Path(ca_dir).iterdir()):
            if path.suffix in (".pem", ".cer", ".crt"):
                bundle += path.read_text()
    if "BEGIN CERTIFICATE" not in bundle:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # rustls is not as strict as Python 3.13's default context
    context.load_verify_locations(cadata=bundle)
    context.hostname_checks_common_name = False
    cert = config.lookup(table, "mqtt.client.auth.cert_file")
    key = config.lookup(table, "mqtt.client.auth.key_file")
    if cert and key:  # one without the other is silently ignored
        context.load_cert_chain(cert, key)
    return context


def _login(table: config.Table) -> tuple[str | None, str | None]:
    username = config.lookup(table, "mqtt.client.auth.username")
    password = None
    if username and (path := config.lookup(table, "mqtt.client.auth.password_file")):
        with contextlib.suppress(OSError):
            password = pathlib.Path(path).read_text().partition("\n")[0]
    return username, password


def _http(table: config.Table) -> socket.socket:
    """Listen where tedge-agent's file transfer service does: it follows mqtt.external.bind.address."""
    keys = ("http.bind.address", "mqtt.external.bind.address", "mqtt.bind.address")
    address = next((found for key in keys if (found := config.lookup(table, key))), "127.0.0.1")
    port = config.lookup(table, "http.bind.port") or 8000
    return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def _notify(state: str) -> None:
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
