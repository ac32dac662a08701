"""The policy of the local PKI: how long, under which names, by which CA, and when again (contract 9).

Time is a parameter everywhere, and is never trusted blindly: a gateway without an RTC starts its clock at the build
time of its image, sometimes years behind, and a broken RTC may be years ahead. The rules:

- A clock that is behind something this machine has already seen issues nothing (`clock_problem`).
- Certificates begin long before they are issued (`leaf_validity`), so that a clock that is behind verifies them too.
- A certificate's life, of which two thirds count, therefore begins at its issue and not at its notBefore.
"""

import datetime
import enum
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .pki_register import Authority, Issued, KeyType, Register, Role

DAY = 86400

# 2026-01-01: no image with this software in it was built before, and systemd starts no clock before its own build
# time (systemd(1), "clock-epoch"). CAs begin here, so that no clock of a working gateway is before them.
RELEASED = 1767225600

# Apple's verifiers refuse a server certificate that spans more, also from a CA the user added (support.apple.com
# 103769); others may follow.
LONGEST_SPAN = 825 * DAY

SHORTEST_LIFE = 7 * DAY  # what a daily look can renew in time: a third minus the jitter is two days
CLOCK_SLACK = DAY  # a clock set back by less is corrected, not broken
NAMES_PAUSE = 600  # seconds between two certificates for a server whose names change

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_DEVICE = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings of the local PKI. `overlap_days`: how long clients know a new CA before it issues anything."""

    authority_days: int = 3650
    leaf_days: int = 365
    overlap_days: int = 180
    key_type: KeyType = KeyType.EC_P256

    @property
    def overlap(self) -> int:
        """In seconds."""
        return self.overlap_days * DAY


class Condition(enum.Enum):
    """What lies where a pair was put."""

    GOOD = "good"
    HANDED_OVER = "handed over"
    MISSING = "missing"
    REPLACED = "replaced"  # by somebody else: not ours to renew
    HALF = "half"  # one of the two files is missing or somebody else's
    UNREADABLE = "unreadable"


# Renewal ----------------------------------------------------------------------------------------------------


def next_renewal(issued: int, not_after: int, serial: int) -> int:
    """When a certificate is to be renewed: after two thirds of its life, plus up to a twentieth of it as jitter.

    The jitter comes from the serial, which is random: a fleet made in one hour does not renew in one hour, and the
    answer for one certificate never changes.
    """
    life = not_after - issued
    return issued + life * 2 // 3 + (life // 20) * (serial % 65536) // 65536


def due(issued: int, not_after: int, now: int, serial: int) -> bool:
    """Whether that moment has come."""
    return now >= next_renewal(issued, not_after, serial)


def next_moment(register: Register, now: int, names: Sequence[str] | None = None) -> float:
    """When the next renewal of a certificate or a CA falls due after now; infinity if none does."""
    leaves = [one for one in register.issued if is_ours_to_renew(one)]
    moments = [next_renewal(one.issued, one.not_after, one.serial) for one in leaves]
    moments += [next_renewal(one.created, one.not_after, one.serial) for one in register.authorities]
    moments += [one.issued + NAMES_PAUSE for one in leaves if _lacking(one, names)]
    return min((moment for moment in moments if moment > now), default=float("inf"))


def _lacking(one: Issued, names: Sequence[str] | None) -> list[str]:
    """The names under which the server is reached, and which its certificate has not."""
    if one.role is not Role.SERVER or names is None:
        return []
    return [name for name in usable_names(names) if name not in one.names]


def clock_problem(register: Register, now: int, *, synchronized: bool) -> str:
    """Why nothing may be issued by this clock; "" when it may.

    An issue by a clock that is behind would make certificates that have already expired for everybody else. A
    synchronised clock is believed against the register, whose last entry may come from a clock that was ahead.
    """
    if now < RELEASED:
        return f"the clock says {utc(now)}, which is before this software was released"
    if is_behind(register, now) and not synchronized:
        return f"the clock says {utc(now)}, but a certificate was issued at {utc(_latest(register))}"
    return ""


def is_behind(register: Register, now: int) -> bool:
    """Whether the clock is behind what was already seen: one of the two is wrong, this one or that of the issue."""
    return now < _latest(register) - CLOCK_SLACK


def _latest(register: Register) -> int:
    seen = [one.created for one in register.authorities] + [one.issued for one in register.issued]
    return max(seen, default=0)


def reason_to_renew(one: Issued, now: int, *, synchronized: bool, names: Sequence[str] | None = None) -> str:
    """Why a certificate is renewed now; "" while it is not. `names`: what the server is reached as, if known."""
    if now >= one.not_after:
        return "it expired"
    if due(one.issued, one.not_after, now, one.serial):
        return "two thirds of its life are over"
    if synchronized and now < one.not_before:
        return "it was issued by a clock that was ahead and is not valid yet"
    lacking = _lacking(one, names)
    if lacking and abs(now - one.issued) >= NAMES_PAUSE:
        return f"it lacks {', '.join(lacking)}"
    return ""


def is_ours_to_renew(one: Issued) -> bool:
    """Whether the daemon renews it: what was handed over with its key is out of reach."""
    return one.role is not Role.CHILD


# Authorities ------------------------------------------------------------------------------------------------


def signer(register: Register, now: int, overlap: int) -> Authority | None:
    """Who signs now: the newest CA that clients have known for `overlap` seconds, else the oldest that lives.

    A new CA alone would lock out every client that was not given it yet; so the old one signs on while both are in
    the bundle. One in its last days signs only if there is no other: what it issues could not be renewed in time.
    """
    alive = [one for one in register.authorities if now < one.not_after]
    lasting = [one for one in alive if now + SHORTEST_LIFE < one.not_after] or alive
    known = [one for one in lasting if one.published is not None and one.published + overlap <= now]
    return known[-1] if known else next(iter(lasting), None)


def coming(register: Register, now: int, overlap: int) -> int | None:
    """When a CA that is trusted already, but does not sign yet, will begin to; None when there is none."""
    signing = signer(register, now, overlap)
    moments = [
        one.published + overlap for one in register.authorities if one.published is not None and one != signing
    ]
    return min((moment for moment in moments if moment > now), default=None)


def rollover_due(register: Register, now: int) -> bool:
    """Whether the next CA is to be made. Not once the last has expired: then clients must be visited anyway, and a
    clock that is years ahead is likelier than a gateway that was off for years.
    """
    if not register.authorities:
        return False
    newest = max(register.authorities, key=lambda one: one.not_after)
    return newest.not_after > now and due(newest.created, newest.not_after, now, newest.serial)


def trusted(register: Register, now: int) -> tuple[Authority, ...]:
    """The CAs that belong into the bundle, oldest first: all that live, so that nothing issued loses its root."""
    return tuple(one for one in register.authorities if now < one.not_after)


# Validity ---------------------------------------------------------------------------------------------------


def authority_validity(now: int, days: int) -> tuple[int, int]:
    """notBefore and notAfter of a CA made now."""
    return RELEASED, now + days * DAY


def leaf_validity(authority: Authority, now: int, lifetime: int) -> tuple[int, int]:
    """notBefore and notAfter of a certificate issued now: within its CA's, and as early as strict verifiers take.

    An early notBefore costs nothing, for nobody held the certificate then, and a gateway that boots with its clock
    weeks behind and without a time server still gets its local connections up.
    """
    not_after = min(now + lifetime, authority.not_after)
    return max(authority.not_before, min(now - DAY, not_after - LONGEST_SPAN)), not_after


# Names ------------------------------------------------------------------------------------------------------


def usable_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names and addresses as they go into a SAN, each once; what no client can use as a name is left out."""
    cleaned = (clean_name(name) for name in names)
    return tuple(dict.fromkeys(name for name in cleaned if name is not None))


