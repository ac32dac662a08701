"""A process that is asked one thing: it may be there before the question is."""

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from tedge_agentd.host.worker_process import WorkerProcess

ECHO = """
import os, sys
if not os.read(int(sys.argv[1]), 1):
    sys.exit(9)
sys.stdout.write(sys.stdin.read()[::-1])
"""


@pytest.fixture
def echo(tmp_path: Path) -> str:
    path = tmp_path / "echo.py"
    path.write_text(ECHO)
    return str(path)


def soon() -> float:
    return time.monotonic() + 10.0


@pytest.mark.parametrize("size", [0, 3, 1 << 20])
def test_a_request_is_answered_whether_it_comes_before_or_after_the_start(echo: str, size: int) -> None:
    request = b"abc"[:size] * max(1, size // 3)
    with closing(WorkerProcess(echo, request)) as worker:
        assert worker.answer(soon(), 2 << 20) == request[::-1]
    with closing(WorkerProcess(echo)) as worker:
        time.sleep(0.1)  # it waits by now
        worker.give(request)
        assert worker.answer(soon(), 2 << 20) == request[::-1]


def test_at_the_daemons_end_a_process_that_waits_ends_too(echo: str) -> None:
    worker = WorkerProcess(echo)
    os.close(worker._tell)  # as the kernel does when we die
    assert worker._child.wait(10.0) == 9
    worker._tell = os.open(os.devnull, os.O_WRONLY)
    worker.close()


def test_nothing_of_it_is_left(echo: str) -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = held()
    with closing(WorkerProcess(echo)) as worker:
        pid = worker._child.pid
        assert held() > before
    assert held() == before
    assert not os.path.exists(f"/proc/{pid}")


def test_too_much_too_late_or_a_failure_is_no_answer(tmp_path: Path) -> None:
    for text, problem in (
        ("print('x' * 4096)", "too much output"),
        ("import time; time.sleep(60)", "timeout"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import os; os.abort()", "exit status -6"),
    ):
        script = tmp_path / "script.py"
        script.write_text(text)
        with closing(WorkerProcess(str(script), b"")) as worker, pytest.raises(ValueError, match=problem):
            worker.answer(time.monotonic() + 1.0, 1024)
