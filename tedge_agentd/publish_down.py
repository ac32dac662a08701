"""Say on MQTT that the daemon is down: `python3 -m tedge_agentd.publish_down`, run by systemd when the daemon died.

With `--gone`, as the package's removal says, alarms that stand are cleared too. Quick, bounded and never a failure:
the unit's restart waits for it.
"""

import contextlib
import signal
import sys

from . import settings
from .host import publish

LIMIT_S = 3  # for all of it, a resolver that does not answer included


def main(path: str = f"{settings.STATE_DIR}/publish.json", *, gone: bool = False) -> None:
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
    signal.alarm(LIMIT_S)
    target = publish.recall(path)
    if target is not None:
        with contextlib.suppress(OSError, ValueError):
            publish.down(target, publish.recall_pid(path), gone=gone)


if __name__ == "__main__":
    main(gone="--gone" in sys.argv[1:])
