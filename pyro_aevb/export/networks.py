"""The two halves of a pair as modules of tensors alone: what a graph is made of, every output with a name."""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MixtureSameFamily, Normal, TransformedDistribution

from pyro_aevb.distributions import ByColumn, PartlyObserved
from pyro_aevb.distributions.columns import Group
from pyro_aevb.errors import InputError, instance
from pyro_aevb.models import GenerativeModel, RecognitionModel

__all__ = ["Decoder", "Encoder", "Half", "free_name"]

ROWS = 3  # of the example that a half is first run on; two would be taken for a 2 that is always there

INSTEAD = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}
"""Where two parameters of a distribution say the same, the one that is told."""


class Half(nn.Module):
    """One half of a pair: takes tensors in the order of ``inputs``, returns tensors in the order of ``outputs``.

    Arguments:
        example: A tensor of each input, with ROWS rows, by the input's name.
    """

    def __init__(self, example: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.example = dict(example)
        self.eval()

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in the order in which they are given."""
        return list(self.example)

    def outputs(self) -> list[str]:
        """Names of the outputs, in the order in which they come; from one run on the example.

        Raises:
            InputError: If the half's distribution has neither moments nor parameters.
        """
        with torch.no_grad(), pyro.validation_enabled(False):
            found = list(self.named(*self.example.values()))
        if not found:
            raise InputError(
                f"{self.what()} has neither mean nor parameters that could be told: export the weights alone"
            )
        return found

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs at these inputs, in the order of their names."""
        return tuple(self.named(*inputs).values())

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The outputs at these inputs, by name."""
        raise NotImplementedError

    def what(self) -> str:
        """What the half computes, for messages."""
        raise NotImplementedError


class Encoder(Half):
    r"""From data to the parameters of q(z|x).

    Inputs are ``x``, ``(B, D)``, and where the guide takes them ``condition`` and ``exposure``. Outputs are ``mean``
    and ``sd``, ``(B, K)`` each, and what else the distribution has: ``scale_tril`` of a full covariance, ``cov_factor``
    and ``cov_diag`` of a low-rank one, ``logits``, ``loc`` and ``scale`` of a mixture. A normalizing flow has a density
    and draws, but no moments in closed form: its encoder takes ``noise``, ``(B, K)``, standard normal numbers, and
    returns the draw ``z`` that they lead to.

    Arguments:
        guide: The guide, whose weights are used in place.
        data_dim: Number of observed dimensions D.
        of_category: Whether the condition is a category, a whole number for each datum, rather than numbers ``(B, C)``.

    Raises:
        InputError: If the guide's distribution has neither moments nor parameters, and is no flow from a Gaussian.
    """

    def __init__(self, guide: RecognitionModel, data_dim: int, of_category: bool = False) -> None:
        instance("guide", guide, RecognitionModel, "of other pairs export the modules that they are made of")
        example = {"x": torch.zeros(ROWS, data_dim), **_beside(guide, of_category)}
        super().__init__(example)
        self.guide = guide
        self.given = len(example)
        self.is_flow = False
        with torch.no_grad(), pyro.validation_enabled(False):
            self.is_flow = _is_flow(self._posterior(tuple(example.values())))
        if self.is_flow:
            self.example["noise"] = torch.zeros(ROWS, guide.guide.latent_dim)

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Mean, standard deviation and parameters of q(z|x); of a flow the draw that the noise leads to."""
        made = self._posterior(inputs[: self.given])
        if not self.is_flow:
            return {**_moments(made), **_parameters(_single(made))}
        base = _single(made.base_dist)
        return {"z": _pushed(base.loc + base.scale * inputs[-1], made.transforms)}

    def what(self) -> str:
        """What the half computes, for messages."""
        return f"the guide {type(self.guide.guide).__name__}"

    def _posterior(self, inputs: Sequence[Tensor]) -> Any:
        return self.guide.guide(self.guide.seen(**dict(zip(self.example, inputs, strict=False))))


class Decoder(Half):
    r"""From latents to the mean of p(x|z) and the likelihood's other parameters.

    Inputs are ``z``, ``(B, K)``, and where the model takes them ``condition`` and ``exposure``. Outputs are ``mean``,
    ``(B, D)``, and the parameters: ``logits``, ``scale``, ... Of a table they are those of each column, named as the
    column: ``age``, ``(B,)``, its mean; of yes or no the probability of yes; of a category ``(B, C)``, the
    probabilities of all categories; and beside it ``age.sd``, or of counts ``visits.total_count``.

    Arguments:
        model: The model, whose weights are used in place.
        columns: Names of a table's columns; by default ``x0``, ``x1``, ...
        of_category: Whether the condition is a category, a whole number for each datum, rather than numbers ``(B, C)``.

    Raises:
        InputError: If the likelihood's distribution has neither a mean nor parameters.
    """

    def __init__(self, model: GenerativeModel, columns: Sequence[str] = (), of_category: bool = False) -> None:
        instance("model", model, GenerativeModel, "of other pairs export the modules that they are made of")
        super().__init__({"z": torch.zeros(ROWS, model.prior.latent_dim), **_beside(model, of_category)})
        self.model = model
        self.columns = list(columns) or [f"x{i}" for i in range(model.likelihood.data_dim)]
        with torch.no_grad(), pyro.validation_enabled(False):
            row = _single(self._likelihood(tuple(self.example.values())))
        # As Python's own numbers: a graph cannot depend on the values of a tensor.
        self.places = [group.columns.tolist() for group in row.groups] if isinstance(row, ByColumn) else []

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The mean of p(x|z) and its parameters; of a table those of each column."""
        made = self._likelihood(inputs)
        each = _single(made)
        if isinstance(each, ByColumn):
            return {name: value for told in self._of_columns(each) for name, value in told.items()}
        moments = _moments(made)
        moments.pop("sd", None)
        return {**moments, **_parameters(each, moments)}

    def what(self) -> str:
        """What the half computes, for messages."""
        return f"the likelihood {type(self.model.likelihood).__name__}"

    def outputs_of_columns(self) -> dict[str, list[str]]:
        """Names of the outputs of each of a table's columns, by the column's name; empty for other likelihoods."""
        with torch.no_grad(), pyro.validation_enabled(False):
            row = _single(self._likelihood(tuple(self.example.values())))
        if not isinstance(row, ByColumn):
            return {}
        return dict(zip(self.columns, map(list, self._of_columns(row)), strict=True))

    def _of_columns(self, row: ByColumn) -> list[dict[str, Tensor]]:
        return _by_column(row, self.places, self.columns)

    def _likelihood(self, inputs: Sequence[Tensor]) -> Any:
        return self.model.likelihood_at(**dict(zip(self.example, inputs, strict=True)))


# ---------------------------------------------------------------- what there is besides x or z


def _beside(part: GenerativeModel | RecognitionModel, of_category: bool) -> dict[str, Tensor]:
    """An example of the condition and of the exposure that a half takes, by name; empty where it takes none."""
    found = {}
    if part.condition:
        numbers = torch.zeros(ROWS, part.condition)
        found["condition"] = torch.zeros(ROWS, dtype=torch.long) if of_category else numbers
    if part.exposure:
        found["exposure"] = torch.ones(ROWS)
    return found


# ---------------------------------------------------------------- distributions as named tensors


def _single(made: Any) -> Any:
    """The distribution of single numbers, or of vectors where these have no single numbers."""
    while isinstance(made, Independent | PartlyObserved):
        made = made.product if isinstance(made, PartlyObserved) else made.base_dist
    return made


def _moments(made: Any) -> dict[str, Tensor]:
    """Mean and standard deviation, those of them that are known."""
    found = {}
    for name, moment in (("mean", "mean"), ("sd", "stddev")):
        try:
            found[name] = getattr(made, moment)
        except (NotImplementedError, AttributeError):  # as torch says that no closed form is known
            continue
    return found


def _parameters(each: Any, before: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Parameters by the names that torch and Pyro have for them, less those that are the mean or the deviation."""
    if isinstance(each, MixtureSameFamily):
        return {"logits": each.mixture_distribution.logits, **_parameters(each.component_distribution)}
    known = list(_moments(each).values()) if before is None else list(before.values())
    names = [name for name in _declared(each) if INSTEAD.get(name) not in _declared(each)]
    values = {name: getattr(each, name) for name in names}
    return {name: value for name, value in values.items() if _is_new(value, known)}


def _is_new(value: Any, known: Iterable[Tensor]) -> bool:
    """Whether it is a tensor, and not one that is told already: a Gaussian's mean is its ``loc``."""
    return isinstance(value, Tensor) and value.dim() > 0 and not any(value is other for other in known)


def _declared(each: Any) -> list[str]:
    """Names of a distribution's parameters."""
    declared = type(each).arg_constraints
    if not isinstance(declared, property):
        return list(declared)
    return [name for name in inspect.signature(type(each)).parameters if name != "validate_args"]  # torch's Uniform


def _is_flow(made: Any) -> bool:
    """Whether a distribution is a Gaussian pushed through transforms, and has no parameters of its own."""
    if not isinstance(made, TransformedDistribution) or _declared(made):
        return False
    return isinstance(_single(made.base_dist), Normal)


def _pushed(value: Tensor, transforms: Iterable[Any]) -> Tensor:
    for transform in transforms:
        value = transform(value)
    return value


# ---------------------------------------------------------------- tables


def _by_column(row: ByColumn, places: Sequence[Sequence[int]], columns: Sequence[str]) -> list[dict[str, Tensor]]:
    """What is told of each column, by name, in the table's order; ``places`` are the columns of each group."""
    where = {
        column: (group, place)
        for group, numbers in zip(row.groups, places, strict=True)
        for place, column in enumerate(numbers)
    }
    taken: set[str] = set()
    found = []
    for column in sorted(where):
        told = {}
        for ending, value in _of_column(*where[column]).items():
            name = free_name(columns[column] + ending, taken)
            taken.add(name)
            told[name] = value
        found.append(told)
    return found


def _of_column(group: Group, place: int) -> dict[str, Tensor]:
    """What is told of a column, by what stands behind its name."""
    made: Any = group.distribution
    if group.is_category():
        return {"": made.logits[..., place, :].exp()}  # (B, C)
    told = {"": group.out_of_units(made.mean)[..., place]}  # (B,)
    if hasattr(made, "total_count"):
        return {**told, ".total_count": made.total_count[..., place]}
    return told if made.support.is_discrete else {**told, ".sd": group.variance().sqrt()[..., place]}


def free_name(name: str, taken: Collection[str]) -> str:
    """A name that nothing has yet: with as many ``_`` behind it as that takes.

    Arguments:
        name: The name that is wanted; one that is empty becomes ``column``.
        taken: Names that are there.

    >>> free_name("age", {"age", "age_"})
    'age__'
    """
    name = name or "column"
    while name in taken:
        name += "_"
    return name
