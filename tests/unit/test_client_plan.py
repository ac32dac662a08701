"""What is said of clients that were just restarted."""

from tedge_agentd.core import client_plan


def test_the_same_clients_are_the_same_finding_in_whichever_order() -> None:
    # Otherwise the pass after a restart would tell the journal that one finding was settled and another appeared.
    one = client_plan.started(["tedge-mapper-c8y.service", "tedge-agent.service"])
    assert one == client_plan.started(["tedge-agent.service", "tedge-mapper-c8y.service"])
