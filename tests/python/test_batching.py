"""The example of docs/batching.md as it is, but for the folder and the ports, with the demo's models."""

from __future__ import annotations

import re
import tomllib
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from prometheus_client.parser import text_string_to_metric_families

import triton
from conftest import ROOT, Target, Tensors, binaries
from demo.content_types import batch as magika_batch
from demo.processes import Processes, Worker
from demo.sentences import SentenceEncoder

EXAMPLE = ROOT / "deploy" / "examples" / "worker-batching.toml"
CALLERS = 16
SENTENCE = "The river rose slowly behind the old dam while everybody in the valley was asleep and nobody kept watch."


@pytest.fixture(scope="module")
def batching(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = f'repository = "{repository}"\nlisten = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\nthreads = 1'
    config, replaced = re.subn(r"^repository = .*$", folder, EXAMPLE.read_text(), flags=re.MULTILINE)
    assert replaced == 1
    with Processes(binaries(), tmp_path_factory.mktemp("batching")) as running:
        yield running.worker("worker", config)


@pytest.fixture(scope="module")
def sentences(encoder: SentenceEncoder) -> list[Tensors]:
    """One sentence each, from a few words to all."""
    words = SENTENCE.split()
    return [encoder.encode([" ".join(words[: 2 + number % (len(words) - 1)])]) for number in range(96)]


def target(worker: Worker) -> Target:
    return Target("worker", worker.grpc, worker.http)


def at_once(call: Callable[[int], Tensors], count: int) -> list[Tensors]:
    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(call, range(count)))


def samples(worker: Worker) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The page of metrics as Prometheus' own client reads it: by name and labels."""
    with urllib.request.urlopen(f"http://{worker.http}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    for family in text_string_to_metric_families(page):
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        assert family.documentation, family.name
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found[sample.name], f"{sample.name}{labels} twice"
            found[sample.name][labels] = sample.value
            if family.type == "counter":
                # The client appends _total to the names of counters that have no such end, Triton's among them.
                found[family.name][labels] = sample.value
    return found


def of(model: str, values: dict[tuple[tuple[str, str], ...], float]) -> float:
    return sum(value for labels, value in values.items() if ("model", model) in labels)


def test_the_page_shows_the_example() -> None:
    page = (ROOT / "docs" / "batching.md").read_text()
    shown = page.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(shown) == tomllib.loads(EXAMPLE.read_text())


def test_padded_batches_answer_as_single_requests(
    batching: Worker, sentences: list[Tensors], reference: Callable[[str, Tensors], Tensors]
) -> None:
    lengths = {inputs["input_ids"].shape[1] for inputs in sentences}
    assert len(lengths) > 10

    def embed(number: int) -> Tensors:
        return triton.infer("grpc", target(batching), "minilm", sentences[number], ["sentence_embedding"])

    for found, inputs in zip(at_once(embed, len(sentences)), sentences, strict=True):
        expected = reference("minilm", inputs)["sentence_embedding"]
        np.testing.assert_allclose(found["sentence_embedding"], expected, rtol=0, atol=1e-4)
    metrics = samples(batching)
    runs, rows = of("minilm", metrics["nv_inference_exec_count"]), of("minilm", metrics["nv_inference_count"])
    assert rows == len(sentences)
    assert runs < rows, "nobody shared a batch"
    filled = of("minilm", metrics["forebay_padding_elements_total"])
    assert 0 < filled < of("minilm", metrics["forebay_input_elements_total"])


def test_priorities_and_preferred_sizes_change_no_answer(
    batching: Worker, sentences: list[Tensors], reference: Callable[[str, Tensors], Tensors]
) -> None:
    files = magika_batch([b"import os\nprint(os.name)\n" * 8])
    expected_files = reference("magika", files)
    expected = reference("minilm", sentences[0])["sentence_embedding"]

    def ask(number: int) -> Tensors:
        if number % 2:
            return triton.infer("grpc", target(batching), "magika", files, list(expected_files))
        wanted = ["sentence_embedding"]
        return triton.infer("grpc", target(batching), "minilm", sentences[0], wanted, priority=1 + number // 2 % 2)

    for number, found in enumerate(at_once(ask, 64)):
        if number % 2:
            for name, array in expected_files.items():
                np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4)
        else:
            np.testing.assert_allclose(found["sentence_embedding"], expected, rtol=0, atol=1e-4)


def test_metrics_and_statistics_agree(batching: Worker, sentences: list[Tensors]) -> None:
    triton.infer("grpc", target(batching), "minilm", sentences[0], ["sentence_embedding"])
    with pytest.raises(tritonclient.grpc.InferenceServerException):
        broken = {name: array[:, :0] for name, array in sentences[0].items()} | {"input_ids": np.zeros((1, 1), np.int8)}
        triton.infer("grpc", target(batching), "minilm", broken, ["sentence_embedding"])
    with tritonclient.grpc.InferenceServerClient(batching.grpc) as client:
        (model,) = client.get_inference_statistics("minilm").model_stats
    metrics = samples(batching)
    success = of("minilm", metrics["nv_inference_request_success"])
    assert model.inference_stats.success.count == success
    assert model.inference_count == of("minilm", metrics["nv_inference_count"])
    assert model.execution_count == of("minilm", metrics["nv_inference_exec_count"])
    assert sum(size.batch_size * size.compute_infer.count for size in model.batch_stats) == model.inference_count
    assert of("minilm", metrics["nv_inference_first_response_histogram_ms_count"]) == success
    assert of("minilm", metrics["nv_inference_request_failure"]) == 1
    assert of("minilm", metrics["forebay_requests_in_flight"]) == 0
    for name in [name for name in metrics if name.endswith("_bucket")]:
        for key, count in metrics[name.removesuffix("_bucket") + "_count"].items():
            buckets = [
                (float(dict(labels)["le"]), value)
                for labels, value in metrics[name].items()
                if set(key) <= set(labels)
            ]
            values = [value for _, value in sorted(buckets)]
            assert values == sorted(values), f"{name}{key} is not cumulative"
            assert values[-1] == count
    sizes = metrics["forebay_expected_batch_seconds"]
    assert {dict(labels)["model"] for labels in sizes} >= {"minilm", "magika"}
    assert all(seconds > 0 for seconds in sizes.values())
    (memory,) = model.memory_usage
    assert memory.byte_size > 1 << 20
    machine = metrics["nv_cpu_memory_used_bytes"][()]
    assert 0 < metrics["process_resident_memory_bytes"][()] < machine < metrics["nv_cpu_memory_total_bytes"][()]
    assert 0 <= metrics["nv_cpu_utilization"][()] <= 1
