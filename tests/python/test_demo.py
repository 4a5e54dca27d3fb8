"""The demo's own parts that can be wrong without the demo failing: bars, progress, the tree of a trace."""

from __future__ import annotations

import io

import pytest

from demo.load import percentile
from demo.otlp import Span
from demo.terminal import Terminal
from demo.trace_tree import ordered, render


class Screen(io.StringIO):
    """Standard output, a terminal or not."""

    def __init__(self, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._terminal = terminal
        self._encoding = encoding

    def isatty(self) -> bool:
        return self._terminal

    @property
    def encoding(self) -> str:
        return self._encoding


def span(name: str, span_id: str, parent_id: str, start: int, end: int, service: str = "forebay-worker") -> Span:
    return Span("t", span_id, parent_id, service, name, 1, start, end, {}, ())


SPANS = [
    span("execution", "e", "b", 4_000_000, 8_000_000),
    span("attempt", "a", "s", 1_000_000, 9_000_000, "forebay-gateway"),
    span("batch", "b", "a", 3_000_000, 8_000_000),
    span("queue", "q", "a", 2_000_000, 3_000_000),
    span("server", "s", "of the caller", 0, 10_000_000, "forebay-gateway"),
]


def test_tree_puts_children_below_parents_by_time() -> None:
    assert [(path, found.name) for path, found in ordered(SPANS)] == [
        ((), "server"),
        ((True,), "attempt"),
        ((True, False), "queue"),
        ((True, True), "batch"),
        ((True, True, True), "execution"),
    ]


def test_tree_shows_durations_and_fits_eighty_columns() -> None:
    lines = render(SPANS, Terminal(Screen(False)))
    assert [line.split(" ms")[0].split()[-1] for line in lines] == ["10.00", "8.00", "1.00", "5.00", "4.00"]
    assert [line.split("  ")[0] for line in lines[:2]] == ["server", "└ attempt"]
    assert lines[2].startswith("  ├ queue") and lines[4].startswith("    └ execution")
    assert max(len(line) for line in lines) <= 78
    assert lines[0].endswith("█" * 20)
    assert render([], Terminal(Screen(False))) == []


@pytest.mark.parametrize(("share", "bar"), [(0, "    "), (1, "████"), (0.5, "██  "), (0.125, "▌   "), (7, "████")])
def test_bar(share: float, bar: str) -> None:
    assert Terminal(Screen(False)).bar(share, 4) == bar


def test_bar_without_block_characters() -> None:
    assert Terminal(Screen(False, "ascii")).bar(0.5, 4) == "##  "


def test_progress_is_a_line_at_each_quarter_where_it_cannot_be_redrawn() -> None:
    screen = Screen(False)
    with Terminal(screen).progress("requests", 200) as progress:
        for done in range(201):
            progress.show(done)
    assert "\r" not in screen.getvalue()
    assert [line.split()[1] for line in screen.getvalue().splitlines()] == ["50/200", "100/200", "150/200", "200/200"]


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in Terminal(Screen(True)).style("x", "red")
    assert "\x1b" not in Terminal(Screen(False)).style("x", "red")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in Terminal(Screen(True)).style("x", "red")


def test_percentile() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([float(value) for value in range(1, 101)], 0.99) == 100
