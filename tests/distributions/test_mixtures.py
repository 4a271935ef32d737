"""The mixture whose draws move with its parameters: against moments, SciPy's CDFs and its own draws' gradients."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from torch import tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_aevb.distributions import NormalMixture

D = torch.float64
PARAMETERS = ("logits", "loc", "scale")


def random_parameters(seed, components, dim, spread):
    """Overlapping components where ``spread`` is below 1, separated ones where it is above 2."""
    generator = torch.Generator().manual_seed(seed)
    logits, loc, noise = (
        torch.randn(*shape, dtype=D, generator=generator)
        for shape in ((components,), (components, dim), (components, dim))
    )
    return logits, spread * loc, (0.3 * noise).exp()


def moving(parameters, z):
    """The draws z as functions of the parameters, one copy of them for each draw: gradients are each draw's own."""
    leaves = [p.expand(len(z), *p.shape).clone().requires_grad_() for p in parameters]
    return leaves, NormalMixture(*leaves)._moving(z)


# ---------------------------------------------------------------- density and moments


def test_density_is_scipys():
    logits, loc, scale = random_parameters(0, 3, 2, 1.5)
    x = torch.randn(50, 2, dtype=D) * 3
    each = stats.norm(loc, scale).pdf(x.unsqueeze(1).numpy()).prod(-1)  # (50, 3)
    expected = np.log((logits.softmax(0).numpy() * each).sum(-1))
    np.testing.assert_allclose(NormalMixture(logits, loc, scale, validate_args=True).log_prob(x), expected, rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_draws_have_its_moments(dim):
    mixture = NormalMixture(*random_parameters(1, 4, dim, 2.0))
    torch.manual_seed(0)
    z = mixture.sample((200_000,))
    error = z.std(0) / len(z) ** 0.5
    assert ((z.mean(0) - mixture.mean) / error).abs().max() < 4.5  # 5 numbers: p < 4e-5
    squares = (z - mixture.mean) ** 2
    assert ((squares.mean(0) - mixture.variance) / (squares.std(0) / len(z) ** 0.5)).abs().max() < 4.5


def test_one_dimension_is_distributed_as_scipys_mixture():
    logits, loc, scale = random_parameters(2, 3, 1, 3.0)
    torch.manual_seed(0)
    z = NormalMixture(logits, loc, scale).sample((20_000,))
    cdf = lambda x: (logits.softmax(0).numpy() * stats.norm(loc[:, 0], scale[:, 0]).cdf(x[:, None])).sum(-1)  # noqa: E731
    assert stats.kstest(z[:, 0].numpy(), cdf).pvalue > 1e-4


# ---------------------------------------------------------------- gradients, exactly


def test_one_dimension_moves_by_the_cdf_over_the_density():
    parameters = random_parameters(3, 3, 1, 2.0)
    z = torch.linspace(-6, 6, 101, dtype=D).unsqueeze(1)
    leaves, moved = moving(parameters, z)
    torch.testing.assert_close(moved, z, rtol=0, atol=0)
    found = torch.autograd.grad(moved.sum(), leaves)
    copies = [p.detach().clone().requires_grad_() for p in leaves]
    logits, loc, scale = copies
    weights, normal = logits.softmax(-1), torch.distributions.Normal(loc.squeeze(-1), scale.squeeze(-1))
    density = (weights * normal.log_prob(z).exp()).sum(-1)
    for gradient, slope in zip(found, torch.autograd.grad((weights * normal.cdf(z)).sum(), copies), strict=True):
        expected = -slope / density.reshape(-1, *[1] * (slope.dim() - 1))
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


def conditional_cdfs(parameters, z):
    """F_d(z_d | z_<d) of one point, by SciPy."""
    logits, loc, scale = (np.asarray(p) for p in parameters)
    weights, found = np.exp(logits - logits.max()), []
    for d, value in enumerate(z):
        weights = weights / weights.sum()
        u = (float(value) - loc[:, d]) / scale[:, d]
        found.append(float(weights @ special.ndtr(u)))
        weights = weights * np.exp(-u * u / 2) / scale[:, d]
    return np.array(found)


def solve(parameters, cdfs, near):
    """The point with these conditional CDFs, one dimension after another."""
    z = []
    for d, target in enumerate(cdfs):
        fault = lambda value, d=d, target=target: conditional_cdfs(parameters, [*z, value])[d] - target  # noqa: E731
        z.append(optimize.brentq(fault, near[d] - 0.05, near[d] + 0.05, xtol=1e-14, rtol=1e-14))
    return np.array(z)


@pytest.mark.parametrize(("components", "dim"), [(2, 2), (3, 3)])
def test_draws_move_so_that_their_conditional_cdfs_stay(components, dim):
    """Each parameter shaken, SciPy finds where the draw must go."""
    parameters = random_parameters(4, components, dim, 1.0)
    torch.manual_seed(0)
    z = NormalMixture(*parameters).sample((2,))
    leaves, moved = moving(parameters, z)
    for row in range(len(z)):
        cdfs = conditional_cdfs(parameters, z[row])
        for d in range(dim):
            found = torch.autograd.grad(moved[row, d], leaves, retain_graph=True)
            for which, parameter in enumerate(parameters):
                for index in np.ndindex(*parameter.shape):
                    ends = []
                    for step in (1e-5, -1e-5):
                        shaken = [p.clone() for p in parameters]
                        shaken[which][index] += step
                        ends.append(solve(shaken, cdfs, z[row].numpy())[d])
                    expected = (ends[0] - ends[1]) / 2e-5
                    assert found[which][row][index].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


# ---------------------------------------------------------------- gradients, on average


def raw_moment(loc, scale, power):
    """E[z^power] of a Gaussian."""
    return [torch.ones_like(loc), loc, loc**2 + scale**2, loc**3 + 3 * loc * scale**2][power]


def expectation(parameters, powers):
    """E[prod_d z_d^powers_d] of a mixture."""
    logits, loc, scale = parameters
    each = torch.stack([raw_moment(loc[:, d], scale[:, d], power) for d, power in enumerate(powers)])
    return (logits.softmax(0) * each.prod(0)).sum()


def deviations(parameters, powers, draws, seed):
    """How many standard errors the mean pathwise gradient is from the exact one; and the exact and the errors."""
    exact_leaves = [p.clone().requires_grad_() for p in parameters]
    exact = torch.autograd.grad(expectation(exact_leaves, powers), exact_leaves, materialize_grads=True)
    leaves = [p.expand(draws, *p.shape).clone().requires_grad_() for p in parameters]
    torch.manual_seed(seed)
    z = NormalMixture(*leaves).rsample()
    value = torch.stack([z[:, d] ** power for d, power in enumerate(powers)]).prod(0)
    found = torch.autograd.grad(value.sum(), leaves)
    errors = [g.std(0) / draws**0.5 for g in found]
    return [(g.mean(0) - e) / s for g, e, s in zip(found, exact, errors, strict=True)], exact, errors


def test_the_weights_gradient_that_pyro_lacks():
    """Components at (-1, 1) and (1, 1): where Pyro's mixture finds 0.0007."""
    parameters = tensor([0.0, 0.0], dtype=D), tensor([[-1.0, 1.0], [1.0, 1.0]], dtype=D), torch.ones(2, 2, dtype=D)
    away, exact, errors = deviations(parameters, (1, 1), 100_000, 0)
    assert exact[0].tolist() == pytest.approx([-0.5, 0.5])
    assert (exact[0].abs() / errors[0]).min() > 20  # the bias would show
    assert max(a.abs().max() for a in away) < 4.5


@pytest.mark.parametrize("spread", [0.7, 2.0])
@pytest.mark.parametrize("powers", [(1,), (2,), (3,), (1, 1), (2, 1), (0, 2), (1, 1, 1), (0, 2, 1), (2, 0, 1)])
def test_pathwise_gradients_are_unbiased(powers, spread):
    for seed in range(2):
        parameters = random_parameters(seed, 3, len(powers), spread)
        away, _, errors = deviations(parameters, powers, 20_000, seed)
        for name, deviation, error in zip(PARAMETERS, away, errors, strict=True):
            moved = error > 1e-12  # a dimension that the function and later ones do not depend on
            assert (deviation[moved].abs() < 4.5).all(), (name, seed)  # 600 numbers: p < 5e-3, seed fixed


def weight_velocity_moments(apart):
    """Mean and mean square of a draw's velocity by a logit, two unit components so far apart, by quadrature."""
    loc = tensor([[-apart / 2], [apart / 2]], dtype=D)
    parameters = torch.zeros(2, dtype=D), loc, torch.ones(2, 1, dtype=D)
    z = torch.linspace(-15, 15, 20_001, dtype=D).unsqueeze(1)
    leaves, moved = moving(parameters, z)
    velocity = torch.autograd.grad(moved.sum(), leaves[0])[0][:, 1]
    mass = NormalMixture(*parameters).log_prob(z).exp() * (30 / 20_000)
    return (mass * velocity).sum().item(), (mass * velocity**2).sum().item()


def test_between_separated_components_few_draws_move_by_much():
    """The mean stays exact; the variance grows as the docstring says, here to 1/s of it."""
    (mean, small), (_, large) = weight_velocity_moments(8.0), weight_velocity_moments(12.0)
    assert mean == pytest.approx(2.0, rel=1e-6)  # the derivative of 4 tanh(logit / 2)
    assert math.log(large / small) == pytest.approx((12**2 - 8**2) / 8, abs=math.log(2))


# ---------------------------------------------------------------- shapes, tails, tracing


def test_shapes_after_expanding_and_broadcasting():
    logits, loc, scale = random_parameters(5, 3, 2, 1.0)
    mixture = NormalMixture(logits, loc.expand(4, 3, 2), scale[:1, :1]).expand((7, 4))
    assert (mixture.batch_shape, mixture.event_shape) == ((7, 4), (2,))
    assert mixture.rsample((5, 6)).shape == (5, 6, 7, 4, 2)
    assert mixture.log_prob(mixture.sample((5,))).shape == (5, 7, 4)
    assert mixture.mean.shape == mixture.variance.shape == (7, 4, 2)


def test_gradients_reach_what_was_expanded_and_equal_the_sum_over_draws():
    parameters = [p.requires_grad_() for p in random_parameters(6, 3, 2, 1.0)]
    torch.manual_seed(0)
    z = NormalMixture(*parameters).expand((4,)).rsample((5,))
    together = torch.autograd.grad((z**2).sum(), parameters)
    leaves, moved = moving([p.detach() for p in parameters], z.detach().reshape(20, 2))
    one_by_one = torch.autograd.grad((moved**2).sum(), leaves)
    for a, b in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(a, b.sum(0))
    torch.manual_seed(0)
    assert torch.equal(NormalMixture(*parameters).expand((4,)).sample((5,)), z)


WILD = {
    "narrow": (torch.zeros(3), torch.randn(3, 4), torch.full((3, 4), math.exp(-10))),
    "narrow and far": (torch.zeros(3), 1e4 * torch.randn(3, 4), torch.full((3, 4), math.exp(-10))),
    "wide beside narrow": (torch.zeros(3), torch.zeros(3, 4), tensor([[-10.0], [0.0], [10.0]]).exp().expand(3, 4)),
    "weights near zero": (tensor([0.0, -1e3, -math.inf]), torch.randn(3, 4), torch.ones(3, 4)),
    "equal": (torch.zeros(3), torch.zeros(3, 4), torch.ones(3, 4)),
    "one": (torch.zeros(1), torch.zeros(1, 4), torch.ones(1, 4)),
    "mixed": (torch.zeros(3), tensor([[0.0], [1.0], [1e3]]).expand(3, 4), torch.full((3, 4), 0.01)),
}


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("case", WILD)
def test_wild_parameters_have_finite_gradients(case, dtype):
    leaves = [p.to(dtype).clone().requires_grad_() for p in WILD[case]]
    torch.manual_seed(0)
    mixture = NormalMixture(*leaves)
    z = mixture.rsample((20_000,))
    log_prob = mixture.log_prob(z)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_prob).all()
    for part in (z.sum(), log_prob.mean()):
        for gradient in torch.autograd.grad(part, leaves, retain_graph=True):
            assert torch.isfinite(gradient).all()
    by_loc = torch.autograd.grad(z.sum(), leaves, retain_graph=True)[1]
    torch.testing.assert_close(
        by_loc.sum(0), torch.full((4,), 20_000, dtype=dtype)
    )  # all means moved, so are all draws


