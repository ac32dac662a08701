"""What the fuzzers make: tedge.toml from wholly valid to random bytes, trees of broker configuration, machines."""

import dataclasses
import json
import os
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from tedge_agentd.core import conf_lines, ledger, listener, model, observed
from tests.unit import broker_trees, test_plan

EXAMPLES = int(os.environ.get("TEDGE_AGENTD_FUZZ", "200"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None)

# tedge.toml -------------------------------------------------------------------------------------------------

_PATHS = (
    "/etc/tedge/s.crt",
    "/etc/tedge/s.key",
    "/etc/tedge/ca",
    "/etc/shadow",
    "relative",
    "",
    "/a\nuser root",
    "/x ",
)
_WORDS = ("127.0.0.1", "0.0.0.0", "::", "192.0.2.10", "localhost", "eth0", "wlan7", "te", "1883", "true")
_NUMBERS = st.sampled_from([0, 1, 80, 1883, 8883, 8884, 65535, 65536, -1]) | st.integers()
_scalars = (
    st.sampled_from(_PATHS).map(json.dumps)
    | st.sampled_from(_WORDS).map(json.dumps)
    | st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False))
    | _NUMBERS.map(str)
    | st.sampled_from(["true", "false", "1.5", "nan", "[]", "[1]", "{}", "{a=1}", "1979-05-27", "'", '"""', "#"])
)
NAMES = (
    *(f"external.{name}" for name in ("cert_file", "key_file", "ca_path", "certfile", "keyfile", "capath", "port")),
    *(f"external.bind.{name}" for name in ("port", "address", "interface", "other")),
    *(f"bind.{name}" for name in ("port", "address", "enabled")),
    *(
        f"client.{name}"
        for name in ("host", "port", "auth.ca_file", "auth.cafile", "auth.cert_file", "auth.key_file")
    ),
    *("client.auth.username", "client.auth.password_file", "bridge.built_in", "topic_root", "port", "unknown"),
)
_good = st.fixed_dictionaries(
    {},
    optional={
        "external.cert_file": st.just('"/etc/tedge/s.crt"'),
        "external.key_file": st.just('"/etc/tedge/s.key"'),
        "external.ca_path": st.just('"/etc/tedge/ca"'),
        "external.bind.port": st.sampled_from(["8883", "8884", "1883"]),
        "external.bind.address": st.sampled_from(['"0.0.0.0"', '"192.0.2.10"']),
        "external.bind.interface": st.just('"eth0"'),
        "bind.enabled": st.sampled_from(["true", "false"]),
    },
)
_any = st.dictionaries(st.sampled_from(NAMES), _scalars, max_size=6)
_tables = st.tuples(_good, _any).map(lambda both: both[0] | both[1])


def _written(values: dict[str, str], version: str | None, dotted: bool) -> str:
    head = [] if version is None else [f"config.version = {json.dumps(version)}"]
    if dotted:
        return "\n".join([*head, *(f"mqtt.{key} = {value}" for key, value in values.items()), ""])
    return "\n".join([*head, "[mqtt]", *(f"{key} = {value}" for key, value in values.items()), ""])


texts = st.builds(_written, _tables, st.sampled_from([None, None, "2", "1", "3"]), st.booleans())


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """The bytes of a tedge.toml: mostly TOML, sometimes damaged, sometimes anything."""
    data = draw(texts).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data)))
        junk = draw(st.binary(max_size=3) | st.sampled_from([b"\0", b"\n", b'"', b"\xef\xbb\xbf", b"[", b"=", b"\r"]))
        data = data[:at] + junk + data[at + draw(st.integers(0, 3)) :]
    return draw(st.just(data) | st.just(data) | st.just(data) | st.binary(max_size=60))


