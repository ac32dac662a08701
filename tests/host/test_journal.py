"""What the journal, a terminal and a pipe are told, and what nobody is told."""

import dataclasses
import io
import json
import os
import pathlib
import pty
import re
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NoReturn

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tedge_agentd.core.model import Area, Finding, Severity
from tedge_agentd.host import journal, redact

ROOT = pathlib.Path(__file__).parents[2]
CATALOG = ROOT / "packaging" / "debian" / "tedge-agentd.catalog"
SECRET = "hunter2hunter2"
FINDING = Finding(
    code="incomplete-tls",
    severity=Severity.ERROR,
    where="mqtt.external.key_file",
    message="cert_file is set, key_file is not.",
    remedy="tedge config set mqtt.external.key_file PATH",
    blocks=Area.BROKER,
)


@pytest.fixture
def said() -> Iterator[Callable[[], str]]:
    """Log into a pipe; the result reads what came out since the last call."""
    stream = io.StringIO()
    journal.configure("debug", stream=stream, environ={})

    def read() -> str:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return text

    yield read
    structlog.reset_defaults()


# Secrets ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Holder:
    password: object
    other: object = None


Pair = namedtuple("Pair", ["name", "key_pin"])

secret_names = st.sampled_from(
    [
        "password",
        "PASSWORD",
        "mqtt.password",
        "key_pin",
        "private-key",
        "privateKey",
        "api_token",
        "key_pem",
        "client_secret",
    ]
)
pem_kinds = st.sampled_from(["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY"])
junk = st.text(max_size=20)


def pem(kind: str, before: str, after: str, whole: bool, separator: str) -> str:
    end = f"{separator}-----END {kind}-----{after}" if whole else ""
    return f"{before}-----BEGIN {kind}-----{separator}{SECRET}{separator}{SECRET}{end}"


