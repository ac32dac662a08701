"""Run the worker, a short-lived process for all that needs python3-cryptography: the daemon never loads it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ..core import errors

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pki_worker.py")
WORKER_TIMEOUT_S = 120.0  # RSA-3072 takes up to some 20 s on a 600 MHz ARM11; EC P-256 well below one


def run_worker(request: Mapping[str, Any], *, timeout_s: float | None = None) -> Mapping[str, Any]:
    """Have a short-lived process make a key and a certificate. Raises TransientError when it cannot."""
    timeout_s = WORKER_TIMEOUT_S if timeout_s is None else timeout_s
    # -I: neither PYTHONPATH nor the current directory may decide what runs as root.
    command = [sys.executable or "/usr/bin/python3", "-I", WORKER]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )
        answer = json.loads(done.stdout)
        ok: Mapping[str, Any] = answer["ok"]
        return ok
    except subprocess.TimeoutExpired as error:
        raise errors.TransientError(f"making a key took more than {timeout_s:.0f} s") from error
    except OSError as error:
        raise errors.TransientError(f"{command[0]} could not be run: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise errors.TransientError(_complaint(done), "python3 -c 'import cryptography'") from error


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    try:
        return f"no certificate was made: {json.loads(done.stdout)['error']}"
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        return f"no certificate was made: {lines[-1]}"
