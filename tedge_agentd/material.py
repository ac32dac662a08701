"""The sources of what the broker serves: read by the rules of contract 7, checked, and turned into what is staged."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .core import certificate_facts, desired, model, observed, remarks
from .host import certificates, opened, pem, users, walk

EXTERNAL, AUTH = desired.EXTERNAL_KEYS, desired.CLIENT_KEYS
_SERVER_ROLES, _CLIENT_ROLES = ("server", "client CA"), ("client", "broker CA")
_CA_NAMES = (".pem", ".crt", ".cer")  # what thin-edge takes for certificates in a directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a pass needs to know of certificates: what can be staged, what is in use, and what is wrong."""

    pair: observed.Pair | None = None
    client_cas: observed.ClientCas | None = None
    in_use: tuple[observed.CertificateInUse, ...] = ()
    findings: tuple[model.Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A file's bytes, or why there are none."""

    key: str
    path: str
    data: bytes | None = field(default=None, repr=False)
    finding: model.Finding | None = None


class Material:
    """Reads sources. A CA directory is read again only when its listing (names, inodes, sizes, times) changed."""

    def __init__(self, inspector: certificates.Inspector) -> None:
        self._inspector = inspector
        self._directories: dict[str, tuple[object, tuple[tuple[str, bytes], ...]]] = {}

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
        theirs, their_cas = _client_requests(wish, roots, client)
        external = wish.external
        if external is None or external.cert is None or external.key is None or broker is None:
            pairs, cas = self._inspector.inspect(theirs, their_cas)
            return Found(in_use=_in_use(pairs, cas, _CLIENT_ROLES), findings=remarks.client(pairs, cas, now))
        owners = frozenset({0, broker.uid, *({client.uid} if client is not None else ())})
        cert = _file(f"{EXTERNAL}.cert_file", external.cert, roots, broker, owners=owners)
        key = _file(f"{EXTERNAL}.key_file", external.key, roots, broker, owners=owners)
        refused = [source.finding for source in (cert, key) if source.finding is not None]
        ours = []
        if cert.data is not None and key.data is not None:
            ours.append(
                certificates.PairRequest(cert_path=cert.path, cert=cert.data, key_path=key.path, key=key.data)
            )
        sources, is_dir, ca_refused = self._ca_files(external.client_ca, roots, broker)
        our_cas = []
        if external.client_ca is not None and not ca_refused:
            our_cas.append(certificates.CaRequest(path=external.client_ca, files=sources))
        all_pairs, all_cas = self._inspector.inspect([*ours, *theirs], [*our_cas, *their_cas])
        pairs, their_pairs = all_pairs[: len(ours)], all_pairs[len(ours) :]
        cas, their_facts = all_cas[: len(our_cas)], all_cas[len(our_cas) :]
        pair = observed.Pair(findings=tuple(refused))
        if pairs:
            assert cert.data is not None
            assert key.data is not None
            pair = _pair(pairs[0], cert, key)
        client_cas = None
        if external.client_ca is not None:
            client_cas = observed.ClientCas(is_dir=is_dir, findings=ca_refused)
            if cas:
                client_cas = _client_cas(cas[0], sources, is_dir=is_dir)
        return Found(
            pair=pair,
            client_cas=client_cas,
            in_use=(*_in_use(pairs, cas, _SERVER_ROLES), *_in_use(their_pairs, their_facts, _CLIENT_ROLES)),
            findings=(
                *remarks.server(pairs, cas, now, wish),
                *remarks.client(their_pairs, their_facts, now),
            ),
        )

    def _ca_files(
        self, path: str | None, roots: walk.Roots, reader: users.Account
    ) -> tuple[tuple[tuple[str, bytes], ...], bool, tuple[model.Finding, ...]]:
        """Return the CA's files, whether it is a directory, and why it cannot be read."""
        if path is None:
            return (), False, ()
        try:
            with walk.open_source(path, roots, model.Role.CA, reader) as source:
                if not source.is_dir:
                    return ((path, opened.read(source)),), False, ()
                listing = opened.listing(source)
        except opened.Refused as error:
            return (), False, (_refused(f"{EXTERNAL}.ca_path", error),)
        known = self._directories.get(path)
        if known is None or known[0] != listing:
            files = tuple(_entries(path, [name for name, *_ in listing], roots, reader))
            known = (listing, files)
            self._directories = {path: known}
        return known[1], True, ()


def _entries(
    directory: str, names: list[str], roots: walk.Roots, reader: users.Account
) -> Iterator[tuple[str, bytes]]:
    """The certificate files of a directory; hash links name the same files again and are passed over."""
    for name in names:
        if not name.endswith(_CA_NAMES):
            continue
        path = f"{directory}/{name}"
        try:
            with walk.open_source(path, roots, model.Role.CA, reader) as source:
                if not source.is_dir:
                    yield path, opened.read(source)
        except opened.Refused:
            yield path, b""  # the inspection reports it as a file without a certificate


def _file(  # noqa: PLR0913  # as the rules for it
    key: str,
    path: str,
    roots: walk.Roots,
    reader: users.Account,
    role: model.Role = model.Role.BROKER,
    *,
    owners: frozenset[int] | None = None,
) -> _Source:
    """Read a source. One of an owner that is not among `owners` has to be readable for the reader itself."""
    try:
        with walk.open_source(path, roots, role, reader) as source:
            if owners is not None and source.access.uid not in owners and not opened.readable(source, reader):
                reason = f"belongs to uid {source.access.uid}, and user {reader.name} could not read it"
                raise opened.ForeignOwner(path, reason, f"chown {reader.name} {path}")
            return _Source(key=key, path=path, data=opened.read(source))
    except opened.Refused as error:
        return _Source(key=key, path=path, finding=_refused(key, error))


def _refused(key: str, error: opened.Refused) -> model.Finding:
    is_missing = isinstance(error, opened.Missing)
    another = f"tedge config set {key} FILE"
    return model.Finding(
        code="source-missing" if is_missing else "source-refused",
        severity=model.Severity.ERROR,
        where=key,
        message=f"{error.path} {error.reason}",
        remedy=f"put the file there, or {another}" if is_missing else error.remedy or another,
        blocks=model.Area.BROKER,
    )


# Facts to what is staged ------------------------------------------------------------------------------------


def _pair(facts: certificate_facts.PairFacts, cert: _Source, key: _Source) -> observed.Pair:
    assert cert.data is not None
    assert key.data is not None
    problems = list(facts.problems)
    combined = None
    if not problems:
        try:
            combined = pem.combined(cert.data, key.data)
            problem = certificates.pair_problem(combined, cert.path)
            problems += [problem] if problem is not None else []
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


def _problem(problem: certificate_facts.Problem, cert: _Source, key: _Source) -> model.Finding:
    return model.Finding(
        code=problem.code,
        severity=model.Severity.ERROR,
        where=key.key if problem.path == key.path else cert.key,
        message=f"{problem.path}: {problem.message}",
        remedy=problem.remedy,
        blocks=model.Area.BROKER,
        waits=problem.code == "key-mismatch",  # half a renewal: the other half is on its way
    )


def _client_cas(
    facts: certificate_facts.CaFacts, sources: tuple[tuple[str, bytes], ...], *, is_dir: bool
) -> observed.ClientCas:
    key = f"{EXTERNAL}.ca_path"
    staged: dict[str, bytes] = {}
    for _, data in sources:
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
        findings.append(
            model.Finding(
                code="no-client-ca",
                severity=model.Severity.ERROR,
                where=key,
                message=f"{facts.path} holds no usable CA certificate: every client would be refused",
                remedy=f"put the CA that issues the clients' certificates there, or tedge config unset {key}",
                blocks=model.Area.BROKER,
            )
        )
    if facts.path.rstrip("/") == "/etc/ssl/certs":
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


def _in_use(
    pairs: tuple[certificate_facts.PairFacts, ...], cas: tuple[certificate_facts.CaFacts, ...], roles: tuple[str, str]
) -> tuple[observed.CertificateInUse, ...]:
    leaves = [facts.leaf for facts in pairs if facts.leaf is not None]
    authorities = [certificate for facts in cas for certificate in facts.certificates]
    return (
        *(observed.CertificateInUse(facts=leaf, role=roles[0]) for leaf in leaves),
        *(observed.CertificateInUse(facts=certificate, role=roles[1]) for certificate in authorities),
    )


def _client_requests(
    wish: desired.Desired, roots: walk.Roots, client: users.Account | None
) -> tuple[list[certificates.PairRequest], list[certificates.CaRequest]]:
    """What the clients log in with, to be looked at for its end: whether it works is tried by logging in."""
    pairs: list[certificates.PairRequest] = []
    cas: list[certificates.CaRequest] = []
    named = wish.client
    if client is None:
        return pairs, cas
    if named.cert_file and named.key_file:
        cert = _file(f"{AUTH}.cert_file", named.cert_file, roots, client, model.Role.CLIENT)
        if cert.data is not None:
            pairs.append(certificates.PairRequest(cert_path=cert.path, cert=cert.data))
    if named.ca_file:
        ca = _file(f"{AUTH}.ca_file", named.ca_file, roots, client, model.Role.CLIENT)
        if ca.data is not None:
            cas.append(certificates.CaRequest(path=ca.path, files=((ca.path, ca.data),)))
    return pairs, cas
