"""Every prior with every likelihood, guide and estimator: each two parts that go together meet in at least one case."""

import itertools
import random
from functools import partial

import pytest
import torch
from pyro import poutine

import pyro_aevb as aevb
from pyro_aevb import estimators, guides, likelihoods, priors
from pyro_aevb.traces import per_datum_kl
from tests.oracles import RECIPES, build
from tests.trainings import assert_equal

K, D, N, M = 2, 4, 40, 20

CONDITIONAL = {"ConditionalNormal"}  # which asks for data with a condition: tests/test_models.py
DISCRETE = {"distribution": "Bernoulli"}
PRIORS = [
    (n, o) for (f, n), options in RECIPES.items() if f == "priors" for o in options[-1:] if n not in CONDITIONAL
] + [
    ("Flow", {"hidden": 5}),
    ("Family", DISCRETE),
]
LIKELIHOODS = [(n, o) for (f, n), options in RECIPES.items() if f == "likelihoods" for o in options[:1]]
GUIDES = [(n, o) for (f, n), options in RECIPES.items() if f == "guides" for o in options[:1]] + [
    ("Flow", {"hidden": 7, "kind": "planar"}),
    ("Flow", {"hidden": 7, "kind": "spline"}),
    ("Family", {"hidden": 7, **DISCRETE}),
]
ESTIMATORS = [
    ("SGVB", {}),
    ("SGVBAnalyticKL", {}),
    ("ScoreFunction", {"baseline": "leave_one_out", "num_particles": 2}),
    ("IWAE", {"num_particles": 2}),
    ("StickingTheLanding", {}),
    ("DoublyReparameterized", {"num_particles": 2}),
    ("Renyi", {"num_particles": 2}),
    ("VIMCO", {"num_particles": 2}),
    ("WakeSleep", {}),
]

# The one table of which (guide, prior) pairs have a closed-form KL; estimator B refuses any other.
CLOSED_FORM = {
    ("DiagonalNormal", "StandardNormal"),
    ("DiagonalNormal", "LearnedNormal"),
    ("DiagonalNormal", "Laplace"),
    ("FullCovarianceNormal", "StandardNormal"),
    ("FullCovarianceNormal", "LearnedNormal"),
    ("LowRankNormal", "StandardNormal"),
    ("LowRankNormal", "LearnedNormal"),
    ("Family Gamma", "Family Gamma"),
    ("Family Bernoulli", "Family Bernoulli"),
}


TAKE_SCORES = ("SGVB", "SGVBAnalyticKL", "ScoreFunction", "VIMCO", "WakeSleep")
ONE_DRAW = ("SGVB", "IWAE", "Renyi")  # which ask for the density of what was just drawn alone


def label(part):
    name, options = part
    return f"{name} {options['distribution']}" if name == "Family" else name


def support(part):
    return part[1].get("distribution", "real")


def goes_with(prior, likelihood, guide, estimator):
    if support(prior) != support(guide):
        return False
    if support(guide) == "Bernoulli" and estimator[0] not in TAKE_SCORES:
        return False
    if estimator[0] == "SGVBAnalyticKL" and (label(guide), label(prior)) not in CLOSED_FORM:
        return False
    # A planar flow tells the density of what it has just drawn, of nothing else.
    return guide[1].get("kind") != "planar" or (estimator[0] in ONE_DRAW and prior[0] != "VampPrior")


def covering():
    """Greedily few cases in which every two parts that can meet do; always the same ones."""
    families = [range(len(family)) for family in (PRIORS, LIKELIHOODS, GUIDES, ESTIMATORS)]
    possible = [
        c
        for c in itertools.product(*families)
        if goes_with(PRIORS[c[0]], LIKELIHOODS[c[1]], GUIDES[c[2]], ESTIMATORS[c[3]])
    ]
    pairs = {c: {((i, c[i]), (j, c[j])) for i, j in itertools.combinations(range(4), 2)} for c in possible}
    missing, chosen, chance = set().union(*pairs.values()), [], random.Random(0)
    while missing:
        some = chance.sample(possible, 400)
        best = max(some, key=lambda c: len(pairs[c] & missing))
        if not pairs[best] & missing:
            best = next(c for c in possible if pairs[c] & missing)
        chosen.append(best)
        missing -= pairs[best]
    return [(PRIORS[a], LIKELIHOODS[b], GUIDES[c], ESTIMATORS[d]) for a, b, c, d in chosen]


def observed(likelihood):
    """Data on which the likelihood has a density."""
    generator = torch.Generator().manual_seed(0)
    name, options = likelihood
    if name in ("Poisson", "NegativeBinomial"):
        return torch.randint(0, 5, (N, D), generator=generator).double()
    if name in ("Categorical", "DiscretizedLogistic"):
        steps = options["steps"]
        return torch.randint(0, steps + 1, (N, D), generator=generator).double() / steps
    grey = torch.rand(N, D, generator=generator).double()
    return grey.round() if name == "Bernoulli" else grey


def make_pair(prior, likelihood, guide):
    with aevb.seeded(0):
        q = build("guides", *guide, latent_dim=K, data_dim=D)
        options = {"guide": q, **prior[1]} if prior[0] == "VampPrior" else prior[1]
        p = getattr(priors, prior[0])(K, **options)
        px = build("likelihoods", *likelihood, latent_dim=K, data_dim=D)
    return aevb.GenerativeModel(p, px, N).double(), aevb.RecognitionModel(q, N).double()


