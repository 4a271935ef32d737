"""What cannot be meant is refused: by one line of ``InputError`` that names the argument, whoever is called."""

import inspect
import math
import os
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

import pyro_aevb as aevb
from pyro_aevb import distributions, estimators, evidence, guides, hmc, likelihoods, nn, plots, priors
from pyro_aevb.diagnostics import gradients as comparison
from pyro_aevb.distributions.family import DistributionFamily
from pyro_aevb.errors import choice, flag, function, instance, path, positive, real, told, whole, wholes
from pyro_aevb.hardware import Settings
from pyro_aevb.plots.diagnostics import draw_diagnostics
from tests.oracles import RECIPES
from tests.pairs import LinearGaussian, binary, paper_pair

NAN, INF = math.nan, math.inf
FAMILIES = {"priors": priors, "likelihoods": likelihoods, "guides": guides, "estimators": estimators, "nn": nn}

# ---------------------------------------------------------------- bad values, by what an argument is

NO_NUMBER = ["a", None, True, NAN, INF, int, [3], torch.ones(2)]
WHOLE = [0, -1, 1.5, *NO_NUMBER]
OPTIONAL_WHOLE = [value for value in WHOLE if value is not None]
FROM_TWO = [1, *WHOLE]
FROM_ZERO = [-1, 1.5, *NO_NUMBER]
POSITIVE = [0, -1.0, -INF, *NO_NUMBER]
NOT_NEGATIVE = [-1.0, *NO_NUMBER]
UNITS = [0, -1, 1.5, "a", None, True, NAN, int, [0], [1.5], ["a"], [3, None], {3: 3}]
FLAG = ["false", None, 2, int, []]
WORD = ["a", None, 3, True, int, ["none"]]
NETWORK = ["a", 3, True, int, [3], nn.MLP(3, 3, 3), torch.nn.Tanh, lambda a: a, lambda a, b: a]
ACTIVATION = ["a", None, 3, True, int, ["tanh"], torch.tanh, torch.nn.Tanh(), lambda: 3]
FUNCTION = [None, 3, "a", aevb.GenerativeModel, [3]]
OPTIONAL_FUNCTION = [3, "a", [3]]
DISTRIBUTION = ["a", None, 3, True, int, ["Gamma"]]
FIXED = ["a", 3, int, ["rate"], {"a": 1.0}, {"rate": "a"}, {"rate": None}, {"rate": NAN}, {3: 1.0}]
SHAPE = [3, "a", int, [3], [0, 3], [1.5, 4], [1, 2, 3], [-4, -4]]
PICTURE = [None, 7, "a", int, [], [7], [0, 6], [1.5, 4], [-2, -3], {2: 3}]
TITLE = [3, None, int]
PATH = [3, True, int, [3]]
ESTIMATORS = [None, 3, "SGVB", estimators.SGVB, estimators.SGVB(), [estimators.SGVB], ["SGVB"]]
ARRAY_OF_OBJECTS = np.array([["a", None]], dtype=object)
NO_DATA = [
    None,
    3,
    "a",
    int,
    [[0.0] * 6],
    (),
    np.array(1.0),
    ARRAY_OF_OBJECTS,
    torch.tensor(1.0),
    torch.zeros(4, 6, device="meta"),
    torch.eye(6).to_sparse(),
    torch.zeros(4, 6, dtype=torch.complex64),
    torch.zeros(0, 6),
]
DATA = [*NO_DATA, torch.zeros(4, 5), torch.full((4, 6), NAN), aevb.data.DynamicBinarization(torch.zeros(4, 6))]


def _is_all_missing(value):
    """NaN, which these pairs take."""
    return isinstance(value, torch.Tensor) and value.shape == (4, 6) and not value.is_meta and value.isnan().all()


ROWS = [None, 3, "a", int, torch.tensor(1.0), torch.zeros(3), torch.zeros(2, 3, device="meta")]

