"""What this package uses of torch that torch does not promise to keep: names that begin with ``_``, and one mark.

Each stands here once, with the reason why nothing public does. ``tests/test_private_names.py`` uses each of them, so
that a version of torch that moves one fails there by name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl
from torch.distributions.utils import lazy_property
from torch.nn.modules import module
from torch.nn.modules.batchnorm import _NormBase

__all__ = [
    "BATCH_NORMALISATION",
    "OwnFactors",
    "checked",
    "drawn_shape",
    "end_workers",
    "expanded",
    "foreach_add",
    "foreach_add_",
    "foreach_addcdiv_",
    "foreach_addcmul_",
    "foreach_mul_",
    "foreach_sqrt",
    "global_hooks",
    "has_backward_hooks",
    "has_closed_form",
    "has_step_hooks",
    "hooks_of",
    "is_failed_allocation",
    "scale_tril_of",
    "set_validation",
    "step_without_hooks",
    "to_copy",
    "validates",
    "version_of",
]

# ---------------------------------------------------------------- tensors and optimizers

# The kernels over lists of tensors that torch.optim itself uses: one launch for all weights of a network. Its public
# optimizers, ``Adagrad(foreach=True)``, read the step count as a number of Python, which a CUDA graph would freeze.
foreach_add = torch._foreach_add
foreach_add_ = torch._foreach_add_
foreach_addcdiv_ = torch._foreach_addcdiv_
foreach_addcmul_ = torch._foreach_addcmul_
foreach_mul_ = torch._foreach_mul_
foreach_sqrt = torch._foreach_sqrt


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to in place, a count; code that a compiler made does not count.

    Nothing public tells of a write without comparing all values.
    """
    return tensor._version


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody is called around an optimizer's step; torch has no public way to ask."""
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


def step_without_hooks(step: Any, closure: Any) -> Any:
    """Take an optimizer's step, ``step`` its bound method, without the hooks that are registered at it.

    torch wraps the ``step`` of every class that it makes an optimizer of in a function that runs the hooks, and marks
    that function as ``hooked``, its own mark. What it wraps is the function's ``__wrapped__``.
    """
    return step.__wrapped__(step.__self__, closure) if getattr(step, "hooked", False) else step(closure)


def is_failed_allocation(error: BaseException) -> bool:
    """Whether torch was refused memory of a CPU's.

    torch raises a bare ``RuntimeError`` then: ``torch.OutOfMemoryError`` is of accelerators alone. So its words are all
    that tells it from a fault of the program. ``tests/test_private_names.py`` asks for more memory than there is, and
    fails where torch says it in other words.
    """
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # by words: torch has no class


to_copy = torch.ops.aten._to_copy.default
"""A tensor in another precision, as a graph that was traced holds it: ``Tensor.to`` is none of its operations."""

# ---------------------------------------------------------------- modules and hooks

BATCH_NORMALISATION = _NormBase
"""The base of all layers with running statistics, torch's lazy and synchronised ones too, which have no public one."""


def has_backward_hooks(tensor: Tensor) -> bool:
    """Whether somebody is told of a tensor's gradients; torch has no public way to ask."""
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)


def hooks_of(part: nn.Module) -> list[Callable[..., Any]]:
    """All hooks around a module's forward and backward pass; torch has no public way to list them."""
    kinds = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return [hook for hooks in kinds for hook in hooks.values()]


def global_hooks() -> list[Callable[..., Any]]:
    """All hooks around the forward and backward passes of every module; torch has no public way to list them."""
    kinds = (
        module._global_forward_hooks,
        module._global_forward_pre_hooks,
        module._global_backward_hooks,
        module._global_backward_pre_hooks,
    )
    return [hook for hooks in kinds for hook in hooks.values()]


# ---------------------------------------------------------------- distributions
#
# torch's own distributions are written with these three methods and one attribute of their base class. Whoever writes
# another one needs them too, though their names are private: nothing public checks a value, or makes an expanded copy.


def checked(distribution: Distribution, value: Tensor) -> Tensor:
    """The value, looked at first where the distribution validates its arguments.

    Raises:
        ValueError: If the value has another shape than the distribution's, or lies outside the support.
    """
    if distribution._validate_args:
        distribution._validate_sample(value)
    return value


def drawn_shape(distribution: Distribution, sample_shape: Any) -> torch.Size:
    """The shape of draws: ``sample_shape``, then the batch shape, then the event shape."""
    return distribution._extended_shape(sample_shape)


def expanded(old: Distribution, cls: type[Distribution], instance: Any, batch_shape: Any, **attributes: Any) -> Any:
    """A copy of a distribution over a larger batch, as torch's own ``expand`` methods make it.

    Arguments:
        old: The distribution.
        cls: The class whose ``expand`` this is: a subclass with another ``__init__`` must write its own.
        instance: What ``expand`` got as ``_instance``: the object that is to become the copy; ``None`` for a new one.
        batch_shape: The copy's batch shape.
        attributes: The copy's parameters, already expanded, by the names of attributes.

    Raises:
        NotImplementedError: If a subclass has another ``__init__`` and no ``expand``.
    """
    new = old._get_checked_instance(cls, instance)
    for name, value in attributes.items():
        setattr(new, name, value)
    Distribution.__init__(new, torch.Size(batch_shape), old.event_shape, validate_args=False)
    new._validate_args = old._validate_args  # the values were looked at when the old one was made
    return new


def scale_tril_of(normal: torch.distributions.MultivariateNormal) -> Tensor:
    """The Cholesky factor as it was given, ``(..., K, K)``; the public ``scale_tril`` repeats it over the batch.

    A density that is computed of the repeated one factorises, and rounds, otherwise.
    """
    return normal._unbroadcasted_scale_tril


class OwnFactors:
    """Mixed into a ``LowRankMultivariateNormal`` that does not call torch's ``__init__``, which factorises at once.

    torch's other methods and its closed forms of KL read three attributes that its ``__init__`` would have set; here
    they are set, and the factorisation is the subclass's ``capacitance_tril()``, computed when it is asked for.
    """

    def keep_factors(self, factor: Tensor, diagonal: Tensor) -> None:
        """Keep W, ``(..., K, R)``, and the diagonal of D, ``(..., K)``, as they were given, not expanded."""
        self._unbroadcasted_cov_factor = factor
        self._unbroadcasted_cov_diag = diagonal

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """W and the diagonal of D, as they were given."""
        return self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag

    def capacitance_tril(self) -> Tensor:
        """The Cholesky factor of ``I + W' D^-1 W``, ``(..., R, R)``."""
        raise NotImplementedError

    @lazy_property
    def _capacitance_tril(self) -> Tensor:
        return self.capacitance_tril()


def validates(distribution: Distribution) -> bool:
    """Whether values are looked at: unless somebody switched that off for this one; torch keeps it as it was given."""
    return distribution._validate_args is not False


def set_validation(distribution: Distribution, on: bool) -> None:
    """Whether a distribution looks at its values from here on: torch asks when one is made, and never again."""
    distribution._validate_args = on


def has_closed_form(kind: type) -> bool:
    """Whether a KL is registered for this very class; ``kl_divergence`` does not tell it from one that it extends."""
    return any(kind in pair for pair in kl._KL_REGISTRY)


# ---------------------------------------------------------------- loaders


def end_workers(iterator: Any) -> None:
    """End the processes of an iterator over a ``DataLoader``, and wait until they have ended.

    Publicly they end when the iterator is deleted, and a traceback that somebody still holds keeps it alive.
    """
    if hasattr(iterator, "_shutdown_workers"):  # one without workers has none
        iterator._shutdown_workers()
