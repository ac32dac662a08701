"""A throw-away gateway to look around in: `python -m tests.system.shell bookworm [COMMAND...]`.

It has Mosquitto, thin-edge's stand-ins and the newest package of dist/, and is gone when the shell or command ends.
"""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys

from . import basetree, gateway, standins

REPOSITORY = pathlib.Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.shell", description=__doc__)
    parser.add_argument("suite", choices=[*basetree.SUITES, basetree.MOVING])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run instead of a login shell")
    parser.add_argument("--no-deb", action="store_true", help="without the package under test")
    parser.add_argument("--no-thin-edge", action="store_true", help="without thin-edge's stand-ins")
    parser.add_argument("--copy", action="append", default=[], metavar="FILE", help="copy a file to /root first")
    options = parser.parse_args()
    try:
        deb = None if options.no_deb else basetree.deb_under_test(REPOSITORY)
    except FileNotFoundError as error:
        parser.error(str(error))
    with gateway.Gateway(options.suite, deb=deb) as gw:
        if not options.no_thin_edge:
            standins.install(gw)
        for name in options.copy:
            source = pathlib.Path(name)
            gw.write(f"/root/{source.name}", source.read_bytes(), mode=source.stat().st_mode & 0o777)
        gw.boot()
        command = options.command or ["/bin/bash", "-l"]
        if sys.stdin.isatty():  # a terminal of its own: this machine's has no name inside
            command = ["script", "-qec", shlex.join(command), "/dev/null"]
        environment = {**gateway.ENVIRONMENT, "HOME": "/root", "TERM": os.environ.get("TERM", "dumb")}
        there = gw.command(["env", "--chdir=/root", *command])
        return subprocess.run(there, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
