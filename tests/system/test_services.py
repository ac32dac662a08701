"""systemd over D-Bus and the preflight, on booted gateways."""

import pathlib
import pickle
import re
import textwrap
from typing import Any

import pytest

from tedge_agentd.core import model

from . import gateway

_REPOSITORY = pathlib.Path(__file__).parents[2]
_PRELUDE = """
import dataclasses, os, pickle, select, subprocess, sys, time
sys.path.insert(0, "/opt/tested")
from tedge_agentd.host import bus, preflight, services
def sh(script):
    return subprocess.run(["/bin/sh", "-euc", script], check=True, capture_output=True, text=True).stdout
def caught(action):
    try:
        return action()
    except Exception as error:
        return type(error).__name__, str(error), getattr(error, "remedy", None)
systemd = services.Systemd()
"""
_EPILOGUE = """
sys.stdout.write("result " + pickle.dumps(result).hex())
"""
SLEEPER = "[Service]\nExecStart=/bin/sleep 1000\n"


@pytest.fixture
def gw(bare: gateway.Gateway) -> gateway.Gateway:
    """A running gateway with the modules under test in /opt/tested."""
    for source in sorted((_REPOSITORY / "tedge_agentd").rglob("*.py")):
        bare.write(f"/opt/tested/{source.relative_to(_REPOSITORY)}", source.read_bytes())
    return bare


def ask(gw: gateway.Gateway, script: str, *, prefix: tuple[str, ...] = ()) -> Any:
    """Run Python in the gateway, with its own interpreter and pystemd, and return what it binds to `result`."""
    code = _PRELUDE + textwrap.dedent(script) + _EPILOGUE
    done = gw.run([*prefix, "/usr/bin/python3", "-IBc", code])
    _, _, pickled = done.stdout.rpartition("result ")
    return pickle.loads(bytes.fromhex(pickled))


def add_unit(gw: gateway.Gateway, name: str, text: str = SLEEPER) -> None:
    gw.write(f"/etc/systemd/system/{name}", text)
    gw.run("systemctl daemon-reload")


# Facts ------------------------------------------------------------------------------------------------------


def test_the_facts_of_a_unit_are_those_that_systemctl_shows(gw: gateway.Gateway) -> None:
    facts = ask(gw, "result = systemd.unit('mosquitto.service')")
    shown = gw.unit("mosquitto.service")
    assert facts == model.UnitFacts(
        name="mosquitto.service",
        load_state="loaded",
        active_state="active",
        sub_state="running",
        invocation=shown["InvocationID"],
        started_usec=int(shown["ExecMainStartTimestampMonotonic"]),
        main_pid=int(shown["MainPID"]),
        result="success",
    )


def test_a_unit_that_is_missing_masked_or_misnamed_has_facts_too(gw: gateway.Gateway) -> None:
    gw.run("systemctl mask --now mosquitto.service")
    missing, masked, misnamed, mount = ask(
        gw, "result = [systemd.unit(n) for n in ('no.service', 'mosquitto.service', 'no unit', '-.mount')]"
    )
    assert (missing.load_state, missing.active_state) == ("not-found", "inactive")
    assert (masked.load_state, masked.is_active) == ("masked", False)
    assert (misnamed.load_state, misnamed.active_state) == ("bad-setting", "inactive")
    assert (mount.load_state, mount.active_state) == ("loaded", "active")


def test_units_by_pattern_are_those_that_run_or_failed(gw: gateway.Gateway) -> None:
    for name in ("tedge-mapper-aws", "tedge-mapper-c8y", "tedge-mapper-az", "other"):
        add_unit(gw, f"{name}.service")
    add_unit(gw, "tedge-mapper-bad.service", "[Service]\nExecStart=/bin/false\n")
    gw.run("systemctl start tedge-mapper-c8y tedge-mapper-aws other tedge-mapper-bad", check=False)
    gw.wait_until(lambda: gw.unit("tedge-mapper-bad.service")["ActiveState"] == "failed")
    found = ask(gw, "result = systemd.units(['tedge-mapper-*.service', 'tedge-agent.service'])")
    assert [(facts.name, facts.active_state) for facts in found] == [
        ("tedge-mapper-aws.service", "active"),
        ("tedge-mapper-bad.service", "failed"),
        ("tedge-mapper-c8y.service", "active"),
    ]
    assert found[1].result == "exit-code"


