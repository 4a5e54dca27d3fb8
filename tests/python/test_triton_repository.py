"""A model repository made for Triton is served as it is: its config.pbtxt files are what says how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import model_zoo
import triton
from conftest import ROOT, Target, binaries, gateway_config, worker_config
from demo.processes import Processes, fields

PAGE = (ROOT / "docs" / "coming-from-triton.md").read_text()
X4 = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
Y4 = 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'


def block(kind: str) -> str:
    """The page's example of this kind."""
    return re.search(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


def times(
    repository: Path,
    name: str,
    factor: float,
    version: int = 1,
    shape: tuple = ("batch", 4),
    tensors: tuple[str, str] = ("x", "y"),
) -> Path:
    """y = factor * x"""
    x, y = tensors
    path = repository / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    value = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    model_zoo.write(
        path,
        [helper.make_node("Mul", [x, "factor"], [y])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, shape)],
        [value],
    )
    return path.parent


def configure(repository: Path, name: str, text: str) -> None:
    (repository / name / "config.pbtxt").write_text(text)


def build(repository: Path) -> None:
    times(repository, "batching", 2)
    configure(
        repository,
        "batching",
        f"""
        name: "batching"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        {X4}{Y4}
        dynamic_batching {{ preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 1500 }}
        instance_group [ {{ count: 2 kind: KIND_CPU }} ]
        """,
    )
    for version in (1, 2, 3):
        times(repository, "versions", version, version)
    configure(repository, "versions", f'max_batch_size: 8 {X4}{Y4} version_policy: {{ specific: {{ versions: [ 1, 3 ] }} }}')

    times(repository, "alone", 3)
    whole = 'name: "{0}" data_type: TYPE_FP32 dims: [ -1, 4 ]'
    configure(repository, "alone", f"input {{ {whole.format('x')} }} output {{ {whole.format('y')} }}")

    (times(repository, "named", 5) / "model.onnx").rename(repository / "named" / "1" / "net.onnx")
    configure(
        repository,
        "named",
        f"""
        backend: "onnxruntime"
        default_model_filename: "net.onnx"
        max_batch_size: 4
        {X4}
        output {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }}
        dynamic_batching {{ }}
        """,
    )
    (repository / "named" / "labels.txt").write_text("a\nb\nc\nd\n")

    times(repository, "warm", 7)
    (repository / "warm" / "warmup").mkdir()
    (repository / "warm" / "warmup" / "x.raw").write_bytes(np.ones(4, np.float32).tobytes())
    configure(
        repository,
        "warm",
        f"""
        max_batch_size: 4 {X4}{Y4} dynamic_batching {{ }}
        model_warmup [
          {{ name: "zeros" batch_size: 4 inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: 4 zero_data: true }} }} }},
          {{ name: "file" count: 2
             inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: 4 input_data_file: "x.raw" }} }} }}
        ]
        """,
    )

    times(repository, "reshaped", 11, shape=("batch",))
    one = 'name: "{0}" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ shape: [ ] }}'
    configure(
        repository,
        "reshaped",
        f"max_batch_size: 4 input {{ {one.format('x')} }} output {{ {one.format('y')} }} dynamic_batching {{ }}",
    )

    times(repository, "partly", 13)
    configure(
        repository,
        "partly",
        f"""
        max_batch_size: 4 {X4}{Y4}
        metric_tags {{ key: "team" value: "a" }}
        optimization {{ graph {{ level: 1 }} input_pinned_memory {{ enable: true }} }}
        parameters {{ key: "execution_mode" value: {{ string_value: "1" }} }}
        parameters {{ key: "owner" value: {{ string_value: "b" }} }}
        """,
    )

    times(repository, "contradicted", 17)
    configure(repository, "contradicted", f"max_batch_size: 4 {X4.replace('[ 4 ]', '[ 5 ]')}{Y4}")
    times(repository, "unreadable", 17)
    configure(repository, "unreadable", "max_batch_size: 4\ninput [ { name: 'x'\n")
    times(repository, "foreign", 17)
    configure(repository, "foreign", 'platform: "tensorrt_plan"')
    times(repository, "silent", 19)

    times(repository, "doubling", 2, shape=("batch", 4))
    (repository / "both" / "2").mkdir(parents=True)
    configure(
        repository,
        "both",
        """
        name: "both"
        platform: "ensemble"
        max_batch_size: 8
        input [ { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] } ]
        output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] } ]
        ensemble_scheduling {
          step [
            { model_name: "doubling" model_version: -1
              input_map { key: "x" value: "IN" } output_map { key: "y" value: "between" } },
            { model_name: "versions" model_version: 3
              input_map { key: "x" value: "between" } output_map { key: "y" value: "OUT" } }
          ]
        }
        """,
    )
    step = 'input_map {{ key: "x" value: "x" }} output_map {{ key: "y" value: "y" }}'
    for name, other in [("chicken", "egg"), ("egg", "chicken")]:
        (repository / name / "1").mkdir(parents=True)
        steps = f'ensemble_scheduling {{ step {{ model_name: "{other}" model_version: -1 {step.format()} }} }}'
        configure(repository, name, f'platform: "ensemble" max_batch_size: 8 {X4}{Y4} {steps}')

    for version in (1, 2, 3):
        times(repository, "sentiment", version, version, tensors=("features", "scores"))
    (repository / "sentiment" / "labels.txt").write_text("bad\nfair\ngood\nbest\n")
    configure(repository, "sentiment", block("protobuf"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Path]]:
    """The repository on a worker, with its log."""
    folder = tmp_path_factory.mktemp("triton")
    build(folder / "models")
    head = worker_config(folder / "models")
    config = re.sub(r"^repository = .*$", lambda _: head, block("toml"), flags=re.MULTILINE)
    config += "\n[models.partly]\ndynamic_batching = true\n"
    file = folder / "worker.toml"
    file.write_text(config)
    with Processes(binaries(), folder / "run") as running:
        program = running.run("worker", [str(binaries() / "forebay-worker"), "--config", str(file)])
        addresses = fields(program.wait_for_line("forebay-worker listening "))
        ready = fields(program.wait_for_line("forebay-worker ready "))
        assert ready == {"models": "11", "failed": "5"}, program.log_end()
        yield Target("worker", addresses["grpc"], addresses["http"]), program.log


