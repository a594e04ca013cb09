"""Checks what single calls do not show: threads, leaks, forks, signals, a lack of memory.

    python tests/slow/load/run.py [threads leaks fork interrupt out_of_memory] [--seconds 300] [--calls 100000]

Each check runs in a process of its own, prints its figures, and fails by an exception. test_load.py runs short
versions of all of them.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from slow.load.interruptions import check_fork, check_interrupt
from slow.load.leaks import check_leaks
from slow.load.memory import check_out_of_memory
from slow.load.threads import check_threads

CHECKS = ["threads", "leaks", "fork", "interrupt", "out_of_memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", choices=[[], *CHECKS], help="all by default")  # [] stands for none
    parser.add_argument("--seconds", type=float, default=300, help="of the threads (%(default)s)")
    parser.add_argument("--calls", type=int, default=100_000, help="of the leaks (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of memory, from none to enough (%(default)s)")
    arguments = parser.parse_args()
    if len(arguments.checks) != 1:  # several run each in a process of its own
        options = [f"--{name}={getattr(arguments, name)}" for name in ["seconds", "calls", "steps"]]
        for check in arguments.checks or CHECKS:
            print(f"{check}: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, check, *options], check=True)
        return
    run = {
        "threads": lambda: check_threads(arguments.seconds),
        "leaks": lambda: check_leaks(arguments.calls),
        "fork": check_fork,
        "interrupt": check_interrupt,
        "out_of_memory": lambda: check_out_of_memory(arguments.steps),
    }
    run[arguments.checks[0]]()


if __name__ == "__main__":
    main()
