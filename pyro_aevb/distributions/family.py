"""A part from any distribution class: its parameters' names, shapes and constraints say how to make them.

``torch.distributions.transform_to`` maps unconstrained numbers, a network's outputs or a learned vector, onto each
parameter's constraint: scales become positive, simplexes sum to one. No distribution is known here by name.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints, transform_to

from pyro_aevb import distributions
from pyro_aevb.distributions.supports import innermost
from pyro_aevb.errors import InputError, in_one_line, told, whole

__all__ = ["DistributionFamily"]

# Where two parameters say the same, the one that computes well.
_INSTEAD = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}

# The largest unconstrained value of a parameter with a constraint: beyond it a float32 exp squared over- or underflows.
BOUND = 10.0
# That of the first of parameters that increase, Uniform's ``low`` say: beyond it e^-10 more is the same float32.
LOCATION = 100.0


class DistributionFamily:
    r"""All distributions of one class over vectors of length ``dim``, indexed by unconstrained numbers.

    A class over scalars becomes ``dim`` independent ones, each with parameters of its own.

    Arguments:
        distribution: Name of a class of ``pyro.distributions``, ``torch.distributions`` or
            ``pyro_aevb.distributions``, or the class.
        dim: Length of the vectors.
        fixed: Values of parameters that are not made of unconstrained numbers but given, by name, the same for all
            dimensions; ``None`` for none.

    Raises:
        InputError: If there is no such class, or a parameter cannot be made and is not fixed.

    >>> family = DistributionFamily("Gamma", 3)
    >>> family.size  # concentration and rate of each
    6
    >>> family(torch.zeros(2, 6)).event_shape
    torch.Size([3])
    """

    def __init__(self, distribution: str | type, dim: int, fixed: Mapping[str, float] | None = None) -> None:
        self.cls = _find(distribution)
        self.dim = whole("dim", dim)
        self.fixed = _as_tensors({} if fixed is None else fixed)
        self._moved: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        accepted = {*inspect.signature(self.cls).parameters, *self._declared()}
        if unknown := sorted(map(told, self.fixed.keys() - accepted)):
            names = ", ".join(self._declared())
            raise InputError(f"fixed: {self.name} has no parameter {unknown[0]}: it has {names}")
        self.constraints = {
            name: constraint
            for name, constraint in self._declared().items()
            if name not in self.fixed and name in accepted and not self._said_otherwise(name)
        }
        self.shapes = {name: self._shape(name, constraint) for name, constraint in self.constraints.items()}
        for name, constraint in self.constraints.items():
            self._check_can_be_made(name, constraint)
        self._check_event()

    @property
    def name(self) -> str:
        """The class's name."""
        return str(self.cls.__name__)

    @property
    def size(self) -> int:
        """How many unconstrained numbers index one distribution."""
        return sum(shape.numel() for shape in self.shapes.values())

    @property
    def counts(self) -> bool:
        """Whether its values are whole numbers, others than 0 and 1."""
        support = innermost(self(torch.zeros(1, self.size)).support)
        return bool(support.is_discrete) and support is not constraints.boolean

    def __call__(self, unconstrained: Tensor) -> TorchDistributionMixin:
        """The distribution at these numbers, ``(..., size)``: batch shape ``(...)``, event shape ``(dim,)``."""
        each = unconstrained.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        values: dict[str, Tensor] = {}
        for (name, shape), numbers in zip(self.shapes.items(), each, strict=True):
            values[name] = self._constrained(name, numbers.reshape(numbers.shape[:-1] + shape), values)
        fixed = self._fixed_like(unconstrained)
        made = self.cls(**values, **fixed)
        if made.event_shape:
            return made.expand(unconstrained.shape[:-1])
        return made.expand((*unconstrained.shape[:-1], self.dim)).to_event(1)

    # ------------------------------------------------------------ parameters

    def _declared(self) -> dict[str, Any]:
        declared = self.cls.arg_constraints
        if not isinstance(declared, property):
            return dict(declared)
        names = [n for n in inspect.signature(self.cls).parameters if n != "validate_args"]  # torch's Uniform
        return dict.fromkeys(names, constraints.dependent)

    def _said_otherwise(self, name: str) -> bool:
        return _INSTEAD.get(name) in self._declared()

    def _shape(self, name: str, constraint: Any) -> Size:
        """One number for each dimension, or what the constraint's own dimensions need."""
        multivariate = any(c.event_dim for c in self._declared().values() if not _is_dependent(c))
        if multivariate:
            return Size([self.dim] * constraint.event_dim)
        return Size([self.dim])

    def _check_event(self) -> None:
        try:
            made = self(torch.zeros(2, self.size))
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.name} over {self.dim} dimensions cannot be made: {in_one_line(error)}") from error
        if made.event_shape != (self.dim,):
            raise InputError(
                f"{self.name} has event shape {tuple(made.event_shape)}, not ({self.dim},): it is no distribution "
                "over vectors"
            )

    def _check_can_be_made(self, name: str, constraint: Any) -> None:
        if _is_dependent(constraint):
            return
        try:
            shape = transform_to(constraint).inverse_shape(self.shapes[name])
        except NotImplementedError:
            raise InputError(
                f"parameter {name!r} of {self.name}, {constraint}, cannot be made of real numbers: "
                f"fix it, as in fixed={{{name!r}: ...}}"
            ) from None
        self.shapes[name] = Size(shape)

    def _constrained(self, name: str, value: Tensor, before: Mapping[str, Tensor]) -> Tensor:
        constraint = self.constraints[name]
        if _is_dependent(constraint):
            return self._between(name, value, before)
        if innermost(constraint) is constraints.real:  # vectors and matrices of any numbers too
            return value
        return transform_to(constraint)(value.clamp(-BOUND, BOUND))

    def _between(self, name: str, value: Tensor, before: Mapping[str, Tensor]) -> Tensor:
        """A parameter whose constraint depends on others: by convention they increase in the order declared."""
        names = list(self._declared())
        fixed = self._fixed_like(value)
        below = [known[n] for n in names[: names.index(name)] for known in (before, fixed) if n in known]
        above = [fixed[n] for n in names[names.index(name) :] if n in fixed]
        value = value.clamp(-BOUND, BOUND) if below or above else value.clamp(-LOCATION, LOCATION)
        if below and above:
            return below[-1] + (above[0] - below[-1]) * value.sigmoid()
        return below[-1] + value.exp() if below else above[0] - value.exp() if above else value

    def _fixed_like(self, other: Tensor) -> dict[str, Tensor]:
        """What is given, moved to a device once: a copy from the processor cannot be part of a CUDA graph."""
        key = (other.device, other.dtype)
        if key not in self._moved:
            self._moved[key] = {name: value.to(*key) for name, value in self.fixed.items()}
        return self._moved[key]


