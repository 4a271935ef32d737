"""Networks: what initial values are set in them."""

import pytest
import torch
from torch import nn

from pyro_aevb.nn import MLP


def test_initial_values_are_of_linear_layers_alone():
    """An activation's own parameter, PReLU's slope, is called weight too."""
    torch.manual_seed(0)
    network = MLP(200, 3, [300], "prelu", initial_sd=0.1)
    first, activation, last = network
    assert first.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert last.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert not first.bias.any()
    assert not last.bias.any()
    assert torch.equal(activation.weight, nn.PReLU().weight)
