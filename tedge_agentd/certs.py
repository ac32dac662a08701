"""What `tedge-agentd certs` does: the local PKI in an operator's hands (contract 4 and 9, docs/certificates.md)."""

import dataclasses
import json
import os
import shlex
import socket
import time
from collections.abc import Callable, Sequence

from . import certs_output
from . import settings as options
from .core import desired, errors, local_pki, model, tedge_toml
from .core import pki as policy
from .core import pki_register as reg
from .host import files, network, opened, pki
from .host.pki_issuer import Issuer, Means, Request
from .host.pki_store import Store

CLIENT_NAME = "tedge"  # the MQTT user name of thin-edge's own services on a mutual listener
LOCK_WAIT_S = 30.0  # the daemon holds it for the making of a key or two

Work = Callable[[Issuer], int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The machine the commands work on. `addresses`: where the external listener is reached."""

    means: Means
    state_dir: str = options.STATE_DIR
    tedge_dir: str = "/etc/tedge"
    accounts: desired.Accounts = dataclasses.field(default_factory=desired.Accounts)
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def server_pair(self) -> tuple[str, str]:
        return local_pki.server_pair(self.tedge_dir)

    @property
    def client_pair(self) -> tuple[str, str]:
        return local_pki.client_pair(self.tedge_dir)

    @property
    def bundle(self) -> str:
        return local_pki.bundle(self.tedge_dir)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What an operator may ask of a key and its certificate; None: the settings' default, or as it was."""

    key_type: reg.KeyType | None = None
    days: int | None = None

    @classmethod
    def of(cls, key_type: str | None, days: int | None) -> "Kind":
        """What a command line says."""
        return cls(key_type=None if key_type is None else reg.KeyType(key_type), days=days)

    @property
    def lifetime(self) -> int | None:
        return None if self.days is None else self.days * policy.DAY


ANY = Kind()


def this_machine(settings_path: str = options.PATH) -> Context:
    """The machine we run on, now, with the accounts and the listener's address of its configuration.

    A configuration that cannot be read counts as the defaults: the daemon reports it. Asks the resolver for the full
    host name, which may take seconds without a network.
    """
    chosen, _ = options.parse(_bytes(settings_path), settings_path)
    system, _ = tedge_toml.parse_system(_bytes(chosen.system_toml), chosen.system_toml)
    tedge = tedge_toml.parse(_bytes(chosen.tedge_toml), chosen.tedge_toml).settings
    external = tedge.external if tedge is not None else model.ExternalSettings()
    now = int(time.time())
    synchronized = pki.clock_synchronized(options.STATE_DIR, now)
    return Context(
        means=Means(now=now, synchronized=synchronized, settings=pki_settings(chosen)),
        tedge_dir=chosen.tedge_dir,
        accounts=desired.Accounts(
            broker_user=chosen.broker_user,
            broker_group=chosen.broker_group,
            client_user=system.user,
            client_group=system.group,
        ),
        names=host_names(),
        addresses=network.reached_at(external.address, external.interface),
    )


def pki_settings(chosen: options.Settings) -> policy.Policy:
    """The local PKI's part of config.toml."""
    return policy.Policy(
        authority_days=chosen.pki_authority_days,
        leaf_days=chosen.pki_leaf_days,
        overlap_days=chosen.pki_overlap_days,
        key_type=reg.KeyType(chosen.pki_key_type),
    )


def _bytes(path: str) -> bytes | None:
    try:
        return files.read_limited(path)
    except opened.Refused:
        return None


def host_names() -> tuple[str, ...]:
    """The machine's names, the full one where the resolver knows it."""
    host = os.uname().nodename
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    except OSError:
        found = []
    return policy.usable_names((host, *(entry[3] for entry in found if entry[3])))


# Commands ---------------------------------------------------------------------------------------------------


def init(context: Context, *, kind: Kind = ANY, rollover: bool = False) -> int:
    """Make the CA, once; with `rollover` the next one, ahead of time. Publishes what clients are to trust."""

    def work(issuer: Issuer) -> int:
        register = issuer.store.register()
        made = rollover or not register.authorities
        if rollover and policy.coming(register, issuer.now, issuer.settings.overlap) is not None:
            raise errors.InputError("a new CA is on its way already", "tedge-agentd certs list")
        # First, lest a CA is made that cannot be handed out.
        issuer.check_place(register.bundle_path or context.bundle)
        if made:
            issuer.create_authority(key_type=kind.key_type, days=kind.days)
        published = issuer.publish(register.bundle_path or context.bundle)
        certs_output.authority(issuer.store, made=made, published=published)
        return 0

    return _locked(context, work, prepare=True)


def issue_server(context: Context, *, names: Sequence[str] = (), kind: Kind = ANY) -> int:
    """Issue the broker's pair, unless it is there with these names. `names` are kept by every renewal."""
    for name in names:
        if policy.clean_name(name) is None:
            return certs_output.refused(f"{name!r} is no host name or address a client could connect to")
    cert, key = context.server_pair
    own = policy.server_names((*context.names, *context.addresses))
    request = Request(
        role=reg.Role.SERVER,
        name=policy.common_name(own),
        cert_path=cert,
        key_path=key,
        owner=context.accounts.broker_user,
        group=context.accounts.broker_group,
        names=own,
        extra_names=policy.usable_names(names),
        key_type=kind.key_type,
        lifetime=kind.lifetime,
    )
    return _issue(context, request, f"mqtt.external.cert_file={cert} mqtt.external.key_file={key}")


def issue_tedge(context: Context, *, kind: Kind = ANY) -> int:
    """Issue the pair with which the thin-edge services log in, unless it is there."""
    cert, key = context.client_pair
    request = Request(
        role=reg.Role.TEDGE,
        name=CLIENT_NAME,
        cert_path=cert,
        key_path=key,
        owner=context.accounts.client_user,
        group=context.accounts.client_group,
        key_type=kind.key_type,
        lifetime=kind.lifetime,
    )
    return _issue(context, request, f"mqtt.client.auth.cert_file={cert} mqtt.client.auth.key_file={key}")


def issue_child(context: Context, name: str, *, out: str, kind: Kind = ANY, again: bool = False) -> int:
    """Issue for a child device into a directory or a new .tar, with the CA certificates; `again` renews.

    No copy of the key is kept, so a lost delivery is a new certificate.
    """
    if problem := policy.device_name_problem(name):
        return certs_output.refused(problem)
    if not out:
        return certs_output.refused("--out is empty", "name a directory, or a file that ends in .tar")
    if name == CLIENT_NAME:
        return certs_output.refused(f"{name!r} is the MQTT user name of thin-edge itself", "choose another name")
    if policy.clean_name(name) in policy.server_names((*context.names, *context.addresses)):
        # A client that looks at names alone must not take the device for the broker.
        return certs_output.refused(f"{name!r} is a name of this machine", "choose another name")
    request = Request(
        role=reg.Role.CHILD,
        name=name,
        cert_path="",
        key_path="",
        owner="",
        group="",
        key_type=kind.key_type,
        lifetime=kind.lifetime,
    )

    def work(issuer: Issuer) -> int:
        old = issuer.store.register().find(reg.Role.CHILD, name)
        if old is not None and not again and issuer.now < old.not_after:
            until = policy.utc(old.not_after)
            remedy = f"tedge-agentd certs renew child {name} --out {shlex.quote(out)}"
            raise errors.InputError(f"child device {name} has a certificate until {until}", remedy)
        if old is None and again:
            remedy = f"tedge-agentd certs issue child {name} --out {shlex.quote(out)}"
            raise errors.InputError(f"nothing was issued for {name}", remedy)
        delivery = certs_output.Delivery(name=name, out=os.path.abspath(out))
        delivery.check()
        issued = issuer.hand_over(_like(request, old), delivery.deliver)
        certs_output.handed_over(issued, delivery)
        return 0

    return _locked(context, work)


def role_of(text: str | None) -> reg.Role | None:
    """A role as the command line names it."""
    return None if text is None else reg.Role(text)


def _like(request: Request, old: reg.Issued | None) -> Request:
    """A request with what it leaves open taken from the certificate it replaces."""
    if old is None:
        return request
    key_type, lifetime = request.key_type or old.key_type, request.lifetime or old.lifetime
    return dataclasses.replace(request, key_type=key_type, lifetime=lifetime)


def renew(context: Context, *, role: reg.Role | None = None, everything: bool = False) -> int:
    """Renew one role's pair now, or everything, or (neither given) what is due, as the daemon does by itself."""
    if role is None and not everything:
        return _renew_due(context)

    def work(issuer: Issuer) -> int:
        register = issuer.store.register()
        chosen = [one for one in register.issued if policy.is_ours_to_renew(one) and role in (None, one.role)]
        if not chosen:
            what = role.value if role else "server"
            raise errors.InputError("there is nothing of that kind to renew", f"tedge-agentd certs issue {what}")
        for one in chosen:
            names = (*context.names, *context.addresses) if one.role is reg.Role.SERVER else None
            certs_output.issued(issuer.renew(one, names), "Renewed")
        return 0

    return _locked(context, work)


def _renew_due(context: Context) -> int:
    done = pki.sweep(context.state_dir, context.means)
    for one in done.renewed:
        print(f"Renewed {one.cert_path}: {one.reason}; now valid until {policy.utc(one.not_after)}.")
    for finding in done.findings:
        certs_output.finding(finding)
    if not done.renewed and not done.findings:
        print("Nothing is due.")
    return 1 if any(finding.code in ("pki-renewal-failed", "pki-damaged") for finding in done.findings) else 0


def list_(context: Context, *, as_json: bool = False) -> int:
    """Show the CAs and everything issued: until when, when renewed, and whether it is still in its place."""
    store = Store(context.state_dir)
    try:
        register = store.register()
        rows = [(one, pki.condition(one)) for one in register.issued]
        found = pki.findings(store, context.means) if store.exists else ()
    except (errors.TedgeAgentdError, opened.Refused, OSError) as error:
        return _failed(error)
    if as_json:
        print(json.dumps(certs_output.as_json(register, rows, found), indent=2))
    else:
        certs_output.table(register, rows, context.means)
        for finding in found:
            certs_output.finding(finding)
    return 0


def _issue(context: Context, request: Request, settings: str) -> int:
    """Issue a pair into its place, unless one is there that is as good."""

    def work(issuer: Issuer) -> int:
        old = issuer.store.register().find(request.role)
        if old is not None and _is_enough(old, request, issuer):
            certs_output.issued(old, "There already is", settings)
        else:
            certs_output.issued(issuer.issue(request), "Issued", settings)
        return 0

    return _locked(context, work)


def _is_enough(old: reg.Issued, request: Request, issuer: Issuer) -> bool:
    """Whether what was issued has what is asked for, lies in its place and lasts a while."""
    wanted = policy.usable_names((*request.names, *request.extra_names))
    return (
        pki.condition(old) is policy.Condition.GOOD
        and old.cert_path == request.cert_path
        and set(wanted) <= set(old.names)
        and set(request.extra_names) <= set(old.extra_names)
        and request.key_type in (None, old.key_type)
        and request.lifetime in (None, old.lifetime)
        and not policy.due(old.issued, old.not_after, issuer.now, old.serial)
    )


def _locked(context: Context, work: Work, *, prepare: bool = False) -> int:
    """Do something with the PKI to ourselves, after completing what a crash may have left; return the exit status."""
    store = Store(context.state_dir)
    try:
        if prepare:
            store.prepare()
        elif not store.exists:
            return certs_output.refused("there is no local PKI yet", "tedge-agentd certs init")
        with store.lock(LOCK_WAIT_S):
            issuer = Issuer(store, context.means)
            for one in issuer.recover():
                print(f"Completed an interrupted renewal of {one.cert_path}.")
            return work(issuer)
    except (errors.TedgeAgentdError, opened.Refused, files.Locked, OSError) as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    remedy = getattr(error, "remedy", "")
    if isinstance(error, PermissionError):
        remedy = "run it as root, with sudo"
    elif isinstance(error, files.Locked):
        remedy = "wait a moment and try again"
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    return certs_output.refused(text, remedy)
