"""A configuration rewritten for a sandbox tells of the real one, line by line."""

import ipaddress
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tedge_agentd.core import candidate, conf_places, listener, model, mosquitto_conf
from tests.unit import broker_trees as trees
from tests.unit.broker_trees import CONF_D, MAIN, OURS, TEDGE, tree
from tests.unit.test_conflicts import ETH0, INTERFACES
from tests.unit.test_mosquitto_conf import contents

WANTED = model.ListenerFile(internal=trees.INTERNAL, external=model.Listener(port=8883, tls=trees.MUTUAL))
HERE = candidate.Sandbox()


def tried(conf: mosquitto_conf.BrokerConf, content: bytes | None = None) -> candidate.Candidate:
    return candidate.candidate(conf, OURS, content, interfaces=INTERFACES, sandbox=HERE)


def reread(trial: candidate.Candidate) -> mosquitto_conf.BrokerConf:
    """The configuration that the broker reads in the sandbox."""
    return mosquitto_conf.read_tree(trial.main, trees.Files(dict(trial.files), TEDGE, CONF_D))


@given(contents, contents)
def test_no_bytes_make_it_raise_and_lines_stay_where_they_are(main: bytes, ours: bytes) -> None:
    conf = tree(main, conf_d__x=ours)
    trial = tried(conf, ours)
    originals = dict(trial.conf.files)
    for path, data in trial.files.items():
        before, after = originals[path].split(b"\n"), data.split(b"\n")
        assert len(after) >= len(before)
        assert path == MAIN or len(after) == len(before)
        for old, new in zip(before[:-1], after, strict=False):
            unchanged = old.strip(b" \r") == new.strip(b" \r")
            assert unchanged or new == b"# " + old or new.split(b" ")[0] in {
                b"listener", b"port", b"bind_address", b"log_dest", b"persistence", b"retained_persistence",
            }  # fmt: skip


@given(contents)
@example(b"pid_file\0")
def test_nothing_that_leaves_a_trace_remains(ours: bytes) -> None:
    names = (
        "persistence_file x\npersistence_location /x\npid_file /x\nautosave_interval 1\nautosave_on_changes true\n"
    )
    conf = reread(tried(tree(f"persistence true\nlog_dest file /x\n{names}{trees.DEBIAN}"), ours))
    if b"\0" not in ours:
        dests = [d.value for d in conf.directives if d.name == "log_dest"]
        assert dests.count("stderr") == len(dests) == 1
    left = {"persistence_file", "persistence_location", "pid_file", "autosave_interval", "autosave_on_changes"}
    assert not left & {directive.name for directive in conf.directives}
    assert not conf.persistence or any(d.name.endswith("persistence") and d.file == OURS for d in conf.directives)


_addresses = st.sampled_from(
    [
        None,
        "*",
        "0.0.0.0",
        "127.0.0.1",
        "127.0.0.2",
        "127.77.0.1",
        "10.0.0.1",
        "10.0.0.2",
        "192.168.1.1",
        "nas.example",
    ]
)
_blocks = st.lists(st.tuples(st.sampled_from([80, 443, 1883, 49152]), _addresses, st.booleans()), max_size=6)


@given(_blocks)
def test_listeners_that_exclude_each_other_still_do_and_no_others(
    blocks: list[tuple[int, str | None, bool]],
) -> None:
    text = "".join(
        f"listener {port}\nbind_interface eth0\nsocket_domain ipv4\n"
        if on_eth0
        else f"listener {port} {address or ''}\n"
        for port, address, on_eth0 in blocks
    )
    conf = tree(text)
    trial = reread(tried(conf))
    assert len(conf.listeners) == len(trial.listeners)
    for (one, new_one), (other, new_other) in itertools.combinations(
        zip(conf.listeners, trial.listeners, strict=True), 2
    ):
        real, there = collide(one, other, INTERFACES), collide(new_one, new_other, {})
        assert real is None or real == there


def collide(
    one: mosquitto_conf.ConfListener, other: mosquitto_conf.ConfListener, interfaces: dict[str, model.Interface]
) -> bool | None:
    places, others = conf_places.taken(one, interfaces), conf_places.taken(other, interfaces)
    if places is None or others is None:
        return None
    return one.port == other.port and conf_places.overlap(places, others)


