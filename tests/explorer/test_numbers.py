"""The page's numbers are torch's: every recorded graph, every operation, at the same noise, with the same weights."""

import math
from importlib import resources

import pytest
import scipy.stats
import torch
from pyro import distributions as dist
from torch.fx import Interpreter
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_aevb as aevb
from pyro_aevb import guides, likelihoods, nn, priors
from pyro_aevb.explorer.build import script
from pyro_aevb.explorer.graphs import INPUTS, NotLiveError, known_operations, live, plain, rounded
from pyro_aevb.explorer.packed import lossless, packed
from pyro_aevb.likelihoods import Likelihood
from tests.browser import launched

K, D = 3, 16
RTOL = 1e-9
RANDOM = {
    "_sample_dirichlet", "_standard_gamma", "bernoulli", "binomial", "cauchy", "exponential", "multinomial", "normal",
    "normal_functional", "poisson", "rand", "rand_like", "randn", "randn_like", "uniform",
}  # fmt: skip
APP = """
import { makeGraph, makeRandom, givenRandom, tensor, toArray } from "./numerics.js";
import { makePair } from "./pair.js";
const number = (x) => (typeof x === "string" ? Number(x) : x);
const said = (x) => (Number.isFinite(x) ? x : String(x));
const tensorOf = ([shape, values]) => tensor(shape, Float64Array.from(values, number));
const result = (t) => (Array.isArray(t) ? t.map(result) : [t.shape, [...t.values].map(said)]);
window.check = {
  pairs: {},
  graphs({ graphs, tensors }, cases) {
    const own = Object.fromEntries(Object.entries(tensors).map(([name, spec]) => [name, toArray(spec)]));
    return cases.map(({ graph, inputs, noise, seed }) => {
      const random = seed === undefined ? givenRandom(noise) : makeRandom(seed);
      return makeGraph(graphs[graph], own)(inputs.map(tensorOf), random).map(result);
    });
  },
  array: (spec) => result(toArray(spec)),
  open(spec) { window.check.pair = makePair(spec); },
  given: givenRandom,
  seeded: makeRandom,
};
"""


@pytest.fixture(scope="module")
def page(request, tmp_path_factory):
    """A browser with the page's modules of numbers, and nothing else."""
    folder = resources.files("pyro_aevb.explorer").joinpath("page")
    modules = {name: folder.joinpath(name).read_text() for name in ("numerics.js", "pair.js")}
    path = tmp_path_factory.mktemp("page") / "numbers.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><script type="module">{script({**modules, "app.js": APP})}</script>'
    )
    with launched(request) as browser:
        browser.open(path)
        browser.wait("return window.check")
        yield browser
        assert browser.errors() == []


class Noted(Interpreter):
    """Runs a recording, and notes the noise that it drew."""

    def __init__(self, graph):
        super().__init__(graph)
        self.noise = []

    def call_function(self, target, args, kwargs):
        out = super().call_function(target, args, kwargs)
        if str(target).removeprefix("aten.").split(".")[0] in RANDOM:
            self.noise.append(out.double().flatten().tolist())
        return out


def told(values):
    """Numbers as JSON has them; what it has not as text."""
    return [
        value if math.isfinite(value) else str(value).replace("inf", "Infinity").replace("nan", "NaN")
        for value in values
    ]


def given(tensors):
    return [[list(t.shape), told(t.double().flatten().tolist())] for t in tensors]


def ran(graph, inputs, seed=3):
    """What torch makes of a recording, and the noise that it drew."""
    torch.manual_seed(seed)
    noted = Noted(graph)
    with torch.no_grad():
        return noted.run(*inputs), noted.noise


def compare(found, expected, where):
    """The page's tensors are torch's: of the same shape, to 1e-9."""
    assert len(found) == len(expected), where
    for (shape, values), wanted in zip(found, expected, strict=True):
        assert shape == list(wanted.shape), where
        have = torch.tensor([float(value) for value in values], dtype=torch.float64).reshape(wanted.shape)
        torch.testing.assert_close(
            have, wanted.double(), rtol=RTOL, atol=1e-12, equal_nan=True, msg=lambda m: f"{where}: {m}"
        )


