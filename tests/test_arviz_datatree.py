"""Draws as ArviZ's DataTree: the numbers against SciPy and closed forms, labels, files, and wrong use."""

import sys

import arviz_base
import arviz_stats
import numpy as np
import pytest
import torch
import xarray
from scipy import stats

import pyro_aevb as aevb
from pyro_aevb.arviz import to_datatree
from pyro_aevb.bayesian import bayesian
from pyro_aevb.data import Rows
from pyro_aevb.data.schema import Beside
from pyro_aevb.errors import InputError
from tests.pairs import LinearGaussian, LinearGaussianGuide, LinearGaussianLikelihood, hand_written_pair, paper_pair

SMALL = {"num_draws": 40, "num_prior_draws": 30}


def sampled(pair, x, chains=3, num_samples=40):
    with aevb.seeded(0):
        return aevb.hmc.sample_posterior(pair.model, x, num_samples, chains=chains, burn_in=40, leapfrog_steps=5)


def log_normal(value, mean, scale):
    return stats.norm(mean, scale).logpdf(value).sum(-1)


def densities(pair, z, x):
    """log p(x|z) and log p(z) of a linear-Gaussian pair by SciPy, ``(..., B)``, in nats."""
    likelihood = pair.likelihood
    mean = z @ likelihood.weight.detach().numpy().T + likelihood.bias.detach().numpy()
    return log_normal(x.numpy(), mean, likelihood.sigma), log_normal(z, 0, 1)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("rows", [7, 130])  # 130 are more than one block
def test_densities_of_the_guides_draws_by_scipy(rows):
    pair = LinearGaussian(shift=0.2, widen=1.3)
    x = pair.x.repeat(4, 1)[:rows]
    tree = to_datatree(pair.model, pair.guide, x, **SMALL)
    z = tree["posterior"]["z"].values
    assert z.shape == (1, 40, rows, 3)
    likelihood, prior = densities(pair, z, x)
    q = pair.guide.guide(x)
    log_q = log_normal(z, q.mean.detach().numpy(), q.stddev.detach().numpy())
    for found, expected in (
        (tree["log_likelihood"]["x"], likelihood),
        (tree["sample_stats"]["lp"], likelihood + prior),
        (tree["sample_stats"]["log_q"], log_q),
        (tree["sample_stats"]["log_weight"], likelihood + prior - log_q),
    ):
        np.testing.assert_allclose(found.values, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(tree["observed_data"]["x"].values, x.numpy())


def test_what_a_sampler_drew_is_what_the_tree_holds():
    pair = LinearGaussian()
    x = pair.x[:5]
    samples = sampled(pair, x)
    tree = to_datatree(pair.model, None, x, samples, num_prior_draws=0)
    posterior = tree["posterior"].to_dataset()
    np.testing.assert_array_equal(posterior["z"].values, samples.position.transpose(0, 1).numpy())  # u is z here
    likelihood, prior = densities(pair, posterior["z"].values, x)
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values, likelihood, rtol=1e-12)
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values, likelihood + prior, rtol=1e-12)
    assert (tree["sample_stats"]["step_size"].values == samples.step_size.item()).all()
    np.testing.assert_allclose(arviz_stats.rhat(posterior)["z"].values, samples.rhat.numpy(), rtol=1e-12)
    np.testing.assert_allclose(arviz_stats.ess(posterior)["z"].values, samples.effective_samples.numpy(), rtol=1e-12)
    assert "prior" not in tree.children


def test_what_each_transition_tells():
    """Of a Gaussian posterior the energy, less that of its mode, is half a chi-squared of 2K degrees of freedom."""
    pair = LinearGaussian()
    x = pair.x[:20]
    with aevb.seeded(1):
        samples = aevb.hmc.sample_posterior(pair.model, x, 40, chains=4, burn_in=60)
    tree = to_datatree(pair.model, None, x, samples, num_prior_draws=0)
    told = tree["sample_stats"].to_dataset()
    scale = pair.guide.guide(x).stddev.detach()
    mode = torch.log(scale).sum(-1) + 3 * np.log(2 * np.pi) / 2 - pair.log_evidence[:20]
    energy = told["energy"].values - mode.numpy()
    assert energy.shape == (4, 40, 20)
    assert stats.kstest(energy[:, ::8].ravel(), "gamma", args=(3,)).pvalue > 1e-3
    kinetic = told["energy"].values + told["lp"].values  # of the momentum that led there
    assert (kinetic > 0).all()
    expected = np.minimum(1, np.exp(-told["energy_error"].values))
    np.testing.assert_allclose(told["acceptance_rate"].values, expected, rtol=1e-12)
    np.testing.assert_allclose(told["acceptance_rate"].values.mean((0, 1)), samples.acceptance.numpy(), rtol=1e-12)
    assert told["diverging"].values.dtype == bool
    assert not told["diverging"].values.any()


