"""Judge certificates: which facts are worth a finding, and which of them keep a service from being touched.

Only what the broker cannot or must not serve blocks it (facts/mosquitto.md 8). An expired certificate, or one for
another name, is served as it is asked for: the operator is told, and those who do not verify go on.
"""

import datetime
import ipaddress
from collections.abc import Iterable, Sequence

from . import model
from .certificate_facts import CaFacts, PairFacts, Problem
from .shell import word

DAY_S = 86_400
FEW = 8  # CA certificates of which each is worth a finding; among more, one that ends is everyday life
_WAITS = frozenset({"key-mismatch", "inspection-failed"})
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_ERROR, _WARNING = model.Severity.ERROR, model.Severity.WARNING
SOON = ((1, "a day", _ERROR), (7, "7 days", _WARNING), (30, "30 days", _WARNING))  # nearest first


# Pairs ------------------------------------------------------------------------------------------------------


def pair_findings(  # noqa: PLR0913  # keyword-only, each a name of the contract
    facts: PairFacts, *, role: model.Role, cert_key: str, key_key: str, now: float, client_host: str | None = None
) -> tuple[model.Finding, ...]:
    """Return what an operator should know of a certificate and its key.

    `cert_key` and `key_key` are the keys of tedge.toml that name the files; `now` is seconds since the epoch.
    `client_host` is what the clients take the broker for, where they verify it (mqtt.client.host with a CA), else
    None.
    A finding that blocks names the broker for Role.BROKER, the clients otherwise. Half a renewal (`key-mismatch`)
    waits.
    """
    area = _area(role)
    findings = [_unusable(problem, _key_of(problem, facts, cert_key, key_key), area) for problem in facts.problems]
    for certificate in facts.certificates:
        findings += _validity(certificate, "certificate", cert_key, now)
    leaf = facts.leaf
    if leaf is None or any(problem.code == "chain-order" for problem in facts.problems):
        return tuple(findings)  # what stands first is not the leaf
    if _is_weak(leaf) and not any(problem.code == "certificate-weak" for problem in facts.problems):
        message = f"has a {leaf.key_type} key of {leaf.key_bits} bits, too short for OpenSSL and rustls"
        weak = Problem(code="certificate-weak", path=leaf.path, message=message, remedy=_reissue(role))
        findings.append(_unusable(weak, cert_key, area))
    if leaf.version != 3:
        message = "it is an X.509 v1 certificate, which thin-edge's TLS library (rustls) does not accept"
        findings.append(_remark("certificate-v1", leaf, cert_key, message, _reissue(role)))
    if role is model.Role.BROKER:
        findings += _server_remarks(leaf, cert_key, client_host)
    elif not leaf.client_auth:
        message = "its extended key usage does not allow a client: the broker refuses it"
        findings.append(_remark("certificate-purpose", leaf, cert_key, message, _reissue(role), _ERROR))
    return tuple(findings)


def _server_remarks(leaf: model.Certificate, key: str, client_host: str | None) -> list[model.Finding]:
    role = model.Role.BROKER
    found = []
    if not leaf.server_auth:
        message = "its extended key usage does not allow a server: clients refuse it"
        found.append(_remark("certificate-purpose", leaf, key, message, _reissue(role), _ERROR))
    if client_host is None:
        return found
    if leaf.is_ca:
        message = "it is a CA certificate, which rustls does not accept from a server"
        found.append(_remark("certificate-is-ca", leaf, key, message, _reissue(role)))
    if not covers(client_host, leaf.sans) and (leaf.version == 3 or leaf.sans):  # version 1 has no names at all
        names = ", ".join(leaf.sans) or "none"
        message = f"its names ({names}) do not cover mqtt.client.host = {client_host}: the services will not connect"
        remedy = f"issue it again with the name {_san(client_host)}, or: tedge config set mqtt.client.host NAME"
        found.append(_remark("certificate-names", leaf, key, message, remedy, _ERROR))
    return found


