"""The ONNX project's own cases for its operators: what ONNX Runtime answers right, the worker answers right.

Scalars without dimensions, tensors without elements, free and unspecified shapes, and every datatype are among them.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import tritonclient.grpc
from tritonclient.utils import np_to_triton_dtype

from conftest import Tensors, binaries, worker_config
from demo.processes import Processes, Worker

# Of the 1,884 cases of onnx 1.23.2, with ONNX Runtime 1.31.1.
DROPPED = {
    "sequences and optionals": 29,
    "datatypes that the clients lack": 164,
    "refused by ONNX Runtime": 294,
}
# Answered by ONNX Runtime; a few otherwise than the case wants, which depends on the processor's kernels.
ANSWERED = 1375 + 22
MOST_THAT_DIFFER = 30


@dataclass(frozen=True)
class Case:
    inputs: Tensors
    outputs: Tensors
    rtol: float
    atol: float

    def difference(self, found: Tensors) -> str:
        """Empty if these are the outputs that the case wants."""
        for name, wanted in self.outputs.items():
            array = found[name]
            if array is None or array.shape != wanted.shape:
                return f"{name} has shape {None if array is None else array.shape}, not {wanted.shape}"
            if wanted.dtype.kind in "OUS":
                if [text(value) for value in array.ravel()] != [text(value) for value in wanted.ravel()]:
                    return f"{name} is {array}, not {wanted}"
            elif array.dtype != wanted.dtype:
                return f"{name} is {array.dtype}, not {wanted.dtype}"
            elif not np.allclose(array, wanted, rtol=self.rtol, atol=self.atol, equal_nan=True):
                return f"{name} is {array}, not {wanted}"
        return ""


def text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def is_tensor(outlet: onnx.ValueInfoProto) -> bool:
    return outlet.type.WhichOneof("value") == "tensor_type"


def named(outlets: list, arrays: list) -> Tensors:
    """Strings as objects, as both clients want them."""
    plain = [onnx.numpy_helper.to_array(array) if isinstance(array, onnx.TensorProto) else np.asarray(array) for array in arrays]
    plain = [array.astype(object) if array.dtype.kind in "US" else array for array in plain]
    return dict(zip([outlet.name for outlet in outlets], plain, strict=True))


def have_triton_dtypes(tensors: Tensors) -> bool:
    return all(np_to_triton_dtype(array.dtype) is not None for array in tensors.values())


def run_in_process(path: Path, inputs: Tensors, wanted: list[str]) -> Tensors:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(wanted, inputs), strict=True))


@dataclass(frozen=True)
class Found:
    """The cases that are left, and how many were not, by the reason."""

    cases: dict[str, Case]
    dropped: Counter[str]
    differ: list[str]


def build(repository: Path) -> Found:
    """Every case of tensors that ONNX Runtime passes in this process, as a model repository."""
    with warnings.catch_warnings():
        # NumPy's, about the extreme values that some cases are made of.
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    onnxruntime.set_default_logger_severity(4)
    cases: dict[str, Case] = {}
    dropped: Counter[str] = Counter()
    differ = []
    for case in found:
        graph = case.model.graph
        if not all(map(is_tensor, [*graph.input, *graph.output])):
            dropped["sequences and optionals"] += 1
            continue
        inputs, outputs = case.data_sets[0]
        made = Case(named(graph.input, inputs), named(graph.output, outputs), case.rtol, case.atol)
        if not (have_triton_dtypes(made.inputs) and have_triton_dtypes(made.outputs)):
            dropped["datatypes that the clients lack"] += 1
            continue
        path = repository / case.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(case.model, str(path))
        try:
            difference = made.difference(run_in_process(path, made.inputs, list(made.outputs)))
        except Exception:  # The runtime has many ways to say that it lacks an operator.
            dropped["refused by ONNX Runtime"] += 1
        else:
            if not difference:
                cases[case.name] = made
                continue
            differ.append(case.name)
        shutil.rmtree(repository / case.name)
    return Found(cases, dropped, differ)


def infer(client: tritonclient.grpc.InferenceServerClient, name: str, case: Case) -> Tensors:
    tensors = []
    for input_name, array in case.inputs.items():
        if array.dtype == object:
            array = np.array([text(value).encode() for value in array.ravel()], object).reshape(array.shape)
        tensor = tritonclient.grpc.InferInput(input_name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    wanted = [tritonclient.grpc.InferRequestedOutput(output) for output in case.outputs]
    result = client.infer(name, tensors, outputs=wanted, client_timeout=60)
    return {output: result.as_numpy(output) for output in case.outputs}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes") / "models"


@pytest.fixture(scope="module")
def found(repository: Path) -> Found:
    return build(repository)


@pytest.fixture(scope="module")
def worker(found: Found, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Processes(binaries(), tmp_path_factory.mktemp("run")) as running:
        yield running.worker("worker", worker_config(repository))


def test_no_case_is_dropped_unnoticed(found: Found) -> None:
    assert found.dropped == DROPPED
    assert len(found.cases) + len(found.differ) == ANSWERED
    assert len(found.differ) <= MOST_THAT_DIFFER, found.differ


def test_every_case_that_onnx_runtime_passes(worker: Worker, found: Found) -> None:
    failures = {}
    with tritonclient.grpc.InferenceServerClient(worker.grpc) as client:
        for name, case in found.cases.items():
            try:
                difference = case.difference(infer(client, name, case))
            except tritonclient.grpc.InferenceServerException as error:
                difference = str(error)
            if difference:
                failures[name] = difference
    assert not failures, json.dumps(failures, indent=1)
