"""The listener file moves where thin-edge's directory is; the one of before does not stay in the way."""

from dataclasses import replace

import pytest

from tedge_agentd.core import conflicts, ledger, leftovers, listener, model, mosquitto_conf, operations
from tests.unit.broker_trees import Files
from tests.unit.test_plan import PATH, acts_of, converged, make

MAIN = "/etc/mosquitto/mosquitto.conf"
OLD = "/etc/mosquitto/conf.d/tedge-mosquitto.conf"
OURS = listener.render(model.ListenerFile(internal=model.Listener(port=1883)))
WANTED = model.ListenerFile(internal=model.Listener(port=1883))


def conf(**files: bytes) -> mosquitto_conf.BrokerConf:
    main = "include_dir /etc/tedge/mosquitto-conf\ninclude_dir /etc/mosquitto/conf.d\n"
    tree = {"/etc/tedge/mosquitto-conf/x-bridge.conf": "# empty\n", "/etc/mosquitto/conf.d/README.conf": "\n"}
    return mosquitto_conf.read_tree(MAIN, Files({MAIN: main, **tree, **files}))


@pytest.mark.parametrize(
    ("path", "data", "found"),
    [
        (OLD, OURS, (OLD,)),
        (PATH, OURS, ()),  # where it belongs
        (OLD, b"listener 1883\n", ()),  # somebody else's of the same name
        ("/etc/mosquitto/conf.d/copy.conf", OURS, ()),  # a copy is theirs who made it
        ("/etc/elsewhere/tedge-mosquitto.conf", OURS, ()),  # read by nobody
    ],
)
def test_only_an_included_file_of_ours_under_our_name_is_left_over(
    path: str, data: bytes, found: tuple[str, ...]
) -> None:
    assert leftovers.find(conf(**{path: data}), PATH) == found


def test_ours_of_before_is_in_conflict_with_ours_of_now_until_it_is_taken_out() -> None:
    both = conf(**{OLD: OURS})
    assert "listener-conflict" in {finding.code for finding in conflicts.find(both, PATH, WANTED, {})}
    alone = leftovers.without(both, leftovers.find(both, PATH))
    assert conflicts.find(alone, PATH, WANTED, {}) == ()


def test_a_move_costs_no_restart_and_goes_before_the_new_file() -> None:
    wish, seen = converged(model.TedgeSettings())
    moved = replace(seen, listener_data=None, leftovers=(OLD,))
    made = make(wish, moved)
    assert [type(op) for op in made.operations] == [operations.RemoveListenerFile, operations.WriteListenerFile]
    assert [op.path for op in made.operations if isinstance(op, operations.RemoveListenerFile)] == [OLD]
    assert acts_of(wish, moved) == []


def test_the_last_good_file_is_good_in_its_new_place() -> None:
    wish, seen = converged(model.TedgeSettings())
    assert seen.ledger.on_disk is not None
    bad = model.Finding(
        code="x", severity=model.Severity.ERROR, where="tedge.toml", message="m", blocks=model.Area.ALL
    )
    good = ledger.LastGood(path=OLD, content=OURS, serving=seen.ledger.on_disk)
    moved = replace(
        seen, listener_data=None, leftovers=(OLD,), findings=(bad,), ledger=replace(seen.ledger, last_good=good)
    )
    made = make(None, moved)
    assert made.content == OURS
    assert [op.path for op in made.operations if isinstance(op, operations.WriteListenerFile)] == [PATH]
    assert wish is not None


def test_bind_disabled_removes_the_left_over_file_too() -> None:
    _, seen = converged(model.TedgeSettings())
    wish, _ = converged(model.TedgeSettings(bind=model.BindSettings(enabled=False)))
    made = make(wish, replace(seen, listener_data=None, leftovers=(OLD,)))
    assert [type(op) for op in made.operations] == [
        operations.RemoveListenerFile,
        operations.RestartBroker,
        operations.VerifyBroker,
    ]
