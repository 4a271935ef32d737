"""Wake-sleep: both gradients against closed forms, enumeration and plain torch; nothing across; any pair; lean."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI

import pyro_aevb as aevb
from pyro_aevb import traces
from pyro_aevb.estimators import SGVB, WakeSleep
from tests.engines.test_captured import pyro_module_pair, trained, values
from tests.estimators.test_exact import TOGETHER, exact_bound, exact_elbo, gradients_where_any, z_scores
from tests.pairs import LinearGaussian, binary, gradients, hand_written_pair, paper_pair
from tests.trainings import assert_equal


def loss_and_gradients(estimator, model, guide, *args, seed=5):
    """A loss and every gradient, ``None`` where there is none, at fixed noise."""
    for module in (model, guide):
        module.zero_grad()
    with aevb.seeded(seed):
        loss = estimator.differentiable_loss(model, guide, *args)
    loss.backward()
    return loss.item(), *({n: p.grad for n, p in module.named_parameters()} for module in (model, guide))


def replicates(estimator, model, guide, x, count):
    """Gradients by parameter, ``(count / 10, ...)``, each the mean of ten independent runs."""
    runs, x = [], x.repeat(TOGETHER, 1)
    with aevb.seeded(0):
        for _ in range(count // TOGETHER):
            model.zero_grad()
            guide.zero_grad()
            (estimator.differentiable_loss(model, guide, x) / TOGETHER).backward()
            runs.append(gradients_where_any(model, guide))
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


# ---------------------------------------------------------------- expected gradients


def exact_dreams(pair):
    """E[log q(z|x)] over dreams of the model, summed over a minibatch, in closed form and differentiable by the guide.

    z - E_q[z|x] is Gaussian: (I - G W) z - G sigma e - G (b_p - b_q) - shift, with z and e standard normal.
    """
    likelihood, guide = pair.likelihood, pair.guide.guide
    weight, bias = likelihood.weight.detach(), likelihood.bias.detach()
    left = torch.eye(weight.shape[1], dtype=weight.dtype) - guide.gain @ weight
    mean = -(guide.gain @ (bias - guide.bias)) - guide.shift
    variance = left.square().sum(1) + likelihood.sigma**2 * guide.gain.square().sum(1)
    scaled = (variance + mean**2) * (-2 * guide.log_scale).exp()
    return -len(pair.x) * (0.5 * scaled + guide.log_scale + 0.5 * math.log(2 * math.pi)).sum()


def expected_gradients(pair):
    """Of the loss: wake's by the model's parameters, sleep's by the guide's."""
    (-exact_elbo(pair)).backward()
    pair.guide.zero_grad()
    (-exact_dreams(pair)).backward()
    return gradients(pair.model, pair.guide)


@pytest.mark.parametrize("particles", [1, 5])
def test_both_gradients_are_unbiased(particles):
    """43 z-scores, of 200 means: fails by chance with p = 5e-4, and the seed is fixed."""
    pair = LinearGaussian(shift=0.3, widen=1.5)
    with torch.no_grad(), aevb.seeded(1):  # at the exact gain and bias some expected gradients would be zero
        for parameter in pair.guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = expected_gradients(pair)
    runs = replicates(WakeSleep(particles), pair.model, pair.guide, pair.x, 2000)
    assert z_scores(runs, expected).abs().max() < 4.5
    assert min(e.abs().max() for e in expected.values()) > 1  # there is something to be wrong about


def test_at_the_posterior_sleep_has_nothing_to_teach():
    """The expected gradient of the guide is zero, and the mean of many is; 23 z-scores, of 100 means: p = 4e-4."""
    pair = LinearGaussian()
    (-exact_dreams(pair)).backward()
    zero = {f"1.{n}": p.grad for n, p in pair.guide.named_parameters()}
    assert max(g.abs().max() for g in zero.values()) < 1e-12
    runs = replicates(WakeSleep(phase="sleep"), pair.model, pair.guide, pair.x, 1000)
    assert z_scores(runs, zero).abs().max() < 4.5


def bits_pair():
    """Two latent bits, three observed: all sums have 4 or 32 terms."""
    with aevb.seeded(3):
        prior = aevb.priors.Family(2, distribution="Bernoulli")
        model = aevb.GenerativeModel(prior, aevb.likelihoods.Bernoulli(2, 3, hidden=4))
        guide = aevb.RecognitionModel(aevb.guides.Family(3, 2, hidden=4, distribution="Bernoulli"))
    return model.double(), guide.double(), binary(5, 3)


def bits(count):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * count).double()


def test_both_gradients_of_bits_against_enumeration():
    """About 60 z-scores, of 200 means: p = 7e-4, and the seed is fixed."""
    model, guide, x = bits_pair()
    (-exact_bound(model, guide, x, 1)).backward()
    wake = {n: g for n, g in gradients_where_any(model, guide).items() if n.startswith("0.")}
    guide.zero_grad()
    z, dreamt = bits(2), bits(3)
    with torch.no_grad():
        probability = (model.prior().log_prob(z) + model.likelihood(z).log_prob(dreamt.unsqueeze(1))).exp()  # (8, 4)
    assert probability.sum().item() == pytest.approx(1)
    log_guide = guide.guide(dreamt).log_prob(z.unsqueeze(1)).T  # (8, 4)
    (-len(x) * (probability * log_guide).sum()).backward()
    sleep = {n: g for n, g in gradients_where_any(model, guide).items() if n.startswith("1.")}
    runs = replicates(WakeSleep(), model, guide, x, 2000)
    assert z_scores(runs, wake | sleep).abs().max() < 4.5


# ---------------------------------------------------------------- at fixed noise


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("size", [None, 1000])
@pytest.mark.parametrize("likelihood", ["Bernoulli", "Gaussian"])
def test_equals_plain_torch_at_the_same_noise(likelihood, size):
    model, guide = paper_pair(likelihood, size=size)
    x = binary()
    scale = 1 if size is None else size / len(x)
    found = loss_and_gradients(WakeSleep(), model, guide, x)

    with aevb.seeded(5):
        mean, log_variance = guide.guide.network(x).detach().chunk(2, -1)
        z = mean + (log_variance / 2).exp() * normal(len(x), 2)
        dreamt_z = normal(len(x), 2)
        if likelihood == "Bernoulli":
            probability = model.likelihood.network(dreamt_z).sigmoid()
            dreamt_x = (torch.rand(len(x), 6, dtype=torch.float64) < probability).double()
        else:
            output = model.likelihood.network(dreamt_z).detach()
            dreamt_x = output[:, :6] + (output[:, 6:] / 2).exp() * normal(len(x), 6)

    log_p = model.likelihood(z).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = dist.Normal(mean, (log_variance / 2).exp()).log_prob(z).sum(-1)
    mean, log_variance = guide.guide.network(dreamt_x).chunk(2, -1)
    dreamt_log_q = dist.Normal(mean, (log_variance / 2).exp()).log_prob(dreamt_z).sum(-1)
    wake = torch.autograd.grad(-scale * log_p.sum(), list(model.parameters()))
    sleep = torch.autograd.grad(-scale * dreamt_log_q.sum(), list(guide.parameters()))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(found[0], -scale * (log_p - log_q).sum().item(), **close)
    for part, gradient in ((found[1], wake), (found[2], sleep)):
        torch.testing.assert_close(list(part.values()), list(gradient), **close)


@pytest.mark.parametrize("options", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": False}])
def test_nothing_crosses_between_the_phases(options):
    """None, not only zero; the value is the bound in every phase, SGVB's where the noise is the same."""
    pair = LinearGaussian(shift=0.3, widen=1.5)
    parts = pair.model, pair.guide, pair.x
    both, wake, sleep = (loss_and_gradients(WakeSleep(phase=p, **options), *parts) for p in ("both", "wake", "sleep"))
    assert both[0] == wake[0] == sleep[0]
    assert all(g is None for g in wake[2].values())
    assert all(g is None for g in sleep[1].values())
    assert_equal(both[1], wake[1])
    assert_equal(both[2], sleep[2])
    with aevb.seeded(5):
        vectorised = {"vectorize_particles": True, "max_plate_nesting": 1, **options}
        assert SGVB(**vectorised).loss(*parts) == pytest.approx(both[0], rel=1e-12)


