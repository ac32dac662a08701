"""What is said of certificates, and what of it blocks."""

import dataclasses
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import certificate_checks as checks
from tedge_agentd.core import model
from tedge_agentd.core.certificate_facts import CaFacts, PairFacts, Problem

BROKER, CLIENT = model.Role.BROKER, model.Role.CLIENT
NOW = 1_800_000_000
DAY = 86_400
GOOD = model.Certificate(
    path="/etc/tedge/server.pem",
    subject="CN=gateway",
    issuer="CN=ca",
    sans=("DNS:gateway", "IP:127.0.0.1"),
    not_before=NOW - DAY,
    not_after=NOW + 365 * DAY,
    key_type="EC",
    key_bits=256,
    sha256="aa",
    is_ca=False,
    version=3,
    self_signed=False,
    server_auth=True,
    client_auth=True,
)
CA = dataclasses.replace(GOOD, path="/ca.pem", subject="CN=ca", sans=(), sha256="cc", is_ca=True, self_signed=True)


def pair(
    leaf: model.Certificate = GOOD, *problems: Problem, role: model.Role = BROKER, host: str | None = "127.0.0.1"
) -> tuple[model.Finding, ...]:
    facts = PairFacts(cert_path=leaf.path, key_path="/key.pem", certificates=(leaf,), problems=problems)
    return checks.pair_findings(
        facts, role=role, cert_key="m.cert_file", key_key="m.key_file", now=NOW, client_host=host
    )


def ca(*certificates: model.Certificate, role: model.Role = BROKER, **more: object) -> tuple[model.Finding, ...]:
    facts = CaFacts(
        path="/ca.pem",
        count=len(certificates),
        certificates=certificates,
        digests=frozenset(certificate.sha256 for certificate in certificates),
        unusable=more.pop("unusable", ()),  # type: ignore[arg-type]
    )
    return checks.ca_findings(facts, role=role, key="m.ca_path", now=NOW, **more)  # type: ignore[arg-type]


def codes(findings: tuple[model.Finding, ...]) -> set[str]:
    return {finding.code for finding in findings}


@pytest.mark.parametrize("role", [BROKER, CLIENT])
def test_nothing_is_said_of_a_good_pair_and_ca(role: model.Role) -> None:
    assert pair(role=role) == ()
    assert ca(CA, role=role) == ()


certificates = st.builds(
    model.Certificate,
    path=st.just("/c.pem"),
    subject=st.text(),
    issuer=st.text(),
    sans=st.lists(st.text()).map(tuple),
    not_before=st.integers(-2_208_988_800, 253_402_300_799),
    not_after=st.integers(-2_208_988_800, 253_402_300_799),
    key_type=st.sampled_from(["RSA", "EC", "Ed25519", "?"]),
    key_bits=st.integers(0, 8192),
    sha256=st.just("aa"),
    is_ca=st.booleans(),
    version=st.sampled_from([1, 3]),
    self_signed=st.booleans(),
    server_auth=st.booleans(),
    client_auth=st.booleans(),
)


@given(leaf=certificates, role=st.sampled_from([BROKER, CLIENT]), host=st.none() | st.text())
def test_only_a_weak_key_of_a_sound_pair_ever_blocks(
    leaf: model.Certificate, role: model.Role, host: str | None
) -> None:
    for finding in (*pair(leaf, role=role, host=host), *ca(leaf, role=role, leaf=leaf)):
        assert finding.blocks is None or finding.code == "certificate-weak"
        assert finding.where
        assert finding.message
        assert finding.remedy


ALL_PROBLEMS = [
    "certificate-invalid",
    "certificate-none",
    "certificate-der",
    "certificate-weak",
    "chain-order",
    "pair-refused",
    "key-invalid",
    "key-der",
    "key-encrypted",
    "key-mismatch",
    "inspection-failed",
]