@given(trees.listener_files)
def test_only_loopback_and_wildcard_addresses_and_free_ports_remain(file: model.ListenerFile) -> None:
    interfaces = {
        name: model.Interface(name=name, ipv4=ETH0.ipv4) for name in {one.interface for one in file.listeners} if name
    }
    trial = candidate.candidate(tree(), OURS, listener.render(file), interfaces=interfaces, sandbox=HERE)
    for found in reread(trial).listeners:
        assert found.port >= 1024
        if found.option("bind_interface") is None:
            places = conf_places.taken(found, {})
            assert places is not None
            assert all(place.is_loopback or place.is_unspecified for place in places)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("listener 8883 10.0.0.5", "listener 8883 127.77.0.1"),
        ("listener 8883 10.0.0.5 # c\r", "listener 8883 127.77.0.1"),
        ("listener 8883 127.1", "listener 8883 127.0.0.1"),
        ("listener 8883", "listener 8883"),
        ("listener  8883  0.0.0.0  x", "listener  8883  0.0.0.0  x"),
        ("listener 8883 localhost", "listener 8883 localhost"),
        ("listener 443", "listener 49152"),
        ("listener 8883 2001:db8::5", "listener 8883 ::1"),
        ("listener 8883 2001:db8::5\nlistener 8883 2001:db8::6", "listener 8883 ::1\nlistener 49152 127.77.0.1"),
        ("listener 8883 2001:db8::5\nlistener 8883 2001:db8::5", "listener 8883 ::1\nlistener 8883 ::1"),
        ("listener 8883 ::1\nlistener 8883 2001:db8::6", "listener 8883 ::1\nlistener 49152 127.77.0.1"),
        ("listener 8883\nbind_interface eth0", "listener 8883 127.77.0.1\n# bind_interface eth0"),
        ("listener 8883 10.0.0.1\nbind_interface eth0", "listener 8883 127.77.0.1\n# bind_interface eth0"),
        ("listener 8883 10.0.0.2\nbind_interface eth0", "listener 8883 10.0.0.2\nbind_interface eth0"),
        ("listener 8883\nbind_interface gone0", "listener 8883\nbind_interface gone0"),
        ("listener 1 ::2\nsocket_domain ipv6\nlistener 1 ::3\nsocket_domain ipv6",
         "listener 49152 ::1\nsocket_domain ipv6\nlistener 49153 127.77.0.1\n# socket_domain ipv6"),
        ("listener 9001 10.0.0.5\nprotocol websockets", "listener 9001 127.0.0.1\nprotocol websockets"),
        ("listener 0 /run/x.sock", "listener 49152 127.0.0.1"),
        ("listener 0", "listener 0"),
        ("listener 99999", "listener 99999"),
        ("listener 8883 [::1]", "listener 8883 [::1]"),
        ("port 80\nbind_address 10.0.0.5", "port 49152\nbind_address 127.77.0.1"),
        ("bind_interface eth0", "bind_address 127.77.0.1"),
        ("listener 8883 10.0.0.5\0\nlistener 8883 10.0.0.6", "listener 8883 10.0.0.5\0\nlistener 8883 10.0.0.6"),
        ("connection c\naddress 10.0.0.5:1883\ntopic # both", "connection c\naddress 10.0.0.5:1883\ntopic # both"),
        ("plugin /x.so\nplugin_opt_a b", "plugin /x.so\nplugin_opt_a b"),
        ("log_dest file /x\nlog_dest topic", "log_dest stderr\n# log_dest topic"),
        ("persistence true", "persistence false"),
        ("pid_file /x", "# pid_file /x"),
        ("certfile /st/server.pem", "certfile /tmp/1/server.pem"),
        ("capath /st", "capath /tmp/1"),
        ("cafile /stx", "cafile /stx"),
        ("bridge_cafile /st/x", "bridge_cafile /st/x"),
        (f"include_dir {TEDGE}/", f"include_dir /tmp/2{TEDGE}"),
    ],
)  # fmt: skip
def test_a_line_becomes(lines: str, expected: str) -> None:
    sandbox = candidate.Sandbox(staging={"/st": "/tmp/1"}, root="/tmp/2")
    trial = candidate.candidate(tree(lines), OURS, None, interfaces=INTERFACES, sandbox=sandbox)
    assert trial.files[MAIN].decode().startswith(expected + "\n")


def test_the_broker_is_made_to_say_why_on_stderr() -> None:
    report = "log_type error\nlog_type warning\nlog_type notice\nlog_type information\n"
    assert tried(tree("user x")).files[MAIN].decode() == f"user x\nlog_dest stderr\n{report}"
    assert tried(tree("log_dest none\n")).files[MAIN].decode() == f"log_dest stderr\n{report}"


def test_the_listener_file_is_put_in_or_taken_away() -> None:
    conf = tree(tedge__tedge_mosquitto="listener 1\n", conf_d__x="user a\n")
    assert set(tried(conf, None).files) == {MAIN, f"{CONF_D}/x.conf"}
    trial = tried(conf, listener.render(WANTED))
    assert trial.files[OURS] == listener.render(WANTED)
    assert [(one.listener.port, one.port) for one in trial.listeners] == [(1883, 1883), (8883, 8883)]


def test_where_a_listener_is_to_be_found_in_the_sandbox() -> None:
    file = model.ListenerFile(external=model.Listener(port=443, address=ipaddress.IPv4Address("10.0.0.1")))
    (one,) = tried(tree(), listener.render(file)).listeners
    assert (one.listener.port, one.listener.address, one.port, one.address) == (443, "10.0.0.1", 49152, "127.77.0.1")


