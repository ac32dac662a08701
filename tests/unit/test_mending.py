"""The commands that mend a certificate: which, for whom, and that nothing in a path means more than itself."""

import dataclasses
import ipaddress
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import desired, ledger, listener, mending, model, observed, shell
from tests.unit import test_plan
from tests.unit.test_certificate_checks import GOOD

OWN = ("/etc/tedge/server-certs/tedge-agentd-server.crt", "/etc/tedge/server-certs/tedge-agentd-server.key")
OWN_CLIENT = ("/etc/tedge/client-certs/tedge-agentd-client.crt", "/etc/tedge/client-certs/tedge-agentd-client.key")
BUNDLE = "/etc/tedge/server-certs/tedge-agentd-ca.crt"
SITE = ("/etc/tedge/s.crt", "/etc/tedge/s.key")
STAGING = "/etc/mosquitto/certs/tedge-agentd"


def finding(code: str, where: str = "mqtt.external.cert_file") -> model.Finding:
    severity = model.Severity.ERROR
    return model.Finding(code=code, severity=severity, where=where, message="it is bad", remedy="as it was")


def wish(
    pair: tuple[str, str] = SITE, *, client: model.ClientSettings | None = None, **external: object
) -> desired.Desired:
    asked = model.ExternalSettings(port=8883, cert_file=pair[0], key_file=pair[1], **external)  # type: ignore[arg-type]
    settings = model.TedgeSettings(external=asked, client=client or model.ClientSettings())
    return desired.derive(settings, desired.Accounts(), tedge_dir="/etc/tedge")


TRUSTING = model.ClientSettings(port=8883, ca_file="/etc/tedge/ca.crt")


@pytest.mark.parametrize(
    ("code", "asked", "remedy"),
    [
        ("certificate-v1", wish(OWN), "tedge-agentd certs renew server"),
        ("certificate-names", wish(OWN, client=TRUSTING), "tedge-agentd certs issue server --name 127.0.0.1"),
        (
            "certificate-expired",
            wish(),
            "tedge-agentd certs init && tedge-agentd certs issue server && tedge-agentd config set"
            f" mqtt.external.cert_file={OWN[0]} mqtt.external.key_file={OWN[1]}  # or let CN=ca issue it again",
        ),
        (
            "certificate-purpose",
            wish(client=TRUSTING),
            "tedge-agentd certs init && tedge-agentd certs issue server && tedge-agentd config set"
            f" mqtt.external.cert_file={OWN[0]} mqtt.external.key_file={OWN[1]} mqtt.client.auth.ca_file={BUNDLE}"
            "  # or let CN=ca issue it again",
        ),
        ("certificate-not-yet-valid", wish(), "as it was"),
        ("certificate-expires", wish(("/etc/tedge/device-certs/tedge-certificate.pem", "/k")), "as it was"),
    ],
)
def test_a_certificate_of_the_broker(code: str, asked: desired.Desired, remedy: str) -> None:
    leaf = dataclasses.replace(GOOD, sans=("DNS:gateway.example",))
    assert mending.server(finding(code), leaf, asked).remedy == remedy


@pytest.mark.parametrize(
    ("address", "sans", "host"),
    [
        (None, ("DNS:localhost",), "localhost"),
        ("0.0.0.0", ("DNS:gateway", "IP:127.0.0.1"), "127.0.0.1"),
        ("::", ("IP:::1",), "::1"),
        ("192.0.2.10", ("IP:192.0.2.10", "DNS:localhost"), "192.0.2.10"),
        ("192.0.2.10", ("DNS:localhost",), None),
        (None, ("DNS:gateway",), None),
    ],
)
def test_a_name_that_the_certificate_has_and_that_leads_there_saves_another_one(
    address: str | None, sans: tuple[str, ...], host: str | None
) -> None:
    asked = wish(client=TRUSTING, address=ipaddress.ip_address(address) if address else None)
    told = mending.server(finding("certificate-names"), dataclasses.replace(GOOD, sans=sans), asked).remedy
    assert (
        told.startswith("tedge-agentd certs init")
        if host is None
        else told == f"tedge config set mqtt.client.host {host}"
    )


def test_a_certificate_of_the_clients() -> None:
    def told(cert: str, ca: str | None) -> str:
        asked = wish(client=dataclasses.replace(TRUSTING, cert_file=cert, key_file="/k"), ca_path=ca)
        return mending.client(finding("certificate-expired"), GOOD, asked).remedy

    assert told(OWN_CLIENT[0], BUNDLE) == "tedge-agentd certs renew tedge"
    assert told("/etc/tedge/c.crt", BUNDLE).startswith(
        "tedge-agentd certs init && tedge-agentd certs issue tedge && "
    )
    assert told("/etc/tedge/c.crt", "/etc/tedge/theirs").startswith("let CN=ca issue it again"), (
        "its CA alone is let in"
    )


