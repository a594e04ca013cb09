"""Asserts that GitHub's workflows and forms, CITATION.cff and cibuildwheel's settings are valid, and that workflows run
scripts that exist.

pip install check-jsonschema cibuildwheel==4.3.5 && python .ci/check_workflows.py
"""

import importlib.metadata
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomllib  # of Python 3.11, as cibuildwheel needs it
from ruamel.yaml import YAML  # which check-jsonschema brings

ROOT = Path(__file__).parents[1]
CITATION = ROOT / "CITATION.cff"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def check_schema(name: str, paths: Iterable[Path]) -> None:
    subprocess.run(["check-jsonschema", "--builtin-schema", f"vendor.{name}", *paths], check=True)


def load_jobs() -> dict[str, dict[str, Any]]:
    """Returns the jobs of each workflow, by the names of both."""
    return {path.stem: YAML(typ="safe").load(path.read_text())["jobs"] for path in WORKFLOWS}


def values_of_steps(jobs: dict[str, Any], key: str) -> list[str]:
    return [step[key] for job in jobs.values() for step in job["steps"] if key in step]


def commands_of_cibuildwheel() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    commands = [value for name, value in settings.items() if name.endswith(("-all", "-command"))]
    return [command.removeprefix("{project}/") for command in commands]


def check_wheels(release: dict[str, Any]) -> None:
    """Asks the version of cibuildwheel that the workflow names which wheels it would build."""
    (used,) = [action for action in values_of_steps(release, "uses") if action.startswith("pypa/cibuildwheel@")]
    installed = importlib.metadata.version("cibuildwheel")
    assert used == f"pypa/cibuildwheel@v{installed}", f"{used} releases, and {installed} was asked"
    command = ["cibuildwheel", "--print-build-identifiers", "--platform", "linux", "--archs", "x86_64,aarch64", ROOT]
    wheels = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    expected = [f"cp3{minor}-manylinux_{arch}" for arch in ["x86_64", "aarch64"] for minor in range(10, 15)]
    assert wheels == expected, f"the wheels would be {wheels}"


def jobs_of_ci() -> set[str]:
    """Returns the jobs that .ci/run runs."""
    return set(re.search(r"jobs=\((\w.*)\)", (ROOT / ".ci" / "run").read_text())[1].split())


def main() -> None:
    check_schema("github-workflows", WORKFLOWS)
    check_schema("github-issue-forms", (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    check_schema("citation-file-format", [CITATION])
    version = re.search(r'__version__ = "(.+)"', (ROOT / "roipool" / "__init__.py").read_text())[1]
    assert YAML(typ="safe").load(CITATION.read_text())["version"] == version, f"CITATION.cff has not {version}"
    jobs = load_jobs()
    check_wheels(jobs["release"])
    commands = [command for workflow in jobs.values() for command in values_of_steps(workflow, "run")]
    commands += commands_of_cibuildwheel()
    assert commands, "there is nothing to run"
    for command in commands:
        script = ROOT / command.split()[0]
        assert len(command.splitlines()) == 1, f"this is a script of its own: {command}"
        assert os.access(script, os.X_OK), f"there is no such script: {command}"
    ours, theirs = jobs_of_ci(), set(jobs["ci"]["job"]["strategy"]["matrix"]["job"])
    assert ours == theirs, f"jobs of one only: {ours ^ theirs}"
    print(f"{len(WORKFLOWS)} workflows, whose commands exist:", *sorted(set(commands)), sep="\n  ")


if __name__ == "__main__":
    main()