pems = st.builds(pem, pem_kinds, junk, junk, st.booleans(), st.sampled_from(["\n", "\r\n", "\\n", " "]))
tails = st.builds(lambda kind, before: f"{before}\n{SECRET}\n-----END {kind}-----\n", pem_kinds, junk)
keys_as_text = pems | tails
carriers = st.one_of(
    keys_as_text,
    keys_as_text.map(lambda text: text.encode("utf-8", "replace")),
    keys_as_text.map(lambda text: text.split("\n")).filter(lambda lines: len(lines) > 1),
    keys_as_text.map(ValueError),
    keys_as_text.map(lambda text: Holder(None, other=text)),
    keys_as_text.map(lambda text: type("Odd", (), {"__repr__": lambda self: text})()),
    secret_names.map(lambda name: {name: SECRET}),
    secret_names.map(lambda name: {name: {"deeper": [SECRET]}}),
    secret_names.map(lambda name: {name.encode(): SECRET.encode()}),
    st.just(Holder(SECRET)),
    st.just(Pair("a", SECRET)),
    st.just(b"\x30\x82\xff" + SECRET.encode()),
)
nested = st.recursive(
    carriers,
    lambda inner: st.one_of(
        st.lists(inner | junk, min_size=1, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, min_size=1, max_size=3),
        st.tuples(inner, st.integers()),
        inner.map(lambda value: Holder(None, other=value)),
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(value=nested)
def test_no_secret_comes_out_wherever_it_is_put(said: Callable[[], str], value: object) -> None:
    journal.get().info("odd", anything=value)
    assert SECRET not in said()
    assert SECRET not in repr(journal.record({"event": "odd", "anything": value}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=keys_as_text, where=st.sampled_from(["event", "message", "key", "exception", "argument"]))
def test_no_private_key_comes_out_of_the_words_themselves(said: Callable[[], str], text: str, where: str) -> None:
    log = journal.get()
    if where == "event":
        log.info(text)
    elif where == "message":
        log.info("odd", message=text)
    elif where == "argument":
        log.info("odd %s", text)
    elif where == "key":
        log.info("odd", **{text: 1})
    else:
        try:
            raise ValueError(text) from KeyError(text)
        except ValueError:
            journal.internal_error("reading a key")
    assert SECRET not in said()


@given(name=secret_names)
def test_a_secret_name_hides_whatever_it_holds(name: str) -> None:
    assert redact.redact({name: [SECRET, 1]}) == {name: redact.REDACTED}


@pytest.mark.parametrize(
    "name",
    ["password_file", "key_file", "key_type", "cert_file", "where", "mqtt.external.key_file", "spin", "public_key"],
)
def test_names_of_places_and_kinds_are_shown(name: str) -> None:
    assert redact.redact({name: "/etc/x"}) == {name: "/etc/x"}


@given(text=st.text(st.characters(exclude_characters="-")))
def test_other_text_is_kept(text: str) -> None:
    assert redact.scrub(text) == text
    assert redact.redact([text, {"a": text}, (1, None, True)]) == [text, {"a": text}, [1, None, True]]


def test_a_certificate_beside_its_key_is_kept() -> None:
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    key = "-----BEGIN PRIVATE KEY-----\nMHcC\n-----END PRIVATE KEY-----\n"
    assert redact.scrub(certificate + key + certificate) == certificate + redact.REDACTED + "\n" + certificate


def test_what_has_no_end_is_cut_off() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "..." in repr(redact.redact(endless))


def test_an_object_that_cannot_be_shown_is_named() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert redact.redact(Broken()) == "<Broken>"


# Records ----------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(fields=st.dictionaries(st.text(), values, max_size=5), event=values)
def test_every_record_is_fit_for_the_journal(fields: dict[str, object], event: object) -> None:
    record = journal.record({**fields, "event": event})
    for name, value in record.items():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name)
        assert "\0" not in value
        value.encode()
        assert all(char.isprintable() or char in "\n\t" for char in value)
        assert len(value) <= 8192 or name in {"MESSAGE", "TEDGE_EVENT"}
    assert record["MESSAGE"].isprintable()
    assert {name for name in record if not name.startswith("TEDGE_")} <= {
        "MESSAGE",
        "MESSAGE_ID",
        "SYSLOG_IDENTIFIER",
    }


def test_the_record_of_a_finding() -> None:
    assert record_of(lambda: journal.finding_appeared(FINDING)) == {
        "MESSAGE": "incomplete-tls: mqtt.external.key_file: cert_file is set, key_file is not. "
        "To mend it: tedge config set mqtt.external.key_file PATH",
        "MESSAGE_ID": journal.MESSAGE_IDS["finding-appeared"],
        "SYSLOG_IDENTIFIER": "tedge-agentd",
        "TEDGE_EVENT": "finding-appeared",
        "TEDGE_CODE": "incomplete-tls",
        "TEDGE_SEVERITY": "error",
        "TEDGE_WHERE": "mqtt.external.key_file",
        "TEDGE_REASON": "cert_file is set, key_file is not.",
        "TEDGE_REMEDY": "tedge config set mqtt.external.key_file PATH",
        "TEDGE_BLOCKS": "broker",
    }


def record_of(speak: Callable[[], object]) -> dict[str, str]:
    """The record that a call makes: structlog's own processors, then ours, without a sink."""
    records: list[dict[str, str]] = []
    journal.configure("debug", stream=io.StringIO(), environ={})
    *processors, _ = structlog.get_config()["processors"]

    def catch(_logger: object, _method: str, event_dict: MutableMapping[str, Any]) -> NoReturn:
        records.append(journal.record(event_dict))
        raise structlog.DropEvent

    structlog.configure(processors=[*processors, catch])
    speak()
    structlog.reset_defaults()
    (record,) = records
    return record


# The canonical lines ----------------------------------------------------------------------------------------

WARNING = dataclasses.replace(FINDING, severity=Severity.WARNING, remedy="")
LINES: list[tuple[Callable[[], object], str]] = [
    (lambda: journal.started("1.0"), "<6>tedge-agentd 1.0 started\n"),
    (lambda: journal.stopping("SIGTERM"), "<6>stopping: SIGTERM\n"),
    (
        lambda: journal.finding_appeared(FINDING),
        "<3>incomplete-tls: mqtt.external.key_file: cert_file is set, key_file is not. "
        "To mend it: tedge config set mqtt.external.key_file PATH\n",
    ),
    (
        lambda: journal.finding_appeared(WARNING),
        "<4>incomplete-tls: mqtt.external.key_file: cert_file is set, key_file is not\n",
    ),
    (
        lambda: journal.finding_cleared(FINDING),
        "<6>cleared: incomplete-tls: mqtt.external.key_file: cert_file is set, key_file is not\n",
    ),
    (
        lambda: journal.pass_done(
            result="in-sync",
            previous="blocked",
            duration_ms=412.4,
            actions=["write tedge-mosquitto.conf", "restart mosquitto.service"],
            detail="8883 mutual on 0.0.0.0",
        ),
        "<6>in-sync (was blocked) after 412 ms: 8883 mutual on 0.0.0.0 "
        "[write tedge-mosquitto.conf; restart mosquitto.service]\n",
    ),
    (
        lambda: journal.pass_done(result="blocked", previous=None, duration_ms=3.0),
        "<4>blocked after 3 ms [no change]\n",
    ),
    (
        lambda: journal.pass_done(result="degraded", previous="degraded", duration_ms=3.0, actions=["a"]),
        "<3>degraded after 3 ms [a]\n",
    ),
    (
        lambda: journal.rolled_back("8883 refuses TLS", "the listeners of 12:00"),
        "<3>rolled back: 8883 refuses TLS; the listeners of 12:00\n",
    ),
    (
        lambda: journal.certificate_renewed("/etc/c.pem", "CN=gateway", "2027-01-01"),
        "<6>renewed /etc/c.pem (CN=gateway), good until 2027-01-01\n",
    ),
    (lambda: journal.get().info("free", unit="a b", count=2, none=None), "<6>free unit=a b count=2\n"),
    (lambda: journal.get().info("x", message="two\nlines \x1b[31m\udcff"), "<6>two\\nlines \\x1b[31m\\udcff\n"),
]


@pytest.mark.parametrize(("speak", "line"), LINES)
def test_the_line_of(said: Callable[[], str], speak: Callable[[], object], line: str) -> None:
    speak()
    assert said() == line


def test_an_idle_pass_is_not_news(said: Callable[[], str]) -> None:
    assert not journal.pass_done(result="in-sync", previous="in-sync", duration_ms=2.0)
    assert said() == "<7>in-sync after 2 ms [no change]\n"


def test_every_line_of_a_traceback_has_its_prefix(said: Callable[[], str]) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        journal.internal_error("reading tedge.toml")
    lines = said().splitlines()
    assert lines[0] == "<3>internal error while reading tedge.toml: ValueError: first\\nsecond"
    assert lines[1] == "<3>Traceback (most recent call last):"
    assert lines[-2:] == ["<3>ValueError: first", "<3>second"]
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.parametrize(("level", "heard"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_decides_what_is_heard(level: str, heard: int) -> None:
    stream = io.StringIO()
    journal.configure(level, stream=stream, environ={})
    for name in ("debug", "info", "warning", "error"):
        getattr(journal.get(), name)("x")
    structlog.reset_defaults()
    assert len(stream.getvalue().splitlines()) == heard


def test_a_closed_stream_is_no_error(said: Callable[[], str]) -> None:
    stream = io.StringIO()
    journal.configure(stream=stream, environ={})
    stream.close()
    journal.started("1.0")


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({"TERM": "xterm"}, "\x1b[33mx\x1b[0m\r\n"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "x\r\n"),
        ({"TERM": "dumb"}, "x\r\n"),
    ],
)
def test_a_terminal_gets_plain_lines_in_colour_if_it_wants_them(environ: dict[str, str], shown: str) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        journal.configure(stream=terminal, environ=environ)
        journal.get().warning("x")
        assert os.read(ours, 100).decode() == shown
    os.close(ours)
    structlog.reset_defaults()


# The journal itself -----------------------------------------------------------------------------------------

SPEAK_TO_THE_JOURNAL = """
    import json, os, socket, struct, sys

    os.makedirs("/run/systemd/journal")
    journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journald.bind("/run/systemd/journal/socket")
    journald.settimeout(10)

    def entry():
        "Take a message of systemd's native journal protocol apart."
        data, fields = journald.recv(1 << 20), {}
        while data:
            name, mark, rest = data.partition(b"\\n")
            if b"=" in name:
                name, _, value = name.partition(b"=")
                data = rest
            else:
                (size,) = struct.unpack("<Q", rest[:8])
                value, data = rest[8 : 8 + size], rest[9 + size :]
            fields[name.decode()] = value.decode()
        return fields

    from tedge_agentd.host import journal

    status = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
    journal.configure()
    odd = {"text": "line\\nline", "nul": "a\\0b", "surrogate": "\\udcff", "raw": b"\\xff", "n": [1, "x"]}
    journal.get().warning("odd", message="a\\nb", **odd)
    print(json.dumps(entry()))
    try:
        raise ValueError("secret -----BEGIN PRIVATE KEY-----\\nhunter2")
    except ValueError:
        journal.internal_error("testing")
    print(json.dumps(entry()))
"""


def test_fields_arrive_in_the_journal() -> None:
    """Through libsystemd, to a socket at the journal's own place in a mount namespace."""
    script = textwrap.dedent(SPEAK_TO_THE_JOURNAL)
    shell = 'mount -t tmpfs none /run && exec "$@"'
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        shell,
        "sh",
        sys.executable,
        "-c",
        script,
    ]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    odd, error = (json.loads(line) for line in done.stdout.splitlines())
    ours = {name: value for name, value in odd.items() if not name.startswith("CODE_")}
    assert ours == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tedge-agentd",
        "MESSAGE": "a\\nb",
        "TEDGE_EVENT": "odd",
        "TEDGE_TEXT": "line\nline",
        "TEDGE_NUL": "a\\x00b",
        "TEDGE_SURROGATE": "\\udcff",
        "TEDGE_RAW": "<1 bytes>",
        "TEDGE_N": '[1, "x"]',
    }
    assert error["MESSAGE_ID"] == journal.MESSAGE_IDS["internal-error"]
    assert error["PRIORITY"] == "3"
    assert error["TEDGE_TRACEBACK"].endswith("ValueError: secret [redacted]")
    assert "hunter2" not in done.stdout


