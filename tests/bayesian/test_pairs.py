"""Any pair made Bayesian: both engines, what stays a point, drawn models."""

import copy
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.bayesian import (
    bayesian,
    draw_model,
    marginal_likelihood_bound,
    posterior_predictive,
    predictive_log_likelihood,
)
from pyro_aevb.estimators import SGVB, ScoreFunction, SGVBAnalyticKL
from tests.bayesian.test_bayesian import loss_and_gradients, small
from tests.engines.test_captured import batch_norm_pair, flow_pair, pyro_module_pair, trained, values
from tests.pairs import binary, paper_pair
from tests.training.test_any_pair import Vae
from tests.trainings import assert_equal


def vamp_pair():
    guide = aevb.guides.DiagonalNormal(6, 2, hidden=8)
    prior = aevb.priors.VampPrior(2, guide=guide, components=4)
    model = aevb.GenerativeModel(prior, aevb.likelihoods.Bernoulli(2, 6, hidden=8), 60)
    return model.double(), aevb.RecognitionModel(guide, 60).double()


def methods_pair():
    vae = Vae()
    return vae.model, vae.guide, vae.decode


def part_of_pyro_module_pair():
    model, guide = pyro_module_pair()
    return model, guide, model.decode


PAIRS = {
    "paper": (partial(paper_pair, size=60), {}, torch.float64),
    "point mass": (partial(paper_pair, size=60), {"point_mass": True}, torch.float64),
    "VampPrior": (vamp_pair, {}, torch.float64),
    "closures, flow": (flow_pair, {}, torch.float32),
    "batch norm": (batch_norm_pair, {}, torch.float32),
    "methods": (methods_pair, {}, torch.float32),
    "PyroModule": (part_of_pyro_module_pair, {}, torch.float32),
}


def make_bayesian(make, options):
    model, guide, *modules = make()
    return bayesian(model, guide, modules=modules or None, **options)


NO_CLOSED_FORM = {"VampPrior", "closures, flow"}
CASES = [(pair, SGVB) for pair in PAIRS] + [(pair, SGVBAnalyticKL) for pair in PAIRS if pair not in NO_CLOSED_FORM]
CASES += [("paper", ScoreFunction), ("methods", ScoreFunction), ("paper", partial(SGVB, 2))]


@pytest.mark.parametrize(("pair", "estimator"), CASES)
def test_recorded_equals_eager_bit_for_bit(pair, estimator):
    make, options, dtype = PAIRS[pair]
    run = partial(
        trained, partial(make_bayesian, make, options), values("Bernoulli", dtype=dtype), steps=40, batch_size=60
    )  # the hand-written plates do not know N
    one, eager, reports = run(estimator(), engine="eager", compiled=False)
    other, recorded, recorded_reports = run(estimator(), compiled=False)
    assert_equal(recorded, dict(zip(recorded, eager.values(), strict=True)))
    assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))
    assert reports == recorded_reports