def compare_graphs(page, pair, graphs, inputs):
    """Every graph in the page against torch at the same noise; ``inputs`` of each by name."""
    expected, cases = [], []
    for name, graph in graphs.items():
        results, noise = ran(graph, inputs[name])
        results = results if isinstance(results, tuple | list) else (results,)
        expected.append((name, results))
        cases.append({"graph": name, "inputs": given(inputs[name]), "noise": noise})
    found = page.run("return window.check.graphs(arguments[0], arguments[1])", pair, cases)
    for results, (name, wanted) in zip(found, expected, strict=True):
        compare(results, wanted, name)


# ---------------------------------------------------------------- pairs


def guide_of(kind=guides.DiagonalNormal, data_dim=D, **options):
    return kind(data_dim, K, **({"hidden": [5]} | options))


def pair_of(prior=None, likelihood=None, guide=None, **options):
    likelihood = likelihood or likelihoods.Bernoulli(K, D, hidden=[5])
    inputs = likelihood.inputs()
    model = aevb.GenerativeModel(prior or priors.StandardNormal(K), likelihood, **options)
    return model, aevb.RecognitionModel(guide or guide_of(), inputs=inputs, **options)


def vamp():
    guide = guide_of()
    return pair_of(priors.VampPrior(K, guide=guide, components=4), guide=guide)


def columns():
    likelihood = likelihoods.Columns(K, 4, kinds="real,count,category:3,binary", hidden=[5])
    return pair_of(likelihood=likelihood, guide=guide_of(data_dim=likelihood.inputs().out_dim))


def convolutional():
    likelihood = likelihoods.Bernoulli(K, 64, network=nn.ConvolutionalDecoder)
    return pair_of(likelihood=likelihood, guide=guides.DiagonalNormal(64, K, network=nn.ConvolutionalEncoder))


class Skewed(Likelihood):
    """Somebody's own likelihood, of parts that the package has none of."""

    def __init__(self, latent_dim, data_dim):
        super().__init__(latent_dim, data_dim)
        self.layer = torch.nn.Sequential(
            torch.nn.Linear(latent_dim, 8), torch.nn.GELU(), torch.nn.LayerNorm(8), torch.nn.ELU(),
            torch.nn.Linear(8, data_dim), torch.nn.Softplus(),
        )  # fmt: skip

    def forward(self, z):
        return dist.Gamma(2.0, self.layer(z) + 0.1).to_event(1)


class Unusual(Skewed):
    """One that takes a Bessel function, which no page knows."""

    def forward(self, z):
        return dist.Normal(torch.special.i0(self.layer(z)), 1.0).to_event(1)


NO_KL = {"kl"}
WITHOUT = {
    "prior Flow": NO_KL,
    "prior GaussianMixture": NO_KL,
    "prior StudentT": NO_KL,
    "prior VampPrior": NO_KL,
    "guide Flow": {"encode", "score", "kl"},  # no moments, and an inverse whose steps depend on the data
    "guide Mixture": NO_KL,
}
"""Graphs that a pair has not, and must have otherwise."""

PAIRS = {
    **{
        f"prior {name}": lambda name=name: pair_of(prior=getattr(priors, name)(K))
        for name in priors.__all__
        if name not in ("ConditionalNormal", "Family", "VampPrior")
    },
    "prior VampPrior": vamp,
    **{
        f"guide {name}": lambda name=name: pair_of(guide=guide_of(getattr(guides, name)))
        for name in guides.__all__
        if name != "Family"
    },
    **{
        f"likelihood {name}": lambda name=name: pair_of(likelihood=getattr(likelihoods, name)(K, D, hidden=[5]))
        for name in likelihoods.__all__
        if name not in ("Columns", "Family")
    },
    "likelihood Columns": columns,
    "convolutions": convolutional,
    "own likelihood": lambda: pair_of(likelihood=Skewed(K, D)),
    "gaps": lambda: pair_of(guide=guide_of(data_dim=2 * D), missing=True),
}


