"""Whether a read-only directory is one that only the service's mount namespace does not know yet.

systemd makes the namespace when it starts the daemon; a directory that appears later below a read-only one stays
read-only for it. A restart cures that, but not a file system that is read-only for everybody.
"""

import os
import time

from . import files, opened

_AGAIN_S = 600.0
_MARK = "sandbox-renewed"  # in the runtime directory, which outlives a restart of the daemon


def may_be_stale(runtime_dir: str) -> bool:
    """Whether a restart could help: systemd runs us, and it has not just been tried."""
    if "INVOCATION_ID" not in os.environ:
        return False
    try:
        tried = float(files.read_limited(f"{runtime_dir}/{_MARK}"))
    except (opened.Refused, ValueError):
        return True
    return not 0 <= time.monotonic() - tried < _AGAIN_S


def renew(runtime_dir: str) -> None:
    """Note that the daemon is about to be restarted for it."""
    now = f"{time.monotonic()}\n".encode()
    files.replace(f"{runtime_dir}/{_MARK}", now, mode=0o600, uid=os.geteuid(), gid=os.getegid(), durable=False)
