"""tritonclient, over both of its transports, behind one way of calling it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import np_to_triton_dtype

from conftest import Target, Tensors

SECONDS = 60
TRANSPORTS = ("grpc", "http")


@contextmanager
def client(transport: str, target: Target) -> Iterator[object]:
    if transport == "grpc":
        with tritonclient.grpc.InferenceServerClient(target.grpc) as connected:
            yield connected
    else:
        seconds = {"connection_timeout": SECONDS, "network_timeout": SECONDS}
        with tritonclient.http.InferenceServerClient(target.http, **seconds) as connected:
            yield connected


def module(transport: str) -> ModuleType:
    return tritonclient.grpc if transport == "grpc" else tritonclient.http


def tensors(transport: str, inputs: Tensors, binary: bool = True) -> list:
    made = []
    for name, array in inputs.items():
        tensor = module(transport).InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        if transport == "grpc":
            tensor.set_data_from_numpy(array)
        else:
            tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


def infer(
    transport: str,
    target: Target,
    model: str,
    inputs: Tensors,
    wanted: list[str],
    binary: bool = True,
    **options: object,
) -> Tensors:
    """The wanted outputs by name."""
    outputs = [
        tritonclient.grpc.InferRequestedOutput(name)
        if transport == "grpc"
        else tritonclient.http.InferRequestedOutput(name, binary_data=binary)
        for name in wanted
    ]
    with client(transport, target) as connected:
        result = connected.infer(model, tensors(transport, inputs, binary), outputs=outputs, **options)
    return {name: result.as_numpy(name) for name in wanted}


def text(rows: list[list[str]]) -> np.ndarray:
    """Strings as the client wants them."""
    return np.array([[value.encode() for value in row] for row in rows], dtype=np.object_)
