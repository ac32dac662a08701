"""What the network looks like from here: interfaces and addresses. Reads only, starts nothing."""

import bisect
import errno
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable

from tedge_agentd.core import model

_SIOCGIFADDR = 0x8915
_NO_ADDRESS = "0.0.0.0"  # noqa: S104  # what an interface without one answers in a fresh network namespace
_LINK_SCOPE = 0x20  # IPV6_ADDR_LINKLOCAL of the kernel's net/ipv6.h
_NOT_BINDABLE = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED of linux/if_addr.h
_TEMPORARY = 0x01  # IFA_F_TEMPORARY: another one tomorrow (RFC 8981)
_MOST = 16  # addresses that are worth a name in a certificate
_PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def observe(
    addresses: Iterable[model.IPAddress], interfaces: Iterable[str], sockets: tuple[model.Socket, ...] = ()
) -> model.Network:
    """Return which of the given addresses and interfaces this machine has, beside the listening sockets.

    Works in a service sandbox (ProcSubset=pid) with sockets of AF_INET and AF_INET6.
    """
    first_ipv6 = _first_ipv6()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        found = {
            name: model.Interface(name=name, ipv4=_first_ipv4(asker, name), ipv6=first_ipv6.get(name))
            for name in interfaces
            if _exists(name)
        }
    return model.Network(
        interfaces=found,
        sockets=sockets,
        local_addresses=frozenset(address for address in addresses if _is_local(address)),
        unprivileged_port_start=_unprivileged_port_start(),
    )


def reached_at(address: model.IPAddress | None, interface: str | None) -> tuple[str, ...]:
    """Return the addresses at which others reach a listener that is bound so, for the names of its certificate.

    One on all addresses is reached at the first address of each interface. Works in the same sandbox.
    """
    if address is not None and not address.is_unspecified:
        return (str(address),)
    names = _interfaces() if interface is None else (interface,)
    first_ipv6 = _first_ipv6(_NOT_BINDABLE | _TEMPORARY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        found = [*(_first_ipv4(asker, name) for name in names), *(first_ipv6.get(name) for name in names)]
    return tuple(
        str(one)
        for one in found
        if one is not None and not one.is_loopback and (address is None or one.version == address.version)
    )[:_MOST]


def _interfaces() -> tuple[str, ...]:
    """if_nameindex(3) asks by netlink, which the sandbox has not."""
    with open("/proc/self/net/dev", encoding="ascii") as file:
        return tuple(sorted(line.partition(":")[0].strip() for line in file if ":" in line))


def _first_ipv4(asker: socket.socket, name: str) -> ipaddress.IPv4Address | None:
    """Return the first address of an interface, as getifaddrs(3) and so the broker sees it."""
    try:
        answer = fcntl.ioctl(asker, _SIOCGIFADDR, struct.pack("16s24x", name.encode()))
    except OSError:  # EADDRNOTAVAIL: it has none
        return None
    address = socket.inet_ntoa(answer[20:24])
    return None if address == _NO_ADDRESS else ipaddress.IPv4Address(address)


def _first_ipv6(unfit: int = _NOT_BINDABLE) -> dict[str, ipaddress.IPv6Address]:
    """Return the first address of each interface that a listener could be bound to, without any of these flags."""
    found: dict[str, ipaddress.IPv6Address] = {}
    try:
        with open("/proc/self/net/if_inet6", encoding="ascii") as file:
            for line in file:
                address, _, _, scope, flags, name = line.split()
                if not int(scope, 16) & _LINK_SCOPE and not int(flags, 16) & unfit:
                    found.setdefault(name, ipaddress.IPv6Address(bytes.fromhex(address)))
    except FileNotFoundError:
        pass
    return found


def _exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def _is_local(address: model.IPAddress) -> bool:
    """Return whether a socket can be bound to the address now, which is what the broker will try."""
    return _bind_error(str(address), 0) is None


def _bind_error(address: str, port: int) -> int | None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.bind((address, port))
    except OSError as error:
        return error.errno
    return None


def _unprivileged_port_start() -> int:
    """Return from which port on the broker, which has no privileges when it binds, may listen."""
    try:
        with open(_PORT_START, encoding="ascii") as file:
            return int(file.read())
    except OSError:
        # ProcSubset=pid hides /proc/sys. The sandbox that has it lacks CAP_NET_BIND_SERVICE, so trying tells.
        return 1 + bisect.bisect_left(range(1, 1024), True, key=_may_bind)


def _may_bind(port: int) -> bool:
    return _bind_error("127.0.0.1", port) != errno.EACCES
