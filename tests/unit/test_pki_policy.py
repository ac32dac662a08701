"""The policy of the local PKI: ten years of bad clocks first, then properties of each rule, then tables."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tedge_agentd.core import pki
from tedge_agentd.core import pki_register as reg
from tedge_agentd.core.pki import DAY

START = pki.RELEASED + 300 * DAY
SERIALS = st.integers(min_value=1, max_value=2**128 - 1)
LIVES = st.integers(min_value=pki.SHORTEST_LIFE, max_value=3650 * DAY)
MOMENTS = st.integers(min_value=pki.RELEASED, max_value=pki.RELEASED + 30 * 365 * DAY)


def authority(
    *, created: int = START, days: int = 3650, serial: int = 1, published: int | None = START
) -> reg.Authority:
    not_before, not_after = pki.authority_validity(created, days)
    return reg.Authority(
        serial=serial,
        sha256=f"{serial:064x}",
        subject=f"CA {serial}",
        key_type=reg.KeyType.EC_P256,
        not_before=not_before,
        not_after=not_after,
        created=created,
        published=published,
    )


def leaf(
    signer: reg.Authority, now: int, lifetime: int, serial: int = 7, role: reg.Role = reg.Role.SERVER
) -> reg.Issued:
    not_before, not_after = pki.leaf_validity(signer, now, lifetime)
    return reg.Issued(
        role=role,
        name="gateway",
        cert_path="/etc/tedge/server-certs/server.crt",
        key_path="/etc/tedge/server-certs/server.key",
        serial=serial,
        sha256="a" * 64,
        key_sha256="b" * 64,
        issuer=signer.sha256,
        names=("gateway", "localhost", "127.0.0.1", "::1"),
        key_type=reg.KeyType.EC_P256,
        lifetime=lifetime,
        issued=now,
        not_before=not_before,
        not_after=not_after,
        owner="mosquitto",
        group="mosquitto",
    )


# Ten years --------------------------------------------------------------------------------------------------


class Gateway:
    """A gateway on paper: one server certificate, asked about with a clock, acting as the host's sweep does."""

    def __init__(self, lifetime: int, overlap: int, authority_days: int) -> None:
        self.lifetime, self.overlap, self.authority_days = lifetime, overlap, authority_days
        self.serial = 2**100 + 12345
        first = authority(days=authority_days, published=START)
        self.register = reg.Register(authorities=(first,)).with_issued(leaf(first, START, lifetime))
        self.true = START
        self.issues: list[int] = []  # by their clocks
        self.bundles: list[tuple[int, frozenset[str]]] = []

    @property
    def served(self) -> reg.Issued:
        return self.register.issued[0]

    def next_serial(self) -> int:
        self.serial = (self.serial * 6364136223846793005 + 1442695040888963407) % 2**128
        return self.serial

    def ask(self, clock: int, *, synchronized: bool) -> None:
        register = self.register
        trustworthy = not pki.clock_problem(register, clock, synchronized=synchronized)
        if trustworthy and pki.rollover_due(register, clock):
            made = authority(created=clock, days=self.authority_days, serial=self.next_serial(), published=clock)
            register = register.with_authority(made)
        signer = pki.signer(register, clock, self.overlap)
        reason = pki.reason_to_renew(self.served, clock, synchronized=synchronized)
        if trustworthy and reason and signer is not None:
            register = register.with_issued(leaf(signer, clock, self.lifetime, self.next_serial()))
            self.issues.append(clock)
        self.register = register
        self.bundles.append((clock, frozenset(one.sha256 for one in pki.trusted(register, clock))))

    def bundle_at(self, moment: int) -> frozenset[str]:
        """What a client trusts that fetched the CA file last at that moment."""
        return next((bundle for clock, bundle in reversed(self.bundles) if clock <= moment), self.bundles[0][1])


RUNS = st.tuples(st.just("runs"), st.integers(1, 700), st.just(0), st.booleans())
OFF = st.tuples(st.just("off"), st.integers(1, 500), st.just(0), st.booleans())
BEHIND = st.tuples(st.just("behind"), st.integers(1, 30), st.integers(1, 450), st.just(False))


