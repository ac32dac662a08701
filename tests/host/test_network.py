"""Looking at the network and its sockets: each test in a network namespace of its own."""

import ipaddress
import pickle
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import model
from tedge_agentd.host import network, sockets

_ROOT = Path(__file__).parents[2]
# Reads what to do from its standard input, because a child in another namespace shares nothing with the test.
_CHILD = """
import pickle, socket, subprocess, sys
from tedge_agentd.host import network, sockets
commands, listen, addresses, interfaces = pickle.load(sys.stdin.buffer)
for command in commands:
    subprocess.run(["ip", *command.split()], check=True)
held = [socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        for host, port in listen]
with socket.create_connection(held[0].getsockname()[:2]) if held else socket.socket():
    sys.stdout.buffer.write(pickle.dumps(network.observe(addresses, interfaces, sockets.listening())))
"""

D0 = ("link set lo up", "link add d0 type veth peer name d1", "link set d1 up", "link set d0 up")


def look(
    commands: Sequence[str],
    *,
    addresses: Sequence[str] = (),
    interfaces: Sequence[str] = ("d0",),
    listen: Sequence[tuple[str, int]] = (),
) -> model.Network:
    asked = (commands, listen, [ipaddress.ip_address(a) for a in addresses], list(interfaces))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _CHILD],
        input=pickle.dumps(asked),
        capture_output=True,
        cwd=_ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: Any = pickle.loads(done.stdout)
    assert isinstance(found, model.Network)
    return found


def table_form(address: model.IPAddress) -> str:
    """The inverse of what the kernel's tables are read with, by the rule in proc(5)."""
    packed = address.packed
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


@given(st.ip_addresses())
def test_every_address_is_read_back_as_the_kernel_prints_it(address: model.IPAddress) -> None:
    assert sockets._address(table_form(address)) == address


def test_an_interface_has_its_first_address_of_each_family() -> None:
    found = look(
        (
            *D0,
            "address add 192.0.2.1/24 dev d0",
            "address add 192.0.2.2/24 dev d0",
            "address add 2001:db8::1/64 dev d0 nodad",
        )
    )
    assert found.interfaces == {
        "d0": model.Interface(
            name="d0", ipv4=ipaddress.IPv4Address("192.0.2.1"), ipv6=ipaddress.IPv6Address("2001:db8::1")
        )
    }


def test_a_link_local_address_is_none() -> None:
    found = look((*D0, "address add fe80::1/64 dev d0 nodad", "address add 192.0.2.1/24 dev d0"))
    assert found.interfaces["d0"] == model.Interface(name="d0", ipv4=ipaddress.IPv4Address("192.0.2.1"))


def test_a_tentative_address_is_none_and_not_local() -> None:
    found = look((*D0, "address add 2001:db8::1/64 dev d0"), addresses=["2001:db8::1"])
    assert found.interfaces["d0"].ipv6 is None
    assert found.local_addresses == frozenset()


@pytest.mark.parametrize("name", ["eth7", "", "..", "d0/../d0", "a-name-longer-than-15"])
def test_an_interface_that_does_not_exist_is_left_out(name: str) -> None:
    assert look(D0, interfaces=[name]).interfaces == {}


def test_an_interface_without_addresses_exists() -> None:
    assert look(D0).interfaces == {"d0": model.Interface(name="d0")}


def test_an_interface_that_is_down_keeps_its_address() -> None:
    found = look(("link add d0 type veth peer name d1", "address add 192.0.2.1/24 dev d0"))
    assert found.interfaces["d0"].ipv4 == ipaddress.IPv4Address("192.0.2.1")


def test_local_addresses_are_those_asked_for_that_can_be_bound() -> None:
    found = look(
        (*D0, "address add 192.0.2.1/24 dev d0"),
        addresses=["127.0.0.1", "127.0.0.77", "192.0.2.1", "192.0.2.2", "::1", "2001:db8::1", "0.0.0.0"],
    )
    assert {str(address) for address in found.local_addresses} == {
        "127.0.0.1",
        "127.0.0.77",
        "192.0.2.1",
        "::1",
        "0.0.0.0",
    }


def test_listening_sockets_are_found_and_connections_are_not() -> None:
    found = look(D0, listen=[("127.0.0.1", 1883), ("0.0.0.0", 8883), ("::1", 1883)])
    assert {(str(s.address), s.port, s.uid) for s in found.sockets} == {
        ("127.0.0.1", 1883, 0),
        ("0.0.0.0", 8883, 0),
        ("::1", 1883, 0),
    }


@pytest.mark.parametrize("start", [0, 80, 1024])
def test_unprivileged_ports_begin_where_the_kernel_says(start: int) -> None:
    assert port_start(start, read_from=network._PORT_START) == start


@pytest.mark.parametrize(("start", "seen"), [(80, 80), (443, 443), (1024, 1024), (0, 1)])
def test_where_proc_sys_is_hidden_unprivileged_ports_are_found_by_trying(start: int, seen: int) -> None:
    assert port_start(start, read_from="/nowhere") == seen


def port_start(start: int, *, read_from: str) -> int:
    """Ask without the capability that would let every port be bound, as the service does."""
    code = (
        "from tedge_agentd.host import network\n"
        f"network._PORT_START = {read_from!r}\n"
        "print(network._unprivileged_port_start())"
    )
    drop = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
    script = f'ip link set lo up && echo {start} >{network._PORT_START} && exec "$@"'
    command = ["unshare", "--net", "sh", "-c", script, "sh", *drop, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_machine_itself_can_be_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = network.observe([ipaddress.IPv4Address("127.0.0.1")], ["lo"], sockets.listening())
        assert server.getsockname()[1] in {s.port for s in found.sockets}
    assert found.interfaces["lo"].ipv4 == ipaddress.IPv4Address("127.0.0.1")


_REACHED = """
import ipaddress, subprocess, sys
from tedge_agentd.host import network
for command in sys.argv[3:]:
    subprocess.run(["ip", *command.split()], check=True)
address = ipaddress.ip_address(sys.argv[1]) if sys.argv[1] else None
print(*network.reached_at(address, sys.argv[2] or None))
"""


@pytest.mark.parametrize(
    ("address", "interface", "expected"),
    [
        ("", "", "192.0.2.1 198.51.100.1 2001:db8::1"),
        ("0.0.0.0", "", "192.0.2.1 198.51.100.1"),
        ("::", "", "2001:db8::1"),
        ("192.0.2.2", "", "192.0.2.2"),
        ("", "d1", "198.51.100.1"),
        ("", "gone0", ""),
    ],
)
def test_where_a_listener_is_reached_that_is_bound_so(address: str, interface: str, expected: str) -> None:
    commands = [
        *D0,
        "address add 192.0.2.1/24 dev d0",
        "address add 192.0.2.2/24 dev d0",
        "address add 198.51.100.1/24 dev d1",
        "address add 2001:db8::1/64 dev d0 nodad",
    ]
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _REACHED, address, interface, *commands],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == expected
