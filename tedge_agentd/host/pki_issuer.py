"""Issue: the order of steps in which a crash loses nothing (contract 9).

Policy is core.pki's, the layout on disk pki_store's, the cryptography pki_worker's. A pair is complete in a room
below `pending/` before a file in its place is touched; it is in its place before the register says so; the room goes
last. Whoever comes next finds the room and carries on.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core import errors
from ..core import pki as policy
from ..core import pki_register as reg
from . import pem, pki_make, users
from .pki_store import Room, Store, contents, digests, forget_pair, make_directory, replace, replace_pair

Maker = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """When and with what one issues. `synchronized`: the clock is known to be right, see core.pki.clock_problem."""

    now: int
    synchronized: bool = False
    settings: policy.Policy = dataclasses.field(default_factory=policy.Policy)
    who: users.Users = dataclasses.field(default_factory=users.SystemUsers)
    make: Maker = pki_make.run_worker


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A certificate to issue into a pair of files. `names` come from the machine, `extra_names` from an operator."""

    role: reg.Role
    name: str
    cert_path: str
    key_path: str
    owner: str
    group: str
    names: tuple[str, ...] = ()
    extra_names: tuple[str, ...] = ()
    key_type: reg.KeyType | None = None
    lifetime: int | None = None  # seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """One certificate that was renewed, or whose interrupted renewal was completed."""

    role: reg.Role
    name: str
    cert_path: str
    key_path: str
    serial: int
    not_after: int
    reason: str


