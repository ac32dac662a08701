"""What the tests of the daemon have in common: the guide's levels set up as an operator would, and waiting for it."""

import json
import pathlib
from typing import Any

from . import clients, gateway, pki, standins

CERTS = "/etc/tedge/server-certs"
CERT, KEY, CA = f"{CERTS}/server.crt", f"{CERTS}/server.key", f"{CERTS}/clients-ca.crt"
LAN = "192.0.2.10"
UNIT = "tedge-agentd"


def settled(gw: gateway.Gateway, *, seconds: float = 10.0, state: str | None = "in-sync") -> dict[str, Any]:
    """Return the daemon's status once everything on disk now has been dealt with, in the state that is expected."""
    done = gw.run(["tedge-agentd", "status", "--json", "--wait", str(seconds)], check=False, timeout=seconds + 5)
    assert done.stdout, done.stderr
    status: dict[str, Any] = json.loads(done.stdout)
    if state is not None:
        assert status["state"] == state, json.dumps(status["findings"], indent=1)
    return status


def wait_longer_for_a_burst(gw: gateway.Gateway) -> None:
    """Let the stand-in's commands, each a start of Python, be one burst on a loaded machine, too."""
    gw.write("/etc/tedge-agentd/config.toml", "settle_quiet = 0.6\nsettle_max = 5\n")
    settled(gw)


def codes(status: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in status["findings"]}


def write_pair(gw: gateway.Gateway, pair: pki.Pair, *, cert: str = CERT, key: str = KEY, owner: str = "root") -> None:
    """Put a pair in place as an operator does with cp: root's, the key closed."""
    gw.files.mkdir(str(pathlib.PurePosixPath(cert).parent))
    gw.write(cert, pair.chain_pem, owner=owner, mode=0o644)
    gw.write(key, pair.key_pem(), owner=owner, mode=0o600)


def server(gw: gateway.Gateway, ca: pki.Authority, **options: Any) -> pki.Pair:
    """Set up the guide's second level: a server certificate, port unset."""
    pair = ca.server(**options)
    write_pair(gw, pair)
    if not gw.exists("/etc/tedge/tedge.toml"):
        # Without a version the next process of thin-edge to load it writes it again, over what was set meanwhile.
        standins.write_toml(gw, '[config]\nversion = "2"\n')
    standins.config_set(gw, "mqtt.external.bind.address", "0.0.0.0")
    standins.config_set(gw, "mqtt.external.cert_file", CERT)
    standins.config_set(gw, "mqtt.external.key_file", KEY)
    return pair


def mutual(gw: gateway.Gateway, ca: pki.Authority, **options: Any) -> pki.Pair:
    """Set up the guide's third level: client certificates are required as well."""
    pair = server(gw, ca, **options)
    gw.write(CA, ca.pem)
    standins.config_set(gw, "mqtt.external.ca_path", CA)
    return pair


def client(ca: pki.Authority, directory: pathlib.Path, name: str = "child") -> clients.Credentials:
    """The credentials of a child device whose certificate the authority has issued."""
    cert, key = ca.client(name).write(directory, name)
    return clients.Credentials(ca=ca.write(directory / "ca.crt"), cert=cert, key=key)


def trusting(ca: pki.Authority, directory: pathlib.Path) -> clients.Credentials:
    """The credentials of a client that checks the broker's certificate and has none of its own."""
    return clients.Credentials(ca=ca.write(directory / "ca.crt"))


def starts(gw: gateway.Gateway, unit: str) -> int:
    """How often a unit was started since the machine was made, by whomever: systemd's "Started ..."."""
    match = [f"UNIT={unit}.service", "MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"]
    return len(gw.journal(match=match))