def clean_name(name: str) -> str | None:
    """A DNS name in lower case or an address in its canonical form; None when it is neither.

    0.0.0.0 and :: are places to listen on, not to connect to; a scoped address means something on one machine only.
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        lowered = name.rstrip(".").lower()
        labels = lowered.split(".")
        fits = len(lowered) <= 253 and all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
        return lowered if fits else None
    scoped = isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None
    return None if address.is_unspecified or address.is_multicast or scoped else str(address)


def server_names(names: Iterable[str]) -> tuple[str, ...]:
    """What a server is called: the names given, and those under which its own machine reaches it."""
    return usable_names((*names, "localhost", "127.0.0.1", "::1"))


def split_names(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Usable names, parted into DNS names and addresses."""
    dns, addresses = [], []
    for name in names:
        try:
            addresses.append(str(ipaddress.ip_address(name)))
        except ValueError:
            dns.append(name)
    return tuple(dns), tuple(addresses)


def common_name(names: Sequence[str]) -> str:
    """The subject of a server certificate: the first name that fits into 64 characters (X.520 ub-common-name)."""
    return next((name for name in names if len(name) <= 64), "tedge-agentd")


def authority_name(host: str, distinct: str) -> str:
    """The subject of a CA: whose it is, and which."""
    return f"tedge-agentd CA {host[:32]} {distinct[:8]}"


def device_name_problem(name: str) -> str:
    """Why a child device cannot be called so; "" when it can. The name becomes its MQTT user name and a file name."""
    if not _DEVICE.fullmatch(name) or name in (".", ".."):
        return f"{name!r} is not a device name: 1 to 64 of the characters A-Z a-z 0-9 . _ -"
    return ""


def client_sans(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """DNS names and URIs of a client certificate: strict verifiers want a SAN, and not every name is a DNS name."""
    cleaned = clean_name(name)
    is_dns = cleaned is not None and not split_names((cleaned,))[1]
    return ((cleaned,), ()) if is_dns and cleaned is not None else ((), (f"urn:tedge-agentd:{name}",))


def utc(moment: int) -> str:
    """A moment for a reader."""
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d %H:%M} UTC"
