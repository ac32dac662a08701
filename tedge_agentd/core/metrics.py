"""status.json's contents as metrics for node_exporter's textfile collector (Prometheus text format 0.0.4)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FILE = "tedge-agentd.prom"  # the collector reads *.prom
_STATES = ("in-sync", "pending", "blocked", "degraded")
_SEVERITIES = ("info", "warning", "error")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Labels = Mapping[str, object]
Sample = tuple[Labels, float]


def render(document: Mapping[str, Any]) -> str:
    """Return the metrics of a status document. Families are complete: a state that is not reads 0."""
    last, counters = document["last_pass"], document["counters"]
    findings = [finding["severity"] for finding in document["findings"]]
    lines = [
        *_family("state", "gauge", "1 for the state the daemon is in", _states(document["state"])),
        *_family("state_since_seconds", "gauge", "When that state began, as a Unix time", [({}, document["since"])]),
        *_family(
            "findings",
            "gauge",
            "Findings that stand, by severity",
            [({"severity": severity}, findings.count(severity)) for severity in _SEVERITIES],
        ),
        *_family(
            "listener_verified",
            "gauge",
            "Whether the running broker was proven to serve a listener",
            [
                (
                    {
                        "address": one["address"] or one["interface"],
                        "port": one["port"],
                        "level": one["level"],
                    },
                    int(one["verified"]),
                )
                for one in document["listeners"]
            ],
        ),
        *_family(
            "certificate_not_after_seconds",
            "gauge",
            "When a certificate ends, as a Unix time",
            _unique(
                ({"path": one["path"], "role": one["role"], "subject": one["subject"]}, one["not_after"])
                for one in document["certificates"]
            ),
        ),
        *_family("last_pass_seconds", "gauge", "When the last pass began, as a Unix time", [({}, last["started"])]),
        *_family(
            "last_pass_duration_seconds", "gauge", "How long the last pass took", [({}, last["duration_ms"] / 1000)]
        ),
    ]
    for name, told in (
        ("passes", "Passes"),
        ("broker_restarts", "Restarts of the broker"),
        ("broker_reloads", "Reloads of the broker"),
        ("client_restarts", "Restarts of thin-edge services"),
        ("rollbacks", "Changes that the broker did not take"),
    ):
        lines += _family(f"{name}_total", "counter", f"{told} since the daemon started", [({}, counters[name])])
    return "\n".join(lines) + "\n"


def _states(now: str) -> list[Sample]:
    return [({"state": state}, int(state == now)) for state in _STATES]


def _unique(samples: Iterable[Sample]) -> list[Sample]:
    """One sample a set of labels: a second one makes the collector refuse the whole file. The earliest end counts."""
    first: dict[tuple[object, ...], Sample] = {}
    for labels, value in samples:
        key = tuple(labels.values())
        if key not in first or value < first[key][1]:
            first[key] = (labels, value)
    return list(first.values())


def _family(name: str, kind: str, told: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP tedge_agentd_{name} {told}."
    yield f"# TYPE tedge_agentd_{name} {kind}"
    for labels, value in samples:
        text = ",".join(f'{key}="{str(label).translate(_ESCAPES)}"' for key, label in labels.items())
        yield f"tedge_agentd_{name}{f'{{{text}}}' if text else ''} {value!r}"