def test_parameters_shared_through_a_vamp_prior_learn_in_both_phases():
    with aevb.seeded(0):
        q = aevb.guides.DiagonalNormal(6, 2, hidden=4)
        prior = aevb.priors.VampPrior(2, guide=q, components=3)
        model = aevb.GenerativeModel(prior, aevb.likelihoods.Bernoulli(2, 6, hidden=4)).double()
    guide = aevb.RecognitionModel(q).double()
    wake, sleep, both = (
        loss_and_gradients(WakeSleep(phase=p), model, guide, binary())[2] for p in ("wake", "sleep", "both")
    )
    for name, gradient in both.items():
        assert wake[name].abs().sum() > 0
        torch.testing.assert_close(gradient, wake[name] + sleep[name])


def test_the_loss_with_a_size_is_n_over_m_times_that_without():
    one, many = (
        loss_and_gradients(WakeSleep(2), pair.model, pair.guide, pair.x)
        for pair in (LinearGaussian(shift=0.3, size=None), LinearGaussian(shift=0.3, size=3700))
    )
    assert many[0] == pytest.approx(100 * one[0], rel=1e-12)
    for first, second in zip(one[1:], many[1:], strict=True):
        for name, gradient in first.items():
            torch.testing.assert_close(second[name], 100 * gradient, rtol=1e-10, atol=1e-9)


def test_at_the_posterior_the_value_is_log_p():
    pair = LinearGaussian()
    loss, *_ = loss_and_gradients(WakeSleep(), pair.model, pair.guide, pair.x)
    assert -loss == pytest.approx(pair.log_evidence.sum().item(), rel=1e-10)


