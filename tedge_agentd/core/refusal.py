"""Why the broker refused a candidate, in the operator's terms: its own last words, where, and what mends it.

Its messages are those of 2.0.11, 2.0.21 and 2.1.2 (facts/mosquitto.md 2, 3, 4, 5, 6, 8, 10).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import conf_lines, model
from .mosquitto_conf import ConfListener
from .trial import Candidate, unstaged

CODE = "preflight-refused"

_STAMP = re.compile(r"^(?:\d{9,}|\d{4}-\d\d-\d\dT[\d:.+Z-]+): ")
_FOUND_AT = re.compile(r"Error found at '?(?P<file>.+):(?P<line>\d+)'?\.?$")  # 2.1 quotes included files
_OPENING = re.compile(r"Opening \S+ listen socket on port (?P<port>\d+)")
_TELLING = re.compile(r"\berror\b|does not (?:match|exist|support)|unable to|failed", re.IGNORECASE)

# What OpenSSL says below a message about a file -> what it means (facts/mosquitto.md 3 and 8).
_OPENSSL = (
    ("Permission denied", "the broker's user may not read it", "ls -l {path}; namei -l {path}"),
    ("No such file", "there is no such file", "ls -l {path}"),
    ("key values mismatch", "the key does not belong to the certificate", "tedge-agentd plan, and configure a pair"),
    ("ee key too small", "its RSA key is too short for this system's OpenSSL", "make a key of 2048 bits or more"),
    ("processing error", "the key is encrypted, and nobody is there to type its passphrase", "store it unencrypted"),
    ("getting password", "the key is encrypted, and nobody is there to type its passphrase", "store it unencrypted"),
    ("bad base64 decode", "the file is damaged", "openssl x509 -noout -in {path}"),
    ("bad end line", "the file is cut off", "openssl x509 -noout -in {path}"),
    ("DECODER routines::unsupported", "it is no private key in PEM", "openssl pkey -noout -in {path}"),
    ("no certificate or crl found", "it holds no certificate in PEM", "openssl x509 -noout -in {path}"),
    ("no start line", "it holds no certificate in PEM", "openssl x509 -noout -in {path}"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Why:
    where: str = ""
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """The line of the broker's output that tells, and what surrounds it. `value`: the name or path it speaks of."""

    lines: tuple[str, ...]
    index: int
    value: str
    candidate: Candidate
    keys: Mapping[str, str]

    @property
    def line(self) -> str:
        return self.lines[self.index]

    def after(self) -> str:
        return "\n".join(self.lines[self.index + 1 :])

    def opening(self) -> ConfListener | None:
        """The last listener at the port that was being opened when this was said."""
        at = self.at_same_port()
        return at[-1] if at else None

    def at_same_port(self) -> tuple[ConfListener, ...]:
        ports = [int(found["port"]) for line in self.lines[: self.index] if (found := _OPENING.search(line))]
        return tuple(tried.listener for tried in self.candidate.listeners if ports and tried.port == ports[-1])

    def configured_at(self, value: str) -> str:
        """The key of tedge.toml that a value comes from, or the line that names it."""
        lines = (d.where for d in self.candidate.conf.directives if d.value == value)
        return self.keys.get(value) or next(lines, "")


def explain(candidate: Candidate, stderr: str, keys: Mapping[str, str]) -> model.Finding:
    """Return the finding for a candidate that the broker refused. Never raises, whatever the broker printed.

    `keys`: a value as it stands in the configuration (a staged path, an address, an interface) -> the key of
    tedge.toml it comes from.
    """
    lines = tuple(_STAMP.sub("", line.strip()) for line in stderr.splitlines() if line.strip())
    telling, why = _telling(lines, candidate, keys)
    found = next((match for line in lines if (match := _FOUND_AT.search(line))), None)
    place = "" if found is None else f"{_real(found['file'], candidate)}:{found['line']}"
    reason = f" ({why.reason})" if why.reason else ""
    return model.Finding(
        code=CODE,
        severity=model.Severity.ERROR,
        where=conf_lines.printable(why.where or place or candidate.main),
        message=conf_lines.printable(f"the broker refuses the new configuration: {telling}{reason}"),
        remedy=conf_lines.printable(why.remedy or "tedge-agentd plan --diff shows what was tried"),
        blocks=model.Area.BROKER,
    )


