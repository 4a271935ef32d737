"""Monte Carlo EM: probabilistic PCA's known maximum, resumption, and the caller's noise."""

import math
from functools import partial

import pytest
import torch
from pyro import distributions as dist
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import InputError, MonteCarloEM, NonFiniteLossError, hmc
from pyro_aevb.states import sealed
from pyro_aevb.training import em_steps
from tests.pairs import binary, paper_pair
from tests.trainings import assert_equal

D = torch.float64


class LinearLikelihood(aevb.likelihoods.Likelihood):
    """Probabilistic PCA, everything learned."""

    def __init__(self, latent_dim, data_dim):
        super().__init__(latent_dim, data_dim)
        self.linear = nn.Linear(latent_dim, data_dim, dtype=D)
        self.log_scale = nn.Parameter(torch.zeros((), dtype=D))

    def forward(self, z):
        return dist.Normal(self.linear(z), self.log_scale.exp()).to_event(1)


class LinearGuide(aevb.guides.Guide):
    """N(Ax + b, full covariance the same for all): holds the exact posterior."""

    def __init__(self, data_dim, latent_dim):
        super().__init__(data_dim, latent_dim)
        self.linear = nn.Linear(data_dim, latent_dim, dtype=D)
        self.tril = nn.Parameter(torch.zeros(latent_dim, latent_dim, dtype=D))

    def forward(self, x):
        tril = self.tril.tril(-1) + torch.diag_embed(self.tril.diagonal().exp())
        return dist.MultivariateNormal(self.linear(x), scale_tril=tril)


