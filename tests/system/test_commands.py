"""The commands as scripts and people use them: exit statuses, JSON, refusals, and nothing that should not be said."""

import concurrent.futures
import difflib
import json
import re
from collections.abc import Mapping

import pytest

from . import gateway, pki, runs, scenes, standins
from .scenes import CA, CERT, KEY

A = "tedge-agentd"
TOML = "/etc/tedge/tedge.toml"
LISTENER_FILE = "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"
NOBODY = "nobody"
# Contract 4, with the type of each; what is beside it may grow.
SHAPES: dict[str, Mapping[str, type | tuple[type, ...]]] = {
    "": {"version": int, "state": str, "since": (int, float), "inputs": str},
    "listeners": {"address": str, "port": int, "level": str, "verified": bool},
    "files": {"path": str, "role": str, "owner": str, "group": str, "mode": str, "ok": bool},
    "certificates": {
        "path": str,
        "subject": str,
        "issuer": str,
        "sans": list,
        "not_after": int,
        "days_left": int,
    },
    "services": {"unit": str, "role": str, "state": str, "action": str, "reason": str},
    "findings": {"code": str, "severity": str, "where": str, "message": str, "remedy": str},
    "last_pass": {
        "started": (int, float),
        "duration_ms": (int, float),
        "changed": bool,
        "actions": list,
        "result": str,
    },
    "counters": {
        "passes": int,
        "broker_restarts": int,
        "broker_reloads": int,
        "client_restarts": int,
        "rollbacks": int,
    },
}
OF_A_PASS = {"last_pass", "counters"}  # which `plan` has none of, nor `since`


@pytest.fixture
def level3(gw: gateway.Gateway, ca: pki.Authority) -> gateway.Gateway:
    scenes.mutual(gw, ca)
    scenes.settled(gw)
    return gw


def code(gw: gateway.Gateway, command: str, *, user: str | None = None) -> int:
    return gw.run(f"{A} {command}", check=False, user=user).returncode


def codes(gw: gateway.Gateway, *commands: str) -> dict[str, int]:
    return {command: code(gw, command) for command in commands}


# Exit statuses ----------------------------------------------------------------------------------------------


def test_the_exit_status_tells_the_state(level3: gateway.Gateway, ca: pki.Authority) -> None:
    gw = level3
    looks = ("plan", "plan --json", "plan --diff", "status", "status --json", "status --wait 10")
    assert codes(gw, *looks, "apply", "config list", "certs list") == dict.fromkeys(
        (*looks, "apply", "config list", "certs list"), 0
    )
    # Pending: half a renewal.
    other = ca.server()
    gw.write(KEY, other.key_pem(), owner="mosquitto", mode=0o600, replace=True)
    gw.wait_until(lambda: code(gw, "status") == 2, what="the state to be pending")
    assert codes(gw, "plan", "status", "status --wait 1", "apply") == {
        "plan": 2,
        "status": 2,
        "status --wait 1": 2,
        "apply": 1,
    }
    scenes.write_pair(gw, other, owner="mosquitto")
    assert code(gw, "status --wait 10") == 0
    # Blocked.
    gw.files.unlink(KEY)
    assert code(gw, "status --wait 10") == 1
    assert codes(gw, "plan", "status", "apply") == {"plan": 1, "status": 1, "apply": 1}
    # Changes due, and nobody there to make them.
    gw.run("systemctl stop tedge-agentd")
    gw.write(KEY, other.key_pem(), owner="mosquitto", mode=0o600)
    assert code(gw, "config set mqtt.external.bind.port=8885") == 0
    looks = (*looks[:-1], "status --wait 1")
    assert codes(gw, *looks) == {look: 2 if look.startswith("plan") else 3 for look in looks}
    refused = gw.run(f"{A} status", check=False)
    assert refused.stdout == ""
    assert "systemctl start tedge-agentd" in refused.stderr
    assert codes(gw, "apply", "plan") == {"apply": 0, "plan": 0}
    # Refused.
    with_mistake = ("secure mutual", "config set mqtt.topic_root=x", "config unset mqtt.topic_root", "config list")
    standins.write_toml(gw, "[mqtt\n")
    assert codes(gw, *with_mistake, "certs issue child a/b --out /root/x", "plan", "apply") == dict.fromkeys(
        (*with_mistake, "certs issue child a/b --out /root/x", "plan", "apply"), 1
    )