def _telling(lines: tuple[str, ...], candidate: Candidate, keys: Mapping[str, str]) -> tuple[str, _Why]:
    """The first line that one of the explanations knows, else the first that speaks of an error, else the last."""
    for index, line in enumerate(lines):
        for pattern, explanation in _EXPLANATIONS:
            match = pattern.search(line)
            if match is None:
                continue
            written = match.groupdict().get("value") or ""
            value = unstaged(_real(written, candidate), candidate.sandbox) if written.startswith("/") else written
            said = _Said(lines=lines, index=index, value=value, candidate=candidate, keys=keys)
            why = explanation if isinstance(explanation, _Why) else explanation(said)
            return (line.replace(written, value) if written else line), why
    errors = [line for line in lines if _TELLING.search(line) and not _FOUND_AT.search(line)]
    return (*errors, *lines[-1:], "it ended without a word")[0], _Why()


def _real(path: str, candidate: Candidate) -> str:
    return path.removeprefix(candidate.sandbox.root)


# Explanations -----------------------------------------------------------------------------------------------


def _file(said: _Said) -> _Why:
    below = said.after()
    reason, remedy = next(((why, mend) for text, why, mend in _OPENSSL if text in below), ("", "ls -l {path}"))
    where = said.configured_at(said.value) or said.value
    return _Why(where=where, reason=reason, remedy=remedy.replace("{path}", said.value))


def _in_use(said: _Said) -> _Why:
    at = said.at_same_port()
    if not at:
        return _Why(reason="two listeners want the same port", remedy="tedge-agentd plan names them")
    places = " and ".join(listener.where for listener in at)
    return _Why(
        where=at[-1].where,
        reason=f"port {at[0].port} is asked for at {places}",
        remedy=f"remove one of these listeners, or give it a port of its own: {places}",
    )


def _not_local(said: _Said) -> _Why:
    listener = said.opening()
    where = "" if listener is None else said.keys.get(listener.address or "", listener.where)
    return _Why(where=where, reason="this machine has no such address", remedy="ip address shows those there are")


def _interface(said: _Said) -> _Why:
    return _Why(where=said.configured_at(said.value), remedy=f"ip address show dev {said.value}")


def _privileged(said: _Said) -> _Why:
    listener = said.opening()
    return _Why(
        where="" if listener is None else listener.where,
        reason="the broker may not bind a port below 1024",
        remedy="use a port from 1024 up",
    )


def _path(said: _Said) -> _Why:
    return _Why(remedy=f"ls -ld {said.value}")


_Explanation = _Why | Callable[[_Said], _Why]

# A constant is for messages that `Error found at FILE:LINE` follows, which says where.
_MESSAGES: tuple[tuple[str, _Explanation], ...] = (
    (r'Unable to load server certificate "(?P<value>.*)"\.', _file),
    (r'Unable to load server key file "(?P<value>.*)"\.', _file),
    (r'Unable to load CA certificates\. Check cafile "(?P<value>.*)"', _file),
    (r'Unable to load certificate revocation file "(?P<value>.*)"', _file),
    (r'Unable to open (?:pw|acl_)file "(?P<value>.*)"', _file),
    (r'opening password file "(?P<value>.*)"', _file),
    (r'Unable to load (?:auth )?plugin "(?P<value>.*)"', _file),
    (r"Error: Address already in use", _in_use),
    (r"Error: Cannot assign requested address", _not_local),
    (r"[Ii]nterface address for (?P<value>\S+) does not match", _interface),
    (r"Interface (?P<value>\S+) does not (?:exist|support)", _interface),
    (r"bind to a privileged port", _privileged),
    (r"Unable to open include_dir '(?P<value>.*)'", _path),
    (r"(?:Unable to open config file|Config file) '?(?P<value>.+?)'?(?: is a directory)?\.$", _path),
    (r"per_listener_settings must be set before", _Why(remedy="move what comes before it below `include_dir`")),
    (r"Unknown configuration variable", _Why(remedy="remove or correct that line")),
    (r"Malformed UTF-8", _Why(reason="a value with characters it does not take", remedy="correct that line")),
    (r"Duplicate .* value", _Why(reason="the setting is there twice", remedy="remove one of the two lines")),
    (r"Both certfile and keyfile must", _Why(remedy="name both, or neither")),
    (r"specified without certfile and keyfile", _Why(remedy="name certfile and keyfile too")),
    (r"requires a listener to be defined first", _Why(remedy="move that line below its `listener` line")),
    (r"Unsupported tls_version", _Why(remedy="write tls_version tlsv1.2")),
)
_EXPLANATIONS = tuple((re.compile(pattern), explanation) for pattern, explanation in _MESSAGES)
