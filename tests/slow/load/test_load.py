"""Runs short versions of the checks of run.py, each in a process of its own, and shows that they can fail."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from slow.load import leaks, threads

LOAD = Path(__file__).with_name("run.py")


@pytest.mark.parametrize(
    "check", ["threads --seconds=3", "leaks --calls=9600", "fork", "interrupt", "out_of_memory --steps=3"]
)
def test_short_version(check):
    run = subprocess.run([sys.executable, LOAD, *check.split()], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr


KEPT: list = []
LEAKS = {
    "a tensor": (lambda: KEPT.append(torch.empty(1)), "bytes"),
    "a handle": (lambda: ctypes.CDLL(None).malloc(8), "bytes"),
    "an object": (lambda: KEPT.append(object()), "Python objects"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leaks_are_found(leak):
    call, message = LEAKS[leak]
    calls = {"no leak": lambda: torch.empty(1), "a leak": call}
    with pytest.raises(AssertionError, match=f"a leak: 1000 calls leak .* {message}"):
        leaks.check_leaks(10000, calls)
    KEPT.clear()


def test_wrong_bits_are_found(monkeypatch):
    call, expected = threads.thread_problems()[0]
    monkeypatch.setattr(threads, "thread_problems", lambda: [(call, [expected[0], -expected[1]])])
    with pytest.raises(AssertionError, match="is not, bit for bit"):
        threads.check_threads(1)
