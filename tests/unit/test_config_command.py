"""`config get/set/unset/list` speak as tedge does, and a write loses nothing of anybody's."""

import os
import stat
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tedge_agentd import config_command, config_write
from tedge_agentd.core import tedge_toml
from tedge_agentd.core.model import Area, Finding, Severity

V2 = b'[config]\nversion = "2"\n'
ROOT = Path(__file__).resolve().parents[2]


def accept(new: bytes) -> Iterable[Finding]:
    return tedge_toml.parse(new, "tedge.toml").findings


class Gateway:
    """A tedge directory of its own, with the lock beside it."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory / "tedge"
        self.dir.mkdir()
        self.toml = self.dir / "tedge.toml"
        self.lock = directory / "run" / "tedge.lock"
        self.check: config_command.Check = accept

    def as_it_lies(self) -> tuple[int, ...]:
        """What any write of the file changes. Not the time of access: a reader's first look may set that."""
        found = self.toml.stat()
        return found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_mode

    def set(self, *assignments: str, user: str = "nobody-here", group: str = "nobody-here") -> int:
        return config_command.set_(
            str(self.toml), assignments, lock_path=str(self.lock), check=self.check, user=user, group=group
        )

    def unset(self, *keys: str) -> int:
        return config_command.unset(str(self.toml), keys, lock_path=str(self.lock), check=self.check)

    def table(self) -> dict[str, Any]:
        return tomllib.loads(self.toml.read_text())

    def names(self) -> list[str]:
        return sorted(os.listdir(self.dir))


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


Out = pytest.CaptureFixture[str]

# get and list -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "key", "printed"),
    [
        (None, "mqtt.bind.port", "1883"),
        (b"", "mqtt.client.port", "1883"),
        (b"mqtt.bind.port = 1884", "mqtt.client.port", "1884"),
        (b"mqtt.port = 1884", "mqtt.bind.port", "1884"),
        (b"mqtt.bind.enabled = false", "mqtt.bind.enabled", "false"),
        (b"mqtt.bind.address = '::FFFF:1.2.3.4'", "mqtt.bind.address", "::ffff:1.2.3.4"),
        (b"mqtt.client.auth.cafile = '/a'", "mqtt.client.auth.ca_file", "/a"),
        (b"mqtt.device_topic_id = 'device/x'", "mqtt.device_topic_id", "device/x//"),
        (b"mqtt.external.bind.interface = ''", "mqtt.external.bind.interface", ""),
        (b"mqtt.external.ca_path = 'relative'", "mqtt.external.ca_path", "relative"),
        (b"", "http.bind.address", "127.0.0.1"),
        (b"mqtt.external.bind.address = '0.0.0.0'", "http.bind.address", "0.0.0.0"),
        (b"mqtt.external.cert_file = '/" + b"a" * 500 + b"'", "mqtt.external.cert_file", "/" + "a" * 500),
    ],
)
def test_get_prints_the_value_or_the_default(
    gateway: Gateway, capsys: Out, data: bytes | None, key: str, printed: str
) -> None:
    if data is not None:
        gateway.toml.write_bytes(data)
    assert config_command.get(str(gateway.toml), key) == 0
    assert capsys.readouterr() == (printed + "\n", "")


def test_get_knows_the_devices_files_below_the_tedge_directory(gateway: Gateway, capsys: Out) -> None:
    assert config_command.get(str(gateway.toml), "device.cert_path") == 0
    assert capsys.readouterr().out == f"{gateway.dir}/device-certs/tedge-certificate.pem\n"


def test_get_of_an_unset_key_has_the_words_and_the_status_of_tedge(gateway: Gateway, capsys: Out) -> None:
    assert config_command.get(str(gateway.toml), "mqtt.external.ca_path") == 1
    assert capsys.readouterr() == ("", "The provided config key: 'mqtt.external.ca_path' is not set\n")


def test_get_takes_old_names_and_says_so(gateway: Gateway, capsys: Out) -> None:
    gateway.toml.write_bytes(b"mqtt.external.ca_path = '/a'")
    assert config_command.get(str(gateway.toml), "mqtt.external.capath") == 0
    out, err = capsys.readouterr()
    assert out == "/a\n"
    assert err == "The key 'mqtt.external.capath' is deprecated. Use 'mqtt.external.ca_path' instead.\n"


