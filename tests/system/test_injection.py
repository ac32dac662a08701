"""No value of tedge.toml says more to the broker than its key means: told by the broker that reads the file."""

import json
import re
import time

import pytest

from tedge_agentd.core import listener

from . import clients, conftest, gateway, pki, scenes, standins
from .scenes import CA, CERT, CERTS, KEY, UNIT

FILE = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
TLS = clients.Credentials(tls=True)
DIRECTIVES = (
    "allow_anonymous true",
    "listener 1999 0.0.0.0",
    "user root",
    "pid_file /etc/tedge/pwned",
    "log_dest file /etc/tedge/pwned",
    "require_certificate false",
)
# What a path, name or address is followed by; each is written as a TOML string, but for the raw bytes.
TAILS: dict[str, str] = {
    "newline": "\n" + "\n".join(DIRECTIVES),
    "carriage return": "\r" + DIRECTIVES[1],
    "both": "\r\n" + DIRECTIVES[1],
    "NUL": "\0" + DIRECTIVES[1],
    "tab": "\tx",
    "vertical tab and form feed": "\x0b\x0c" + DIRECTIVES[1],
    "next line": "\x85" + DIRECTIVES[1],
    "line separator": "\u2028" + DIRECTIVES[1],
    "DEL": "\x7f",
    "trailing space": " ",
    "trailing newline": "\n",
    "directive": " " + DIRECTIVES[1],
    "comment": " # " + DIRECTIVES[1],
    "quote": '" ' + DIRECTIVES[1],
    "64 KiB": "x" * (64 << 10),
    "64 KiB of lines": ("\n" + DIRECTIVES[1]) * 3000,
    "format": "%s%n{0}${HOME}$(id)`id`",
    "combining": "e\u0301\u202e\ufeff",
}
HEADS = {"leading space": " ", "leading newline": "\n" + DIRECTIVES[1] + "\n", "leading tab": "\t"}
KEYS = {
    "external.cert_file": CERT,
    "external.key_file": KEY,
    "external.ca_path": CA,
    "external.bind.address": "0.0.0.0",
    "external.bind.interface": "eth0",
    "bind.address": "127.0.0.1",
    "client.host": "127.0.0.1",
    "client.auth.ca_file": CA,
    "client.auth.ca_dir": CERTS,
    "client.auth.cert_file": CERT,
    "client.auth.key_file": KEY,
    "client.auth.username": "name",
    "client.auth.password_file": f"{CERTS}/password",
    "topic_root": "te",
    "device_topic_id": "device/main//",
}


def toml(values: dict[str, str]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["[mqtt]", *lines, ""]).replace("\x7f", "\\u007f")


def good() -> dict[str, str]:
    return {key: KEYS[key] for key in ("external.cert_file", "external.key_file", "external.ca_path", "bind.address")}


@pytest.fixture
def gw(share_gateway: conftest.ShareGateway, ca: pki.Authority) -> gateway.Gateway:
    """One gateway of the release with mutual TLS."""

    def prepare(gw: gateway.Gateway) -> None:
        scenes.write_pair(gw, ca.server())
        gw.write(CA, ca.pem)
        gw.write(f"{CERTS}/password", "secret\n")
        gw.write("/etc/tedge-agentd/config.toml", "settle_quiet = 0.05\n")

    gw = share_gateway(prepare)
    standins.write_toml(gw, toml(good()))
    gw.run("tedge-agentd apply", check=False)  # the budget of restarts is another test's
    scenes.settled(gw)
    return gw


def sockets(gw: gateway.Gateway) -> set[str]:
    """Where the broker listens."""
    lines = gw.run(["ss", "-Hltnp"]).stdout.splitlines()
    return {line.split()[3] for line in lines if '"mosquitto"' in line}


def check(gw: gateway.Gateway, name: str) -> None:
    """The broker serves what the status says and nothing else, and the file says nothing else to it."""
    status = scenes.settled(gw, state=None)
    served = {one["port"]: one["level"] for one in status["listeners"] if one["verified"]}
    ports = {int(address.rpartition(":")[2]) for address in sockets(gw)}
    assert ports == {1883, 8883}, name
    assert served == {1883: "none", 8883: "mutual"}, name
    assert clients.connect(gw, 8883, TLS).outcome is clients.Outcome.TLS_REFUSED, name
    assert not clients.connect(gw, 8883).accepted, name
    text = gw.files.read(FILE)
    said = listener.parse(text)
    assert said.file is not None, name
    assert [(one.port, one.level.value) for one in said.file.listeners] == [(1883, "none"), (8883, "mutual")], name
    words = {line.split(b" ")[0] for line in text.splitlines() if line and not line.startswith(b"#")}
    assert not words & {b"user", b"pid_file", b"plugin", b"log_dest", b"persistence_location"}, name
    assert all(re.fullmatch(rb"[^\x00-\x1f\x7f]*", line) for line in text.split(b"\n")), name
    pid = gw.unit("mosquitto.service")["MainPID"]
    assert int(gw.run(["ps", "-o", "uid=", "-p", pid]).stdout) == gw.files.account("mosquitto")[0], name
    assert not gw.exists("/etc/tedge/pwned"), name


@pytest.mark.parametrize("key", KEYS)
def test_no_value_says_more_than_its_key_means(gw: gateway.Gateway, key: str) -> None:
    before, since = gw.unit(UNIT)["NRestarts"], time.time()
    cases = {name: KEYS[key] + tail for name, tail in TAILS.items()}
    cases |= {name: head + KEYS[key] for name, head in HEADS.items()}
    for name, value in cases.items():
        standins.write_toml(gw, toml(good() | {key: value}))
        check(gw, f"{key}: {name}")
    raw = toml(good() | {key: f"{KEYS[key]}RAW"}).encode().replace(b"RAW", b"\xff\xfe\n")
    gw.write("/etc/tedge/tedge.toml", raw, owner="tedge", replace=True)
    check(gw, f"{key}: not UTF-8")
    assert gw.unit(UNIT)["NRestarts"] == before
    # The last words of a service that read half of it may be quoted: those are not ours.
    assert not [text for text in gw.messages(UNIT, since=since) if re.match("internal error|Traceback", text)]


ODD = [
    "a space",
    "a # hash",
    "a \"quote\" and 'another'",
    "back\\slash",
    "ümläut ☃",
    "-dash",
    "%i$x",
    "two  spaces",
    "~",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_served_as_what_they_are(gw: gateway.Gateway, ca: pki.Authority, name: str) -> None:
    pair = ca.server()
    directory = f"{CERTS}/odd"
    scenes.write_pair(gw, pair, cert=f"{directory}/{name}.crt", key=f"{directory}/{name}.key")
    gw.write(f"{directory}/{name}.ca", ca.pem)
    names = {"cert_file": "crt", "key_file": "key", "ca_path": "ca"}
    named = {f"external.{key}": f"{directory}/{name}.{end}" for key, end in names.items()}
    standins.write_toml(gw, toml(good() | named))
    scenes.settled(gw)
    check(gw, name)
    assert clients.handshake(gw).sha256 == pair.sha256
