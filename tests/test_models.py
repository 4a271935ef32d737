"""Conditions, exposures, missing values, tables: what a pair is given besides plain data, against closed forms."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_aevb as aevb
from pyro_aevb import estimators, evidence, predictions
from pyro_aevb.distributions import PartlyObserved
from tests.everything import estimators_of
from tests.oracles import RECIPES, build
from tests.trainings import assert_equal

K, D, N, C = 2, 5, 60, 3
NAN = float("nan")


def holes(x, share=0.3, seed=0):
    """The data with holes; no row is empty."""
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    gone[:, 0] &= ~gone.all(1)
    return torch.where(gone, torch.tensor(NAN, dtype=x.dtype), x)


def linear_gaussian(missing=True):
    """A linear-Gaussian pair whose guide is a small network, and data with holes."""
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Gaussian(K, D, hidden=[], scale="pixel")
        with torch.no_grad():
            likelihood.log_variance.copy_(torch.linspace(-1, 0, D))
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(K), likelihood, N, missing=missing).double()
        guide = aevb.guides.DiagonalNormal(D * (1 + missing), K, hidden=[8])
        q = aevb.RecognitionModel(guide, N, missing=missing).double()
        x = model.likelihood(torch.randn(N, K).double()).sample()
    return model, q, holes(x) if missing else x


def joint(model):
    """Mean ``(D,)`` and covariance ``(D, D)`` of p(x)."""
    layer = model.likelihood.network[0]
    noise = model.likelihood.log_variance.exp()
    return layer.bias, layer.weight @ layer.weight.T + noise.diag()


def exact(model, x):
    """log p(x_obs), E[x | x_obs] and its variance, each datum by itself from the joint Gaussian."""
    mean, covariance = (part.detach() for part in joint(model))
    logs, means, variances = [], [], []
    for row in x:
        o = ~row.isnan()
        gain = covariance[:, o] @ torch.linalg.inv(covariance[o][:, o])
        logs.append(stats.multivariate_normal(mean[o].numpy(), covariance[o][:, o].numpy()).logpdf(row[o].numpy()))
        means.append(torch.where(o, row, mean + gain @ (row[o] - mean[o])))
        variances.append((covariance - gain @ covariance[o]).diagonal())
    return torch.tensor(np.array(logs)), torch.stack(means), torch.stack(variances)


# ---------------------------------------------------------------- missing values


def test_the_evidence_of_what_was_observed_is_the_exact_marginal_by_every_method():
    model, guide, x = linear_gaussian()
    log_px, _, _ = exact(model, x)
    torch.testing.assert_close(evidence.linear_gaussian(model, x), log_px, rtol=1e-10, atol=1e-10)
    found = evidence.importance_weights(model, guide, x, 20_000)
    assert ((found.log_likelihood - log_px).abs() < 5 * found.standard_error + 1e-3).all()
    annealed = evidence.annealed_importance_sampling(model, guide, x, steps=100, chains=16)
    assert ((annealed.log_likelihood - log_px).abs() < 6 * annealed.standard_error + 0.02).float().mean() > 0.95
    assert (evidence.bound(model, guide, x, 200).bound < log_px + 0.5).all()


def test_the_bound_is_that_of_the_observed_dimensions_term_by_term():
    model, guide, x = linear_gaussian()
    z = torch.randn(4, N, K, dtype=torch.float64)
    made = model.likelihood_at(z)
    each = model.likelihood(z).base_dist.log_prob(x.nan_to_num(7.0))
    torch.testing.assert_close(made.log_prob(x), torch.where(x.isnan(), 0.0, each).sum(-1))
    seen = guide.seen(x)
    torch.testing.assert_close(seen, torch.cat([x.nan_to_num(0.0), (~x.isnan()).double()], -1))


@pytest.mark.parametrize("name", estimators.__all__)
@pytest.mark.parametrize("engine", ["eager", "captured"])
def test_every_estimator_gives_no_weight_to_what_stands_in_a_hole(name, engine):
    """Loss and gradients with a dimension always missing are those of the pair without it, at the same noise."""
    model, guide, x = linear_gaussian()
    estimator = estimators_of(2, [name])[name]
    whole = torch.cat([x[:, :3], torch.full((N, 2), NAN, dtype=x.dtype)], 1)
    small = _first_dimensions(model, guide, 3)
    losses, gradients = [], []
    for pair, data in (((model, guide), whole), (small, x[:, :3])):
        for part in pair:
            part.zero_grad()
        with aevb.seeded(1):
            loss = estimator.differentiable_loss(*pair, data)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(pair[0].likelihood.network[0].weight.grad[:3])
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if engine == "captured":
        _captured_equals_eager(estimator, model, guide, x)


def _first_dimensions(model, guide, count):
    """The same pair over the first dimensions alone."""
    small, q, _ = linear_gaussian()
    with torch.no_grad():
        small.likelihood.data_dim = count
        small.likelihood.log_variance = torch.nn.Parameter(model.likelihood.log_variance[:count].clone())
        for name in ("weight", "bias"):
            own = getattr(model.likelihood.network[0], name)
            setattr(small.likelihood.network[0], name, torch.nn.Parameter(own[:count].clone()))
        kept = [*range(count), *range(D, D + count)]
        first = q.guide.network[0]
        first.weight = torch.nn.Parameter(first.weight[:, kept].clone())
        q.guide.data_dim = 2 * count
    return small, q


def _captured_equals_eager(estimator, model, guide, x):
    states = []
    for engine in ("eager", "captured"):
        model, guide, x = linear_gaussian()
        trainer = aevb.Trainer(model, guide, x, estimator, batch_size=20, engine=engine, device="cpu")
        if engine == "captured":
            trainer.engine.gradients.compiled = False
        list(trainer.run(3 * N))
        states.append({**model.state_dict(), **{f"q.{k}": v for k, v in guide.state_dict().items()}})
    assert_equal(*states)


def test_imputation_is_the_exact_conditional():
    model, guide, x = linear_gaussian()
    _, mean, variance = exact(model, x)
    found = predictions.impute(model, guide, x, 20_000, draws=2000)
    gone = x.isnan()
    assert torch.equal(found.mean[~gone], x[~gone])
    assert (found.draws[:, ~gone] == x[~gone]).all()
    error = (variance.sqrt() / (found.effective_samples.unsqueeze(-1)).sqrt())[gone]
    assert ((found.mean - mean)[gone].abs() < 5 * error).all()
    drawn = found.draws[:, gone]
    assert ((drawn.mean(0) - mean[gone]).abs() < 6 * (variance[gone] / 2000).sqrt() + 4 * error).all()
    assert (drawn.var(0) / variance[gone] - 1).abs().max() < 0.25


def test_a_row_without_any_value_has_evidence_zero_and_the_models_own_mean():
    model, guide, _ = linear_gaussian()
    empty = torch.full((2, D), NAN, dtype=torch.float64)
    found = evidence.importance_weights(model, guide, empty, 20_000)
    assert (found.log_likelihood.abs() < 5 * found.standard_error + 1e-3).all()
    mean, covariance = joint(model)
    error = (covariance.diagonal() / 20_000).sqrt() * 10
    assert ((predictions.impute(model, guide, empty, 20_000).mean - mean).abs() < error).all()


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for (f, n), several in RECIPES.items() if f == "likelihoods" for o in several]
)
def test_every_likelihood_leaves_out_what_is_missing(name, options):
    with aevb.seeded(0):
        likelihood = build("likelihoods", name, options, K, 6).double()
        z = torch.randn(7, K, dtype=torch.float64)
        x = likelihood(z).sample().double()
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    made = PartlyObserved(likelihood(z), validate_args=True)
    each = likelihood(z).base_dist.log_prob(x)
    value = made.log_prob(torch.where(gone, torch.tensor(NAN, dtype=x.dtype), x))
    torch.testing.assert_close(value, torch.where(gone, 0.0, each).sum(-1))
    value.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in likelihood.parameters())


def test_nan_without_missing_is_refused_and_the_option_named():
    model, guide, x = linear_gaussian(missing=False)
    with pytest.raises(aevb.InputError, match=r"missing=True.*--missing"):
        aevb.Trainer(model, guide, holes(x), batch_size=20)
    x[3, 1] = NAN
    with pytest.raises(aevb.InputError, match=r"row 3 .*missing=True"):
        evidence.bound(model, guide, x)


def test_values_beyond_the_support_are_refused_beside_holes_and_so_is_infinity():
    likelihood = aevb.likelihoods.Bernoulli(K, D, hidden=[3])
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(K), likelihood, N, missing=True)
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(2 * D, K, hidden=[3]), N, missing=True)
    x = holes(torch.zeros(N, D))
    for wrong, words in ((0.5, "row 4"), (math.inf, "row 4")):
        bad = x.clone()
        bad[4, 0] = wrong
        with pytest.raises(aevb.InputError, match=words):
            aevb.Trainer(model, guide, bad, batch_size=20)


def test_a_likelihood_of_dependent_numbers_is_refused_by_name():
    class Correlated(aevb.likelihoods.Likelihood):
        def forward(self, z):
            mean = z.new_zeros(*z.shape[:-1], self.data_dim)
            return dist.MultivariateNormal(mean, torch.eye(self.data_dim).to(z))

    model = aevb.GenerativeModel(aevb.priors.StandardNormal(K), Correlated(K, D), N, missing=True)
    with pytest.raises(aevb.InputError, match=r"independent given z.*MultivariateNormal.*to_event"):
        model(holes(torch.zeros(N, D)))


# ---------------------------------------------------------------- conditions


def conditional(prior=None, takes=True):
    """A pair with a condition of C columns, data and labels."""
    with aevb.seeded(0):
        prior = prior or aevb.priors.StandardNormal(K)
        likelihood = aevb.likelihoods.Bernoulli(K + C * takes, D, hidden=[6])
        model = aevb.GenerativeModel(prior, likelihood, N, condition=C).double()
        q = aevb.RecognitionModel(aevb.guides.DiagonalNormal(D + C * takes, K, hidden=[6]), N, condition=C).double()
        x = torch.rand(N, D).double().round()
        c = torch.arange(N) % C
    return model, q, x, c


@pytest.mark.parametrize("name", estimators.__all__)
def test_a_conditional_pair_is_the_pair_written_by_hand(name):
    """Latents and one-hot labels side by side in plain Pyro, at the same noise."""
    model, guide, x, c = conditional()
    one_hot = torch.nn.functional.one_hot(c, C).double()

    def by_hand(x, c):
        with pyro.plate("data", N, subsample=torch.arange(N)):
            z = pyro.sample("z", dist.Normal(torch.zeros(K).double(), 1.0).to_event(1))
            both = torch.cat([z, one_hot.expand(*z.shape[:-1], C)], -1)
            pyro.sample("x", dist.Bernoulli(logits=model.likelihood.network(both)).to_event(1), obs=x)

    def guide_by_hand(x, c):
        with pyro.plate("data", N, subsample=torch.arange(N)):
            mean, log_variance = guide.guide.network(torch.cat([x, one_hot], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, (log_variance / 2).exp()).to_event(1))

    losses = []
    for pair in ((model, guide), (by_hand, guide_by_hand)):
        with aevb.seeded(2):
            losses.append(estimators_of(2, [name])[name].loss(*pair, x, c))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_covariates_and_labels_one_hot_are_one_and_the_same():
    model, guide, x, c = conditional()
    one_hot = torch.nn.functional.one_hot(c, C).double()
    bounds = [evidence.bound(model, guide, (x, given)).bound for given in (c, one_hot)]
    assert torch.equal(*bounds)


def test_a_network_may_ignore_the_condition_but_not_all_may():
    with aevb.seeded(3):
        prior = aevb.priors.ConditionalNormal(K, condition=C)
    model, guide, x, c = conditional(prior, takes=False)
    z = torch.randn(N, K).double()
    torch.testing.assert_close(model.likelihood_at(z, c).log_prob(x), model.likelihood(z).log_prob(x))
    assert torch.equal(guide.seen(x, c), x)
    assert evidence.bound(model, guide, (x, c)).bound.isfinite().all()
    with pytest.raises(aevb.InputError, match=r"neither prior nor likelihood takes the condition: .* 2 \+ 3"):
        conditional(takes=False)


def test_a_conditional_prior_depends_on_its_class_alone():
    with aevb.seeded(3):
        prior = aevb.priors.ConditionalNormal(K, condition=C)
    model, guide, x, c = conditional(prior)
    mean, log_variance = prior.network(torch.eye(C).double()).detach().chunk(2, -1)
    z = torch.randn(N, K).double()
    expected = stats.norm(mean[c].numpy(), (log_variance / 2).exp()[c].numpy()).logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(model.prior_at(c, z).log_prob(z).detach(), expected)
    for name, estimator in estimators_of(2).items():
        assert math.isfinite(estimator.loss(model, guide, x, c)), name
    found = evidence.importance_weights(model, guide, (x, c), 2000)
    one = evidence.importance_weights(model, guide, (x[:1], c[:1]), 2000)
    assert torch.equal(found.log_likelihood[:0], one.log_likelihood[:0])
    assert found.log_likelihood.isfinite().all()


@pytest.mark.parametrize("estimator", [estimators.SGVB(), estimators.IWAE(3)], ids=["SGVB", "IWAE"])
def test_conditional_training_is_captured_bit_for_bit(estimator):
    states = []
    for engine in ("eager", "captured"):
        with aevb.seeded(3):
            prior = aevb.priors.ConditionalNormal(K, condition=C)
        model, guide, x, c = conditional(prior)
        trainer = aevb.Trainer(model, guide, (x, c), estimator, batch_size=25, engine=engine, device="cpu")
        if engine == "captured":
            trainer.engine.gradients.compiled = False
        list(trainer.run(4 * N))
        states.append({**model.state_dict(), **{f"q.{k}": v for k, v in guide.state_dict().items()}})
    assert_equal(*states)


def test_samples_of_a_class_and_reconstructions():
    with aevb.seeded(3):
        prior = aevb.priors.ConditionalNormal(K, condition=C)
    model, guide, x, c = conditional(prior)
    drawn = predictions.sample(model, 4000, condition=torch.full((4000,), 1))
    with aevb.seeded(0):
        z = model.prior_at(torch.tensor([1]), x).sample((4000,))[:, 0]
        expected = model.likelihood_at(z, torch.full((4000,), 1)).mean.mean(0)
    assert ((drawn.mean(0) - expected).abs() < 0.05).all()
    means = predictions.reconstruct(model, guide, (x, c))
    z = evidence.posterior_means(guide, (x, c))
    assert torch.equal(means, model.likelihood_at(z, c).mean)
    same = predictions.reconstruct(model, guide, {"x": x, "condition": c})
    assert torch.equal(means, same)
    others = predictions.reconstruct(model, guide, (x, c), condition=torch.tensor([2]))
    assert torch.equal(others, model.likelihood_at(z, torch.full((N,), 2)).mean)
    with pytest.raises(aevb.InputError, match="condition of datum 0 is 3"):
        predictions.reconstruct(model, guide, (x, c), condition=torch.tensor([3]))
    with pytest.raises(aevb.InputError, match="condition must be one row"):
        predictions.reconstruct(model, guide, (x, c), condition=c)


BAD = {
    "another length": (lambda x, c: (x, c[:-1]), "different lengths|has 59 rows"),
    "a class too many": (lambda x, c: (x, c + 1), "condition of datum 2 is 3, and there are condition=3 categories"),
    "negative": (lambda x, c: (x, c - 1), "condition of datum 0 is -1"),
    "of two columns": (lambda x, c: (x, torch.zeros(N, 2)), "has 2 columns, and condition=3"),
    "one column of floats": (lambda x, c: (x, c.double()), "has 1 columns, and condition=3"),
    "NaN": (lambda x, c: (x, torch.full((N, C), NAN)), "condition of datum 0 is NaN"),
    "none": (lambda x, c: x, "condition=3"),
    "exposure": (lambda x, c: {"x": x, "condition": c, "exposure": torch.ones(N)}, "come with exposure"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_conditions_are_refused_by_name(name):
    make, words = BAD[name]
    model, guide, x, c = conditional()
    for use in (
        lambda data: aevb.Trainer(model, guide, data, batch_size=20),
        lambda data: evidence.bound(model, guide, data),
        lambda data: predictions.encode(guide, data),
    ):
        with pytest.raises(aevb.InputError, match=words):
            use(make(x, c))


def test_a_class_that_there_is_not_never_gives_a_number():
    model, guide, x, c = conditional()
    with pytest.raises(ValueError, match="nan"):
        estimators.SGVB().loss(model, guide, x, c + 1)
    with pyro.validation_enabled(False):
        assert math.isnan(estimators.SGVB().loss(model, guide, x, c + 1))


def test_parts_of_other_sizes_are_refused_with_both_sizes():
    with pytest.raises(
        aevb.InputError, match=r"2 latent dimensions, the likelihood 4.*or the likelihood 5, with the 3"
    ):
        aevb.GenerativeModel(aevb.priors.StandardNormal(K), aevb.likelihoods.Bernoulli(4, D), condition=C)
    with pytest.raises(aevb.InputError, match=r"p\(z\|c\): give the model condition"):
        aevb.GenerativeModel(aevb.priors.ConditionalNormal(K), aevb.likelihoods.Bernoulli(K, D))
    _, _, x, c = conditional()
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(D + 1, K), condition=C)
    with pytest.raises(aevb.InputError, match=r"data_dim=6, .*5 \+ 3 numbers.*data_dim, 8"):
        guide(x, c)


# ---------------------------------------------------------------- exposure


@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial"])
def test_an_exposure_multiplies_the_mean_of_counts(name):
    with aevb.seeded(0):
        likelihood = getattr(aevb.likelihoods, name)(K, D, hidden=[4])
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(K), likelihood, N, exposure=True).double()
        guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(D + 1, K, hidden=[4]), N, exposure=True).double()
        z = torch.randn(N, K).double()
    exposure = torch.linspace(0.5, 20, N).double()
    made = model.likelihood_at(z, None, exposure)
    torch.testing.assert_close(made.mean, likelihood(z).mean * exposure.unsqueeze(-1))
    x = made.sample()
    f = likelihood.network(z).detach().numpy()
    e = exposure.numpy()[:, None]
    if name == "Poisson":
        expected = stats.poisson(e * np.exp(f)).logpmf(x.numpy()).sum(-1)
    else:
        mean = e * np.exp(f)  # with r = 1
        expected = stats.nbinom(1, 1 / (1 + mean)).logpmf(x.numpy()).sum(-1)
    np.testing.assert_allclose(made.log_prob(x).detach(), expected, rtol=1e-9)
    torch.testing.assert_close(guide.seen(x, None, exposure), torch.cat([x, exposure.log().unsqueeze(-1)], -1))
    data = {"x": x, "exposure": exposure}
    trainer = aevb.Trainer(model, guide, data, batch_size=20, engine="eager", device="cpu")
    list(trainer.run(N))
    assert evidence.importance_sampling(model, guide, data, 50).isfinite().all()
    exposure[3] = 0
    with pytest.raises(aevb.InputError, match="exposure of datum 3 is 0"):
        aevb.Trainer(model, guide, data, batch_size=20)
    with pytest.raises(aevb.InputError, match="Bernoulli takes no exposure"):
        aevb.GenerativeModel(aevb.priors.StandardNormal(K), aevb.likelihoods.Bernoulli(K, D), exposure=True)


# ---------------------------------------------------------------- tables


def table(seed=0):
    """Reals far from zero, counts, yes or no, three categories; and their kinds."""
    generator = np.random.default_rng(seed)
    real = generator.normal(1000, 50, (N, 2))
    count = generator.poisson(200, (N, 1))
    binary = generator.integers(0, 2, (N, 1))
    category = generator.integers(0, 3, (N, 1))
    return torch.tensor(np.hstack([real, count, binary, category])), ["real", "real", "count", "binary", "category:3"]


def test_a_tables_density_is_that_of_the_numbers_in_the_table():
    x, kinds = table()
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Columns(K, D, kinds=kinds, hidden=[4]).double()
    likelihood.start_from(x)
    z = torch.zeros(N, K).double()
    f = [part.network(z).detach().numpy() for part in likelihood.parts]
    sd = x[:, :2].std(0).numpy()
    expected = stats.norm(x[:, :2].mean(0).numpy() + sd * f[0], sd).logpdf(x[:, :2].numpy()).sum(-1)
    mean = x[:, 2].mean().numpy() * np.exp(f[1])
    expected += stats.nbinom(1, 1 / (1 + mean)).logpmf(x[:, 2:3].numpy()).sum(-1)
    expected += (x[:, 3:4].numpy() * f[2] - np.logaddexp(0, f[2])).sum(-1)
    logits = f[3] - np.log(np.exp(f[3]).sum(-1, keepdims=True))
    expected += logits[np.arange(N), x[:, 4].long().numpy()]
    np.testing.assert_allclose(likelihood(z).log_prob(x).detach(), expected, rtol=1e-8)


@pytest.mark.parametrize("missing", [False, True])
def test_a_table_trains_evaluates_and_is_imputed(missing):
    x, kinds = table()
    x = holes(x.float()) if missing else x.float()
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Columns(K, D, kinds=kinds, hidden=[8])
        likelihood.start_from(x)
        inputs = likelihood.inputs()
        width = aevb.RecognitionModel.input_dim(D, missing=missing, inputs=inputs)
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(K), likelihood, N, missing=missing)
        guide = aevb.guides.DiagonalNormal(width, K, hidden=[8])
        guide = aevb.RecognitionModel(guide, N, missing=missing, inputs=inputs)
    trainer = aevb.Trainer(model, guide, x, optimizer=partial(torch.optim.Adam, lr=0.01), batch_size=20, device="cpu")
    *_, last = trainer.run(100 * N)
    first = evidence.importance_sampling(model, guide, x, 100)
    assert first.isfinite().all()
    assert math.isfinite(last.bound)
    drawn = predictions.sample(model, 500)
    assert drawn.shape == (500, D)
    assert set(drawn[:, 4].tolist()) <= {0, 1, 2}
    assert 800 < drawn[:, 0].mean() < 1200
    if missing:
        found = predictions.impute(model, guide, x, 200, draws=3)
        assert not found.mean.isnan().any()
        assert torch.equal(found.mean[~x.isnan()], x[~x.isnan()])
        assert (found.mean[:, 4] == found.mean[:, 4].round()).all()
        assert (found.draws[..., 2:] == found.draws[..., 2:].round()).all()
        assert found.mean[:, 0].min() > 800


def test_drawn_categories_are_whole_numbers_however_many_there_are():
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Columns(K, 2, kinds=["category:50", "category:14"], hidden=[4])
        x = likelihood(torch.zeros(3000, K)).sample()
    assert torch.equal(x, x.round())
    assert set(x[:, 1].tolist()) == set(range(14))
    assert (likelihood.inputs()(x).sum(-1) == 2).all()
    assert torch.equal(likelihood(torch.zeros(5, K)).mean, likelihood(torch.zeros(5, K)).mean.round())


def test_scales_are_those_of_draws_where_only_a_scale_depends_on_a_latent_before():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("b", dist.Normal(torch.zeros(len(x), 1), (a / 2).exp()).to_event(1))

    scale = predictions.encode(guide, torch.zeros(4000, 1)).scale
    assert abs(scale[:, 1].square().mean() - math.exp(0.5)) < 0.1  # not the square of one draw's, whose mean it is too
    assert scale[:, 1].std() < 0.5


def test_the_most_probable_category_is_that_of_the_weighted_mixture():
    """Not of the means of the particles' most probable ones."""
    from pyro_aevb.distributions import ByColumn, GridCategorical
    from pyro_aevb.distributions.columns import Group

    logits = torch.tensor([[0.5, 0.4, 0.1], [0.0, 0.4, 0.6]]).log().unsqueeze(1)  # two particles
    unit = Group(torch.tensor([0]), GridCategorical(logits), torch.zeros(1), torch.full((1,), 2.0))
    made = ByColumn([unit])
    assert made.mean.flatten().tolist() == [0, 2]
    assert made.centre(made.expectations().mean(0)).tolist() == [1]


