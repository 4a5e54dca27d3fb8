"""What the demo writes: headings, a progress bar, bars of a chart. Plain text of 80 columns.

Colour only on a terminal without NO_COLOR. Where the output is not a terminal, progress is a line at each quarter
instead of one that is written over and over. Where it cannot carry block characters, bars are made of `#`.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

WIDTH = 78
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Terminal:
    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self.live = out.isatty()
        self.colour = self.live and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.blocks = "utf" in (out.encoding or "").lower()

    def line(self, text: str = "") -> None:
        if not self.blocks:
            encoding = self._out.encoding or "ascii"
            text = text.encode(encoding, "replace").decode(encoding)
        print(text, file=self._out, flush=True)

    def style(self, text: str, *names: str) -> str:
        if not self.colour or not names:
            return text
        codes = ";".join(STYLES[name] for name in names)
        return f"\x1b[{codes}m{text}\x1b[0m"

    def title(self, text: str) -> None:
        self.line()
        self.line(self.style(text, "bold"))
        self.line(self.style(("─" if self.blocks else "-") * WIDTH, "dim"))

    def bar(self, share: float, width: int) -> str:
        """A bar as long as the share (0 to 1) of the width, padded to the width."""
        share = min(max(share, 0.0), 1.0)
        if not self.blocks:
            return ("#" * round(share * width)).ljust(width)
        eighths = round(share * width * 8)
        full, rest = divmod(eighths, 8)
        return ("█" * full + " ▏▎▍▌▋▊▉"[rest].strip()).ljust(width)

    def gantt(self, start: float, end: float, width: int) -> str:
        """A bar from start to end, both shares (0 to 1) of the width; never empty."""
        first = min(int(start * width), width - 1)
        last = max(first + 1, round(end * width))
        return (" " * first + ("█" if self.blocks else "#") * (last - first)).ljust(width)

    def progress(self, label: str, total: int) -> Progress:
        return Progress(self, self._out, label, total)


class Progress:
    """`with terminal.progress("sending", 900) as progress: progress.show(done)`."""

    def __init__(self, terminal: Terminal, out: TextIO, label: str, total: int) -> None:
        self._terminal = terminal
        self._out = out
        self._label = label
        self._total = total
        self._shown = -1 if terminal.live else 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal.live and self._shown >= 0:
            print(file=self._out, flush=True)

    def show(self, done: int) -> None:
        percent = 100 * done // self._total
        step = percent if self._terminal.live else percent // 25
        if step == self._shown:
            return
        self._shown = step
        text = f"{self._label} {done}/{self._total}  {percent:3d} %"
        if self._terminal.live:
            bar = self._terminal.style(self._terminal.bar(done / self._total, 30), "green")
            print(f"\r  {bar} {text}", end="", file=self._out, flush=True)
        else:
            self._terminal.line(f"  {text}")
