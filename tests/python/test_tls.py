"""TLS on a listener: gRPC, REST and HTTP/1.1 on the same port, and nobody gets in without trusting the certificate."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import ssl
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.utils import InferenceServerException

import triton
from conftest import gateway_config
from demo.processes import Gateway, Processes, Worker


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "gateway.crt", directory / "gateway.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@pytest.fixture
def secure(short_lived: Processes, worker: Worker, tmp_path: Path) -> tuple[Gateway, Path]:
    certificate, key = write_certificate(tmp_path)
    config = gateway_config([worker.grpc]).replace(
        "[[clusters]]", f'[listeners.tls]\ncertificate = "{certificate}"\nkey = "{key}"\n[[clusters]]'
    )
    return short_lived.gateway("gateway", config), certificate


def test_grpc(secure: tuple[Gateway, Path]) -> None:
    gateway, certificate = secure
    with tritonclient.grpc.InferenceServerClient(
        gateway.address, ssl=True, root_certificates=str(certificate)
    ) as client:
        result = client.infer("scalar", triton.tensors("grpc", {"number": np.array(5, np.float32)}))
    assert result.as_numpy("number_out") == np.float32(5)


def test_rest(secure: tuple[Gateway, Path]) -> None:
    gateway, certificate = secure
    context = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection(gateway.address, timeout=triton.SECONDS, context=context)
    connection.request("GET", "/v2/models/scalar")
    response = connection.getresponse()
    assert response.status == 200
    assert b'"number"' in response.read()
    connection.close()


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
def test_protocol_is_negotiated(secure: tuple[Gateway, Path], offered: list[str], chosen: str) -> None:
    gateway, certificate = secure
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(offered)
    connection = http.client.HTTPSConnection(gateway.address, timeout=triton.SECONDS, context=context)
    connection.connect()
    assert connection.sock.selected_alpn_protocol() == chosen
    connection.close()


def test_stranger_is_not_trusted(secure: tuple[Gateway, Path]) -> None:
    gateway, _ = secure
    context = ssl.create_default_context()
    connection = http.client.HTTPSConnection(gateway.address, timeout=triton.SECONDS, context=context)
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.request("GET", "/v2")


def test_plain_text_is_refused(secure: tuple[Gateway, Path]) -> None:
    gateway, _ = secure
    with tritonclient.grpc.InferenceServerClient(gateway.address) as client:
        with pytest.raises(InferenceServerException) as raised:
            client.is_server_live(client_timeout=triton.SECONDS)
    assert raised.value.status() == str(grpc.StatusCode.UNAVAILABLE)
