"""What survives a crash and a power cut: /var/lib/tedge-agentd, root's alone (0700).

state.json          the ledger and the memory of retries and budgets
transaction.json    what a pass is about to change, written before the first change, removed after its proof
last-good/          the staged copies that last verified, by digest
originals/          what lay at the listener file's place before us, for purge
"""

import base64
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import ledger, staging
from ..core.ledger import Ledger
from . import files, opened

_LIMIT = 16 << 20  # bytes; a listener file and a few hundred digests are some kilobytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Everything remembered. `retries` is core.backoff's states as plain data, by what they are about."""

    ledger: Ledger = field(default_factory=Ledger)
    retries: Mapping[str, object] = field(default_factory=dict)
    damaged: str = ""  # why the file on disk could not be read; "" if it could


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """What a pass that is under way may have changed: the listener file's bytes before it (None: there was none), and
    (path, uid, gid, mode) of the source files that it was to give away. The staged copies are undone from last-good.
    """

    path: str | None
    listener: bytes | None
    owned: tuple[tuple[str, int, int, int], ...] = ()


class State:
    """The state directory. Writes are atomic and durable; nothing here is read by anybody but root."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Make the directories, and remove what an interrupted write left."""
        for path in (self.directory, f"{self.directory}/last-good", f"{self.directory}/originals"):
            os.makedirs(path, mode=0o700, exist_ok=True)
            files.clean_strays(path)

    # Memory -------------------------------------------------------------------------------------------------

    def load(self) -> Memory:
        """Return what is remembered; an empty memory, and why, where the file is damaged or of a later version."""
        try:
            data = json.loads(files.read_limited(f"{self.directory}/state.json", _LIMIT))
            return Memory(ledger=ledger.from_json(data["ledger"]), retries=dict(data["retries"]))
        except opened.Missing:
            return Memory()
        except (opened.Refused, ValueError, KeyError, TypeError, RecursionError) as error:
            return Memory(damaged=str(error) or repr(error))

    def save(self, memory: Memory) -> None:
        self._write("state.json", {"ledger": ledger.to_json(memory.ledger), "retries": dict(memory.retries)})

    # The transaction under way ------------------------------------------------------------------------------

    def begin(self, undo: Undo) -> None:
        """Make the undo record durable, before anything is changed. A record that is still there is kept: the pass
        that wrote it died, and what it says lay there before is further back than what lies there now.
        """
        if self.under_way() is not None:
            return
        self._write(
            "transaction.json",
            {
                "path": undo.path,
                "listener": None if undo.listener is None else base64.b64encode(undo.listener).decode(),
                "owned": [list(entry) for entry in undo.owned],
            },
        )

    def under_way(self) -> Undo | None:
        """The undo record of a pass that did not end; None if the last one did, or if the record is damaged."""
        try:
            data = json.loads(files.read_limited(f"{self.directory}/transaction.json", _LIMIT))
            listener = data["listener"]
            return Undo(
                path=data["path"],
                listener=None if listener is None else base64.b64decode(listener),
                owned=tuple((str(path), int(uid), int(gid), int(mode)) for path, uid, gid, mode in data["owned"]),
            )
        except (opened.Refused, ValueError, KeyError, TypeError):
            return None

    def end(self) -> None:
        files.remove(f"{self.directory}/transaction.json")

    # Last good ----------------------------------------------------------------------------------------------

    def keep(self, image: staging.Image) -> None:
        """Keep durable copies of what has just verified, before the ledger names them by their digests."""
        for content in image.files.values():
            self._keep(staging.file_digest(content), content)
        for entries in image.directories.values():
            packed = json.dumps([[name, content.decode("ascii")] for name, content in entries])
            self._keep(staging.directory_digest(entries), packed.encode())

    def _keep(self, digest: str, content: bytes) -> None:
        path = f"{self.directory}/last-good/{digest}"
        try:
            if files.read_limited(path, _LIMIT) == content:
                return
        except opened.Refused:
            pass  # none yet, or one that is damaged
        files.replace(path, content, mode=0o600, uid=0, gid=0)

    def forget(self, digests: Collection[str]) -> None:
        """Drop the copies that the ledger names no more; `digests` are those it does."""
        there = f"{self.directory}/last-good"
        for name in os.listdir(there):
            if name not in digests:
                files.remove(f"{there}/{name}")

    def kept(self, name: str, digest: str) -> staging.Image:
        """The copy of one staged name that last verified; an empty image where it is damaged or gone."""
        try:
            content = files.read_limited(f"{self.directory}/last-good/{digest}", _LIMIT)
            if staging.file_digest(content) == digest:
                return staging.Image(files={name: content})
            entries = tuple((str(entry), pem.encode("ascii")) for entry, pem in json.loads(content))
            if staging.directory_digest(entries) == digest:
                return staging.Image(directories={name: entries})
        except (opened.Refused, ValueError, TypeError, AttributeError):
            pass
        return staging.Image()

    # Originals ----------------------------------------------------------------------------------------------

    def keep_original(self, path: str, data: bytes | None, owner: tuple[int, int, int] | None) -> None:
        """Remember, once, what lay at the listener file's place before we first wrote there: purge puts it back.

        `restore` is read by the package's postrm, which has no Python any more: the path, then `saved` or `none`.
        """
        there = f"{self.directory}/originals"
        if os.path.exists(f"{there}/restore") and not self._is_moved_from_nothing(path):
            return
        if data is not None and owner is not None:
            uid, gid, mode = owner
            files.replace(f"{there}/listener.conf", data, mode=mode, uid=uid, gid=gid)
        verdict = "saved" if data is not None else "none"
        files.replace(f"{there}/restore", f"{path}\n{verdict}\n".encode(), mode=0o600, uid=0, gid=0)

    def _is_moved_from_nothing(self, path: str) -> bool:
        """Whether the record is of an earlier place of the listener file, where there was none before us."""
        try:
            lines = files.read_limited(f"{self.directory}/originals/restore").decode().splitlines()
        except (opened.Refused, UnicodeDecodeError):
            return False
        return len(lines) == 2 and lines[0] != path and lines[1] == "none"

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        text = json.dumps(data, indent=1, sort_keys=True)
        files.replace(f"{self.directory}/{name}", text.encode(), mode=0o600, uid=0, gid=0)
