"""Numbers of different kinds side by side: the distribution of a table's row, column by column."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.distributions.missing import inside
from pyro_aevb.distributions.pixels import GridCategorical
from pyro_aevb.torch_internals import checked, validates

__all__ = ["ByColumn", "EachColumns", "Group"]


class Group(NamedTuple):
    """Columns of one kind and their distribution, in units of their own."""

    columns: Tensor
    """Which columns, whole numbers, ``(D_g,)``"""
    distribution: TorchDistributionMixin
    """Distribution of the numbers in units of their own, batch shape ``(..., D_g)``, event shape ``()``"""
    loc: Tensor
    """Value of each column that is zero in these units, ``(D_g,)``"""
    scale: Tensor
    """Length of a unit, ``(D_g,)``"""

    def of(self, row: Tensor) -> Tensor:
        """These columns of a table's rows, ``(..., D_g)``."""
        return row.index_select(-1, self.columns)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the columns' values as they stand in the table, in nats, ``(..., D_g)``."""
        made: Any = self.distribution
        log_prob = made.log_prob(self.in_units(value))
        return log_prob if made.support.is_discrete else log_prob - self.scale.log()

    def in_units(self, value: Tensor) -> Tensor:
        """A table's numbers in the columns' units, ``(..., D_g)``."""
        return (value - self.loc) / self.scale

    def out_of_units(self, value: Tensor) -> Tensor:
        """The other way round, ``(..., D_g)``; a category is rounded, which k / steps * steps is not always."""
        found = self.loc + self.scale * value
        return found.round() if self.is_category() else found

    def expectations(self) -> Tensor:
        """The means, ``(..., D_g)``; of categories, which have none, all classes' probabilities, ``(..., D_g C)``."""
        made: Any = self.distribution
        return made.logits.exp().flatten(-2) if self.is_category() else self.out_of_units(made.mean)

    def centre(self, expectations: Tensor) -> Tensor:
        """Values of the columns from such numbers: the means, or the most probable categories, ``(..., D_g)``."""
        if not self.is_category():
            return expectations
        made: Any = self.distribution
        return self.out_of_units(expectations.unflatten(-1, (-1, made.steps + 1)).argmax(-1) / made.steps)

    def is_category(self) -> bool:
        """Whether the columns are categories, which have no mean."""
        return isinstance(self.distribution, GridCategorical)

    def variance(self) -> Tensor:
        """The variance; of categories the probability that it is not the most probable one: ``(..., D_g)``."""
        made: Any = self.distribution
        if self.is_category():
            return 1 - made.logits.exp().amax(-1)
        return self.scale**2 * made.variance


class EachColumns(constraints.Constraint):
    """Each number in its own column's set."""

    def __init__(self, groups: Sequence[Group], together: Callable[[list[Tensor]], Tensor]) -> None:
        self.groups = groups
        self.together = together
        self.is_discrete = all(_support(group).is_discrete for group in groups)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each number lies in the support of its column."""
        found = [_support(group).check(group.in_units(group.of(value))) for group in self.groups]
        return self.together(found)

    def inside(self, like: Tensor) -> Tensor:
        """A number of each column that has a density, in the shape of others."""
        found = [group.out_of_units(inside(_support(group), group.of(like))) for group in self.groups]
        return self.together(found)

    def each(self) -> list[tuple[list[int], Any]]:
        """The columns of each group, and the set that their numbers lie in, in the table's own units."""
        found = ((group.columns.tolist(), _support(group), group) for group in self.groups)
        return [(columns, _of_classes(group) if group.is_category() else one) for columns, one, group in found]

    def __repr__(self) -> str:
        return "; ".join(f"columns {', '.join(map(str, columns))} in {one}" for columns, one in self.each())


def _of_classes(group: Group) -> Any:
    """The numbers of a category's classes."""
    made: Any = group.distribution
    return constraints.integer_interval(0, made.steps)


class ByColumn(dist.TorchDistribution):
    r"""Independent numbers, each column's from the distribution of its group.

    .. math:: \log p(x_d) = \log p_g\Big(\frac{x_d - m_d}{s_d}\Big) - [g \text{ continuous}] \log s_d, \quad d \in g

    Batch shape ``(..., D)``, event shape ``()``: end it in ``.to_event(1)``.

    Oracle: ``scipy.stats``, column by column.

    Arguments:
        groups: The groups, which have each column once.
        validate_args: Whether values whose density is asked for are checked; ``None`` for torch's default, which
            Pyro's ``enable_validation`` sets.
    """

    arg_constraints = {}  # noqa: RUF012  # as torch writes it

    def __init__(self, groups: Sequence[Group], validate_args: bool | None = None) -> None:
        self.groups = groups
        self.order = torch.cat([group.columns for group in groups]).argsort()  # (D,)
        batch = torch.broadcast_shapes(*(group.distribution.batch_shape[:-1] for group in groups))
        super().__init__(torch.Size([*batch, len(self.order)]), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Each number where its own column's density is."""
        return EachColumns(self.groups, self._together)

    @property
    def mean(self) -> Tensor:
        """The mean of each column, ``(..., D)``; of categories, which have none, the most probable one."""
        return self.centre(self.expectations())

    @property
    def variance(self) -> Tensor:
        """The variance of each column, ``(..., D)``; of categories the probability of all but the most probable one."""
        return self._together([group.variance() for group in self.groups])

    def expectations(self) -> Tensor:
        """What of a mixture of such distributions is the weighted sum of theirs, ``(..., F)``: see :meth:`centre`."""
        return torch.cat([group.expectations() for group in self.groups], dim=-1)

    def centre(self, expectations: Tensor) -> Tensor:
        """The mean of each column, of categories the most probable one, ``(..., D)``, from such sums, ``(..., F)``."""
        sizes = [len(g.columns) * (g.distribution.logits.shape[-1] if g.is_category() else 1) for g in self.groups]
        parts = zip(self.groups, expectations.split(sizes, dim=-1), strict=True)
        return self._together([group.centre(part) for group, part in parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of each number, in nats, ``(..., D)``."""
        value = checked(self, value)
        return self._together([group.log_prob(group.of(value)) for group in self.groups])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``(*sample_shape, ..., D)``."""
        with torch.no_grad():
            drawn = [
                group.out_of_units(group.distribution.sample(torch.Size(sample_shape)).to(group.loc))
                for group in self.groups
            ]
            return self._together(drawn)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ByColumn":
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        groups = [
            group._replace(distribution=group.distribution.expand([*batch_shape[:-1], len(group.columns)]))
            for group in self.groups
        ]
        return ByColumn(groups, validate_args=validates(self))

    def _together(self, parts: list[Tensor]) -> Tensor:
        """The columns of all groups in the table's order."""
        return torch.cat(parts, dim=-1).index_select(-1, self.order)


def _support(group: Group) -> Any:
    made: Any = group.distribution
    return made.support
