"""The loop: dirty -> settle -> pass -> sleep; and what systemd is told meanwhile."""

import contextlib
import gc
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType

from . import __version__, apply, cloud, metrics_file, reconcile, renewal, status, watched
from .core import errors, model, settle, wall_clock
from .host import bus, files, journal, notify, processes, sandbox, watch
from .world import World

SANDBOX_STALE = 75  # the unit restarts on it, to get a mount namespace that knows the new directories
_REHEARSE_S = 0.03  # of quiet: one command's own writes are closer together
_TAKE_S = 0.01  # events are counted at most this often, so that a flood of them costs next to nothing
_CRASH_RETRY_S = 30.0
_PASS_S = 60.0  # how long the first pass may take before systemd gives up on the start


class Daemon:
    """One instance on a machine. Everything happens in one thread; others only wake it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._reconciler = reconcile.Reconciler(world)
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch = watch.Watch(self._wake)
        self._notify = notify.Notifier()
        self._settle = settle.Settle(world.settings.settle_quiet, world.settings.settle_max)
        self._clock = wall_clock.WallClock(time.monotonic(), world.epoch())
        self._cloud = cloud.Cloud(world)
        self._renewal = renewal.Renewal(world.state.directory, journal.certificate_renewed, progress=self._progress)
        world.progress = self._progress
        world.systemd.stopping = lambda: self._stop
        self._context = status.Context(pid=os.getpid(), pid_began=processes.began(os.getpid()), since=world.epoch())
        self._report: reconcile.Report | None = None
        self._next_look = 0.0  # monotonic seconds; the first pass is due at once
        self._next_take = 0.0
        self._woken = False  # something has happened that is not taken yet
        self._rehearsed: float | None = None  # the last change that a rehearsal has seen
        self._stop = False
        self._reload = False
        self._reloading = False

    def run(self) -> int:
        """Run until told to stop; return the exit status. Raises files.Locked where another daemon runs."""
        with files.Lock(f"{self.world.runtime_dir}/daemon.lock"), self._signals():
            journal.started(__version__)
            try:
                while not self._stop:
                    self._turn()
                journal.stopping("told to")
            except errors.SandboxStaleError as error:
                journal.stopping(f"{error}; systemd starts it again with the directory in its sandbox")
                sandbox.renew(self.world.runtime_dir)
                self._cloud.close(coming_back=True)
                return SANDBOX_STALE
            finally:
                self._notify.stopping()
                self._cloud.close()
                self._watch.close()
                with contextlib.suppress(errors.TedgeAgentdError):
                    self.world.systemd.close()
        return 0

    # One turn -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        changed = self._units_changed()  # before any sleep: a call reads signals ahead that select would not see
        if now >= self._next_take:
            changed |= self._watch.take()
            self._next_take = now + _TAKE_S
            self._woken = False
        if self._clock.was_set(now, self.world.epoch()):
            # No wake-up of its own: the pings to the watchdog bring the loop here twice a minute.
            self._renewal.clock_was_set()
            changed = True  # validities, and what is said of them
        if changed:
            self._settle.event(now)
            self.world.material.prepare()
        self._progress()
        if now >= self._renewal.due():
            self._renew(now)
        due = self._settle.due()
        if self._reload or now >= self._next_look or (due is not None and now >= due):
            self._pass()
        elif self._rehearse_at() is not None and now >= (self._rehearse_at() or 0.0):
            self._rehearse()
        else:
            self._sleep()

    def _renew(self, now: float) -> None:
        """Look after the local PKI; at start before the first pass, so that the broker begins with what is new."""
        if self._report is None and self._renewal.exists:
            self._notify.extend(_PASS_S)
        if self._renewal.look(self.world.settings) and self._report is not None:
            self._settle.event(now)  # what it wrote is seen anyway, what it found is not

    def _rehearse_at(self) -> float | None:
        """When to use the rest of the settle time; None when there is nothing to settle, or it has been used."""
        last = self._settle.last()
        return None if last is None or last == self._rehearsed else last + _REHEARSE_S

    def _rehearse(self) -> None:
        """Inspect certificates and try the candidate while the burst settles: the pass then finds both done.

        Nothing is decided here. What goes wrong will go wrong again in the pass, which reports it.
        """
        self._rehearsed = self._settle.last()
        with contextlib.suppress(Exception):
            self._reconciler.preview()

    def _sleep(self) -> None:
        """Wait for an event, a signal, the broker, or the next moment something is due."""
        moments = [self._next_look, self._renewal.due(), self._settle.due(), self._notify.next_ping(time.monotonic())]
        if self._woken or self._settle.due() is not None:
            # The watch wakes once for all that is not taken yet: what came too early to be taken is not slept on.
            moments += [self._next_take, self._rehearse_at()]
        wait = max(0.0, min(moment for moment in moments if moment is not None) - time.monotonic())
        sources = [self._read_end]
        if (bus_fd := self.world.systemd.fileno()) is not None:
            sources.append(bus_fd)
        select.select(sources, [], [], wait)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_end, 4096)
            self._woken = True

    def _units_changed(self) -> bool:
        """Whether the broker or a client started, stopped or failed; who did it does not matter."""
        try:
            return bool(self.world.systemd.process())
        except bus.BusUnavailableError:
            return False

    def _pass(self) -> None:
        reload, self._reload = self._reload, False
        self._reloading = reload
        if reload:
            self._notify.reloading()
        if self._report is None:
            self._notify.extend(_PASS_S)
        self._settle.done()
        self._watch.check()
        self._watch.take()  # what the pass is about to read counts as seen
        try:
            with self._cloud.quiet():
                report = self._reconciler.run(self._before_jobs)
        except errors.SandboxStaleError:
            raise
        except errors.StoppingError:
            return  # like a crash at this point, which costs the next start one look more
        except files.Locked as error:
            journal.get().info("locked", message=f"waiting: {error}")
            self._reload |= reload
            self._next_look = time.monotonic() + 1.0
            return
        except Exception:
            # A bug of ours must not cost the gateway its watcher; what runs keeps running.
            journal.internal_error("running a pass")
            self._next_look = time.monotonic() + _CRASH_RETRY_S
            self._notify.ready(f"internal error, next try in {_CRASH_RETRY_S:.0f} s")
            return
        finally:
            self.world.material.rest()
        self._watch.set_paths(watched.paths(self.world, report.inputs))
        self._watch_units(report)
        if report.inputs.wish is not None:
            self._renewal.reached_as(report.inputs.wish.external)
        is_first = self._report is None
        self._publish(report)
        _tidy(is_first=is_first)

    def _before_jobs(self) -> None:
        """A job for the broker waits for one of ours, because we are ordered before it: say first that ours is done.

        Ours is the start, until the first pass is over, or a reload. A broker that was stopped to be restarted would
        stay down for as long as we wait for it.
        """
        if self._report is None or self._reloading:
            self._notify.ready("applying")

    def _progress(self) -> None:
        self._notify.progress()
        self._notify.ping(time.monotonic())

    def _watch_units(self, report: reconcile.Report) -> None:
        """Be told when the broker or a client starts, stops or fails."""
        with contextlib.suppress(bus.BusUnavailableError):
            clients = [unit.name for unit in report.seen.clients]
            self.world.systemd.watch([self.world.settings.broker_unit, *clients])

    # Saying so ----------------------------------------------------------------------------------------------

    def _publish(self, report: reconcile.Report) -> None:
        world, before = self.world, self._report
        report = replace(report, findings=(*report.findings, *self._renewal.findings, *self._watch_findings()))
        changed = before is None or before.outcome is not report.outcome
        context = self._context
        self._context = replace(
            context,
            since=report.started if changed else context.since,
            epoch=world.epoch(),
            counters=context.counters.after(report),
            renewers=self._renewal.renewers(),
        )
        self._report = report = self._with_metrics(report)
        line = status.summary(report, self._context.epoch)
        self._log_pass(before, report, line)
        self._notify.ready(line)
        self._cloud.tell(report, self._context, world)
        self._settle = self._settled_with(world)
        wait = world.settings.resync if report.retry_in is None else min(report.retry_in, world.settings.resync)
        try:
            status.write(f"{world.runtime_dir}/status.json", status.document(report, self._context))
        except OSError as error:  # /run is full: nobody is told, but the work goes on
            journal.get().warning("status", message=f"status.json could not be written: {error}")
            wait = min(wait, _CRASH_RETRY_S)
        self._next_look = time.monotonic() + wait

    def _with_metrics(self, report: reconcile.Report) -> reconcile.Report:
        directory = self.world.settings.metrics_dir
        problem = metrics_file.write(directory, status.document(report, self._context)) if directory else None
        return report if problem is None else replace(report, findings=(*report.findings, problem))

    def _log_pass(self, before: reconcile.Report | None, report: reconcile.Report, line: str) -> None:
        """One line a pass that did something or came out otherwise, one for each finding that comes or goes."""
        told = before.findings if before is not None else ()
        for finding in told:
            if finding not in report.findings:
                journal.finding_cleared(finding)
        for finding in report.findings:
            if finding not in told:
                journal.finding_appeared(finding)
        if report.rolled_back:
            journal.rolled_back(_first_error(report), line)
        journal.pass_done(
            result=report.outcome.value,
            previous=before.outcome.value if before is not None else None,
            duration_ms=report.duration_ms,
            actions=apply.news(report.done, before.done if before is not None else ()),
            detail=line.partition(": ")[2],
        )

    def _settled_with(self, world: World) -> settle.Settle:
        """The settle state, made anew where config.toml changed its times."""
        quiet, most = world.settings.settle_quiet, world.settings.settle_max
        if (self._settle.quiet_s, self._settle.max_s) == (quiet, most):
            return self._settle
        return settle.Settle(quiet, most)

    def _watch_findings(self) -> Iterator[model.Finding]:
        for problem in self._watch.problems():
            yield model.Finding(
                code="watch-degraded",
                severity=model.Severity.WARNING,
                where="inotify",
                message=f"{problem}; changes there are found at the latest every {self.world.settings.resync:.0f} s",
                remedy="sysctl fs.inotify.max_user_watches fs.inotify.max_user_instances",
            )

    # Signals ------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, b"\0")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:
                self._reload = True
            else:
                self._stop = True

        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
        # A signal that comes just before select must still end it.
        before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)


def _tidy(*, is_first: bool) -> None:
    """Collect what a pass leaves behind in cycles, at once: left to itself, memory grew by 4 MB first (make soak).

    What is there after the first pass stays for good, and is not looked at again: that would take 6 ms each time.
    """
    gc.collect()
    if is_first:
        gc.freeze()


def _first_error(report: reconcile.Report) -> str:
    return next((done.error for done in report.done if done.error), "the broker did not come up")
