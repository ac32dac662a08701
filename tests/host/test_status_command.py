"""`status` speaks of the daemon that wrote status.json, and of no other process."""

import json
import subprocess
from pathlib import Path

import pytest

from tedge_agentd import status_command
from tedge_agentd.host import processes


@pytest.mark.parametrize("is_it", [True, False])
def test_a_stranger_with_the_daemons_process_id_is_neither_believed_nor_signalled(
    tmp_path: Path, is_it: bool
) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        began = processes.began(process.pid)
        assert began is not None
        document = {
            "version": status_command.VERSION,
            "pid": process.pid,
            "pid_began": began - (0 if is_it else 1),
            "state": "in-sync",
            "last_pass": {"started_usec": 0},
        }
        (tmp_path / "status.json").write_text(json.dumps(document))
        try:
            assert status_command.view(str(tmp_path), wait=None) == (document if is_it else None, False)
            assert status_command.view(str(tmp_path), wait=0.2) == ((document, True) if is_it else (None, False))
            assert is_it or process.poll() is None
        finally:
            process.kill()
    assert status_command.view(str(tmp_path), wait=None) == (None, False)
