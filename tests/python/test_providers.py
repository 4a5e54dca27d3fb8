"""Where models run: the examples of docs/providers.md, and models in INT8 and FP16 as they are."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import triton
from conftest import ROOT, Target, Tensors, worker_config
from demo.processes import Processes, StartError, Worker

# A library of the package onnxruntime-openvino; without it the example says what is missing.
OPENVINO = os.environ.get("FOREBAY_OPENVINO_DYLIB", "")


def example(name: str, repository: Path) -> str:
    """The example, with this repository and ports of the kernel's choice."""
    text = (ROOT / "deploy" / "examples" / name).read_text()
    line = next(line for line in text.splitlines() if line.startswith("repository"))
    here = f'repository = "{repository}"\nlisten = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"'
    return text.replace(line, here)


def providers(worker: Worker) -> dict[str, str]:
    """By model, as the metrics tell."""
    with urllib.request.urlopen(f"http://{worker.http}/metrics") as page:
        lines = page.read().decode().splitlines()
    labels = [dict(pair.split("=", 1) for pair in line[line.index("{") + 1 : line.index("}")].split(","))
              for line in lines if line.startswith("forebay_model_info{")]
    return {label["model"].strip('"'): label["provider"].strip('"') for label in labels}


def rows(repository: Path, name: str, worker: Worker, inputs: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """What the worker answers and what ONNX Runtime answers here."""
    path = repository / name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = [output.name for output in session.get_outputs()][:1]
    target = Target("worker", worker.grpc, worker.http)
    found = triton.infer("grpc", target, name, inputs, [output])
    return found[output], session.run([output], inputs)[0]


def test_the_example_for_the_cpu(repository: Path, short_lived: Processes, encoder) -> None:
    worker = short_lived.worker("worker", example("worker-providers.toml", repository))
    found = providers(worker)
    assert found["minilm"] == found["magika"] == "cpu"
    for _ in range(4):
        got, wanted = rows(repository, "minilm", worker, encoder.encode(["One sentence.", "And one more."]))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_the_example_for_openvino(
    repository: Path, short_lived: Processes, encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = example("worker-openvino.toml", repository)
    if not OPENVINO:
        with pytest.raises(StartError, match="onnxruntime-openvino"):
            short_lived.worker("worker", config)
        return
    monkeypatch.setenv("ORT_DYLIB_PATH", OPENVINO)
    worker = short_lived.worker("worker", config)
    assert providers(worker)["minilm"] == "openvino"
    got, wanted = rows(repository, "minilm", worker, encoder.encode(["One sentence."]))
    assert got.shape == wanted.shape
    cosine = (got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)
    assert cosine > 0.98


def dense(kind: int, dtype: type) -> onnx.ModelProto:
    """Rows of 64 numbers times a matrix of weights."""
    weights = np.random.default_rng(7).standard_normal((64, 32)).astype(dtype)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", kind, ["batch", 64])],
        [helper.make_tensor_value_info("y", kind, ["batch", 32])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def precisions(tmp_path: Path) -> Path:
    repository = tmp_path / "precisions"
    for name in ("fp16", "int8"):
        (repository / name / "1").mkdir(parents=True)
    onnx.save(dense(TensorProto.FLOAT16, np.float16), str(repository / "fp16" / "1" / "model.onnx"))
    fp32 = tmp_path / "fp32.onnx"
    onnx.save(dense(TensorProto.FLOAT, np.float32), str(fp32))
    quantize_dynamic(fp32, repository / "int8" / "1" / "model.onnx", weight_type=QuantType.QInt8)
    return repository


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("int8", np.float32)])
def test_models_in_other_precisions_run_as_they_are(
    precisions: Path, short_lived: Processes, name: str, dtype: type
) -> None:
    worker = short_lived.worker("worker", worker_config(precisions))
    inputs = {"x": np.random.default_rng(1).standard_normal((5, 64)).astype(dtype)}
    got, wanted = rows(precisions, name, worker, inputs)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, wanted)
