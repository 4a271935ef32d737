"""Particles do not change what a network sees: any number of them gives what one at a time gives."""

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import estimators, evidence, traces
from pyro_aevb.estimators import IWAE, SGVB
from tests.pairs import plate, q, std

N = 100  # as many data as a block of evaluation has, and as BatchNorm1d has channels below


class Channels(nn.Module):
    """Layers that take dimension 1 for channels: right for ``(B, 1)``, wrong for ``(S, B, 1)``."""

    def __init__(self, channels=N):
        super().__init__()
        self.spread = nn.Linear(1, channels)
        self.norm = nn.BatchNorm1d(channels)
        self.join = nn.Linear(channels, 1)
        with torch.no_grad():
            for p in (self.spread.weight, self.join.weight):
                p.fill_(1 / math.sqrt(channels))
            self.spread.bias.zero_()
            self.join.bias.zero_()
            self.norm.running_mean.copy_(torch.linspace(-1, 1, channels))
            self.norm.weight.copy_(torch.linspace(0.5, 2, channels))

    def forward(self, z):
        return self.join(self.norm(self.spread(z)))


def brute(model_mean, x, count=4000):
    """log p(x) by quadrature over z."""
    z = torch.linspace(-8, 8, count).unsqueeze(-1)
    with torch.no_grad():
        mean = model_mean(z)  # (Z, 1)
    logs = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(mean, 1.0).log_prob(x.T)  # (Z, B)
    return logs.logsumexp(0) + math.log(16 / (count - 1))


def assert_within_error(found, exact):
    """Within five standard errors."""
    assert ((found.log_likelihood - exact).abs() <= 5 * found.standard_error + 2e-3).all()


def every_evaluation(model, guide, x, exact):
    """All that tell log p(x), against the exact one; the bound below it."""
    assert_within_error(evidence.importance_weights(model, guide, x, 4000), exact)
    ais = evidence.annealed_importance_sampling(model, guide, x, steps=30, chains=8)
    assert (ais.log_likelihood - exact).mean().abs() < 0.05
    assert (ais.log_likelihood - exact).abs().mean() < 0.3
    few = x[:4] if isinstance(x, torch.Tensor) else tuple(part[:4] for part in x)
    density = evidence.appendix_d(model, few, 60, guide=guide, chains=2)
    assert (density.log_likelihood - exact[:4]).abs().max() < 0.3
    bound = evidence.bound(model, guide, x, 300).bound
    assert (bound < exact + 0.1).all()
    assert bound.mean() < exact.mean() + 0.02


# ---------------------------------------------------------------- evaluation


def test_a_layer_that_reads_dimension_1_does_not_take_data_for_channels():
    net = Channels().eval()
    x = torch.linspace(-1, 2, N).unsqueeze(-1)
    model = partial(std, f=net)
    exact = brute(net, x)
    every_evaluation(model, q, x, exact)
    for rows in (1, 37, N, N + 37):  # whatever the blocks
        assert_within_error(evidence.importance_weights(model, q, x.repeat(2, 1)[:rows], 4000), exact.repeat(2)[:rows])
    with torch.no_grad():
        net.norm.weight.fill_(1.0)
        net.norm.running_mean.zero_()
        net.spread.weight.fill_(0.1)
        net.join.weight.fill_(0.1)
    linear = evidence.linear_gaussian(model, x)
    torch.testing.assert_close(linear, brute(net, x), atol=1e-3, rtol=0)


def conditional(x, y, net):
    with plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
        side = nn.functional.one_hot(y, 3).float()
        pyro.sample("x", dist.Normal(net(torch.cat([z, side], -1)), 1).to_event(1), obs=x)


def conditional_guide(x, y, shift=0):
    shift = pyro.param("shift", shift) if isinstance(shift, nn.Parameter) else shift
    with plate(x):
        pyro.sample("z", dist.Normal(x / 2 + shift, 1.0).to_event(1))


def test_a_pair_with_side_information_is_evaluated_and_trained_by_every_estimator():
    net = nn.Linear(4, 1)
    x, y = torch.randn(60, 1), torch.arange(60) % 3
    model = partial(conditional, net=net)
    guide = partial(conditional_guide, shift=nn.Parameter(torch.zeros(1)))
    mean, weight = net.bias + net.weight[0, 1 + y], net.weight[0, 0]
    exact = dist.Normal(mean, (1 + weight**2).sqrt()).log_prob(x[:, 0]).detach()
    every_evaluation(model, conditional_guide, (x, y), exact)
    torch.testing.assert_close(evidence.linear_gaussian(model, (x, y)), exact, atol=1e-4, rtol=0)
    for name in estimators.__all__:
        if name == "WakeSleep":
            continue
        count = 2 if name != "SGVBAnalyticKL" else 1
        trainer = aevb.Trainer(model, guide, (x, y), getattr(estimators, name)(count), batch_size=20, device="cpu")
        list(trainer.run(60))


