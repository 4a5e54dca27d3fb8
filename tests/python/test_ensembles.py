"""The worked example of docs/ensembles.md: text and pictures as they are, through the worker and the gateway.

What comes out is compared with the same steps in this process: tokenizers, Pillow, numpy and ONNX Runtime.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

import model_zoo
import triton
from conftest import ROOT, Target, gateway_config
from demo.load import RestConnection
from demo.otlp import HttpCollector
from demo.processes import Processes

SENTENCES = [
    "You can return the shoes within thirty days for a full refund.",
    "Short.",
    "",
    "Zürich, 日本語 🙂 and a ‘quoted’ word",
    "word " * 400,
]
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    directory = tmp_path_factory.mktemp("ensembles") / "models"
    model_zoo.build_for_ensembles(directory, repository)
    return directory


@pytest.fixture(scope="module")
def collector() -> Iterator[HttpCollector]:
    running = HttpCollector()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def running(processes: Processes, models: Path, collector: HttpCollector) -> dict[str, Target]:
    """The example, but for where things are."""
    example = (ROOT / "deploy" / "examples" / "worker-ensembles.toml").read_text()
    here = f'repository = "{models}"\nlisten = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\nthreads = 1\n'
    export = f'[telemetry]\nsampling_ratio = 0.0\notlp = {{ endpoint = "{collector.endpoint}", protocol = "http" }}\n'
    config, replaced = re.subn(r'^repository = ".*"$', lambda _: here + export, example, flags=re.MULTILINE)
    assert replaced == 1
    worker = processes.worker("ensembles", config)
    gateway = processes.gateway("before-ensembles", gateway_config([worker.grpc]))
    return {
        "worker": Target("worker", worker.grpc, worker.http),
        "gateway": Target("gateway", gateway.address, gateway.address),
    }


@pytest.fixture(params=["gateway", "worker"])
def target(request: pytest.FixtureRequest, running: dict[str, Target]) -> Target:
    return running[request.param]


@pytest.fixture(scope="module")
def embed(models: Path) -> Callable[[list[str]], np.ndarray]:
    """Sentences to embeddings, in this process."""
    tokenizer = Tokenizer.from_file(str(models / "minilm" / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=128)
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(str(models / "minilm-tokens" / "1" / "model.onnx"))

    def run(sentences: list[str]) -> np.ndarray:
        encodings = tokenizer.encode_batch(sentences)
        mask = np.array([e.attention_mask for e in encodings], np.int64)
        inputs = {
            "input_ids": np.array([e.ids for e in encodings], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([e.type_ids for e in encodings], np.int64),
        }
        (tokens,) = session.run(["last_hidden_state"], inputs)
        mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    return run


def texts(sentences: list[str]) -> np.ndarray:
    return np.array([sentence.encode() for sentence in sentences], np.object_)


@pytest.mark.parametrize("model", ["embed", "embed-pooled"])
@pytest.mark.parametrize(("transport", "binary"), [("grpc", True), ("http", True), ("http", False)])
def test_sentences_become_embeddings(
    target: Target, embed: Callable, model: str, transport: str, binary: bool
) -> None:
    for sentences in (SENTENCES, SENTENCES[:1], SENTENCES[3:4]):
        found = triton.infer(transport, target, model, {"sentences": texts(sentences)}, ["embeddings"], binary)
        np.testing.assert_allclose(found["embeddings"], embed(sentences), rtol=0, atol=1e-4)


def test_branches_are_one_request(target: Target, embed: Callable) -> None:
    inputs = {"question": texts(["How do I get my money back?"]), "passages": texts(SENTENCES[:2])}
    found = triton.infer("grpc", target, "embed-both", inputs, ["question_embedding", "passage_embeddings"])
    np.testing.assert_allclose(found["passage_embeddings"], embed(SENTENCES[:2]), rtol=0, atol=1e-4)
    similarity = found["passage_embeddings"] @ found["question_embedding"][0]
    assert similarity[0] > 0.4 > similarity[1]


def test_requests_of_many_callers_share_batches(running: dict[str, Target], embed: Callable) -> None:
    target = running["worker"]
    sentences = [f"Sentence {chr(65 + number % 26)}." for number in range(64)]

    def one(sentence: str) -> np.ndarray:
        return triton.infer("grpc", target, "embed", {"sentences": texts([sentence])}, ["embeddings"])["embeddings"]

    before = statistics(target, "minilm")
    with ThreadPoolExecutor(16) as callers:
        found = list(callers.map(one, sentences))
    after = statistics(target, "minilm")
    for sentence, embedding in zip(sentences, found, strict=True):
        # The quantised model looks at a batch as a whole, so company changes the last digits.
        assert float(embedding[0] @ embed([sentence])[0]) > 0.99
    assert after["inference_count"] - before["inference_count"] == len(sentences)
    assert after["execution_count"] - before["execution_count"] < len(sentences)


def statistics(target: Target, model: str) -> dict[str, int]:
    with triton.client("grpc", target) as client:
        (found,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return {key: int(found.get(key, 0)) for key in ("inference_count", "execution_count")}


def picture(kind: str, size: tuple[int, int], seed: int, mode: str = "RGB") -> bytes:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """torchvision's Resize(36), CenterCrop(32), ToTensor and Normalize, by Pillow."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(image.size)
    width, height = (math.floor(36 * side / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    array = np.asarray(image.crop((left, top, left + 32, top + 32)), np.float32) / 255
    return ((array - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_pictures_become_names(target: Target, models: Path, transport: str) -> None:
    pictures = [
        picture("PNG", (64, 48), 1),
        picture("JPEG", (300, 451), 2),
        picture("WEBP", (36, 36), 3),
        picture("PNG", (20, 20), 4),
        picture("PNG", (640, 97), 5, "RGBA"),
        picture("PNG", (50, 60), 6, "L"),
    ]
    session = onnxruntime.InferenceSession(str(models / "classifier" / "1" / "model.onnx"))
    (logits,) = session.run(["logits"], {"pixels": np.stack([pixels(data) for data in pictures])})
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = np.argsort(-shares, axis=1)[:, :2]

    found = triton.infer(transport, target, "classify", {"pictures": np.array(pictures, np.object_)}, ["names", "shares"])
    np.testing.assert_allclose(found["shares"], np.take_along_axis(shares, order, 1), rtol=0, atol=0.01)
    names = [[name.decode() for name in row] for row in found["names"]]
    assert names == [[model_zoo.LABELS[index] for index in row] for row in order]


def test_rest_takes_sentences_as_json(target: Target, embed: Callable) -> None:
    body = {"inputs": [{"name": "sentences", "datatype": "BYTES", "shape": [2], "data": SENTENCES[:2]}]}
    connection = http.client.HTTPConnection(target.http)
    connection.request("POST", "/v2/models/embed/infer", json.dumps(body))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    (output,) = answer["outputs"]
    assert (answer["model_name"], output["shape"]) == ("embed", [2, 384])
    np.testing.assert_allclose(np.reshape(output["data"], (2, 384)), embed(SENTENCES[:2]), rtol=0, atol=1e-4)


def test_an_ensemble_says_what_it_is(running: dict[str, Target]) -> None:
    with triton.client("grpc", running["worker"]) as client:
        assert client.is_model_ready("embed")
        metadata = client.get_model_metadata("embed", as_json=True)
        config = client.get_model_config("embed", as_json=True)["config"]
    assert metadata["platform"] == "ensemble"
    assert metadata["inputs"] == [{"name": "sentences", "datatype": "BYTES", "shape": ["-1"]}]
    assert metadata["outputs"] == [{"name": "embeddings", "datatype": "FP32", "shape": ["-1", "384"]}]
    steps = config["ensemble_scheduling"]["step"]
    assert [step["model_name"] for step in steps] == ["tokenizer", "minilm"]
    assert steps[1]["output_map"] == {"sentence_embedding": "embeddings"}


def test_it_counts_its_own_requests_and_its_models_count_theirs(running: dict[str, Target]) -> None:
    target = running["worker"]
    before = [statistics(target, model) for model in ("embed-both", "embed", "minilm")]
    inputs = {"question": texts(["Why?"]), "passages": texts(SENTENCES[:3])}
    triton.infer("grpc", target, "embed-both", inputs, ["question_embedding", "passage_embeddings"])
    after = [statistics(target, model) for model in ("embed-both", "embed", "minilm")]
    counted = [now["inference_count"] - then["inference_count"] for now, then in zip(after, before, strict=True)]
    assert counted[1:] == [4, 4]
    assert after[0]["execution_count"] - before[0]["execution_count"] == 1


def test_one_request_is_one_trace(running: dict[str, Target], collector: HttpCollector) -> None:
    trace_id = secrets.token_hex(16)
    connection = RestConnection(running["worker"].http)
    header = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    connection.infer("embed-pooled", {"sentences": texts(SENTENCES[:2])}, header)
    connection.close()
    wanted = {"tokenizer", "minilm-tokens", "pool", "batch", "execution", "queue"}
    spans = collector.spans.wait_for(trace_id, lambda spans: wanted <= {span.name for span in spans}, 30)
    by_name = {span.name: span for span in spans}
    assert wanted <= set(by_name)
    steps = [by_name[name] for name in ("tokenizer", "minilm-tokens", "pool")]
    assert len({span.parent_id for span in steps}) == 1
    assert by_name["batch"].parent_id == by_name["minilm-tokens"].span_id


REFUSED = [
    ("embed", {"sentences": np.array([b"fine", b"\xff\xfe"], np.object_)}, "step 1 (tokenizer): 'sentences': row 1 is no UTF-8"),
    ("embed", {"sentences": np.zeros((0,), np.object_)}, "'sentences': there are no rows"),
    ("embed", {"sentences": np.array([1.0], np.float32)}, "data-type is 'FP32'"),
    ("classify", {"pictures": np.array([b"no picture"], np.object_)}, "'pictures': picture 0: no JPEG, PNG or WebP"),
    ("classify", {"pictures": np.array([b""], np.object_)}, "'pictures': picture 0: no JPEG, PNG or WebP"),
]


@pytest.mark.parametrize(("model", "inputs", "message"), REFUSED)
def test_bad_input_is_named(target: Target, model: str, inputs: dict, message: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        triton.infer("grpc", target, model, inputs, [])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in refused.value.message()


def test_broken_and_huge_pictures_are_refused(running: dict[str, Target]) -> None:
    whole = picture("JPEG", (200, 200), 8)
    png = picture("PNG", (64, 64), 9)
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    for data, message in [
        (png[: len(png) // 2], "picture 1: cannot be decoded"),
        (png[:20], "picture 1: cannot be decoded"),
        (bomb.getvalue(), "picture 1: it has 30000 times 30000 pixels, 33554432 altogether are allowed"),
    ]:
        with pytest.raises(InferenceServerException) as refused:
            triton.infer("grpc", running["worker"], "classify", {"pictures": np.array([whole, data], np.object_)}, [])
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert message in refused.value.message()


def test_a_long_text_is_cut_in_little_time(running: dict[str, Target], embed: Callable) -> None:
    long = "a great many words " * 500_000
    found = triton.infer("grpc", running["worker"], "embed", {"sentences": texts([long])}, ["embeddings"])
    np.testing.assert_allclose(found["embeddings"], embed([long[:4000]]), rtol=0, atol=1e-4)
