"""Just enough of MQTT 3.1.1 and TLS to ask a broker how it treats a client."""

import contextlib
import errno
import secrets
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGRESP = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xD0
RETAIN = 0x01  # of a PUBLISH
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
_HANDSHAKE, _CERTIFICATE = 22, 11  # record and message types of RFC 5246
_RECORDS = {b"\x15", b"\x16"}  # alert, handshake
REFUSAL_S = (
    1.0  # a listener that refuses a client's certificate says so at the end of the handshake, within this time
)

T = TypeVar("T")


class Channel:
    """A connection to a broker, with TLS if a context is given, and one deadline for all that happens on it.

    Raises TimeoutError at the deadline, other OSErrors as sockets do, ssl.SSLError when TLS fails.
    """

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.received = bytearray()  # as it came: a refused TLS 1.2 handshake still shows a certificate
        self._deadline = time.monotonic() + timeout
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setblocking(False)
        # the end of the handshake and a CONNECT are two small writes: 40 ms with Nagle's algorithm
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """The socket, to wait on. Something may have been read ahead of it: read first."""
        return self._socket.fileno()

    def renew(self, timeout: float) -> None:
        """Set a new deadline, and forget what was received: for a connection that stays."""
        self._deadline = time.monotonic() + timeout
        self.received.clear()

    def stay(self) -> None:
        """Have the kernel notice when the other side is gone, which wakes nobody here."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def start_tls(self, context: ssl.SSLContext, name: str | None) -> None:
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._step(self._tls.do_handshake)

    @property
    def speaks_tls(self) -> bool:
        """Whether the other side answered in TLS, be it with an alert."""
        return bytes(self.received[:1]) in _RECORDS

    def certificate(self) -> bytes | None:
        """Return the DER of the certificate that the server presented, None if it has shown none."""
        if self._tls is not None:
            with contextlib.suppress(ValueError):  # the handshake is not done
                return self._tls.getpeercert(binary_form=True)
        return _certificate_in(bytes(self.received))

    def login(self, username: str | None = None, password: bytes | None = None) -> int | None:
        """Send CONNECT; return the code of the CONNACK (0: accepted), None if something else came back."""
        self.write(connect_packet(username, password))
        answer = self.read(4)
        if len(answer) < 4 or answer[:2] != bytes([CONNACK, 2]):
            return None
        if answer[3] == 0:
            with contextlib.suppress(OSError):
                self.write(DISCONNECT)
        return answer[3]

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """Return `size` bytes, fewer only if the other side closes. `timeout` may end it before the deadline."""
        deadline = self._deadline if timeout is None else min(self._deadline, time.monotonic() + timeout)
        data = b""
        while len(data) < size:
            part = self._some(size - len(data), deadline)
            if not part:
                break
            data += part
        return data

    def read_some(self, *, wait: bool = True) -> bytes:
        """Return what comes, b"" when the other side has closed. Without `wait`, TimeoutError if nothing came."""
        return self._some(16384, self._deadline if wait else 0.0)

    def _some(self, size: int, deadline: float) -> bytes:
        """Return some bytes. Without TLS as many as came, which a caller that expects an answer knows."""
        if self._tls is None:
            return self._receive(deadline)
        tls = self._tls
        try:
            return self._step(lambda: tls.read(size), deadline)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def write(self, data: bytes) -> None:
        if self._tls is None:
            self._send(data)
        else:
            tls = self._tls
            self._step(lambda: tls.write(data))

    def _step(self, action: Callable[[], T], deadline: float | None = None) -> T:
        """Carry on with something of TLS until it is done, moving bytes between it and the socket."""
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._receive(self._deadline if deadline is None else deadline)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # our alert is a courtesy
                    self._flush()
                raise
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._send(self._outgoing.read())

    def _send(self, data: bytes) -> None:
        while data:
            self._wait(self._deadline, write=True)
            data = data[self._socket.send(data) :]

    def _receive(self, deadline: float) -> bytes:
        # the broker's session tickets and its CONNACK are small writes, too, and it waits for our acknowledgement
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._wait(deadline)
        data = self._socket.recv(16384)
        self.received += data
        return data

    def _wait(self, deadline: float, *, write: bool = False) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT if write else select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("no answer in time")


# Packets (MQTT 3.1.1, section 3) ----------------------------------------------------------------------------


def connect_packet(username: str | None = None, password: bytes | None = None, *, keepalive: int = 10) -> bytes:
    """Return a CONNECT of MQTT 3.1.1 with a clean session and a client id that is nobody's (sections 3.1, 2.2.3).

    `keepalive` in seconds is what the broker may expect a packet within; 0 turns that off.
    """
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    fields = [f"tedge-agentd-{secrets.token_hex(4)}".encode()]
    fields += [username.encode()] if username is not None else []
    fields += [password] if password is not None else []
    return packet(
        CONNECT, b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, keepalive) + b"".join(map(_string, fields))
    )


def publish_packet(topic: str, payload: bytes, packet_id: int) -> bytes:
    """Return a retained PUBLISH with QoS 1."""
    return packet(PUBLISH | 0x02 | RETAIN, _string(topic.encode()) + struct.pack(">H", packet_id) + payload)


def subscribe_packet(filters: Sequence[str], packet_id: int) -> bytes:
    """Return a SUBSCRIBE, QoS 0 each."""
    return packet(
        SUBSCRIBE, struct.pack(">H", packet_id) + b"".join(_string(name.encode()) + b"\0" for name in filters)
    )


def packet(kind: int, body: bytes) -> bytes:
    length, left = b"", len(body)
    while left > 127:
        length += bytes([left % 128 | 0x80])
        left //= 128
    return bytes([kind]) + length + bytes([left]) + body


def _string(data: bytes) -> bytes:
    if len(data) > 0xFFFF:  # a user name of tedge.toml may have any length
        raise OSError(errno.EMSGSIZE, "it is longer than the 65535 bytes that MQTT allows")
    return struct.pack(">H", len(data)) + data


def explain(error: OSError) -> str:
    """Return what OpenSSL or the kernel says, without Python's brackets and source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return error.strerror or str(error)


def _certificate_in(received: bytes) -> bytes | None:
    """Return the first certificate of a TLS 1.2 server's Certificate message, which is in the clear (RFC 5246)."""
    messages = b""
    while len(received) >= 5:
        size = struct.unpack_from(">H", received, 3)[0]
        if received[0] == _HANDSHAKE:
            messages += received[5 : 5 + size]
        received = received[5 + size :]
    while len(messages) >= 4:
        size = int.from_bytes(messages[1:4], "big")
        if messages[0] == _CERTIFICATE and len(messages) >= 10:
            return messages[10 : 10 + int.from_bytes(messages[7:10], "big")] or None
        messages = messages[4 + size :]
    return None