@pytest.mark.parametrize("code", ALL_PROBLEMS)
@pytest.mark.parametrize(("role", "area"), [(BROKER, model.Area.BROKER), (CLIENT, model.Area.CLIENTS)])
def test_what_cannot_be_served_blocks_and_half_a_renewal_waits(code: str, role: model.Role, area: model.Area) -> None:
    path = "/key.pem" if code.startswith("key-") and code != "key-mismatch" else GOOD.path
    (finding,) = pair(GOOD, Problem(code=code, path=path, message="is bad", remedy="mend it"), role=role)
    assert (finding.code, finding.where, finding.blocks) == (code, path, area)
    assert finding.waits is (code in {"key-mismatch", "inspection-failed"})
    assert ("m.key_file" if path == "/key.pem" else "m.cert_file") in finding.message
    assert finding.remedy == "mend it"


@pytest.mark.parametrize(
    ("left_s", "code", "severity"),
    [
        (31 * DAY, None, None),
        (30 * DAY, "certificate-expires", "warning"),
        (8 * DAY, "certificate-expires", "warning"),
        (7 * DAY, "certificate-expires", "warning"),
        (DAY + 1, "certificate-expires", "warning"),
        (DAY, "certificate-expires", "error"),
        (1, "certificate-expires", "error"),
        (0, "certificate-expired", "error"),
        (-1000 * DAY, "certificate-expired", "error"),
    ],
)
def test_the_end_is_told_in_three_steps_and_never_blocks(left_s: int, code: str | None, severity: str | None) -> None:
    found = pair(dataclasses.replace(GOOD, not_after=NOW + left_s))
    assert codes(found) == ({code} if code else set())
    assert {finding.severity.value for finding in found} == ({severity} if severity else set())
    assert all(finding.blocks is None for finding in found)


@given(left_s=st.integers(1, 30 * DAY), later_s=st.integers(0, 3600))
def test_the_words_change_only_at_the_thresholds(left_s: int, later_s: int) -> None:
    """Otherwise each pass would tell of a new finding."""

    def words(left: int) -> set[str]:
        end = GOOD.not_after
        facts = PairFacts(cert_path=GOOD.path, key_path=None, certificates=(GOOD,))
        found = checks.pair_findings(facts, role=CLIENT, cert_key="c", key_key="k", now=end - left)
        return {finding.message for finding in found}

    steps = (0, DAY, 7 * DAY)
    if not any(left_s - later_s <= step < left_s for step in steps):
        assert words(left_s) == words(left_s - later_s)


@pytest.mark.parametrize(
    ("leaf", "role", "code"),
    [
        ({"not_before": NOW + 1}, BROKER, "certificate-not-yet-valid"),
        ({"version": 1}, BROKER, "certificate-v1"),
        ({"version": 1}, CLIENT, "certificate-v1"),
        ({"sans": ("DNS:localhost",)}, BROKER, "certificate-names"),
        ({"sans": ()}, BROKER, "certificate-names"),
        ({"server_auth": False}, BROKER, "certificate-purpose"),
        ({"client_auth": False}, CLIENT, "certificate-purpose"),
        ({"is_ca": True}, BROKER, "certificate-is-ca"),
        ({"key_type": "RSA", "key_bits": 1024}, BROKER, "certificate-weak"),
        ({"key_type": "EC", "key_bits": 192}, CLIENT, "certificate-weak"),
        ({"server_auth": False}, CLIENT, None),
        ({"client_auth": False}, BROKER, None),
        ({"sans": ()}, CLIENT, None),
        ({"key_type": "RSA", "key_bits": 2048}, BROKER, None),
        ({"key_type": "Ed25519", "key_bits": 256}, BROKER, None),
    ],
)
def test_each_flaw_is_told_once(leaf: dict[str, object], role: model.Role, code: str | None) -> None:
    found = pair(dataclasses.replace(GOOD, **leaf), role=role)  # type: ignore[arg-type]
    assert codes(found) == ({code} if code else set())
    assert any(finding.blocks is not None for finding in found) is (code == "certificate-weak")


def test_what_follows_from_another_flaw_is_not_told_again() -> None:
    """Version 1 has no names, and where the chain is in the wrong order the first certificate is not the leaf."""
    assert codes(pair(dataclasses.replace(GOOD, version=1, sans=()))) == {"certificate-v1"}
    order = Problem(code="chain-order", path=GOOD.path, message="is bad", remedy="mend it")
    assert codes(pair(dataclasses.replace(CA, path=GOOD.path), order)) == {"chain-order"}


