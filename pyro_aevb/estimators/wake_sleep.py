"""The paper's baseline: two objectives, one for each half of the pair."""

from typing import Any, Literal

import torch
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import InputError, choice
from pyro_aevb.estimators.base import MultiSample, with_value
from pyro_aevb.pairs import Pair

__all__ = ["WakeSleep"]

Phase = Literal["both", "wake", "sleep"]


class WakeSleep(MultiSample):
    r"""The wake-sleep algorithm: the model learns from data, the guide from the model's dreams; any latents.

    .. math:: \nabla_\theta \approx \frac1S \sum_s \nabla_\theta \log p_\theta(x, z_s), \quad z_s \sim q_\phi(z \mid x)
              \qquad \text{(wake)}

    .. math:: \nabla_\phi \approx \nabla_\phi \log q_\phi(\tilde z \mid \tilde x), \quad
              \tilde z, \tilde x \sim p_\theta(z)\, p_\theta(x \mid z) \qquad \text{(sleep)}

    Wake ascends the bound. Sleep descends :math:`\mathrm{KL}(p(z \mid x) \,\|\, q(z \mid x))` over dreamt data, the
    other way round than the bound's, so that the two share no objective. No gradient crosses from one phase to the
    other's parameters; parameters that model and guide share get both, as those of a
    :class:`~pyro_aevb.priors.VampPrior`'s guide do through log p(z). The value is the bound at the wake samples, (6).

    The dreams are as many as the minibatch, M, and scaled as it is, by N/M. They are drawn from the model's own
    distributions: those of a relaxed Bernoulli are binary though its data may be grey. Each observed site must observe
    one of the arguments as it is; arguments that no site observes stay as they are. A later site of the model must read
    an observed value from what ``pyro.sample`` returned, since the argument is not the dream. Networks with a state,
    such as batch normalisation's running means, see the dreams too.

    Oracle: both exact gradients of a linear-Gaussian pair.

    Arguments:
        num_particles: Number of wake samples S per datum.
        phase: Whose gradient is computed: ``wake`` for the model's alone, ``sleep`` for the guide's alone, ``both`` for
            both. The value is the same.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If ``phase`` is none of these; if a latent lies outside the one data plate; if an observed site
            observes what is no argument, or cannot be sampled; if the guide cannot tell the density of a given value
            (planar flows) or samples a site that the model does not.

    References:
        | The wake-sleep algorithm for unsupervised neural networks (Hinton et al., 1995), the paper's section 5
        | https://doi.org/10.1126/science.7761831
    """

    def __init__(self, num_particles: int = 1, *, phase: Phase = "both", **elbo_arguments: Any) -> None:
        super().__init__(num_particles, **elbo_arguments)
        self._phase: Phase = choice("phase", phase, ("both", "wake", "sleep"))

    @property
    def phase(self) -> Phase:
        """Whose gradient is computed; it cannot be changed, since a recorded step could not notice: the value is the
        same in all phases.
        """
        return self._phase

    def loss_of_weights(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of mean log-weights."""
        if pair.is_joint(args):
            raise InputError(
                "wake-sleep needs every site in the plate of the data, since a datum is dreamt by itself: use SGVB, "
                "which takes any plates"
            )
        guide = pair.guide
        pair.guide = _constant(guide)
        densities = pair.log_densities(args, self.num_particles)
        joint = densities.log_likelihood + densities.log_prior  # (S, B)
        wake = -densities.scaled_sum((joint - densities.log_guide.detach()).mean(0))
        if self.phase == "wake" or not torch.is_grad_enabled():
            return wake
        sleep = -traces.dream_log_guide(pair.model, guide, args)
        # Each with its own value: their sum's would round off the bound where dreams are far less likely than data.
        return (wake if self.phase == "both" else wake.detach()) + with_value(sleep, torch.zeros_like(sleep))


def _constant(guide: Pair) -> Pair:
    """The guide without gradients: its samples are constants and nothing is kept to differentiate it by."""

    def run(*args: Any) -> Any:
        """Run the guide without gradients."""
        with torch.no_grad():
            return guide(*args)

    return run
