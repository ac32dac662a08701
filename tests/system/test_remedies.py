"""What is wrong with a certificate is named, and gone when the remedy that is shown is pasted."""

from collections.abc import Callable

from . import clients, gateway, pki, scenes
from .scenes import CA, CERT, CERTS, KEY

OWN_CERT, OWN_KEY, BROKERS_CA = f"{CERTS}/client.crt", f"{CERTS}/client.key", f"{CERTS}/brokers-ca.crt"
SETTINGS = [
    "mqtt.external.bind.address=0.0.0.0",
    "mqtt.external.bind.port=8883",
    f"mqtt.external.cert_file={CERT}",
    f"mqtt.external.key_file={KEY}",
    f"mqtt.external.ca_path={CA}",
    "mqtt.client.host=127.0.0.1",
    "mqtt.client.port=8883",
    f"mqtt.client.auth.ca_file={BROKERS_CA}",
    f"mqtt.client.auth.cert_file={OWN_CERT}",
    f"mqtt.client.auth.key_file={OWN_KEY}",
]
Flaw = Callable[[gateway.Gateway, pki.Authority, pki.Pair], None]


def put(**options: object) -> Flaw:
    """Another certificate of the same CA for the broker."""
    chosen = {"sans": pki.GATEWAY_NAMES, "usage": "server", **options}
    return lambda gw, ca, _: scenes.write_pair(gw, ca.issue("gateway", **chosen))  # type: ignore[arg-type]


def out_of_order(gw: gateway.Gateway, ca: pki.Authority, _: pki.Pair) -> None:
    pair = ca.intermediate().server()
    gw.write(CERT, "".join(pki.to_pem(der) for der in (*pair.chain, pair.certificate)))
    gw.write(KEY, pair.key_pem(), mode=0o600)


# Code -> the flaw. Those with which the broker would not start, or refuse everybody, block; the others are told.
BLOCKING: dict[str, Flaw] = {
    "certificate-der": lambda gw, ca, pair: gw.write(CERT, pair.certificate),
    "key-der": lambda gw, ca, pair: gw.write(KEY, pair.key_der(), mode=0o600),
    "chain-order": out_of_order,
    "no-client-ca": lambda gw, ca, _: gw.write(CA, ca.pair.certificate),
    "certificate-weak": put(key="rsa1024"),
}
TOLD: dict[str, Flaw] = {
    "certificate-names": put(sans=["localhost"]),
    "certificate-v1": put(version=1),
    "certificate-purpose": put(usage="client"),
    "certificate-is-ca": lambda gw, ca, _: scenes.write_pair(gw, ca.pair),
    "certificate-expired": put(starts=-20 * pki.DAY, ends=-pki.DAY),
    "certificate-expires": put(ends=5 * pki.DAY),
}


def test_every_flaw_of_a_certificate_is_gone_when_its_remedy_is_pasted(
    gw: gateway.Gateway, ca: pki.Authority
) -> None:
    """Nothing is served meanwhile that the broker could not serve, and it is never restarted."""
    pair, own = ca.server(), ca.client("tedge")
    gw.files.mkdir(CERTS)
    gw.write(CA, ca.pem)
    gw.write(BROKERS_CA, ca.pem)
    gw.write(OWN_CERT, own.pem)
    gw.write(OWN_KEY, own.key_pem(), mode=0o600)

    gw.run(["tedge-agentd", "config", "set", *SETTINGS])
    scenes.write_pair(gw, pair)
    scenes.settled(gw)
    broker = gw.invocation("mosquitto")
    pasted: set[str] = set()
    for code, flaw in {**BLOCKING, **TOLD}.items():
        before = clients.handshake(gw, 8883).sha256
        flaw(gw, ca, pair)
        status = scenes.settled(gw, state="blocked" if code in BLOCKING else "in-sync")
        found = {one["code"]: one for one in status["findings"]}
        assert code in found, (code, found)
        assert (clients.handshake(gw, 8883).sha256 == before) is (code in BLOCKING), code
        also = {"certificate-names"} if code == "certificate-is-ca" else set()  # a CA has no name of the gateway
        assert set(found) - {code} == also, "one finding for one mistake"
        remedy = found[code]["remedy"]
        if remedy not in pasted:
            pasted.add(remedy)
            gw.run(["bash", "-c", remedy])
            assert scenes.settled(gw)["findings"] == [], code
        if "config set" in remedy:
            gw.run(["tedge-agentd", "config", "set", *SETTINGS])
        scenes.write_pair(gw, pair)
        scenes.settled(gw)
    assert gw.invocation("mosquitto") == broker
