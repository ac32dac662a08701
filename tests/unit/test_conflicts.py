"""What in the rest of the broker's configuration keeps the listener file from working."""

import dataclasses
import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import conf_places, conflicts, model
from tests.unit import broker_trees as trees
from tests.unit.broker_trees import CONF_D, MAIN, OURS, TEDGE, tree

ETH0 = model.Interface(name="eth0", ipv4=ipaddress.IPv4Address("10.0.0.1"), ipv6=ipaddress.IPv6Address("2001:db8::1"))
INTERFACES = {"eth0": ETH0}
INTERNAL = model.ListenerFile(internal=trees.INTERNAL)


def on(port: int, address: str | None = None, interface: str | None = None) -> model.Listener:
    parsed = None if address is None else ipaddress.ip_address(address)
    return model.Listener(port=port, address=parsed, interface=interface)


def found(wanted: model.ListenerFile, main: str = trees.DEBIAN, **files: str) -> list[tuple[str, str]]:
    findings = conflicts.find(tree(main, **files), OURS, wanted, INTERFACES)
    assert all(finding.remedy for finding in findings)
    return [(finding.code, finding.where) for finding in findings]


def test_debians_configuration_has_nothing_against_a_listener_file() -> None:
    wanted = model.ListenerFile(internal=trees.INTERNAL, external=model.Listener(port=8883, tls=trees.MUTUAL))
    assert found(wanted) == []


def test_the_listener_file_on_disk_is_no_rival_of_the_wanted_one() -> None:
    assert found(INTERNAL, tedge__tedge_mosquitto="listener 1883 127.0.0.1\n\tbroken\0") == []


# All of facts/mosquitto.md 5 and 6: (the wanted external listener, another file's lines, whether both can be).
OVERLAPS = [
    (on(8883), "listener 8883", True),
    (on(8883), "listener 8884", False),
    (on(8883), "listener 8883 10.9.9.9", True),
    (on(8883), "listener 8883 ::1", True),
    (on(8883), "listener 8883 nas.example", True),
    (on(8883, "127.0.0.2"), "listener 8883 127.0.0.1", False),
    (on(8883, "127.0.0.1"), "listener 8883 127.0.0.1", True),
    (on(8883, "127.0.0.1"), "listener 8883 127.1", True),
    (on(8883, "127.0.0.1"), "listener 8883 ::1", False),
    (on(8883, "127.0.0.1"), "listener 8883 0.0.0.0", True),
    (on(8883, "127.0.0.1"), "listener 8883 *", True),
    (on(8883, "127.0.0.1"), "listener 8883 localhost", True),
    (on(8883, "::1"), "listener 8883 localhost", False),
    (on(8883, "127.0.0.1"), "listener 8883 nas.example", False),
    (on(8883, "0.0.0.0"), "listener 8883 ::", False),
    (on(8883, "::"), "listener 8883 ::1", True),
    (on(8883, "::"), "listener 8883\nsocket_domain ipv4", False),
    (on(8883, "10.0.0.1"), "listener 8883\nbind_interface eth0", True),
    (on(8883, "2001:db8::1"), "listener 8883\nbind_interface ETH0", True),
    (on(8883, "2001:db8::1"), "listener 8883\nbind_interface eth0\nsocket_domain ipv4", False),
    (on(8883, "10.0.0.2"), "listener 8883\nbind_interface eth0", False),
    (on(8883, None, "eth0"), "listener 8883 127.0.0.1", False),
    (on(8883, None, "eth0"), "listener 8883 0.0.0.0", True),
    (on(8883), "listener 8883\nbind_interface gone0", False),
    (on(1883, "10.0.0.1"), "max_connections 5", True),
    (on(1884, "10.0.0.1"), "port 1884", True),
    (on(1884, "10.0.0.1"), "port 1884\nbind_address 127.0.0.1", False),
    (on(8883), "listener 0 /run/8883", False),
]


@pytest.mark.parametrize(("wanted", "lines", "collides"), OVERLAPS)
def test_a_listener_of_another_file_that_is_in_the_way_is_named(
    wanted: model.Listener, lines: str, collides: bool
) -> None:
    codes = found(model.ListenerFile(external=wanted), conf_d__other=f"# hand-written\n{lines}\n")
    assert (("listener-conflict", f"{CONF_D}/other.conf:2") in codes) is collides


def test_a_conflict_names_both_sides_and_the_way_out() -> None:
    (conflict, _) = conflicts.find(tree(conf_d__x="listener 1883\n"), OURS, INTERNAL, {})
    assert conflict == model.Finding(
        code="listener-conflict",
        severity=model.Severity.ERROR,
        where=f"{CONF_D}/x.conf:1",
        message="port 1883 on all addresses, opened here, overlaps the internal listener (port 1883 on 127.0.0.1)",
        remedy=f"remove the listener at line 1 of {CONF_D}/x.conf, or tedge config set mqtt.bind.port PORT,"
        " or tedge config set mqtt.bind.enabled false",
        blocks=model.Area.BROKER,
    )


