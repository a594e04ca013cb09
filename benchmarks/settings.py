"""Runs measurements under settings of the allocator, each in a process of its own.

A setting is a group of environment variables that decide what memory a result gets. glibc and PyTorch read them when a
process starts, so that a process cannot change its own setting.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "huge_pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "kept": {"THP_MEM_ALLOC_ENABLE": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592"},
}
VARIABLES = list(SETTINGS["kept"])  # has the variables of all settings

T = TypeVar("T")


def allocator_variables() -> dict[str, str]:
    """Returns what the environment says to an allocator, in any variables: also in those that no setting has."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in ("THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES") or name.startswith("MALLOC_")
    }


def current_setting() -> str:
    """Returns the name of the setting that this process has, or "other"."""
    found = allocator_variables()
    return next((name for name, variables in SETTINGS.items() if variables == found), "other")


@contextlib.contextmanager
def environment_of(setting: str) -> Iterator[None]:
    """Gives processes that are started meanwhile the variables of a setting, and no others that an allocator reads."""
    before = allocator_variables()
    for name in before:
        del os.environ[name]
    os.environ.update(SETTINGS[setting])
    try:
        yield
    finally:
        for name in SETTINGS[setting]:
            del os.environ[name]
        os.environ.update(before)


def measure_in_settings(
    settings: list[str], measure: Callable[[argparse.Namespace], list[T]], arguments: argparse.Namespace
) -> list[T]:
    """Returns the results of measure(arguments) in each setting. Stays in this process if that has the only setting."""
    if settings == [current_setting()]:
        return measure(arguments)
    results: list[T] = []
    for setting in settings:
        # Spawns a process that starts anew, since a forked one has the allocator of this one.
        with environment_of(setting), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results += pool.submit(measure, arguments).result()
    return results


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=list(SETTINGS),
        default=["default"],
        metavar="NAME",
        help=f"of the allocator, each in a process of its own: {', '.join(SETTINGS)} (default: default)",
    )
