"""What thin-edge, and through it the cloud, is told of a pass (contract 10). Nothing here takes a pass's time."""

import contextlib
from collections.abc import Iterator

from . import reconcile, status
from .core import messages
from .host import journal, publish
from .world import World


class Cloud:
    """Turns reports into what is to be seen, and leaves the sending to a thread."""

    def __init__(self, world: World) -> None:
        self._publisher = publish.Publisher(f"{world.state.directory}/publish.json", _log)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Stay away from the broker during a pass, and until its report is told; a pass that fails has none."""
        self._publisher.pause()
        try:
            yield
        except BaseException:
            self._publisher.resume()
            raise

    def tell(self, report: reconcile.Report, context: status.Context, world: World) -> None:
        self._publisher.tell(said(report, context, world))

    def close(self, *, coming_back: bool = False) -> None:
        self._publisher.close(say_down=not coming_back)


def said(report: reconcile.Report, context: status.Context, world: World) -> publish.Said | None:
    """Return what a report says to the cloud; None where thin-edge is not installed."""
    if any(finding.code == "tedge-not-installed" for finding in report.findings):
        return None
    wish = report.inputs.wish
    target = None
    if wish is not None:
        target = publish.Target(
            client=wish.client,
            user=wish.client_user,
            roots=world.roots(),
            topic_root=wish.topic_root,
            device=wish.device_topic_id,
            form=messages.Form(service_type=wish.service_type, times=wish.service_times),
        )
    age_s = context.epoch - context.since
    return publish.Said(target=target, alarms=messages.alarms(report.outcome.value, age_s, report.findings))


def _log(line: str) -> None:
    journal.get().info("cloud", message=line)
