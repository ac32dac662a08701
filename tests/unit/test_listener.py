"""The listener file: what is written means what was asked for, and nothing else is taken for it."""

import dataclasses
import ipaddress
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tedge_agentd.core import listener, listener_blocks, model
from tests.unit import broker_trees as trees

EXTERNAL = model.Listener(port=8883, tls=trees.MUTUAL)
WANTED = model.ListenerFile(internal=trees.INTERNAL, external=EXTERNAL)

# What thin-edge writes for mqtt.external.{bind.port,cert_file,key_file} (facts/thin-edge.md 3).
THIN_EDGE = "".join(f"{name} {value}\n" for name, value in listener_blocks.GLOBALS) + (
    "listener 1883 127.0.0.1\nallow_anonymous true\nrequire_certificate false\n"
)
THIN_EDGE_SERVER = THIN_EDGE + (
    "listener 8883 \nallow_anonymous true\nrequire_certificate false\ncertfile /src/cert.pem\nkeyfile /src/key.pem\n"
)
THIN_EDGE_MUTUAL = THIN_EDGE + (
    "listener 8883 0.0.0.0\nallow_anonymous false\nrequire_certificate true\nuse_identity_as_username true\n"
    "capath /src/ca\ncertfile /src/cert.pem\nkeyfile /src/key.pem\n"
)
ALIASES = {"/src/cert.pem": "/staged/server.pem", "/src/key.pem": "/staged/server.pem", "/src/ca": "/staged/ca"}


@given(trees.listener_files)
def test_what_is_written_reads_back_as_what_was_asked_for(file: model.ListenerFile) -> None:
    data = listener.render(file)
    assert listener.parse(data) == listener.ParsedListenerFile(file=file)
    assert listener.means_same(data, file)
    assert listener.canonical_of(data, {}) == listener.canonical(file)
    assert listener.is_ours(data)


@given(trees.listener_files)
def test_what_is_written_has_no_control_character_but_the_line_end(file: model.ListenerFile) -> None:
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", listener.render(file).decode()) is None


@given(trees.listener_files, trees.listener_files)
def test_two_files_mean_the_same_exactly_if_their_canonical_texts_are_equal(
    one: model.ListenerFile, other: model.ListenerFile
) -> None:
    assert listener.means_same(listener.render(one), other) == (listener.canonical(one) == listener.canonical(other))


@given(trees.listeners, st.data())
def test_any_single_setting_that_differs_makes_a_difference(one: model.Listener, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["port", "address", "interface", "socket_domain", "tls"]))
    other = dataclasses.replace(one, **{name: getattr(data.draw(trees.listeners), name)})
    assume(other != one)
    # What the address says already, socket_domain need not say again.
    assume(name != "socket_domain" or one.address is None)
    assume(name != "address" or one.socket_domain is None)
    for file in (model.ListenerFile(internal=other), model.ListenerFile(external=other)):
        assert not listener.means_same(listener.render(model.ListenerFile(internal=one)), file)


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_make_the_parser_raise(data: bytes) -> None:
    listener.parse(data)
    listener.canonical_of(data, {"/a": "/b"})
    assert not listener.means_same(data, WANTED)


@given(trees.listener_files, st.data())
def test_no_damage_to_a_line_goes_unnoticed(file: model.ListenerFile, data: st.DataObject) -> None:
    """Whatever becomes of one character outside of comments: equal meaning is claimed for equal blocks alone."""
    lines = listener.render(file).decode().split("\n")
    index = data.draw(st.sampled_from([n for n, line in enumerate(lines) if line and not line.startswith("#")]))
    column = data.draw(st.integers(0, len(lines[index]) - 1))
    new = data.draw(st.sampled_from(["\0", "\t", "\x01", "x", "9", "#", "\ufffe", ""]))
    before = lines[index]
    lines[index] = before[:column] + new + before[column + 1 :]
    assume(lines[index].strip(" ") != before.strip(" ") and not lines[index].startswith("#"))
    damaged = "\n".join(lines).encode()
    if listener.means_same(damaged, file):
        # Only a repeated global of another kind could still be stated elsewhere; none is.
        pytest.fail(f"{before!r} became {lines[index]!r} unnoticed")


