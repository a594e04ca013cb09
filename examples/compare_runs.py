"""Puts runs of faster_rcnn.py into one table and one picture of their losses.

python examples/compare_runs.py runs/roipool runs/align --out losses.png
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

COLUMNS = ["AP", "AP50", "AP75", "minutes", "images_per_second", "processes"]
STEPS_IN_MEAN = 50  # of the running mean

Runs = dict[str, dict]


def make_table(runs: Runs) -> str:
    rows = [["run", "steps", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
    rows += [[name, len(run["losses"]), *(run[column] for column in COLUMNS)] for name, run in runs.items()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def draw_losses(runs: Runs, out: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, run in runs.items():
        num_steps = min(STEPS_IN_MEAN, len(run["losses"]))
        means = np.convolve(run["losses"], np.full(num_steps, 1 / num_steps), mode="valid")
        (line,) = axes.plot(np.arange(num_steps, len(run["losses"]) + 1), means, linewidth=1, label=name)
        for step in run["resumed_at"]:
            axes.axvline(step, color=line.get_color(), linestyle=":", label=f"{name}: resumed at step {step}")
    axes.set(xlabel="step", ylabel=f"loss (mean of {STEPS_IN_MEAN} steps)", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories that faster_rcnn.py wrote to")
    parser.add_argument("--out", type=Path, default=Path("losses.png"), help="where to save the picture (%(default)s)")
    arguments = parser.parse_args()

    runs = {path.name: json.loads((path / "metrics.json").read_text()) for path in arguments.runs}
    print(make_table(runs))
    draw_losses(runs, arguments.out)


if __name__ == "__main__":
    main()
