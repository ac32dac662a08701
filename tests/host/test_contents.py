"""Fingerprints of what clients read at their start."""

import os
from pathlib import Path

import pytest

from tedge_agentd.host import contents, users, walk

ROOT = users.Account(name="root", uid=0, gid=0, groups=frozenset({0}))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def digest(known: contents.Contents, path: Path) -> str:
    return known.digest(str(path), walk.Roots(managed=()), ROOT)


def test_a_file_is_told_by_its_contents_not_by_its_times(place: Path) -> None:
    known, file = contents.Contents(), place / "a.pem"
    assert digest(known, file) == contents.MISSING
    file.write_text("one")
    before = digest(known, file)
    os.utime(file, (0, 0))
    assert digest(known, file) == before
    file.write_text("two")
    assert digest(known, file) != before


def test_a_directory_is_told_by_its_certificate_files(place: Path) -> None:
    known = contents.Contents()
    (place / "a.pem").write_text("one")
    before = digest(known, place)
    (place / "README").write_text("no certificate")
    assert digest(known, place) == before
    (place / "b.crt").write_text("two")
    assert digest(known, place) != before
    (place / "b.crt").unlink()
    assert digest(known, place) == before


def test_a_fifo_neither_blocks_nor_looks_like_a_file(place: Path) -> None:
    os.mkfifo(place / "a.pem")
    assert digest(contents.Contents(), place / "a.pem") == contents.UNREADABLE
    assert digest(contents.Contents(), place)
