"""Any tree of broker configuration: read, rewritten for a trial, searched for conflicts, all without an exception."""

import time

from hypothesis import given
from hypothesis import strategies as st

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


@material.fuzzed
@given(st.integers(1, 40), material.damaged)
def test_reading_takes_time_linear_in_the_size(times: int, data: bytes) -> None:
    begun = time.process_time()
    tree(broker_trees.DEBIAN.encode(), {"a": (data + b"\n") * times * 25})
    assert time.process_time() - begun < 2.0