def principal_components(n=300, k=2, d=5):
    """Data, and the greatest mean log-likelihood that any probabilistic PCA gives them (Tipping & Bishop, 1999)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(d, k, dtype=D, generator=generator)
    x = torch.randn(n, k, dtype=D, generator=generator) @ weight.T + 1
    x = x + 0.5 * torch.randn(n, d, dtype=D, generator=generator)
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[k:].mean()
    best = -0.5 * (d * math.log(2 * math.pi) + values[:k].log().sum() + (d - k) * noise.log() + d)
    return x, best.item()


def log_likelihood(model, x):
    return aevb.evidence.linear_gaussian(model, x).mean().item()


def make_model():
    with aevb.seeded(0):
        return aevb.GenerativeModel(aevb.priors.StandardNormal(2).double(), LinearLikelihood(2, 5), 300)


def with_falling_steps(trainer, n, rates):
    for rate, epochs in rates:
        trainer_optimizer = trainer.engine.optimizer
        trainer_optimizer.param_groups[0]["lr"] = rate
        list(trainer.run(epochs * n))


@pytest.mark.slow
def test_both_recover_the_maximum_likelihood_of_probabilistic_pca():
    """To 1e-3 relative, seeded: what is left is the noise of the last, small steps."""
    x, best = principal_components()
    model = make_model()
    assert log_likelihood(model, x) < 1.2 * best
    trainer = MonteCarloEM(model, x, partial(torch.optim.Adam, lr=0.03), 300, device="cpu")
    with_falling_steps(trainer, 300, [(0.03, 60), (0.01, 100), (0.003, 100), (0.001, 60)])
    assert trainer.acceptance.item() == pytest.approx(0.9, abs=0.05)
    assert best * 1.001 < log_likelihood(model, x) <= best * (1 - 1e-12)

    model = make_model()
    with aevb.seeded(0):
        guide = aevb.RecognitionModel(LinearGuide(5, 2), 300)
    estimator = aevb.estimators.SGVBAnalyticKL()
    trainer = aevb.Trainer(
        model, guide, x, estimator, partial(torch.optim.Adam, lr=0.03), 300, engine="eager", device="cpu"
    )
    with_falling_steps(trainer, 300, [(0.03, 200), (0.01, 300), (0.003, 300), (0.001, 200)])
    assert best * 1.001 < log_likelihood(model, x) <= best * (1 - 1e-12)


def make(seed=0, data=None, **options):
    with aevb.seeded(0):
        model, _ = paper_pair(size=60)
    data = binary(60) if data is None else data
    return MonteCarloEM(model, data, batch_size=25, seed=seed, device="cpu", **{"report_every": 100, **options})


def state(trainer):
    return {**trainer.model.state_dict(), "chains": trainer.chains, "step_size": trainer.step_size}


def test_stopped_and_gone_on_equals_whole(tmp_path):
    whole, cut, again = make(), make(), make(seed=0)
    reports = list(whole.run(400))
    assert [r.samples_seen for r in reports][:3] == [110, 205, 300]
    assert all(math.isnan(r.bound) for r in reports)
    assert all(math.isfinite(r.log_joint) for r in reports)
    first = list(cut.run(205))
    torch.save(cut.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second = list(again.run(400 - again.samples_seen))
    assert [r.log_joint for r in first + second] == [r.log_joint for r in reports]
    assert_equal(state(whole), state(again))


def test_a_function_of_the_seed_that_leaves_the_caller_alone():
    before = torch.get_rng_state()
    trainers = [make(), make(), make(seed=1)]
    for trainer in trainers:
        list(trainer.run(100))
    assert_equal(state(trainers[0]), state(trainers[1]))
    assert not torch.equal(trainers[0].chains, trainers[2].chains)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_minibatch_moves_and_the_rest_persists():
    trainer = make()
    before = trainer.chains.clone()
    list(trainer.run(25))
    moved = (trainer.chains != before).any(-1)
    rows = trainer.batches.visit(0)[0]
    assert moved[rows].double().mean() > 0.5
    assert moved.sum() == moved[rows].sum()


def test_each_e_step_has_so_many_updates():
    one, five = make(updates=1), make(updates=5)
    first, same = (report.log_joint for trainer in (one, five) for report in trainer.run(25))
    assert first == same  # log p(x, z) before the first update
    steps = [next(iter(t.optimizer.state.values()))["step"] for t in (one, five)]
    assert [int(s) for s in steps] == [1, 5]


def test_bad_input_is_named():
    with pytest.raises(InputError, match="support"):
        make(data=torch.full((60, 6), 2.0, dtype=D))
    for wrong in ({"updates": 0}, {"leapfrog_steps": 0}, {"report_every": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            make(**wrong)
    trainer = make()
    with pytest.raises(InputError, match="another seed"):
        make(seed=1).load_state_dict(trainer.state_dict())
    with pytest.raises(InputError, match="unknown engine 'svi'"):
        make(engine="svi")
    with pytest.raises(InputError, match="not a training state"):
        trainer.load_state_dict({"format": "x"})
    with pytest.raises(InputError, match="no weights"):
        MonteCarloEM(lambda x: None, binary(60), batch_size=25, device="cpu")
    with torch.no_grad():
        next(trainer.model.parameters())[0] = torch.nan
    with pytest.raises(NonFiniteLossError, match="nan at step 1"):
        list(trainer.run(500))


def all_of(value):
    """Every number in a state, text and all, as one comparable string of bits."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: all_of(part) for key, part in value.items()}
    return [all_of(part) for part in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("part", ["modules", "optimizer", "chains", "noise"])
def test_a_refused_state_changes_nothing(part):
    """Neither the weights, which come first, nor anything after them."""
    trainer, other = make(), make()
    list(trainer.run(50))
    list(other.run(400))
    before, state = trainer.state_dict(), other.state_dict()
    if part == "modules":
        del state["modules"]["model"]["likelihood.network.2.bias"]
    elif part == "optimizer":
        state["optimizer"]["param_groups"][0]["params"].pop()
    elif part == "chains":
        state["own"]["chains"] = state["own"]["chains"][:, :1].clone()
    else:
        del state["noise"]
    with pytest.raises(InputError, match="lacks noise" if part == "noise" else "another (model|optimizer)"):
        trainer.load_state_dict(sealed(state))
    assert all_of(before) == all_of(trainer.state_dict())


def test_both_steps_are_the_formulas_at_the_same_noise():
    """Probabilistic PCA of scale 1: 10 of 300 data, one transition and one loss."""
    x, _ = principal_components()
    model = make_model()
    trainer = MonteCarloEM(model, x, batch_size=10, leapfrog_steps=3, target_acceptance=0.7, device="cpu")
    u, size, linear = trainer.chains[:10], torch.tensor(0.2, dtype=D), model.likelihood.linear

    def log_joint(u):
        squares = u.square().sum(-1) + (x[:10] - u @ linear.weight.T - linear.bias).square().sum(-1)
        return -0.5 * (squares + 7 * math.log(2 * math.pi))

    torch.testing.assert_close(trainer.eager.loss(u, x[:10]), -300 / 10 * log_joint(u).sum(), rtol=1e-12, atol=0)
    with aevb.seeded(5):
        found, next_size, acceptance = trainer.eager.transition(u, size, x[:10])
    with aevb.seeded(5), torch.no_grad():
        start = hmc.State(u[None], *hmc.with_gradient(log_joint, u[None]))
        expected, info = hmc.step(log_joint, start, hmc.jittered(size), 3)
    torch.testing.assert_close(found, expected.position[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(acceptance, info.acceptance.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(next_size, size * (info.acceptance.mean() - 0.7).exp().clamp(0.8, 1.25))


def test_auto_captures_long_runs_and_a_saved_run_goes_on_with_its_engine(monkeypatch):
    monkeypatch.setattr("pyro_aevb.training.monte_carlo_em.AUTO_CAPTURE_STEPS", 5)
    monkeypatch.setattr(em_steps.CapturedSteps, "steps_for", lambda self, *_: self.eager)
    trainer = make()
    list(trainer.run(100))
    assert trainer.recorded is None
    list(trainer.run(125))
    captured = trainer.recorded
    assert captured is not None
    list(trainer.run(25))
    assert trainer.recorded is captured
    resumed, eager = make(), make(engine="eager")
    for other in (resumed, eager):
        other.load_state_dict(trainer.state_dict())
    assert resumed.recorded is not None
    assert eager.recorded is None
    before = trainer.state_dict()
    keys = ("identity", "step", "modules", "optimizer", "noise", "gathered")  # of a state of an earlier version
    earlier = {"format": "pyro_aevb Monte Carlo EM state 2", **{key: before[key] for key in keys}, **before["own"]}
    make().load_state_dict(earlier)
