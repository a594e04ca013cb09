"""Keeps results as they are made: a line of JSON each, so that what there is survives whatever comes after it."""

import json
from pathlib import Path


class Results:
    """Prints results, and adds them to a file where one is given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[dict[str, object]] = []

    def add(self, result: dict[str, object]) -> None:
        self.lines.append(result)
        line = json.dumps(result)
        print(line, flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(line + "\n")
