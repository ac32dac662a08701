"""What the daemon does, shown on a gateway that is booted for it: `sudo make demo`.

Walks through the levels of thin-edge's guide, a renewal and three mistakes. What has a check mark was tried just
then, with real clients; the exit status is 1 if one of them is not as told. Nothing is left behind.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from . import basetree, clients, gateway, pki, scenes, standins
from .scenes import LAN

REPOSITORY = pathlib.Path(__file__).parents[2]
CERTS = "/etc/tedge/server-certs"
SERVER, SERVER_KEY, CA = (f"{CERTS}/tedge-agentd-{name}" for name in ("server.crt", "server.key", "ca.crt"))
OWN = "/etc/tedge/client-certs/tedge-agentd-client"
EXTERNAL = "mqtt.external"
AUTH = "mqtt.client.auth"
RELEASES = {"bookworm": "Debian 12", "trixie": "Debian 13", "forky": "Debian testing"}
_MARKS = {True: "\u2713", False: "\u2717"}


class Story:
    """Tells, runs and checks. `failed` holds every statement that did not hold."""

    def __init__(self, gw: gateway.Gateway, *, colours: bool) -> None:
        self.gw = gw
        self.failed: list[str] = []
        self._colours = colours
        self._since = time.time()

    def _say(self, text: str, colour: str = "") -> None:
        print(f"\x1b[{colour}m{text}\x1b[0m" if self._colours and colour else text, flush=True)

    def chapter(self, title: str, *lines: str) -> None:
        self._say(f"\n{title}", "1")
        for line in lines:
            self._say(line)

    def run(self, command: str) -> None:
        """Type a command into the gateway."""
        self._say(f"  $ {command}", "36")
        self.gw.run(shlex.split(command))

    def edit(self, path: str, text: str, told: str) -> None:
        """Replace a file, as an editor or a configuration push does."""
        self._say(f"  $ {told}", "36")
        self.gw.write(path, text, owner=standins.USER, replace=True)

    def settle(self, state: str = "in-sync") -> None:
        """Wait until the daemon has dealt with all of it, and show what it wrote to the journal meanwhile."""
        status = scenes.settled(self.gw, seconds=20.0, state=None)
        for entry in self.gw.journal(scenes.UNIT, since=self._since):
            self._journal_entry(entry)
        self._since = time.time()
        self.check(f"tedge-agentd status: {status['state']}", status["state"] == state)

    def _journal_entry(self, entry: dict[str, str]) -> None:
        match entry.get("TEDGE_EVENT"):
            case "pass-done":
                actions = json.loads(entry["TEDGE_ACTIONS"])
                if not actions:
                    return
                took = float(entry["TEDGE_DURATION_MS"])
                for action in actions:
                    self._say(f"      {action}", "2")
                detail = entry["TEDGE_DETAIL"].partition(";")[0]  # what follows is the finding, told below
                self._say(f"      {entry['TEDGE_RESULT']} after {took:.0f} ms: {detail}", "2")
            case "finding-appeared" | "finding-cleared" if entry["TEDGE_SEVERITY"] == "info":
                return  # what passes by itself within a second
            case "finding-appeared":
                self._say(f"      {entry['TEDGE_SEVERITY']}: {entry['TEDGE_WHERE']}: {entry['TEDGE_REASON']}", "33")
                self._say(f"        to mend it: {entry['TEDGE_REMEDY']}", "33")
            case "finding-cleared":
                self._say(f"      settled: {entry['TEDGE_WHERE']} ({entry['TEDGE_CODE']})", "2")

    def check(self, statement: str, holds: bool, seen: object = "") -> None:
        self._say(f"  {_MARKS[holds]} {statement}" + ("" if holds else f" - NOT SO: {seen}"), "32" if holds else "31")
        if not holds:
            self.failed.append(statement)

    def client(
        self,
        who: str,
        expected: clients.Outcome,
        credentials: clients.Credentials = clients.ANONYMOUS,
        *,
        port: int = 8883,
    ) -> None:
        """Let a device of the network around the gateway try to log in."""
        result = clients.connect(self.gw, port, credentials, host=LAN, outside=True)
        detail = re.sub(r"\[Errno \d+\] ", "", f" ({result.detail})") if result.detail else ""
        told = f"{who} at {LAN}:{port}: {result.outcome.value}{detail}"
        self.check(told, result.outcome is expected, f"expected: {expected.value}")


def tell(story: Story, scratch: pathlib.Path) -> None:
    """The whole demonstration; `scratch` is a directory of this machine for the clients' files."""
    _opening(story)
    _first_level(story)
    trusting, child = _second_level(story, scratch), _third_level(story, scratch)
    _own_services(story)
    with clients.KeepConnected(story.gw, 8883, child, host=LAN, outside=True) as connected:
        _renewal(story, trusting, connected)
    _mistakes(story, child)


