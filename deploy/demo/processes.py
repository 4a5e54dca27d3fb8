"""Forebay's binaries as child processes: started, waited for until they serve, and stopped whatever happens.

No child outlives the program that started it: each is told to end when its parent does, however that ends, and
`Processes` stops all of them when its `with` block is left. Children have a session of their own, so that Ctrl-C in a
terminal reaches only the parent, which then stops them in order.
"""

from __future__ import annotations

import http.client
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 5.0
LAUNCH = Path(__file__).with_name("launch.py")


class StartError(Exception):
    """A binary did not come up; the message says which, and what it said."""


@dataclass
class Program:
    name: str
    process: subprocess.Popen[str]
    log: Path
    lines: queue.Queue[str | None]

    def wait_for_line(self, start: str, seconds: float = START_SECONDS) -> str:
        """The rest of the first line on standard output that starts so."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise StartError(
                    f"{self.name} did not say '{start}' within {seconds:.0f} s\n{self.log_end()}"
                ) from None
            if line is None:
                status = self.process.wait()
                raise StartError(f"{self.name} ended with status {status}\n{self.log_end()}")
            if line.startswith(start):
                return line[len(start) :].strip()

    def log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        return "\n".join(f"    {line}" for line in [f"{self.log}:", *lines])


@dataclass(frozen=True)
class Worker:
    program: Program
    grpc: str
    http: str


@dataclass(frozen=True)
class Gateway:
    program: Program
    address: str
    admin: str
    """Empty when the configuration names no admin address."""


class Processes:
    """Everything that was started, in order. Start only from the thread that leaves the `with` block last."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._binaries = binaries
        self._directory = directory
        self._programs: list[Program] = []
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, name: str, command: list[str], nice: int = 0) -> Program:
        log = self._directory / f"{name}.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(nice), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=read_lines, args=(process, lines), daemon=True).start()
        program = Program(name, process, log, lines)
        self._programs.append(program)
        return program

    def worker(self, name: str, config: str, nice: int = 0) -> Worker:
        """A worker that accepts connections and has read its models, all of them."""
        program = self.run(name, [*self._binary("forebay-worker"), "--config", self._file(name, config)], nice)
        addresses = fields(program.wait_for_line("forebay-worker listening "))
        ready = fields(program.wait_for_line("forebay-worker ready "))
        if ready.get("failed") != "0":
            raise StartError(f"{name} could not load {ready.get('failed')} models\n{program.log_end()}")
        return Worker(program, addresses["grpc"], addresses["http"])

    def gateway(self, name: str, config: str) -> Gateway:
        """A gateway, with one listener, that accepts connections and, if it has an admin address, is ready."""
        program = self.run(name, [*self._binary("forebay-gateway"), "--config", self._file(name, config)])
        addresses = fields(program.wait_for_line("forebay-gateway listening "))
        admin = addresses.pop("admin", "-")
        (address,) = addresses.values()
        if admin == "-":
            return Gateway(program, address, "")
        wait_until_ready(program, admin)
        return Gateway(program, address, admin)

    def stop(self) -> None:
        """Ends them, the last started first; those that do not drain in time are killed."""
        programs, self._programs = self._programs[::-1], []
        for program in programs:
            send(program.process, signal.SIGCONT)
            send(program.process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for program in programs:
            try:
                program.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                send(program.process, signal.SIGKILL)
                program.process.wait()

    def _binary(self, name: str) -> list[str]:
        path = self._binaries / name
        if not path.is_file():
            raise StartError(f"{path} does not exist; build it with cargo")
        return [str(path)]

    def _file(self, name: str, config: str) -> str:
        path = self._directory / f"{name}.toml"
        path.write_text(config)
        return str(path)


def wait_until_ready(program: Program, admin: str) -> None:
    """Until some endpoint has passed its first health check."""
    deadline = time.monotonic() + START_SECONDS
    status = None
    while status != 200:
        if program.process.poll() is not None or time.monotonic() > deadline:
            raise StartError(f"{program.name} did not become ready: /readyz answers {status}\n{program.log_end()}")
        connection = http.client.HTTPConnection(admin, timeout=5)
        try:
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
        finally:
            connection.close()
        time.sleep(0.02)


def read_lines(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Standard output to the queue, to its end, so that the pipe never fills."""
    for line in process.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def fields(text: str) -> dict[str, str]:
    """`a=1 b=2` as a dictionary."""
    return dict(part.split("=", 1) for part in text.split() if "=" in part)


def send(process: subprocess.Popen[str], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


def friendly_port(port: int) -> int:
    """The port if nobody has it, else 0: the kernel chooses."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
