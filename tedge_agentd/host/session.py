"""A session of MQTT 3.1.1 over a channel: retained messages with QoS 1 out, whatever was subscribed to in."""

import errno
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import wire

PACKET_LIMIT = 1 << 16  # bytes; the broker would pass on messages of 256 MB
_INBOX = 64  # messages; who floods us may lose them (QoS 0)
_READS = 16  # of 16 KB, then somebody else's turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message from the broker. `retained`: it was there before we subscribed."""

    topic: str
    payload: bytes
    retained: bool


class Session:
    """One connection from CONNECT to its end. Every method raises OSError when it is over or its time is.

    Keepalive is off: nobody is woken for pings, and on the loopback the end of the broker is the end of the
    connection. What arrives while an answer is waited for is kept for `arrived`.
    """

    def __init__(self, channel: wire.Channel, timeout: float) -> None:
        """Take over a channel that is connected, its TLS handshake done; each answer may take `timeout` seconds."""
        self._channel = channel
        self._timeout = timeout
        self._buffer = bytearray()
        self._inbox: list[Arrived] = []
        self._packet_id = 0

    def fileno(self) -> int:
        return self._channel.fileno()

    def connect(self, username: str | None, password: bytes | None) -> None:
        self._channel.renew(self._timeout)
        self._channel.write(wire.connect_packet(username, password, keepalive=0))
        answer = self._answer(wire.CONNACK)
        if len(answer) != 2 or answer[1]:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"the broker refuses the login, CONNACK {answer[-1:].hex()}"
            )
        self._channel.stay()

    def publish(self, topic: str, payload: bytes) -> None:
        """Have the broker retain a message; return when it has said that it does."""
        packet_id = self._next_id()
        self._channel.renew(self._timeout)
        self._channel.write(wire.publish_packet(topic, payload, packet_id))
        self._answer(wire.PUBACK, packet_id)

    def subscribe(self, filters: Sequence[str]) -> tuple[bool, ...]:
        """Subscribe; return for each filter whether the broker grants it."""
        packet_id = self._next_id()
        self._channel.renew(self._timeout)
        self._channel.write(wire.subscribe_packet(filters, packet_id))
        return tuple(code < 0x80 for code in self._answer(wire.SUBACK, packet_id)[2:])

    def sync(self) -> None:
        """Return when everything that the broker had to say before now has arrived: it answers a ping in turn."""
        self._channel.renew(self._timeout)
        self._channel.write(wire.PINGREQ)
        self._answer(wire.PINGRESP)

    def arrived(self) -> tuple[Arrived, ...]:
        """Return the messages that are there, without waiting for any. More may be left where there are very many."""
        self._channel.renew(self._timeout)
        for _ in range(_READS):
            for kind, body in self._packets():
                self._keep(kind, body)
            try:
                self._more(wait=False)
            except TimeoutError:
                break
        found, self._inbox = tuple(self._inbox), []
        return found

    def goodbye(self) -> None:
        """Say goodbye before `end`, so that the broker does not take the end for a failure."""
        self._channel.renew(1.0)
        self._channel.write(wire.DISCONNECT)

    def end(self) -> None:
        self._channel.close()

    # Packets ------------------------------------------------------------------------------------------------

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % 0xFFFF + 1
        return self._packet_id

    def _answer(self, wanted: int, packet_id: int | None = None) -> bytes:
        while True:
            for kind, body in self._packets():
                if kind & 0xF0 == wanted and (packet_id is None or body[:2] == struct.pack(">H", packet_id)):
                    return body
                self._keep(kind, body)
            self._more(wait=True)

    def _keep(self, kind: int, body: bytes) -> None:
        if kind & 0xF0 != wire.PUBLISH or len(body) < 2 or len(self._inbox) >= _INBOX:
            return
        end = 2 + struct.unpack_from(">H", body)[0]
        start = end + (2 if kind & 0x06 else 0)  # a packet id; we ask for QoS 0, which has none
        topic = body[2:end].decode(errors="replace")
        self._inbox.append(Arrived(topic=topic, payload=body[start:], retained=bool(kind & wire.RETAIN)))

    def _more(self, *, wait: bool) -> None:
        data = self._channel.read_some(wait=wait)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the broker closed the connection")
        self._buffer += data

    def _packets(self) -> Iterator[tuple[int, bytes]]:
        """Take whole packets off the buffer: (first byte, body)."""
        while (size := _packet_size(self._buffer)) is not None:
            start, end = size
            if end > PACKET_LIMIT:
                raise ConnectionAbortedError(errno.ECONNABORTED, f"a message of {end} bytes is none for us")
            if len(self._buffer) < end:
                return
            found = self._buffer[0], bytes(self._buffer[start:end])
            del self._buffer[:end]
            yield found


def _packet_size(data: bytes | bytearray) -> tuple[int, int] | None:
    """Where the body of the first packet starts and ends (MQTT 3.1.1, 2.2.3); None if that is not known yet."""
    length = 0
    for position in range(1, 5):
        if len(data) <= position:
            return None
        length |= (data[position] & 0x7F) << 7 * (position - 1)
        if data[position] < 0x80:
            return position + 1, position + 1 + length
    raise ConnectionAbortedError(errno.ECONNABORTED, "it does not speak MQTT")
