"""What a pass learns of certificates: the server's and the clients', halves of renewals, CAs that fit or do not."""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tedge_agentd import material
from tedge_agentd.core import desired, model
from tedge_agentd.host import certificates, inspection, walk
from tedge_agentd.host.worker_process import WorkerProcess
from tests.host.accounts import BROKER, CLIENT
from tests.system import pki


@pytest.fixture(scope="module")
def ca() -> pki.Authority:
    return pki.authority()


@dataclasses.dataclass
class Bench:
    """A directory of certificates, settings that name them, and a clock."""

    top: Path
    ca: pki.Authority
    now: float = 0.0
    settings: model.TedgeSettings = dataclasses.field(default_factory=model.TedgeSettings)

    def __post_init__(self) -> None:
        self.inspector = certificates.Inspector()
        self.material = material.Material(self.inspector, clock=lambda: self.now)
        self.roots = walk.Roots(managed=(str(self.top),), broker_dir="/nonexistent")

    def put(self, name: str, text: str, *, mode: int = 0o644) -> str:
        path = self.top / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def pair(self, name: str, pair: pki.Pair) -> tuple[str, str]:
        return self.put(f"{name}.crt", pair.chain_pem), self.put(f"{name}.key", pair.key_pem(), mode=0o600)

    def level(self, server: pki.Pair, client: pki.Pair | None = None) -> None:
        """Settings of the third level, with the clients on its listener."""
        ca_file = self.put("ca.crt", self.ca.pem)
        cert, key = self.pair("server", server)
        external = model.ExternalSettings(port=8883, cert_file=cert, key_file=key, ca_path=ca_file)
        clients = model.ClientSettings(port=8883, ca_file=ca_file)
        if client is not None:
            client_cert, client_key = self.pair("client", client)
            clients = dataclasses.replace(clients, cert_file=client_cert, key_file=client_key)
        self.settings = model.TedgeSettings(external=external, client=clients)

    def read(self) -> material.Found:
        wish = desired.derive(self.settings, desired.Accounts(), tedge_dir=str(self.top))
        return self.material.read(wish, self.roots, BROKER, CLIENT, time.time())

    def findings(self) -> dict[str, model.Finding]:
        found = self.read()
        blocking = found.pair.findings if found.pair is not None else ()
        more = found.client_cas.findings if found.client_cas is not None else ()
        return {finding.code: finding for finding in (*found.findings, *blocking, *more)}


@pytest.fixture
def bench(realm: Path, ca: pki.Authority) -> Bench:
    top = realm / "tedge"
    top.mkdir()
    return Bench(top=top, ca=ca)


def test_nothing_is_said_of_a_level_that_is_right_and_everything_in_use_is_shown(bench: Bench) -> None:
    bench.level(bench.ca.server(), bench.ca.client())
    found = bench.read()
    assert found.findings == ()
    assert found.pair is not None
    assert found.pair.combined is not None
    assert [(one.role, Path(one.facts.path).name) for one in found.in_use] == [
        ("server", "server.crt"),
        ("client CA", "ca.crt"),
        ("client", "client.crt"),
        ("broker CA", "ca.crt"),
    ]


