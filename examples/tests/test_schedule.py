"""The learning rate of the training examples, for any number of steps."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def rates(monkeypatch):
    """Returns the learning rate of each of so many steps."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    one_cycle = importlib.import_module("schedule").one_cycle

    def rates(steps: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        schedule = one_cycle(optimizer, 1.0, steps)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    return rates


@pytest.mark.parametrize("steps", range(1, 31))
def test_every_number_of_steps_has_rates_up_to_the_peak(rates, steps):
    assert all(0 < rate <= 1 for rate in rates(steps))


@pytest.mark.parametrize("steps", [10, 20, 100])
def test_rates_rise_to_the_peak_and_fall(rates, steps):
    found = rates(steps)
    peak = found.index(max(found))
    assert max(found) == pytest.approx(1)
    assert peak == max(2, steps // 10) - 1
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 1e-3
