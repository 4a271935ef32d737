"""Plates of every kind under multi-sample bounds and evidence: exact where the guide is the exact posterior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import InputError, estimators, evidence, traces
from tests.pairs import traced

N = 20
EACH = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
ROWS = torch.randn(N, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SQUARE = torch.randn(N, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)
MULTI = ["IWAE", "StickingTheLanding", "DoublyReparameterized", "Renyi", "VIMCO"]


def normal(mean, variance):
    return dist.Normal(ZERO + mean, (ZERO + variance).sqrt())


def of_one(size):
    """log p(x) of so many numbers that share a standard normal mean."""
    return dist.MultivariateNormal(torch.zeros(size).double(), torch.eye(size).double() + 1)


# ---------------------------------------------------------------- pairs whose guide is the exact posterior


def global_model(x):
    mean = pyro.sample("mean", normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(mean, 1.0), obs=x)


def global_guide(x):
    pyro.sample("mean", normal(x.sum() / (len(x) + 1), 1 / (len(x) + 1)))


def sequential_model(x):
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", normal(0.0, 1.0))
        pyro.sample(f"x{i}", normal(z, 1.0), obs=x[i])


def sequential_guide(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z{i}", normal(x[i] / 2, 0.5))


def unsized_model(x):
    with pyro.plate("data"):
        z = pyro.sample("z", normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", normal(z, 1.0), obs=x)


def unsized_guide(x):
    with pyro.plate("data"):
        pyro.sample("z", normal(x / 2, 0.5))


def two_names_model(x):
    """The latent's plate has another name than that of the data, and is theirs all the same."""
    with pyro.plate("of z", len(x)):
        z = pyro.sample("z", normal(0.0, 1.0))
    with pyro.plate("of x", len(x)):
        pyro.sample("x", normal(z, 1.0), obs=x)


def two_names_guide(x):
    with pyro.plate("of the guide", len(x)):
        pyro.sample("z", normal(x / 2, 0.5))


