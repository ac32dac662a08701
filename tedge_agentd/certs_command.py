"""The command line of `tedge-agentd certs`. Light: the daemon and `status` parse their command lines here too."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import certs

KEY_TYPES = ("ec", "rsa-2048", "rsa-3072")  # core.pki_register.KeyType, which costs an import
ROLES = ("server", "tedge", "child")  # core.pki_register.Role
DAYS = range(7, 36501)  # a daily look must be able to renew in time: core.pki.SHORTEST_LIFE


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `certs` to a command line; its namespace has `command`, which is `run`."""
    parser = subparsers.add_parser("certs", help="the local PKI: a CA, server, client and child device certificates")
    parser.set_defaults(command=run)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--trust-clock", action="store_true", help="believe the clock although it looks wrong")
    common.add_argument("--key-type", choices=KEY_TYPES, help="default: ec (P-256)")
    common.add_argument("--days", type=_days, help="how long it is valid")

    init = verbs.add_parser("init", parents=[common], help="make the CA")
    init.add_argument("--rollover", action="store_true", help="make the next CA now, beside the present one")

    roles = verbs.add_parser("issue", help="issue a certificate").add_subparsers(
        dest="role", required=True, metavar="|".join(ROLES)
    )
    server = roles.add_parser("server", parents=[common], help="for the broker")
    server.add_argument("--name", action="append", default=[], help="a further name or address clients use")
    roles.add_parser("tedge", parents=[common], help="for the thin-edge services of this machine")
    child = roles.add_parser("child", parents=[common], help="for a child device")
    child.add_argument("name", metavar="NAME", help="its MQTT user name")
    child.add_argument("--out", required=True, metavar="DIR|FILE.tar", help="where to put key and certificates")

    renew = verbs.add_parser("renew", parents=[common], help="renew what is due, or what is named")
    renew.add_argument("role", nargs="?", choices=ROLES)
    renew.add_argument("name", nargs="?", metavar="NAME", help="of the child device")
    renew.add_argument("--out", metavar="DIR|FILE.tar", help="for a child device")
    renew.add_argument("--all", action="store_true", help="everything but child devices, due or not")

    verbs.add_parser("list", help="show what was issued").add_argument("--json", action="store_true")


def _days(text: str) -> int:
    days = int(text) if text.isdecimal() else 0
    if days not in DAYS:
        raise argparse.ArgumentTypeError(f"must be from {DAYS[0]} to {DAYS[-1]}")
    return days


def run(args: argparse.Namespace, context: "certs.Context | None" = None) -> int:
    """Do what the command line asks; return the exit status: 0, or 1 when it was refused."""
    import dataclasses  # noqa: PLC0415  # `status` builds this parser, too, and is called often

    from . import certs  # noqa: PLC0415  # 30 ms that only these commands need

    context = context or certs.this_machine()
    if args.verb == "list":
        return certs.list_(context, as_json=args.json)
    if args.trust_clock:
        context = dataclasses.replace(context, means=dataclasses.replace(context.means, synchronized=True))
    kind = certs.Kind.of(args.key_type, args.days)
    if args.verb == "init":
        return certs.init(context, kind=kind, rollover=args.rollover)
    if args.verb == "renew":
        return _renew(args, context, kind)
    if args.role == "server":
        return certs.issue_server(context, names=args.name, kind=kind)
    if args.role == "tedge":
        return certs.issue_tedge(context, kind=kind)
    return certs.issue_child(context, args.name, out=args.out, kind=kind)


def _renew(args: argparse.Namespace, context: "certs.Context", kind: "certs.Kind") -> int:
    from . import certs, certs_output  # noqa: PLC0415

    if args.role == "child":
        if not args.name or not args.out:
            remedy = "tedge-agentd certs renew child NAME --out DIR"
            return certs_output.refused("a child device is renewed by its name", remedy)
        return certs.issue_child(context, args.name, out=args.out, kind=kind, again=True)
    if args.name or args.out or kind != certs.ANY:
        remedy = f"tedge-agentd certs issue {args.role or 'server'}"
        return certs_output.refused("NAME, --out, --key-type and --days are for `certs renew child`", remedy)
    return certs.renew(context, role=certs.role_of(args.role), everything=args.all)
