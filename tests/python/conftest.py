"""The product as its users run it: the real binaries, on ports of the kernel's choice, with the demo's models.

FOREBAY_BIN_DIR (default: target/debug) and FOREBAY_MODELS (default: .demo/models) say where they are. Nothing in here
imports a client: tritonclient and kserve register the same protobuf names, so only one of them fits into a process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import model_zoo
from demo.content_types import batch as magika_batch
from demo.processes import Gateway, Processes, Worker
from demo.sentences import SentenceEncoder

ROOT = Path(__file__).resolve().parents[2]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Target:
    """Where a client connects: everything on one port of the gateway, or the two ports of a worker."""

    name: str
    grpc: str
    http: str


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = Path(os.environ.get("FOREBAY_MODELS", ROOT / ".demo" / "models"))
    if not models.is_dir():
        pytest.fail(f"{models} does not exist; run `make models`")
    directory = tmp_path_factory.mktemp("product") / "models"
    model_zoo.build(directory, models)
    return directory


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small") / "models"
    model_zoo.build_small(directory)
    return directory


def binaries() -> Path:
    return Path(os.environ.get("FOREBAY_BIN_DIR", ROOT / "target" / "debug"))


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """For what all tests share."""
    with Processes(binaries(), tmp_path_factory.mktemp("run")) as running:
        yield running


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[Processes]:
    """For what one test needs."""
    with Processes(binaries(), tmp_path) as running:
        yield running


def worker_config(repository: Path, telemetry: str = "") -> str:
    return f"""
        repository = "{repository}"
        listen = "127.0.0.1:0"
        http_listen = "127.0.0.1:0"
        threads = 1
        {telemetry}
    """


def gateway_config(endpoints: list[str], telemetry: str = "", cluster: str = "") -> str:
    return f"""
        {telemetry}
        [admin]
        listen = "127.0.0.1:0"
        [[listeners]]
        address = "127.0.0.1:0"
        [[clusters]]
        name = "upstream"
        endpoints = [{", ".join(f'"{endpoint}"' for endpoint in endpoints)}]
        {cluster}
    """


@pytest.fixture(scope="session")
def worker(processes: Processes, repository: Path) -> Worker:
    return processes.worker("worker", worker_config(repository))


@pytest.fixture(scope="session")
def gateway(processes: Processes, worker: Worker) -> Gateway:
    return processes.gateway("gateway", gateway_config([worker.grpc]))


@pytest.fixture(params=["gateway", "worker"])
def target(request: pytest.FixtureRequest, gateway: Gateway, worker: Worker) -> Target:
    if request.param == "gateway":
        return Target("gateway", gateway.address, gateway.address)
    return Target("worker", worker.grpc, worker.http)


@pytest.fixture(scope="session")
def small_worker(processes: Processes, small_repository: Path) -> Worker:
    return processes.worker("small-worker", worker_config(small_repository))


@pytest.fixture(scope="session")
def small_gateway(processes: Processes, small_worker: Worker) -> Gateway:
    return processes.gateway("small-gateway", gateway_config([small_worker.grpc]))


@pytest.fixture(params=["gateway", "worker"])
def small_target(request: pytest.FixtureRequest, small_gateway: Gateway, small_worker: Worker) -> Target:
    """As `target`, with `echo` alone."""
    if request.param == "gateway":
        return Target("gateway", small_gateway.address, small_gateway.address)
    return Target("worker", small_worker.grpc, small_worker.http)


@pytest.fixture(scope="session")
def encoder(repository: Path) -> SentenceEncoder:
    return SentenceEncoder(repository)


@pytest.fixture(scope="session")
def reference(repository: Path) -> Callable[[str, Tensors], Tensors]:
    """What ONNX Runtime answers in this process: outputs by name."""

    @cache
    def session(model: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = repository / model / "1" / "model.onnx"
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(model: str, inputs: Tensors) -> Tensors:
        names = [output.name for output in session(model).get_outputs()]
        return dict(zip(names, session(model).run(names, inputs), strict=True))

    return run


Reference = Callable[[str, Tensors], Tensors]


def assert_as_onnx_runtime(found: Tensors, reference: Reference, model: str, inputs: Tensors) -> None:
    """Each row as ONNX Runtime computes it, all rows at once or one by one: the worker runs what is faster, and the two
    differ by up to 6e-5 on this data (magika), since other kernels run for one row."""
    together = reference(model, inputs)
    rows = len(next(iter(inputs.values())))
    apart = [reference(model, {name: array[row : row + 1] for name, array in inputs.items()}) for row in range(rows)]
    for name, array in together.items():
        one_by_one = np.concatenate([row[name] for row in apart])
        near = [np.isclose(found[name], expected, rtol=0, atol=1e-5) for expected in (array, one_by_one)]
        assert found[name].dtype == array.dtype
        assert (near[0] | near[1]).all(), np.abs(found[name] - array).max()


CASES = ("one sentence", "three sentences", "files")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, encoder: SentenceEncoder) -> tuple[str, Tensors]:
    """A model of the demo and inputs for it."""
    if request.param == "one sentence":
        return "minilm", encoder.encode(["A gateway stands before the workers."])
    if request.param == "three sentences":
        return "minilm", encoder.encode(["Short.", "A longer one, to be padded to.", "Rain is expected tonight."])
    return "magika", magika_batch([b"import os\nprint(os.name)\n" * 8, b"<html><body><p>Hello</p></body></html>\n"])
