"""What a profile lets the broker read: rules and globs of apparmor.d(5), read leniently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import apparmor

STAGED = "/etc/mosquitto/certs/tedge-agentd/server.pem"
PROFILE = """\
abi <abi/4.0>,
include <tunables/global>
profile mosquitto /usr/sbin/mosquitto {
  include <abstractions/base>
  capability setuid,
  network inet stream,
  /etc/mosquitto/mosquitto.conf r,
  /etc/mosquitto/{ca_certificates,certs,conf.d}/* r,
  owner /var/lib/mosquitto/** rwk,
  deny /etc/mosquitto/certs/secret r,
  include if exists <local/mosquitto>
}
"""


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


def test_without_a_rule_there_is_nothing_to_go_by() -> None:
    assert apparmor.may_read(["profile x {\n  file,\n}\n"], STAGED)


@given(st.text(), st.text())
def test_any_text_is_read(text: str, path: str) -> None:
    assert apparmor.may_read([text], path) in {True, False}
    assert isinstance(apparmor.enforced(text), tuple)
    assert apparmor.describes(text, "mosquitto") in {True, False}


def test_only_what_is_enforced_confines() -> None:
    loaded = "/usr/sbin/mosquitto (enforce)\nmosquitto (complain)\nlsb_release (enforce)\nx (unconfined)\n"
    assert apparmor.enforced(loaded) == ("/usr/sbin/mosquitto", "lsb_release")


@pytest.mark.parametrize("name", ["mosquitto", "/usr/sbin/mosquitto"])
def test_the_file_of_a_profile_is_known_by_its_header(name: str) -> None:
    assert apparmor.describes(PROFILE, name)
    assert apparmor.describes("/usr/sbin/mosquitto flags=(attach_disconnected) {\n}\n", "/usr/sbin/mosquitto")
    assert not apparmor.describes("# mosquitto {\n", name)


def test_the_finding_says_that_modes_are_not_to_blame_and_what_to_add() -> None:
    profile = apparmor.Profile(name="mosquitto", file="/etc/apparmor.d/mosquitto", texts=(PROFILE,))
    (finding,) = apparmor.findings(profile, [STAGED, "/etc/mosquitto/conf.d/tedge-mosquitto.conf"])
    assert (finding.code, finding.where) == ("apparmor", STAGED)
    assert "owner and mode" in finding.message
    assert finding.remedy == (
        "echo '/etc/mosquitto/certs/tedge-agentd/** r,' >> /etc/apparmor.d/local/mosquitto &&"
        " apparmor_parser -r /etc/apparmor.d/mosquitto"
    )
