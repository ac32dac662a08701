"""User tedge, turned hostile: swaps what the settings name for other things, as fast as it can.

Runs inside a gateway, by its Python alone: `attacker.py KIND DIRECTORY`. It plays until its standard input ends, puts
things back, and prints how many rounds it played. Nobody but its own directory and tedge.toml is written by it.
"""

import contextlib
import os
import random
import select
import socket
import sys
from collections.abc import Callable

# Somebody else's: a password database, root's key, the broker's own copy, another service's key, a whole directory.
FOREIGN = (
    "/etc/shadow",
    "/etc/ssl/private/root.key",
    "/etc/ssl/private/root.pem",
    "/etc/mosquitto/certs/tedge-agentd/server.pem",
    "/etc/other/service.key",
    "/etc/other/service.crt",
    "/etc/passwd",
    "/etc/hostname",
)
DIRECTORIES = ("/etc/ssl/private", "/etc/other", "/etc/mosquitto/certs/tedge-agentd", "/root", "/etc")
CONF = "/etc/tedge/mosquitto-conf"


def over() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def gone(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


def in_place_of(path: str, make: Callable[[str], object]) -> None:
    """Put something else at a name for an instant, by renames alone, so that the name is always there."""
    kept, other = f"{path}.kept", f"{path}.other"
    try:
        make(other)
    except OSError:
        return  # the kernel's protected_hardlinks, for one
    with contextlib.suppress(OSError):
        os.rename(path, kept)
        os.rename(other, path)
    for _ in range(random.randrange(3)):
        os.sched_yield()
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            gone(path)
        os.rename(kept, path)
    gone(other)
    gone(kept)


def a_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)


def things() -> list[Callable[[str], object]]:
    foreign = random.choice(FOREIGN)
    return [
        lambda path: os.symlink(foreign, path),
        lambda path: os.symlink(os.path.relpath(foreign, os.path.dirname(path)), path),
        lambda path: os.symlink(path, path),
        lambda path: os.link(foreign, path, follow_symlinks=False),
        os.mkfifo,
        a_socket,
        os.mkdir,
    ]


def files(directory: str) -> None:
    """Swap the named files for links to foreign ones, pipes, sockets and directories."""
    name = random.choice(("server.crt", "server.key", "clients-ca.crt", "client.key", "password"))
    in_place_of(f"{directory}/{name}", random.choice(things()))


def directories(directory: str) -> None:
    """Swap the directory on the way for a link to a foreign one."""
    target = random.choice(DIRECTORIES)
    in_place_of(directory, lambda path: os.symlink(target, path))


def settings(directory: str) -> None:
    """Name foreign files, and files with the right extension and the wrong content, under every key."""
    names = (*FOREIGN, f"{directory}/wrong.key", f"{directory}/wrong.pem", "/etc/tedge/../shadow", "/proc/self/mem")
    one, two, three, four, five = (random.choice((*names, f"{directory}/server.key")) for _ in range(5))
    text = (
        f'[mqtt.external]\ncert_file = "{one}"\nkey_file = "{two}"\nca_path = "{three}"\n'
        f'[mqtt.client.auth]\ncert_file = "{four}"\nkey_file = "{five}"\nca_file = "{random.choice(names)}"\n'
        f'username = "u"\npassword_file = "{random.choice(names)}"\n'
    )
    path = "/etc/tedge/tedge.toml"
    if random.randrange(4) == 0:
        in_place_of(path, random.choice(things()))
        return
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def configuration(_: str) -> None:
    """Swap the listener file, system.toml and the directory of the broker's configuration."""
    name = random.choice((f"{CONF}/tedge-mosquitto.conf", "/etc/tedge/system.toml", CONF))
    if name == CONF:
        target = random.choice(DIRECTORIES)
        in_place_of(CONF, lambda path: os.symlink(target, path))
        return
    in_place_of(name, random.choice(things()))


def main() -> None:
    kind, directory = sys.argv[1:]
    play = {"files": files, "directories": directories, "settings": settings, "configuration": configuration}[kind]
    rounds = 0
    while not over():
        with contextlib.suppress(OSError):
            play(directory)
        rounds += 1
    print(rounds)


if __name__ == "__main__":
    main()
