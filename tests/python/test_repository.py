"""Loading and unloading as tritonclient does it, over both transports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import triton
from conftest import Target, worker_config
from demo.processes import Processes


def model(amount: float) -> bytes:
    """x FP32 [batch, 2] -> y = x + amount."""
    shape = ["batch", 2]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "amount"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("amount", TensorProto.FLOAT, [1], [amount])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def write(repository: Path, name: str, version: int, content: bytes) -> None:
    directory = repository / name / str(version)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(content)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    write(directory, "add", 1, model(1))
    write(directory, "add", 2, model(2))
    write(directory, "other", 1, model(7))
    return directory


@pytest.fixture
def explicit(short_lived: Processes, models: Path) -> Target:
    """Only `add` is loaded."""
    config = worker_config(models, 'model_control = "explicit"\nload_at_start = ["add"]')
    worker = short_lived.worker("explicit", config)
    return Target("worker", worker.grpc, worker.http)


@pytest.fixture(params=triton.TRANSPORTS)
def caller(request: pytest.FixtureRequest, explicit: Target) -> Iterator[Caller]:
    with triton.client(request.param, explicit) as client:
        yield Caller(request.param, client)


class Caller:
    def __init__(self, transport: str, client: object) -> None:
        self.transport = transport
        self.client = client

    def amount(self, name: str, version: str = "") -> float:
        inputs = triton.tensors(self.transport, {"x": np.zeros((1, 2), np.float32)})
        return float(self.client.infer(name, inputs, model_version=version).as_numpy("y")[0, 0])

    def index(self) -> dict[tuple[str, str], str]:
        """States by name and version."""
        options = {"as_json": True} if self.transport == "grpc" else {}
        index = self.client.get_model_repository_index(**options)
        lines = index.get("models", []) if self.transport == "grpc" else index
        return {(line["name"], line.get("version", "")): line.get("state", "") for line in lines}

    def config(self, name: str) -> dict:
        if self.transport == "grpc":
            return self.client.get_model_config(name, as_json=True)["config"]
        return self.client.get_model_config(name)


def test_load_and_unload(caller: Caller) -> None:
    client = caller.client
    assert caller.index() == {("add", "2"): "READY", ("other", ""): ""}
    assert not client.is_model_ready("other")
    client.load_model("other")
    assert client.is_model_ready("other")
    assert caller.amount("other") == 7
    assert caller.index()[("other", "1")] == "READY"
    client.unload_model("other", unload_dependents=True)
    assert not client.is_model_ready("other")
    with pytest.raises(InferenceServerException, match="'other' has no available versions"):
        caller.amount("other")
    client.unload_model("other")


def test_load_anew(caller: Caller, models: Path) -> None:
    assert caller.amount("add") == 2
    write(models, "add", 3, model(3))
    caller.client.load_model("add")
    assert caller.amount("add") == 3
    write(models, "add", 3, b"broken")
    with pytest.raises(InferenceServerException, match="load failed for model 'add': version 3 is at UNAVAILABLE state"):
        caller.client.load_model("add")
    assert caller.amount("add") == 3


def test_unknown_models(caller: Caller) -> None:
    message = "failed to load 'unknown_model', failed to poll from model repository"
    with pytest.raises(InferenceServerException, match=message):
        caller.client.load_model("unknown_model")
    caller.client.unload_model("unknown_model")


def test_names_do_not_lead_out_of_the_repository(caller: Caller, models: Path) -> None:
    write(models.parent, "outside", 1, model(9))
    for name in ("../outside", "..", str(models.parent / "outside")):
        with pytest.raises(InferenceServerException):
            caller.client.load_model(name)
    assert ("outside", "1") not in caller.index()


def test_config_override(caller: Caller) -> None:
    config = {"max_batch_size": 4, "version_policy": {"specific": {"versions": [1]}}}
    caller.client.load_model("add", config=json.dumps(config))
    assert caller.amount("add") == 1
    assert int(caller.config("add")["max_batch_size"]) == 4
    with pytest.raises(InferenceServerException):
        caller.amount("add", "2")
    # The next load without it is as the repository says.
    caller.client.load_model("add")
    assert caller.amount("add") == 2
    assert int(caller.config("add")["max_batch_size"]) == 32


@pytest.mark.parametrize(
    "config",
    ["{", "5", '{"max_batch_sizes": 4}', '{"max_batch_size": "many"}', '{"name": "another"}'],
)
def test_bad_config_overrides(caller: Caller, config: str) -> None:
    with pytest.raises(InferenceServerException) as raised:
        caller.client.load_model("add", config=config)
    assert "config" in raised.value.message() or "name" in raised.value.message()
    assert caller.amount("add") == 2


def test_file_override(caller: Caller, models: Path) -> None:
    files = {"file:1/model.onnx": model(40)}
    with pytest.raises(InferenceServerException, match="config"):
        caller.client.load_model("add", files=files)
    assert caller.amount("add") == 2
    caller.client.load_model("add", config="{}", files=files)
    assert caller.amount("add") == 40
    assert caller.index()[("add", "1")] == "READY"
    caller.client.load_model("elsewhere", config='{"backend": "onnxruntime"}', files=files)
    assert caller.amount("elsewhere", "1") == 40
    assert not (models / "elsewhere").exists()
    caller.client.load_model("add")
    assert caller.amount("add") == 2


@pytest.mark.parametrize("path", ["../x", "1/../../x", "/tmp/x", "1//model.onnx", "", ".hidden/x"])
def test_files_stay_in_their_folder(caller: Caller, path: str) -> None:
    with pytest.raises(InferenceServerException, match="file"):
        caller.client.load_model("add", config="{}", files={f"file:{path}": model(40)})
    assert caller.amount("add") == 2


def test_nothing_is_loaded_where_it_is_not_allowed(short_lived: Processes, models: Path) -> None:
    worker = short_lived.worker("none", worker_config(models))
    for transport in triton.TRANSPORTS:
        with triton.client(transport, Target("worker", worker.grpc, worker.http)) as client:
            for call in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed"):
                    call("add")
            assert client.is_model_ready("add", "2")