OF_NAME = {
    **dict.fromkeys(("latent_dim", "data_dim", "in_dim", "out_dim", "num_particles", "components"), WHOLE),
    **dict.fromkeys(("transforms", "context_dim", "rank", "steps", "chains", "leapfrog_steps", "rounds", "dim"), WHOLE),
    **dict.fromkeys(("num_samples", "num_weights", "evaluation_samples", "side", "batch_size", "count"), WHOLE),
    **dict.fromkeys(("seed", "burn_in", "split_seed", "condition"), FROM_ZERO),
    **dict.fromkeys(("size", "chunk_size", "columns"), OPTIONAL_WHOLE),
    **dict.fromkeys(("draws", "reference_draws"), FROM_TWO),
    **dict.fromkeys(("df", "margin", "min_scale", "log_variance_scale", "beta", "prior_scale"), POSITIVE),
    **dict.fromkeys(("initial_scale", "step_size", "learning_rate", "tolerance", "samples"), POSITIVE),
    "initial_sd": [value for value in NOT_NEGATIVE if value is not None],
    **dict.fromkeys(("warm_up", "threshold", "seconds", "free_bits"), NOT_NEGATIVE),
    "cycles": WHOLE,
    "ramp": [0, -1, 1.5, *NO_NUMBER],
    **dict.fromkeys(("relaxed", "sigmoid_mean", "unit_interval", "vectorize_particles"), FLAG),
    **dict.fromkeys(("point_mass", "mean", "counts", "downstream", "missing", "exposure"), FLAG),
    **dict.fromkeys(("kind", "baseline", "phase", "start", "adaptation", "binarize", "split"), WORD),
    **dict.fromkeys(("model", "guide", "log_density"), FUNCTION),
    **dict.fromkeys(("progress", "log_evidence"), OPTIONAL_FUNCTION),
    **dict.fromkeys(("x", "args"), DATA),
    **dict.fromkeys(("keep", "data_root"), PATH),
    "alpha": [1, 1.0, -INF, *NO_NUMBER],
    "max_plate_nesting": [-1, 1.5, "a", None, True, NAN, int],
    "target_acceptance": [0, 1, 1.5, -1, *NO_NUMBER],
    "gap_count": [1, *FROM_ZERO],
    "hidden": UNITS,
    "channels": UNITS,
    "activation": ACTIVATION,
    "network": NETWORK,
    "distribution": DISTRIBUTION,
    "fixed": FIXED,
    "shape": SHAPE,
    "title": [],
    "estimator": ESTIMATORS[:4],
    "chosen": ESTIMATORS,
    "elbo_arguments": [],  # Pyro's own
}
CONVOLUTIONAL_UNITS = [*UNITS, [3], []]
OF_ARGUMENT = {
    ("Laplace prior", "scale"): POSITIVE,
    ("Gaussian", "scale"): [*POSITIVE, 1e-4],
    ("Laplace", "scale"): [*POSITIVE, 1e-4],
    ("VampPrior", "guide"): [None, 3, "a", guides.DiagonalNormal, nn.MLP(6, 3, 3), guides.DiagonalNormal(6, 4)],
    ("ConvolutionalEncoder", "hidden"): CONVOLUTIONAL_UNITS,
    ("ConvolutionalDecoder", "hidden"): CONVOLUTIONAL_UNITS,
    ("ImageNetwork", "body"): [None, 3, "a", torch.nn.Conv2d, torch.nn.Linear(3, 3), lambda: 3, torch.nn.Flatten(0)],
    ("ImageNetwork", "channels"): [0, -1, 1.5, "a", True, NAN, int, [3]],
    ("ConvolutionalDecoder", "channels"): [*UNITS, []],
    ("VIMCO", "num_particles"): [1, *WHOLE],
    ("ConditionalNormal", "condition"): WHOLE,
    ("Columns", "kinds"): [None, 3, "int", ["real"], [3] * 6, "category:1", "category:x", [torch.nn.Linear] * 6],
    ("RecognitionModel", "inputs"): [3, "a", torch.nn.Linear],
    **dict.fromkeys((("encode", "draws"), ("impute", "draws")), FROM_ZERO),
    **{(name, "x"): [value for value in DATA if not _is_all_missing(value)] for name in ("reconstruct", "impute")},
    ("reconstruct", "condition"): [3, "a", torch.zeros(2)],
    ("sample", "condition"): [3, "a", torch.zeros(2), torch.zeros(2, 3)],
    ("sample", "exposure"): [3, "a", torch.zeros(2)],
    **{("load", name): [3, int, ["a", 3], "a"] for name in ("columns", "condition")},
    **{("load", name): [3, int, True, ["a"], "a"] for name in ("labels", "index", "exposure")},
    ("load", "kinds"): [3, "a", ["a"], {"a": 3}, {"a": "real"}],
    ("load", "scale"): [0, -1, NAN, INF, "a", None, True, int, [3]],
    ("latent_space", "names"): [3],
    ("marginal_likelihood_bound", "num_samples"): [1, *WHOLE],
    ("appendix_d", "guide"): OPTIONAL_FUNCTION,
    ("sample_posterior", "guide"): OPTIONAL_FUNCTION,
    ("GenerativeModel", "prior"): [None, 3, "StandardNormal", priors.StandardNormal, likelihoods.Bernoulli(3, 6)],
    ("GenerativeModel", "likelihood"): [None, 3, "Bernoulli", likelihoods.Bernoulli, priors.StandardNormal(3)],
    ("RecognitionModel", "guide"): [None, 3, "DiagonalNormal", guides.DiagonalNormal, priors.StandardNormal(3)],
    ("bayesian", "modules"): [3, "a", int, [3], ["likelihood"], [], torch.nn.Linear],
    ("DynamicBinarization", "probabilities"): [
        *NO_DATA,
        torch.full((4, 6), NAN),
        torch.full((4, 6), -2.0),
        torch.full((4, 6), 3.0),
        torch.full((4, 6), 1.001),
        torch.full((4, 6), INF),
        torch.ones(4, 6, dtype=torch.int64),
        torch.ones(4, 0),
        np.ones((4, 6)),
    ],
    ("linear_gaussian", "x"): [*NO_DATA, torch.zeros(4, 6), torch.full((4, 5), NAN)],
    ("load", "name"): [None, 3, True, int, "mnst", ["mnist"]],
    ("image_grid", "images"): ROWS,
    ("image_grid", "shape"): PICTURE,
    ("reconstructions", "originals"): ROWS,
    ("reconstructions", "means"): [*ROWS, torch.zeros(3, 6)],
    ("reconstructions", "shape"): PICTURE,
    ("manifold", "means"): ROWS,
    ("manifold", "shape"): PICTURE,
    ("latent_grid", "draws"): [3, "a", torch.zeros(3), torch.zeros(3, 1), torch.zeros(0, 2)],
    ("latent_space", "z"): ROWS,
    ("latent_space", "axis_labels"): [3],
    ("principal_axes", "z"): [*ROWS, torch.zeros(4, 1), torch.zeros(1, 3)],
    ("manifold", "latents"): [3, "a", torch.zeros(4, 1), torch.zeros(3, 2)],
    ("heat_map", "tables"): [None, 3, "a", {}, {"x": None}, {"x": torch.zeros(3)}, {"x": torch.zeros(4, 3)}],
    ("heat_map", "names"): [None, 3, ["a"]],
    **{("columns", name): [*ROWS, torch.zeros(4, 3)] for name in ("data", "drawn")},
    **{("predicted_against_observed", name): [*ROWS, torch.zeros(4, 3)] for name in ("observed", "predicted")},
    **{(name, "names"): [["a"]] for name in ("columns", "predicted_against_observed")},
    **{(name, "categories"): [] for name in ("columns", "predicted_against_observed")},
    ("predicted_against_observed", "kinds"): [3, ["real"], ["real", "int"]],
    ("predicted_against_observed", "interval"): [(torch.zeros(3, 2), torch.zeros(4, 2))],
    ("predicted_against_observed", "level"): [-0.1, 1.1, *NO_NUMBER],
    ("draw_training", "rows"): [None, 3, "a", [3], []],
    ("training_summary", "rows"): [None, 3, "a", [3], []],
    ("compare_training", "seeds"): [3, "a", [], ["a"], [-1], [1.5], [1, 1]],
    ("latent_space", "labels"): [3, "a", torch.zeros(3), torch.zeros(4, 2)],
    ("latent_space", "axis_name"): [],
    ("learning_curve", "metrics"): [None, 3, "a", [3], ["bound"]],
    ("draw_comparison", "rows"): [None, 3, "a", [3], []],
    ("save", "figure"): [None, 3, "a", Figure],
    ("save", "path"): [None, *PATH],
    ("mean_of", "values"): [None, 3, "a", torch.zeros(1), torch.zeros(2, 2), torch.tensor(1.0)],
    ("label", "estimator"): ESTIMATORS[:4],
    ("compare_training", "make_trainer"): FUNCTION[:3],
    ("compare_training", "test"): NO_DATA,
    ("hmc.init", "position"): [None, 3, "a", torch.zeros(3), torch.zeros(1, 2, 3, dtype=torch.int64)],
    ("hmc.step", "state"): [None, 3, "a", torch.zeros(1, 2, 3)],
    ("hmc.step", "step_size"): [None, 0.1, "a"],
    ("algorithm_1", "data"): [None, 3, "a", torch.tensor(1.0), torch.zeros(0, 6)],
    ("algorithm_1", "encoder"): [None, 3, "a", torch.nn.Linear],
    ("algorithm_1", "decoder"): [None, 3, "a", torch.nn.Linear],
    ("algorithm_1", "optimizer"): [None, 3, "a", torch.optim.SGD],
    ("algorithm_1", "estimator"): [None, 3, "a", estimators.SGVB],
    ("algorithm_1", "log_likelihood"): [None, 3, "a"],
    ("algorithm_1", "generator"): [3, "a", torch.Generator],
    ("NormalMixture", "logits"): [None, 3, "a"],
    ("NormalMixture", "loc"): [None, 3, "a"],
    ("NormalMixture", "scale"): [None, 3, "a"],
    ("EllipticalLaplace", "loc"): [None, 3, "a"],
    ("EllipticalLaplace", "scale_tril"): [None, 3, "a"],
    ("ContinuousBernoulli distribution", "logits"): [None, "a", int],
    ("DiscretizedLogistic distribution", "loc"): [None, 3, "a"],
    ("DiscretizedLogistic distribution", "scale"): [None, 3, "a"],
    ("GridCategorical", "logits"): [None, 3, "a"],
    ("Rayleigh", "scale"): [None, "a", [3]],
    ("support_of", "distribution"): [],
    ("seeded", "device"): [],
}

