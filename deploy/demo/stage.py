"""What the demo runs on: the gateway's and the workers' configuration, and the three workers, one of them slow."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from demo import sentences
from demo.processes import Gateway, Processes, Worker, friendly_port

SLOW_WORKER = 3
SLOW_SHARE = 0.75
"""Of the time, the slow worker stands still."""
POLICY = "peak_ewma"

WORKER_CONFIG = """\
repository = "{repository}"
listen = "127.0.0.1:{grpc}"
http_listen = "127.0.0.1:{http}"
threads = 1

[telemetry]
service_name = "forebay-worker-{number}"
otlp = {{ endpoint = "{collector}", protocol = "http" }}
sampling_ratio = 0.0
log_level = "warn"

# Sentences as they are: a tokenizer before the model.
[[models.{ensemble}.steps]]
tokenizer = {{ file = "{model}/tokenizer.json", max_length = 128 }}
inputs = {{ text = "{text}" }}
outputs = {{ input_ids = "ids", attention_mask = "mask", token_type_ids = "types" }}

[[models.{ensemble}.steps]]
model = "{model}"
inputs = {{ input_ids = "ids", attention_mask = "mask", token_type_ids = "types" }}
outputs = {{ {output} = "{output}" }}
"""

GATEWAY_CONFIG = """\
[admin]
listen = "127.0.0.1:{admin}"

[telemetry]
otlp = {{ endpoint = "{collector}", protocol = "http" }}
sampling_ratio = 0.0    # only requests whose caller traces them
log_level = "warn"

[[listeners]]
address = "127.0.0.1:{port}"

[[clusters]]
name = "workers"
policy = "{policy}"
endpoints = [{endpoints}]
health = {{ interval = "500ms" }}
breaker = {{ consecutive_failures = 5 }}
"""


@dataclass(frozen=True)
class Stage:
    gateway: Gateway
    workers: list[Worker]

    def worker_names(self) -> dict[str, str]:
        """By address; `slow` is part of the slow one's name."""
        return {
            worker.grpc: f"worker {number}" + (" (slow)" if number == SLOW_WORKER else "")
            for number, worker in enumerate(self.workers, start=1)
        }


def build(processes: Processes, repository: Path, collector: str) -> Stage:
    """Three workers, then the gateway over them. Ports are the usual ones where they are free."""
    workers = []
    for number in (1, 2, 3):
        config = WORKER_CONFIG.format(
            repository=repository.resolve(),
            grpc=friendly_port(8000 + number),
            http=friendly_port(8100 + number),
            number=number,
            collector=collector,
            ensemble=sentences.ENSEMBLE,
            model=sentences.MODEL,
            text=sentences.TEXT,
            output=sentences.OUTPUT,
        )
        workers.append(processes.worker(f"worker-{number}", config, nice=10 if number == SLOW_WORKER else 0))
    slow = workers[SLOW_WORKER - 1].program.process.pid
    processes.run("slow-machine", [sys.executable, "-m", "demo.slow_machine", str(slow), str(SLOW_SHARE)])
    config = GATEWAY_CONFIG.format(
        port=friendly_port(8080),
        admin=friendly_port(9901),
        collector=collector,
        policy=POLICY,
        endpoints=", ".join(f'"{worker.grpc}"' for worker in workers),
    )
    return Stage(processes.gateway("gateway", config), workers)