def _opening(story: Story) -> None:
    gw = story.gw
    broker = gw.run("dpkg-query -Wf ${Version} mosquitto").stdout
    version = gw.run("tedge-agentd --version").stdout.strip()
    story.chapter(
        f"A gateway: {RELEASES[gw.suite]}, Mosquitto {broker}, {version}",
        "  thin-edge.io's services and the command `tedge` are stand-ins that read and write as the real ones do.",
        f"  Its network has the address {LAN}; other devices live around it.",
    )
    story.settle()
    story.client("a device of the network", clients.Outcome.UNREACHABLE, port=1883)


def _first_level(story: Story) -> None:
    story.chapter("Level 1: a listener for the network, no authentication")
    story.run(f"tedge config set {EXTERNAL}.bind.address {LAN}")
    story.settle()
    story.client("anybody", clients.Outcome.ACCEPTED, port=1883)


def _second_level(story: Story, scratch: pathlib.Path) -> clients.Credentials:
    story.chapter(
        "Level 2: the broker proves who it is", "  Certificates first: your own PKI's, or the built-in one's."
    )
    story.run("tedge-agentd certs init")
    story.run(f"tedge-agentd certs issue server --name {LAN}")
    story.run(f"tedge config set {EXTERNAL}.cert_file {SERVER}")
    story.run(f"tedge config set {EXTERNAL}.key_file {SERVER_KEY}")
    story.run(f"tedge config set {EXTERNAL}.bind.address 0.0.0.0")
    story.settle()
    trusting = clients.Credentials(ca=_fetch(story.gw, CA, scratch / "ca.crt"))
    stranger = pki.authority("another CA").write(scratch / "stranger.crt")
    story.client("a device that trusts the CA", clients.Outcome.ACCEPTED, trusting)
    wrong = clients.Credentials(ca=stranger)
    story.client("a device that trusts another CA", clients.Outcome.UNTRUSTED, wrong)
    story.client("a device without TLS", clients.Outcome.REFUSED)
    return trusting


def _third_level(story: Story, scratch: pathlib.Path) -> clients.Credentials:
    story.chapter("Level 3: the devices prove who they are, too")
    story.run("tedge-agentd certs issue child sensor-1 --out /root/sensor-1")
    story.run(f"tedge config set {EXTERNAL}.ca_path {CA}")
    story.settle()
    ca, cert, key = (
        _fetch(story.gw, f"/root/sensor-1/{name}", scratch / name)
        for name in ("ca.crt", "sensor-1.crt", "sensor-1.key")
    )
    child = clients.Credentials(ca=ca, cert=cert, key=key)
    forged, forged_key = pki.authority("another CA").client("sensor-1").write(scratch, "forged")
    story.client("sensor-1 with its certificate", clients.Outcome.ACCEPTED, child)
    story.client("a device without a certificate", clients.Outcome.TLS_REFUSED, clients.Credentials(ca=ca))
    intruder = clients.Credentials(ca=ca, cert=forged, key=forged_key)
    story.client("a device with another CA's certificate", clients.Outcome.TLS_REFUSED, intruder)
    return child


