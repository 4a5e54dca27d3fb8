"""Makes another process as slow as if its machine were: it is stopped and continued, fifty times a second.

Usage: python -m demo.slow_machine PID SHARE      SHARE of the time, 0 to 0.9, it stands still.
Ends when the process is gone, and leaves it running when told to end.
"""

from __future__ import annotations

import os
import signal
import sys
import time

PERIOD_SECONDS = 0.02


def slow_down(pid: int, share: float) -> None:
    try:
        while True:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(PERIOD_SECONDS * share)
            os.kill(pid, signal.SIGCONT)
            time.sleep(PERIOD_SECONDS * (1 - share))
    except ProcessLookupError:
        return
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    slow_down(int(sys.argv[1]), min(max(float(sys.argv[2]), 0.0), 0.9))
