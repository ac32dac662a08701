"""What is tried in a sandbox before anything running is touched, and where the sandbox has things."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .mosquitto_conf import BrokerConf, ConfListener


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """Where the sandbox has things. `staging`: path in the configuration -> path in the sandbox, of a file or of a
    directory with all that is below it. `root`: the directory that holds the candidate's files; empty: they are laid
    over the real ones.
    """

    staging: Mapping[str, str] = field(default_factory=dict)
    root: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Where a listener of the configuration is in the sandbox. `address` None: all of them, as written."""

    listener: ConfListener
    port: int
    address: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration to try. `files`: absolute path -> content, for every file the broker is to find.

    Start the broker on `sandbox.root` + `main`, with each file at `sandbox.root` + its path.
    """

    main: str
    files: Mapping[str, bytes] = field(repr=False)
    listeners: tuple[Tried, ...]
    conf: BrokerConf = field(repr=False)
    sandbox: Sandbox


def staged(path: str, staging: Mapping[str, str]) -> str:
    """Where a file is in the sandbox: `staging` names it, or a directory above it."""
    above = max((known for known in staging if path == known or path.startswith(f"{known}/")), key=len, default=None)
    return path if above is None else staging[above] + path[len(above) :]


def unstaged(path: str, sandbox: Sandbox) -> str:
    """What the configuration calls a path of the sandbox: the way back of `staged`."""
    return staged(path, {there: here for here, there in sandbox.staging.items()})
