"""`make demo`: starts the stage, tells the story, stays up to be tried.

Usage: python -m demo --binaries DIR --models DIR [--once]      Ends with 0, or with 1 and what failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import grpc
from tritonclient.utils import InferenceServerException

from demo import stage, story
from demo.load import describe
from demo.otlp import HttpCollector
from demo.processes import Processes, StartError
from demo.sentences import SentenceEncoder
from demo.terminal import WIDTH, Terminal


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo")
    parser.add_argument("--binaries", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--once", action="store_true", help="end after the story")
    arguments = parser.parse_args()
    terminal = Terminal()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    directory = arguments.models.parent / "run"
    try:
        with Processes(arguments.binaries, directory) as processes:
            show(processes, arguments.models, directory, arguments.once, terminal)
    except KeyboardInterrupt:
        terminal.line()
        terminal.line("Stopped.")
        return 130 if arguments.once else 0
    except (StartError, story.StoryError, grpc.RpcError, InferenceServerException, OSError, RuntimeError) as error:
        terminal.line()
        terminal.line(terminal.style(f"The demo failed: {describe(error)}", "red"))
        terminal.line(f"Configurations and logs are in {directory}")
        return 1
    return 0


def show(processes: Processes, models: Path, directory: Path, once: bool, terminal: Terminal) -> None:
    collector = HttpCollector()
    terminal.line("Starting three workers and the gateway ...")
    built = stage.build(processes, models, collector.endpoint)
    encoder = SentenceEncoder(models)
    terminal.title("Forebay")
    terminal.line(f"  gateway          {built.gateway.address:<21} REST, gRPC and plain HTTP on one port")
    for worker, name in zip(built.workers, built.worker_names().values(), strict=True):
        terminal.line(f"  {name:<16} {worker.grpc:<21} minilm and magika, one thread")
    story.search(built, terminal)
    story.classify(built, models, terminal)
    story.balance(built, encoder, terminal)
    story.trace(built, encoder, collector.spans, terminal)
    story.invitation(built, models, terminal)
    terminal.line(f"Logs        {directory}")
    if once:
        terminal.line()
        terminal.line(terminal.style("Everything worked.", "green"))
        return
    terminal.line(terminal.style(("─" if terminal.blocks else "-") * WIDTH, "dim"))
    terminal.line("Running. Ctrl-C stops everything.")
    signal.pause()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
