"""Pairs that cannot be made Bayesian, and numbers that do not exist, are refused by name."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import estimators
from pyro_aevb.bayesian import bayesian, marginal_likelihood_bound, predictive_log_likelihood
from pyro_aevb.estimators import SGVB
from tests.bayesian.test_bayesian import small
from tests.engines.test_captured import pyro_module_pair, values
from tests.pairs import binary, hand_written_pair, paper_pair
from tests.training.test_any_pair import Vae


def test_multi_sample_bounds_refuse_global_latents_of_some_of_the_data_by_name():
    pair, _ = small()
    for name in estimators.__all__:
        if name not in ("SGVB", "SGVBAnalyticKL", "ScoreFunction"):
            with pytest.raises(aevb.InputError, match=r"network\.0\.weight' lies outside|every site in the plate"):
                getattr(estimators, name)(num_particles=2).differentiable_loss(*pair, binary())


def test_weights_drawn_in_a_plate_are_refused():
    pair, _ = small()
    with pytest.raises(aevb.InputError, match="vectorize_particles=False"):
        SGVB(2, vectorize_particles=True, max_plate_nesting=1).differentiable_loss(*pair, binary())


@pytest.mark.parametrize("sizes", [(None, 60), (60, None), (None, None)])
def test_a_pair_that_does_not_know_the_number_of_data_is_refused(sizes):
    model, guide = paper_pair()
    model.size, guide.size = sizes
    with pytest.raises(aevb.InputError, match="size=N"):
        bayesian(model, guide)


def test_pairs_without_weights_of_the_models_own_are_refused():
    with pytest.raises(aevb.InputError, match=r"no weights of its own.*pyro\.param"):
        bayesian(*hand_written_pair(60))
    vae = Vae()
    with pytest.raises(aevb.InputError, match="modules="):
        bayesian(vae.model, vae.guide)
    model, guide = paper_pair(size=60)
    with pytest.raises(aevb.InputError, match="not the model's"):
        bayesian(model, guide, modules=guide)
    with pytest.raises(aevb.InputError, match="no weights"):
        bayesian(*bayesian(model, guide))


def mixed_pair():
    """Weights in a module, a constrained scale in ``pyro.param``."""
    net = nn.Linear(2, 6)

    def model(x):
        pyro.module("net", net)
        sigma = pyro.param("sigma", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), sigma).to_event(1), obs=x)

    def guide(x):
        gain = pyro.param("gain", torch.zeros(6, 2))
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(x @ gain, 1.0).to_event(1))

    return model, guide, net


def test_a_parameter_that_is_only_named_as_a_constrained_one_is_a_weight():
    class Named(torch.nn.Module):
        """Its weight has the name that PyroModule gives to the tensor behind a PyroParam."""

        def __init__(self):
            super().__init__()
            self.shift_unconstrained = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z + self.shift_unconstrained, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0))

    model, _ = bayesian(Named(), guide)
    assert list(model.prior()) == ["model.shift_unconstrained"]


def test_constrained_parameters_are_refused_by_name_or_stay_points():
    with pytest.raises(aevb.InputError, match=r"model\.sigma is a PyroParam"):
        bayesian(*pyro_module_pair())
    model, guide, net = mixed_pair()
    x = values("Gaussian", dtype=torch.float32)
    with pytest.raises(aevb.InputError, match="'sigma'"):
        aevb.Trainer(*bayesian(model, guide), x, batch_size=20, device="cpu")
    trainer = aevb.Trainer(*bayesian(model, guide, modules=net), x, batch_size=20, engine="eager", device="cpu")
    list(trainer.run(100))
    assert {"sigma", "gain", "guide.posterior.loc.0", "guide.posterior.log_scale.1"} < set(trainer.parameters)
    with trainer.param_store():
        assert pyro.param("sigma") != 1


def test_what_cannot_be_is_refused():
    pair, plain = small(point_mass=True)
    with pytest.raises(aevb.InputError, match="point mass"):
        marginal_likelihood_bound(*pair, binary())
    pair, _ = small()
    with pytest.raises(aevb.InputError, match="at least 2"):
        marginal_likelihood_bound(*pair, binary(), 1)
    with pytest.raises(aevb.InputError, match="at least 1, not 0"):
        predictive_log_likelihood(*pair, binary(), 0)
    for option in ("prior_scale", "initial_scale"):
        with pytest.raises(aevb.InputError, match=f"{option} must be positive"):
            bayesian(*plain, **{option: 0.0})


def test_the_default_optimizer_adds_no_second_prior():
    pair, _ = small()
    trainer = aevb.Trainer(*pair, binary(60), batch_size=20, engine="eager", device="cpu")
    assert trainer.engine.optimizer.param_groups[0]["weight_decay"] == 0
    plain = aevb.Trainer(*paper_pair(size=60), binary(60), batch_size=20, engine="eager", device="cpu")
    assert plain.engine.optimizer.param_groups[0]["weight_decay"] == 1


def test_a_trainer_refuses_global_latents_where_the_plate_does_not_know_n():
    """A hand-written plate: its scale shows only where minibatches are smaller than the data."""

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(w, 1.0).expand((len(x),)), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.zeros(()).double()), 1.0))

    x = torch.linspace(-1, 1, 40).double()
    with pytest.raises(aevb.InputError, match=r"'w' is one for all data.*size=40"):
        aevb.Trainer(model, guide, x, batch_size=20, device="cpu")
    aevb.Trainer(model, guide, x, batch_size=40, device="cpu")


def test_a_pair_without_local_latents_is_evaluated():
    """Its log p(x) is its log p(x|theta), whatever the samples."""
    net = nn.Linear(1, 3).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(net(torch.ones(len(x), 1).double()), 1.0).to_event(1), obs=x)

    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    exact = dist.Normal(net(torch.ones(1, 1).double()), 1.0).to_event(1).log_prob(x)
    torch.testing.assert_close(aevb.evidence.importance_sampling(model, lambda x: None, x, 5), exact)
    torch.testing.assert_close(aevb.evidence.bound(model, lambda x: None, x).bound, exact)


def test_a_scale_below_the_floor_would_never_train():
    with pytest.raises(aevb.InputError, match="e\\^-10"):
        bayesian(*paper_pair(size=60), initial_scale=1e-5)
