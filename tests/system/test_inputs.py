"""Bad input of every kind: nobody notices, the operator learns key, reason and remedy, and mending mends.

What each costs those who are connected is measured in test_outage.py as well, for more inputs and both listeners.
"""

import dataclasses
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from . import clients, gateway, measured, pki, runs, scenes, standins
from .scenes import CA, CERT, CERTS, KEY

TOML = "/etc/tedge/tedge.toml"
LISTENER_FILE = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
STAGED = "/etc/mosquitto/certs/tedge-agentd/server.pem"
SITE = "/etc/mosquitto/conf.d/site.conf"
OPTIONS, SYSTEM = "/etc/tedge-agentd/config.toml", "/etc/tedge/system.toml"
KEPT = (TOML, CERT, KEY, CA, SYSTEM, OPTIONS)
AT = rf"{TOML}:\d+:\d+"
RECOVERS_S = 12.0  # 0.3 s on an idle machine; what no event tells is looked at again after 15 s only
# What is served meanwhile, put back to where it came from.
SERVED = rf"openssl pkey -in {STAGED} \| install -m 600 /dev/stdin {KEY} && sed .* \| install .* {CERT}"
Break = Callable[[gateway.Gateway, pki.Authority], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A way to break what worked, and the finding an operator is to get: `where` and `remedy` are patterns."""

    spoil: Break
    code: str
    where: str
    remedy: str
    state: str = "blocked"


def toml(old: str, new: str) -> Break:
    """Replace text of tedge.toml, in place as an editor does."""

    def spoil(gw: gateway.Gateway, _: pki.Authority) -> None:
        text = gw.read(TOML)
        assert old in text, text
        standins.write_toml(gw, text.replace(old, new, 1), replace=False)

    return spoil


def value(key: str, text: str) -> Break:
    """Set a key to a TOML value written by hand, whatever `tedge config set` would say to it."""

    def spoil(gw: gateway.Gateway, _: pki.Authority) -> None:
        table, name = f"mqtt.{key}".rsplit(".", 1)
        kept = re.sub(rf"(?ms)^(\[{re.escape(table)}\]\n(?:(?!\[).*\n)*?){name} = .*?\n", r"\1", gw.read(TOML))
        if f"[{table}]\n" not in kept:
            kept += f"[{table}]\n"
        standins.write_toml(gw, kept.replace(f"[{table}]\n", f"[{table}]\n{name} = {text}\n", 1))

    return spoil


def unset(*keys: str) -> Break:
    def spoil(gw: gateway.Gateway, _: pki.Authority) -> None:
        for key in keys:
            standins.config_unset(gw, f"mqtt.external.{key}")

    return spoil


def content(path: str, data: str | Callable[[pki.Authority], str]) -> Break:
    mode = 0o600 if path == KEY else 0o644

    def spoil(gw: gateway.Gateway, ca: pki.Authority) -> None:
        gw.write(path, data if isinstance(data, str) else data(ca), mode=mode, replace=True)

    return spoil


def shell(script: str) -> Break:
    def spoil(gw: gateway.Gateway, _: pki.Authority) -> None:
        gw.sh(script)

    return spoil


def then(*steps: Break) -> Break:
    def spoil(gw: gateway.Gateway, ca: pki.Authority) -> None:
        for step in steps:
            step(gw, ca)

    return spoil


def file(path: str, text: str) -> Break:
    return lambda gw, _: gw.write(path, text)


def wrong_order(gw: gateway.Gateway, ca: pki.Authority) -> None:
    pair = ca.intermediate().server()
    gw.write(KEY, pair.key_pem(), mode=0o600, replace=True)
    gw.write(CERT, "".join(pki.to_pem(der) for der in (*pair.chain, pair.certificate)), replace=True)


BIND, EXTERNAL = "mqtt.external.bind", "mqtt.external"
WHOLE = {
    "no TOML": Row(spoil=toml("[mqtt", "[[mqtt"), code="toml-syntax", where=AT, remedy=f"correct {TOML}"),
    "half a file": Row(
        spoil=shell(f"printf '[mqtt.external\\nport' >{TOML}"), code="toml-syntax", where=AT, remedy=TOML
    ),
    "not UTF-8": Row(spoil=shell(f"printf '# caf\\351\\n' >>{TOML}"), code="toml-syntax", where=AT, remedy=TOML),
    "a NUL": Row(spoil=shell(f"printf 'a = \\0\\n' >>{TOML}"), code="toml-syntax", where=AT, remedy=TOML),
    "a key twice": Row(
        spoil=toml("[mqtt.external]\n", f'[mqtt.external]\ncert_file = "{CERT}"\n'),
        code="toml-syntax",
        where=AT,
        remedy=TOML,
    ),
    "unreadable for thin-edge": Row(
        spoil=shell(f"chown root:root {TOML}; chmod 600 {TOML}"),
        code="tedge-toml-unreadable",
        where=TOML,
        remedy=rf"chown tedge:tedge {TOML} && chmod 0644",
    ),
    "a directory": Row(
        spoil=shell(f"rm {TOML}; mkdir {TOML}"), code="tedge-toml-unreadable", where=TOML, remedy=f"mv {TOML}"
    ),
    "a FIFO": Row(
        spoil=shell(f"rm {TOML}; mkfifo -m 666 {TOML}"),
        code="tedge-toml-unreadable",
        where=TOML,
        remedy=f"mv {TOML} {TOML}.wrong",
    ),
    "three million characters": Row(
        spoil=shell(f"head -c 3000000 /dev/zero | tr '\\0' '#' >>{TOML}"),
        code="tedge-toml-unreadable",
        where=TOML,
        remedy=f"mv {TOML} {TOML}.wrong",
    ),
    "both spellings of a key": Row(
        spoil=shell(f'printf \'[mqtt.client.auth]\\nca_file = "/a"\\ncafile = "/b"\\n\' >>{TOML}'),
        code="duplicate-key",
        where=AT,
        remedy=f"remove mqtt.client.auth.cafile or mqtt.client.auth.ca_file from {TOML}",
    ),
    "a version that is yet to come": Row(
        spoil=toml('version = "2"', 'version = "9"'), code="unknown-version", where=AT, remedy='version = "2"'
    ),
    "version 1 with a key of today beside it": Row(
        spoil=shell(f"printf '[mqtt]\\nexternal.bind.port = 1884\\nexternal_port = 8884\\n' >{TOML}"),
        code="migration-conflict",
        where=AT,
        remedy="remove mqtt.external_port or mqtt.external.bind.port",
    ),
    "half of TLS in version 1": Row(
        spoil=shell(f"printf '[mqtt]\\nport = 1884\\nexternal_certfile = \"{CERT}\"\\n' >{TOML}"),
        code="incomplete-tls",
        where="mqtt.external.key_file",
        remedy="config set mqtt.external.key_file",
    ),
    "a link to what is not tedge's to read": Row(
        spoil=shell(f"ln -sf /etc/shadow {TOML}"), code="tedge-toml-unreadable", where=TOML, remedy="move it"
    ),
}
TYPES = {
    "a port as text": Row(
        spoil=value("external.bind.port", '"8883"'),
        code="wrong-type",
        where=AT,
        remedy=rf"tedge-agentd config set {BIND}.port=8883",
    ),
    "a port too large": Row(
        spoil=value("external.bind.port", "70000"),
        code="wrong-type",
        where=AT,
        remedy=rf"config set {BIND}.port=VALUE",
    ),
    "a name as an address": Row(
        spoil=value("external.bind.address", '"gateway.local"'),
        code="wrong-type",
        where=AT,
        remedy=rf"config set {BIND}.address=VALUE",
    ),
    "a number as a path": Row(
        spoil=value("external.cert_file", "7"),
        code="wrong-type",
        where=AT,
        remedy=rf"config set {EXTERNAL}.cert_file=",
    ),
    "text as a table": Row(spoil=shell(f"echo 'mqtt = 1' >{TOML}"), code="wrong-type", where=AT, remedy=TOML),
}
VALUES = {
    "port 0": Row(
        spoil=value("external.bind.port", "0"),
        code="invalid-value",
        where=AT,
        remedy=rf"tedge config set {BIND}.port VALUE",
    ),
    "an empty path": Row(
        spoil=value("external.cert_file", '""'),
        code="invalid-value",
        where=AT,
        remedy=rf"config unset {EXTERNAL}.cert_file",
    ),
    "a relative path": Row(
        spoil=value("external.key_file", '"server.key"'),
        code="invalid-value",
        where=AT,
        remedy=f"{EXTERNAL}.key_file",
    ),
    "a path with ..": Row(
        spoil=value("external.key_file", '"/etc/tedge/../shadow"'),
        code="invalid-value",
        where=AT,
        remedy=f"tedge config set {EXTERNAL}.key_file",
    ),
    "an interface with a space": Row(
        spoil=value("external.bind.interface", '"eth0 x"'), code="invalid-value", where=AT, remedy=f"{BIND}.interface"
    ),
}
HALVES = {
    "a certificate without a key": Row(
        spoil=unset("key_file"),
        code="incomplete-tls",
        where=f"{EXTERNAL}.key_file",
        remedy=f"config set {EXTERNAL}.key_file",
    ),
    "a key without a certificate": Row(
        spoil=unset("cert_file"),
        code="incomplete-tls",
        where=f"{EXTERNAL}.cert_file",
        remedy=f"config set {EXTERNAL}.cert",
    ),
    "a client CA without either": Row(
        spoil=unset("cert_file", "key_file"),
        code="incomplete-tls",
        where=f"{EXTERNAL}.cert_file",
        remedy=f"config set {EXTERNAL}.cert_file",
    ),
}
PAIRS = {
    "no certificate file": Row(
        spoil=shell(f"rm {CERT}"),
        code="source-missing",
        where=f"{EXTERNAL}.cert_file",
        remedy=SERVED,
    ),
    "no key file": Row(
        spoil=shell(f"rm {KEY}"),
        code="source-missing",
        where=f"{EXTERNAL}.key_file",
        remedy=SERVED,
    ),
    "a garbage certificate": Row(
        spoil=content(CERT, "garbage\n"),
        code="certificate-none",
        where=f"{EXTERNAL}.cert_file",
        remedy=SERVED,
    ),
    "an empty key": Row(spoil=content(KEY, ""), code="key-invalid", where=f"{EXTERNAL}.key_file", remedy=SERVED),
    "another key": Row(
        spoil=content(KEY, lambda ca: ca.server().key_pem()),
        code="key-mismatch",
        where=f"{EXTERNAL}.cert_file",
        remedy="tedge-agentd status --wait",
        state="pending",
    ),
    "an encrypted key": Row(
        spoil=content(KEY, lambda ca: ca.server().key_pem(password="secret")),
        code="key-encrypted",
        where=f"{EXTERNAL}.key_file",
        remedy=f"openssl pkey -in {KEY} -out",
    ),
    "a certificate in DER": Row(
        spoil=lambda gw, ca: gw.write(CERT, ca.server().certificate),
        code="certificate-der",
        where=f"{EXTERNAL}.cert_file",
        remedy="openssl x509 -inform DER",
    ),
    "a chain in the wrong order": Row(
        spoil=wrong_order,
        code="chain-order",
        where=f"{EXTERNAL}.cert_file",
        remedy=f"awk .* && mv {CERT}.new {CERT}",
    ),
    "a weak certificate": Row(
        spoil=lambda gw, ca: scenes.write_pair(gw, ca.server(key="rsa1024")),
        code="certificate-weak",
        where=f"{EXTERNAL}.cert_file",
        remedy="tedge-agentd certs issue server",
    ),
    "a directory as certificate": Row(
        spoil=toml(f'"{CERT}"', f'"{CERTS}"'),
        code="source-refused",
        where=f"{EXTERNAL}.cert_file",
        remedy=f"config set {EXTERNAL}.cert_file FILE",
    ),
    "a FIFO as key": Row(
        spoil=shell(f"rm {KEY}; mkfifo {KEY}"),
        code="source-refused",
        where=f"{EXTERNAL}.key_file",
        remedy=f"ls -l {KEY}",
    ),
    "a key that the broker may not read": Row(
        spoil=then(
            shell(f"cp {KEY} /root/server.key; chown root /root/server.key"), toml(f'"{KEY}"', '"/root/server.key"')
        ),
        code="source-refused",
        where=f"{EXTERNAL}.key_file",
        remedy="move it below a managed root",
    ),
    "somebody else's secret": Row(
        spoil=toml(f'"{KEY}"', '"/etc/shadow"'),
        code="source-refused",
        where=f"{EXTERNAL}.key_file",
        remedy="move it below a managed root",
    ),
}
AUTHORITIES = {
    "no client CA": Row(
        spoil=shell(f"rm {CA}"),
        code="source-missing",
        where=f"{EXTERNAL}.ca_path",
        remedy=f"install -m 644 .* {CA}",
    ),
    "a garbage client CA": Row(
        spoil=content(CA, "garbage\n"),
        code="no-client-ca",
        where=f"{EXTERNAL}.ca_path",
        remedy=f"install -m 644 .* {CA}",
    ),
    "a directory without a client CA": Row(
        spoil=then(shell("mkdir /etc/tedge/empty"), toml(f'"{CA}"', '"/etc/tedge/empty"')),
        code="no-client-ca",
        where=f"{EXTERNAL}.ca_path",
        remedy="put the CA",
    ),
}
PLACES = {
    "an address of another machine": Row(
        spoil=value("external.bind.address", '"198.51.100.7"'),
        code="address-not-local",
        where=f"{BIND}.address",
        remedy=f"ip address .*; tedge config set {BIND}.address",
    ),
    "an interface that is not there": Row(
        spoil=value("external.bind.interface", '"wlan7"'),
        code="interface-missing",
        where=f"{BIND}.interface",
        remedy=f"ip link .*; tedge config set {BIND}.interface",
    ),
    "an address that is not the interface's": Row(
        spoil=then(value("external.bind.interface", '"eth0"'), value("external.bind.address", '"127.0.0.1"')),
        code="address-not-on-interface",
        where=f"{BIND}.address",
        remedy=f"unset {BIND}.interface",
    ),
    "a privileged port": Row(
        spoil=value("external.bind.port", "443"),
        code="privileged-port",
        where=f"{BIND}.port",
        remedy="ip_unprivileged_port",
    ),
    "the internal listener's port": Row(
        spoil=value("external.bind.port", "1883"),
        code="listener-conflict",
        where=f"{BIND}.port",
        remedy=f"config set {BIND}",
    ),
    "the port of a listener written by hand": Row(
        spoil=then(file(SITE, "# ours\nlistener 8884\nallow_anonymous false\n"), value("external.bind.port", "8884")),
        code="listener-conflict",
        where=f"{SITE}:2",
        remedy="line 2 of " + SITE,
    ),
    "the same port in a file written by hand": Row(
        spoil=file(SITE, "listener 8883 192.0.2.10\nallow_anonymous false\n"),
        code="listener-conflict",
        where=f"{SITE}:1",
        remedy="line 1 of " + SITE,
    ),
    "a port that another process has": Row(
        spoil=value("external.bind.port", "8886"), code="port-in-use", where="port 8886", remedy="ss -ltnp"
    ),
    "an internal address of another machine": Row(
        spoil=value("bind.address", '"198.51.100.7"'),
        code="address-not-local",
        where=r"mqtt\.bind\.address",
        remedy="ip address",
    ),
}
AROUND = {
    "the daemon's own options": Row(
        spoil=file(OPTIONS, "settle_quite = 1\n"),
        code="settings",
        where=f"{OPTIONS}: settle_quite",
        remedy="tedge-agentd.toml",
    ),
    "the daemon's own options, no TOML": Row(
        spoil=file(OPTIONS, "= 1\n"), code="settings", where=OPTIONS, remedy=r"tedge-agentd\.toml"
    ),
    "system.toml": Row(
        spoil=file(SYSTEM, "user = \n"), code="toml-syntax", where=rf"{SYSTEM}:1:\d+", remedy=f"correct {SYSTEM}"
    ),
    "a broker's file with a mistake in it": Row(
        spoil=then(file(SITE, "no_such_option 1\n"), value("external.bind.port", "8884")),
        code="preflight-refused",
        where=f"{SITE}:1",
        remedy="remove or correct",
    ),
}

# What could inject a line into a configuration that knows no quoting, and what a terminal would obey.
CHARACTERS = ("\\n", "\\r", "\\u0000", "\\u001b[2J", "\\u0085")
KEYS = (
    "external.key_file",
    "external.ca_path",
    "external.bind.interface",
    "client.host",
    "client.auth.ca_file",
    "client.auth.ca_dir",
    "client.auth.cert_file",
    "client.auth.key_file",
    "client.auth.username",
    "client.auth.password_file",
    "topic_root",
    "device_topic_id",
)


def _holding(key: str, characters: str) -> Row:
    return Row(
        spoil=value(key, f'"/etc/tedge/x{characters}y"' if key != "device_topic_id" else f'"device/x{characters}//"'),
        code="invalid-value",
        where=AT,
        remedy=rf"tedge config set mqtt\.{key} VALUE, or tedge config unset mqtt\.{key}",
    )


KINDS = {
    "tedge.toml as a whole": WHOLE,
    "types": TYPES,
    "values": VALUES,
    "half of TLS": HALVES,
    "certificate and key": PAIRS,
    "the client CA": AUTHORITIES,
    "where it listens": PLACES,
    "what is around it": AROUND,
    "characters": {
        **{f"cert_file with {text}": _holding("external.cert_file", text) for text in CHARACTERS},
        **{f"{key} with a new line": _holding(key, CHARACTERS[0]) for key in KEYS},
    },
}


class Witness:
    """What has to stay as it is: the broker, its clients, the listener file and the broker's copies."""

    def __init__(self, gw: gateway.Gateway, probe: clients.OutageProbe) -> None:
        self._gw, self._probe = gw, probe
        self._before = self._now()
        self._lost = probe.lost_ms

    def _now(self) -> dict[str, object]:
        names = [runs.BROKER, *(f"{name}.service" for name in standins.DEFAULT_SERVICES)]
        paths = (LISTENER_FILE, STAGED)
        files = {path: (self._gw.files.read(path), self._gw.stat(path).st_ino) for path in paths}
        return {**runs.of(self._gw, names), **files}

    def complaints(self) -> list[str]:
        now = self._now()
        lost = self._probe.lost_ms - self._lost
        changed = [f"{name} is another one" for name in now if now[name] != self._before[name]]
        return changed + ([f"{lost} ms lost"] if lost else [])


def _status(gw: gateway.Gateway) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(gw.read("/run/tedge-agentd/status.json"))
    return status


def _matching(findings: list[dict[str, str]], row: Row) -> list[dict[str, str]]:
    return [
        one
        for one in findings
        if re.fullmatch(row.code, one["code"])
        and re.fullmatch(row.where, one["where"])
        and re.search(row.remedy, one["remedy"])
    ]


def _told(gw: gateway.Gateway, row: Row, since: float) -> list[str]:
    """What is wrong with what an operator is told of a row: in status, plan and journal."""
    expected = {"blocked": 1, "pending": 2}[row.state]
    status = scenes.settled(gw, state=None)
    found = _matching(status["findings"], row)
    if status["state"] != row.state or not found:
        return [f"{status['state']}: {json.dumps(status['findings'])}"]
    wrong = []
    if [one for one in status["findings"] if one["severity"] == "error"] != found and row.state == "blocked":
        wrong.append(f"one mistake, one error: {json.dumps(status['findings'])}")
    if not all(one["message"] and one["remedy"] for one in status["findings"] if one["severity"] != "info"):
        wrong.append(f"a finding without a remedy: {json.dumps(status['findings'])}")
    text = gw.run("tedge-agentd status", check=False)
    if text.returncode != expected or found[0]["remedy"] not in text.stdout:
        wrong.append(f"status ends with {text.returncode}: {text.stdout}")
    plan = gw.run("tedge-agentd plan", check=False)
    if plan.returncode != expected or found[0]["remedy"] not in plan.stdout or found[0]["where"] not in plan.stdout:
        wrong.append(f"plan ends with {plan.returncode}: {plan.stdout}")
    match = [f"TEDGE_CODE={found[0]['code']}", "TEDGE_EVENT=finding-appeared"]
    said = [entry for entry in gw.journal(scenes.UNIT, since=since, match=match) if _same(entry, found[0])]
    if not said or found[0]["where"] not in said[0]["MESSAGE"]:
        wrong.append("the journal does not say so")
    shown = (*gw.messages(scenes.UNIT, since=since), *text.stdout.splitlines(), *plan.stdout.splitlines())
    return wrong + [f"no line to print: {line!r}" for line in shown if not line.isprintable()]


def _same(entry: dict[str, Any], finding: dict[str, str]) -> bool:
    return (entry["TEDGE_WHERE"], entry["TEDGE_REMEDY"]) == (finding["where"], finding["remedy"])


def _kept(gw: gateway.Gateway) -> dict[str, tuple[bytes, str]]:
    return {path: (gw.files.read(path), gw.access(path)) for path in KEPT if gw.exists(path)}


def _mend(gw: gateway.Gateway, kept: dict[str, tuple[bytes, str]]) -> None:
    """Put everything back as it was: what tedge.toml asks for first, so that nothing else is asked for meanwhile."""
    for path in (TOML, *KEPT[1:]):
        is_file = gw.run(["test", "-f", path, "-a", "!", "-L", path], check=False).returncode == 0
        if path not in kept or not is_file:
            gw.run(["rm", "-rf", path])
        if path in kept and not (is_file and (gw.files.read(path), gw.access(path)) == kept[path]):
            owner, mode = kept[path][1].split()
            gw.write(path, kept[path][0], owner=owner.partition(":")[0], mode=int(mode, 8), replace=True)
    gw.run(["rm", "-f", SITE])


@pytest.fixture
def level3(gw: gateway.Gateway, ca: pki.Authority) -> gateway.Gateway:
    scenes.mutual(gw, ca)
    squat = "import socket, time; s = socket.create_server(('', 8886)); time.sleep(3600)"
    gw.run(["systemd-run", "--unit=squatter", "--uid=nobody", "/usr/bin/python3", "-c", squat])
    gw.wait_until(lambda: "8886" in gw.run("ss -ltn").stdout)
    scenes.settled(gw)
    return gw


@pytest.mark.slow
def test_bad_input_is_explained_and_harms_nobody_and_mended_it_is_well(
    level3: gateway.Gateway, ca: pki.Authority
) -> None:
    gw = level3
    at_rest = scenes.settled(gw)
    kept = _kept(gw)
    wrong: dict[str, list[str]] = {}
    with clients.OutageProbe(gw) as probe:
        for kind, rows in KINDS.items():
            lost = probe.lost_ms
            for name, row in rows.items():
                witness, since = Witness(gw, probe), time.time()
                row.spoil(gw, ca)
                complaints = _told(gw, row, since)
                _mend(gw, kept)
                mended = time.monotonic()
                while _status(gw)["state"] != "in-sync" and time.monotonic() - mended < RECOVERS_S:
                    time.sleep(0.02)
                if _status(gw)["state"] != "in-sync":
                    complaints.append(f"it does not recover by itself: {json.dumps(_status(gw)['findings'])}")
                complaints += witness.complaints()
                if complaints:
                    wrong[f"{kind}: {name}"] = complaints
            measured.note(
                "inputs",
                **{"bad input": kind, "release": gw.suite, "inputs": len(rows)},
                **{"internal listener lost, ms": round(probe.lost_ms - lost, 1)},
            )
    assert wrong == {}, json.dumps(wrong, indent=1)
    counters = scenes.settled(gw)["counters"]
    for what in ("broker_restarts", "broker_reloads", "client_restarts", "rollbacks"):
        assert counters[what] == at_rest["counters"][what]


@pytest.mark.slow
def test_what_the_machine_lacks_is_taken_once_it_is_there(level3: gateway.Gateway) -> None:
    gw = level3
    gw.write(OPTIONS, "resync = 2\n")
    standins.config_set(gw, "mqtt.external.bind.port", 8886)
    assert scenes.codes(scenes.settled(gw, state="blocked")) == {"port-in-use"}
    gw.run("systemctl stop squatter")
    gw.wait_until(lambda: _status(gw)["state"] == "in-sync", timeout=30.0, what="the port to be looked at again")
    assert clients.handshake(gw, 8886)
    gw.write(OPTIONS, "")  # what no event tells is looked at more often than all the rest
    standins.config_unset(gw, "mqtt.external.bind.address")
    scenes.settled(gw)
    standins.config_set(gw, "mqtt.external.bind.interface", "eth7")
    assert scenes.codes(scenes.settled(gw, state="blocked")) == {"interface-missing"}
    assert clients.handshake(gw, 8886), "what was served last is served on"
    gw.add_interface("eth7", "203.0.113.10/24")
    gw.wait_until(lambda: _status(gw)["state"] == "in-sync", timeout=30.0, what="the interface to be looked at again")
    assert clients.handshake(gw, 8886, host="203.0.113.10")


def test_a_gateway_that_never_worked_keeps_its_internal_listener(gw: gateway.Gateway) -> None:
    with clients.OutageProbe(gw) as probe:
        gw.run(["tedge-agentd", "config", "set", f"mqtt.external.cert_file={CERT}", f"mqtt.external.key_file={KEY}"])
        assert scenes.codes(scenes.settled(gw, state="blocked")) == {"source-missing"}
        assert probe.lost_ms == 0
    gw.reboot()
    scenes.settled(gw, state="blocked")
    assert clients.connect(gw, 1883).accepted
    assert clients.connect(gw, 8883, clients.Credentials(tls=True)).outcome is clients.Outcome.UNREACHABLE


def test_a_tedge_toml_that_is_gone_or_empty_asks_for_the_defaults(level3: gateway.Gateway, ca: pki.Authority) -> None:
    """As thin-edge takes it: nothing is open to others then, and nothing is lost of what comes back."""
    gw = level3
    text = gw.read(TOML)
    for spoil in (f": >{TOML}", f"rm {TOML}"):
        gw.sh(spoil)
        assert [one["port"] for one in scenes.settled(gw)["listeners"]] == [1883]
        assert clients.connect(gw, 8883).outcome is clients.Outcome.UNREACHABLE
        assert clients.connect(gw, 1883).accepted
        standins.write_toml(gw, text)
        gw.wait_until(lambda: _status(gw)["state"] == "in-sync", timeout=30.0)
        scenes.settled(gw, state=None, seconds=20)
        assert clients.handshake(gw, 8883)
    assert gw.active("tedge-agent"), "restarted with the address of its HTTP server, often enough for systemd's limit"
