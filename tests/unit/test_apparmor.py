"""What a profile lets the broker read: rules and globs of apparmor.d(5), read leniently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import apparmor

STAGED = "/etc/mosquitto/certs/tedge-agentd/server.pem"
# In the manner of the profile in Mosquitto's source: one level, and nothing of the administrator's.
PROFILE = """\
abi <abi/4.0>,
#include <tunables/global>
/usr/sbin/mosquitto {
  #include <abstractions/base>
  capability setuid,
  network inet stream,
  /etc/mosquitto/mosquitto.conf r,
  /etc/mosquitto/{ca_certificates,certs,conf.d}/* r,
  owner /var/lib/mosquitto/** rwk,
  audit deny /etc/mosquitto/certs/secret r,
}
"""
# In the manner of AppArmor's own.
DEEP = """\
profile mosquitto /usr/sbin/mosquitto {
  include <abstractions/base>
  network netlink raw,
  file @{etc_ro}/mosquitto/* r,
  file @{etc_ro}/mosquitto/conf.d/ r,
  file @{etc_ro}/mosquitto/conf.d/** r,
  file @{etc_ro}/mosquitto/certs/** r,
  include if exists <local/mosquitto>
}
"""
CA_DIRECTORY = "/etc/mosquitto/certs/tedge-agentd/clients/"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/mosquitto/mosquitto.conf", True),
        ("/etc/mosquitto/certs/server.pem", True),
        ("/etc/mosquitto/certs/secret", False),
        (STAGED, False),  # one star ends at a slash
        ("/etc/tedge/device-certs/tedge-private-key.pem", False),
        ("/var/lib/mosquitto/a/b", True),
    ],
)
def test_what_a_profile_allows(path: str, expected: bool) -> None:
    assert apparmor.may_read([PROFILE], path) is expected


@pytest.mark.parametrize(
    ("rule", "path", "expected"),
    [
        ("/etc/mosquitto/certs/tedge-agentd/** r,", STAGED, True),
        ('"/etc/mosquitto/certs/tedge-agentd/**" r,', STAGED, True),
        ("/etc/mosquitto/certs/tedge-agentd/{,**} r,", STAGED, True),
        ("/etc/mosquitto/certs/tedge-agentd/{,**} r,", "/etc/mosquitto/certs/tedge-agentd/", True),
        ("/etc/mosquitto/certs/tedge-agentd/** r,", "/etc/mosquitto/certs/tedge-agentd/", False),
        ("/etc/mosquitto/certs/tedge-agentd/** r,", CA_DIRECTORY, True),
        ("/etc/mosquitto/certs/*/ r,", "/etc/mosquitto/certs/tedge-agentd/", True),
        ("file r /etc/mosquitto/certs/**,", STAGED, True),
        ("file w /etc/mosquitto/certs/**,", STAGED, False),
        ("file,", STAGED, True),
        ("@{etc_ro}/mosquitto/certs/** r,", STAGED, True),
        ("/etc/mosquitto/** w,", STAGED, False),
        ("audit owner /etc/mosquitto/** rw,", STAGED, True),
        ("#/etc/mosquitto/** r,", STAGED, False),
        ("/etc/mosquitto/certs/tedge-agentd/server.pe? r,", STAGED, True),
        ("/etc/mosquitto/certs/tedge-agentd/[a-z]*.pem r,", STAGED, True),
    ],
)
def test_a_local_rule_counts(rule: str, path: str, expected: bool) -> None:
    assert apparmor.may_read([PROFILE, f"{rule}\n"], path) is expected


def test_apparmors_own_profile_lets_the_broker_read_the_copies() -> None:
    for path in (STAGED, "/etc/mosquitto/certs/tedge-agentd/", CA_DIRECTORY, f"{CA_DIRECTORY}a.pem"):
        assert apparmor.may_read([DEEP], path)
    for path in ("/etc/tedge/mosquitto-conf/", "/etc/tedge/mosquitto-conf/tedge-mosquitto.conf"):
        assert not apparmor.may_read([DEEP], path)
        assert apparmor.may_read([DEEP, "/etc/tedge/mosquitto-conf/ r,\n/etc/tedge/mosquitto-conf/** r,\n"], path)


def test_what_a_profile_includes_is_found() -> None:
    assert apparmor.includes(PROFILE) == ("tunables/global", "abstractions/base")
    assert apparmor.includes(DEEP) == ("abstractions/base", "local/mosquitto")
    assert apparmor.includes('include "/etc/x y"\n# include <a>\n') == ("/etc/x y",)


def test_without_a_rule_there_is_nothing_to_go_by() -> None:
    assert apparmor.may_read(["profile x {\n  file,\n}\n"], STAGED)


@given(st.text(), st.text())
def test_any_text_is_read(text: str, path: str) -> None:
    assert apparmor.may_read([text], path) in {True, False}
    assert isinstance(apparmor.enforced(text), tuple)
    assert isinstance(apparmor.includes(text), tuple)
    assert apparmor.describes(text, "mosquitto") in {True, False}


def test_only_what_is_enforced_confines() -> None:
    loaded = "/usr/sbin/mosquitto (enforce)\nmosquitto (complain)\nlsb_release (enforce)\nx (unconfined)\n"
    assert apparmor.enforced(loaded) == ("/usr/sbin/mosquitto", "lsb_release")


@pytest.mark.parametrize("name", ["mosquitto", "/usr/sbin/mosquitto"])
def test_the_file_of_a_profile_is_known_by_its_header(name: str) -> None:
    assert apparmor.describes(DEEP, name)
    assert apparmor.describes(PROFILE, "/usr/sbin/mosquitto")
    assert apparmor.describes("/usr/sbin/mosquitto flags=(attach_disconnected) {\n}\n", "/usr/sbin/mosquitto")
    assert not apparmor.describes("# mosquitto {\n", name)


@pytest.mark.parametrize(
    ("local", "command"),
    [
        ("/etc/apparmor.d/local/mosquitto", "echo '{rule}' >> /etc/apparmor.d/local/mosquitto"),
        (None, "sed -i '/^}}/i\\  {rule}' /etc/apparmor.d/mosquitto"),
    ],
)
def test_the_finding_says_that_modes_are_not_to_blame_and_what_to_add(local: str | None, command: str) -> None:
    profile = apparmor.Profile(name="mosquitto", file="/etc/apparmor.d/mosquitto", texts=(PROFILE,), local=local)
    conf = "/etc/mosquitto/conf.d/tedge-mosquitto.conf"
    (finding,) = apparmor.findings(profile, [conf, STAGED, "/etc/mosquitto/certs/tedge-agentd/ca.pem"])
    assert (finding.code, finding.where) == ("apparmor", STAGED)
    assert "owner and mode" in finding.message
    added = command.format(rule="/etc/mosquitto/certs/tedge-agentd/{,**} r,")
    assert finding.remedy == f"{added} && apparmor_parser -r /etc/apparmor.d/mosquitto"
