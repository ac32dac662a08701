"""What a profile of AppArmor lets the broker read, as far as its text tells (apparmor.d(5)).

A denial looks like a wrong mode: "Permission denied" on a file that is the broker's own (facts/mosquitto.md 13). Two
profiles are about. AppArmor's own, which Ubuntu loads, lets the broker read all that is below /etc/mosquitto/certs,
and is added to in /etc/apparmor.d/local, as thin-edge's package does for its directory. The one in Mosquitto's
source, which no distribution installs, stops one level above our copies and includes nothing of the administrator's.
The reading is lenient: what is not understood counts as allowed, because the preflight with the real broker has the
last word, and this only explains it.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from . import model

_QUALIFIERS = r"(?:(?:audit|allow|owner|file|quiet)\s+)*"
_START = rf"^\s*{_QUALIFIERS}(?P<deny>deny\s+)?{_QUALIFIERS}"
_PATH = r'"?(?P<path>[/@{][^"\s,]*(?:,[^"\s,]+)*)"?'
_RULE = re.compile(rf"{_START}{_PATH}\s+(?P<access>[a-zA-Z]+)\s*,")
_ACCESS_FIRST = re.compile(rf"{_START}(?P<access>[abBcCiIklmpPruUwx]+)\s+{_PATH}\s*,")
_ANY_FILE = re.compile(r"^\s*(?:allow\s+)?file\s*,")
_INCLUDE = re.compile(r'^\s*#?include\s+(?:if\s+exists\s+)?(?:<(?P<name>[^<>]+)>|"(?P<path>[^"]+)")')
_LOADED = re.compile(r"^(?P<name>.+) \((?P<mode>[a-z]+)\)$")
_HEADER = re.compile(r"^\s*(?:profile\s+(?P<name>\S+)\s*)?(?P<attach>/\S+)?[^{#]*\{")
_SPECIAL = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A loaded profile that is enforced for the broker, and the texts that make it.

    `local` is the file in which an administrator adds to it; None where it includes none.
    """

    name: str
    file: str
    texts: tuple[str, ...]
    local: str | None = None


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


def includes(text: str) -> tuple[str, ...]:
    """What a text includes, as names below /etc/apparmor.d or absolute paths."""
    found = (_INCLUDE.match(line) for line in text.splitlines())
    return tuple(match["name"] or match["path"] for match in found if match is not None)


def may_read(texts: Iterable[str], path: str) -> bool:
    """Whether a rule lets a file, or a directory with its final slash, be read, and none denies it.

    Without any rule about files there is nothing to go by.
    """
    lines = [line for text in texts for line in text.splitlines()]
    matches = [match for line in lines if (match := _RULE.match(line) or _ACCESS_FIRST.match(line))]
    if not matches or any(_ANY_FILE.match(line) for line in lines):
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
        elif letter in _SPECIAL:
            step = 2 if rest.startswith("**") else 1
            # What stands alone between slashes is at least one letter: /a/** is not /a/ itself.
            alone = letter == "*" and glob[:position].endswith("/") and rest[step : step + 1] in {"", "/"}
            result += ("(?=[^/])" if alone else "") + _SPECIAL[rest[:step]]
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
    """One finding for each directory that the broker has to read and that its profile keeps from it.

    Paths are those of files, and of directories with a final slash.
    """
    denied: dict[str, str] = {}
    for path in paths:
        if not may_read(profile.texts, path):
            denied.setdefault(f"{posixpath.dirname(path)}/{{,**}} r,", path)
    return tuple(
        model.Finding(
            code="apparmor",
            severity=model.Severity.WARNING,
            where=path,
            message=f"AppArmor's profile {profile.name} ({profile.file}) does not let the broker read it, whatever"
            " its owner and mode: Mosquitto says Permission denied",
            remedy=f"{_add(profile, rule)} && apparmor_parser -r {profile.file}",
        )
        for rule, path in denied.items()
    )


def _add(profile: Profile, rule: str) -> str:
    if profile.local is not None:
        return f"echo '{rule}' >> {profile.local}"
    return f"sed -i '/^}}/i\\  {rule}' {profile.file}"  # nothing that is included is the administrator's