def test_names_do_not_matter_to_who_does_not_verify() -> None:
    assert pair(dataclasses.replace(GOOD, sans=(), is_ca=True), host=None) == ()


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "sans", "covered"),
    [
        ("127.0.0.1", ("IP:127.0.0.1",), True),
        ("127.0.0.1", ("DNS:127.0.0.1",), False),
        ("127.0.0.1", ("DNS:localhost",), False),
        ("::1", ("IP:0:0:0:0:0:0:0:1",), True),
        ("[::1]", ("IP:::1",), True),
        ("localhost", ("DNS:LocalHost",), True),
        ("localhost.", ("DNS:localhost",), True),
        ("gw.example.org", ("DNS:*.example.org",), True),
        ("a.gw.example.org", ("DNS:*.example.org",), False),
        ("example.org", ("DNS:*.org",), False),
        ("example.org", ("DNS:*.example.org",), False),
        ("gw", ("DNS:*",), False),
        ("gw", ("URI:gw", "email:gw"), False),
        ("gw", (), False),
        ("", ("DNS:gw",), False),
    ],
)
def test_covers(host: str, sans: tuple[str, ...], covered: bool) -> None:
    assert checks.covers(host, sans) is covered


@given(st.ip_addresses(), st.ip_addresses())
def test_an_address_covers_itself_alone(one: model.IPAddress, other: model.IPAddress) -> None:
    assert checks.covers(str(one), (f"IP:{one}",))
    assert checks.covers(str(one), (f"IP:{other}",)) is (one == other)
    assert isinstance(one, ipaddress.IPv4Address | ipaddress.IPv6Address)


# Authorities ------------------------------------------------------------------------------------------------

DAMAGED = Problem(
    code="certificate-invalid", path="/ca/x.pem", message="certificate 1 in it is damaged", remedy="look"
)
NO_CERT = Problem(code="certificate-none", path="/ca/key.pem", message="holds no certificate in PEM", remedy="look")


@pytest.mark.parametrize(("role", "area"), [(BROKER, model.Area.BROKER), (CLIENT, model.Area.CLIENTS)])
def test_a_ca_without_a_certificate_blocks(role: model.Role, area: model.Area) -> None:
    (finding,) = ca(role=role, unusable=(DAMAGED,))
    assert (finding.code, finding.blocks) == ("ca-empty", area)


@pytest.mark.parametrize(
    ("role", "problem", "blocks"),
    [
        (BROKER, DAMAGED, None),
        (BROKER, NO_CERT, None),
        (CLIENT, DAMAGED, model.Area.CLIENTS),  # the services would not start with it
        (CLIENT, NO_CERT, None),
    ],
)
def test_a_damaged_file_among_good_ones(role: model.Role, problem: Problem, blocks: model.Area | None) -> None:
    (finding,) = ca(CA, role=role, unusable=(problem,))
    assert (finding.code, finding.where, finding.blocks) == ("ca-file-unusable", problem.path, blocks)


def test_a_ca_that_is_the_certificate_itself() -> None:
    assert codes(ca(GOOD, leaf=GOOD)) == {"ca-is-leaf"}
    assert codes(ca(GOOD, leaf=GOOD, role=CLIENT)) == {"ca-is-leaf"}
    own = dataclasses.replace(GOOD, self_signed=True)
    assert ca(own, leaf=own, role=CLIENT) == ()  # its own trust anchor


def test_a_ca_that_is_none() -> None:
    assert codes(ca(dataclasses.replace(CA, is_ca=False))) == {"ca-no-authority"}
    assert ca(dataclasses.replace(CA, is_ca=False, version=1)) == ()  # an old root has no other way


def test_expired_authorities() -> None:
    old = dataclasses.replace(CA, not_after=NOW - 1)
    assert codes(ca(old)) == {"ca-expired"}
    others = [dataclasses.replace(CA, sha256=str(number)) for number in range(20)]
    assert ca(*others, old) == ()  # everyday life in a big store
    assert codes(ca(*(dataclasses.replace(old, sha256=str(number)) for number in range(20)))) == {"ca-expired"}
