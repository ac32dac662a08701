"""Four hundred days of a secured gateway by its own clock, and clocks that were wrong: see clock.py."""

import datetime
import json
import pathlib
import shlex
import time
from typing import Any

import pytest
from cryptography import x509

from . import clients, gateway, scenes, standins
from .clock import DAY, Clock
from .conftest import MakeGateway

BUNDLE = "/etc/tedge/server-certs/tedge-agentd-ca.crt"
REGISTER = "/var/lib/tedge-agentd/pki/issued.json"
TIME_SERVER = "/run/synchronized"
CHILD = "sensor1"
CLOCK_CODES = {"certificate-not-yet-valid", "ca-not-yet-valid", "pki-clock"}
# A CA of 450 days: its rollover falls into the time, and so does the first signature of the next one.
SHORT_LIVED_CA = "pki_authority_days = 450\npki_overlap_days = 30\n"


class Site:
    """A gateway with a clock of its own, its clients, and what they have been served so far."""

    def __init__(self, gw: gateway.Gateway, config: str = "") -> None:
        self.gw = gw
        standins.install(gw)
        self.clock = Clock(gw)
        gw.write("/etc/tedge-agentd/config.toml", config)
        # Whether a time server has set the clock is what the kernel of this machine knows of this machine's.
        gw.write("/usr/bin/timedatectl", f"#!/bin/sh\ncat {TIME_SERVER} 2>/dev/null || echo no\n", mode=0o755)
        # It notices within half of this that its clock was set, packaged within 30 s.
        gw.write("/etc/systemd/system/tedge-agentd.service.d/watchdog.conf", "[Service]\nWatchdogSec=12\n")
        gw.boot()
        standins.wait_connected(gw)
        self.clock.run(["tedge-agentd", "secure", "mutual"])
        self.start = self.clock.now
        self.child = "/root/given"

    @property
    def served(self) -> x509.Certificate:
        """What the broker presents; never an expired one."""
        certificate = x509.load_der_x509_certificate(clients.handshake(self.gw, 8883).certificate)
        assert span(certificate)[1] > self.clock.now
        return certificate

    def status(self) -> dict[str, Any]:
        return scenes.settled(self.gw, seconds=20)

    def set(self, offset: float) -> None:
        """Set the clock of the running gateway.

        The broker of Debian 13 takes the step for time that has passed: who is just connecting is thrown out, as is
        who has a keepalive.
        """
        self.clock.set(offset)
        self.gw.wait_until(lambda: clients.connect(self.gw).accepted, timeout=20.0, what="the broker after the step")

    def day(self, day: int) -> None:
        """Move on; before anybody can have noticed, what is served is good, and clients that check it get in."""
        self.set(day * DAY)
        assert self.served
        self.log_in()

    def boot(self, offset: float) -> None:
        """Switch off, and on again when the clock says something else."""
        self.gw.shutdown()
        self.clock.set(offset)
        self.gw.boot()
        refused = clients.Outcome.TLS_REFUSED  # nobody is let in without a certificate
        self.gw.wait_until(lambda: clients.connect(self.gw, 8883, clients.Credentials(tls=True)).outcome is refused)

    def look(self) -> dict[str, Any]:
        """Have the daemon look now, and return what it then says."""
        self.gw.run("systemctl reload tedge-agentd", timeout=30)
        return self.status()

    def log_in(self, child: str = "", *, check: bool = True) -> bool:
        """Publish as a child device, whose files lie in a directory of the gateway; both ends check by its clock."""
        files = child or self.child
        options = f"--cafile {files}/ca.crt --cert {files}/{CHILD}.crt --key {files}/{CHILD}.key"
        words = shlex.split(f"mosquitto_pub -h 127.0.0.1 -p 8883 {options} -t te/device/{CHILD}///m/ -m 1")
        return self.clock.run(words, check=check).returncode == 0

    def credentials(self, directory: pathlib.Path) -> clients.Credentials:
        """The child device's files, for a client of this machine."""
        ca, cert, key = (directory / name for name in ("ca.crt", f"{CHILD}.crt", f"{CHILD}.key"))
        for path in (ca, cert, key):
            path.write_text(self.gw.read(f"{self.child}/{path.name}"))
        return clients.Credentials(ca=ca, cert=cert, key=key)

    def services_connected(self, since: float) -> None:
        """Wait until thin-edge's services, which check by the gateway's clock, have connected after a moment."""
        self.gw.wait_until(
            lambda: all(
                standins.connected(self.gw, one, since=since)[-1:] == ["127.0.0.1:8883 (tls)"]
                for one in standins.DEFAULT_SERVICES
            ),
            timeout=20.0,
            what="thin-edge's services on the mutual listener",
        )

    def issued(self) -> dict[str, Any]:
        """What the register says of each role."""
        return {one["role"]: one for one in json.loads(self.gw.read(REGISTER))["issued"]}


def span(certificate: x509.Certificate) -> tuple[float, float]:
    """Beginning and end, in seconds since the epoch."""
    both = (_moment(certificate, name) for name in ("not_valid_before", "not_valid_after"))
    begin, end = (moment.replace(tzinfo=datetime.UTC).timestamp() for moment in both)
    return begin, end


def _moment(certificate: x509.Certificate, name: str) -> datetime.datetime:
    found: datetime.datetime = getattr(certificate, f"{name}_utc", None) or getattr(certificate, name)
    return found


