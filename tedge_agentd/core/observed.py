"""What a pass found on the machine: everything the plan may look at, gathered before it decides."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import deferral, model
from .ledger import Ledger

SERVER_PAIR = "server.pem"
CLIENT_CA_FILE = "client-ca.pem"
CLIENT_CA_DIRECTORY = "client-ca"
NOT_A_FILE = b"\0"  # a listener file's bytes where its name is no plain file, or leads where root should not read


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The server's certificate and key as the sources hold them now. `combined` is None when they are not usable."""

    combined: bytes | None = field(default=None, repr=False)
    fingerprint: str = ""
    key_type: str = ""
    leaf: str = ""
    findings: tuple[model.Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCas:
    """The client CA as the source holds it now: (sha256 of the DER, PEM) each. None: not usable."""

    is_dir: bool = False
    certificates: tuple[tuple[str, bytes], ...] | None = None
    findings: tuple[model.Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInUse:
    """A certificate that the settings name."""

    facts: model.Certificate
    role: str  # "server", "client CA", "client", "broker CA"


class Rescue(enum.Enum):
    """What to fall back to although nothing in the input forbids more: the broker did not take it."""

    NONE = "none"
    LAST_GOOD = "last good"
    INTERNAL = "the internal listener alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One look at the machine. Digests in `staged` are those of core.staging, of what the staging directory holds."""

    now: model.Stamp
    broker_installed: bool
    listener_path: str | None
    listener_data: bytes | None  # None: there is no such file
    broker: model.UnitFacts | None  # None: systemd could not be asked
    listener_clashes: bool = False  # the listener file, whoever wrote it, overlaps with another file's listeners
    leftovers: tuple[str, ...] = ()  # listener files of ours in places that are no longer theirs
    clients: tuple[model.UnitFacts, ...] = ()
    last_lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of failed clients, by unit
    files: Mapping[str, model.FileFacts] = field(default_factory=dict)  # by the rule's path
    uids: Mapping[str, int] = field(default_factory=dict)
    gids: Mapping[str, int] = field(default_factory=dict)
    pair: Pair | None = None
    client_cas: ClientCas | None = None
    staged: Mapping[str, str] = field(default_factory=dict)
    network: model.Network = field(default_factory=model.Network)
    broker_uids: frozenset[int] = frozenset()
    client_contents: tuple[str, ...] = ()  # digests of the files that clients read, in Desired.client_paths() order
    ledger: Ledger = field(default_factory=Ledger)
    certificates: tuple[CertificateInUse, ...] = ()
    findings: tuple[model.Finding, ...] = ()
    rescue: Rescue = Rescue.NONE
    garbled: bool = False  # tedge.toml is such that no process of thin-edge could read it
    under_way: tuple[deferral.Activity, ...] = ()  # what the restarts of a plan would break
    told: bool = False  # the broker was told to read something that it did not serve: only a restart proves anything
    hold: bool = False  # leave everything of the broker alone, whatever is found
