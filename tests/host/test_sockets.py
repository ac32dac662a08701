"""When the table of sockets is read, and when what is remembered of it will do."""

import ipaddress
from collections.abc import Callable
from dataclasses import replace

import pytest

from tedge_agentd.core import model
from tedge_agentd.host import sockets

BROKER, OTHER = 105, 1000
UIDS, PORTS = frozenset({BROKER}), frozenset({1883, 8883})
RUNNING = model.UnitFacts(
    name="mosquitto.service", load_state="loaded", active_state="active", sub_state="running", invocation="first"
)


def held(port: int, uid: int = BROKER) -> model.Socket:
    return model.Socket(address=ipaddress.IPv4Address("0.0.0.0"), port=port, uid=uid)


ALL = (held(1883), held(8883), held(22, uid=0))


class Machine:
    """A table of sockets that counts how often it is read."""

    def __init__(self) -> None:
        self.table: tuple[model.Socket, ...] = ALL
        self.now = 100.0
        self.reads = 0
        self.listening = sockets.Listening(read=self._read, clock=lambda: self.now)

    def _read(self) -> tuple[model.Socket, ...]:
        self.reads += 1
        return self.table

    def look(
        self, broker: model.UnitFacts | None = RUNNING, ports: frozenset[int] = PORTS
    ) -> tuple[model.Socket, ...]:
        return self.listening.look(broker, UIDS, ports)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_in_one_run_of_a_broker_that_holds_its_ports_the_table_is_read_once(machine: Machine) -> None:
    assert [machine.look() for _ in range(3)] == [ALL] * 3
    assert machine.reads == 1


@pytest.mark.parametrize(
    "table",
    [
        (held(1883),),
        (),
        (held(1883), held(8883, uid=OTHER)),
        (held(1883), held(8883), held(8883, uid=OTHER)),
    ],
    ids=["still binding", "nothing", "somebody else's", "shared"],
)
def test_until_the_broker_alone_holds_its_ports_the_table_is_read_each_time(
    machine: Machine, table: tuple[model.Socket, ...]
) -> None:
    machine.table = table
    assert machine.look() == table
    machine.table = ALL
    assert machine.look() == ALL
    machine.look()
    assert machine.reads == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: machine.look(replace(RUNNING, invocation="second")),
        lambda machine: machine.look(ports=frozenset({1883, 8884})),
        lambda machine: machine.look(replace(RUNNING, active_state="failed")),
        lambda machine: machine.look(replace(RUNNING, invocation="")),
        lambda machine: machine.look(None),
    ],
    ids=["another run", "other ports", "failed", "a run without a name", "not installed"],
)
def test_what_may_change_the_sockets_has_the_table_read(
    machine: Machine, change: Callable[[Machine], tuple[model.Socket, ...]]
) -> None:
    machine.look()
    machine.table = (held(1883),)
    assert change(machine) == machine.table
    assert machine.reads == 2


def test_after_a_minute_the_table_is_read_whatever_is_remembered(machine: Machine) -> None:
    machine.look()
    machine.now += sockets.KEPT_S
    machine.table = ()
    assert machine.look() == ()
