"""Exported graphs against SciPy and torch, part by part; weights there and back; hostile names in the card."""

import copy
import json
import math
import sys

import numpy as np
import onnx
import onnxruntime
import pyro.distributions as dist
import pytest
import torch
import yaml
from safetensors import safe_open
from scipy import special, stats
from torch import nn

import pyro_aevb as aevb
from pyro_aevb.errors import InputError
from pyro_aevb.export import Decoder, Encoder, load_weights
from pyro_aevb.export.card import escaped
from pyro_aevb.export.graphs import BATCH_SIZES, largest_difference, made_graph
from pyro_aevb.export.weights import packed_weights
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from tests.oracles import RECIPES, build
from tests.pairs import paper_pair

AGREES = {"rtol": 1e-5, "atol": 1e-5}
SIZE, K, D = 7, 3, 6


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded_part(family, name, options, **sizes):
    with aevb.seeded(1):
        return build(family, name, options, **sizes).eval()


def model_of(likelihood, **options):
    return aevb.GenerativeModel(aevb.priors.StandardNormal(K), likelihood, 10, **options).eval()


def run_graph(graph, **inputs):
    session = onnxruntime.InferenceSession(graph.content)
    given = {name: value.numpy() for name, value in inputs.items()}
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, given), strict=True))


def cases(family):
    return [
        pytest.param(name, options, id=f"{name}{i}")
        for (of, name), recipes in RECIPES.items()
        if of == family
        for i, options in enumerate(recipes)
    ]


# ---------------------------------------------------------------- likelihoods: the outputs are all of the density

MIXED = ["real", "count", "binary", "category:3", "real", "category:4"]


def grid(o, x, part):
    index = np.rint(x * part.steps).astype(int)[..., None]
    return np.take_along_axis(special.log_softmax(o["logits"], -1), index, -1)[..., 0]


def logistic(o, x, part):
    loc, scale = (o[name].reshape(len(x), D, -1) for name in ("loc", "scale"))
    family, half, x = stats.logistic(loc, scale), 0.5 / part.steps, x[..., None]
    upper = np.where(x > 1 - half, 1, family.cdf(x + half))
    lower = np.where(x < half, 0, family.cdf(x - half))
    weight = special.softmax(o["logits"], -1) if "logits" in o else 1
    return np.log((weight * (upper - lower)).sum(-1))


def one_column(o, name, kind, x):
    if kind == "real":
        return stats.norm(o[name], o[f"{name}.sd"]).logpdf(x)
    if kind == "count":
        total = o[f"{name}.total_count"]
        return stats.nbinom(total, total / (total + o[name])).logpmf(x)
    if kind == "binary":
        return stats.bernoulli(o[name]).logpmf(x)
    return np.log(o[name][np.arange(len(x)), x.astype(int)])


def table(o, x, part):
    return np.stack([one_column(o, f"c{i}", kind, x[:, i]) for i, kind in enumerate(part.kinds)], -1)


DENSITY = {  # log density of each number, from a decoder's outputs, by SciPy
    "Bernoulli": lambda o, x, part: x * o["logits"] - np.logaddexp(0, o["logits"]),
    "ContinuousBernoulli": lambda o, x, part: o["logits"] * x - np.log(np.expm1(o["logits"]) / o["logits"]),
    "Gaussian": lambda o, x, part: stats.norm(o["mean"], o["scale"]).logpdf(x),
    "Laplace": lambda o, x, part: stats.laplace(o["mean"], o["scale"]).logpdf(x),
    "Beta": lambda o, x, part: stats.beta(o["concentration1"], o["concentration0"], o["loc"], o["scale"]).logpdf(x),
    "Categorical": grid,
    "DiscretizedLogistic": logistic,
    "Poisson": lambda o, x, part: stats.poisson(o["mean"]).logpmf(x),
    "NegativeBinomial": lambda o, x, part: stats.nbinom(o["total_count"], special.expit(-o["logits"])).logpmf(x),
    "Columns": table,
    "Family": lambda o, x, part: stats.gumbel_r(o["loc"], o["scale"]).logpdf(x),
}