def train(prior, likelihood, guide, estimator, engine, samples=10 * M):
    model, q = make_pair(prior, likelihood, guide)
    trainer = aevb.Trainer(
        model, q, observed(likelihood), getattr(estimators, estimator[0])(**estimator[1]),
        partial(torch.optim.Adam, lr=1e-3), M, engine=engine, device="cpu", report_every=5 * M,
    )  # fmt: skip
    if engine == "captured":
        trainer.engine.gradients.compiled = False
    return trainer, list(trainer.run(samples))


def state(trainer):
    return {f"{i}{n}": v for i, m in enumerate((trainer.model, trainer.guide)) for n, v in m.state_dict().items()}


KINDS = {  # of what an estimator asks a part for, and so of what a recording holds
    "SGVBAnalyticKL": "closed form",
    "ScoreFunction": "density of constants",
    "VIMCO": "density of constants",
    "WakeSleep": "density of constants",
    "StickingTheLanding": "slopes by latents",
    "DoublyReparameterized": "slopes by latents",
}


def recorded():
    """Those cases that are recorded too: few in which each part meets each kind of estimator that it goes with."""
    seen, chosen = set(), []
    for case in CASES:
        met = {(i, repr(part), KINDS.get(case[3][0], "draws")) for i, part in enumerate(case)}
        if met - seen:
            seen |= met
            chosen.append(case)
    return chosen


CASES = covering()
RECORDED = recorded()


def test_each_part_is_recorded_with_each_kind_of_estimator():
    met = {(repr(part), KINDS.get(case[3][0])) for case in CASES for part in case}
    assert met == {(repr(part), KINDS.get(case[3][0])) for case in RECORDED for part in case}


def test_the_covering_is_complete_and_the_table_of_closed_forms_true():
    for family, index in ((PRIORS, 0), (LIKELIHOODS, 1), (GUIDES, 2), (ESTIMATORS, 3)):
        assert {repr(case[index]) for case in CASES} == {repr(part) for part in family}
    together = [(p, q) for p, q in itertools.product(PRIORS, GUIDES) if goes_with(p, LIKELIHOODS[0], q, ("SGVB", {}))]
    known = set()
    for prior, guide in together:
        model, q = make_pair(prior, LIKELIHOODS[0], guide)
        if per_datum_kl(model, q, (observed(LIKELIHOODS[0])[:M],)) is not None:
            known.add((label(guide), label(prior)))
    assert known == CLOSED_FORM


@pytest.mark.parametrize(
    ("prior", "likelihood", "guide", "estimator"), CASES, ids=["-".join(label(p) for p in case) for case in CASES]
)
def test_a_combination_trains_evaluates_samples_saves_and_captures(prior, likelihood, guide, estimator):
    parts = prior, likelihood, guide, estimator
    eager, reports = train(*parts, "eager")
    assert all(torch.isfinite(torch.tensor(report.bound)) for report in reports)
    assert all(p.grad is not None for p in eager.parameters.values())
    assert sum(p.grad.abs().sum() > 0 for p in eager.parameters.values()) >= len(eager.parameters) - 1
    z = poutine.trace(eager.model).get_trace(observed(likelihood)).nodes["z"]
    assert type(z["fn"]).__name__ == type(eager.model.prior()).__name__ or z["fn"].event_shape == (K,)
    assert eager.model.likelihood(eager.model.prior().sample((3,))).sample().shape == (3, D)
    assert torch.isfinite(aevb.evidence.bound(eager.model, eager.guide, observed(likelihood)).bound).all()
    if parts in RECORDED:
        captured, same = train(*parts, "captured")
        assert [r.bound for r in same] == [r.bound for r in reports]
        assert_equal(state(eager), state(captured))
    again, _ = train(*parts, "eager", samples=M)
    again.load_state_dict(eager.state_dict())
    assert_equal(state(eager), state(again))
    assert [r.bound for r in again.run(M)] == [r.bound for r in eager.run(M)]


@pytest.mark.parametrize("guide", GUIDES, ids=map(repr, GUIDES))
@pytest.mark.parametrize("prior", PRIORS, ids=map(repr, PRIORS))
def test_estimator_b_takes_what_the_table_says_and_refuses_all_else(prior, guide):
    if support(prior) != support(guide) or (prior[0] == "VampPrior" and guide[1].get("kind") == "planar"):
        pytest.skip("these two are refused together, which is tested elsewhere")
    model, q = make_pair(prior, ("Bernoulli", {"hidden": 7}), guide)
    x = observed(("Bernoulli", {}))
    estimator = estimators.SGVBAnalyticKL()
    if (label(guide), label(prior)) in CLOSED_FORM:
        exact = estimator.loss(model, q, x) / N
        sampled = estimators.SGVB(20_000, vectorize_particles=True, max_plate_nesting=1)
        assert sampled.loss(model, q, x[:2]) / N == pytest.approx(estimator.loss(model, q, x[:2]) / N, abs=0.3)
        assert exact > 0
    else:
        with pytest.raises(aevb.InputError, match="no closed form"):
            estimator.loss(model, q, x)


def test_every_part_is_somewhere():
    for module, used in ((priors, PRIORS), (likelihoods, LIKELIHOODS), (guides, GUIDES), (estimators, ESTIMATORS)):
        assert {name for name, _ in used} == set(module.__all__) - CONDITIONAL
