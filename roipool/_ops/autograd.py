"""Differentiates the operators: here are the kernels at their Autograd key.

With g the gather at argmax and s the scatter to argmax (roi_pool_gather and roi_pool_backward, both linear):

    operator             forward mode            reverse mode
    roi_pool             d output = g(d input)   grad_input       = s(grad_output)
    roi_pool_backward    d s(x) = s(d x)         grad_grad_output = g(grad)
    roi_pool_gather      d g(x) = g(d x)         grad_input       = s(grad_output)

so the three differentiate one another, to any order. rois get no gradient. The operators of a pyramid of maps have the
same derivatives, and both families are made by the same functions.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from roipool._ops import checks
from roipool._ops.load import ops
from roipool._ops.torch_private import (
    AutogradFunctionality,
    BelowAutograd,
    SingleLevelFunction,
    allow_single_level_functions,
    are_transforms_active,
    get_jit_trace,
    is_forward_mode_active,
    is_forward_mode_enabled,
    is_key_excluded,
    set_forward_mode_enabled,
)

# ---- Calls of native kernels.


def call_below_autograd(op: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the native kernel of an operator: dispatch starts below the Autograd key.

    Under transforms of torch.func, the call goes to the next of them instead.
    """
    with BelowAutograd():
        try:
            return op(*arguments)
        except RuntimeError as error:
            raise restore_exception(error, op, *arguments) from None


def restore_exception(error: RuntimeError, op: Any, *arguments: Any, **keywords: Any) -> Exception:
    """Returns what the native kernel of an operator has thrown, or why PyTorch found no kernel to call.

    std::invalid_argument arrives as ValueError and std::bad_alloc as MemoryError up to torch 2.14. From 2.15 on both
    arrive as RuntimeError, and the checks tell whether it is a refusal: they then refuse the arguments in the same
    words. What was got may be named otherwise, since a library built beside an older torch has no names for new dtypes.
    """
    if isinstance(error, NotImplementedError):
        try:
            checks.check_layouts(op.name(), *arguments, **keywords)
        except TypeError as refusal:
            return refusal
    if type(error) is not RuntimeError:
        return error
    if str(error) == "std::bad_alloc":
        return MemoryError(str(error))
    try:
        checks.check_operator(op.name(), *arguments, **keywords)
    except ValueError as refusal:
        if str(error).partition(", got ")[0] == str(refusal).partition(", got ")[0]:
            return ValueError(str(error))
    return error


def call_op(op: Callable[..., Any], *arguments: Any) -> Any:
    """Calls an operator from a derivative; its native kernel at once, where no further derivative is taken."""
    if (
        torch.is_grad_enabled()
        or is_forward_mode_active()
        or are_transforms_active()
        or torch.compiler.is_compiling()  # compiled autograd traces backward passes
    ):
        return op(*arguments)
    return call_below_autograd(op, *arguments)


def is_plain_call() -> bool:
    """Returns whether nothing but autograd watches or transforms a call.

    The dispatcher would then come to the operator's Autograd kernel, which may as well be called directly, and faster.
    """
    return not (
        torch.compiler.is_compiling()
        or get_jit_trace() is not None
        or are_transforms_active()
        # a handler of __torch_dispatch__ is at work, above which autograd is done already
        or is_key_excluded(AutogradFunctionality)
    )


# ---- Functions, within transforms of torch.func and without.

# The methods that make up a Function.
METHODS = ("forward", "setup_context", "backward", "jvp")

# Holds, within apply_function() and under transforms, whether its caller has reverse and forward mode enabled.
_caller = threading.local()


@contextmanager
def modes_of_caller() -> Iterator[None]:
    """Restores the modes of the caller, which a Function has switched off, for the next transform."""
    if not are_transforms_active():
        yield
        return
    grad_enabled, forward_grad_enabled = _caller.modes
    with torch.set_grad_enabled(grad_enabled), set_forward_mode_enabled(forward_grad_enabled):
        yield