@pytest.fixture
def target(served: tuple[Target, Path]) -> Target:
    return served[0]


def config_of(target: Target, model: str, version: str = "") -> dict:
    with triton.client("grpc", target) as client:
        return client.get_model_config(model, version, as_json=True)["config"]


def rows(count: int) -> np.ndarray:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
@pytest.mark.parametrize(
    ("model", "factor"), [("batching", 2), ("alone", 3), ("named", 5), ("warm", 7), ("partly", 13), ("silent", 19)]
)
def test_every_model_that_fits_answers(target: Target, transport: str, model: str, factor: int) -> None:
    found = triton.infer(transport, target, model, {"x": rows(3)}, ["y"])
    np.testing.assert_array_equal(found["y"], rows(3) * factor)


def test_batching_and_instances_are_as_the_file_says(target: Target) -> None:
    config = config_of(target, "batching")
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"]["preferred_batch_size"] == [4, 8]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "1500"
    (group,) = config["instance_group"]
    assert (group["count"], group["kind"]) == (2, "KIND_CPU")
    assert config["input"][0]["dims"] == ["4"]


def test_just_the_versions_that_the_policy_names_are_served(target: Target) -> None:
    for version, factor in [("1", 1), ("3", 3), ("", 3)]:
        found = triton.infer("grpc", target, "versions", {"x": rows(1)}, ["y"], model_version=version)
        np.testing.assert_array_equal(found["y"], rows(1) * factor)
    with triton.client("grpc", target) as client:
        assert not client.is_model_ready("versions", "2")
        assert sorted(client.get_model_metadata("versions").versions) == ["1", "3"]
    # Without dynamic_batching requests do not share batches, and the configuration says so.
    assert "dynamic_batching" not in config_of(target, "versions")