bad_paths = st.sampled_from(
    ["", "relative", "./x", " /x", "/x ", "/x\t", "/x\ny", "/x\ry", "/x\0y", "/x\x01", "/x\x7f", "/x\x85", "/x\ufffe",
     "/x\ufdd0", "/x\U0001ffff", "/x\ud800", "/x\u2003", "/" + "x" * 4095]
)  # fmt: skip


@given(bad_paths, st.sampled_from(["certfile", "keyfile", "client_ca", "sources"]))
def test_a_path_that_the_broker_would_not_read_as_itself_is_refused(path: str, place: str) -> None:
    changes: dict[str, Any] = {place: path} if place in {"certfile", "keyfile"} else {}
    if place == "client_ca":
        changes = {"client_ca": model.ClientCa(path=path, is_dir=True)}
    tls = dataclasses.replace(trees.MUTUAL, **changes)
    file = model.ListenerFile(
        external=dataclasses.replace(EXTERNAL, tls=tls), sources=(("role", path),) if place == "sources" else ()
    )
    with pytest.raises(ValueError, match=r"path|absolute"):
        listener.render(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 0},
        {"port": -1},
        {"port": 65536},
        {"interface": ""},
        {"interface": "eth0 "},
        {"interface": "eth0\nuser root"},
        {"interface": "a" * 16},
        {"interface": "eth/0"},
        {"interface": "eth0\n"},
        {"socket_domain": "ipv5"},
        {"socket_domain": "ipv4\nplugin /x.so"},
        {"address": ipaddress.IPv6Address("fe80::1%eth0")},
        {"address": ipaddress.IPv6Address("fe80::1%eth0\nuser root")},
    ],
)
def test_a_value_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        listener.render(model.ListenerFile(external=dataclasses.replace(EXTERNAL, **changes)))


@pytest.mark.parametrize("role", ["", "a\nuser root", "a: b", "a ", "ä"])
def test_a_role_that_could_end_its_comment_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match="role"):
        listener.render(model.ListenerFile(internal=trees.INTERNAL, sources=((role, "/x"),)))


def test_what_protects_a_listener_comes_before_what_can_fail() -> None:
    lines = listener.render(WANTED).decode().split("\n")
    start = lines.index("listener 8883")
    assert lines[start + 1 :] == [
        "require_certificate true",
        "allow_anonymous false",
        "use_identity_as_username true",
        "tls_version tlsv1.2",
        "cafile /staged/client-ca.pem",
        "certfile /staged/server.pem",
        "keyfile /staged/server.pem",
        "",
    ]


def test_ipv6_addresses_are_written_bare() -> None:
    file = model.ListenerFile(internal=model.Listener(port=1883, address=ipaddress.IPv6Address("::1")))
    assert b"\nlistener 1883 ::1\n" in listener.render(file)


# What counts as the same ------------------------------------------------------------------------------------


def test_thin_edges_own_plain_internal_listener_means_the_same() -> None:
    assert listener.means_same(THIN_EDGE.encode(), model.ListenerFile(internal=trees.INTERNAL))
    assert not listener.is_ours(THIN_EDGE.encode())


def test_thin_edges_own_files_need_no_restart_when_they_name_the_sources() -> None:
    server = model.ListenerFile(internal=trees.INTERNAL, external=model.Listener(port=8883, tls=trees.SERVER))
    assert listener.canonical_of(THIN_EDGE_SERVER.encode(), ALIASES) == listener.canonical(server)
    assert not listener.means_same(THIN_EDGE_SERVER.encode(), server)
    mutual = model.ListenerFile(
        internal=trees.INTERNAL,
        external=model.Listener(
            port=8883,
            address=ipaddress.IPv4Address("0.0.0.0"),
            tls=dataclasses.replace(trees.MUTUAL, client_ca=model.ClientCa(path="/staged/ca", is_dir=True)),
        ),
    )
    assert listener.canonical_of(THIN_EDGE_MUTUAL.encode(), ALIASES) == listener.canonical(mutual)


def test_thin_edges_older_mutual_listener_which_refuses_every_client_is_another() -> None:
    older = THIN_EDGE_MUTUAL.replace("use_identity_as_username true\n", "")
    assert listener.canonical_of(older.encode(), ALIASES) != listener.canonical_of(THIN_EDGE_MUTUAL.encode(), ALIASES)


