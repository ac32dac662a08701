"""The sources of what the broker serves: read by the rules of contract 7, checked, and turned into what is staged."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import sources
from .core import certificate_facts, desired, mending, model, observed, remarks
from .host import certificates, opened, pem, users, walk

EXTERNAL, AUTH = desired.EXTERNAL_KEYS, desired.CLIENT_KEYS
_SERVER_ROLES, _CLIENT_ROLES, _BRIDGE_ROLES = ("server", "client CA"), ("client", "broker CA"), ("bridge", "")
_HALVES = 8  # pairs that do not match; the settings name two, and name others all day if somebody likes
HALF_S = 30.0  # every tool replaces the second half within seconds
MISMATCH = "key-mismatch"
PUBLIC_CAS = "/etc/ssl/certs"  # as clients' CAs: a hundred and more, which Debian's ca-certificates looks after


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a pass needs to know of certificates: what can be staged, what is in use, and what is wrong."""

    pair: observed.Pair | None = None
    client_cas: observed.ClientCas | None = None
    in_use: tuple[observed.CertificateInUse, ...] = ()
    findings: tuple[model.Finding, ...] = ()


class Material:
    """Reads sources. A CA directory is read again only when its listing (names, inodes, sizes, times) changed."""

    def __init__(self, inspector: certificates.Inspector, clock: Callable[[], float] = time.monotonic) -> None:
        self._inspector = inspector
        self._clock = clock
        self._directories: dict[tuple[str, model.Role], tuple[object, tuple[tuple[str, bytes], ...]]] = {}
        self._halves: dict[tuple[str, str], tuple[bytes, float]] = {}
        self._taken: set[bytes] = set()
        self._made: tuple[object, object, observed.ClientCas | None] = (None, None, None)
        self._looked: dict[str, object] = {}

    def prepare(self) -> None:
        """Get ready for the next `read` if it will find something else: to read certificates takes a process."""
        if any(_looks(path) != before for path, before in self._looked.items()):
            self._inspector.prepare()

    def rest(self) -> None:
        """Let go of what `prepare` has made, and no `read` has used."""
        self._inspector.discard()

    def read(
        self,
        wish: desired.Desired | None,
        roots: walk.Roots,
        broker: users.Account | None,
        client: users.Account | None,
        now: float,
    ) -> Found:
        """Return the server's pair and the client CA as their sources are now. Unchanged files start no process.

        `now` is seconds since the epoch: what ends soon is a finding, also of what the clients use.
        """
        if wish is None:
            return Found()
        self._looked = {path: _looks(path) for path in _paths(wish)}
        named = self._server_sources(wish, roots, broker, client)
        ours, our_cas = named.requests()
        theirs, their_cas = self._client_requests(wish, roots, client)
        bridged = _bridge_requests(wish, roots, broker)
        pairs, cas = self._inspector.inspect([*ours, *theirs, *bridged], [*our_cas, *their_cas])
        server = remarks.Facts(pairs=pairs[: len(ours)], cas=cas[: len(our_cas)])
        clients = remarks.Facts(pairs=pairs[len(ours) : len(ours) + len(theirs)], cas=cas[len(our_cas) :])
        bridge = remarks.Facts(pairs=pairs[len(ours) + len(theirs) :])
        halves = [
            self._half(facts, _pair_digest(request))
            for facts, request in zip(clients.pairs, theirs, strict=True)
            if any(problem.code == MISMATCH for problem in facts.problems)
        ]
        pair = self._pair(named, server)
        if pair is not None and server.leaf is not None:
            pair = replace(pair, findings=tuple(mending.server(one, server.leaf, wish) for one in pair.findings))
        return Found(
            pair=pair,
            client_cas=self._client_cas(named, server),
            in_use=(
                *_in_use(server, _SERVER_ROLES),
                *_in_use(clients, _CLIENT_ROLES),
                *_in_use(bridge, _BRIDGE_ROLES),
            ),
            findings=(
                *remarks.server(server, clients, now, wish),
                *remarks.client(server, clients, now, wish),
                *(_half_of_clients(half, f"{AUTH}.cert_file") for half in halves),
            ),
        )

    # The server's -------------------------------------------------------------------------------------------

    def _server_sources(
        self,
        wish: desired.Desired,
        roots: walk.Roots,
        broker: users.Account | None,
        client: users.Account | None,
    ) -> sources.Sources:
        external = wish.external
        if external is None or external.cert is None or external.key is None or broker is None:
            return sources.Sources()
        owners = frozenset({0, broker.uid, *({client.uid} if client is not None else ())})
        cert = sources.read(f"{EXTERNAL}.cert_file", external.cert, roots, broker, owners=owners)
        key = sources.read(f"{EXTERNAL}.key_file", external.key, roots, broker, owners=owners)
        if external.client_ca is None:
            return sources.Sources(cert=cert, key=key)
        try:
            files, is_dir = self._ca_files(external.client_ca, roots, broker, model.Role.CA)
        except opened.Refused as error:
            return sources.Sources(
                cert=cert, key=key, ca=sources.Ca(refused=sources.refused(f"{EXTERNAL}.ca_path", error))
            )
        return sources.Sources(cert=cert, key=key, ca=sources.Ca(path=external.client_ca, files=files, is_dir=is_dir))

    def _pair(self, named: sources.Sources, facts: remarks.Facts) -> observed.Pair | None:
        cert, key = named.cert, named.key
        if cert is None or key is None:
            return None
        if not facts.pairs:
            return observed.Pair(findings=tuple(one.finding for one in (cert, key) if one.finding is not None))
        found = _pair(facts.pairs[0], cert, key, self._taken)
        if not any(finding.code == MISMATCH for finding in found.findings):
            return found
        half = self._half(facts.pairs[0], _digest(cert.data or b"", key.data or b""))
        return replace(
            found,
            findings=tuple(_as_half(one, half) if one.code == MISMATCH else one for one in found.findings),
        )

    def _client_cas(self, named: sources.Sources, facts: remarks.Facts) -> observed.ClientCas | None:
        """The client CA as it is staged; made anew when its files or the facts about them are other objects.

        They are the same ones for a directory whose listing has not changed: 10,000 certificates take 100 ms.
        """
        ca = named.ca
        if ca is None:
            return None
        if ca.refused is not None:
            return observed.ClientCas(findings=(ca.refused,))
        if self._made[0] is not ca.files or self._made[1] is not facts.cas[0]:
            self._made = (ca.files, facts.cas[0], _client_cas(facts.cas[0], ca.files, is_dir=ca.is_dir))
        return self._made[2]

    def _half(self, facts: certificate_facts.PairFacts, digest: bytes) -> "_Half":
        """For how long a pair has not matched with just these contents: a renewal replaces one after the other."""
        names = (facts.cert_path, facts.key_path or "")
        now = self._clock()
        known, since = self._halves.get(names, (b"", now))
        if known != digest:
            since = now
        self._halves[names] = (digest, since)
        while len(self._halves) > _HALVES:
            del self._halves[next(iter(self._halves))]
        problem = next(problem for problem in facts.problems if problem.code == MISMATCH)
        return _Half(problem=problem, is_young=now - since < HALF_S)

    def _ca_files(
        self, path: str, roots: walk.Roots, reader: users.Account, role: model.Role
    ) -> tuple[tuple[tuple[str, bytes], ...], bool]:
        """Return the CA's files, and whether it is a directory. Raises Refused."""
        with walk.open_source(path, roots, role, reader) as source:
            if not source.is_dir:
                return ((path, opened.read(source)),), False
            listing = opened.listing(source)
        known = self._directories.get((path, role))
        if known is None or known[0] != listing:
            files = tuple(sources.entries(path, [name for name, *_ in listing], roots, reader, role))
            known = (listing, files)
            # One directory of each role: the settings name no more.
            self._directories = {key: value for key, value in self._directories.items() if key[1] is not role}
            self._directories[path, role] = known
        return known[1], True

    # The clients' -------------------------------------------------------------------------------------------

    def _client_requests(
        self, wish: desired.Desired, roots: walk.Roots, client: users.Account | None
    ) -> tuple[list[certificates.PairRequest], list[certificates.CaRequest]]:
        """What the clients log in with, if they use TLS at all: only with a CA (facts/thin-edge.md 1.4).

        What cannot be read is a finding of its file's rule.
        """
        named = wish.client
        if client is None or not (named.ca_file or named.ca_dir):
            return [], []
        pairs: list[certificates.PairRequest] = []
        cas: list[certificates.CaRequest] = []
        owners = frozenset({0, client.uid})
        if named.cert_file and named.key_file:
            cert = sources.read(f"{AUTH}.cert_file", named.cert_file, roots, client, model.Role.CLIENT, owners=owners)
            key = sources.read(f"{AUTH}.key_file", named.key_file, roots, client, model.Role.CLIENT, owners=owners)
            if cert.data is not None:
                has_key = key.data is not None
                pairs.append(
                    certificates.PairRequest(
                        cert_path=cert.path, cert=cert.data, key_path=key.path if has_key else None, key=key.data
                    )
                )
        for path in (named.ca_file, named.ca_dir):
            if path and path.rstrip("/") != PUBLIC_CAS:
                with contextlib.suppress(opened.Refused):
                    files, _ = self._ca_files(path, roots, client, model.Role.CLIENT)
                    cas.append(certificates.CaRequest(path=path, files=files))
        return pairs, cas