def test_monte_carlo_em_takes_side_information():
    net = nn.Linear(4, 1)
    x, y = torch.randn(60, 1) + 1, torch.arange(60) % 3
    em = aevb.MonteCarloEM(partial(conditional, net=net), (x, y), batch_size=20, device="cpu", engine="eager")
    *_, last = em.run(600)
    assert math.isfinite(last.log_joint)


SIDE = torch.linspace(-1, 1, 7).unsqueeze(-1)
WEIGHTS = torch.linspace(-1, 1, 11)


def closure(x):
    """A closure over as many rows as there are data."""
    with plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
        pyro.sample("x", dist.Normal(torch.cat([z, SIDE], -1).sum(-1, keepdim=True), 1).to_event(1), obs=x)


def hard_coded(x):
    """A plate of so many, and a network that needs them as a vector."""
    with pyro.plate("data", 7):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
        pyro.sample("x", dist.Normal(z.view(7, 1) + SIDE, 1).to_event(1), obs=x)


def per_datum(x):
    """A parameter for each datum."""
    shift = pyro.param("shift", SIDE.clone())
    with pyro.plate("data", len(shift)) as rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
        pyro.sample("x", dist.Normal(torch.stack([z, shift[rows]]).sum(0).view(-1, 1), 1).to_event(1), obs=x)


def flattened(x):
    """A network that flattens all but the first dimension."""
    with plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
        pyro.sample("x", dist.Normal(z.flatten(1) + SIDE[: len(x)], 1).to_event(1), obs=x)


@pytest.mark.parametrize("model", [closure, hard_coded, per_datum, flattened])
@pytest.mark.filterwarnings("ignore:evaluated at initial values")
def test_what_neither_broadcasts_nor_folds_is_looped_over(model):
    x = torch.linspace(-2, 2, 7).unsqueeze(-1)

    def guide(x):
        with pyro.plate("data", 7):
            pyro.sample("z", dist.Normal((x - SIDE) / 2, 0.5**0.5).to_event(1))

    exact = dist.Normal(SIDE, 2**0.5).log_prob(x)[:, 0]
    torch.testing.assert_close(evidence.importance_sampling(model, guide, x, 20), exact, atol=1e-5, rtol=0)
    with pyro.get_param_store().scope():
        for particles in (1, 3):
            loss = IWAE(particles).loss(model, guide, x)
            assert loss == pytest.approx(-exact.sum().item(), abs=1e-4)


def test_each_way_gives_the_same_densities():
    """Broadcast, folded and looped over, at the same latents, in float64."""
    net = nn.Linear(1, 1).double()
    model = partial(std_double, f=net)
    x, z = torch.randn(9, 1).double(), torch.randn(5, 9, 1).double()
    found = {}
    for way in ("broadcast", "fold", "loop"):
        run = traces.particles.run(model, (x,), 5, way, {"z": z})
        found[way] = run.log_prob("x"), run.log_prob("z"), run.value("x").expand(5, 9, 1)
    expected = dist.Normal(net(z), 1.0).log_prob(x)[..., 0]
    for numbers in found.values():
        torch.testing.assert_close(numbers[0], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(numbers[1], dist.Normal(0.0, 1.0).log_prob(z)[..., 0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(numbers[2], x.expand(5, 9, 1))


def std_double(x, f):
    with plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1).to_event(1))
        pyro.sample("x", dist.Normal(f(z), 1).to_event(1), obs=x)


def test_an_mlp_is_still_broadcast():
    """What is fast stays: an ordinary pair's guide sees each datum once."""
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 6, hidden=5), 60)
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(6, 2, hidden=5), 60)
    ways = traces.Choices().ways(model, guide, (torch.zeros(10, 6),), 5)
    assert (ways.guide, ways.model, ways.plate_scale) == ("broadcast", "broadcast", 6.0)


# ---------------------------------------------------------------- training