def test_a_guide_sees_a_table_as_numbers_near_one():
    """Reals in units of their spread, logarithms of counts in units of their mean, categories one-hot, and the mask."""
    x, kinds = table()
    x[0, 0] = x[1, 2] = x[2, 4] = NAN
    likelihood = aevb.likelihoods.Columns(K, D, kinds=kinds, hidden=[4]).double()
    likelihood.start_from(x)
    inputs = likelihood.inputs()
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(2 + 1 + 1 + 3 + D, K), missing=True, inputs=inputs)
    seen = guide.seen(x)
    reals = (x[:, :2] - x[:, :2].nanmean(0)) / torch.stack([column[~column.isnan()].std() for column in x[:, :2].T])
    count = torch.log1p(x[:, 2:3] / x[:, 2].nanmean())
    one_hot = torch.stack([x[:, 4] == each for each in range(3)], -1).double()
    expected = torch.cat([reals.nan_to_num(0), count.nan_to_num(0), x[:, 3:4], one_hot, (~x.isnan()).double()], -1)
    torch.testing.assert_close(seen, expected)
    assert inputs.out_dim == 7


def test_each_column_stands_in_its_own_place():
    """Density, mean and draws, where columns of one kind do not stand beside one another."""
    kinds = ["real", "category:3", "count", "real", "category:3"]
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Columns(K, D, kinds=kinds, hidden=[4]).double()
        likelihood.loc.copy_(torch.tensor([1000.0, 0, 0, -500, 0]))
        z = torch.randn(400, K).double()
        made = likelihood(z)
        x = made.sample()
    real, category, count = likelihood.parts
    each = made.base_dist.log_prob(x)
    shifted = x[:, [0, 3]] - likelihood.loc[[0, 3]]
    torch.testing.assert_close(each[:, [0, 3]], real(z).base_dist.log_prob(shifted))
    torch.testing.assert_close(each[:, [1, 4]], category(z).base_dist.log_prob(x[:, [1, 4]] / 2))
    torch.testing.assert_close(each[:, 2], count(z).base_dist.log_prob(x[:, 2:3])[:, 0])
    torch.testing.assert_close(made.mean[:, [0, 3]], real(z).mean + likelihood.loc[[0, 3]])
    torch.testing.assert_close(made.mean[:, 2], count(z).mean[:, 0])
    assert (x[:, 0] > 900).all()
    assert (x[:, 3] < -400).all()
    assert set(x[:, 1].tolist()) <= {0, 1, 2}
    assert made.support.check(x).all()