@settings(max_examples=40, deadline=None)  # ten years of days each
@given(
    steps=st.lists(st.one_of(RUNS, RUNS, OFF, BEHIND), min_size=1, max_size=25),
    life_days=st.integers(7, 365),
    overlap_days=st.integers(0, 300),
    authority_days=st.sampled_from([1000, 2000, 3650]),
    second=st.integers(0, DAY - 1),
)
def test_what_is_served_never_expires_on_a_running_gateway_whatever_its_clock_went_through(
    steps: list[tuple[str, int, int, bool]], life_days: int, overlap_days: int, authority_days: int, second: int
) -> None:
    gateway = Gateway(life_days * DAY, overlap_days * DAY, authority_days)
    gateway.true += second
    end = START + 3650 * DAY
    for kind, days, behind, synchronized in itertools.cycle(steps):
        if gateway.true > end:
            break
        if kind == "off":
            gateway.true += days * DAY
        for _ in range(0 if kind == "off" else days):
            clock = gateway.true - behind * DAY
            gateway.ask(clock, synchronized=synchronized)
            assert clock + DAY < gateway.served.not_after
            gateway.true += DAY
        newest = max(one.not_after for one in gateway.register.authorities)
        if kind != "runs" and gateway.true + DAY >= newest:
            break  # its CA was over while it was off, or thought it was earlier: a visit is due, a finding says so
    for earlier, later in itertools.pairwise((START, *gateway.issues)):
        assert later >= earlier - pki.CLOCK_SLACK, "issued by a clock that was behind what was known"


@settings(max_examples=40, deadline=None)
@given(life_days=st.integers(7, 365), overlap_days=st.integers(1, 300), visit=st.integers(0, 300))
def test_a_client_that_fetched_the_ca_file_within_the_overlap_always_trusts_the_server(
    life_days: int, overlap_days: int, visit: int
) -> None:
    gateway = Gateway(life_days * DAY, overlap_days * DAY, authority_days=2000)
    for _ in range(3650):
        gateway.ask(gateway.true, synchronized=True)
        fetched = gateway.true - min(visit, overlap_days) * DAY
        assert gateway.served.issuer in gateway.bundle_at(fetched)
        assert gateway.served.issuer in gateway.bundle_at(gateway.true)
        gateway.true += DAY
    assert len(gateway.register.authorities) >= 3, "ten years of 2000-day CAs roll over twice"


@given(behind=st.integers(0, 460), life_days=st.integers(7, 365))
def test_a_clock_that_boots_behind_still_finds_the_certificate_valid(behind: int, life_days: int) -> None:
    clock_then = pki.RELEASED + 3000 * DAY
    served = leaf(authority(), clock_then, life_days * DAY)
    assert served.not_before <= clock_then - behind * DAY


def test_what_a_clock_ahead_issued_is_replaced_once_the_clock_is_known_to_be_right() -> None:
    signer = authority()
    served = leaf(signer, START + 3000 * DAY, 365 * DAY)
    register = reg.Register(authorities=(signer,), issued=(served,))
    now = START + 10 * DAY
    assert not pki.reason_to_renew(served, now, synchronized=False)
    assert pki.clock_problem(register, now, synchronized=False)
    assert pki.reason_to_renew(served, now, synchronized=True)
    assert not pki.clock_problem(register, now, synchronized=True)


# Renewal ----------------------------------------------------------------------------------------------------


@given(issued=MOMENTS, life=LIVES, serial=SERIALS)
def test_renewal_comes_after_two_thirds_and_within_a_twentieth(issued: int, life: int, serial: int) -> None:
    moment = pki.next_renewal(issued, issued + life, serial)
    assert issued + life * 2 // 3 <= moment <= issued + life * 2 // 3 + life // 20
    assert moment + DAY < issued + life, "a daily look renews in time"


@given(issued=MOMENTS, life=LIVES, serial=SERIALS, now=MOMENTS, later=st.integers(0, 10 * 365 * DAY))
def test_what_is_due_stays_due(issued: int, life: int, serial: int, now: int, later: int) -> None:
    if pki.due(issued, issued + life, now, serial):
        assert pki.due(issued, issued + life, now + later, serial)