# ---------------------------------------------------------------- what is called, with arguments that are taken

MODEL, GUIDE = paper_pair(size=20)
LINEAR = LinearGaussian()
X = binary()
PAIR = {"model": MODEL, "guide": GUIDE, "x": X}
BAYESIAN = dict(zip(("model", "guide"), aevb.bayesian.bayesian(*paper_pair(size=20)), strict=True), x=X)
SIZES = {"latent_dim": 3, "data_dim": 6, "in_dim": 16, "out_dim": 16, "body": torch.nn.Flatten()}
OWN_NAMES = {("priors", "Laplace"): "Laplace prior"}
STATE = hmc.State(torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.zeros(1, 2, 3))


TRAINED = comparison.TrainingStatistics("SGVB", 1, -3.0, -4.0)
TABLE = torch.rand(4, 2)
STATISTICS = comparison.GradientStatistics("SGVB", 1, "model", 0.0, 0.1, 1.0, 1.0, 1.0)


def log_normal(u):
    return -u.square().sum(-1) / 2


def trainer_with(estimator):
    return aevb.Trainer(*paper_pair(size=20), X, estimator, batch_size=5, device="cpu", report_every=5)


def parts():
    """Every class of every ``__all__``, with the arguments of its first recipe."""
    for family, module in FAMILIES.items():
        for name in module.__all__:
            part = getattr(module, name)
            needed = {key: value for key, value in SIZES.items() if key in inspect.signature(part).parameters}
            options = RECIPES.get((family, name), [{}])[0]
            shared = {"guide": guides.DiagonalNormal(6, 3, hidden=7)} if name == "VampPrior" else {}
            many = {"num_particles": 2} if name == "VIMCO" else {}
            label = OWN_NAMES.get((family, name), name)
            yield label, part, {**needed, **options, **shared, **many}


