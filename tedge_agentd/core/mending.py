"""The commands that mend what is wrong with a certificate, to be pasted as they stand.

What follows a `#` is for the reader: the shell passes it over.
"""

import ipaddress
import posixpath
from collections.abc import Iterable
from dataclasses import replace

from . import desired, ledger, listener, local_pki, model, observed
from .shell import word

EXTERNAL, AUTH = desired.EXTERNAL_KEYS, desired.CLIENT_KEYS
# What another certificate mends.
REISSUED = frozenset(
    {
        "certificate-expired",
        "certificate-expires",
        "certificate-is-ca",
        "certificate-names",
        "certificate-purpose",
        "certificate-v1",
        "certificate-weak",
    }
)
# What the copy of what is served mends.
RESTORED = frozenset({"certificate-invalid", "certificate-none", "key-invalid", "key-mismatch", "source-missing"})
_INIT = "tedge-agentd certs init"


def server(finding: model.Finding, leaf: model.Certificate, wish: desired.Desired) -> model.Finding:
    """Give a finding about the broker's certificate the command after which another one is served."""
    external = wish.external
    if finding.code not in REISSUED or external is None:
        return finding
    by_name = finding.code == "certificate-names"
    if by_name and (host := _covered_host(leaf, external)) is not None:
        return replace(finding, remedy=f"tedge config set mqtt.client.host {host}")
    issue = "tedge-agentd certs issue server" + (f" --name {word(wish.client.host)}" if by_name else "")
    cert, key = local_pki.server_pair(wish.tedge_dir)
    if external.cert == cert:
        return replace(finding, remedy=issue if by_name else "tedge-agentd certs renew server")
    if external.cert is not None and posixpath.normpath(external.cert) in wish.device_certs:
        return finding  # thin-edge's own, which its cloud knows
    settings = [f"{EXTERNAL}.cert_file={word(cert)}", f"{EXTERNAL}.key_file={word(key)}"]
    if wish.client.port == external.port and (wish.client.ca_file or wish.client.ca_dir):
        settings.append(f"{AUTH}.ca_file={word(local_pki.bundle(wish.tedge_dir))}")
    wanted = f" with the name {wish.client.host}" if by_name else ""
    command = f"{_INIT} && {issue} && tedge-agentd config set {' '.join(settings)}"
    return replace(finding, remedy=f"{command}  # or let {leaf.issuer} issue it again{wanted}")


def client(finding: model.Finding, leaf: model.Certificate, wish: desired.Desired) -> model.Finding:
    """Give a finding about the clients' certificate the command, or who has to issue another one."""
    if finding.code not in REISSUED:
        return finding
    cert, key = local_pki.client_pair(wish.tedge_dir)
    if wish.client.cert_file == cert:
        return replace(finding, remedy="tedge-agentd certs renew tedge")
    external = wish.external
    if external is not None and external.client_ca == local_pki.bundle(wish.tedge_dir):
        settings = f"{AUTH}.cert_file={word(cert)} {AUTH}.key_file={word(key)}"
        command = f"{_INIT} && tedge-agentd certs issue tedge && tedge-agentd config set {settings}"
        return replace(finding, remedy=f"{command}  # or let {leaf.issuer} issue it again")
    remedy = f"let {leaf.issuer} issue it again for a client (X.509 v3), and put it there: it is picked up by itself"
    return replace(finding, remedy=remedy)


def issuer_of_server(finding: model.Finding, wish: desired.Desired) -> model.Finding:
    """Give a finding about the clients' CA the command, where the local PKI has issued the broker's certificate."""
    external = wish.external
    if finding.code not in _ISSUERS or external is None or external.cert != local_pki.server_pair(wish.tedge_dir)[0]:
        return finding
    bundle = word(local_pki.bundle(wish.tedge_dir))
    return replace(finding, remedy=f"tedge-agentd config set {AUTH}.ca_file={bundle}")


