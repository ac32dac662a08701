"""What wakes the daemon: real files, the real inotify, the installed watchdog library."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tedge_agentd.host import watch_paths
from tedge_agentd.host.watch import Watch

REACTION_S = 5.0  # bound for an event on a loaded machine; typical is 1 ms
PROMPT_S = 0.3  # below the 0.5 s for which the library would hold moves back
SILENCE_S = 0.15  # how long "no event" is listened for; what is awaited has typically come after 1 ms


class Owner:
    """Stands for the daemon: woken from another thread, checks, takes."""

    def __init__(self) -> None:
        self.woken = threading.Semaphore(0)
        self.watch = Watch(self.woken.release)

    def settle(self, paths: list[pathlib.Path] | None = None) -> None:
        """Go on until everything so far is armed and seen."""
        if paths is not None:
            self.watch.set_paths([str(path) for path in paths])
        while self.woken.acquire(timeout=SILENCE_S):
            self.watch.check()
            self.watch.take()

    def woken_within(self, seconds: float) -> bool:
        """Wait for one wake-up, and handle it as the daemon does."""
        if not self.woken.acquire(timeout=seconds):
            return False
        self.watch.check()
        return self.watch.take()


@pytest.fixture
def owner() -> Iterator[Owner]:
    before = threads()
    owner = Owner()
    yield owner
    owner.watch.close()
    assert threads() == before, "close() leaves no thread behind"


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    """A tree like a gateway's, one level down, so that its parent is quiet."""
    place = tmp_path / "etc" / "tedge"
    (place / "certs").mkdir(parents=True)
    (place / "tedge.toml").write_text("a = 1\n")
    (place / "other").write_text("")
    (place / "certs" / "ca.pem").write_text("ca")
    (tmp_path / "elsewhere").mkdir()
    return place


def threads() -> int:
    return threading.active_count()


def inotify_instances() -> int:
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return links.count("anon_inode:inotify")


# What wakes -------------------------------------------------------------------------------------------------


def replace(path: pathlib.Path) -> None:
    fresh = path.with_name(".tmpAbCdEf")
    fresh.write_text("b = 2\n")
    fresh.rename(path)


def away(path: pathlib.Path) -> None:
    path.rename(path.parents[2] / "elsewhere" / path.name)


def into(path: pathlib.Path) -> None:
    fresh = path.parents[2] / "elsewhere" / path.name
    fresh.write_text("c = 3\n")
    fresh.rename(path)


def append(path: pathlib.Path) -> None:
    with path.open("a") as file:
        file.write("d = 4\n")


def swap_directory(path: pathlib.Path) -> None:
    """Rename the directory away and put another one in its place: no event of the directory's own tells."""
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    shutil.copytree(aside, path.parent)


