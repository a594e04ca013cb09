"""Refuses torch.jit.script, and names the ways that are open."""

from typing import NoReturn, TypeVar

T = TypeVar("T")


def refuse_script(*_: object) -> NoReturn:
    raise NotImplementedError(
        "roipool cannot go through torch.jit.script, which PyTorch has deprecated: "
        "use torch.jit.trace, torch.export or AOTInductor"
    )


def not_scriptable(function_or_module: T) -> T:
    """Decorates what torch.jit.script must refuse: it calls this method of all that it meets."""
    function_or_module.__prepare_scriptable__ = refuse_script  # type: ignore[attr-defined]
    return function_or_module
