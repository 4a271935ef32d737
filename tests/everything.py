"""Every estimator and every evaluator, to be tried on one pair: a number, or a refusal by name, and nothing else."""

import math

import torch

import pyro_aevb as aevb
from pyro_aevb import diagnostics, estimators, evidence

REFUSED = "refused"


def estimators_of(count, only=estimators.__all__):
    """Each estimator with so many particles, by name; those that need two get at least two."""
    made = {}
    for name in only:
        kind = getattr(estimators, name)
        options = {"phase": "wake"} if name == "WakeSleep" else {}
        made[name] = kind(max(count, kind.least_particles), **options)
    return made


def outcome(function, *arguments, **options):
    """What a function returns, or ``REFUSED`` where it raises the package's own error, whose message is one line."""
    try:
        return function(*arguments, **options)
    except aevb.InputError as error:
        if "\n" in str(error):
            raise AssertionError("not in one line") from error
        return REFUSED
    except aevb.NonFiniteLossError:
        return REFUSED


def losses(model, guide, args, count=1, only=estimators.__all__):
    """Each estimator's loss at equal noise, or ``REFUSED``."""
    found = {}
    for name, estimator in estimators_of(count, only).items():
        with aevb.seeded(0):
            found[name] = outcome(estimator.loss, model, guide, *args)
    return found


def evaluators(model, guide, args, samples=20, steps=4):
    """What each evaluator says of log p(x), or of something else, ``(B,)``; or ``REFUSED``."""
    x = args if len(args) > 1 else args[0]
    each = {
        "bound": lambda: evidence.bound(model, guide, x, samples).bound,
        "importance": lambda: evidence.importance_sampling(model, guide, x, samples),
        "ais": lambda: evidence.annealed_importance_sampling(model, guide, x, steps=steps, chains=2).log_likelihood,
        "ais from the prior": lambda: (
            evidence.annealed_importance_sampling(model, None, x, steps=steps, chains=2, start="prior").log_likelihood
        ),
        "linear_gaussian": lambda: evidence.linear_gaussian(model, x),
        "posterior_means": lambda: evidence.posterior_means(guide, x),
        "activity": lambda: evidence.activity(guide, x),
        "latent_kl": lambda: diagnostics.latent_kl(model, guide, x).total,
        "decoder_use": lambda: diagnostics.decoder_use(model, guide, x, 2),
        "appendix_d": lambda: evidence.appendix_d(model, x, 10, guide=guide, burn_in=5).log_likelihood,
    }
    return {name: outcome(function) for name, function in each.items()}


def assert_refused(found, *but):
    """Everything in ``found`` was refused, except what is named."""
    numbers = {name for name, value in found.items() if not (isinstance(value, str) and value == REFUSED)}
    assert numbers <= set(but), numbers - set(but)


def finite(value):
    """Is it a number, or numbers, without NaN?"""
    return not torch.as_tensor(value).isnan().any() if not isinstance(value, float) else not math.isnan(value)
