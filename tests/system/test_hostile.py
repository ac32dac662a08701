"""User tedge against the daemon, on a booted gateway: thousands of rounds, and nobody else's file changes.

The names of tedge.toml lead into directories of user tedge's, who swaps them for links to foreign files while root
acts on them. An operator (root) brings fresh files into the same directory all the time, so that every pass has
something to own. In-process races are in tests/host/test_walk.py; here everything is the real thing, unit and all.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shlex
import stat
import subprocess
import time
from collections.abc import Iterator

import pytest

from . import attacker, clients, conftest, gateway, measured, pki, scenes, standins
from .scenes import CA, CERT, CERTS, KEY, UNIT

SECONDS = float(os.environ.get("TEDGE_AGENTD_TEST_SECONDS", "8"))  # of each attack
SECRET = "a-secret-of-somebody-else"
HARDLINKS = pathlib.Path("/proc/sys/fs/protected_hardlinks")
ATTACKER = pathlib.Path(attacker.__file__)
# What is ours, or user tedge's own, to change.
OURS = ("/etc/tedge/", "/etc/mosquitto/certs/tedge-agentd/", "/etc/tedge-agentd/")

# An operator's copying, by descriptors: no swapped directory leads root's own hands astray.
OPERATOR = """
import os, select, sys, time
count = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    for name in ("server.crt", "server.key", "clients-ca.crt", "client.key", "password"):
        try:
            there = os.open("{certs}", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            data = open("/root/fresh/" + name, "rb").read()
            fd = os.open(".fresh", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640, dir_fd=there)
            os.write(fd, data)
            os.close(fd)
            os.rename(".fresh", name, src_dir_fd=there, dst_dir_fd=there)
            os.close(there)
            count += 1
        except OSError:
            try:
                os.unlink(".fresh", dir_fd=there)
            except OSError:
                pass
    time.sleep(0.03)
print(count)
"""


@pytest.fixture(params=["protected", "unprotected"])
def hardlinks(request: pytest.FixtureRequest) -> Iterator[str]:
    """With and without fs.protected_hardlinks, which is the whole machine's; its other guards are off already or set.

    One test at a time may change them, and what was there comes back.
    """
    knobs = [HARDLINKS, *(HARDLINKS.with_name(f"protected_{name}") for name in ("symlinks", "fifos", "regular"))]
    with pathlib.Path("/run/lock/tedge-agentd-tests-hardlinks").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = [knob.read_text() for knob in knobs]
        try:
            for knob in knobs:
                knob.write_text("1" if request.param == "protected" else "0")
            yield request.param
        finally:
            for knob, value in zip(knobs, before, strict=True):
                knob.write_text(value)


def manifest(gw: gateway.Gateway) -> dict[str, tuple[object, ...]]:
    """Owner, mode, links and contents of everything in /etc and /root that is neither ours nor user tedge's."""
    found: dict[str, tuple[object, ...]] = {}
    root = gw.path("/")
    for top in ("etc", "root"):
        for directory, subdirectories, names in os.walk(root / top):
            for name in (*subdirectories, *names):
                path = os.path.join(directory, name)
                inside = "/" + os.path.relpath(path, root)
                if f"{inside}/".startswith(OURS):
                    continue
                status = os.lstat(path)
                digest = ""
                if stat.S_ISREG(status.st_mode):
                    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
                links = status.st_nlink if stat.S_ISDIR(status.st_mode) else 1  # hard links from outside do no harm
                found[inside] = (status.st_uid, status.st_gid, oct(status.st_mode), links, digest)
    return found


@contextlib.contextmanager
def playing(gw: gateway.Gateway, command: list[str], *, user: str | None = None) -> Iterator[list[int]]:
    """Run a player; the list has the number of its rounds afterwards."""
    rounds: list[int] = []
    process = subprocess.Popen(
        gw.command(command, user=user), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield rounds
    finally:
        out, _ = process.communicate("\n", timeout=30)
        rounds.append(int(out or 0))


def set_up(gw: gateway.Gateway, ca: pki.Authority) -> pki.Pair:
    """Mutual TLS from a directory of user tedge's, and foreign files with secrets in them."""
    pair, own, foreign = ca.server(), ca.client("tedge"), ca.server()
    gw.sh(f"sed -i 's/^root:[^:]*:/root:{SECRET}:/' /etc/shadow")
    for path, text, owner, mode in (
        ("/etc/ssl/private/root.key", foreign.key_pem(), "root", 0o600),
        ("/etc/ssl/private/root.pem", foreign.pem, "root", 0o600),
        ("/etc/other/service.key", foreign.key_pem(), "daemon", 0o600),
        ("/etc/other/service.crt", foreign.pem, "daemon", 0o640),
        ("/root/notes", SECRET, "root", 0o600),
    ):
        gw.write(path, text, owner=owner, mode=mode)
    for name, text in (
        ("server.crt", pair.pem),
        ("server.key", pair.key_pem()),
        ("clients-ca.crt", ca.pem),
        ("client.key", own.key_pem()),
        ("password", "secret\n"),
    ):
        gw.write(f"/root/fresh/{name}", text, mode=0o600)
        gw.write(f"{CERTS}/{name}", text, owner="tedge", mode=0o640)
    gw.write(f"{CERTS}/client.crt", own.pem, owner="tedge")
    gw.write(f"{CERTS}/wrong.key", f"{SECRET}\n", owner="tedge", mode=0o600)
    gw.write(f"{CERTS}/wrong.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", owner="tedge")
    gw.files.mkdir(CERTS, owner="tedge", mode=0o775)
    gw.write("/root/attacker.py", ATTACKER.read_bytes())
    gw.sh("install -m 0755 /root/attacker.py /usr/local/bin/attacker")
    gw.write("/root/operator.py", OPERATOR.replace("{certs}", CERTS))
    # thin-edge's `tedge init` is root, too, and changes owners by path: it would give foreign files away by itself,
    # and did so with the daemon stopped. Whatever changes here is to be the daemon's doing.
    for name in standins.DEFAULT_SERVICES:
        gw.write(f"/etc/systemd/system/{name}.service.d/no-init.conf", "[Service]\nExecStartPre=\n")
    gw.run("systemctl daemon-reload")
    standins.write_toml(gw, good())
    return pair


@pytest.fixture
def site(gw: gateway.Gateway, ca: pki.Authority) -> pki.Pair:
    return set_up(gw, ca)


def good() -> str:
    return (
        f'[mqtt.external]\ncert_file = "{CERT}"\nkey_file = "{KEY}"\nca_path = "{CA}"\n'
        f'[mqtt.client.auth]\ncert_file = "{CERTS}/client.crt"\nkey_file = "{CERTS}/client.key"\n'
        f'username = "u"\npassword_file = "{CERTS}/password"\n'
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "directories", "settings", "configuration"])
def test_a_race_against_user_tedge_changes_nobody_elses_file(
    gw: gateway.Gateway, hardlinks: str, site: pki.Pair, kind: str
) -> None:
    scenes.settled(gw, state=None)
    before, passes = manifest(gw), scenes.settled(gw, state=None)["counters"]["passes"]
    attack = ["/usr/bin/python3", "/usr/local/bin/attacker", kind, CERTS]
    with playing(gw, attack, user="tedge") as rounds, playing(gw, attack, user="tedge") as more:
        with playing(gw, ["/usr/bin/python3", "/root/operator.py"]) as copies:
            ends = time.monotonic() + SECONDS
            while time.monotonic() < ends:
                gw.run(["systemctl", "kill", "--signal=HUP", UNIT])
                time.sleep(0.02)
    gw.sh(f"rm -rf {CERTS}.* {CERTS}/*.kept {CERTS}/*.other; test -d {CERTS} || mkdir {CERTS}")
    status = scenes.settled(gw, state=None, seconds=30)
    done = status["counters"]["passes"] - passes
    after = manifest(gw)
    changed = {path: (before.get(path), facts) for path, facts in after.items() if before.get(path) != facts}
    gone = before.keys() - after.keys()
    measured.note(
        "hostile",
        **{"what is swapped": kind, "hard links": hardlinks, "release": gw.suite},
        rounds=rounds[0] + more[0],
        **{"files brought by root": copies[0], "passes": done, "foreign files changed": len(changed.keys() | gone)},
    )
    assert (changed, gone) == ({}, set())
    assert rounds[0] + more[0] > 2000
    assert done > 5, "the daemon went on with its passes"
    assert gw.unit(UNIT)["NRestarts"] == "0"
    _tells_no_secret(gw, status)
    _recovers(gw, site)


def _tells_no_secret(gw: gateway.Gateway, status: dict[str, object]) -> None:
    key = gw.read("/etc/ssl/private/root.key").splitlines()[1]
    said = json.dumps(status) + gw.run("journalctl -u tedge-agentd --no-pager -o cat").stdout
    for text in (SECRET, key):
        assert text not in said
        # What user tedge's last round left linked there is the foreign file itself, not a copy of it.
        copies = f"find /etc/tedge /run/tedge-agentd -type f -links 1 -exec grep -lF -e {shlex.quote(text)} {{}} +"
        assert gw.run(copies, check=False).stdout.strip() in {"", f"{CERTS}/wrong.key"}


def _recovers(gw: gateway.Gateway, pair: pki.Pair) -> None:
    """Once user tedge is itself again, so is the machine."""
    for name in ("server.crt", "server.key", "clients-ca.crt", "client.key", "password"):
        gw.sh(f"rm -rf {CERTS}/{name}; cp /root/fresh/{name} {CERTS}/{name}")
    gw.files.mkdir("/etc/tedge/mosquitto-conf", owner="tedge", mode=0o775)
    gw.sh("rm -rf /etc/tedge/mosquitto-conf/*.kept /etc/tedge/mosquitto-conf/*.other")
    gw.write("/etc/tedge/system.toml", 'user = "tedge"\ngroup = "tedge"\n', owner="tedge", replace=True)
    gw.sh("rm -rf /etc/tedge/tedge.toml*")
    standins.write_toml(gw, good())
    gw.run("tedge-agentd apply", check=False)
    assert clients.handshake(gw).sha256 == pair.sha256
    assert clients.connect(gw, 1883).accepted
    assert clients.connect(gw, 8883, clients.Credentials(tls=True)).outcome is clients.Outcome.TLS_REFUSED


# One at a time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*attacker.FOREIGN, "/etc/tedge/../shadow", "/proc/1/environ"])
@pytest.mark.parametrize("key", ["external.cert_file", "external.key_file", "client.auth.key_file", "password_file"])
def test_a_foreign_file_named_by_a_key_is_neither_taken_nor_served_nor_sent(
    shared_gateway: gateway.Gateway, key: str, path: str
) -> None:
    gw = shared_gateway
    before = manifest(gw)
    text = good()
    old = {"external.cert_file": CERT, "external.key_file": KEY, "client.auth.key_file": f"{CERTS}/client.key"}
    text = text.replace(f'"{old.get(key, f"{CERTS}/password")}"', f'"{path}"')
    staged = gw.files.read("/etc/mosquitto/certs/tedge-agentd/server.pem")
    standins.write_toml(gw, text)
    status = scenes.settled(gw, state=None)
    assert manifest(gw) == before
    assert SECRET not in json.dumps(status)
    if key.startswith("external"):
        assert gw.files.read("/etc/mosquitto/certs/tedge-agentd/server.pem") == staged
        # Its own copy is the broker's: to serve that from there changes nothing.
        assert status["state"] != "in-sync" or path.endswith("tedge-agentd/server.pem")
    standins.write_toml(gw, good())


@pytest.fixture
def shared_gateway(share_gateway: conftest.ShareGateway, ca: pki.Authority) -> gateway.Gateway:
    """One gateway of the release for all cases that leave it as it was."""

    def prepare(gw: gateway.Gateway) -> None:
        set_up(gw, ca)
        scenes.settled(gw, state=None)

    return share_gateway(prepare)
