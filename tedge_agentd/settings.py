"""The daemon's own options: /etc/tedge-agentd/config.toml, owned by root, and their defaults.

They are never read from tedge.toml, which user tedge and the cloud may write.
"""

import dataclasses
import tomllib
from dataclasses import dataclass
from typing import Any

from .certs_command import DAYS, KEY_TYPES
from .core import model

PATH = "/etc/tedge-agentd/config.toml"
STATE_DIR = "/var/lib/tedge-agentd"

# Never restarted, whatever the patterns match (facts/thin-edge.md 5): ourselves, HSM signing, a renewal under way,
# an operator's remote session.
NEVER = ("tedge-agentd*", "tedge-p11-server*", "tedge-cert-renewer*", "c8y-remote-access*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times in seconds, paths absolute. Each field is one key of config.toml by the same name."""

    tedge_dir: str = "/etc/tedge"
    broker_config: str = "/etc/mosquitto/mosquitto.conf"
    broker_unit: str = "mosquitto.service"
    broker_binary: str = "/usr/sbin/mosquitto"
    broker_user: str = "mosquitto"
    broker_group: str = "mosquitto"
    staging_dir: str = "/etc/mosquitto/certs/tedge-agentd"
    managed_roots: tuple[str, ...] = ("/etc/tedge", "/etc/mosquitto")
    client_units: tuple[str, ...] = (
        "tedge-agent.service",
        "tedge-mapper-*.service",
        "c8y-firmware-plugin.service",
        "tedge-watchdog.service",
    )
    extra_client_units: tuple[str, ...] = ()
    settle_quiet: float = 0.1
    settle_max: float = 1.0
    resync: float = 300.0
    max_deferral: float = 3600.0
    job_timeout: float = 30.0
    verify_timeout: float = 5.0
    pki_authority_days: int = 3650
    pki_leaf_days: int = 365
    pki_overlap_days: int = 180
    pki_key_type: str = "ec"
    metrics_dir: str = ""  # "": none are written
    log_level: str = "info"

    @property
    def broker_dir(self) -> str:
        return self.broker_config.rpartition("/")[0]

    @property
    def tedge_toml(self) -> str:
        return f"{self.tedge_dir}/tedge.toml"

    @property
    def system_toml(self) -> str:
        return f"{self.tedge_dir}/system.toml"


_LOG_LEVELS = ("debug", "info", "warning", "error")


def parse(data: bytes | None, where: str = PATH) -> tuple[Settings, tuple[model.Finding, ...]]:
    """Return the settings of a file's contents (None: no file), and what is wrong with them.

    Anything wrong blocks everything: with other roots or units than the operator meant, root should not act.
    """
    if data is None:
        return Settings(), ()
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        return Settings(), (_finding(where, f"it is not TOML: {error}"),)
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    findings = []
    for key, value in table.items():
        if key not in fields:
            findings.append(_finding(f"{where}: {key}", f"there is no setting {key}"))
            continue
        try:
            values[key] = _typed(key, value, fields[key].default)
        except ValueError as error:
            findings.append(_finding(f"{where}: {key}", str(error)))
    return Settings(**values), tuple(findings)


def _typed(key: str, value: object, default: object) -> object:  # noqa: PLR0912  # a table
    """Return a value of the default's type, or raise ValueError with what is expected."""
    match default, value:
        case float(), int() | float() if not isinstance(value, bool) and 0 < value < 1e7:
            return float(value)
        case float(), _:
            raise ValueError(f"{key} takes a number of seconds above 0")
        case int(), int() if not isinstance(value, bool) and value in DAYS:
            return value
        case int(), _:
            raise ValueError(f"{key} takes a number of days from {DAYS[0]} to {DAYS[-1]}")
        case tuple(), list() if all(isinstance(entry, str) for entry in value):
            entries = tuple(value)
            if key == "managed_roots" and not all(_is_path(entry) and entry != "/" for entry in entries):
                raise ValueError("managed_roots takes absolute paths of directories, not / itself")
            return entries
        case tuple(), _:
            raise ValueError(f"{key} takes a list of strings")
        case str(), str() if key == "log_level" and value not in _LOG_LEVELS:
            raise ValueError(f"log_level takes one of {', '.join(_LOG_LEVELS)}")
        case str(), str() if key == "pki_key_type" and value not in KEY_TYPES:
            raise ValueError(f"pki_key_type takes one of {', '.join(KEY_TYPES)}")
        case str(default_text), str() if default_text.startswith("/") and not _is_path(value):
            raise ValueError(f"{key} takes an absolute path")
        case str(), str() if key == "metrics_dir" and value and not _is_path(value):
            raise ValueError("metrics_dir takes an absolute path, or nothing")
        case str(), str() if value or not default:
            return value
        case _:
            raise ValueError(f"{key} takes a string")


def _is_path(value: str) -> bool:
    return value.startswith("/") and ".." not in value.split("/") and value.isprintable()


def unreadable(where: str, reason: str) -> model.Finding:
    """The finding for a config.toml that cannot be read at all."""
    return _finding(where, f"it {reason}")


def _finding(where: str, message: str) -> model.Finding:
    return model.Finding(
        code="settings",
        severity=model.Severity.ERROR,
        where=where,
        message=message,
        remedy="correct it as tedge-agentd.toml(5) describes; it is read again by itself",
        blocks=model.Area.ALL,
    )