def _as_tensors(fixed: Mapping[str, float]) -> dict[str, Tensor]:
    """Parameters that are given, finite numbers each, one or more.

    Raises:
        InputError: If they are no dictionary from names to numbers.
    """
    if not isinstance(fixed, Mapping):
        raise InputError(f"fixed must be a dictionary from parameters' names to numbers, not {told(fixed)}")
    found = {}
    for name, value in fixed.items():
        try:
            found[name] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"fixed: parameter {told(name)} must be a number, not {told(value)}") from error
        if not torch.isfinite(found[name]).all():
            raise InputError(f"fixed: parameter {told(name)} must be finite, not {told(value)}")
    return found


def _is_dependent(constraint: Any) -> bool:
    return bool(constraints.is_dependent(constraint))


def _find(distribution: str | type) -> Any:
    if isinstance(distribution, str):
        places = (distributions, dist, torch.distributions)
        found = next((getattr(place, distribution) for place in places if hasattr(place, distribution)), None)
    else:
        found = distribution
    if not (inspect.isclass(found) and issubclass(found, torch.distributions.Distribution)):
        raise InputError(
            f"there is no distribution {told(distribution)}: give the name of a class of pyro.distributions, "
            "torch.distributions or pyro_aevb.distributions, such as Gamma"
        )
    return found if issubclass(found, TorchDistributionMixin) else _wrapped_by_pyro(found)


def _wrapped_by_pyro(cls: type) -> Any:
    """Pyro's class of a distribution of torch: the one in ``pyro.distributions`` that extends it directly.

    Raises:
        InputError: If Pyro has none, as of a class that somebody wrote.
    """
    ours = [kind for kind in vars(dist).values() if isinstance(kind, type) and issubclass(kind, TorchDistributionMixin)]
    found = next((kind for kind in ours if cls in kind.__bases__), None)
    if found is None:
        raise InputError(
            f"{cls.__name__} is no distribution of Pyro: derive it from pyro.distributions.TorchDistribution"
        )
    return found
