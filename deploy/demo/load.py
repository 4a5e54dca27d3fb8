"""Many requests at once, half over REST and half over gRPC, each with the worker that answered and the time it took.

Bodies are made and read by tritonclient. Connections are opened here, because the client does not hand out the response
header in which the gateway names the endpoint.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

ENDPOINT_HEADER = "x-forebay-endpoint"
REQUEST_SECONDS = 30

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    protocol: str
    endpoint: str
    milliseconds: float


@dataclass
class Outcome:
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def http_body(inputs: Inputs) -> tuple[bytes, dict[str, str]]:
    """A REST request with binary tensors: body and headers."""
    tensors = []
    for name, array in inputs.items():
        tensor = triton_http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=True)
        tensors.append(tensor)
    body, header_length = triton_http.InferenceServerClient.generate_request_body(tensors)
    return body, {"Inference-Header-Content-Length": str(header_length), "Content-Type": "application/octet-stream"}


def grpc_request(model: str, inputs: Inputs) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        tensor = request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype))
        tensor.shape.extend(array.shape)
        text = array.dtype == np.object_
        request.raw_input_contents.append(serialize_byte_tensor(array).item() if text else array.tobytes())
    return request


class RestConnection:
    protocol = "REST"

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=REQUEST_SECONDS)

    def infer(self, model: str, inputs: Inputs, headers: dict[str, str] | None = None) -> tuple[np.ndarray, str]:
        """The first output, and the endpoint that answered."""
        body, needed = http_body(inputs)
        self._connection.request("POST", f"/v2/models/{model}/infer", body, {**needed, **(headers or {})})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {answer[:200].decode(errors='replace')}")
        length = response.headers.get("Inference-Header-Content-Length")
        result = triton_http.InferenceServerClient.parse_response_body(
            answer, header_length=int(length) if length else None
        )
        name = result.get_response()["outputs"][0]["name"]
        return result.as_numpy(name), response.headers.get(ENDPOINT_HEADER, "unknown")

    def close(self) -> None:
        self._connection.close()


class GrpcConnection:
    protocol = "gRPC"

    def __init__(self, address: str) -> None:
        # A channel of its own: gRPC would else put all of them onto one connection.
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, model: str, inputs: Inputs) -> tuple[np.ndarray, str]:
        """The first output, and the endpoint that answered."""
        request = grpc_request(model, inputs)
        answer, call = self._stub.ModelInfer.with_call(request, timeout=REQUEST_SECONDS)
        metadata = dict(call.initial_metadata()) | dict(call.trailing_metadata())
        result = triton_grpc.InferResult(answer)
        return result.as_numpy(answer.outputs[0].name), metadata.get(ENDPOINT_HEADER, "unknown")

    def close(self) -> None:
        self._channel.close()


def run(
    address: str,
    model: str,
    inputs: Callable[[int], Inputs],
    requests: int,
    at_a_time: int,
    on_progress: Callable[[int], None],
) -> Outcome:
    """Sends the requests, `inputs(i)` being those of the i-th; comes back when all are answered or failed."""
    outcome = Outcome()
    lock = threading.Lock()
    numbers = iter(range(requests))

    def client(connection: RestConnection | GrpcConnection) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            started = time.perf_counter()
            try:
                _, endpoint = connection.infer(model, inputs(number))
            except (grpc.RpcError, OSError, http.client.HTTPException, RuntimeError) as error:
                with lock:
                    outcome.failures.append(f"{connection.protocol}: {describe(error)}")
                connection.close()
                connection = type(connection)(address)
                continue
            milliseconds = 1000 * (time.perf_counter() - started)
            with lock:
                outcome.samples.append(Sample(connection.protocol, endpoint, milliseconds))
        connection.close()

    kinds = (RestConnection, GrpcConnection)
    threads = [
        threading.Thread(target=client, args=(kinds[i % len(kinds)](address),), daemon=True) for i in range(at_a_time)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    while running := [thread for thread in threads if thread.is_alive()]:
        running[0].join(0.1)
        with lock:
            done = len(outcome.samples) + len(outcome.failures)
        on_progress(done)
    outcome.seconds = time.perf_counter() - started
    return outcome


def describe(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share (0 to 1) of the values do not exceed; 0 of none."""
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else 0.0