def call_in_forward(op: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the native kernel of an operator from the forward of a Function."""
    if not are_transforms_active():
        return call_below_autograd(op, *arguments)
    with modes_of_caller():
        return call_below_autograd(op, *arguments)


@cache
def make_single_level(function: type[Function]) -> Any:
    """Puts the derivatives of a Function in the class that PyTorch itself makes for one level of transforms."""
    methods = {name: staticmethod(getattr(function, name)) for name in METHODS}
    return type(function.__name__, (SingleLevelFunction,), methods)


def apply_function(function: type[Function], *arguments: Any) -> Any:
    """Does what Function.apply does, for a kernel at the Autograd key.

    Under transforms of torch.func, Function.apply would hand the call to all levels of them. The dispatcher does that
    already, for operators: at each level it calls their kernel at the Autograd key, which has just this one to do.
    Without transforms, the apply of Function's base class does all that there is to do, and faster.
    """
    if not are_transforms_active():
        return super(Function, function).apply(*arguments)  # type: ignore[misc]
    before = getattr(_caller, "modes", None)
    _caller.modes = (torch.is_grad_enabled(), is_forward_mode_enabled())
    try:
        with allow_single_level_functions():
            return make_single_level(function).apply(*arguments)
    finally:
        _caller.modes = before


def is_differentiated(tensor: Tensor | None) -> bool:
    if tensor is None:  # the native kernel refuses it
        return False
    if torch.is_grad_enabled() and tensor.requires_grad:
        return True
    return is_forward_mode_active() and forward_ad.unpack_dual(tensor).tangent is not None


def drop_tangent(rois: Tensor | None) -> Any:
    """Returns rois without the tangent that forward mode gives them, since no result depends on it."""
    if rois is None or not is_forward_mode_active():
        return rois
    return forward_ad.unpack_dual(rois).primal


def is_any_differentiated(tensors: Sequence[Tensor]) -> bool:
    return any(map(is_differentiated, tensors))


# ---- The Functions, for one map and for a pyramid of maps.


class Family:
    """The operators of one map, roi_pool and those named after it, or of a pyramid, multiscale_roi_pool and those.

    The operators of one map take (map, *others), those of a pyramid (maps, *others). A Function sees only the tensors
    that are arguments of their own, so the Functions of both take (*maps, *others). The last of the others are the
    scales, by which regions are placed: spatial_scale, or a pyramid's spatial_scales, canonical_scale, canonical_level.
    """

    is_differentiated: Callable[[Any], bool]

    def __init__(self, name: str, is_pyramid: bool) -> None:
        self.name = name
        self.is_pyramid = is_pyramid
        self.forward = getattr(ops, name).default
        self.forward_with_argmax = getattr(ops, f"{name}_with_argmax").default
        self.backward = getattr(ops, f"{name}_backward").default
        self.gather = getattr(ops, f"{name}_gather").default
        self.num_scales = 3 if is_pyramid else 1
        self.is_differentiated = is_any_differentiated if is_pyramid else is_differentiated

    def spread(self, maps: Any) -> Sequence[Tensor]:
        """Returns, one by one, the maps that an operator takes or the gradients that it returns."""
        return maps if self.is_pyramid else (maps,)

    def join(self, arguments: tuple[Any, ...], num_others: int) -> tuple[Any, ...]:
        """Makes the arguments of a Function those of an operator."""
        return (list(arguments[:-num_others]), *arguments[-num_others:]) if self.is_pyramid else arguments

    def scales_of(self, arguments: Sequence[Any]) -> Sequence[Any]:
        return arguments[-self.num_scales :]

    def sizes_of(self, maps: Sequence[Tensor]) -> tuple[Any, ...]:
        """Returns the sizes of maps as the backward operator takes them: N, and H and W or lists of these."""
        first = maps[0]
        if not self.is_pyramid:
            return first.shape[0], first.shape[2], first.shape[3]
        return first.shape[0], [map.shape[2] for map in maps], [map.shape[3] for map in maps]

    def fill_tangents(self, tangents: Sequence[Tensor | None], sizes: tuple[Any, ...]) -> Any:
        """Returns the tangents of maps as the gather operator takes them, or None where there are none.

        Maps of a pyramid that have no tangent beside one that has get zeros.
        """
        given = next((tangent for tangent in tangents if tangent is not None), None)
        if given is None or not self.is_pyramid:
            return given
        batch_size, heights, widths = sizes
        return [
            given.new_zeros(batch_size, given.shape[1], height, width) if tangent is None else tangent
            for tangent, height, width in zip(tangents, heights, widths, strict=True)
        ]


def make_forward_function(family: Family, name: str) -> type[Function]:
    """Makes the Function of an operator with argmax, differentiable in its maps."""
    num_others = 3 + family.num_scales  # rois, pooled_height, pooled_width

    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        output, argmax = call_in_forward(family.forward_with_argmax, *family.join(arguments, num_others))
        return output, argmax

    def setup_context(ctx: Any, arguments: tuple[Any, ...], results: tuple[Tensor, Tensor]) -> None:
        rois, argmax = arguments[-num_others], results[1]
        ctx.sizes = family.sizes_of(arguments[:-num_others])
        ctx.scales = family.scales_of(arguments)
        ctx.mark_non_differentiable(argmax)
        ctx.set_materialize_grads(False)  # of argmax, that would be a tensor of zeros in each backward
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    def backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        needs_grad = ctx.needs_input_grad
        if grad_output is None or not any(needs_grad[:-num_others]):  # the rois alone may require one, and get none
            return (None,) * len(needs_grad)
        grads = call_op(family.backward, grad_output, *ctx.saved_tensors, *ctx.sizes, *ctx.scales)
        return (*family.spread(grads), *(None,) * num_others)

    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, None]:
        map_tangents = family.fill_tangents(tangents[:-num_others], ctx.sizes)
        if map_tangents is None:
            return None, None
        with modes_of_caller():
            return family.gather(map_tangents, *ctx.saved_tensors, *ctx.scales), None

    return make_function(name, forward, setup_context, backward, jvp)


def make_backward_function(family: Family, name: str) -> type[Function]:
    """Makes the Function of a backward operator, differentiable in grad_output."""

    def forward(*arguments: Any) -> Tensor | tuple[Tensor, ...]:
        grads = call_in_forward(family.backward, *arguments)
        return tuple(grads) if family.is_pyramid else grads

    def setup_context(ctx: Any, arguments: tuple[Any, ...], grads: Any) -> None:
        _, rois, argmax, *ctx.sizes_and_scales = arguments
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scales = family.scales_of(ctx.sizes_and_scales)
        arguments = family.join((*grads, *ctx.saved_tensors, *scales), 2 + family.num_scales)
        return call_op(family.gather, *arguments), *(None,) * (2 + len(ctx.sizes_and_scales))

    def jvp(ctx: Any, grad_output_tangent: Tensor, *_: None) -> Tensor | tuple[Tensor, ...]:
        with modes_of_caller():
            tangents = family.backward(grad_output_tangent, *ctx.saved_tensors, *ctx.sizes_and_scales)
            return tuple(tangents) if family.is_pyramid else tangents

    return make_function(name, forward, setup_context, backward, jvp)


def make_gather_function(family: Family, name: str) -> type[Function]:
    """Makes the Function of a gather operator, differentiable in its maps."""
    num_others = 2 + family.num_scales  # rois, argmax

    def forward(*arguments: Any) -> Tensor:
        output: Tensor = call_in_forward(family.gather, *family.join(arguments, num_others))
        return output

    def setup_context(ctx: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
        rois, argmax = arguments[-num_others : len(arguments) - family.num_scales]
        ctx.sizes = family.sizes_of(arguments[:-num_others])
        ctx.scales = family.scales_of(arguments)
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads = call_op(family.backward, grad_output, *ctx.saved_tensors, *ctx.sizes, *ctx.scales)
        return (*family.spread(grads), *(None,) * num_others)

    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        map_tangents = family.fill_tangents(tangents[:-num_others], ctx.sizes)
        if map_tangents is None:
            return None
        with modes_of_caller():
            tangent: Tensor = family.gather(map_tangents, *ctx.saved_tensors, *ctx.scales)
            return tangent

    return make_function(name, forward, setup_context, backward, jvp)


def make_function(name: str, *functions: Callable[..., Any]) -> type[Function]:
    methods = dict(zip(METHODS, map(staticmethod, functions), strict=True))
    function: type[Function] = type(name, (Function,), methods)
    return function


# ---- The kernels at the Autograd key.


def make_kernels(family: Family, name: str) -> dict[str, Callable[..., Any]]:
    """Makes the kernels of a family's operators.

    Where nothing is differentiated, they go straight to the native kernel: the forward then writes no argmax, and
    nothing is saved.

    Rois get no derivative. But where they require a gradient, the output of a forward requires one, as torchvision's
    does, so that backward() passes where the maps require none.
    """
    forward_function = make_forward_function(family, f"{name}Function")
    backward_function = make_backward_function(family, f"{name}BackwardFunction")
    gather_function = make_gather_function(family, f"{name}GatherFunction")

    def forward(maps: Any, rois: Tensor, *others: Any) -> Tensor:
        rois = drop_tangent(rois)
        if family.is_differentiated(maps) or is_differentiated(rois):
            return apply_function(forward_function, *family.spread(maps), rois, *others)[0]
        output: Tensor = call_below_autograd(family.forward, maps, rois, *others)
        return output

    def forward_with_argmax(maps: Any, rois: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        rois = drop_tangent(rois)
        if family.is_differentiated(maps) or is_differentiated(rois):
            output, argmax = apply_function(forward_function, *family.spread(maps), rois, *others)
        else:
            output, argmax = call_below_autograd(family.forward_with_argmax, maps, rois, *others)
        return output, argmax

    def backward(grad_output: Tensor, rois: Tensor, *others: Any) -> Tensor | list[Tensor]:
        rois = drop_tangent(rois)
        grads = apply_function(backward_function, grad_output, rois, *others)
        return list(grads) if family.is_pyramid else grads

    def gather(maps: Any, rois: Tensor, *others: Any) -> Tensor:
        rois = drop_tangent(rois)
        return apply_function(gather_function, *family.spread(maps), rois, *others)

    return {
        family.name: forward,
        f"{family.name}_with_argmax": forward_with_argmax,
        f"{family.name}_backward": backward,
        f"{family.name}_gather": gather,
    }


KERNELS = {
    **make_kernels(Family("roi_pool", is_pyramid=False), "RoIPool"),
    **make_kernels(Family("multiscale_roi_pool", is_pyramid=True), "MultiScaleRoIPool"),
}


def register() -> torch.library.Library:
    """Registers the kernels, for as long as the library that is returned lasts."""
    library = torch.library.Library("roipool", "IMPL")
    for name, kernel in KERNELS.items():
        library.impl(name, kernel, "Autograd")
    return library