def test_a_client_ca_file_named_as_a_directory_is_another() -> None:
    as_file = THIN_EDGE_MUTUAL.replace("capath", "cafile")
    assert listener.canonical_of(as_file.encode(), ALIASES) != listener.canonical_of(
        THIN_EDGE_MUTUAL.encode(), ALIASES
    )


def edited(*edits: tuple[str, str]) -> bytes:
    text = listener.render(WANTED).decode()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text.encode()


@pytest.mark.parametrize(
    "edit",
    [
        ("# External", "# Another"),
        ("\n\n", "\n"),
        ("\n", "\r\n"),
        ("require_certificate true\nallow_anonymous false\n", "allow_anonymous false\nrequire_certificate true\n"),
        ("require_certificate true", "require_certificate 1"),
        ("allow_anonymous false", "allow_anonymous 0"),
        ("allow_anonymous false\n", "allow_anonymous false\nallow_anonymous false\n"),
        ("allow_anonymous false\n", ""),  # the default wherever a listener is defined, on all versions
        ("require_certificate false\n", ""),
        ("listener 8883\n", "  listener   8883  \n"),
        ("listener 8883\n", "listener 8883\nlog_type error\n"),
        ("cafile /", "cafile     /"),
        ("listener 1883 127.0.0.1\n", "listener 1883 127.0.0.1\nsocket_domain ipv4\n"),
    ],
)
def test_the_same_to_the_broker(edit: tuple[str, str]) -> None:
    assert listener.means_same(edited(edit), WANTED)


@pytest.mark.parametrize(
    "edit",
    [
        ("per_listener_settings true\n", ""),
        ("per_listener_settings true", "per_listener_settings false"),
        ("listener 8883\n", "listener 8883\nper_listener_settings true\n"),
        ("log_type subscribe\n", ""),
        ("log_type subscribe\n", "log_type none\n"),
        ("message_size_limit 268435455", "message_size_limit 1"),
        ("allow_anonymous false", "allow_anonymous true"),
        ("allow_anonymous false\n", "allow_anonymous false\nallow_anonymous true\n"),
        ("require_certificate true", "require_certificate false"),
        ("require_certificate true\n", ""),
        ("use_identity_as_username true\n", ""),
        ("use_identity_as_username true", "use_subject_as_username true"),
        ("tls_version tlsv1.2\n", ""),
        ("tls_version tlsv1.2", "tls_version tlsv1.1"),
        ("tls_version tlsv1.2", "tls_version tlsv1.3"),
        ("tls_version tlsv1.2", "tls_version tlsv1.2\nciphers DEFAULT:@SECLEVEL=0"),
        ("cafile /", "capath /"),
        ("keyfile /staged/server.pem\n", ""),
        ("keyfile /staged/server.pem\n", "keyfile /staged/server.pem\nkeyfile /staged/server.pem\n"),
        ("keyfile /staged/server.pem\n", "keyfile /staged/server.pem # ours\n"),
        ("keyfile /staged", "keyfile\t/staged"),
        ("certfile /staged", "\tcertfile /staged"),
        ("listener 8883\n", "listener 8883 0.0.0.0\n"),
        ("listener 8883\n", "listener 8883 localhost\n"),
        ("listener 8883\n", "listener 08883\n"),
        ("listener 8883\n", "listener 8883x\n"),
        ("listener 8883\n", "listener 8883\nmax_connections 1\n"),
        ("listener 8883\n", "listener 8884\nlistener 8883\n"),
        ("# External", "\0# External"),
        ("# External", "# Ext\0ernal"),
        ("# External", " # External"),
        ("\n# External", "\rnot a comment\n# External"),
        ("# Generated", "\ufeff# Generated"),
        ("# External", "user root\n# External"),
        ("# External", "plugin /x.so\n# External"),
        ("listener 8883\n", "listener 8883\n\nlistener 8883\n"),
    ],
)  # fmt: skip
def test_weaker_broken_or_merely_different(edit: tuple[str, str]) -> None:
    assert not listener.means_same(edited(edit), WANTED)


def test_an_unclear_file_has_no_canonical_text() -> None:
    assert listener.canonical_of(edited(("# External", "user root\n# External")), {}) is None
    assert listener.canonical_of(listener.render(WANTED) + b"\0", {}) is None
    assert listener.parse(edited(("# External", "user root\n# External"))).not_understood == ("line 19: user root",)
