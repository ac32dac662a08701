"""The metrics of a status document, as the collector of node_exporter reads them."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import metrics

LINE = re.compile(r'tedge_agentd_([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+\})? (-?[0-9.e+-]+)')


def document(**more: Any) -> dict[str, Any]:
    counters = dict.fromkeys(("passes", "broker_restarts", "broker_reloads", "client_restarts", "rollbacks"), 3)
    return {
        "state": "blocked",
        "since": 1700000000.5,
        "findings": [{"severity": "error"}, {"severity": "error"}, {"severity": "info"}],
        "listeners": [{"address": "127.0.0.1", "interface": "", "port": 1883, "level": "none", "verified": True}],
        "certificates": [{"path": "/c.pem", "role": "server", "subject": "CN=gw", "not_after": 1800000000}],
        "last_pass": {"started": 1700000001.0, "duration_ms": 12.5},
        "counters": counters,
        **more,
    }


@given(
    certificates=st.lists(
        st.fixed_dictionaries(
            {
                "path": st.text(max_size=12),
                "role": st.sampled_from(["server", "client"]),
                "subject": st.text(max_size=12),
                "not_after": st.integers(-(2**40), 2**40),
            }
        ),
        max_size=6,
    )
)
def test_every_line_can_be_read_and_no_series_comes_twice(certificates: list[dict[str, Any]]) -> None:
    text = metrics.render(document(certificates=certificates))
    assert text.endswith("\n")
    series = []
    for line in text.split("\n")[:-1]:
        if not line.startswith(("# HELP tedge_agentd_", "# TYPE tedge_agentd_")):
            found = LINE.fullmatch(line)
            assert found, line
            series.append(found.group(1, 2))
    assert len(set(series)) == len(series)


@pytest.mark.parametrize(
    "line",
    [
        'tedge_agentd_state{state="blocked"} 1',
        'tedge_agentd_state{state="in-sync"} 0',
        "tedge_agentd_state_since_seconds 1700000000.5",
        'tedge_agentd_findings{severity="error"} 2',
        'tedge_agentd_findings{severity="warning"} 0',
        'tedge_agentd_listener_verified{address="127.0.0.1",port="1883",level="none"} 1',
        'tedge_agentd_certificate_not_after_seconds{path="/c.pem",role="server",subject="CN=gw"} 1800000000',
        "tedge_agentd_last_pass_duration_seconds 0.0125",
        "tedge_agentd_broker_restarts_total 3",
        "# TYPE tedge_agentd_broker_restarts_total counter",
    ],
)
def test_what_is_measured(line: str) -> None:
    assert line in metrics.render(document()).splitlines()


def test_of_two_certificates_with_one_name_the_first_to_end_counts() -> None:
    one = document()["certificates"][0]
    text = metrics.render(document(certificates=[one, {**one, "not_after": 5}, {**one, "not_after": 7}]))
    assert 'subject="CN=gw"} 5\n' in text
    assert text.count("subject=") == 1


def test_a_label_cannot_end_its_line() -> None:
    one = {**document()["certificates"][0], "subject": 'CN="x"\\\ntedge_agentd_state 1'}
    assert 'subject="CN=\\"x\\"\\\\\\ntedge_agentd_state 1"' in metrics.render(document(certificates=[one]))
