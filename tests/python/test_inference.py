"""tritonclient's answers, through the gateway and from a worker, are those of ONNX Runtime in this process."""

from __future__ import annotations

import numpy as np
import pytest

import triton
from conftest import Reference, Target, Tensors, assert_as_onnx_runtime
from demo.load import GrpcConnection, RestConnection
from demo.processes import Gateway, Worker
from model_zoo import IDENTITIES


@pytest.mark.parametrize(("transport", "binary"), [("grpc", True), ("http", True), ("http", False)])
def test_outputs_equal_onnx_runtime(
    target: Target, case: tuple[str, Tensors], reference: Reference, transport: str, binary: bool
) -> None:
    model, inputs = case
    expected = reference(model, inputs)
    found = triton.infer(transport, target, model, inputs, list(expected), binary)
    assert_as_onnx_runtime(found, reference, model, inputs)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_responses(
    target: Target, case: tuple[str, Tensors], reference: Reference, algorithm: str
) -> None:
    model, inputs = case
    expected = reference(model, inputs)
    compression = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    found = triton.infer("http", target, model, inputs, list(expected), **compression)
    assert_as_onnx_runtime(found, reference, model, inputs)


def values(kind: type) -> np.ndarray:
    """Two rows with the extremes of the datatype."""
    if kind is np.bool_:
        return np.array([[True, False, True], [False, False, True]])
    limits = np.finfo(kind) if np.issubdtype(kind, np.floating) else np.iinfo(kind)
    return np.array([[limits.min, limits.max, 0], [1, 2, 3]], kind)


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_every_datatype_comes_back_unchanged(target: Target, transport: str) -> None:
    inputs = {name: values(kind) for name, (_, kind) in IDENTITIES.items()}
    found = triton.infer(transport, target, "identities", inputs, [f"{name}_out" for name in inputs])
    for name, array in inputs.items():
        assert found[f"{name}_out"].dtype == array.dtype
        np.testing.assert_array_equal(found[f"{name}_out"], array)


@pytest.mark.parametrize(("transport", "binary"), [("grpc", True), ("http", True), ("http", False)])
def test_text(target: Target, transport: str, binary: bool) -> None:
    sent = triton.text([["", "Zürich"], ['a "quoted" word', "日本語 🙂"]])
    found = triton.infer(transport, target, "text", {"text": sent}, ["text_out"], binary)["text_out"]
    plain = [[value if isinstance(value, bytes) else value.encode() for value in row] for row in found]
    assert plain == sent.tolist()


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_scalar(target: Target, transport: str) -> None:
    found = triton.infer(transport, target, "scalar", {"number": np.array(2.5, np.float32)}, ["number_out"])
    assert found["number_out"].shape == ()
    assert found["number_out"] == np.float32(2.5)


def test_no_rows(target: Target) -> None:
    inputs = {name: np.zeros((0, 3), kind) for name, (_, kind) in IDENTITIES.items()}
    found = triton.infer("grpc", target, "identities", inputs, ["fp32_out"])
    assert found["fp32_out"].shape == (0, 3)


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_only_requested_outputs_are_answered(target: Target, transport: str) -> None:
    inputs = {name: values(kind) for name, (_, kind) in IDENTITIES.items()}
    with triton.client(transport, target) as client:
        everything = client.infer("identities", triton.tensors(transport, inputs))
        assert everything.as_numpy("int8_out") is not None
    found = triton.infer(transport, target, "identities", inputs, ["uint8_out"])
    np.testing.assert_array_equal(found["uint8_out"], inputs["uint8"])


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_request_id_and_version_come_back(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client:
        tensors = triton.tensors(transport, {"number": np.array(1, np.float32)})
        result = client.infer("scalar", tensors, model_version="1", request_id="order-7")
    response = result.get_response(as_json=True) if transport == "grpc" else result.get_response()
    assert response["id"] == "order-7"
    assert response["model_version"] == "1"


@pytest.mark.parametrize("connect", [RestConnection, GrpcConnection])
def test_gateway_names_the_endpoint_that_answered(gateway: Gateway, worker: Worker, connect: type) -> None:
    connection = connect(gateway.address)
    found, endpoint = connection.infer("scalar", {"number": np.array(4, np.float32)})
    connection.close()
    assert endpoint == worker.grpc
    assert found == np.float32(4)
