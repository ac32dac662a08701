"""What an inspection found in certificate files, before anybody judges it."""

from dataclasses import dataclass

from . import model


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why material cannot be used, as a coded statement about one file."""

    code: str
    path: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """A certificate chain, leaf first, and the key that is said to belong to it (None: none was named).

    `problems` empty means that OpenSSL has loaded exactly this pair.
    """

    cert_path: str
    key_path: str | None
    certificates: tuple[model.Certificate, ...] = ()
    key_type: str = ""  # of the private key: "RSA", "EC", ...
    key_bits: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def leaf(self) -> model.Certificate | None:
        return self.certificates[0] if self.certificates else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaFacts:
    """A CA file, bundle or directory.

    `certificates` are the first of `count`: a directory may hold ten thousand. `digests` are the SHA-256 of the DER
    of all that are usable. `unusable` has a problem for each file, and for each block of a file, that is not.
    """

    path: str
    count: int = 0
    certificates: tuple[model.Certificate, ...] = ()
    digests: frozenset[str] = frozenset()
    unusable: tuple[Problem, ...] = ()
