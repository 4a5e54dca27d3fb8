"""System shared memory: tensors that go past the message, both ways, as tritonclient's own module makes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.utils import InferenceServerException

import triton
from conftest import Target, worker_config
from demo.processes import Processes, Worker

ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
TRANSPORTS = pytest.mark.parametrize("transport", triton.TRANSPORTS)
SHM = Path("/dev/shm")


@pytest.fixture
def key() -> Iterator[str]:
    """A region of 48 bytes: the first half holds ROWS, the second is for the answer."""
    name = f"forebay-{os.getpid()}"
    region = shared_memory.create_shared_memory_region("rows", f"/{name}", 48)
    shared_memory.set_shared_memory_region(region, [ROWS])
    yield f"/{name}"
    shared_memory.destroy_shared_memory_region(region)


def ask(transport: str, size: int = 24, offset: int = 0) -> dict[str, list]:
    module = triton.module(transport)
    tensor = module.InferInput("x", [2, 3], "FP32")
    tensor.set_shared_memory("rows", size, offset)
    output = module.InferRequestedOutput("x_out")
    output.set_shared_memory("rows", 24, 24)
    return {"inputs": [tensor], "outputs": [output]}


@TRANSPORTS
def test_tensors_are_taken_from_a_region_and_left_in_it(small_target: Target, transport: str, key: str) -> None:
    with triton.client(transport, small_target) as client:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        client.register_system_shared_memory("rows", key, 48)
        result = client.infer("echo", **ask(transport))
        described = result.get_output("x_out")
        status = client.get_system_shared_memory_status()
        client.unregister_system_shared_memory("rows")
    assert (SHM / key[1:]).read_bytes() == ROWS.tobytes() * 2
    if transport == "grpc":
        assert described.parameters["shared_memory_region"].string_param == "rows"
        assert status.regions["rows"].byte_size == 48
        assert status.regions["rows"].key == key
    else:
        assert described == {"name": "x_out", "datatype": "FP32", "shape": [2, 3]}
        assert status == [{"name": "rows", "key": key, "offset": 0, "byte_size": 48}]


@TRANSPORTS
def test_a_region_has_a_place_of_its_own_in_the_object(small_target: Target, transport: str, key: str) -> None:
    with triton.client(transport, small_target) as client:
        client.register_system_shared_memory("second half", key, 24, 24)
        output = triton.module(transport).InferRequestedOutput("x_out")
        output.set_shared_memory("second half", 24)
        client.infer("echo", triton.tensors(transport, {"x": ROWS * 2}), outputs=[output])
        client.unregister_system_shared_memory("second half")
    assert (SHM / key[1:]).read_bytes() == ROWS.tobytes() + (ROWS * 2).tobytes()


@TRANSPORTS
def test_refusals_say_why(small_target: Target, transport: str, key: str) -> None:
    with triton.client(transport, small_target) as client:
        for call, text in [
            (lambda: client.register_system_shared_memory("rows", "/forebay-nothing", 48), "Unable to open"),
            (lambda: client.register_system_shared_memory("rows", "/../etc/passwd", 48), "not the name of an object"),
            (lambda: client.register_system_shared_memory("rows", key, 49), "more than the 48 of"),
            (lambda: client.get_system_shared_memory_status("rows"), "Unable to find system shared memory region"),
            (lambda: client.infer("echo", **ask(transport)), "Unable to find shared memory region: 'rows'"),
        ]:
            with pytest.raises(InferenceServerException, match=text):
                call()
        client.register_system_shared_memory("rows", key, 48)
        for call, text in [
            (lambda: client.register_system_shared_memory("rows", key, 48), "already in manager"),
            (lambda: client.infer("echo", **ask(transport, size=49)), "Invalid offset"),
            (lambda: client.infer("echo", **ask(transport, size=20)), "Expected 24, got 20"),
            (lambda: client.infer("echo", **ask(transport, offset=2**62)), "Invalid offset"),
        ]:
            with pytest.raises(InferenceServerException, match=text):
                call()
        client.unregister_system_shared_memory()
        client.unregister_system_shared_memory("rows")


@TRANSPORTS
def test_a_truncated_region_is_an_error_and_the_worker_lives(small_target: Target, transport: str, key: str) -> None:
    with triton.client(transport, small_target) as client:
        client.register_system_shared_memory("rows", key, 48)
        os.truncate(SHM / key[1:], 8)
        with pytest.raises(InferenceServerException, match="cannot be read"):
            client.infer("echo", **ask(transport))
        os.truncate(SHM / key[1:], 48)
        client.unregister_system_shared_memory("rows")
        assert client.is_server_live()


@TRANSPORTS
def test_there_is_no_cuda_memory(small_target: Target, transport: str) -> None:
    with triton.client(transport, small_target) as client:
        client.unregister_cuda_shared_memory()
        status = client.get_cuda_shared_memory_status()
        extensions = client.get_server_metadata()
        with pytest.raises(InferenceServerException):
            client.register_cuda_shared_memory("gpu", b"aGFuZGxl", 0, 64)
    assert not (status.regions if transport == "grpc" else status)
    extensions = extensions.extensions if transport == "grpc" else extensions["extensions"]
    assert "system_shared_memory" in extensions
    assert "cuda_shared_memory" not in extensions


@pytest.fixture
def small_messages(short_lived: Processes, small_repository: Path) -> Worker:
    return short_lived.worker("worker", worker_config(small_repository) + 'max_message_size = "1KiB"\n')


def test_the_limit_of_messages_holds_for_tensors_in_memory(small_messages: Worker) -> None:
    name = f"forebay-large-{os.getpid()}"
    region = shared_memory.create_shared_memory_region("large", f"/{name}", 1 << 20)
    target = Target("worker", small_messages.grpc, small_messages.http)
    with triton.client("grpc", target) as client:
        client.register_system_shared_memory("large", f"/{name}", 1 << 20)
        tensor = triton.module("grpc").InferInput("x", [100, 3], "FP32")
        tensor.set_shared_memory("large", 1200)
        with pytest.raises(InferenceServerException, match="exceeds? the limit of 1024 bytes"):
            client.infer("echo", [tensor])
    shared_memory.destroy_shared_memory_region(region)
