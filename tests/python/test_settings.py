"""Log and trace settings: read and changed while the worker runs, under Triton's names."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

import triton
from conftest import Target, gateway_config, worker_config
from demo.processes import Processes

TRANSPORTS = pytest.mark.parametrize("transport", triton.TRANSPORTS)
COLLECTOR = '[telemetry.otlp]\nendpoint = "http://127.0.0.1:9"\n'


@pytest.fixture(params=["worker", "gateway"])
def tracing(request: pytest.FixtureRequest, short_lived: Processes, small_repository: Path) -> Target:
    """A worker that has somewhere to send spans to, though nobody listens there."""
    worker = short_lived.worker("worker", worker_config(small_repository, COLLECTOR))
    if request.param == "worker":
        return Target("worker", worker.grpc, worker.http)
    gateway = short_lived.gateway("gateway", gateway_config([worker.grpc]))
    return Target("gateway", gateway.address, gateway.address)


def plain(settings: dict) -> dict:
    """Settings as the HTTP client has them, whichever client they came from."""
    found = {}
    for name, setting in settings.get("settings", settings).items():
        if isinstance(setting, dict):
            [setting] = setting.values() or [""]
        found[name] = setting[0] if isinstance(setting, list) and len(setting) == 1 else setting
    return found


def arguments(transport: str) -> dict[str, bool]:
    return {"as_json": True} if transport == "grpc" else {}


@TRANSPORTS
def test_the_log_level_is_read_and_changed(short_lived: Processes, small_repository: Path, transport: str) -> None:
    worker = short_lived.worker("worker", worker_config(small_repository))
    target = Target("worker", worker.grpc, worker.http)
    with triton.client(transport, target) as client:
        before = plain(client.get_log_settings(**arguments(transport)))
        assert (before["log_info"], before["log_warning"], before["log_error"]) == (True, True, True)
        assert before["log_verbose_level"] == 0
        after = plain(client.update_log_settings({"log_verbose_level": 1}, **arguments(transport)))
        assert after["log_verbose_level"] == 1
        with pytest.raises(InferenceServerException, match="log_info is on and log_warning is off"):
            client.update_log_settings({"log_warning": False})
        with pytest.raises(InferenceServerException, match="the log goes to standard error"):
            client.update_log_settings({"log_file": "/tmp/log"})
        with pytest.raises(InferenceServerException, match="unknown log setting 'log_colour'"):
            client.update_log_settings({"log_colour": True})
        quiet = {"log_verbose_level": 0, "log_info": False}
        assert plain(client.update_log_settings(quiet, **arguments(transport)))["log_info"] is False
    lines = worker.program.log.read_text()
    assert "a client set the log level to debug" in lines
    assert "a client set the log level to warn" not in lines


@TRANSPORTS
def test_the_sampling_rate_is_read_and_changed(tracing: Target, transport: str) -> None:
    with triton.client(transport, tracing) as client:
        before = plain(client.get_trace_settings(**arguments(transport)))
        assert (before["trace_level"], before["trace_rate"]) == ("TIMESTAMPS", "100")
        assert before["trace_mode"] == "opentelemetry"
        after = client.update_trace_settings(settings={"trace_rate": "1000"}, **arguments(transport))
        assert plain(after)["trace_rate"] == "1000"
        off = client.update_trace_settings(settings={"trace_level": ["OFF"]}, **arguments(transport))
        assert plain(off)["trace_level"] == "OFF"
        assert plain(client.get_trace_settings("echo", **arguments(transport)))["trace_level"] == "OFF"
        for settings, text in [
            ({"trace_level": ["TENSORS"]}, "want OFF or TIMESTAMPS"),
            ({"trace_mode": "triton"}, "want 'opentelemetry'"),
            ({"trace_rate": "often"}, "trace_rate is 'often'"),
        ]:
            with pytest.raises(InferenceServerException, match=text):
                client.update_trace_settings(settings=settings)
        with pytest.raises(InferenceServerException, match="no trace settings of its own"):
            client.update_trace_settings("echo", {"trace_rate": "1"})
        with pytest.raises(InferenceServerException, match="is not found"):
            client.get_trace_settings("no-such-model")


def test_without_a_collector_nothing_can_be_traced(small_target: Target) -> None:
    with triton.client("grpc", small_target) as client:
        assert plain(client.get_trace_settings(as_json=True))["trace_level"] == "OFF"
        with pytest.raises(InferenceServerException, match=r"has no \[telemetry.otlp\]"):
            client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
        extensions = client.get_server_metadata().extensions
    assert "logging" in extensions
    assert "trace" not in extensions


def test_the_extension_is_named_where_it_works(tracing: Target) -> None:
    with triton.client("grpc", tracing) as client:
        assert "trace" in client.get_server_metadata().extensions