def recreate_directory(path: pathlib.Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


FILE_CHANGES: list[Callable[[pathlib.Path], object]] = [
    replace,
    away,
    into,
    append,
    pathlib.Path.unlink,
    lambda path: path.chmod(0o600),
    lambda path: os.truncate(path, 0),
    os.utime,
    lambda path: path.parent.chmod(0o700),
    swap_directory,
    recreate_directory,
]
NAMES = [
    "replace",
    "away",
    "into",
    "append",
    "unlink",
    "chmod",
    "truncate",
    "utime",
    "dir-chmod",
    "dir-swap",
    "dir-recreate",
]


@pytest.mark.parametrize("change", FILE_CHANGES, ids=NAMES)
def test_a_change_to_a_file_wakes_at_once(
    owner: Owner, place: pathlib.Path, change: Callable[[pathlib.Path], object]
) -> None:
    owner.settle([place / "tedge.toml"])
    change(place / "tedge.toml")
    assert owner.woken_within(PROMPT_S)


@pytest.mark.parametrize("change", FILE_CHANGES, ids=NAMES)
def test_after_any_change_the_next_one_is_still_seen(
    owner: Owner, place: pathlib.Path, change: Callable[[pathlib.Path], object]
) -> None:
    owner.settle([place / "tedge.toml"])
    change(place / "tedge.toml")
    owner.settle()
    (place / "tedge.toml").write_text("again")
    assert owner.woken_within(REACTION_S)
    assert owner.watch.problems() == ()


@pytest.mark.parametrize("change", FILE_CHANGES, ids=NAMES)
def test_a_change_to_an_entry_of_a_directory_wakes(
    owner: Owner, place: pathlib.Path, change: Callable[[pathlib.Path], object]
) -> None:
    owner.settle([place])
    change(place / "other")
    assert owner.woken_within(PROMPT_S)


def test_what_comes_behind_a_move_out_of_the_directory_does_not_wait(owner: Owner, place: pathlib.Path) -> None:
    owner.settle([place / "tedge.toml"])
    away(place / "other")
    append(place / "tedge.toml")
    assert owner.woken_within(PROMPT_S)


def test_a_loop_of_changes_is_seen_to_the_last(owner: Owner, place: pathlib.Path) -> None:
    """The directory is deleted and made again under the watch, over and over: no wake-up may get lost at the end."""
    owner.settle([place / "tedge.toml"])
    for _ in range(30):
        recreate_directory(place / "tedge.toml")
        replace(place / "tedge.toml")
        owner.woken_within(PROMPT_S)
    owner.settle()
    append(place / "tedge.toml")
    assert owner.woken_within(REACTION_S)
    assert owner.watch.problems() == ()


# What does not ----------------------------------------------------------------------------------------------


def read_all(place: pathlib.Path) -> None:
    os.listdir(place)
    for path in place.rglob("*"):
        if path.is_file():
            path.read_bytes()


QUIET: list[Callable[[pathlib.Path], object]] = [
    read_all,
    lambda place: append(place / "other"),
    lambda place: replace(place / "other"),
    lambda place: (place / "other").unlink(),
    lambda place: append(place / "certs" / "ca.pem"),
    lambda place: (place.parent / "unrelated").write_text(""),
]


@pytest.mark.parametrize("change", QUIET, ids=["read", "append", "replace", "unlink", "below", "beside"])
def test_reads_and_other_names_do_not_wake(
    owner: Owner, place: pathlib.Path, change: Callable[[pathlib.Path], object]
) -> None:
    owner.settle([place / "tedge.toml"])
    change(place)
    assert not owner.woken_within(SILENCE_S)
    assert not owner.watch.take()


def test_reading_a_watched_directory_does_not_wake(owner: Owner, place: pathlib.Path) -> None:
    owner.settle([place, place / "certs"])
    read_all(place)
    assert not owner.woken_within(SILENCE_S)


def test_a_watch_that_is_in_order_is_left_alone(owner: Owner, place: pathlib.Path) -> None:
    paths = [str(place), str(place / "certs" / "missing"), str(place / "tedge.toml")]
    assert owner.watch.set_paths(paths)
    assert owner.watch.take()
    assert not owner.watch.check()
    assert not owner.watch.set_paths(reversed(paths))
    assert not owner.watch.take()


def test_a_path_no_longer_named_is_no_longer_watched(owner: Owner, place: pathlib.Path) -> None:
    owner.settle([place / "tedge.toml", place / "certs"])
    assert not owner.watch.set_paths([str(place / "tedge.toml")])
    append(place / "certs" / "ca.pem")
    assert not owner.woken_within(SILENCE_S)


def test_a_name_that_begins_to_matter_counts_as_a_change(owner: Owner, place: pathlib.Path) -> None:
    owner.settle([place / "tedge.toml"])
    assert owner.watch.set_paths([str(place / "tedge.toml"), str(place / "other")])
    assert owner.watch.take()


# Symlinks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: pathlib.Path) -> pathlib.Path:
    """As certbot has it: live/cert.pem -> ../archive/cert1.pem, and live itself behind a link."""
    for name in ("archive", "real"):
        (tmp_path / name).mkdir()
    (tmp_path / "live").symlink_to("real")
    for name in ("cert1.pem", "cert2.pem"):
        (tmp_path / "archive" / name).write_text(name)
    (tmp_path / "real" / "cert.pem").symlink_to("../archive/cert1.pem")
    return tmp_path


def relink(path: pathlib.Path, target: str) -> None:
    fresh = path.with_name("fresh")
    fresh.symlink_to(target)
    fresh.rename(path)


LINK_CHANGES: list[Callable[[pathlib.Path], object]] = [
    lambda top: append(top / "archive" / "cert1.pem"),
    lambda top: replace(top / "archive" / "cert1.pem"),
    lambda top: relink(top / "real" / "cert.pem", "../archive/cert2.pem"),
    lambda top: relink(top / "live", "archive"),
    lambda top: (top / "live").unlink(),
]


@pytest.mark.parametrize("change", LINK_CHANGES, ids=["append", "replace", "relink", "relink-dir", "unlink-dir"])
def test_a_change_anywhere_along_symlinks_wakes(
    owner: Owner, linked: pathlib.Path, change: Callable[[pathlib.Path], object]
) -> None:
    owner.settle([linked / "live" / "cert.pem"])
    change(linked)
    assert owner.woken_within(PROMPT_S)


def test_after_a_relink_the_new_target_is_watched_and_the_old_one_is_not(owner: Owner, linked: pathlib.Path) -> None:
    owner.settle([linked / "live" / "cert.pem"])
    relink(linked / "real" / "cert.pem", "../archive/cert2.pem")
    owner.settle()
    append(linked / "archive" / "cert1.pem")
    assert not owner.woken_within(SILENCE_S)
    append(linked / "archive" / "cert2.pem")
    assert owner.woken_within(REACTION_S)


def test_entries_of_a_directory_behind_a_symlink_are_watched(owner: Owner, linked: pathlib.Path) -> None:
    owner.settle([linked / "live"])
    (linked / "real" / "new.pem").write_text("")
    assert owner.woken_within(REACTION_S)


@pytest.mark.parametrize("target", ["loop", "/nowhere/at/all", "../" * 60, "live/../real/cert.pem", "/"])
def test_a_symlink_to_anywhere_is_watched_without_complaint(owner: Owner, linked: pathlib.Path, target: str) -> None:
    (linked / "loop").symlink_to(target)
    owner.settle([linked / "loop"])
    assert owner.watch.problems() == ()
    (linked / "loop").unlink()
    assert owner.woken_within(REACTION_S)


# What is not there yet --------------------------------------------------------------------------------------


def test_a_missing_path_is_followed_down_as_each_level_appears(owner: Owner, tmp_path: pathlib.Path) -> None:
    owner.settle([tmp_path / "a" / "b" / "c" / "file"])
    for level in ("a", "a/b", "a/b/c"):
        (tmp_path / level).mkdir()
        assert owner.woken_within(REACTION_S), level
        owner.settle()
    (tmp_path / "a/b/c/file").write_text("")
    assert owner.woken_within(REACTION_S)
    shutil.rmtree(tmp_path / "a")
    assert owner.woken_within(REACTION_S)
    owner.settle()
    (tmp_path / "a").mkdir()
    assert owner.woken_within(REACTION_S)


def test_levels_that_appear_all_at_once_are_all_armed(owner: Owner, tmp_path: pathlib.Path) -> None:
    owner.settle([tmp_path / "a" / "b" / "c" / "file"])
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    owner.settle()
    (tmp_path / "a/b/c/file").write_text("")
    assert owner.woken_within(REACTION_S)


def test_a_directory_in_the_way_of_a_file_and_the_reverse(owner: Owner, place: pathlib.Path) -> None:
    owner.settle([place / "other" / "below", place / "certs"])
    (place / "other").unlink()
    (place / "other").mkdir()
    owner.settle()
    (place / "other" / "below").write_text("")
    assert owner.woken_within(REACTION_S)
    shutil.rmtree(place / "certs")
    (place / "certs").write_text("a file now")
    owner.settle()
    append(place / "certs")
    assert owner.woken_within(REACTION_S)


HOSTILE = [
    "relative",
    "",
    "/nul\0",
    "/" + "x" * 5000,
    "/" + "y/" * 3000,
    "/\udcff",
    "/proc/self/fd/9999/x",
    "/new\nline",
]


def test_what_a_configuration_may_name_by_mistake_does_no_harm(owner: Owner, place: pathlib.Path) -> None:
    owner.watch.set_paths([*HOSTILE, str(place / "tedge.toml")])
    owner.settle()
    append(place / "tedge.toml")
    assert owner.woken_within(REACTION_S)
    assert owner.watch.problems() == ()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.lists(st.lists(st.sampled_from(["a", "b", "ab", "bb", "..", ".", ""]), max_size=5).map("/".join)))