def test_a_units_environment_command_and_user_are_read(gw: gateway.Gateway) -> None:
    add_unit(
        gw,
        "client.service",
        "[Service]\nExecStart=/bin/sleep 9 --x='a b'\nUser=mosquitto\n"
        "Environment=TEDGE_MQTT_BIND_PORT=1 'B=two words'\nPassEnvironment=P Q\nUnsetEnvironment=R\n"
        "EnvironmentFile=-/etc/default/*.client\n",
    )
    result = ask(
        gw,
        """
        sh("systemctl set-environment EVERYBODYS=1")
        def told(n):
            environment = dataclasses.asdict(systemd.environment(n))
            return [environment, systemd.command(n), systemd.user(n), systemd.unit_files(n)]
        result = [told(n) for n in ("client.service", "missing.service")]
        """,
    )
    everybodys = result[0][0].pop("manager")
    assert "EVERYBODYS=1" in everybodys
    assert result[0] == [
        {
            "passed": ("P", "Q"),
            "unit": ("TEDGE_MQTT_BIND_PORT=1", "B=two words"),
            "files": ("/etc/default/*.client",),
            "unset": ("R",),
        },
        ("/bin/sleep", "9", "--x=a b"),
        "mosquitto",
        ("/etc/systemd/system/client.service",),
    ]
    assert result[1] == [{"manager": everybodys, "passed": (), "unit": (), "files": (), "unset": ()}, (), "", ()]


def test_ten_thousand_questions_leave_no_trace_in_memory(gw: gateway.Gateway) -> None:
    grown = ask(
        gw,
        """
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4
        def rounds(count):
            for _ in range(count):
                systemd.unit("mosquitto.service")
                systemd.process()
        rounds(500)
        before = resident()
        rounds(1500)  # six calls each
        result = resident() - before
        """,
    )
    assert grown < 200, f"{grown} kB"


# Jobs -------------------------------------------------------------------------------------------------------


def test_a_restart_is_done_when_the_new_process_runs(gw: gateway.Gateway) -> None:
    before, job = ask(gw, "result = systemd.unit('mosquitto.service'), systemd.restart('mosquitto.service', 10)")
    assert (job.result, job.done) == ("done", True)
    assert job.unit.is_active
    assert job.unit.invocation not in {"", before.invocation}
    assert job.unit.started_usec > before.started_usec
    assert 0 < job.duration_ms < 10_000


def test_a_reload_keeps_the_process(gw: gateway.Gateway) -> None:
    before, job = ask(gw, "result = systemd.unit('mosquitto.service'), systemd.reload('mosquitto.service', 10)")
    assert job.result == "done"
    assert job.unit == before


def test_a_unit_is_stopped_and_started_and_only_a_running_one_is_restarted(gw: gateway.Gateway) -> None:
    stopped, tried, reloaded, started, restarted = ask(
        gw,
        """
        n = "mosquitto.service"
        result = [systemd.stop(n, 10), systemd.try_restart(n, 10), systemd.reload(n, 10), systemd.start(n, 10)]
        time.sleep(0.1)  # Mosquitto loses a SIGTERM that comes right after its READY=1
        result.append(systemd.try_restart(n, 10))
        """,
    )
    assert (stopped.result, stopped.unit.active_state) == ("done", "inactive")
    assert (tried.result, tried.unit.active_state) == ("done", "inactive")
    assert (reloaded.result, reloaded.done) == ("invalid", False)
    assert (started.result, started.unit.active_state) == ("done", "active")
    assert restarted.unit.invocation != started.unit.invocation


def test_a_job_that_takes_too_long_is_a_timeout_and_blocks_nobody(gw: gateway.Gateway) -> None:
    add_unit(gw, "slow.service", "[Service]\nExecStartPre=/bin/sleep 30\nExecStart=/bin/sleep 1\n")
    job = ask(gw, "result = systemd.restart('slow.service', 0.3)")
    assert (job.result, job.unit.active_state, job.unit.job) == ("timeout", "activating", True)
    assert 300 <= job.duration_ms < 1000


def test_a_failing_start_is_failed_and_the_limit_is_lifted_by_reset_failed(gw: gateway.Gateway) -> None:
    add_unit(gw, "flapping.service", "[Service]\nType=oneshot\nExecStart=/usr/bin/test -e /run/good\n")
    tries, limited, after = ask(
        gw,
        """
        n = "flapping.service"
        tries = [systemd.restart(n, 10).result for _ in range(6)]
        open("/run/good", "w")
        limited = systemd.restart(n, 10)
        systemd.reset_failed(n)
        systemd.reset_failed("never-heard-of.service")
        result = tries, limited, systemd.restart(n, 10)
        """,
    )
    assert set(tries) == {"failed"}
    assert limited.result == "failed"  # although it would start now
    assert after.result == "done"