def datum_for(model):
    """A datum that the likelihood has a density for, ``(1, D)``."""
    with torch.no_grad():
        x = model.likelihood_at(torch.randn(1, K))()
    x = x.clamp(0.01, 0.99) if isinstance(model.likelihood, likelihoods.Beta) else x
    return torch.cat([x[:, :2] * math.nan, x[:, 2:]], 1) if model.missing else x


@pytest.mark.parametrize("name", PAIRS)
def test_every_part_in_the_page_is_torch_s(name, page):
    torch.manual_seed(1)
    model, guide = PAIRS[name]()
    x = datum_for(model)
    found = live(model, guide, x)
    assert set(found.without) == WITHOUT.get(name, set()), found.without
    example = {"x": x.double(), "z": torch.randn(1, K, dtype=torch.float64)}
    inputs = {graph: [example[letter] for letter in INPUTS[graph]] for graph in found.graphs}
    compare_graphs(page, found.pair, found.graphs, inputs)
    _compare_with_the_pair_itself(found, inputs)


def _compare_with_the_pair_itself(found, inputs):
    """The recordings are the pair's own densities: not by the recording's own words, at the same noise."""
    model, guide = found.model, found.guide
    x = inputs["posterior"][0]
    torch.manual_seed(3)
    with torch.no_grad():
        q = guide.guide(guide.seen(x))
        z = q()
        wanted = z, model.likelihood_at(z).log_prob(x), model.prior_at(None, x).log_prob(z), q.log_prob(z)
    results, _ = ran(found.graphs["posterior"], [x])
    for have, want in zip(results, wanted, strict=True):
        torch.testing.assert_close(have.reshape(want.shape), want, rtol=1e-12, atol=1e-12)
    if "encode" in found.graphs:
        mean = aevb.predictions.encode(found.guide, x).mean
        torch.testing.assert_close(ran(found.graphs["encode"], [x])[0][0], mean, rtol=1e-12, atol=1e-12)


def test_weights_are_rounded_once_and_kept_where_they_do_not_fit():
    model, guide = pair_of()
    with torch.no_grad():
        weight = next(guide.parameters())
        weight[0, 0], weight[0, 1] = 1e-4 / 3, 0.1
        last = list(guide.parameters())[-1]
        last[0] = 1e5
    _, own_guide, types = rounded(model, guide, "float16")
    assert next(own_guide.parameters())[0, 1].item() == 0.0999755859375  # the float16 next to 0.1
    assert list(own_guide.parameters())[-1][0].item() == 1e5
    assert sorted(set(types.values())) == ["float16", "float32"]
    assert next(guide.parameters())[0, 1].item() == pytest.approx(0.1)  # the run's own stay
    found = live(model, guide, torch.zeros(1, D))
    assert {spec["dtype"] for spec in found.pair["tensors"].values()} == {"float16", "float32", "uint8"}


SPLINES = {
    "prior": lambda: pair_of(prior=priors.Flow(K, kind="spline", transforms=1)),
    "guide": lambda: pair_of(guide=guides.Flow(D, K, hidden=[5], kind="spline", transforms=1)),
}


@pytest.mark.parametrize("part", SPLINES)
def test_splines_are_not_live(part):
    """They look at which data lie inside the splines' box."""
    with pytest.raises(NotLiveError, match=r"the shape of aten\.index\.Tensor's result depends on the data"):
        live(*SPLINES[part](), torch.zeros(1, D))


def test_what_a_page_cannot_run_is_refused_by_name():
    model, guide = pair_of(likelihood=Unusual(K, D))
    with pytest.raises(NotLiveError, match=r"i0\.default, which this page does not know"):
        live(model, guide, torch.zeros(1, D))
    likelihood = likelihoods.Bernoulli(K + 2, D, hidden=[5])
    model = aevb.GenerativeModel(priors.StandardNormal(K), likelihood, condition=2)
    guide = aevb.RecognitionModel(guide_of(data_dim=D + 2), condition=2)
    with pytest.raises(NotLiveError, match="the model takes each datum's condition"):
        live(model, guide, torch.zeros(1, D))


