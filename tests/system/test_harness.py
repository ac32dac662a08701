"""The gateways: what the other system tests rely on."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from . import clock, container, gateway
from .conftest import MakeGateway


def test_a_gateway_boots_quickly_with_systemd_dbus_and_the_broker(make_gateway: MakeGateway) -> None:
    began = time.monotonic()
    gw = make_gateway().boot()
    assert time.monotonic() - began < 5.0
    assert gw.state() == "running"
    assert gw.active("dbus.service")
    assert gw.unit("mosquitto")["ActiveState"] == "active"


def test_commands_run_as_the_user_asked_for(bare: gateway.Gateway) -> None:
    assert bare.run("id -un").stdout == "root\n"
    assert bare.run("id -un", user="mosquitto").stdout == "mosquitto\n"
    assert bare.run("cat", input="through a pipe").stdout == "through a pipe"
    assert bare.run("false", check=False).returncode == 1
    with pytest.raises(gateway.CommandError, match="no such place"):
        bare.sh("echo no such place >&2; exit 7")


def test_files_are_those_the_gateway_sees(bare: gateway.Gateway) -> None:
    bare.write("/etc/there/file", "text", owner="mosquitto", mode=0o640)
    assert bare.run("stat -c '%U:%G %a' /etc/there/file").stdout == "mosquitto:mosquitto 640\n"
    assert bare.access("/etc/there/file") == "mosquitto:mosquitto 0640"
    bare.write("/run/there", "in memory")
    assert bare.run("cat /run/there").stdout == "in memory"
    before = bare.stat("/etc/there/file").st_ino
    bare.write("/etc/there/file", "replaced", replace=True)
    assert bare.stat("/etc/there/file").st_ino != before
    assert bare.files.listdir("/etc/there") == ["file"]


def test_an_absolute_symlink_leads_to_the_gateways_file(bare: gateway.Gateway) -> None:
    bare.write("/etc/real", "of the gateway")
    bare.files.symlink("/etc/real", "/etc/link")
    assert bare.read("/etc/link") == "of the gateway"
    bare.write("/etc/link", "changed")
    assert bare.read("/etc/real") == "changed"


def test_the_wall_clock_of_a_gateway_can_be_set_and_nothing_but_it(make_gateway: MakeGateway) -> None:
    gw = make_gateway()
    own = clock.Clock(gw)
    gw.boot()
    script = "import time; print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    for offset in (400 * clock.DAY, -400 * clock.DAY):
        own.set(offset)
        preflight = ["systemd-run", "--quiet", "--pipe", "--unit=tedge-agentd-preflight-x"]
        for said in (own.run(["python3", "-c", script]), gw.run([*preflight, "/usr/bin/python3", "-c", script])):
            wall, monotonic, boottime = map(float, said.stdout.split())
            assert abs(wall - own.now) < 10
            assert abs(monotonic - time.monotonic()) < 10
            assert abs(boottime - time.clock_gettime(time.CLOCK_BOOTTIME)) < 10
    assert abs(float(gw.run("date +%s").stdout) - time.time()) < 10
    gw.run("systemctl reload mosquitto")
    gw.wait_until(lambda: abs(int(gw.broker_log().splitlines()[-1].partition(":")[0]) - own.now) < 60)


def test_a_reboot_and_a_power_cut_keep_files_and_interfaces(bare: gateway.Gateway) -> None:
    bare.write("/etc/kept", "kept")
    bare.add_interface("wlan0", "198.51.100.7/24", "2001:db8::7/64")
    for off in (bare.shutdown, bare.power_cut):
        boot = bare.read("/proc/sys/kernel/random/boot_id")
        off()
        assert not bare.running
        assert bare.read("/etc/kept") == "kept"
        bare.boot()
        assert bare.read("/proc/sys/kernel/random/boot_id") != boot
        assert "198.51.100.7/24" in bare.run("ip -brief address show wlan0").stdout
        assert bare.active("mosquitto")


def test_interfaces_come_and_go(bare: gateway.Gateway) -> None:
    assert "192.0.2.10/24" in bare.run("ip -brief address show eth0").stdout
    bare.remove_address("eth0", "192.0.2.10/24")
    assert "192.0.2.10/24" not in bare.run("ip -brief address show eth0").stdout
    bare.remove_interface("eth0")
    assert bare.run("ip link show eth0", check=False).returncode != 0


def test_mosquitto_can_be_purged_and_installed_again_without_a_network(bare: gateway.Gateway) -> None:
    bare.purge("mosquitto")
    assert not bare.exists("/etc/mosquitto/mosquitto.conf")
    assert not bare.exists("/usr/sbin/mosquitto")
    bare.install("mosquitto")
    assert bare.active("mosquitto")


def test_a_package_is_installed_without_a_network(bare: gateway.Gateway, tmp_path: pathlib.Path) -> None:
    bare.purge("python3-watchdog")
    bare.install_deb(_package(tmp_path))
    assert bare.active("harness-sample")
    assert bare.run("harness-sample").stdout == "hello\n"
    assert bare.run("dpkg-query -W -f '${db:Status-Status}' python3-watchdog").stdout == "installed"


def test_a_package_can_be_on_the_image(make_gateway: MakeGateway, tmp_path: pathlib.Path) -> None:
    gw = make_gateway(deb=_package(tmp_path)).boot()
    assert gw.active("harness-sample")
    assert gw.run("harness-sample").stdout == "hello\n"
    assert gw.run("dpkg-query -W -f '${db:Status-Status}' harness-sample").stdout == "installed"


def test_nothing_is_left_behind(suite: str) -> None:
    before = _traces()
    gw = gateway.Gateway(suite).boot()
    background = subprocess.Popen(gw.command("sleep 1000"))
    processes = _processes_of(gw.leader)
    assert len(processes) > 5
    gw.close()
    assert background.wait(5) != 0
    assert not _still_running(processes)
    assert _traces() <= before


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_test_run_that_is_ended_takes_its_gateway_along(suite: str, end: signal.Signals) -> None:
    program = (
        f"import sys, time; sys.path.insert(0, {str(container.__file__).rpartition('/tests/')[0]!r})\n"
        "from tests.system import gateway\n"
        f"with gateway.Gateway({suite!r}) as gw:\n"
        "    gw.boot(); print(gw.leader, flush=True); time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        leader = run.stdout.readline().strip()
        processes = _processes_of(int(leader))
        assert len(processes) > 5
        run.send_signal(end)
        run.wait(10)
    deadline = time.monotonic() + 5
    while _still_running(processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _still_running(processes)
    with gateway.Gateway(suite):  # the next gateway sweeps up the empty directory a killed one left
        assert not list(pathlib.Path("/var/tmp").glob(f"{container.PREFIX}{run.pid}-*"))


def _package(where: pathlib.Path) -> pathlib.Path:
    tree = where / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: harness-sample\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
        "Depends: python3-watchdog, python3-pystemd\nDescription: sample\n"
    )
    (tree / "usr/bin/harness-sample").write_text("#!/bin/sh\necho hello\n")
    (tree / "usr/bin/harness-sample").chmod(0o755)
    (tree / "usr/lib/systemd/system").mkdir(parents=True)
    (tree / "usr/lib/systemd/system/harness-sample.service").write_text(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/harness-sample\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    (tree / "DEBIAN/postinst").write_text(
        "#!/bin/sh\nset -e\ndeb-systemd-helper enable harness-sample.service >/dev/null\n"
        "[ -d /run/systemd/system ] || exit 0\n"
        "systemctl daemon-reload\ndeb-systemd-invoke start harness-sample.service\n"
    )
    (tree / "DEBIAN/postinst").chmod(0o755)
    same = {**os.environ, "SOURCE_DATE_EPOCH": "0"}  # the same package each time, whose layer is in the cache
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, where], check=True, capture_output=True, env=same
    )
    (deb,) = where.glob("*.deb")
    return deb


def _processes_of(leader: int) -> set[tuple[str, str]]:
    """Return the processes in a gateway's network: its own, and those that hold it up."""
    network = _network(str(leader))
    assert network != _network("self")
    return {found for found in _processes() if _network(found[0]) == network}


def _still_running(processes: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return processes & _processes()


def _processes() -> set[tuple[str, str]]:
    """Return the machine's processes, each with the time of its start: a number alone is used again."""
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.add((process.name, (process / "stat").read_text().rpartition(")")[2].split()[19]))
    return found


def _network(process: str) -> str:
    try:
        return os.readlink(f"/proc/{process}/ns/net")
    except OSError:
        return ""


def _traces() -> set[str]:
    """Return what this process could leave on the machine: mounts, directories, descriptors that hold a namespace.

    A namespace without a process, a mount or a descriptor is gone. Its number says nothing, as it is used again.
    """
    own = f"{container.PREFIX}{os.getpid()}-"
    mounts = [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if own in line]
    directories = [str(path) for path in pathlib.Path("/var/tmp").glob(f"{own}*")]
    descriptors = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of this listing is closed by now
            descriptors.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return {*mounts, *directories, *(text for text in descriptors if " net:[" in text)}
