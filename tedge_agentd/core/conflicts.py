"""What in the rest of a broker's configuration keeps the listener file from working, or is changed by it."""

import dataclasses
from collections.abc import Iterator, Mapping

from . import conf_findings, conf_lines, conf_places, listener, model
from .conf_lines import Directive
from .mosquitto_conf import BrokerConf, ConfListener, absolute, replaced

_KEYS = {"internal": "mqtt.bind", "external": "mqtt.external.bind"}
# A block with one of these says by itself who may come in.
_ADMITTING = ("allow_anonymous", "password_file", "psk_file", "plugin", "auth_plugin")
_IDENTITY = ("use_identity_as_username", "use_subject_as_username")


def find(
    conf: BrokerConf, listener_file: str, wanted: model.ListenerFile, interfaces: Mapping[str, model.Interface]
) -> tuple[model.Finding, ...]:
    """Return what is to be said about the configuration once the listener file holds what is wanted.

    These are all findings about it, those of reading it too: `conf.findings`, which may speak of a listener file that
    is about to be replaced, need not be added. ValueError where `wanted` cannot be rendered.
    """
    if not wanted.listeners:  # then no file of ours is written
        return conf.findings
    new = replaced(conf, listener_file, listener.render(wanted))
    path = absolute(listener_file)
    own = tuple(found for found in new.listeners if absolute(found.file) == path)
    if len(own) < len(wanted.listeners):
        return (*new.findings, conf_findings.not_included(path, conf.main))
    roles = [role for role, asked in (("internal", wanted.internal), ("external", wanted.external)) if asked]
    mine = tuple(zip(roles, own, strict=False))
    return (
        *new.findings,
        *_between_ours(mine, interfaces),
        *_with_others(mine, tuple(found for found in new.listeners if absolute(found.file) != path), interfaces),
        *_order(new, path),
        *(() if replaced(conf, path, None).per_listener_settings else _changed(new, path)),
    )


def between(internal: model.Listener, external: model.Listener) -> tuple[model.Finding, ...]:
    """Return whether our own two listeners get in each other's way, whatever else there is on the machine.

    Before anything is written, so the command that helps is one that comes before, or is the same.
    """
    path = "listeners"
    file = model.ListenerFile(internal=internal, external=external)
    new = replaced(BrokerConf(main=path), path, listener.render(file))
    mine = tuple(zip(("internal", "external"), new.listeners, strict=False))
    remedy = "before, or in the same command: tedge-agentd config set mqtt.external.bind.port=PORT"
    return tuple(dataclasses.replace(found, remedy=remedy) for found in _between_ours(mine, {}))


def clash(conf: BrokerConf, listener_file: str, interfaces: Mapping[str, model.Interface]) -> bool:
    """Whether the listener file as it is gets in the way of another file's listeners, so that no broker starts."""
    path = absolute(listener_file)
    own = [found for found in conf.listeners if absolute(found.file) == path]
    others = [found for found in conf.listeners if absolute(found.file) != path]
    return any(_collide(one, other, interfaces) for one in own for other in others)


# Addresses --------------------------------------------------------------------------------------------------


def _between_ours(
    mine: tuple[tuple[str, ConfListener], ...], interfaces: Mapping[str, model.Interface]
) -> Iterator[model.Finding]:
    if len(mine) == 2 and _collide(mine[0][1], mine[1][1], interfaces):
        yield conf_findings.conflict(
            "mqtt.external.bind.port",
            f"the external listener ({_text(mine[1][1])}) overlaps the internal one ({_text(mine[0][1])})",
            "tedge config set mqtt.external.bind.port PORT, or tedge config set mqtt.bind.port PORT",
        )


def _with_others(
    mine: tuple[tuple[str, ConfListener], ...],
    others: tuple[ConfListener, ...],
    interfaces: Mapping[str, model.Interface],
) -> Iterator[model.Finding]:
    for other in others:
        for role, own in mine:
            if not _collide(own, other, interfaces):
                continue
            line = f"line {other.line} of {other.file}"
            yield conf_findings.conflict(
                other.where,
                f"{_text(other)}, opened here, overlaps the {role} listener ({_text(own)})",
                f"remove the listener at {line}, or tedge config set {_KEYS[role]}.port PORT"
                + (", or tedge config set mqtt.bind.enabled false" if role == "internal" else ""),
            )