# ---------------------------------------------------------------- what a pair is asked in the page


def test_evidence_at_the_same_noise(page):
    torch.manual_seed(2)
    model, guide = pair_of()
    x = datum_for(model)
    found = live(model, guide, x)
    logs, noise = [], []
    for draw in range(40):
        (_, likelihood, prior, q), drawn = ran(found.graphs["posterior"], [x.double()], seed=draw)
        logs.append((likelihood + prior - q).item())
        noise += drawn
    have = page.run(
        "window.check.open(arguments[0]); const c = window.check;"
        "return c.pair.logEvidence(arguments[1], 40, c.given(arguments[2]))",
        found.pair, x.flatten().tolist(), noise,
    )  # fmt: skip
    logs = torch.tensor(logs, dtype=torch.float64)
    weights = logs.exp()
    assert have["value"] == pytest.approx(logs.logsumexp(0).item() - math.log(40), rel=1e-10)
    assert have["se"] == pytest.approx((weights.std() / 40**0.5 / weights.mean()).item(), rel=1e-8)
    assert have["ess"] == pytest.approx((weights.sum() ** 2 / (weights**2).sum()).item(), rel=1e-8)
    assert have["bound"] == pytest.approx(logs.mean().item(), rel=1e-10)
    assert have["boundSe"] == pytest.approx((logs.std() / 40**0.5).item(), rel=1e-8)


def test_moments_and_intervals_from_draws(page):
    """A guide that tells no moments: those of 200 draws; and the middle of draws of p(x|z)."""
    torch.manual_seed(2)
    model, guide = pair_of(likelihood=likelihoods.Gaussian(K, D, hidden=[5]), guide=guide_of(guides.Flow))
    x = datum_for(model)
    found = live(model, guide, x)
    page.run("window.check.open(arguments[0])", found.pair)
    asked = "const {mean, sd} = window.check.pair.encode(arguments[0]); return [[...mean], [...sd]]"
    mean, sd = (torch.tensor(part, dtype=torch.float64) for part in page.run(asked, x.flatten().tolist()))
    assert page.run(asked, x.flatten().tolist()) == [mean.tolist(), sd.tolist()]
    draws = aevb.predictions.encode(found.guide, x.double(), draws=20_000).draws[:, 0]  # (S, K)
    assert ((mean - draws.mean(0)).abs() < 4 * draws.std(0) / 200**0.5).all()
    assert torch.allclose(sd.double(), draws.std(0), rtol=0.2)
    z = torch.zeros(K)
    low, high = page.run(
        "const i = window.check.pair.interval(arguments[0], window.check.seeded(1), 4000, 0.9);"
        "return [[...i.low], [...i.high]]",
        z.tolist(),
    )
    p = found.model.likelihood_at(z.double()[None]).base_dist
    for end, at in ((low, 0.05), (high, 0.95)):
        wanted = p.icdf(torch.tensor(at, dtype=torch.float64))[0]
        assert ((torch.tensor(end) - wanted).abs() < 0.15 * p.stddev[0]).all()