@pytest.mark.slow
def test_compiled_equals_eager_to_rounding():
    run = partial(trained, partial(make_bayesian, *PAIRS["paper"][:2]), binary(60), steps=40)
    _, eager, _ = run(SGVB(), engine="eager", compiled=False)
    _, compiled, _ = run(SGVB(), compiled=True)
    for weight, expected in zip(compiled.values(), eager.values(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-9)


def test_pyros_own_training_equals_ours():
    run = partial(trained, partial(make_bayesian, *PAIRS["paper"][:2]), binary(60), steps=20)
    _, eager, _ = run(SGVB(), engine="eager", compiled=False)
    _, svi, _ = run(SGVB(), engine="svi", compiled=False)
    for name, weight in svi.items():
        torch.testing.assert_close(weight, eager[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_original_model_is_left_alone_and_trained_by_nobody(pair):
    make, options, dtype = PAIRS[pair]
    with aevb.seeded(0):
        model, guide, *modules = make()
    new_model, new_guide = bayesian(model, guide, modules=modules or None, **options)
    weights = [p for n, p in new_model.function.named_parameters() if n in new_model.function.places.values()]
    assert len(weights) == len(new_guide.posterior.loc) > 0
    before = [p.detach().clone() for p in weights]
    optimizer = partial(torch.optim.SGD, lr=1e-3, weight_decay=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = aevb.Trainer(
            new_model, new_guide, values("Bernoulli", dtype=dtype), SGVB(), optimizer, 60, engine="eager", device="cpu"
        )
        list(trainer.run(300))
    assert all(torch.equal(p, was) for p, was in zip(weights, before, strict=True))
    assert all(p.grad is None for p in weights)
    trained_ids = [id(p) for p in trainer.parameters.values()]
    assert len(trained_ids) == len(set(trained_ids))
    assert not {id(p) for p in weights} & set(trained_ids)
    points = [*new_guide.parameters(), *new_model.parameters()]  # the latter a PyroParam, left a point
    assert {id(p) for p in points} == set(trained_ids)
    assert len(list(new_model.parameters())) == (pair == "PyroModule")
    assert len(pyro.get_param_store()) == 0
    # The sampled weights of one run are nobody's parameters.
    assert {id(p) for p in trainer._store["params"].values()} <= set(trained_ids)


def test_a_vamp_priors_guide_stays_points():
    model, guide = vamp_pair()
    new_model, new_guide = bayesian(model, guide)
    likelihood = [f"model.likelihood.network.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")]
    assert new_model.function.places.keys() == {"model.prior.inputs", *likelihood}
    assert {id(p) for p in guide.parameters()} < {id(p) for p in new_guide.parameters()}
    assert list(new_model.parameters()) == []


def test_frozen_weights_stay_points_and_tied_ones_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.other.weight = self.one.weight
            self.frozen.requires_grad_(False)

        def forward(self, x):
            seen.append((self.one.weight, self.other.weight, self.frozen.weight))
            with pyro.plate("data", 10, subsample_size=len(x), dim=-1):
                pyro.sample("x", dist.Normal(self.other(self.one(self.frozen(x))), 1.0).to_event(1), obs=x)

    seen = []
    model = Tied()
    new_model, new_guide = bayesian(model, lambda x: None)
    assert list(new_model.function.places) == ["model.one.weight", "model.one.bias", "model.other.bias"]
    SGVB().differentiable_loss(new_model, new_guide, torch.ones(5, 2)).backward()
    one, other, frozen = seen[0]
    assert one is other
    assert one is not model.one.weight
    assert frozen is model.frozen.weight
    assert model.one.weight is model.other.weight
    assert model.one.weight.grad is None
    assert all(p.grad.abs().sum() > 0 for p in new_guide.parameters())


def test_a_run_resumes_bit_for_bit_and_saves_no_weights_of_the_original(tmp_path):
    def make(seed):
        (model, guide), plain = small(seed)
        trainer = aevb.Trainer(model, guide, binary(60), SGVB(), batch_size=25, engine="eager", device="cpu")
        return trainer, plain

    whole, _ = make(0)
    list(whole.run(600))
    first, _ = make(0)
    list(first.run(300))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert not [name for name in state["modules"]["model"] if "network" in name]
    second, plain = make(9)
    before = {name: value.clone() for name, value in plain[0].state_dict().items()}
    second.load_state_dict(state)
    list(second.run(300))
    assert_equal(whole.parameters, second.parameters)
    assert_equal(before, plain[0].state_dict())


def test_a_copy_is_a_pair_of_its_own():
    pair, _ = small()
    copied = copy.deepcopy(pair)
    for part in (SGVB(), SGVBAnalyticKL()):
        assert torch.equal(loss_and_gradients(part, *pair, binary())[0], loss_and_gradients(part, *copied, binary())[0])
    assert not {id(p) for p in pair[1].parameters()} & {id(p) for p in copied[1].parameters()}
    assert dict(copied[0].named_parameters()) == {}


# ---------------------------------------------------------------- plain models drawn, and numbers


@pytest.mark.parametrize("pair", ["paper", "methods", "closures, flow"])
def test_a_drawn_model_takes_part_in_the_evidence(pair):
    make, options, dtype = PAIRS[pair]
    with aevb.seeded(0):
        model, guide, *modules = make()
    new = bayesian(model, guide, modules=modules or None, initial_scale=0.5, **options)
    x = values("Bernoulli", 7, dtype=dtype)
    state = torch.get_rng_state()
    bounds = {}
    for name, arguments in {
        "a": {"seed": 1},
        "again": {"seed": 1},
        "other": {"seed": 2},
        "mean": {"mean": True},
    }.items():
        drawn = draw_model(*new, **arguments)
        bounds[name] = evidence.bound(drawn, guide, x, 3).bound
        assert evidence.importance_sampling(drawn, guide, x, 10).shape == (7,)
    assert torch.equal(bounds["a"], bounds["again"])
    assert not torch.allclose(bounds["a"], bounds["other"])
    assert torch.equal(bounds["mean"], evidence.bound(model, guide, x, 3).bound)  # untrained: the mean is the original
    assert posterior_predictive(*new, x, 3).shape == (3, 6)
    assert predictive_log_likelihood(*new, x, 2, 10).shape == (7,)
    assert torch.equal(state, torch.get_rng_state())
    assert len(pyro.get_param_store()) == 0


def test_numbers_are_functions_of_the_seed():
    pair, plain = small(initial_scale=0.5)
    x = binary(150)
    for number in (
        lambda seed: marginal_likelihood_bound(*pair, x, 3, seed=seed).draws,
        lambda seed: predictive_log_likelihood(*pair, x, 2, 5, seed=seed),
        lambda seed: posterior_predictive(*pair, x, 5, seed=seed),
    ):
        assert torch.equal(number(0), number(0))
        assert not torch.equal(number(0), number(1))
        assert len(number(0).unique()) > 1
    assert set(posterior_predictive(*pair, x, 50).unique().tolist()) == {0.0, 1.0}
    one = predictive_log_likelihood(*pair, x, 1, 20, seed=3)
    drawn = draw_model(*pair, seed=3)
    torch.testing.assert_close(
        one.mean(), evidence.importance_sampling(drawn, plain[1], x, 20).mean(), atol=0.5, rtol=0
    )
