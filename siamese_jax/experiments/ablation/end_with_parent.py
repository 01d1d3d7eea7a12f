"""Becomes a command that Linux kills when the thread that started it ends, even if by a kill.

    python end_with_parent.py PARENT COMMAND...

PARENT is the number of that thread's process. This stands in a file of its own, since code between a
fork and the start of a command may deadlock where the process has threads, as jax's have.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Sets the signal and becomes the command."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it was killed before this
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
