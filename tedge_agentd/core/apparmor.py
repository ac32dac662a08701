"""What a profile of AppArmor lets the broker read, as far as its text tells (apparmor.d(5)).

A denial looks like a wrong mode: "Permission denied" on a file that is the broker's own (facts/mosquitto.md 13). The
reading is lenient: what is not understood counts as allowed, because the preflight with the real broker has the last
word, and this only explains it.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from . import model

_QUALIFIERS = r"(?:(?:audit|allow|owner|file|quiet)\s+)*"
_RULE = re.compile(rf'^\s*(?P<deny>deny\s+)?{_QUALIFIERS}"?(?P<path>[/@][^"\s]*)"?\s+(?P<access>[a-zA-Z]+)\s*,')
_LOADED = re.compile(r"^(?P<name>.+) \((?P<mode>[a-z]+)\)$")
_HEADER = re.compile(r"^\s*(?:profile\s+(?P<name>\S+)\s*)?(?P<attach>/\S+)?[^{#]*\{")
_SPECIAL = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A loaded profile that is enforced for the broker, and the texts that make it, by path."""

    name: str
    file: str
    texts: tuple[str, ...]


def enforced(loaded: str) -> tuple[str, ...]:
    """Return the names of the profiles that the kernel enforces, from /sys/kernel/security/apparmor/profiles."""
    found = (_LOADED.match(line) for line in loaded.splitlines())
    return tuple(match["name"] for match in found if match is not None and match["mode"] == "enforce")


def names_for(binary: str) -> frozenset[str]:
    """The names a profile of this program goes by: its path, that path with dots, or the program's own name."""
    return frozenset({binary, binary.strip("/").replace("/", "."), posixpath.basename(binary)})


def describes(text: str, name: str) -> bool:
    """Whether a file below /etc/apparmor.d holds the profile of this name."""
    headers = (_HEADER.match(line) for line in text.splitlines())
    return any(header is not None and name in {header["name"], header["attach"]} for header in headers)


def may_read(texts: Iterable[str], path: str) -> bool:
    """Whether a rule lets the file be read and none denies it. Without any file rule there is nothing to go by."""
    matches = [match for text in texts for line in text.splitlines() if (match := _RULE.match(line))]
    if not matches:
        return True
    reading = [match for match in matches if "r" in match["access"].lower() and _matches(match["path"], path)]
    return bool(reading) and not any(match["deny"] for match in reading)


def _matches(glob: str, path: str) -> bool:
    try:
        return re.fullmatch(_regex(glob), path) is not None
    except re.error:
        return True


def _regex(glob: str) -> str:
    """A path glob of apparmor.d(5) as a regular expression; a variable may stand for anything."""
    result, depth, position = "", 0, 0
    while position < len(glob):
        rest = glob[position:]
        letter = rest[0]
        step = 1
        if rest.startswith("@{"):
            step = rest.find("}") + 1 or len(rest)
            result += ".*"
        elif rest.startswith("**"):
            step, result = 2, result + _SPECIAL["**"]
        elif letter in _SPECIAL:
            result += _SPECIAL[letter]
        elif letter == "{":
            depth, result = depth + 1, result + "(?:"
        elif letter == "}" and depth:
            depth, result = depth - 1, result + ")"
        elif letter == "," and depth:
            result += "|"
        elif letter == "[" and "]" in rest:
            step = rest.index("]") + 1
            result += rest[:step]
        else:
            result += re.escape(letter)
        position += step
    return result


def findings(profile: Profile, paths: Iterable[str]) -> tuple[model.Finding, ...]:
    """One finding for each file that the broker has to read and that its profile keeps from it."""
    return tuple(
        model.Finding(
            code="apparmor",
            severity=model.Severity.WARNING,
            where=path,
            message=f"AppArmor's profile {profile.name} ({profile.file}) does not let the broker read it, whatever"
            " its owner and mode: Mosquitto says Permission denied",
            remedy=f"echo '{posixpath.dirname(path)}/** r,' >> {_local(profile.file)} &&"
            f" apparmor_parser -r {profile.file}",
        )
        for path in paths
        if not may_read(profile.texts, path)
    )


def _local(file: str) -> str:
    directory, _, name = file.rpartition("/")
    return f"{directory}/local/{name}"
