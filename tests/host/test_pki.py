"""The local PKI on real files: every crash point, what an attacker tries, renewal, and what verifiers say."""

import dataclasses
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tedge_agentd.core import errors
from tedge_agentd.core import pki as policy
from tedge_agentd.core import pki_register as reg
from tedge_agentd.core.pki import DAY
from tedge_agentd.host import files, opened, pem, pki, pki_make, pki_store, users
from tedge_agentd.host.pki_issuer import Issuer, Means, Request
from tedge_agentd.host.pki_store import Store

NOW = policy.RELEASED + 400 * DAY
CERT, KEY = "server-certs/server.crt", "server-certs/server.key"
REPOSITORY = str(Path(__file__).parents[2])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A machine's state and tedge directories, with a CA and a server certificate."""

    realm: Path
    people: users.FixedUsers
    make: Callable[[Mapping[str, Any]], Mapping[str, Any]] = pki_make.run_worker

    @property
    def state(self) -> str:
        return str(self.realm / "state")

    @property
    def tedge(self) -> Path:
        return self.realm / "tedge"

    @property
    def store(self) -> Store:
        return Store(self.state)

    @property
    def bundle(self) -> str:
        return str(self.tedge / "server-certs/ca.crt")

    def means(self, now: int = NOW, *, synchronized: bool = False) -> Means:
        return Means(now=now, synchronized=synchronized, who=self.people, make=self.make)

    def issuer(self, now: int = NOW) -> Issuer:
        return Issuer(self.store, self.means(now))

    def sweep(self, now: int, **options: Any) -> pki.Sweep:
        return pki.sweep(self.state, self.means(now), **options)

    def request(self, **changes: Any) -> Request:
        request = Request(
            role=reg.Role.SERVER,
            name="gateway",
            cert_path=str(self.tedge / CERT),
            key_path=str(self.tedge / KEY),
            owner="mosquitto",
            group="mosquitto",
            names=("gateway", "192.0.2.7"),
        )
        return dataclasses.replace(request, **changes)

    def client(self, **changes: Any) -> Request:
        cert, key = str(self.tedge / "client-certs/tedge.crt"), str(self.tedge / "client-certs/tedge.key")
        changes = {"names": (), "owner": "tedge", "group": "tedge", **changes}
        return self.request(role=reg.Role.TEDGE, name="tedge", cert_path=cert, key_path=key, **changes)

    def init(self) -> None:
        self.store.prepare()
        issuer = self.issuer()
        issuer.create_authority()
        issuer.publish(self.bundle)

    def served(self) -> reg.Issued:
        found = self.store.register().find(reg.Role.SERVER)
        assert found is not None
        return found

    def leftovers(self) -> list[str]:
        return [
            str(path.relative_to(self.realm))
            for path in self.realm.rglob("*")
            if path.name.endswith(".tmp") or "tedge-agentd" in path.name or path.parent.name == "pending"
        ]


class Fake:
    """A worker that needs no cryptography: files of PEM shape, for tests of the steps around it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.count += 1
        bodies = {"key.pem": f"key {self.count}".encode(), "cert.pem": f"certificate {self.count}".encode()}
        kinds = {"key.pem": "PRIVATE KEY", "cert.pem": "CERTIFICATE"}
        blocks = {name: pem.Block(label=kinds[name], der=body) for name, body in bodies.items()}
        for name, block in blocks.items():
            Path(request["directory"], name).write_bytes(block.pem())
        digests = {name: pki_store.digests(block.pem())[0] for name, block in blocks.items()}
        return {"serial": f"{self.count:x}", "sha256": digests["cert.pem"], "key_sha256": digests["key.pem"]}


@pytest.fixture
def bare(realm: Path, people: users.FixedUsers) -> Gateway:
    (realm / "state").mkdir(mode=0o700)
    (realm / "tedge").mkdir()
    return Gateway(realm=realm, people=people)


@pytest.fixture
def paper(bare: Gateway) -> Gateway:
    """A gateway with a PKI whose certificates are none, which is quick."""
    gateway = dataclasses.replace(bare, make=Fake())
    gateway.init()
    gateway.issuer().issue(gateway.request())
    return gateway


@pytest.fixture
def real(bare: Gateway) -> Gateway:
    bare.init()
    bare.issuer().issue(bare.request())
    return bare


# Crashes ----------------------------------------------------------------------------------------------------

CRASHED = 77
MUTATIONS = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chown", "os.chmod", "os.truncate"})


def crash_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that ends without a word before its step-th change of a file; return if it did."""
    child = os.fork()
    if child == 0:
        seen = 0

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_WRONLY)
            if event in MUTATIONS or writes:
                if seen == step:
                    os._exit(CRASHED)
                seen += 1

        sys.addaudithook(audit)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, CRASHED)
    return code == CRASHED


