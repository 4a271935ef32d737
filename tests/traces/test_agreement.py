"""Model and guide agree on what counts, or are refused by name: no estimator's number is silently another's."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_aevb as aevb
from pyro_aevb import estimators, evidence
from pyro_aevb.estimators import SGVB, VIMCO, SGVBAnalyticKL
from tests.everything import REFUSED, assert_refused, evaluators, losses
from tests.pairs import plate, q, std

X = torch.tensor([[0.3], [-1.0], [2.0], [0.7]])
EXACT = dist.Normal(0.0, 2**0.5).log_prob(X)[:, 0]


# ---------------------------------------------------------------- terms of the guide that are no latents


def factor(has_rsample):
    def guide(x):
        a = pyro.param("a", torch.tensor(2.0))
        q(x)
        pyro.factor("f", -(a**2), has_rsample=has_rsample)

    return guide


def observing(fn):
    def guide(x):
        a = pyro.param("a", torch.tensor(2.0))
        q(x)
        pyro.sample("y", fn(a), obs=torch.tensor(1.0))

    return guide


OBSERVING = {
    "factor": factor(True),
    "factor of discrete samples": factor(False),
    "normal": observing(lambda a: dist.Normal(a, 1.0)),
    "bernoulli": observing(lambda a: dist.Bernoulli(logits=a)),
}


@pytest.mark.parametrize("kind", OBSERVING)
def test_a_guides_factors_count_as_in_trace_elbo_or_are_refused(kind):
    guide = OBSERVING[kind]

    def gradient(loss):
        pyro.clear_param_store()
        with aevb.seeded(0):
            value = loss.differentiable_loss(std, guide, X)
            value.backward()
        return value.item(), pyro.param("a").grad.item()

    found = losses(std, guide, (X,), 2)
    if kind in ("factor", "normal"):
        assert gradient(SGVB()) == pytest.approx(gradient(Trace_ELBO()), rel=1e-5)
        assert_refused(found, "SGVB", "ScoreFunction")
    else:
        assert_refused(found)
    told = evaluators(std, guide, (X,))
    assert_refused(
        told, "ais from the prior", "linear_gaussian", "posterior_means", "activity", "latent_kl", "appendix_d"
    )


# ---------------------------------------------------------------- latents in one of them alone, or of other plates


def test_weights_in_a_plate_of_the_data_s_size_are_global():
    """20 weights and 20 data: importance sampling answered -29.549 for -29.271."""
    x = torch.randn(20)

    def model(x):
        with plate(x, "weights"):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + w.mean(), 1.0), obs=x)

    def guide(x):
        with plate(x, "weights"):
            pyro.sample("w", dist.Normal(0.0, 1.0))
        with plate(x):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    exact = dist.MultivariateNormal(torch.zeros(20), 2 * torch.eye(20) + 1 / 20).log_prob(x)
    weights = evidence.importance_weights(model, guide, x, 3000)
    assert abs(weights.log_likelihood - exact).item() < 5 * weights.standard_error.item()
    found = losses(model, guide, (x,), 2)
    assert all(value is not REFUSED for name, value in found.items() if name != "WakeSleep")
    told = evaluators(model, guide, (x,))
    assert_refused(told, "bound", "importance", "posterior_means", "activity", "latent_kl", "decoder_use")


def test_a_latent_of_the_model_alone_is_refused_by_all():
    """As if to be enumerated: what SGVB told was no bound (-3.98 for -3.32)."""

    def model(x):
        with plate(x):
            k = pyro.sample("k", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z + k.unsqueeze(-1), 1).to_event(1), obs=x)

    found = losses(model, q, (X,), 2)
    assert_refused(found)
    with pytest.raises(aevb.InputError, match=r"does not sample the model's site 'k'.*TraceEnum_ELBO"):
        SGVB().loss(model, q, X)
    assert_refused(evaluators(model, q, (X,)), "posterior_means", "activity")


def test_a_latent_of_the_guide_alone_is_refused_unless_it_is_auxiliary():
    def guide(x, **infer):
        with plate(x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0), infer=infer)
            pyro.sample("z", dist.Normal(x / 2 + 0 * a.unsqueeze(-1), 0.5**0.5).to_event(1))

    assert_refused(losses(std, guide, (X,), 2))
    auxiliary = partial(guide, is_auxiliary=True)
    with aevb.seeded(0):
        ours = SGVB().loss(std, auxiliary, X)
    with aevb.seeded(0):
        theirs = Trace_ELBO().loss(std, auxiliary, X)
    assert ours == pytest.approx(theirs, rel=1e-6)


# ---------------------------------------------------------------- scales and masks


def scaled(scale):
    def model(x):
        with plate(x):
            with poutine.scale(scale=scale):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x):
        with plate(x), poutine.scale(scale=scale):
            pyro.sample("z", dist.Normal(x / 2 + 1, 0.5**0.5).to_event(1))

    return model, guide


@pytest.mark.parametrize("scale", [0.1, torch.tensor(0.1), torch.full((4,), 0.1), 1 / 3])
def test_a_scale_around_a_latent_alone_is_counted_or_refused(scale):
    model, guide = scaled(scale)
    with aevb.seeded(0):
        expected = Trace_ELBO(num_particles=2).loss(model, guide, X)
    found = losses(model, guide, (X,), 2)
    assert found["SGVB"] == pytest.approx(expected, rel=1e-5)
    assert_refused(found, "SGVB", "SGVBAnalyticKL", "ScoreFunction")
    # Evaluation knows nothing of how training weighs its terms.
    told = evidence.importance_sampling(model, guide, X, 20_000)
    torch.testing.assert_close(told, EXACT, atol=0.1, rtol=0)


@pytest.mark.parametrize("scale", [2.0, torch.tensor(2.0), torch.full((4,), 2.0)])
def test_a_scale_in_the_model_alone_is_refused(scale):
    model, _ = scaled(scale)
    assert_refused(losses(model, q, (X,), 2))
    with pytest.raises(aevb.InputError, match=r"'z' is scaled by .* in the model and by 1 in the guide"):
        SGVB().loss(model, q, X)


def test_a_scale_common_to_all_multiplies_every_loss():
    for scale in (0.25, torch.tensor(0.25)):
        model, guide = (poutine.scale(f, scale) for f in (std, q))
        plain, found = losses(std, q, (X,), 2), losses(model, guide, (X,), 2)
        for name, value in plain.items():
            assert found[name] == pytest.approx(value / 4, rel=1e-5), name


def masked(where):
    def model(x):
        with plate(x):
            with poutine.mask(mask=where):
                pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("u", dist.Normal(0.5, 2.0))

    def alike(x):
        with plate(x), poutine.mask(mask=where):
            pyro.sample("u", dist.Normal(0.5, 2.0))

    return model, guide, alike


MASK = torch.tensor([True, False, True, False])


@pytest.mark.parametrize("where", [MASK, torch.tensor(False), False])
def test_a_latent_masked_in_the_model_alone_is_refused_and_alike_is_right(where):
    """What obs_mask makes: it added log 2 to a datum's evidence."""
    x = X[:, 0]
    model, guide, alike = masked(where)
    assert_refused(losses(model, guide, (x,), 2))
    assert_refused(evaluators(model, guide, (x,)), "posterior_means", "activity", "latent_kl")
    exact = dist.Normal(0.0, 1.0).log_prob(x)
    torch.testing.assert_close(evidence.importance_sampling(model, alike, x, 5000), exact, atol=0.1, rtol=0)
    for name in ("IWAE", "VIMCO"):
        bounds = [-getattr(estimators, name)(500).loss(model, alike, x) for _ in range(5)]
        assert sum(bounds) / 5 == pytest.approx(exact.sum().item(), abs=0.2), name


