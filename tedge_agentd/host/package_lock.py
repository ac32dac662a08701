"""Whether apt or dpkg is at work on the machine."""

import fcntl
import os
import struct

# Held by apt over a whole run, its downloads apart, and by a dpkg that is called directly: any of them may restart
# services in maintainer scripts, or be killed with the service that called it.
LOCK = "/var/lib/dpkg/lock-frontend"
_FLOCK = "hhqqi"  # struct flock: l_type, l_whence, l_start, l_len, l_pid


def held(path: str = LOCK) -> bool:
    """Return whether another process holds the lock. Nothing is locked, not even for a moment.

    On a machine without dpkg, or where the file cannot be opened, nobody does.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
        kind: int = struct.unpack(_FLOCK, answer)[0]
    except OSError:
        return False
    finally:
        os.close(fd)
    return kind != fcntl.F_UNLCK
