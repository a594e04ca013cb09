"""Bugs in derivatives and batching rules."""

from bugs.bug import AUTOGRAD, COMPILE, DERIVATIVES, FUNC, FUNCTIONS, MULTISCALE_AUTOGRAD, OUT, VMAP, Bug

BUGS = [
    # ---- Derivatives.
    Bug(
        "no second derivatives",
        FUNCTIONS,
        "        torch.is_grad_enabled()\n        or forward_ad",
        "        forward_ad",
        DERIVATIVES,
    ),
    Bug(
        "no tangents of a gradient",
        FUNCTIONS,
        "        or forward_ad._current_level >= 0\n",
        "",
        (f"{AUTOGRAD}::test_tangent_of_a_gradient_by_hand", *DERIVATIVES),
    ),
    Bug(
        "compiled autograd is not traced",
        FUNCTIONS,
        "        or torch.compiler.is_compiling()  # compiled autograd traces backward passes\n",
        "",
        (f"{COMPILE}::test_compiled_autograd", *DERIVATIVES),
    ),
    Bug(
        "no tangents",
        FUNCTIONS,
        "return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None",
        "return False",
        DERIVATIVES,
    ),
    Bug(
        "no gradients under no_grad",
        FUNCTIONS,
        "if torch.is_grad_enabled() and tensor.requires_grad:",
        "if tensor.requires_grad:",
        DERIVATIVES,
    ),
    Bug(
        "a missing tangent is the first map's",
        FUNCTIONS,
        "given.new_zeros(batch_size, given.shape[1], height, width) if tangent is None else tangent",
        "given.new_ones(batch_size, given.shape[1], height, width) if tangent is None else tangent",
        (f"{MULTISCALE_AUTOGRAD}::test_forward_mode_takes_maps_without_a_tangent_as_constant",),
    ),
    Bug(
        "only the first map has derivatives",
        FUNCTIONS,
        "    if any(_is_differentiated(input) for input in inputs):\n        return apply",
        "    if _is_differentiated(inputs[0]):\n        return apply",
        (f"{MULTISCALE_AUTOGRAD}::test_maps_that_need_no_gradient_get_none",),
    ),
    Bug(
        "only the first map has derivatives, beside argmax",
        FUNCTIONS,
        "    if any(_is_differentiated(input) for input in inputs):\n        output, argmax = apply",
        "    if _is_differentiated(inputs[0]):\n        output, argmax = apply",
        (f"{MULTISCALE_AUTOGRAD}::test_maps_that_need_no_gradient_get_none",),
    ),
    Bug(
        "a gradient of None",
        FUNCTIONS,
        "        if grad_output is None:\n            return None, None, None, None, None\n",
        "",
        (f"{MULTISCALE_AUTOGRAD}::test_no_gradient_comes_of_none",),
    ),
    Bug(
        "a gradient of None for a pyramid",
        FUNCTIONS,
        "return (None,) * (6 + len(ctx.map_sizes[1]))",
        "return (None,) * 7",
        (f"{MULTISCALE_AUTOGRAD}::test_no_gradient_comes_of_none",),
    ),
    Bug(
        "the modes of the caller are forgotten",
        FUNCTIONS,
        "with torch.set_grad_enabled(grad_enabled), forward_ad._set_fwd_grad_enabled(forward_grad_enabled):",
        "with torch.set_grad_enabled(True), forward_ad._set_fwd_grad_enabled(True):",
        DERIVATIVES,
    ),
    Bug(
        "the modes of an outer caller are lost",
        FUNCTIONS,
        "        _caller.modes = before\n",
        "        _caller.modes = (True, True)\n",
        DERIVATIVES,
    ),
    Bug(
        "an out that requires a gradient",
        FUNCTIONS,
        "refuse_derivatives(*arguments, out)\n    with torch._C._Auto",
        "refuse_derivatives(*arguments)\n    with torch._C._Auto",
        (OUT,),
    ),
    Bug(
        "inference tensors are written to",
        FUNCTIONS,
        "if out.is_inference() and not torch.is_inference_mode_enabled():",
        "if False:",
        (OUT,),
    ),
    # ---- Batching rules.
    Bug("an image of the next problem", VMAP, "(index >= 0) & (index < num_images)", "index >= 0", (FUNC,)),
    Bug(
        "half an image before the first",
        VMAP,
        "index = rois[..., 0].trunc()",
        "index = rois[..., 0]",
        (FUNC,),
    ),
    Bug(
        "images numbered in half precision",
        VMAP,
        "rois.to(torch.promote_types(rois.dtype, torch.float32))",
        "rois + torch.zeros(1, dtype=rois.dtype, device=rois.device)",
        (FUNC,),
    ),
    Bug("more images than float32 can number", VMAP, "> 2**24 and", "> 2**25 and", (FUNC,)),
    Bug(
        "the first map decides for all",
        VMAP,
        "all(dim is None for dim in inputs_dims)",
        "inputs_dims[0] is None",
        (f"{MULTISCALE_AUTOGRAD}::test_vmap",),
    ),
    Bug(
        "an argmax that is not mapped",
        VMAP,
        "    output = ops.roi_pool_gather.default(*folded, fold(argmax, in_dims[2], problems))",
        "    output = ops.roi_pool_gather.default(*folded, argmax.flatten(0, -4) if in_dims[2] == 0 else "
        "argmax.repeat_interleave(problems, 0))",
        (FUNC,),
    ),
]
