"""The calls around inference, as tritonclient makes them: health, metadata, configuration, statistics, index."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import triton
from conftest import Target


def call(client: object, transport: str, method: str, *arguments: str) -> object:
    """The answer as JSON, over either transport."""
    options = {"as_json": True} if transport == "grpc" else {}
    return getattr(client, method)(*arguments, **options)


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_health(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("minilm")
        assert client.is_model_ready("minilm", "1")
        assert not client.is_model_ready("minilm", "7")
        assert not client.is_model_ready("nonesuch")


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_server_metadata(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client:
        metadata = call(client, transport, "get_server_metadata")
    assert metadata["name"]
    assert metadata["version"]
    assert "binary_tensor_data" in metadata["extensions"]
    assert "statistics" in metadata["extensions"]


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_model_metadata(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client:
        metadata = call(client, transport, "get_model_metadata", "minilm")
    assert metadata["name"] == "minilm"
    assert metadata["versions"] == ["1"]
    inputs = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert inputs["input_ids"]["datatype"] == "INT64"
    assert [int(size) for size in inputs["input_ids"]["shape"]] == [-1, -1]
    (output,) = metadata["outputs"]
    assert output["name"] == "sentence_embedding"
    assert [int(size) for size in output["shape"]] == [-1, 384]


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_model_config(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client:
        answer = call(client, transport, "get_model_config", "minilm")
        config = answer["config"] if transport == "grpc" else answer
        alone = call(client, transport, "get_model_config", "scalar")
    assert config["name"] == "minilm"
    assert int(config["max_batch_size"]) > 0
    without_batch = alone["config"] if transport == "grpc" else alone
    assert int(without_batch.get("max_batch_size", 0)) == 0


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_statistics_count_inferences(target: Target, transport: str) -> None:
    def successes(client: object) -> int:
        answer = call(client, transport, "get_inference_statistics", "scalar")
        (statistics,) = answer["model_stats"]
        return int(statistics["inference_stats"]["success"].get("count", 0))

    with triton.client(transport, target) as client:
        before = successes(client)
        for _ in range(3):
            client.infer("scalar", triton.tensors(transport, {"number": np.array(1, np.float32)}))
        assert successes(client) == before + 3


@pytest.mark.parametrize("transport", triton.TRANSPORTS)
def test_repository_index(target: Target, transport: str) -> None:
    with triton.client(transport, target) as client:
        answer = call(client, transport, "get_model_repository_index")
    models = answer["models"] if transport == "grpc" else answer
    states = {model["name"]: model["state"] for model in models}
    assert states == {name: "READY" for name in ("minilm", "magika", "identities", "text", "scalar")}


def test_grpc_health_service(target: Target) -> None:
    with grpc.insecure_channel(target.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        whole = health.Check(health_pb2.HealthCheckRequest(), timeout=triton.SECONDS)
        assert whole.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as raised:
            health.Check(health_pb2.HealthCheckRequest(service="nonesuch.Service"), timeout=triton.SECONDS)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_grpc_health_watch(target: Target) -> None:
    with grpc.insecure_channel(target.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=triton.SECONDS)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
