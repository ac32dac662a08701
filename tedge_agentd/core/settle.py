"""Wait until a burst of changes is over, but never for long. Time is a parameter: seconds of a monotonic clock."""


class Settle:
    """Says when a pass is due after changes: `quiet_s` after the last, at the latest `max_s` after the first.

    The first bound makes one pass of six `config set` in a row, the second keeps a flood from postponing it for ever
    (contract 11: at most one pass per settle_max). Holds two numbers, however many events there were.
    """

    __slots__ = ("_first", "_last", "max_s", "quiet_s")

    def __init__(self, quiet_s: float = 0.1, max_s: float = 1.0) -> None:
        self.quiet_s = quiet_s
        self.max_s = max_s
        self._first: float | None = None
        self._last = 0.0

    def event(self, now: float) -> None:
        """Note that something changed at `now`."""
        if self._first is None:
            self._first = self._last = now
        self._last = max(self._last, now)

    def due(self) -> float | None:
        """Return the moment at which a pass is due, which may have passed already; None when nothing changed."""
        if self._first is None:
            return None
        return min(self._last + self.quiet_s, self._first + self.max_s)

    def last(self) -> float | None:
        """Return the moment of the burst's last change so far; None when nothing changed."""
        return None if self._first is None else self._last

    def done(self) -> None:
        """Forget the burst: call it when its pass begins, so that what changes meanwhile starts the next one."""
        self._first = None
