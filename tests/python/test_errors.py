"""A client that asks for the wrong thing gets the right exception, from the gateway as from a worker."""

from __future__ import annotations

import http.client
import json

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

import triton
from conftest import Target, Tensors

STATUS = {
    "not found": {"grpc": "StatusCode.NOT_FOUND", "http": "404"},
    "invalid": {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"},
}

ONE_ROW = np.zeros((1, 3), np.int64)
WRONG: dict[str, tuple[str, Tensors, list[str], str, str]] = {
    # what is wrong: model, inputs, outputs, status, a word that the message must have
    "unknown model": ("nonesuch", {"x": ONE_ROW}, [], "not found", "nonesuch"),
    "shape of one input": (
        "minilm",
        {"input_ids": ONE_ROW, "attention_mask": ONE_ROW, "token_type_ids": np.zeros((1, 4), np.int64)},
        [],
        "invalid",
        "",
    ),
    "rank": ("minilm", {n: np.zeros(3, np.int64) for n in ("input_ids", "attention_mask", "token_type_ids")}, [],
             "invalid", "input_ids"),
    "fixed axis": ("magika", {"bytes": np.zeros((1, 9), np.int32)}, [], "invalid", "bytes"),
    "datatype": ("magika", {"bytes": np.zeros((1, 2048), np.float32)}, [], "invalid", "bytes"),
    "missing input": ("minilm", {"input_ids": ONE_ROW}, [], "invalid", "attention_mask"),
    "unknown input": ("magika", {"bytes": np.zeros((1, 2048), np.int32), "more": ONE_ROW}, [], "invalid", "more"),
    "unknown output": ("magika", {"bytes": np.zeros((1, 2048), np.int32)}, ["nonesuch"], "invalid", "nonesuch"),
}  # fmt: skip


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_request(target: Target, transport: str, wrong: str) -> None:
    model, inputs, outputs, kind, word = WRONG[wrong]
    with pytest.raises(InferenceServerException) as raised:
        triton.infer(transport, target, model, inputs, outputs)
    assert raised.value.status() == STATUS[kind][transport]
    assert word in raised.value.message()


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_unknown_version(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client, pytest.raises(InferenceServerException) as raised:
        tensors = triton.tensors(transport, {"number": np.array(1, np.float32)})
        client.infer("scalar", tensors, model_version="9")
    assert raised.value.status() == STATUS["not found"][transport]


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_metadata_of_unknown_model(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client, pytest.raises(InferenceServerException) as raised:
        client.get_model_metadata("nonesuch")
    assert raised.value.status() == STATUS["not found"][transport]


BODIES = {
    "not JSON": b"{",
    "not an object": b"[]",
    "no inputs": b"{}",
    "inputs of the wrong kind": b'{"inputs": 7}',
    "negative size": b'{"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048], "data": []}]}',
    "size that overflows": (
        b'{"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [4611686018427387904, 4], "data": []}]}'
    ),
    "too few values": b'{"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [1, 2]}]}',
    "value out of range": b'{"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1], "data": [2147483648]}]}',
    "unknown datatype": b'{"inputs": [{"name": "bytes", "datatype": "INT33", "shape": [1], "data": [1]}]}',
}


@pytest.mark.parametrize("body", BODIES)
def test_wrong_body(target: Target, body: str) -> None:
    connection = http.client.HTTPConnection(target.http, timeout=triton.SECONDS)
    connection.request("POST", "/v2/models/magika/infer", BODIES[body], {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 400
    assert isinstance(answer["error"], str) and answer["error"]
