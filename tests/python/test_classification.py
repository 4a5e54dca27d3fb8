"""The classification extension: the best classes of an output as text, with labels where the model has some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

import triton
from conftest import Target, gateway_config, worker_config
from demo.processes import Processes, StartError

SCORES = np.array([[0.25, 2.5, -1], [7, 8, 9]], np.float32)
WANTED = [[b"2.500000:1:dog", b"0.250000:0:cat"], [b"9.000000:2", b"8.000000:1:dog"]]


@pytest.fixture(params=["worker", "gateway"])
def labelled(request: pytest.FixtureRequest, short_lived: Processes, small_repository: Path, tmp_path: Path) -> Target:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    config = worker_config(small_repository) + f'\n[models.echo]\nlabels = {{ x_out = "{labels}" }}\n'
    worker = short_lived.worker("worker", config)
    if request.param == "worker":
        return Target("worker", worker.grpc, worker.http)
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc]))
    return Target("gateway", gateway.address, gateway.address)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_each_row_is_answered_with_its_best_classes(labelled: Target, protocol: str) -> None:
    module = triton.module(protocol)
    with triton.client(protocol, labelled) as client:
        output = module.InferRequestedOutput("x_out", class_count=2)
        result = client.infer("echo", triton.tensors(protocol, {"x": SCORES}), outputs=[output])
        found = result.as_numpy("x_out")
    assert found.tolist() == WANTED


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_more_classes_than_there_are(labelled: Target, protocol: str) -> None:
    module = triton.module(protocol)
    with triton.client(protocol, labelled) as client:
        output = module.InferRequestedOutput("x_out", class_count=1000)
        found = client.infer("echo", triton.tensors(protocol, {"x": SCORES}), outputs=[output]).as_numpy("x_out")
    assert found.shape == (2, 3)
    assert found[0].tolist() == [b"2.500000:1:dog", b"0.250000:0:cat", b"-1.000000:2"]


def test_the_configuration_names_the_labels(labelled: Target) -> None:
    with triton.client("grpc", labelled) as client:
        config = client.get_model_config("echo", as_json=True)["config"]
    assert config["output"][0]["label_filename"].endswith("labels.txt")


def test_text_has_no_classes(target: Target) -> None:
    with triton.client("grpc", target) as client:
        output = tritonclient.grpc.InferRequestedOutput("text_out", class_count=1)
        inputs = triton.tensors("grpc", {"text": triton.text([["a", "b"]])})
        with pytest.raises(InferenceServerException, match="unsupported type 'BYTES'"):
            client.infer("text", inputs, outputs=[output])


def test_labels_of_an_output_that_is_not_there(short_lived: Processes, small_repository: Path) -> None:
    config = worker_config(small_repository) + '\n[models.echo]\nlabels = { scores = "labels.txt" }\n'
    with pytest.raises(StartError, match="labels are given for output 'scores', but the model has x_out"):
        short_lived.worker("worker", config)
