"""Whether the clients' port is anybody's."""

import dataclasses
import ipaddress

import pytest

from tedge_agentd.core import client_port, desired, model, mosquitto_conf
from tests.unit.broker_trees import OURS, tree

RENDERED = "listener 1883 127.0.0.1\nallow_anonymous true\n"
SITE = "listener 1884 127.0.0.1\nallow_anonymous false\npassword_file /etc/mosquitto/passwd\n"
TLS = model.ExternalSettings(
    address=ipaddress.ip_address("0.0.0.0"), cert_file="/etc/tedge/s.crt", key_file="/etc/tedge/s.key"
)


def wish(client: model.ClientSettings, **more: object) -> desired.Desired:
    settings = dataclasses.replace(model.TedgeSettings(client=client), **more)  # type: ignore[arg-type]
    return desired.derive(settings, desired.Accounts(), tedge_dir="/etc/tedge")


def conf(**files: str) -> mosquitto_conf.BrokerConf:
    return tree(tedge__tedge_mosquitto=RENDERED, **{f"conf_d__{name}": text for name, text in files.items()})


@pytest.mark.parametrize(
    ("client", "more", "files", "remedy"),
    [
        ({}, {}, {}, None),
        ({"port": 8883}, {"external": TLS}, {}, None),
        ({"port": 1884}, {}, {}, "1883"),
        ({"port": 8883}, {}, {}, "1883"),
        ({"port": 1884}, {}, {"site": SITE}, None),
        ({"port": 1885}, {}, {"site": SITE}, "1883"),
        ({"port": 1884, "host": "elsewhere"}, {}, {}, None),
        ({"port": 1884}, {"bind": model.BindSettings(enabled=False)}, {"site": SITE}, None),
        ({}, {"bind": model.BindSettings(enabled=False)}, {"site": SITE}, "1884"),
        ({}, {"bind": model.BindSettings(enabled=False)}, {}, None),
    ],
)
def test_the_clients_port_is_that_of_a_listener_of_ours_or_of_the_sites(
    client: dict[str, object], more: dict[str, object], files: dict[str, str], remedy: str | None
) -> None:
    found = client_port.find(wish(model.ClientSettings(**client), **more), conf(**files), OURS)  # type: ignore[arg-type]
    assert [finding.remedy for finding in found] == (
        [] if remedy is None else [f"tedge config set mqtt.client.port {remedy}"]
    )
    assert all(finding.blocks is None for finding in found)


def test_without_a_broker_our_own_listeners_are_known() -> None:
    assert client_port.find(wish(model.ClientSettings()), None, None) == ()
    assert client_port.find(wish(model.ClientSettings(port=1884)), None, None)
    assert client_port.find(None, None, None) == ()
