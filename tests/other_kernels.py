"""Loads operators of roipool with other kernels than roipool's own, in a namespace of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from roipool._ops.load import ops

OPERATORS = [
    f"{prefix}roi_pool{suffix}"
    for prefix in ["", "multiscale_"]
    for suffix in ["", "_with_argmax", "_backward", "_gather"]
]

_schemas: dict[str, torch.library.Library] = {}  # which last as long as they are in this dictionary


def load_operators(library: Path, namespace: str, others: Sequence[str] = ()) -> Any:
    """Returns torch.ops.<namespace>: the operators of roipool, and others by their schemas.

    A process can do so once for a namespace.
    """
    assert namespace not in _schemas, f"a process can load one library of {namespace} only"
    _schemas[namespace] = torch.library.Library(namespace, "DEF")
    for name in OPERATORS:
        packet = getattr(ops, name)
        for overload in packet.overloads():
            _schemas[namespace].define(str(getattr(packet, overload)._schema).removeprefix("roipool::"))
    for schema in others:
        _schemas[namespace].define(schema)
    torch.ops.load_library(library)
    return getattr(torch.ops, namespace)
