"""Becomes another program, which the kernel ends when the process that started it is gone.

    launch.py PARENT NICE PROGRAM [ARGUMENT ...]

A program of its own, since with a `preexec_fn` Python forks instead of using vfork, and the handlers that gRPC has for
forks can wait for ever (known since grpc/grpc issue 17986).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, nice: str, *command: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the process that wanted this program is gone")
    os.nice(int(nice))
    # Python ignores it, and what is ignored stays so.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)


main(*sys.argv[1:])
