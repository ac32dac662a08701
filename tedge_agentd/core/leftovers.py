"""Listener files of ours that lie where the listener file lay before.

thin-edge installed after the broker brings its own directory, and the listener file moves there (contract 5). The one
that stays behind in the other directory would open the same ports twice.
"""

import posixpath

from . import listener, mosquitto_conf


def find(conf: mosquitto_conf.BrokerConf, listener_path: str | None) -> tuple[str, ...]:
    """Return the included files that `listener.render` wrote under our name, except for the one of now.

    A copy that somebody made under another name is theirs.
    """
    if listener_path is None:
        return ()
    now = mosquitto_conf.absolute(listener_path)
    found = [
        mosquitto_conf.absolute(path)
        for path, data in conf.files
        if posixpath.basename(path) == mosquitto_conf.LISTENER_FILE and listener.is_ours(data)
    ]
    return tuple(path for path in dict.fromkeys(found) if path != now)


def without(conf: mosquitto_conf.BrokerConf, paths: tuple[str, ...]) -> mosquitto_conf.BrokerConf:
    """Return the configuration as it is once these files are gone."""
    for path in paths:
        conf = mosquitto_conf.replaced(conf, path, None)
    return conf
