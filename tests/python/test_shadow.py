"""Shadow traffic with real models: the int8 form of a model beside itself, and a model that is wrong."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from prometheus_client.parser import text_string_to_metric_families

from conftest import Tensors, binaries, worker_config
from demo.content_types import INPUT, MODEL, OUTPUT, batch
from demo.processes import Gateway, Processes, Worker

FILES = [b"import os\nprint(os.name)\n" * 8, b"<html><body><p>Hello</p></body></html>\n", b"SELECT 1 FROM dual;\n" * 9]


@pytest.fixture(scope="module")
def candidates(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's `magika`, its weights in int8, and one that answers the opposite."""
    models = tmp_path_factory.mktemp("candidates") / "models"
    original = repository / MODEL / "1" / "model.onnx"
    for name in (MODEL, "magika-int8", "magika-wrong"):
        (models / name / "1").mkdir(parents=True)
    (models / MODEL / "1" / "model.onnx").write_bytes(original.read_bytes())
    quantize_dynamic(original, models / "magika-int8" / "1" / "model.onnx", weight_type=QuantType.QInt8)
    wrong = onnx.load(str(original))
    for node in wrong.graph.node:
        node.output[:] = ["right" if name == OUTPUT else name for name in node.output]
        node.input[:] = ["right" if name == OUTPUT else name for name in node.input]
    wrong.graph.node.append(helper.make_node("Neg", ["right"], [OUTPUT]))
    onnx.save(wrong, str(models / "magika-wrong" / "1" / "model.onnx"))
    return models


@pytest.fixture(scope="module")
def worker(candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Processes(binaries(), tmp_path_factory.mktemp("shadow")) as running:
        yield running.worker("worker", worker_config(candidates))


@pytest.fixture
def shadowed(short_lived: Processes, worker: Worker) -> Callable[[str], Gateway]:
    def start(model: str) -> Gateway:
        config = f"""
            admin = {{ listen = "127.0.0.1:0" }}
            listeners = [{{ address = "127.0.0.1:0" }}]
            clusters = [
                {{ name = "real", endpoints = ["{worker.grpc}"] }},
                {{ name = "shadow", endpoints = ["{worker.grpc}"] }},
            ]
            [[routes]]
            name = "all"
            cluster = "real"
            shadow = {{ cluster = "shadow", model = "{model}" }}
        """
        return short_lived.gateway("gateway", config)

    return start


def figures(gateway: Gateway) -> dict[tuple[str, str], float]:
    """Values of the shadow's metrics, by name and by end, finding or bound."""
    with urllib.request.urlopen(f"http://{gateway.admin}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.startswith("forebay_shadow_"):
            label = next((sample.labels[key] for key in ("end", "finding", "le") if key in sample.labels), "")
            found[sample.name.removeprefix("forebay_shadow_"), label] = sample.value
    return found


def ask(gateway: Gateway, inputs: Tensors) -> np.ndarray:
    with tritonclient.grpc.InferenceServerClient(gateway.address) as client:
        tensor = tritonclient.grpc.InferInput(INPUT, list(inputs[INPUT].shape), "INT32")
        tensor.set_data_from_numpy(inputs[INPUT])
        return client.infer(MODEL, [tensor]).as_numpy(OUTPUT)


def compared(gateway: Gateway) -> dict[tuple[str, str], float]:
    """The figures once all files were compared, one call each and one call with all.

    Each call waits for the comparison of the one before: in a batch with its copy, which would be of another size than
    the copy's own, its answer would differ in the last bits.
    """
    calls = [*[batch([file]) for file in FILES], batch(FILES)]
    deadline = time.monotonic() + 30
    for number, inputs in enumerate(calls, 1):
        scores = ask(gateway, inputs)
        assert np.all(scores >= 0), "the client gets the real model's answer"
        while (found := figures(gateway))["requests_total", "compared"] < number:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
    return found


def test_int8_is_a_little_off_and_decides_the_same(shadowed: Callable[[str], Gateway]) -> None:
    found = compared(shadowed("magika-int8"))
    assert found["outputs_total", "different"] == 4
    assert found["relative_difference_bucket", "0"] == 0
    assert 0 < found["relative_difference_sum", ""] < 4 * 0.2
    assert found["rows_total", ""] == 6
    assert found["agreed_total", ""] == 6


def test_a_wrong_model_shows_up(shadowed: Callable[[str], Gateway]) -> None:
    found = compared(shadowed("magika-wrong"))
    assert found["outputs_total", "different"] == 4
    assert found["relative_difference_sum", ""] == pytest.approx(4 * 2, abs=1e-3)
    assert found["rows_total", ""] == 6
    assert found["agreed_total", ""] == 0


def test_a_model_is_equal_to_itself(shadowed: Callable[[str], Gateway]) -> None:
    found = compared(shadowed(MODEL))
    assert found["outputs_total", "equal"] == 4
    assert found["absolute_difference_sum", ""] == 0
    assert found["agreed_total", ""] == found["rows_total", ""] == 6