def first_step(*arguments, **named):
    return next(aevb.sgvb.algorithm_1(*arguments, **named))


first_step.__signature__ = inspect.signature(aevb.sgvb.algorithm_1)
ENCODER, DECODER = torch.nn.Linear(6, 4), torch.nn.Linear(2, 6)
ALGORITHM_1 = {
    "data": X.float(),
    "encoder": ENCODER,
    "decoder": DECODER,
    "optimizer": torch.optim.SGD([*ENCODER.parameters(), *DECODER.parameters()], lr=1e-3),
    "latent_dim": 2,
    "steps": 1,
    "batch_size": 5,
}
FEW = {"num_samples": 2}
SHORT = {"steps": 2, "chains": 1, "leapfrog_steps": 1}
SEARCH = {"steps": 1, "rounds": 1, "num_samples": 2, "evaluation_samples": 2}
OWN = {
    "model": aevb.GenerativeModel(priors.StandardNormal(3), likelihoods.Bernoulli(3, 6, hidden=3), missing=True),
    "guide": aevb.RecognitionModel(guides.DiagonalNormal(12, 3, hidden=3), missing=True),
}
EVIDENCE = partial(evidence.annealed_importance_sampling, **SHORT)

FUNCTIONS = {
    "GenerativeModel": (
        aevb.GenerativeModel,
        {"prior": priors.StandardNormal(3), "likelihood": likelihoods.Bernoulli(3, 6, hidden=3)},
    ),
    "RecognitionModel": (aevb.RecognitionModel, {"guide": guides.DiagonalNormal(6, 3, hidden=3)}),
    "DistributionFamily": (DistributionFamily, {"distribution": "Gamma", "dim": 3}),
    "bound": (evidence.bound, PAIR),
    "importance_sampling": (evidence.importance_sampling, {**PAIR, **FEW}),
    "importance_weights": (evidence.importance_weights, {**PAIR, **FEW}),
    "annealed_importance_sampling": (evidence.annealed_importance_sampling, {**PAIR, **SHORT}),
    "bidirectional": (evidence.bidirectional, {**PAIR, **SHORT}),
    "appendix_d": (evidence.appendix_d, {"model": MODEL, "x": X, "num_samples": 8, "burn_in": 1, "leapfrog_steps": 1}),
    "posterior_means": (evidence.posterior_means, {"guide": GUIDE, "x": X}),
    "activity": (evidence.activity, {"guide": GUIDE, "x": X}),
    "active_units": (evidence.active_units, {"guide": GUIDE, "x": X}),
    "linear_gaussian": (evidence.linear_gaussian, {"model": LINEAR.model, "x": LINEAR.x}),
    "sample_posterior": (
        hmc.sample_posterior,
        {"model": MODEL, "args": (X,), "num_samples": 3, "burn_in": 1, "leapfrog_steps": 1},
    ),
    "hmc.init": (hmc.init, {"log_density": log_normal, "position": torch.zeros(1, 2, 3)}),
    "hmc.step": (hmc.step, {"log_density": log_normal, "state": STATE, "step_size": torch.tensor(0.1)}),
    "latent_kl": (aevb.diagnostics.latent_kl, {**PAIR, **FEW}),
    "aggregate_posterior": (aevb.diagnostics.aggregate_posterior, {**PAIR, **FEW}),
    "decoder_use": (aevb.diagnostics.decoder_use, {**PAIR, **FEW}),
    "diagnose": (aevb.diagnostics.diagnose, {**PAIR, **FEW, "gap_count": 0}),
    "inference_gaps": (aevb.diagnostics.inference_gaps, {**PAIR, **SEARCH, "log_evidence": EVIDENCE}),
    "mean_of": (aevb.diagnostics.mean_of, {"values": torch.zeros(3)}),
    "gradient_moments": (comparison.gradient_moments, {**PAIR, "estimator": estimators.SGVB(), "draws": 2}),
    "compare": (comparison.compare, {**PAIR, "chosen": [estimators.SGVB()], "draws": 2, "reference_draws": 2}),
    "compare_training": (
        comparison.compare_training,
        {"make_trainer": trainer_with, "chosen": [estimators.SGVB()], "test": X, "samples": 5, "seconds": 0},
    ),
    "encode": (aevb.predictions.encode, {"guide": GUIDE, "x": X}),
    "reconstruct": (aevb.predictions.reconstruct, {**OWN, "x": X.float()}),
    "impute": (aevb.predictions.impute, {**OWN, "x": X.float(), **FEW}),
    "sample": (aevb.predictions.sample, {"model": OWN["model"], "count": 2}),
    "label": (comparison.label, {"estimator": estimators.SGVB()}),
    "bayesian": (aevb.bayesian.bayesian, {"model": MODEL, "guide": GUIDE}),
    "draw_model": (aevb.bayesian.draw_model, {name: BAYESIAN[name] for name in ("model", "guide")}),
    "marginal_likelihood_bound": (aevb.bayesian.marginal_likelihood_bound, {**BAYESIAN, **FEW}),
    "predictive_log_likelihood": (aevb.bayesian.predictive_log_likelihood, {**BAYESIAN, **FEW, "num_weights": 1}),
    "posterior_predictive": (aevb.bayesian.posterior_predictive, BAYESIAN),
    "DynamicBinarization": (aevb.data.DynamicBinarization, {"probabilities": torch.rand(4, 6)}),
    "fixed": (aevb.data.DynamicBinarization(torch.rand(4, 6)).fixed, {}),
    "evaluation": (
        aevb.data.DataSet("a", torch.ones(2, 2), torch.ones(2, 2), (2,), "none").evaluation,
        {"split": "test"},
    ),
    "load": (aevb.data.load, {"name": "digits"}),
    "algorithm_1": (first_step, ALGORITHM_1),
    "image_grid": (plots.image_grid, {"images": torch.rand(4, 6), "shape": (2, 3)}),
    "reconstructions": (plots.reconstructions, {"originals": X, "means": X, "shape": (2, 3)}),
    "manifold": (plots.manifold, {"means": torch.rand(4, 6), "shape": (2, 3)}),
    "latent_grid": (plots.latent_grid, {"side": 2}),
    "latent_space": (plots.latent_space, {"z": torch.rand(4, 2)}),
    "learning_curve": (plots.learning_curve, {"metrics": [{"samples_seen": 1, "bound": 1.0}]}),
    "draw_comparison": (plots.draw_comparison, {"rows": [STATISTICS, STATISTICS._replace(part="guide")]}),
    "draw_training": (plots.draw_training, {"rows": [TRAINED]}),
    "training_summary": (comparison.training_summary, {"rows": [TRAINED]}),
    "principal_axes": (plots.principal_axes, {"z": torch.rand(4, 3)}),
    "heat_map": (plots.heat_map, {"tables": {"data": TABLE}, "names": ["a", "b"]}),
    "columns": (plots.columns, {"data": TABLE, "drawn": TABLE, "names": ["a", "b"]}),
    "predicted_against_observed": (
        plots.predicted_against_observed,
        {"observed": TABLE, "predicted": TABLE, "names": ["a", "b"]},
    ),
    "save": (plots.save, {"figure": Figure(), "path": os.devnull}),
    "NormalMixture": (
        distributions.NormalMixture,
        {"logits": torch.zeros(3), "loc": torch.zeros(3, 2), "scale": torch.ones(3, 2)},
    ),
    "EllipticalLaplace": (distributions.EllipticalLaplace, {"loc": torch.zeros(2), "scale_tril": torch.eye(2)}),
    "ContinuousBernoulli distribution": (distributions.ContinuousBernoulli, {"logits": torch.zeros(2)}),
    "DiscretizedLogistic distribution": (
        distributions.DiscretizedLogistic,
        {"loc": torch.zeros(2), "scale": torch.ones(2)},
    ),
    "GridCategorical": (distributions.GridCategorical, {"logits": torch.zeros(2, 3)}),
}
TARGETS = {**{name: (part, good) for name, part, good in parts()}, **FUNCTIONS}
TOLD = {
    "x": "data",
    "name": "data",
    "args": "data",
    "test": "data",
    "probabilities": "data",
}  # what messages call an argument


