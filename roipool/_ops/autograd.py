"""Derivatives of the operators: what runs at their Autograd key.

With g the gather at argmax and s the scatter to argmax (roi_pool_gather and roi_pool_backward, both linear):

    operator             forward mode            reverse mode
    roi_pool             d output = g(d input)   grad_input       = s(grad_output)
    roi_pool_backward    d s(x) = s(d x)         grad_grad_output = g(grad)
    roi_pool_gather      d g(x) = g(d x)         grad_input       = s(grad_output)

so the three differentiate one another, to any order. rois get no gradient.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function  # type: ignore[attr-defined]
from torch.autograd import forward_ad
from torch.autograd.function import Function, _SingleLevelFunction

ops = torch.ops.roipool


def below_autograd(op: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the native kernel of an operator: dispatch starts below the Autograd key.

    Under transforms of torch.func, it goes to the next of them instead.
    """
    with torch._C._AutoDispatchBelowAutograd():
        try:
            return op(*arguments)
        except RuntimeError as error:
            raise as_raised(error) from None


def as_raised(error: RuntimeError) -> Exception:
    """What a kernel raised: the ValueErrors and MemoryErrors of torch 2.14 arrive as RuntimeErrors from 2.15 on."""
    if type(error) is RuntimeError and " must " in str(error):
        return ValueError(str(error))
    return MemoryError(str(error)) if type(error) is RuntimeError and str(error) == "std::bad_alloc" else error


# Under transforms of torch.func, within apply(): whether its caller has reverse and forward mode enabled.
_caller = threading.local()


@contextmanager
def modes_of_caller() -> Iterator[None]:
    """Within a Function, which has switched derivatives off: on again, for the next transform, if they were before."""
    if not torch._C._are_functorch_transforms_active():
        yield
        return
    grad_enabled, forward_grad_enabled = _caller.modes
    with torch.set_grad_enabled(grad_enabled), forward_ad._set_fwd_grad_enabled(forward_grad_enabled):
        yield


def forward_of_function(op: Callable[..., Any], *arguments: Any) -> Any:
    """below_autograd() within the forward of a Function."""
    if not torch._C._are_functorch_transforms_active():
        return below_autograd(op, *arguments)
    with modes_of_caller():
        return below_autograd(op, *arguments)


class RoIPoolFunction(Function):
    """roi_pool_with_argmax, differentiable in input."""

    @staticmethod
    def forward(
        input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
    ) -> tuple[Tensor, Tensor]:
        arguments = (input, rois, pooled_height, pooled_width, spatial_scale)
        output, argmax = forward_of_function(ops.roi_pool_with_argmax.default, *arguments)
        return output, argmax

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, rois, *_ = inputs
        _, argmax = output
        ctx.map_size = (input.shape[0], input.shape[2], input.shape[3])
        ctx.mark_non_differentiable(argmax)
        ctx.set_materialize_grads(False)  # of argmax, that would be a tensor of zeros in each backward
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return None, None, None, None, None
        grad_input = call(ops.roi_pool_backward.default, grad_output, *ctx.saved_tensors, *ctx.map_size)
        return grad_input, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        if input_tangent is None:
            return None, None
        with modes_of_caller():
            return ops.roi_pool_gather.default(input_tangent, *ctx.saved_tensors), None


class RoIPoolBackwardFunction(Function):
    """roi_pool_backward, differentiable in grad_output."""

    @staticmethod
    def forward(grad_output: Tensor, rois: Tensor, argmax: Tensor, batch_size: int, height: int, width: int) -> Tensor:
        grad_input: Tensor = forward_of_function(
            ops.roi_pool_backward.default, grad_output, rois, argmax, batch_size, height, width
        )
        return grad_input

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, rois, argmax, *ctx.map_size = inputs
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return call(ops.roi_pool_gather.default, grad, *ctx.saved_tensors), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_output_tangent: Tensor, *_: None) -> Tensor:
        with modes_of_caller():
            tangent: Tensor = ops.roi_pool_backward.default(grad_output_tangent, *ctx.saved_tensors, *ctx.map_size)
            return tangent


class RoIPoolGatherFunction(Function):
    """roi_pool_gather, differentiable in input."""

    @staticmethod
    def forward(input: Tensor, rois: Tensor, argmax: Tensor) -> Tensor:
        output: Tensor = forward_of_function(ops.roi_pool_gather.default, input, rois, argmax)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        input, rois, argmax = inputs
        ctx.map_size = (input.shape[0], input.shape[2], input.shape[3])
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_input = call(ops.roi_pool_backward.default, grad_output, *ctx.saved_tensors, *ctx.map_size)
        return grad_input, None, None

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, *_: None) -> Tensor:
        with modes_of_caller():
            tangent: Tensor = ops.roi_pool_gather.default(input_tangent, *ctx.saved_tensors)
            return tangent


# ---- The same for a feature pyramid. A Function sees only the tensors that are arguments of their own, so the maps
# come last, one by one.