def moved_from_its_start(likelihood):
    """Parameters that are 0 or 1 at the start are others: a variance is not taken for a deviation."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    for i, kind in enumerate(getattr(likelihood, "kinds", [])):
        if kind == "real":
            likelihood.loc[i], likelihood.scale[i] = 3.0 + i, 2.5
    return likelihood


@pytest.mark.parametrize(("name", "options"), cases("likelihoods"))
def test_a_decoder_gives_the_density(name, options):
    likelihood = moved_from_its_start(seeded_part("likelihoods", name, options))
    columns = [f"c{i}" for i in range(D)] if name == "Columns" else []
    decoder = Decoder(model_of(likelihood), columns)
    graph = made_graph(decoder, {"title": "of a test"})
    z = numbers(SIZE, K)
    with torch.no_grad():
        made = likelihood(z)
        with aevb.seeded(2):
            x = made.sample()
        expected = copy.deepcopy(likelihood).double()(z.double()).log_prob(x.double()).numpy()
        mean = made.mean.numpy()
    for count in BATCH_SIZES:
        found = run_graph(graph, z=z[:count])
        log_density = DENSITY[name]({n: v.astype(np.float64) for n, v in found.items()}, x[:count].numpy(), likelihood)
        np.testing.assert_allclose(log_density.sum(-1), expected[:count], rtol=1e-4, atol=1e-4)
        if name != "Columns":
            np.testing.assert_allclose(found["mean"], mean[:count], **AGREES)
        for output, own in zip(found.values(), decoder(z[:count]), strict=True):
            np.testing.assert_allclose(output, own.detach().numpy(), **AGREES)


def test_columns_are_told_apart():
    likelihood = seeded_part("likelihoods", "Columns", {"hidden": 7, "kinds": MIXED})
    likelihood.start_from(torch.tensor([[1.0, 3, 0, 1, 50, 2], [5.0, 6, 1, 0, 90, 3], [2.0, 1, 1, 2, 75, 0]]))
    graph = made_graph(Decoder(model_of(likelihood), list("abcdef")), {})
    expected = ["a", "a.sd", "b", "b.total_count", "c", "d", "e", "e.sd", "f"]
    assert list(graph.outputs) == expected
    found = run_graph(graph, z=numbers(SIZE, K))
    assert found["d"].shape == (SIZE, 3)
    assert found["f"].shape == (SIZE, 4)
    np.testing.assert_allclose(found["f"].sum(-1), 1, rtol=1e-6)
    assert (abs(found["e"] - 72) < 40).all()  # in the table's units, not in the network's
    with torch.no_grad():
        made = likelihood(numbers(SIZE, K))
    for i in (0, 1, 4):
        np.testing.assert_allclose(found["abcdef"[i]], made.mean[:, i].numpy(), **AGREES)


def test_hostile_names_of_columns_stay_names():
    """Two outputs of one name would be one; a name of an input or of an inner value would be another value."""
    names = ["z", "z.sd", "/0", "", "a\n`|<b>", "linear"]
    likelihood = seeded_part("likelihoods", "Columns", {"hidden": 7, "kinds": "real"})
    decoder = Decoder(model_of(likelihood), names)
    graph = made_graph(decoder, {})
    onnx.checker.check_model(onnx.load_from_string(graph.content), full_check=True)
    z = numbers(SIZE, K)
    found = run_graph(graph, z=z)
    told = decoder.outputs_of_columns()
    assert list(told) == names
    assert told["z.sd"] == ["z.sd_", "z.sd.sd"]
    with torch.no_grad():
        mean = likelihood(z).mean.numpy()
    for i, name in enumerate(names):
        np.testing.assert_allclose(found[graph.names[told[name][0]]], mean[:, i], **AGREES)
    assert len(found) == 12
    assert not set(graph.inputs) & set(graph.outputs)


# ---------------------------------------------------------------- guides


def mixture(o, z, part):
    parts = stats.norm(o["loc"], o["scale"]).logpdf(z[:, None]).sum(-1)
    return special.logsumexp(special.log_softmax(o["logits"], -1) + parts, axis=-1)


def multivariate(mean, covariances, z):
    return np.array([stats.multivariate_normal(m, c).logpdf(v) for m, c, v in zip(mean, covariances, z, strict=True)])


def low_rank(o, z, part):
    diagonal = o["cov_diag"][:, None] * np.eye(K)
    return multivariate(o["mean"], diagonal + o["cov_factor"] @ np.swapaxes(o["cov_factor"], 1, 2), z)


def full(o, z, part):
    return multivariate(o["mean"], o["scale_tril"] @ np.swapaxes(o["scale_tril"], 1, 2), z)


GUIDE_DENSITY = {  # log q(z|x), from an encoder's outputs, by SciPy
    "DiagonalNormal": lambda o, z, part: stats.norm(o["mean"], o["sd"]).logpdf(z).sum(-1),
    "FullCovarianceNormal": full,
    "LowRankNormal": low_rank,
    "Mixture": mixture,
    "Family": lambda o, z, part: stats.gamma(o["concentration"], scale=1 / o["rate"]).logpdf(z).sum(-1),
}


@pytest.mark.parametrize(("name", "options"), cases("guides"))
def test_an_encoder_gives_the_density_or_the_draws(name, options):
    guide = seeded_part("guides", name, options)
    encoder = Encoder(aevb.RecognitionModel(guide, 10).eval(), D)
    graph = made_graph(encoder, {})
    x = numbers(SIZE, D)
    noise = numbers(SIZE, K, seed=3)
    given = {"x": x, "noise": noise} if name == "Flow" else {"x": x}
    with torch.no_grad(), aevb.seeded(4):
        made = guide(x)
        z = made.rsample()
        expected = made.log_prob(z).numpy()
    for count in BATCH_SIZES:
        inputs = {key: value[:count] for key, value in given.items()}
        found = run_graph(graph, **inputs)
        for output, own in zip(found.values(), encoder(*inputs.values()), strict=True):
            np.testing.assert_allclose(output, own.detach().numpy(), **AGREES)
        if name == "Flow":
            continue
        log_q = GUIDE_DENSITY[name]({n: v.astype(np.float64) for n, v in found.items()}, z[:count].numpy(), guide)
        np.testing.assert_allclose(log_q, expected[:count], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["mean"], made.mean[:count].numpy(), **AGREES)
        np.testing.assert_allclose(found["sd"], made.stddev[:count].numpy(), **AGREES)
    if name == "Flow":
        with torch.no_grad(), aevb.seeded(4):
            same = torch.randn(SIZE, K)  # the noise of the draw above
        np.testing.assert_allclose(run_graph(graph, x=x, noise=same)["z"], z.numpy(), **AGREES)


# ---------------------------------------------------------------- networks, conditions, gaps


def convolutional():
    shape = (1, 8, 8)
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Bernoulli(
            K, 64, network=lambda i, o: aevb.nn.ConvolutionalDecoder(i, o, (4, 3), 5, shape=shape)
        )
        guide = aevb.guides.DiagonalNormal(
            64, K, network=lambda i, o: aevb.nn.ConvolutionalEncoder(i, o, (3, 4), 5, shape=shape)
        )
    return model_of(likelihood), aevb.RecognitionModel(guide, 10).eval(), {"x": numbers(SIZE, 64)}


def conditional(of_category):
    given = {"condition": 4}
    count = aevb.RecognitionModel.input_dim(D, **given)
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Poisson(K + 4, D, hidden=5)
        guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(count + 1, K, hidden=5), 10, exposure=True, **given)
    model = model_of(likelihood, exposure=True, **given)
    condition = torch.tensor([0, 1, 2, 3, 3, 2, 1]) if of_category else numbers(SIZE, 4, seed=1)
    exposure = numbers(SIZE, seed=2).exp()
    return model, guide.eval(), {"x": numbers(SIZE, D).abs(), "condition": condition, "exposure": exposure}


def with_gaps():
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Columns(K, D, kinds=MIXED, hidden=5)
        inputs = likelihood.inputs()
        count = aevb.RecognitionModel.input_dim(D, missing=True, inputs=inputs)
        inner = aevb.guides.DiagonalNormal(count, K, hidden=5)
    guide = aevb.RecognitionModel(inner, 10, missing=True, inputs=inputs).eval()
    x = torch.tensor([[0.5, 2, 1, 2, -1, 3]]).repeat(SIZE, 1)
    x[torch.arange(SIZE), torch.arange(SIZE) % D] = math.nan
    return model_of(likelihood, missing=True), guide, {"x": x}


@pytest.mark.parametrize(
    "make",
    [convolutional, lambda: conditional(True), lambda: conditional(False), with_gaps],
    ids=["convolutional", "category", "covariates", "gaps"],
)
def test_other_networks_and_inputs(make):
    model, guide, data = make()
    category = "condition" in data and not data["condition"].is_floating_point()
    encoder = Encoder(guide, data["x"].shape[1], category)
    decoder = Decoder(model, of_category=category)
    z = numbers(SIZE, K)
    beside = {name: value for name, value in data.items() if name != "x"}
    of_x, of_z = made_graph(encoder, {}), made_graph(decoder, {})
    for count in BATCH_SIZES:
        some, others, latents = (
            {n: v[:count] for n, v in data.items()},
            {n: v[:count] for n, v in beside.items()},
            z[:count],
        )
        with torch.no_grad():
            q = guide.guide(guide.seen(**some))
            p = model.likelihood_at(latents, **others)
        found = run_graph(of_x, **some)
        np.testing.assert_allclose(found["mean"], q.mean.numpy(), **AGREES)
        np.testing.assert_allclose(found["sd"], q.stddev.numpy(), **AGREES)
        decoded = run_graph(of_z, z=latents, **others)
        if "mean" in decoded:
            np.testing.assert_allclose(decoded["mean"], p.mean.numpy(), **AGREES)
        else:
            np.testing.assert_allclose(decoded["x0"], p.mean[:, 0].numpy(), **AGREES)
        assert np.isfinite(found["mean"]).all()


# ---------------------------------------------------------------- the file


def test_a_graph_tells_nothing_of_the_machine():
    model, guide = paper_pair(dtype=torch.float32)
    for half in (Encoder(guide.eval(), 6), Decoder(model.eval())):
        graph = made_graph(half, {"title": "a run"})
        made = onnx.load_from_string(graph.content)
        assert {each.key: each.value for each in made.metadata_props} == {"title": "a run"}
        assert not any(node.metadata_props or node.doc_string for node in made.graph.node)
        assert b".py" not in graph.content
        assert made_graph(half, {"title": "a run"}).content == graph.content
        assert all(value["shape"][0] == "batch" for value in (*graph.inputs.values(), *graph.outputs.values()))


def test_a_graph_of_other_numbers_is_seen():
    model, _ = paper_pair(dtype=torch.float32)
    decoder = Decoder(model.eval())
    graph = made_graph(decoder, {})
    z = numbers(SIZE, 2)
    assert largest_difference(graph, decoder, [z]) < 1e-6
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    assert largest_difference(graph, decoder, [z]) > 1e-3
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    assert largest_difference(graph, decoder, [z]) == math.inf


class Branching(Likelihood):
    """Reads its own numbers: no graph can."""

    def __init__(self, latent_dim, data_dim):
        super().__init__(latent_dim, data_dim)
        self.network = nn.Linear(latent_dim, data_dim)

    def forward(self, z):
        mean = self.network(z)
        return dist.Normal(-mean if mean.sum() > 0 else mean, 1.0).to_event(1)


class Told(Guide):
    """A distribution that tells nothing of itself."""

    def forward(self, x):
        return Silent(x[:, : self.latent_dim])


class Silent(dist.TorchDistribution):
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, loc):
        super().__init__(loc.shape[:1], loc.shape[1:])


def test_what_cannot_be_exported_is_refused_by_name():
    with pytest.raises(
        InputError, match=r"likelihood Branching cannot be exported to ONNX \(.*export the weights alone"
    ):
        made_graph(Decoder(model_of(Branching(K, D))), {})
    with pytest.raises(InputError, match="guide Told has neither mean nor parameters"):
        made_graph(Encoder(aevb.RecognitionModel(Told(D, K)), D), {})
    with pytest.raises(InputError, match="guide must be a RecognitionModel"):
        Encoder(Told(D, K), D)
    with pytest.raises(InputError, match="model must be a GenerativeModel"):
        Decoder(3)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_it_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"ONNX graphs need {name}: pip install 'pyro_aevb\[export\]'"):
        made_graph(Decoder(paper_pair(dtype=torch.float32)[0]), {})


def test_without_onnxruntime_nothing_is_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert largest_difference(None, None, []) is None


# ---------------------------------------------------------------- weights


def written_weights(tmp_path, dtype=torch.float32):
    with aevb.seeded(5):
        pair = paper_pair(dtype=dtype)
    (tmp_path / "w.safetensors").write_bytes(packed_weights(*pair, {"run": "toy"}))
    return pair, tmp_path / "w.safetensors"


def test_weights_come_back_bit_for_bit(tmp_path):
    pair, file = written_weights(tmp_path)
    other = paper_pair(dtype=torch.float32)
    assert load_weights(file, *other) == {"run": "toy"}
    for saved, loaded in zip(pair, other, strict=True):
        for name, tensor in saved.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert packed_weights(*pair, {"run": "toy"}) == file.read_bytes()
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["pyro_aevb"]) == {"run": "toy"}


def test_weights_of_another_pair_change_nothing(tmp_path):
    _, file = written_weights(tmp_path)
    for other, words in (
        (paper_pair(dtype=torch.float32, hidden=9), "float32 .8, 2., not float32 .9, 2."),
        (paper_pair(), "float32 .*, not float64"),
        (
            paper_pair("Gaussian", scale="pixel", dtype=torch.float32),
            "lacks model.likelihood.log_variance: it is of another",
        ),
    ):
        before = {name: value.clone() for name, value in other[0].state_dict().items()}
        with pytest.raises(InputError, match=words):
            load_weights(file, *other)
        assert all(torch.equal(before[name], value) for name, value in other[0].state_dict().items())


def test_damaged_weights(tmp_path):
    pair, file = written_weights(tmp_path)
    content = file.read_bytes()
    for damaged in (b"", b"no file of tensors", content[:-40], content[:30]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"is no file of safetensors, or damaged"):
            load_weights(file, *pair)
    for wrong, words in ((tmp_path, "is a folder"), (tmp_path / "none", "does not exist"), (3, "path must be a path")):
        with pytest.raises(InputError, match=words):
            load_weights(wrong, *pair)
    with torch.no_grad():
        next(pair[0].parameters()).fill_(math.inf)
    file.write_bytes(packed_weights(*pair, {}))
    with pytest.raises(InputError, match="NaN or infinite"):
        load_weights(file, *pair)


def test_safetensors_are_named_where_they_are_missing(monkeypatch, tmp_path):
    pair, file = written_weights(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match=r"safetensors are missing: pip install 'pyro_aevb\[export\]'"):
        load_weights(file, *pair)


# ---------------------------------------------------------------- the card's words


@pytest.mark.parametrize(
    "words",
    ["a|b", "<script>alert(1)</script>", "[x](http://e.il)", "![x](y)", "`code`", "**b** _i_", "a\nb\x1b[31m", "# t"],
)
def test_no_name_becomes_markdown(words):
    shown = escaped(words)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert "<" not in shown
    html = markdown(f"| {shown} |")
    for tag in ("<strong", "<em", "<code", "<a ", "<img", "<script", "<h1"):
        assert tag not in html, html


def markdown(text):
    from markdown_it import MarkdownIt

    return (
        MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(f"| a |\n| --- |\n{text}\n")
    )


def test_yaml_of_hostile_names_is_read_back():
    name = "a: [b]\n---\n- !!python/object:os.system"
    assert yaml.safe_load(yaml.safe_dump({"name": name}, allow_unicode=False)) == {"name": name}
