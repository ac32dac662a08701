"""The broker-outage probe over a corpus of invalid inputs: whatever is asked for, what runs goes on without a gap.

A client pings every 20 ms over a connection on the internal listener, another over mutual TLS on the external one.
Neither may lose its connection, nor wait for an answer, and the broker stays the same process.

(A hard link of a file is not among them: what is not owned through it is read all the same if the broker could.)
"""

import os
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from . import clients, gateway, measured, pki, scenes
from .scenes import CA, CERT, KEY

CONF = "/etc/tedge/mosquitto-conf"
FILE = f"{CONF}/tedge-mosquitto.conf"
GOOD = {
    "cert_file": f'"{CERT}"',
    "key_file": f'"{KEY}"',
    "ca_path": f'"{CA}"',
    "bind.address": '"0.0.0.0"',
}


def toml(**changes: str | None) -> str:
    """tedge.toml with mutual TLS, some keys of mqtt.external put differently; None leaves one out."""
    values = GOOD | {name.replace("__", "."): value for name, value in changes.items()}
    lines = [f"external.{key} = {value}" for key, value in values.items() if value is not None]
    return "\n".join(["[mqtt]", *lines, ""])


@dataclass(frozen=True)
class Site:
    """A gateway with mutual TLS, and what breaks it."""

    gw: gateway.Gateway
    ca: pki.Authority
    good: pki.Pair

    def write(self, text: str | bytes) -> None:
        self.gw.write("/etc/tedge/tedge.toml", text, owner="tedge", replace=True)

    def restore(self) -> None:
        """Make everything valid again, which is what runs: nothing may be restarted for that either."""
        self.gw.sh(f"rm -rf {CERT} {KEY} {CA} {CONF}/x.conf /etc/mosquitto/conf.d/x.conf")
        scenes.write_pair(self.gw, self.good, owner="mosquitto")
        self.gw.write(CA, self.ca.pem)
        self.gw.write("/etc/tedge/system.toml", 'user = "tedge"\ngroup = "tedge"\n', owner="tedge")
        self.gw.write("/etc/tedge-agentd/config.toml", "")
        self.write(toml())


Break = Callable[[Site], None]


# The corpus -------------------------------------------------------------------------------------------------


def says(text: str | bytes) -> Break:
    return lambda site: site.write(text)


def external(**changes: str | None) -> Break:
    return says(toml(**changes))


BYTES: dict[str, Break] = {
    "no TOML": says("listener 1883\n"),
    "cut off": says(toml()[:60]),
    "a NUL byte": says(toml() + "# \0"),
    "a NUL byte in a value": says(toml(cert_file='"/etc/tedge/a\0b"')),
    "UTF-16": says(toml().encode("utf-16")),
    "a byte order mark": says(b"\xef\xbb\xbf" + toml().encode()),
    "not UTF-8": says(toml().encode() + b"# \xff\xfe"),
    "random bytes": says(os.urandom(4096)),
    "2 MiB": says(toml() + "#" * (2 << 20)),
    "nested too deeply": says("a = " + "[" * 2000),
    "a table of too many parts": says("[" + ".".join("a" * 3000) + "]"),
    "a number without end": says("a = " + "9" * 5000),
    "a key twice": says(toml() + "external.bind.port = 1\nexternal.bind.port = 2\n"),
    "a key under both of its names": says(toml() + "[mqtt.client.auth]\nca_file = '/a'\ncafile = '/b'\n"),
    "an unknown version": says('config.version = "9"\n' + toml()),
    "mqtt is no table": says("mqtt = 1\n"),
    "mqtt is a list": says("[[mqtt]]\nbind.port = 1\n"),
    "external is a string": says("[mqtt]\nexternal = 'x'\n"),
}
TYPES: dict[str, Break] = {
    f"{key} = {value}": external(**{key.replace(".", "__"): value})
    for key, values in {
        "bind.port": (
            '"8883"',
            "0",
            "-1",
            "65536",
            "99999",
            "1.5",
            "true",
            "[8883]",
            "{ a = 1 }",
            "2020-01-01",
            "1e3",
        ),
        "bind.address": ('""', '"localhost"', '"256.0.0.1"', '"1.2.3"', "1", '"::g"', '"0.0.0.0 "', '"127.0.0.1/8"'),
        "bind.interface": ('""', '"a b"', '"../eth0"', '"sixteen-letters0"', "1", '"eth0\\nuser root"'),
        "cert_file": (
            '""',
            '"relative"',
            "1",
            "[]",
            '"/a\\nlistener 1"',
            '"/a\\u0000"',
            '"/a "',
            '"/a\\t"',
            '"/a\\r"',
        ),
        "key_file": ('"relative"', '"/etc/tedge/../shadow"', '"/"', '"/etc"', '"/dev/zero"', '"/proc/self/mem"'),
        "ca_path": ('"relative"', '"/nowhere"', '"/dev/null"', '"/etc/shadow"', '"/a\\nallow_anonymous true"'),
    }.items()
    for value in values
}
HALVES: dict[str, Break] = {
    "no key_file": external(key_file=None),
    "no cert_file": external(cert_file=None),
    "a CA without certificate and key": external(cert_file=None, key_file=None),
    "a CA and a key": external(cert_file=None),
    "a CA and a certificate on another port": external(key_file=None, bind__port="8884"),
}
NETWORK: dict[str, Break] = {
    "an address this machine has not": external(bind__address='"203.0.113.9"'),
    "an IPv6 address this machine has not": external(bind__address='"2001:db8::9"'),
    "an interface that is not there": external(bind__interface='"wlan7"', bind__address=None),
    "an interface without an address": external(bind__interface='"bare0"', bind__address=None),
    "an address that is not the interface's": external(bind__interface='"eth0"', bind__address='"127.0.0.1"'),
    "a privileged port": external(bind__port="80"),
    "the internal listener's port": external(bind__port="1883"),
    "a port that another process has": external(bind__port="9999"),
    "a port that another file has": external(bind__port="9998"),
    "an internal address this machine has not": says(toml() + 'bind.address = "203.0.113.9"\n'),
    "an internal port that another process has": says(toml() + "bind.port = 9999\n"),
}


