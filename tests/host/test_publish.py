"""Seen through a real Mosquitto: what is published, when, what is not, and that nobody ever waits for it."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.core import messages, model
from tedge_agentd.host import publish, session, walk, wire
from tests.host.test_probe import Identity, Pki, free_port, issue, level_lines, until

SERVICE = "te/device/main/service/tedge-agentd"
HEALTH = f"{SERVICE}/status/health"
ALARM = f"{SERVICE}/a/tedge_agentd_degraded"
DEGRADED = messages.Alarms(raised=(messages.Alarm(kind=messages.DEGRADED, severity="critical", text="it is so"),))


# The wire ---------------------------------------------------------------------------------------------------


class Tape:
    """A channel that plays what a broker sent, in the pieces it came in, and then closes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = list(pieces)
        self.sent = b""

    def read_some(self, *, wait: bool = True) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def renew(self, _: float) -> None:
        pass

    def stay(self) -> None:
        pass


def playing(*pieces: bytes) -> session.Session:
    return session.Session(Tape(list(pieces)), 1.0)  # type: ignore[arg-type]


def incoming(topic: str, payload: bytes, *, retained: bool = True) -> bytes:
    name = topic.encode()
    kind = wire.PUBLISH | (wire.RETAIN if retained else 0)
    return wire.packet(kind, struct.pack(">H", len(name)) + name + payload)


@given(
    told=st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=300), st.booleans()), max_size=8),
    cuts=st.lists(st.integers(min_value=1, max_value=40), max_size=60),
)
def test_messages_arrive_whole_however_the_bytes_come(told: list[tuple[str, bytes, bool]], cuts: list[int]) -> None:
    stream = b"".join(incoming(topic, payload, retained=retained) for topic, payload, retained in told)
    stream += wire.packet(wire.PINGRESP, b"")
    pieces = []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    one = playing(*(piece for piece in (*pieces, stream) if piece))
    one.sync()
    assert [(m.topic, m.payload, m.retained) for m in one._inbox] == told


@given(pieces=st.lists(st.binary(min_size=1, max_size=80), max_size=10))
def test_whatever_a_server_sends_ends_in_an_os_error_at_worst(pieces: list[bytes]) -> None:
    actions: list[Callable[[session.Session], object]] = [
        lambda one: one.connect("te", b"secret"),
        lambda one: one.publish("te/x", b""),
        lambda one: one.subscribe(["te/#"]),
        lambda one: one.sync(),
        lambda one: one.arrived(),
    ]
    for action in actions:
        with contextlib.suppress(OSError):
            action(playing(*pieces))


def test_a_giant_message_is_not_taken_in() -> None:
    with pytest.raises(ConnectionAbortedError, match="none for us"):
        playing(bytes([wire.PUBLISH, 0xFF, 0xFF, 0xFF, 0x7F])).arrived()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384])
def test_a_packet_is_as_long_as_it_says(size: int) -> None:
    packet = wire.packet(wire.PUBLISH, b"x" * size)
    assert session._packet_size(packet) == (len(packet) - size, len(packet))


