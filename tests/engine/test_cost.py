"""The cost of a training, counted and not computed."""

import copy

import pytest
import torch
from torch import nn

from mae.engine.cost import peak_memory, training_flops


class Toy(nn.Module):
    """A linear layer of 8 x 4 on (N, 8), behind a batch norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, images, noise=None):
        return {"loss": self.layer(self.norm(images)).sum()}


def test_a_layer_costs_two_operations_a_weight_forward_and_twice_that_backward():
    # Backward: by the weights and, since the norm before it learns too, by the inputs.
    assert training_flops(Toy(), torch.zeros(5, 8)) == 3 * 2 * 8 * 4


def test_counting_changes_nothing():
    toy = Toy()
    before, generator = copy.deepcopy(toy.state_dict()), torch.get_rng_state()
    training_flops(toy, torch.zeros(5, 8), torch.zeros(5))
    torch.testing.assert_close(toy.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(torch.get_rng_state(), generator, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_several_ranks_count_without_asking_each_other():
    toy = nn.SyncBatchNorm.convert_sync_batchnorm(Toy())
    assert training_flops(toy, torch.zeros(5, 8)) == 3 * 2 * 8 * 4


def test_memory_is_counted_in_bytes():
    taken = peak_memory(torch.device("cpu"))
    assert 50e6 < taken < 1e12, "a process that imported torch"


@pytest.mark.gpu
def test_memory_of_a_gpu_is_that_of_its_tensors():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    device = torch.device("cuda")
    before = peak_memory(device)
    held = torch.zeros(before // 4 + 1_000_000, device=device)
    assert peak_memory(device) >= held.numel() * 4
