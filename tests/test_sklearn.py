"""The estimator of scikit-learn: its own checks, and what it gives against the pair that it is made of."""

import inspect
import pickle
import re
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pyro
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyro_aevb as aevb
from pyro_aevb import estimators, guides, likelihoods, optimizers, priors
from pyro_aevb.sklearn import VAE

QUICK = {"hidden": 5, "samples": 60, "num_samples": 5, "engine": "eager", "random_state": 0}

MONTE_CARLO = "score_samples draws for each row by its place among the rows, so that another order has other noise"

EXPECTED_FAILURES = {
    "check_methods_sample_order_invariance": MONTE_CARLO,
    "check_methods_subset_invariance": MONTE_CARLO,
}


class Tagged(VAE):
    """The estimator with its expected failures in a tag, where scikit-learn before 1.6 looks for them."""

    def _more_tags(self):
        return {**VAE._more_tags(self), "_xfail_checks": EXPECTED_FAILURES}


def with_checks(estimators):
    """Tests by scikit-learn's own checks, those that are expected to fail marked."""
    if "expected_failed_checks" in inspect.signature(parametrize_with_checks).parameters:
        return parametrize_with_checks(estimators, expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
    return parametrize_with_checks([Tagged(**estimator.get_params()) for estimator in estimators])


@with_checks([VAE(**QUICK), VAE(likelihood="Gaussian", missing=True, **QUICK)])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


OF_FRAMES = re.compile(r"check_\w*(output_transform|get_feature_names_out|column_names)\w*")
FRAME_CHECKS = sorted(filter(OF_FRAMES.fullmatch, dir(estimator_checks)))


@pytest.mark.parametrize("name", FRAME_CHECKS)
def test_checks_of_frames_that_scikit_learn_runs_on_its_own_estimators(name):
    assert len(FRAME_CHECKS) > 5
    getattr(estimator_checks, name)("VAE", VAE(**QUICK))


def flowers():
    return load_iris().data.astype(np.float32)


def mixed(gaps=False, size=60):
    """A frame of a real column, a count, a word of two and a category."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "height": generator.normal(100, 20, size).round(1),
            "seeds": generator.poisson(7, size),
            "garden": generator.choice(["no", "yes"], size),
            "colour": generator.choice(["blue", "pink", "violet"], size),
        }
    )
    if gaps:
        frame.loc[3, "height"] = None
        frame.loc[5, "colour"] = None
    return frame


# ---------------------------------------------------------------- what it is made of


def pair_of_flowers(seed=3):
    """By hand what the estimator makes of an array of real numbers."""
    x = torch.as_tensor(flowers())
    likelihood = aevb.likelihoods.Columns(2, 4, kinds="real", hidden=8)
    likelihood.start_from(x)
    inputs = likelihood.inputs()
    with aevb.seeded(aevb.seeds.derive(seed, "weights")):
        guide = aevb.guides.DiagonalNormal(4, 2, hidden=8)
        prior = aevb.priors.StandardNormal(2)
        likelihood = aevb.likelihoods.Columns(2, 4, kinds="real", hidden=8)
    likelihood.start_from(x)
    model = aevb.GenerativeModel(prior, likelihood, len(x))
    return model, aevb.RecognitionModel(guide, len(x), inputs=inputs), x


OPTIMIZERS = [
    ({}, None),
    ({"lr": 0.02}, None),
    ({"optimizer": "Adam", "lr": 3e-3}, partial(torch.optim.Adam, lr=3e-3)),
    ({"optimizer": optimizers.CosineAdam, "lr": 3e-3}, partial(optimizers.CosineAdam, lr=3e-3)),
]


@pytest.mark.parametrize(("given", "make"), OPTIMIZERS, ids=["default", "lr", "name", "class"])
def test_it_trains_what_a_trainer_trains_bit_for_bit(given, make):
    model, guide, x = pair_of_flowers()
    trainer = aevb.Trainer(model, guide, x, optimizer=make, batch_size=40, seed=3, engine="eager", report_every=100)
    reports = list(trainer.run(2000))
    vae = VAE(hidden=8, samples=2000, batch_size=40, random_state=3, engine="eager", **given).fit(flowers())
    assert vae.history_ == reports
    for ours, theirs in ((vae.model_, model), (vae.guide_, guide)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_what_it_gives_is_what_the_package_gives_of_the_pair():
    vae = VAE(**{**QUICK, "num_samples": 50}).fit(flowers())
    pair = vae.model_, vae.guide_
    x = torch.as_tensor(flowers())
    assert np.array_equal(vae.transform(x), aevb.evidence.posterior_means(vae.guide_, x, seed=0))
    log_px = aevb.evidence.importance_sampling(*pair, x, num_samples=50, seed=0)
    assert np.array_equal(vae.score_samples(flowers()), log_px.double())
    assert vae.score(flowers()) == log_px.double().mean().item()
    weights = aevb.evidence.importance_weights(*pair, x, 50, seed=0)
    assert torch.equal(vae.importance_weights(flowers()).standard_error, weights.standard_error)
    assert np.array_equal(vae.sample(3), aevb.predictions.sample(vae.model_, 3, seed=0))
    again = vae.inverse_transform(vae.transform(flowers()))
    assert np.allclose(again, aevb.predictions.reconstruct(*pair, x, seed=0), rtol=1e-5)


def test_the_score_is_log_px_where_that_is_known():
    """Linear decoder, fixed scale: log p(x) in closed form, within four standard errors row by row."""
    likelihood = lambda k, d: aevb.likelihoods.Gaussian(k, d, scale=0.5, hidden=[])  # noqa: E731
    vae = VAE(1, likelihood=likelihood, samples=3000, num_samples=2000, random_state=0, engine="eager", lr=0.05)
    vae.fit(StandardScaler().fit_transform(flowers()))
    x = StandardScaler().fit_transform(flowers())[:60]
    exact = aevb.evidence.linear_gaussian(vae.model_, torch.as_tensor(x))
    error = vae.importance_weights(x).standard_error
    assert np.all(np.abs(vae.score_samples(x) - exact.numpy()) < 4 * error.numpy() + 1e-4)
    assert error.median() < 0.05
    assert exact.std() > 0.5


def test_posterior_means_of_a_row_do_not_depend_on_the_other_rows():
    vae = VAE(**QUICK).fit(flowers())
    whole = vae.transform(flowers())
    order = np.random.default_rng(0).permutation(150)
    assert np.allclose(vae.transform(flowers()[order]), whole[order], atol=1e-6)
    assert np.allclose(np.concatenate([vae.transform(row[None]) for row in flowers()]), whole, atol=1e-6)


# ---------------------------------------------------------------- likelihoods, priors, guides


def test_the_likelihood_follows_the_data():
    pixels = (load_digits().data[:50] > 7).astype(float)  # corners are zero in all rows
    assert isinstance(VAE(**QUICK).fit(pixels).model_.likelihood, likelihoods.Bernoulli)
    assert VAE(**QUICK).fit(flowers()).model_.likelihood.kinds == ["real"] * 4
    assert VAE(**QUICK).fit(mixed()).model_.likelihood.kinds == ["real", "count", "binary", "category:3"]
    kinds = {"seeds": "real"}
    assert VAE(kinds=kinds, **QUICK).fit(mixed()).model_.likelihood.kinds[1] == "real"


PARTS = [
    ({"prior": "laplace"}, "prior", priors.Laplace),
    ({"prior": priors.GaussianMixture}, "prior", priors.GaussianMixture),
    ({"prior": lambda k: priors.StudentT(k, df=4.0)}, "prior", priors.StudentT),
    ({"guide": "FullCovarianceNormal"}, "guide", guides.FullCovarianceNormal),
    ({"likelihood": "Laplace"}, "likelihood", likelihoods.Laplace),
    ({"likelihood": likelihoods.Gaussian}, "likelihood", likelihoods.Gaussian),
]


@pytest.mark.parametrize(("given", "part", "kind"), PARTS, ids=[str(i) for i in range(len(PARTS))])
def test_parts_by_name_by_class_and_by_what_makes_them(given, part, kind):
    vae = VAE(**{**QUICK, "hidden": [7]}, **given).fit(flowers())
    made = vae.guide_.guide if part == "guide" else getattr(vae.model_, part)
    assert type(made) is kind
    if part != "prior":
        assert made.network[0].out_features == 7


def test_the_vamp_prior_is_given_the_guide():
    vae = VAE(prior=lambda k, guide: priors.VampPrior(k, guide=guide, components=3), **QUICK).fit(flowers())
    assert vae.model_.prior._shared[0] is vae.guide_.guide
    assert pickle.loads(pickle.dumps(vae.set_params(prior="VampPrior"))).score(flowers()) == vae.score(flowers())


def test_estimators_by_name_by_class_and_as_they_are():
    own = estimators.IWAE(3)
    bounds = [
        VAE(estimator=each, **QUICK).fit(flowers()).history_ for each in (own, lambda: estimators.IWAE(3), "IWAE")
    ]
    assert bounds[0] == bounds[1] != bounds[2]
    annealed = estimators.SGVBAnalyticKL(warm_up=50)
    vae = VAE(estimator=annealed, batch_size=10, **QUICK).fit(flowers())
    assert vae.estimator is annealed
    assert annealed.beta == 0  # training a copy of it left it at its beginning
    assert vae.history_[-1].beta > 0.5


REFUSED = [
    ({"prior": "Laplas"}, r"unknown prior 'Laplas': did you mean Laplace\?"),
    ({"prior": likelihoods.Gaussian}, "prior must be a kind of Prior"),
    ({"prior": priors.StandardNormal(2)}, "prior must be a function or a class that makes one"),
    ({"guide": lambda d, k: torch.nn.Linear(d, k)}, "what guide makes must be a Guide"),
    ({"latent_dim": 0}, "latent_dim must be at least 1"),
    ({"samples": 0}, "samples must be at least 1"),
    ({"num_samples": 2.5}, "num_samples must be a whole number"),
    ({"lr": -1}, "lr must be positive"),
    ({"random_state": "0"}, "random_state must be a whole number"),
    ({"missing": "no"}, "missing must be True or False"),
    ({"optimizer": "Adamm"}, "unknown optimizer 'Adamm'"),
    ({"estimator": 3}, "estimator must be a function or a class"),
]


@pytest.mark.parametrize(
    ("given", "words"), REFUSED, ids=[f"{next(iter(each))}{i}" for i, (each, _) in enumerate(REFUSED)]
)
def test_refused_in_words(given, words):
    with pytest.raises(aevb.InputError, match=words):
        VAE(**{**QUICK, **given}).fit(flowers())


def test_data_are_refused_in_words():
    with pytest.raises(TypeError, match="Sparse"):
        VAE(**QUICK).fit(scipy.sparse.csr_array(flowers()))
    with pytest.raises(TypeError, match="sample_weight"):
        VAE(**QUICK).fit(flowers(), sample_weight=np.ones(150))
    with pytest.raises(aevb.InputError, match="column 1 has one value, 0, in all rows"):
        VAE(**QUICK).fit(flowers() * [1, 0, 1, 1])
    with pytest.raises(aevb.InputError, match="column 'colour' has one value, pink, in all rows"):
        VAE(**QUICK).fit(mixed().assign(colour="pink"))
    gap = flowers()
    gap[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        VAE(**QUICK).fit(gap)
    with pytest.raises(NotFittedError):
        VAE().sample()


def test_messages_about_frames_name_arguments_and_no_options():
    for frame in (
        mixed().assign(price=["1,5"] * 30 + ["2,5"] * 30),
        mixed().assign(height=[*map(str, range(59)), "unknown"]),
        mixed().assign(name=[f"plant {i}" for i in range(60)]),
        mixed().assign(day=pd.date_range("2020-01-01", periods=60)),
    ):
        with pytest.raises(aevb.InputError) as raised:
            VAE(**QUICK).fit(frame)
        assert "--" not in str(raised.value)
    assert "leave it out" in str(raised.value)
    kinds = {"price": "category"}
    VAE(kinds=kinds, **QUICK).fit(mixed().assign(price=["1,5"] * 30 + ["2,5"] * 30))


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_go_in_and_come_out(library):
    frame = mixed() if library == "pandas" else pl.from_pandas(mixed())
    vae = VAE(**QUICK).set_output(transform=library).fit(frame)
    codes = vae.transform(frame)
    assert type(codes) is type(frame)
    assert list(codes.columns) == list(vae.get_feature_names_out()) == ["z0", "z1"]
    for made in (vae.sample(5), vae.inverse_transform(np.zeros((5, 2)))):
        assert type(made) is type(frame)
        assert list(made.columns) == ["height", "seeds", "garden", "colour"]
        assert set(made["colour"]) <= {"blue", "pink", "violet"}
        assert set(made["garden"]) <= {"no", "yes"}
    counts = np.asarray(vae.sample(50)["seeds"])
    assert np.array_equal(counts, counts.round())
    assert np.allclose(vae.score_samples(vae.sample(5)), vae.score_samples(vae.sample(5)))


def test_the_index_of_a_frame_is_kept_and_is_no_column():
    frame = mixed().set_index(pd.Index([f"plant {i}" for i in range(60)], name="plant"))
    vae = VAE(**QUICK).set_output(transform="pandas").fit(frame)
    assert vae.n_features_in_ == 4
    assert vae.transform(frame).index.equals(frame.index)
    assert np.array_equal(vae.score_samples(frame), VAE(**QUICK).fit(mixed()).score_samples(mixed()))
    confusing = frame.rename_axis("height")
    assert np.array_equal(vae.score_samples(confusing), vae.score_samples(frame))


def test_arrays_in_place_of_a_frame_and_frames_of_other_columns():
    vae = VAE(**QUICK).fit(mixed())
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert np.array_equal(vae.transform(mixed().to_numpy()), vae.transform(mixed()))
    with pytest.raises(ValueError, match="feature names"):
        vae.transform(mixed().rename(columns={"height": "width"}))
    with pytest.raises(aevb.InputError, match="row 0, column 'colour', is 'green', a category that"):
        vae.transform(mixed().assign(colour="green"))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_declared_categories_are_known_though_no_row_has_them(library):
    words = ["blue", "green", "pink", "red", "violet"]
    frame = mixed().assign(colour=mixed()["colour"].astype(pd.CategoricalDtype(words)))
    if library == "polars":
        frame = pl.from_pandas(mixed()).with_columns(pl.col("colour").cast(pl.Enum(words)))
    vae = VAE(**QUICK).fit(frame)
    assert vae.model_.likelihood.kinds == ["real", "count", "binary", "category:5"]
    green = mixed().assign(colour="green")
    assert np.isfinite(vae.score_samples(green if library == "pandas" else pl.from_pandas(green))).all()
    undeclared = pl.from_pandas(mixed()).with_columns(pl.col("colour").cast(pl.Categorical))
    assert VAE(**QUICK).fit(undeclared).model_.likelihood.kinds[3] == "category:3"


def test_names_of_columns_that_are_numbers():
    frame = pd.DataFrame(flowers())
    vae = VAE(**QUICK).fit(frame)
    assert np.array_equal(vae.transform(frame), VAE(**QUICK).fit(flowers()).transform(flowers()))
    assert list(vae.sample(2).columns) == ["0", "1", "2", "3"]


def test_an_explicit_likelihood_of_a_frame_keeps_its_names():
    frame = load_iris(as_frame=True).data
    vae = VAE(likelihood="Gaussian", **QUICK).fit(frame)
    assert vae.schema_ is None
    assert list(vae.sample(2).columns) == list(frame.columns)
    of_array = VAE(likelihood="Gaussian", **QUICK).fit(frame.to_numpy())
    assert np.array_equal(vae.score_samples(frame), of_array.score_samples(frame.to_numpy()))


def test_gaps_are_left_out_of_the_bound():
    frame = mixed(gaps=True)
    with pytest.raises(aevb.InputError, match="row 3, column 'height', is empty"):
        VAE(**QUICK).fit(frame)
    vae = VAE(missing=True, **QUICK).fit(frame)
    assert np.isfinite(vae.score_samples(frame)).all()
    x = flowers()
    x[0] = np.nan
    of_array = VAE(missing=True, **{**QUICK, "num_samples": 500}).fit(np.concatenate([flowers(), x[1:]]))
    found = of_array.importance_weights(x[:1])  # of nothing observed log p is 0
    assert found.log_likelihood.abs() < 4 * found.standard_error < 0.5


# ---------------------------------------------------------------- in scikit-learn's company


@pytest.mark.slow  # two processes that import torch
def test_a_search_over_a_pipeline_in_two_processes():
    steps = make_pipeline(StandardScaler(), VAE(**QUICK))
    grid = {"vae__latent_dim": [1, 2], "vae__prior": ["StandardNormal", "Laplace"]}
    found, alone = (GridSearchCV(steps, grid, cv=2, n_jobs=jobs).fit(flowers()) for jobs in (2, 1))
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    assert np.array_equal(found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    best = found.best_estimator_
    assert best.transform(flowers()).shape == (150, found.best_params_["vae__latent_dim"])
    assert best.inverse_transform(best.transform(flowers())).shape == (150, 4)
    assert found.score(flowers()) == best.score_samples(flowers()).mean()


def test_cross_validation_of_a_frame():
    assert np.isfinite(cross_val_score(VAE(**QUICK), mixed(), cv=3)).all()


@pytest.mark.parametrize("data", [flowers, mixed])
def test_it_survives_pickle(data):
    vae = VAE(**QUICK).fit(data())
    again = pickle.loads(pickle.dumps(vae))
    assert np.array_equal(again.score_samples(data()), vae.score_samples(data()))
    assert np.array_equal(again.transform(data()), vae.transform(data()))
    assert again.history_ == vae.history_


def test_a_clone_is_as_new_and_fits_to_the_same_bits():
    vae = VAE(estimator=estimators.IWAE(2), **QUICK).fit(flowers())
    other = clone(vae)
    assert not hasattr(other, "model_")
    assert np.array_equal(other.fit(flowers()).transform(flowers()), vae.transform(flowers()))


def test_seeds():
    first = VAE(**QUICK).fit(flowers())
    assert np.array_equal(first.transform(flowers()), VAE(**QUICK).fit(flowers()).transform(flowers()))
    other = VAE(**{**QUICK, "random_state": 1}).fit(flowers())
    assert not np.array_equal(first.transform(flowers()), other.transform(flowers()))
    drawn = [VAE(**{**QUICK, "random_state": np.random.RandomState(5)}).fit(flowers()).seed_ for _ in range(2)]
    assert drawn[0] == drawn[1]
    free = [VAE(**{**QUICK, "random_state": None}).fit(flowers()).seed_ for _ in range(2)]
    assert free[0] != free[1]
    assert not np.array_equal(first.sample(2), first.sample(2, random_state=7))


def test_nothing_global_is_touched():
    pyro.param("mine", torch.ones(1))
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads(), pyro.get_param_store()
    names = list(before[3].keys())
    vae = VAE(**{**QUICK, "random_state": None}).fit(mixed())
    vae.sample(3)
    vae.score(mixed())
    vae.inverse_transform(vae.transform(mixed()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.get_num_threads() == before[2]
    assert list(pyro.get_param_store().keys()) == names


def test_anomalies_score_least():
    vae = VAE(latent_dim=1, hidden=10, samples=3000, num_samples=50, random_state=0, engine="eager", lr=0.05)
    vae.fit(flowers())
    strange = flowers()[:1] + 8
    assert vae.score_samples(strange)[0] < vae.score_samples(flowers()).min()


def test_a_bar_while_training(capsys):
    VAE(verbose=True, **QUICK).fit(flowers())
    assert "nats per datum" in capsys.readouterr().err
    VAE(**QUICK).fit(flowers())
    assert not capsys.readouterr().err
