"""Checks and measures on a machine with a GPU, in phases that each have a deadline.

    python benchmarks/on_gpu.py OUT

OUT gets at most five files. What a phase wrote survives whatever comes after it.

    log.txt           what every phase printed
    results.jsonl     checks and times, a line of JSON each
    ncu.txt           what Nsight Compute says of the kernels of fpn, where it can read the card's counters
    summary.txt       the times as tables
    cpu_scaling.json  how the CPU's kernels grow with threads, if there is time left

A phase that fails or runs out of time is noted, and the next one starts. The exit status is 1 if any did. --rehearse
runs every phase without a GPU: on small problems, the kernels in host execution or those of the CPU instead.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
PYTHON = sys.executable
KERNELS = "place_regions|forward_columns|forward_channels_last|backward|gather"


class Phase(NamedTuple):
    name: str
    seconds: int  # at most
    command: list[str]
    environment: tuple[tuple[str, str], ...] = ()


def make_phases(out: Path, rehearse: bool) -> list[Phase]:
    """Returns the phases, the most valuable first. The last ones may find no time left."""
    results = ["--results", str(out / "results.jsonl")]
    script = {name: [PYTHON, str(HERE / f"{name}.py")] for name in ["gpu_check", "gpu_times", "gpu_calls"]}
    small = ["--rehearse"] if rehearse else []
    tests = [PYTHON, "-m", "pytest", "-q", "-p", "no:benchmark", "-W", "default", "--tb", "short", "--maxfail", "30"]
    calls = [*script["gpu_calls"], *small]
    phases = [
        Phase("check", 45, [*script["gpu_check"], *results, *small]),
        Phase("times", 95, [*script["gpu_times"], *results, *small]),
        Phase("pyramid", 35, [*script["gpu_times"], "--pyramid", *results, *small]),
    ]
    if rehearse:
        selected = "cuda_host and (ties or level)"
        phases.append(Phase("tests", 100, [*tests, "-k", selected, "tests/kernels/test_against_reference.py"]))
    else:
        files = ["test_cuda", "test_against_reference", "test_golden", "test_multiscale", "test_edge_cases"]
        selected = "cuda and not cuda_host and not compute_sanitizer and not without"
        command = [*tests, "-n", "12", "-k", selected, *[f"tests/kernels/{file}.py" for file in files]]
        phases.append(Phase("tests", 90, command, (("ROIPOOL_REQUIRE_CUDA", "1"), ("OMP_NUM_THREADS", "2"))))
    phases.append(Phase("variants", 40, [*script["gpu_times"], "--variants", *results, *small]))
    if rehearse or shutil.which("ncu"):
        profile = ["ncu", "--clock-control", "none", "--set", "full", "--kernel-name", f"regex:^({KERNELS})_kernel$"]
        profile += ["--launch-count", "14", "--log-file", str(out / "ncu.txt")]
        phases.append(Phase("ncu", 35, calls if rehearse else [*profile, *calls, "--large"]))
    scaling = [PYTHON, str(HERE / "scaling.py"), "--curve", "threads", "--json", str(out / "cpu_scaling.json")]
    for tool in ["memcheck", "racecheck"]:
        if rehearse or shutil.which("compute-sanitizer"):
            sanitizer = ["compute-sanitizer", "--tool", tool, "--report-api-errors", "no", "--error-exitcode", "9"]
            sanitizer += ["--kernel-regex", "kns=roipool"]
            phases.append(Phase(tool, 25, calls if rehearse else [*sanitizer, *calls]))
    return [*phases, Phase("scaling", 60, [*scaling, "--rounds", "2" if rehearse else "3"])]


def run_phase(phase: Phase, seconds: float, log: Path) -> str:
    """Runs a phase for so many seconds at most, and returns how it ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **dict(phase.environment)}
    with log.open("a") as file:
        print(f"\n=== {phase.name}: {' '.join(phase.command)}", file=file, flush=True)
        process = subprocess.Popen(
            phase.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return f"exit {process.wait(timeout=seconds)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # pytest then prints what it has
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return "out of time"


def last_line_of(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:100] if lines else ""


def write_summary(out: Path) -> None:
    """Writes the times of results.jsonl as lines that a person can read."""
    path = out / "results.jsonl"
    # A phase that ran out of time may have left half a line.
    written = path.read_text().splitlines() if path.exists() else []
    lines = [json.loads(line) for line in written if line.endswith("}")]
    with (out / "summary.txt").open("w") as file:
        for line in lines:
            if "roipool_us" in line:
                problem = f"{line['workload']:18} {line['dtype']:9} {line['layout']:14} {line['mode']:10}"
                times = f"{line['roipool_us']:10.1f} us  torchvision {line['torchvision_over_roipool']:6.2f}x"
                print(f"{problem} {times}  floor {line['roipool_over_floor']:6.2f}x", file=file)
            elif "median_ms" in line:
                problem = f"{line['workload']:28} {line['mode']:18} {line['peer']:20}"
                print(f"{problem} {line['median_ms']:8.3f} ms  {line['over_roipool']:6.2f}x", file=file)
            elif "variants" in line or ("check" in line and False in line.values()):
                print(json.dumps(line), file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder for the results")
    parser.add_argument("--seconds", type=int, default=460, help="that all phases have (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + arguments.seconds
    failed = False
    for phase in make_phases(out, arguments.rehearse):
        began = time.monotonic()
        seconds = min(phase.seconds if not arguments.rehearse else 600, deadline - began)
        if seconds < 5:
            print(f"{phase.name:9} no time left", flush=True)
            continue
        ended = run_phase(phase, seconds, out / "log.txt")
        failed = failed or ended != "exit 0"
        print(f"{phase.name:9} {ended}, {time.monotonic() - began:.0f} s: {last_line_of(out / 'log.txt')}", flush=True)
    write_summary(out)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
