"""What `tedge-agentd certs` prints, and the files it hands over."""

import dataclasses
import io
import os
import shlex
import sys
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any

from .core import errors, model
from .core import pki as policy
from .core import pki_register as reg
from .host import pki
from .host.pki_issuer import Means
from .host.pki_store import Store, contents, digests, make_directory, replace

KEY_KINDS = {
    reg.KeyType.EC_P256: "EC P-256",
    reg.KeyType.RSA_2048: "RSA 2048",
    reg.KeyType.RSA_3072: "RSA 3072",
}
Rows = Sequence[tuple[reg.Issued, policy.Condition]]


def refused(message: str, remedy: str = "") -> int:
    """Say on stderr why nothing was done, and what to do; return the exit status."""
    print(f"tedge-agentd: {message}", file=sys.stderr)
    if remedy:
        print(f"  try: {remedy}", file=sys.stderr)
    return 1


def finding(one: model.Finding) -> None:
    print(f"{one.severity.value}: {one.where}: {one.message}" + (f"\n  try: {one.remedy}" if one.remedy else ""))


def authority(store: Store, *, made: bool, published: bool) -> None:
    """Say which CA there is now."""
    register = store.register()
    newest = register.authorities[-1]
    print(f"{'Made' if made else 'There already is'} {newest.subject}, {KEY_KINDS[newest.key_type]}, ", end="")
    print(f"until {policy.utc(newest.not_after)}.")
    print(f"  sha256      {newest.sha256}")
    print(f"  key         {store.authority(newest).path}/key.pem (root's alone: keep a copy in a safe place)")
    state = "written now" if published else "as it was"
    print(f"  clients use {register.bundle_path} ({state})")
    if made and len(register.authorities) == 1:
        print("Next: tedge-agentd certs issue server")


def issued(one: reg.Issued, verb: str, settings: str = "") -> None:
    """Say what was issued into its place."""
    print(f"{verb} {pki.describe(one)} for {', '.join(one.names)}, valid until {policy.utc(one.not_after)}.")
    print(f"  certificate {one.cert_path}")
    print(f"  key         {one.key_path} ({one.owner}:{one.group} {one.key_mode:04o})")
    print(f"  renewed by the daemon from {_renewal(one)} on")
    if settings:
        print(f"Next, unless done: tedge-agentd config set {settings}")


# Child devices ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Where the files for a child device go: NAME.crt, NAME.key and ca.crt in a directory, or the same in a tar."""

    name: str
    out: str

    @property
    def is_tar(self) -> bool:
        return self.out.endswith(".tar")

    def members(self, cert: bytes, key: bytes, ca: bytes) -> dict[str, tuple[bytes, int]]:
        return {f"{self.name}.key": (key, 0o600), f"{self.name}.crt": (cert, 0o644), "ca.crt": (ca, 0o644)}

    def secret(self) -> list[str]:
        """What is to be removed once it has been carried away; never the directory, which may hold anything."""
        return [self.out] if self.is_tar else [os.path.join(self.out, f"{self.name}.{end}") for end in ("key", "crt")]

    def check(self) -> None:
        """Raise InputError where something would be overwritten, before anything is made."""
        if self.name == "ca":
            raise errors.InputError("a child device called ca would have the CA's file name", "choose another name")
        names = [""] if self.is_tar else [f"{self.name}.key", f"{self.name}.crt"]
        for path in (os.path.join(self.out, name).rstrip("/") for name in names):
            if os.path.lexists(path):
                raise errors.InputError(f"{path} exists and is not overwritten", _aside(path))
        if os.path.lexists(self.out) and not self.is_tar and not os.path.isdir(self.out):
            raise errors.InputError(f"{self.out} is no directory", "name a directory, or a file that ends in .tar")

    def deliver(self, cert: bytes, key: bytes, ca: bytes) -> None:
        """Write everything, the key readable for root alone."""
        members = self.members(cert, key, ca)
        if self.is_tar:
            replace(self.out, _tar(self.name, members), mode=0o600)
            return
        make_directory(self.out, 0o700)
        path = os.path.join(self.out, "ca.crt")
        found = contents(path)
        if found is not None and not set() < set(digests(found)) <= set(digests(ca)):
            raise errors.InputError(f"{path} is another CA certificate and is not overwritten", _aside(path))
        for name, (data, mode) in members.items():
            replace(os.path.join(self.out, name), data, mode=mode)


def _aside(path: str) -> str:
    return f"mv {shlex.quote(path)} {shlex.quote(f'{path}.old')}"


def _tar(name: str, members: dict[str, tuple[bytes, int]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, (data, mode) in members.items():
            info = tarfile.TarInfo(f"{name}/{member}")
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def handed_over(one: reg.Issued, delivery: Delivery) -> None:
    """Say what is to be carried to the child device."""
    print(f"Issued for child device {one.name}, valid until {policy.utc(one.not_after)}.")
    print(f"  {delivery.out}: {one.name}.crt, {one.name}.key and ca.crt; the key exists nowhere else")
    print(f"Bring them to the device in a safe way, then: rm {' '.join(map(shlex.quote, delivery.secret()))}")
    print(f"The daemon cannot renew it: tedge-agentd certs renew child {one.name} --out ..., about {_renewal(one)}")


# The list ---------------------------------------------------------------------------------------------------


def table(register: reg.Register, rows: Rows, means: Means) -> None:
    """Print the CAs and what they issued."""
    if not register.authorities:
        print("There is no local PKI yet: tedge-agentd certs init")
        return
    signing = policy.signer(register, means.now, means.settings.overlap)
    lines = [("", "NAME", "UNTIL", "DAYS", "RENEWED", "STATE", "FILE")]
    for one in register.authorities:
        state = "expired" if means.now >= one.not_after else "signs" if one == signing else "trusted"
        lines.append(
            ("ca", one.subject, _day(one.not_after), _left(one.not_after, means), "", state, register.bundle_path)
        )
    for leaf, found in rows:
        state = "expired" if means.now >= leaf.not_after else found.value
        renewal = _renewal(leaf) if policy.is_ours_to_renew(leaf) else "by you"
        until, left = _day(leaf.not_after), _left(leaf.not_after, means)
        lines.append((leaf.role.value, leaf.name, until, left, renewal, state, leaf.cert_path))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def as_json(register: reg.Register, rows: Rows, found: Iterable[model.Finding]) -> dict[str, Any]:
    """The same as data; no secret is in it."""
    return {
        "version": reg.VERSION,
        "ca_file": register.bundle_path,
        "authorities": [reg.to_plain(one) for one in register.authorities],
        "issued": [
            {
                **reg.to_plain(one),
                "state": state.value,
                "renewal": policy.next_renewal(one.issued, one.not_after, one.serial),
            }
            for one, state in rows
        ],
        "findings": [
            {
                "code": one.code,
                "severity": one.severity.value,
                "where": one.where,
                "message": one.message,
                "remedy": one.remedy,
            }
            for one in found
        ],
    }


def _renewal(one: reg.Issued) -> str:
    return _day(policy.next_renewal(one.issued, one.not_after, one.serial))


def _day(moment: int) -> str:
    return policy.utc(moment)[:10]


def _left(moment: int, means: Means) -> str:
    return str((moment - means.now) // policy.DAY)
