"""Just enough of MQTT 3.1.1 and TLS to ask a broker how it treats a client."""

import contextlib
import secrets
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

CONNACK = 0x20
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
        self._socket.close()

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
        self._write(connect_packet(username, password))
        answer = self.read(4)
        if len(answer) < 4 or answer[:2] != bytes([CONNACK, 2]):
            return None
        if answer[3] == 0:
            with contextlib.suppress(OSError):
                self._write(DISCONNECT)
        return answer[3]

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """Return `size` bytes, fewer only if the other side closes. `timeout` may end it before the deadline."""
        deadline = self._deadline if timeout is None else min(self._deadline, time.monotonic() + timeout)
        data = b""
        while len(data) < size:
            if self._tls is None:
                part = self._receive(deadline)
            else:
                tls = self._tls
                try:
                    part = self._step(lambda: tls.read(size - len(data)), deadline)  # noqa: B023  # called at once
                except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                    part = b""
            if not part:
                break
            data += part
        return data

    def _write(self, data: bytes) -> None:
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


def connect_packet(username: str | None = None, password: bytes | None = None) -> bytes:
    """Return a CONNECT of MQTT 3.1.1 with a clean session and a client id that is nobody's (sections 3.1, 2.2.3)."""
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    fields = [f"tedge-agentd-{secrets.token_hex(4)}".encode()]
    fields += [username.encode()] if username is not None else []
    fields += [password] if password is not None else []
    body = b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, 10)
    body += b"".join(struct.pack(">H", len(field)) + field for field in fields)
    length, left = b"", len(body)
    while left > 127:
        length += bytes([left % 128 | 0x80])
        left //= 128
    return b"\x10" + length + bytes([left]) + body


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