@given(issued=MOMENTS, life=LIVES, serial=SERIALS)
def test_due_begins_at_the_moment_of_renewal(issued: int, life: int, serial: int) -> None:
    moment = pki.next_renewal(issued, issued + life, serial)
    assert pki.due(issued, issued + life, moment, serial)
    assert not pki.due(issued, issued + life, moment - 1, serial)


def test_a_fleet_of_one_hour_does_not_renew_in_one_hour() -> None:
    moments = {pki.next_renewal(START, START + 365 * DAY, serial) // 3600 for serial in range(0, 65536, 64)}
    assert max(moments) - min(moments) > 17 * 24
    assert len(moments) > 400


@pytest.mark.parametrize(
    ("days", "synchronized", "names", "reason"),
    [
        (0, False, None, ""),
        (242, False, None, ""),
        (262, False, None, "two thirds"),
        (365, False, None, "expired"),
        (700, False, None, "expired"),
        (1, False, ("gateway", "0.0.0.0", "::", "224.0.0.1"), ""),
        (1, False, ("gateway", "192.0.2.7", "Gateway.example."), "lacks 192.0.2.7, gateway.example"),
        (0, False, ("192.0.2.7",), ""),  # within the pause
    ],
)
def test_the_reason_to_renew(days: int, synchronized: bool, names: tuple[str, ...] | None, reason: str) -> None:
    one = leaf(authority(), START, 365 * DAY)
    said = pki.reason_to_renew(one, START + days * DAY, synchronized=synchronized, names=names)
    assert (reason in said) if reason else said == ""


def test_new_names_matter_for_servers_alone() -> None:
    one = leaf(authority(), START, 365 * DAY, role=reg.Role.TEDGE)
    assert pki.reason_to_renew(one, START + DAY, synchronized=True, names=("192.0.2.7",)) == ""


def test_what_was_handed_over_is_not_the_daemons_to_renew() -> None:
    assert [role for role in reg.Role if not pki.is_ours_to_renew(leaf(authority(), START, DAY * 30, role=role))] == [
        reg.Role.CHILD
    ]


# Clocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "synchronized", "refused"),
    [
        (0, False, True),
        (0, True, True),
        (pki.RELEASED - 1, True, True),
        (pki.RELEASED, False, True),  # before the CA was made
        (START - 2 * DAY, False, True),
        (START - DAY, False, False),  # a correction, not a broken clock
        (START, False, False),
        (START - 2 * DAY, True, False),
        (START + 9000 * DAY, False, False),
    ],
)
def test_a_clock_that_is_behind_issues_nothing(now: int, synchronized: bool, refused: bool) -> None:
    register = reg.Register(authorities=(authority(),))
    assert bool(pki.clock_problem(register, now, synchronized=synchronized)) is refused


@given(now=MOMENTS, lifetime=LIVES, created=st.integers(pki.RELEASED, START))
def test_a_leaf_lies_within_its_ca_and_covers_now(now: int, lifetime: int, created: int) -> None:
    signer = authority(created=created)
    if now >= signer.not_after or now - DAY < signer.not_before:
        return
    not_before, not_after = pki.leaf_validity(signer, now, lifetime)
    assert signer.not_before <= not_before <= now - DAY
    assert now < not_after <= min(signer.not_after, now + lifetime)
    assert not_after - not_before <= max(pki.LONGEST_SPAN, lifetime + DAY)


# Authorities ------------------------------------------------------------------------------------------------


OLD = authority(created=START, serial=1, published=START)
NEW = authority(created=START + 2500 * DAY, serial=2, published=START + 2500 * DAY)
LATE = dataclasses.replace(NEW, published=START + 3600 * DAY)
BOTH = reg.Register(authorities=(OLD, NEW))


@pytest.mark.parametrize(
    ("register", "day", "signer"),
    [
        (reg.Register(), 0, None),
        (reg.Register(authorities=(OLD,)), 0, OLD),
        (reg.Register(authorities=(OLD,)), 3649, OLD),  # there is no other
        (reg.Register(authorities=(OLD,)), 3650, None),
        (BOTH, 2500, OLD),
        (BOTH, 2679, OLD),
        (BOTH, 2680, NEW),
        (BOTH, 4000, NEW),
        (BOTH, 6150, None),
        (reg.Register(authorities=(OLD, dataclasses.replace(NEW, published=None))), 2700, OLD),
        (reg.Register(authorities=(OLD, LATE)), 3640, OLD),
        # what it would issue now could not be renewed in time
        (reg.Register(authorities=(OLD, LATE)), 3644, LATE),
    ],
)
def test_who_signs(register: reg.Register, day: int, signer: reg.Authority | None) -> None:
    assert pki.signer(register, START + day * DAY, 180 * DAY) == signer