def test_jobs_that_cannot_be_are_refused_in_the_operators_words(gw: gateway.Gateway) -> None:
    gw.run("systemctl mask mosquitto.service")
    add_unit(gw, "plain.service")
    missing, masked, unreloadable, misnamed = ask(
        gw,
        """
        result = [caught(lambda: systemd.restart("no.service", 5)),
                  caught(lambda: systemd.restart("mosquitto.service", 5)),
                  caught(lambda: systemd.reload("plain.service", 5)),
                  caught(lambda: systemd.restart("no',type='signal", 5))]
        """,
    )
    assert missing == ("NoSuchUnitError", "there is no unit no.service", "install the package that brings no.service")
    assert masked == ("UnitError", "mosquitto.service is masked", "systemctl unmask mosquitto.service")
    assert unreloadable[1] == "plain.service has no ExecReload= and cannot be reloaded"
    assert "is not the name of a unit" in misnamed[1]


def test_a_unit_may_be_called_by_its_alias(gw: gateway.Gateway) -> None:
    add_unit(gw, "real-name.service")
    gw.files.symlink("real-name.service", "/etc/systemd/system/alias.service")
    gw.run("systemctl daemon-reload")
    job = ask(gw, "result = systemd.restart('alias.service', 5)")
    assert (job.result, job.unit.name, job.unit.active_state) == ("done", "alias.service", "active")


# Notice of changes ------------------------------------------------------------------------------------------


def test_only_watched_units_wake_us(gw: gateway.Gateway) -> None:
    add_unit(gw, "client.service")
    heard = ask(
        gw,
        """
        def listen(seconds):
            heard, deadline = set(), time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                if select.select([systemd.fileno()], [], [], left)[0]:
                    wakes.append(1)
                    heard |= systemd.process()
            return heard
        wakes = []
        systemd.watch(["client.service", "later.service"])
        listen(0.3)
        del wakes[:]
        result = []
        for script in (
            "systemctl restart mosquitto; systemctl start systemd-tmpfiles-clean.service",
            "systemctl start client",
            "printf '[Service]\\nExecStart=/bin/sleep 9' >/run/systemd/system/later.service; systemctl start later",
        ):
            sh(script)
            result.append((listen(0.3), len(wakes)))
        systemd.watch(["mosquitto.service"])
        sh("systemctl restart client mosquitto")
        result.append((listen(0.3), len(wakes)))
        """,
    )
    assert heard[0] == (set(), 0)
    assert [names for names, _ in heard[1:]] == [{"client.service"}, {"later.service"}, {"mosquitto.service"}]
    assert heard[1][1] > 0


def test_changes_seen_while_a_job_is_waited_for_are_not_lost(gw: gateway.Gateway) -> None:
    changed = ask(
        gw,
        """
        systemd.watch(["mosquitto.service"])
        systemd.process()
        systemd.restart("mosquitto.service", 10)
        result = systemd.process()
        """,
    )
    assert changed == {"mosquitto.service"}


def test_a_broken_connection_is_replaced_and_everything_may_have_changed(gw: gateway.Gateway) -> None:
    first, second, facts, job, woken = ask(
        gw,
        """
        systemd.watch(["mosquitto.service", "client.service"])
        first = systemd.process()
        sh("kill -9 $(pidof dbus-daemon); sleep 0.5; systemctl is-active dbus.socket")
        second = systemd.process()
        facts = systemd.unit("mosquitto.service")
        job = systemd.restart("mosquitto.service", 10)
        systemd.process()
        sh("systemctl restart mosquitto")
        woken = bool(select.select([systemd.fileno()], [], [], 2)[0])
        result = first, second, facts, job, woken
        """,
    )
    assert first == frozenset()
    assert second == {"mosquitto.service", "client.service"}
    assert facts.is_active
    assert job.done
    assert woken


def test_a_call_over_a_connection_that_has_died_is_made_over_a_new_one(gw: gateway.Gateway) -> None:
    facts, job = ask(
        gw,
        """
        systemd.unit("mosquitto.service")
        sh("kill -9 $(pidof dbus-daemon); sleep 0.5")
        facts = systemd.unit("mosquitto.service")
        sh("kill -9 $(pidof dbus-daemon); sleep 0.5")
        result = facts, systemd.restart("mosquitto.service", 10)
        """,
    )
    assert facts.is_active
    assert job.done