def bad_values(name, parameter):
    """For one argument of one target; an argument that nobody has thought of fails."""
    if (name, parameter) in OF_ARGUMENT:
        return OF_ARGUMENT[name, parameter]
    if parameter in ("validate_args", "device"):
        return []
    return OF_NAME[parameter]


def calls(name):
    """Each bad call of a target: argument, value, and the call."""
    called, good = TARGETS[name]
    for parameter in inspect.signature(called).parameters:
        for value in bad_values(name, parameter):
            yield parameter, value, partial(called, **{**good, parameter: value})


def fault(call, *names):
    """What is wrong with how a bad call ends; ``None`` if it is refused as it must be."""
    try:
        call()
    except aevb.InputError as error:
        words = str(error)
        if "\n" in words:
            return f"more than one line: {words}"
        return None if any(name in words for name in names) else f"names no argument: {words}"
    except Exception as error:  # whatever is raised raw
        return f"raw {type(error).__name__}: {error}"
    return "accepted"


@pytest.mark.parametrize("name", TARGETS)
def test_a_bad_argument_is_refused_in_one_line_that_names_it(name):
    called, good = TARGETS[name]
    called(**good)
    found = []
    for parameter, value, call in calls(name):
        if wrong := fault(call, parameter, TOLD.get(parameter, parameter)):
            found.append(f"{parameter}={value!r:.60}: {wrong}")
    assert not found, "\n".join(found)


