"""Which device certificates there are besides `[device]`, and whose they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import desired, device_pairs, model
from tedge_agentd.core.device_pairs import DevicePair

WHERE = "/etc/tedge/tedge.toml"
PAIR = b'cert_path = "/etc/tedge/a.pem"\nkey_path = "/etc/tedge/a.key"\n'


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_raise_and_no_path_is_relative(data: bytes) -> None:
    one = device_pairs.of_mapper("c8y", data, "/etc/tedge/mappers/c8y")
    for pair in (*device_pairs.of_tedge_toml(data, WHERE, mappers=()), *([one] if one is not None else [])):
        assert all(path is None or path.startswith("/") for path in (pair.cert, pair.key))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[device]\n" + PAIR, ("/etc/tedge/a.pem", "/etc/tedge/a.key")),
        (b'[device]\ncert_path = "own.pem"\n', ("/etc/tedge/mappers/mine/own.pem", None)),
        (b'[device]\ncert_path = "../x/./own.pem"\n', ("/etc/tedge/mappers/x/own.pem", None)),
        (b'[device]\ncert_path = ""\nkey_path = 7\n', None),
        (b'device = "x"\n', None),
        (b'url = "example.com"\n', None),
        (b"[device\n", None),
        (b"", None),
    ],
)
def test_what_a_mapper_toml_says(text: bytes, expected: tuple[str, str | None] | None) -> None:
    found = device_pairs.of_mapper("mine", text, "/etc/tedge/mappers/mine")
    assert (None if found is None else (found.cert, found.key)) == expected


def test_a_mapper_toml_takes_the_place_of_the_table_in_tedge_toml() -> None:
    text = b"[c8y.device]\n" + PAIR + b"[c8y.profiles.second.device]\n" + PAIR + b"[other.device]\n" + PAIR

    def found(*mappers: str) -> list[str]:
        return [pair.mapper for pair in device_pairs.of_tedge_toml(text, WHERE, mappers=mappers)]

    assert found() == ["c8y", "c8y.second"]
    assert found("c8y") == ["c8y.second"]
    assert found("c8y", "c8y.second") == []
    assert device_pairs.of_tedge_toml(None, WHERE, mappers=()) == ()


@pytest.mark.parametrize(
    ("mapper", "built_in", "owner"),
    [
        ("c8y", True, "tedge"),
        ("c8y", False, "mosquitto"),
        ("c8y.second", True, "tedge"),
        ("az", False, "mosquitto"),
        ("mine", True, "tedge"),
        ("mine", False, "tedge"),
    ],
)
def test_a_pair_that_a_mapper_and_the_broker_need_is_whose_the_bridge_is(
    mapper: str, built_in: bool, owner: str
) -> None:
    pair = DevicePair(mapper=mapper, cert="/etc/tedge/m/own.pem", key="/etc/tedge/m/own.key")
    settings = model.TedgeSettings(
        external=model.ExternalSettings(cert_file=pair.cert, key_file="/etc/tedge/m//own.key"),
        bridge_built_in=built_in,
    )
    wish = desired.derive(settings, desired.Accounts(), tedge_dir="/etc/tedge", device_pairs=(pair,))
    assert {rule.owner for rule in wish.rules if "/m/" in rule.path} == {owner}
    assert wish.device_certs == {"/etc/tedge/device-certs/tedge-certificate.pem", pair.cert}


def test_half_a_pair_leaves_the_other_half_to_the_device() -> None:
    pair = DevicePair(mapper="c8y", cert="/etc/tedge/own.pem", key=None)
    settings = model.TedgeSettings(bridge_built_in=False)
    wish = desired.derive(settings, desired.Accounts(), tedge_dir="/etc/tedge", device_pairs=(pair,))
    assert [rule.path for rule in wish.rules] == [
        "/etc/tedge/device-certs/tedge-certificate.pem",
        "/etc/tedge/device-certs/tedge-private-key.pem",
        "/etc/tedge/own.pem",
    ]
    assert [rule.key for rule in wish.rules][2] == "device.cert_path (c8y)"
