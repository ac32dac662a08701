"""Ask a short-lived process about certificates and keys; whatever the bytes are, there is an answer or None."""

import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from . import pem
from .worker_process import WorkerProcess

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inspect_worker.py")
TIMEOUT_S = 10.0  # for one process; Python, cryptography and a pair take 0.08 s on a 2-core x86 VM
TOTAL_S = 30.0  # for all of them, well below the unit's WatchdogSec=
BATCH = 2 << 20  # bytes for one process: what ten thousand CA files cost must not stand in memory at once
OUTPUT = 16 << 20

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question for the worker, in its own terms."""

    request: Mapping[str, Any]

    @staticmethod
    def of(certificates: bytes, key: bytes | None = None) -> "Item":
        blocks = pem.certificates(certificates)
        request = {
            "chain": [_text(block.der or b"") for block in blocks],
            "raw": None if blocks or not certificates else _text(certificates),
            "key": None,
            "key_raw": None,
        }
        if key is not None:
            keys = pem.keys(key)
            usable = bool(keys) and keys[0].der is not None and not keys[0].encrypted
            request["key"] = keys[0].pem().decode() if usable else None
            request["key_raw"] = None if keys else _text(key)
        return Item(request=request)

    @property
    def size(self) -> int:
        request = self.request
        return sum(map(len, request["chain"])) + sum(len(request[name] or "") for name in ("raw", "key", "key_raw"))


def ask(
    items: Sequence[Item], *, worker: str = WORKER, timeout_s: float = TIMEOUT_S, spare: WorkerProcess | None = None
) -> list[Answer | None]:
    """Return an answer for each item, None where the worker did not survive it or there was no time left.

    One process for all (more only for megabytes): `spare`, if there is one, which has ended afterwards. One that
    crashes or takes too long is tried again item by item, so that one hostile file spoils nothing but itself.
    """
    answers: list[Answer | None] = []
    end = time.monotonic() + TOTAL_S
    for batch in _batches(items):
        deadline = min(end, time.monotonic() + timeout_s)
        # Half the time for all of them together, the other half to find out which one it was.
        half = (deadline - time.monotonic()) / 2 if len(batch) > 1 else 0.0
        found = _run(worker, batch, deadline - half, spare)
        if found is None and spare is not None:  # it may have waited too long for a question
            found = _run(worker, batch, deadline - half)
        spare = None
        if found is None and len(batch) > 1:
            found = []
            for position, item in enumerate(batch):
                now = time.monotonic()
                alone = _run(worker, [item], now + (deadline - now) / (len(batch) - position))
                found += alone if alone is not None else [None]
        answers += found if found is not None else [None]
    return answers


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and size + item.size > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch


def _run(
    script: str, batch: Sequence[Item], deadline: float, spare: WorkerProcess | None = None
) -> list[Answer | None] | None:
    """Return the worker's answers, None if it gave none that can be used."""
    if deadline <= time.monotonic():
        return None
    request = json.dumps({"items": [item.request for item in batch]}).encode()
    try:
        with closing(spare or WorkerProcess(script, request)) as worker:
            if spare is not None:
                spare.give(request)
            answers = json.loads(worker.answer(deadline, OUTPUT))["items"]
        usable = (
            isinstance(answers, list) and len(answers) == len(batch) and all(isinstance(a, dict) for a in answers)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return list(answers) if usable else None