def test_get_of_an_unknown_key_offers_the_one_that_was_meant(gateway: Gateway, capsys: Out) -> None:
    assert config_command.get(str(gateway.toml), "mqtt.client.prot") == 1
    assert capsys.readouterr().err == (
        "Error: Unknown tedge config key: 'mqtt.client.prot'\n  did you mean mqtt.client.port?\n"
    )


@pytest.mark.parametrize("command", ["get", "list"])
def test_a_file_that_tedge_would_not_read_is_told_with_its_place(gateway: Gateway, capsys: Out, command: str) -> None:
    gateway.toml.write_bytes(b"[mqtt.bind]\nport = '1'\n")
    if command == "get":
        status = config_command.get(str(gateway.toml), "mqtt.bind.port")
    else:
        status = config_command.list_(str(gateway.toml))
    assert status == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Error: {gateway.toml}:2:1: mqtt.bind.port is the text")
    assert "tedge-agentd config set mqtt.bind.port=1" in err


def test_a_fifo_is_not_waited_for(gateway: Gateway, capsys: Out) -> None:
    os.mkfifo(gateway.toml)
    assert config_command.get(str(gateway.toml), "mqtt.bind.port") == 1
    assert "no regular file" in capsys.readouterr().err
    assert gateway.set("mqtt.bind.port=1") == 1
    assert "no regular file" in capsys.readouterr().err


def test_list_prints_what_has_a_value(gateway: Gateway, capsys: Out) -> None:
    gateway.toml.write_bytes(b"[mqtt.external]\nca_path = '/a'\nbind.port = 8883\n")
    assert config_command.list_(str(gateway.toml), filter_="mqtt.external") == 0
    assert capsys.readouterr().out == "mqtt.external.bind.port=8883\nmqtt.external.ca_path=/a\n"


def test_list_all_adds_what_has_none(gateway: Gateway, capsys: Out) -> None:
    assert config_command.list_(str(gateway.toml), filter_="mqtt.client.auth", everything=True) == 0
    out = capsys.readouterr().out
    assert out.startswith("\nmqtt.client.auth.ca_file=\nmqtt.client.auth.ca_dir=\n")
    assert config_command.list_(str(gateway.toml), everything=True) == 0
    assert "mqtt.client.port=1883\n" in capsys.readouterr().out


def test_list_doc_explains_each_key(gateway: Gateway, capsys: Out) -> None:
    assert config_command.list_(str(gateway.toml), doc=True, filter_="external.cert") == 0
    assert capsys.readouterr().out == (
        "mqtt.external.cert_file  Certificate of the external listener; needs mqtt.external.key_file.\n"
        "                         Example: /etc/tedge/server-certs/tedge-certificate.pem\n"
    )


# set and unset ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["a=1"], {"a": "1"}),
        (["a=1", "b=2=3", "c="], {"a": "1", "b": "2=3", "c": ""}),
        (["a", "1"], {"a": "1"}),
        (["a", "b=1"], {"a": "b=1"}),
        (["a=1", "a=1"], {"a": "1"}),
        ([], "nothing to set; give KEY=VALUE"),
        (["a"], "'a' is not KEY=VALUE"),
        (["a=1", "b"], "'b' is not KEY=VALUE"),
        (["a", "1", "b"], "'a' is not KEY=VALUE"),
        (["a=1", "a=2"], "a is given twice, with different values"),
    ],
)
def test_both_forms_of_assignments_are_understood(arguments: list[str], changes: object) -> None:
    assert config_command.parse_assignments(arguments) == changes


def test_several_keys_are_one_write(gateway: Gateway, capsys: Out) -> None:
    seen = []
    gateway.check = lambda new: seen.append(new) or []  # type: ignore[func-returns-value]
    assert gateway.set("mqtt.external.bind.port=8883", "mqtt.external.cert_file=/c", "mqtt.external.key_file=/k") == 0
    assert seen == [gateway.toml.read_bytes()]
    assert gateway.table()["mqtt"]["external"] == {"bind": {"port": 8883}, "cert_file": "/c", "key_file": "/k"}
    assert capsys.readouterr() == ("", "")
    assert gateway.names() == ["tedge.toml"]


