"""Networks, and nothing probabilistic: the multi-layer perceptrons of Appendix C."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules import activation as activations

from pyro_aevb.errors import InputError

__all__ = ["MLP"]

Network = Callable[[int, int], nn.Module]
"""What ``network=`` takes: ``(in_dim, out_dim) -> nn.Module``."""

Activation = str | Callable[[], nn.Module]
"""A name in ``torch.nn``, in any case (``"tanh"``, ``"LeakyReLU"``), or a callable that makes a module."""


class MLP(nn.Sequential):
    r"""Multi-layer perceptron, as in Appendix C with one hidden layer:
    :math:`W_2 \tanh(W_1 \cdot + b_1) + b_2`.

    Arguments:
        in_dim: Size of the input's last dimension.
        out_dim: Size of the output's last dimension; leading dimensions pass through.
        hidden: Units of the hidden layers, a number for one layer; an empty list for a linear map.
        activation: Name of an activation in ``torch.nn`` (``tanh``, ``relu``, ``softplus``, ...), or what makes one.
        initial_sd: Standard deviation of normal initial weights, biases zero; ``None`` for PyTorch's own.

    Raises:
        InputError: If a size is not positive or the activation is unknown.

    References:
        | Auto-Encoding Variational Bayes, Appendix C (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        initial_sd: float | None = None,
    ) -> None:
        sizes = [in_dim, *([hidden] if isinstance(hidden, int) else hidden), out_dim]
        if min(sizes) < 1:
            raise InputError(f"every layer needs at least one unit, these sizes were given: {sizes}")
        make = find_activation(activation)
        try:
            layers = [[nn.Linear(a, b), make()] for a, b in pairwise(sizes)]
        except TypeError as error:
            raise InputError(f"activation {activation!r} cannot be made without arguments: {error}") from error
        super().__init__(*[part for layer in layers for part in layer][:-1])
        if initial_sd is not None:
            _set_initial_values(self, initial_sd)


def make_network(
    in_dim: int, out_dim: int, hidden: int | Sequence[int], activation: Activation, network: Network | None
) -> nn.Module:
    """The network of a part: ``network`` where one is given, else the default :class:`MLP`."""
    return MLP(in_dim, out_dim, hidden, activation) if network is None else network(in_dim, out_dim)


def find_activation(activation: Activation) -> Callable[[], nn.Module]:
    """What makes an activation: itself if callable, else the class of that name in ``torch.nn``.

    >>> find_activation("leakyrelu").__name__
    'LeakyReLU'
    """
    if not isinstance(activation, str):
        return activation
    known = {name.lower(): name for name in activations.__all__}
    if activation.lower() not in known:
        raise InputError(
            f"unknown activation {activation!r}: give a name from torch.nn, such as tanh, relu or softplus"
        )
    return getattr(activations, known[activation.lower()])


@torch.no_grad()
def _set_initial_values(network: nn.Module, sd: float) -> None:
    for name, parameter in network.named_parameters():
        parameter.normal_(0, sd) if name.endswith("weight") else parameter.zero_()
