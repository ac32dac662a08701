"""The blocks of a listener file in the broker's own words, and what each of them means."""

import ipaddress
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import conf_lines, model

# What thin-edge writes at the head of its file, in its order (facts/thin-edge.md 3).
GLOBALS = (
    ("per_listener_settings", "true"),
    ("connection_messages", "true"),
    ("log_type", "error"),
    ("log_type", "warning"),
    ("log_type", "notice"),
    ("log_type", "information"),
    ("log_type", "subscribe"),
    ("log_type", "unsubscribe"),
    ("message_size_limit", "268435455"),
)
TLS_VERSION = "tlsv1.2"
INTERNAL = "# Internal listener: mqtt.bind"
EXTERNAL = "# External listener: mqtt.external"

_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_ROLES = {INTERNAL.encode(): "internal", EXTERNAL.encode(): "external"}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_FLAGS = ("require_certificate", "allow_anonymous", "use_identity_as_username")
_PATHS = ("cafile", "capath", "certfile", "keyfile")
_VALUES = (*_PATHS, "bind_interface", "socket_domain", "tls_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One listener in the broker's own words. Flags hold what is in effect, stated or not."""

    port: int
    address: model.IPAddress | None
    require_certificate: bool = False
    allow_anonymous: bool = False
    use_identity_as_username: bool = False
    bind_interface: str | None = None
    socket_domain: str | None = None
    cafile: str | None = None
    capath: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    tls_version: str | None = None
    role: str = ""  # from the mark above it
    line: int = 0

    @property
    def has_tls(self) -> bool:
        return self.certfile is not None

    def with_paths(self, aliases: Mapping[str, str]) -> "Block":
        def staged(path: str | None) -> str | None:
            return None if path is None else aliases.get(path, aliases.get(posixpath.normpath(path), path))

        return replace(
            self,
            cafile=staged(self.cafile),
            capath=staged(self.capath),
            certfile=staged(self.certfile),
            keyfile=staged(self.keyfile),
        )

    def text(self) -> str:
        """Its meaning on one line. What an address says already, socket_domain need not say again."""
        domain = self.socket_domain
        if self.address is not None and domain == f"ipv{self.address.version}":
            domain = None
        version = (self.tls_version or TLS_VERSION) if self.has_tls else self.tls_version
        values = (
            ("port", str(self.port)),
            ("address", None if self.address is None else str(self.address)),
            *((name, word(getattr(self, name))) for name in _FLAGS),
            ("bind_interface", self.bind_interface),
            ("socket_domain", domain),
            *((name, getattr(self, name)) for name in _PATHS),
            ("tls_version", version),
        )
        return " ".join(f"{name}={value!r}" for name, value in values if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A file taken apart. `unclear` holds everything that keeps it from being equal to one of ours."""

    blocks: tuple[Block, ...]
    unclear: tuple[str, ...]


def block_of(listener: model.Listener) -> Block:
    """The block that `render` writes for a listener."""
    tls = listener.tls
    is_mutual = listener.level is model.Level.MUTUAL
    ca = None if tls is None else tls.client_ca
    return Block(
        port=listener.port,
        address=listener.address,
        require_certificate=is_mutual,
        allow_anonymous=not is_mutual,
        use_identity_as_username=is_mutual,
        bind_interface=listener.interface,
        socket_domain=listener.socket_domain,
        cafile=ca.path if ca is not None and not ca.is_dir else None,
        capath=ca.path if ca is not None and ca.is_dir else None,
        certfile=None if tls is None else tls.certfile,
        keyfile=None if tls is None else tls.keyfile,
        tls_version=None if tls is None else TLS_VERSION,
    )


def listener_of(block: Block) -> model.Listener | None:
    """The listener that this block is, if it is one that `render` could have been asked for."""
    tls: model.Tls | None = None
    if block.certfile is not None and block.keyfile is not None:
        ca_path = block.cafile or block.capath
        ca = None if ca_path is None else model.ClientCa(path=ca_path, is_dir=block.cafile is None)
        tls = model.Tls(certfile=block.certfile, keyfile=block.keyfile, client_ca=ca)
    listener = model.Listener(
        port=block.port,
        address=block.address,
        interface=block.bind_interface,
        socket_domain=block.socket_domain,
        tls=tls,
    )
    return listener if block_of(listener).text() == block.text() else None


def word(value: bool) -> str:
    return "true" if value else "false"


def meaning(blocks: tuple[Block, ...]) -> str:
    """What a listener file with these blocks means; their order does not matter."""
    return "\n".join((*(f"{name} {value}" for name, value in GLOBALS), *sorted(block.text() for block in blocks)))


def read(data: bytes) -> Blocks:
    """Take a file apart. Never raises, whatever the bytes are."""
    reading = _Reading(lines=tuple(conf_lines.lines(data)))
    if b"\0" in data:
        reading.unclear.append("a NUL byte")
    for directive in conf_lines.directives_of("", data):
        if not reading.take(directive):
            reading.unclear.append(f"line {directive.line}: {directive.name} {directive.value}".rstrip())
    if set(reading.globals) != set(GLOBALS):
        reading.unclear.append("the settings at the head of the file")
    # The broker skips such a line like a comment; nobody who wrote it meant that.
    if any(line.startswith(b"\r") and line.strip(b"\r") for line in reading.lines):
        reading.unclear.append("a line that starts with a carriage return")
    return Blocks(blocks=tuple(reading.blocks), unclear=tuple(reading.unclear))


@dataclass(slots=True, kw_only=True)
class _Reading:
    lines: tuple[bytes, ...]
    blocks: list[Block] = field(default_factory=list)
    globals: list[tuple[str, str]] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    stated: dict[str, str] = field(default_factory=dict)  # of the block under way

    def take(self, directive: conf_lines.Directive) -> bool:
        """Whether this line is one of those a listener file of ours or of thin-edge's consists of."""
        name, value = directive.name, directive.value
        if not conf_lines.is_string(value):
            return False
        if (name, value) in GLOBALS:
            self.globals.append((name, value))
            # Read after a security setting, it ends the broker (facts/mosquitto.md 4).
            return name != "per_listener_settings" or not self.blocks
        if name == "listener":
            return self._listener(directive)
        return bool(self.blocks) and self._option(name, value)

    def _listener(self, directive: conf_lines.Directive) -> bool:
        words = conf_lines.words(directive.value)
        if len(words) > 2 or not _PORT.match(words[0]) or int(words[0]) > 65535:
            return False
        address: model.IPAddress | None = None
        if len(words) == 2:
            try:
                address = ipaddress.ip_address(words[1])
            except ValueError:
                return False
            if str(address) != words[1] or "%" in words[1]:
                return False
        above = self.lines[directive.line - 2] if directive.line > 1 else b""
        role = _ROLES.get(above.rstrip(b"\r"), "")
        self.blocks.append(Block(port=int(words[0]), address=address, role=role, line=directive.line))
        self.stated = {}
        return True

    def _option(self, name: str, value: str) -> bool:
        again = name in self.stated
        changed: dict[str, Any]
        if name in _FLAGS:
            if value not in _BOOLEANS or self.stated.get(name, value) != value:
                return False
            changed = {name: _BOOLEANS[value]}
        elif name in _VALUES and not again:  # a second one ends the broker
            changed = {name: value}
        else:
            return False
        self.stated[name] = value
        self.blocks[-1] = replace(self.blocks[-1], **changed)
        return True
