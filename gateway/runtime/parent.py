"""A child that doesn't outlive its parent, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ending_with_parent() -> Callable[[], None] | None:
    """Return what a child calls between fork and exec (`preexec_fn`): SIGTERM comes when the parent ends.

    None where only Linux could do it. The parent is the thread that forks: it must be one that stays.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) or os.getppid() != parent:
            os._exit(1)  # it can't be had, or the parent is gone already

    return ask
