"""Programs as others write them in Pyro: its examples and tutorials, anew, in their few essential lines.

Each is made by a function without arguments, so that two trainings of it share nothing; the data are small and made up.
None knows this package.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.zuko import ZukoToPyro
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

__all__ = ["PROGRAMS", "Program"]

validates = torch.distributions.Distribution._validate_args
import zuko  # noqa: E402  # which switches torch's checks of arguments off for the whole process

torch.distributions.Distribution.set_default_validate_args(validates)

N = 60
PIXELS = 16
GENES = 12


class Program(NamedTuple):
    """A pair and its data."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: tuple[Tensor, ...]
    batch_size: int = 20


def binary(rows: int = N, columns: int = PIXELS) -> Tensor:
    """Binary pixels."""
    return torch.bernoulli(torch.full((rows, columns), 0.4))


def counts(rows: int = N, columns: int = GENES) -> Tensor:
    """Counts."""
    return torch.poisson(torch.full((rows, columns), 3.0))


def layers(*sizes: int) -> nn.Sequential:
    """A network of linear layers with softplus between them."""
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), nn.Softplus()]
    return nn.Sequential(*parts[:-1])


# ---------------------------------------------------------------- autoencoders


class VAE(nn.Module):
    """Pyro's ``vae``: no size in the plate."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = layers(4, 8, PIXELS)
        self.encoder = layers(PIXELS, 8, 8)

    def model(self, x: Tensor) -> None:
        """p(z) p(x|z)"""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(torch.Size((x.shape[0], 4)))
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            probs = torch.sigmoid(self.decoder(z))
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z|x)"""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


def vae() -> Program:
    """Binary pixels."""
    net = VAE()
    return Program(net.model, net.guide, (binary(),))


def vae_grey() -> Program:
    """Grey pixels under a Bernoulli that does not look."""
    net = VAE()
    return Program(net.model, net.guide, (torch.rand(N, PIXELS),))


