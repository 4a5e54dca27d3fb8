"""kserve's SDK, through the gateway and directly: the answers are those of ONNX Runtime in this process.

It runs in a process without tritonclient, as both register the same protobuf names: `pytest tests/python/test_kserve.py`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import numpy as np
import pytest

from conftest import Target, Tensors, assert_as_onnx_runtime

if "tritonclient.grpc" in sys.modules:
    pytest.skip("tritonclient is loaded: run this file by itself", allow_module_level=True)
try:
    import kserve
    from kserve.inference_client import RESTConfig
except ImportError:
    kserve = None

pytestmark = pytest.mark.skipif(kserve is None, reason="kserve cannot be installed on this version of Python")
DATATYPES = {np.dtype(np.int64): "INT64", np.dtype(np.int32): "INT32"}


def request(model: str, inputs: Tensors, binary: bool) -> kserve.InferRequest:
    tensors = []
    for name, array in inputs.items():
        tensor = kserve.InferInput(name, list(array.shape), DATATYPES[array.dtype])
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    return kserve.InferRequest(model, tensors, parameters={"binary_data_output": True} if binary else None)


async def over_rest(target: Target, model: str, inputs: Tensors, binary: bool) -> kserve.InferResponse:
    client = kserve.InferenceRESTClient(RESTConfig(protocol="v2"))
    try:
        return await client.infer(f"http://{target.http}", request(model, inputs, binary), model_name=model)
    finally:
        await client.close()


async def over_grpc(target: Target, model: str, inputs: Tensors, binary: bool) -> kserve.InferResponse:
    async with kserve.InferenceGRPCClient(target.grpc) as client:
        return await client.infer(request(model, inputs, binary))


@pytest.mark.parametrize("send", [over_rest, over_grpc])
@pytest.mark.parametrize("binary", [True, False])
def test_outputs_equal_onnx_runtime(
    target: Target,
    case: tuple[str, Tensors],
    reference: Callable[[str, Tensors], Tensors],
    send: Callable,
    binary: bool,
) -> None:
    model, inputs = case
    response = asyncio.run(send(target, model, inputs, binary))
    found = {output.name: output.as_numpy() for output in response.outputs}
    shapes = {name: array.shape for name, array in reference(model, inputs).items()}
    found = {name: found[name].reshape(shape) for name, shape in shapes.items()}
    assert_as_onnx_runtime(found, reference, model, inputs)


def test_health_over_rest(target: Target) -> None:
    async def ask() -> tuple[bool, bool, bool]:
        client = kserve.InferenceRESTClient(RESTConfig(protocol="v2"))
        base = f"http://{target.http}"
        try:
            return (
                await client.is_server_live(base),
                await client.is_server_ready(base),
                await client.is_model_ready(base, "minilm"),
            )
        finally:
            await client.close()

    assert asyncio.run(ask()) == (True, True, True)


def test_health_over_grpc(target: Target) -> None:
    async def ask() -> tuple[bool, bool, bool]:
        async with kserve.InferenceGRPCClient(target.grpc) as client:
            return await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("minilm")

    assert asyncio.run(ask()) == (True, True, True)
