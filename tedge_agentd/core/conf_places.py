"""Which addresses a listener takes, and whether two listeners get in each other's way.

The rules are facts/mosquitto.md 2, 5 and 6, all measured: without an address two sockets are bound, 0.0.0.0 and ::,
each of its family alone; a wildcard and any address of its family exclude each other on the same port.
"""

import ipaddress
import re
from collections.abc import Mapping

from . import model
from .mosquitto_conf import ConfListener

ALL_IPV4 = ipaddress.IPv4Address("0.0.0.0")  # noqa: S104  # compared with, not bound
ALL_IPV6 = ipaddress.IPv6Address("::")
_LOCALHOST = ipaddress.IPv4Address("127.0.0.1")  # and ::1 too where /etc/hosts says so, which a trial finds out

_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\Z")


def taken(listener: ConfListener, interfaces: Mapping[str, model.Interface]) -> tuple[model.IPAddress, ...] | None:
    """Return the addresses a listener binds, or None where only the resolver knows (a host name).

    () for a Unix socket, for an interface that is not there, and for what the broker refuses by itself.
    """
    if listener.port <= 0:
        return ()
    domain, wanted = listener.option("socket_domain"), listener.option("bind_interface")
    addresses = resolved(listener.address)
    if wanted is not None:
        addresses = _on_interface(addresses, listener.address, interface(wanted.value, interfaces))
    if addresses is None or domain is None:
        return addresses
    return tuple(address for address in addresses if f"ipv{address.version}" == domain.first_word())


def resolved(address: str | None) -> tuple[model.IPAddress, ...] | None:
    """Return what an address in the configuration stands for, or None where only the resolver knows."""
    if address in {None, "*"}:
        return ALL_IPV4, ALL_IPV6
    assert address is not None
    if address.lower() == "localhost":
        return (_LOCALHOST,)
    try:
        return (ipaddress.ip_address(address),)
    except ValueError:
        old = _old_ipv4(address)
        return None if old is None else (old,)


def interface(name: str, interfaces: Mapping[str, model.Interface]) -> model.Interface | None:
    """The broker compares the names of interfaces without regard to case."""
    return next((found for key, found in interfaces.items() if key.lower() == name.lower()), None)


def overlap(one: tuple[model.IPAddress, ...], other: tuple[model.IPAddress, ...]) -> bool:
    """Whether two sets of addresses exclude each other on one port."""
    return any(
        a.version == b.version and (a == b or a.is_unspecified or b.is_unspecified) for a in one for b in other
    )


def _on_interface(
    addresses: tuple[model.IPAddress, ...] | None, written: str | None, found: model.Interface | None
) -> tuple[model.IPAddress, ...]:
    """An interface stands for its first address of each family; an address beside it must be one of these."""
    if found is None:
        return ()
    its = tuple(address for address in (found.ipv4, found.ipv6) if address is not None)
    if written is None:
        return its
    return tuple(address for address in addresses or () if address in its)


def _old_ipv4(text: str) -> ipaddress.IPv4Address | None:
    """The forms of inet_aton(3), which the resolver takes too: 127.1, 0x7f.1, 2130706433."""
    parts = text.split(".")
    if len(parts) > 4 or not all(_NUMBER.match(part) for part in parts):
        return None
    numbers = [int(part, 8 if part.startswith("0") and part[1:].isdigit() else 0) for part in parts]
    last_bits = 8 * (5 - len(numbers))
    if any(number > 255 for number in numbers[:-1]) or numbers[-1] >= 1 << last_bits:
        return None
    value = numbers[-1]
    for index, number in enumerate(numbers[:-1]):
        value |= number << (24 - 8 * index)
    return ipaddress.IPv4Address(value)
