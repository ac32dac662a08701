"""thin-edge.io on a gateway: its user, directories, units and programs, played by the scripts in thin_edge/."""

import pathlib
import tomllib
from collections.abc import Sequence
from typing import Any

from .gateway import Gateway
from .thin_edge import config

SCRIPTS = pathlib.Path(__file__).with_name("thin_edge")
LIBRARY = "/usr/lib/thin-edge-stand-in"
USER = "tedge"
ACCOUNT_ID = 987
DIRECTORIES = (
    "",
    "/mosquitto-conf",
    "/operations",
    "/operations/c8y",
    "/plugins",
    "/sm-plugins",
    "/device-certs",
    "/mappers",
)
DEFAULT_SERVICES = ("tedge-agent", "tedge-mapper-c8y")

_SERVICE = """\
[Unit]
Description={name} is a thin-edge.io component (stand-in)
After=syslog.target network.target mosquitto.service

[Service]
{user}ExecStartPre=+-/usr/bin/tedge init
ExecStart=/usr/bin/tedge-service {name}
Restart=on-failure
RestartPreventExitStatus=255
RestartSec=5
{extra}
[Install]
WantedBy=multi-user.target
"""
_RENEWER = """\
[Unit]
Description=Renew the certificate of %i (stand-in)

[Service]
Type=oneshot
ExecStart=/usr/bin/tedge cert renew %i
"""
_PROGRAM = """\
#!/bin/sh
PYTHONPATH={library} exec /usr/bin/python3 -s -c 'from thin_edge.{module} import main; {call}' "$@"
"""


def units() -> dict[str, str]:
    """Return the unit files, by name."""
    as_tedge = f"User={USER}\n"
    plain = ("tedge-agent", "tedge-mapper-c8y", "tedge-mapper-local", "c8y-firmware-plugin")
    files = {f"{name}.service": _SERVICE.format(name=name, user=as_tedge, extra="") for name in plain}
    files["tedge-mapper-c8y@.service"] = _SERVICE.format(name="tedge-mapper-c8y@%i", user=as_tedge, extra="")
    watchdog = "Type=notify\nWatchdogSec=30\n"
    files["tedge-watchdog.service"] = _SERVICE.format(name="tedge-watchdog", user="", extra=watchdog)
    files["tedge-cert-renewer@.service"] = _RENEWER
    return files


def install(gw: Gateway, *, services: Sequence[str] = DEFAULT_SERVICES, listeners: bool = True) -> None:
    """Install thin-edge, enabling `services`; they are started too if the gateway runs.

    With `listeners` the listener file is there, as tedge-mapper's package leaves it; the broker is not restarted.
    """
    _add_user(gw)
    for name in DIRECTORIES:
        gw.files.mkdir(f"/etc/tedge{name}", owner=USER, mode=0o775)
    gw.write("/etc/tedge/system.toml", 'user = "tedge"\ngroup = "tedge"\n', owner=USER)
    for script in SCRIPTS.glob("*.py"):
        gw.write(f"{LIBRARY}/thin_edge/{script.name}", script.read_bytes())
    for program, module, call in (
        ("tedge", "tedge", "raise SystemExit(main())"),
        ("tedge-service", "client", "main()"),
    ):
        gw.write(f"/usr/bin/{program}", _PROGRAM.format(library=LIBRARY, module=module, call=call), mode=0o755)
    for name, text in units().items():
        gw.write(f"/usr/lib/systemd/system/{name}", text)
    if gw.exists("/etc/mosquitto/mosquitto.conf"):
        include(gw)
    if listeners:
        gw.write("/etc/tedge/mosquitto-conf/tedge-mosquitto.conf", config.render({}))
    for service in services:
        enable(gw, service)
    if gw.running:
        gw.run("systemctl daemon-reload")
        if services:
            gw.run(["systemctl", "start", *services])


def enable(gw: Gateway, service: str) -> None:
    """Have a service started at boot, as `systemctl enable` does; works on a gateway that is off, too."""
    template = f"{service.partition('@')[0]}@" if "@" in service else service
    wants = "/etc/systemd/system/multi-user.target.wants"
    gw.files.mkdir(wants)
    gw.files.symlink(f"/lib/systemd/system/{template}.service", f"{wants}/{service}.service")


def include(gw: Gateway) -> None:
    """Include thin-edge's directory in mosquitto.conf before any other, as the package tedge does."""
    path, line = "/etc/mosquitto/mosquitto.conf", "include_dir /etc/tedge/mosquitto-conf"
    lines = gw.read(path).splitlines()
    if line not in lines:
        first = next((number for number, text in enumerate(lines) if text.startswith("include_dir ")), len(lines))
        lines.insert(first, line)
        gw.write(path, "\n".join(lines) + "\n")


def config_set(gw: Gateway, key: str, value: str | int | bool | pathlib.PurePath, *, user: str | None = None) -> None:
    """Run `tedge config set`: one key, one rewrite of tedge.toml."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    gw.run(["tedge", "config", "set", key, text], user=user)


def config_unset(gw: Gateway, key: str, *, user: str | None = None) -> None:
    gw.run(["tedge", "config", "unset", key], user=user)


def read_toml(gw: Gateway) -> dict[str, Any]:
    """Return tedge.toml parsed; empty where there is none."""
    return tomllib.loads(gw.read("/etc/tedge/tedge.toml")) if gw.exists("/etc/tedge/tedge.toml") else {}


def write_toml(gw: Gateway, text: str, *, owner: str = USER, mode: int = 0o644, replace: bool = True) -> None:
    """Write tedge.toml by hand; without `replace` in place, as an editor that truncates does."""
    gw.write("/etc/tedge/tedge.toml", text, owner=owner, mode=mode, replace=replace)


def wait_connected(gw: Gateway, services: Sequence[str] = DEFAULT_SERVICES) -> None:
    """Wait until every service has connected to the broker once: for systemd, they run before they have."""
    gw.wait_until(lambda: all(connected(gw, service) for service in services), what="thin-edge's first connections")


def connected(gw: Gateway, service: str, *, since: float | None = None) -> list[str]:
    """Return what a service's journal says about its connections, such as `127.0.0.1:8883 (tls)`."""
    marker = f"INFO {service}: connected to "
    return [text.removeprefix(marker) for text in gw.messages(service, since=since) if text.startswith(marker)]


def _add_user(gw: Gateway) -> None:
    if any(line.startswith(f"{USER}:") for line in gw.read("/etc/passwd").splitlines()):
        return
    entries = {
        "passwd": f"{USER}:x:{ACCOUNT_ID}:{ACCOUNT_ID}::/home/{USER}:/sbin/nologin",
        "group": f"{USER}:x:{ACCOUNT_ID}:",
        "shadow": f"{USER}:!:19000::::::",
        "gshadow": f"{USER}:!::",
    }
    for database, entry in entries.items():
        if gw.exists(f"/etc/{database}"):
            fields = gw.files.read(f"/etc/{database}").decode()
            found = gw.stat(f"/etc/{database}")
            owner, mode = f"{found.st_uid}:{found.st_gid}", found.st_mode & 0o7777
            gw.write(f"/etc/{database}", f"{fields}{entry}\n", owner=owner, mode=mode)
