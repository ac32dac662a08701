"""Commands and exit codes; nothing else. What is heavy is imported where it is needed."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from . import RUNTIME_DIR, __version__

if TYPE_CHECKING:
    from .world import World

# Not in /run/lock, where everybody may make a file of this name first, and hold it.
CONFIG_LOCK = f"{RUNTIME_DIR}/config.lock"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (contract 4)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        code = _run_command(words)
        _flush()
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # argparse's, after --help and where it does not understand
        code = 1 if _is_output_lost() or done.code else 0
    except OSError:
        if not _is_output_lost():
            raise
        return 1
    return code


def _run_command(words: Sequence[str]) -> int:
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return 1
    arguments = parser.parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.command
    # The others write, or read what is root's alone. It is better said before than half way.
    if command not in {_status, _config_get, _config_list} and os.geteuid() != 0:
        name = " ".join(words[: 2 if words[0] in {"config", "certs"} else 1])
        return _fail(f"{name} has to be run as root", f"sudo tedge-agentd {shlex.join(words)}")
    return command(arguments)


def _flush() -> None:
    if sys.stdout is not None:  # it is, where it was closed
        sys.stdout.flush()


def _is_output_lost() -> bool:
    """Whether nobody can read on: the reader has gone, which it knows, or the disk is full, which it is told."""
    try:
        _flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"tedge-agentd: the output cannot be written: {error.strerror}", file=sys.stderr)
        return True
    return False


class _Parser(argparse.ArgumentParser):
    """Exits with 1 where the command line is not understood: argparse's 2 says "changes due" or "pending" here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="tedge-agentd",
        description="Keeps the MQTT listeners of a thin-edge.io gateway as its configuration asks.",
    )
    parser.add_argument("--version", action="version", version=f"tedge-agentd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="the daemon; systemd starts it")
    run.set_defaults(command=_run)

    plan = commands.add_parser("plan", help="what a pass would do now, and why, changing nothing")
    plan.add_argument("--diff", action="store_true", help="show the listener file's change as a unified diff")
    plan.add_argument("--json", action="store_true", help="for programs")
    plan.set_defaults(command=_plan)

    apply = commands.add_parser("apply", help="one pass now, without the daemon")
    apply.set_defaults(command=_apply)

    status = commands.add_parser("status", help="the daemon's view")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument(
        "--wait", type=_seconds, metavar="SECONDS", help="until everything on disk now has been dealt with"
    )
    status.set_defaults(command=_status)
    _add_config(commands)
    secure = commands.add_parser("secure", help="set up one level of MQTT security completely")
    levels = "none: plain MQTT; server: TLS; mutual: TLS, and clients need a certificate, too"
    secure.add_argument("level", choices=("none", "server", "mutual"), help=levels)
    secure.set_defaults(command=_secure)
    _add_certs(commands)
    return parser


def _add_config(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    config = commands.add_parser("config", help="read and write the mqtt.* keys of tedge.toml")
    verbs = config.add_subparsers(metavar="VERB", required=True)
    get = verbs.add_parser("get", help="print one key's value")
    get.add_argument("key")
    get.set_defaults(command=_config_get)
    set_ = verbs.add_parser("set", help="set keys, all in one atomic write")
    set_.add_argument("assignments", nargs="+", metavar="KEY=VALUE")
    set_.set_defaults(command=_config_set)
    unset = verbs.add_parser("unset", help="unset keys, all in one atomic write")
    unset.add_argument("keys", nargs="+", metavar="KEY")
    unset.set_defaults(command=_config_unset)
    list_ = verbs.add_parser("list", help="print all keys that are set")
    list_.set_defaults(command=_config_list)


def _add_certs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from . import certs_command  # noqa: PLC0415  # its parser alone; cryptography comes with its child

    certs_command.add_parser(commands)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


# The daemon and its passes ----------------------------------------------------------------------------------


def _run(_: argparse.Namespace) -> int:
    from . import daemon  # noqa: PLC0415
    from .host import files, journal  # noqa: PLC0415

    world = _world()
    journal.configure(world.settings.log_level)
    try:
        return daemon.Daemon(world).run()
    except files.Locked as error:
        return _fail(f"another tedge-agentd runs already: {error}", "systemctl status tedge-agentd")


def _plan(arguments: argparse.Namespace) -> int:
    from . import preview  # noqa: PLC0415

    return preview.show(_world(), as_json=arguments.json, diff=arguments.diff)


def _apply(_: argparse.Namespace) -> int:
    from . import preview  # noqa: PLC0415
    from .host import journal  # noqa: PLC0415

    journal.configure("warning")
    return preview.apply_now(_world())


def _status(arguments: argparse.Namespace) -> int:
    from . import status_command  # noqa: PLC0415

    data, timed_out = status_command.view(RUNTIME_DIR, wait=arguments.wait)
    if data is None:
        print("tedge-agentd is not running; systemctl start tedge-agentd", file=sys.stderr)
        return status_command.NOT_RUNNING
    print(json.dumps(data, indent=1) if arguments.json else status_command.text(data))
    return 2 if timed_out else status_command.CODES[str(data["state"])]


def _world() -> "World":
    """The real machine."""
    from . import world  # noqa: PLC0415

    return world.real()


# config -----------------------------------------------------------------------------------------------------


def _tedge_toml() -> str:
    return _world().settings.tedge_toml


def _config_get(arguments: argparse.Namespace) -> int:
    from . import config_command  # noqa: PLC0415

    return config_command.get(_tedge_toml(), arguments.key)


def _config_list(_: argparse.Namespace) -> int:
    from . import config_command  # noqa: PLC0415

    return config_command.list_(_tedge_toml())


def _config_set(arguments: argparse.Namespace) -> int:
    from . import config_command  # noqa: PLC0415

    return config_command.set_(_tedge_toml(), arguments.assignments, **_write_rules())


def _config_unset(arguments: argparse.Namespace) -> int:
    from . import config_command  # noqa: PLC0415

    return config_command.unset(_tedge_toml(), arguments.keys, **_write_rules())


def _write_rules() -> dict[str, Any]:
    """Whose a new tedge.toml becomes, what it must pass, and what keeps two writers apart."""
    from . import preview  # noqa: PLC0415

    world = _world()
    system = preview.system_settings(world)
    return {
        "lock_path": CONFIG_LOCK,
        "check": lambda data: preview.refusals(world, data),
        "user": system.user,
        "group": system.group,
    }


def _secure(arguments: argparse.Namespace) -> int:
    from . import secure  # noqa: PLC0415
    from .core import model  # noqa: PLC0415

    return secure.secure(model.Level(arguments.level), _world(), secure.Rules(**_write_rules()))


# Refusals ---------------------------------------------------------------------------------------------------


def _fail(message: str, remedy: str) -> int:
    print(f"tedge-agentd: {message}\n  remedy: {remedy}", file=sys.stderr)
    return 1