def _collide(one: ConfListener, other: ConfListener, interfaces: Mapping[str, model.Interface]) -> bool:
    if one.port != other.port:
        return False
    places, others = conf_places.taken(one, interfaces), conf_places.taken(other, interfaces)
    if places is None or others is None:
        # A host name: only a wildcard is sure to meet it, and the same name the same addresses.
        known = places if places is not None else others
        return one.address == other.address if known is None else any(address.is_unspecified for address in known)
    return conf_places.overlap(places, others)


def _text(found: ConfListener) -> str:
    interface = found.option("bind_interface")
    where = found.address or (f"interface {interface.value}" if interface is not None else "all addresses")
    return f"port {found.port} on {where}"


# per_listener_settings --------------------------------------------------------------------------------------


def _order(new: BrokerConf, path: str) -> Iterator[model.Finding]:
    """It must be read before every security setting, and stay on (facts/mosquitto.md 4)."""
    security: Directive | None = None
    ours_read = False
    for directive in new.directives:
        is_ours = absolute(directive.file) == path
        if directive.name == "per_listener_settings":
            if directive.is_true() and security is not None:
                yield _too_early(new, security, path) if is_ours else _too_late(directive, security)
            elif ours_read and not directive.is_true():
                yield _switched_off(directive, path)
            ours_read = ours_read or is_ours
        elif directive.name in conf_lines.SECURITY_OPTIONS and security is None:
            security = directive


def _too_early(new: BrokerConf, security: Directive, path: str) -> model.Finding:
    message = f"`{security.name}` is read before per_listener_settings in {path}: the broker would not start"
    include = next((i for i in new.include_dirs if i.real == path.rpartition("/")[0]), None)
    if include is not None and absolute(security.file) == absolute(new.main):
        remedy = f"in {new.main}, move line {include.line} (include_dir {include.path}) above line {security.line}"
    else:
        remedy = f"rename {security.file} so that it is read after {path}, or remove the line"
    return conf_findings.order(security.where, message, remedy)


def _too_late(directive: Directive, security: Directive) -> model.Finding:
    message = f"set again after `{security.name}` at {security.where}: Mosquitto 2.0 would not start"
    return conf_findings.order(directive.where, message, "remove the line: the listener file sets it")


def _switched_off(directive: Directive, path: str) -> model.Finding:
    message = (
        f"per_listener_settings is switched off here after {path} has switched it on: who may come in would change"
    )
    return conf_findings.order(directive.where, message, "remove the line")


def _changed(new: BrokerConf, path: str) -> Iterator[model.Finding]:
    """Listeners and settings of others that meant something else without our per_listener_settings."""
    in_blocks = {(d.file, d.line) for found in new.listeners if not found.implied for d in found.directives}
    for found in new.listeners:
        if absolute(found.file) != path and not found.implied and not _admits(found):
            yield conf_findings.remark(
                "listener-without-access",
                found.where,
                f"{_text(found)} has no allow_anonymous, password_file or plugin of its own, and {path} sets"
                " per_listener_settings, so that those elsewhere do not reach it: it refuses every client",
                "repeat the settings it needs below its `listener` line",
            )
    for directive in new.directives:
        if (
            directive.name in conf_lines.SECURITY_OPTIONS
            and (directive.file, directive.line) not in in_blocks
            and absolute(directive.file) != path
        ):
            yield conf_findings.remark(
                "global-security-setting",
                directive.where,
                f"`{directive.name}` belongs to no listener, and {path} sets per_listener_settings:"
                " Mosquitto 2.0 applies it to none, 2.1 refuses to start",
                "move the line below the `listener` line it is meant for",
            )


def _admits(found: ConfListener) -> bool:
    return any(found.option(name) for name in _ADMITTING) or any(found.is_true(name) for name in _IDENTITY)
