"""A profile that confines the broker is told about; the kernel's own list is played, for tests have no AppArmor."""

import pathlib

from . import gateway, pki, scenes, standins
from .conftest import MakeGateway

STOCK = """\
profile mosquitto /usr/sbin/mosquitto {
  include <abstractions/base>
  /etc/mosquitto/mosquitto.conf r,
  /etc/mosquitto/{ca_certificates,certs,conf.d}/* r,
  /etc/tedge/mosquitto-conf/** r,
  include if exists <local/mosquitto>
}
"""


def confine(gw: gateway.Gateway) -> None:
    """Let the daemon see a list of loaded profiles where the kernel would show it."""
    gw.write("/opt/apparmor/profiles", "mosquitto (enforce)\n")
    gw.write("/etc/apparmor.d/mosquitto", STOCK)
    gw.write(
        "/etc/systemd/system/tedge-agentd.service.d/apparmor.conf",
        "[Service]\nTemporaryFileSystem=/sys/kernel/security\n"
        "BindReadOnlyPaths=/opt/apparmor:/sys/kernel/security/apparmor\n",
    )


def test_a_profile_that_keeps_the_copies_from_the_broker_is_told_with_the_rule_that_mends_it(
    make_gateway: MakeGateway, deb: pathlib.Path, ca: pki.Authority
) -> None:
    gw = make_gateway(deb=deb)
    standins.install(gw)
    confine(gw)
    gw.boot()
    assert scenes.settled(gw)["findings"] == [], "nothing is read that the profile forbids"
    scenes.server(gw, ca)
    status = scenes.settled(gw)
    (finding,) = [found for found in status["findings"] if found["code"] == "apparmor"]
    assert finding["where"] == "/etc/mosquitto/certs/tedge-agentd/server.pem"
    gw.files.mkdir("/etc/apparmor.d/local")
    gw.sh(finding["remedy"].partition(" && ")[0])
    assert scenes.settled(gw)["findings"] == []
