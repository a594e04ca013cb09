"""Refuses torch.jit.script, and names the ways that are open."""

from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


def refuse_script() -> NoReturn:
    raise NotImplementedError(
        "roipool cannot go through torch.jit.script, which PyTorch has deprecated: "
        "use torch.jit.trace, torch.export or AOTInductor (docs/guides/compile.md)"
    )


def not_scriptable(function_or_module: T) -> T:
    """Decorates what torch.jit.script must refuse: it calls `__prepare_scriptable__` of all that it meets.

    A class derived from a module may have a forward of its own that can be scripted.
    """
    forward = getattr(function_or_module, "forward", None)

    def prepare_scriptable(module: Any = None) -> Any:
        if module is None or type(module).forward is forward:
            refuse_script()
        return module

    function_or_module.__prepare_scriptable__ = prepare_scriptable  # type: ignore[attr-defined]
    return function_or_module
