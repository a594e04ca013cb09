"""Hands calls to the subclasses of Tensor among the arguments, and to the proxies of torch.fx."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function

from roipool._ops.torch_private import was_declined


def call_subclasses(
    function: Callable[..., Any], tensors: tuple[Any, ...], maps: Any, boxes: Any, *others: Any, **keywords: Any
) -> Any:
    """Calls function(maps, boxes, *others, **keywords) by way of the classes of its tensors.

    Classes that do not know each other decline a call that has both, as torchvision's Image and BoundingBoxes do. The
    boxes are then taken out of theirs: it is the maps whose class may matter to the result. Where maps, or a map and
    out, are of such classes, they are taken out of them as well, and the result is a plain tensor.
    """
    for name, image_boxes in name_boxes(boxes):
        check_box_format(image_boxes, name)
    try:
        return handle_torch_function(function, tensors, maps, boxes, *others, **keywords)
    except TypeError as error:
        if not was_declined(error, function):
            raise
        if not find_subclasses(boxes) and len(find_subclasses([maps, keywords.get("out")])) < 2:
            raise
    if find_subclasses(boxes):
        return function(maps, unwrap(boxes), *others, **keywords)
    result = function(unwrap(maps), boxes, *others, **{name: unwrap(value) for name, value in keywords.items()})
    return result if keywords.get("out") is None else keywords["out"]


def view_for_compiler(maps: Any, boxes: Any) -> tuple[Any, Any]:
    """Returns maps and boxes as torch.compile can trace them, since it cannot follow the call to their classes.

    A view of one of torchvision's images or boxes is a plain tensor. Other classes keep theirs, which sees the call of
    the operator.
    """
    for name, image_boxes in name_boxes(boxes):
        check_box_format(image_boxes, name)
    return view_subclasses(maps), view_subclasses(boxes)


def view_subclasses(tensors: Any) -> Any:
    if isinstance(tensors, (list, tuple)):
        return [view_subclasses(tensor) for tensor in tensors]
    return tensors[...] if isinstance(tensors, Tensor) and type(tensors) is not Tensor else tensors


def find_subclasses(tensors: Any) -> set[type]:
    """Returns the classes derived from Tensor of the tensors in nested lists."""
    if isinstance(tensors, (list, tuple)):
        return set().union(*map(find_subclasses, tensors))
    return {type(tensors)} - {Tensor} if isinstance(tensors, Tensor) else set()


def unwrap(tensors: Any) -> Any:
    """Returns the tensors in nested lists as plain ones, and what is no tensor as it is."""
    if isinstance(tensors, (list, tuple)):
        return [unwrap(tensor) for tensor in tensors]
    return tensors.as_subclass(Tensor) if isinstance(tensors, Tensor) else tensors


def name_boxes(boxes: Any) -> list[tuple[str, Tensor]]:
    """Returns the tensors among boxes, with their names."""
    if isinstance(boxes, (list, tuple)):
        return [(f"boxes[{i}]", part) for i, part in enumerate(boxes) if isinstance(part, Tensor)]
    return [("boxes", boxes)] if isinstance(boxes, Tensor) else []


def check_box_format(boxes: Tensor, name: str) -> None:
    """Refuses boxes that say of themselves that they are no corners, as torchvision's BoundingBoxes may."""
    box_format = getattr(boxes, "format", None)
    box_format = getattr(box_format, "name", box_format)  # of an enumeration
    if isinstance(box_format, str) and box_format.upper() != "XYXY":
        raise ValueError(
            f"{name} must hold corners, rows [x1, y1, x2, y2] (format XYXY), got {type(boxes).__name__} of format "
            f"{box_format}: torchvision.transforms.v2.functional.convert_bounding_box_format converts XYWH and CXCYWH"
        )
