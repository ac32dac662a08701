"""A broker's configuration as a sandbox with nothing but a loopback interface can try it.

Rewritten line for line: a line number in the broker's messages is one in the operator's file. What is tried is all
that decides whether the broker starts: syntax, TLS material, plugins, and which listeners get in each other's way.
What would leave traces (persistence, log files, the pid file) is switched off (facts/mosquitto.md 0.6 and 9).
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import conf_lines, conf_places, model
from .conf_lines import Directive
from .mosquitto_conf import BrokerConf, ConfListener, absolute, replaced
from .refusal import explain
from .trial import Candidate, Sandbox, Tried, staged

__all__ = ["Candidate", "Sandbox", "Tried", "candidate", "explain"]

_DROPPED = frozenset(
    {
        "autosave_interval",
        "autosave_on_changes",
        "persistence_file",
        "persistence_location",
        "pid_file",
    }
)
_MATERIAL = frozenset({"cafile", "capath", "certfile", "keyfile"})
_REPORT = (b"log_type error", b"log_type warning", b"log_type notice", b"log_type information")
FIRST_UNPRIVILEGED = 1024
_SPARE_PORTS = range(49152, 65536)  # stands in for the others; the sandbox has a network of its own
_NETWORK = ipaddress.IPv4Network("127.77.0.0/16")
_SIX_LOOPBACK = ipaddress.IPv6Address("::1")


def candidate(
    conf: BrokerConf,
    listener_file: str,
    new_content: bytes | None,
    *,
    interfaces: Mapping[str, model.Interface],
    sandbox: Sandbox,
) -> Candidate:
    """Return the configuration to try, with the listener file replaced (None: without it).

    Real addresses become addresses of the loopback network, the same one for the same one, so that listeners which
    exclude each other still do. An interface is replaced by its first address; where it is not there, or the address
    beside it is another, its line stays and the broker refuses it.
    """
    new = replaced(conf, listener_file, new_content)
    moves = _Moves(new, interfaces)
    edits = _Edits(moves=moves, sandbox=sandbox, first_log=_first(new, "log_dest"))
    files: dict[str, bytes] = {}
    for path, data in new.files:
        files[absolute(path)] = _rewritten(path, data, edits)
    main = absolute(new.main)
    if main in files:
        files[main] = _with_report(files[main], has_log=edits.first_log is not None)
    return Candidate(main=main, files=files, listeners=tuple(moves.tried()), conf=new, sandbox=sandbox)


def _first(conf: BrokerConf, name: str) -> tuple[str, int] | None:
    return next(((d.file, d.line) for d in conf.directives if d.name == name), None)


def _with_report(data: bytes, *, has_log: bool) -> bytes:
    """Make the broker say on stderr why it refuses, whatever the configuration has it keep to itself."""
    lines = (*_REPORT,) if has_log else (b"log_dest stderr", *_REPORT)
    return (data if data.endswith(b"\n") or not data else data + b"\n") + b"".join(line + b"\n" for line in lines)


# Where listeners go -----------------------------------------------------------------------------------------


class _Moves:
    """Gives every listener its place in the sandbox, in the order of the configuration."""

    def __init__(self, conf: BrokerConf, interfaces: Mapping[str, model.Interface]) -> None:
        self._interfaces = interfaces
        self._listeners = conf.listeners
        self._used_ports = {found.port for found in conf.listeners}
        self._used_addresses = {
            address for found in conf.listeners for address in (conf_places.resolved(found.address) or ())
        }
        self._ports: dict[object, int] = {}
        self._addresses: dict[object, str] = {}
        self._six: dict[int, ipaddress.IPv6Address] = {}
        self.at: dict[tuple[str, int], Tried] = {
            (found.file, found.line): self._place(found) for found in conf.listeners
        }

    def tried(self) -> Iterator[Tried]:
        yield from self.at.values()

    def implied(self) -> Tried | None:
        return next((tried for tried in self.at.values() if tried.listener.implied), None)

    def is_emulated(self, found: ConfListener) -> bool:
        """Whether its bind_interface is replaced by the address it stands for."""
        return found.option("bind_interface") is not None and bool(conf_places.taken(found, self._interfaces))

    def _place(self, found: ConfListener) -> Tried:
        if not 0 <= found.port <= 65535 or (
            found.port == 0 and found.address is None
        ):  # refused by the broker itself
            return Tried(listener=found, port=found.port, address=found.address)
        if found.port == 0:  # binding would unlink the path first (facts/mosquitto.md 10)
            return Tried(listener=found, port=self._spare((found.file, found.line)), address="127.0.0.1")
        port = found.port if found.port >= FIRST_UNPRIVILEGED else self._spare(found.port)
        places = conf_places.taken(found, self._interfaces) if found.option("bind_interface") else None
        if places:
            return self._specific(found, port, places[0])
        if found.option("bind_interface") is not None:
            return Tried(listener=found, port=port, address=found.address)
        resolved = conf_places.resolved(found.address)
        if resolved is None:
            if found.address is not None and found.address.startswith("["):  # refused by the broker itself
                return Tried(listener=found, port=port, address=found.address)
            return Tried(listener=found, port=port, address=self._stand_in(found, found.address))
        is_name = found.address is not None and found.address.lower() == "localhost"
        if is_name or len(resolved) > 1 or resolved[0].is_unspecified:
            return Tried(listener=found, port=port, address=found.address)
        return self._specific(found, port, resolved[0])

    def _specific(self, found: ConfListener, port: int, address: model.IPAddress) -> Tried:
        if address.is_loopback:
            return Tried(listener=found, port=port, address=str(address))
        if isinstance(address, ipaddress.IPv4Address):
            return Tried(listener=found, port=port, address=self._stand_in(found, address))
        if self._six_of(found.port, address):
            return Tried(listener=found, port=port, address=str(_SIX_LOOPBACK))
        # The one IPv6 address of the sandbox is taken: an IPv4 one stands in, away from 0.0.0.0 on the same port.
        return Tried(listener=found, port=self._spare((found.port, address)), address=self._stand_in(found, address))

    def _six_of(self, port: int, address: ipaddress.IPv6Address) -> bool:
        """Whether this address is the one that ::1 stands for on this port."""
        if any(_SIX_LOOPBACK in (conf_places.resolved(o.address) or ()) for o in self._listeners if o.port == port):
            return False
        return self._six.setdefault(port, address) == address

    def _stand_in(self, found: ConfListener, key: object) -> str:
        is_websockets = (option := found.option("protocol")) is not None and option.first_word() == "websockets"
        if is_websockets and [other.port for other in self._listeners].count(found.port) == 1:
            # libwebsockets of 2.0.11 binds nothing but an interface's own addresses.
            return "127.0.0.1"
        if key not in self._addresses:
            free = (host for host in _NETWORK.hosts() if host not in self._used_addresses)
            self._addresses[key] = str(next(host for host in free if str(host) not in self._addresses.values()))
        return self._addresses[key]

    def _spare(self, key: object) -> int:
        if key not in self._ports:
            taken = self._used_ports | set(self._ports.values())
            self._ports[key] = next(port for port in _SPARE_PORTS if port not in taken)
        return self._ports[key]


# The lines --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edits:
    moves: _Moves
    sandbox: Sandbox
    first_log: tuple[str, int] | None


def _rewritten(path: str, data: bytes, edits: _Edits) -> bytes:
    lines = data.split(b"\n")
    block: ConfListener | None = None
    for directive in conf_lines.directives_of(path, data):
        if directive.name == "listener":
            block = edits.moves.at[path, directive.line].listener
        # The broker reads no further than a NUL either, and is to be caught at that.
        is_last = b"\0" in lines[directive.line - 1]
        changed = None if is_last else _edited(directive, block, edits)
        if changed is not None:
            lines[directive.line - 1] = changed
        elif _is_dropped(directive, block, edits):
            lines[directive.line - 1] = b"# " + lines[directive.line - 1]
        if is_last:
            break
    return b"\n".join(lines)


def _is_dropped(directive: Directive, block: ConfListener | None, edits: _Edits) -> bool:
    if directive.name in _DROPPED or directive.name == "log_dest":
        return True
    if directive.name not in {"bind_interface", "socket_domain"}:
        return False
    found = block or _implied_listener(edits)
    if found is None:
        return False
    if directive.name == "bind_interface":
        return edits.moves.is_emulated(found)
    # An address of the other family may stand in for an IPv6 one.
    address = edits.moves.at[found.file, found.line].address
    return directive.first_word() == "ipv6" and address != found.address and "." in (address or "")


def _edited(directive: Directive, block: ConfListener | None, edits: _Edits) -> bytes | None:
    """Return the line in its place, or None where it stays or goes."""
    name = directive.name
    text: str | None = None
    if name == "listener" and block is not None:
        text = _listener_line(edits.moves.at[directive.file, directive.line])
    elif name in {"port", "bind_address"}:
        text = _implied_line(name, edits.moves.implied())
    elif name == "bind_interface" and block is None:
        text = _implied_line("bind_address", edits.moves.implied())
    elif name == "include_dir" and directive.value and edits.sandbox.root:
        text = f"include_dir {edits.sandbox.root}{absolute(directive.value)}"
    elif name == "log_dest" and (directive.file, directive.line) == edits.first_log:
        text = "log_dest stderr"
    elif name in {"persistence", "retained_persistence"} and directive.is_true():
        text = f"{name} false"
    elif name in _MATERIAL:
        moved = staged(directive.value, edits.sandbox.staging)
        text = None if moved == directive.value else f"{name} {moved}"
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _listener_line(tried: Tried) -> str | None:
    found = tried.listener
    if (tried.port, tried.address) == (found.port, found.address):
        return None
    return f"listener {tried.port}" + ("" if tried.address is None else f" {tried.address}")


def _implied_line(name: str, tried: Tried | None) -> str | None:
    if tried is None or (tried.port, tried.address) == (tried.listener.port, tried.listener.address):
        return None
    return f"port {tried.port}" if name == "port" else f"bind_address {tried.address}"


def _implied_listener(edits: _Edits) -> ConfListener | None:
    implied = edits.moves.implied()
    return None if implied is None else implied.listener