def asked_level(table: dict[str, Any]) -> model.Level | None:
    """What a file asks of its external listener at least, read in the simplest way there is; None: nothing."""
    external = table.get("mqtt", {})
    external = external.get("external", {}) if isinstance(external, dict) else {}
    if not isinstance(external, dict):
        return None
    named = [name for name in ("cert_file", "key_file", "ca_path") if name in external]
    if "ca_path" in named:
        return model.Level.MUTUAL
    return model.Level.SERVER if named else model.Level.NONE


RANK = {None: 9, model.Level.NONE: 0, model.Level.SERVER: 1, model.Level.MUTUAL: 2}

# Machines ---------------------------------------------------------------------------------------------------


def _content(level: model.Level) -> bytes:
    tls = None
    if level is not model.Level.NONE:
        ca = model.ClientCa(path="/ca.pem", is_dir=False) if level is model.Level.MUTUAL else None
        tls = model.Tls(certfile="/s.pem", keyfile="/s.pem", client_ca=ca)
    external = model.Listener(port=8883, tls=tls)
    return listener.render(model.ListenerFile(internal=model.Listener(port=1883), external=external))


last_goods = st.none() | st.sampled_from(model.Level).map(
    lambda level: ledger.LastGood(
        path=test_plan.PATH, content=_content(level), serving=ledger.Serving(config=f"good {level}")
    )
)
_data = st.sampled_from(
    [None, b"", observed.NOT_A_FILE, b"listener 1883\n", *(_content(level) for level in model.Level)]
)
_blocking = st.sampled_from(list(model.Area)).map(
    lambda area: model.Finding(
        code="x", severity=model.Severity.ERROR, where="mqtt.external.cert_file", message="m", blocks=area
    )
)


@st.composite
def machines(draw: st.DrawFn) -> observed.Observed:
    """Any state a machine may be found in, half of the time with something in the way."""
    seen = draw(test_plan.machines())
    active, sub = draw(
        st.sampled_from(
            [("active", "running"), ("inactive", "dead"), ("failed", "failed"), ("activating", "auto-restart")]
        )
    )
    unit = test_plan.broker(active_state=active, sub_state=sub)
    units: list[model.UnitFacts | None] = [unit, unit, unit, None, test_plan.broker(load_state="masked")]
    rescue = draw(st.sampled_from([observed.Rescue.NONE, observed.Rescue.NONE, *observed.Rescue]))
    return dataclasses.replace(
        seen,
        listener_data=draw(_data),
        broker=draw(st.sampled_from(units)),
        pair=draw(st.sampled_from([seen.pair, seen.pair, None, observed.Pair()])),
        client_cas=draw(st.sampled_from([seen.client_cas, seen.client_cas, None, observed.ClientCas()])),
        findings=tuple(draw(st.lists(_blocking, max_size=1))),
        ledger=dataclasses.replace(seen.ledger, last_good=draw(last_goods)),
        rescue=rescue,
        told=rescue is not observed.Rescue.NONE,
        hold=draw(st.sampled_from([False, False, False, True])),
        broker_installed=draw(st.sampled_from([True, True, True, False])),
    )


# The broker's configuration ---------------------------------------------------------------------------------

_names = st.sampled_from(sorted({*conf_lines.LISTENER_OPTIONS, *conf_lines.SECURITY_OPTIONS, *conf_lines.STRINGS}))
_words = st.sampled_from(
    ["listener", "port", "bind_address", "include_dir", "per_listener_settings", "log_dest", "#"]
)
_values = st.sampled_from(
    [
        "",
        "1883",
        "8883 0.0.0.0",
        "8883",
        "0 /sock",
        "abc",
        "99999",
        "true",
        "false",
        "/etc/x",
        broker_trees.CONF_D,
        "a b",
    ]
) | st.text(max_size=10)
_lines = st.builds(
    lambda name, gap, value: f"{name}{gap}{value}",
    _names | _words | st.text(max_size=6),
    st.sampled_from([" ", "  ", "\t", ""]),
    _values,
)
confs = st.lists(_lines, max_size=12).map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass"))
damaged = confs | st.binary(max_size=80) | confs.map(lambda data: data.replace(b"1", b"\0", 1))
