"""Fixtures of general use for tests that work on the real machine, as root."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tedge_agentd.host import users
from tests.host.accounts import BROKER, CLIENT, STRANGER


@pytest.fixture
def people() -> users.FixedUsers:
    accounts = {account.name: account for account in (BROKER, CLIENT, STRANGER)}
    return users.FixedUsers(accounts=accounts, groups={account.name: account.gid for account in accounts.values()})


@pytest.fixture
def realm() -> Iterator[Path]:
    """A directory that everybody can search and whose parents are root's alone, which /tmp's are not."""
    if os.geteuid() != 0:
        pytest.fail("this test gives files to other users: run it as root")
    path = Path(tempfile.mkdtemp(prefix="tedge-agentd-test-", dir="/run"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
