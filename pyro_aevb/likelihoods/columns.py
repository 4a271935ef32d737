"""A likelihood of tables: each column by its kind."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.distributions.columns import ByColumn, Group
from pyro_aevb.errors import InputError, instance, told
from pyro_aevb.likelihoods.base import Likelihood
from pyro_aevb.likelihoods.binary import Bernoulli
from pyro_aevb.likelihoods.discrete import Categorical, NegativeBinomial
from pyro_aevb.likelihoods.real import Gaussian
from pyro_aevb.nn import Activation, Network

__all__ = ["Columns"]

Kind = str | Callable[..., Likelihood]

KINDS: dict[str, Callable[..., Likelihood]] = {
    "real": partial(Gaussian, scale="pixel"),
    "count": NegativeBinomial,
    "binary": Bernoulli,
}


class Columns(Likelihood):
    r"""Tables: real numbers, counts, yes or no, and categories, each column by a likelihood of its kind.

    .. math:: p(x \mid z) = \prod_{d\ \text{real}} \mathcal{N}(x_d; m_d + s_d \mu_d(z), s_d^2 \sigma_d^2)
              \prod_{d\ \text{count}} \mathrm{NB}(x_d) \prod_{d\ \text{binary}} \mathrm{Bernoulli}(x_d)
              \prod_{d\ \text{category}} \mathrm{softmax}_{x_d} f(z)_d

    Columns of one kind share a network. The mean and standard deviation of a real column, m and s, and the mean of a
    column of counts are the networks' units: :meth:`start_from` finds them in the training data, and the density is
    that of the numbers as they stand in the table.

    Oracle: ``scipy.stats``, column by column.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of columns D.
        kinds: Kind of each column, in a list or one text with commas, or one for all: ``real``; ``count``, whole
            numbers from 0 on; ``binary``, 0 or 1; ``category:C``, whole numbers 0, ..., C - 1; or, in Python, what
            makes a likelihood of ``(latent_dim, data_dim)``, with independent columns.
        hidden: Number of units in each hidden layer of the default networks: a list, or a number for one layer.
        activation: Activation of the default networks, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network of each kind, in place of the
            default ``MLP``.

    Raises:
        InputError: If there is not one kind for each column, or one is unknown.

    References:
        | Handling incomplete heterogeneous data using VAEs (Nazabal et al., 2020)
        | https://arxiv.org/abs/1807.03653
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        kinds: Kind | Sequence[Kind] = "real",
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.kinds = _one_for_each(kinds, data_dim)
        self.parts = nn.ModuleList()
        for i, (kind, columns) in enumerate(_grouped(self.kinds).items()):
            self.register_buffer(f"columns{i}", torch.tensor(columns))
            self.parts.append(_part(kind, latent_dim, len(columns), hidden, activation, network))
        self.takes_exposure = any(getattr(part, "takes_exposure", False) for part in self.parts)
        self.register_buffer("loc", torch.zeros(data_dim))
        self.register_buffer("scale", torch.tensor([max(_classes(kind) - 1.0, 1.0) for kind in self.kinds]))

    def forward(self, z: Tensor, exposure: Tensor | float = 1.0) -> TorchDistributionMixin:
        """Each column's distribution, side by side; ``exposure`` multiplies the mean of counts."""
        return ByColumn([self._group(i, part, z, exposure) for i, part in enumerate(self.parts)]).to_event(1)

    def start_from(self, x: Tensor, names: Sequence[str] = ()) -> None:
        """Take mean and standard deviation of real columns, and the mean of counts, for the units of the networks.

        Arguments:
            x: Training data, ``(N, D)``, NaN where a value is missing.
            names: Names of the D columns, for messages; by default their numbers.

        Raises:
            InputError: If a column has one value alone, or none.
        """
        for column, kind in enumerate(self.kinds):
            values = x[:, column].double()
            values = values[~values.isnan()]
            if len(values) == 0 or bool((values == values[0]).all()):
                found = "no value" if len(values) == 0 else f"one value, {values[0]:g}, in all rows"
                called = repr(names[column]) if names else column
                raise InputError(f"column {called} has {found}: it says nothing, leave it out")
            if kind == "real":
                self.loc[column] = values.mean()
                self.scale[column] = values.std()
            elif kind == "count":
                self.scale[column] = values.mean()

    def inputs(self) -> nn.Module:
        """Real numbers in their units, logarithms of counts, categories one-hot: what a guide's network sees."""
        return _ColumnInputs(self)

    def _group(self, i: int, part: nn.Module, z: Tensor, exposure: Tensor | float) -> Group:
        columns: Tensor = getattr(self, f"columns{i}")
        loc = self.loc.index_select(0, columns)
        scale = self.scale.index_select(0, columns)
        if not getattr(part, "takes_exposure", False):
            made: Any = part(z)
        else:
            made = part(z, exposure * scale)
            scale = torch.ones_like(scale)  # the units are in the counts' means
        return Group(columns, _single(made), loc, scale)


