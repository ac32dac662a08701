"""Read retained messages with one short MQTT subscription, logged in as the clients are."""

from tedge_agentd.core import model

from . import login, wire
from .client_files import ClientFiles
from .session import Session


def read(
    client: model.ClientSettings, reader: ClientFiles, topic_filter: str, *, timeout: float
) -> tuple[tuple[str, bytes], ...] | None:
    """Return (topic, payload) of the retained messages that match; None where the broker does not let us ask.

    Best effort: each answer may take `timeout` seconds, and of very many messages some are left out. Nothing is
    published, and the subscription ends with the call.
    """
    try:
        context, password = login.tls_context(client, reader), login.password_of(client, reader)
        with wire.Channel(client.host, client.port, timeout) as channel:
            if context is not None:
                channel.start_tls(context, client.host)
            session = Session(channel, timeout)
            session.connect(client.username, password)
            if session.subscribe([topic_filter]) != (True,):
                return None
            session.sync()
            found = session.arrived()
            session.goodbye()
    except (OSError, ValueError):
        return None
    return tuple((message.topic, message.payload) for message in found if message.retained)