def test_obs_mask_is_refused_where_the_guide_counts_what_the_model_does_not():
    def model(x, m):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=m)

    def guide(x, m, masks=True):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.where(m, x / 2, 0.0), torch.where(m, 0.5**0.5, 1.0)))
            with poutine.mask(mask=~m if masks else torch.ones_like(m)):
                pyro.sample("x_unobserved", dist.Normal(z, 1.0))

    x = X[:, 0]
    assert_refused(losses(model, partial(guide, masks=False), (x, MASK), 2))
    exact = torch.where(MASK, dist.Normal(0.0, 2**0.5).log_prob(x), 0.0)
    found = losses(model, guide, (x, MASK), 2, ["SGVB", "IWAE", "VIMCO", "StickingTheLanding"])
    for name, loss in found.items():
        assert -loss == pytest.approx(exact.sum().item(), abs=1e-4), name


def test_the_same_mask_by_another_handler_agrees():
    def model(x):
        with plate(x):
            pyro.sample("u", dist.Normal(0.0, 1.0).mask(MASK))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with plate(x), poutine.mask(mask=MASK):
            pyro.sample("u", dist.Normal(0.5, 2.0))

    assert losses(model, guide, (X[:, 0],), 2)["SGVB"] != REFUSED


# ---------------------------------------------------------------- densities that there are


