"""Where an external listener binds on this machine: interfaces, addresses and ports, checked before the broker is."""

import ipaddress
from collections.abc import Iterable

from . import desired, model

BIND = "mqtt.external.bind"


def resolve(
    external: desired.External, tls: model.Tls | None, network: model.Network
) -> tuple[model.Listener | None, tuple[model.Finding, ...]]:
    """Return the listener as the broker is to see it, or the findings why this machine cannot have it.

    The rules for `bind_interface` are Mosquitto's: it binds the first address of each family, an address beside it
    must be that one, and 0.0.0.0 beside it ends the broker (facts/mosquitto.md 6).
    """
    if external.interface is None:
        address = external.address
        if address is not None and not address.is_unspecified and address not in network.local_addresses:
            return None, (not_local(f"{BIND}.address", address),)
        return model.Listener(port=external.port, address=address, tls=tls), ()
    interface = network.interfaces.get(external.interface)
    if interface is None:
        return None, (_missing_interface(external.interface),)
    address, domain, problem = _on_interface(external.address, interface)
    if problem is not None:
        return None, (problem,)
    listener = model.Listener(
        port=external.port, address=address, interface=external.interface, socket_domain=domain, tls=tls
    )
    return listener, ()


def _on_interface(
    asked: model.IPAddress | None, interface: model.Interface
) -> tuple[model.IPAddress | None, str | None, model.Finding | None]:
    """Return (address to write, socket_domain, finding)."""
    both = (interface.ipv4, interface.ipv6)
    if asked is None or asked.is_unspecified:
        families = [version for version, has in ((4, interface.ipv4), (6, interface.ipv6)) if has is not None]
        wanted = families if asked is None else [version for version in families if version == asked.version]
        if not wanted:
            return None, None, _no_address(interface.name, asked)
        # With one family only, 2.0.11 ends on the other one's link-local address (facts/mosquitto.md 6).
        return None, None if wanted == [4, 6] else f"ipv{wanted[0]}", None
    if asked not in both:
        return None, None, _other_address(asked, interface)
    return asked, f"ipv{asked.version}", None


def in_use(listener: model.Listener, network: model.Network, broker_uids: frozenset[int]) -> model.Finding | None:
    """Return the finding for a port that a process other than the broker holds on an overlapping address."""
    for socket in network.sockets:
        if socket.port == listener.port and socket.uid not in broker_uids and _overlaps(listener, socket, network):
            return model.Finding(
                code="port-in-use",
                severity=model.Severity.ERROR,
                where=f"port {listener.port}",
                message=f"another process (uid {socket.uid}) listens on {_text(socket.address)} port {socket.port}",
                remedy=f"ss -ltnp 'sport = :{listener.port}' shows it; end it, or choose another port",
                blocks=model.Area.BROKER,
            )
    return None


def privileged(port: int, key: str, network: model.Network) -> model.Finding | None:
    """Return the finding for a port that the broker, which has dropped root, may not bind (facts/mosquitto.md 5)."""
    if port >= network.unprivileged_port_start:
        return None
    return model.Finding(
        code="privileged-port",
        severity=model.Severity.ERROR,
        where=key,
        message=f"port {port} is below {network.unprivileged_port_start}: the broker has no right to bind it",
        remedy=f"tedge config set {key} 8883, or sysctl net.ipv4.ip_unprivileged_port_start={port}",
        blocks=model.Area.BROKER,
    )


def is_served(listener: model.Listener, network: model.Network, broker_uids: frozenset[int]) -> bool:
    """Whether the broker holds a listening socket where the listener is to be."""
    return any(
        socket.port == listener.port and socket.uid in broker_uids and _overlaps(listener, socket, network)
        for socket in network.sockets
    )


def contact(listener: model.Listener, network: model.Network) -> model.IPAddress:
    """The address at which this machine itself reaches a listener."""
    if listener.address is not None and not listener.address.is_unspecified:
        return listener.address
    interface = network.interfaces.get(listener.interface) if listener.interface is not None else None
    if interface is not None:
        # With an interface, the broker is on its addresses only, never on the loopback.
        for address in (interface.ipv4, interface.ipv6):
            if address is not None:
                return address
    if listener.address is not None and listener.address.version == 6:
        return ipaddress.IPv6Address("::1")
    return ipaddress.IPv4Address("127.0.0.1")


def _overlaps(listener: model.Listener, socket: model.Socket, network: model.Network) -> bool:
    addresses: Iterable[model.IPAddress | None] = (listener.address,)
    if listener.interface is not None and listener.address is None:
        interface = network.interfaces.get(listener.interface)
        addresses = () if interface is None else (a for a in (interface.ipv4, interface.ipv6) if a is not None)
    return any(_same_place(address, socket.address) for address in addresses)


def _same_place(wanted: model.IPAddress | None, taken: model.IPAddress) -> bool:
    if wanted is None:
        return True
    if wanted.version != taken.version:
        return False
    return wanted == taken or wanted.is_unspecified or taken.is_unspecified


def _text(address: model.IPAddress) -> str:
    return "all addresses" if address.is_unspecified else str(address)


def _finding(code: str, where: str, message: str, remedy: str) -> model.Finding:
    return model.Finding(
        code=code,
        severity=model.Severity.ERROR,
        where=where,
        message=message,
        remedy=remedy,
        blocks=model.Area.BROKER,
    )


def not_local(key: str, address: model.IPAddress) -> model.Finding:
    """The finding for an address that this machine does not have, on which the broker would end."""
    return _finding(
        "address-not-local",
        key,
        f"no interface of this machine has the address {address}",
        f"ip address shows those there are; tedge config set {key} ADDRESS",
    )


def _missing_interface(name: str) -> model.Finding:
    return _finding(
        "interface-missing",
        f"{BIND}.interface",
        f"there is no network interface {name}",
        f"ip link shows those there are; tedge config set {BIND}.interface NAME",
    )


def _no_address(name: str, asked: model.IPAddress | None) -> model.Finding:
    family = "IP" if asked is None else f"IPv{asked.version}"
    return _finding(
        "interface-without-address",
        f"{BIND}.interface",
        f"the network interface {name} has no {family} address",
        f"ip address show dev {name}; it is looked at again by itself",
    )


def _other_address(asked: model.IPAddress, interface: model.Interface) -> model.Finding:
    has = " and ".join(str(address) for address in (interface.ipv4, interface.ipv6) if address is not None)
    return _finding(
        "address-not-on-interface",
        f"{BIND}.address",
        f"{asked} is not the first address of {interface.name} ({has or 'it has none'}), which the broker demands",
        f"tedge config unset {BIND}.address, or tedge config unset {BIND}.interface",
    )
