"""Asserts that GitHub's workflows and cibuildwheel's settings are valid, and run scripts that exist.

pip install check-jsonschema cibuildwheel==4.3.5 && python .ci/check_workflows.py
"""

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

from ruamel.yaml import YAML  # which check-jsonschema brings

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def commands_in(workflow: Path) -> list[str]:
    jobs = YAML(typ="safe").load(workflow.read_text())["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def commands_of_cibuildwheel() -> list[str]:
    settings = (ROOT / "pyproject.toml").read_text().partition("[tool.cibuildwheel]")[2]
    return [
        command.removeprefix("{project}/")
        for command in re.findall(r'^[a-z-]+-(?:all|command) = "(.*)"$', settings, re.M)
    ]


def check_wheels() -> None:
    """Asks the version of cibuildwheel that the workflow names which wheels it would build."""
    version = re.search(r"pypa/cibuildwheel@v([\d.]+)", (ROOT / ".github" / "workflows" / "release.yml").read_text())[1]
    installed = importlib.metadata.version("cibuildwheel")
    assert installed == version, f"cibuildwheel {version} releases, and {installed} was asked"
    command = ["cibuildwheel", "--print-build-identifiers", "--platform", "linux", "--archs", "x86_64,aarch64", ROOT]
    wheels = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    expected = [f"cp3{minor}-manylinux_{arch}" for arch in ["x86_64", "aarch64"] for minor in range(10, 15)]
    assert wheels == expected, f"the wheels would be {wheels}"


def jobs_of_ci() -> tuple[set[str], set[str]]:
    """Returns the jobs that .ci/run runs, and those of the workflow."""
    ours = set(re.search(r"jobs=\((\w.*)\)", (ROOT / ".ci" / "run").read_text())[1].split())
    workflow = YAML(typ="safe").load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    return ours, set(workflow["jobs"]["job"]["strategy"]["matrix"]["job"])


def main() -> None:
    subprocess.run(["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS], check=True)
    check_wheels()
    commands = [command for workflow in WORKFLOWS for command in commands_in(workflow)] + commands_of_cibuildwheel()
    assert commands, "there is nothing to run"
    for command in commands:
        script = ROOT / command.split()[0]
        assert len(command.splitlines()) == 1, f"this is a script of its own: {command}"
        assert os.access(script, os.X_OK), f"there is no such script: {command}"
    ours, theirs = jobs_of_ci()
    assert ours == theirs, f"jobs of one only: {ours ^ theirs}"
    print(f"{len(WORKFLOWS)} workflows, whose commands exist:", *sorted(set(commands)), sep="\n  ")


if __name__ == "__main__":
    main()
