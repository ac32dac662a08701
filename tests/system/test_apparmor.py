"""A profile that confines the broker is told about; the kernel's own list is played, for tests have no AppArmor."""

import pathlib

from . import gateway, pki, scenes, standins
from .conftest import MakeGateway

# In the manner of AppArmor's own profile, which Ubuntu loads.
OWN = """\
profile mosquitto /usr/sbin/mosquitto {
  include <abstractions/base>
  file @{etc_ro}/mosquitto/* r,
  file @{etc_ro}/mosquitto/conf.d/ r,
  file @{etc_ro}/mosquitto/conf.d/** r,
  file @{etc_ro}/mosquitto/ca_certificates/** r,
  file @{etc_ro}/mosquitto/certs/** r,
  include if exists <local/mosquitto>
}
"""
# What thin-edge's package adds to it.
THIN_EDGES = "# BEGIN tedge\n/etc/tedge/mosquitto-conf/ r,\n/etc/tedge/mosquitto-conf/** r,\n# END tedge\n"
# In the manner of the one in Mosquitto's source.
FLAT = """\
profile mosquitto /usr/sbin/mosquitto {
  #include <abstractions/base>
  /etc/mosquitto/mosquitto.conf r,
  /etc/mosquitto/certs/* r,
  /etc/mosquitto/conf.d/* r,
  /etc/tedge/mosquitto-conf/{,*} r,
}
"""


def confine(gw: gateway.Gateway) -> None:
    """Let the daemon see a list of loaded profiles where the kernel would show it."""
    gw.write("/opt/apparmor/profiles", "mosquitto (enforce)\n")
    gw.write("/etc/apparmor.d/mosquitto", OWN)
    gw.write("/etc/apparmor.d/local/mosquitto", THIN_EDGES)
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
    scenes.server(gw, ca)
    assert scenes.settled(gw)["findings"] == [], "the copies lie where AppArmor's own profile reads"

    gw.files.unlink("/etc/apparmor.d/local/mosquitto")
    finding = denied(gw)
    assert finding["where"] == "/etc/tedge/mosquitto-conf/", "as on a machine where thin-edge came before the profile"
    mend(gw, finding)

    gw.write("/etc/apparmor.d/mosquitto", FLAT)
    finding = denied(gw)
    assert finding["where"] == "/etc/mosquitto/certs/tedge-agentd/server.pem"
    mend(gw, finding)
    assert gw.read("/etc/apparmor.d/mosquitto").endswith("  /etc/mosquitto/certs/tedge-agentd/{,**} r,\n}\n")


def denied(gw: gateway.Gateway) -> dict[str, str]:
    (finding,) = [found for found in scenes.settled(gw)["findings"] if found["code"] == "apparmor"]
    return dict(finding)


def mend(gw: gateway.Gateway, finding: dict[str, str]) -> None:
    """Do as the finding says, but for the kernel's part."""
    command, _, load = finding["remedy"].partition(" && ")
    assert load == "apparmor_parser -r /etc/apparmor.d/mosquitto"
    gw.sh(command)
    assert scenes.settled(gw)["findings"] == []
