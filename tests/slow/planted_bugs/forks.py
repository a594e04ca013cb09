"""Runs work in forks of this process, which has imported already what takes long."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# The tests import these.
import numpy  # noqa: F401
import onnxruntime  # noqa: F401
import pytest  # noqa: F401
import torch._dynamo
import torch.export
import torch.fx.experimental.symbolic_shapes
import torch.utils.cpp_extension  # noqa: F401


def run_in_fork(work: Callable[[], int | None], folder: Path, timeout: float) -> tuple[int | None, str]:
    """Runs work() in `folder`, where roipool is imported from; returns its exit status, and all that it printed.

    The status is None where work() took too long, and a negative number where a signal ended it.
    """
    with tempfile.TemporaryFile("w+") as output:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _work_and_exit(work, folder, output.fileno())
        status = _wait(child, time.monotonic() + timeout)
        output.seek(0)
        return status, output.read()


def _work_and_exit(work: Callable[[], int | None], folder: Path, output: int) -> None:
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        for stream in [1, 2]:
            os.dup2(output, stream)
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path[0] = str(folder)  # comes before the finders of an editable install
        status = work() or 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else exit.code is not None
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, deadline: float) -> int | None:
    """Waits for a child until the deadline, at which it is killed with all that it has started."""
    ended, wait_status = 0, 0
    while ended == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
        ended, wait_status = os.waitpid(child, os.WNOHANG)
    if ended == 0:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(wait_status)
