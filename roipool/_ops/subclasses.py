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
    check_box_formats(boxes)
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
    check_box_formats(boxes)

    def view(tensor: Tensor) -> Tensor:
        return tensor if type(tensor) is Tensor else tensor[...]

    return map_tensors(view, maps), map_tensors(view, boxes)


def find_subclasses(tensors: Any) -> set[type]:
    """Returns the classes derived from Tensor of the tensors in nested lists."""
    if isinstance(tensors, (list, tuple)):
        return set().union(*map(find_subclasses, tensors))
    return {type(tensors)} - {Tensor} if isinstance(tensors, Tensor) else set()


def map_tensors(function: Callable[[Tensor], Tensor], values: Any) -> Any:
    """Calls a function on the tensors in nested lists, and leaves what is no tensor as it is."""
    if isinstance(values, (list, tuple)):
        return [map_tensors(function, value) for value in values]
    return function(values) if isinstance(values, Tensor) else values


def unwrap(values: Any) -> Any:
    """Returns the tensors in nested lists as plain ones."""
    return map_tensors(lambda tensor: tensor.as_subclass(Tensor), values)


def check_box_formats(boxes: Any) -> None:
    is_list = isinstance(boxes, (list, tuple))
    for i, part in enumerate(boxes if is_list else [boxes]):
        if isinstance(part, Tensor):  # and no proxy of torch.fx, which has any attribute
            check_box_format(part, f"boxes[{i}]" if is_list else "boxes")


def check_box_format(boxes: Tensor, name: str) -> None:
    """Refuses boxes that say of themselves that they are no corners, as torchvision's BoundingBoxes may."""
    box_format = getattr(boxes, "format", None)
    box_format = getattr(box_format, "name", box_format)  # of an enumeration
    if isinstance(box_format, str) and box_format.upper() != "XYXY":
        raise ValueError(
            f"{name} must hold corners, rows [x1, y1, x2, y2] (format XYXY), got {type(boxes).__name__} of format "
            f"{box_format}: torchvision.transforms.v2.functional.convert_bounding_box_format converts XYWH and CXCYWH"
        )