MapSizes = tuple[int, list[int], list[int]]  # N, and H and W of each level


def map_sizes(inputs: Sequence[Tensor]) -> MapSizes:
    return inputs[0].shape[0], [map.shape[2] for map in inputs], [map.shape[3] for map in inputs]


class MultiScaleRoIPoolFunction(Function):
    """multiscale_roi_pool_with_argmax, differentiable in inputs."""

    @staticmethod
    def forward(
        rois: Tensor,
        pooled_height: int,
        pooled_width: int,
        spatial_scales: Sequence[float],
        canonical_scale: float,
        canonical_level: int,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        arguments = (list(inputs), rois, pooled_height, pooled_width, spatial_scales, canonical_scale, canonical_level)
        output, argmax = forward_of_function(ops.multiscale_roi_pool_with_argmax.default, *arguments)
        return output, argmax

    @staticmethod
    def setup_context(ctx: Any, arguments: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        rois, _, _, *ctx.pyramid = arguments[:6]
        _, argmax = output
        ctx.map_sizes = map_sizes(arguments[6:])
        ctx.mark_non_differentiable(argmax)
        ctx.set_materialize_grads(False)  # of argmax, that would be a tensor of zeros in each backward
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return (None,) * (6 + len(ctx.map_sizes[1]))
        grad_inputs = call(
            ops.multiscale_roi_pool_backward.default, grad_output, *ctx.saved_tensors, *ctx.map_sizes, *ctx.pyramid
        )
        return None, None, None, None, None, None, *grad_inputs

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, None]:
        input_tangents = materialize(tangents[6:], ctx.map_sizes)
        if input_tangents is None:
            return None, None
        with modes_of_caller():
            return ops.multiscale_roi_pool_gather.default(input_tangents, *ctx.saved_tensors, *ctx.pyramid), None


def materialize(tangents: Sequence[Tensor | None], sizes: MapSizes) -> list[Tensor] | None:
    """Zeros for the maps of a pyramid that have no tangent; None where none has."""
    given = next((tangent for tangent in tangents if tangent is not None), None)
    if given is None:
        return None
    batch_size, heights, widths = sizes
    return [
        given.new_zeros(batch_size, given.shape[1], height, width) if tangent is None else tangent
        for tangent, height, width in zip(tangents, heights, widths, strict=True)
    ]


class MultiScaleRoIPoolBackwardFunction(Function):
    """multiscale_roi_pool_backward, differentiable in grad_output."""

    @staticmethod
    def forward(grad_output: Tensor, rois: Tensor, argmax: Tensor, *sizes_and_pyramid: Any) -> tuple[Tensor, ...]:
        grad_inputs = forward_of_function(
            ops.multiscale_roi_pool_backward.default, grad_output, rois, argmax, *sizes_and_pyramid
        )
        return tuple(grad_inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, rois, argmax, *ctx.sizes_and_pyramid = inputs
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pyramid = ctx.sizes_and_pyramid[3:]
        grad = call(ops.multiscale_roi_pool_gather.default, list(grads), *ctx.saved_tensors, *pyramid)
        return grad, *(None,) * 8

    @staticmethod
    def jvp(ctx: Any, grad_output_tangent: Tensor, *_: None) -> tuple[Tensor, ...]:
        with modes_of_caller():
            return tuple(
                ops.multiscale_roi_pool_backward.default(
                    grad_output_tangent, *ctx.saved_tensors, *ctx.sizes_and_pyramid
                )
            )


class MultiScaleRoIPoolGatherFunction(Function):
    """multiscale_roi_pool_gather, differentiable in inputs."""

    @staticmethod
    def forward(
        rois: Tensor,
        argmax: Tensor,
        spatial_scales: Sequence[float],
        canonical_scale: float,
        canonical_level: int,
        *inputs: Tensor,
    ) -> Tensor:
        pyramid = (spatial_scales, canonical_scale, canonical_level)
        output: Tensor = forward_of_function(
            ops.multiscale_roi_pool_gather.default, list(inputs), rois, argmax, *pyramid
        )
        return output

    @staticmethod
    def setup_context(ctx: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
        rois, argmax, *ctx.pyramid = arguments[:5]
        ctx.map_sizes = map_sizes(arguments[5:])
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_inputs = call(
            ops.multiscale_roi_pool_backward.default, grad_output, *ctx.saved_tensors, *ctx.map_sizes, *ctx.pyramid
        )
        return None, None, None, None, None, *grad_inputs

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        input_tangents = materialize(tangents[5:], ctx.map_sizes)
        if input_tangents is None:
            return None
        with modes_of_caller():
            tangent: Tensor = ops.multiscale_roi_pool_gather.default(input_tangents, *ctx.saved_tensors, *ctx.pyramid)
            return tangent


@cache
def single_level(function: type[Function]) -> Any:
    """The same derivatives in the class that PyTorch itself makes for one level of transforms."""
    names = ["forward", "setup_context", "backward", "jvp"]
    return type(
        function.__name__, (_SingleLevelFunction,), {name: staticmethod(getattr(function, name)) for name in names}
    )


def apply(function: type[Function], *arguments: Any) -> Any:
    """Function.apply for what runs at the Autograd key.

    Under transforms of torch.func, Function.apply would hand the call to all levels of them. The dispatcher does that
    already, for operators: at each level it calls their kernel at the Autograd key, which has just this one to do.
    Without transforms, the apply above that of Function does all that there is to do, and faster.
    """
    if not torch._C._are_functorch_transforms_active():
        return super(Function, function).apply(*arguments)  # type: ignore[misc]
    before = getattr(_caller, "modes", None)
    _caller.modes = (torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled())
    try:
        with enable_single_level_autograd_function():
            return single_level(function).apply(*arguments)
    finally:
        _caller.modes = before


def call(op: Callable[..., Any], *arguments: Any) -> Any:
    """Calls an operator from a derivative; its native kernel at once, where no further derivative is taken."""
    if (
        torch.is_grad_enabled()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch.compiler.is_compiling()  # compiled autograd traces backward passes
    ):
        return op(*arguments)
    return below_autograd(op, *arguments)


def _is_differentiated(tensor: Tensor | None) -> bool:
    if tensor is None:  # which the native kernel refuses
        return False
    if torch.is_grad_enabled() and tensor.requires_grad:
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


# The kernels at the Autograd key. Where nothing is differentiated they go straight to the native kernel, so that
# roi_pool writes no argmax and nothing is saved.


def roi_pool(input: Tensor, *arguments: Any) -> Tensor:
    if _is_differentiated(input):
        return apply(RoIPoolFunction, input, *arguments)[0]
    output: Tensor = below_autograd(ops.roi_pool.default, input, *arguments)
    return output


def refuse_derivatives(*arguments: Any) -> None:
    """What PyTorch says of functions with out=."""
    if any(isinstance(argument, Tensor) and _is_differentiated(argument) for argument in arguments):
        raise RuntimeError(
            "roi_pool(): functions with out=... arguments don't support automatic differentiation, "
            "but one of the arguments requires grad."
        )


def roi_pool_out(*arguments: Any, out: Tensor) -> Tensor:
    if out is None:
        raise TypeError("out must be a torch.Tensor, got None")
    refuse_derivatives(*arguments, out)
    with torch._C._AutoDispatchBelowAutograd():  # which leaves the kernel below in
        ops.roi_pool.out(*arguments, out=out)
    return out


def roi_pool_out_in_place(*arguments: Any, out: Tensor) -> Tensor:
    """At the ADInplaceOrView key, which inference mode does not switch off: what is overwritten gets a new version."""
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. "
            "You can make a clone to get a normal tensor before doing inplace update."
        )
    in_place = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
    with torch._C._ExcludeDispatchKeyGuard(in_place):
        try:
            ops.roi_pool.out(*arguments, out=out)
        except RuntimeError as error:
            raise as_raised(error) from None
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)
    return out


def roi_pool_with_argmax(input: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    if _is_differentiated(input):
        output, argmax = apply(RoIPoolFunction, input, *arguments)
    else:
        output, argmax = below_autograd(ops.roi_pool_with_argmax.default, input, *arguments)
    return output, argmax


def roi_pool_backward(grad_output: Tensor, *arguments: Any) -> Tensor:
    return apply(RoIPoolBackwardFunction, grad_output, *arguments)


def roi_pool_gather(input: Tensor, *arguments: Any) -> Tensor:
    return apply(RoIPoolGatherFunction, input, *arguments)


def multiscale_roi_pool(inputs: Sequence[Tensor], rois: Tensor, *arguments: Any) -> Tensor:
    if any(_is_differentiated(input) for input in inputs):
        return apply(MultiScaleRoIPoolFunction, rois, *arguments, *inputs)[0]
    output: Tensor = below_autograd(ops.multiscale_roi_pool.default, inputs, rois, *arguments)
    return output


def multiscale_roi_pool_with_argmax(inputs: Sequence[Tensor], rois: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    if any(_is_differentiated(input) for input in inputs):
        output, argmax = apply(MultiScaleRoIPoolFunction, rois, *arguments, *inputs)
    else:
        output, argmax = below_autograd(ops.multiscale_roi_pool_with_argmax.default, inputs, rois, *arguments)
    return output, argmax


def multiscale_roi_pool_backward(grad_output: Tensor, *arguments: Any) -> list[Tensor]:
    return list(apply(MultiScaleRoIPoolBackwardFunction, grad_output, *arguments))


def multiscale_roi_pool_gather(inputs: Sequence[Tensor], *arguments: Any) -> Tensor:
    return apply(MultiScaleRoIPoolGatherFunction, *arguments, *inputs)
