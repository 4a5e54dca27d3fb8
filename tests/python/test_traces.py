"""One REST request is one trace: received over OTLP, both transports, by a collector that is not ours.

And with a collector that is down, or one that never answers, requests go on as if there were none.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

import triton
from conftest import Target, gateway_config, worker_config
from demo.load import RestConnection
from demo.otlp import HttpCollector, Span, Spans
from demo.processes import Processes

WAIT_SECONDS = 30
ROW = {"x": np.array([[1, 2, 3]], np.float32)}
INTERNAL, SERVER, CLIENT = 1, 2, 3


class GrpcCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """OTLP over gRPC."""

    def __init__(self) -> None:
        self.spans = Spans()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: object, context: object) -> object:  # noqa: N802  (the service's name for it)
        self.spans.add(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(None)


def telemetry(endpoint: str, protocol: str, ratio: float) -> str:
    return f"""
        [telemetry]
        sampling_ratio = {ratio}
        otlp = {{ endpoint = "{endpoint}", protocol = "{protocol}", timeout = "1s" }}
    """


@pytest.fixture(params=["http", "grpc"])
def collector(request: pytest.FixtureRequest) -> Iterator[tuple[str, HttpCollector | GrpcCollector]]:
    running = HttpCollector() if request.param == "http" else GrpcCollector()
    yield request.param, running
    running.stop()


def names(spans: list[Span]) -> set[str]:
    return {span.name for span in spans}


def only(spans: list[Span], **wanted: object) -> Span:
    found = [span for span in spans if all(getattr(span, key) == value for key, value in wanted.items())]
    assert len(found) == 1, f"{wanted}: {found}"
    return found[0]


def test_one_request_is_one_trace(
    short_lived: Processes, small_repository: Path, collector: tuple[str, HttpCollector | GrpcCollector]
) -> None:
    protocol, running = collector
    export = telemetry(running.endpoint, protocol, 0.0)
    worker = short_lived.worker("worker", worker_config(small_repository, export))
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc], export))

    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    connection = RestConnection(gateway.address)
    _, endpoint = connection.infer("echo", ROW, {"traceparent": f"00-{trace_id}-{caller}-01"})
    connection.close()
    assert endpoint == worker.grpc

    expected = {"attempt", "queue", "batch", "execution"}
    spans = running.spans.wait_for(trace_id, lambda found: expected <= names(found) and len(found) >= 6, WAIT_SECONDS)
    assert {span.trace_id for span in spans} == {trace_id}
    server = only(spans, service="forebay-gateway", kind=SERVER)
    attempt = only(spans, service="forebay-gateway", kind=CLIENT)
    work = only(spans, service="forebay-worker", kind=SERVER)
    queue = only(spans, name="queue")
    batch = only(spans, name="batch")
    execution = only(spans, name="execution")

    assert server.parent_id == caller
    assert attempt.parent_id == server.span_id
    assert work.parent_id == attempt.span_id
    assert queue.parent_id == work.span_id
    assert batch.parent_id == work.span_id
    assert execution.parent_id == batch.span_id
    assert (trace_id, work.span_id) in batch.links

    assert attempt.attributes["server.address"] == worker.grpc
    assert attempt.attributes["forebay.policy"] == "least_work"
    assert attempt.attributes["forebay.retry"] == 0
    assert batch.attributes["forebay.batch.requests"] == 1
    for span in spans:
        assert span.start_ns <= span.end_ns
    assert server.start_ns <= attempt.start_ns <= attempt.end_ns <= server.end_ns
    assert queue.end_ns <= execution.start_ns


def test_callers_decision_not_to_trace_is_kept(short_lived: Processes, small_repository: Path) -> None:
    running = HttpCollector()
    export = telemetry(running.endpoint, "http", 1.0)
    worker = short_lived.worker("worker", worker_config(small_repository, export))
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc], export))
    untraced, traced = secrets.token_hex(16), secrets.token_hex(16)
    connection = RestConnection(gateway.address)
    connection.infer("echo", ROW, {"traceparent": f"00-{untraced}-{secrets.token_hex(8)}-00"})
    connection.infer("echo", ROW, {"traceparent": f"00-{traced}-{secrets.token_hex(8)}-01"})
    connection.close()
    assert running.spans.wait_for(traced, lambda found: "execution" in names(found), WAIT_SECONDS)
    assert running.spans.of_trace(untraced) == []
    running.stop()


@pytest.fixture(params=["refuses", "never answers"])
def useless_collector(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where a collector should be, and is not."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_without_a_collector_requests_go_on(
    short_lived: Processes, small_repository: Path, useless_collector: str, protocol: str
) -> None:
    export = telemetry(useless_collector, protocol, 1.0)
    worker = short_lived.worker("worker", worker_config(small_repository, export))
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc], export))
    target = Target("gateway", gateway.address, gateway.address)
    slowest = 0.0
    for index in range(100):
        started = time.perf_counter()
        found = triton.infer(triton.TRANSPORTS[index % 2], target, "echo", ROW, ["x_out"])
        slowest = max(slowest, time.perf_counter() - started)
        np.testing.assert_array_equal(found["x_out"], ROW["x"])
    # An export that a request waited for would have cost its whole timeout of one second.
    assert slowest < 0.9
