"""Whether ten thousand passes leave anything behind: `sudo make soak`. Prints what grew, and fails if anything did.

The daemon runs in its unit on a booted gateway, with the real broker. A player beside it changes something at random,
valid or not, asks for a pass, waits until it is over, and counts what the daemon then holds: resident memory,
descriptors, threads, inotify watches, child processes. The first thousand passes warm it up.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import textwrap
import time
from typing import Any

from tests.system import basetree, gateway, measured, pki, scenes, standins, test_outage

REPOSITORY = pathlib.Path(__file__).parents[1]
WARM = 0.1  # of all passes
EVERY = 100  # passes between two countings
GROWTH = {"resident kB": 1024, "descriptors": 0, "threads": 0, "inotify watches": 0, "children": 0}

# Runs inside the gateway: nothing but the standard library, and /root/inputs.json.
PLAYER = """
import json, os, random, signal, sys, time
inputs = json.load(open("/root/inputs.json"))
certs, cas = inputs["certs"], inputs["cas"]
dice = random.Random(inputs["seed"])
def put(path, text, mode=0o644, uid=None):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    with open(path + ".new", "wb") as file:
        os.fchmod(file.fileno(), mode)
        if uid is not None:
            os.fchown(file.fileno(), uid, uid)
        file.write(data)
    os.replace(path + ".new", path)
def toml(text):
    put("/etc/tedge/tedge.toml", text)
def status():
    while True:
        try:
            return json.load(open("/run/tedge-agentd/status.json"))
        except (OSError, ValueError):
            time.sleep(0.001)
def renew():
    pair = dice.choice(inputs["pairs"])
    put(certs + "/server.crt", pair[0])
    if dice.random() < 0.3:
        ask()  # between the halves
    put(certs + "/server.key", pair[1], 0o600)
def remark():
    number = dice.randrange(len(inputs["authorities"]))
    put(cas + "/%03d.pem" % number, inputs["authorities"][number] + "# %d\\n" % dice.randrange(10**6))
def withdraw():
    last = len(inputs["authorities"]) - 1
    os.unlink(cas + "/%03d.pem" % last)
    ask()
    put(cas + "/%03d.pem" % last, inputs["authorities"][last])
def port():
    toml(inputs["good"].replace("8883", dice.choice(["8883", "8884"])))
def noise():
    for name in range(dice.randrange(20)):
        put("/etc/tedge/noise%d" % name, "x")
def trouble():
    os.rename(certs, certs + ".away")
    ask()
    os.rename(certs + ".away", certs)
def ask():
    before = status()["counters"]["passes"]
    pid = status()["pid"]
    os.kill(pid, signal.SIGHUP)
    while status()["counters"]["passes"] <= before:
        time.sleep(0.002)
def held(pid):
    base = "/proc/%d/" % pid
    words = dict(line.split(":", 1) for line in open(base + "status"))
    watches = 0
    for fd in os.listdir(base + "fdinfo"):
        try:
            watches += open(base + "fdinfo/" + fd).read().count("inotify wd:")
        except OSError:
            pass
    tasks = [base + "task/" + task + "/children" for task in os.listdir(base + "task")]
    return {
        "resident kB": int(words["VmRSS"].split()[0]),
        "descriptors": len(os.listdir(base + "fd")),
        "threads": int(words["Threads"]),
        "inotify watches": watches,
        "children": sum(len(open(path).read().split()) for path in tasks),
    }
acts = [(renew, 12), (remark, 2), (withdraw, 0.05), (port, 0.05), (noise, 10), (trouble, 3)]
acts += [(lambda text=text: toml(text.encode("latin-1")), 50 / len(inputs["bad"])) for text in inputs["bad"]]
acts += [(lambda: None, 20)]
while True:
    now = status()["counters"]["passes"]
    if now >= inputs["passes"]:
        break
    dice.choices([act for act, _ in acts], [weight for _, weight in acts])[0]()
    ask()
    if dice.random() < 0.3:
        toml(inputs["good"])
    if status()["counters"]["passes"] // inputs["every"] > now // inputs["every"]:
        toml(inputs["good"])  # counted in the same state each time
        ask()
        time.sleep(0.3)
        shown = status()
        print(json.dumps({**held(shown["pid"]), **shown["counters"]}), flush=True)
