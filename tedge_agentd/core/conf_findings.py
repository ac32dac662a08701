"""What is said about a broker's configuration that the broker would refuse, or read otherwise than it looks."""

import re
from dataclasses import replace

from . import conf_lines, model

_PLAIN_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")


def _finding(code: str, where: str, message: str, remedy: str, *, refused: bool) -> model.Finding:
    """`refused`: the broker would not start with this, or would start without a part of its configuration."""
    return model.Finding(
        code=code,
        severity=model.Severity.ERROR if refused else model.Severity.WARNING,
        where=conf_lines.printable(where),
        message=conf_lines.printable(message),
        remedy=conf_lines.printable(remedy),
        blocks=model.Area.BROKER if refused else None,
    )


def listener_finding(
    directive: conf_lines.Directive, words: list[str], port: int, address: str | None
) -> model.Finding | None:
    where, code = directive.where, "broker-conf"
    if not words:
        return _finding(code, where, "`listener` without a port", "name a port: listener 8883", refused=True)
    if not 0 <= port <= 65535:
        return _finding(code, where, f"{words[0]} is not a port", "use a port from 1 to 65535", refused=True)
    if port == 0 and address is None:
        message = f"`listener {words[0]}` has neither a port nor a path for a Unix socket"
        return _finding(code, where, message, "use a port from 1 to 65535", refused=True)
    if port == 0:
        return None if words[0] == "0" else _plain_port(where, words[0], port)
    if address is not None and address.startswith("["):
        return _finding(
            code, where, f"{address} is not understood by the broker", f"write {address.strip('[]')}", refused=True
        )
    return None if _PLAIN_PORT.match(words[0]) else _plain_port(where, words[0], port)


def _plain_port(where: str, word: str, port: int) -> model.Finding:
    message = f"Mosquitto 2.0 reads the port {word!r} as {port} and drops the rest of the word; 2.1 refuses it"
    return _finding("broker-conf", where, message, f"write listener {port}", refused=False)


def main_unreadable(path: str, reason: str, *, missing: bool) -> model.Finding:
    """Without the broker's package there is no configuration yet: a state that passes when it is installed."""
    message = f"the broker's configuration cannot be read: {reason}"
    remedy = "apt install mosquitto" if missing else f"ls -l {path}"
    return replace(_finding("broker-conf-unreadable", path, message, remedy, refused=True), waits=missing)


def include_unreadable(path: str, reason: str, included: str) -> model.Finding:
    message = f"the broker, which includes it at {included}, cannot start without it: {reason}"
    return _finding("broker-conf-unreadable", path, message, f"ls -l {path}; remove or repair it", refused=True)


def nul(path: str, line: int) -> model.Finding:
    return _finding(
        "broker-conf-nul",
        f"{path}:{line}",
        "a NUL byte: the broker silently ignores what follows in this file, security settings too",
        f"tr -d '\\0' <{path} shows the file without it; put that in its place",
        refused=True,
    )


def not_a_directive(directive: conf_lines.Directive) -> model.Finding:
    name = directive.name
    if name.startswith("\ufeff"):
        message, remedy = (
            "the file starts with a byte order mark, which the broker refuses",
            "save it without (UTF-8)",
        )
    elif "\t" in name:
        message = "a tab where the broker, which splits at spaces alone, needs a space"
        remedy = "replace the tab by a space"
    elif name.startswith("#"):
        message, remedy = "a comment that does not start in column 1 is refused", "remove the spaces before the #"
    else:
        message, remedy = f"{name!r} is not a setting of the broker", "remove the line"
    return _finding("broker-conf", directive.where, message, remedy, refused=True)


def nested_include(directive: conf_lines.Directive) -> model.Finding:
    message = "include_dir in an included file: Mosquitto 2.0 ignores it, 2.1 refuses to start"
    return _finding("broker-conf", directive.where, message, "move the line to mosquitto.conf", refused=False)


def include_missing(directive: conf_lines.Directive, reason: str) -> model.Finding:
    path = directive.value
    hint = "; mind the spaces around the path" if path != path.strip(" ") or not path else ""
    return _finding(
        "broker-conf-include",
        directive.where,
        f"the broker does not start, for it cannot open include_dir {path!r}: {reason}{hint}",
        f"mkdir -p {path.strip(' ')}, or remove the line",
        refused=True,
    )


def bad_string(directive: conf_lines.Directive) -> model.Finding:
    message = f"the value of {directive.name} is empty, too long, or holds characters that the broker refuses"
    return _finding("broker-conf", directive.where, message, "write it as plain text", refused=True)


def stray(where: str, name: str, port: int, address: str | None) -> model.Finding:
    place = f"port {port} of {address or 'all addresses'}"
    if name in conf_lines.OLD_STYLE:
        message = f"the old setting `{name}` opens a listener on {place}"
        remedy = "write a `listener` line instead, or remove it"
    else:
        message = f"`{name}` stands before any `listener` line of its file: the broker opens a listener on {place}"
        remedy = "move the line below the `listener` line it is meant for, or remove it"
    return _finding("stray-listener-option", where, message, remedy, refused=False)


def no_include(main: str) -> model.Finding:
    message = f"{main} includes no directory, so there is no place for the listener file"
    remedy = f"echo 'include_dir /etc/mosquitto/conf.d' >>{main}"
    return _finding("no-include-dir", main, message, remedy, refused=True)


def included_twice(path: str, where: str, first: str) -> model.Finding:
    message = f"{path} is included a second time (first at {first}), and each listener in it twice"
    return _finding("listener-conflict", where, message, "remove this line", refused=True)


def not_included(path: str, main: str) -> model.Finding:
    message = f"{main} does not include the directory of {path}: the broker would not read it"
    remedy = f"add `include_dir {path.rpartition('/')[0]}` to {main}"
    return _finding("no-include-dir", main, message, remedy, refused=True)


def conflict(where: str, message: str, remedy: str) -> model.Finding:
    return _finding("listener-conflict", where, message, remedy, refused=True)


def order(where: str, message: str, remedy: str) -> model.Finding:
    return _finding("per-listener-settings", where, message, remedy, refused=True)


def remark(code: str, where: str, message: str, remedy: str) -> model.Finding:
    return _finding(code, where, message, remedy, refused=False)
