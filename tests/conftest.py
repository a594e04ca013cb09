import hypothesis
import pytest
import torch

# The machine may be slow and shared, and the same examples in every run make a failure one that anyone can repeat.
hypothesis.settings.register_profile("roipool", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("roipool")


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