def issuer_of_clients(finding: model.Finding, wish: desired.Desired) -> model.Finding:
    """Give a finding about the client CA the command, where the local PKI has issued the clients' certificate."""
    external = wish.external
    if finding.code not in _ISSUERS or external is None or external.client_ca is None:
        return finding
    if wish.client.cert_file != local_pki.client_pair(wish.tedge_dir)[0]:
        return finding
    bundle = word(local_pki.bundle(wish.tedge_dir))
    place = word(external.client_ca)
    adds = f"if [ -d {place} ]; then cp {bundle} {place}; else cat {bundle} >>{place}; fi"
    return replace(finding, remedy=f"{adds}  # what is there already keeps its access")


_ISSUERS = frozenset({"ca-is-leaf", "ca-not-issuer"})


def _covered_host(leaf: model.Certificate, external: desired.External) -> str | None:
    """A name of the certificate under which the clients reach the listener; None if none is sure to."""
    address = external.address
    if external.interface is None and (address is None or address.is_unspecified):
        loopback = "IP:::1" if isinstance(address, ipaddress.IPv6Address) else "IP:127.0.0.1"
        for san in ("DNS:localhost", loopback):
            if san in leaf.sans:
                return san.partition(":")[2]
    return str(address) if address is not None and f"IP:{address}" in leaf.sans else None


def restored(
    findings: Iterable[model.Finding], wish: desired.Desired | None, seen: observed.Observed, staging_dir: str
) -> tuple[model.Finding, ...]:
    """Give findings about spoiled sources the command that puts back what is served meanwhile.

    Only where the copies are of these very sources. Certificate and key come back together: half would not do.
    """
    pair, ca = _copied_pair(wish, seen), _copied_ca(wish, seen)
    result = []
    for finding in findings:
        mends = finding.code in RESTORED and finding.severity is model.Severity.ERROR
        if mends and pair is not None and finding.where in {f"{EXTERNAL}.cert_file", f"{EXTERNAL}.key_file"}:
            result.append(replace(finding, remedy=_put_back(pair, f"{staging_dir}/{observed.SERVER_PAIR}")))
        elif ca is not None and _is_ca_gone(finding):
            command = f"install -m 644 {word(f'{staging_dir}/{observed.CLIENT_CA_FILE}')} {word(ca)}"
            result.append(
                replace(finding, remedy=f"{command}  # what is in use meanwhile; or put the right one there")
            )
        else:
            result.append(finding)
    return tuple(result)


def _is_ca_gone(finding: model.Finding) -> bool:
    """Whether there is no CA any more; one in DER is converted instead."""
    gone = finding.code in {"no-client-ca", "source-missing"} and not finding.remedy.startswith("openssl")
    return gone and finding.where == f"{EXTERNAL}.ca_path"


def _put_back(pair: ledger.Staged, copy: str) -> str:
    cert, key, copy = word(pair.cert_path), word(pair.key_path), word(copy)
    remark = "  # what is served meanwhile; or put the right ones there"
    if posixpath.normpath(pair.cert_path) == posixpath.normpath(pair.key_path):
        return f"install -m 600 {copy} {key}{remark}"
    # install(1) replaces what has the name: what user tedge made of it is not written through.
    keys = f"openssl pkey -in {copy} | install -m 600 /dev/stdin {key}"
    certificates = f"sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' {copy} | install -m 644 /dev/stdin {cert}"
    return f"{keys} && {certificates}{remark}"


def _copied_pair(wish: desired.Desired | None, seen: observed.Observed) -> ledger.Staged | None:
    """What the staged pair was made of, if the settings still name it and it has verified."""
    external, good = wish.external if wish is not None else None, seen.ledger.last_good
    if external is None or good is None or good.staged is None:
        return None
    named = (good.staged.cert_path, good.staged.key_path) == (external.cert, external.key)
    return good.staged if named and _is_kept(observed.SERVER_PAIR, good, seen) else None


def _copied_ca(wish: desired.Desired | None, seen: observed.Observed) -> str | None:
    external, good = wish.external if wish is not None else None, seen.ledger.last_good
    if external is None or external.client_ca is None or good is None:
        return None
    file = listener.parse(good.content).file
    sources = dict(file.sources) if file is not None else {}
    named = sources.get("client CA") == external.client_ca
    return external.client_ca if named and _is_kept(observed.CLIENT_CA_FILE, good, seen) else None


def _is_kept(name: str, good: ledger.LastGood, seen: observed.Observed) -> bool:
    return name in good.copies and seen.staged.get(name) == good.copies[name]
