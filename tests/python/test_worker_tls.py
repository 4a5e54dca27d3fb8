"""TLS on the worker's listeners, and the token that calls need which change the server."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import re
import signal
import socket
import ssl
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import certificates
import triton
from conftest import Target, gateway_config, worker_config
from demo.processes import Processes, Program, StartError, Worker

ROW = np.array([[1, 2, 3]], np.float32)


@pytest.fixture
def authority(tmp_path: Path) -> certificates.Authority:
    return certificates.Authority(tmp_path)


def tls_config(repository: Path, authority: certificates.Authority, mutual: bool = False) -> str:
    certificate, key = authority.issue("worker")
    table = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    return worker_config(repository) + table + (f'client_ca = "{authority.certificate}"\n' if mutual else "")


def infer_over_grpc(worker: Worker, **options: object) -> None:
    with tritonclient.grpc.InferenceServerClient(worker.grpc, ssl=True, **options) as client:
        result = client.infer("echo", triton.tensors("grpc", {"x": ROW}), client_timeout=triton.SECONDS)
    assert (result.as_numpy("x_out") == ROW).all()


def get(worker: Worker, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(worker.http, timeout=triton.SECONDS, context=context)
    connection.request("GET", "/v2/health/ready")
    status = connection.getresponse().status
    connection.close()
    return status


def test_both_listeners_speak_tls(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority))
    infer_over_grpc(worker, root_certificates=str(authority.certificate))
    assert get(worker, ssl.create_default_context(cafile=str(authority.certificate))) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        get(worker, ssl.create_default_context())
    with tritonclient.grpc.InferenceServerClient(worker.grpc) as plain:
        with pytest.raises(InferenceServerException):
            plain.is_server_live(client_timeout=triton.SECONDS)


@pytest.mark.parametrize(
    ("listener", "offered", "chosen"),
    [
        ("grpc", ["h2"], "h2"),
        ("http", ["h2", "http/1.1"], "h2"),
        ("http", ["http/1.1"], "http/1.1"),
    ],
)
def test_the_protocol_is_negotiated(
    short_lived: Processes,
    small_repository: Path,
    authority: certificates.Authority,
    listener: str,
    offered: list[str],
    chosen: str,
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority))
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.set_alpn_protocols(offered)
    host, port = getattr(worker, listener).rsplit(":", 1)
    with socket.create_connection((host, int(port)), triton.SECONDS) as plain:
        with context.wrap_socket(plain, server_hostname=host) as secure:
            assert secure.selected_alpn_protocol() == chosen


def test_clients_show_a_certificate_where_one_is_wanted(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority, tmp_path: Path
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority, mutual=True))
    certificate, key = authority.issue("client")
    roots = {"root_certificates": str(authority.certificate)}
    infer_over_grpc(worker, **roots, private_key=str(key), certificate_chain=str(certificate))
    with pytest.raises(InferenceServerException):
        infer_over_grpc(worker, **roots)

    context = ssl.create_default_context(cafile=str(authority.certificate))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(worker, context)
    context.load_cert_chain(certificate, key)
    assert get(worker, context) == 200

    (tmp_path / "other").mkdir()
    stranger = certificates.Authority(tmp_path / "other").issue("stranger")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(*stranger)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(worker, context)


def test_a_gateway_reaches_a_worker_over_tls(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority))
    cluster = f'[clusters.tls]\nserver_name = "localhost"\nca = "{authority.certificate}"\n'
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc], cluster=cluster))
    target = Target("gateway", gateway.address, gateway.address)
    for transport in triton.TRANSPORTS:
        found = triton.infer(transport, target, "echo", {"x": ROW}, ["x_out"])
        assert (found["x_out"] == ROW).all()


def mutual_cluster(authority: certificates.Authority, health: bool, shown: tuple[Path, Path] | None) -> str:
    tls = f'[clusters.tls]\nserver_name = "localhost"\nca = "{authority.certificate}"\n'
    if shown:
        tls += f'certificate = "{shown[0]}"\nkey = "{shown[1]}"\n'
    return tls if health else f"health = false\nbreaker = false\n{tls}"


def until_log_has(program: Program, pattern: str) -> None:
    deadline = time.monotonic() + triton.SECONDS
    while not re.search(pattern, program.log.read_text()):
        assert time.monotonic() < deadline, program.log_end()
        time.sleep(0.02)


def stream_one(target: Target) -> object:
    """The answer to one request on a stream, or its error."""
    answers: queue.Queue = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(target.grpc) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        # A stream that was refused by then takes no request; the callback says why.
        with contextlib.suppress(InferenceServerException):
            client.async_stream_infer("echo", triton.tensors("grpc", {"x": ROW}))
        return answers.get(timeout=triton.SECONDS)


def test_a_gateway_reaches_a_worker_that_wants_its_certificate(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority, mutual=True))
    # Becoming ready takes a health check.
    cluster = mutual_cluster(authority, True, authority.issue("gateway"))
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc], cluster=cluster))
    target = Target("gateway", gateway.address, gateway.address)
    for transport in triton.TRANSPORTS:
        found = triton.infer(transport, target, "echo", {"x": ROW}, ["x_out"])
        assert (found["x_out"] == ROW).all()
    assert (stream_one(target).as_numpy("x_out") == ROW).all()


@pytest.mark.parametrize("shown", ["none", "stranger"])
def test_a_worker_refuses_a_gateway_that_it_does_not_know(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority, tmp_path: Path, shown: str
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority, mutual=True))
    (tmp_path / "other").mkdir()
    stranger = certificates.Authority(tmp_path / "other").issue("stranger") if shown == "stranger" else None
    cluster = mutual_cluster(authority, False, stranger)
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc], cluster=cluster))
    target = Target("gateway", gateway.address, gateway.address)
    with pytest.raises(InferenceServerException, match="refused the gateway's certificate") as refused:
        triton.infer("grpc", target, "echo", {"x": ROW}, ["x_out"])
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="upstream") as refused:
        triton.infer("http", target, "echo", {"x": ROW}, ["x_out"])
    assert refused.value.status() == "502"
    error = stream_one(target)
    assert isinstance(error, InferenceServerException)
    assert "'upstream' failed" in error.message()


def test_health_checks_fail_without_the_certificate(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority, mutual=True))
    cluster = mutual_cluster(authority, True, None)
    # Without the admin listener nobody waits for it to become ready, which it does not.
    config = gateway_config([worker.grpc], cluster=cluster).replace('[admin]\n        listen = "127.0.0.1:0"\n', "")
    gateway = short_lived.gateway("gateway", config)
    until_log_has(gateway.program, "is unhealthy: .*refuses the gateway's certificate")


def test_a_renewed_certificate_is_taken_on_reload(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority, tmp_path: Path
) -> None:
    worker = short_lived.worker("worker", tls_config(small_repository, authority, mutual=True))
    (tmp_path / "other").mkdir()
    certificate, key = certificates.Authority(tmp_path / "other").issue("gateway")
    cluster = mutual_cluster(authority, False, (certificate, key))
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc], cluster=cluster))
    target = Target("gateway", gateway.address, gateway.address)
    with pytest.raises(InferenceServerException):
        triton.infer("grpc", target, "echo", {"x": ROW}, ["x_out"])

    good_certificate, good_key = authority.issue("renewed")
    certificate.write_bytes(good_certificate.read_bytes())
    gateway.program.process.send_signal(signal.SIGHUP)
    until_log_has(gateway.program, "do not serve")
    key.write_bytes(good_key.read_bytes())
    gateway.program.process.send_signal(signal.SIGHUP)
    until_log_has(gateway.program, "configuration reloaded")
    found = triton.infer("grpc", target, "echo", {"x": ROW}, ["x_out"])
    assert (found["x_out"] == ROW).all()
    assert (stream_one(target).as_numpy("x_out") == ROW).all()


def test_bad_files_are_named(
    short_lived: Processes, small_repository: Path, authority: certificates.Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("worker")
    _, other_key = authority.issue("other")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for number, (certificate_file, key_file, text) in enumerate(
        [
            (tmp_path / "no-such.pem", key, "cannot read certificates from .*no-such.pem"),
            (empty, key, "empty.pem' holds no certificate"),
            (certificate, empty, "cannot read a private key from .*empty.pem"),
            (certificate, other_key, "do not serve"),
        ]
    ):
        table = f'[tls]\ncertificate = "{certificate_file}"\nkey = "{key_file}"\n'
        with pytest.raises(StartError, match=text):
            short_lived.worker(f"worker-{number}", worker_config(small_repository) + table)


@pytest.fixture
def guarded(short_lived: Processes, small_repository: Path, tmp_path: Path) -> Target:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    config = worker_config(small_repository) + f'repository_token_file = "{token}"\nmodel_control = "explicit"\n'
    worker = short_lived.worker("worker", config)
    return Target("worker", worker.grpc, worker.http)


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_calls_that_change_the_server_need_the_token(guarded: Target, transport: str) -> None:
    headers = {"authorization": "Bearer s3cret"}
    with triton.client(transport, guarded) as client:
        for call in [
            lambda headers: client.load_model("echo", headers=headers),
            lambda headers: client.unload_model("echo", headers=headers),
            lambda headers: client.update_log_settings({"log_info": True}, headers=headers),
            lambda headers: client.unregister_system_shared_memory(headers=headers),
        ]:
            for wrong in [None, {"authorization": "Bearer wrong"}]:
                with pytest.raises(InferenceServerException, match="token|Bearer") as refused:
                    call(wrong)
                assert refused.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
            call(headers)
        client.load_model("echo", headers=headers)
        client.get_log_settings()
        client.get_system_shared_memory_status()
        assert client.infer("echo", triton.tensors(transport, {"x": ROW})).as_numpy("x_out").shape == (1, 3)


def test_http_is_told_how_to_authenticate(guarded: Target) -> None:
    connection = http.client.HTTPConnection(guarded.http, timeout=triton.SECONDS)
    connection.request("POST", "/v2/repository/models/echo/unload")
    response = connection.getresponse()
    assert (response.status, response.getheader("www-authenticate")) == (401, "Bearer")
    assert "authorization" in json.loads(response.read())["error"]
    connection.close()


def test_a_token_that_cannot_be_read_is_told_at_the_start(
    short_lived: Processes, small_repository: Path, tmp_path: Path
) -> None:
    config = worker_config(small_repository) + f'repository_token_file = "{tmp_path}/no-such-token"\n'
    with pytest.raises(StartError, match="cannot read the token file .*no-such-token"):
        short_lived.worker("worker", config)


def test_the_gateway_passes_the_token_on(short_lived: Processes, guarded: Target) -> None:
    gateway = short_lived.gateway("gateway", gateway_config([guarded.grpc]))
    target = Target("gateway", gateway.address, gateway.address)
    for transport in triton.TRANSPORTS:
        with triton.client(transport, target) as client:
            with pytest.raises(InferenceServerException):
                client.update_log_settings({"log_info": True})
            client.update_log_settings({"log_info": True}, headers={"authorization": "Bearer s3cret"})


def test_grpc_status_of_a_missing_token(guarded: Target) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\x12\x04echo", timeout=triton.SECONDS)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
