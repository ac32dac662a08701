"""What survives a crash: the memory, the undo record, the last good copies and the original."""

import json
import os
from pathlib import Path

import pytest

from tedge_agentd.core import ledger, staging
from tedge_agentd.host import state


@pytest.fixture
def kept(tmp_path: Path) -> state.State:
    made = state.State(str(tmp_path / "state"))
    made.prepare()
    return made


def test_nothing_is_remembered_at_first(kept: state.State) -> None:
    assert kept.load() == state.Memory()
    assert kept.under_way() is None


def test_memory_survives(kept: state.State) -> None:
    memory = state.Memory(ledger=ledger.Ledger(invocation="i"), retries={"failed": "x"})
    kept.save(memory)
    assert kept.load() == memory
    assert os.stat(f"{kept.directory}/state.json").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"ledger": {}, "retries": {}}', b"\xff", b"null"])
def test_a_damaged_memory_is_an_empty_one_that_says_so(kept: state.State, content: bytes) -> None:
    Path(kept.directory, "state.json").write_bytes(content)
    memory = kept.load()
    assert memory.ledger == ledger.Ledger()
    assert memory.damaged


def test_an_undo_record_is_kept_until_its_pass_has_ended(kept: state.State) -> None:
    first = state.Undo(path="/x.conf", listener=b"\xffbefore", owned=(("/a", 1, 2, 0o640),))
    kept.begin(first)
    kept.begin(state.Undo(path="/x.conf", listener=b"half way"))
    assert kept.under_way() == first, "what lay there before the pass that died is further back"
    kept.end()
    assert kept.under_way() is None
    kept.end()


def test_copies_are_found_by_their_digests_and_dropped_when_no_longer_named(kept: state.State) -> None:
    entries = (("a.pem", b"one"), ("b.pem", b"two"))
    image = staging.Image(files={"server.pem": b"secret"}, directories={"client-ca": entries})
    kept.keep(image)
    digests = image.digests()
    assert kept.kept("server.pem", digests["server.pem"]).files == {"server.pem": b"secret"}
    assert kept.kept("client-ca", digests["client-ca"]).directories == {"client-ca": entries}
    kept.forget({digests["client-ca"]})
    assert kept.kept("server.pem", digests["server.pem"]) == staging.Image()


@pytest.mark.parametrize("content", [b"", b"other", b"[]", b'[["a", 1]]', b"{}", b"[[1]]"])
def test_a_damaged_copy_is_no_copy(kept: state.State, content: bytes) -> None:
    kept.keep(staging.Image(files={"server.pem": b"secret"}))
    digest = staging.file_digest(b"secret")
    Path(kept.directory, "last-good", digest).write_bytes(content)
    assert kept.kept("server.pem", digest) == staging.Image()


def test_the_original_is_kept_once_in_the_words_of_the_postrm(kept: state.State) -> None:
    kept.keep_original("/etc/x.conf", b"listener 1883\n", (0, 0, 0o640))
    kept.keep_original("/etc/x.conf", b"ours by now", (0, 0, 0o644))
    there = Path(kept.directory, "originals")
    assert (there / "restore").read_text() == "/etc/x.conf\nsaved\n"
    assert (there / "listener.conf").read_bytes() == b"listener 1883\n"
    assert (there / "listener.conf").stat().st_mode & 0o777 == 0o640


def test_no_original_is_remembered_as_such(kept: state.State) -> None:
    kept.keep_original("/etc/x.conf", None, None)
    assert Path(kept.directory, "originals", "restore").read_text() == "/etc/x.conf\nnone\n"


def test_a_leftover_of_an_interrupted_write_is_swept(kept: state.State) -> None:
    stray = Path(kept.directory, ".state.json.0123456789abcdef.tedge-agentd")
    stray.write_text(json.dumps({}))
    os.utime(stray, (0, 0))
    kept.prepare()
    assert not stray.exists()