def test_watched_directories_are_real_and_hold_a_name_for_every_path(
    tmp_path: pathlib.Path, paths: list[str]
) -> None:
    top = tmp_path / "tree"
    if not top.exists():
        (top / "a" / "b").mkdir(parents=True)
        (top / "b").symlink_to("a")
        (top / "a" / "a").symlink_to("../b/b/./")
        (top / "a" / "ab").symlink_to("ab")
        (top / "bb").symlink_to(top / "a" / "b")
    asked = [f"{top}/{path}" for path in paths]
    wanted = watch_paths.wanted(asked)
    for directory, names in wanted.items():
        assert os.path.realpath(directory) == directory
        assert pathlib.Path(directory).is_dir()
        assert names is None or names
    for path in filter(os.path.exists, asked):
        real = os.path.realpath(path)
        if os.path.isdir(real):
            assert wanted[real] is None
        else:
            assert os.path.basename(real) in (wanted[os.path.dirname(real)] or {os.path.basename(real)})


# Floods, and what runs out ----------------------------------------------------------------------------------


def test_a_flood_wakes_once_and_leaves_the_watch_working(owner: Owner, place: pathlib.Path) -> None:
    """20,000 files overflow the kernel's queue (16,384) if its reader is slow; the flag is up all the same."""
    owner.settle([place / "certs"])
    flood = "import sys\nfor n in range(20000): open(f'{sys.argv[1]}/{n}', 'w').close()"
    subprocess.run([sys.executable, "-c", flood, str(place / "certs")], check=True)
    assert owner.woken.acquire(timeout=REACTION_S)
    assert not owner.woken.acquire(blocking=False)
    owner.watch.take()
    owner.settle()
    append(place / "certs" / "ca.pem")
    assert owner.woken_within(REACTION_S)