# Why it was refused -----------------------------------------------------------------------------------------

TRIAL = candidate.candidate(
    tree(tedge__tedge_mosquitto="", conf_d__x="listener 443\ncertfile /other.pem\n"),
    OURS,
    listener.render(WANTED),
    interfaces={},
    sandbox=candidate.Sandbox(staging={"/staged": "/run/try/staged"}, root="/run/try"),
)
KEYS = {"/staged/server.pem": "mqtt.external.cert_file", "/staged/client-ca.pem": "mqtt.external.ca_path"}
SSL = "1795432495: OpenSSL Error[0]: error:"


@pytest.mark.parametrize(
    ("stderr", "where", "message", "remedy"),
    [
        (
            'Error: Unable to load server certificate "/run/try/staged/server.pem". Check certfile.\n'
            f"{SSL}0A00018F:SSL routines::ee key too small",
            "mqtt.external.cert_file",
            'Error: Unable to load server certificate "/staged/server.pem". Check certfile.'
            " (its RSA key is too short for this system's OpenSSL)",
            "make a key of 2048 bits or more",
        ),
        (
            'Error: Unable to load server key file "/other.pem". Check keyfile.\n'
            f"{SSL}8000000D:system library::Permission denied",
            f"{CONF_D}/x.conf:2",
            'Error: Unable to load server key file "/other.pem". Check keyfile. (the broker\'s user may not read it)',
            "ls -l /other.pem; namei -l /other.pem",
        ),
        (
            'Error: Unable to load CA certificates. Check cafile "/run/try/staged/client-ca.pem".\n'
            f"{SSL}05800088:x509 certificate routines::no certificate or crl found",
            "mqtt.external.ca_path",
            'Error: Unable to load CA certificates. Check cafile "/staged/client-ca.pem".'
            " (it holds no certificate in PEM)",
            "openssl x509 -noout -in /staged/client-ca.pem",
        ),
        (
            "1795432495: Opening ipv4 listen socket on port 8883.\n"
            "1795432495: Opening ipv4 listen socket on port 49152.\n"
            "1795432495: Error: Address already in use",
            f"{CONF_D}/x.conf:1",
            f"Error: Address already in use (port 443 is asked for at {CONF_D}/x.conf:1)",
            f"remove one of these listeners, or give it a port of its own: {CONF_D}/x.conf:1",
        ),
        (
            f'Error: Unknown configuration variable "certfle".\nError found at /run/try{CONF_D}/x.conf:2.\n'
            f"Error found at /run/try{MAIN}:5.",
            f"{CONF_D}/x.conf:2",
            'Error: Unknown configuration variable "certfle".',
            "remove or correct that line",
        ),
        (
            f"Error: Unknown configuration variable 'certfle'.\nError found at '/run/try{CONF_D}/x.conf:2'.\n"
            f"Error found at /run/try{MAIN}:5.",
            f"{CONF_D}/x.conf:2",
            "Error: Unknown configuration variable 'certfle'.",
            "remove or correct that line",
        ),
        (
            f"Loading config file '/run/try{CONF_D}/x.conf'\nError: Unable to open config file"
            f" '/run/try{CONF_D}/x.conf'.\nError found at /run/try{MAIN}:5.\nmosquitto version 2.1.2 terminating",
            f"{MAIN}:5",
            f"Error: Unable to open config file '{CONF_D}/x.conf'.",
            f"ls -ld {CONF_D}/x.conf",
        ),
        (
            f"Error: Unable to open include_dir '/run/try{CONF_D}'.\nError found at /run/try{MAIN}:5.",
            f"{MAIN}:5",
            f"Error: Unable to open include_dir '{CONF_D}'.",
            f"ls -ld {CONF_D}",
        ),
        (
            "Warning: Interface gone0 does not support IPv4 configuration.",
            MAIN,
            "Warning: Interface gone0 does not support IPv4 configuration.",
            "ip address show dev gone0",
        ),
        (
            "2026-01-01T00:00:00+0000: Error: Something new in version 3.\nbye",
            MAIN,
            "Error: Something new in version 3.",
            "tedge-agentd plan --diff shows what was tried",
        ),
        ("", MAIN, "it ended without a word", "tedge-agentd plan --diff shows what was tried"),
    ],
)
def test_the_brokers_own_words_are_handed_on_with_place_and_remedy(
    stderr: str, where: str, message: str, remedy: str
) -> None:
    assert candidate.explain(TRIAL, stderr, KEYS) == model.Finding(
        code="preflight-refused",
        severity=model.Severity.ERROR,
        where=where,
        message=f"the broker refuses the new configuration: {message}",
        remedy=remedy,
        blocks=model.Area.BROKER,
    )


@given(st.text())
def test_no_words_of_the_broker_make_it_raise(stderr: str) -> None:
    finding = candidate.explain(TRIAL, stderr, KEYS)
    assert finding.message.isprintable()