def test_without_dbus_everything_says_so_and_works_again_with_it(gw: gateway.Gateway) -> None:
    answers, descriptor, changed, after = ask(
        gw,
        """
        systemd.watch(["mosquitto.service"])
        systemd.process()
        sh("systemctl stop dbus.socket dbus.service")
        answers = [caught(lambda: systemd.unit("mosquitto.service")),
                   caught(lambda: systemd.restart("mosquitto.service", 1))]
        descriptor, changed = systemd.fileno(), [systemd.process()]
        sh("systemctl start dbus.socket")
        changed += [systemd.process(), systemd.process()]
        result = answers, descriptor, changed, systemd.unit("mosquitto.service")
        """,
    )
    for name, text, remedy in answers:
        assert name == "BusUnavailableError"
        assert "systemd cannot be reached over D-Bus" in text
        assert remedy == "systemctl status dbus.socket"
    assert descriptor is None
    assert changed == [frozenset(), {"mosquitto.service"}, frozenset()]
    assert after.is_active


# Transient units --------------------------------------------------------------------------------------------

RUN = """
def run(script, timeout=5):
    properties = [("ExecStart", "a(sasb)", [("/bin/sh", ["/bin/sh", "-c", script], False)])]
    return systemd.transient("try-it.service", properties, timeout)
"""


def test_a_transient_unit_tells_how_it_started_and_is_gone(gw: gateway.Gateway) -> None:
    results, left = ask(
        gw,
        RUN
        + textwrap.dedent("""
        results = []
        for script in ("systemd-notify --ready; sleep 60", "exit 7", "kill -6 $$$$"):
            results.append(run(script))
            for _ in range(100):
                if systemd.unit("try-it.service").load_state == "not-found":
                    break
                time.sleep(0.02)
        result = results, sh("systemctl list-units --all --no-legend 'try-it*'; pgrep -x sleep || :")
        """),
    )
    assert [(r.result, r.exec_main_status) for r in results] == [("done", 0), ("failed", 7), ("failed", -6)]
    assert left == ""


def test_a_transient_unit_that_is_never_ready_is_ended_in_time(gw: gateway.Gateway) -> None:
    ended = ask(gw, RUN + "result = run('sleep 60', 0.5)")
    assert (ended.result, ended.exec_main_status) == ("failed", -9)
    assert 500 <= ended.duration_ms < 2500


def test_a_transient_unit_whose_maker_died_ends_by_itself(gw: gateway.Gateway) -> None:
    during = ask(
        gw,
        RUN
        + textwrap.dedent("""
        maker = os.fork()
        if maker == 0:
            run("sleep 60", 1.5)
            os._exit(0)
        time.sleep(0.5)
        os.kill(maker, 9)
        result = systemd.unit("try-it.service").active_state
        """),
    )
    assert during == "activating"
    gw.wait_until(lambda: gw.unit("try-it.service")["LoadState"] == "not-found", timeout=5)


# The preflight ----------------------------------------------------------------------------------------------

CANDIDATE = """
main = open("/etc/mosquitto/mosquitto.conf", "rb").read() + b"\\nlog_dest stderr\\npersistence false\\n"
TLS = (b"listener 8883 127.0.0.1\\nallow_anonymous true\\n"
       b"certfile /etc/mosquitto/certs/tedge-agentd/server.pem\\n"
       b"keyfile /etc/mosquitto/certs/tedge-agentd/server.pem\\n")
def pair(mismatch=False):
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 9 2>/dev/null"
    sh(f"cd /tmp; {make} -keyout key.pem -out cert.pem; {make} -keyout other.pem -out /dev/null")
    return open("/tmp/cert.pem", "rb").read() + open("/tmp/other.pem" if mismatch else "/tmp/key.pem", "rb").read()
def attempt(listeners=TLS, staged=None, **more):
    os.makedirs("/run/tedge-agentd", exist_ok=True)
    files = {"/etc/mosquitto/mosquitto.conf": main, "/etc/mosquitto/conf.d/tedge-mosquitto.conf": listeners} | more
    candidate = preflight.Candidate(files=files, staged=staged or {})
    return preflight.preflight(systemd, candidate, preflight.Broker(), runtime_dir="/run/tedge-agentd", timeout_s=5)
"""