"""


def inputs(ca: pki.Authority, passes: int, seed: int) -> dict[str, Any]:
    good = test_outage.toml(ca_path=f'"{scenes.CERTS}/cas"', bind__port="8883")
    bad = [good[:40], good + "\n[[[", "\0", "\xff\xfe", good + "external.bind.port = 1\n"]
    for changes in (
        {"bind__port": '"8883"'},
        {"bind__port": "0"},
        {"bind__port": "1883"},
        {"bind__address": '"203.0.113.9"'},
        {"bind__interface": '"wlan7"', "bind__address": None},
        {"key_file": None},
        {"cert_file": '"/etc/shadow"'},
        {"key_file": '"/nowhere"'},
        {"ca_path": '"/dev/zero"'},
        {"cert_file": '"/a\\nuser root"'},
    ):
        bad.append(test_outage.toml(**({"ca_path": f'"{scenes.CERTS}/cas"'} | changes)))
    pairs = [ca.server() for _ in range(5)]
    return {
        "good": good,
        "bad": bad,
        "pairs": [(pair.pem, pair.key_pem()) for pair in pairs],
        "authorities": [ca.pem, *(pki.authority(f"authority {number}").pem for number in range(1, 12))],
        "certs": scenes.CERTS,
        "cas": f"{scenes.CERTS}/cas",
        "passes": passes,
        "every": EVERY,
        "seed": seed,
    }


def soak(gw: gateway.Gateway, passes: int, seed: int) -> list[dict[str, int]]:
    """Play until the daemon has run so many passes; return the countings, and print some on the way."""
    ca = pki.authority()
    scenes.write_pair(gw, ca.server())
    given = inputs(ca, passes, seed)
    for number, text in enumerate(given["authorities"]):
        gw.write(f"{scenes.CERTS}/cas/{number:03}.pem", text)
    standins.write_toml(gw, given["good"])
    scenes.settled(gw)
    gw.write("/root/inputs.json", json.dumps(given))
    gw.write("/root/player.py", textwrap.dedent(PLAYER))
    gw.write("/etc/tedge-agentd/config.toml", "settle_quiet = 0.01\n")
    daemon = gw.unit("tedge-agentd")["MainPID"]
    process = subprocess.Popen(
        gw.command("/usr/bin/python3 /root/player.py"), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    rows = []
    for line in process.stdout:
        rows.append(json.loads(line))
        if len(rows) % 10 == 1:
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    assert process.wait() == 0, "the player failed"
    assert gw.unit("tedge-agentd")["MainPID"] == daemon, "the daemon was restarted"
    return rows


def growth(rows: list[dict[str, int]], name: str) -> tuple[float, float]:
    """The median of the first tenth after the warming up, and of the last tenth."""
    steady = [row[name] for row in rows[int(len(rows) * WARM) :]]
    part = max(len(steady) // 10, 1)
    return statistics.median(steady[:part]), statistics.median(steady[-part:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=10_000)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    begun = time.monotonic()
    with gateway.Gateway(chosen.suite, deb=basetree.deb_under_test(REPOSITORY)) as gw:
        standins.install(gw)
        gw.boot()
        standins.wait_connected(gw)
        rows = soak(gw, chosen.passes, chosen.seed)
        active = gw.active("mosquitto")
    last = rows[-1]
    print(f"\n{last['passes']} passes in {time.monotonic() - begun:.0f} s on {chosen.suite}: ", end="")
    print(f"{last['broker_restarts']} restarts, {last['broker_reloads']} reloads, {last['rollbacks']} rollbacks")
    grown = []
    for name, allowed in GROWTH.items():
        before, after = growth(rows, name)
        print(f"{name:>16}: {before:.0f} -> {after:.0f}")
        measured.note("soak", what=name, release=chosen.suite, passes=last["passes"], before=before, after=after)
        if after - before > allowed:
            grown.append(name)
    if not active:
        grown.append("the broker is down")
    print(f"grown: {', '.join(grown)}" if grown else "nothing grew")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
