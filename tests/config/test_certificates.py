from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from gateway.config.certificates import authority_problems, pair_problems
from gateway.config.pem_file import PemFile, parse_pem_path, read_pem_file
from tests.fakes.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_pair_that_belongs_together_is_no_problem(authority: Authority) -> None:
    assert list(pair_problems(*authority.server("a.test").files)) == []
    assert list(authority_problems(authority.pem)) == []


def test_a_key_of_another_certificate_is_named(authority: Authority) -> None:
    cert, _ = authority.server("a.test").files
    _, key = authority.server("b.test").files
    (said,) = pair_problems(cert, key)
    assert said.endswith("the key is not this certificate's")
    assert "a.test.pem" in said
    assert "b.test.key" in said


def test_an_encrypted_key_is_refused_without_asking_for_a_passphrase(authority: Authority) -> None:
    pair = authority.server("a.test")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    (said,) = pair_problems(*pair.files)
    assert "the key is encrypted" in said


def test_a_certificate_in_place_of_a_key_is_a_missing_block(authority: Authority) -> None:
    cert, _ = authority.server("a.test").files
    (said,) = pair_problems(cert, cert)
    assert "a private key in `key`" in said


def test_a_certificate_that_may_not_sign_is_no_authority(authority: Authority) -> None:
    cert, _ = authority.server("a.test").files
    (said,) = authority_problems(cert)
    assert "none that may sign others" in said


def test_a_file_that_changed_is_another_value_and_shows_nothing_of_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_text("-----BEGIN PRIVATE KEY-----\none")
    before = read_pem_file(tmp_path, "a.pem")
    assert before == read_pem_file(tmp_path, str(file))
    file.write_text("-----BEGIN PRIVATE KEY-----\ntwo")
    after = read_pem_file(tmp_path, "a.pem")
    assert (before.path, before != after) == (after.path, True)
    assert repr(after) == f"PemFile(path={str(file)!r})"


@pytest.mark.parametrize(
    ("name", "said"),
    [("absent.pem", "No such file"), (".", "Is a directory"), ("text.pem", "expected a PEM file")],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text.pem").write_text("hello")
    with pytest.raises(ValueError, match=said):
        read_pem_file(tmp_path, name)


def test_an_empty_path_is_none() -> None:
    with pytest.raises(ValueError, match="found nothing"):
        parse_pem_path("")
    assert parse_pem_path("a.pem") == PemFile("a.pem")