@pytest.mark.parametrize("kind", ["DiagonalNormal", "FullCovarianceNormal"])
def test_the_map_s_ellipse_is_the_covariance_of_the_posterior(kind, page):
    """Along any two directions; exact where q(z|x) factorises, else to the error of 400 draws."""
    torch.manual_seed(3)
    model, guide = pair_of(guide=guide_of(getattr(guides, kind)))
    with torch.no_grad():
        for weight in guide.parameters():
            weight.mul_(3)  # so that the latents are correlated
    x = datum_for(model)
    found = live(model, guide, x)
    u, v = torch.tensor([[0.6, 0.8, 0.0], [0.8, -0.6, 0.0]], dtype=torch.float64)
    asked = "window.check.open(arguments[0]); return window.check.pair.covariance(...[...arguments].slice(1))"
    have = torch.tensor(page.run(asked, found.pair, x.flatten().tolist(), u.tolist(), v.tolist()), dtype=torch.float64)
    q = found.guide.guide(found.guide.seen(x.double()))
    full = q.covariance_matrix[0] if kind == "FullCovarianceNormal" else torch.diag(q.variance[0])
    both = torch.stack([u, v])
    wanted = both @ full @ both.T
    if kind == "DiagonalNormal":
        torch.testing.assert_close(have, wanted, rtol=1e-9, atol=1e-12)
    else:
        error = ((wanted.diag()[:, None] * wanted.diag() + wanted**2) / 400).sqrt()  # of a normal's sample covariance
        assert ((have - wanted).abs() < 4 * error).all()
        apart = both @ full.diag().diag() @ both.T  # what it would be without correlations is told from it
        assert not ((apart - wanted).abs() < 4 * error).all()


# ---------------------------------------------------------------- operations

A = torch.tensor([[-2.5, -0.5, 0.0, 0.3], [0.5, 1.0, 1.5, 7.0]], dtype=torch.float64)
B = torch.tensor([[0.5, -0.5, 2.0, 0.3]], dtype=torch.float64)
P = A.abs() + 0.1
WHOLE = torch.tensor([[0, 3], [2, 1]])
SQUARE = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.5, 0.2], [0.1, 0.2, 1.0]], dtype=torch.float64)
IMAGE = torch.arange(96.0, dtype=torch.float64).reshape(1, 4, 4, 6).sin()
KERNEL = torch.arange(72.0, dtype=torch.float64).reshape(4, 2, 3, 3).cos()
GRID = torch.linspace(-6, 6, 97, dtype=torch.float64).reshape(1, -1)
BOOL = A > 0
NOISE = torch.full((3, 2000), 0.3, dtype=torch.float64)
RATES = torch.tensor([[0.4], [2.5], [70.0]], dtype=torch.float64).expand(3, 2000)

