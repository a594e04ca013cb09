"""Keeps what the reference makes of a problem for all layouts and sets of kernels that are held to it.

roipool.reference is slow: a test that runs over five layouts and two sets of kernels would wait for it ten times.
"""

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from roipool import reference

MOST_BYTES = 2**29  # the limit of all results that are kept

_results: OrderedDict[tuple, Any] = OrderedDict()
_kept_bytes = 0


def key_of(value: Any) -> Any:
    """Returns a key that is equal for equal arguments. Tensors are equal by shape, dtype and bits, in any strides."""
    if isinstance(value, list | tuple):
        return tuple(key_of(item) for item in value)
    if not isinstance(value, Tensor):
        return value
    data = value.detach().clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).numpy()
    return tuple(value.shape), value.dtype, hashlib.blake2b(data).digest()


def num_bytes(result: Any) -> int:
    tensors = [result] if isinstance(result, Tensor) else result
    return sum(tensor.nbytes for tensor in tensors)


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Computes the result of each call once. Callers must not write to it."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        global _kept_bytes
        key = (function.__name__, key_of(arguments), tuple(sorted(named.items())))
        if key not in _results:
            _results[key] = function(*arguments, **named)
            _kept_bytes += num_bytes(_results[key])
        result = _results[key]
        _results.move_to_end(key)
        while _kept_bytes > MOST_BYTES and len(_results) > 1:
            _kept_bytes -= num_bytes(_results.popitem(last=False)[1])
        return result

    return call


roi_pool = remembered(reference.roi_pool)
roi_pool_backward = remembered(reference.roi_pool_backward)
multiscale_roi_pool = remembered(reference.multiscale_roi_pool)
multiscale_roi_pool_backward = remembered(reference.multiscale_roi_pool_backward)
