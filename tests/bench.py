"""How long things take: `sudo make bench`. Prints a table, decides nothing; no test depends on a timing.

Two gateways on this machine, on its disk, in one run, with the samples taken in turn: one with the daemon, one with
what one would write otherwise, a systemd .path unit whose shell script renders the listener file and restarts the
broker blindly. Served: a client's TLS handshake succeeds with the new state. Verified: the daemon has proved it.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.system import basetree, clients, gateway, pki, scenes, standins

REPOSITORY = pathlib.Path(__file__).parents[1]
SETTLE_MS = 100.0  # settle_quiet, by which a change is waited out
PAUSE_S = 2.3  # a .path unit that is triggered more often than five times in ten seconds gives up for good
PORTS = (8883, 8884)

_TOML = """\
[config]
version = "2"

[mqtt.external]
cert_file = "{cert}"
key_file = "{key}"

[mqtt.external.bind]
port = {port}
address = "0.0.0.0"
"""
_SCRIPT = f"""\
#!/bin/sh
port=$(sed -n 's/^port = //p' /etc/tedge/tedge.toml)
chown mosquitto:mosquitto {scenes.CERT} {scenes.KEY}
chmod 0600 {scenes.KEY}
cat >/etc/tedge/mosquitto-conf/tedge-mosquitto.conf <<EOF
per_listener_settings true
listener 1883 127.0.0.1
allow_anonymous true
listener $port 0.0.0.0
allow_anonymous true
certfile {scenes.CERT}
keyfile {scenes.KEY}
EOF
systemctl restart mosquitto
"""
_SERVICE = "[Service]\nType=oneshot\nExecStart=/usr/local/sbin/render\n"
_PATH = (
    f"[Path]\nPathChanged=/etc/tedge/tedge.toml\nPathChanged={scenes.CERT}\n[Install]\nWantedBy=multi-user.target\n"
)


@dataclass(slots=True)
class Row:
    what: str
    unit: str = "ms"
    values: list[float] = field(default_factory=list)

    def text(self) -> str:
        middle = statistics.median(self.values)
        form = "{:.0f}" if middle >= 20 or all(value == int(value) for value in self.values) else "{:.1f}"
        spread = ""
        if len(self.values) > 1:
            low, high = min(self.values), max(self.values)
            spread = f"{form.format(low)} to {form.format(high)}, n = {len(self.values)}"
        return f"| {self.what} | {form.format(middle)} {self.unit} | {spread} |"


# The two ways -----------------------------------------------------------------------------------------------


def _prepare(gw: gateway.Gateway, ca: pki.Authority) -> None:
    gw.files.mkdir(scenes.CERTS)
    scenes.write_pair(gw, ca.server())
    _write_toml(gw, PORTS[0])


def _write_toml(gw: gateway.Gateway, port: int) -> None:
    text = _TOML.format(cert=scenes.CERT, key=scenes.KEY, port=port)
    gw.write("/etc/tedge/tedge.toml", text, owner=standins.USER, replace=True)


def _with_script(gw: gateway.Gateway) -> None:
    gw.write("/usr/local/sbin/render", _SCRIPT, mode=0o755)
    gw.write("/etc/systemd/system/render.service", _SERVICE)
    gw.write("/etc/systemd/system/render.path", _PATH)
    gw.run("systemctl daemon-reload")
    gw.run("systemctl start render.service")
    gw.run("systemctl start render.path")


def _served(gw: gateway.Gateway, port: int, sha256: str, seconds: float = 20.0) -> float:
    """Return when a handshake first succeeded with this certificate, in seconds of CLOCK_MONOTONIC."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def ask() -> float:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=1) as plain:
                    with context.wrap_socket(plain) as tls:
                        served = clients.Served(tls.getpeercert(binary_form=True) or b"", "")
                if served.sha256 == sha256:
                    return time.monotonic()
            time.sleep(0.002)
        raise RuntimeError(f"port {port} does not serve the new state after {seconds:.0f} s")

    return gw.in_network(ask)


