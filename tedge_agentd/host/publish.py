"""Say on MQTT how the daemon is, as a thin-edge service does, from a thread that nothing ever waits for.

What the broker holds of us is looked at after each connect and brought to what it should be; so whatever was lost is
said again, and what the broker still knows is not. Where the topics have changed, those of before are emptied. The
connection stays, to be asked for a sign of life: without keepalive it wakes nobody. There is no will: the broker
would publish it at each of its restarts, ours included. That the daemon died is said by `publish_down`, which
systemd runs.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core import messages, model
from . import client_files, files, login, opened, session, users, walk, wire

TIMEOUT_S = 5.0  # for a connection, and for each answer of the broker
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
CHECK_S = 1.0  # who asks for signs of life more often than this gets one a second
_SILENT_TRIES = 3  # a broker that restarts is not worth a line
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how: the clients' own settings, read on the behalf of their user, and the topics."""

    client: model.ClientSettings
    user: str
    roots: walk.Roots
    topic_root: str
    device: str
    form: messages.Form = field(default_factory=messages.Form)

    @property
    def topics(self) -> messages.Topics | None:
        return messages.topics(self.topic_root, self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is to be seen. `target` None: the settings cannot be read; then it is where it last was."""

    target: Target | None
    alarms: messages.Alarms = field(default_factory=messages.Alarms)


def connect(target: Target, timeout: float = TIMEOUT_S) -> session.Session:
    """Log in as the thin-edge services do. Raises OSError or ValueError. A host's name may take its time."""
    nobody = users.Account(name=target.user, uid=65534, gid=65534, groups=frozenset())
    account = users.SystemUsers().account(target.user) or nobody
    reader = client_files.ClientFiles(roots=target.roots, account=account)
    context = login.tls_context(target.client, reader)
    password = login.password_of(target.client, reader)
    channel = wire.Channel(target.client.host, target.client.port, timeout)
    try:
        if context is not None:
            channel.start_tls(context, target.client.host)
        made = session.Session(channel, timeout)
        made.connect(target.client.username, password)
    except BaseException:
        channel.close()
        raise
    return made


class Publisher:
    """Owns the thread and its connection. `tell`, `pause` and `resume` return at once."""

    def __init__(self, memory_path: str, log: Callable[[str], None] = lambda _: None) -> None:
        """`memory_path` is where the settings that last worked are kept, for publish_down and for bad times."""
        self._memory_path = memory_path
        self._log = log
        self._lock = threading.Lock()
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._said: Said | None = None
        self._told_at = 0.0
        self._paused = False
        self._stop = False
        self._say_down = False
        # Below: the thread's own.
        self._session: session.Session | None = None
        self._at: Target | None = None  # where the session is
        self._last: Target | None = None  # what last worked
        self._known: dict[str, bytes] = {}
        self._next_try = 0.0
        self._retry_s = FIRST_RETRY_S
        self._failures = 0
        self._deaf_until = 0.0

    # For the daemon -----------------------------------------------------------------------------------------

    def tell(self, said: Said | None) -> None:
        """Have this seen from now on; None: nothing, thin-edge is not there. Also a reason to try again at once."""
        with self._lock:
            self._paused = False
            self._said, self._told_at = said, time.monotonic()
        if self._thread is None and said is not None:
            self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
            self._thread.start()
        self._wake()

    def pause(self) -> None:
        """Stay away from the broker while a pass is at it; what is under way comes to its end."""
        self._paused = True

    def resume(self) -> None:
        """Go on with what was said before."""
        if self._paused:
            self._paused = False
            self._wake()

    def close(self, *, say_down: bool = True) -> None:
        """End the thread, in a second at most; once. Without `say_down` the daemon is about to come back."""
        if not self._stop:
            self._say_down, self._stop = say_down, True
        self._wake()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, b"\0")

    # The thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        self._last = recall(self._memory_path)
        told_at = -1.0
        while not self._stop:
            with self._lock:
                said, now_told_at = self._said, self._told_at
            if now_told_at != told_at:
                told_at, self._next_try, self._retry_s = now_told_at, 0.0, FIRST_RETRY_S
            try:
                wait = self._turn(said, time.monotonic() - told_at)
            except (OSError, ValueError) as error:
                self._drop(error)
                wait = 0.0
            self._sleep(wait)
        self._leave()

    def _turn(self, said: Said | None, waited_s: float) -> float | None:
        """Do what can be done now; return in how many seconds there is more, None: at a wake-up."""
        if self._paused:
            return None
        if said is None:
            self._disconnect()
            return None
        now = time.monotonic()
        if self._session is not None and now >= self._deaf_until:
            self._listen(self._session)
        target = said.target or self._last
        if target is None or (target.topics is None and self._last is None):
            self._disconnect()
            return None
        if self._at != target and now >= self._next_try:
            self._move(target)
        if self._session is None or self._at is None:
            return max(0.0, self._next_try - now)
        moments = [max(0.0, self._next_try - now)] if self._at != target else []
        where, form = self._at.topics, self._at.form
        assert where is not None
        todo, rest = messages.due(
            where, said.alarms, self._known, pid=os.getpid(), epoch=time.time(), form=form, waited_s=waited_s
        )
        for message in todo:
            self._publish(self._session, message)
        moments += [rest] if rest is not None else []
        moments += [self._deaf_until - now] if self._deaf_until > now else []
        return min(moments, default=None)

    def _listen(self, current: session.Session) -> None:
        assert self._at is not None
        where = self._at.topics
        assert where is not None
        if any(message.topic in where.checks and not message.retained for message in current.arrived()):
            self._publish(current, messages.up(where, os.getpid(), time.time(), self._at.form))
            self._deaf_until = time.monotonic() + CHECK_S

    def _publish(self, current: session.Session, message: messages.Message) -> None:
        current.publish(message.topic, message.payload)
        self._known[message.topic] = message.payload

    def _sleep(self, wait: float | None) -> None:
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        if self._session is not None and not self._paused and time.monotonic() >= self._deaf_until:
            poll.register(self._session, select.POLLIN)
        poll.poll(None if wait is None else wait * 1000 + 1)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_end, 4096)

    # Connections --------------------------------------------------------------------------------------------

    def _move(self, target: Target) -> None:
        """Connect to where we should be; failing that, stay where we are, or go where it last worked."""
        try:
            made, known = self._open(target)
        except (OSError, ValueError) as error:
            self._failed(error)
            if self._session is not None or self._last in {None, target}:
                return
            assert self._last is not None
            with contextlib.suppress(OSError, ValueError):
                made, known = self._open(self._last)
                self._session, self._at, self._known = made, self._last, known
            return
        self._disconnect()
        if target.topics is None:
            made.end()
            self._forget()
            return
        self._session, self._at, self._known = made, target, known
        if self._failures >= _SILENT_TRIES:
            self._log("thin-edge can see tedge-agentd again")
        self._next_try, self._retry_s, self._failures = 0.0, FIRST_RETRY_S, 0
        self._last = target
        with contextlib.suppress(OSError, opened.Refused):
            remember(self._memory_path, target, os.getpid())

    def _open(self, target: Target) -> tuple[session.Session, dict[str, bytes]]:
        """Connect, take back what was said in other places, subscribe, and return what the broker holds of us."""
        where = target.topics
        made = connect(target)
        try:
            former = self._last.topics if self._last is not None else None
            if former is not None and former != where:
                for topic in _held(made, former.retained):
                    made.publish(topic, messages.cleared(topic).payload)
            held = _held(made, (*where.checks, *where.retained)) if where is not None else {}
        except BaseException:
            made.end()
            raise
        return made, held

    def _forget(self) -> None:
        """Be nowhere: what was said is taken back, and thin-edge has no place for services of such a device."""
        self._last = None
        with contextlib.suppress(OSError):
            os.unlink(self._memory_path)

    def _failed(self, error: OSError | ValueError) -> None:
        self._failures += 1
        self._next_try = time.monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
        if self._failures == _SILENT_TRIES:
            reason = wire.explain(error) if isinstance(error, OSError) else str(error)
            self._log(f"thin-edge cannot see tedge-agentd: {reason}; it is tried again")

    def _drop(self, error: OSError | ValueError) -> None:
        """The connection ended: the broker restarts, or it does not like us."""
        self._disconnect()
        self._failed(error)

    def _disconnect(self) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError):
                self._session.goodbye()
            self._session.end()
        self._session = self._at = None
        self._known = {}

    def _leave(self) -> None:
        with contextlib.suppress(OSError):
            where = self._at.topics if self._at is not None else None
            if self._say_down and self._session is not None and where is not None:
                self._publish(self._session, messages.down(where, os.getpid()))
        self._disconnect()