def inner_model(x):
    """The data's plate at dim=-2, columns inside it at dim=-1; of a square the data are the rows."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", normal(0.0, 1.0))
        with pyro.plate("columns", x.shape[1], dim=-1):
            pyro.sample("x", normal(z, 1.0), obs=x)


def inner_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        many = x.shape[1] + 1
        pyro.sample("z", normal(x.sum(-1, keepdim=True) / many, 1 / many))


def inner_latents_model(x):
    """A latent for each column of each datum, and one for each datum."""
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", normal(0.0, 1.0))
        with pyro.plate("columns", x.shape[1], dim=-1):
            w = pyro.sample("w", normal(0.0, 1.0))
            pyro.sample("x", normal(w, 1.0), obs=x)


def inner_latents_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", normal(0.0, 1.0))
        with pyro.plate("columns", x.shape[1], dim=-1):
            pyro.sample("w", normal(x / 2, 0.5))


def columns_first_model(x):
    """The data are the columns: not batch first, so that there is one log-weight for all."""
    with pyro.plate("data", x.shape[1], dim=-1):
        z = pyro.sample("z", normal(0.0, 1.0))
        with pyro.plate("rows", len(x), dim=-2):
            pyro.sample("x", normal(z, 1.0), obs=x)


def columns_first_guide(x):
    with pyro.plate("data", x.shape[1], dim=-1):
        pyro.sample("z", normal(x.sum(0) / (len(x) + 1), 1 / (len(x) + 1)))


JOINT = {
    "global": (global_model, global_guide, EACH, of_one(N).log_prob(EACH)),
    "sequential": (sequential_model, sequential_guide, EACH, normal(0.0, 2.0).log_prob(EACH).sum()),
    "columns first": (columns_first_model, columns_first_guide, ROWS, of_one(N).log_prob(ROWS.T).sum()),
}
OF_EACH = {
    "unsized": (unsized_model, unsized_guide, EACH, normal(0.0, 2.0).log_prob(EACH)),
    "two names": (two_names_model, two_names_guide, EACH, normal(0.0, 2.0).log_prob(EACH)),
    "inner": (inner_model, inner_guide, ROWS, of_one(3).log_prob(ROWS)),
    "inner latents": (inner_latents_model, inner_latents_guide, ROWS, normal(0.0, 2.0).log_prob(ROWS).sum(-1)),
    "square": (inner_model, inner_guide, SQUARE, of_one(N).log_prob(SQUARE)),
}
PAIRS = {**JOINT, **OF_EACH}


@pytest.mark.parametrize("estimator", MULTI)
@pytest.mark.parametrize("kind", PAIRS)
def test_multi_sample_bounds_are_exact_at_the_posterior(kind, estimator):
    """All log-weights are log p(x) there, whatever is drawn."""
    model, guide, x, exact = PAIRS[kind]
    loss = getattr(estimators, estimator)(3).loss(model, guide, x)
    assert loss == pytest.approx(-exact.sum().item(), rel=1e-10)


@pytest.mark.parametrize("kind", PAIRS)
def test_importance_sampling_is_exact_at_the_posterior(kind):
    model, guide, x, exact = PAIRS[kind]
    found = evidence.importance_sampling(model, guide, x, 30)
    torch.testing.assert_close(found, exact.reshape(-1), rtol=1e-10, atol=1e-10)
    assert found.shape == ((1,) if kind in JOINT else (N,))


@pytest.mark.parametrize("kind", PAIRS)
def test_the_bound_is_of_each_datum_or_of_all(kind):
    """Both of its terms are averaged over draws, and their sum is exact at each where no closed form stands for one."""
    model, guide, x, exact = PAIRS[kind]
    found = evidence.bound(model, guide, x, 30).bound
    assert found.shape == exact.reshape(-1).shape
    sampled = kind in JOINT or kind == "inner latents"  # else the KL is exact, and log p(x|z) the mean of 30
    torch.testing.assert_close(found, exact.reshape(-1), rtol=0, atol=1e-9 if sampled else 8.0)


def test_more_data_than_a_block_are_one_block_where_a_latent_belongs_to_none():
    """By blocks of a hundred there would be three numbers, each of a model whose mean is its own."""
    x = torch.randn(250, dtype=torch.float64) + 1
    found = evidence.importance_sampling(global_model, global_guide, x, 5)
    torch.testing.assert_close(found, of_one(250).log_prob(x).reshape(1), rtol=1e-9, atol=1e-9)


def test_plates_of_the_data_s_whole_size_too():
    x = torch.randn(250, dtype=torch.float64) + 1

    def model(x):
        mean = pyro.sample("mean", normal(0.0, 1.0))
        with pyro.plate("data", 250, subsample=torch.arange(len(x))):
            pyro.sample("x", normal(mean, 1.0), obs=x)

    found = evidence.importance_sampling(model, global_guide, x, 5)
    torch.testing.assert_close(found, of_one(250).log_prob(x).reshape(1), rtol=1e-9, atol=1e-9)


def test_weights_in_a_plate_of_the_data_s_size_are_global():
    """20 weights and 20 data: importance sampling answered -29.549 for -29.271, taking them for the data's."""

    def model(x):
        with pyro.plate("weights", N):
            w = pyro.sample("w", normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", normal(z + w.mean(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("weights", N):
            w = pyro.sample("w", normal(x.mean() / (2 * N + 1) * N / N, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal((x - w.mean()) / 2, 0.5))

    exact = dist.MultivariateNormal(torch.zeros(N).double(), 2 * torch.eye(N).double() + 1 / N).log_prob(EACH)
    weights = evidence.importance_weights(model, guide, EACH, 1000)
    assert weights.log_likelihood.shape == (1,)
    assert abs(weights.log_likelihood - exact).item() < 5 * weights.standard_error.item() < 1


@pytest.mark.parametrize("kind", PAIRS)
def test_gradients_of_one_weight_for_all_equal_those_by_hand(kind):
    """IWAE at fixed noise, from a guide that is off, over traces of one particle after another."""
    model, guide, x, _ = PAIRS[kind]

    def off(x):
        shift = pyro.param("shift", torch.tensor(0.3, dtype=torch.float64))
        guide(x + shift)

    with pyro.get_param_store().scope():
        pyro.clear_param_store()
        with aevb.seeded(3):
            loss = estimators.IWAE(3, vectorize_particles=False).differentiable_loss(model, off, x)
        found = loss.item(), torch.autograd.grad(loss, pyro.param("shift"))[0]
        weights = []
        with aevb.seeded(3):
            for _ in range(3):
                p, q = traced(model, off, x)
                weights.append(_by_hand(p, kind) - _by_hand(q, kind))
        bound = torch.stack(weights).logsumexp(0) - math.log(3)
        slope = torch.autograd.grad(-bound.sum(), pyro.param("shift"))[0]
    assert found[0] == pytest.approx(-bound.sum().item(), rel=1e-10)
    torch.testing.assert_close(found[1], slope, rtol=1e-9, atol=1e-9)


def _by_hand(trace, kind):
    terms = [site["log_prob"] for name, site in trace.nodes.items() if name[0] in "mwxz" and "log_prob" in site]
    if kind in JOINT:
        return sum(term.sum() for term in terms)
    return sum(term.reshape(N, -1).sum(-1) for term in terms)


# ---------------------------------------------------------------- refusals


def test_one_weight_for_all_is_refused_where_data_are_subsampled():
    def model(x):
        mean = pyro.sample("mean", normal(0.0, 1.0))
        with pyro.plate("data", 60, subsample=torch.arange(len(x))):
            pyro.sample("x", normal(mean, 1.0), obs=x)

    for compute in (estimators.IWAE(2).loss, evidence.importance_sampling):
        with pytest.raises(InputError, match="plate 'data' of site 'x' holds 20 of 60: give all data at once"):
            compute(model, global_guide, EACH)
    assert estimators.SGVB().loss(model, global_guide, EACH) > 0


def test_an_inner_plate_that_chooses_is_refused_where_there_is_a_weight_for_each_datum():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", normal(0.0, 1.0))
            with pyro.plate("columns", 3, subsample_size=2, dim=-1) as chosen:
                pyro.sample("x", normal(z, 1.0), obs=x[:, chosen])

    with pytest.raises(InputError, match=r"'z' and 'x' are scaled by 1 and 1\.5, by their plates"):
        estimators.IWAE(2).loss(model, inner_guide, ROWS)


def test_two_plates_that_could_both_be_the_data_s_are_named():
    def model(x):
        with pyro.plate("rows", N, dim=-2), pyro.plate("columns", N, dim=-1):
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", normal(z, 1.0).expand([N, N]).mask(True), obs=x[:, 0].expand(N, N))

    def guide(x):
        with pyro.plate("rows", N, dim=-2), pyro.plate("columns", N, dim=-1):
            pyro.sample("z", normal(0.0, 1.0))

    assert estimators.IWAE(2).loss(model, guide, SQUARE) > 0  # rows come first


def test_a_site_that_is_there_in_some_runs_alone_is_named():
    def model(x):
        k = pyro.sample("k", dist.Bernoulli(0.5 * ONE))
        if k:
            pyro.sample("j", dist.Bernoulli(0.5 * ONE))
        pyro.sample("x", normal(k, 1.0).expand([N]).to_event(1), obs=x)

    def guide(x):
        if pyro.sample("k", dist.Bernoulli(0.5 * ONE)):
            pyro.sample("j", dist.Bernoulli(0.5 * ONE))

    with aevb.seeded(0), pytest.raises(InputError, match="site 'j' is there in some runs and not in others"):
        estimators.VIMCO(20).loss(model, guide, EACH)


def test_a_guide_s_site_outside_the_plate_that_the_model_has_it_in_is_named():
    def guide(x):
        pyro.sample("z", normal(0.0, 1.0))

    with pytest.raises(InputError, match="site 'z' lies outside the"):
        estimators.IWAE(2).loss(inner_model, guide, ROWS)


# ---------------------------------------------------------------- plates that choose


@pytest.mark.parametrize("estimator", [estimators.SGVB(), estimators.IWAE(2)], ids=["SGVB", "IWAE"])
@pytest.mark.parametrize("batch_size", [10, 20])
@pytest.mark.parametrize("known", [False, True], ids=["rows given", "rows known"])
def test_a_pair_that_chooses_some_of_the_data_reports_nats_per_datum(estimator, batch_size, known):
    """By the posterior, so that each report is the mean log p(x) of what was chosen; it was several times that."""
    if not known and batch_size < N:
        batch_size = N
    chosen = []

    def of(x, rows):
        return (EACH if known else x)[rows]

    def model(x):
        with pyro.plate("data", N, subsample_size=4) as rows:
            chosen.append(of(x, rows))
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", normal(z, 1.0), obs=of(x, rows))

    def guide(x):
        shift = pyro.param("shift", torch.tensor(0.0, dtype=torch.float64))
        with pyro.plate("data", N, subsample_size=4) as rows:
            pyro.sample("z", normal(of(x, rows) / 2 + shift, 0.5))

    still = torch.optim.SGD
    trainer = aevb.Trainer(
        model, guide, EACH, estimator, lambda p: still(p, lr=0.0), batch_size,
        report_every=batch_size, device="cpu", engine="eager",
    )  # fmt: skip
    for progress in trainer.run(5 * batch_size):
        exact = normal(0.0, 2.0).log_prob(chosen[-1]).mean().item()
        assert progress.bound == pytest.approx(exact, rel=1e-9)


# ---------------------------------------------------------------- many particles at once


def reads_the_first_model(x):
    """What it computes from the first number of all: of many particles at once that is the first one's."""
    mean = pyro.sample("mean", normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(mean.reshape(-1)[0], 1.0), obs=x)


def ways_of(model, guide, x, count=3):
    return traces.Choices().ways(model, guide, (x,), count)


@pytest.mark.parametrize("kind", PAIRS)
def test_particles_are_run_at_once_in_any_plates(kind):
    model, guide, x, _ = PAIRS[kind]
    ways = ways_of(model, guide, x)
    assert (ways.guide, ways.model) == ("broadcast", "broadcast")


def test_a_pair_that_mixes_particles_up_is_run_one_by_one():
    """In a plate of particles it would tell the first one's density for all."""
    assert ways_of(reads_the_first_model, global_guide, EACH).model == "loop"
    exact = of_one(N).log_prob(EACH).item()
    loss = estimators.IWAE(5).loss(reads_the_first_model, global_guide, EACH)
    assert loss == pytest.approx(-exact, rel=1e-10)


def wide_global_guide(x):
    pyro.sample("mean", normal(0.3 + x.mean(), 0.4))


def wide_inner_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", normal(0.3 + x.mean(-1, keepdim=True), 0.7))
        with pyro.plate("columns", x.shape[1], dim=-1):
            pyro.sample("w", normal(0.5 * x + 0.1 * z, 0.6))


def test_log_weights_of_many_particles_are_those_of_each():
    """By hand, at the draws, with guides that are not the posterior."""
    drawn, log_guide = traces.Particles(global_model, wide_global_guide).sample_guide((EACH,), 7)
    mean = drawn["mean"].reshape(7, 1)
    likelihood, prior = traces.Particles(global_model, wide_global_guide).log_joint((EACH,), drawn, 7)
    torch.testing.assert_close(likelihood, normal(mean, 1.0).log_prob(EACH).sum(-1, keepdim=True))
    torch.testing.assert_close(prior, normal(0.0, 1.0).log_prob(mean))
    torch.testing.assert_close(log_guide, normal(0.3 + EACH.mean(), 0.4).log_prob(mean))

    pair = traces.Particles(inner_latents_model, wide_inner_guide)
    drawn, log_guide = pair.sample_guide((ROWS,), 7)
    likelihood, prior = pair.log_joint((ROWS,), drawn, 7)
    z = drawn["z"].reshape(7, N, 1)
    w = drawn["w"].reshape(7, N, 3)
    torch.testing.assert_close(likelihood, normal(w, 1.0).log_prob(ROWS).sum(-1))
    torch.testing.assert_close(prior, normal(0.0, 1.0).log_prob(w).sum(-1) + normal(0.0, 1.0).log_prob(z)[..., 0])
    of_w = normal(0.5 * ROWS + 0.1 * z, 0.6).log_prob(w).sum(-1)
    of_z = normal(0.3 + ROWS.mean(-1, keepdim=True), 0.7).log_prob(z)[..., 0]
    torch.testing.assert_close(log_guide, of_w + of_z)


@pytest.mark.parametrize("estimator", MULTI)
def test_gradients_at_once_are_those_of_one_by_one(estimator):
    """In mean: the noise of the two ways is not the same."""
    shift = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def guide(x):
        pyro.sample("mean", normal(x.mean() + shift, 0.2))

    found = []
    for options in ({"vectorize_particles": True}, {"vectorize_particles": False}):
        with aevb.seeded(1):
            made = getattr(estimators, estimator)(4, max_plate_nesting=1, **options)
            draws = [
                torch.autograd.grad(made.differentiable_loss(global_model, guide, EACH), shift)[0] for _ in range(300)
            ]
        found.append(torch.stack(draws))
    error = sum(each.var() / len(each) for each in found).sqrt()
    assert abs(found[0].mean() - found[1].mean()) < 5 * error


def test_equal_draws_do_not_hide_what_mixes_particles_up():
    """Of a discrete latent two particles are the same half of the time."""

    def model(x):
        k = pyro.sample("k", dist.Bernoulli(ONE / 2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(3 * k.reshape(-1)[0], 1.0), obs=x)

    def guide(x):
        pyro.sample("k", dist.Bernoulli(0.7 * ONE))

    for seed in range(8):
        with aevb.seeded(seed):
            assert ways_of(model, guide, EACH).model == "loop"


class Centred(torch.nn.Module):
    """Takes the mean over rows away, in training."""

    def forward(self, h):
        return h - h.mean(0, keepdim=True) if self.training else h


def test_what_mixes_particles_up_in_training_alone_is_run_one_by_one():
    centred = Centred()

    def model(x):
        pyro.module("centred", centred)
        g = pyro.sample("g", normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0, 1.0))
            pyro.sample("x", normal(centred(z) + g, 1.0), obs=x)

    def guide(x):
        pyro.sample("g", normal(1.0, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x / 2, 0.1))

    assert ways_of(model, guide, EACH).model == "loop"
    centred.eval()
    assert ways_of(model, guide, EACH).model == "broadcast"


def test_scales_of_each_datum_in_any_plates():
    weights = torch.linspace(0.5, 2, N, dtype=torch.float64)

    def scaled(function):
        return pyro.poutine.scale(function, weights.unsqueeze(-1))

    exact = (weights * of_one(3).log_prob(ROWS)).sum()
    for estimator in ("SGVB", "IWAE"):
        loss = getattr(estimators, estimator)(3).loss(scaled(inner_model), scaled(inner_guide), ROWS)
        assert loss == pytest.approx(-exact.item(), rel=1e-10)
    model, guide = (pyro.poutine.scale(f, weights) for f in (global_model, global_guide))
    with pytest.raises(InputError, match="not by one number for each log-weight"):
        estimators.IWAE(3).loss(model, guide, EACH)


def test_a_global_latent_in_a_plate_of_the_datas_size_has_one_kl_for_all():
    def model(x):
        with pyro.plate("weights", N):
            w = pyro.sample("w", normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(w.mean(-1, keepdim=True), 1.0), obs=x)

    def guide(x):
        with pyro.plate("weights", N):
            pyro.sample("w", normal(x.mean() / 2, 0.8))

    found = evidence.bound(model, guide, EACH, 50)
    assert found.bound.shape == found.kl.shape == (1,)
    with pytest.raises(InputError, match="lies in another plate than the data"):
        aevb.diagnostics.latent_kl(model, guide, EACH)
