"""Names everything private of PyTorch's that roipool uses: no other file of the package does.

Each name says why there is no public one for it, and in which versions of torch it was seen. Where a new version of
torch breaks roipool, this is the file to look at.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function  # type: ignore[attr-defined]
from torch._prims_common import suggest_memory_format
from torch._prims_common.wrappers import _maybe_resize_out
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

__all__ = [
    "AutogradFunctionality",
    "BelowAutograd",
    "ExcludeKeys",
    "InPlaceOrView",
    "SingleLevelFunction",
    "allow_single_level_functions",
    "are_transforms_active",
    "assume_constant_result",
    "check_value",
    "get_jit_trace",
    "is_captured",
    "is_forward_mode_active",
    "is_forward_mode_enabled",
    "is_key_excluded",
    "is_statically_true",
    "resize_out",
    "set_forward_mode_enabled",
    "suggest_memory_format",
    "was_declined",
]

P = ParamSpec("P")
T = TypeVar("T")

# ---- The dispatcher.

# Starts dispatch below the Autograd key while it is entered. PyTorch has this guard in C++ alone, public as
# at::AutoDispatchBelowAutograd. torch 2.10 to 2.15.
BelowAutograd = torch._C._AutoDispatchBelowAutograd

# Excludes dispatch keys while it is entered, so that a kernel at a key can call its operator at the keys below.
# torch 2.10 to 2.15.
ExcludeKeys = torch._C._ExcludeDispatchKeyGuard

# The key at which operators that overwrite a tensor give it a new version. torch 2.10 to 2.15.
InPlaceOrView = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)

# The part that all Autograd keys have in common. It is excluded wherever autograd is done already. torch 2.10 to 2.15.
AutogradFunctionality = torch._C.DispatchKey.AutogradFunctionality
is_key_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded

# Returns the graph that torch.jit.trace is recording, or None: public is only torch.jit.is_tracing, which is a function
# in Python around this one, and slower. torch 2.10 to 2.15.
get_jit_trace = torch._C._get_tracing_state


def is_captured() -> bool:
    """Returns whether torch.jit.trace or torch.compile records the call, for which numbers in tensors are constants."""
    return get_jit_trace() is not None or torch.compiler.is_compiling()


def was_declined(error: TypeError, function: Callable[..., Any]) -> bool:
    """Returns whether handle_torch_function has raised an error since all classes declined to call a function.

    PyTorch tells that by its words alone, which are the same in torch 2.10 to 2.15.
    """
    return str(error).startswith(f"no implementation found for '{function.__module__}.{function.__name__}' on ")


# ---- Derivatives.

# Returns whether a transform of torch.func is at work. torch 2.10 to 2.15.
are_transforms_active = torch._C._are_functorch_transforms_active

# Function without its treatment of all levels of torch.func's transforms at once, and what allows its use within them.
# torch 2.10 to 2.15.
SingleLevelFunction = _SingleLevelFunction
allow_single_level_functions = enable_single_level_autograd_function

# Tell and set whether forward mode is enabled: the counterparts of torch.is_grad_enabled and torch.set_grad_enabled,
# of which forward mode has no public ones. torch 2.10 to 2.15.
is_forward_mode_enabled = torch._C._is_fwd_grad_enabled
set_forward_mode_enabled = forward_ad._set_fwd_grad_enabled


def is_forward_mode_active() -> bool:
    """Returns whether a torch.autograd.forward_ad.dual_level is entered. torch 2.10 to 2.15."""
    return forward_ad._current_level >= 0


# ---- The compiler.


def assume_constant_result(function: Callable[P, T]) -> Callable[P, T]:
    """Lets torch.compile call a function while it compiles, and take what that returns for a constant.

    This is what torch.compiler.assume_constant_result does in torch 2.10 to 2.15, but for the import of torch._dynamo,
    which takes seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# ---- Fake kernels.

# Resizes what was given as out=, with PyTorch's own warning. torch 2.10 to 2.15.
resize_out = _maybe_resize_out


def check_value(condition: bool | torch.SymBool, message: Callable[[], str]) -> None:
    """Raises a ValueError with a message unless a condition holds; one on symbols becomes a guard of the compiler.

    The public torch._check raises RuntimeErrors. torch._check_value, of torch 2.10 to 2.15, imports sympy, which takes
    0.3 s: it is left out where there are no symbols.
    """
    if condition is True:
        return
    if condition is False:
        raise ValueError(message())
    torch._check_value(condition, message)


def is_statically_true(condition: bool | torch.SymBool) -> Any:
    """Returns whether a condition on symbols holds for all their values, and makes no guard of it.

    torch.fx.experimental, of torch 2.10 to 2.15, imports sympy: only where there are symbols, sympy is there already.
    """
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)