@pytest.mark.parametrize("stream", ["", "0:0", "1:2:3"])
def test_a_stderr_that_was_redirected_is_not_the_journal(
    said: Callable[[], str], stream: str, tmp_path: pathlib.Path
) -> None:
    with (tmp_path / "log").open("w+") as file:
        journal.configure(stream=file, environ={"JOURNAL_STREAM": stream})
        journal.started("1.0")
        file.seek(0)
        assert file.read() == "<6>tedge-agentd 1.0 started\n"


# The catalog ------------------------------------------------------------------------------------------------


def catalog() -> dict[str, str]:
    _, *entries = re.split(r"^-- ", CATALOG.read_text(), flags=re.MULTILINE)
    return {entry[:32]: entry[32:] for entry in entries}


def test_every_id_has_an_entry_and_every_entry_an_id() -> None:
    assert len(set(journal.MESSAGE_IDS.values())) == len(journal.MESSAGE_IDS)
    assert sorted(catalog()) == sorted(journal.MESSAGE_IDS.values())


KINDS: dict[str, Callable[[], object]] = {
    "started": lambda: journal.started("1.0"),
    "stopping": lambda: journal.stopping("SIGTERM"),
    "pass-done": lambda: journal.pass_done(result="in-sync", previous=None, duration_ms=1.0),
    "finding-appeared": lambda: journal.finding_appeared(FINDING),
    "finding-cleared": lambda: journal.finding_cleared(WARNING),
    "rolled-back": lambda: journal.rolled_back("a", "b"),
    "certificate-renewed": lambda: journal.certificate_renewed("a", "b", "c"),
    "internal-error": lambda: journal.internal_error("a"),
}


@pytest.mark.parametrize("kind", journal.MESSAGE_IDS)
def test_an_entry_uses_only_fields_that_its_message_has(kind: str) -> None:
    record = record_of(KINDS[kind])
    assert record["MESSAGE_ID"] == journal.MESSAGE_IDS[kind]
    entry = catalog()[journal.MESSAGE_IDS[kind]]
    assert set(re.findall(r"@(\w+)@", entry)) <= record.keys()
    assert re.match(r"\nSubject: .+\nDefined-By: tedge-agentd\nDocumentation: man:tedge-agentd\(8\)\n\n\S", entry)


def test_journalctl_reads_the_catalog(tmp_path: pathlib.Path) -> None:
    for directory in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / directory).mkdir(parents=True)
    shutil.copy(CATALOG, tmp_path / "usr/lib/systemd/catalog")
    subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], check=True)
    done = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--list-catalog"], check=True, capture_output=True, text=True
    )
    assert sorted(line[:32] for line in done.stdout.splitlines()) == sorted(journal.MESSAGE_IDS.values())