def test_a_path_that_leaves_is_said_to_diverge():
    def log_density(u):
        return -u.square().sum(-1) / 2

    with aevb.seeded(0):
        state = aevb.hmc.init(log_density, torch.randn(2, 5, 3, dtype=torch.float64))
        sizes = torch.tensor([0.1, 1.9, 5.0, 50.0, 1e200], dtype=torch.float64)
        info = aevb.hmc.step(log_density, state, sizes)[1]
    assert info.diverging.tolist() == [[False, False, True, True, True]] * 2
    assert (info.energy_error[:, 4] == np.inf).all()
    assert (info.energy[:, 2:] < 100).all()  # where the chains stay


def test_a_step_size_of_each_datum_stands_with_its_datum():
    pair = LinearGaussian()
    with aevb.seeded(0):
        samples = aevb.hmc.sample_posterior(pair.model, pair.x[:4], 5, chains=2, burn_in=20, adaptation="datum")
    tree = to_datatree(pair.model, None, pair.x[:4], samples, num_prior_draws=0)
    for chain in range(2):
        np.testing.assert_array_equal(tree["sample_stats"]["step_size"].values[chain, 3], samples.step_size.numpy())


def test_draws_of_the_prior():
    pair = LinearGaussian()
    found = to_datatree(pair.model, pair.guide, pair.x[:9], num_draws=2, num_prior_draws=400)["prior"]["z"].values
    assert found.shape == (1, 400, 9, 3)
    assert stats.kstest(found.ravel(), "norm").pvalue > 1e-3


def test_two_sites_and_a_log_likelihood_of_one():
    model, guide = hand_written_pair(20)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="initial values"):
        tree = to_datatree(model, guide, x, **SMALL)
    a, b = (tree["posterior"][name] for name in "ab")
    assert a.dims == b.dims == ("chain", "draw", "datum")
    weight = 0.3 * torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).numpy()
    mean = np.stack([a.values, b.values], -1) @ weight
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values, log_normal(x.numpy(), mean, 1), rtol=1e-5)


def test_the_same_seed_gives_the_same_tree_and_leaves_the_callers_noise():
    pair = LinearGaussian()
    with aevb.seeded(3):
        before = torch.get_rng_state()
        trees = [to_datatree(pair.model, pair.guide, pair.x[:4], **SMALL, seed=seed) for seed in (1, 1, 2)]
        assert torch.equal(torch.get_rng_state(), before)
    for group in ("posterior", "prior"):
        first, second, third = (tree[group]["z"].values for tree in trees)
        assert (first == second).all()
        assert (first != third).all()


# ---------------------------------------------------------------- leave-one-out


class Shifted:
    """x ~ N(b, v), v diagonal, b ~ N(0, 1): a Bayesian pair whose posterior of b is Gaussian, and in its guide."""

    def __init__(self, size=25):
        weight = torch.diag(torch.tensor([0.2, 0.3], dtype=torch.float64))
        likelihood = LinearGaussianLikelihood(2, 2, weight=weight)
        likelihood.weight.requires_grad_(False)
        self.variance = weight.diagonal().numpy() ** 2 + likelihood.sigma**2
        generator = torch.Generator().manual_seed(0)
        self.x = (
            0.7 + torch.randn(size, 2, generator=generator, dtype=torch.float64) * torch.tensor(self.variance).sqrt()
        )
        precision = 1 + size / self.variance
        self.mean = self.x.numpy().sum(0) / self.variance / precision
        self.sd = precision**-0.5
        with torch.no_grad():
            likelihood.bias.copy_(torch.tensor(self.mean))
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(2).double(), likelihood, size)
        guide = aevb.RecognitionModel(LinearGaussianGuide(2, 2, likelihood=likelihood), size)
        self.model, self.guide = bayesian(model, guide)
        with torch.no_grad():
            self.guide.posterior.log_scale[0].copy_(torch.tensor(self.sd).log())

    def left_out(self):
        """log p(x_i | all others), ``(N,)``, in closed form."""
        x = self.x.numpy()
        precision = 1 + (len(x) - 1) / self.variance
        mean = (x.sum(0) - x) / self.variance / precision
        return log_normal(x, mean, np.sqrt(self.variance + 1 / precision))