class Decoder(nn.Module):
    """A batch normalisation in training."""

    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, channels), nn.BatchNorm1d(channels), nn.Tanh(), nn.Linear(channels, 1))

    def forward(self, z):
        return self.net(z)


@pytest.mark.parametrize("name", ["IWAE", "Renyi", "StickingTheLanding", "DoublyReparameterized", "VIMCO", "WakeSleep"])
@pytest.mark.parametrize("size", [None, 30])
def test_batch_normalisation_in_training_is_that_of_all_rows_once_a_step(name, size):
    """Against the network by hand, on S times B rows, at the same draws: as many channels as data, 8."""
    decoder = Decoder(8).double()
    by_hand = Decoder(8).double()
    by_hand.load_state_dict(decoder.state_dict())
    x, particles = torch.randn(8, 1).double(), 5
    drawn = []

    def model(x):
        with pyro.plate("data", size or len(x), subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1).to_event(1))
            drawn.append(z.detach())
            pyro.sample("x", dist.Normal(decoder(z), 1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", size or len(x), subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    estimator = getattr(estimators, name)(particles, **({"phase": "wake"} if name == "WakeSleep" else {}))
    loss = estimator.differentiable_loss(model, guide, x)
    z = drawn[-1].reshape(particles, 8, 1)
    mean = by_hand(z.flatten(0, 1)).view(particles, 8, 1)
    joint = (dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(mean, 1.0).log_prob(x))[..., 0]
    weight = joint - dist.Normal(x / 2, 1.0).log_prob(z)[..., 0]  # (S, B)
    if name in ("StickingTheLanding", "WakeSleep"):
        bound = weight.mean(0)
    elif name == "Renyi":
        bound = 2 * ((weight / 2).logsumexp(0) - math.log(particles))
    else:
        bound = weight.logsumexp(0) - math.log(particles)
    assert loss.item() == pytest.approx(-(size or 8) / 8 * bound.sum().item(), rel=1e-6)
    assert by_hand.net[1].num_batches_tracked == decoder.net[1].num_batches_tracked == 1
    torch.testing.assert_close(by_hand.net[1].running_mean, decoder.net[1].running_mean)
    torch.testing.assert_close(by_hand.net[1].running_var, decoder.net[1].running_var)


@pytest.mark.parametrize("name", ["IWAE", "DoublyReparameterized"])
def test_a_pair_with_batch_normalisation_trains_captured_as_eager(name):
    ends = []
    for engine in ("eager", "captured"):
        with aevb.seeded(0):
            decoder = Decoder(20)
        x = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
        trainer = aevb.Trainer(
            partial(registered, net=decoder),
            q,
            x,
            getattr(estimators, name)(3),
            batch_size=20,
            engine=engine,
            device="cpu",
        )
        if engine == "captured":
            trainer.engine.gradients.compiled = False
        list(trainer.run(300))
        ends.append(decoder.state_dict())
    assert ends[0]["net.1.num_batches_tracked"] == 15
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name])


def registered(x, net):
    pyro.module("net", net)
    std(x, net)


def test_each_particle_of_a_loop_is_of_the_same_rows():
    """A plate that chooses its rows would choose others for each particle, whose weights are of other data."""
    x = torch.randn(60, 1) * 3

    def model(x):
        with pyro.plate("data", 60, subsample_size=10) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", 60, subsample_size=10) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, 0.5**0.5).to_event(1))

    exact = dist.Normal(0.0, 2**0.5).log_prob(x)[:, 0]
    for vectorised in (True, False):
        losses = [IWAE(10, vectorize_particles=vectorised).loss(model, guide, x) for _ in range(200)]
        assert -sum(losses) / 200 == pytest.approx(exact.sum().item(), rel=0.1)
        assert min(losses) > -6 * exact.topk(10).values.sum().item() - 1e-3
        assert max(losses) < -6 * exact.topk(10, largest=False).values.sum().item() + 1e-3


