"""The few MQTT 3.1.1 packets a client needs, as bytes (MQTT Version 3.1.1, OASIS, section 3)."""

import socket
import ssl
import struct

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"

Connection = socket.socket | ssl.SSLSocket


class Closed(ConnectionError):  # noqa: N818 - an event rather than an error of ours
    """The broker closed the connection."""


def connect(
    client_id: str,
    *,
    username: str | None = None,
    password: str | None = None,
    keepalive: int = 60,
    will: tuple[str, bytes] | None = None,
) -> bytes:
    """Return CONNECT with a clean session; `will` is the topic and payload of a retained QoS 1 message."""
    flags, payload = 0x02, _text(client_id)
    if will is not None:
        flags |= 0x04 | 0x08 | 0x20
        payload += _text(will[0]) + struct.pack("!H", len(will[1])) + will[1]
    if username is not None:
        flags |= 0x80
        payload += _text(username)
    if password is not None:
        flags |= 0x40
        payload += _text(password)
    return _packet(0x10, _text("MQTT") + struct.pack("!BBH", 4, flags, keepalive) + payload)


def publish(topic: str, payload: bytes, *, retain: bool = False, packet_id: int = 0) -> bytes:
    """Return PUBLISH, with QoS 1 if it has a packet id and QoS 0 if not."""
    kind = 0x30 | (0x02 if packet_id else 0) | (0x01 if retain else 0)
    return _packet(kind, _text(topic) + (struct.pack("!H", packet_id) if packet_id else b"") + payload)


def subscribe(topic: str, packet_id: int = 1) -> bytes:
    return _packet(0x82, struct.pack("!H", packet_id) + _text(topic) + b"\x00")


def read(connection: Connection) -> tuple[int, bytes]:
    """Return the next packet's type and body. May block; raises Closed at the end of the stream."""
    kind = _exactly(connection, 1)[0] >> 4
    length = shift = 0
    while True:
        digit = _exactly(connection, 1)[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return kind, _exactly(connection, length)


def _exactly(connection: Connection, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise Closed("the broker closed the connection")
        data += piece
    return data


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def _packet(kind: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while True:
        digit, rest = rest & 0x7F, rest >> 7
        length += bytes([digit | (0x80 if rest else 0)])
        if not rest:
            return bytes([kind]) + length + body
