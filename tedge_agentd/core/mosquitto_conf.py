"""Read a broker's configuration as Mosquitto reads it: includes, order, listeners, and what it would misread.

The rules are those of Mosquitto 2.0.11, 2.0.21 and 2.1.2 (facts/mosquitto.md 2, 4, 10; src/conf_includedir.c).
Reading is tolerant: what the broker would refuse becomes a finding and the rest is read all the same.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from . import conf_findings, conf_lines, model
from .conf_lines import Directive

LISTENER_FILE = "tedge-mosquitto.conf"  # thin-edge's own name: one owner, no duplicate listeners (contract 5)


class ConfReadError(Exception):
    """A file or directory could not be read, with the operating system's reason. `missing`: there is none."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


class Reader(Protocol):
    """What reads the machine for `read_tree`. Both raise ConfReadError; neither may block on a FIFO."""

    def read(self, path: str) -> bytes: ...

    def list_dir(self, path: str) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfListener:
    """A listener the broker would open. Port 0: a Unix socket at `address`. Address None: all of them.

    `implied`: nobody wrote `listener`; lines outside of a block, or the old `port`, open it.
    """

    port: int
    address: str | None
    file: str
    line: int
    directives: tuple[Directive, ...] = ()
    implied: bool = False

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def option(self, name: str) -> Directive | None:
        """The last line of the block with this name."""
        return next((d for d in reversed(self.directives) if d.name == name), None)

    def is_true(self, name: str) -> bool:
        found = self.option(name)
        return found is not None and found.is_true()