def cvae() -> Program:
    """Conditional: what is known and what is to be completed; the prior is learned."""
    prior = layers(8, 8, 8)
    decoder = layers(4 + 8, 8, 8)
    encoder = layers(16, 8, 8)

    def normal(net: nn.Module, x: Tensor) -> Any:
        loc, log_scale = net(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def model(x: Tensor, y: Tensor) -> None:
        for name, net in (("prior", prior), ("decoder", decoder)):
            pyro.module(name, net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(prior, x))
            pyro.sample("y", dist.Bernoulli(logits=decoder(torch.cat([z, x], -1))).to_event(1), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(encoder, torch.cat([x, y], -1)))

    pixels = binary()
    return Program(model, guide, (pixels[:, :8].clone(), pixels[:, 8:].clone()))


class M2(nn.Module):
    """Pyro's ``ss_vae_M2``: a label that is seen or not."""

    def __init__(self, labelled: bool) -> None:
        super().__init__()
        self.labelled = labelled
        self.decoder = layers(4 + 3, 8, PIXELS)
        self.encoder = layers(PIXELS + 3, 8, 8)
        self.classifier = layers(PIXELS, 8, 3)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(y) p(z) p(x|y, z)"""
        pyro.module("m2", self)
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 4), 1.0).to_event(1))
            prior = x.new_ones(len(x), 3) / 3
            y = pyro.sample("y", dist.OneHotCategorical(prior), obs=y if self.labelled else None)
            logits = self.decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(y|x) q(z|x, y)"""
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            if not self.labelled:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)))
            loc, log_scale = self.encoder(torch.cat([x, y], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def ss_vae_labelled() -> Program:
    """Labels are data."""
    net = M2(True)
    labels = functional.one_hot(torch.randint(3, (N,)), 3).float()
    return Program(net.model, net.guide, (binary(), labels))


def ss_vae_unlabelled() -> Program:
    """Labels are latents, without a path."""
    net = M2(False)
    return Program(net.model, net.guide, (binary(),))


def scanvi() -> Program:
    """Counts of genes with a library size, a label, and a latent vector that depends on it and on another one."""
    decoder = layers(4, 8, GENES)
    of_label = layers(4 + 3, 8, 8)
    encoder = layers(GENES, 8, 10)
    classifier = layers(4, 3)
    encoder_of_rest = layers(4 + 3, 8, 8)

    def normal(out: Tensor) -> Any:
        loc, log_scale = out.chunk(2, -1)
        return dist.Normal(loc, functional.softplus(log_scale) + 1e-3).to_event(1)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        pyro.module("of_label", of_label)
        theta = pyro.param("inverse_dispersion", torch.full((GENES,), 10.0), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=1 / len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(len(x), 4), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), 3)))
            z2 = pyro.sample("z2", normal(of_label(torch.cat([z1, y], -1))))
            size = pyro.sample("l", dist.LogNormal(x.new_full((len(x), 1), 3.0), 0.5).to_event(1))
            logits = (size * decoder(z2).softmax(-1) + 1e-6).log() - theta.log()
            pyro.sample("x", dist.NegativeBinomial(theta, logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        pyro.module("classifier", classifier)
        pyro.module("encoder_of_rest", encoder_of_rest)
        with pyro.plate("batch", len(x)), poutine.scale(scale=1 / len(x)):
            out = encoder(x.log1p())
            z2 = pyro.sample("z2", normal(out[:, :8]))
            pyro.sample("l", dist.LogNormal(out[:, 8:9], functional.softplus(out[:, 9:]) + 1e-3).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(z2)))
            pyro.sample("z1", normal(encoder_of_rest(torch.cat([z2, y], -1))))

    return Program(model, guide, (counts(),))


def prodlda() -> Program:
    """Topics of documents, with batch normalisation and dropout."""
    beta = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, GENES, bias=False), nn.BatchNorm1d(GENES, affine=False))
    encoder = nn.Sequential(nn.Linear(GENES, 8), nn.Softplus(), nn.Dropout(0.2), nn.Linear(8, 6))

    def model(docs: Tensor) -> None:
        pyro.module("decoder", beta)
        with pyro.plate("documents", docs.shape[0]):
            logtheta = pyro.sample("logtheta", dist.Normal(docs.new_zeros(len(docs), 3), 1.0).to_event(1))
            word = beta(logtheta.softmax(-1)).softmax(-1)
            total = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, word), obs=docs)

    def guide(docs: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, log_scale = encoder(docs).chunk(2, -1)
            pyro.sample("logtheta", dist.Normal(loc, (0.5 * log_scale).exp()).to_event(1))

    return Program(model, guide, (counts(),))


def cevae() -> Program:
    """Causal effects: a treatment and an outcome that the guide foretells too."""
    decoder = layers(3, 8, 8)
    treatment = layers(3, 1)
    outcome = layers(4, 1)
    encoder = layers(8 + 2, 8, 6)
    of_t = layers(8, 1)
    of_y = layers(9, 1)

    def model(x: Tensor, t: Tensor, y: Tensor) -> None:
        for name, net in (("decoder", decoder), ("treatment", treatment), ("outcome", outcome)):
            pyro.module(name, net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)
            pyro.sample("t", dist.Bernoulli(logits=treatment(z).squeeze(-1)), obs=t)
            mean = outcome(torch.cat([z, t.unsqueeze(-1)], -1)).squeeze(-1)
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def guide(x: Tensor, t: Tensor, y: Tensor) -> None:
        for name, net in (("encoder", encoder), ("of_t", of_t), ("of_y", of_y)):
            pyro.module(name, net)
        with pyro.plate("data", len(x)):
            auxiliary = {"is_auxiliary": True}
            pyro.sample("t", dist.Bernoulli(logits=of_t(x).squeeze(-1)), obs=t, infer=auxiliary)
            both = torch.cat([x, t.unsqueeze(-1)], -1)
            pyro.sample("y", dist.Normal(of_y(both).squeeze(-1), 1.0), obs=y, infer=auxiliary)
            loc, log_scale = encoder(torch.cat([both, y.unsqueeze(-1)], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Program(model, guide, (torch.randn(N, 8), torch.bernoulli(torch.full((N,), 0.5)), torch.randn(N)))


# ---------------------------------------------------------------- sequences


class DMM(nn.Module):
    """Pyro's ``dmm``: a Markov chain of latents under padded sequences, masked beyond their lengths."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.emitter = layers(3, 8, 5)
        self.transition = layers(3, 8, 6)
        self.rnn = nn.RNN(5, 6, batch_first=True)
        self.combiner = layers(3 + 6, 8, 6)
        self.first = nn.Parameter(torch.zeros(3))
        self.first_q = nn.Parameter(torch.zeros(3))

    def model(self, x: Tensor, lengths: Tensor) -> None:
        """A chain, and what it emits."""
        pyro.module("dmm", self)
        z = self.first.expand(len(x), 3)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(self.steps)):
                loc, log_scale = self.transition(z).chunk(2, -1)
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, log_scale.exp()).to_event(1))
                    pyro.sample(f"x_{t}", dist.Bernoulli(logits=self.emitter(z)).to_event(1), obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        """A chain that has seen the future."""
        pyro.module("dmm", self)
        hidden = self.rnn(x.flip(1))[0].flip(1)
        z = self.first_q.expand(len(x), 3)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(self.steps)):
                loc, log_scale = self.combiner(torch.cat([z, hidden[:, t]], -1)).chunk(2, -1)
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, log_scale.exp()).to_event(1))


def dmm() -> Program:
    """Sequences of four steps at most."""
    net = DMM()
    return Program(net.model, net.guide, (binary(N, 20).reshape(N, 4, 5), torch.randint(1, 5, (N,))))


# ---------------------------------------------------------------- mixtures, topics, factors


def gmm() -> Program:
    """A mixture whose assignments are summed out, its weights and means at their maximum."""

    @pyro.infer.config_enumerate
    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[k], 1.0), obs=x)

    guide = autoguide.AutoDelta(poutine.block(model, expose=["weights", "locs"]))
    return Program(model, guide, (torch.randn(N),), N)


def lda() -> Program:
    """Words of documents: topics of words for all, topics of each document."""
    predictor = layers(GENES, 8, 3)

    def model(docs: Tensor) -> None:
        with pyro.plate("topics", 3):
            topics = pyro.sample("topic_words", dist.Dirichlet(torch.ones(GENES)))
        with pyro.plate("documents", len(docs)):
            theta = pyro.sample("doc_topics", dist.Dirichlet(docs.new_ones(3)))
            pyro.sample("words", dist.Multinomial(int(docs.sum(-1).max()), theta @ topics), obs=docs)

    def guide(docs: Tensor) -> None:
        pyro.module("predictor", predictor)
        words = pyro.param("words", torch.ones(3, GENES), constraint=constraints.positive)
        with pyro.plate("topics", 3):
            pyro.sample("topic_words", dist.Dirichlet(words))
        with pyro.plate("documents", len(docs)):
            pyro.sample("doc_topics", dist.Dirichlet(predictor(docs).exp()))

    return Program(model, guide, (counts(),), N)


def gamma_def_model(x: Tensor) -> None:
    """A sparse deep exponential family of two layers: Gamma latents with global Gamma weights."""
    w_top = pyro.sample("w_top", dist.Gamma(0.1, 0.3).expand([2, 3]).to_event(2))
    w_bottom = pyro.sample("w_bottom", dist.Gamma(0.1, 0.3).expand([3, GENES]).to_event(2))
    with pyro.plate("data", len(x)):
        top = pyro.sample("z_top", dist.Gamma(0.1, 0.1).expand([2]).to_event(1))
        bottom = pyro.sample("z_bottom", dist.Gamma(0.1, 0.1 / (top @ w_top + 1e-3)).to_event(1))
        pyro.sample("obs", dist.Poisson(bottom @ w_bottom + 1e-3).to_event(1), obs=x)


def gamma_def() -> Program:
    """The guide by hand: Gammas by their shapes and means."""
    shapes = {"w_top": (2, 3), "w_bottom": (3, GENES), "z_top": (N, 2), "z_bottom": (N, 3)}

    def guide(x: Tensor) -> None:
        plate = pyro.plate("data", len(x))
        for name, shape in shapes.items():
            alpha = pyro.param(f"alpha_{name}", torch.full(shape, 0.5), constraint=constraints.greater_than(0.01))
            mean = pyro.param(f"mean_{name}", torch.ones(shape), constraint=constraints.greater_than(0.01))
            gamma = dist.Gamma(alpha, alpha / mean)
            if name.startswith("w"):
                pyro.sample(name, gamma.to_event(2))
            else:
                with plate:
                    pyro.sample(name, gamma.to_event(1))

    return Program(gamma_def_model, guide, (counts(),), N)


def gamma_def_auto() -> Program:
    """Pyro's ``AutoNormal`` as its guide."""
    guide = autoguide.AutoNormal(gamma_def_model, init_loc_fn=autoguide.initialization.init_to_feasible)
    return Program(gamma_def_model, guide, (counts(),), N)


def gamma_def_easy() -> Program:
    """An ``EasyGuide`` with one normal over the logarithms of each layer."""
    from pyro.contrib.easyguide import easy_guide

    @easy_guide(gamma_def_model)
    def guide(self: Any, x: Tensor) -> None:
        for name, size in (("w_top", 6), ("w_bottom", 3 * GENES)):
            group = self.group(match=name)
            loc = pyro.param(f"loc_{name}", torch.zeros(size))
            group.sample(f"{name}_aux", dist.Normal(loc, 0.1).to_event(1))
        with self.plate("data", len(x)):
            group = self.group(match="z_.*")
            loc = pyro.param("loc_z", torch.zeros(N, 5))
            group.sample("z_aux", dist.Normal(loc, 0.1).to_event(1))

    return Program(gamma_def_model, guide, (counts(),), N)


# ---------------------------------------------------------------- attend, infer, repeat


class AIR(nn.Module):
    """Objects one after another: there or not, where, and what; a step counts while all before it were there."""

    def __init__(self, steps: int = 2) -> None:
        super().__init__()
        self.steps = steps
        self.decoder = layers(3, 8, PIXELS)
        self.encoder = layers(PIXELS, 8, 7)
        self.baseline = layers(PIXELS, 8, 1)

    def model(self, x: Tensor) -> None:
        """A canvas that objects are added to."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            present = x.new_ones(len(x))
            canvas = torch.zeros_like(x)
            for t in range(self.steps):
                present = pyro.sample(f"present_{t}", dist.Bernoulli(0.5 * present))
                with poutine.mask(mask=present.bool()):
                    what = pyro.sample(f"what_{t}", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
                canvas = canvas + present.unsqueeze(-1) * torch.sigmoid(self.decoder(what))
            pyro.sample("x", dist.Normal(canvas, 0.3).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The same order, each step from the data, with a network as its baseline."""
        pyro.module("air", self)
        with pyro.plate("data", len(x)):
            present = x.new_ones(len(x))
            for t in range(self.steps):
                out = self.encoder(x)
                baseline = {"nn_baseline": lambda x: self.baseline(x).squeeze(-1), "nn_baseline_input": x}
                probability = torch.sigmoid(out[:, 0]).clamp(1e-3, 1 - 1e-3) * present
                present = pyro.sample(f"present_{t}", dist.Bernoulli(probability), infer={"baseline": baseline})
                with poutine.mask(mask=present.bool()):
                    loc, log_scale = out[:, 1:].chunk(2, -1)
                    pyro.sample(f"what_{t}", dist.Normal(loc, log_scale.exp()).to_event(1))


def air() -> Program:
    """Made digits of sixteen pixels."""
    net = AIR()
    return Program(net.model, net.guide, (torch.rand(N, PIXELS),))


# ---------------------------------------------------------------- regression


class Regression(PyroModule):
    """Bayesian linear regression, weights as ``PyroSample``, as in Pyro's tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """p(w) p(y|x, w)"""
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def regression(make_guide: Callable[..., Any]) -> Program:
    """All data at once."""
    model = Regression()
    x = torch.randn(N, 3)
    return Program(model, make_guide(model), (x, x.sum(-1) + 0.3 * torch.randn(N)), N)


AUTOGUIDES: dict[str, Callable[..., Any]] = {
    "AutoDelta": autoguide.AutoDelta,
    "AutoNormal": autoguide.AutoNormal,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": autoguide.AutoLowRankMultivariateNormal,
    "AutoIAFNormal": partial(autoguide.AutoIAFNormal, hidden_dim=[8], num_transforms=1),
    "AutoLaplaceApproximation": autoguide.AutoLaplaceApproximation,
    "AutoGaussian": autoguide.AutoGaussian,
}

# ---------------------------------------------------------------- zuko's flows, through pyro.contrib.zuko


def flow_prior() -> Program:
    """Pyro's tutorial ``vae_flow_prior``: the prior is a masked autoregressive flow."""
    flow = zuko.flows.MAF(features=3, transforms=2, hidden_features=(8,))
    decoder = layers(3, 8, PIXELS)
    encoder = layers(PIXELS, 8, 6)

    def model(x: Tensor) -> None:
        pyro.module("prior", flow)
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", ZukoToPyro(flow()))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Program(model, guide, (binary(),))


def flow_guide() -> Program:
    """The guide is a neural spline flow of the datum."""
    flow = zuko.flows.NSF(features=3, context=PIXELS, transforms=2, hidden_features=(8,))
    decoder = layers(3, 8, PIXELS)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            pyro.sample("z", ZukoToPyro(flow(x)))

    return Program(model, guide, (binary(),))


PROGRAMS: dict[str, Callable[[], Program]] = {
    "vae": vae,
    "vae, grey pixels": vae_grey,
    "cvae": cvae,
    "ss_vae_M2, labelled": ss_vae_labelled,
    "ss_vae_M2, unlabelled": ss_vae_unlabelled,
    "dmm": dmm,
    "scanVI": scanvi,
    "cevae": cevae,
    "prodLDA": prodlda,
    "lda": lda,
    "gmm": gmm,
    "sparse gamma DEF, by hand": gamma_def,
    "sparse gamma DEF, AutoNormal": gamma_def_auto,
    "sparse gamma DEF, EasyGuide": gamma_def_easy,
    "air": air,
    "zuko flow as the prior": flow_prior,
    "zuko flow as the guide": flow_guide,
    **{f"regression, {name}": partial(regression, make) for name, make in AUTOGUIDES.items()},
}
"""By name."""
