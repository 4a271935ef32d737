"""Every part names its oracle in its docstring, and every density equals it."""

import inspect
import re

import numpy as np
import pytest
import torch

from pyro_aevb import distributions, estimators, guides, likelihoods, priors
from tests.oracles import DENSITIES, JACOBIAN, RECIPES, build, numpy

PARTS = [
    (module.__name__.split(".")[-1], name)
    for module in (priors, likelihoods, guides, distributions, estimators)
    for name in module.__all__
    if name != "InverseCDF"  # a base class
]
CASES = [(*key, options) for key, choices in RECIPES.items() for options in choices]


@pytest.mark.parametrize(("family", "name"), PARTS)
def test_every_part_names_its_oracle(family, name):
    part = getattr(
        {
            "priors": priors,
            "likelihoods": likelihoods,
            "guides": guides,
            "distributions": distributions,
            "estimators": estimators,
        }[family],
        name,
    )
    assert re.search(r"^Oracle: .+\.$", inspect.getdoc(part), re.M), f"{family}.{name} names no oracle"
    if family not in ("distributions", "estimators"):
        assert (family, name) in DENSITIES


def inputs(family, name):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    return {
        "priors": (z[0, :, :2],) if name == "ConditionalNormal" else (),
        "likelihoods": (z,),
        "guides": (torch.rand(5, 6, generator=generator).double(),),
    }[family]


def randomised(part):
    """Weights that are not symmetric, lest a swap go unseen."""
    if hasattr(part, "_shared"):
        part._shared[0].double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).double())
    return part


@pytest.mark.parametrize(("family", "name", "options"), [c for c in CASES if DENSITIES[c[:2]] is not JACOBIAN])
def test_a_density_equals_its_oracle(family, name, options):
    torch.manual_seed(0)
    part = randomised(build(family, name, options).double())
    given = inputs(family, name)
    if name == "Columns":
        part.z = given[0]
        part.loc.add_(torch.arange(6) * (part.loc == 0) * torch.tensor([kind == "real" for kind in part.kinds]))
        part.scale.mul_(1 + torch.arange(6) * torch.tensor([kind in ("real", "count") for kind in part.kinds]))
    made = part(*given)
    value = made.sample() if made.batch_shape else made.sample((5,))
    outputs = numpy(part.network(*given)) if hasattr(part, "network") else None
    expected = DENSITIES[family, name](part, outputs, numpy(value))
    np.testing.assert_allclose(numpy(made.log_prob(value)), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("family", "name", "options"), [c for c in CASES if DENSITIES[c[:2]] is JACOBIAN])
def test_a_flows_density_is_the_change_of_variables(family, name, options):
    torch.manual_seed(0)
    part = randomised(build(family, name, options).double())
    made = part() if family == "priors" else part(inputs(family, name)[0][:1])

    def forward(noise):
        for transform in made.transforms:
            noise = transform(noise)
        return noise

    for noise in made.base_dist.sample((6,)).reshape(6, -1):
        jacobian = torch.autograd.functional.jacobian(lambda n: forward(n.reshape(made.shape())).flatten(), noise)
        expected = made.base_dist.log_prob(noise.reshape(made.shape())) - torch.linalg.slogdet(jacobian)[1]
        value = forward(noise.reshape(made.shape()))
        torch.testing.assert_close(made.log_prob(value), expected, rtol=1e-9, atol=1e-9)
        if options.get("kind") != "planar":  # which cannot be inverted
            torch.testing.assert_close(made.log_prob(value.clone()), expected, rtol=1e-6, atol=1e-6)
