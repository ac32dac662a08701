"""The layout of tedge.toml: its version, the move of a version 1 file to today's names, and the file's aliases.

tedge does the same on every load, and writes the result back (facts/thin-edge.md 1.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .config_keys import Path
from .model import Finding
from .toml_load import Document, refused
from .toml_names import FILE_ALIASES, LATE_MIGRATION, MIGRATION
from .toml_text import described, dotted

Table = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A document under today's names. `written` tells under which path a key that was moved stands in the file."""

    document: Document
    table: Table
    written: Mapping[Path, Path]
    findings: tuple[Finding, ...] = ()
    mended: bool = False  # a key stood there twice, and one of the two is gone because it is about to be replaced

    def place(self, path: Path) -> str:
        return self.document.place(self.written.get(path, path))

    def name(self, path: Path) -> str:
        """The key, and the name it has in the file where that is another."""
        written = self.written.get(path)
        return dotted(path) if written is None else f"{dotted(path)} (written as {dotted(written)})"


def today(document: Document, *, replaced: frozenset[str] = frozenset()) -> Layout:
    """Return the document in today's layout; a finding where tedge would refuse the file for its layout.

    `replaced` names keys that are about to get another value: what stands in their place twice is then no conflict.
    The document's own table is not changed.
    """
    mover = _Mover(document=document, table=copied(document.table), written={}, findings=[], replaced=replaced)
    version = _version(document)
    if isinstance(version, Finding):
        return Layout(document=document, table=mover.table, written={}, findings=(version,))
    if version == "1":
        for old, new in MIGRATION:
            mover.move(old, new)
        mover.drop_if_empty(("mqtt", "client_auth"))
    mover.move(*LATE_MIGRATION)
    for old, new in FILE_ALIASES.items():
        mover.move(old, new, alias=True)
    return Layout(
        document=document,
        table=mover.table,
        written=mover.written,
        findings=tuple(mover.findings),
        mended=mover.mended,
    )


def _version(document: Document) -> str | Finding:
    config = document.table.get("config", {})
    if not isinstance(config, dict):
        message = f"config is {described(config)}; tedge expects a table and rejects the whole file"
        return refused("wrong-type", document.place(("config",)), message)
    version = config.get("version", "1")
    if version in ("1", "2"):
        return str(version)
    place = document.place(("config", "version"))
    if isinstance(version, str):
        message = (
            f"Unknown tedge.toml version: {described(version)}; it was written by a newer thin-edge, or by mistake"
        )
        return refused("unknown-version", place, message, 'set version = "2" in the table [config], or upgrade')
    message = f'config.version is {described(version)}; tedge expects "1" or "2" in quotes and rejects the whole file'
    return refused("wrong-type", place, message)


@dataclass(slots=True, kw_only=True)
class _Mover:
    document: Document
    table: Table
    written: dict[Path, Path]
    findings: list[Finding]
    replaced: frozenset[str]
    mended: bool = False

    def move(self, old: str, new: str, *, alias: bool = False) -> None:
        """Move one key. Both present is what tedge refuses, in its own words for a migration and for an alias."""
        source, target = tuple(old.split(".")), tuple(new.split("."))
        holder = self._holder(source, create=False)
        if holder is None or source[-1] not in holder:
            return
        value = holder[source[-1]]
        below = self._holder(target, create=True)
        if below is None:
            return
        if target[-1] in below:
            if new not in self.replaced:
                self.findings.append(self._conflict(source, target, alias=alias))
                return
            self.mended = True
        del holder[source[-1]]
        below[target[-1]] = value
        self.written[target] = self.written.get(source, source)

    def _holder(self, path: Path, *, create: bool) -> Table | None:
        """The table that holds the last part of a path. None: there is none, or a finding says it is no table."""
        table = self.table
        for length, part in enumerate(path[:-1], start=1):
            if part not in table and not create:
                return None
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                self._not_a_table(path[:length], inner)
                return None
            table = inner
        return table

    def _not_a_table(self, path: Path, value: object) -> None:
        message = f"{dotted(path)} is {described(value)}; tedge expects a table and rejects the whole file"
        finding = refused("wrong-type", self.document.place(path), message)
        if finding not in self.findings:
            self.findings.append(finding)

    def _conflict(self, source: Path, target: Path, *, alias: bool) -> Finding:
        old, new = dotted(source), dotted(target)
        first = dotted(self.written.get(target, target))
        place = self.document.place(source)
        remedy = f"remove {old} or {first} from {self.document.where}"
        if alias:
            message = f"{old} and {first} are the same key; tedge finds a duplicate field and rejects the whole file"
            return refused("duplicate-key", place, message, remedy)
        message = (
            f"Cannot migrate '{old}' to '{new}': target key already exists. "
            "Please manually remove one of them from tedge.toml."
        )
        return refused("migration-conflict", place, message, remedy)

    def drop_if_empty(self, path: Path) -> None:
        holder = self._holder(path, create=False)
        if holder is not None and holder.get(path[-1]) == {}:
            del holder[path[-1]]


def copied(table: Mapping[str, object]) -> Table:
    """A copy that shares no table with the original; lists are shared, for nothing here changes one."""
    return {key: copied(value) if isinstance(value, dict) else value for key, value in table.items()}
