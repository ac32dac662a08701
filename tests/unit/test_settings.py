"""The daemon's own options."""

import dataclasses

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd import settings
from tedge_agentd.core import model


def test_no_file_means_the_defaults() -> None:
    assert settings.parse(None) == (settings.Settings(), ())


def test_the_defaults_written_out_read_back_as_themselves() -> None:
    defaults = settings.Settings()
    table = {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(defaults).items()
    }
    assert settings.parse(tomli_w.dumps(table).encode()) == (defaults, ())


@pytest.mark.parametrize(
    "text",
    [
        "no_such_setting = 1",
        "settle_quiet = 0",
        "settle_quiet = true",
        'settle_quiet = "1"',
        'managed_roots = "/etc"',
        'managed_roots = ["/"]',
        'managed_roots = ["relative"]',
        'managed_roots = ["/etc/../root"]',
        'broker_config = "mosquitto.conf"',
        'broker_unit = ""',
        'log_level = "loud"',
        "client_units = [1]",
        "pki_leaf_days = 6",
        "pki_leaf_days = 1.5",
        "pki_leaf_days = true",
        'pki_key_type = "dsa"',
        "not toml",
    ],
)
def test_anything_wrong_blocks_everything(text: str) -> None:
    _, findings = settings.parse(text.encode())
    assert [finding.blocks for finding in findings] == [model.Area.ALL]


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    parsed, findings = settings.parse(data)
    assert parsed == settings.Settings() or not findings or any(f.blocks for f in findings)
