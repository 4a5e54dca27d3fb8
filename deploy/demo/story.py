"""The chapters of the demo: each sends real requests through the gateway and prints what a person wants to see."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton_grpc
from tritonclient.utils import np_to_triton_dtype

from demo import content_types, load, sentences, trace_tree
from demo.otlp import Span, Spans
from demo.stage import POLICY, SLOW_SHARE, Stage
from demo.terminal import Terminal

REQUESTS = 900
AT_A_TIME = 6
TRACE_SECONDS = 20.0

SENTENCES = [
    "You can return the shoes within thirty days for a full refund.",
    "The parcel left our warehouse this morning.",
    "Our shop is open from nine to six, Monday to Saturday.",
    "Choose a longer password and never use it twice.",
    "The engine should be serviced once a year.",
    "Whisk the eggs before you add the sugar.",
    "The train to Zurich departs from platform four.",
    "Heavy rain is expected in the mountains tonight.",
    "The museum offers free entry on the first Sunday of the month.",
    "Plants on a south-facing window need more water.",
    "The patient should rest and drink plenty of fluids.",
    "Interest rates rose by half a percentage point.",
]
QUERY = "How do I get my money back?"

SNIPPETS = [
    b'fn main() {\n    let name = std::env::args().nth(1);\n    println!("hello {:?}", name);\n}\n',
    b"import sys\n\ndef main():\n    for line in sys.stdin:\n        print(line.strip().upper())\n\nmain()\n",
    b"SELECT name, count(*) FROM orders\nJOIN people USING (person_id)\nWHERE paid = true GROUP BY name;\n",
    b'<!DOCTYPE html>\n<html><head><title>Hello</title></head><body><p class="a">Hello, world</p></body></html>\n',
    b'{\n  "name": "forebay",\n  "tags": ["inference", "gateway"],\n  "limits": {"attempts": 3}\n}\n',
    b'#!/bin/sh\nset -eu\nfor file in *.txt; do\n    echo "$file"\n    wc -l "$file"\ndone\n',
]


class StoryError(Exception):
    """Something that the demo shows did not happen."""


def search(stage: Stage, terminal: Terminal) -> None:
    terminal.title(f"1  Which sentence answers “{QUERY}”")
    rest = load.RestConnection(stage.gateway.address)
    candidates, _ = rest.infer(sentences.ENSEMBLE, {sentences.TEXT: texts(SENTENCES)})
    rest.close()
    grpc = load.GrpcConnection(stage.gateway.address)
    query, _ = grpc.infer(sentences.ENSEMBLE, {sentences.TEXT: texts([QUERY])})
    grpc.close()
    ranking = sentences.nearest(query[0], candidates)
    for index, similarity in ranking[:4]:
        bar = terminal.style(terminal.bar(similarity, 10), "cyan")
        terminal.line(f"  {similarity:5.2f} {bar} {SENTENCES[index]}")
    terminal.line(terminal.style(f"  {len(SENTENCES)} sentences sent as text over REST, the question over gRPC", "dim"))
    if ranking[0][0] != 0:
        raise StoryError(f"the nearest sentence is {SENTENCES[ranking[0][0]]!r}")


def texts(lines: list[str]) -> np.ndarray:
    return np.array([line.encode() for line in lines], np.object_)


def classify(stage: Stage, repository: Path, terminal: Terminal) -> None:
    terminal.title("2  What kind of file is it?")
    inputs = content_types.batch(SNIPPETS)[content_types.INPUT]
    tensor = triton_grpc.InferInput(content_types.INPUT, list(inputs.shape), np_to_triton_dtype(inputs.dtype))
    tensor.set_data_from_numpy(inputs)
    with triton_grpc.InferenceServerClient(stage.gateway.address) as client:
        result = client.infer(content_types.MODEL, [tensor], client_timeout=load.REQUEST_SECONDS)
    labels = content_types.labels(repository)
    for snippet, scores in zip(SNIPPETS, result.as_numpy(content_types.OUTPUT), strict=True):
        best = int(scores.argmax())
        start = " ".join(snippet.decode().split())
        terminal.line(f"  {labels[best]:>8} {100 * scores[best]:3.0f} %  {terminal.style(start[:58], 'dim')}")
    terminal.line(terminal.style(f"  {len(SNIPPETS)} files in one gRPC call by tritonclient", "dim"))


def balance(stage: Stage, encoder: sentences.SentenceEncoder, terminal: Terminal) -> None:
    terminal.title(f"3  {REQUESTS} requests, {AT_A_TIME} at a time, half REST and half gRPC")
    encoded = [encoder.encode([sentence]) for sentence in SENTENCES]
    with terminal.progress("requests", REQUESTS) as progress:
        outcome = load.run(
            stage.gateway.address,
            sentences.MODEL,
            lambda number: encoded[number % len(encoded)],
            REQUESTS,
            AT_A_TIME,
            progress.show,
        )
    terminal.line()
    terminal.line(terminal.style(f"  {'':<16} {'share':<34} {'requests':>8} {'p50':>6} {'p99':>6}", "dim"))
    for endpoint, name in stage.worker_names().items():
        row(terminal, name, [s for s in outcome.samples if s.endpoint == endpoint], len(outcome.samples))
    terminal.line()
    for protocol in ("REST", "gRPC"):
        row(terminal, protocol, [s for s in outcome.samples if s.protocol == protocol], len(outcome.samples))
    rate = len(outcome.samples) / outcome.seconds
    notes = [
        f"times in milliseconds as the client sees them; {rate:.0f} requests/s in all",
        f"the slow worker stands still {SLOW_SHARE:.0%} of the time; {POLICY} gives it less than a third",
    ]
    for note in notes:
        terminal.line(terminal.style(f"  {note}", "dim"))
    if outcome.failures:
        kinds = Counter(outcome.failures).most_common(3)
        raise StoryError(f"{len(outcome.failures)} of {REQUESTS} requests failed: {kinds}")


def row(terminal: Terminal, name: str, samples: list[load.Sample], total: int) -> None:
    share = len(samples) / total if total else 0.0
    times = [sample.milliseconds for sample in samples]
    p50, p99 = load.percentile(times, 0.5), load.percentile(times, 0.99)
    bar = terminal.style(terminal.bar(share, 28), "yellow" if "slow" in name else "green")
    terminal.line(f"  {name:<16} {bar} {share:4.0%}  {len(samples):>8} {p50:>6.1f} {p99:>6.1f}")


def trace(stage: Stage, encoder: sentences.SentenceEncoder, spans: Spans, terminal: Terminal) -> None:
    trace_id = secrets.token_hex(16)
    terminal.title(f"4  One REST request, one trace ({trace_id})")
    rest = load.RestConnection(stage.gateway.address)
    # The header says that the caller traces this request: gateway and worker then do so as well.
    header = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    rest.infer(sentences.MODEL, encoder.encode([QUERY]), {"traceparent": header})
    rest.close()
    found = spans.wait_for(trace_id, is_complete, TRACE_SECONDS)
    for line in trace_tree.render(found, terminal):
        terminal.line(f"  {line}")
    if not is_complete(found):
        raise StoryError(f"the trace is not complete after {TRACE_SECONDS:.0f} s: {len(found)} spans came")


def is_complete(spans: list[Span]) -> bool:
    """The gateway's part, the worker's part, and the batch that links to it."""
    services = {span.service for span in spans}
    both = "forebay-gateway" in services and any(service.startswith("forebay-worker") for service in services)
    return both and any(span.links for span in spans)


def invitation(stage: Stage, models: Path, terminal: Terminal) -> None:
    """Lines to paste into another terminal, in the folder of the project."""
    terminal.title("5  Your turn")
    address = stage.gateway.address
    terminal.line(
        f"""\
REST: what a sentence looks like to the model

curl -si http://{address}/v2/models/{sentences.ENSEMBLE}/infer -d '{{"inputs": [
  {{"name": "{sentences.TEXT}", "datatype": "BYTES", "shape": [1], "data": ["money back"]}}]}}' | cut -c1-300

gRPC: what kind of file is the Makefile?

PYTHONPATH=deploy .venv/bin/python -c '
from pathlib import Path
import tritonclient.grpc as triton
from demo.content_types import batch, labels
rows = batch([Path("Makefile").read_bytes()])["{content_types.INPUT}"]
tensor = triton.InferInput("{content_types.INPUT}", list(rows.shape), "INT32")
tensor.set_data_from_numpy(rows)
client = triton.InferenceServerClient("{address}")
scores = client.infer("{content_types.MODEL}", [tensor]).as_numpy("{content_types.OUTPUT}")
print(labels(Path("{models}"))[scores[0].argmax()])'
"""
    )
    if stage.gateway.admin:
        terminal.line(f"Endpoints   curl -s http://{stage.gateway.admin}/endpoints")
        terminal.line(f"Metrics     curl -s http://{stage.gateway.admin}/metrics")
    terminal.line(f"Worker      curl -s http://{stage.workers[0].http}/metrics")
