"""Brokers configured by hand."""

from . import gateway, pki


def serve_mutual_tls(
    gw: gateway.Gateway, ca: pki.Authority, *, identity: bool = True, internal: bool = True
) -> pki.Pair:
    """Configure the broker by hand, as the guide would have it, and restart it."""
    pair = ca.server()
    for name, text in (("ca.crt", ca.pem), ("server.crt", pair.pem), ("server.key", pair.key_pem())):
        gw.write(f"/etc/mosquitto/certs/{name}", text, owner="mosquitto", mode=0o600)
    lines = ["per_listener_settings true", "listener 1883 127.0.0.1", "allow_anonymous true"] if internal else []
    lines += ["listener 8883", "allow_anonymous false", "require_certificate true"]
    lines += ["use_identity_as_username true"] if identity else []
    files = {"cafile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
    lines += [f"{option} /etc/mosquitto/certs/{name}" for option, name in files.items()]
    gw.write("/etc/mosquitto/conf.d/zz-tls.conf", "\n".join(lines) + "\n")
    gw.run("systemctl restart mosquitto")
    return pair
