"""The examples of the page on REST and gRPC do what it says, as they stand there."""

from __future__ import annotations

import re

import pytest

from conftest import ROOT
from demo.processes import Gateway, Worker

PAGE = (ROOT / "docs" / "rest-and-grpc.md").read_text()


def example(heading: str) -> str:
    """The Python of a section."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    [block] = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return block


@pytest.mark.parametrize(
    ("heading", "printed"),
    [
        ("gRPC", r"^\d+$"),
        ("Classification", r"\[\[b'\d\.\d{6}:\d+'( b'\d\.\d{6}:\d+'){2}\]\]"),
        ("Shared memory", r"^\d+$"),
        ("Settings", r"log_verbose_level(.|\n)*uint32_param: 1(.|\n)*trace_rate"),
    ],
)
def test_an_example_does_what_the_page_says(
    gateway: Gateway, worker: Worker, capsys: pytest.CaptureFixture[str], heading: str, printed: str
) -> None:
    code = example(heading).replace("127.0.0.1:8080", gateway.address).replace("127.0.0.1:8001", worker.grpc)
    exec(compile(code, f"rest-and-grpc.md, {heading}", "exec"), {})
    out = capsys.readouterr().out
    assert re.search(printed, out.strip()), out