def _paths(wish: desired.Desired) -> tuple[str, ...]:
    external, client = wish.external, wish.client
    ours = (external.cert, external.key, external.client_ca) if external is not None else ()
    theirs = (client.cert_file, client.key_file, client.ca_file, client.ca_dir)
    return tuple(path for path in (*ours, *theirs) if path)


def _looks(path: str) -> object:
    """What tells that a file was replaced or written; the owner and mode, which are set by us, do not count."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _bridge_requests(
    wish: desired.Desired, roots: walk.Roots, broker: users.Account | None
) -> list[certificates.PairRequest]:
    """What the broker itself presents to the cloud. It is shown; thin-edge and the cloud look after it."""
    if broker is None:
        return []
    rules = [
        rule for rule in wish.rules if rule.role is model.Role.BROKER and rule.kind is model.FileKind.CERTIFICATE
    ]
    found = [
        sources.read(rule.key, rule.path, roots, broker, owners=frozenset({0, broker.uid}))
        for rule in rules
        if rule.key.startswith("device.")
    ]
    return [certificates.PairRequest(cert_path=one.path, cert=one.data) for one in found if one.data is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """A certificate and a key of which one has been replaced; young while the other is probably on its way."""

    problem: certificate_facts.Problem
    is_young: bool


# Facts to what is staged ------------------------------------------------------------------------------------


def _openssls(combined: bytes, path: str, taken: set[bytes]) -> list[certificate_facts.Problem]:
    """What OpenSSL has against a pair; it is asked once for the one that is served (1 ms)."""
    digest = _digest(combined)
    if digest in taken:
        return []
    problem = certificates.pair_problem(combined, path)
    if problem is not None:
        return [problem]
    taken.clear()
    taken.add(digest)
    return []


def _pair(
    facts: certificate_facts.PairFacts, cert: sources.Source, key: sources.Source, taken: set[bytes]
) -> observed.Pair:
    assert cert.data is not None
    assert key.data is not None
    problems = list(facts.problems)
    combined = None
    if not problems:
        try:
            combined = pem.combined(cert.data, key.data)
            problems += _openssls(combined, cert.path, taken)
        except ValueError as error:
            problems.append(certificate_facts.Problem(code="pem", path=cert.path, message=str(error)))
    if problems or combined is None or facts.leaf is None:
        return observed.Pair(findings=tuple(_problem(problem, cert, key) for problem in problems))
    return observed.Pair(
        combined=combined,
        fingerprint=hashlib.sha256(combined).hexdigest(),
        key_type=facts.key_type,
        leaf=facts.leaf.sha256,
    )


def _problem(problem: certificate_facts.Problem, cert: sources.Source, key: sources.Source) -> model.Finding:
    return model.Finding(
        code=problem.code,
        severity=model.Severity.ERROR,
        where=key.key if problem.path == key.path else cert.key,
        message=f"{problem.path}: {problem.message}",
        remedy=problem.remedy,
        blocks=model.Area.BROKER,
        # Half a renewal: the other half is on its way. A process that failed is started again.
        waits=problem.code in {MISMATCH, "inspection-failed"},
    )


def _as_half(finding: model.Finding, half: _Half) -> model.Finding:
    """Half a renewal is no news for as long as every tool takes for the other half."""
    if not half.is_young:
        return finding
    message = f"{half.problem.path}: the other half of a renewal is waited for; nothing is changed meanwhile"
    return replace(finding, severity=model.Severity.INFO, message=message, remedy="tedge-agentd status --wait 30")


def _half_of_clients(half: _Half, key: str) -> model.Finding:
    finding = model.Finding(
        code=MISMATCH,
        severity=model.Severity.ERROR,
        where=key,
        message=f"{half.problem.path}: {half.problem.message}",
        remedy=half.problem.remedy,
        blocks=model.Area.CLIENTS,
        waits=True,
    )
    return _as_half(finding, half)


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _pair_digest(request: certificates.PairRequest) -> bytes:
    return _digest(request.cert, request.key or b"")


def _client_cas(
    facts: certificate_facts.CaFacts, files: tuple[tuple[str, bytes], ...], *, is_dir: bool
) -> observed.ClientCas:
    key = f"{EXTERNAL}.ca_path"
    staged: dict[str, bytes] = {}
    for _, data in files:
        for block in pem.certificates(data):
            if block.der is not None:
                digest = hashlib.sha256(block.der).hexdigest()
                if digest in facts.digests:
                    staged[digest] = block.pem()
    findings = [
        model.Finding(
            code=problem.code,
            severity=model.Severity.WARNING,
            where=key,
            message=f"{problem.path}: {problem.message}; its clients will be refused",
            remedy=problem.remedy,
        )
        for problem in facts.unusable
    ]
    if not staged:
        # With no CA at all the broker starts, says nothing, and refuses every client (facts/mosquitto.md 3).
        first = next(iter(facts.unusable), None)
        why = f" ({first.path} {first.message})" if first is not None else ""
        converts = first is not None and first.code == "certificate-der"
        findings = [
            model.Finding(
                code="no-client-ca",
                severity=model.Severity.ERROR,
                where=key,
                message=f"{facts.path} holds no usable CA certificate{why}: every client would be refused",
                remedy=first.remedy
                if first is not None and converts
                else "put the CA there that issues the clients' certificates, in PEM",
                blocks=model.Area.BROKER,
            )
        ]
    if facts.path.rstrip("/") == PUBLIC_CAS:
        findings.append(
            model.Finding(
                code="public-client-ca",
                severity=model.Severity.WARNING,
                where=key,
                message="every client with a certificate of any public CA would be let in",
                remedy=f"tedge config set {key} FILE, with the one CA that issues your devices' certificates",
            )
        )
    return observed.ClientCas(
        is_dir=is_dir, certificates=tuple(sorted(staged.items())) or None, findings=tuple(findings)
    )


def _in_use(facts: remarks.Facts, roles: tuple[str, str]) -> tuple[observed.CertificateInUse, ...]:
    leaves = [pair.leaf for pair in facts.pairs if pair.leaf is not None]
    authorities = [certificate for ca in facts.cas for certificate in ca.certificates]
    return (
        *(observed.CertificateInUse(facts=leaf, role=roles[0]) for leaf in leaves),
        *(observed.CertificateInUse(facts=certificate, role=roles[1]) for certificate in authorities),
    )