def covers(host: str, sans: Iterable[str]) -> bool:
    """Whether a certificate with these names ("DNS:...", "IP:...") is one for this host, as RFC 6125 has it.

    An address only matches an address; `*` stands for exactly one label, the first. The common name never counts.
    """
    address = _address(host)
    names = [name.partition(":")[::2] for name in sans]
    if address is not None:
        return any(kind == "IP" and _address(name) == address for kind, name in names)
    wanted = host.lower().rstrip(".").split(".")
    return any(kind == "DNS" and _name_matches(name.lower().rstrip(".").split("."), wanted) for kind, name in names)


def _name_matches(pattern: Sequence[str], wanted: Sequence[str]) -> bool:
    if pattern[0] == "*":
        return len(pattern) == len(wanted) > 2 and pattern[1:] == wanted[1:]
    return pattern == wanted


def _address(text: str) -> model.IPAddress | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _san(host: str) -> str:
    return f"IP:{host}" if _address(host) is not None else f"DNS:{host}"


def _is_weak(certificate: model.Certificate) -> bool:
    """Below 112 bits of security, which is OpenSSL's level 2, Debian's default."""
    smallest = {"RSA": 2048, "DSA": 2048, "EC": 224}.get(certificate.key_type, 0)
    return certificate.key_bits < smallest


# Authorities ------------------------------------------------------------------------------------------------


def ca_findings(
    facts: CaFacts, *, role: model.Role, key: str, now: float, leaf: model.Certificate | None = None
) -> tuple[model.Finding, ...]:
    """Return what an operator should know of a CA file or directory that `key` of tedge.toml names.

    Role.BROKER: it verifies the clients; else the clients verify the broker with it. `leaf` is the certificate it is
    to verify, where that is known. Without a single usable certificate it blocks. A damaged file blocks only the
    clients, who would not start with it (facts/thin-edge.md 1.4); the broker's staged copy leaves it out.
    """
    area = _area(role)
    findings = []
    if facts.count == 0:
        message = f"{key} holds no usable CA certificate"
        remedy = facts.unusable[0].remedy if facts.unusable else f"ls -l {word(facts.path)}"
        findings.append(_finding("ca-empty", facts.path, message, remedy, _ERROR, blocks=area))
    elif facts.unusable:
        findings.append(_unusable_files(facts, role, key))
    if 0 < facts.count <= FEW:
        for certificate in facts.certificates:
            findings += _validity(certificate, "CA", key, now)
    elif facts.count and all(certificate.not_after < now for certificate in facts.certificates):
        message = f"{key}: its CA certificates have expired"
        findings.append(_finding("ca-expired", facts.path, message, "renew the CA", _ERROR))
    is_leaf = leaf is not None and facts.digests == {leaf.sha256}
    # A self-signed server certificate may be its own trust anchor for rustls; OpenSSL wants a CA.
    if is_leaf and leaf is not None and not leaf.is_ca and not (leaf.self_signed and role is not model.Role.BROKER):
        message = f"{key} is the certificate it is to verify, not the CA that issued it: everybody is refused"
        findings.append(
            _finding("ca-is-leaf", facts.path, message, f"put the certificate of {leaf.issuer} there", _ERROR)
        )
    elif 0 < facts.count <= FEW and not is_leaf:
        findings += _no_authorities(facts, key)
    return tuple(findings)


def issuer_findings(facts: PairFacts, ca: CaFacts, *, key: str, effect: str) -> tuple[model.Finding, ...]:
    """Return the finding for a CA, named by `key`, that issued no certificate of a chain it is to verify.

    By names, as a verifier looks issuers up; that the signature holds as well is found out by a login.
    """
    leaf = facts.leaf
    if leaf is None or not ca.certificates or ca.count > len(ca.certificates):
        return ()
    subjects = {certificate.subject for certificate in ca.certificates}
    if any(one.issuer in subjects or one.sha256 in ca.digests for one in facts.certificates):
        return ()
    message = f"{key}: it did not issue {leaf.path} ({leaf.subject}), which {leaf.issuer} did: {effect}"
    check = f"openssl verify -CAfile {word(ca.path)} {word(leaf.path)}"
    remedy = f"{check}  # put the certificate of {leaf.issuer} there, or an intermediate's into {leaf.path}"
    return (_finding("ca-not-issuer", ca.path, message, remedy, _ERROR),)