def _verified(gw: gateway.Gateway, since: float) -> float:
    """Return when the pass ended that served a change made at `since`."""

    def ended() -> float:
        status = json.loads(gw.read("/run/tedge-agentd/status.json"))
        last = status["last_pass"]
        done = any("verify" in action["action"] for action in last["actions"])
        end = float(last["started_usec"]) / 1e6 + float(last["duration_ms"]) / 1e3
        return end if done and status["state"] == "in-sync" and end > since else 0.0

    return gw.wait_until(ended, timeout=20.0)


def _refill_budget(gw: gateway.Gateway) -> None:
    """Let the daemon forget its restarts: after twelve in five minutes it would wait with the next."""
    path = "/var/lib/tedge-agentd/state.json"
    state = json.loads(gw.read(path))
    state["retries"].get("budget", {})["spent"] = []
    gw.write(path, json.dumps(state), mode=0o600, replace=True)


# Measurements -----------------------------------------------------------------------------------------------


def _listener_changes(ours: gateway.Gateway, script: gateway.Gateway, count: int) -> Iterator[Row]:
    rows = [
        Row("listener changed until served"),
        Row("listener changed until verified"),
        Row("the same, by the script"),
    ]
    leaf = {gw: clients.handshake(gw, PORTS[0]).sha256 for gw in (ours, script)}
    for number in range(count):
        port = PORTS[(number + 1) % 2]
        _refill_budget(ours)
        time.sleep(PAUSE_S / 2)
        begun = time.monotonic()
        _write_toml(ours, port)
        rows[0].values.append((_served(ours, port, leaf[ours]) - begun) * 1000 - SETTLE_MS)
        rows[1].values.append((_verified(ours, begun) - begun) * 1000 - SETTLE_MS)
        time.sleep(PAUSE_S / 2)
        begun = time.monotonic()
        _write_toml(script, port)
        rows[2].values.append((_served(script, port, leaf[script]) - begun) * 1000)
    yield from rows


def _renewals(ours: gateway.Gateway, script: gateway.Gateway, ca: pki.Authority, count: int) -> Iterator[Row]:
    rows = [
        Row("certificate renewed until served"),
        Row("certificate renewed until verified"),
        Row("the same, by the script"),
    ]
    dropped = Row("clients of 500 dropped by these renewals", ""), Row("clients of 500 dropped, by the script", "")
    port = PORTS[count % 2]
    with contextlib.ExitStack() as stack:
        crowds = []
        for gw in (ours, script):
            credentials = clients.Credentials(tls=True)
            crowds.append(stack.enter_context(clients.Crowd(gw, port, credentials, count=500)))
        for _ in range(count):
            for gw in (ours, script):
                time.sleep(PAUSE_S / 2)
                pair = ca.server()
                begun = time.monotonic()
                gw.write(scenes.KEY, pair.key_pem(), owner="mosquitto", mode=0o600, replace=True)
                gw.write(scenes.CERT, pair.chain_pem, owner="mosquitto", replace=True)
                took = (_served(gw, port, pair.sha256) - begun) * 1000
                rows[0 if gw is ours else 2].values.append(took - (SETTLE_MS if gw is ours else 0.0))
                if gw is ours:
                    rows[1].values.append((_verified(ours, begun) - begun) * 1000 - SETTLE_MS)
        for row, crowd in zip(dropped, crowds, strict=True):
            row.values.append(crowd.dropped)
    yield from (*rows, *dropped)


def _passes(gw: gateway.Gateway, count: int) -> Row:
    row = Row("pass over a converged machine")
    for _ in range(count):
        scenes.settled(gw)
        last = json.loads(gw.read("/run/tedge-agentd/status.json"))["last_pass"]
        assert not last["changed"], last
        row.values.append(float(last["duration_ms"]))
    return row


