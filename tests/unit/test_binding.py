"""Where an external listener binds on this machine, and what is in its way."""

import ipaddress

import pytest

from tedge_agentd.core import binding, desired, model

IP4, IP6 = ipaddress.IPv4Address("192.0.2.10"), ipaddress.IPv6Address("2001:db8::10")
SECOND = ipaddress.IPv4Address("192.0.2.11")
ANY4, ANY6 = ipaddress.IPv4Address("0.0.0.0"), ipaddress.IPv6Address("::")
NETWORK = model.Network(
    interfaces={
        "lan": model.Interface(name="lan", ipv4=IP4),
        "both": model.Interface(name="both", ipv4=IP4, ipv6=IP6),
        "six": model.Interface(name="six", ipv6=IP6),
        "down": model.Interface(name="down"),
    },
    local_addresses=frozenset({IP4, SECOND, IP6}),
)


def resolve(
    address: model.IPAddress | None, interface: str | None
) -> tuple[model.Listener | None, tuple[model.Finding, ...]]:
    external = desired.External(port=8883, address=address, interface=interface, level=model.Level.NONE)
    return binding.resolve(external, None, NETWORK)


@pytest.mark.parametrize(
    ("address", "interface", "expected"),
    [
        (None, None, (None, None)),
        (IP4, None, (IP4, None)),
        (ANY4, None, (ANY4, None)),
        (None, "lan", (None, "ipv4")),
        (ANY4, "lan", (None, "ipv4")),
        (IP4, "lan", (IP4, "ipv4")),
        (None, "both", (None, None)),
        (ANY6, "both", (None, "ipv6")),
        (IP6, "both", (IP6, "ipv6")),
        (None, "six", (None, "ipv6")),
    ],
)
def test_a_listener_is_written_as_mosquitto_can_bind_it(
    address: model.IPAddress | None, interface: str | None, expected: tuple[object, object]
) -> None:
    listener, findings = resolve(address, interface)
    assert findings == ()
    assert listener is not None
    assert (listener.address, listener.socket_domain) == expected
    assert listener.interface == interface


@pytest.mark.parametrize(
    ("address", "interface", "code"),
    [
        (ipaddress.IPv4Address("203.0.113.1"), None, "address-not-local"),
        (None, "nosuch0", "interface-missing"),
        (None, "down", "interface-without-address"),
        (ANY6, "lan", "interface-without-address"),
        (SECOND, "lan", "address-not-on-interface"),
    ],
)
def test_what_would_end_the_broker_is_a_finding(
    address: model.IPAddress | None, interface: str | None, code: str
) -> None:
    listener, findings = resolve(address, interface)
    assert listener is None
    assert [finding.code for finding in findings] == [code]
    assert findings[0].blocks is model.Area.BROKER
    assert findings[0].remedy


@pytest.mark.parametrize(
    ("wanted", "taken", "clash"),
    [
        (None, IP4, True),
        (None, ANY6, True),
        (IP4, IP4, True),
        (IP4, ANY4, True),
        (ANY4, IP4, True),
        (IP4, SECOND, False),
        (IP4, ANY6, False),
        (IP6, IP4, False),
    ],
)
def test_a_port_of_another_process_is_in_the_way_where_addresses_overlap(
    wanted: model.IPAddress | None, taken: model.IPAddress, clash: bool
) -> None:
    network = model.Network(sockets=(model.Socket(address=taken, port=8883, uid=0),))
    listener = model.Listener(port=8883, address=wanted)
    assert (binding.in_use(listener, network, frozenset({108})) is not None) is clash
    assert binding.in_use(listener, network, frozenset({0})) is None, "the broker's own socket"
    assert binding.is_served(listener, network, frozenset({0})) is clash


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        (model.Listener(port=1), "127.0.0.1"),
        (model.Listener(port=1, address=ANY4), "127.0.0.1"),
        (model.Listener(port=1, address=ANY6), "::1"),
        (model.Listener(port=1, address=IP4), "192.0.2.10"),
        (model.Listener(port=1, interface="lan"), "192.0.2.10"),
        (model.Listener(port=1, interface="six"), "2001:db8::10"),
    ],
)
def test_a_listener_is_reached_where_it_is(listener: model.Listener, expected: str) -> None:
    assert str(binding.contact(listener, NETWORK)) == expected


def test_a_privileged_port_is_a_finding() -> None:
    assert binding.privileged(883, "k", NETWORK) is not None
    assert binding.privileged(1024, "k", NETWORK) is None
