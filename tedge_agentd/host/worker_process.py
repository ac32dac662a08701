"""A process that reads one request, answers it and ends; it may be started before there is a request."""

import contextlib
import os
import select
import subprocess
import sys
import time

from . import client_files


class WorkerProcess:
    """Runs a script of ours, with the number of a descriptor as its argument, and the request as its standard input.

    The request is there once a byte can be read from the descriptor; at its end there will be none.
    """

    def __init__(self, script: str, request: bytes | None = None) -> None:
        """Start the process; without a request it waits for `give`. Raises OSError."""
        self._request = client_files.in_memory(request or b"")  # a file, not a pipe: nobody waits for anybody
        ready, self._tell = os.pipe()
        try:
            if request is not None:
                self._announce()
            self._child = subprocess.Popen(
                # -I: neither PYTHONPATH nor the current directory may decide what runs as root.
                [sys.executable or "/usr/bin/python3", "-I", "-W", "ignore", script, str(ready)],
                stdin=self._request,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(ready,),
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
            )
        except BaseException:
            os.close(self._request)
            os.close(self._tell)
            raise
        finally:
            os.close(ready)

    def give(self, request: bytes) -> None:
        """Hand the request to a process that was started without one. Raises OSError if it has ended."""
        client_files.write_all(self._request, request)
        self._announce()

    def answer(self, deadline: float, limit: int) -> bytes:
        """Return all that it prints until it ends. Raises ValueError for too much output or time, or a failure."""
        assert self._child.stdout is not None
        text = _drain(self._child.stdout.fileno(), deadline, limit)
        try:
            status = self._child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise ValueError("timeout") from error
        if status != 0:
            raise ValueError(f"exit status {status}")
        return text

    def _announce(self) -> None:
        os.lseek(self._request, 0, os.SEEK_SET)  # the offset is shared with the process
        os.write(self._tell, b"!")

    def close(self) -> None:
        """End the process, whatever it does, and forget it."""
        self._child.kill()
        with self._child:
            for fd in (self._request, self._tell):
                with contextlib.suppress(OSError):
                    os.close(fd)


def _drain(fd: int, deadline: float, limit: int) -> bytes:
    text = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise ValueError("timeout")
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return bytes(text)
        text += chunk
        if len(text) > limit:
            raise ValueError("too much output")