def test_in_a_preflight_the_broker_says_what_it_would_say(gw: gateway.Gateway) -> None:
    results = ask(
        gw,
        CANDIDATE
        + textwrap.dedent("""
        good = pair()
        result = [
            attempt(staged={"server.pem": good}),
            attempt(staged={"server.pem": pair(mismatch=True)}),
            attempt(),
            attempt(b"nonsense\\n"),
        ]
        """),
    )
    assert [r.accepted for r in results] == [True, False, False, False]
    assert [r.exit_status for r in results] == [0, 1, 1, 3]
    says = ["key values mismatch", "No such file or directory", "Unknown configuration variable "]
    for found, text in zip(results[1:], says, strict=True):
        assert text in found.reason
        assert not re.search(r"^\d{9}", found.reason)


def test_two_listeners_in_one_place_are_refused_and_the_running_broker_is_no_obstacle(gw: gateway.Gateway) -> None:
    """Where the kernel does not let systemd isolate the network, that is said instead of blaming the candidate."""
    alone, twice = ask(
        gw,
        CANDIDATE
        + textwrap.dedent("""
        result = [caught(lambda: attempt(b"listener 1883 127.0.0.1\\n")),
                  caught(lambda: attempt(b"listener 1999 127.0.0.1\\nlistener 1999 0.0.0.0\\n"))]
        """),
    )
    if len(gw.run("systemd-run -q --pipe -p PrivateNetwork=yes cat /proc/net/dev").stdout.splitlines()) == 3:
        assert alone.accepted, alone
        assert "Address already in use" in twice.reason
    else:
        for kind, text, _ in (alone, twice):
            assert kind == "PreflightError"
            assert "does not let systemd start the broker in a network of its own" in text


def test_a_preflight_leaves_no_trace_and_does_not_touch_the_running_broker(gw: gateway.Gateway) -> None:
    gw.run("mosquitto_pub -r -t kept -m kept")
    gw.run("pkill -USR1 mosquitto")  # write the database
    broker = gw.invocation("mosquitto.service")
    before, after = ask(
        gw,
        CANDIDATE
        + textwrap.dedent("""
        def world():
            return sh("find /etc /var/lib /var/log/mosquitto /run /tmp -xdev -path /run/systemd -prune -o "
                      "-path /var/lib/systemd -prune -o -printf '%p %U:%G %m %s %T@\\\\n' | sort; "
                      "sha256sum /var/lib/mosquitto/mosquitto.db; grep -c . /proc/net/tcp")
        good = pair()
        os.makedirs("/run/tedge-agentd")
        time.sleep(0.5)
        systemd.unit("mosquitto.service")
        before = world()
        for _ in range(5):
            attempt(staged={"server.pem": good, "client-ca/0a1b2c3d.0": good})
            attempt(staged={"server.pem": b"garbage"})
        result = before, world()
        """),
    )
    without_clock = re.compile(r"^/run/tedge-agentd .*$", re.MULTILINE)
    assert without_clock.sub("", after) == without_clock.sub("", before)
    assert "/etc/mosquitto/certs/tedge-agentd" not in after
    assert gw.invocation("mosquitto.service") == broker
    assert gw.run("mosquitto_sub -W 2 -C 1 -t kept").stdout == "kept\n"


def test_a_preflight_works_before_the_brokers_first_start(gw: gateway.Gateway) -> None:
    gw.run("systemctl stop mosquitto")
    gw.sh("rm -rf /run/mosquitto /var/log/mosquitto")
    found = ask(gw, CANDIDATE + "result = attempt(staged={'server.pem': pair()})")
    assert found.accepted, found
    assert not gw.exists("/run/mosquitto")
    assert not gw.exists("/var/log/mosquitto")


def test_a_preflight_sees_new_directories_other_files_and_no_removed_ones(gw: gateway.Gateway) -> None:
    gw.write("/etc/mosquitto/conf.d/removed.conf", "nonsense\n")
    gw.write("/etc/mosquitto/conf.d/passwords", "", mode=0o600, owner="mosquitto:mosquitto")
    gw.write("/var/lib/mosquitto/acl", "topic readwrite #\n", owner="mosquitto:mosquitto")
    found = ask(
        gw,
        CANDIDATE
        + textwrap.dedent("""
        main += b"include_dir /etc/tedge/mosquitto-conf\\n"
        listeners = (b"listener 1999 127.0.0.1\\npassword_file /etc/mosquitto/conf.d/passwords\\n"
                     b"acl_file /var/lib/mosquitto/acl\\n")
        result = attempt(listeners, **{"/etc/tedge/mosquitto-conf/other.conf": b"listener 1998 127.0.0.1\\n"})
        """),
    )
    assert found.accepted, found
    assert "1998" in found.stderr
    assert not gw.exists("/etc/tedge/mosquitto-conf")