@pytest.mark.slow
def test_leave_one_out_of_a_bayesian_pair_is_the_exact_one():
    pair = Shifted()
    tree = to_datatree(pair.model, pair.guide, pair.x, num_draws=300, num_samples=50)
    b = tree["posterior"]["model.likelihood.bias"]
    exact = log_normal(pair.x.numpy(), b.values[:, :, None], np.sqrt(pair.variance))
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values, exact, atol=0.25)  # by importance sampling
    assert abs(tree["log_likelihood"]["x"].values - exact).mean() < 0.03
    assert stats.kstest((b.values[0] - pair.mean).ravel() / np.tile(pair.sd, 300), "norm").pvalue > 1e-3

    statistics = tree["sample_stats"]
    log_p = exact.sum(-1) + log_normal(b.values, 0, 1)
    np.testing.assert_allclose(statistics["lp"].values, log_p, atol=1)
    np.testing.assert_allclose(statistics["log_q"].values, log_normal(b.values, pair.mean, pair.sd), rtol=1e-10)

    found = arviz_stats.loo(tree, pointwise=True)
    np.testing.assert_allclose(found.elpd_i.values.ravel(), pair.left_out(), atol=0.05)
    assert found.elpd == pytest.approx(pair.left_out().sum(), abs=0.3)
    assert (found.pareto_k.values < 0.7).all()
    corrected = arviz_stats.loo_approximate_posterior(tree, statistics["lp"], statistics["log_q"])
    assert corrected.elpd == pytest.approx(pair.left_out().sum(), abs=0.5)


def test_leave_one_out_of_latents_of_each_datum_is_refused_by_its_own_khat():
    """What the docstring says: it is a harmonic mean, and no estimate of the evidence that is left out."""
    pair = LinearGaussian()
    x = pair.x[:12]
    tree = to_datatree(pair.model, pair.guide, x, num_draws=500, num_prior_draws=0)  # the exact posterior
    with pytest.warns(UserWarning, match="Pareto"):
        found = arviz_stats.loo(tree, pointwise=True)
    exact = pair.log_evidence[:12]
    assert (found.pareto_k.values > 0.7).mean() > 0.5
    assert found.elpd > exact.sum().item() + 5
    weights = aevb.evidence.importance_weights(pair.model, pair.guide, x, 500)
    torch.testing.assert_close(weights.log_likelihood, exact, rtol=0, atol=1e-8)


# ---------------------------------------------------------------- labels and files


def test_names_of_everything():
    model, guide = paper_pair()
    table = Rows((torch.rand(3, 6) > 0.5).double(), ("cat", "dog", "cat"), Beside(index=("r1", "r2", "r3")))
    columns = [f"pixel {i}" for i in range(6)]
    tree = to_datatree(model, guide, table, **SMALL, columns=columns, attributes={"title": "toy", "beta": 1.0}, seed=5)
    z = tree["posterior"]["z"]
    assert z.dims == ("chain", "draw", "datum", "latent")
    assert list(z.coords["latent"].values) == ["z[0]", "z[1]"]
    assert list(z.coords["datum"].values) == ["r1", "r2", "r3"]
    assert tree["observed_data"]["x"].dims == ("datum", "column")
    assert list(tree["observed_data"].coords["column"].values) == columns
    assert list(tree["constant_data"]["label"].values) == ["cat", "dog", "cat"]
    assert tree.attrs["title"] == "toy"
    assert tree.attrs["seed"] == 5
    assert tree.attrs["torch_version"] == torch.__version__
    assert tree.attrs["inference_library"] == "pyro_aevb"
    assert tree.attrs["drawn_by"] == "guide"