class _ColumnInputs(nn.Module):
    """The columns of a table as numbers near one, for networks.

    Arguments:
        likelihood: The likelihood of the table, whose units are taken.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, likelihood: Columns) -> None:
        super().__init__()
        self.kinds = likelihood.kinds
        self.register_buffer("loc", likelihood.loc.clone())
        self.register_buffer("scale", likelihood.scale.clone())

    @property
    def out_dim(self) -> int:
        """How many numbers a row becomes."""
        return sum(_classes(kind) or 1 for kind in self.kinds)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D')``; NaN stays NaN, but of a category it becomes zeros."""
        return torch.cat([self._one(kind, x[..., i], i) for i, kind in enumerate(self.kinds)], dim=-1)

    def _one(self, kind: Kind, value: Tensor, column: int) -> Tensor:
        if classes := _classes(kind):
            each = torch.arange(classes, device=value.device)
            return (value.unsqueeze(-1) == each).to(value.dtype)  # (..., C)
        if kind == "count":
            return torch.log1p(value / self.scale[column]).unsqueeze(-1)
        return ((value - self.loc[column]) / self.scale[column]).unsqueeze(-1)


def _classes(kind: Kind) -> int:
    """The number of classes of a category; 0 for other kinds."""
    return int(kind.removeprefix("category:")) if isinstance(kind, str) and kind.startswith("category:") else 0


def _one_for_each(kinds: Kind | Sequence[Kind], data_dim: int) -> list[Kind]:
    listed: Any = [kind.strip() for kind in kinds.split(",")] if isinstance(kinds, str) and "," in kinds else kinds
    if not isinstance(listed, str | Sequence) and not callable(listed):
        raise InputError(f"kinds must be names, or what makes likelihoods, not {told(listed)}")
    given: list[Any] = [listed] * data_dim if isinstance(listed, str) or callable(listed) else list(listed)
    if len(given) != data_dim:
        raise InputError(f"kinds must be one for each of the {data_dim} columns, or one for all, not {len(given)}")
    for kind in given:
        known = callable(kind) or kind in KINDS
        counted = isinstance(kind, str) and kind.startswith("category:") and kind[len("category:") :].isdecimal()
        if not known and not (counted and 2 <= _classes(kind) <= 10_000):
            raise InputError(f"kinds has {told(kind)}: give real, count, binary, or category:C with C at least 2")
    return given


def _grouped(kinds: Sequence[Kind]) -> dict[Kind, list[int]]:
    """The columns of each kind, kinds in the order of their first column."""
    groups: dict[Kind, list[int]] = {}
    for column, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(column)
    return groups


def _part(
    kind: Kind,
    latent_dim: int,
    data_dim: int,
    hidden: int | Sequence[int],
    activation: Activation,
    network: Network | None,
) -> Likelihood:
    """The likelihood of the columns of one kind."""
    if callable(kind):
        return instance("what kinds makes", kind(latent_dim, data_dim), Likelihood)
    make = partial(Categorical, steps=_classes(kind) - 1) if _classes(kind) else KINDS[kind]
    return make(latent_dim, data_dim, hidden=hidden, activation=activation, network=network)


def _single(made: Any) -> Any:
    """The distribution of single numbers, of one over vectors."""
    if isinstance(made, torch.distributions.Independent) and made.reinterpreted_batch_ndims == 1:
        return made.base_dist
    raise InputError(f"a part of Columns must have independent columns, and a {type(made).__name__} does not say so")
