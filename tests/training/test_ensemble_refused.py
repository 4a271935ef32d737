"""What an ensemble refuses, by name, and members that cease to be alike."""

from functools import partial

import pyro
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.engines import kept
from pyro_aevb.estimators import SGVB
from pyro_aevb.training.ensemble import Ensemble
from tests.pairs import binary, paper_pair
from tests.training.test_ensemble import ADAM, Weighted, assert_close, member, replayed
from tests.trainings import assert_equal, make, weights


class OwnAdam(torch.optim.Adam):
    """Of which nothing is known."""


class Halved(SGVB):
    """Another kind."""


def global_latents(seed):
    """A pair with a prior on its weights."""
    with aevb.seeded(seed):
        pair = aevb.bayesian.bayesian(*paper_pair(size=60))
    return aevb.Trainer(*pair, binary(60), None, ADAM, 20, seed, "eager", device="cpu")


def smaller(seed):
    """Another number of hidden units."""
    with aevb.seeded(seed):
        pair = paper_pair(size=60, hidden=7)
    return aevb.Trainer(*pair, binary(60), SGVB(), None, 20, seed, "eager", device="cpu", report_every=100)


def pyro_adam(seed):
    """``engine="svi"``."""
    return make(seed, engine="svi", optimizer=pyro.optim.Adam({"lr": 0.01}), batch_size=20)


def at_another_step(seed):
    """One that has been trained by itself."""
    trainer = member(seed)
    list(trainer.run(20))
    return trainer


REFUSED = {
    "shape of parameters": smaller,
    "batch_size": partial(member, batch_size=10),
    "data set": partial(member, data=1 - binary(60)),
    "report_every": partial(member, report_every=50),
    "estimator": partial(member, estimator=Halved()),
    "optimizer": partial(member, optimizer=ADAM),
    "scale of the loss": partial(member, size=120),
    "another step": at_another_step,
    "engine='svi'": pyro_adam,
    "OwnAdam is not known to work element by element": partial(member, optimizer=partial(OwnAdam, lr=0.01)),
    "warm_up": partial(member, estimator=SGVB(warm_up=100)),
    "global latents": global_latents,
}


@pytest.mark.parametrize("message", REFUSED)
def test_members_that_differ_in_kind_are_refused(message):
    with pytest.raises(aevb.InputError, match=rf"member 1.*{message}"):
        list(replayed([member(0), REFUSED[message](1)]).run(20))


def test_one_member_the_same_twice_and_shared_parts_are_refused():
    with pytest.raises(aevb.InputError, match="at least two"):
        Ensemble([member(0)])
    trainer = member(0)
    with pytest.raises(aevb.InputError, match="share a tensor"):
        Ensemble([trainer, trainer])
    estimator = SGVB(beta=0.5)
    with pytest.raises(aevb.InputError, match="share a tensor"):
        Ensemble([member(seed, estimator=estimator) for seed in range(2)])


def test_members_that_differ_in_a_frozen_number_are_refused():
    """Even where their losses are the same."""
    trainers = [member(seed, estimator=Weighted(1.0 + seed)) for seed in range(2)]
    with pytest.raises(aevb.InputError, match="member 1 differs from the first in more than its tensors"):
        list(replayed(trainers).run(20))


def test_members_that_change_by_themselves_are_refused_in_time(monkeypatch):
    monkeypatch.setattr(kept, "CHECK_EVERY", 4)
    trainers = [member(seed, estimator=Weighted()) for seed in range(2)]
    with pytest.raises(aevb.InputError, match="member 1 differs"):  # noqa: PT012  # what changes is in the loop
        for _ in replayed(trainers).run(400):
            trainers[1].estimator.weight = 2.0


def test_noise_without_a_base_is_refused():
    def one(seed):
        with aevb.seeded(seed):
            prior = aevb.priors.Family(2, distribution="Gamma")
            likelihood = aevb.likelihoods.Bernoulli(2, 6, hidden=5)
            guide = aevb.guides.Family(6, 2, distribution="Gamma", hidden=5)
        pair = aevb.GenerativeModel(prior, likelihood, 60).double(), aevb.RecognitionModel(guide, 60).double()
        return aevb.Trainer(*pair, binary(60), batch_size=20, seed=seed, engine="eager", device="cpu")

    trainers = [one(seed) for seed in range(2)]
    before = [weights(trainer) for trainer in trainers]
    with pytest.raises(aevb.InputError, match=r"cannot be batched.*_standard_gamma\.default depends on the parameters"):
        list(replayed(trainers).run(20))
    for trainer, known in zip(trainers, before, strict=True):
        assert_equal(weights(trainer), known)


def test_a_member_that_breaks_is_named_and_the_others_are_as_alone():
    rates = (0.01, 1e300)
    together = [member(seed, optimizer=partial(torch.optim.SGD, lr=rate)) for seed, rate in enumerate(rates)]
    with pytest.raises(aevb.NonFiniteLossError, match="member 1: the loss became nan at step"):
        list(replayed(together).run(200))
    alone = member(0, optimizer=partial(torch.optim.SGD, lr=0.01))
    list(alone.run(100))
    assert_close(weights(together[0]), weights(alone))