def _many_cas(gw: gateway.Gateway, ca: pki.Authority, files: int, count: int) -> Row:
    """With a client CA directory of many files; the first pass, which stages them, is not counted."""
    directory = "/etc/tedge/client-cas"
    gw.files.mkdir(directory)
    key = pki.new_key()
    for number in range(files):
        gw.write(f"{directory}/{number}.pem", ca.issue(f"CA {number}", key=key).pem)
    standins.config_set(gw, "mqtt.external.ca_path", directory)
    scenes.settled(gw, seconds=300.0)
    row = _passes(gw, count)
    row.what = f"the same with {files} files in the client CA directory"
    return row


def _starts(gw: gateway.Gateway, count: int) -> Row:
    row = Row("start until READY")
    for _ in range(count):
        gw.run(["systemctl", "restart", scenes.UNIT])
        unit = gw.unit(scenes.UNIT)
        begun, ready = int(unit["ExecMainStartTimestampMonotonic"]), int(unit["ActiveEnterTimestampMonotonic"])
        row.values.append((ready - begun) / 1000)
    return row


def _idle(gw: gateway.Gateway, seconds: float) -> Iterator[Row]:
    scenes.settled(gw)
    time.sleep(3.0)
    pid = int(gw.unit(scenes.UNIT)["MainPID"])
    before = _usage(gw, pid)
    time.sleep(seconds)
    after = _usage(gw, pid)
    minutes = seconds / 60
    yield Row("idle: CPU time a minute", "ms", [(after[0] - before[0]) / minutes])
    yield Row("idle: wake-ups a minute", "", [round((after[1] - before[1]) / minutes)])
    yield Row("resident memory", "MB", [after[2]])


def _usage(gw: gateway.Gateway, pid: int) -> tuple[float, int, float]:
    """CPU time in ms, context switches of all threads, resident MB of a process of the gateway."""
    words = gw.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    cpu = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK") * 1000
    status = [gw.read(f"/proc/{pid}/task/{task}/status") for task in gw.files.listdir(f"/proc/{pid}/task")]
    switches = sum(_number(text, "voluntary_ctxt_switches") for text in status)
    return cpu, switches, _number(status[0], "VmRSS") / 1024


def _number(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


# The run ----------------------------------------------------------------------------------------------------


def _rows(suite: str, deb: pathlib.Path, options: argparse.Namespace) -> Iterable[Row]:
    ca = pki.authority()
    with gateway.Gateway(suite, deb=deb, disk="real") as ours, gateway.Gateway(suite, disk="real") as script:
        for gw in (ours, script):
            standins.install(gw)
            gw.boot()
            standins.wait_connected(gw)
            _prepare(gw, ca)
        _with_script(script)
        scenes.settled(ours)
        yield from _listener_changes(ours, script, options.count)
        yield from _renewals(ours, script, ca, options.count)
        script.shutdown()
        yield _starts(ours, options.count)
        yield _passes(ours, 50)
        yield from _idle(ours, options.idle)
        yield _many_cas(ours, ca, options.cas, 20)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--suite", choices=basetree.SUITES, action="append", default=[])
    parser.add_argument("--count", type=int, default=20, help="samples of each kind of change")
    parser.add_argument(
        "--idle", type=float, default=120.0, metavar="SECONDS", help="how long to watch it do nothing"
    )
    parser.add_argument("--cas", type=int, default=10_000, help="files in the client CA directory")
    options = parser.parse_args()
    deb = basetree.deb_under_test(REPOSITORY)
    model = _machine()
    for suite in options.suite or basetree.SUITES:
        print(f"\n{suite}, {deb.name}; {model}; load {os.getloadavg()[0]:.1f}; {time.strftime('%Y-%m-%d')}\n")
        print("| what | median | spread |\n|---|---|---|", flush=True)
        for row in _rows(suite, deb, options):
            print(row.text(), flush=True)
    print(f"\nThe settle time of {SETTLE_MS:.0f} ms is taken off where the daemon waits it out; the script has none.")
    return 0


def _machine() -> str:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}, Linux {platform.release()}"


def _lines(path: str) -> list[str]:
    return pathlib.Path(path).read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    sys.exit(main())
