"""Ask the running broker how it treats its clients: the proof that it serves what it was given."""

import dataclasses
import enum
import functools
import hashlib
import ssl
import time
from dataclasses import dataclass

from tedge_agentd.core import binding, model

from . import wire
from .login import Login, LoginResult, login

__all__ = ["Answer", "Login", "LoginResult", "Look", "ProbeResult", "login", "probe", "verify", "wait_listening"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.4


class Answer(enum.Enum):
    """What a client got that shows no certificate and no password."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # by a CONNACK with a code
    NO_CERTIFICATE = "refused for want of a certificate"
    CLOSED = "closed"  # the connection, or a failed handshake
    SILENCE = "silence"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What was seen on one port. `certificate` is the sha256 of the leaf that TLS presented."""

    address: model.IPAddress
    port: int
    reachable: bool
    tls: bool = False
    certificate: str | None = None
    answer: Answer = Answer.SILENCE
    code: int | None = None  # of a CONNACK
    detail: str = ""
    forbidden: bool = False  # we may not send there

    def exposed(self, level: model.Level) -> bool:
        """Whether clients are let in that the level keeps out: without encryption, or without a certificate."""
        if level is model.Level.NONE or self.answer is not Answer.ACCEPTED:
            return False
        return not self.tls or level is model.Level.MUTUAL

    def problem(self, level: model.Level, leaf: str | None = None) -> str | None:
        """Return a sentence saying what is wrong for a listener of this level, None if all is well.

        `leaf` is the sha256 of the certificate that TLS has to present; None accepts any.
        """
        where = f"port {self.port} of {self.address}"
        because = f" ({self.detail})" if self.detail else ""
        if not self.reachable:
            return f"nothing answers on {where}{because}"
        if level is not model.Level.NONE and (wrong := self._tls_problem(leaf)) is not None:
            return f"{where} {wrong}{because}"
        wrong = (_MUTUAL if level is model.Level.MUTUAL else _ANONYMOUS)[self.answer]
        code = f" (CONNACK {self.code})" if self.code else ""
        return f"{where} {wrong}{code}{because}" if wrong is not None else None

    def _tls_problem(self, leaf: str | None) -> str | None:
        if not self.tls:
            open_ = self.answer is Answer.ACCEPTED
            return "lets clients in without encryption" if open_ else "does not speak TLS"
        if self.certificate is None:
            return "has no usable certificate and key, every TLS handshake fails"
        if leaf is not None and self.certificate != leaf:
            return f"presents the certificate {self.certificate[:16]} and not the staged one, {leaf[:16]}"
        return None


_MUTUAL = {
    Answer.ACCEPTED: "lets clients in without a certificate",
    Answer.REFUSED: "does not ask clients for a certificate, though MQTT refuses one without",
    Answer.NO_CERTIFICATE: None,
    Answer.CLOSED: "drops clients without saying that it wants a certificate",
    Answer.SILENCE: "does not ask clients for a certificate and does not answer",
}
_ANONYMOUS = {
    Answer.ACCEPTED: None,
    Answer.REFUSED: "refuses anonymous clients",
    Answer.NO_CERTIFICATE: "asks clients for a certificate",
    Answer.CLOSED: "drops clients before they can log in",
    Answer.SILENCE: "takes connections but does not answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What has to be known of the machine to reach a listener from here."""

    network: model.Network


def verify(listener: model.Listener, leaf: str | None, look: Look, *, timeout: float) -> str | None:
    """Return what is wrong with a running listener, None as soon as it answers as it should.

    It is asked again, ever more rarely, for `timeout` seconds: a restarted broker may still be binding, a reloaded
    one takes up to 107 ms to present the new certificate (facts/mosquitto.md 1). A listener that lets clients in that
    it should not is reported at once.
    """
    address = binding.contact(listener, look.network)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    while True:
        left = deadline - time.monotonic()
        result = probe(listener, address, max(left, 0.1))
        problem = result.problem(listener.level, leaf)
        if result.forbidden:
            return None  # the unit's IPAddressDeny= keeps us from an address that it does not list: no news of it
        if problem is None or result.exposed(listener.level) or left <= pause:
            return problem
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def probe(listener: model.Listener, address: model.IPAddress, timeout: float) -> ProbeResult:
    """Be a client without a certificate, once, and return what happened. Costs the broker one to three log lines.

    A TLS listener that shows no certificate is asked a second time, without TLS: that is what fails open.
    """
    if listener.tls is None:
        return _plain(address, listener.port, timeout)
    deadline = time.monotonic() + timeout
    result = _encrypted(address, listener.port, timeout, patient=listener.level is model.Level.MUTUAL)
    if result.tls and result.answer is Answer.CLOSED and listener.level is model.Level.SERVER:
        # a refusal for want of a certificate may have been lost to a reset because we spoke first
        return _encrypted(address, listener.port, max(deadline - time.monotonic(), 0.1), patient=True)
    if not result.reachable or result.tls:
        return result
    plain = _plain(address, listener.port, max(deadline - time.monotonic(), 0.1))
    return plain if plain.answer in {Answer.ACCEPTED, Answer.REFUSED} else result


def wait_listening(address: model.IPAddress, port: int, timeout: float) -> bool:
    """Return whether a connection could be made within `timeout` seconds. Each try that succeeds is logged."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    while True:
        left = deadline - time.monotonic()
        try:
            with wire.Channel(str(address), port, max(left, 0.1)):
                return True
        except OSError:
            if left <= pause:
                return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


# One probe --------------------------------------------------------------------------------------------------


def _plain(address: model.IPAddress, port: int, timeout: float) -> ProbeResult:
    seen = ProbeResult(address=address, port=port, reachable=False)
    try:
        with wire.Channel(str(address), port, timeout) as channel:
            seen = dataclasses.replace(seen, reachable=True)
            return _log_in(channel, seen)
    except OSError as error:
        forbidden = isinstance(error, PermissionError)
        return dataclasses.replace(seen, detail=error.strerror or str(error), forbidden=forbidden)


def _encrypted(address: model.IPAddress, port: int, timeout: float, *, patient: bool) -> ProbeResult:
    """Be a TLS client. `patient`: wait for a refusal before speaking, because speaking can lose it to a reset."""
    seen = ProbeResult(address=address, port=port, reachable=False)
    try:
        with wire.Channel(str(address), port, timeout) as channel:
            seen = dataclasses.replace(seen, reachable=True)
            try:
                channel.start_tls(_context(), None)
            except OSError as error:
                return _failed(channel, seen, error)
            seen = dataclasses.replace(seen, tls=True, certificate=_fingerprint(channel))
            if patient:
                try:
                    channel.read(1, wire.REFUSAL_S)
                except TimeoutError:
                    return _log_in(channel, seen)  # nobody minds that we have no certificate
                except OSError as error:
                    return _failed(channel, seen, error)
                return dataclasses.replace(seen, answer=Answer.CLOSED)
            return _log_in(channel, seen)
    except OSError as error:
        forbidden = isinstance(error, PermissionError)
        return dataclasses.replace(seen, detail=error.strerror or str(error), forbidden=forbidden)


def _log_in(channel: wire.Channel, seen: ProbeResult) -> ProbeResult:
    try:
        code = channel.login()
    except OSError as error:
        return _failed(channel, seen, error)
    if code is None:
        return dataclasses.replace(seen, answer=Answer.CLOSED)
    return dataclasses.replace(seen, answer=Answer.REFUSED if code else Answer.ACCEPTED, code=code)


def _failed(channel: wire.Channel, seen: ProbeResult, error: OSError) -> ProbeResult:
    """Classify an error of the handshake or after it: alert 116 (TLS 1.3), or 40 with a certificate shown (1.2)."""
    certificate = seen.certificate or _fingerprint(channel)  # OpenSSL forgets it at a fatal alert
    detail = wire.explain(error)
    answer = Answer.SILENCE if isinstance(error, TimeoutError) else Answer.CLOSED
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "CERTIFICATE_REQUIRED" in reason or (certificate is not None and "HANDSHAKE_FAILURE" in reason):
            answer = Answer.NO_CERTIFICATE
    return dataclasses.replace(seen, tls=channel.speaks_tls, certificate=certificate, answer=answer, detail=detail)


def _fingerprint(channel: wire.Channel) -> str | None:
    der = channel.certificate()
    return None if der is None else hashlib.sha256(der).hexdigest()


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whose certificate it is, is told by its fingerprint
    return context