def test_a_component_however_far_moves_draws_as_one_merely_far():
    """Its weight is what the dimensions before say, whatever its own density."""
    found = []
    for far in (20.0, 1e9):
        loc = tensor([[0.0, 0.0], [0.5, far]], dtype=D)
        leaves, moved = moving(
            (tensor([0.0, -1.0], dtype=D), loc, torch.ones(2, 2, dtype=D)), torch.zeros(1, 2, dtype=D)
        )
        found.append(torch.autograd.grad(moved[:, 1].sum(), leaves))
    for near, far in zip(*found, strict=True):
        torch.testing.assert_close(near, far)


def test_float32_moves_as_float64_does():
    parameters = random_parameters(7, 3, 5, 1.0)
    torch.manual_seed(0)
    z = NormalMixture(*parameters).sample((1000,))
    found = []
    for dtype in (torch.float32, D):
        leaves, moved = moving([p.float().to(dtype) for p in parameters], z)
        found.append(torch.autograd.grad(moved.sum(), leaves))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-6)


def test_a_draw_that_rounding_takes_from_its_component_moves_as_before():
    """At 10,000 a float32 is 22 of these standard deviations wide; the velocity by the scale is the noise."""
    scale = torch.full((5000, 1, 1), math.exp(-10)).requires_grad_()
    torch.manual_seed(0)
    NormalMixture(torch.zeros(1), torch.full((1, 1), 1e4), scale).rsample().sum().backward()
    assert stats.kstest(scale.grad.flatten().numpy(), "norm").pvalue > 1e-4


@pytest.mark.slow
def test_it_is_traced_and_compiled_as_it_is():
    def gradients(*parameters):
        leaves = [p.detach().requires_grad_() for p in parameters]
        mixture = NormalMixture(*leaves, validate_args=False)
        z = mixture.rsample((6,))
        return torch.autograd.grad((mixture.log_prob(z) + (z**3).sum(-1)).sum(), leaves)

    parameters = [p.float() for p in random_parameters(8, 3, 2, 1.0)]
    others = [p.float() for p in random_parameters(9, 3, 2, 1.0)]
    graph = make_fx(gradients)(*parameters)
    with torch._inductor.config.patch(fallback_random=True):
        compiled = torch._inductor.compile(graph, parameters)
    for arguments in (parameters, others):
        found = []
        for function in (gradients, graph, compiled):
            torch.manual_seed(0)
            found.append(function(*arguments))
        for eager, traced, made in zip(*found, strict=True):
            assert torch.equal(eager, traced)
            torch.testing.assert_close(made, eager, rtol=1e-4, atol=1e-4)