class Issuer:
    """Changes one PKI at one moment, for the holder of the store's lock."""

    def __init__(self, store: Store, means: Means) -> None:
        self.store = store
        self.now = means.now
        self.settings = means.settings
        self._means = means

    def recover(self) -> tuple[Renewed, ...]:
        """Complete what a crash interrupted, and sweep away what it left unfinished."""
        register = self.store.register()
        pending = [room.issued() for room in self.store.pending()]
        paths = [path for one in (*register.issued, *pending) for path in (one.cert_path, one.key_path) if path]
        self.store.sweep({os.path.dirname(path) for path in (*paths, register.bundle_path) if path})
        known = {one.directory for one in register.authorities}
        for room in self.store.authorities():
            if os.path.basename(room.path) not in known:
                register = register.with_authority(room.authority())
                self.store.save(register)
        reason = "an interrupted renewal was completed"
        return tuple(renewed(self._install(room), reason) for room in self.store.pending())

    # Authorities ------------------------------------------------------------------------------------------------

    def create_authority(self, *, key_type: reg.KeyType | None = None, days: int | None = None) -> None:
        """Make a CA, the first or the next. It signs nothing for others yet: see `publish` and core.pki.signer."""
        register = self.store.register()
        self._refuse_bad_clock(register)
        kind = key_type or self.settings.key_type
        not_before, not_after = policy.authority_validity(self.now, days or self.settings.authority_days)
        room = self.store.new_room(authority=True)
        # A name of its own for each CA: verifiers that look issuers up by name must not meet two.
        subject = policy.authority_name(os.uname().nodename, os.path.basename(room.path))
        facts = self._means.make(
            {
                "make": "authority",
                "directory": room.path,
                "common_name": subject,
                "key_type": kind.value,
                "not_before": not_before,
                "not_after": not_after,
            }
        )
        authority = reg.Authority(
            serial=int(facts["serial"], 16),
            sha256=facts["sha256"],
            subject=subject,
            key_type=kind,
            not_before=not_before,
            not_after=not_after,
            created=self.now,
        )
        self.store.complete(room, authority)
        self.store.save(register.with_authority(authority))

    def publish(self, path: str | None = None) -> bool:
        """Put the certificates of all living CAs where clients and broker find them; return whether that was needed.

        Expired CAs leave the file when another reason rewrites it: by itself that is not worth a broker restart.
        """
        register = self.store.register()
        path = path or register.bundle_path
        wanted = policy.trusted(register, self.now)
        certificates = [self.store.authority(one).cert() for one in wanted]
        present = self.check_place(path)
        needed = not {one.sha256 for one in wanted} <= present
        if needed and wanted:
            make_directory(os.path.dirname(path), 0o755)
            replace(path, pem.bundle(*certificates), mode=0o644)
        authorities = tuple(
            dataclasses.replace(one, published=self.now) if one.published is None and one in wanted else one
            for one in register.authorities
        )
        self.store.save(dataclasses.replace(register, authorities=authorities, bundle_path=path))
        return needed

    def check_place(self, path: str) -> frozenset[str]:
        """The CAs in the file for clients, by sha256. Raises InputError where it holds anything that is not ours."""
        found = contents(path)
        present = frozenset(digests(found or b""))
        ours = {one.sha256 for one in self.store.register().authorities}
        if found is not None and not (present and present <= ours):
            raise _foreign(path)
        return present

    def bundle(self) -> bytes:
        """The CA certificates that a client is to trust."""
        trusted = policy.trusted(self.store.register(), self.now)
        return pem.bundle(*(self.store.authority(one).cert() for one in trusted))

    def signer(self, register: reg.Register) -> reg.Authority | None:
        return policy.signer(register, self.now, self.settings.overlap)

    # Leaves -----------------------------------------------------------------------------------------------------

    def issue(self, request: Request) -> reg.Issued:
        """Issue a pair into its files. A file there that is not ours is refused, and nothing is made."""
        register = self.store.register()
        for path in (request.cert_path, request.key_path):
            self._refuse_foreign(path, register)
        for path in (request.cert_path, request.key_path):
            make_directory(os.path.dirname(path), 0o755)
        room, issued = self._new_pair(register, request)
        return self._install(self.store.complete(room, issued))

    def renew(self, one: reg.Issued, names: Sequence[str] | None = None) -> reg.Issued:
        """Issue again what is there, with a new key.

        The server gets the names it is reached as now, if they are known, and keeps host names it had, not addresses.
        """
        extra = one.extra_names
        current = one.names
        if names is not None and one.role is reg.Role.SERVER:
            current = policy.server_names((*names, *policy.split_names(one.names)[0], *extra))
        request = Request(
            role=one.role,
            name=policy.common_name(current) if one.role is reg.Role.SERVER else one.name,
            cert_path=one.cert_path,
            key_path=one.key_path,
            owner=one.owner,
            group=one.group,
            names=current,
            extra_names=extra,
            key_type=one.key_type,
            lifetime=one.lifetime,
        )
        return self.issue(request)

    def hand_over(self, request: Request, deliver: Callable[[bytes, bytes, bytes], None]) -> reg.Issued:
        """Issue for another device: `deliver` gets certificate, key and CA bundle, and no copy of the key is kept."""
        register = self.store.register()
        room, issued = self._new_pair(register, request)
        self.store.save(register.with_issued(issued))
        try:
            deliver(room.cert(), room.key(), self.bundle())
        except BaseException:
            self.store.save(register)
            raise
        finally:
            self.store.discard(room)
        return issued

    def _new_pair(self, register: reg.Register, request: Request) -> tuple[Room, reg.Issued]:
        self._refuse_bad_clock(register)
        authority = self.signer(register)
        if authority is None:
            remedy = "tedge-agentd certs init" + (" --rollover" if register.authorities else "")
            raise errors.InputError("there is no CA that could sign", remedy)
        kind = request.key_type or self.settings.key_type
        lifetime = request.lifetime or self.settings.leaf_days * policy.DAY
        not_before, not_after = policy.leaf_validity(authority, self.now, lifetime)
        names = policy.server_names((*request.names, *request.extra_names))
        uris: tuple[str, ...] = ()
        if request.role is not reg.Role.SERVER:
            names, uris = policy.client_sans(request.name)
        dns, addresses = policy.split_names(names)
        room = self.store.new_room()
        facts = self._means.make(
            {
                "make": "server" if request.role is reg.Role.SERVER else "client",
                "directory": room.path,
                "authority": self.store.authority(authority).path,
                "common_name": request.name,
                "dns": dns,
                "addresses": addresses,
                "uris": uris,
                "key_type": kind.value,
                "not_before": not_before,
                "not_after": not_after,
            }
        )
        issued = reg.Issued(
            role=request.role,
            name=request.name,
            cert_path=request.cert_path,
            key_path=request.key_path,
            serial=int(facts["serial"], 16),
            sha256=facts["sha256"],
            key_sha256=facts["key_sha256"],
            issuer=authority.sha256,
            names=(*names, *uris),
            extra_names=request.extra_names,
            key_type=kind,
            lifetime=lifetime,
            issued=self.now,
            not_before=not_before,
            not_after=not_after,
            owner=request.owner,
            group=request.group,
        )
        return room, issued

    def _install(self, room: Room) -> reg.Issued:
        """Put a complete pair in its place, enter it, leave its room. May be repeated from any point on."""
        register = self.store.register()
        issued = room.issued()
        try:
            for path, digest in ((issued.cert_path, issued.sha256), (issued.key_path, issued.key_sha256)):
                self._refuse_foreign(path, register, digest)
        except errors.InputError:
            # Somebody took the place over meanwhile.
            forget_pair((issued.cert_path, issued.key_path))
            self.store.discard(room)
            raise
        uid, gid = self._owner(issued)
        replace_pair(
            {
                issued.key_path: (room.key(), issued.key_mode),
                issued.cert_path: (room.cert(), issued.cert_mode),
            },
            uid=uid,
            gid=gid,
        )
        self.store.save(register.with_issued(issued))
        self.store.discard(room)
        return issued

    def _owner(self, issued: reg.Issued) -> tuple[int, int]:
        """Numbers for its owner; ours where there is no such user yet, whom the daemon's passes put right later."""
        account = self._means.who.account(issued.owner)
        group = self._means.who.group(issued.group)
        return os.geteuid() if account is None else account.uid, os.getegid() if group is None else group

    # Refusals ---------------------------------------------------------------------------------------------------

    def _refuse_foreign(self, path: str, register: reg.Register, expected: str = "") -> None:
        known = {expected}
        for one in register.issued:
            if path in (one.cert_path, one.key_path):
                known |= {one.sha256, one.key_sha256}
        data = contents(path)
        if data is not None and not known.intersection(digests(data)[:1]):
            raise _foreign(path)

    def _refuse_bad_clock(self, register: reg.Register) -> None:
        problem = policy.clock_problem(register, self.now, synchronized=self._means.synchronized)
        if problem:
            raise errors.InputError(f"nothing is issued by this clock: {problem}", "timedatectl set-ntp true")


def _foreign(path: str) -> errors.InputError:
    return errors.InputError(
        f"{path} was not issued by the local PKI and is not overwritten", f"mv {path} {path}.old"
    )


def renewed(one: reg.Issued, reason: str) -> Renewed:
    return Renewed(
        role=one.role,
        name=one.name,
        cert_path=one.cert_path,
        key_path=one.key_path,
        serial=one.serial,
        not_after=one.not_after,
        reason=reason,
    )