def test_there_are_many_bad_calls():
    assert sum(len(list(calls(name))) for name in TARGETS) > 3000


def test_figures_of_diagnostics_are_of_diagnostics():
    for value in (None, 3, "a", aevb.diagnostics.Diagnostics):
        assert fault(partial(draw_diagnostics, value), "found") is None


# ---------------------------------------------------------------- a pair that does not mean what it says

SWAPPED = {
    "Trainer": lambda model, guide: aevb.Trainer(guide, model, X, batch_size=5, device="cpu"),
    "Trainer, svi": lambda model, guide: aevb.Trainer(guide, model, X, batch_size=5, engine="svi", device="cpu"),
    "MonteCarloEM": lambda model, guide: aevb.MonteCarloEM(guide, X, batch_size=5, device="cpu"),
    "bound": lambda model, guide: evidence.bound(guide, model, X),
    "importance_sampling": lambda model, guide: evidence.importance_sampling(guide, model, X, 2),
    "annealed": lambda model, guide: evidence.annealed_importance_sampling(guide, model, X, **SHORT),
    "from the prior": lambda model, guide: evidence.annealed_importance_sampling(
        guide, None, X, start="prior", **SHORT
    ),
    "appendix_d": lambda model, guide: evidence.appendix_d(guide, X),
    "sample_posterior": lambda model, guide: hmc.sample_posterior(guide, (X,), 2),
    "latent_kl": lambda model, guide: aevb.diagnostics.latent_kl(guide, model, X),
    "diagnose": lambda model, guide: aevb.diagnostics.diagnose(guide, model, X),
    "gradient_moments": lambda model, guide: comparison.gradient_moments(guide, model, estimators.SGVB(), X, 2),
}


@pytest.mark.parametrize("likelihood", ["Bernoulli", "Gaussian"])
@pytest.mark.parametrize("name", SWAPPED)
def test_model_and_guide_swapped_are_told(name, likelihood):
    """A Gaussian likelihood can be reparameterised: it trained as a guide, to a bound of +59.7."""
    model, guide = paper_pair(likelihood, size=20)
    with pytest.raises(aevb.InputError, match=r"the model observes nothing.*are model and guide swapped") as refused:
        SWAPPED[name](model, guide)
    assert "\n" not in str(refused.value)


def test_a_model_with_a_factor_alone_observes_something():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("x", -(x[:, :2] - z).square().sum(-1))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))

    trainer = aevb.Trainer(model, guide, X.float(), batch_size=5, device="cpu")
    list(trainer.run(5))
    with trainer.param_store():
        assert evidence.bound(model, guide, X.float()).bound.isfinite().all()


def test_posterior_means_need_no_model():
    assert evidence.posterior_means(GUIDE, X).shape == (11, 2)


# ---------------------------------------------------------------- sizes


def paper_pairs(*sizes):
    return [pair[role] for role, size in enumerate(sizes) for pair in [paper_pair(size=size)]]


@pytest.mark.parametrize("sizes", [(10, 11), (11, 10), (1, 1), (6, 6)])
def test_a_size_of_fewer_data_than_are_trained_on_is_refused(sizes):
    with pytest.raises(aevb.InputError, match=r"size=(10|1|6), less than the 11 data.*size=11"):
        aevb.Trainer(*paper_pairs(*sizes), X, batch_size=1, device="cpu")


