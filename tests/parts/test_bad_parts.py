"""A part that breaks its contract is named at the first step, with what it returned and what was expected."""

import pyro.distributions as dist
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.priors import Prior


class Broken:
    def __init__(self, *sizes, make):
        super().__init__(*sizes)
        self.make = make
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, *arguments):
        return self.make(*arguments)


class BrokenPrior(Broken, Prior):
    pass


class BrokenLikelihood(Broken, Likelihood):
    pass


class BrokenGuide(Broken, Guide):
    pass


def train(prior=None, likelihood=None, guide=None, estimator=None):
    x = torch.zeros(10, 4)
    model = aevb.GenerativeModel(
        prior or aevb.priors.StandardNormal(2), likelihood or aevb.likelihoods.Bernoulli(2, 4, hidden=3), 10
    )
    q = aevb.RecognitionModel(guide or aevb.guides.DiagonalNormal(4, 2, hidden=3), 10)
    trainer = aevb.Trainer(model, q, x, estimator, batch_size=5, device="cpu")
    return list(trainer.run(5))


CASES = {
    "prior without to_event": (
        {"prior": BrokenPrior(2, make=lambda: dist.Normal(torch.zeros(2), 1.0))},
        r"BrokenPrior\.forward returned a Normal with batch shape \(2,\) and event shape \(\), not \(\) and \(2,\): "
        r"was \.to_event\(1\) forgotten",
    ),
    "prior of another size": (
        {"prior": BrokenPrior(2, make=lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1))},
        r"BrokenPrior.*event shape \(3,\), not \(\) and \(2,\)",
    ),
    "likelihood without to_event": (
        {"likelihood": BrokenLikelihood(2, 4, make=lambda z: dist.Normal(z.new_zeros(*z.shape[:-1], 4), 1.0))},
        r"BrokenLikelihood.*batch shape \(5, 4\).*forgotten",
    ),
    "likelihood of one pixel": (
        {"likelihood": BrokenLikelihood(2, 4, make=lambda z: dist.Normal(z[..., :1], 1.0).to_event(1))},
        r"BrokenLikelihood.*event shape \(1,\), not \(5,\) and \(4,\)",
    ),
    "guide that forgets the batch": (
        {"guide": BrokenGuide(4, 2, make=lambda x: dist.Normal(torch.zeros(2), 1.0).to_event(1))},
        r"BrokenGuide.*batch shape \(\)",
    ),
    "guide that returns a tensor": (
        {"guide": BrokenGuide(4, 2, make=lambda x: x[:, :2])},
        r"BrokenGuide\.forward returned a torch\.Tensor: return a distribution of pyro\.distributions",
    ),
    "guide of torch, not Pyro": (
        {"guide": BrokenGuide(4, 2, make=lambda x: torch.distributions.Normal(x[:, :2], 1.0))},
        r"BrokenGuide\.forward returned a torch\.distributions\.normal\.Normal",
    ),
    "parameter outside its constraint": (
        {"guide": BrokenGuide(4, 2, make=lambda x: dist.Normal(x[:, :2], x[:, :2] - 1).to_event(1))},
        r"BrokenGuide\.forward failed: Expected parameter scale",
    ),
    "guide on the half-line for a prior on the line": (
        {"guide": aevb.guides.Family(4, 2, hidden=3, distribution="Gamma")},
        r"site 'z': the guide, Gamma .* cannot draw everywhere in the support of its prior's, Normal",
    ),
    "guide on the line for a prior on the half-line": (
        {"prior": aevb.priors.Family(2, distribution="Gamma")},
        r"the guide, Normal .* can draw outside the support of its prior's, Gamma",
    ),
    "continuous guide for a discrete prior": (
        {"prior": aevb.priors.Family(2, distribution="Bernoulli")},
        r"has another support than its prior's, Bernoulli",
    ),
    "support that depends on x": (
        {
            "prior": aevb.priors.Family(2, distribution="Uniform", fixed={"low": 0.0, "high": 5.0}),
            "guide": aevb.guides.Family(4, 2, hidden=3, distribution="Uniform", fixed={"low": 0.0}),
        },
        r"the guide, Uniform .* cannot draw everywhere",
    ),
    "simplex for the line": (
        {"guide": aevb.guides.Family(4, 2, hidden=3, distribution="Dirichlet")},
        r"the guide, Dirichlet .* has another support",
    ),
    "no reparameterisation": (
        {
            "prior": aevb.priors.Family(2, distribution="Bernoulli"),
            "guide": aevb.guides.Family(4, 2, hidden=3, distribution="Bernoulli"),
            "estimator": aevb.estimators.IWAE(2),
        },
        r"guide site 'z' \(Bernoulli .* cannot be reparameterised.*use SGVB, .* or VIMCO",
    ),
    "planar flow under an estimator that needs its density elsewhere": (
        {
            "guide": aevb.guides.Flow(4, 2, hidden=3, kind="planar"),
            "estimator": aevb.estimators.StickingTheLanding(),
        },
        r"cannot tell the density of a given value.*use SGVB or IWAE",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_part_is_named_at_the_first_step(name):
    parts, message = CASES[name]
    with pytest.raises(aevb.InputError, match=message):
        train(**parts)


@pytest.mark.parametrize(
    ("prior", "guide"),
    [
        (("Exponential", {}), ("Gamma", {})),
        (("Uniform", {"low": 0.0, "high": 1.0}), ("Beta", {})),
        (("Uniform", {"low": 0.0, "high": 1.0}), ("Triangular", {"low": 0.0, "high": 1.0})),
        (("Pareto", {"scale": 1.0}), ("Pareto", {"scale": 1.0})),
        (("Cauchy", {}), ("StudentT", {})),
        (("Reciprocal", {"low": 0.5, "high": 2.0}), ("Triangular", {"low": 0.5, "high": 2.0})),
        (("Dirichlet", {}), ("Dirichlet", {})),
        (("Rayleigh", {}), ("Weibull", {})),
        (("Gompertz", {}), ("Erlang", {"concentration": 2})),
        (("Gumbel", {}), ("Logistic", {})),
        (("Laplace", {}), ("EllipticalLaplace", {})),
        (("Chi2", {}), ("FisherSnedecor", {})),
        (("LogNormal", {}), ("LogNormal", {})),
    ],
)
def test_section_2_4_as_priors_and_guides_that_go_together(prior, guide):
    parts = {
        "prior": aevb.priors.Family(2, distribution=prior[0], fixed=prior[1]),
        "guide": aevb.guides.Family(4, 2, hidden=3, distribution=guide[0], fixed=guide[1]),
    }
    assert all(torch.isfinite(torch.tensor(report.bound)) for report in train(**parts))


def test_a_vamp_prior_needs_its_guide():
    with pytest.raises(aevb.InputError, match="give it the guide"):
        aevb.priors.VampPrior(2)
    with pytest.raises(aevb.InputError, match="3 latent dimensions, the prior 2"):
        aevb.priors.VampPrior(2, guide=aevb.guides.DiagonalNormal(4, 3))
