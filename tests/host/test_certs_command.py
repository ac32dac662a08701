"""`tedge-agentd certs` as an operator meets it: the whole guide first, then each refusal."""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tedge_agentd import certs as actions
from tedge_agentd import certs_command
from tedge_agentd.certs import Context
from tedge_agentd.core import pki as policy
from tedge_agentd.core import pki_register as reg
from tedge_agentd.core.pki import DAY
from tedge_agentd.host import pki, users
from tedge_agentd.host.pki_issuer import Means
from tedge_agentd.host.pki_store import Store

NOW = policy.RELEASED + 400 * DAY

Run = Callable[..., int]


@pytest.fixture
def context(realm: Path, people: users.FixedUsers) -> Context:
    (realm / "state").mkdir(mode=0o700)
    (realm / "tedge").mkdir()
    return Context(
        means=Means(now=NOW, who=people),
        state_dir=str(realm / "state"),
        tedge_dir=str(realm / "tedge"),
        names=("gateway", "gateway.example"),
        addresses=("192.0.2.7", "0.0.0.0"),
    )


@pytest.fixture
def certs(context: Context) -> Run:
    """Run a command line; `now` moves the clock."""

    def run(line: str, now: int = NOW) -> int:
        parser = argparse.ArgumentParser()
        certs_command.add_parser(parser.add_subparsers(required=True))
        args = parser.parse_args(["certs", *shlex.split(line)])
        means = dataclasses.replace(context.means, now=now)
        status: int = args.command(args, dataclasses.replace(context, means=means))
        return status

    return run


def issued(context: Context) -> dict[str, reg.Issued]:
    return {f"{one.role.value} {one.name}": one for one in Store(context.state_dir).register().issued}