def test_what_lies_on_disk_at_the_call_has_been_dealt_with_when_the_wait_ends(gw: gateway.Gateway) -> None:
    for number, user in enumerate((None, NOBODY, None, NOBODY)):
        port = 1884 + number
        standins.config_set(gw, "mqtt.external.bind.port", port)
        done = gw.run(f"{A} status --json --wait 20", user=user)
        assert [one["port"] for one in json.loads(done.stdout)["listeners"]] == [1883, port], user
    # A mistake is dealt with as well: nobody waits for it to be mended.
    standins.config_set(gw, "mqtt.external.cert_file", CERT)
    assert codes(gw, "status --wait 60") == {"status --wait 60": 1}
    assert code(gw, "status --wait 60", user=NOBODY) == 1
    standins.config_unset(gw, "mqtt.external.cert_file")
    # A daemon that is yet to start is waited for, too.
    gw.run("systemctl stop tedge-agentd")
    gw.run(["systemd-run", "sh", "-c", "sleep 1; systemctl start tedge-agentd"])
    assert code(gw, "status --wait 20") == 0


# For programs -----------------------------------------------------------------------------------------------


def test_json_has_what_programs_rely_on(level3: gateway.Gateway, ca: pki.Authority) -> None:
    gw = level3
    scenes.write_pair(gw, ca.issue("gateway", usage="server", sans=["127.0.0.1", "localhost"], ends=5 * pki.DAY))
    status = scenes.settled(gw)
    assert json.loads(gw.read("/run/tedge-agentd/status.json")) == status
    assert gw.access("/run/tedge-agentd/status.json") == "root:root 0644"
    plan = json.loads(gw.run(f"{A} plan --json").stdout)
    for document, parts in ((status, set(SHAPES)), (plan, set(SHAPES) - OF_A_PASS)):
        for part in parts:
            entries = [document] if not part else document[part]
            entries = entries if isinstance(entries, list) else [entries]
            assert entries, part
            for entry in entries:
                shape = dict(SHAPES[part])
                if document is plan:
                    shape.pop("since", None)
                assert {name: entry[name] for name in shape if not isinstance(entry[name], shape[name])} == {}, part
    assert status["version"] == plan["version"] == 1
    assert {one["level"] for one in status["listeners"]} == {"none", "mutual"}
    assert {one["severity"] for one in status["findings"]} == {"warning"}
    assert status["inputs"] == plan["inputs"]
    assert not OF_A_PASS & set(plan)
    assert json.loads(gw.run(f"{A} certs list --json").stdout)["version"] == 1


def test_a_plan_shows_what_apply_then_does(level3: gateway.Gateway) -> None:
    gw = level3
    gw.run("systemctl stop tedge-agentd")
    before = gw.read(LISTENER_FILE)
    runs_before, files_before = runs.broker(gw), runs.files(gw, "/etc/mosquitto", "/var/lib/tedge-agentd")
    gw.run([A, "config", "set", "mqtt.external.bind.port=8885", "mqtt.client.auth.username=x"])
    listing = runs.files(gw, "/etc/tedge")
    text = gw.run(f"{A} plan --diff", check=False).stdout
    plan = json.loads(gw.run(f"{A} plan --json", check=False).stdout)
    assert runs.broker(gw) == runs_before
    assert runs.files(gw, "/etc/mosquitto", "/var/lib/tedge-agentd") == files_before
    assert runs.files(gw, "/etc/tedge") == listing
    assert plan["state"] == "pending"
    assert "state: pending" in text
    assert {one["verified"] for one in plan["listeners"]} == {False}, "nobody has looked"
    done = gw.run(f"{A} apply").stdout
    after = gw.read(LISTENER_FILE)
    names = (LISTENER_FILE, f"{LISTENER_FILE} (planned)")
    diff = "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names))
    assert "+listener 8885" in diff
    assert plan["diff"] == diff
    assert text.endswith(diff)
    assert [f"would {one}" for one in plan["operations"]] == re.findall(r"^would .*$", text, re.MULTILINE)
    assert [line for line in done.splitlines() if line in plan["operations"]] == plan["operations"]
    again = gw.run(f"{A} plan --diff").stdout
    assert "nothing to do\nstate: in-sync" in again
    assert "---" not in again


# Who may what -----------------------------------------------------------------------------------------------


