"""Every name a key of tedge.toml ever went by, and who still honours it.

Sources: facts/thin-edge.md 1.2 (aliases), 1.3 (migration), 8 (the guide's names).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .config_keys import KEYS, Key

# serde aliases: honoured in the file as well as by `tedge config`.
FILE_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "mqtt.client.auth.cafile": "mqtt.client.auth.ca_file",
        "mqtt.client.auth.cadir": "mqtt.client.auth.ca_dir",
        "mqtt.client.auth.certfile": "mqtt.client.auth.cert_file",
        "mqtt.client.auth.keyfile": "mqtt.client.auth.key_file",
    }
)

# Accepted by `tedge config`, but dropped from a file of version 2 although tedge's log only calls them deprecated.
COMMAND_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "mqtt.port": "mqtt.bind.port",
        "mqtt.external.port": "mqtt.external.bind.port",
        "mqtt.external.capath": "mqtt.external.ca_path",
        "mqtt.external.certfile": "mqtt.external.cert_file",
        "mqtt.external.keyfile": "mqtt.external.key_file",
        "http.address": "http.bind.address",
    }
)

# Moves from version 1 to 2, in tedge's order. All of them, for the file is rewritten whole.
MIGRATION: tuple[tuple[str, str], ...] = (
    ("mqtt.port", "mqtt.bind.port"),
    ("mqtt.bind_address", "mqtt.bind.address"),
    ("mqtt.client_host", "mqtt.client.host"),
    ("mqtt.client_port", "mqtt.client.port"),
    ("mqtt.client_ca_file", "mqtt.client.auth.ca_file"),
    ("mqtt.client_ca_path", "mqtt.client.auth.ca_dir"),
    ("mqtt.client_auth.cert_file", "mqtt.client.auth.cert_file"),
    ("mqtt.client_auth.key_file", "mqtt.client.auth.key_file"),
    ("mqtt.external_port", "mqtt.external.bind.port"),
    ("mqtt.external_bind_address", "mqtt.external.bind.address"),
    ("mqtt.external_bind_interface", "mqtt.external.bind.interface"),
    ("mqtt.external_capath", "mqtt.external.ca_path"),
    ("mqtt.external_certfile", "mqtt.external.cert_file"),
    ("mqtt.external_keyfile", "mqtt.external.key_file"),
    ("az.mapper_timestamp", "az.mapper.timestamp"),
    ("aws.mapper_timestamp", "aws.mapper.timestamp"),
    ("http.port", "http.bind.port"),
    ("http.bind_address", "http.bind.address"),
    ("software.default_plugin_type", "software.plugin.default"),
    ("firmware.child_update_timeout", "firmware.child.update.timeout"),
    ("c8y.smartrest_templates", "c8y.smartrest.templates"),
)
# The one move that runs on a file of version 2 too.
LATE_MIGRATION: tuple[str, str] = ("apt.dpk", "apt.dpkg")

# Written in thin-edge's guide up to 1.2, never a key of any release.
GUIDE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "mqtt.client.cafile": "mqtt.client.auth.ca_file",
        "mqtt.client.cadir": "mqtt.client.auth.ca_dir",
        "mqtt.client.certfile": "mqtt.client.auth.cert_file",
        "mqtt.client.keyfile": "mqtt.client.auth.key_file",
    }
)

_V1_NAMES = {old: new for old, new in MIGRATION if new in KEYS}
_FLAT_NAMES = {name.replace(".", "_"): name for name in KEYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A key, and a sentence for whoever used another name for it ("" under today's name)."""

    key: Key
    note: str = ""


def today(name: str) -> str | None:
    """The present name behind any name a key ever had or was documented under; None for a name without a meaning.

    Dots and underscores are one to tedge: it compares after replacing them (facts/thin-edge.md 1.2).
    """
    for table in (KEYS, FILE_ALIASES, COMMAND_ALIASES, GUIDE_NAMES, _V1_NAMES):
        if name in table:
            return name if table is KEYS else str(table[name])
    return _FLAT_NAMES.get(name.replace(".", "_"))


def resolve(name: str) -> Resolved | None:
    """The key that `config set NAME` stores; None if there is none, or it is not an operator's to set."""
    known = today(name)
    if known is None or not KEYS[known].settable:
        return None
    if known == name:
        return Resolved(key=KEYS[known])
    if name in GUIDE_NAMES:
        return Resolved(key=KEYS[known], note=f"{name} never was a key of thin-edge; stored as {known}.")
    return Resolved(key=KEYS[known], note=f"The key '{name}' is deprecated; stored as {known}.")


def similar(name: str) -> str | None:
    """The key most like a misspelt name, to be offered in a refusal."""
    names = [key.name for key in KEYS.values() if key.settable]
    for close in difflib.get_close_matches(name[:100], names, n=3, cutoff=0.75):
        # The tables before it are long and alike; it is the last part that was misspelt, or meant something else.
        last, meant = name[:100].rsplit(".", 1)[-1], close.rsplit(".", 1)[-1]
        if difflib.SequenceMatcher(None, last, meant).ratio() >= 0.6:
            return close
    return None
