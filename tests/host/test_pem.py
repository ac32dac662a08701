"""PEM blocks in bytes of any origin."""

import time
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tedge_agentd.host import pem

bodies = st.binary(min_size=1, max_size=300)
labels = st.sampled_from(sorted(pem.CERTIFICATES | pem.KEYS - {"ENCRYPTED PRIVATE KEY"}))
noise = st.sampled_from([b"", b"root:x:0:0:root\n", b"Bag\n", b"-----\n", b"\0\xff\r\n", b"-----BEGIN X\n"])


@given(parts=st.lists(st.tuples(noise, labels, bodies, st.booleans()), max_size=6), end=noise)
def test_blocks_come_out_as_they_were_whatever_is_around(
    parts: list[tuple[bytes, str, bytes, bool]], end: bytes
) -> None:
    data = b""
    for before, label, body, crlf in parts:
        text = pem.Block(label=label, der=body).pem()
        data += before + (text.replace(b"\n", b"\r\n") if crlf else text)
    found = list(pem.blocks(data + end))
    assert found == [pem.Block(label=label, der=body) for _, label, body, _ in parts]
    assert b"".join(block.pem() for block in found) == b"".join(
        pem.Block(label=label, der=body).pem() for _, label, body, _ in parts
    )


@given(st.binary(max_size=400) | st.text("-BEGINED CRTFAK\n=abc", max_size=400).map(str.encode))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    for block in pem.blocks(data):
        assert block.label


@given(cert=st.binary(max_size=200), key=st.binary(max_size=200))
def test_nothing_but_blocks_is_ever_copied(cert: bytes, key: bytes) -> None:
    with pytest.raises(ValueError, match="no "):
        pem.combined(cert, key)
    assert pem.bundle(cert, key) == b""


def block(label: str, body: bytes = b"x" * 100) -> bytes:
    return pem.Block(label=label, der=body).pem()


def test_combined_is_the_chain_then_the_first_key() -> None:
    leaf, issuer = block("CERTIFICATE", b"leaf"), block("X509 CERTIFICATE", b"issuer")
    key, other = block("EC PRIVATE KEY", b"key"), block("PRIVATE KEY", b"other")
    source = b"subject=/CN=x\n" + leaf + b"secret text\n" + issuer + other
    keys = block("EC PARAMETERS") + b"root:$6$\n" + key + other + leaf
    assert pem.combined(source, keys) == leaf + issuer + key


@pytest.mark.parametrize(
    ("cert", "key"),
    [
        (b"", block("PRIVATE KEY")),
        (block("CERTIFICATE"), b""),
        (block("PRIVATE KEY"), block("CERTIFICATE")),
        (block("CERTIFICATE"), block("ENCRYPTED PRIVATE KEY")),
        (block("CERTIFICATE"), block("OPENSSH PRIVATE KEY")),
        (block("TRUSTED CERTIFICATE"), block("PRIVATE KEY")),
        (block("CERTIFICATE").replace(b"eHh4", b"!!!!", 1), block("PRIVATE KEY")),
        (block("CERTIFICATE"), block("PRIVATE KEY").replace(b"eHh4", b"!!!!", 1)),
        (block("CERTIFICATE")[:-12], block("PRIVATE KEY")),
        (block("CERTIFICATE"), block("PRIVATE KEY")[:60]),
    ],
)
def test_half_a_pair_is_no_pair(cert: bytes, key: bytes) -> None:
    with pytest.raises(ValueError, match="no "):
        pem.combined(cert, key)


def test_an_encrypted_key_of_the_old_form_is_known_as_one() -> None:
    body = b64encode(b"x" * 64)
    old = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n%s\n" % body
    (key,) = pem.keys(old + b"-----END RSA PRIVATE KEY-----\n")
    assert key.encrypted
    assert key.der == b"x" * 64


def test_a_block_in_a_block_is_none() -> None:
    inner = block("CERTIFICATE", b"inner")
    assert [found.der for found in pem.blocks(b"-----BEGIN CERTIFICATE-----\nAAAA\n" + inner)] == [b"inner"]
    assert list(pem.blocks(inner.replace(b"END CERT", b"END KERT"))) == []


def test_a_bundle_has_each_certificate_once() -> None:
    one, two = block("CERTIFICATE", b"1"), block("CERTIFICATE", b"2")
    assert pem.bundle(one + block("PRIVATE KEY"), two + one) == one + two


def test_a_key_does_not_end_in_a_log() -> None:
    assert "key" not in repr(pem.Block(label="PRIVATE KEY", der=b"key"))


@pytest.mark.parametrize("line", [b"-----BEGIN A-----\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"a: b\n", b"\n"])
def test_a_megabyte_of_anything_takes_linear_time(line: bytes) -> None:
    started = time.perf_counter()
    list(pem.blocks(line * ((1 << 20) // len(line))))
    assert time.perf_counter() - started < 3.0  # quadratic would be minutes; 0.2 s on a 2-core x86 VM
