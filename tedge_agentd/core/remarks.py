"""What an operator should know of certificates although it stops nothing: they end soon, or do not fit their use."""

from . import certificate_checks, certificate_facts, desired, model


def server(
    pairs: tuple[certificate_facts.PairFacts, ...],
    cas: tuple[certificate_facts.CaFacts, ...],
    now: float,
    wish: desired.Desired,
) -> tuple[model.Finding, ...]:
    found: list[model.Finding] = []
    keys = {"cert_key": f"{desired.EXTERNAL_KEYS}.cert_file", "key_key": f"{desired.EXTERNAL_KEYS}.key_file"}
    for pair in pairs:
        found += certificate_checks.pair_findings(
            pair, role=model.Role.BROKER, now=now, client_host=_verified_host(wish), **keys
        )
    for ca in cas:
        found += certificate_checks.ca_findings(
            ca, role=model.Role.BROKER, key=f"{desired.EXTERNAL_KEYS}.ca_path", now=now
        )
    return _not_said_yet(found)


def client(
    pairs: tuple[certificate_facts.PairFacts, ...], cas: tuple[certificate_facts.CaFacts, ...], now: float
) -> tuple[model.Finding, ...]:
    found: list[model.Finding] = []
    keys = {"cert_key": f"{desired.CLIENT_KEYS}.cert_file", "key_key": f"{desired.CLIENT_KEYS}.key_file"}
    for pair in pairs:
        found += certificate_checks.pair_findings(pair, role=model.Role.CLIENT, now=now, **keys)
    for ca in cas:
        found += certificate_checks.ca_findings(
            ca, role=model.Role.CLIENT, key=f"{desired.CLIENT_KEYS}.ca_file", now=now
        )
    return _not_said_yet(found)


def _not_said_yet(findings: list[model.Finding]) -> tuple[model.Finding, ...]:
    """What blocks is said where the material is staged or tried, and so is a file of a CA that is left out."""
    return tuple(finding for finding in findings if finding.blocks is None and finding.code != "ca-file-unusable")


def _verified_host(wish: desired.Desired) -> str | None:
    """The name that the clients check the broker's certificate for; None where they do not come to this listener."""
    client, external = wish.client, wish.external
    here = external is not None and client.port == external.port
    return client.host if here and (client.ca_file or client.ca_dir) else None
