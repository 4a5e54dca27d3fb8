"""Small models that the tests add to the demo's two: every datatype, text, a scalar."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

# Input name by datatype of the protocol. Each comes back unchanged from `identities`.
IDENTITIES: dict[str, tuple[int, type]] = {
    "bool": (TensorProto.BOOL, np.bool_),
    "uint8": (TensorProto.UINT8, np.uint8),
    "uint16": (TensorProto.UINT16, np.uint16),
    "uint32": (TensorProto.UINT32, np.uint32),
    "uint64": (TensorProto.UINT64, np.uint64),
    "int8": (TensorProto.INT8, np.int8),
    "int16": (TensorProto.INT16, np.int16),
    "int32": (TensorProto.INT32, np.int32),
    "int64": (TensorProto.INT64, np.int64),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp64": (TensorProto.DOUBLE, np.float64),
}


def write(path: Path, nodes: list, inputs: list, outputs: list, initializers: list | None = None) -> None:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def save(
    repository: Path, name: str, nodes: list, inputs: list, outputs: list, constants: list | None = None
) -> None:
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    write(directory / "model.onnx", nodes, inputs, outputs, constants)


def identity(repository: Path, name: str, tensors: dict[str, int], shape: list) -> None:
    save(
        repository,
        name,
        [helper.make_node("Identity", [tensor], [f"{tensor}_out"]) for tensor in tensors],
        [helper.make_tensor_value_info(tensor, kind, shape) for tensor, kind in tensors.items()],
        [helper.make_tensor_value_info(f"{tensor}_out", kind, shape) for tensor, kind in tensors.items()],
    )


def build_small(repository: Path) -> None:
    """A repository that loads at once: `echo`, rows of three numbers."""
    identity(repository, "echo", {"x": TensorProto.FLOAT}, ["batch", 3])


def build(repository: Path, demo_models: Path) -> None:
    """The demo's models and the small ones, as one repository."""
    shutil.copytree(demo_models, repository)
    identity(repository, "identities", {name: kind for name, (kind, _) in IDENTITIES.items()}, ["batch", 3])
    identity(repository, "text", {"text": TensorProto.STRING}, ["batch", 2])
    identity(repository, "scalar", {"number": TensorProto.FLOAT}, [])


def token_vectors(repository: Path) -> None:
    """The demo's `minilm` without the pooling at its end: a vector for each token."""
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    directory = repository / "minilm-tokens" / "1"
    directory.mkdir(parents=True)
    whole = repository / "minilm" / "1" / "model.onnx"
    onnx.utils.extract_model(str(whole), str(directory / "model.onnx"), inputs, ["last_hidden_state"])


LABELS = ["cat", "dog", "Kühlschrank", "spoon"]


def classifier(repository: Path, size: int = 32) -> None:
    """A picture to the logits of four classes; its weights mean nothing, and differ from each other."""
    random = np.random.default_rng(7)
    weights = {
        "kernel": random.normal(size=(8, 3, 5, 5)).astype(np.float32),
        "matrix": random.normal(size=(8, len(LABELS))).astype(np.float32),
    }
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["convolved"], strides=[2, 2]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    save(repository, "classifier", nodes, [pixels], [logits], constants)
    (repository / "classifier" / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))


def build_for_ensembles(repository: Path, demo_models: Path) -> None:
    """What deploy/examples/worker-ensembles.toml needs."""
    shutil.copytree(demo_models / "minilm", repository / "minilm")
    token_vectors(repository)
    classifier(repository)
