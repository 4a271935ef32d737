"""Small random pairs from a grammar, for ``test_random_pairs.py``: each a description, a model, a guide and data.

What is drawn: one to three latents (independent, each parent of the next, or a guide that draws them backwards), event
shapes of rank 0 to 2, continuous or discrete, a plate over M of N data, scales by numbers and tensors, masks, factors,
networks with batch or layer normalisation or dropout, side information joined by ``cat``, ``pyro.param``,
``PyroModule``, and partials and handlers around all.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import pyro_aevb as aevb

DTYPE = torch.float64
SHAPES = ((), (1,), (2,), (2, 2))


@dataclass(frozen=True)
class Spec:
    """A random pair in words."""

    latents: int = 1
    order: str = "independent"  # or "chain", "backwards"
    shapes: tuple[Any, ...] = ((),)
    discrete: bool = False
    rows: int = 5
    size: int | None = None
    layer: str = "linear"
    side: str = "none"  # or "cat", "closure"
    scale: str = "none"
    mask: str = "none"
    factor: str = "none"
    wrapper: str = "none"
    storage: str = "module"  # or "param", "pyro module"
    seed: int = 0


@st.composite
def specs(draw):
    """Any pair of the grammar."""
    latents = draw(st.integers(1, 3))
    return Spec(
        latents=latents,
        order=draw(st.sampled_from(["independent", "chain", "backwards"])),
        shapes=tuple(draw(st.sampled_from(SHAPES)) for _ in range(latents)),
        discrete=draw(st.booleans()),
        rows=draw(st.integers(2, 7)),
        size=draw(st.sampled_from([None, 12])),
        layer=draw(st.sampled_from(["linear", "batch norm", "layer norm", "dropout", "wide batch norm"])),
        side=draw(st.sampled_from(["none", "cat", "closure"])),
        scale=draw(
            st.sampled_from(["none", "all", "all by a tensor", "latent", "latent by a tensor", "model", "data"])
        ),
        mask=draw(st.sampled_from(["none", "both", "model", "likelihood"])),
        factor=draw(st.sampled_from(["none", "none", "none", "reparameterised", "not reparameterised", "model"])),
        wrapper=draw(st.sampled_from(["none", "partial", "scale", "mask", "condition", "plain class", "lambda"])),
        storage=draw(st.sampled_from(["module", "param", "pyro module"])),
        seed=draw(st.integers(0, 10**6)),
    )


class Net(nn.Module):
    """From numbers to numbers, with a layer of some kind between."""

    def __init__(self, inputs, outputs, layer, channels):
        super().__init__()
        width = channels if layer == "wide batch norm" else 3
        middle = {
            "linear": nn.Identity,
            "batch norm": partial(nn.BatchNorm1d, width),
            "wide batch norm": partial(nn.BatchNorm1d, width),
            "layer norm": partial(nn.LayerNorm, width),
            "dropout": partial(nn.Dropout, 0.5),
        }[layer]()
        self.layers = nn.Sequential(nn.Linear(inputs, width), middle, nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, value):
        return self.layers(value)


class PyroNet(PyroModule):
    """The same as a ``PyroModule``."""

    def __init__(self, *arguments):
        super().__init__()
        self.net = Net(*arguments)

    def forward(self, value):
        return self.net(value)


@dataclass
class Pair:
    """A pair that was made of a spec."""

    model: Any
    guide: Any
    args: tuple[Any, ...]
    spec: Spec
    nets: list[Any] = field(default_factory=list)


def flat(value, shape):
    """The event dimensions as one, ``(..., K)``."""
    return value.reshape(*value.shape[: value.dim() - len(shape)], -1) if shape else value.unsqueeze(-1)


def count(shape):
    return torch.Size(shape).numel()


class _Maker:
    """Makes the two functions; methods keep them short."""

    def __init__(self, spec):
        self.spec = spec
        with aevb.seeded(spec.seed):
            net = PyroNet if spec.storage == "pyro module" else Net
            layer, k = spec.layer, sum(count(shape) for shape in spec.shapes)
            self.decode = net(k + 2 * (spec.side == "cat"), 2, layer, spec.rows).to(DTYPE)
            self.encode = nn.ModuleList(
                net(2 + (self.parent(i, guide=True) is not None), 2 * count(shape), layer, spec.rows).to(DTYPE)
                for i, shape in enumerate(spec.shapes)
            )
            for module in (self.decode, self.encode):
                for name, buffer in module.named_buffers():
                    if name.endswith(("running_mean", "running_var")):
                        buffer.uniform_(0.5, 1.5)
            self.x = torch.randn(spec.rows, 2, dtype=DTYPE)
            self.side = torch.randn(spec.rows, 2, dtype=DTYPE)
            self.weights = torch.rand(spec.rows, dtype=DTYPE) + 0.5
            self.where = torch.arange(spec.rows) % 2 == 0

    def parent(self, i, guide):
        """Which latent the i-th depends on."""
        if self.spec.order == "independent":
            return None
        step = 1 if guide and self.spec.order == "backwards" else -1
        return i + step if 0 <= i + step < self.spec.latents else None

    def sites(self, guide):
        places = range(self.spec.latents)
        return reversed(places) if guide and self.spec.order == "backwards" else places

    def plate(self, x):
        return pyro.plate("data", self.spec.size or len(x), subsample_size=len(x), dim=-1)

    def scaled(self, where):
        kind = self.spec.scale
        value = torch.tensor(0.5, dtype=DTYPE) if "tensor" in kind else 0.5
        if kind == "data":
            return poutine.scale(scale=self.weights if where in ("latent", "likelihood") else 1.0)
        on = {"all": ("latent", "likelihood"), "latent": ("latent",), "model": ("model latent",)}
        wanted = on.get(kind.removesuffix(" by a tensor"), ())
        return poutine.scale(scale=value if where in wanted else 1.0)

    def masked(self, where):
        kind = self.spec.mask
        applies = {"both": ("model", "guide"), "model": ("model",), "likelihood": ("likelihood",)}.get(kind, ())
        return poutine.mask(mask=self.where if where in applies else torch.tensor(True))

    def prior(self, i, values):
        shape, parent = self.spec.shapes[i], self.parent(i, guide=False)
        shift = 0.0 if parent is None else flat(values[parent], self.spec.shapes[parent]).mean(-1)
        shift = torch.as_tensor(shift, dtype=DTYPE).reshape(torch.as_tensor(shift).shape + (1,) * len(shape))
        if self.spec.discrete:
            logits = (0.3 + 0.5 * shift) + torch.zeros(shape, dtype=DTYPE)
            return dist.Bernoulli(logits=logits).to_event(len(shape))
        return dist.Normal(shift + torch.zeros(shape, dtype=DTYPE), 1.0).to_event(len(shape))

    def posterior(self, i, x, values):
        shape, parent = self.spec.shapes[i], self.parent(i, guide=True)
        if parent is not None:
            mean = flat(values[parent], self.spec.shapes[parent]).mean(-1, keepdim=True)
            x = x.expand(*mean.shape[:-1], 2) if mean.dim() > 2 else x
            x = torch.cat([x, mean], -1)
        a, b = self.encode[i](x).chunk(2, -1)
        a, b = (part.reshape(*part.shape[:-1], *shape) for part in (a, b))
        if self.spec.discrete:
            return dist.Bernoulli(logits=a).to_event(len(shape))
        return dist.Normal(a, (b / 2).clamp(-3, 3).exp()).to_event(len(shape))

    def model(self, x, *more):
        if self.spec.storage == "param":
            pyro.param("bias", lambda: torch.zeros(2, dtype=DTYPE))
        pyro.module("decode", self.decode)
        values = {}
        with self.plate(x):
            for i in self.sites(guide=False):
                with self.scaled("latent"), self.scaled("model latent"), self.masked("model"):
                    values[i] = pyro.sample(f"z{i}", self.prior(i, values))
            if self.spec.factor == "model":
                with self.scaled("likelihood"):
                    pyro.factor("extra", -0.1 * flat(values[0], self.spec.shapes[0]).sum(-1) ** 2)
            mean = self.decode(self.joined(values, more))
            if self.spec.storage == "param":
                mean = mean + pyro.param("bias")
            if self.spec.side == "closure":
                mean = mean + self.side
            with self.scaled("likelihood"), self.masked("likelihood"):
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def joined(self, values, more):
        parts = [flat(values[i], shape) for i, shape in enumerate(self.spec.shapes)]
        return torch.cat([*parts, *more], -1)  # side information is (B, 2) whatever the latents are

    def guide(self, x, *more):
        pyro.module("encode", self.encode)
        values = {}
        with self.plate(x):
            for i in self.sites(guide=True):
                with self.scaled("latent"), self.masked("guide"):
                    values[i] = pyro.sample(f"z{i}", self.posterior(i, x, values))
            if "reparameterised" in self.spec.factor:
                value = -0.1 * flat(values[0], self.spec.shapes[0]).sum(-1) ** 2
                pyro.factor("f", value, has_rsample=self.spec.factor == "reparameterised")


class _Plain:
    """A model as a method of no module."""

    def __init__(self, function):
        self.function = function

    def run(self, *args):
        return self.function(*args)


def wrapped(function, kind):
    """The same function behind something."""
    return {
        "none": lambda f: f,
        "partial": lambda f: partial(f),
        "scale": lambda f: poutine.scale(f, 1.0),
        "mask": lambda f: poutine.mask(f, mask=torch.tensor(True)),
        "condition": lambda f: poutine.condition(f, data={"nothing": torch.zeros(())}),
        "plain class": lambda f: _Plain(f).run,
        "lambda": lambda f: lambda *args: f(*args),
    }[kind](function)


def make(spec):
    """The pair of a spec."""
    maker = _Maker(spec)
    args = (maker.x, maker.side) if spec.side == "cat" else (maker.x,)
    functions = (wrapped(f, spec.wrapper) for f in (maker.model, maker.guide))
    return Pair(*functions, args, spec, [maker.decode, maker.encode])