@pytest.mark.parametrize("name", ["StickingTheLanding", "DoublyReparameterized", "IWAE"])
def test_a_guide_with_a_dropout_and_several_latents_has_one_mask(name):
    """The exact posterior whatever the mask: each weight is log p(x)."""
    drop = nn.Dropout(0.5)

    def model(x):
        with plate(x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        drop(torch.ones(len(x)))
        with plate(x):
            b = pyro.sample("b", dist.Normal(2 * x / 3, (2 / 3) ** 0.5))
            pyro.sample("a", dist.Normal(b / 2, 0.5**0.5))

    def shifted(x):
        kept = drop(torch.ones(len(x)))
        with plate(x):
            b = pyro.sample("b", dist.Normal(2 * x / 3 + kept, (2 / 3) ** 0.5))
            pyro.sample("a", dist.Normal(b / 2, 0.5**0.5))

    x = torch.tensor([0.3, -1.0, 2.0])
    exact = dist.Normal(0.0, 3**0.5).log_prob(x).sum().item()
    estimator = getattr(estimators, name)(1)
    assert -estimator.loss(model, guide, x) == pytest.approx(exact, abs=1e-4)
    bounds = torch.tensor([-estimator.loss(model, shifted, x) for _ in range(400)])
    assert bounds.mean() < exact  # another mask for the densities than for the draws gave +7.40 where log p = -1.27


def test_sticking_the_landing_follows_latents_through_each_other():
    """Zero at the posterior of two dependent latents; elsewhere the total derivative along the path."""
    w, s = torch.tensor(0.7).double().requires_grad_(), torch.tensor(0.3).double().requires_grad_()

    def model(x):
        with plate(x):
            a = pyro.sample("a", dist.Normal(torch.zeros(()).double(), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with plate(x):
            b = pyro.sample("b", dist.Normal(w * x, s.exp()))
            pyro.sample("a", dist.Normal(w * b, s.exp()))

    x = torch.tensor([0.3, -1.0, 2.0]).double()
    with aevb.seeded(3):
        loss = estimators.StickingTheLanding(1).differentiable_loss(model, guide, x)
    found = torch.autograd.grad(loss, [w, s])
    with aevb.seeded(3):
        e1 = torch.normal(torch.zeros(3).double(), torch.ones(3).double())
        e2 = torch.normal(torch.zeros(3).double(), torch.ones(3).double())
    b = w * x + s.exp() * e1
    a = w * b + s.exp() * e2
    wd, sd = w.detach(), s.detach()
    log_q = dist.Normal(wd * x, sd.exp()).log_prob(b) + dist.Normal(wd * b, sd.exp()).log_prob(a)
    log_p = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(a, 1.0).log_prob(b) + dist.Normal(b, 1.0).log_prob(x)
    expected = torch.autograd.grad(-(log_p - log_q).sum(), [w, s])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_weight_for_each_datum_weighs_its_bound():
    """``poutine.scale`` by a tensor: importance of each datum, in training; evaluation knows nothing of it."""
    from pyro import poutine

    def model(x, w):
        with plate(x), poutine.scale(scale=w):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x, w):
        with plate(x), poutine.scale(scale=w):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    x, w = torch.randn(20, 1), torch.rand(20) + 0.1
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)[:, 0]
    for name in estimators.__all__:
        if name in ("WakeSleep", "SGVBAnalyticKL"):
            continue
        loss = getattr(estimators, name)(3).loss(model, guide, x, w)
        assert loss == pytest.approx(-(w * exact).sum().item(), rel=1e-4), name
    torch.testing.assert_close(evidence.importance_sampling(model, guide, (x, w), 10), exact, atol=1e-4, rtol=0)

    def moved(x, w):
        with plate(x), poutine.scale(scale=w):
            pyro.sample("z", dist.Normal(x / 2 + pyro.param("shift", torch.tensor(0.0)), 0.5**0.5).to_event(1))

    trainer = aevb.Trainer(model, moved, (x, w), SGVB(), batch_size=20, device="cpu")
    (report,) = trainer.run(20)
    assert report.bound == pytest.approx((w * exact).mean().item(), rel=1e-4)


# ---------------------------------------------------------------- what a choice must not overlook


class Gated(nn.Module):
    """A softmax over the wrong dimension, behind a gate that is shut at first."""

    def __init__(self):
        super().__init__()
        self.gate, self.net = nn.Parameter(torch.zeros(())), nn.Linear(1, 3)

    def forward(self, z):
        h = self.net(z)
        return (h + self.gate * 6 * (5 * h).softmax(1)).sum(-1, keepdim=True)


def test_initial_zeros_do_not_hide_what_a_network_does():
    net = Gated()
    model, x = partial(std, f=net), torch.linspace(-1, 1, 20).unsqueeze(-1)
    estimator = IWAE(2)
    estimator.loss(model, q, x)
    with torch.no_grad():
        net.gate.fill_(1.0)
    with aevb.seeded(0):
        found = estimator.loss(model, q, x)
    with aevb.seeded(0):
        assert found == pytest.approx(IWAE(2, vectorize_particles=True).loss(model, q, x), rel=1e-5)
    looped = sum(IWAE(2, vectorize_particles=False).loss(model, q, x) for _ in range(50)) / 50
    several = sum(estimator.loss(model, q, x) for _ in range(50)) / 50
    assert several == pytest.approx(looped, rel=0.05)


def test_keyword_arguments_have_choices_of_their_own():
    """Semi-supervised: with labels another network runs."""
    deep = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).eval()

    def model(x, y=None):
        std(x, (lambda z: z) if y is None else (lambda z: deep(z) + y))

    def guide(x, y=None):
        q(x)

    x, y = torch.randn(20, 1), torch.randn(20, 1)
    estimator = IWAE(3)
    for _ in range(2):
        estimator.loss(model, guide, x)
        found = estimator.loss(model, guide, x, y=y)
        fresh = sum(IWAE(3, vectorize_particles=False).loss(model, guide, x, y=y) for _ in range(30)) / 30
        assert found == pytest.approx(fresh, rel=0.3)