def test_a_new_ca_announces_when_it_begins_to_sign() -> None:
    assert pki.coming(BOTH, START + 2500 * DAY, 180 * DAY) == START + 2680 * DAY
    assert pki.coming(BOTH, START + 2680 * DAY, 180 * DAY) is None
    assert pki.coming(reg.Register(authorities=(OLD,)), START, 180 * DAY) is None


@pytest.mark.parametrize(
    ("register", "day", "due"),
    [
        (reg.Register(), 9999, False),
        (reg.Register(authorities=(OLD,)), 2400, False),
        (reg.Register(authorities=(OLD,)), 2620, True),
        (reg.Register(authorities=(OLD,)), 3649, True),
        (reg.Register(authorities=(OLD,)), 3650, False),  # too late: see the docstring
        (BOTH, 3000, False),
        (BOTH, 5200, True),
    ],
)
def test_when_the_next_ca_is_made(register: reg.Register, day: int, due: bool) -> None:
    assert pki.rollover_due(register, START + day * DAY) is due


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("Gateway-1.Example.", "gateway-1.example"),
        ("a_b.local", "a_b.local"),
        ("127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::0001", "2001:db8::1"),
        ("0.0.0.0", None),
        ("::", None),
        ("ff02::1", None),
        ("fe80::1%eth0", None),
        ("", None),
        ("a..b", None),
        ("-a", None),
        ("a" * 64, None),
        (".".join(["a" * 60] * 5), None),
        ("1.2.3", None),  # half an address
        ("gäteway", None),
        ("*.example", None),
        ("a b", None),
        ("a\nb", None),
    ],
)
def test_a_name_becomes_what_a_client_can_use(name: str, clean: str | None) -> None:
    assert pki.clean_name(name) == clean


@given(st.text(max_size=80))
def test_cleaning_a_name_twice_changes_nothing(name: str) -> None:
    clean = pki.clean_name(name)
    assert clean is None or pki.clean_name(clean) == clean


@given(st.lists(st.text(max_size=20) | st.ip_addresses().map(str)))
def test_a_server_is_always_reachable_from_its_own_machine(names: list[str]) -> None:
    usable = pki.server_names(names)
    assert {"localhost", "127.0.0.1", "::1"} <= set(usable)
    assert len(usable) == len(set(usable))
    dns, addresses = pki.split_names(usable)
    assert sorted((*dns, *addresses)) == sorted(usable)
    assert {"127.0.0.1", "::1"} <= set(addresses)


@pytest.mark.parametrize("name", ["child-1", "A.b_c", "x", "a" * 64, "...", "-"])
def test_device_names_that_are_taken(name: str) -> None:
    assert pki.device_name_problem(name) == ""


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "a" * 65, "ä", "a\n", "a\0", "+", "#"])
def test_device_names_that_are_refused(name: str) -> None:
    assert "is not a device name" in pki.device_name_problem(name)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True))
def test_every_client_certificate_has_a_san(name: str) -> None:
    dns, uris = pki.client_sans(name)
    assert len(dns) + len(uris) == 1
    assert all(uri.isascii() and " " not in uri for uri in uris)


def test_a_common_name_fits_into_its_field() -> None:
    long = "a" * 40 + "." + "b" * 40
    assert pki.common_name((long, "localhost")) == "localhost"
    assert pki.common_name((long,)) == "tedge-agentd"
    assert len(pki.authority_name("h" * 64, "0123456789abcdef")) <= 64


# The register -----------------------------------------------------------------------------------------------


