"""What an operator should know of certificates beyond what can be staged: they end soon, or do not fit their use."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from . import certificate_checks, certificate_facts, desired, mending, model

# With these thin-edge's services certainly do not start (facts/thin-edge.md 1.4): a login need not be tried.
_SURE = frozenset(
    {
        "ca-file-unusable",
        "certificate-der",
        "certificate-invalid",
        "certificate-none",
        "key-der",
        "key-encrypted",
        "key-invalid",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one side of the connection presents, and what it verifies the other with. None or one pair."""

    pairs: tuple[certificate_facts.PairFacts, ...] = ()
    cas: tuple[certificate_facts.CaFacts, ...] = ()

    @property
    def leaf(self) -> model.Certificate | None:
        return self.pairs[0].leaf if self.pairs else None


def server(ours: Facts, theirs: Facts, now: float, wish: desired.Desired) -> tuple[model.Finding, ...]:
    """Of the broker's side; what blocks it is said where the material is staged."""
    found: list[model.Finding] = []
    keys = {"cert_key": f"{desired.EXTERNAL_KEYS}.cert_file", "key_key": f"{desired.EXTERNAL_KEYS}.key_file"}
    host = _verified_host(wish)
    for pair in ours.pairs:
        said = certificate_checks.pair_findings(pair, role=model.Role.BROKER, now=now, client_host=host, **keys)
        found += [mending.server(finding, pair.leaf, wish) if pair.leaf else finding for finding in said]
    leaf = theirs.leaf if host is not None else None
    for ca in ours.cas:
        key = f"{desired.EXTERNAL_KEYS}.ca_path"
        found += certificate_checks.ca_findings(ca, role=model.Role.BROKER, key=key, now=now, leaf=leaf)
    if host is not None:
        who = "thin-edge's own services are refused"
        found += _not_issued(theirs, ours, f"{desired.EXTERNAL_KEYS}.ca_path", who)
    found = [mending.issuer_of_clients(finding, wish) for finding in found]
    return tuple(finding for finding in found if finding.blocks is None and finding.code != "ca-file-unusable")


def client(ours: Facts, theirs: Facts, now: float, wish: desired.Desired) -> tuple[model.Finding, ...]:
    """Of the clients' side. What is certain keeps them from being restarted; the rest is found out by a login."""
    found: list[model.Finding] = []
    keys = {"cert_key": f"{desired.CLIENT_KEYS}.cert_file", "key_key": f"{desired.CLIENT_KEYS}.key_file"}
    for pair in theirs.pairs:
        said = certificate_checks.pair_findings(pair, role=model.Role.CLIENT, now=now, **keys)
        found += [mending.client(finding, pair.leaf, wish) if pair.leaf else finding for finding in said]
    host = _verified_host(wish)
    leaf = ours.leaf if host is not None else None
    for ca in theirs.cas:
        key = _ca_key(ca, wish)
        found += certificate_checks.ca_findings(ca, role=model.Role.CLIENT, key=key, now=now, leaf=leaf)
    if host is not None and len(theirs.cas) == 1:
        found += _not_issued(ours, theirs, _ca_key(theirs.cas[0], wish), "thin-edge's own services do not connect")
    return tuple(_softened(mending.issuer_of_server(finding, wish) for finding in found))


def _softened(findings: Iterable[model.Finding]) -> Iterator[model.Finding]:
    for finding in findings:
        if finding.code == "key-mismatch":
            continue  # said with its age
        yield finding if finding.code in _SURE else replace(finding, blocks=None, waits=False)


def _not_issued(presented: Facts, trusted: Facts, key: str, effect: str) -> list[model.Finding]:
    return [
        finding
        for pair in presented.pairs
        for ca in trusted.cas
        for finding in certificate_checks.issuer_findings(pair, ca, key=key, effect=effect)
    ]


def _ca_key(ca: certificate_facts.CaFacts, wish: desired.Desired) -> str:
    return f"{desired.CLIENT_KEYS}.{'ca_dir' if ca.path == wish.client.ca_dir else 'ca_file'}"


def _verified_host(wish: desired.Desired) -> str | None:
    """The name that the clients check the broker's certificate for; None where they do not come to this listener."""
    client, external = wish.client, wish.external
    here = external is not None and client.port == external.port
    return client.host if here and (client.ca_file or client.ca_dir) else None