# A broker ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Broker:
    """A Mosquitto that can be restarted, and somebody who writes down all that is published."""

    directory: Path
    lines: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = None
    watcher: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        conf, log = self.directory / "broker.conf", self.directory / "broker.log"
        internal = [f"listener {self.port + 1} 127.0.0.1", "allow_anonymous true"] if self.lines else []
        first = [f"listener {self.port} 127.0.0.1", *(self.lines or ["allow_anonymous true"])]
        text = ["per_listener_settings true", "user root", *self.options(), *first, *internal]
        conf.write_text("\n".join(text) + "\n")
        with log.open("wb") as output:
            self.process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", conf], stdout=output, stderr=output)
        until(lambda: "running" in log.read_text() or self.running.poll() is not None)
        assert self.running.poll() is None, log.read_text()
        self.watch()

    def options(self) -> list[str]:
        return ["persistence true", f"persistence_location {self.directory}/"]

    def watch(self) -> None:
        port = self.port + 1 if self.lines else self.port
        words = ["mosquitto_sub", "-p", str(port), "-t", "te/#", "-F", "%r\t%t\t%p"]
        with (self.directory / "seen").open("ab") as output:
            self.watcher = subprocess.Popen(words, stdout=output)
        mark = f"te/watching/{self.watcher.pid}"

        def watched() -> bool:
            self.say(mark)
            return mark in (self.directory / "seen").read_text()

        until(watched)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def stop(self) -> None:
        for process in (self.watcher, self.process):
            if process is not None:
                process.terminate()
                process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def seen(self) -> list[tuple[str, str]]:
        """What was published while somebody watched, retained messages of before left out."""
        path = self.directory / "seen"
        rows = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
        return [(row[1], row[2]) for row in rows if row[0] == "0" and not row[1].startswith("te/watching/")]

    def held(self, topic: str = "te/#") -> dict[str, dict[str, object]]:
        """What the broker retains."""
        port = self.port + 1 if self.lines else self.port
        words = ["mosquitto_sub", "-p", str(port), "-t", topic, "--retained-only", "-W", "1", "-F", "%t\t%p"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return {row[0]: json.loads(row[2]) for row in (line.partition("\t") for line in done.stdout.splitlines())}

    def say(self, topic: str, payload: str = "{}") -> None:
        port = self.port + 1 if self.lines else self.port
        subprocess.run(["mosquitto_pub", "-p", str(port), "-t", topic, "-m", payload], check=True)

    def target(self, **more: object) -> publish.Target:
        client = dataclasses.replace(model.ClientSettings(port=self.port), **more)  # type: ignore[arg-type]
        return target_of(client)


def target_of(client: model.ClientSettings) -> publish.Target:
    roots = walk.Roots(managed=("/etc/tedge",))
    return publish.Target(client=client, user="root", roots=roots, topic_root="te", device="device/main//")


MakeBroker = Callable[..., Broker]


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[MakeBroker]:
    made: list[Broker] = []

    def make(*lines: str) -> Broker:
        directory = tmp_path / f"broker{len(made)}"
        directory.mkdir()
        made.append(Broker(directory=directory, lines=list(lines), port=free_ports()))
        made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


def free_ports() -> int:
    """A port that is free with its successor."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as other:
            other.bind(("127.0.0.1", port + 1))
            return port


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[publish.Publisher]:
    one = publish.Publisher(str(tmp_path / "publish.json"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    directory = tmp_path_factory.mktemp("pki")
    ca = issue(directory, "ca")
    server = issue(directory, "server", ca, sans=("127.0.0.1",))
    client = issue(directory, "client", ca)
    unused: Identity = ca
    return Pki(ca=ca, server=server, renewed=unused, expired=unused, client=client, other_ca=unused, stranger=unused)


def health(broker: Broker) -> object:
    return broker.held(HEALTH).get(HEALTH, {}).get("status")


# What is seen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", model.Level)
def test_it_is_seen_with_the_clients_own_settings(
    make_broker: MakeBroker, publisher: publish.Publisher, pki: Pki, level: model.Level
) -> None:
    broker = make_broker(*(level_lines(level, pki, pki.server) if level is not model.Level.NONE else []))
    more: dict[str, object] = {} if level is model.Level.NONE else {"ca_file": str(pki.ca.cert)}
    if level is model.Level.MUTUAL:
        more |= {"cert_file": str(pki.client.cert), "key_file": str(pki.client.key)}
    publisher.tell(publish.Said(target=broker.target(**more), alarms=DEGRADED))
    until(lambda: len(broker.seen()) == 3)
    held = broker.held()
    assert held[SERVICE]["@type"] == "service"
    assert (held[HEALTH]["status"], held[HEALTH]["pid"]) == ("up", os.getpid())
    assert (held[ALARM]["text"], held[ALARM]["severity"]) == ("it is so", "critical")
    publisher.close()
    assert health(broker) == "down"


def test_it_is_seen_with_a_user_name_and_a_password(
    make_broker: MakeBroker, publisher: publish.Publisher, tmp_path: Path
) -> None:
    known, mine = tmp_path / "known", tmp_path / "mine"
    known.touch()
    subprocess.run(["mosquitto_passwd", "-b", known, "te", "right"], check=True, capture_output=True)
    mine.write_text("right\n")
    broker = make_broker("allow_anonymous false", f"password_file {known}")
    publisher.tell(publish.Said(target=broker.target(username="te", password_file=str(mine))))
    until(lambda: len(broker.seen()) == 2)


def test_an_alarm_waits_its_time_is_raised_once_and_cleared_when_it_is_over(
    make_broker: MakeBroker, publisher: publish.Publisher
) -> None:
    broker = make_broker()
    waiting = dataclasses.replace(DEGRADED.raised[0], wait_s=0.5)
    publisher.tell(publish.Said(target=broker.target(), alarms=messages.Alarms(raised=(waiting,))))
    until(lambda: len(broker.seen()) == 2)
    assert ALARM not in broker.held()
    until(lambda: len(broker.seen()) == 3)
    for _ in range(5):  # as passes do that find nothing new
        publisher.tell(publish.Said(target=broker.target(), alarms=DEGRADED))
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 4)
    assert broker.seen()[2:] == [(ALARM, broker.seen()[2][1]), (ALARM, "")]
    assert ALARM not in broker.held()


def test_a_restart_of_the_broker_makes_no_noise(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    broker = make_broker()
    said = publish.Said(target=broker.target(), alarms=DEGRADED)
    publisher.tell(said)
    until(lambda: len(broker.seen()) == 3)
    publisher.pause()
    broker.restart()
    publisher.tell(said)
    broker.say(f"{SERVICE}/cmd/health/check")  # answered once it is back, so that we know it is
    until(lambda: publisher._session is not None)
    broker.say(f"{SERVICE}/cmd/health/check")
    until(lambda: (HEALTH, broker.seen()[-1][1]) == broker.seen()[-1])
    assert {topic for topic, _ in broker.seen()[3:]} <= {HEALTH, f"{SERVICE}/cmd/health/check"}


def test_what_a_broker_has_forgotten_is_said_again(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    broker = make_broker()
    broker.options = list  # type: ignore[method-assign]  # no persistence
    broker.restart()
    publisher.tell(publish.Said(target=broker.target(), alarms=DEGRADED))
    until(lambda: len(broker.seen()) == 3)
    broker.restart()
    until(lambda: len(broker.seen()) == 6)
    assert set(broker.held()) == {SERVICE, HEALTH, ALARM}


def test_an_alarm_of_an_earlier_life_is_cleared(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    broker = make_broker()
    blocked = f"{SERVICE}/a/tedge_agentd_blocked"
    foreign = f"{SERVICE}/a/of_somebody_else"
    for topic in (blocked, foreign):
        words = ["mosquitto_pub", "-p", str(broker.port), "-r", "-t", topic, "-m", '{"text":"old"}']
        subprocess.run(words, check=True)
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: (blocked, "") in broker.seen())
    assert foreign in broker.held()


@pytest.mark.parametrize("topic", [f"{SERVICE}/cmd/health/check", "te/device/main///cmd/health/check"])
def test_a_health_check_is_answered(make_broker: MakeBroker, publisher: publish.Publisher, topic: str) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    broker.say(topic)
    until(lambda: len(broker.seen()) == 4)
    assert broker.seen()[3][0] == HEALTH
    assert json.loads(broker.seen()[3][1])["status"] == "up"


def test_a_flood_of_health_checks_costs_an_answer_a_second(
    make_broker: MakeBroker, publisher: publish.Publisher
) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    flood = "\n".join(["{}"] * 20_000)
    words = ["mosquitto_pub", "-p", str(broker.port), "-t", f"{SERVICE}/cmd/health/check", "-l"]
    clock = time.pthread_getcpuclockid(ident_of(publisher))
    begun, cpu = time.monotonic(), time.clock_gettime(clock)
    subprocess.run(words, input=flood, text=True, check=True)
    time.sleep(1.5)
    answers = sum(topic == HEALTH for topic, _ in broker.seen()[2:])
    assert 1 <= answers <= time.monotonic() - begun + 2
    assert time.clock_gettime(clock) - cpu < 0.5
    broker.say("te/done")
    until(lambda: ("te/done", "{}") in broker.seen(), timeout=20.0)


# Nobody waits -----------------------------------------------------------------------------------------------


def thread_of(publisher: publish.Publisher) -> int:
    assert publisher._thread is not None
    assert publisher._thread.native_id is not None
    return publisher._thread.native_id


def ident_of(publisher: publish.Publisher) -> int:
    assert publisher._thread is not None
    assert publisher._thread.ident is not None
    return publisher._thread.ident


def test_an_idle_connection_wakes_nobody(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target(), alarms=DEGRADED))
    until(lambda: len(broker.seen()) == 3)
    time.sleep(0.3)  # our own words come back to us

    def wakeups() -> str:
        status = Path(f"/proc/self/task/{thread_of(publisher)}/status").read_text()
        return next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))

    before = wakeups()
    time.sleep(3.0)
    assert wakeups() == before


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and says nothing, ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


def test_a_broker_that_hangs_delays_nothing(publisher: publish.Publisher) -> None:
    with silent_server() as port:
        said = publish.Said(target=target_of(model.ClientSettings(port=port)), alarms=DEGRADED)
        publisher.tell(said)
        time.sleep(0.1)
        begun = time.monotonic()
        for _ in range(100):
            publisher.pause()
            publisher.resume()
            publisher.tell(said)
        assert time.monotonic() - begun < 0.1
        begun = time.monotonic()
        publisher.close()
        assert time.monotonic() - begun < 1.5


def test_signals_stay_the_main_threads(publisher: publish.Publisher, make_broker: MakeBroker) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: caught.append(threading.get_ident()))
    try:
        status = Path(f"/proc/self/task/{thread_of(publisher)}/status").read_text()
        blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
        assert blocked >> (signal.SIGTERM - 1) & 1
        os.kill(os.getpid(), signal.SIGUSR1)
        assert caught == [threading.main_thread().ident]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_while_a_pass_is_at_the_broker_nothing_is_said(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    publisher.pause()
    broker.say(f"{SERVICE}/cmd/health/check")
    time.sleep(0.3)
    assert len(broker.seen()) == 3
    publisher.resume()
    until(lambda: len(broker.seen()) == 4)


# Bad times --------------------------------------------------------------------------------------------------


def test_with_settings_that_do_not_work_it_stays_where_it_is_seen(
    make_broker: MakeBroker, publisher: publish.Publisher
) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    nowhere = dataclasses.replace(broker.target(), client=model.ClientSettings(port=free_port()))
    publisher.tell(publish.Said(target=nowhere, alarms=DEGRADED))
    until(lambda: len(broker.seen()) == 3)
    assert broker.seen()[2][0] == ALARM


@pytest.mark.parametrize("readable", [True, False], ids=["settings that do not work", "settings that cannot be read"])
def test_after_a_start_it_goes_where_it_was_seen_last(
    make_broker: MakeBroker, tmp_path: Path, readable: bool
) -> None:
    broker = make_broker()
    path = str(tmp_path / "publish.json")
    publish.remember(path, broker.target(), 1)
    nowhere = target_of(model.ClientSettings(port=free_port()))
    publisher = publish.Publisher(path)
    publisher.tell(publish.Said(target=nowhere if readable else None, alarms=DEGRADED))
    until(lambda: len(broker.seen()) == 3)
    publisher.close()


def test_it_moves_to_the_new_settings_once_they_work(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    first, second = make_broker(), make_broker()
    publisher.tell(publish.Said(target=first.target()))
    until(lambda: len(first.seen()) == 2)
    second.stop()
    publisher.tell(publish.Said(target=second.target()))
    time.sleep(0.2)
    second.start()
    until(lambda: len(second.seen()) == 2)


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted in between"])
@pytest.mark.parametrize(
    "change", [{"topic_root": "te/acme"}, {"device": "device/gw-7//"}, {"device": "factory/hall//"}]
)
def test_what_was_said_in_another_place_is_taken_back_once(
    make_broker: MakeBroker,
    publisher: publish.Publisher,
    tmp_path: Path,
    change: dict[str, str],
    *,
    restarted: bool,
) -> None:
    broker = make_broker()
    foreign = f"{SERVICE}/a/of_somebody_else"
    subprocess.run(["mosquitto_pub", "-p", str(broker.port), "-r", "-t", foreign, "-m", "{}"], check=True)
    publisher.tell(publish.Said(target=broker.target(), alarms=DEGRADED))
    until(lambda: len(broker.seen()) == 4)
    if restarted:
        publisher.close()
        publisher = publish.Publisher(str(tmp_path / "publish.json"))
    before = len(broker.seen())
    moved = dataclasses.replace(broker.target(), **change)  # type: ignore[arg-type]
    where = moved.topics
    expected = {
        foreign,
        *((where.service, where.health, where.alarm(messages.DEGRADED)) if where is not None else ()),
    }
    publisher.tell(publish.Said(target=moved, alarms=DEGRADED))
    until(lambda: set(broker.held()) == expected)
    until(lambda: (publish.recall(str(tmp_path / "publish.json")) == moved) is (where is not None))
    publisher.tell(publish.Said(target=moved, alarms=DEGRADED))
    publisher.close()
    cleared = sorted(topic for topic, payload in broker.seen()[before:] if not payload)
    assert cleared == sorted([SERVICE, HEALTH, ALARM])


def test_the_form_of_what_is_said_follows_the_settings(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    form = messages.Form(service_type="systemd", times="rfc-3339")
    publisher.tell(publish.Said(target=dataclasses.replace(broker.target(), form=form)))
    until(lambda: len(broker.seen()) == 4)
    held = broker.held()
    assert held[SERVICE]["type"] == "systemd"
    assert str(held[HEALTH]["time"]).endswith("+00:00")


def test_where_thin_edge_is_not_there_nothing_is_begun(publisher: publish.Publisher) -> None:
    publisher.tell(None)
    assert publisher._thread is None


def test_where_thin_edge_was_removed_the_connection_ends(
    make_broker: MakeBroker, publisher: publish.Publisher
) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    publisher.tell(None)
    until(lambda: publisher._session is None)


def test_a_daemon_that_comes_back_is_not_down(make_broker: MakeBroker, publisher: publish.Publisher) -> None:
    broker = make_broker()
    publisher.tell(publish.Said(target=broker.target()))
    until(lambda: len(broker.seen()) == 2)
    publisher.close(say_down=False)
    assert health(broker) == "up"


def test_a_fifo_for_a_ca_stops_nobody(make_broker: MakeBroker, publisher: publish.Publisher, tmp_path: Path) -> None:
    broker = make_broker()
    os.mkfifo(tmp_path / "fifo")
    logged: list[str] = []
    publisher._log = logged.append
    publisher.tell(publish.Said(target=broker.target(ca_file=str(tmp_path / "fifo"))))
    until(lambda: bool(logged), timeout=10.0)
    assert "FIFO" in logged[0]


# Down -------------------------------------------------------------------------------------------------------


def publish_down(path: Path) -> float:
    script = "import sys; from tedge_agentd import publish_down; publish_down.main(sys.argv[1])"
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=10)
    return time.monotonic() - begun


def test_the_last_word_of_a_daemon_that_died_is_said_for_it(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker = make_broker()
    path = tmp_path / "publish.json"
    publish.remember(str(path), broker.target(), 4711)
    publish_down(path)
    assert broker.held(HEALTH)[HEALTH] == {"pid": 4711, "status": "down"}


def test_with_the_package_go_its_alarms(make_broker: MakeBroker) -> None:
    broker = make_broker()
    foreign = f"{SERVICE}/a/of_somebody_else"
    for topic in (ALARM, foreign):
        words = ["mosquitto_pub", "-p", str(broker.port), "-r", "-t", topic, "-m", '{"text":"old"}']
        subprocess.run(words, check=True)
    publish.down(broker.target(), 1, gone=True)
    assert set(broker.held()) == {HEALTH, foreign}
    assert sorted(topic for topic, _ in broker.seen()[2:]) == sorted([ALARM, HEALTH])


def test_the_last_word_never_fails_and_has_an_end(tmp_path: Path) -> None:
    assert publish_down(tmp_path / "missing") < 3.0
    path = tmp_path / "publish.json"
    path.write_text("[]")
    publish_down(path)
    with silent_server() as port:
        publish.remember(str(path), target_of(model.ClientSettings(port=port)), 1)
        assert publish_down(path) < 5.0
    publish.remember(str(path), target_of(model.ClientSettings(port=free_port())), 1)
    assert publish_down(path) < 3.0


def test_what_is_remembered_is_roots_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "publish.json"
    client = model.ClientSettings(host="gw", port=8883, ca_file="/a", username="te", password_file="/b")
    form = messages.Form(service_type="x", times="rfc-3339")
    target = dataclasses.replace(target_of(client), topic_root="acme", form=form)
    publish.remember(str(path), target, 12)
    assert (publish.recall(str(path)), publish.recall_pid(str(path))) == (target, 12)
    assert path.stat().st_mode & 0o7777 == 0o600


@given(
    data=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.text(),
        lambda x: st.dictionaries(
            st.sampled_from(["target", "client", "roots", "managed", "broker_dir", "user", "pid"]), x
        ),
    ).map(lambda table: json.dumps(table).encode())
)
def test_a_damaged_memory_is_no_memory(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(data)
    assert publish.recall(str(path)) is None
    assert publish.recall_pid(str(path)) == 0