AUTHORITIES = st.builds(
    reg.Authority,
    serial=SERIALS,
    sha256=st.text(),
    subject=st.text(),
    key_type=st.sampled_from(reg.KeyType),
    not_before=MOMENTS,
    not_after=MOMENTS,
    created=MOMENTS,
    published=st.none() | MOMENTS,
)
ISSUED = st.builds(
    reg.Issued,
    role=st.sampled_from(reg.Role),
    name=st.text(),
    cert_path=st.text(),
    key_path=st.text(),
    serial=SERIALS,
    sha256=st.text(),
    key_sha256=st.text(),
    issuer=st.text(),
    names=st.tuples(st.text(), st.text()),
    extra_names=st.just(()) | st.tuples(st.text()),
    key_type=st.sampled_from(reg.KeyType),
    lifetime=LIVES,
    issued=MOMENTS,
    not_before=MOMENTS,
    not_after=MOMENTS,
    owner=st.text(),
    group=st.text(),
    cert_mode=st.integers(0, 0o777),
    key_mode=st.integers(0, 0o777),
)
REGISTERS = st.builds(
    reg.Register,
    authorities=st.lists(AUTHORITIES, max_size=3).map(tuple),
    issued=st.lists(ISSUED, max_size=3).map(tuple),
    bundle_path=st.text(),
)


@given(REGISTERS)
def test_a_register_is_read_as_it_was_written(register: reg.Register) -> None:
    assert reg.parse(reg.render(register)) == register


@given(st.binary(max_size=200))
def test_anything_else_is_a_damaged_register_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any of them; never another class
        reg.parse(data)


@given(register=REGISTERS, cut=st.floats(0, 1, exclude_max=True))
def test_half_a_register_is_damaged(register: reg.Register, cut: float) -> None:
    data = reg.render(register).rstrip()
    with pytest.raises(ValueError):  # noqa: PT011
        reg.parse(data[: int(len(data) * cut)])


@pytest.mark.parametrize("change", [("version", 2), ("authorities", [{}]), ("issued", [1]), ("issued", {"a": 1})])
def test_a_register_of_another_shape_is_damaged(change: tuple[str, object]) -> None:
    plain = json.loads(reg.render(BOTH))
    plain[change[0]] = change[1]
    with pytest.raises(ValueError, match=r"damaged|not known"):
        reg.parse(json.dumps(plain).encode())


def test_a_new_certificate_takes_the_place_of_the_old_one() -> None:
    old = leaf(OLD, START, 30 * DAY, serial=1)
    renamed = dataclasses.replace(leaf(OLD, START + DAY, 30 * DAY, serial=2), name="new-name")
    child = dataclasses.replace(leaf(OLD, START, 30 * DAY, role=reg.Role.CHILD), name="c1", cert_path="", key_path="")
    other = dataclasses.replace(child, name="c2")
    register = reg.Register().with_issued(old).with_issued(child).with_issued(other).with_issued(renamed)
    assert register.issued == (child, other, renamed)
    assert register.find(reg.Role.SERVER) == renamed
    assert register.find(reg.Role.CHILD, "c2") == other
    assert register.find(reg.Role.TEDGE) is None


# When to look again -----------------------------------------------------------------------------------------


@given(SERIALS, LIVES, MOMENTS)
def test_a_look_at_the_next_moment_finds_something_due(serial: int, life: int, now: int) -> None:
    signer = authority()
    one = leaf(signer, START, life, serial)
    register = reg.Register(authorities=(signer,), issued=(one,))
    moment = pki.next_moment(register, now)
    assert moment > now
    if moment != float("inf"):
        then = int(moment)
        assert pki.due(one.issued, one.not_after, then, serial) or pki.rollover_due(register, then)
    assert not any(
        now < pki.next_renewal(found.issued, found.not_after, found.serial) < moment for found in register.issued
    )


def test_a_name_that_the_server_lacks_is_looked_at_after_the_pause() -> None:
    signer = authority()
    register = reg.Register(authorities=(signer,), issued=(leaf(signer, START, 365 * DAY),))
    assert pki.next_moment(register, START + 1, ["192.0.2.7"]) == START + pki.NAMES_PAUSE
    assert pki.next_moment(register, START + 1, ["gateway"]) > START + DAY


def test_what_was_handed_over_has_no_moment() -> None:
    child = dataclasses.replace(leaf(authority(), START, 7 * DAY), role=reg.Role.CHILD)
    assert pki.next_moment(reg.Register(issued=(child,)), START) == float("inf")
