"""The ONNX project's own cases for its operators: what ONNX Runtime answers right, the worker answers right.

Scalars without dimensions, tensors without elements, free and unspecified shapes, and every datatype are among them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc
from tritonclient.utils import np_to_triton_dtype

from conftest import Tensors, binaries, worker_config
from demo.processes import Processes, Worker

# 1,363 of 1,884 in onnx 1.23; the others have sequences, optionals or datatypes that the protocol lacks, or are refused by
# ONNX Runtime itself.
AT_LEAST = 1300


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


def has_triton_dtype(array: object) -> bool:
    if np.isscalar(array):
        array = np.asarray(array)
    return isinstance(array, np.ndarray) and np_to_triton_dtype(array.dtype) is not None


def named(outlets: list, arrays: list) -> Tensors:
    """Strings as objects, as both clients want them."""
    plain = [np.asarray(array) for array in arrays]
    plain = [array.astype(object) if array.dtype.kind in "US" else array for array in plain]
    return dict(zip([outlet.name for outlet in outlets], plain, strict=True))


def run_in_process(path: Path, inputs: Tensors, wanted: list[str]) -> Tensors:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(wanted, inputs), strict=True))


def build(repository: Path) -> dict[str, Case]:
    """Every case of tensors that ONNX Runtime passes in this process, as a model repository."""
    with warnings.catch_warnings():
        # NumPy's, about the extreme values that some cases are made of.
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    onnxruntime.set_default_logger_severity(4)
    cases: dict[str, Case] = {}
    for case in found:
        inputs, outputs = (list(arrays) for arrays in case.data_sets[0])
        if len(case.model.graph.input) != len(inputs) or not all(map(has_triton_dtype, inputs + outputs)):
            continue
        made = Case(named(case.model.graph.input, inputs), named(case.model.graph.output, outputs), case.rtol, case.atol)
        path = repository / case.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(case.model, str(path))
        try:
            passed = not made.difference(run_in_process(path, made.inputs, list(made.outputs)))
        except Exception:  # The runtime has many ways to say that it lacks an operator.
            passed = False
        if passed:
            cases[case.name] = made
        else:
            path.unlink()
            path.parent.rmdir()
            path.parent.parent.rmdir()
    return cases


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
def cases(repository: Path) -> dict[str, Case]:
    return build(repository)


@pytest.fixture(scope="module")
def worker(cases: dict[str, Case], repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Processes(binaries(), tmp_path_factory.mktemp("run")) as running:
        yield running.worker("worker", worker_config(repository))


def test_every_case_that_onnx_runtime_passes(worker: Worker, cases: dict[str, Case]) -> None:
    assert len(cases) >= AT_LEAST
    failures = {}
    with tritonclient.grpc.InferenceServerClient(worker.grpc) as client:
        for name, case in cases.items():
            try:
                difference = case.difference(infer(client, name, case))
            except tritonclient.grpc.InferenceServerException as error:
                difference = str(error)
            if difference:
                failures[name] = difference
    assert not failures, json.dumps(failures, indent=1)