def restore(gateway: Gateway, saved: Path) -> None:
    for name in ("state", "tedge"):
        shutil.rmtree(gateway.realm / name)
        shutil.copytree(saved / name, gateway.realm / name, copy_function=copy_with_owner)


def copy_with_owner(source: str, target: str) -> None:
    shutil.copy2(source, target)
    found = os.stat(source)
    os.chown(target, found.st_uid, found.st_gid)


@contextmanager
def snapshots(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[[], None]]:
    for name in ("state", "tedge"):
        shutil.copytree(gateway.realm / name, tmp_path / name, copy_function=copy_with_owner)
    yield lambda: restore(gateway, tmp_path)


def test_a_renewal_that_crashes_at_any_change_of_a_file_is_completed_by_the_next_call(
    paper: Gateway, tmp_path: Path
) -> None:
    before = paper.served()
    later = NOW + 300 * DAY
    with snapshots(paper, tmp_path) as back:
        for step in range(200):
            if not crash_at(step, lambda: paper.sweep(later)):
                break
            for path in (before.cert_path, before.key_path):
                assert Path(path).is_file(), f"no file at all after step {step}"
            swept = paper.sweep(later)
            after = paper.served()
            assert pki.condition(after) is policy.Condition.GOOD, f"step {step}"
            assert after.issued == later
            assert not swept.findings
            assert paper.leftovers() == []
            assert paper.sweep(later) == pki.Sweep(), "a second look changes nothing"
            back()
        else:
            pytest.fail("never got through")
    assert step > 12, "the crash points were found"


def test_a_crash_while_completing_is_completed_as_well(paper: Gateway, tmp_path: Path) -> None:
    later = NOW + 300 * DAY
    with snapshots(paper, tmp_path) as back:
        for first in range(6, 200, 3):
            if not crash_at(first, lambda: paper.sweep(later)):
                break
            for second in range(0, 20, 2):
                if not crash_at(second, lambda: paper.sweep(later)):
                    break
            paper.sweep(later)
            assert pki.condition(paper.served()) is policy.Condition.GOOD, f"steps {first} and {second}"
            assert paper.leftovers() == []
            back()


def test_a_first_issue_that_crashes_leaves_nothing_or_a_pair(bare: Gateway, tmp_path: Path) -> None:
    gateway = dataclasses.replace(bare, make=Fake())
    gateway.init()

    def issue() -> None:
        with gateway.store.lock():
            issuer = gateway.issuer()
            issuer.recover()
            if issuer.store.register().find(reg.Role.SERVER) is None:
                issuer.issue(gateway.request())

    with snapshots(gateway, tmp_path) as back:
        step = 0
        while crash_at(step, issue):
            issue()
            assert pki.condition(gateway.served()) is policy.Condition.GOOD, f"step {step}"
            assert gateway.leftovers() == []
            back()
            step += 1
    assert step > 12


def test_making_the_next_ca_survives_a_crash_at_any_change_of_a_file(paper: Gateway, tmp_path: Path) -> None:
    later = NOW + 2500 * DAY
    paper.sweep(later - 100 * DAY)
    with snapshots(paper, tmp_path) as back:
        step = 0
        while crash_at(step, lambda: paper.sweep(later)):
            swept = paper.sweep(later)
            register = paper.store.register()
            assert len(register.authorities) == 2, f"step {step}"
            assert all(one.published is not None for one in register.authorities)
            in_file = pki_store.digests(Path(paper.bundle).read_bytes())
            assert in_file == tuple(one.sha256 for one in register.authorities)
            assert paper.leftovers() == []
            assert [finding.code for finding in swept.findings] == ["pki-rollover"]
            back()
            step += 1
    assert step > 8