def test_all_of_it_is_looked_at_by_one_process_and_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    ask = inspection.ask

    def counting(
        items: Sequence[inspection.Item], *, worker: str, timeout_s: float, spare: WorkerProcess | None
    ) -> list[inspection.Answer | None]:
        asked.append(len(items))
        return ask(items, worker=worker, timeout_s=timeout_s, spare=spare)

    monkeypatch.setattr(inspection, "ask", counting)
    bench.level(bench.ca.server(), bench.ca.client())
    for _ in range(3):
        bench.read()
    assert asked == [3], "two pairs, and the CA that both sides trust"


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each process that is started to read certificates: "early" before there was a question, "late" with one."""
    seen: list[str] = []

    class Counted(WorkerProcess):
        def __init__(self, script: str, request: bytes | None = None) -> None:
            seen.append("early" if request is None else "late")
            super().__init__(script, request)

    for module in (certificates, inspection):
        monkeypatch.setattr(module, "WorkerProcess", Counted)
    return seen


def test_a_renewal_that_is_announced_is_read_by_a_process_that_was_started_before(
    bench: Bench, starts: list[str]
) -> None:
    bench.level(bench.ca.server(), bench.ca.client())
    bench.material.prepare()
    bench.read()
    assert starts == ["late"], "nothing was known yet"
    renewed = bench.ca.server()
    bench.pair("server", renewed)
    for _ in range(3):
        bench.material.prepare()
    found = bench.read()
    assert starts == ["late", "early"]
    assert found.pair is not None
    assert found.pair.leaf == renewed.sha256
    bench.material.prepare()
    assert starts == ["late", "early"], "there is nothing new"


def test_what_changes_no_source_starts_no_process(bench: Bench, starts: list[str]) -> None:
    bench.level(bench.ca.server())
    bench.read()
    bench.put("another.crt", bench.ca.pem)
    (bench.top / "server.key").chmod(0o640)
    bench.material.prepare()
    assert starts == ["late"]


def test_a_process_without_a_question_is_gone_after_the_pass(bench: Bench, starts: list[str]) -> None:
    bench.level(bench.ca.server())
    bench.read()
    before = open_files()
    text = (bench.top / "server.crt").read_text()
    bench.put("server.crt", text)  # the same once more, as rsync does
    bench.material.prepare()
    bench.read()
    assert starts == ["late", "early"]
    bench.material.rest()
    assert open_files() == before


def test_a_process_that_died_while_it_waited_spoils_nothing(
    bench: Bench, starts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.level(bench.ca.server())
    bench.read()
    before = open_files()
    bench.pair("server", bench.ca.server())
    bench.material.prepare()
    spare = bench.inspector._spare
    assert spare is not None
    spare._child.kill()
    spare._child.wait()
    assert bench.findings() == {}
    assert starts == ["late", "early", "late"]
    assert open_files() == before


def open_files() -> list[str]:
    return sorted(os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path))


@pytest.mark.parametrize(("side", "area"), [("server", model.Area.BROKER), ("client", model.Area.CLIENTS)])
@pytest.mark.parametrize("half", ["crt", "key"])
def test_half_a_renewal_is_waited_for_and_an_error_after_half_a_minute(
    bench: Bench, side: str, area: model.Area, half: str
) -> None:
    bench.level(bench.ca.server(), bench.ca.client())
    assert "key-mismatch" not in bench.findings()
    new = bench.ca.server() if side == "server" else bench.ca.client()
    bench.put(f"{side}.{half}", new.pem if half == "crt" else new.key_pem(), mode=0o600)

    def seen() -> tuple[model.Severity, model.Area | None, bool]:
        finding = bench.findings()["key-mismatch"]
        assert finding.where.startswith("mqtt.external" if side == "server" else "mqtt.client")
        assert finding.remedy
        return finding.severity, finding.blocks, finding.waits

    assert seen() == (model.Severity.INFO, area, True)
    bench.now += 29
    assert seen() == (model.Severity.INFO, area, True)
    bench.now += 2
    assert seen() == (model.Severity.ERROR, area, True)
    another = bench.ca.server() if side == "server" else bench.ca.client()
    bench.put(f"{side}.{half}", another.pem if half == "crt" else another.key_pem(), mode=0o600)
    assert seen() == (model.Severity.INFO, area, True), "the next renewal has begun"
    other = "key" if half == "crt" else "crt"
    bench.put(f"{side}.{other}", another.key_pem() if half == "crt" else another.pem, mode=0o600)
    assert bench.findings() == {}


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("client.crt", "", "certificate-none"),
        ("client.crt", "garbage", "certificate-none"),
        ("client.key", "garbage", "key-invalid"),
    ],
)
def test_with_a_spoiled_pair_no_client_is_restarted(bench: Bench, name: str, content: str, code: str) -> None:
    bench.level(bench.ca.server(), bench.ca.client())
    bench.put(name, content)
    finding = bench.findings()[code]
    assert finding.blocks is model.Area.CLIENTS
    assert not finding.waits


def test_without_a_ca_the_clients_speak_no_tls_and_their_pair_does_not_matter(bench: Bench) -> None:
    bench.level(bench.ca.server(), bench.ca.client())
    bench.settings = dataclasses.replace(
        bench.settings, client=dataclasses.replace(bench.settings.client, ca_file=None)
    )
    bench.put("client.key", "garbage")
    found = bench.read()
    assert found.findings == ()
    assert [one.role for one in found.in_use] == ["server", "client CA"]


def test_what_the_tls_library_refuses_by_taste_is_left_to_a_login(bench: Bench) -> None:
    bench.level(bench.ca.server(), bench.ca.client(key="rsa1024"))
    finding = bench.findings()["certificate-weak"]
    assert finding.blocks is None


def test_a_ca_directory_of_the_clients_counts_file_by_file(bench: Bench) -> None:
    bench.level(bench.ca.server())
    (bench.top / "cas").mkdir()
    directory = str(bench.top / "cas")
    bench.put("cas/one.pem", bench.ca.pem)
    bench.put("cas/readme.txt", "not looked at")
    bench.settings = dataclasses.replace(
        bench.settings, client=dataclasses.replace(bench.settings.client, ca_file=None, ca_dir=directory)
    )
    found = bench.read()
    assert found.findings == ()
    assert ("broker CA", f"{directory}/one.pem") in [(one.role, one.facts.path) for one in found.in_use]
    bench.put("cas/two.crt", bench.ca.pem.replace("MII", "MIX", 1))
    finding = bench.findings()["ca-file-unusable"]
    assert finding.blocks is model.Area.CLIENTS, "thin-edge's services would not start with it"
    assert "mqtt.client.auth.ca_dir" in finding.message
    os.unlink(bench.top / "cas/two.crt")
    assert bench.findings() == {}


def test_a_ca_directory_of_the_brokers_is_made_anew_for_what_changed_in_it(bench: Bench) -> None:
    bench.level(bench.ca.server())
    (bench.top / "clients").mkdir()
    bench.put("clients/one.pem", bench.ca.pem)
    external = dataclasses.replace(bench.settings.external, ca_path=str(bench.top / "clients"))
    bench.settings = dataclasses.replace(bench.settings, external=external)
    first = bench.read().client_cas
    assert first is not None
    assert len(first.certificates or ()) == 1
    assert bench.read().client_cas is first, "nothing changed, so nothing is parsed"
    bench.put("clients/two.pem", pki.authority("second").pem)
    second = bench.read().client_cas
    assert second is not None
    assert len(second.certificates or ()) == 2
    os.unlink(bench.top / "clients/one.pem")
    third = bench.read().client_cas
    assert third is not None
    assert set(third.certificates or ()) == set(second.certificates or ()) - set(first.certificates or ())


def test_the_public_cas_are_somebody_elses_business(bench: Bench) -> None:
    bench.level(bench.ca.server())
    bench.settings = dataclasses.replace(
        bench.settings, client=dataclasses.replace(bench.settings.client, ca_file=None, ca_dir="/etc/ssl/certs/")
    )
    assert [one.role for one in bench.read().in_use] == ["server", "client CA"]


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_ca_that_did_not_issue_what_it_should_verify_is_named(bench: Bench, side: str) -> None:
    other = pki.authority("another CA")
    bench.level(
        other.server() if side == "server" else bench.ca.server(),
        other.client() if side == "client" else bench.ca.client(),
    )
    finding = bench.findings()["ca-not-issuer"]
    assert finding.severity is model.Severity.ERROR
    assert finding.blocks is None
    assert finding.message.startswith("mqtt.client.auth.ca_file" if side == "server" else "mqtt.external.ca_path")
    assert "CN=another CA" in finding.message


def test_an_intermediate_between_the_ca_and_the_leaf_is_no_stranger(bench: Bench) -> None:
    bench.level(bench.ca.intermediate().server(), bench.ca.client())
    assert bench.findings() == {}


def test_clients_on_the_internal_listener_are_not_measured_by_the_external_one(bench: Bench) -> None:
    bench.level(pki.authority("another CA").server())
    bench.settings = dataclasses.replace(bench.settings, client=model.ClientSettings())
    assert bench.findings() == {}


def test_a_ca_that_is_the_very_certificate_is_named(bench: Bench) -> None:
    server = bench.ca.server()
    bench.level(server)
    bench.put("leaf.crt", server.pem)
    bench.settings = dataclasses.replace(
        bench.settings, client=dataclasses.replace(bench.settings.client, ca_file=str(bench.top / "leaf.crt"))
    )
    assert "ca-is-leaf" in bench.findings()