def test_everybody_may_look_and_only_root_may_do(level3: gateway.Gateway) -> None:
    gw = level3
    for command in ("status", "status --json", "config list", "config get mqtt.external.bind.address"):
        assert gw.run(f"{A} {command}", user=NOBODY).stdout == gw.run(f"{A} {command}").stdout, command
    before = runs.files(gw), gw.invocation("tedge-agentd")
    for command in (
        *("run", "plan", "plan --json", "apply", "secure none"),
        *("config set mqtt.topic_root=x", "config unset mqtt.external.cert_file"),
        *("certs init", "certs list", "certs renew", "certs issue server", "certs issue child x --out /tmp/x"),
    ):
        for user in (NOBODY, "tedge"):
            done = gw.run(f"{A} {command}", user=user, check=False)
            assert done.returncode == 1, command
            assert done.stdout == ""
            assert "has to be run as root" in done.stderr
            assert f"remedy: sudo tedge-agentd {command}\n" in done.stderr
    assert (runs.files(gw), gw.invocation("tedge-agentd")) == before


# tedge.toml -------------------------------------------------------------------------------------------------


def test_config_writes_what_it_is_told_and_keeps_the_rest(gw: gateway.Gateway) -> None:
    rest = '[c8y]\nurl = "example.com"\n[c8y.proxy.bind]\nport = 8001\n[[unheard-of]]\nlist = [1, 2.5, "x"]\n'
    gw.write(TOML, f'# a comment\n[config]\nversion = "2"\n{rest}', owner="tedge", mode=0o640)
    gw.run(["chgrp", "adm", TOML])
    others = standins.read_toml(gw)
    before = gw.stat(TOML).st_ino
    gw.run([A, "config", "set", "mqtt.external.bind.port=8884", "mqtt.client.cafile=/etc/ca", "mqtt.topic_root=x"])
    assert gw.stat(TOML).st_ino != before
    assert gw.access(TOML) == "tedge:adm 0640"
    now = standins.read_toml(gw)
    assert now.pop("mqtt") == {
        "external": {"bind": {"port": 8884}},
        "client": {"auth": {"ca_file": "/etc/ca"}},
        "topic_root": "x",
    }
    assert now == others
    assert "#" not in gw.read(TOML)  # as after `tedge config set`, tedge-agentd(8)
    guides = {
        "mqtt.client.cafile": "/etc/a",
        "mqtt.client.cadir": "/etc/d",
        "mqtt.external.certfile": "/etc/c",
        "mqtt.external.keyfile": "/etc/k",
        "mqtt.external.capath": "/etc/p",
    }
    said = gw.run([A, "config", "set", *(f"{key}={value}" for key, value in guides.items())]).stderr
    assert "stored as mqtt.client.auth.ca_file" in said
    for key, value in guides.items():
        assert gw.run([A, "config", "get", key]).stdout == f"{value}\n"
    mqtt = standins.read_toml(gw)["mqtt"]
    assert mqtt["client"]["auth"] == {"ca_file": "/etc/a", "ca_dir": "/etc/d"}
    tls = {"cert_file": "/etc/c", "key_file": "/etc/k", "ca_path": "/etc/p"}
    assert mqtt["external"] == {"bind": {"port": 8884}, **tls}


REFUSED = {
    ("mqtt.external.bind.port=0",): "from 1 to 65535",
    ("mqtt.external.bind.port=8883x",): "from 1 to 65535",
    ("mqtt.bind.port=65536",): "from 1 to 65535",
    ("mqtt.external.bind.address=gateway.local",): "takes an IP address",
    ("mqtt.external.bind.interface=eth0 x",): "name of a network interface",
    ("mqtt.external.bind.interface=",): "config unset mqtt.external.bind.interface",
    ("mqtt.bind.enabled=yes",): "takes true or false",
    ("mqtt.external.cert_file=relative", f"mqtt.external.key_file={KEY}"): "takes an absolute path",
    (f"mqtt.external.cert_file={CERT}\nlistener 1",): "takes an absolute path",
    ("mqtt.client.auth.username=x\x1b[2J",): r"\x1b",
    ("mqtt.client.host=a b",): "takes a host name",
    ("mqtt.topic_root=#",): "takes an MQTT topic",
    ("mqtt.bind.portt=1",): "did you mean mqtt.bind.port?",
    ("c8y.url=x",): "Unknown tedge config key",
    ("mqtt.topic_root=x", "mqtt.bind.port"): "is not KEY=VALUE",
    ("mqtt.topic_root=x", "mqtt.topic_root=y"): "given twice",
    ("mqtt.topic_root=x", "mqtt.bind.port=no"): "from 1 to 65535",
    (f"mqtt.external.cert_file={CERT}",): (
        f"in one command: tedge-agentd config set mqtt.external.cert_file={CERT} mqtt.external.key_file=PATH"
    ),
    (f"mqtt.external.ca_path={CA}",): (
        f"config set mqtt.external.ca_path={CA} mqtt.external.cert_file=PATH mqtt.external.key_file=PATH"
    ),
    ("mqtt.external.bind.address=0.0.0.0",): "tedge-agentd config set mqtt.external.bind.port=PORT",
    ("mqtt.external.bind.port=1883",): "tedge-agentd config set mqtt.external.bind.port=PORT",
}


