"""Where the local PKI puts what it issues for this machine, and the settings that use it."""

import posixpath


def server_pair(tedge_dir: str) -> tuple[str, str]:
    """Certificate and key of the broker."""
    base = posixpath.join(tedge_dir, "server-certs", "tedge-agentd-server")
    return f"{base}.crt", f"{base}.key"


def client_pair(tedge_dir: str) -> tuple[str, str]:
    """Certificate and key of the thin-edge services."""
    # .key: thin-edge reads every *.pem, *.crt and *.cer of a ca_dir as a CA (facts/thin-edge.md 1.4).
    base = posixpath.join(tedge_dir, "client-certs", "tedge-agentd-client")
    return f"{base}.crt", f"{base}.key"


def bundle(tedge_dir: str) -> str:
    """The CA certificates: `mqtt.client.auth.ca_file`, and `mqtt.external.ca_path` of a mutual listener."""
    return posixpath.join(tedge_dir, "server-certs", "tedge-agentd-ca.crt")
