"""The clients that need a process of their own: `python -m tests.system.client_process KIND JSON`.

Each prints one JSON line when it is ready and one for each line it reads; it ends with its standard input.
Times are those of the machine's monotonic clock, in seconds.
"""

import concurrent.futures
import contextlib
import importlib
import json
import os
import pathlib
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from . import clients
from .thin_edge import wire

PERIOD = 0.020  # seconds between two signs of life
STALLED = 0.250  # seconds without an answer that count as an outage although the connection stands
RETRY = 0.004


class Client(Protocol):
    def start(self) -> None: ...
    def step(self) -> None: ...
    def report(self) -> dict[str, Any]: ...


def main() -> None:
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    described = options.pop("credentials")
    for name in ("ca", "cert", "key"):
        described[name] = described[name] and pathlib.Path(described[name])
    if described["tls_version"] is not None:
        described["tls_version"] = ssl.TLSVersion(described["tls_version"])
    kinds: dict[str, type[Keep] | type[Probe] | type[Crowd]] = {"keep": Keep, "probe": Probe, "crowd": Crowd}
    client: Client = kinds[kind](credentials=clients.Credentials(**described), **options)
    client.start()
    print(json.dumps(client.report()), flush=True)
    while True:
        client.step()
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps(client.report()), flush=True)


def _login(
    host: str, port: int, credentials: clients.Credentials, context: ssl.SSLContext | None, client_id: str
) -> wire.Connection:
    """Return a connection that the broker has accepted; raises OSError otherwise."""
    connection: wire.Connection = socket.create_connection((host, port), timeout=2)
    try:
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname=host)
        connection.sendall(
            wire.connect(client_id, username=credentials.username, password=credentials.password, keepalive=0)
        )
        kind, body = wire.read(connection)
        if kind != wire.CONNACK or body[1]:
            raise ConnectionRefusedError(f"CONNACK {body[1]}")
    except BaseException:
        connection.close()
        raise
    return connection


class Keep:
    """A paho client, of version 1 or 2."""

    def __init__(self, *, host: str, port: int, credentials: clients.Credentials, topic: str = "#") -> None:
        self.address, self.topic = (host, port), topic
        self.connects = self.disconnects = self.messages = 0
        paho: Any = importlib.import_module("paho.mqtt.client")  # only this client needs it; 1.6 has no types
        version = [paho.CallbackAPIVersion.VERSION1] if hasattr(paho, "CallbackAPIVersion") else []
        self.client: Any = paho.Client(*version, client_id="keep")
        if (context := credentials.context()) is not None:
            self.client.tls_set_context(context)
        if credentials.username is not None:
            self.client.username_pw_set(credentials.username, credentials.password)
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.client.on_connect = self._connected
        self.client.on_disconnect = self._disconnected
        self.client.on_message = self._message

    def start(self) -> None:
        self.client.connect(*self.address)
        self.client.loop_start()
        deadline = time.monotonic() + 5
        while not self.connects:
            if time.monotonic() > deadline:
                raise TimeoutError("the broker did not accept the client")
            time.sleep(0.005)

    def step(self) -> None:
        select.select([sys.stdin], [], [], 1.0)

    def report(self) -> dict[str, Any]:
        return {
            "connected": self.client.is_connected(),
            "connects": self.connects,
            "disconnects": self.disconnects,
            "messages": self.messages,
        }

    def _connected(self, client: Any, userdata: object, flags: object, code: int) -> None:
        if code == 0:
            self.connects += 1
            client.subscribe(self.topic)

    def _disconnected(self, client: Any, userdata: object, code: int) -> None:
        self.disconnects += 1

    def _message(self, client: Any, userdata: object, message: object) -> None:
        self.messages += 1


class Probe:
    """Measures outages; one lasts from the moment a sign of life failed to the next one that came."""

    def __init__(
        self, *, host: str, port: int, credentials: clients.Credentials, new_connections: bool = False
    ) -> None:
        self.host, self.port, self.credentials, self.new_connections = host, port, credentials, new_connections
        self.context = credentials.context()
        self.connection: wire.Connection | None = None
        self.outages: list[dict[str, float]] = []
        self.down_since: float | None = None
        self.asked = 0.0
        self.signs = 0
        self.slowest = 0.0

    def start(self) -> None:
        connection = self._login()
        if self.new_connections:
            connection.close()
        else:
            self.connection = connection

    def step(self) -> None:
        self.asked = time.monotonic()
        try:
            if self.new_connections:
                self._login().close()
            elif self.connection is None:
                self.connection = self._login()
            else:
                self._ping(self.connection)
        except OSError:
            self._failed()
            return
        now = time.monotonic()
        self.signs += 1
        if self.down_since is not None:
            self.outages.append({"start": self.down_since, "ms": (now - self.down_since) * 1000})
            self.down_since = None
        else:
            self.slowest = max(self.slowest, now - self.asked)
        self._idle(self.asked + PERIOD)

    def _login(self) -> wire.Connection:
        # Of two clients with one id the broker drops the first.
        return _login(self.host, self.port, self.credentials, self.context, f"outage-probe-{os.getpid()}")

    def _ping(self, connection: wire.Connection) -> None:
        connection.settimeout(STALLED)
        connection.sendall(wire.PINGREQ)
        while wire.read(connection)[0] != wire.PINGRESP:
            pass

    def _failed(self) -> None:
        if self.down_since is None:
            self.down_since = self.asked
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        time.sleep(RETRY)

    def _idle(self, until: float) -> None:
        """Wait, but notice at once when the broker closes the connection."""
        watched: list[Any] = [sys.stdin] if self.connection is None else [sys.stdin, self.connection]
        ready = select.select(watched, [], [], max(0.0, until - time.monotonic()))[0]
        if self.connection is not None and self.connection in ready:
            self.asked = time.monotonic()
            self.connection.settimeout(0)
            try:
                if self.connection.recv(1) == b"":
                    self._failed()
            except (ssl.SSLWantReadError, BlockingIOError):
                pass
            except OSError:
                self._failed()

    def report(self) -> dict[str, Any]:
        outages = list(self.outages)
        if self.down_since is not None:
            outages.append({"start": self.down_since, "ms": (time.monotonic() - self.down_since) * 1000})
        return {
            "lost_ms": sum(outage["ms"] for outage in outages),
            "outages": outages,
            "down": self.down_since is not None,
            "signs": self.signs,
            "slowest_ms": self.slowest * 1000,
        }


class Crowd:
    """Many connections, asked for a sign of life when a report is wanted."""

    def __init__(self, *, host: str, port: int, credentials: clients.Credentials, count: int = 500) -> None:
        context = credentials.context()
        self.connections: list[wire.Connection] = []
        self.count = count
        self.login: Callable[[int], wire.Connection] = lambda number: _login(
            host, port, credentials, context, f"crowd-{number}"
        )

    def start(self) -> None:
        # The broker's CONNACK waits for our delayed ACK (40 ms): half a minute if done one after the other.
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            self.connections = list(pool.map(self.login, range(self.count)))

    def step(self) -> None:
        select.select([sys.stdin], [], [], 1.0)

    def report(self) -> dict[str, Any]:
        alive = []
        for connection in self.connections:
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.sendall(wire.PINGREQ)
                alive.append(connection)
        answered = sum(_answers(connection) for connection in alive)
        return {"count": self.count, "dropped": self.count - answered}


def _answers(connection: wire.Connection) -> bool:
    try:
        return wire.read(connection)[0] == wire.PINGRESP
    except OSError:
        return False


if __name__ == "__main__":
    main()
