"""What is told of a pass."""

import pytest

from tedge_agentd import apply
from tedge_agentd.core import model, operations

LOGIN = operations.TryLogin(client=model.ClientSettings(), user="tedge")
VERIFY = operations.VerifyBroker(listeners=(), leaf=None)
RESTART = operations.RestartBroker(unit="mosquitto.service", reason="it had failed")


def done(operation: operations.Operation, error: str = "") -> apply.Done:
    return apply.Done(operation=operation, duration_ms=1.0, error=error)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ([], [done(VERIFY)], 1),
        ([done(LOGIN, "refused")], [done(LOGIN, "refused")], 0),
        ([done(LOGIN, "refused")], [done(LOGIN, "nobody answers")], 1),
        ([done(LOGIN, "refused")], [done(LOGIN)], 1),
        ([done(RESTART), done(VERIFY)], [done(RESTART), done(VERIFY)], 2),
        ([done(VERIFY)], [], 0),
    ],
)
def test_a_look_with_the_same_result_is_told_once_and_a_change_always(
    before: list[apply.Done], now: list[apply.Done], told: int
) -> None:
    assert len(apply.news(now, before)) == told