def test_a_size_of_fewer_data_than_a_minibatch_is_refused_in_training_alone():
    model, guide = paper_pair(size=10)
    for part in (model, guide):
        with pytest.raises(aevb.InputError, match="size=10 is less than the 11 data"):
            part(X)
    model(X[:10])
    with pytest.raises(aevb.InputError, match="size=10 is less than the 11 data"):
        estimators.SGVB().loss(model, guide, X)
    assert evidence.bound(model, guide, X).bound.shape == (11,)  # a test set may be larger than what was trained on
    assert not any(part.training for part in (model.eval(), guide.eval()))
    estimators.SGVB().loss(model, guide, X)


def test_particles_that_are_folded_into_rows_are_no_more_data():
    """A batch normalisation cannot be broadcast: eight particles of eleven data are 88 rows to it."""
    network = partial(_normalised, torch.nn.BatchNorm1d)
    with aevb.seeded(0):
        likelihood = likelihoods.Bernoulli(2, 6, network=network)
        model = aevb.GenerativeModel(priors.StandardNormal(2), likelihood, 11).double()
    guide = paper_pair(size=11)[1]
    rows = []
    likelihood.network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    estimators.IWAE(8).differentiable_loss(model, guide, X).backward()
    assert rows[-1] == 88


def _normalised(layer, in_dim, out_dim):
    return torch.nn.Sequential(torch.nn.Linear(in_dim, 5), layer(5), torch.nn.Linear(5, out_dim))


# ---------------------------------------------------------------- what is taken all the same


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 5},
        {"hidden": np.int64(5)},
        {"hidden": [5]},
        {"hidden": (5, 4)},
        {"hidden": torch.Size([5, 4])},
        {"hidden": np.array([5, 4])},
        {"hidden": []},
        {"activation": "ReLU"},
        {"activation": "leakyrelu"},
        {"activation": torch.nn.Softplus},
        {"activation": partial(torch.nn.LeakyReLU, 0.1)},
        {"activation": lambda: torch.nn.ELU()},
        {"network": torch.nn.Linear},
        {"network": nn.MLP},
        {"network": partial(nn.MLP, hidden=[5], initial_sd=0.1)},
        {"network": lambda i, o: torch.nn.Sequential(torch.nn.Linear(i, o))},
        {"log_variance_scale": np.float32(0.5)},
        {"log_variance_scale": 1},
    ],
    ids=lambda given: next(iter(given)),
)
def test_every_form_of_an_argument_is_taken(options):
    assert guides.DiagonalNormal(np.int32(6), torch.zeros(4, 3).shape[1], **options)(torch.zeros(4, 6)).event_shape == (
        3,
    )


