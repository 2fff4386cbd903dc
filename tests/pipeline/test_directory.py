from __future__ import annotations

from hashlib import sha256

from gateway.pipeline.directory import Credential, Directory
from gateway.pipeline.ports import Principal

ALICE = Principal("alice", plan="free")


def directory() -> Directory:
    keys = {sha256(key).digest(): Credential(ALICE, 7.0, key == b"old") for key in (b"new", b"old")}
    return Directory(keys, [ALICE])


def test_a_key_is_found_by_its_hash_with_its_end_and_whether_it_was_revoked() -> None:
    known = directory()
    assert known.credential(b"new") == Credential(ALICE, 7.0, False)
    assert known.credential(b"old") == Credential(ALICE, 7.0, True)


def test_nothing_but_the_key_itself_is_a_key() -> None:
    known = directory()
    for wrong in (b"", b"NEW", b"new ", b"ne", sha256(b"new").digest(), sha256(b"new").hexdigest().encode()):
        assert known.credential(wrong) is None


def test_principals_are_found_by_name() -> None:
    assert directory().principal("alice") is ALICE
    assert directory().principal("bob") is None


def test_its_repr_shows_no_key() -> None:
    assert repr(directory()) == "<Directory 1 principals, 2 keys>"