def test_columns_that_say_nothing_are_refused_by_number():
    x, kinds = table()
    likelihood = aevb.likelihoods.Columns(K, D, kinds=kinds)
    x[:, 1] = 3
    with pytest.raises(aevb.InputError, match="column 1 has one value, 3, in all rows"):
        likelihood.start_from(x)
    x[:, 1] = NAN
    with pytest.raises(aevb.InputError, match="column 1 has no value"):
        likelihood.start_from(x)
    with pytest.raises(aevb.InputError, match="kinds has 'int'"):
        aevb.likelihoods.Columns(K, D, kinds="int")
    with pytest.raises(aevb.InputError, match="one for each of the 5 columns"):
        aevb.likelihoods.Columns(K, D, kinds=["real"])


def test_columns_of_other_likelihoods_are_those_likelihoods():
    with aevb.seeded(0):
        laplace = partial(aevb.likelihoods.Laplace, hidden=[4])
        mixed = aevb.likelihoods.Columns(K, 3, kinds=[laplace, "binary", laplace], hidden=[4]).double()
    z = torch.randn(7, K).double()
    x = mixed(z).sample()
    expected = mixed.parts[0](z).log_prob(x[:, [0, 2]]) + mixed.parts[1](z).log_prob(x[:, 1:2])
    torch.testing.assert_close(mixed(z).log_prob(x), expected)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (2, 2, 4)])
def test_images_keep_their_shape(shape):
    likelihood = aevb.likelihoods.Bernoulli(K, 16, hidden=[4])
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(K), likelihood, N)
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(16, K, hidden=[4]), N)
    x = torch.rand(N, *shape).round()
    flat = evidence.bound(model, guide, x.flatten(1)).bound
    assert torch.equal(evidence.bound(model, guide, x).bound, flat)
    assert torch.equal(evidence.bound(model, guide, x.long()).bound, flat)
    list(aevb.Trainer(model, guide, x, batch_size=20, engine="eager").run(N))
    with pytest.raises(aevb.InputError, match=r"data_dim=16, but the data have shape"):
        model(torch.zeros(N, 3, 5))
