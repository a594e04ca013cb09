import hypothesis
import pytest
import torch

# The machine may be slow and shared, and the same examples in every run make a failure one that anyone can repeat.
hypothesis.settings.register_profile("roipool", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("roipool")


@pytest.fixture
def set_num_threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