def _held(made: session.Session, topics: tuple[str, ...]) -> dict[str, bytes]:
    """Subscribe, and return what the broker retains there."""
    made.subscribe(topics)
    made.sync()
    return {message.topic: message.payload for message in made.arrived() if message.retained}


# What last worked -------------------------------------------------------------------------------------------


def remember(path: str, target: Target, pid: int) -> None:
    """Write where we were seen, for root alone. It names files; it holds no password."""
    table = {"version": 1, "pid": pid, "target": dataclasses.asdict(target)}
    data = json.dumps(table, indent=1).encode()
    files.replace(path, data, mode=0o600, uid=os.geteuid(), gid=os.getegid(), durable=False)


def recall(path: str) -> Target | None:
    """Return what `remember` wrote; None where there is nothing, or nothing that can be used."""
    try:
        target = json.loads(files.read_limited(path))["target"]
        roots = walk.Roots(managed=tuple(target["roots"]["managed"]), broker_dir=target["roots"]["broker_dir"])
        client = model.ClientSettings(**target["client"])
        form = messages.Form(**target.get("form", {}))  # a memory of before there was one
        return Target(**{**target, "client": client, "roots": roots, "form": form})
    except (opened.Refused, ValueError, KeyError, TypeError, RecursionError):
        return None


def recall_pid(path: str) -> int:
    """Return the process that wrote it, 0 if that is not known."""
    try:
        return int(json.loads(files.read_limited(path))["pid"])
    except (opened.Refused, ValueError, KeyError, TypeError, RecursionError):
        return 0


def down(target: Target, pid: int, *, gone: bool = False) -> None:
    """Publish that the daemon is down, in a connection of its own. Raises OSError or ValueError.

    With `gone`, alarms that stand are cleared as well: nobody will be there to do it.
    """
    where = target.topics
    if where is None:
        return
    made = connect(target, 2.0)
    try:
        todo = [messages.down(where, pid)]
        if gone:
            made.subscribe(where.alarms)
            made.sync()
            todo += [messages.cleared(held.topic) for held in made.arrived() if held.retained]
        for message in todo:
            made.publish(message.topic, message.payload)
        made.goodbye()
    finally:
        made.end()
