"""Others who act on the broker meanwhile: a SIGHUP at any instant of a pass opens nothing and ends nothing.

logrotate reloads the broker every night, and whoever else likes to: what lies on disk just then is what it reads
(facts: a SIGHUP is not transactional, and can fail open). thin-edge's own writing is in test_writers.py.
"""

import contextlib
import pathlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from . import clients, gateway, measured, pki, scenes, standins
from .scenes import CA, CERT, KEY, LAN, UNIT

PLAIN, SERVER, MUTUAL = 9001, 9002, 9003  # a port a level, so that who gets in where is told by the port
NO_CERTIFICATE = clients.Credentials(tls=True)
PAIR = f'external.cert_file = "{CERT}"\nexternal.key_file = "{KEY}"\n'
LEVELS = {
    PLAIN: f'[mqtt]\nexternal.bind.port = {PLAIN}\nexternal.bind.address = "{LAN}"\n',
    SERVER: f"[mqtt]\nexternal.bind.port = {SERVER}\n{PAIR}",
    MUTUAL: f'[mqtt]\nexternal.bind.port = {MUTUAL}\n{PAIR}external.ca_path = "{CA}"\n',
}


@contextlib.contextmanager
def reloading(gw: gateway.Gateway) -> Iterator[None]:
    """Reload the broker all the time, as logrotate does once a night, with a pause of a few milliseconds."""
    script = "(while :; do systemctl reload mosquitto 2>/dev/null; sleep 0.02; done) & read -r line; kill $!"
    process = subprocess.Popen(gw.command(["/bin/sh", "-c", script]), stdin=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        process.communicate("\n", timeout=30)


@dataclass
class Prober:
    """Tries to get in, again and again, in a thread of its own."""

    attempt: Callable[[], bool]
    tries: int = 0
    successes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Prober":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._over.wait(0.005):
            self.successes += self.attempt()
            self.tries += 1

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()


def intruders(gw: gateway.Gateway) -> dict[str, Prober]:
    """Those who must not get in, whatever is on its way: without a certificate, or TLS, where it is asked for."""

    def try_(port: int, credentials: clients.Credentials) -> Callable[[], bool]:
        return lambda: clients.connect(gw, port, credentials, timeout=1.0).accepted

    return {
        "without a certificate, where one is asked for": Prober(try_(MUTUAL, NO_CERTIFICATE)),
        "in plaintext, where a certificate is asked for": Prober(try_(MUTUAL, clients.ANONYMOUS)),
        "in plaintext, where TLS is asked for": Prober(try_(SERVER, clients.ANONYMOUS)),
    }


@pytest.mark.slow
def test_a_reload_at_any_instant_of_a_pass_lets_nobody_in(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    scenes.write_pair(gw, ca.server(), owner="mosquitto")
    gw.write(CA, ca.pem)
    gw.write("/etc/tedge-agentd/config.toml", "settle_quiet = 0.02\n")
    child = scenes.client(ca, tmp_path)
    gets_in = {PLAIN: (clients.ANONYMOUS, LAN), SERVER: (NO_CERTIFICATE, "127.0.0.1"), MUTUAL: (child, "127.0.0.1")}
    probers = intruders(gw)
    rounds = 4
    with contextlib.ExitStack() as stack:
        for prober in probers.values():
            stack.enter_context(prober)
        stack.enter_context(reloading(gw))
        for _ in range(rounds):
            for port, text in LEVELS.items():
                standins.write_toml(gw, text)
                credentials, host = gets_in[port]
                gw.wait_until(
                    lambda: clients.connect(gw, port, credentials, host=host).accepted,  # noqa: B023  # called at once
                    timeout=40,
                    what=f"port {port}",
                )
    for name, prober in probers.items():
        measured.note(
            "reloads",
            **{"who tries to get in": name, "release": gw.suite, "passes under fire": rounds * len(LEVELS)},
            attempts=prober.tries,
            **{"let in": prober.successes},
        )
        assert prober.successes == 0, name
        assert prober.tries > 50
    status = scenes.settled(gw, seconds=30)
    assert status["counters"]["rollbacks"] == 0
    assert gw.unit(UNIT)["NRestarts"] == "0"


@pytest.mark.slow
def test_a_reload_between_the_halves_of_a_renewal_serves_the_old_or_the_new_pair(
    gw: gateway.Gateway, ca: pki.Authority, tmp_path: pathlib.Path
) -> None:
    """The broker reads one combined copy that is replaced whole: there is no half of it to be read."""
    pairs = [ca.server(), ca.server()]
    scenes.write_pair(gw, pairs[0], owner="mosquitto")
    gw.write(CA, ca.pem)
    standins.write_toml(gw, LEVELS[MUTUAL])
    scenes.settled(gw)
    child = scenes.client(ca, tmp_path)
    before = gw.invocation("mosquitto")
    prober = Prober(lambda: not clients.connect(gw, MUTUAL, child, timeout=5.0).accepted)
    with reloading(gw), prober, clients.Crowd(gw, MUTUAL, child, count=50) as crowd:
        for number in range(12):
            pair = pairs[(number + 1) % 2]
            gw.write(CERT, pair.chain_pem, owner="mosquitto")
            time.sleep(0.1)
            gw.write(KEY, pair.key_pem(), owner="mosquitto", mode=0o600)
            gw.wait_until(lambda: clients.handshake(gw, MUTUAL).sha256 == pair.sha256, timeout=20)  # noqa: B023
        dropped = crowd.dropped
    measured.note(
        "renewals",
        **{"release": gw.suite, "renewals under fire": 12, "logins": prober.tries},
        **{"logins refused": prober.successes, "of 50 connections dropped": dropped},
    )
    assert (prober.successes, dropped) == (0, 0)
    assert gw.invocation("mosquitto") == before


def test_logrotate_itself_changes_nothing(gw: gateway.Gateway, ca: pki.Authority) -> None:
    scenes.mutual(gw, ca)
    scenes.settled(gw)
    before = gw.invocation("mosquitto"), gw.read("/etc/tedge/mosquitto-conf/tedge-mosquitto.conf")
    with clients.OutageProbe(gw) as probe:
        gw.run("logrotate --force /etc/logrotate.d/mosquitto")
        scenes.settled(gw)
        assert probe.lost_ms == 0
    assert (gw.invocation("mosquitto"), gw.read("/etc/tedge/mosquitto-conf/tedge-mosquitto.conf")) == before
    assert clients.connect(gw, 8883, NO_CERTIFICATE).outcome is clients.Outcome.TLS_REFUSED