def test_what_is_refused_is_not_written_and_says_what_would_be_taken(gw: gateway.Gateway) -> None:
    gw.run([A, "config", "set", "mqtt.topic_root=te"])
    before = runs.files(gw, "/etc/tedge")
    for words, expected in REFUSED.items():
        done = gw.run([A, "config", "set", *words], check=False)
        assert done.returncode == 1, words
        assert done.stdout == ""
        assert expected in done.stderr, done.stderr
        assert all(line.isprintable() for line in done.stderr.splitlines()), repr(done.stderr)
    assert runs.files(gw, "/etc/tedge") == before
    # What a refusal proposes works when pasted.
    gw.run([A, "config", "set", f"mqtt.external.cert_file={CERT}", f"mqtt.external.key_file={KEY}"])
    gw.run([A, "config", "set", "mqtt.external.bind.port=8884"])
    gw.run([A, "config", "set", "mqtt.external.bind.address=0.0.0.0"])


def test_many_writers_at_once_lose_nothing(gw: gateway.Gateway) -> None:
    keys = {
        "mqtt.topic_root": "x",
        "mqtt.device_topic_id": "device/x//",
        "mqtt.bind.port": "1885",
        "mqtt.client.port": "1885",
        "mqtt.client.host": "localhost",
        "mqtt.client.auth.ca_file": "/etc/tedge/a",
        "mqtt.client.auth.ca_dir": "/etc/tedge/b",
        "mqtt.client.auth.cert_file": "/etc/tedge/c",
        "mqtt.client.auth.key_file": "/etc/tedge/d",
        "mqtt.client.auth.username": "e",
        "mqtt.client.auth.password_file": "/etc/tedge/f",
        "mqtt.external.bind.port": "1886",
        "mqtt.external.bind.address": "192.0.2.10",
        "mqtt.external.bind.interface": "eth0",
        "mqtt.bridge.built_in": "false",
        "mqtt.bridge.reconnect_policy.initial_interval": "7s",
        "mqtt.bridge.reconnect_policy.maximum_interval": "8m",
        "mqtt.bridge.reconnect_policy.reset_window": "9m",
        "http.bind.address": "127.0.0.2",
        "device.key_path": "/etc/tedge/g",
        "device.cert_path": "/etc/tedge/h",
    }
    # Its own lock is nobody else's to hold: a file of this name could be made by anybody in /run/lock.
    gw.run("chmod 1777 /run/lock")
    gw.run(["touch", "/run/lock/tedge-agentd-config.lock"], user=NOBODY)
    with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
        done = list(pool.map(lambda item: gw.run([A, "config", "set", "=".join(item)]), keys.items()))
    assert len(done) == len(keys)
    said = dict(line.split("=", 1) for line in gw.run(f"{A} config list").stdout.splitlines())
    assert {key: said.get(key) for key in keys} == keys
    assert gw.access("/run/tedge-agentd/config.lock") == "root:root 0600"
    assert [name for name in gw.files.listdir("/etc/tedge") if name.startswith(".")] == []


# What must never be said ------------------------------------------------------------------------------------