def test_who_issued_it_is_known_of_the_local_pki() -> None:
    ca = finding("ca-not-issuer", where="/etc/tedge/ca.crt")
    assert mending.issuer_of_server(ca, wish(OWN, client=TRUSTING)).remedy == (
        f"tedge-agentd config set mqtt.client.auth.ca_file={BUNDLE}"
    )
    assert mending.issuer_of_server(ca, wish(client=TRUSTING)) == ca
    own = dataclasses.replace(TRUSTING, cert_file=OWN_CLIENT[0], key_file=OWN_CLIENT[1])
    assert (
        f"cat {BUNDLE} >>'/etc/tedge/c a'"
        in mending.issuer_of_clients(ca, wish(client=own, ca_path="/etc/tedge/c a")).remedy
    )
    assert mending.issuer_of_clients(ca, wish(client=TRUSTING, ca_path="/etc/tedge/c")) == ca


# What is served meanwhile -----------------------------------------------------------------------------------


COPIES = {"server.pem": "1", "client-ca.pem": "2"}


def machine(
    pair: tuple[str, str], *, ca: str = "/etc/tedge/ca", staged: dict[str, str] = COPIES
) -> observed.Observed:
    """A machine whose copies of a pair and a CA have verified; `staged` is what lies there now."""
    tls = model.Tls(certfile="/s", keyfile="/s", client_ca=model.ClientCa(path="/c", is_dir=False))
    file = model.ListenerFile(external=model.Listener(port=8883, tls=tls), sources=(("client CA", ca),))
    good = ledger.LastGood(
        path="/l",
        content=listener.render(file),
        serving=ledger.Serving(config="x", pair="p", key_type="EC", ca=frozenset(), ca_is_dir=False),
        staged=ledger.Staged(cert_path=pair[0], key_path=pair[1], fingerprint="p", key_type="EC", leaf="l"),
        copies=COPIES,
    )
    return test_plan.machine(ledger=ledger.Ledger(last_good=good), staged=staged)


def restored(found: model.Finding, asked: desired.Desired, seen: observed.Observed) -> str:
    return mending.restored([found], asked, seen, STAGING)[0].remedy


def test_a_spoiled_pair_comes_back_from_what_is_served() -> None:
    command = restored(finding("key-invalid", "mqtt.external.key_file"), wish(), machine(SITE)).partition("  #")[0]
    assert command == (
        f"openssl pkey -in {STAGING}/server.pem | install -m 600 /dev/stdin {SITE[1]} &&"
        f" sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' {STAGING}/server.pem | install -m 644 /dev/stdin {SITE[0]}"
    )
    both = (SITE[0], SITE[0])
    assert restored(finding("source-missing"), wish(both), machine(both)).startswith(
        f"install -m 600 {STAGING}/server.pem {SITE[0]}"
    )


@pytest.mark.parametrize(
    ("found", "asked", "seen"),
    [
        (finding("key-invalid"), wish(), machine(("/etc/tedge/other.crt", SITE[1]))),
        (finding("key-invalid"), wish(), machine(SITE, staged={**COPIES, "server.pem": "9"})),
        (finding("key-invalid"), wish(), test_plan.machine()),
        (finding("certificate-der"), wish(), machine(SITE)),
        (finding("key-invalid", "mqtt.client.auth.key_file"), wish(), machine(SITE)),
        (dataclasses.replace(finding("key-mismatch"), severity=model.Severity.INFO), wish(), machine(SITE)),
        (finding("source-missing", "mqtt.external.ca_path"), wish(ca_path="/etc/tedge/new"), machine(SITE)),
    ],
)
def test_nothing_is_put_back_that_is_not_from_there_or_may_still_come(
    found: model.Finding, asked: desired.Desired, seen: observed.Observed
) -> None:
    assert restored(found, asked, seen) == "as it was"


def test_a_client_ca_comes_back_readable_unless_it_only_has_to_be_converted() -> None:
    asked, gone = wish(ca_path="/etc/tedge/ca"), finding("no-client-ca", "mqtt.external.ca_path")
    assert restored(gone, asked, machine(SITE)).startswith(f"install -m 644 {STAGING}/client-ca.pem /etc/tedge/ca  #")
    converts = dataclasses.replace(gone, remedy="openssl x509 -inform DER")
    assert restored(converts, asked, machine(SITE)) == converts.remedy


@given(st.text(st.characters(blacklist_characters="\0"), min_size=1))
def test_a_path_is_one_word_of_a_shell_whatever_is_in_it(text: str) -> None:
    assert shlex.split(f"ls -l {shell.word(text)}") == ["ls", "-l", text]