def test_a_captured_trainings_recording_is_no_part_of_the_pair():
    """Its graph is a module, too, which was taken for one that comes later, and recorded anew at each run."""
    decoder = Decoder(20)
    trainer = aevb.Trainer(
        partial(registered, net=decoder), q, torch.randn(60, 1), SGVB(), batch_size=20, engine="captured", device="cpu"
    )
    trainer.engine.gradients.compiled = False
    before, state = dict(trainer.modules), trainer.state_dict()
    list(trainer.run(60))
    recording = trainer.engine.gradients.kept.recordings[20]
    list(trainer.run(60))
    assert trainer.modules == before
    assert trainer.engine.gradients.kept.recordings[20] is recording
    trainer.load_state_dict(state)


def test_compiled_modules_are_switched_and_put_back():
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(1)

        def forward(self, z):
            return self.norm(self.drop(z))

    net = torch.jit.script(Scripted())
    x = torch.randn(20, 1)
    running = net.norm.running_mean.clone()
    bounds = [evidence.bound(partial(std, f=net), q, x, 1, seed=0).bound for _ in range(2)]
    assert torch.equal(*bounds)
    plain = evidence.bound(partial(std, f=lambda z: z / (1 + 1e-5) ** 0.5), q, x, 1, seed=0).bound
    torch.testing.assert_close(bounds[0], plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(net.norm.running_mean, running)
    assert net.training
    assert net.drop.training


def test_an_autoguide_is_evaluated_by_the_density_of_what_its_draws_are_made_of():
    from pyro.infer.autoguide import AutoNormal

    def model(x):
        with pyro.plate("data", 12, dim=-1):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.linspace(0.1, 3, 12)
    guide = AutoNormal(model, init_scale=1.0)
    guide(x)
    z = torch.linspace(1e-4, 30, 60_000)
    logs = dist.LogNormal(0.0, 1.0).log_prob(z).unsqueeze(-1) + dist.Normal(z.unsqueeze(-1), 1.0).log_prob(x)
    exact = logs.logsumexp(0) + math.log(30 / 60_000)
    assert_within_error(evidence.importance_weights(model, guide, x, 20_000), exact)
    with aevb.seeded(0):
        one = IWAE(1).loss(model, guide, x)
    with aevb.seeded(0):
        assert one == pytest.approx(SGVB().loss(model, guide, x), rel=1e-5)
    for name in ("StickingTheLanding", "DoublyReparameterized"):
        loss = getattr(estimators, name)(2).differentiable_loss(model, guide, x)
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(guide.parameters())))


def test_a_plate_of_another_name_is_the_datas_if_it_is_one_for_each_datum():
    def model(x):
        with pyro.plate("zs", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("xs", len(x), dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("zs", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2 + pyro.param("m", torch.tensor(0.0)), 0.5**0.5))

    x = torch.randn(60)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    with pyro.get_param_store().scope():
        pyro.param("m", torch.tensor(0.0))
        torch.testing.assert_close(evidence.importance_sampling(model, guide, x, 10), exact)
    list(aevb.Trainer(model, guide, x, IWAE(2), batch_size=20, device="cpu").run(60))


def test_an_annealed_tensor_around_a_latent_is_seen_when_it_moves():
    """Equal at first, and another objective later: the multi-sample bounds refuse it when it differs."""
    from pyro import poutine

    beta = torch.tensor(1.0)

    def model(x):
        with plate(x):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x):
        with plate(x), poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    estimator, x = IWAE(2), torch.randn(5, 1)
    with pyro.validation_enabled(False):
        estimator.loss(model, guide, x)
        beta.fill_(0.01)
        with pytest.raises(aevb.InputError, match="scaled by"):
            estimator.loss(model, guide, x)