def broker_starts(gw: gateway.Gateway) -> int:
    """How often the broker was started since this boot."""
    said = gw.run("journalctl --boot --unit=mosquitto --output=cat").stdout.splitlines()
    return sum(line.startswith("Started mosquitto") for line in said)


def subjects(bundle: str) -> list[str]:
    """The subjects of a file of certificates."""
    ends = "-----END CERTIFICATE-----"
    parts = [f"{part}{ends}".encode() for part in bundle.split(ends)[:-1]]
    return [x509.load_pem_x509_certificate(part).subject.rfc4514_string() for part in parts]


@pytest.mark.slow
def test_four_hundred_days_in_which_everything_is_renewed_in_time_and_nobody_is_disconnected(
    make_gateway: MakeGateway, deb: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The clients of the crowd ask for no keepalive, see Site.set."""
    site = Site(make_gateway(deb=deb), SHORT_LIVED_CA)
    gw = site.gw
    site.clock.run(["tedge-agentd", "certs", "issue", "child", CHILD, "--out", site.child])
    child = site.credentials(tmp_path)
    first, broker = site.served, gw.unit("mosquitto")["MainPID"]
    with clients.Crowd(gw, 8883, child, count=50) as crowd:
        for day in (120, 240):
            site.day(day)
            site.look()
            assert site.served == first
        began = time.time()
        site.day(262)
        gw.wait_until(lambda: site.served != first, timeout=30.0, what="a renewal that nobody asked for")
        second = site.served
        status = site.status()
        assert span(second)[1] == site.issued()["server"]["not_after"]
        assert site.issued()["tedge"]["issued"] >= site.start + 262 * DAY
        site.services_connected(began)
        assert status["counters"]["client_restarts"] >= 2 * len(standins.DEFAULT_SERVICES)
        assert crowd.dropped == 0
    assert gw.unit("mosquitto")["MainPID"] == broker

    before = scenes.starts(gw, "mosquitto")
    site.day(324)
    assert "pki-rollover" in scenes.codes(site.look())
    assert scenes.starts(gw, "mosquitto") == before + 1, "a CA file is read at the start alone"
    old_ca, new_ca = subjects(gw.read(BUNDLE))
    assert site.served == second
    broker = gw.unit("mosquitto")["MainPID"]
    with clients.Crowd(gw, 8883, child, count=50) as crowd:
        site.day(345)
        assert "pki-child-expiring" in scenes.codes(site.look())
        last, site.child = site.child, "/root/renewed"
        site.clock.run(["tedge-agentd", "certs", "renew", "child", CHILD, "--out", site.child])
        assert site.log_in()
        assert site.log_in(last), "the device has until its certificate ends"
        site.day(368)
        assert not site.log_in(last, check=False)
        began = time.time()
        site.day(400)
        assert site.served == second
        site.look()
        third = site.served
        assert (second.issuer.rfc4514_string(), third.issuer.rfc4514_string()) == (old_ca, new_ca)
        assert site.log_in()
        site.services_connected(began)
        assert site.issued()["tedge"]["issued"] >= site.start + 400 * DAY
        assert crowd.dropped == 0
    assert gw.unit("mosquitto")["MainPID"] == broker
    assert span(first)[1] < span(second)[1] < span(third)[1]


@pytest.mark.slow
def test_a_year_switched_off_and_clocks_that_were_wrong_heal_by_themselves(
    make_gateway: MakeGateway, deb: pathlib.Path
) -> None:
    site = Site(make_gateway(deb=deb))
    gw, first = site.gw, site.served
    today = 400 * DAY

    began = time.time()
    site.boot(today)
    status = site.status()
    assert site.served != first
    assert broker_starts(gw) == 1, "it is renewed before the broker starts"
    assert (status["counters"]["broker_restarts"], status["counters"]["broker_reloads"]) == (0, 0)
    site.services_connected(began)

    right, register = site.served, gw.read(REGISTER)
    for behind in (60 - int(time.time()), -2 * 365 * DAY):  # 1970, and by two years
        site.boot(behind)
        status = site.status()
        assert {"certificate-not-yet-valid", "pki-clock"} <= scenes.codes(status)
        assert "certificate not valid yet: is the clock right?" in gw.unit("tedge-agentd")["StatusText"]
        refused = site.clock.run(["tedge-agentd", "certs", "issue", "child", CHILD, "--out", "/root/x"], check=False)
        assert refused.returncode == 1
        assert "nothing is issued by this clock" in refused.stderr
        assert clients.connect(gw, 1883).accepted
        assert site.served == right
    began = time.time()
    site.set(today)
    assert not CLOCK_CODES & scenes.codes(site.look())
    site.services_connected(began)
    assert (site.served, gw.read(REGISTER)) == (right, register)

    site.boot(today + 3 * 365 * DAY)
    assert span(site.served)[0] > site.start + today, "as good as it gets by that clock"
    gw.write(TIME_SERVER, "yes\n")
    began = time.time()
    site.clock.set(today)
    gw.wait_until(lambda: span(site.served)[0] < site.clock.now, timeout=30.0, what="a certificate that is valid")
    site.services_connected(began)
    assert not CLOCK_CODES & scenes.codes(site.status())
    for one in site.issued().values():
        assert one["not_before"] < site.clock.now < one["not_after"] < site.clock.now + 366 * DAY
