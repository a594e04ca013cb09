"""Bugs in the reference, which are found by what was made elsewhere, or by hand."""

from bugs.bug import GOLDEN, LEVELS, REFERENCE, REFERENCE_PY, Bug

BUGS = [
    # ---- The reference: found by what was made elsewhere, or by hand.
    Bug(
        "reference: halves are rounded down",
        REFERENCE_PY,
        "(values - whole).abs() >= 0.5",
        "(values - whole).abs() > 0.5",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: the first NaN",
        REFERENCE_PY,
        "values.shape[-1] - 1 - values.isnan().int().flip(-1).argmax(-1)",
        "values.isnan().int().argmax(-1)",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: bins in float64",
        REFERENCE_PY,
        "(size.to(first.dtype) / torch.tensor(num_bins, dtype=first.dtype))",
        "(size.double() / num_bins)",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: the scale in float64",
        REFERENCE_PY,
        "scale = torch.tensor(spatial_scale, dtype=first.dtype)",
        "first, last, scale = first.double(), last.double(), spatial_scale",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: clamped to 2^31",
        REFERENCE_PY,
        "start = _round((first * scale).clamp(-(2.0**29), 2.0**29))",
        "start = _round((first * scale).clamp(-(2.0**31), 2.0**31))",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: an infinite coordinate is clamped",
        REFERENCE_PY,
        " & rois.isfinite().all(1)",
        "",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: batch indices are rounded down",
        REFERENCE_PY,
        "batch_index = rois[:, 0].trunc()",
        "batch_index = rois[:, 0].floor()",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: integer boxes as they are",
        REFERENCE_PY,
        "convert_boxes_to_rois(boxes, input)\n    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))",
        "convert_boxes_to_rois(boxes, input)\n    rois = rois.to(torch.promote_types(rois.dtype, torch.float16))",
        (REFERENCE, GOLDEN),
    ),
    Bug("reference: bounds without 1e-6", REFERENCE_PY, ".log2() + 1e-6)", ".log2())", LEVELS),
    Bug(
        "reference: no area is the largest",
        REFERENCE_PY,
        "nan_to_num(nan=0)",
        "nan_to_num(nan=8)",
        LEVELS,
    ),
    Bug(
        "reference: levels in half precision",
        REFERENCE_PY,
        "    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))\n",
        "",
        (REFERENCE,),
    ),
    Bug(
        "reference: sums in the dtype of the gradients",
        REFERENCE_PY,
        "sums_dtype = torch.promote_types(grad_output.dtype, torch.float32)",
        "sums_dtype = grad_output.dtype",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: columns before rows",
        REFERENCE_PY,
        "        for p in range(argmax.shape[2]):\n            for q in range(argmax.shape[3]):",
        "        for q in range(argmax.shape[3]):\n            for p in range(argmax.shape[2]):",
        (REFERENCE, GOLDEN),
    ),
]