def test_moves_are_not_remembered(owner: Owner, place: pathlib.Path) -> None:
    owner.settle([place / "certs"])
    emitter = owner.watch._armed[str(place / "certs")].emitter
    for _ in range(3000):
        replace(place / "certs" / "ca.pem")
    (place / "certs" / "last").write_text("")
    deadline = time.monotonic() + REACTION_S
    while (left := len(emitter._reader()._inotify._moved_from_events)) and time.monotonic() < deadline:
        away_and_back = place / "certs" / "last"
        replace(away_and_back)
        time.sleep(0.01)
    assert left < 100


def test_two_threads_and_one_inotify_instance_for_each_directory(owner: Owner, tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / f"{n}" for n in range(8)]
    for path in paths:
        path.mkdir()
    threads_before, instances_before = threads(), inotify_instances()
    owner.settle(paths)
    assert threads() - threads_before == 2 * (8 + 1 + 1)  # and tmp_path, and its parent for its name
    assert inotify_instances() - instances_before == 8 + 1 + 1 + 1  # and the probe


def test_an_emitter_that_died_is_replaced(owner: Owner, place: pathlib.Path) -> None:
    owner.settle([place / "tedge.toml"])
    owner.watch._armed[str(place)].emitter.stop()
    assert owner.watch.check()
    owner.settle()
    append(place / "tedge.toml")
    assert owner.woken_within(REACTION_S)


def test_an_emitter_without_its_reader_is_replaced(owner: Owner, place: pathlib.Path) -> None:
    """As after an unmount, and the same file system mounted again: nothing else differs."""
    owner.settle([place / "tedge.toml"])
    reader = owner.watch._armed[str(place)].emitter._reader()
    reader.stop()
    reader.join()
    assert owner.watch.check()
    owner.settle()
    append(place / "tedge.toml")
    assert owner.woken_within(REACTION_S)


IN_A_NAMESPACE = """
    import os, pathlib, sys
    from tedge_agentd.host.watch import Watch
    limit, place = pathlib.Path("/proc/sys/user", sys.argv[1]), pathlib.Path(sys.argv[2])
    woken = []
    watch = Watch(lambda: woken.append(1))
    descriptors = lambda: len(os.listdir("/proc/self/fd"))

    limit.write_text(sys.argv[4])
    watch.set_paths([str(place / "tedge.toml"), str(place / "certs")])
    assert watch.take()
    assert len(watch.problems()) == 3, watch.problems()  # two directories, and the parent of one
    assert all(" is not watched" in said and sys.argv[3] in said for said in watch.problems()), watch.problems()
    before = descriptors()
    for _ in range(20):
        assert not watch.check()
    assert descriptors() == before, "an attempt leaks nothing"

    for change in (
        lambda: (place / "tedge.toml").write_text("bb"),
        lambda: (place / "tedge.toml").chmod(0o600),
        lambda: (place / "certs" / "new.pem").write_text(""),
        lambda: (place / "certs" / "new.pem").unlink(),
        lambda: (place / "tedge.toml").rename(place / "aside"),
    ):
        change()
        watch.check()
        assert watch.take()
        assert not watch.check()

    limit.write_text("1000")
    assert watch.check(), "armed at last, which counts as a change"
    assert watch.problems() == ()
    watch.close()
    print("done")
"""


@pytest.mark.parametrize(
    ("limit", "too_low"),
    [("max_inotify_instances", "0"), ("max_inotify_instances", "1"), ("max_inotify_watches", "0")],
)
def test_exhausted_limits_degrade_to_comparing_and_are_retried(place: pathlib.Path, limit: str, too_low: str) -> None:
    """In a user namespace, which has inotify limits of its own."""
    script = textwrap.dedent(IN_A_NAMESPACE)
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        sys.executable,
        "-c",
        script,
        limit,
        str(place),
        "sysctl",
        too_low,
    ]
    path = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_nothing_is_called_after_close(place: pathlib.Path) -> None:
    owner = Owner()
    owner.settle([place / "tedge.toml"])
    owner.watch.close()
    append(place / "tedge.toml")
    assert not owner.woken.acquire(timeout=SILENCE_S)
    owner.watch.close()
