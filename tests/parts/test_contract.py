"""One contract for every name in every ``__all__``; a name without a recipe fails."""

import inspect
from functools import partial

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import estimators, guides, likelihoods, nn, priors, testing, traces
from tests.oracles import RECIPES as PARTS

K, D, S = 3, 6, 5

GAMMA = {"distribution": "Gamma"}

RECIPES = {
    **PARTS,
    ("estimators", "SGVB"): [{}, {"num_particles": 2}, {"beta": 0.5, "warm_up": 100}],
    ("estimators", "SGVBAnalyticKL"): [{}, {"num_particles": 2}, {"beta": 2.0}],
    ("estimators", "ScoreFunction"): [{}, {"baseline": "mean"}, {"baseline": "leave_one_out", "num_particles": 3}],
    ("estimators", "IWAE"): [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": False}],
    ("estimators", "StickingTheLanding"): [{}, {"num_particles": 3}],
    ("estimators", "DoublyReparameterized"): [{"num_particles": 3}, {"num_particles": 3, "vectorize_particles": False}],
    ("estimators", "Renyi"): [{}, {"num_particles": 3, "alpha": -1.0}],
    ("estimators", "VIMCO"): [{}, {"num_particles": 4}],
    ("estimators", "WakeSleep"): [{}, {"num_particles": 3}],
    ("nn", "MLP"): [{}],
    ("nn", "ConvolutionalEncoder"): [{"shape": (2, 3)}],
    ("nn", "ConvolutionalDecoder"): [{"shape": (1, 3)}],
    ("nn", "ImageNetwork"): [{"shape": (4, 4), "body": torch.nn.Flatten()}],
}
FAMILIES = {"priors": priors, "likelihoods": likelihoods, "guides": guides, "estimators": estimators, "nn": nn}
NAMES = [(family, name) for family, module in FAMILIES.items() for name in module.__all__]


def cases(*families):
    return [(f, n, options) for f, n in NAMES if f in families for options in RECIPES.get((f, n), [])]


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_every_name_has_a_recipe(family, name):
    assert RECIPES.get((family, name)), f"add a recipe for {family}.{name} to RECIPES"


def test_no_recipe_without_a_name():
    assert set(RECIPES) <= set(NAMES)


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides", "estimators"))
def test_a_part_keeps_its_contract(family, name, options):
    """The functions that a part from outside the package is checked by; what each refuses: see test_testing.py."""
    make = partial(getattr(FAMILIES[family], name), **options)
    if name == "VampPrior":
        shared = guides.DiagonalNormal(D, K, hidden=7)
        testing.check_prior(partial(make, guide=shared), latent_dim=K, shares=[shared])
    elif family == "priors":
        testing.check_prior(make, latent_dim=K)
    elif family == "likelihoods":
        testing.check_likelihood(make, latent_dim=K, data_dim=D)
    elif family == "guides":
        prior = partial(priors.Family, **GAMMA) if name == "Family" else priors.StandardNormal
        testing.check_guide(make, data_dim=D, latent_dim=K, prior=prior)
    else:
        testing.check_estimator(make, bound="beta" not in options)


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_docstring_tells_what_where_from_and_each_argument(family, name):
    part = getattr(FAMILIES[family], name)
    text = inspect.getdoc(part)
    assert "References:" in text
    assert ".. math::" in text or ":math:" in text
    for argument in inspect.signature(part).parameters:
        shared = {"max_plate_nesting", "vectorize_particles"}  # told once, in the base class
        assert argument in shared or f"{argument}:" in text, argument


@pytest.mark.parametrize("likelihood", ["Bernoulli", "Gaussian"])
def test_every_pair_of_parts_runs_as_a_pyro_pair(likelihood):
    from tests.pairs import binary, paper_pair

    model, guide = paper_pair(likelihood)
    densities = traces.log_densities(model, guide, (binary(),), num_particles=S)
    assert all(d.shape == (S, 11) for d in densities[:3])


@pytest.mark.parametrize(
    "make",
    [
        lambda: aevb.priors.StandardNormal(0),
        lambda: aevb.likelihoods.Bernoulli(0, 3),
        lambda: aevb.guides.DiagonalNormal(3, 0),
        lambda: aevb.likelihoods.Gaussian(2, 3, min_scale=0.0),
        lambda: nn.MLP(3, 2, hidden=0),
        lambda: nn.MLP(3, 2, activation="tanhh"),
        lambda: aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(3, 4)),
    ],
)
def test_a_wrong_size_or_name_is_an_input_error(make):
    with pytest.raises(aevb.InputError):
        make()
