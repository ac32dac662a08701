"""A client setting that reaches nothing: a port of this machine where no listener is configured."""

from . import desired, model
from .mosquitto_conf import BrokerConf, absolute

_HERE = frozenset({"127.0.0.1", "localhost", "::1"})


def find(
    wish: desired.Desired | None, conf: BrokerConf | None, listener_file: str | None
) -> tuple[model.Finding, ...]:
    """Return the remark that the clients' port is nobody's: neither a listener of ours nor one of the site's own.

    Somebody's listener on another address than the clients' counts: whether they get in is found out by a login.
    """
    if wish is None or wish.client.host not in _HERE:
        return ()
    ours = {entry.port for entry in (wish.internal, wish.external) if entry is not None}
    theirs = _of_the_site(conf, listener_file)
    if not ours | theirs or wish.client.port in ours | theirs:
        return ()
    return (
        model.Finding(
            code="client-port",
            severity=model.Severity.WARNING,
            where="mqtt.client.port",
            message=f"thin-edge's clients connect to {wish.client.host}:{wish.client.port}, where no listener is"
            " configured",
            remedy=f"tedge config set mqtt.client.port {min(ours or theirs)}",
        ),
    )


def _of_the_site(conf: BrokerConf | None, listener_file: str | None) -> set[int]:
    """The ports that the rest of the broker's configuration opens."""
    if conf is None:
        return set()
    ours = absolute(listener_file) if listener_file is not None else None
    return {found.port for found in conf.listeners if found.port and absolute(found.file) != ours}
