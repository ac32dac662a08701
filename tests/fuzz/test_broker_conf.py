"""Any tree of broker configuration: read, rewritten for a trial, searched for conflicts, all without an exception."""

import os
import sys
from types import FrameType

from hypothesis import given
from hypothesis import strategies as st

import tedge_agentd
from tedge_agentd.core import candidate, conflicts, listener, model, mosquitto_conf
from tests.fuzz import material
from tests.unit import broker_trees, test_plan


def tree(main: bytes, others: dict[str, bytes]) -> mosquitto_conf.BrokerConf:
    files: dict[str, bytes | str] = {broker_trees.MAIN: main}
    files |= {f"{broker_trees.TEDGE}/{name}.conf": data for name, data in others.items()}
    return mosquitto_conf.read_tree(
        broker_trees.MAIN, broker_trees.Files(files, broker_trees.TEDGE, broker_trees.CONF_D)
    )


MAINS = st.sampled_from([broker_trees.DEBIAN.encode()] * 3) | material.damaged
OTHERS = st.dictionaries(st.sampled_from(["a", "B", "tedge-mosquitto", "zz", "-x"]), material.damaged, max_size=4)
WANTED = st.builds(
    model.ListenerFile,
    internal=st.none() | st.builds(model.Listener, port=broker_trees.ports),
    external=st.none() | st.builds(model.Listener, port=broker_trees.ports, address=broker_trees.addresses),
)


@material.fuzzed
@given(MAINS, OTHERS, WANTED)
def test_no_tree_raises(main: bytes, others: dict[str, bytes], wanted: model.ListenerFile) -> None:
    conf = tree(main, others)
    path, findings = mosquitto_conf.find_listener_file(conf, "/etc/tedge")
    if path is not None:
        interfaces = test_plan.machine().network.interfaces
        for finding in (*findings, *conflicts.find(conf, path, wanted, interfaces)):
            assert finding.message.isprintable()
        for content in (listener.render(wanted), None, b"\0", b"nonsense"):
            tried = candidate.candidate(conf, path, content, interfaces=interfaces, sandbox=candidate.Sandbox())
            for name, data in tried.files.items():
                lines = data.split(b"\n")
                for left in (b"pid_file", b"persistence_location", b"log_dest file", b"persistence_file"):
                    assert not any(line.startswith(left + b" ") for line in lines if b"\0" not in data), name
            candidate.explain(tried, "Error: something\nError found at /x:1.\n", {})
    for _, data in conf.files:
        listener.parse(data)
        listener.canonical_of(data, {})


OURS = os.path.dirname(tedge_agentd.__file__)
FEW = 50  # calls that a cache, or a line at the border, may make the difference of


def steps(data: bytes) -> int:
    """How many functions our code calls to read a file, built-in ones included: no clock, so the same each time."""
    seen = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal seen
        # The collector of garbage calls others in between.
        seen += event in {"call", "c_call"} and frame.f_code.co_filename.startswith(OURS)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        tree(broker_trees.DEBIAN.encode(), {"a": data})
    finally:
        sys.setprofile(before)
    return seen


@material.fuzzed
@given(st.integers(1, 20), material.damaged)
def test_reading_takes_steps_linear_in_the_size(times: int, data: bytes) -> None:
    data = (data + b"\n") * times
    once, twice, four = (steps(data * factor) for factor in (1, 2, 4))
    assert four - twice <= 2.1 * (twice - once) + FEW  # of what is quadratic, four times as many
