"""Which process is which."""


def began(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None where there is none of this id.

    Ids are used again, and soon where there are 32768 of them: a stranger must neither count as the daemon nor get
    its SIGHUP.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