def _unusable_files(facts: CaFacts, role: model.Role, key: str) -> model.Finding:
    damaged = any(problem.code != "certificate-none" for problem in facts.unusable)
    first = facts.unusable[0]
    others = f", and {len(facts.unusable) - 1} more" if len(facts.unusable) > 1 else ""
    message = f"{key}: {first.path} {first.message}{others}"
    if damaged and role is not model.Role.BROKER:
        return _finding("ca-file-unusable", first.path, message, first.remedy, _ERROR, blocks=model.Area.CLIENTS)
    return _finding("ca-file-unusable", first.path, message, first.remedy, _WARNING)


def _no_authorities(facts: CaFacts, key: str) -> list[model.Finding]:
    # A self-signed v1 certificate has no way to say that it is a CA, and OpenSSL takes it for one.
    plain = [c for c in facts.certificates if not c.is_ca and not (c.version == 1 and c.self_signed)]
    if not plain:
        return []
    message = f"{key}: {plain[0].subject} is no CA (basic constraints), so what it issued is refused"
    return [
        _finding(
            "ca-no-authority", facts.path, message, f"openssl x509 -in {word(plain[0].path)} -noout -text", _WARNING
        )
    ]


# Findings ---------------------------------------------------------------------------------------------------


def _validity(certificate: model.Certificate, what: str, key: str, now: float) -> list[model.Finding]:
    """The finding for a validity that ends or has not begun, in words that change only at the thresholds."""
    noun = "ca" if what == "CA" else "certificate"
    remedy = f"renew it ({key}); the new files are picked up by themselves"
    if now < certificate.not_before:
        message = f"{certificate.subject} is valid only from {_date(certificate.not_before)} on; is the clock right?"
        return [_finding(f"{noun}-not-yet-valid", certificate.path, message, "timedatectl", _WARNING)]
    if now >= certificate.not_after:
        message = f"{certificate.subject} expired on {_date(certificate.not_after)}"
        return [_finding(f"{noun}-expired", certificate.path, message, remedy, _ERROR)]
    for days, span, severity in SOON:
        if now >= certificate.not_after - days * DAY_S:
            message = f"{certificate.subject} expires within {span}, on {_date(certificate.not_after)}"
            return [_finding(f"{noun}-expires", certificate.path, message, remedy, severity)]
    return []


def _date(epoch_s: int) -> str:
    return (_EPOCH + datetime.timedelta(seconds=epoch_s)).strftime("%Y-%m-%d %H:%M UTC")


def _area(role: model.Role) -> model.Area:
    return model.Area.BROKER if role is model.Role.BROKER else model.Area.CLIENTS


def _key_of(problem: Problem, facts: PairFacts, cert_key: str, key_key: str) -> str:
    of_key = problem.code.startswith("key-") and problem.code != "key-mismatch"
    return key_key if of_key or problem.path != facts.cert_path else cert_key


def _unusable(problem: Problem, key: str, area: model.Area) -> model.Finding:
    waits = problem.code in _WAITS
    message = f"{key}: {problem.path} {problem.message}"
    severity = _WARNING if waits else _ERROR
    return _finding(problem.code, problem.path, message, problem.remedy, severity, blocks=area, waits=waits)


def _remark(  # noqa: PLR0913, PLR0917  # a finding's fields
    code: str,
    certificate: model.Certificate,
    key: str,
    message: str,
    remedy: str,
    severity: model.Severity = _WARNING,
) -> model.Finding:
    return _finding(code, certificate.path, f"{key}: {message}", remedy, severity)


def _finding(  # noqa: PLR0913  # a finding's fields
    code: str,
    where: str,
    message: str,
    remedy: str,
    severity: model.Severity,
    *,
    blocks: model.Area | None = None,
    waits: bool = False,
) -> model.Finding:
    return model.Finding(
        code=code, severity=severity, where=where, message=message, remedy=remedy, blocks=blocks, waits=waits
    )


def _reissue(role: model.Role) -> str:
    return f"tedge-agentd certs issue {'server' if role is model.Role.BROKER else 'tedge'}"
