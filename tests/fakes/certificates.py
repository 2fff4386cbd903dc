"""Authorities and certificates made on the spot: good ones, and every kind of bad one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.config.pem_file import PemFile, read_pem_file

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate file, its key file."""

    cert: Path
    key: Path

    @property
    def files(self) -> tuple[PemFile, PemFile]:
        return read_pem_file(Path(), str(self.cert)), read_pem_file(Path(), str(self.key))

    def yaml(self) -> str:
        return f"cert: {self.cert}, key: {self.key}"


class Authority:
    """Signs certificates and writes them into a folder."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder(self.name, self.name, self._key, -DAY, DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.file = folder / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    @cached_property
    def pem(self) -> PemFile:
        return read_pem_file(Path(), str(self.file))

    def server(self, *names: str, file: str = "", ends: timedelta = DAY) -> Pair:
        """A server's certificate for these names or addresses."""
        return self._issue(file or names[0], [("CN", names[0])], names, ends, server=True)

    def client(self, common_name: str, *alternatives: str, file: str = "", ends: timedelta = DAY) -> Pair:
        """A client's certificate; alternatives with a scheme are URIs."""
        subject = [("C", "DE"), ("O", "Acme"), ("CN", common_name)]
        return self._issue(file or f"client-{common_name}", subject, alternatives, ends, server=False)

    def _issue(
        self, file: str, subject: list[tuple[str, str]], names: tuple[str, ...], ends: timedelta, server: bool
    ) -> Pair:
        oids = {"C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME}
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(oids[kind], value) for kind, value in subject])
        builder = _builder(name, self.name, key, min(-DAY, ends - DAY), ends)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(one) for one in names]), critical=False
            )
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = file.replace("*", "any")
        pair = Pair(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        pair.key.write_bytes(_private(key))
        pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return pair

    def trusting(self, pair: Pair | None = None) -> ssl.SSLContext:
        """A client's context that believes this authority, with a certificate of its own or without."""
        context = ssl.create_default_context(cafile=str(self.file))
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: timedelta,
    ends: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    if "@" in name:
        return x509.RFC822Name(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
