"""One contract for every name in every ``__all__``; a name without a recipe fails."""

import inspect

import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

import pyro_aevb as aevb
from pyro_aevb import estimators, guides, likelihoods, nn, priors, traces
from tests.oracles import RECIPES as PARTS
from tests.oracles import build as build_part

K, D, B, S = 3, 6, 4, 5

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
}
FAMILIES = {"priors": priors, "likelihoods": likelihoods, "guides": guides, "estimators": estimators, "nn": nn}
NAMES = [(family, name) for family, module in FAMILIES.items() for name in module.__all__]


def build(family, name, options):
    if family in ("priors", "likelihoods", "guides"):
        return build_part(family, name, options, K, D)
    sizes = {"estimators": (), "nn": (D, K)}[family]
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
    z = torch.randn(S, B, K)
    x = part(z[0]).sample()
    together = part(z).log_prob(x)
    one_by_one = torch.stack([part(z_s).log_prob(x) for z_s in z])
    torch.testing.assert_close(together, one_by_one)


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides"))
def test_gradient_reaches_every_named_parameter(family, name, options):
    part = build(family, name, options)
    made = distribution(family, part)
    if parameters := list(part.parameters()):
        if options.get("kind") == "planar":  # it tells the density of what it has just drawn, of nothing else
            value = made.rsample()
        else:  # a copy: the density of what was just drawn may be remembered, without a gradient
            value = made.sample(() if made.batch_shape else (50,)).clone()
        torch.autograd.backward(made.log_prob(value).sum(), inputs=parameters)
    for parameter_name, parameter in part.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides"))
def test_state_dict_round_trip(family, name, options):
    first, second = build(family, name, options), build(family, name, options)
    second.load_state_dict(first.state_dict())
    if hasattr(first, "_shared"):  # the guide's weights are saved with the guide
        second._shared[0].load_state_dict(first._shared[0].state_dict())
    torch.manual_seed(1)
    expected = distribution(family, first).sample()
    torch.manual_seed(1)
    assert torch.equal(expected, distribution(family, second).sample())


@pytest.mark.parametrize(("family", "name", "options"), cases("priors", "likelihoods", "guides"))
def test_to_moves_everything(family, name, options):
    part = build(family, name, options).to(torch.float64)
    if hasattr(part, "_shared"):
        part._shared[0].to(torch.float64)
    assert distribution(family, part, torch.float64).sample().dtype == torch.float64
    if torch.cuda.is_available():
        part = part.to("cuda")
        if hasattr(part, "_shared"):
            part._shared[0].to("cuda")
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
