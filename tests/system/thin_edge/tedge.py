"""The command `tedge`: config, init, connect, reconnect, disconnect, refresh-bridges."""

import contextlib
import pathlib
import shutil
import subprocess
import sys

from . import config

CONF_DIR = config.ETC / "mosquitto-conf"
LISTENER_FILE = CONF_DIR / "tedge-mosquitto.conf"
DIRECTORIES = (
    ".",
    "mosquitto-conf",
    "operations",
    "operations/c8y",
    "plugins",
    "sm-plugins",
    "device-certs",
    "mappers",
)


def main() -> int:
    words = sys.argv[1:]
    try:
        match words:
            case ["init"]:
                init()
            case ["config", "set" | "add", key, value]:
                return _set(key, value)
            case ["config", "unset", key] | ["config", "remove", key, _]:
                return _set(key, None)
            case ["config", "get", key]:
                return _get(key)
            case ["config", "list"]:
                table = config.load(environment=True)
                print(*(f"{key}={config.lookup(table, key)}" for key in config.KEYS), sep="\n")
            case ["connect", cloud]:
                connect(cloud)
            case ["reconnect", cloud]:
                (CONF_DIR / f"{cloud}-bridge.conf").unlink(missing_ok=True)
                connect(cloud)
            case ["disconnect", cloud]:
                (CONF_DIR / f"{cloud}-bridge.conf").unlink(missing_ok=True)
                _systemctl("try-restart", "mosquitto")
            case ["refresh-bridges"]:
                refresh_bridges()
            case ["cert", "renew", *_]:
                print("nothing to renew")
            case _:
                print(f"error: unrecognized subcommand: {words}", file=sys.stderr)
                return 2
    except config.ConfigError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def init() -> None:
    """Set the owners and modes of the directories, as each service does before it starts."""
    config.load()
    user, group = config.service_user()
    for name in DIRECTORIES:
        directory = config.ETC / name
        directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(directory, user, group)
        directory.chmod(0o775)
    with contextlib.suppress(FileNotFoundError):
        shutil.chown(config.ETC / "system.toml", user, group)


def _known(key: str) -> str | None:
    if key in config.DEPRECATED:
        print(f"The key '{key}' is deprecated. Use '{config.DEPRECATED[key]}' instead.", file=sys.stderr)
        return config.DEPRECATED[key]
    if key not in config.KEYS:
        print(f"error: Unknown tedge config key: '{key}'", file=sys.stderr)
        return None
    return key


def _set(name: str, text: str | None) -> int:
    if (key := _known(name)) is None:
        return 2
    fresh = not config.TOML.exists()
    table = config.load(migrate=False)
    try:
        config.assign(table, key, None if text is None else config.KEYS[key](text))
    except config.ConfigError as error:
        failed = f"failed to set the configuration key: '{key}' with value: {text}."
        print(f"Error: {failed}\n\nCaused by:\n    0: Failed to parse input\n    1: {error}", file=sys.stderr)
        return 1
    if fresh:
        config.assign(table, "config.version", None)  # the next process to load the file adds it
    config.store(table)
    return 0


def _get(name: str) -> int:
    if (key := _known(name)) is None:
        return 2
    value = config.lookup(config.load(environment=True), key)
    if value is None:
        print(f"The provided config key: '{key}' is not set", file=sys.stderr)
        return 1
    print(str(value).lower() if isinstance(value, bool) else value)
    return 0


def connect(cloud: str) -> None:
    """Write the broker's files, stop the broker, hand the device's key to its user, start broker and services."""
    table = config.load(environment=True)
    if config.lookup(table, "mqtt.bind.enabled") is not False:
        _write_listeners(table)
    _write_bridge(cloud)
    _systemctl("stop", "mosquitto")
    _own_device_pair(table)
    _systemctl("restart", "mosquitto")
    _systemctl("enable", "mosquitto")
    for unit in ("tedge-agent", f"tedge-mapper-{cloud}"):
        _systemctl("start", unit)
        _systemctl("enable", unit)


def refresh_bridges() -> None:
    """Write the broker's files again and restart it, even where mqtt.bind.enabled is false."""
    table = config.load(environment=True)
    _write_listeners(table)
    for bridge in CONF_DIR.glob("*-bridge.conf"):
        _write_bridge(bridge.name.removesuffix("-bridge.conf"))
        _own_device_pair(table)
    _systemctl("restart", "mosquitto")


def _write_listeners(table: config.Table) -> None:
    config.replace(LISTENER_FILE, config.render(table).encode())
    LISTENER_FILE.chmod(0o644)


def _write_bridge(cloud: str) -> None:
    bridge = CONF_DIR / f"{cloud}-bridge.conf"
    bridge.write_text("# This file is left empty as the built-in bridge is enabled")


def _own_device_pair(table: config.Table) -> None:
    built_in = config.lookup(table, "mqtt.bridge.built_in") is not False
    user, group = config.service_user() if built_in else ("mosquitto", "mosquitto")
    for key, name in (("device.cert_path", "tedge-certificate.pem"), ("device.key_path", "tedge-private-key.pem")):
        path = pathlib.Path(config.lookup(table, key) or config.ETC / "device-certs" / name)
        with contextlib.suppress(FileNotFoundError):
            shutil.chown(path, user, group)


def _systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=False)