def test_without_max_batch_size_shapes_are_whole(target: Target) -> None:
    config = config_of(target, "alone")
    assert config.get("max_batch_size", 0) == 0
    assert config["input"][0]["dims"] == ["-1", "4"]
    found = triton.infer("grpc", target, "alone", {"x": rows(100)}, ["y"])
    np.testing.assert_array_equal(found["y"], rows(100) * 3)


def test_labels_and_the_name_of_the_file(target: Target) -> None:
    assert config_of(target, "named")["default_model_filename"] == "net.onnx"
    with triton.client("grpc", target) as client:
        output = tritonclient.grpc.InferRequestedOutput("y", class_count=1)
        result = client.infer("named", triton.tensors("grpc", {"x": rows(1)}), outputs=[output])
    assert result.as_numpy("y").tolist() == [[b"15.000000:3:d"]]


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_clients_see_the_shapes_of_the_file(target: Target, transport: str) -> None:
    with triton.client("grpc", target) as client:
        metadata = client.get_model_metadata("reshaped")
    assert list(metadata.inputs[0].shape) == list(metadata.outputs[0].shape) == [-1, 1]
    column = np.array([[1], [2], [3]], np.float32)
    found = triton.infer(transport, target, "reshaped", {"x": column}, ["y"])
    np.testing.assert_array_equal(found["y"], column * 11)
    with pytest.raises(InferenceServerException, match="shape"):
        triton.infer(transport, target, "reshaped", {"x": column[:, 0]}, ["y"])


def test_a_shape_that_the_file_does_not_have_is_refused(target: Target) -> None:
    with pytest.raises(InferenceServerException, match="shape"):
        triton.infer("grpc", target, "batching", {"x": np.zeros((1, 5), np.float32)}, ["y"])


def test_what_is_not_honoured_is_named(served: tuple[Target, Path]) -> None:
    target, log = served
    parameters = config_of(target, "partly")["parameters"]
    assert parameters["owner"]["string_value"] == "b"
    told = parameters["forebay.not_honoured"]["string_value"]
    text = log.read_text()
    for field in ["metric_tags", "optimization.graph.level", "input_pinned_memory", "parameters 'execution_mode'"]:
        assert field in told
        assert any("WARN" in line and "'partly'" in line and field in line for line in text.splitlines()), field
    assert "forebay.not_honoured" not in config_of(target, "batching").get("parameters", {})


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_an_ensemble_is_served_from_its_file(target: Target, transport: str) -> None:
    for version in ("", "2"):
        found = triton.infer(transport, target, "both", {"IN": rows(3)}, ["OUT"], model_version=version)
        np.testing.assert_array_equal(found["OUT"], rows(3) * 2 * 3)
    with pytest.raises(InferenceServerException, match="version"):
        triton.infer(transport, target, "both", {"IN": rows(3)}, ["OUT"], model_version="1")


def test_an_ensemble_shows_its_steps(target: Target) -> None:
    config = config_of(target, "both")
    assert config["platform"] == "ensemble"
    assert config["input"][0]["dims"] == ["4"]
    steps = config["ensemble_scheduling"]["step"]
    assert [(step["model_name"], step["model_version"]) for step in steps] == [("doubling", "-1"), ("versions", "3")]
    assert steps[1]["input_map"] == {"x": "between"}
    with triton.client("grpc", target) as client:
        metadata = client.get_model_metadata("both")
    assert list(metadata.versions) == ["2"]
    assert list(metadata.inputs[0].shape) == [-1, 4]


def test_the_workers_own_configuration_wins(target: Target) -> None:
    assert "dynamic_batching" in config_of(target, "partly")