def test_our_own_listeners_may_not_overlap_either() -> None:
    assert found(model.ListenerFile(internal=trees.INTERNAL, external=on(1883))) == [
        ("listener-conflict", "mqtt.external.bind.port")
    ]
    assert found(model.ListenerFile(internal=trees.INTERNAL, external=on(1883, "10.0.0.1"))) == []


_places = st.lists(st.ip_addresses() | st.sampled_from([conf_places.ALL_IPV4, conf_places.ALL_IPV6]), max_size=3)


@given(_places.map(tuple), _places.map(tuple))
def test_overlap_is_mutual(one: tuple[model.IPAddress, ...], other: tuple[model.IPAddress, ...]) -> None:
    assert conf_places.overlap(one, other) == conf_places.overlap(other, one)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("10.1.256", "10.1.1.0"),
        ("1.2.3.256", None),
        ("256.1", None),
        ("4294967296", None),
        ("08.1", None),
        ("1..2", None),
        ("", None),
    ],
)
def test_old_spellings_of_ipv4_addresses(text: str, value: str | None) -> None:
    assert conf_places.resolved(text) == (None if value is None else (ipaddress.ip_address(value),))


# per_listener_settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["allow_anonymous true", "password_file /x", "plugin /x.so", "auto_id_prefix x"])
def test_a_security_setting_that_is_read_first_is_an_error(option: str) -> None:
    main = f"{option}\ninclude_dir {TEDGE}\n"
    (first, *_) = conflicts.find(tree(main), OURS, INTERNAL, {})
    assert (first.code, first.where, first.blocks) == ("per-listener-settings", f"{MAIN}:1", model.Area.BROKER)
    assert first.remedy == f"in {MAIN}, move line 2 (include_dir {TEDGE}) above line 1"


def test_a_file_that_is_read_before_ours_with_a_security_setting_is_an_error() -> None:
    assert ("per-listener-settings", f"{TEDGE}/a.conf:2") in found(
        INTERNAL, tedge__a="listener 9\nallow_anonymous true\n"
    )


def test_plain_lines_before_ours_are_none() -> None:
    assert found(INTERNAL, tedge__a="listener 9\nmax_connections 3\nuse_identity_as_username true\n") == []


def test_setting_it_again_after_a_security_setting_is_an_error() -> None:
    assert found(INTERNAL, conf_d__z="per_listener_settings true\n") == [
        ("per-listener-settings", f"{CONF_D}/z.conf:1")
    ]


def test_switching_it_off_after_ours_is_an_error() -> None:
    assert found(INTERNAL, conf_d__z="per_listener_settings false\n") == [
        ("per-listener-settings", f"{CONF_D}/z.conf:1")
    ]
    assert found(INTERNAL, tedge__a="per_listener_settings false\n") == []


def test_listeners_that_relied_on_global_settings_are_named() -> None:
    codes = found(
        INTERNAL,
        conf_d__a="listener 9\n",
        conf_d__b="listener 10\nallow_anonymous true\n",
        conf_d__c="allow_anonymous true\n",
    )
    assert codes == [
        ("listener-without-access", f"{CONF_D}/a.conf:1"),
        ("global-security-setting", f"{CONF_D}/c.conf:1"),
    ]


def test_nothing_changes_for_them_where_it_is_on_anyway() -> None:
    main = f"per_listener_settings true\n{trees.DEBIAN}"
    assert found(INTERNAL, main, conf_d__a="listener 9\n") == []


def test_a_plugin_outside_of_a_block_becomes_a_listener_of_its_own() -> None:
    """With per_listener_settings it belongs to the default listener, which then is opened on all addresses."""
    assert found(INTERNAL, conf_d__dynsec="plugin /x.so\n") == [
        ("stray-listener-option", f"{CONF_D}/dynsec.conf:1"),
        ("listener-conflict", f"{CONF_D}/dynsec.conf:1"),
        ("global-security-setting", f"{CONF_D}/dynsec.conf:1"),
    ]


def test_a_directory_that_is_not_included_is_found() -> None:
    assert found(INTERNAL, f"include_dir {CONF_D}\n") == [("no-include-dir", MAIN)]


def test_without_listeners_of_ours_nothing_is_in_the_way() -> None:
    assert found(model.ListenerFile(), "allow_anonymous true\nlistener 1883\n") == []


@given(trees.listener_files, st.sampled_from([lines for _, lines, _ in OVERLAPS]))
def test_it_answers_for_whatever_can_be_written(file: model.ListenerFile, lines: str) -> None:
    conflicts.find(tree(conf_d__other=lines), OURS, file, INTERFACES)


def test_ours_and_theirs_are_symmetric() -> None:
    """Whoever is whose: what overlaps as another file's listener overlaps as our second one."""
    plain = [wanted for wanted, _, _ in OVERLAPS if wanted.interface is None]
    for one, other in itertools.product(plain, plain):
        text = f"listener {other.port} {other.address or ''}\n"
        theirs = ("listener-conflict", f"{CONF_D}/o.conf:1") in found(
            model.ListenerFile(external=one), conf_d__o=text
        )
        both = model.ListenerFile(internal=dataclasses.replace(other), external=one)
        assert theirs == (("listener-conflict", "mqtt.external.bind.port") in found(both))
