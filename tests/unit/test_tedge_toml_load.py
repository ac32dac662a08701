"""What is no TOML is one finding with its place; keys of what is are found where they stand."""

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from tedge_agentd.core import tedge_toml, toml_load, toml_scan
from tedge_agentd.core.model import Area, Finding

WHERE = "/etc/tedge/tedge.toml"


@pytest.mark.parametrize(
    ("data", "place", "words"),
    [
        (b"mqtt = \n", ":1:8", "Invalid value"),
        (b"[mqtt]\nport = 1883\nbind = {\n", ":3:9", "not TOML"),
        (b"[mqtt\n", ":1:6", "Expected ']'"),
        (b"a = 1\na = 2", ":2:6", "Cannot overwrite"),
        (b"[a]\n[a]\n", ":2:3", "Cannot declare"),
        (b'a = "\x01"\n', ":1:6", "Illegal character"),
        (b"a = 1\rb = 2\n", ":1:6", "Expected newline"),
        (b"a = 'b", ":1:7", "Expected"),
        (b"# ok\n\x00[mqtt]\n", ":2:1", "NUL"),
        (b"# ok\n# \xc3\xa4 \xff\n", ":2:5", "0xff is not UTF-8"),
        (b"\xef\xbb\xbf[mqtt]\n", ":1:1", "byte order mark"),
        ("[mqtt]\n".encode("utf-16"), ":1:1", "UTF-16"),
        (b"a = 9223372036854775808\n", ":1:1", "64 bits"),
        (b"a = 1\nb = [1, [ -9223372036854775809 ]]\n", ":2:1", "64 bits"),
        (b"a = " + b"9" * 5000, "", "too many digits"),
        (b"a = " + b"[" * 100 + b"]" * 100, ":1:84", "nested too deeply"),
        (b"a = " + b"[" * 100_000, ":1:84", "nested too deeply"),
        (b"a = " + b"{a=" * 100_000, ":1:243", "nested too deeply"),
        (b"a." * 100_000 + b"a = 1", ":1:161", "nested too deeply"),
        (b"[" + b"a." * 100_000 + b"a]", ":1:162", "nested too deeply"),
        (b"\n".join(b"x%d." % n + b"a." * 70 + b"a=1" for n in range(6000)), ":772:147", "nested too deeply"),
    ],
)
def test_an_unreadable_file_is_one_finding_with_line_and_column(data: bytes, place: str, words: str) -> None:
    parsed = tedge_toml.parse(data, WHERE)
    (finding,) = parsed.findings
    assert parsed.settings is None
    assert (finding.code, finding.where, finding.blocks) == ("toml-syntax", WHERE + place, Area.ALL)
    assert words in finding.message
    assert finding.message.isprintable()
    assert finding.remedy


def test_a_file_without_measure_is_not_read() -> None:
    parsed = tedge_toml.parse(b"#" * (toml_load.MAX_BYTES + 1), WHERE)
    assert parsed.settings is None
    assert [(finding.code, finding.where) for finding in parsed.findings] == [("too-large", WHERE)]
    assert tedge_toml.parse(b"#" * toml_load.MAX_BYTES, WHERE).settings is not None


@pytest.mark.parametrize(
    ("text", "path", "place"),
    [
        ("[mqtt.bind]\nport = 1\n", ("mqtt", "bind", "port"), (2, 1)),
        ("[mqtt]\n  bind.port = 1\n", ("mqtt", "bind", "port"), (2, 3)),
        ("mqtt = { bind = { port = 1 } }", ("mqtt", "bind", "port"), (1, 19)),
        (
            "mqtt = { bind = { enabled = true }, x = [1, 2], client = { port = 1 } }",
            ("mqtt", "client", "port"),
            (1, 60),
        ),
        ("[ mqtt . 'bind' ]\r\n\"p\\u006frt\" = 1\r\n", ("mqtt", "bind", "port"), (2, 1)),
        ('a = """\n[mqtt]\nport = 1\n"""\n[mqtt]\nport = 2', ("mqtt", "port"), (6, 1)),
        ("a = '''\n[mqtt]\n''''\nmqtt.port = 2", ("mqtt", "port"), (4, 1)),
        ('a = "[mqtt]" # [mqtt]\n[mqtt] # port = 1\nport = 2', ("mqtt", "port"), (3, 1)),
        ('a = "\\"" # \nmqtt.port = 1', ("mqtt", "port"), (2, 1)),
        ("a = [\n  [ 1 ],\n  { b = 1 },\n]\nb = 2", ("b",), (5, 1)),
        ("a = [\n  { b = 1 },\n]\nb = 2", ("a", "[]", "b"), (2, 5)),
        ("[[a]]\nb = 1\n[[a]]\nb = 2\n[c]\nd = 1", ("c", "d"), (6, 1)),
        ("a = { b = {}, c = {} }\nd = 1", ("d",), (2, 1)),
        ("a = 1979-05-27T07:32:00.5Z\nb = +1.5e3\nc = 1", ("c",), (3, 1)),
        ("é = 1\n  ü = 2", ("b",), None),
        ("[unclosed\nmqtt.port = 1", ("mqtt", "port"), (2, 1)),
        ('a = "unclosed\nmqtt.port = 1', ("mqtt", "port"), (2, 1)),
        ("", ("mqtt",), None),
    ],
)
def test_a_key_is_found_where_it_stands(text: str, path: tuple[str, ...], place: tuple[int, int] | None) -> None:
    offset = toml_scan.scan(text).offsets.get(path)
    assert (None if offset is None else toml_scan.line_and_column(text, offset)) == place


