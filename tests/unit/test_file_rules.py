"""Whose the files are that tedge.toml names, where one file has two parts or two readers."""

import pytest

from tedge_agentd.core import desired, model, plan
from tests.unit import test_plan

CERT = "/etc/tedge/device-certs/tedge-certificate.pem"
KEY = "/etc/tedge/device-certs/tedge-private-key.pem"


def rules(**settings: object) -> dict[str, model.FileRule]:
    wish = desired.derive(
        model.TedgeSettings(**settings),  # type: ignore[arg-type]
        desired.Accounts(),
        tedge_dir="/etc/tedge",
    )
    return {rule.path: rule for rule in wish.rules}


@pytest.mark.parametrize(
    ("settings", "owner"),
    [
        (
            {"external": model.ExternalSettings(cert_file="/etc/tedge/b.pem", key_file="/etc/tedge/b.pem")},
            "mosquitto",
        ),
        ({"client": model.ClientSettings(cert_file="/etc/tedge/b.pem", key_file="/etc/tedge//b.pem")}, "tedge"),
        (
            {
                "external": model.ExternalSettings(cert_file="/etc/tedge/b.pem", key_file="/etc/tedge/k.pem"),
                "client": model.ClientSettings(cert_file="/etc/tedge/c.pem", key_file="/etc/tedge/b.pem"),
            },
            "tedge",
        ),
    ],
)
def test_a_file_with_certificate_and_key_is_closed_as_a_key(settings: dict[str, object], owner: str) -> None:
    found = [rule for path, rule in rules(**settings).items() if path.endswith("b.pem")]
    assert [(rule.kind, rule.owner) for rule in found] == [(model.FileKind.KEY, owner)]
    assert found[0].key.endswith("key_file")


@pytest.mark.parametrize(
    ("built_in", "external", "client", "owner"),
    [
        (True, True, False, "tedge"),  # the mapper's; the broker has its copy
        (True, False, True, "tedge"),
        (True, True, True, "tedge"),
        (False, False, False, "mosquitto"),
        (False, True, False, "mosquitto"),
        (False, True, True, None),  # two that read it where it lies
        (False, False, True, None),
    ],
)
def test_the_device_pair_is_that_of_who_reads_it_where_it_lies(
    built_in: bool, external: bool, client: bool, owner: str | None
) -> None:
    found = rules(
        bridge_built_in=built_in,
        external=model.ExternalSettings(cert_file=CERT, key_file=KEY) if external else model.ExternalSettings(),
        client=model.ClientSettings(cert_file=CERT, key_file=KEY) if client else model.ClientSettings(),
    )
    assert {found[path].owner for path in (CERT, KEY)} == {owner}
    if owner is None:
        assert found[KEY].readers == ("mosquitto", "tedge")


def test_a_key_that_clients_share_with_the_bridge_keeps_them_running_until_both_can_read_it() -> None:
    settings = model.TedgeSettings(
        bridge_built_in=False, client=model.ClientSettings(cert_file=CERT, key_file=KEY, ca_file="/etc/tedge/ca")
    )
    wish = desired.derive(settings, desired.Accounts(), tedge_dir="/etc/tedge")

    def found(readers: set[str]) -> list[model.Finding]:
        facts = model.FileFacts(path=KEY, real=KEY, exists=True, mode=0o400, readable_by=frozenset(readers))
        seen = test_plan.machine(files={KEY: facts})
        made = plan.plan(wish, seen, staging_dir="/s", broker_unit="mosquitto.service")
        assert not [op for op in made.operations if "own" in op.describe().split()[:1]]
        return [finding for finding in made.findings if finding.code == "unreadable"]

    assert found({"mosquitto", "tedge"}) == []
    (finding,) = found({"mosquitto"})
    assert finding.blocks is model.Area.CLIENTS
    assert finding.where == "mqtt.client.auth.key_file"
    assert finding.remedy.startswith(f"setfacl -m u:tedge:r {KEY}  #")