def test_a_point_mass_has_no_density():
    """Importance weights of a Delta told 14.12 with no error at all, where the evidence is 3.06."""

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Delta(x / 2, event_dim=1))

    found = losses(std, guide, (X,), 2)
    with aevb.seeded(0):
        assert found["SGVB"] == pytest.approx(Trace_ELBO().loss(std, guide, X), rel=1e-6)  # a point estimate, as Pyro's
    assert_refused(found, "SGVB", "SGVBAnalyticKL", "ScoreFunction")
    told = evaluators(std, guide, (X,))
    assert_refused(told, "ais from the prior", "linear_gaussian", "posterior_means", "activity", "appendix_d")
    with pytest.raises(aevb.InputError, match="'z' is a Delta, a point mass"):
        evidence.importance_weights(std, guide, X, 10)


def test_what_a_distribution_is_is_told_by_its_class_not_by_its_name():
    class Point(dist.Delta):
        """Another name, and a point all the same."""

    def log_px(fn):
        def guide(x):
            with plate(x):
                pyro.sample("z", fn(x / 2))

        return evidence.importance_sampling(std, guide, X, 10)

    with pytest.raises(aevb.InputError, match="a point mass, which has no density"):
        log_px(lambda loc: Point(loc, event_dim=1))
    expected = log_px(lambda loc: dist.Normal(loc, 1.0).to_event(1))
    for name in ("Delta", "NormalStraightThrough"):
        named = type(name, (dist.Normal,), {})
        torch.testing.assert_close(log_px(lambda loc, named=named: named(loc, 1.0).to_event(1)), expected)


