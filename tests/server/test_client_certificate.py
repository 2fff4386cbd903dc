from __future__ import annotations

import pytest

from gateway.server.client_certificate import Pairs, describe


@pytest.mark.parametrize(
    ("subject", "text", "names"),
    [
        (((("countryName", "DE"),), (("commonName", "a"),)), "CN=a,C=DE", ["CN=a,C=DE", "CN=a"]),
        (((("commonName", "a"),),), "CN=a", ["CN=a"]),
        (((("commonName", "a"),), (("commonName", "b"),)), "CN=b,CN=a", ["CN=b,CN=a"]),
        (((("organizationName", "Acme, Inc."),),), r"O=Acme\, Inc.", [r"O=Acme\, Inc."]),
        (((("commonName", "a"), ("userId", "7")),), "CN=a+UID=7", ["CN=a+UID=7"]),
        (((("commonName", " #a "),),), "CN=\\ #a\\ ", ["CN=\\ #a\\ "]),
        (((("commonName", "#a"),),), "CN=\\#a", ["CN=\\#a"]),
        (((("1.2.3", "x"),),), "1.2.3=x", ["1.2.3=x"]),
        ((), "", []),
    ],
)
def test_a_subject_is_written_as_rfc_4514_has_it(
    subject: tuple[Pairs, ...], text: str, names: list[str]
) -> None:
    certificate = describe(subject, ())
    assert certificate.subject == text
    assert list(certificate.names) == names


def test_a_value_cannot_pretend_to_be_another_attribute() -> None:
    forged = describe(((("commonName", "a,O=Acme"),),), ())
    honest = describe(((("organizationName", "Acme"),), (("commonName", "a"),)), ())
    assert not set(forged.names) & set(honest.names)


def test_alternative_names_are_listed_by_kind() -> None:
    alternatives = (
        ("DNS", "a.test"),
        ("URI", "spiffe://acme/a"),
        ("email", "a@acme.test"),
        ("IP Address", "192.0.2.7"),
        ("othername", "<unsupported>"),
    )
    assert list(describe((), alternatives).names) == [
        "DNS:a.test",
        "URI:spiffe://acme/a",
        "email:a@acme.test",
        "IP:192.0.2.7",
    ]