def test_unlikely_dreams_do_not_round_off_the_bound():
    """In float32 the bound is kept to its last bit where log q of the dreams is a million times as large."""
    pair = LinearGaussian(shift=0.3)
    model, guide, x = pair.model.float(), pair.guide.float(), pair.x.float()
    with torch.no_grad():
        guide.guide.log_scale.sub_(9)
    both, wake = (loss_and_gradients(WakeSleep(phase=p), model, guide, x)[0] for p in ("both", "wake"))
    assert both == wake
    with aevb.seeded(5):
        assert traces.dream_log_guide(model, guide, (x,)) < -1e6 * abs(wake)


# ---------------------------------------------------------------- any pair, any engine


@pytest.mark.slow
def test_bits_learn():
    """A guide and a model of bits, from 200 data of two patterns: the exact bound rises toward -log 2 a datum."""
    model, guide, _ = bits_pair()
    x = binary(1, 3)
    x = torch.cat([x, 1 - x]).repeat(100, 1)
    before = exact_bound(model, guide, x, 1).item() / len(x)
    trainer = aevb.Trainer(
        model, guide, x, WakeSleep(), partial(torch.optim.Adam, lr=1e-2), 50, engine="eager", device="cpu"
    )
    list(trainer.run(50_000))
    after = exact_bound(model, guide, x, 1).item() / len(x)
    assert before < -1.7
    assert -math.log(2) - 0.3 < after < -math.log(2)


@pytest.mark.slow
def test_training_reaches_the_evidence_of_a_linear_gaussian_pair():
    """Where model and guide can be exact, wake-sleep and the bound want the same."""
    pair = LinearGaussian(shift=0.0, widen=3.0)
    with torch.no_grad(), aevb.seeded(0):
        pair.likelihood.weight.mul_(0.5)
        pair.guide.guide.gain.mul_(0.2)
    before = exact_elbo(pair).item() / len(pair.x)
    trainer = aevb.Trainer(
        pair.model, pair.guide, pair.x, WakeSleep(), partial(torch.optim.Adam, lr=5e-3), 37, engine="eager",
        device="cpu",
    )  # fmt: skip
    list(trainer.run(1500 * 37))
    covariance = torch.cov(pair.x.T, correction=0)
    best = torch.distributions.MultivariateNormal(pair.x.mean(0), covariance).log_prob(pair.x).mean().item()
    after = exact_elbo(pair).item() / len(pair.x)
    assert before < best - 3
    assert best - 1 < after < best


def test_drops_into_svi_with_parameters_of_the_store():
    model, guide = hand_written_pair(40)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator) @ torch.randn(2, 4, generator=generator) + 0.1
    with aevb.seeded(0):
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), WakeSleep(2))
        first = sum(svi.evaluate_loss(x) for _ in range(20)) / 20
        for _ in range(400):
            svi.step(x)
        last = sum(svi.evaluate_loss(x) for _ in range(20)) / 20
    assert last < first - 20
    assert pyro.param("scale").min() > 0


@pytest.mark.parametrize(
    ("make_pair", "data"),
    [
        (partial(paper_pair, size=60), values("Bernoulli")),
        (partial(hand_written_pair, 60, data_dim=6), values("pyro.param", dtype=torch.float32)),
        (pyro_module_pair, values("PyroModule", dtype=torch.float32)),
    ],
    ids=["Bernoulli", "pyro.param", "PyroModule"],
)
@pytest.mark.parametrize("phase", ["both", "wake", "sleep"])
def test_recorded_equals_eager_bit_for_bit(make_pair, data, phase):
    _, eager, reports = trained(make_pair, data, WakeSleep(phase=phase), engine="eager", compiled=False, steps=60)
    _, recorded, again = trained(make_pair, data, WakeSleep(phase=phase), compiled=False, steps=60)
    assert_equal(recorded, dict(zip(recorded, eager.values(), strict=True)))
    assert reports == again


@pytest.mark.slow
def test_compiled_equals_eager_to_rounding():
    make_pair = partial(paper_pair, size=60)
    _, eager, _ = trained(make_pair, values("Bernoulli"), WakeSleep(), engine="eager", compiled=False)
    _, compiled, _ = trained(make_pair, values("Bernoulli"), WakeSleep(), compiled=True)
    for weight, expected in zip(compiled.values(), eager.values(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-9)


def test_a_recorded_step_holds_no_product_too_many():
    """Guide forward; decoder forward, and backward but by z; dreams; guide forward and backward but by x: 14."""
    trainer, *_ = trained(partial(paper_pair, size=60), values("Bernoulli"), WakeSleep(), compiled=False, steps=2)
    (recording,) = trainer.engine.gradients.kept.recordings.values()
    operations = [str(node.target) for node in recording.graph.graph.nodes]
    assert sum(o.startswith(("aten.mm", "aten.addmm")) for o in operations) == 2 + (2 + 3) + 2 + (2 + 3)
    assert not any("bernoulli" in o for o in operations)