def test_a_full_disk_leaves_the_old_pair_and_says_so(paper: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    before = paper.served()
    real_replace = files.replace

    def full(path: str, data: bytes, **options: Any) -> None:
        if path.endswith(".crt.tedge-agentd-next"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        real_replace(path, data, **options)

    monkeypatch.setattr(files, "replace", full)
    swept = paper.sweep(NOW + 300 * DAY)
    assert swept.renewed == ()
    assert [finding.code for finding in swept.findings] == ["pki-renewal-failed"]
    assert "No space left" in swept.findings[0].message
    assert pki.condition(before) is policy.Condition.GOOD
    monkeypatch.undo()
    (renewed,) = paper.sweep(NOW + 300 * DAY).renewed
    assert renewed.reason == "an interrupted renewal was completed"
    assert pki.condition(paper.served()) is policy.Condition.GOOD
    assert paper.leftovers() == []


# What is not ours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CERT, KEY])
def test_a_foreign_file_is_never_overwritten(bare: Gateway, name: str) -> None:
    gateway = dataclasses.replace(bare, make=Fake())
    gateway.init()
    target = gateway.tedge / name
    target.write_bytes(b"mine")
    with pytest.raises(errors.InputError, match="not issued by the local PKI") as caught:
        gateway.issuer().issue(gateway.request())
    assert caught.value.remedy == f"mv {target} {target}.old"
    assert target.read_bytes() == b"mine"
    assert gateway.store.register().issued == ()
    assert gateway.leftovers() == []


def test_a_foreign_file_in_the_place_of_the_ca_file_is_never_overwritten(bare: Gateway) -> None:
    gateway = dataclasses.replace(bare, make=Fake())
    gateway.store.prepare()
    gateway.issuer().create_authority()
    (gateway.tedge / "server-certs").mkdir()
    Path(gateway.bundle).write_bytes(b"")
    with pytest.raises(errors.InputError, match="not issued by the local PKI"):
        gateway.issuer().publish(gateway.bundle)


def test_a_pair_that_somebody_replaced_is_left_to_them(paper: Gateway) -> None:
    Path(paper.tedge / CERT).write_bytes(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    swept = paper.sweep(NOW + 300 * DAY)
    assert swept.renewed == ()
    assert [finding.code for finding in swept.findings] == ["pki-replaced"]


def test_a_place_taken_over_during_a_crash_is_left_to_its_owner(paper: Gateway) -> None:
    later = NOW + 300 * DAY
    step = 0
    while crash_at(step, lambda: paper.sweep(later)) and not paper.store.pending():
        step += 1
    assert paper.store.pending()
    Path(paper.tedge / CERT).write_bytes(b"mine")
    swept = paper.sweep(later)
    assert [finding.code for finding in swept.findings] == ["pki-renewal-failed", "pki-replaced"]
    assert Path(paper.tedge / CERT).read_bytes() == b"mine"
    assert paper.store.pending() == ()
    assert [finding.code for finding in paper.sweep(later).findings] == ["pki-replaced"]


@pytest.mark.parametrize(
    ("gone", "code"), [((CERT,), "pki-half"), ((KEY,), "pki-half"), ((CERT, KEY), "pki-missing")]
)
def test_what_somebody_removed_is_not_made_anew_unasked(paper: Gateway, gone: tuple[str, ...], code: str) -> None:
    for name in gone:
        (paper.tedge / name).unlink()
    swept = paper.sweep(NOW + 300 * DAY)
    assert swept.renewed == ()
    assert [finding.code for finding in swept.findings] == [code]
    assert swept.findings[0].remedy == "tedge-agentd certs renew server"
    paper.issuer().renew(paper.served())
    assert pki.condition(paper.served()) is policy.Condition.GOOD


def test_user_tedge_cannot_lead_a_renewal_elsewhere(paper: Gateway) -> None:
    """The directory is moved away; a symlink to a directory of root's, with the same names in it, takes its place."""
    target = paper.realm / "root"
    target.mkdir(mode=0o755)
    for name in ("server.crt", "server.key"):
        (target / name).write_bytes(b"root's")
    tedge = paper.people.accounts["tedge"]
    os.chown(paper.tedge, tedge.uid, tedge.gid)
    (paper.tedge / "server-certs").rename(paper.tedge / "moved")
    (paper.tedge / "server-certs").symlink_to(target)
    os.chown(paper.tedge / "server-certs", tedge.uid, tedge.gid, follow_symlinks=False)
    swept = paper.sweep(NOW + 300 * DAY)
    assert swept.renewed == ()
    with pytest.raises(opened.Refused):
        paper.issuer().renew(paper.served())
    assert {path.read_bytes() for path in target.iterdir()} == {b"root's"}


def test_a_file_symlink_is_replaced_and_never_written_through(paper: Gateway) -> None:
    outside = paper.realm / "outside"
    outside.write_bytes(b"root's")
    beside = paper.tedge / "server-certs/.server.key.tedge-agentd-next"
    beside.symlink_to(outside)
    assert len(paper.sweep(NOW + 300 * DAY).renewed) == 1
    assert outside.read_bytes() == b"root's"
    assert not (paper.tedge / KEY).is_symlink()


def test_a_hard_link_to_a_key_is_not_taken_for_the_key(paper: Gateway) -> None:
    os.link(paper.tedge / KEY, paper.realm / "link")
    swept = paper.sweep(NOW + 300 * DAY)
    assert swept.renewed == ()
    assert [finding.code for finding in swept.findings] == ["pki-half"]


# Renewal ----------------------------------------------------------------------------------------------------


def test_what_is_due_is_renewed_once_and_keeps_owner_and_mode(paper: Gateway) -> None:
    before = paper.served()
    assert paper.sweep(NOW + 100 * DAY) == pki.Sweep()
    (renewed,) = pki.sweep(paper.state, paper.means(NOW + 300 * DAY)).renewed
    assert (renewed.role, renewed.cert_path) == (reg.Role.SERVER, before.cert_path)
    assert renewed.reason == "two thirds of its life are over"
    assert renewed.serial != before.serial
    for path, mode in ((before.cert_path, 0o644), (before.key_path, 0o600)):
        found = os.stat(path)
        assert (found.st_uid, found.st_mode & 0o777) == (paper.people.accounts["mosquitto"].uid, mode)
    assert paper.sweep(NOW + 301 * DAY) == pki.Sweep()


def test_a_gateway_that_was_off_for_a_year_renews_at_its_first_look(paper: Gateway) -> None:
    (renewed,) = paper.sweep(NOW + 800 * DAY).renewed
    assert renewed.reason == "it expired"


def test_a_clock_of_1970_issues_nothing_and_destroys_nothing(paper: Gateway) -> None:
    before = paper.served()
    swept = paper.sweep(0, names=("new-name",))
    assert swept.renewed == ()
    assert {finding.code for finding in swept.findings} == {"pki-clock", "pki-renewal-failed"}
    assert all(finding.remedy for finding in swept.findings)
    assert paper.served() == before
    assert pki.condition(before) is policy.Condition.GOOD


def test_a_new_name_of_the_server_is_a_reason_and_addresses_do_not_pile_up(paper: Gateway) -> None:
    (renewed,) = paper.sweep(NOW + DAY, names=("gateway", "192.0.2.8")).renewed
    assert renewed.reason == "it lacks 192.0.2.8"
    assert set(paper.served().names) == {"gateway", "192.0.2.8", "localhost", "127.0.0.1", "::1"}
    assert paper.sweep(NOW + 2 * DAY, names=("gateway", "192.0.2.8")) == pki.Sweep()


def test_one_that_cannot_be_renewed_does_not_keep_the_other_from_it(paper: Gateway) -> None:
    paper.issuer().issue(paper.client())
    shutil.rmtree(paper.tedge / "server-certs")
    (paper.tedge / "server-certs").mkdir()
    swept = paper.sweep(NOW + 300 * DAY)
    assert [one.role for one in swept.renewed] == [reg.Role.TEDGE]
    assert [finding.code for finding in swept.findings] == ["pki-missing"]


def test_while_another_process_works_on_it_nothing_is_done(paper: Gateway) -> None:
    with paper.store.lock():
        assert paper.sweep(NOW + 300 * DAY) == pki.Sweep()
    assert len(paper.sweep(NOW + 300 * DAY).renewed) == 1


def test_without_a_pki_there_is_nothing_to_do(bare: Gateway) -> None:
    assert bare.sweep(NOW) == pki.Sweep()
    assert pki.status(bare.state) == ()
    assert pki.renew_due(bare.state, NOW) == ()
    assert os.listdir(bare.state) == []


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"version": 2}'])
def test_a_damaged_register_is_a_finding_and_not_the_end(paper: Gateway, data: bytes) -> None:
    register = Path(paper.state, "pki/issued.json")
    register.write_bytes(data)
    swept = paper.sweep(NOW + 300 * DAY)
    assert [finding.code for finding in swept.findings] == ["pki-damaged"]
    assert str(register) in swept.findings[0].message
    assert "certs init" in swept.findings[0].remedy


def test_a_lost_register_finds_its_cas_again(paper: Gateway) -> None:
    before = paper.store.register().authorities
    Path(paper.state, "pki/issued.json").unlink()
    paper.issuer().recover()
    assert [one.serial for one in paper.store.register().authorities] == [one.serial for one in before]


def test_a_look_writes_nothing_and_starts_no_process_while_nothing_is_due(
    paper: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper.issuer().issue(paper.client())

    def forbidden(*words: object, **options: object) -> None:
        raise AssertionError(words)

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    before = {path: path.lstat() for path in Path(paper.state).rglob("*")}
    assert paper.sweep(NOW + DAY) == pki.Sweep()
    after = {path: path.lstat() for path in Path(paper.state).rglob("*")}
    assert [(path, found.st_mtime_ns) for path, found in after.items()] == [
        (path, found.st_mtime_ns) for path, found in before.items()
    ]


# Handing over -----------------------------------------------------------------------------------------------


def test_the_key_of_a_child_device_is_handed_over_and_not_kept(paper: Gateway) -> None:
    got: list[tuple[bytes, bytes, bytes]] = []
    request = paper.request(role=reg.Role.CHILD, name="c1", cert_path="", key_path="", names=())
    issued = paper.issuer().hand_over(request, lambda *parts: got.append(parts))
    ((cert, key, ca),) = got
    assert pki_store.digests(cert) == (issued.sha256,)
    assert pki_store.digests(ca) == (paper.store.register().authorities[0].sha256,)
    kept = [path for path in paper.realm.rglob("*") if path.is_file() and key in path.read_bytes()]
    assert kept == []
    soon = paper.sweep(issued.not_after - 10 * DAY).findings
    assert ("pki-child-expiring", "c1") in [(finding.code, finding.where) for finding in soon]


def test_what_could_not_be_delivered_was_not_issued(paper: Gateway) -> None:
    before = paper.store.register()
    request = paper.request(role=reg.Role.CHILD, name="c1", cert_path="", key_path="", names=())

    def fail(*_: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        paper.issuer().hand_over(request, fail)
    assert paper.store.register() == before
    assert paper.leftovers() == []


# The worker -------------------------------------------------------------------------------------------------


def test_the_daemon_never_loads_cryptography() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import tedge_agentd.host.pki; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code, REPOSITORY], capture_output=True, text=True, check=True)
    assert "tedge_agentd.host.pki_issuer" in done.stdout.split()
    assert not {"cryptography", "_cffi_backend"} & set(done.stdout.split())


def test_the_worker_runs_from_any_place_and_believes_no_environment(
    bare: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed elsewhere, started from a directory that would shadow its imports, with a hostile environment."""
    installed = tmp_path / "dist-packages"
    shutil.copytree(Path(REPOSITORY, "tedge_agentd"), installed / "tedge_agentd")
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("json", "cryptography", "datetime"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')\n")
    monkeypatch.chdir(trap)
    monkeypatch.setenv("PYTHONPATH", str(trap))
    monkeypatch.setattr(pki_make, "WORKER", str(installed / "tedge_agentd/host/pki_worker.py"))
    bare.init()
    assert len(bare.store.register().authorities) == 1


def test_the_worker_says_no_secret_and_writes_keys_for_root_alone(bare: Gateway) -> None:
    bare.store.prepare()
    room = bare.store.new_room()
    request = {"make": "authority", "directory": room.path, "common_name": "x", "key_type": "ec"}
    old = os.umask(0)
    try:
        done = subprocess.run(
            [sys.executable, "-I", pki_make.WORKER],
            input=json.dumps({**request, "not_before": NOW, "not_after": NOW + DAY}).encode(),
            capture_output=True,
            check=True,
        )
    finally:
        os.umask(old)
    assert set(json.loads(done.stdout)["ok"]) == {"serial", "sha256", "key_sha256"}
    assert done.stderr == b""
    assert {path.name: path.stat().st_mode & 0o777 for path in Path(room.path).iterdir()} == {
        "cert.pem": 0o600,
        "key.pem": 0o600,
    }


@pytest.mark.parametrize("name", ["key.pem", "cert.pem"])
def test_the_worker_overwrites_nothing(bare: Gateway, name: str) -> None:
    bare.store.prepare()
    room = bare.store.new_room()
    Path(room.path, name).symlink_to(bare.realm / "elsewhere")
    request = {"make": "authority", "directory": room.path, "common_name": "x", "key_type": "ec"}
    with pytest.raises(errors.TransientError, match="FileExistsError"):
        pki_make.run_worker({**request, "not_before": NOW, "not_after": NOW + DAY})
    assert not (bare.realm / "elsewhere").exists()


def test_a_worker_that_cannot_work_says_why(bare: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "worker.py"
    broken.write_text("import no_such_module\n")
    monkeypatch.setattr(pki_make, "WORKER", str(broken))
    bare.store.prepare()
    with pytest.raises(errors.TransientError, match="no_such_module"):
        bare.issuer().create_authority()
    bare.issuer().recover()
    assert bare.leftovers() == []


def test_a_worker_that_hangs_is_ended(bare: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "worker.py"
    hanging.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(pki_make, "WORKER", str(hanging))
    monkeypatch.setattr(pki_make, "WORKER_TIMEOUT_S", 0.2)
    bare.store.prepare()
    with pytest.raises(errors.TransientError, match="took more than"):
        bare.issuer().create_authority()


# Verifiers --------------------------------------------------------------------------------------------------

KINDS = [reg.KeyType.EC_P256, reg.KeyType.RSA_2048, reg.KeyType.RSA_3072]


def verify(gateway: Gateway, cert: str, purpose: str, *options: str) -> subprocess.CompletedProcess[str]:
    at = ("-attime", str(NOW + DAY))
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        *at,
        "-purpose",
        purpose,
        "-CAfile",
        gateway.bundle,
        *options,
        cert,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_takes_each_certificate_for_what_it_is_and_nothing_else(bare: Gateway, kind: reg.KeyType) -> None:
    bare.store.prepare()
    issuer = bare.issuer()
    issuer.create_authority(key_type=kind)
    issuer.publish(bare.bundle)
    server = issuer.issue(bare.request(key_type=kind)).cert_path
    client = issuer.issue(bare.client(key_type=kind)).cert_path
    for check in (("-verify_ip", "127.0.0.1"), ("-verify_ip", "::1"), ("-verify_hostname", "localhost")):
        assert verify(bare, server, "sslserver", *check).returncode == 0
    assert verify(bare, client, "sslclient").returncode == 0
    assert verify(bare, server, "sslclient").returncode != 0
    assert verify(bare, client, "sslserver").returncode != 0
    assert verify(bare, server, "sslserver", "-verify_hostname", "elsewhere").returncode != 0
    assert verify(bare, server, "sslserver", "-attime", str(policy.RELEASED + 1)).returncode == 0
    assert verify(bare, server, "sslserver", "-attime", str(NOW + 366 * DAY)).returncode != 0


def test_a_certificate_has_the_extensions_that_strict_verifiers_ask_for(real: Gateway) -> None:
    text = subprocess.run(
        ["openssl", "x509", "-in", real.served().cert_path, "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for part in (
        "Version: 3",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "X509v3 Extended Key Usage: \n                TLS Web Server Authentication\n",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
        "DNS:gateway, DNS:localhost, IP Address:192.0.2.7, IP Address:127.0.0.1",
    ):
        assert part in text
    assert real.served().serial.bit_length() > 96
    assert f"{real.served().serial:x}" in text.replace(":", "")


def test_during_a_rollover_both_generations_verify(real: Gateway) -> None:
    before = Path(real.served().cert_path).read_bytes()
    made = NOW + 2650 * DAY
    assert [finding.code for finding in real.sweep(made).findings] == ["pki-rollover"]
    first, second = real.store.register().authorities
    assert real.served().issuer == first.sha256, "the new CA does not sign before clients had time to learn of it"
    real.sweep(made + 181 * DAY)
    real.sweep(real.served().issued + 300 * DAY)
    assert real.served().issuer == second.sha256
    old = real.realm / "old.crt"
    old.write_bytes(before)
    assert verify(real, str(old), "sslserver").returncode == 0
    at = ("-attime", str(real.served().issued))
    assert verify(real, real.served().cert_path, "sslserver", *at).returncode == 0


# A real broker ----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker(gateway: Gateway, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A mutual listener as the guide wants it, with what was issued."""
    served = gateway.served()
    config = gateway.realm / "mosquitto.conf"
    config.write_text(
        f"user root\nlistener {port} 127.0.0.1\nallow_anonymous false\nrequire_certificate true\n"
        f"use_identity_as_username true\ntls_version tlsv1.2\ncafile {gateway.bundle}\n"
        f"certfile {served.cert_path}\nkeyfile {served.key_path}\n"
    )
    log = (gateway.realm / "broker.log").open("wb")
    process = subprocess.Popen(["mosquitto", "-v", "-c", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (gateway.realm / "broker.log").read_text()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.mark.parametrize("kind", [reg.KeyType.EC_P256, reg.KeyType.RSA_2048])
def test_a_mutual_listener_serves_and_admits_what_was_issued(bare: Gateway, kind: reg.KeyType) -> None:
    now = int(time.time())
    bare.store.prepare()
    issuer = bare.issuer(now)
    issuer.create_authority(key_type=kind)
    issuer.publish(bare.bundle)
    issuer.issue(bare.request(key_type=kind))
    client = issuer.issue(bare.client(key_type=kind))
    pair = ["--cert", client.cert_path, "--key", client.key_path]
    port = free_port()
    with broker(bare, port):
        for version in ("tlsv1.2", "tlsv1.3"):
            publish = [
                "mosquitto_pub",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-t",
                "t",
                "-m",
                "m",
                "--cafile",
                bare.bundle,
            ]
            publish += ["--tls-version", version]
            subprocess.run([*publish, *pair], check=True, capture_output=True, timeout=10)
            refused = subprocess.run(publish, check=False, capture_output=True, timeout=10)
            assert refused.returncode != 0, "no certificate, no connection"
            served = handshake(
                port, version, ["-CAfile", bare.bundle, "-cert", client.cert_path, "-key", client.key_path]
            )
            assert "Verification: OK" in served
            assert "Verified peername: localhost" in served
    assert "u'tedge'" in (bare.realm / "broker.log").read_text(), "the common name is the user name"


def handshake(port: int, version: str, options: list[str]) -> str:
    """What openssl says of a handshake, the way a strict client does it."""
    flag = {"tlsv1.2": "-tls1_2", "tlsv1.3": "-tls1_3"}[version]
    strict = ["-x509_strict", "-verify_return_error", "-verify_hostname", "localhost"]
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", flag, *strict, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    return done.stdout


def test_a_renewal_is_served_after_a_reload_and_clients_stay(bare: Gateway) -> None:
    now = int(time.time())
    bare.store.prepare()
    issuer = bare.issuer(now)
    issuer.create_authority()
    issuer.publish(bare.bundle)
    first = issuer.issue(bare.request())
    client = issuer.issue(bare.client())
    login = ["--cafile", bare.bundle, "--cert", client.cert_path, "--key", client.key_path, "-h", "127.0.0.1"]
    port = free_port()
    with broker(bare, port) as process:
        subscriber = subprocess.Popen(
            ["mosquitto_sub", *login, "-p", str(port), "-t", "t", "-C", "1", "-W", "10"], stdout=subprocess.PIPE
        )
        await_log(bare, "Sending SUBACK")
        second = issuer.renew(first)
        process.send_signal(1)
        await_log(bare, "Reloading config")
        options = ["-CAfile", bare.bundle, "-cert", client.cert_path, "-key", client.key_path]
        deadline = time.monotonic() + 5
        while f"{second.serial:X}" not in serial_of(handshake(port, "tlsv1.3", options)):
            assert time.monotonic() < deadline
        subprocess.run(["mosquitto_pub", *login, "-p", str(port), "-t", "t", "-m", "m"], check=True, timeout=10)
        out, _ = subscriber.communicate(timeout=15)
    assert out == b"m\n"
    assert second.serial != first.serial


def serial_of(said: str) -> str:
    start = said.find("-----BEGIN CERTIFICATE-----")
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"], input=said[start:], capture_output=True, text=True, check=False
    )
    return done.stdout


def await_log(gateway: Gateway, text: str) -> None:
    deadline = time.monotonic() + 5
    while text not in (gateway.realm / "broker.log").read_text():
        assert time.monotonic() < deadline, f"the broker never said {text!r}"
        time.sleep(0.02)