def test_where_a_key_is_unknown_the_nearest_table_stands_in_and_then_the_file() -> None:
    document = toml_load.load(b"[mqtt]\nbind = 5\n", WHERE)
    assert isinstance(document, toml_load.Document)
    assert document.place(("mqtt", "bind", "port")) == f"{WHERE}:2:1"
    assert document.place(("mqtt", "client", "port")) == f"{WHERE}:1:2"
    assert document.place(("http",)) == WHERE


NAMES = st.one_of(
    st.sampled_from(["a", "mqtt", "x y", "é", "", '"', "'", "a.b", "\n", "#", "[", "="]), st.text(max_size=6)
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.datetimes(),
    st.dates(),
    st.times(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=5)


@settings(deadline=None)  # a loaded machine is no fault
@given(TABLES)
def test_every_key_of_any_document_is_found_on_a_line_that_names_it(table: dict[str, object]) -> None:
    text = tomli_w.dumps(table)
    document = toml_load.load(text.encode(), WHERE)
    assert isinstance(document, toml_load.Document)

    def check(inner: dict[str, object], prefix: tuple[str, ...]) -> None:
        for key, value in inner.items():
            path = (*prefix, key)
            line, _ = toml_scan.line_and_column(text, document.offsets[path])
            there = toml_load.load(text.split("\n")[line - 1].partition("=")[0].encode() + b" = 1", WHERE)
            if isinstance(value, dict):
                check(value, path)
            elif isinstance(there, toml_load.Document):  # not a name with an equals sign
                assert list(there.table) == [key]

    check(document.table, ())


MARKS = tuple("[]{}=,.\n \t#\"'\\")
TOKENS = (*MARKS, "[[", "]]", '"""', "'''", "\\u00", "\r\n", "\0", "\ufeff", "é", '"2"', '"/a"', "1979-05-27")
WORDS = ("mqtt", "external", "bind", "client", "auth", "port", "cafile", "ca_file", "cert_file", "config", "version")
VALUE_WORDS = ("interface", "8883", "true", "-1", "1e9")
FRAGMENTS = st.lists(
    st.one_of(st.sampled_from((*TOKENS, *WORDS, *VALUE_WORDS)), st.text(max_size=3)), max_size=40
).map("".join)


def check_reading(data: bytes) -> None:
    parsed = tedge_toml.parse(data, WHERE)
    blocked = any(finding.blocks is Area.ALL for finding in parsed.findings)
    assert (parsed.settings is None) == blocked
    for finding in parsed.findings:
        check_finding(finding)
    for finding in tedge_toml.parse_system(data, WHERE)[1]:
        check_finding(finding)


def check_finding(finding: Finding) -> None:
    assert finding.message.isprintable()
    assert finding.remedy.isprintable()
    assert len(finding.message) < 1000
    assert finding.where.startswith((WHERE, "mqtt.client.auth."))


@settings(deadline=None)  # a loaded machine is no fault
@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    check_reading(data)


@settings(deadline=None)  # a loaded machine is no fault
@given(FRAGMENTS)
def test_nothing_that_resembles_toml_raises(text: str) -> None:
    check_reading(text.encode("utf-8", "surrogatepass"))


@settings(deadline=None)  # a loaded machine is no fault
@given(TABLES)
def test_no_document_raises(table: dict[str, object]) -> None:
    check_reading(tomli_w.dumps(table).encode())
    check_reading(tomli_w.dumps({"mqtt": table}).encode())
    check_reading(tomli_w.dumps({"mqtt": {"external": table, "client": {"auth": table}}}).encode())


@settings(deadline=None)  # a loaded machine is no fault
@given(st.text(), st.text())
def test_a_value_is_either_safe_for_the_broker_or_absent_with_a_finding_that_blocks_it(path: str, name: str) -> None:
    text = tomli_w.dumps({"mqtt": {"external": {"cert_file": path, "bind": {"interface": name}}}})
    parsed = tedge_toml.parse(text.encode(), WHERE)
    assert parsed.settings is not None
    external = parsed.settings.external
    blocked = [finding.message for finding in parsed.findings if finding.blocks is Area.BROKER]
    for key, value, given_value in (
        ("mqtt.external.cert_file", external.cert_file, path),
        ("mqtt.external.bind.interface", external.interface, name),
    ):
        if value is None:
            assert any(message.startswith(key) for message in blocked)
        else:
            assert value == given_value == value.strip()
            assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value)
