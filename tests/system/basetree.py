"""Debian trees that gateways are booted from: built once by mmdebstrap, cached, never written to again."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

SUITES = ("bookworm", "trixie")
MOVING = "forky"  # Debian testing: only where it is asked for

RUNTIME = (
    "python3-watchdog",
    "python3-tomli-w",
    "python3-sdnotify",
    "python3-pystemd",
    "python3-structlog",
    "python3-cryptography",
    "python3-paho-mqtt",
)
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "mosquitto",
    "mosquitto-clients",
    "openssl",
    "ca-certificates",
    "iproute2",
    "procps",
    "strace",
    "logrotate",
    *RUNTIME,
)

RECIPE = pathlib.Path(__file__).with_name("base-tree.sh")
RECIPE_VERSION = 2  # raise it when the Python below builds something else
LAYER_LIFETIME = 24 * 3600.0  # seconds; a layer holds one build of the package and is cheap to make again


def cache_dir() -> pathlib.Path:
    """Return the directory of the cache; `TEDGE_AGENTD_TEST_CACHE` moves it."""
    return pathlib.Path(os.environ.get("TEDGE_AGENTD_TEST_CACHE", "/var/cache/tedge-agentd-tests"))


def base_tree(suite: str) -> pathlib.Path:
    """Return the tree of a release, building it if it is not in the cache (20-60 s, needs the network)."""
    tree = cache_dir() / f"{suite}-{_key(suite)}"
    with _built_once(tree) as fresh:
        if fresh is not None:
            _mmdebstrap(suite, fresh)
            _index_packages(fresh)
    return tree


def deb_layer(suite: str, deb: pathlib.Path) -> pathlib.Path:
    """Return an overlay layer holding what installing `deb` on the release's base tree adds (no network).

    The package is installed as an image builder would, with no systemd running: enabled, started at first boot.
    """
    base = base_tree(suite)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()[:16]
    layer = cache_dir() / f"{base.name}-deb-{digest}"
    with _built_once(layer) as fresh:
        if fresh is not None:
            _drop_old_layers(base)
            _install_offline(base, deb, fresh)
    os.utime(layer)  # in use: not one of the old ones
    return layer


def deb_under_test(repository: pathlib.Path) -> pathlib.Path:
    """Return the package to test: $TEDGE_AGENTD_DEB, or the newest in dist/ of the repository."""
    if chosen := os.environ.get("TEDGE_AGENTD_DEB"):
        if not pathlib.Path(chosen).is_file():
            raise FileNotFoundError(f"TEDGE_AGENTD_DEB names {chosen}, which is not there")
        return pathlib.Path(chosen).resolve()
    built = sorted(repository.glob("dist/tedge-agentd_*.deb"), key=lambda deb: deb.stat().st_mtime)
    if not built:
        raise FileNotFoundError("there is no dist/tedge-agentd_*.deb: build the package first (make deb)")
    return built[-1]


def _key(suite: str) -> str:
    recipe = "\n".join((suite, str(RECIPE_VERSION), *PACKAGES, RECIPE.read_text()))
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _built_once(final: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """Yield a directory to build into, or None if `final` exists; an interrupted build never becomes `final`."""
    if final.is_dir():
        yield None
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    with (final.parent / f".{final.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_dir():
            yield None
            return
        building = final.with_name(f".{final.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        try:
            yield building
            building.rename(final)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _mmdebstrap(suite: str, target: pathlib.Path) -> None:
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        "--components=main",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=force-unsafe-io",
        '--aptopt=Binary::apt-get::APT::Keep-Downloaded-Packages "true"',
        *_host_apt_options(),
        f"--customize-hook={RECIPE}",
        suite,
        str(target),
        *_host_mirror(),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap {suite} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")


def _host_mirror() -> list[str]:
    """Return the mirror this machine's apt uses for Debian; none means mmdebstrap's own default."""
    if chosen := os.environ.get("TEDGE_AGENTD_TEST_MIRROR"):
        return [chosen]
    release = dict(
        line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    codename = release.get("VERSION_CODENAME", "")
    form = "$(RELEASE) $(REPO_URI)"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", form], capture_output=True, text=True, check=True
    ).stdout
    for target in targets.splitlines():
        suite, _, uri = target.partition(" ")
        if suite == codename and release.get("ID") == "debian":
            return [uri]
    return []


def _host_apt_options() -> list[str]:
    """Return this machine's settings about the way to the mirror (a proxy, a clock that runs behind)."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(r'^(Acquire::(Check-Valid-Until|Check-Date|https?::.+) ".+");$', re.MULTILINE)
    return [f"--aptopt={match[1]}" for match in wanted.finditer(dump)]


def _index_packages(tree: pathlib.Path) -> None:
    """Make /opt/debs of the tree the only source of its apt, so that apt never asks the network."""
    debs = tree / "opt/debs"
    stanzas = []
    for deb in sorted(debs.glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", deb], capture_output=True, text=True, check=True).stdout
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        stanzas.append(f"{control.rstrip()}\nFilename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
    (debs / "Packages").write_text("\n".join(stanzas))
    for old in (tree / "etc/apt/sources.list.d").iterdir():
        old.unlink()
    (tree / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/opt/debs ./\n")
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").touch()
    script = "apt-get -q update && apt-get -qs install mosquitto && touch /etc/.updated /var/.updated"
    _in_tree(tree, script)


def _install_offline(base: pathlib.Path, deb: pathlib.Path, layer: pathlib.Path) -> None:
    layer.mkdir(parents=True)
    work = layer.with_name(f"{layer.name}.work")
    try:
        for name in ("work", "merged"):
            (work / name).mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={base},upperdir={layer},workdir={work / 'work'}"
        mount = f"mount -t overlay overlay -o {layers} {work / 'merged'}"
        copy = f"install -m 0644 {deb} {work / 'merged/opt/package.deb'}"
        install = "apt-get -qy install /opt/package.deb && rm /opt/package.deb && touch /etc/.updated /var/.updated"
        _in_tree(work / "merged", install, before=f"{mount} && {copy}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _in_tree(tree: pathlib.Path, script: str, before: str = "true") -> None:
    """Run a script inside a tree, in namespaces of its own: no network, and no mount is left behind."""
    outer = f"set -e; {before}; mount -t proc proc {tree}/proc; exec chroot {tree} /bin/sh -ec '{script}'"
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", outer]
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"in {tree}: {script}\nfailed ({done.returncode}):\n{done.stdout}\n{done.stderr}")


def _drop_old_layers(base: pathlib.Path) -> None:
    for layer in base.parent.glob(f"{base.name}-deb-*"):
        if layer.is_dir() and time.time() - layer.stat().st_mtime > LAYER_LIFETIME:
            shutil.rmtree(layer, ignore_errors=True)
            (layer.parent / f".{layer.name}.lock").unlink(missing_ok=True)
