"""The generate extension: a flat JSON object in, one out."""

from __future__ import annotations

import http.client
import json

import pytest

import triton
from demo.processes import Worker


def post(address: str, path: str, body: object) -> tuple[int, str, str]:
    """Status, type and body of the answer."""
    connection = http.client.HTTPConnection(address, timeout=triton.SECONDS)
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    found = response.status, response.getheader("content-type", ""), response.read().decode()
    connection.close()
    return found


ANSWER = {"model_name": "echo", "model_version": "1", "id": "7", "x_out": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize("path", ["/v2/models/echo/generate", "/v2/models/echo/versions/1/generate"])
def test_fields_become_inputs_and_outputs_fields(small_worker: Worker, path: str) -> None:
    status, kind, body = post(small_worker.http, path, {"x": [1, 2, 3], "id": "7"})
    assert (status, kind, json.loads(body)) == (200, "application/json", ANSWER)


def test_a_stream_has_one_event(small_worker: Worker) -> None:
    request = {"x": [1, 2, 3], "id": "7", "stream": True}
    status, kind, body = post(small_worker.http, "/v2/models/echo/generate_stream", request)
    assert (status, kind.split(";")[0]) == (200, "text/event-stream")
    assert body.startswith("data: ") and body.endswith("\n\n")
    assert json.loads(body.removeprefix("data: ")) == ANSWER


def test_text_and_scalars(worker: Worker) -> None:
    _, _, body = post(worker.http, "/v2/models/text/generate", {"text": ["hello", "world"]})
    assert json.loads(body)["text_out"] == ["hello", "world"]
    _, _, body = post(worker.http, "/v2/models/scalar/generate", {"number": 2.5})
    assert json.loads(body)["number_out"] == 2.5


@pytest.mark.parametrize(
    ("model", "request_body", "status", "text"),
    [
        ("echo", {"x": [1, 2]}, 400, "unexpected shape for input 'x'"),
        ("echo", {"x": "one"}, 400, "field 'x'"),
        ("echo", {}, 400, "missing required input(s) ['x']"),
        ("echo", {"x": [1, 2, 3], "y": [1]}, 400, "field 'y': it is no input of the model, which has x"),
        ("echo", [1], 400, "body is no generate request"),
        ("no-such-model", {}, 404, "is not found"),
    ],
)
def test_refusals_say_why(small_worker: Worker, model: str, request_body: object, status: int, text: str) -> None:
    found, _, body = post(small_worker.http, f"/v2/models/{model}/generate", request_body)
    assert (found, text in json.loads(body)["error"]) == (status, True), body
