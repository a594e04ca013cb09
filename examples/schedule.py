"""The learning rate of the training examples."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


def one_cycle(optimizer: Optimizer, peak: float, steps: int) -> OneCycleLR:
    """Raises the learning rate to its peak in a tenth of the steps, then lowers it to nearly zero.

    The rise takes two steps at least: OneCycleLR divides by the steps from its first to its peak, and by those from the
    peak to its last.
    """
    return OneCycleLR(optimizer, peak, total_steps=steps, pct_start=min(0.6, max(0.1, 2 / steps)))