def test_no_secret_is_in_any_output(level3: gateway.Gateway, ca: pki.Authority) -> None:
    gw = level3
    own = ca.client("tedge")
    password = "correct-horse-battery"
    secrets = [line for line in own.key_pem().splitlines() if "-" not in line] + [password]
    for name, text in (("own.crt", own.pem), ("own.key", own.key_pem()), ("password", f"{password}\n")):
        gw.write(f"/etc/tedge/{name}", text, owner="tedge", mode=0o600)
    auth = {"ca_file": CA, "cert_file": "/etc/tedge/own.crt", "key_file": "/etc/tedge/own.key"}
    auth |= {"username": "gateway", "password_file": "/etc/tedge/password"}
    gw.run([A, "config", "set", "mqtt.client.port=8883", *(f"mqtt.client.auth.{key}={auth[key]}" for key in auth)])
    scenes.settled(gw)
    said = [gw.run(f"{A} secure mutual", check=False).stdout]
    # Keys where they do not belong, and contents that nobody can use, are quoted by no message either.
    mistakes = {
        CERT: own.key_pem(),
        CA: own.key_pem(),
        "/etc/tedge/own.crt": own.key_pem(),
        "/etc/tedge/own.key": own.key_pem()[:-40],
        "/etc/tedge/system.toml": f"user = {password}\n",
        "/etc/tedge-agentd/config.toml": f"{password}\n",
        "/etc/mosquitto/conf.d/x.conf": f"{secrets[0]}\nremote_password {password}\n",
        TOML: own.key_pem(),
    }
    for path, text in mistakes.items():
        gw.write(path, text)
        assert scenes.settled(gw, state=None)["state"] != "in-sync", path
        for command in ("status", "plan --diff") if path != TOML else ("plan --json", "apply", "config list"):
            done = gw.run(f"{A} {command}", check=False)
            said.append(done.stdout + done.stderr)
    said += [json.dumps(gw.journal("tedge-agentd")), gw.read("/run/tedge-agentd/status.json")]
    assert [secret for secret in secrets if any(secret in text for text in said)] == []


MISUSE = (
    *("", "nonsense", "--nonsense", "-h extra", "plan extra", "plan --wait 1", "status --wait", "status --wait x"),
    *("status --wait -1", "status --wait nan", "status --wait inf", "config", "config nonsense", "config get"),
    *("config get x", "config get mqtt.bind.port mqtt.bind.port", "config set", "config set =", "config set x"),
    *(
        "config set a b c",
        "config unset",
        "config unset x",
        "config list x",
        "secure",
        "secure best",
        "secure none x",
    ),
    *(
        "certs",
        "certs x",
        "certs issue",
        "certs issue x",
        "certs issue child",
        "certs issue child x",
        "certs renew x",
    ),
    *("certs issue child x --out ''", "certs issue child x --out /proc/x", "certs issue child x --out /dev/null"),
    *("certs init --days 0", "certs init --days x", "certs init --key-type x", "certs issue server --name 'a b'"),
    *("certs issue child ../x --out /root/x", "certs renew child x", "certs renew child x --out /root/x", "run"),
    *(
        "config get \udcff",
        "config set \udcff=1",
        "config set mqtt.topic_root=\udcff",
        "plan \udcff",
        "status --wait \udcff",
    ),
)
QUIET = (">/dev/full", ">&-", "| :", "2>&1 | :")


def test_no_misuse_ends_in_a_traceback(gw: gateway.Gateway) -> None:
    gw.run(f"{A} certs init")
    wrong = []
    for arguments in MISUSE:
        done = gw.run(["sh", "-c", f"cd /root; {A} {arguments}"], check=False)
        plain = done.stderr.startswith(("usage: ", "tedge-agentd: ", "Error: "))
        help_ = arguments.startswith("-h")
        if (done.returncode, plain, "Traceback" in done.stderr) != (0 if help_ else 1, not help_, False):
            wrong.append((arguments, done.returncode, done.stderr))
    for arguments in ("status", "status --json", "plan --json", "config list", "certs list --json", "--help"):
        for end in QUIET:
            done = gw.run(["bash", "-c", f"set -o pipefail; {A} {arguments} {end}"], check=False)
            if re.search("Traceback|Exception|Error", done.stderr) or done.returncode not in (0, 1):
                wrong.append((f"{arguments} {end}", done.returncode, done.stderr))
    gone = gw.run(["sh", "-c", f"mkdir /root/gone; cd /root/gone; rmdir /root/gone; {A} plan && {A} config list"])
    assert gone.stderr == ""
    assert wrong == []
    assert "in-sync" in gw.run(f"{A} status").stdout