def _own_services(story: Story) -> None:
    story.chapter("thin-edge.io's own services follow: all keys in one write, a trial login, then their restart")
    since = time.time()
    story.run("tedge-agentd certs issue tedge")
    pair = f"{AUTH}.cert_file={OWN}.crt {AUTH}.key_file={OWN}.key"
    story.run(f"tedge-agentd config set mqtt.client.port=8883 {AUTH}.ca_file={CA} {pair}")
    story.settle()
    for service in standins.DEFAULT_SERVICES:
        expected = "127.0.0.1:8883 (tls)"
        connected = _within(5.0, functools.partial(_is_connected, story.gw, service, expected, since))
        story.check(f"{service}.service is connected to {expected}", connected)


def _renewal(story: Story, trusting: clients.Credentials, connected: clients.KeepConnected) -> None:
    story.chapter(
        "A renewal: no restart, nobody is disconnected",
        "  The daemon does this by itself in time; now we ask for it.",
    )
    gw = story.gw
    before, process = clients.handshake(gw).sha256, gw.invocation("mosquitto")
    story.run("tedge-agentd certs renew server")
    story.settle()
    story.check("the new certificate is served", clients.handshake(gw).sha256 != before)
    story.client("a device that trusts the CA, without a certificate", clients.Outcome.TLS_REFUSED, trusting)
    story.check("the broker is the same process", gw.invocation("mosquitto") == process)
    lost = connected.disconnects
    story.check(f"sensor-1, connected all the time, was disconnected {lost} times", lost == 0)


def _mistakes(story: Story, child: clients.Credentials) -> None:
    gw = story.gw
    story.chapter(
        "Mistakes: the broker does not even notice",
        "  A device sends a sign of life every 20 ms through all of this.",
    )
    with clients.OutageProbe(gw, 8883, child, host=LAN, outside=True) as probe:
        story.run(f"tedge config set {EXTERNAL}.key_file {OWN}.key")
        story.settle("pending")
        story.run(f"tedge config set {EXTERNAL}.key_file {SERVER_KEY}")
        story.run(f"tedge config set {EXTERNAL}.bind.interface wlan7")
        story.settle("blocked")
        story.run(f"tedge config unset {EXTERNAL}.bind.interface")
        good = gw.read("/etc/tedge/tedge.toml")
        story.edit("/etc/tedge/tedge.toml", good + "port =\n", "echo 'port =' >> /etc/tedge/tedge.toml")
        story.settle("blocked")
        story.edit("/etc/tedge/tedge.toml", good, "sed -i '$d' /etc/tedge/tedge.toml")
        story.settle()
        lost = probe.lost_ms
        story.check(f"time without an answer from the broker: {lost:.0f} ms", lost == 0)


def _fetch(gw: gateway.Gateway, path: str, to: pathlib.Path) -> pathlib.Path:
    to.write_bytes(gw.files.read(path))
    return to


def _is_connected(gw: gateway.Gateway, service: str, where: str, since: float) -> bool:
    return standins.connected(gw, service, since=since)[-1:] == [where]


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return done


@contextlib.contextmanager
def _booted(suite: str, deb: pathlib.Path) -> Iterator[gateway.Gateway]:
    with gateway.Gateway(suite, deb=deb) as gw:
        standins.install(gw)
        gw.boot()
        standins.wait_connected(gw)
        yield gw


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.demo", description=__doc__)
    parser.add_argument("--suite", choices=RELEASES, default=basetree.SUITES[0])
    options = parser.parse_args()
    began = time.monotonic()
    try:
        deb = basetree.deb_under_test(REPOSITORY)
    except FileNotFoundError as error:
        parser.error(str(error))
    print(f"Booting a gateway with {deb.name} ...", flush=True)
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    with tempfile.TemporaryDirectory() as scratch, _booted(options.suite, deb) as gw:
        story = Story(gw, colours=colours)
        try:
            tell(story, pathlib.Path(scratch))
        except (AssertionError, OSError, RuntimeError) as error:
            story.check("the rest can be shown", False, error)
        if story.failed:
            print("".join(f"\n--- {title}\n{text}" for title, text in gw.report()), file=sys.stderr)
    print(f"\nThe gateway is gone again. All of this took {time.monotonic() - began:.0f} s.")
    for statement in story.failed:
        print(f"NOT SO: {statement}", file=sys.stderr)
    return 1 if story.failed else 0


if __name__ == "__main__":
    sys.exit(main())