def test_a_condition_is_constant_data():
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(5, 6, hidden=4), condition=3)
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(9, 2, hidden=4), condition=3)
    data = {"x": (torch.rand(4, 6) > 0.5).float(), "condition": torch.tensor([0, 2, 1, 2])}
    tree = to_datatree(model, guide, data, **SMALL)
    assert list(tree["constant_data"].data_vars) == ["condition"]
    assert tree["constant_data"]["condition"].values.tolist() == [0, 2, 1, 2]
    assert list(tree["observed_data"].data_vars) == ["x"]


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_a_file_holds_the_tree_bit_for_bit(engine, tmp_path):
    pair = LinearGaussian()
    x = Rows(pair.x[:4], ("a", "b", "a", "b"))
    tree = to_datatree(pair.model, None, x, sampled(pair, x.x), num_prior_draws=9, attributes={"title": "ä ☃"})
    tree.to_netcdf(tmp_path / "draws.nc", engine=engine)
    with xarray.open_datatree(tmp_path / "draws.nc", engine=engine) as read:
        assert read.groups == tree.groups
        for group in tree.groups:
            assert read[group].to_dataset().identical(tree[group].to_dataset()), group
        for name, values in tree["posterior"].data_vars.items():
            assert read["posterior"][name].values.tobytes() == values.values.tobytes()


def test_a_run_is_told_by_the_names_of_its_table(cli, tmp_path):
    lines = ["name,age,colour", *(f"row{i},{20 + i % 7 * 3.5},{'red' if i % 3 else 'blue'}" for i in range(60))]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    words = ["--data=table.csv", "--index=name", "--hidden=4", "--latent_dim=2", "--samples=60", "--out=run"]
    assert cli("train", *words, "--engine=eager")[0] == 0
    run = aevb.load_run("run", device="cpu")
    rows = run.read("test").first(3)
    names = [column.name for column in run.data.schema.columns]
    tree = to_datatree(run.model, run.guide, rows, **SMALL, columns=names, attributes={"title": run.title})
    assert list(tree["posterior"].coords["datum"].values) == list(rows.beside.index)
    assert list(tree["observed_data"].coords["column"].values) == ["age", "colour"]
    assert tree.attrs["title"] == run.title


# ---------------------------------------------------------------- wrong use


def test_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    pair = LinearGaussian()
    with pytest.raises(InputError, match=r"needs arviz-base: pip install 'pyro_aevb\[arviz\]'"):
        to_datatree(pair.model, pair.guide, pair.x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_draws": 0}, "num_draws must be at least 1"),
        ({"num_prior_draws": -1}, "num_prior_draws must be at least 0"),
        ({"num_samples": "a"}, "num_samples must be a whole number"),
        ({"names": ["a"]}, "names has 1 names, and there are 4: give one for each"),
        ({"names": "abcd"}, "names must be a list of text"),
        ({"names": [1, 2, 3, 4]}, "names must be a list of text"),
        ({"columns": ["a", "b"]}, "columns has 2 names, and there are 5"),
        ({"attributes": {"a": [1]}}, "attributes must be texts and numbers by name"),
        ({"attributes": 3}, "attributes must be a dictionary"),
        ({"samples": 3}, "samples must be a Samples, not 3"),
        ({"guide": None}, "neither a guide to draw from nor samples"),
        ({"guide": 3}, "guide must be a function or a module"),
        ({"model": 3}, "model must be a function or a module"),
        ({"x": torch.zeros(0, 5)}, "no data"),
        ({"x": torch.full((4, 5), float("nan"), dtype=torch.float64)}, "NaN"),
    ],
)
def test_what_cannot_be_meant(change, words):
    pair = LinearGaussian()
    given = {"model": pair.model, "guide": pair.guide, "x": pair.x[:4], **SMALL, **change}
    with pytest.raises(InputError, match=words):
        to_datatree(**given)


def test_samples_of_other_data():
    pair = LinearGaussian()
    with pytest.raises(InputError, match="the samples are of 3 data, and x has 4"):
        to_datatree(pair.model, None, pair.x[:4], sampled(pair, pair.x[:3], num_samples=2))


def test_bayesian_pairs_that_have_no_draws():
    pair = Shifted()
    with pytest.raises(InputError, match="leave samples out"):
        to_datatree(pair.model, pair.guide, pair.x, 3)
    with pytest.raises(InputError, match="guide must be a BayesianGuide"):
        to_datatree(pair.model, LinearGaussian().guide, pair.x)
    model, guide = paper_pair(size=9)
    with pytest.raises(InputError, match="point mass"):
        to_datatree(*bayesian(model, guide, point_mass=True), torch.zeros(9, 6, dtype=torch.float64))


def test_arviz_base_is_a_version_that_is_tested():
    assert int(arviz_base.__version__.split(".")[0]) in (0, 1)