def test_straight_through_values_are_refused():
    """Their density is that of another value, which they carry along: NaN and -inf here and there."""
    fn = dist.RelaxedOneHotCategoricalStraightThrough

    def model(x):
        with plate(x):
            pyro.sample("z", fn(torch.tensor(0.5), logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", fn(torch.tensor(0.5), logits=torch.tensor([0.3, 0.0, 0.0])))

    x = X[:, 0]
    found = losses(model, guide, (x,), 2)
    with aevb.seeded(0):
        assert found["SGVB"] == pytest.approx(Trace_ELBO(num_particles=2).loss(model, guide, x), rel=1e-5)
    assert_refused(found, "SGVB", "ScoreFunction")
    assert_refused(evaluators(model, guide, (x,)), "posterior_means", "activity")


def test_a_von_mises_latent_lives_on_the_circle():
    """Torch declares it real, where its density does not integrate to one: AIS told -3.63 for -7.534."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.VonMises(torch.tensor(0.5), torch.tensor(2.0)))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(x / 2, pyro.param("s", torch.tensor(1.0))))

    def circular(x):
        with plate(x):
            pyro.sample("z", dist.VonMises(x.clamp(-3, 3), torch.tensor(2.0)))

    x = torch.tensor([0.3, -2.0, 4.0])
    z = torch.linspace(-math.pi, math.pi, 20001)
    logs = dist.VonMises(0.5, 2.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(x.unsqueeze(-1))
    exact = logs.logsumexp(-1) + math.log(2 * math.pi / 20001)
    assert_refused(losses(model, guide, (x,), 2), *estimators.__all__)  # values, or refused: no traceback
    with pytest.raises(aevb.InputError, match=r"'z'.*can draw outside the support"):
        aevb.Trainer(model, guide, x, batch_size=3, device="cpu")
    with pytest.raises(aevb.InputError, match=r"'z'.*can draw outside the support"):
        evidence.annealed_importance_sampling(model, guide, x, steps=5)
    for guide, start in ((None, "prior"), (circular, "guide")):
        found = evidence.annealed_importance_sampling(model, guide, x, steps=50, chains=20, start=start)
        assert ((found.log_likelihood - exact).abs() < 5 * found.standard_error + 0.05).all()
    samples = aevb.hmc.sample_posterior(model, (x,), 60)
    inside = samples.space.latents(samples.position[-1])[0]["z"]
    assert (inside.abs() <= math.pi).all()


# ---------------------------------------------------------------- closed forms at values that were drawn before


def top_down(x):
    """p(b) p(a|b) p(x|a)."""
    with plate(x):
        b = pyro.sample("b", dist.Normal(torch.zeros(()).double(), 1.0))
        a = pyro.sample("a", dist.Normal(b, 1.0))
        pyro.sample("x", dist.Normal(a, 1.0), obs=x)


def bottom_up(x):
    """The exact posterior, q(a|x) q(b|a)."""
    with plate(x):
        a = pyro.sample("a", dist.Normal(2 * x / 3, (2 / 3) ** 0.5))
        pyro.sample("b", dist.Normal(a / 2, 0.5**0.5))


def test_the_analytic_kl_of_a_guide_from_the_bottom_up_is_right():
    """It was taken at a value not drawn yet: -2.313 for -1.973."""
    x = torch.tensor([0.3, -1.0, 2.0]).double()
    exact = dist.Normal(0.0, 3**0.5).log_prob(x).sum().item()
    with aevb.seeded(0):
        bounds = torch.tensor([-SGVBAnalyticKL(50).loss(top_down, bottom_up, x) for _ in range(60)])
    assert bounds.mean().item() == pytest.approx(exact, abs=5 * bounds.std().item() / 60**0.5)
    assert bounds.std() < 0.5


def test_the_analytic_kl_stays_that_of_trace_mean_field_where_that_is_right():
    def guide(x):
        with plate(x):
            b = pyro.sample("b", dist.Normal(x / 3, 0.8))
            pyro.sample("a", dist.Normal((x + b) / 2, 0.5**0.5))

    x = torch.tensor([0.3, -1.0, 2.0]).double()
    with aevb.seeded(0):
        ours = SGVBAnalyticKL().loss(top_down, guide, x)
    with aevb.seeded(0):
        theirs = TraceMeanField_ELBO().loss(top_down, guide, x)
    assert ours == pytest.approx(theirs, rel=1e-12)


class Narrow(dist.Normal):
    """A subclass with a density of its own."""

    def log_prob(self, value):
        return super().log_prob(value) - 1.0


def test_a_subclass_is_not_the_distribution_that_it_extends():
    def model(x, fn=dist.Normal, gn=dist.Normal):
        with plate(x):
            z = pyro.sample("z", fn(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", gn(z, 1).to_event(1), obs=x)

    torch.testing.assert_close(evidence.linear_gaussian(model, X), EXACT, atol=1e-5, rtol=0)
    for wrong in (partial(model, fn=Narrow), partial(model, gn=Narrow), partial(model, gn=dist.NanMaskedNormal)):
        with pytest.raises(aevb.InputError, match="no Gaussian"):
            evidence.linear_gaussian(wrong, X)
    with pytest.raises(aevb.InputError, match="no closed form"):
        SGVBAnalyticKL().loss(partial(model, fn=Narrow), q, X)
    parts = evidence.bound(partial(model, fn=Narrow), q, X, 500)
    torch.testing.assert_close(parts.bound, EXACT - 1, atol=0.2, rtol=0)


# ---------------------------------------------------------------- weights of zero


def test_vimco_with_weights_of_zero():
    """A sample where p(x|z) = 0: the geometric mean of weights is zero there, the gradient was NaN."""
    logit = torch.tensor(0.3).double().requires_grad_()

    def model(x):
        with plate(x):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.4).double()))
            low = torch.where(k > 0, 0.0, 2.0).double()  # x = 1 lies outside of [2, 3]
            pyro.sample("x", dist.Uniform(low, low + 3 - low / 2, validate_args=False), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("k", dist.Bernoulli(logits=logit.expand(len(x))))

    x = torch.ones(1).double()
    for particles, draws in ((2, 200), (3, 2000)):
        estimator, found, bounds = VIMCO(particles), [], []
        with aevb.seeded(0):
            for _ in range(draws):
                value = -estimator.differentiable_loss(model, guide, x)
                if value.isfinite():
                    (slope,) = torch.autograd.grad(value, logit)
                    assert slope.isfinite()
                    found.append(slope)
                    bounds.append(value.item())
        assert len(found) > draws / 2
    # Three samples, exactly: E[bound; some weight] and its gradient, by enumeration of the number of ones.
    p = logit.sigmoid()
    weight = (0.4 / 3) / p
    terms = [
        math.comb(3, ones) * p**ones * (1 - p) ** (3 - ones) * (torch.log(weight * ones / 3)) for ones in (1, 2, 3)
    ]
    (exact,) = torch.autograd.grad(sum(terms), logit)
    # Where all weights are zero the bound is -inf: its part of the gradient is left out on both sides.
    estimate = torch.stack(found).mean() * len(found) / draws
    error = torch.stack(found).std() / len(found) ** 0.5
    assert (estimate - exact).abs() < 5 * error
