"""What a pass does to the machine, as data that can describe itself.

What `plan` prints, what the journal logs and what is executed is the same object; tedge_agentd/execute.py is the one
place that knows how. No operation's repr or description holds key material.
"""

from dataclasses import dataclass, field

from . import ledger, model, staging


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Give a source file to its reader: owner, group and mode at once, on the descriptor of the safe walk."""

    rule: model.FileRule
    facts: model.FileFacts
    mode: int

    def describe(self) -> str:
        was = f"{self.facts.uid}:{self.facts.gid} {self.facts.mode:04o}"
        return f"own {self.rule.path}: {self.rule.owner}:{self.rule.group} {self.mode:04o} (was {was})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Replace one staged file, whole, by a checked copy that only the broker's user can read."""

    name: str  # below the staging directory
    content: bytes = field(repr=False)
    source: str

    def describe(self) -> str:
        return f"stage {self.name} from {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDirectory:
    """Replace one staged directory of CA certificates, whole, with its hash links."""

    name: str
    files: tuple[tuple[str, bytes], ...] = field(repr=False)
    source: str

    def describe(self) -> str:
        return f"stage {self.name}/ with {len(self.files)} CA certificates from {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreStaged:
    """Put the last good copy of one staged name back from the state directory, where it lies under its digest."""

    name: str
    digest: str

    def describe(self) -> str:
        return f"put back the last good {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstage:
    """Remove a staged file or directory that no setting names any more."""

    name: str

    def describe(self) -> str:
        return f"remove staged {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteListenerFile:
    path: str
    content: bytes
    reason: str

    def describe(self) -> str:
        return f"write {self.path}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveListenerFile:
    path: str
    reason: str

    def describe(self) -> str:
        return f"remove {self.path}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadBroker:
    unit: str
    reason: str

    def describe(self) -> str:
        return f"reload {self.unit}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartBroker:
    unit: str
    reason: str

    def describe(self) -> str:
        return f"restart {self.unit}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyBroker:
    """Prove that every listener answers as it should. `leaf` is the sha256 of the certificate TLS must present."""

    listeners: tuple[model.Listener, ...]
    leaf: str | None

    def describe(self) -> str:
        ports = ", ".join(f"{listener.port} {listener.level.value}" for listener in self.listeners)
        return f"verify that the broker serves {ports}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TryLogin:
    """Log in with the clients' own settings before a running client is restarted into them."""

    client: model.ClientSettings
    user: str  # on whose behalf its files are read

    def describe(self) -> str:
        return f"log in at {self.client.host}:{self.client.port} with the clients' settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartClient:
    """`has_failed`: it does not run, and is started all the same."""

    unit: str
    reason: str
    has_failed: bool = False

    def describe(self) -> str:
        return f"restart {self.unit}: {self.reason}"


Operation = (
    Own
    | Stage
    | StageDirectory
    | RestoreStaged
    | Unstage
    | WriteListenerFile
    | RemoveListenerFile
    | ReloadBroker
    | RestartBroker
    | VerifyBroker
    | TryLogin
    | RestartClient
)

# Those that change nothing.
LOOKS = (VerifyBroker, TryLogin)

# Those after which the broker may read something else than before.
BROKER_INPUT = (Stage, StageDirectory, RestoreStaged, WriteListenerFile, RemoveListenerFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pass would do, and why not more. `serving` is what the broker serves once it is done (None: not ours);
    `staged` where the staged pair then comes from; `content` the listener file that then lies on disk.
    """

    findings: tuple[model.Finding, ...] = ()
    operations: tuple[Operation, ...] = ()
    target: model.ListenerFile | None = None
    content: bytes | None = None
    path: str | None = None
    serving: ledger.Serving | None = None
    staged: ledger.Staged | None = None
    image: staging.Image | None = None  # what the staging directory then holds; None: as it is
    fallback: bool = False  # the last good state or the internal listener alone, not what was asked for
    clients: tuple[tuple[str, ledger.ClientInputs], ...] = ()

    def changes(self) -> tuple[Operation, ...]:
        """The operations that change the machine; looking at it is none."""
        return tuple(op for op in self.operations if not isinstance(op, LOOKS))