def test_the_form_of_tedge_works_too(gateway: Gateway) -> None:
    assert gateway.set("mqtt.client.auth.username", "a=b") == 0
    assert gateway.table()["mqtt"] == {"client": {"auth": {"username": "a=b"}}}


def test_a_name_of_the_guide_is_stored_with_a_note(gateway: Gateway, capsys: Out) -> None:
    assert gateway.set("mqtt.client.cafile", "/ca") == 0
    assert gateway.table()["mqtt"] == {"client": {"auth": {"ca_file": "/ca"}}}
    assert "stored as mqtt.client.auth.ca_file" in capsys.readouterr().err


def test_unset_removes_keys_and_is_content_when_there_are_none(gateway: Gateway) -> None:
    gateway.toml.write_bytes(V2 + b"[mqtt.external]\nca_path = '/a'\nbind.port = 1\n")
    assert gateway.unset("mqtt.external.ca_path", "mqtt.external.bind.port") == 0
    assert gateway.table() == {"config": {"version": "2"}}
    before = gateway.as_it_lies()
    assert gateway.unset("mqtt.external.ca_path") == 0
    assert gateway.as_it_lies() == before


def test_a_value_that_is_there_already_writes_nothing(gateway: Gateway) -> None:
    gateway.toml.write_bytes(b"# mine\nmqtt.bind.port=1884\n")
    before = gateway.as_it_lies()
    assert gateway.set("mqtt.bind.port=1884") == 0
    assert gateway.as_it_lies() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mqtt.bind.port=0"], "1: number would be zero for non-zero type"),
        (["mqtt.external.cert_file=c.pem"], "1: an absolute path is needed"),
        (["mqtt.bind.porz=1"], "Unknown tedge config key: 'mqtt.bind.porz'\n  did you mean mqtt.bind.port?"),
        (["mqtt.bind.port"], "is not KEY=VALUE"),
        (["mqtt.external.bind.port=8883", "mqtt.bind.port=x"], "1: invalid digit found in string"),
    ],
)
def test_a_refused_set_writes_nothing(gateway: Gateway, capsys: Out, arguments: list[str], words: str) -> None:
    gateway.toml.write_bytes(V2)
    before = gateway.as_it_lies()
    assert gateway.set(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert words in err
    assert gateway.as_it_lies() == before
    assert gateway.names() == ["tedge.toml"]


def test_the_words_of_a_refusal_are_those_of_tedge_and_what_the_key_takes(gateway: Gateway, capsys: Out) -> None:
    assert gateway.set("mqtt.external.bind.port", "99999") == 1
    assert capsys.readouterr().err == (
        "Error: failed to set the configuration key: 'mqtt.external.bind.port' with value: 99999.\n\n"
        "Caused by:\n    0: Failed to parse input\n    1: number too large to fit in target type\n"
        "  mqtt.external.bind.port takes a port number from 1 to 65535\n"
    )
    assert gateway.names() == []


def half(new: bytes) -> list[Finding]:
    """A stand-in for the daemon's own check: TLS must be whole."""
    external = tomllib.loads(new.decode()).get("mqtt", {}).get("external", {})
    if ("cert_file" in external) == ("key_file" in external):
        return []
    message = "TLS is half set"
    return [Finding(code="incomplete-tls", severity=Severity.ERROR, where="x", message=message, blocks=Area.BROKER)]


def test_what_would_block_is_refused_before_it_is_written(gateway: Gateway, capsys: Out) -> None:
    gateway.check = half
    assert gateway.set("mqtt.external.cert_file=/c") == 1
    assert capsys.readouterr().err == "Error: x: TLS is half set\n"
    assert gateway.names() == []
    assert gateway.set("mqtt.external.cert_file=/c", "mqtt.external.key_file=/k") == 0


def test_what_was_blocked_before_may_be_mended_step_by_step(gateway: Gateway, capsys: Out) -> None:
    gateway.toml.write_bytes(V2 + b"[mqtt.external]\ncert_file = '/c'\n")
    gateway.check = half
    assert gateway.set("mqtt.client.port=8883") == 0
    assert "Error: x: TLS is half set" in capsys.readouterr().err
    assert gateway.set("mqtt.external.key_file=/k") == 0
    assert gateway.unset("mqtt.external.key_file") == 1


def test_what_is_expected_to_pass_by_itself_refuses_nothing(gateway: Gateway, capsys: Out) -> None:
    waiting = Finding(
        code="c",
        severity=Severity.WARNING,
        where="w",
        message="not yet",
        blocks=Area.BROKER,
        waits=True,
        remedy="wait",
    )
    gateway.check = lambda new: [waiting]
    assert gateway.set("mqtt.bind.port=1884") == 0
    assert capsys.readouterr().err == "Warning: w: not yet\n  wait\n"


# The file ---------------------------------------------------------------------------------------------------


def test_owner_group_and_mode_stay(gateway: Gateway) -> None:
    gateway.toml.write_bytes(V2)
    gateway.toml.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(gateway.toml, 12345, 23456)
    before = gateway.toml.stat()
    assert gateway.set("mqtt.bind.port=1884") == 0
    after = gateway.toml.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_a_new_file_belongs_to_the_services_and_everybody_may_read_it(gateway: Gateway) -> None:
    old = os.umask(0o077)
    try:
        if os.geteuid() == 0:
            assert gateway.set("mqtt.bind.port=1884", user="daemon", group="nogroup") == 0
            assert (gateway.toml.owner(), gateway.toml.group()) == ("daemon", "nogroup")
        else:
            assert gateway.set("mqtt.bind.port=1884") == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE(gateway.toml.stat().st_mode) == 0o644


def test_an_account_that_is_yet_to_come_leaves_a_new_file_with_its_maker(gateway: Gateway) -> None:
    assert gateway.set("mqtt.bind.port=1884", user="nobody-here", group="nobody-here") == 0
    assert (gateway.toml.stat().st_uid, gateway.toml.stat().st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(
    gateway: Gateway, tmp_path: Path, relative: bool, exists: bool
) -> None:
    target = tmp_path / "data" / "real.toml"
    target.parent.mkdir()
    if exists:
        target.write_bytes(V2)
    if not exists and os.geteuid() != 0:
        target.write_bytes(b"")
    gateway.toml.symlink_to(Path("../data/real.toml") if relative else target)
    assert gateway.set("mqtt.bind.port=1884") == 0
    assert gateway.toml.is_symlink()
    assert tomllib.loads(target.read_text())["mqtt"] == {"bind": {"port": 1884}}
    assert os.listdir(target.parent) == ["real.toml"]
    assert gateway.names() == ["tedge.toml"]


def test_a_ring_of_links_ends(gateway: Gateway, capsys: Out) -> None:
    gateway.toml.symlink_to("tedge.toml")
    assert gateway.set("mqtt.bind.port=1884") == 1
    assert "link to a link" in capsys.readouterr().err


def test_a_directory_that_is_missing_is_told(gateway: Gateway, capsys: Out) -> None:
    gateway.toml = gateway.dir / "missing" / "tedge.toml"
    assert gateway.set("mqtt.bind.port=1884") == 1
    assert str(gateway.toml.parent) in capsys.readouterr().err


# Other writers ----------------------------------------------------------------------------------------------


def foreign_set(toml: Path, line: str) -> None:
    """`tedge config set` by another process: no lock, a temporary file, a rename."""
    temporary = toml.with_name(".tmpForeig")
    temporary.write_text(toml.read_text() + line)
    temporary.rename(toml)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_writer_that_takes_no_lock_loses_nothing(gateway: Gateway, in_place: bool) -> None:
    gateway.toml.write_bytes(V2)
    calls = []

    def meanwhile(new: bytes) -> list[Finding]:
        calls.append(new)
        if len(calls) <= 3:
            line = f"\n[foreign{len(calls)}]\nvalue = 1\n"
            if in_place:
                stamp = gateway.toml.stat()
                with gateway.toml.open("a") as file:
                    file.write(line)
                os.utime(gateway.toml, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
            else:
                foreign_set(gateway.toml, line)
        return []

    gateway.check = meanwhile
    assert gateway.set("mqtt.bind.port=1884") == 0
    table = gateway.table()
    assert len(calls) == 4
    assert {"foreign1", "foreign2", "foreign3"} <= table.keys()
    assert table["mqtt"] == {"bind": {"port": 1884}}
    assert gateway.names() == ["tedge.toml"]


def test_a_change_of_the_contents_alone_is_seen(gateway: Gateway) -> None:
    gateway.toml.write_bytes(V2 + b"[foreign]\nvalue = 1\n")
    stamp = gateway.toml.stat()

    def meanwhile(new: bytes) -> list[Finding]:
        with gateway.toml.open("r+b") as file:
            file.write(V2 + b"[foreign]\nvalue = 2\n")
        os.utime(gateway.toml, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        return []

    gateway.check = meanwhile
    assert gateway.set("mqtt.bind.port=1884") == 0
    assert gateway.table()["foreign"] == {"value": 2}


def test_a_file_that_appears_or_goes_meanwhile_is_seen(gateway: Gateway) -> None:
    steps: Iterator[Callable[[], object]] = iter(
        [lambda: gateway.toml.write_bytes(V2 + b"[a]\n"), gateway.toml.unlink, lambda: None]
    )

    def meanwhile(new: bytes) -> list[Finding]:
        next(steps)()
        return []

    gateway.check = meanwhile
    assert gateway.set("mqtt.bind.port=1884") == 0
    assert next(steps, None) is None
    assert gateway.table() == {"config": {"version": "2"}, "mqtt": {"bind": {"port": 1884}}}


def test_a_file_that_never_rests_is_left_alone(gateway: Gateway, capsys: Out) -> None:
    gateway.toml.write_bytes(V2)

    def meanwhile(new: bytes) -> list[Finding]:
        foreign_set(gateway.toml, "# again\n")
        return []

    gateway.check = meanwhile
    assert gateway.set("mqtt.bind.port=1884") == 1
    assert "kept changing" in capsys.readouterr().err
    assert "mqtt" not in gateway.table()
    assert gateway.names() == ["tedge.toml"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    gateway: Gateway, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.toml.write_bytes(V2)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert gateway.set("mqtt.bind.port=1884") == 1
    monkeypatch.undo()
    assert "No space left on device" in capsys.readouterr().err
    assert gateway.toml.read_bytes() == V2
    assert gateway.names() == ["tedge.toml"]


WRITER = """
    import sys, time, tomllib
    from tedge_agentd import config_command
    path, lock, mine, other, prefix = sys.argv[1:]
    def counter(table, key):
        for part in key.split("."):
            table = table.get(part, {})
        return int(str(table or "0").removeprefix("u"))
    seen = 0
    def check(new):
        # Called under the lock: the other's counter never goes back, mine is what I am writing.
        global seen
        now = counter(tomllib.loads(new.decode()), other)
        assert now >= seen, (now, seen)
        seen = now
        time.sleep(0.002)
        return []
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(1, 51):
        assert config_command.set_(path, [mine, f"{prefix}{number}"], lock_path=lock, check=check) == 0
"""


def test_two_processes_with_fifty_writes_each_lose_nothing(gateway: Gateway) -> None:
    gateway.toml.write_bytes(V2 + b"[c8y]\nurl = 'kept'\n")
    keys = [("mqtt.external.bind.port", ""), ("mqtt.client.auth.username", "u")]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), gateway.toml, gateway.lock, mine, other, prefix],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for (mine, prefix), (other, _) in (keys, reversed(keys))
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [(writer.communicate(timeout=60)[0], writer.returncode) for writer in writers] == [("", 0), ("", 0)]
    assert gateway.table() == {
        "config": {"version": "2"},
        "c8y": {"url": "kept"},
        "mqtt": {"external": {"bind": {"port": 50}}, "client": {"auth": {"username": "u50"}}},
    }
    assert gateway.names() == ["tedge.toml"]


def test_the_lock_is_waited_for_and_then_told(gateway: Gateway, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_write, "_LOCK_WAIT_S", 0.1)
    nested: list[int] = []

    def meanwhile(new: bytes) -> list[Finding]:
        if not nested:
            nested.append(1)
            nested[0] = gateway.set("mqtt.client.port=1")
        return []

    gateway.check = meanwhile
    assert gateway.set("mqtt.bind.port=1884") == 0
    assert nested == [1]
    assert "is held by" in capsys.readouterr().err
    assert gateway.table()["mqtt"] == {"bind": {"port": 1884}}