def test_what_is_wrong_is_told_in_the_index_and_changes_nothing_else(target: Target) -> None:
    with triton.client("grpc", target) as client:
        index = client.get_model_repository_index()
    broken = {model.name: model.reason for model in index.models if model.state == "UNAVAILABLE" and model.reason}
    for model, reason in {
        "contradicted": "the model expects 2 dimensions (shape [-1, 4]) but the model configuration specifies 2",
        "unreadable": "config.pbtxt: line 3: expected",
        "foreign": "platform 'tensorrt_plan' is not served here",
        "chicken": "it is made of itself: chicken → egg → chicken",
        "egg": "it is made of itself: egg → chicken → egg",
    }.items():
        assert reason in broken[model]
        with pytest.raises(InferenceServerException):
            triton.infer("grpc", target, model, {"x": rows(1)}, ["y"])


def test_the_example_of_the_documentation(served: tuple[Target, Path]) -> None:
    target, log = served
    for version, factor in [("2", 2), ("", 3)]:
        found = triton.infer("grpc", target, "sentiment", {"features": rows(20)}, ["scores"], model_version=version)
        np.testing.assert_array_equal(found["scores"], rows(20) * factor)
    with triton.client("grpc", target) as client:
        assert not client.is_model_ready("sentiment", "1")
        output = tritonclient.grpc.InferRequestedOutput("scores", class_count=1)
        result = client.infer("sentiment", triton.tensors("grpc", {"features": rows(1)}), outputs=[output])
    assert result.as_numpy("scores").tolist() == [[b"9.000000:3:best"]]
    config = config_of(target, "sentiment")
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 256
    warning = re.search(r"^WARN (model 'sentiment'.*)$", block("text"), re.MULTILINE)[1]
    assert warning in log.read_text()


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_an_ensemble_is_unloaded_with_the_models_of_its_own(
    tmp_path: Path, short_lived: Processes, transport: str
) -> None:
    models = tmp_path / "models"
    times(models, "mine", 2)
    times(models, "shared", 3)
    port = '{0} {{ key: "{1}" value: "{2}" }}'
    for name, steps in {"both": ["mine", "shared"], "one": ["shared"]}.items():
        (models / name).mkdir()
        tensors = ["x", *(f"t{number}" for number in range(1, len(steps))), "y"]
        said = "".join(
            f'step {{ model_name: "{step}" model_version: -1 {port.format("input_map", "x", tensors[at])}'
            f' {port.format("output_map", "y", tensors[at + 1])} }}'
            for at, step in enumerate(steps)
        )
        configure(models, name, f'platform: "ensemble" max_batch_size: 8 {X4}{Y4} ensemble_scheduling {{ {said} }}')
    worker = short_lived.worker("worker", worker_config(models, 'model_control = "explicit"'))
    target = Target("worker", worker.grpc, worker.http)
    with triton.client(transport, target) as client:
        if transport == "grpc":
            assert "model_repository(unload_dependents)" in client.get_server_metadata().extensions
        found = triton.infer(transport, target, "both", {"x": rows(1)}, ["y"])
        np.testing.assert_array_equal(found["y"], rows(1) * 6)
        client.unload_model("one")
        assert client.is_model_ready("shared")
        client.load_model("one")
        client.unload_model("both", unload_dependents=True)
        assert not client.is_model_ready("both")
        assert not client.is_model_ready("mine")
        assert client.is_model_ready("shared")
        assert client.is_model_ready("one")


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_through_the_gateway(target: Target, short_lived: Processes, transport: str) -> None:
    gateway = short_lived.gateway("gateway", gateway_config([target.grpc]))
    through = Target("gateway", gateway.address, gateway.address)
    found = triton.infer(transport, through, "batching", {"x": rows(2)}, ["y"])
    np.testing.assert_array_equal(found["y"], rows(2) * 2)