def test_the_guides_certificates_in_four_commands(
    certs: Run, context: Context, realm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ("init", "issue server", "issue tedge", f"issue child sensor-1 --out {realm}/sensor-1"):
        assert certs(line) == 0
    out, err = capsys.readouterr()
    assert err == ""
    server, client = context.server_pair, context.client_pair
    assert f"config set mqtt.external.cert_file={server[0]} mqtt.external.key_file={server[1]}" in out
    assert f"config set mqtt.client.auth.cert_file={client[0]} mqtt.client.auth.key_file={client[1]}" in out
    child = f"{realm}/sensor-1/sensor-1.crt"
    for cert, purpose in ((server[0], "sslserver"), (client[0], "sslclient"), (child, "sslclient")):
        check = [
            "openssl",
            "verify",
            "-x509_strict",
            "-attime",
            str(NOW),
            "-purpose",
            purpose,
            "-CAfile",
            context.bundle,
        ]
        assert subprocess.run([*check, cert], capture_output=True, check=False).returncode == 0
    modes = {
        str(path.relative_to(realm)): (path.stat().st_uid, oct(path.stat().st_mode & 0o777))
        for path in realm.rglob("*")
        if path.suffix in {".crt", ".key"} or path.is_dir()
    }
    broker, tedge = (context.means.who.account(name) for name in ("mosquitto", "tedge"))
    assert broker is not None
    assert tedge is not None
    assert {name: modes[name] for name in modes if "pki/ca/" not in name} == {
        "state": (0, "0o700"),
        "state/pki": (0, "0o700"),
        "state/pki/ca": (0, "0o700"),
        "state/pki/pending": (0, "0o700"),
        "tedge": (0, "0o755"),
        "tedge/server-certs": (0, "0o755"),
        "tedge/server-certs/tedge-agentd-ca.crt": (0, "0o644"),
        "tedge/server-certs/tedge-agentd-server.crt": (broker.uid, "0o644"),
        "tedge/server-certs/tedge-agentd-server.key": (broker.uid, "0o600"),
        "tedge/client-certs": (0, "0o755"),
        "tedge/client-certs/tedge-agentd-client.crt": (tedge.uid, "0o644"),
        "tedge/client-certs/tedge-agentd-client.key": (tedge.uid, "0o600"),
        "sensor-1": (0, "0o700"),
        "sensor-1/sensor-1.crt": (0, "0o644"),
        "sensor-1/sensor-1.key": (0, "0o600"),
        "sensor-1/ca.crt": (0, "0o644"),
    }


def test_doing_it_twice_changes_nothing(certs: Run, context: Context, realm: Path) -> None:
    lines = ("init", "issue server", "issue tedge")
    for line in lines:
        assert certs(line) == 0
    before = {path: path.read_bytes() for path in realm.rglob("*") if path.is_file()}
    for line in lines:
        assert certs(line, NOW + DAY) == 0
    assert {path: path.read_bytes() for path in realm.rglob("*") if path.is_file()} == before


def test_a_server_gets_the_names_of_the_machine_and_those_asked_for(certs: Run, context: Context) -> None:
    certs("init")
    assert certs("issue server --name Broker.Local. --name 2001:db8::7") == 0
    own = {"gateway", "gateway.example", "192.0.2.7", "localhost", "127.0.0.1", "::1"}
    assert set(issued(context)["server gateway"].names) == own | {"broker.local", "2001:db8::7"}
    certs("renew server", NOW + DAY)
    assert set(issued(context)["server gateway"].names) == own | {"broker.local", "2001:db8::7"}


@pytest.mark.parametrize(
    ("option", "key_type", "algorithm"),
    [
        ("", reg.KeyType.EC_P256, "id-ecPublicKey"),
        ("--key-type rsa-2048", reg.KeyType.RSA_2048, "rsaEncryption"),
        ("--key-type rsa-3072 --days 90", reg.KeyType.RSA_3072, "rsaEncryption"),
    ],
)
def test_key_type_and_lifetime_are_kept_by_renewals(
    certs: Run, context: Context, option: str, key_type: reg.KeyType, algorithm: str
) -> None:
    certs("init")
    certs(f"issue server {option}")
    certs("renew server", NOW + DAY)
    one = issued(context)["server gateway"]
    assert one.key_type is key_type
    assert one.not_after - one.issued == (90 if "--days" in option else 365) * DAY
    command = ["openssl", "x509", "-in", one.cert_path, "-noout", "-text"]
    assert algorithm in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_renew_without_a_name_does_what_is_due(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    certs("init")
    certs("issue server")
    certs("issue tedge --days 30")
    before = issued(context)
    capsys.readouterr()
    assert certs("renew", NOW + DAY) == 0
    assert capsys.readouterr().out == "Nothing is due.\n"
    assert certs("renew", NOW + 25 * DAY) == 0
    assert "two thirds of its life are over" in capsys.readouterr().out
    after = issued(context)
    assert after["server gateway"] == before["server gateway"]
    assert after["tedge tedge"].serial != before["tedge tedge"].serial
    assert certs("renew --all", NOW + 26 * DAY) == 0
    assert issued(context)["server gateway"].serial != before["server gateway"].serial


def test_renew_brings_back_what_was_removed(certs: Run, context: Context) -> None:
    certs("init")
    certs("issue server")
    for path in context.server_pair:
        os.unlink(path)
    assert certs("renew server") == 0
    assert pki.condition(issued(context)["server gateway"]) is policy.Condition.GOOD


# Child devices ----------------------------------------------------------------------------------------------


def test_a_tar_for_a_child_device_has_all_it_needs_and_its_key_for_root_alone(certs: Run, realm: Path) -> None:
    certs("init")
    assert certs(f"issue child c1 --out {realm}/c1.tar") == 0
    assert os.stat(realm / "c1.tar").st_mode & 0o777 == 0o600
    with tarfile.open(realm / "c1.tar") as tar:
        assert {member.name: member.mode for member in tar} == {
            "c1/c1.key": 0o600,
            "c1/c1.crt": 0o644,
            "c1/ca.crt": 0o644,
        }
        key = tar.extractfile("c1/c1.key")
        assert key is not None
        assert key.read().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_several_child_devices_fit_into_one_directory(certs: Run, realm: Path) -> None:
    certs("init")
    for name in ("c1", "c2"):
        assert certs(f"issue child {name} --out {realm}/out") == 0
    assert {path.name for path in (realm / "out").iterdir()} == {"c1.crt", "c1.key", "c2.crt", "c2.key", "ca.crt"}


@pytest.mark.parametrize("place", ["out", "with space", "c1.tar"])
def test_what_is_to_be_removed_after_the_delivery_is_what_was_delivered_and_no_more(
    certs: Run, realm: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    certs("init")
    (realm / "out").mkdir()
    (realm / "out" / "mine").touch()
    assert certs(f"issue child c1 --out '{realm}/{place}'") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "then: " in line]
    words = shlex.split(line.partition("then: ")[2])
    assert words[0] == "rm"
    secret = [realm / place] if place.endswith(".tar") else [realm / place / "c1.key", realm / place / "c1.crt"]
    assert [Path(word) for word in words[1:]] == secret
    assert all(path.is_file() for path in secret)


def test_a_delivery_to_nowhere_is_refused(certs: Run, context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    certs("init")
    assert certs("issue child c1 --out ''") == 1
    assert "--out is empty" in capsys.readouterr().err
    assert issued(context) == {}


def test_a_child_device_is_renewed_by_name_and_into_a_new_place(
    certs: Run, context: Context, realm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certs("init")
    certs(f"issue child c1 --out {realm}/c1.tar --key-type rsa-2048 --days 60")
    before = issued(context)["child c1"]
    assert certs(f"issue child c1 --out {realm}/again.tar") == 1
    assert f"certs renew child c1 --out {realm}/again.tar" in capsys.readouterr().err
    assert certs(f"renew child c1 --out {realm}/c1.tar", NOW + DAY) == 1
    assert f"mv {realm}/c1.tar {realm}/c1.tar.old" in capsys.readouterr().err
    assert certs(f"renew child c1 --out {realm}/again.tar", NOW + DAY) == 0
    after = issued(context)["child c1"]
    assert after.serial != before.serial
    assert (after.key_type, after.lifetime) == (reg.KeyType.RSA_2048, 60 * DAY)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a/b", "is not a device name"),
        ("..", "is not a device name"),
        ("x" * 65, "is not a device name"),
        ("tedge", "user name of thin-edge itself"),
        ("ca", "CA's file name"),
        ("gateway", "a name of this machine"),
        ("localhost", "a name of this machine"),
        ("Gateway.Example", "a name of this machine"),
        ("192.0.2.7", "a name of this machine"),
    ],
)
def test_names_that_no_child_device_gets(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    certs("init")
    out = f"{context.state_dir}/out"
    assert certs(f"issue child {name} --out {out}") == 1
    assert why in capsys.readouterr().err
    assert issued(context) == {}
    assert not os.path.exists(out)


def test_nothing_of_an_operators_is_overwritten(
    certs: Run, context: Context, realm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certs("init")
    (realm / "out").mkdir()
    for name in ("c1.key", "c1.crt", "ca.crt"):
        path = realm / "out" / name
        path.write_bytes(b"mine")
        assert certs(f"issue child c1 --out {realm}/out") == 1
        assert f"mv {path} {path}.old" in capsys.readouterr().err
        assert path.read_bytes() == b"mine"
        path.unlink()
        assert list((realm / "out").iterdir()) == []
    assert issued(context) == {}
    (realm / "file").write_bytes(b"mine")
    assert certs(f"issue child c1 --out {realm}/file") == 1
    assert "is no directory" in capsys.readouterr().err


# Refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["issue server", "issue tedge", "issue child c1 --out /run/x", "renew server"])
def test_without_a_ca_each_command_names_the_one_to_begin_with(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert certs(line) == 1
    assert capsys.readouterr().err.splitlines() == [
        "tedge-agentd: there is no local PKI yet",
        "  try: tedge-agentd certs init",
    ]
    assert os.listdir(context.state_dir) == []


@pytest.mark.parametrize("line", ["renew server c1", "renew --days 30", "renew child", "renew child c1"])
def test_a_renewal_that_makes_no_sense_is_refused(certs: Run, capsys: pytest.CaptureFixture[str], line: str) -> None:
    certs("init")
    assert certs(line) == 1
    assert "  try: tedge-agentd certs " in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["issue server --days 6", "issue server --days x", "init --key-type dsa", "issue child c1", ""]
)
def test_a_command_line_that_makes_no_sense_is_refused(certs: Run, line: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        certs(line)


@pytest.mark.parametrize("name", ["0.0.0.0", "a b", "*", "-x", "fe80::1%eth0"])
def test_a_name_that_no_client_could_use_is_refused(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    certs("init")
    assert certs(f"issue server '--name={name}'") == 1
    assert "no host name or address" in capsys.readouterr().err
    assert issued(context) == {}


def test_a_clock_that_is_behind_is_refused_unless_it_is_vouched_for(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certs("init", 0) == 1
    assert certs("init --trust-clock", 0) == 1, "1970 is never right"
    assert "timedatectl" in capsys.readouterr().err
    certs("init")
    assert certs("issue server", NOW - 30 * DAY) == 1
    assert "issued at" in capsys.readouterr().err
    assert certs("issue server --trust-clock", NOW - 30 * DAY) == 0
    assert issued(context)["server gateway"].issued == NOW - 30 * DAY


def test_the_remedy_for_what_a_clock_that_was_ahead_has_issued_works(certs: Run, context: Context) -> None:
    for line in ("init", "issue server", "issue tedge"):
        assert certs(line) == 0
    assert certs("renew --all", NOW + 1500 * DAY) == 0
    found = [one for one in pki.sweep(context.state_dir, context.means).findings if one.code == "pki-clock"]
    assert len(found) == 2
    for finding in found:
        assert certs(finding.remedy.partition("tedge-agentd certs ")[2]) == 0, finding.remedy
    assert pki.sweep(context.state_dir, context.means) == pki.Sweep()
    assert all(one.not_before < NOW < one.not_after for one in issued(context).values())


@pytest.mark.parametrize("place", ["server_pair", "client_pair"])
@pytest.mark.parametrize("half", [0, 1])
def test_a_foreign_pair_is_refused_by_name(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str], place: str, half: int
) -> None:
    certs("init")
    path = Path(getattr(context, place)[half])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    assert certs(f"issue {'server' if place == 'server_pair' else 'tedge'}") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"tedge-agentd: {path} was not issued by the local PKI and is not overwritten",
        f"  try: mv {path} {path}.old",
    ]
    assert path.read_bytes() == b"mine"


def test_a_foreign_ca_file_is_refused_before_a_ca_is_made(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkdir(os.path.dirname(context.bundle))
    Path(context.bundle).write_bytes(b"mine")
    assert certs("init") == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert Store(context.state_dir).register().authorities == ()


def test_a_missing_tedge_directory_is_named(certs: Run, context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    os.rmdir(context.tedge_dir)
    assert certs("init") == 1
    assert context.tedge_dir in capsys.readouterr().err
    os.mkdir(context.tedge_dir)
    assert certs("init") == 0
    assert len(Store(context.state_dir).register().authorities) == 1


# The list and the rollover ----------------------------------------------------------------------------------


def test_the_list_shows_everything_and_no_secret(
    certs: Run, context: Context, realm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certs("list") == 0
    assert "certs init" in capsys.readouterr().out
    for line in ("init", "issue server", "issue tedge", f"issue child c1 --out {realm}/c1.tar"):
        certs(line)
    os.unlink(context.client_pair[0])
    capsys.readouterr()
    assert certs("list", NOW + 10 * DAY) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == ["ca", "server", "tedge", "child", "warning:", "try:"]
    assert certs("list --json") == 0
    text = capsys.readouterr().out
    data = json.loads(text)
    assert [(one["role"], one["state"]) for one in data["issued"]] == [
        ("server", "good"),
        ("tedge", "half"),
        ("child", "handed over"),
    ]
    assert [finding["code"] for finding in data["findings"]] == ["pki-half"]
    assert "PRIVATE" not in text


def test_a_rollover_by_hand_publishes_both_and_lets_the_old_one_sign(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    certs("init")
    certs("issue server")
    assert certs("init --rollover", NOW + DAY) == 0
    assert Path(context.bundle).read_text().count("BEGIN CERTIFICATE") == 2
    capsys.readouterr()
    assert certs("init --rollover", NOW + 2 * DAY) == 1
    assert "on its way already" in capsys.readouterr().err
    first, second = Store(context.state_dir).register().authorities
    certs("renew server", NOW + 3 * DAY)
    assert issued(context)["server gateway"].issuer == first.sha256
    certs("renew server", NOW + 182 * DAY)
    assert issued(context)["server gateway"].issuer == second.sha256
    certs("list", NOW + 182 * DAY)
    states = [line.split()[-2] for line in capsys.readouterr().out.splitlines() if line.startswith("ca ")]
    assert states == ["trusted", "signs"]


def test_a_gateway_whose_ca_ended_while_it_was_off_comes_back_by_hand(
    certs: Run, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    certs("init")
    certs("issue server")
    later = NOW + 4000 * DAY
    capsys.readouterr()
    certs("renew", later)
    assert "certs init --rollover" in capsys.readouterr().out
    assert certs("renew server", later) == 1
    assert "certs init --rollover" in capsys.readouterr().err
    assert certs("init --rollover", later) == 0
    assert certs("renew --all", later) == 0
    check = ["openssl", "verify", "-x509_strict", "-attime", str(later), "-CAfile", context.bundle]
    assert subprocess.run([*check, context.server_pair[0]], capture_output=True, check=False).returncode == 0
    assert Path(context.bundle).read_text().count("BEGIN CERTIFICATE") == 1


def test_this_machine_is_taken_as_it_is_configured(realm: Path) -> None:
    config = realm / "config.toml"
    config.write_text(f'tedge_dir = "{realm}"\nbroker_user = "broker"\nbroker_group = "brokers"\n')
    (realm / "system.toml").write_text('user = "iot"\ngroup = "iots"\n')
    (realm / "tedge.toml").write_text('[mqtt.external.bind]\naddress = "192.0.2.7"\n')
    found = actions.this_machine(str(config))
    assert policy.clean_name(os.uname().nodename) in found.names
    assert found.addresses == ("192.0.2.7",)
    assert abs(found.means.now - time.time()) < 60
    assert (found.state_dir, found.tedge_dir) == ("/var/lib/tedge-agentd", str(realm))
    users = found.accounts
    assert (users.broker_user, users.broker_group, users.client_user, users.client_group) == (
        "broker",
        "brokers",
        "iot",
        "iots",
    )


@pytest.mark.parametrize("text", ["", "[", "tedge_dir = 1"])
def test_a_configuration_that_cannot_be_read_counts_as_the_defaults(realm: Path, text: str) -> None:
    config = realm / "config.toml"
    config.write_text(text)
    assert actions.this_machine(str(config)).tedge_dir == "/etc/tedge"


def test_the_command_line_speaks_of_the_same_things_as_the_policy() -> None:
    assert set(certs_command.KEY_TYPES) == {kind.value for kind in reg.KeyType}
    assert set(certs_command.ROLES) == {role.value for role in reg.Role}
    assert certs_command.DAYS[0] * DAY == policy.SHORTEST_LIFE


def test_parsing_a_command_line_loads_nothing_heavy() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import tedge_agentd.certs_command; print(*sys.modules)"
    repository = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-I", "-c", code, repository], capture_output=True, text=True, check=True)
    loaded = [name for name in done.stdout.split() if name.startswith("tedge_agentd.")]
    assert loaded == ["tedge_agentd.certs_command"]