def on(path: str, script: str) -> Break:
    def do(site: Site) -> None:
        site.gw.sh(script.replace("{}", path))

    return do


def holding(path: str, make: Callable[[Site], bytes]) -> Break:
    return lambda site: site.gw.write(path, make(site), owner="mosquitto", mode=0o600)


PLACES = {
    "missing": "rm {}",
    "empty": ": >{}",
    "a directory": "rm {}; mkdir {}",
    "a FIFO": "rm {}; mkfifo -m 666 {}",
    "a socket": "rm {}; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"{}\")'",
    "a device": "rm {}; mknod -m 666 {} c 1 5",
    "a symlink to nowhere": "rm {}; ln -s /nowhere {}",
    "a symlink to itself": "rm {}; ln -s {} {}",
    "a symlink to /etc/shadow": "rm {}; ln -s /etc/shadow {}",
    "2 MiB": "head -c 2097152 /dev/zero >{}",
}
FILES: dict[str, Break] = {
    f"{name} is {what}": on(path, script)
    for name, path in (("the certificate", CERT), ("the key", KEY), ("the CA", CA))
    for what, script in PLACES.items()
}
FILES |= {
    "the certificate is DER": holding(CERT, lambda site: site.good.certificate),
    "the certificate is garbage": holding(
        CERT, lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    ),
    "the certificate is a key": holding(CERT, lambda site: site.good.key_pem().encode()),
    "the certificate is cut off": holding(CERT, lambda site: site.good.pem.encode()[:300]),
    "the certificate is that of another key": holding(CERT, lambda site: site.ca.server().pem.encode()),
    "the key is that of another certificate": holding(KEY, lambda site: site.ca.server().key_pem().encode()),
    "the key is garbage": holding(KEY, lambda _: os.urandom(500)),
    "the key is a certificate": holding(KEY, lambda site: site.good.pem.encode()),
    "the key is cut off": holding(KEY, lambda site: site.good.key_pem().encode()[:100]),
    "the key is encrypted": holding(KEY, lambda site: site.good.key_pem(password="secret").encode()),
    "the CA is garbage": holding(CA, lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    "the CA is a key": holding(CA, lambda site: site.good.key_pem().encode()),
}


def conf(path: str, text: str | None, **asked: str | None) -> Break:
    """Another file of the broker's configuration, and with it a change that would have to restart the broker."""

    def do(site: Site) -> None:
        if text is None:
            site.gw.sh(f"mkfifo {path}")
        else:
            site.gw.write(path, text)
        site.write(toml(**asked))

    return do


ANOTHER = {"bind__port": "8885"}
BROKER: dict[str, Break] = {
    "a word it does not know, in a file of the broker's": conf(
        "/etc/mosquitto/conf.d/x.conf", "nonsense 1\n", **ANOTHER
    ),
    "a word it does not know, in thin-edge's directory": conf(f"{CONF}/x.conf", "nonsense 1\n", **ANOTHER),
    "a second listener on the port": conf(f"{CONF}/x.conf", "listener 8885\n", **ANOTHER),
    "a second listener on the internal port": conf(f"{CONF}/x.conf", "listener 1883 127.0.0.1\n", **ANOTHER),
    "an option outside of a listener": conf(f"{CONF}/x.conf", "port 1883\n", **ANOTHER),
    "per_listener_settings too late": conf(f"{CONF}/x.conf", "per_listener_settings false\n", **ANOTHER),
    "a password file that is not there": conf(f"{CONF}/x.conf", "listener 1899\npassword_file /no\n", **ANOTHER),
    "a plugin that is not there": conf("/etc/mosquitto/conf.d/x.conf", "listener 1899\nplugin /no.so\n", **ANOTHER),
    "a NUL byte": conf(f"{CONF}/x.conf", "listener 1899\0\n", **ANOTHER),
    "a FIFO in thin-edge's directory": conf(f"{CONF}/x.conf", None, **ANOTHER),
    "the listener file is garbage": lambda site: site.gw.write(FILE, "nonsense\n"),
    "the listener file is empty": lambda site: site.gw.write(FILE, ""),
    "the listener file is gone": lambda site: site.gw.files.unlink(FILE),
    "the listener file is a symlink": on(FILE, "rm {}; ln -s /etc/shadow {}"),
    "the listener file is a FIFO": on(FILE, "rm {}; mkfifo {}"),
    "the staged pair is gone": on("/etc/mosquitto/certs/tedge-agentd/server.pem", "rm {}"),
    "system.toml is no TOML": lambda site: site.gw.write("/etc/tedge/system.toml", "user", owner="tedge"),
    "system.toml names nobody": lambda site: site.gw.write(
        "/etc/tedge/system.toml", 'user = "nobody9"', owner="tedge"
    ),
    "system.toml names root": lambda site: site.gw.write("/etc/tedge/system.toml", 'user = "root"', owner="tedge"),
    "config.toml is no TOML": lambda site: site.gw.write("/etc/tedge-agentd/config.toml", "resync"),
    "config.toml has an unknown key": lambda site: site.gw.write("/etc/tedge-agentd/config.toml", "no = 1"),
}
CORPUS = {
    "bytes of tedge.toml": BYTES,
    "values of the wrong type or kind": TYPES,
    "half-set TLS": HALVES,
    "the network": NETWORK,
    "certificate, key and CA": FILES,
    "the broker's configuration and ours": BROKER,
}


@pytest.fixture
def site(gw: gateway.Gateway, ca: pki.Authority) -> Site:
    gw.add_interface("bare0")
    gw.write("/etc/mosquitto/conf.d/other.conf", "listener 9998 127.0.0.1\n")
    listen = "import socket, time; s = socket.create_server(('', 9999)); time.sleep(9999)"
    gw.run(["systemd-run", "--unit=thief", "python3", "-c", listen])
    good = ca.server()
    site = Site(gw, ca, good)
    site.restore()
    scenes.settled(gw)
    return site


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORPUS)
def test_no_invalid_input_costs_a_connected_client_anything(site: Site, kind: str, tmp_path: pathlib.Path) -> None:
    gw = site.gw
    child = scenes.client(site.ca, tmp_path)
    before = gw.invocation("mosquitto")
    wrong = []
    with clients.OutageProbe(gw) as internal, clients.OutageProbe(gw, 8883, child) as external:
        for name, break_ in CORPUS[kind].items():
            break_(site)
            status = scenes.settled(gw, state=None)
            # What is put right again without a word is no outage either.
            if status["state"] == "in-sync" and kind != "the broker's configuration and ours":
                wrong.append(f"{name}: nothing is said")
            if gw.invocation("mosquitto") != before:
                wrong.append(f"{name}: the broker was restarted")
                before = gw.invocation("mosquitto")
            if kind not in {"bytes of tedge.toml", "values of the wrong type or kind", "half-set TLS", "the network"}:
                site.restore()
                scenes.settled(gw, state=None)
        site.restore()
        scenes.settled(gw)
        time.sleep(0.1)
        lost = internal.report(), external.report()
    measured.note(
        "outage",
        **{"invalid input": kind, "release": gw.suite, "attempts": len(CORPUS[kind])},
        **{"internal listener lost, ms": round(lost[0]["lost_ms"], 1), "external, ms": round(lost[1]["lost_ms"], 1)},
        **{"slowest answer, ms": round(max(one["slowest_ms"] for one in lost), 1)},
    )
    assert wrong == []
    assert [one["outages"] for one in lost] == [[], []]
    assert gw.invocation("mosquitto") == before