UNARY = (
    "abs ceil cos cosh erf erfc exp expm1 floor isfinite isinf isnan lgamma neg reciprocal relu round sigmoid sign sin "
    "sinh tan tanh trunc atan alias alias_copy clone detach detach_copy lift_fresh_copy gelu softplus elu leaky_relu"
)
POSITIVE = "log log10 log1p log2 rsqrt sqrt"
WITH_EITHER = "add sub mul div eq ne lt le gt ge fmod remainder"
BOTH = "maximum minimum atan2 floor_divide"
LOGICAL = "bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor logical_and logical_or"
CASES = [
    *((name, (GRID,)) for name in UNARY.split()),
    *((name, (P * 3,)) for name in POSITIVE.split()),
    *((name, (A, B)) for name in BOTH.split()),
    *((f"{name}.Tensor", (A, B)) for name in WITH_EITHER.split()),
    *((f"{name}.Scalar", (A, 0.5)) for name in WITH_EITHER.split()),
    *((name, (BOOL, ~BOOL[:1])) for name in LOGICAL.split()),
    *((name, (GRID / 6.5,)) for name in ("acos", "asin")),
    ("gelu", (GRID,), {"approximate": "tanh"}),
    ("add.Tensor", (A, B), {"alpha": 2}),
    ("div.Tensor_mode", (A, B), {"rounding_mode": "floor"}),
    ("div.Tensor_mode", (A, B), {"rounding_mode": "trunc"}),
    ("pow.Tensor_Scalar", (P, 1.7)),
    ("pow.Scalar", (1.7, A)),
    ("pow.Tensor_Tensor", (P, B)),
    ("bitwise_not", (BOOL,)),
    ("logical_not", (A,)),
    ("_to_copy", (A,), {"dtype": torch.int64}),
    ("_to_copy", (A,), {"dtype": torch.bool}),
    ("_to_copy", (A / 3,), {"dtype": torch.float32}),
    *((name, (A, 1, False)) for name in ("_softmax", "_log_softmax")),
    ("_softmax", (A, 0, False)),
    *((name, (A, [1], True)) for name in ("amax", "amin", "mean.dim", "sum.dim_IntList")),
    *((name, (A, [0, 1])) for name in ("amax", "mean.dim", "sum.dim_IntList")),
    *((name, (A,)) for name in ("sum", "mean", "prod", "argmax", "argmin")),
    *((name, (BOOL,)) for name in ("all", "any")),
    *((name, (BOOL, 1, True)) for name in ("all.dim", "any.dim")),
    *((name, (A, 0)) for name in ("prod.dim_int", "argmax", "argmin", "cumsum", "cumprod", "max.dim", "min.dim")),
    ("cumsum", (A, 1)),
    ("sort", (B,)),
    ("sort", (A, 0, True)),
    ("addmm", (B[0, :3], A[:, :3], SQUARE)),
    ("addmm", (B[0, :3], A[:, :3], SQUARE), {"beta": 0.5, "alpha": 2}),
    ("mm", (A[:, :3], SQUARE)),
    ("bmm", (torch.stack([SQUARE, SQUARE * 2]), torch.stack([SQUARE + 1, SQUARE]))),
    *(
        (
            "linalg_solve_triangular",
            (SQUARE, A[:, :3].T if left else A[:, :3]),
            {"upper": upper, "left": left, "unitriangular": unit},
        )
        for upper in (True, False)
        for left in (True, False)
        for unit in (True, False)
    ),
    ("linalg_cholesky_ex", (torch.stack([SQUARE, SQUARE * 2]),)),
    *((name, (SQUARE, offset)) for name in ("tril", "triu") for offset in (-1, 0, 1)),
    ("convolution", (IMAGE, KERNEL.transpose(0, 1), B[0, :2], [2, 1], [1, 0], [1, 2], False, [0, 0], 1)),
    ("convolution", (IMAGE, KERNEL[:, :1], None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4)),
    ("convolution", (IMAGE, KERNEL, B[0, :2], [2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
    ("convolution", (IMAGE, KERNEL, None, [2, 3], [1, 0], [2, 1], True, [0, 2], 2)),
    ("convolution", (IMAGE[0, :, 0][None], KERNEL[:, :, 0].transpose(0, 1), None, [2], [1], [1], False, [0], 1)),
    *((name, (A, 1, 3)) for name in ("select.int", "select_copy.int")),
    *((name, (A, 1, -3, None, 2)) for name in ("slice.Tensor", "slice_copy.Tensor")),
    *((name, (SQUARE, offset, 0, 1)) for name in ("diagonal", "diagonal_copy") for offset in (-1, 0, 2)),
    *((name, (A, [3, 2, -1])) for name in ("expand", "expand_copy")),
    *((name, (A, [2, 2, -1])) for name in ("view", "view_copy")),
    *((name, (IMAGE, [3, 0, 2, 1])) for name in ("permute", "permute_copy")),
    *((name, (IMAGE, [0, 1])) for name in ("squeeze.dims", "squeeze_copy.dims")),
    *((name, (A, -1)) for name in ("unsqueeze", "unsqueeze_copy")),
    *((name, (A, [1, 3], 1)) for name in ("split_with_sizes", "split_with_sizes_copy")),
    ("t_copy", (A,)),
    ("native_layer_norm", (A, [4], B[0], -B[0], 1e-5)),
    ("native_layer_norm", (IMAGE, [4, 6], None, None, 1e-3)),
    ("native_group_norm", (IMAGE, B[0], None, 1, 4, 24, 2, 1e-5)),
    ("_native_batch_norm_legit_no_training", (IMAGE, B[0], -B[0], B[0] / 2, P[0], 0.1, 1e-5)),
    ("_native_batch_norm_legit_no_training", (A, None, None, B[0] / 2, P[0], 0.1, 1e-5)),
    ("cat", ([A, B], 0)),
    ("cat", ([A, A * 2], 1)),
    ("repeat", (A, [2, 1, 3])),
    ("flip", (A, [0, 1])),
    ("constant_pad_nd", (A, [1, -1, 0, 2], 0.5)),
    ("gather", (A, 1, WHOLE)),
    ("gather", (A, 0, torch.tensor([[1, 0, 0]]))),
    ("index_select", (A, 1, WHOLE[1])),
    ("index.Tensor", (IMAGE, [None, WHOLE, None, WHOLE[0]])),
    ("index.Tensor", (IMAGE, [None, WHOLE, WHOLE[0]])),
    ("index.Tensor", (A, [WHOLE[1] - 1, WHOLE[0]])),
    ("index_put", (A, [WHOLE[1] - 1, WHOLE[0]], B[0, :2])),
    ("index_put", (A, [torch.tensor([1, 1])], A, True)),
    ("scatter.src", (A, 1, WHOLE, B.expand(2, 4) * 1.0)),
    ("scatter.value", (A, 1, WHOLE, 0.25)),
    ("where.self", (BOOL, A, B)),
    ("clamp", (A, -1.0, None)),
    ("clamp", (A, None, 1.0)),
    ("clamp.Tensor", (A, B - 1, B + 1)),
    ("clamp_max", (A, 0.5)),
    ("clamp_min", (A, 0.5)),
    ("hardtanh", (A, -0.5, 1.0)),
    ("copy", (A, B)),
    ("fill.Scalar", (A, 2.5)),
    ("fill.Tensor", (A, B[0, 0])),
    ("full_like", (A, 2.5)),
    ("zeros_like", (A,)),
    ("full", ([2, 3], 1.5), {"dtype": torch.float64}),
    ("scalar_tensor", (1.5,), {"dtype": torch.float64}),
    ("arange", (5,)),
    ("arange.start", (2, 5)),
    ("arange.start_step", (1.0, 4.2, 0.5)),
    ("empty_like", (A,)),
    ("empty.memory_format", ([2, 3],)),
    ("empty_permuted", ([2, 3], [0, 1])),
    ("rand", ([3, 2000],), {"dtype": torch.float64}),
    ("randn", ([3, 2000],), {"dtype": torch.float64}),
    ("rand_like", (NOISE,)),
    ("randn_like", (NOISE,)),
    ("uniform", (NOISE, -1.0, 2.0)),
    ("normal_functional", (NOISE, 1.0, 2.0)),
    ("normal.Tensor_Tensor", (NOISE, NOISE * 2)),
    ("exponential", (NOISE, 1.5)),
    ("cauchy", (NOISE, 0.5, 2.0)),
    ("bernoulli", (NOISE,)),
    ("bernoulli.p", (NOISE, 0.7)),
    ("binomial", (NOISE * 0 + 9, NOISE)),
    ("poisson", (RATES,)),
    ("_standard_gamma", (RATES,)),
    ("_sample_dirichlet", (RATES.T.contiguous(),)),
    ("multinomial", (NOISE[:, :4] * torch.tensor([1.0, 2, 3, 4]), 500, True)),
    ("multinomial", (NOISE[:, :4] * torch.tensor([1.0, 2, 3, 4]), 3, False)),
]
"""An operation, its arguments and keywords: every operation that a page knows at least once."""

RAW = {"empty_like", "empty.memory_format", "empty_permuted"}  # whose numbers may be any, so only shapes are alike


def operation(name, arguments, options=None):
    """A recording of one operation, of the tensors among its arguments, and those."""
    base, _, overload = name.partition(".")
    function = getattr(getattr(torch.ops.aten, base), overload or "default")
    tensors = [t for a in arguments for t in (a if isinstance(a, list) else [a]) if isinstance(t, torch.Tensor)]

    def of(*given):
        left = iter(given)

        def put(a):
            return (
                next(left) if isinstance(a, torch.Tensor) else [put(each) for each in a] if isinstance(a, list) else a
            )

        return function(*map(put, arguments), **(options or {}))

    return make_fx(of)(*tensors), tensors


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_operation_is_torch_s(case, page):
    graph, tensors = operation(*case)
    results, noise = ran(graph, tensors)
    results = list(results) if isinstance(results, tuple | list) else [results]
    for node in graph.graph.nodes:
        if node.op == "output" and not isinstance(node.args[0], tuple | list):
            node.args = ((node.args[0],),)
    asked = {"graph": "one", "inputs": given(tensors), "noise": noise}
    found = page.run("return window.check.graphs(arguments[0], [arguments[1]])", plain({"one": graph}), asked)[0]
    if case[0] in RAW:
        results = [torch.zeros_like(result) for result in results]
    compare(found, results, case[0])


def test_every_known_operation_is_among_them():
    tested = {name if "." in name else f"{name}.default" for name, *_ in CASES}
    assert tested | {"getitem"} == known_operations()


DISTRIBUTIONS = {
    "rand": [scipy.stats.uniform()] * 3,
    "randn": [scipy.stats.norm()] * 3,
    "uniform": [scipy.stats.uniform(-1, 3)] * 3,
    "normal_functional": [scipy.stats.norm(1, 2)] * 3,
    "normal.Tensor_Tensor": [scipy.stats.norm(0.3, 0.6)] * 3,
    "exponential": [scipy.stats.expon(scale=1 / 1.5)] * 3,
    "cauchy": [scipy.stats.cauchy(0.5, 2)] * 3,
    "_standard_gamma": [scipy.stats.gamma(rate) for rate in (0.4, 2.5, 70.0)],
    "bernoulli": [scipy.stats.bernoulli(0.3)] * 3,
    "bernoulli.p": [scipy.stats.bernoulli(0.7)] * 3,
    "binomial": [scipy.stats.binom(9, 0.3)] * 3,
    "poisson": [scipy.stats.poisson(rate) for rate in (0.4, 2.5, 70.0)],
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_page_s_own_noise(name, page):
    """By the page's generator, at a fixed seed: continuous by Kolmogorov and Smirnov, whole numbers by moments."""
    case = next(case for case in CASES if case[0] == name)
    graph, tensors = operation(*case)
    for node in graph.graph.nodes:
        if node.op == "output":
            node.args = ((node.args[0],),)
    asked = {"graph": "one", "inputs": given(tensors), "seed": 7}
    shape, values = page.run("return window.check.graphs(arguments[0], [arguments[1]])", plain({"one": graph}), asked)[
        0
    ][0]
    for row, wanted in zip(torch.tensor(values, dtype=torch.float64).reshape(shape), DISTRIBUTIONS[name], strict=True):
        if hasattr(wanted.dist, "pdf"):
            assert scipy.stats.kstest(row.numpy(), wanted.cdf).pvalue > 1e-3
        else:
            assert abs(row.mean().item() - wanted.mean()) < 4 * wanted.std() / len(row) ** 0.5
            assert row.var().item() == pytest.approx(wanted.var(), rel=0.15)


# ---------------------------------------------------------------- numbers as text


def test_packed_numbers_arrive_as_they_are(page):
    numbers = torch.tensor([0.0, -0.1, 1e-7, 6e-8, 65504.0, math.inf, -math.inf, math.nan, 1 / 3], dtype=torch.float64)
    for dtype in ("float16", "float32", "float64"):
        wanted = numbers.to(getattr(torch, dtype)).double()
        compare([page.run("return window.check.array(arguments[0])", packed(numbers, dtype))], [wanted], dtype)
    bytes_ = torch.arange(256)
    grey = {**packed(bytes_, "uint8"), "divided_by": 255}
    _, values = page.run("return window.check.array(arguments[0])", grey)
    assert values == (bytes_.float() / 255).double().tolist()
    whole = torch.tensor([[-(2**31), 2**31 - 1]])
    assert lossless(whole) == "int32"
    compare([page.run("return window.check.array(arguments[0])", packed(whole, "int32"))], [whole], "int32")