def test_a_key_that_only_root_could_read_is_refused(gw: gateway.Gateway) -> None:
    """The start as root hides nothing: the broker reads its keys after it gave up root (facts/mosquitto.md 7)."""
    found = ask(
        gw,
        CANDIDATE
        + textwrap.dedent("""
        pair()
        os.chmod("/tmp/key.pem", 0o600)
        sh("cp /tmp/key.pem /tmp/cert.pem /etc/mosquitto/certs/")
        result = attempt(b"listener 8883 127.0.0.1\\ncertfile /etc/mosquitto/certs/cert.pem\\n"
                         b"keyfile /etc/mosquitto/certs/key.pem\\n")
        """),
    )
    assert "Permission denied" in found.reason


def test_what_keeps_the_preflight_from_running_is_told_apart(gw: gateway.Gateway) -> None:
    user, program, silent = ask(
        gw,
        CANDIDATE
        + textwrap.dedent("""
        os.makedirs("/run/tedge-agentd")
        def with_broker(**changes):
            candidate = preflight.Candidate(files={"/etc/mosquitto/mosquitto.conf": main})
            broker = preflight.Broker(**changes)
            return preflight.preflight(systemd, candidate, broker, runtime_dir="/run/tedge-agentd", timeout_s=0.5)
        result = [caught(lambda: with_broker(user="nobody-we-know")),
                  caught(lambda: with_broker(command=("/usr/sbin/nothing", "-c", "x"))),
                  with_broker(command=("/bin/sleep", "60"))]
        """),
    )
    assert user[:2] == ("PreflightError", "the broker's user nobody-we-know does not exist")
    assert program[0] == "PreflightError"
    assert "status 203" in program[1]
    assert not silent.accepted
    assert "ended by signal 9" in silent.reason


def test_a_preflight_sweeps_what_a_killed_one_left(gw: gateway.Gateway) -> None:
    gw.write("/run/tedge-agentd/preflight-dead/0/server.pem", "old key", mode=0o600)
    gw.write("/run/tedge-agentd/status.json", "{}")
    ask(gw, CANDIDATE + "result = attempt(staged={'server.pem': pair()})")
    assert gw.files.listdir("/run/tedge-agentd") == ["status.json"]


def test_a_preflight_runs_from_inside_the_services_sandbox(gw: gateway.Gateway) -> None:
    sandbox = sandbox_properties()
    assert "CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE" in sandbox
    prefix = ["systemd-run", "--quiet", "--pipe", "--wait", *(f"--property={line}" for line in sandbox)]
    good, bad, left = ask(
        gw,
        CANDIDATE
        + textwrap.dedent("""
        good = attempt(b"listener 1999 127.0.0.1\\n", {"server.pem": b"", "client-ca/0a1b2c3d.0": b"x"})
        result = good, attempt(staged={"server.pem": b"garbage"}), os.listdir("/run/tedge-agentd")
        """),
        prefix=tuple(prefix),
    )
    assert good.accepted, good
    assert "no start line" in bad.reason
    assert left == []


def sandbox_properties() -> list[str]:
    """The sandbox of our own unit file, line by line. systemd-run 252 cannot read IPAddressAllow='s words."""
    lines = (_REPOSITORY / "systemd/tedge-agentd.service").read_text().splitlines()
    service = lines[lines.index("[Service]") + 1 : lines.index("[Install]")]
    others = r"Type|Exec|Restart|Success|Timeout|Watchdog|KillMode|ConfigurationDirectory|StateDirectory|IPAddress|#"
    return [line for line in service if line and not re.match(others, line)]


def test_a_reload_that_is_under_way_is_no_start_or_stop(gw: gateway.Gateway) -> None:
    add_unit(gw, "slow.service", f"{SLEEPER}ExecReload=/bin/sleep 2\nExecStop=/bin/sleep 2\n")
    gw.run("systemctl start slow.service")
    reloading, stopping = ask(
        gw,
        """
        result = []
        for verb in ("reload", "stop"):
            sh(f"systemctl --no-block {verb} slow.service; sleep 0.3")
            result.append(systemd.unit("slow.service"))
            sh("sleep 2")
        """,
    )
    assert (reloading.job, reloading.active_state) == (False, "reloading")
    assert (stopping.job, stopping.active_state) == (True, "deactivating")