def test_numbers_of_numpy_and_data_of_every_kind_are_taken():
    seed = np.int64(3)
    numbers = evidence.bound(MODEL, GUIDE, X, np.int64(2), seed=seed).bound
    assert torch.equal(numbers, evidence.bound(MODEL, GUIDE, (X,), 2, seed=3).bound)
    assert torch.equal(numbers, evidence.bound(MODEL, GUIDE, X.numpy(), 2, seed=3).bound)
    assert torch.equal(numbers, evidence.bound(MODEL, GUIDE, X.float(), 2, seed=3).bound)
    assert len(aevb.data.DynamicBinarization(torch.zeros(4, 6, dtype=torch.bfloat16)).fixed(seed)) == 4
    assert aevb.GenerativeModel(MODEL.prior, MODEL.likelihood, np.int64(7)).size == 7
    assert estimators.SGVB(np.int64(2), beta=np.float32(0.5), warm_up=1_000).num_particles == 2
    assert estimators.SGVB(2, vectorize_particles=True, max_plate_nesting=1).vectorize_particles
    assert priors.Flow(3, hidden=[5, 5])().event_shape == (3,)
    assert likelihoods.Gaussian(2, 3, scale=np.float64(0.5), hidden=3)(torch.zeros(4, 2)).event_shape == (3,)
    assert nn.ConvolutionalEncoder(16, 2, channels=4)(torch.zeros(3, 16)).shape == (3, 2)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (partial(whole, "count", 0), "count must be at least 1, not 0"),
        (partial(whole, "count", 9, most=8), "count must be between 1 and 8, not 9"),
        (partial(whole, "count", 2.0), "count must be a whole number of at least 1, not 2.0"),
        (partial(whole, "count", True, least=0), "count must be a whole number of at least 0, not True"),
        (partial(wholes, "hidden", [3, 0]), "each of hidden must be at least 1, not 0"),
        (
            partial(wholes, "hidden", "33"),
            "hidden must be a whole number of at least 1, or a sequence of them, not '33'",
        ),
        (partial(real, "beta", NAN), "beta must be a finite number, not nan"),
        (partial(real, "beta", 2, 0, 1), "beta must be between 0 and 1, not 2"),
        (partial(real, "beta", -1, 0), "beta must be at least 0, not -1"),
        (partial(positive, "scale", 0), "scale must be positive, not 0"),
        (partial(flag, "relaxed", "false"), "relaxed must be True or False, not 'false'"),
        (partial(choice, "phase", "a", ("wake", "sleep")), "unknown phase 'a': give one of wake, sleep"),
        (
            partial(instance, "estimator", estimators.SGVB, estimators.Estimator, "give SGVB()"),
            "estimator must be an Estimator, not the class SGVB: give an instance, SGVB(...)",
        ),
        (
            partial(instance, "estimator", "SGVB", estimators.Estimator, "give SGVB()"),
            "estimator must be an Estimator, not 'SGVB': give SGVB()",
        ),
        (
            partial(function, "model", aevb.GenerativeModel),
            "model must be a function or a module, not the class GenerativeModel: give an instance, "
            "GenerativeModel(...)",
        ),
        (partial(path, "keep", 3), "keep must be a path, as text or a pathlib.Path, not 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_says_what_must_be_and_what_is(check, words):
    with pytest.raises(aevb.InputError) as refused:
        check()
    assert str(refused.value) == words


def test_values_are_told_in_one_line():
    class Wordy:
        def __repr__(self):
            return "two\nlines " * 50

    class Speechless:
        def __repr__(self):
            raise RuntimeError

    for value, words in ((Wordy(), "a Wordy"), (Speechless(), "a Speechless"), (list(range(99)), "a list")):
        assert told(value) == words


# ---------------------------------------------------------------- whole trainings

TRAINERS = {
    "model": [None, 3, "a", aevb.GenerativeModel, [3]],
    "guide": [None, 3, "a", aevb.RecognitionModel, [3]],
    "data": NO_DATA,
    "estimator": [3, "SGVB", estimators.SGVB, [estimators.SGVB()], torch.nn.Linear(1, 1)],
    "optimizer": [3, "Adam", [3], torch.nn.Linear(1, 1), lambda parameters: 3, partial(torch.optim.Adam, lr="a")],
    "batch_size": WHOLE,
    "seed": FROM_ZERO,
    "engine": WORD,
    "device": ["a", 3.5, [3], "cuda:99", "meta"],
    "precision": WORD,
    "report_every": WHOLE,
    "settings": [3, "fast", [3], Settings, {"threads": 1}],
    "scheduler": [3, "StepLR", [3], torch.nn.Linear(1, 1), lambda optimizer: 3, torch.optim.lr_scheduler.StepLR],
    "scheduler_every": WORD,
    "clip_norm": [value for value in POSITIVE if value is not None],
    "clip_value": [value for value in POSITIVE if value is not None],
    "averaging": [0, 1, -1, 1.5, *(value for value in NO_NUMBER if value is not None)],
}
EM = {
    "leapfrog_steps": WHOLE,
    "target_acceptance": [0, 1, -1, 1.5, *NO_NUMBER],
    "updates": WHOLE,
    "e_step": WORD,
    **{
        key: TRAINERS[key]
        for key in ("model", "data", "optimizer", "batch_size", "seed", "engine", "report_every", "settings")
    },
}


def training(**changed):
    model, guide = paper_pair(size=20)
    given = {"model": model, "guide": guide, "data": X, "batch_size": 5, "device": "cpu", "engine": "eager"}
    return aevb.Trainer(**{**given, **changed})


def em(**changed):
    model, _ = paper_pair(size=20)
    return aevb.MonteCarloEM(
        **{"model": model, "data": X, "batch_size": 5, "device": "cpu", "engine": "eager", **changed}
    )


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *((training, name, value) for name, values in TRAINERS.items() for value in values),
        *((em, name, value) for name, values in EM.items() for value in values),
    ],
)
def test_a_training_that_cannot_be_meant(make, name, value):
    with pytest.raises(aevb.InputError) as error:
        make(**{name: value})
    said = str(error.value)
    assert "\n" not in said
    assert name in said or name == "data"
    assert set(inspect.signature(aevb.Trainer).parameters) == set(TRAINERS)


@pytest.mark.parametrize("samples", [-1, 1.5, NAN, INF, "a", None, True, [3]])
def test_samples_that_cannot_be_meant(samples):
    """Some of them trained nothing, and said nothing."""
    for made in (training(), em(), aevb.Ensemble([training(), training(seed=1)], compiled=False)):
        with pytest.raises(aevb.InputError, match="samples must be"):
            list(made.run(samples))
    assert list(training().run(1e1))[-1].samples_seen == 10


@pytest.mark.parametrize("trainers", [None, 3, "a", [], [3, 4], [None], aevb.Trainer, [aevb.Trainer, aevb.Trainer]])
def test_an_ensemble_of_something_else(trainers):
    with pytest.raises(aevb.InputError):
        aevb.Ensemble(trainers)


@pytest.mark.parametrize("warm_up", FROM_ZERO)
def test_optimizers_that_cannot_be_meant(warm_up):
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(aevb.InputError, match="warm_up"):
        aevb.optimizers.Adagrad(parameters, warm_up=warm_up)
    with pytest.raises(aevb.InputError, match="total_steps"):
        aevb.optimizers.CosineAdam(parameters, total_steps=warm_up)