def test_a_bound_of_rows_that_the_pair_chooses_is_refused():
    def pair(x):
        with pyro.plate("data", 20, subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", 20, subsample_size=5) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, 1.0).to_event(1))

    for evaluate in (evidence.bound, evidence.importance_sampling):
        with pytest.raises(aevb.InputError, match="chooses 5 of the 20 data"):
            evaluate(pair, guide, torch.randn(20, 1))
    with pytest.raises(aevb.InputError, match="chooses 5 of the 20 data"):
        evidence.posterior_means(guide, torch.randn(20, 1))


@pytest.mark.parametrize("vectorised", [True, False])
def test_a_planar_flow_tells_the_density_of_each_particle_that_it_drew(vectorised):
    """It cannot be inverted, and remembers its last draw alone."""
    from pyro.distributions.transforms import Planar

    flow = Planar(2)

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            base = dist.Normal(x.expand(-1, 2) / 3, 0.8).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    x = torch.randn(5, 1)
    exact = dist.Normal(0.0, 3**0.5).log_prob(x).sum().item()
    bounds = [-IWAE(50, vectorize_particles=vectorised).loss(model, guide, x) for _ in range(10)]
    assert sum(bounds) / 10 == pytest.approx(exact, abs=0.5)


@pytest.mark.parametrize("name", ["SGVB", "SGVBAnalyticKL", "ScoreFunction"])
def test_vectorised_single_sample_bounds_are_checked_too(name):
    """A softmax over data, where a plate of particles has data at dimension 1."""
    net = nn.Sequential(nn.Linear(1, 3), nn.Softmax(1), nn.Linear(3, 1))
    model, x = partial(std, f=net), torch.linspace(-1, 1, 20).unsqueeze(-1)
    with torch.no_grad():
        net[0].weight.mul_(5), net[2].weight.mul_(5)
    made = getattr(estimators, name)
    vectorised = sum(made(5, vectorize_particles=True).loss(model, q, x) for _ in range(60)) / 60
    looped = sum(made(5).loss(model, q, x) for _ in range(60)) / 60
    assert vectorised == pytest.approx(looped, rel=0.05)


def test_discrete_latents_of_equal_plates_are_told_apart():
    def model(x, shared):
        with plate(x, "switches"):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
        with plate(x):
            mean = k.float().mean() if shared else k.float()
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        with plate(x, "switches"):
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 3) / 3))

    x = torch.linspace(0, 2, 6)
    logs = dist.Normal(torch.arange(3.0), 1.0).log_prob(x.unsqueeze(-1))
    exact = logs.logsumexp(-1) - math.log(3)
    assert_within_error(evidence.importance_weights(partial(model, shared=False), guide, x, 3000), exact)
    together = []  # over all values of all six
    for ks in itertools.product(range(3), repeat=6):
        mean = torch.tensor(ks).float().mean()
        together.append(dist.Normal(mean, 1.0).log_prob(x).sum() - 6 * math.log(3))
    found = evidence.importance_weights(partial(model, shared=True), guide, x, 3000)
    assert_within_error(found, torch.stack(together).logsumexp(0).reshape(1))


def test_a_keyword_that_changes_what_a_network_reads_has_a_way_of_its_own():
    def model(x, total=False):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1).to_event(1))
            mean = z.sum(1, keepdim=True) if total else z[..., :1]  # of data, where particles broadcast
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x, total=False):
        with plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(3) + 0 * x, 1.0).to_event(1))

    x, kept = torch.linspace(-2, 2, 5).unsqueeze(-1), IWAE(4)
    for total in (False, True, False):
        found = []
        for estimator in (kept, IWAE(4), IWAE(4, vectorize_particles=False)):
            with aevb.seeded(0):
                found.append(sum(estimator.loss(model, guide, x, total=total) for _ in range(300)) / 300)
        assert found[0] == pytest.approx(found[1], rel=1e-6)
        assert found[0] == pytest.approx(found[2], rel=0.03)