@dataclass(frozen=True, slots=True, kw_only=True)
class IncludeDir:
    """One `include_dir`. `names`: what the broker reads of it, in its order; None: it could not be listed."""

    path: str  # as written, which is what the broker's messages name
    file: str
    line: int
    names: tuple[str, ...] | None

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def real(self) -> str:
        return absolute(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConf:
    """A whole configuration in the order in which it is read.

    `findings` speak of the files as they are. Of a file about to be replaced, ask `replaced(...)`.
    """

    main: str
    files: tuple[tuple[str, bytes], ...] = ()  # a file included twice is here twice
    directives: tuple[Directive, ...] = ()
    listeners: tuple[ConfListener, ...] = ()
    include_dirs: tuple[IncludeDir, ...] = ()
    findings: tuple[model.Finding, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()  # (path, reason)

    def last(self, name: str) -> str | None:
        """The value of the last line with this name, anywhere."""
        return next((d.value for d in reversed(self.directives) if d.name == name), None)

    @property
    def is_local_only(self) -> bool:
        """Without any listener the broker opens 127.0.0.1:1883 and [::1]:1883 to everyone on the machine."""
        return not self.listeners

    @property
    def user(self) -> str:
        return self.last("user") or "mosquitto"

    @property
    def persistence(self) -> bool:
        names = {"persistence", "retained_persistence"}
        return next((d.is_true() for d in reversed(self.directives) if d.name in names), False)

    @property
    def persistence_location(self) -> str | None:
        return self.last("persistence_location")

    @property
    def pid_file(self) -> str | None:
        return self.last("pid_file")

    @property
    def log_dests(self) -> tuple[str, ...]:
        """Where the broker logs: `file /path`, `syslog`, ... They add up, and `none` clears those before it."""
        dests: tuple[str, ...] = ()
        for directive in self.directives:
            if directive.name == "log_dest":
                dests = () if directive.first_word() == "none" else (*dests, directive.value)
        return dests

    @property
    def per_listener_settings(self) -> bool:
        value = self.last("per_listener_settings")
        return value is not None and value.split(" ")[0] in {"true", "1"}


def _include_order(name: str) -> list[tuple[int, int]]:
    """Byte by byte without regard to case, and a difference in case decides at once (conf_includedir.c)."""
    return [
        (ord(chr(byte).upper()) if byte < 0x80 else byte, byte) for byte in name.encode("utf-8", "surrogateescape")
    ]


def absolute(path: str) -> str:
    """Where the broker looks: systemd starts it in the root directory."""
    normal = posixpath.normpath(posixpath.join("/", path))
    return normal[1:] if normal.startswith("//") else normal


# Reading ----------------------------------------------------------------------------------------------------


def read_tree(main: str, reader: Reader) -> BrokerConf:
    """Return the configuration that the broker would read from `main`. Never raises, whatever the bytes are."""
    tree = _Tree(main=main, reader=reader)
    tree.read(main, is_main=True)
    return tree.finish()


def replaced(conf: BrokerConf, path: str, content: bytes | None) -> BrokerConf:
    """Return the configuration as it would be read with one file put in its place, or taken away (None)."""
    return read_tree(conf.main, _Replaced(conf, path, content))


def find_listener_file(conf: BrokerConf, tedge_dir: str) -> tuple[str | None, tuple[model.Finding, ...]]:
    """Return where the listener file belongs (contract 5), or None and the finding why nowhere.

    thin-edge's own directory if the broker includes it, else the first directory it includes.
    """
    own = posixpath.normpath(f"{tedge_dir}/mosquitto-conf")
    if not conf.include_dirs:
        return None, () if not conf.files else (conf_findings.no_include(conf.main),)
    chosen = next((include for include in conf.include_dirs if include.real == own), conf.include_dirs[0])
    path = f"{chosen.real}/{LISTENER_FILE}"
    again = [include for include in conf.include_dirs if include.real == chosen.real][1:]
    return path, tuple(conf_findings.included_twice(chosen.real, include.where, chosen.where) for include in again)


class _Replaced:
    """The files a configuration was read from, with one of them replaced."""

    def __init__(self, conf: BrokerConf, path: str, content: bytes | None) -> None:
        self._files: dict[str, bytes] = {absolute(name): data for name, data in conf.files}
        self._reasons: Mapping[str, str] = {absolute(name): reason for name, reason in conf.unreadable}
        self._dirs = {include.real: set(include.names) for include in conf.include_dirs if include.names is not None}
        path = absolute(path)
        names = self._dirs.get(posixpath.dirname(path), set())
        if content is None:
            self._files.pop(path, None)
            names.discard(posixpath.basename(path))
        else:
            self._files[path] = content
            names.add(posixpath.basename(path))

    def read(self, path: str) -> bytes:
        try:
            return self._files[absolute(path)]
        except KeyError:
            raise ConfReadError(self._reasons.get(absolute(path), "No such file or directory")) from None

    def list_dir(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(self._dirs[absolute(path)])
        except KeyError:
            raise ConfReadError(self._reasons.get(absolute(path), "No such file or directory")) from None


@dataclass(slots=True, kw_only=True)
class _Block:
    """A listener while its lines are still coming in."""

    port: int
    address: str | None
    file: str
    line: int
    directives: list[Directive] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Tree:
    """The state of one reading: what the broker keeps in variables between two lines."""

    main: str
    reader: Reader
    files: list[tuple[str, bytes]] = field(default_factory=list)
    directives: list[Directive] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)
    strays: list[Directive] = field(default_factory=list)
    include_dirs: list[IncludeDir] = field(default_factory=list)
    findings: list[model.Finding] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    per_listener: bool = False

    def read(self, path: str, *, is_main: bool, included: str = "") -> None:
        try:
            data = self.reader.read(absolute(path))
        except ConfReadError as error:
            self.unreadable.append((path, str(error)))
            self.findings.append(
                conf_findings.include_unreadable(path, str(error), included)
                if included
                else conf_findings.main_unreadable(path, str(error), missing=error.missing)
            )
            return
        self.files.append((path, data))
        if b"\0" in data:
            self.findings.append(conf_findings.nul(path, data.partition(b"\0")[0].count(b"\n") + 1))
        block: _Block | None = None  # each file starts with no current listener
        for directive in conf_lines.directives_of(path, data):
            self.directives.append(directive)
            if not directive.is_known_shape():
                self.findings.append(conf_findings.not_a_directive(directive))
            elif directive.name == "include_dir":
                self._include(directive, is_main=is_main)
            elif directive.name == "listener":
                block = self._listener(directive)
            else:
                self._option(directive, block)

    def _include(self, directive: Directive, *, is_main: bool) -> None:
        if not is_main:
            self.findings.append(conf_findings.nested_include(directive))
            return
        try:
            if not directive.value:
                raise ConfReadError("no directory is named")
            entries = self.reader.list_dir(absolute(directive.value))
        except ConfReadError as error:
            self.unreadable.append((directive.value, str(error)))
            self.findings.append(conf_findings.include_missing(directive, str(error)))
            names = None
        else:
            names = tuple(sorted((n for n in entries if n.endswith(".conf") and n != ".conf"), key=_include_order))
        self.include_dirs.append(
            IncludeDir(path=directive.value, file=directive.file, line=directive.line, names=names)
        )
        for name in names or ():
            self.read(f"{directive.value}/{name}", is_main=False, included=directive.where)

    def _listener(self, directive: Directive) -> _Block:
        words = conf_lines.words(directive.value)
        port = conf_lines.atoi(words[0]) if words else 0
        address = words[1] if len(words) > 1 and not words[1].startswith("#") else None
        finding = conf_findings.listener_finding(directive, words, port, address)
        if finding is not None:
            self.findings.append(finding)
        block = _Block(port=port, address=address, file=directive.file, line=directive.line)
        self.blocks.append(block)
        return block

    def _option(self, directive: Directive, block: _Block | None) -> None:
        if directive.name in conf_lines.STRINGS and not conf_lines.is_string(directive.value):
            self.findings.append(conf_findings.bad_string(directive))
        if directive.name == "per_listener_settings":
            self.per_listener = directive.is_true()
        elif directive.name in conf_lines.LISTENER_OPTIONS or directive.name in conf_lines.SECURITY_OPTIONS:
            if block is not None:
                block.directives.append(directive)
            elif conf_lines.opens_listener(directive, per_listener=self.per_listener):
                self.strays.append(directive)
        elif directive.name in conf_lines.OLD_STYLE:
            self.strays.append(directive)

    def finish(self) -> BrokerConf:
        listeners = [
            ConfListener(port=b.port, address=b.address, file=b.file, line=b.line, directives=tuple(b.directives))
            for b in self.blocks
        ]
        if self.strays:
            implied = _implied(tuple(self.strays))
            listeners.append(implied)
            self.findings.append(
                conf_findings.stray(implied.where, self.strays[0].name, implied.port, implied.address)
            )
        return BrokerConf(
            main=self.main,
            files=tuple(self.files),
            directives=tuple(self.directives),
            listeners=tuple(listeners),
            include_dirs=tuple(self.include_dirs),
            findings=tuple(self.findings),
            unreadable=tuple(self.unreadable),
        )


def _implied(strays: tuple[Directive, ...]) -> ConfListener:
    values = {directive.name: directive for directive in strays}
    port = conf_lines.atoi(values["port"].first_word()) if "port" in values else 1883
    address = values["bind_address"].value if "bind_address" in values else None
    first = strays[0]
    return ConfListener(port=port, address=address, file=first.file, line=first.line, directives=strays, implied=True)
