"""Certificates and keys as bytes -> facts about them. What cryptography has to say comes from a process that ends."""

import contextlib
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from ..core import model
from ..core.certificate_facts import CaFacts, PairFacts, Problem
from ..core.shell import word
from . import client_files, inspection, pem
from .worker_process import WorkerProcess

KEPT = 64  # certificates of one CA directory that are kept and shown
# A pass asks for two pairs and three CAs; what was there a moment ago may come back. A directory of ten thousand
# certificates is worth some megabytes each time.
_PAIRS_KEPT = 16
_CAS_KEPT = 6
RETRY_S = 300.0  # how long the failure of an inspection is remembered: the content may be innocent, the machine slow
_NONSENSE = (KeyError, TypeError, AttributeError)  # an answer that is no answer, from a worker gone wrong
T = TypeVar("T", PairFacts, CaFacts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRequest:
    """A certificate file's bytes and, if there is one, the key file's."""

    cert_path: str
    cert: bytes = field(repr=False)
    key_path: str | None = None
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaRequest:
    """A CA file, or a directory's files: (path, bytes) each."""

    path: str
    files: tuple[tuple[str, bytes], ...] = field(repr=False)


class _Memory(Generic[T]):
    """The facts of what was asked for last, by content. Failures are forgotten after a while."""

    def __init__(self, clock: Callable[[], float], keep: int) -> None:
        self._clock = clock
        self._keep = keep
        self._known: OrderedDict[bytes, tuple[T, float]] = OrderedDict()

    def get(self, digest: bytes) -> T | None:
        facts, until = self._known.get(digest, (None, 0.0))
        if facts is None or self._clock() >= until:
            return None
        self._known.move_to_end(digest)
        return facts

    def put(self, digest: bytes, facts: T) -> T:
        problems = facts.problems if isinstance(facts, PairFacts) else facts.unusable
        failed = any(problem.code == "inspection-failed" for problem in problems)
        self._known[digest] = (facts, self._clock() + RETRY_S if failed else float("inf"))
        while len(self._known) > self._keep:
            self._known.popitem(last=False)
        return facts


class Inspector:
    """Remembers what it has seen by content, so that a pass over unchanged files starts no process."""

    def __init__(
        self,
        *,
        timeout_s: float = inspection.TIMEOUT_S,
        worker: str = inspection.WORKER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = timeout_s
        self._worker = worker
        self._pairs: _Memory[PairFacts] = _Memory(clock, _PAIRS_KEPT)
        self._cas: _Memory[CaFacts] = _Memory(clock, _CAS_KEPT)
        self._spare: WorkerProcess | None = None

    def prepare(self) -> None:
        """Start the process that `inspect` will ask next; it takes 60 ms to load what it needs."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = WorkerProcess(self._worker)

    def discard(self) -> None:
        """End that process if it was not asked."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()

    def inspect(
        self, pairs: Sequence[PairRequest] = (), cas: Sequence[CaRequest] = ()
    ) -> tuple[tuple[PairFacts, ...], tuple[CaFacts, ...]]:
        """Return the facts in the order of the requests, from one process for all that is new.

        Whatever the bytes are, the answer is facts and problems: a worker that crashes is a problem of that request.
        """
        wanted = [(_pair_digest(pair), pair) for pair in pairs]
        wanted_cas = [(_ca_digest(ca), ca) for ca in cas]
        found = {digest: self._pairs.get(digest) for digest, _ in wanted}
        found_cas = {digest: self._cas.get(digest) for digest, _ in wanted_cas}
        new = {digest: pair for digest, pair in wanted if found[digest] is None}
        new_cas = {digest: ca for digest, ca in wanted_cas if found_cas[digest] is None}
        items = [inspection.Item.of(pair.cert, pair.key) for pair in new.values()]
        items += [inspection.Item.of(data) for ca in new_cas.values() for _, data in ca.files]
        answers = iter(self._ask(items) if items else ())
        for digest, pair in new.items():
            found[digest] = self._pairs.put(digest, _pair_facts(pair, next(answers)))
        for digest, ca in new_cas.items():
            found_cas[digest] = self._cas.put(digest, _ca_facts(ca, [next(answers) for _ in ca.files]))
        return (
            tuple(facts for facts in (found[digest] for digest, _ in wanted) if facts is not None),
            tuple(facts for facts in (found_cas[digest] for digest, _ in wanted_cas) if facts is not None),
        )

    def _ask(self, items: Sequence[inspection.Item]) -> list[inspection.Answer | None]:
        spare, self._spare = self._spare, None
        return inspection.ask(items, worker=self._worker, timeout_s=self._timeout_s, spare=spare)


def pair_problem(combined: bytes, path: str) -> Problem | None:
    """Say what OpenSSL has against a combined certificate and key as a server would load it; None if nothing.

    In this process, in well under a millisecond: the last gate before anything is staged. An encrypted key prompts
    nobody.
    """
    import ssl  # noqa: PLC0415  # 5 MB, for a pass that has something to stage

    def no_password() -> str:
        raise ValueError("encrypted")

    file = client_files.in_memory(combined)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{file}", password=no_password)
    except ValueError as error:
        if isinstance(error, ssl.SSLError):
            return _openssl_problem(str(error.reason), path, path)
        return _encrypted(path)
    except OSError as error:
        return _openssl_problem(str(getattr(error, "reason", None) or error), path, path)
    finally:
        os.close(file)
    return None


# Answers ----------------------------------------------------------------------------------------------------


def _pair_facts(pair: PairRequest, answer: Mapping[str, Any] | None) -> PairFacts:
    try:
        if answer is not None:
            return _pair_answer(pair, answer)
    except _NONSENSE:
        pass
    return PairFacts(cert_path=pair.cert_path, key_path=pair.key_path, problems=(_crashed(pair.cert_path),))


def _pair_answer(pair: PairRequest, answer: Mapping[str, Any]) -> PairFacts:
    certificates, problems = _chain(pair.cert_path, pair.cert, answer)
    facts = PairFacts(
        cert_path=pair.cert_path, key_path=pair.key_path, certificates=certificates, problems=tuple(problems)
    )
    if pair.key is None:
        return facts
    key_path = pair.key_path or pair.cert_path
    key = answer.get("key") or {"type": "", "bits": 0, "error": "invalid"}
    blocks = pem.keys(pair.key)
    if blocks and blocks[0].encrypted:
        problems.append(_encrypted(key_path))
    elif key["error"] is not None:
        problems.append(_key_problem(key["error"], key_path))
    elif not problems and answer["matches"] != 0:
        problems.append(_mismatch(pair.cert_path, key_path, answer["matches"]))
    elif not problems and answer["openssl"] is not None:
        problems.append(_openssl_problem(answer["openssl"], pair.cert_path, key_path))
    return replace(facts, key_type=key["type"], key_bits=key["bits"], problems=tuple(problems))


def _chain(path: str, data: bytes, answer: Mapping[str, Any]) -> tuple[tuple[model.Certificate, ...], list[Problem]]:
    found = tuple(_certificate(path, facts) for facts in answer["certificates"] if facts is not None)
    if not answer["certificates"]:
        return (), [_no_certificate(path, data, is_der=answer["der"])]
    bad = [number for number, facts in enumerate(answer["certificates"], start=1) if facts is None]
    remedy = f"openssl x509 -in {word(path)} -noout -text  # put the whole file there again"
    problems = [
        Problem(
            code="certificate-invalid", path=path, message=f"certificate {number} in it is damaged", remedy=remedy
        )
        for number in bad
    ]
    return found, problems


def _certificate(path: str, facts: dict[str, Any]) -> model.Certificate:
    return model.Certificate(**{**facts, "path": path, "sans": tuple(facts["sans"])})


def _ca_facts(ca: CaRequest, answers: Sequence[Mapping[str, Any] | None]) -> CaFacts:
    kept: list[model.Certificate] = []
    digests: set[str] = set()
    unusable: list[Problem] = []
    for (path, data), answer in zip(ca.files, answers, strict=True):
        try:
            certificates, problems = _chain(path, data, answer or {})
        except _NONSENSE:
            certificates, problems = (), [_crashed(path)]
        unusable += problems
        for certificate in certificates:
            if certificate.sha256 not in digests and len(kept) < KEPT:
                kept.append(certificate)
            digests.add(certificate.sha256)
    return CaFacts(
        path=ca.path,
        count=len(digests),
        certificates=tuple(kept),
        digests=frozenset(digests),
        unusable=tuple(unusable),
    )


def _no_certificate(path: str, data: bytes, *, is_der: bool) -> Problem:
    if is_der:
        remedy = _converted("x509 -inform DER", path)
        return Problem(code="certificate-der", path=path, message="is DER, not PEM", remedy=remedy)
    message = "is empty" if not data.strip() else "holds no certificate in PEM"
    remedy = f"head -1 {word(path)}  # shows what it is; put the certificate there, in PEM"
    return Problem(code="certificate-none", path=path, message=message, remedy=remedy)


def _converted(how: str, path: str) -> str:
    """The command that makes PEM of a file in its place; a key's new file is its owner's alone from the start."""
    new = word(f"{path}.pem")
    return f"openssl {how} -in {word(path)} -out {new} && mv {new} {word(path)}"


def _key_problem(error: str, path: str) -> Problem:
    if error == "der":
        remedy = _converted("pkey -inform DER", path)
        return Problem(code="key-der", path=path, message="is DER, not PEM", remedy=remedy)
    if error == "encrypted":
        return _encrypted(path)
    message = "holds no private key in PEM" if error == "none" else "holds a private key that cannot be read"
    remedy = f"openssl pkey -in {word(path)} -noout -check  # put the key there, in PEM"
    return Problem(code="key-invalid", path=path, message=message, remedy=remedy)


def _encrypted(path: str) -> Problem:
    message = "is encrypted: the broker starts without anybody to ask for the passphrase"
    return Problem(code="key-encrypted", path=path, message=message, remedy=_converted("pkey", path))


def _mismatch(cert_path: str, key_path: str, matches: int) -> Problem:
    if matches > 0:
        message = f"has the leaf as certificate {matches + 1}: the server's own certificate comes first"
        return Problem(
            code="chain-order", path=cert_path, message=message, remedy=_leaf_first(cert_path, matches + 1)
        )
    message = f"does not belong to the key in {key_path}, or only one of them has been renewed yet"
    remedy = (
        f"openssl x509 -in {word(cert_path)} -noout -pubkey; openssl pkey -in {word(key_path)} -pubout"
        "  # are to be the same: put the other half there"
    )
    return Problem(code="key-mismatch", path=cert_path, message=message, remedy=remedy)


def _leaf_first(path: str, number: int) -> str:
    """The command that moves one certificate of a file to its top."""
    new = word(f"{path}.new")
    program = (
        "/-----BEGIN/ {n++} {part[n] = part[n] $0 RS}"
        f' END {{printf "%s", part[{number}]; for (i = 0; i <= n; i++) if (i != {number}) printf "%s", part[i]}}'
    )
    return f"awk {word(program)} {word(path)} >{new} && mv {new} {word(path)}"


def _openssl_problem(reason: str, cert_path: str, key_path: str) -> Problem:
    if "KEY_VALUES_MISMATCH" in reason or "KEY_TYPE_MISMATCH" in reason:
        return _mismatch(cert_path, key_path, -1)
    if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
        message = f"is too weak for OpenSSL's security level ({reason})"
        remedy = "renew it with EC P-256 or RSA of 2048 bits and SHA-256"
        return Problem(code="certificate-weak", path=cert_path, message=message, remedy=remedy)
    message = f"is refused by OpenSSL together with {key_path} ({reason})"
    return Problem(
        code="pair-refused", path=cert_path, message=message, remedy=f"openssl x509 -in {word(cert_path)} -text"
    )


def _crashed(path: str) -> Problem:
    message = "could not be inspected: the process that reads it failed or took too long"
    remedy = f"openssl x509 -in {word(path)} -noout -text; python3 -c 'import cryptography'"
    return Problem(code="inspection-failed", path=path, message=message, remedy=remedy)


# Digests ----------------------------------------------------------------------------------------------------


def _digest(*parts: bytes) -> bytes:
    """A digest of the parts and of where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _pair_digest(pair: PairRequest) -> bytes:
    return _digest(os.fsencode(pair.cert_path), os.fsencode(pair.key_path or ""), pair.cert, pair.key or b"")


def _ca_digest(ca: CaRequest) -> bytes:
    return _digest(os.fsencode(ca.path), *(part for path, data in ca.files for part in (os.fsencode(path), data)))
