"""A broker's configuration is read as Mosquitto reads it. tests/host/test_listener_with_broker.py asks the broker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import conf_lines, model, mosquitto_conf
from tests.unit import broker_trees as trees
from tests.unit.broker_trees import CONF_D, MAIN, OURS, TEDGE, tree

_words = st.sampled_from(
    [
        b"listener", b"8883", b"127.0.0.1", b"[::1]", b"0", b"/run/x.sock", b"99999", b"port", b"bind_address",
        b"include_dir", TEDGE.encode(), b"certfile", b"per_listener_settings", b"true", b"false", b"allow_anonymous",
        b"plugin", b"plugin_opt_\xff", b" ", b"  ", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"#", b"\xef\xbb\xbf",
        b"\xff",
        b"max_connections", b"-1", b"require_certificate", b"log_dest", b"none", b"persistence", b"user", b"pid_file",
    ]
)  # fmt: skip
contents = st.binary(max_size=200) | st.lists(_words, max_size=40).map(b" ".join) | st.lists(_words).map(b"".join)
names = st.text(max_size=8).map(lambda text: text.replace("/", "") + ".conf")


@given(contents, st.dictionaries(names, contents, max_size=3))
def test_no_bytes_make_it_raise(main: bytes, included: dict[str, bytes]) -> None:
    files: dict[str, bytes | str] = {MAIN: main, **{f"{TEDGE}/{name}": data for name, data in included.items()}}
    conf = mosquitto_conf.read_tree(MAIN, trees.Files(files, TEDGE))
    mosquitto_conf.find_listener_file(conf, "/etc/tedge")
    assert [conf.user, conf.persistence, conf.log_dests, conf.pid_file, conf.per_listener_settings]
    for finding in conf.findings:
        assert f"{finding.where}{finding.message}{finding.remedy}".isprintable()


@given(contents, st.dictionaries(names, contents, max_size=3))
def test_putting_a_file_back_as_it_is_changes_nothing(main: bytes, included: dict[str, bytes]) -> None:
    files: dict[str, bytes | str] = {MAIN: main, **{f"{TEDGE}/{name}": data for name, data in included.items()}}
    conf = mosquitto_conf.read_tree(MAIN, trees.Files(files, TEDGE))
    for path, data in conf.files:
        assert mosquitto_conf.replaced(conf, path, data) == conf


@given(contents)
def test_replacing_a_file_is_reading_the_tree_with_it(data: bytes) -> None:
    before, after = tree(tedge__a="log_type all\n"), tree(tedge__a="log_type all\n", tedge__tedge_mosquitto=data)
    assert mosquitto_conf.replaced(before, OURS, data) == after
    assert mosquitto_conf.replaced(after, OURS, None) == before


# Lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"certfile /a b/#c\"'\\$d.pem", ("certfile", "/a b/#c\"'\\$d.pem")),
        (b"  certfile   /a \t", ("certfile", "/a")),
        (b"certfile /a # comment", ("certfile", "/a # comment")),
        (b"certfile /a\r", ("certfile", "/a")),
        (b"certfile /a\xc2\xa0", ("certfile", "/a\xa0")),  # not a space to C
        (b"certfile\t/a", ("certfile\t/a", "")),
        (b"# certfile /a", None),
        (b" # x", ("#", "x")),
        (b"\rcertfile /a", None),
        (b"   ", None),
        (b"", None),
        (b"include_dir  /a ", ("include_dir", " /a ")),
    ],
)
def test_a_line_is_split_as_the_broker_splits_it(line: bytes, expected: tuple[str, str] | None) -> None:
    found = [(d.name, d.value) for d in conf_lines.directives_of("f", line)]
    assert found == ([] if expected is None else [expected])


def test_after_a_nul_byte_nothing_more_is_read() -> None:
    conf = tree(
        f"include_dir {TEDGE}\nuser a\n", tedge__x="listener 1\n# a\0b\nrequire_certificate true\nlistener 2\n"
    )
    assert [(found.port, found.directives) for found in conf.listeners] == [(1, ())]
    assert conf.user == "a"
    assert [(f.code, f.where, f.blocks) for f in conf.findings] == [
        ("broker-conf-nul", f"{TEDGE}/x.conf:2", model.Area.BROKER)
    ]


# Includes ---------------------------------------------------------------------------------------------------


def test_includes_are_read_in_place_and_in_the_brokers_order() -> None:
    files = {
        f"{TEDGE}/{n}": "" for n in ["b.conf", "B.conf", "a.conf", "10.conf", "9.conf", ".hidden.conf", "-m.conf"]
    }
    ignored = {f"{TEDGE}/{n}": "" for n in ["x.CONF", "x.conf.bak", ".conf", "x"]}
    conf = mosquitto_conf.read_tree(
        MAIN, trees.Files({MAIN: f"user a\ninclude_dir {TEDGE}\nuser b\n", **files, **ignored})
    )
    assert [path.rpartition("/")[2] for path, _ in conf.files[1:]] == [
        "-m.conf", ".hidden.conf", "10.conf", "9.conf", "a.conf", "B.conf", "b.conf",
    ]  # fmt: skip
    assert conf.user == "b"


def test_each_file_starts_with_no_listener_and_the_main_one_keeps_its_own() -> None:
    conf = tree(
        f"listener 1 ::1\ninclude_dir {TEDGE}\nrequire_certificate true\n",
        tedge__a="listener 2\n",
        tedge__b="certfile /x\n",
    )
    assert [(found.port, found.address, found.implied) for found in conf.listeners] == [
        (1, "::1", False),
        (2, None, False),
        (1883, None, True),
    ]
    assert conf.listeners[0].is_true("require_certificate")
    assert [(f.code, f.where) for f in conf.findings] == [("stray-listener-option", f"{TEDGE}/b.conf:1")]


@pytest.mark.parametrize(
    ("line", "opens"),
    [
        ("certfile /x", True),
        ("bind_interface eth0", True),
        ("require_certificate true", True),
        ("require_certificate false", False),
        ("max_connections 100", True),
        ("max_connections -1", False),
        ("max_qos 2", False),
        ("max_qos 1", True),
        ("protocol websockets", True),
        ("protocol mqtt", False),
        ("socket_domain ipv4", True),
        ("tls_version tlsv1.2", False),
        ("password_file /x", False),
        ("per_listener_settings true\npassword_file /x", True),
        ("per_listener_settings true\nplugin /x.so", True),
        ("per_listener_settings true\nallow_anonymous true", False),
        ("per_listener_settings true\nallow_zero_length_clientid false", True),
        ("port 1884", True),
        ("bind_address 127.0.0.1", True),
        ("max_packet_size 3", False),
    ],
)
def test_options_outside_of_a_block_may_open_a_listener(line: str, opens: bool) -> None:
    assert any(found.implied for found in tree(f"{line}\nlistener 8883\n").listeners) is opens


def test_the_old_settings_open_a_listener_where_they_say() -> None:
    (found,) = tree("bind_address 127.0.0.1\nport 1884\n").listeners
    assert (found.port, found.address, found.implied, found.line) == (1884, "127.0.0.1", True, 1)


# What is refused or misread ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "refused"),
    [
        ("listener\n", 1, True),
        ("listener 70000\n", 1, True),
        ("listener -1\n", 1, True),
        ("listener abc\n", 1, True),
        ("listener 0\n", 1, True),
        ("listener 8883 [::1]\n", 1, True),
        ("listener 08883\n", 1, False),
        ("listener 8883x\n", 1, False),
        ("listener 8883\t127.0.0.1\n", 1, False),
        ("user a\n # x\n", 2, True),
        ("\tlistener 1\n", 1, True),
        ("certfile\t/x\n", 1, True),
        ("\ufefflistener 1\n", 1, True),
        ("include_dir /nowhere\n", 1, True),
        (f"include_dir  {TEDGE}\n", 1, True),
        ("include_dir\n", 1, True),
        ("listener 1\ncertfile\n", 2, True),
        ("listener 1\ncertfile /a\x01b\n", 2, True),
        ("listener 1\ncertfile /a\ufffe\n", 2, True),
    ],
)
def test_what_the_broker_refuses_or_misreads_is_found(text: str, line: int, refused: bool) -> None:
    (finding,) = tree(text).findings
    assert finding.where == f"{MAIN}:{line}"
    assert finding.blocks == (model.Area.BROKER if refused else None)
    assert finding.remedy


@pytest.mark.parametrize(
    "text",
    ["listener 1883\n", "listener 0 /run/x.sock\n", "listener 8883 ::1 # c\n", "listener 1 #c\n", trees.DEBIAN, ""],
)
def test_what_is_in_order_is_not_spoken_of(text: str) -> None:
    assert tree(text).findings == ()


def test_a_directory_named_like_a_file_is_found() -> None:
    class WithDirectory(trees.Files):
        def list_dir(self, path: str) -> tuple[str, ...]:
            return (*super().list_dir(path), "sub.conf")

    conf = mosquitto_conf.read_tree(MAIN, WithDirectory({MAIN: f"include_dir {TEDGE}\n"}, TEDGE))
    assert [(f.code, f.where) for f in conf.findings] == [("broker-conf-unreadable", f"{TEDGE}/sub.conf")]


def test_an_include_in_an_included_file_is_not_followed() -> None:
    conf = tree(f"include_dir {TEDGE}\n", tedge__a=f"include_dir {CONF_D}\n", conf_d__b="listener 1\n")
    assert conf.listeners == ()
    assert [(f.where, f.blocks) for f in conf.findings] == [(f"{TEDGE}/a.conf:1", None)]


def test_without_a_broker_package_one_waits_for_it() -> None:
    conf = mosquitto_conf.read_tree(MAIN, trees.Files({}))
    assert [(f.where, f.waits, f.remedy) for f in conf.findings] == [(MAIN, True, "apt install mosquitto")]
    assert mosquitto_conf.find_listener_file(conf, "/etc/tedge") == (None, ())


# What it says as a whole ------------------------------------------------------------------------------------


def test_accessors() -> None:
    conf = tree(
        "user nobody\nuser mosquitto\npersistence 1\npersistence_location /var/lib/mosquitto/\npid_file /run/m.pid\n"
        "log_dest syslog\nlog_dest none\nlog_dest file /var/log/m.log\nlog_dest stderr\nper_listener_settings true\n"
    )
    assert conf.user == "mosquitto"
    assert conf.persistence
    assert conf.persistence_location == "/var/lib/mosquitto/"
    assert conf.pid_file == "/run/m.pid"
    assert conf.log_dests == ("file /var/log/m.log", "stderr")
    assert conf.per_listener_settings
    assert conf.is_local_only
    assert tree("").user == "mosquitto"


@pytest.mark.parametrize(
    ("main", "expected", "codes"),
    [
        (trees.DEBIAN, OURS, []),
        (f"include_dir {CONF_D}\n", f"{CONF_D}/tedge-mosquitto.conf", []),
        (f"include_dir {CONF_D}\ninclude_dir {TEDGE}/\n", OURS, []),
        (f"include_dir {TEDGE}\ninclude_dir {TEDGE}/\n", OURS, ["listener-conflict"]),
        ("user mosquitto\n", None, ["no-include-dir"]),
    ],
)
def test_where_the_listener_file_belongs(main: str, expected: str | None, codes: list[str]) -> None:
    path, findings = mosquitto_conf.find_listener_file(tree(main), "/etc/tedge")
    assert path == expected
    assert [finding.code for finding in findings] == codes
