"""One contract for every name in every ``__all__``; a name without a recipe fails."""

import inspect

import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

import pyro_aevb as aevb
from pyro_aevb import estimators, guides, likelihoods, nn, priors, traces

K, D, B, S = 3, 6, 4, 5

# How to build each part, by (family, name): keyword arguments.
RECIPES = {
    ("priors", "StandardNormal"): [{}],
    ("likelihoods", "Bernoulli"): [{"hidden": 7}, {"hidden": [7, 5], "activation": "relu", "relaxed": True}],
    ("likelihoods", "Gaussian"): [{"hidden": 7}, {"hidden": [], "sigmoid_mean": True, "min_scale": 0.1}],
    ("guides", "DiagonalNormal"): [{"hidden": 7}, {"network": lambda i, o: nn.MLP(i, o, [4, 4], "ELU", 0.1)}],
    ("estimators", "SGVB"): [{}, {"num_particles": 2}],
    ("estimators", "SGVBAnalyticKL"): [{}, {"num_particles": 2}],
    ("nn", "MLP"): [{}],
}
FAMILIES = {"priors": priors, "likelihoods": likelihoods, "guides": guides, "estimators": estimators, "nn": nn}
NAMES = [(family, name) for family, module in FAMILIES.items() for name in module.__all__]


def build(family, name, options):
    sizes = {"priors": (K,), "likelihoods": (K, D), "guides": (D, K), "estimators": (), "nn": (D, K)}[family]
    return getattr(FAMILIES[family], name)(*sizes, **options)


def cases(*families):
    return [(f, n, options) for f, n in NAMES if f in families for options in RECIPES.get((f, n), [])]


def distribution(family, part, dtype=torch.float32, device="cpu"):
    arguments = {"priors": (), "likelihoods": (torch.randn(S, B, K),), "guides": (torch.rand(B, D),)}[family]
    return part(*(a.to(device, dtype) for a in arguments))


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_every_name_has_a_recipe(family, name):
    assert RECIPES.get((family, name)), f"add a recipe for {family}.{name} to RECIPES"


def test_no_recipe_without_a_name():
    assert set(RECIPES) <= set(NAMES)


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides"))
def test_shapes_with_extra_particle_dimensions(family, name, options):
    made = distribution(family, build(family, name, options))
    assert isinstance(made, TorchDistributionMixin)
    shape, event = {"priors": ((), (K,)), "likelihoods": ((S, B), (D,)), "guides": ((B,), (K,))}[family]
    assert made.batch_shape == shape
    assert made.event_shape == event
    value = made.sample((2,))
    assert value.shape == (2, *shape, *event)
    assert made.log_prob(value).shape == (2, *shape)


@pytest.mark.parametrize(("family", "name", "options"), cases("likelihoods"))
def test_a_likelihood_treats_particles_alike(family, name, options):
    part = build(family, name, options)
    z, x = torch.randn(S, B, K), torch.ones(B, D)
    together = part(z).log_prob(x)
    one_by_one = torch.stack([part(z_s).log_prob(x) for z_s in z])
    torch.testing.assert_close(together, one_by_one)


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides"))
def test_gradient_reaches_every_named_parameter(family, name, options):
    part = build(family, name, options)
    made = distribution(family, part)
    if parameters := list(part.parameters()):
        torch.autograd.backward(made.log_prob(torch.rand(made.shape()).round()).sum(), inputs=parameters)
    for parameter_name, parameter in part.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides"))
def test_state_dict_round_trip(family, name, options):
    first, second = build(family, name, options), build(family, name, options)
    second.load_state_dict(first.state_dict())
    torch.manual_seed(1)
    expected = distribution(family, first).sample()
    torch.manual_seed(1)
    assert torch.equal(expected, distribution(family, second).sample())


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides"))
def test_to_moves_everything(family, name, options):
    part = build(family, name, options).to(torch.float64)
    assert distribution(family, part, torch.float64).sample().dtype == torch.float64
    if torch.cuda.is_available():
        part = part.to("cuda")
        assert distribution(family, part, torch.float64, "cuda").sample().device.type == "cuda"


@pytest.mark.parametrize(("family", "name", "options"), cases("estimators"))
def test_an_estimator_is_an_elbo_with_a_finite_loss(family, name, options):
    from pyro.infer import ELBO

    from tests.pairs import LinearGaussian

    estimator, pair = build(family, name, options), LinearGaussian(shift=0.1)
    assert isinstance(estimator, ELBO)
    loss = estimator.differentiable_loss(pair.model, pair.guide, pair.x)
    assert loss.shape == ()
    loss.backward()
    for part in (pair.model, pair.guide):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())


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
    assert all(d.shape == (S, 11) for d in densities)


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
