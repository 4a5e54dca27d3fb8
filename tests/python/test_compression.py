"""Compression both ways, as tritonclient asks for it: answers in kind over gRPC, by Accept-Encoding over HTTP."""

from __future__ import annotations

import http.client
import json
import queue

import grpc
import numpy as np
import onnx
import pytest
from tritonclient.grpc import service_pb2

import model_zoo
import triton
from conftest import Target, gateway_config, worker_config
from demo.processes import Gateway, Processes, Worker

MANY = np.zeros([1, 1000], np.float32)

@pytest.fixture(scope="module")
def wide_worker(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """`wide` answers rows of any length with themselves."""
    repository = tmp_path_factory.mktemp("wide") / "models"
    model_zoo.identity(repository, "wide", {"x": onnx.TensorProto.FLOAT}, ["batch", "length"])
    return processes.worker("wide-worker", worker_config(repository))


@pytest.fixture(scope="module")
def wide_gateway(processes: Processes, wide_worker: Worker) -> Gateway:
    return processes.gateway("wide-gateway", gateway_config([wide_worker.grpc]))


@pytest.fixture(params=["gateway", "worker"])
def wide(request: pytest.FixtureRequest, wide_gateway: Gateway, wide_worker: Worker) -> Target:
    if request.param == "gateway":
        return Target("gateway", wide_gateway.address, wide_gateway.address)
    return Target("worker", wide_worker.grpc, wide_worker.http)


ALGORITHMS = pytest.mark.parametrize("algorithm", ["gzip", "deflate"])


@ALGORITHMS
def test_grpc(wide: Target, algorithm: str) -> None:
    with triton.client("grpc", wide) as client:
        result = client.infer("wide", triton.tensors("grpc", {"x": MANY}), compression_algorithm=algorithm)
    assert (result.as_numpy("x_out") == MANY).all()


@ALGORITHMS
def test_grpc_stream(wide: Target, algorithm: str) -> None:
    answers: queue.Queue = queue.Queue()
    with triton.client("grpc", wide) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm=algorithm)
        client.async_stream_infer("wide", triton.tensors("grpc", {"x": MANY}))
        result, error = answers.get(timeout=triton.SECONDS)
        client.stop_stream()
    assert error is None
    assert (result.as_numpy("x_out") == MANY).all()


@ALGORITHMS
@pytest.mark.parametrize("binary", [True, False])
def test_http(wide: Target, algorithm: str, binary: bool) -> None:
    with triton.client("http", wide) as client:
        result = client.infer(
            "wide",
            triton.tensors("http", {"x": MANY}, binary),
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
    assert (result.as_numpy("x_out") == MANY).all()


def test_the_worker_answers_grpc_in_kind(wide_worker: Worker) -> None:
    """Seen from the call: a compressed request has a compressed answer, any other a plain one."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=MANY.shape)
    request = service_pb2.ModelInferRequest(model_name="wide", inputs=[tensor], raw_input_contents=[MANY.tobytes()])
    with grpc.insecure_channel(wide_worker.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for compression, short in [(grpc.Compression.Gzip, True), (grpc.Compression.NoCompression, False)]:
            _, call = infer.with_call(
                request.SerializeToString(), compression=compression, timeout=triton.SECONDS
            )
            # gRPC keeps the encoding to itself.
            length = int(dict(call.initial_metadata())["content-length"])
            assert (length < MANY.nbytes) == short


@pytest.mark.parametrize(("length", "compressed"), [(1000, True), (1, False)])
def test_only_what_is_large_is_compressed(wide_worker: Worker, length: int, compressed: bool) -> None:
    data = np.zeros([1, length]).tolist()
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, length], "data": data}]})
    connection = http.client.HTTPConnection(wide_worker.http, timeout=triton.SECONDS)
    connection.request("POST", "/v2/models/wide/infer", body, {"accept-encoding": "deflate;q=0.1, gzip"})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200
    assert response.getheader("content-encoding") == ("gzip" if compressed else None)
    assert content.startswith(b"\x1f\x8b" if compressed else b"{")
    connection.close()
