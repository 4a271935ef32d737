"""The contestants of ``benchmark.py``: the same variational auto-encoder trained in different ways.

Each is a function of (shape, batch size, particles) that returns a function of a number of steps, which may return
before a GPU has taken them. Unless its name says otherwise a contestant runs as its user would run it: no process-wide
setting is touched for it.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pyro
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional

import pyro_aevb as aevb
from pyro_aevb import sgvb
from pyro_aevb.data.batches import Batches
from pyro_aevb.hardware import find_settings

Step = Callable[[int], None]
SIZE = 60_000
RATE = 1e-3


@dataclass(frozen=True)
class Shape:
    """Data, hidden and latent dimensions."""

    data_dim: int
    hidden: tuple[int, ...]
    latent_dim: int
    device: str = "cpu"


_DATA: dict[int, Tensor] = {}


def data(shape: Shape) -> Tensor:
    """Binary data as sparse as MNIST's, ``(60000, D)``; one tensor for all contestants."""
    if shape.data_dim not in _DATA:
        generator = torch.Generator().manual_seed(0)
        _DATA[shape.data_dim] = (torch.rand(SIZE, shape.data_dim, generator=generator) < 0.13).float()
    return _DATA[shape.data_dim]


def networks(shape: Shape) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder as plain modules, with the widths of a shape."""
    encoder = aevb.nn.MLP(shape.data_dim, 2 * shape.latent_dim, shape.hidden)
    decoder = aevb.nn.MLP(shape.latent_dim, shape.data_dim, shape.hidden[::-1])
    return encoder.to(shape.device), decoder.to(shape.device)


def pair(shape: Shape) -> tuple[aevb.GenerativeModel, aevb.RecognitionModel]:
    """The auto-encoder of :func:`networks` as a model and a guide of this package."""
    likelihood = aevb.likelihoods.Bernoulli(shape.latent_dim, shape.data_dim, hidden=shape.hidden[::-1])
    guide = aevb.guides.DiagonalNormal(shape.data_dim, shape.latent_dim, hidden=shape.hidden)
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(shape.latent_dim), likelihood, SIZE)
    return model.to(shape.device), aevb.RecognitionModel(guide, SIZE).to(shape.device)


def minibatches(shape: Shape, batch_size: int) -> Callable[[], Tensor]:
    """The next minibatch, from one tensor in memory by a permutation."""
    batches = Batches(data(shape), batch_size, 0, torch.device(shape.device))
    step = iter(range(10**9))
    return lambda: batches[next(step)][0]


def repeat(once: Callable[[], object]) -> Step:
    """A function that takes a step as often as it is told."""

    def steps(count: int) -> None:
        for _ in range(count):
            once()

    return steps


def with_our_settings(make: Callable[..., Step]) -> Callable[..., Step]:
    """The same contestant with the processor settings that ``Trainer`` finds: oneDNN's products on AMD."""

    def made(shape: Shape, batch_size: int, particles: int = 1) -> Step:
        product = batch_size, shape.data_dim, shape.hidden[0]
        settings = find_settings(product, torch.device(shape.device), "float32")
        step = make(shape, batch_size, particles)

        def steps(count: int) -> None:
            with settings.applied():
                step(count)

        return steps

    return made


# ---------------------------------------------------------------- contestants


def matrix_products(shape: Shape, batch_size: int, particles: int = 1) -> Step:
    """The floor: each layer's product, its gradient by the weights, and by its input where one is needed."""
    encoder = [shape.data_dim, *shape.hidden, 2 * shape.latent_dim]
    decoder = [shape.latent_dim, *shape.hidden[::-1], shape.data_dim]
    products = []
    for sizes, rows in ((encoder, batch_size), (decoder, batch_size * particles)):
        for i, (a, b) in enumerate(pairwise(sizes)):
            x, weight, g = (torch.randn(size, device=shape.device) for size in ((rows, a), (b, a), (rows, b)))
            products += [(x, weight.T), (g.T, x)]
            if i > 0 or sizes is decoder:  # the data need no gradient
                products.append((g, weight))
    return repeat(lambda: [a @ b for a, b in products])


def by_hand(shape: Shape, batch_size: int, particles: int = 1, compiled: bool = False) -> Step:
    """A loop over estimator A of ``sgvb.py`` and torch's fused Adam."""
    encoder, decoder = networks(shape)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)

    def loss(x: Tensor, noise: Tensor) -> Tensor:
        return -SIZE * sgvb.estimator_a(x, noise, encoder, decoder, sgvb.bernoulli_log_likelihood).mean()

    objective = torch.compile(loss) if compiled else loss
    following = minibatches(shape, batch_size)

    def once() -> None:
        value = objective(following(), torch.randn(batch_size, shape.latent_dim, device=shape.device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return repeat(once)


def svi(shape: Shape, batch_size: int, particles: int = 1, estimator: type = Trace_ELBO, checks: bool = True) -> Step:
    """Pyro's own loop, ``SVI.step``, with any of its estimators, with or without its checks."""
    model, guide = pair(shape)
    options = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 1}
    loop = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), estimator(**options))
    following = minibatches(shape, batch_size)

    def steps(count: int) -> None:
        with pyro.validation_enabled(checks):
            for _ in range(count):
                loop.step(following())

    return steps


def make_trainer(
    shape: Shape, batch_size: int, particles: int, engine: str, rows: Tensor | aevb.data.DynamicBinarization
) -> aevb.Trainer:
    """A ``Trainer`` of the same pair, with one estimator and torch's Adam."""
    options = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 1}
    optimizer = partial(torch.optim.Adam, lr=RATE)
    estimator = aevb.estimators.SGVB(**options)
    return aevb.Trainer(*pair(shape), rows, estimator, optimizer, batch_size, engine=engine, device=shape.device)


def engine_alone(shape: Shape, batch_size: int, particles: int = 1) -> Step:
    """The captured step on one minibatch that stays in the cache, and no reports."""
    training = make_trainer(shape, batch_size, particles, "captured", data(shape)[:batch_size].clone())
    visit = training.batches.visit(0)

    def steps(count: int) -> None:
        with training.running():
            for _ in range(count):
                list(training.engine.steps([visit]))

    return steps


def trainer(
    shape: Shape, batch_size: int, particles: int = 1, engine: str = "captured", binarize: bool = False
) -> Step:
    """``Trainer.run`` as its user runs it, data and reports and all."""
    rows = aevb.data.DynamicBinarization(data(shape) * 0.9) if binarize else data(shape)
    training = make_trainer(shape, batch_size, particles, engine, rows)

    def steps(count: int) -> None:
        for _ in training.run(count * batch_size):
            pass

    return steps


def data_loader(shape: Shape, batch_size: int, particles: int = 1) -> Step:
    """As pytorch/examples writes it: a shuffling ``DataLoader``, plain Adam, ``loss.item()`` each step."""
    encoder, decoder = networks(shape)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data(shape)), batch_size, shuffle=True)

    def forever():
        while True:
            yield from loader

    batches = forever()

    def once() -> float:
        x = next(batches)[0].to(shape.device)
        mean, log_variance = encoder(x).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        cross_entropy = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        optimizer.zero_grad()
        loss = cross_entropy + kl
        loss.backward()
        optimizer.step()
        return loss.item()

    return repeat(once)


def numpyro_loop(shape: Shape, batch_size: int, particles: int = 1) -> Step:
    """NumPyro: all steps of a call in one compiled ``fori_loop``."""
    import jax
    import numpyro
    import numpyro.distributions as dist
    from jax import numpy as jnp

    sizes = (
        [shape.data_dim, *shape.hidden, 2 * shape.latent_dim],
        [shape.latent_dim, *shape.hidden[::-1], shape.data_dim],
    )

    def network(name: str, x: jax.Array, dims: list[int]) -> jax.Array:
        for i, (a, b) in enumerate(pairwise(dims)):
            bound = a**-0.5
            weight = numpyro.param(
                f"{name}.{i}.w", lambda key, a=a, b=b, c=bound: jax.random.uniform(key, (a, b), minval=-c, maxval=c)
            )
            bias = numpyro.param(
                f"{name}.{i}.b", lambda key, b=b, c=bound: jax.random.uniform(key, (b,), minval=-c, maxval=c)
            )
            x = x @ weight + bias
            x = jnp.tanh(x) if i < len(dims) - 2 else x
        return x

    def model(x: jax.Array) -> None:
        with numpyro.plate("data", SIZE, subsample_size=batch_size):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(shape.latent_dim), 1.0).to_event(1))
            numpyro.sample("x", dist.BernoulliLogits(network("decoder", z, sizes[1])).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        with numpyro.plate("data", SIZE, subsample_size=batch_size):
            mean, log_variance = jnp.split(network("encoder", x, sizes[0]), 2, axis=-1)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_variance / 2)).to_event(1))

    loop = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(RATE), numpyro.infer.Trace_ELBO(particles))
    images = jnp.asarray(data(shape).numpy())
    state = loop.init(jax.random.key(0), images[:batch_size])

    @jax.jit
    def many(state: object, key: jax.Array, count: int) -> object:
        order = jax.random.permutation(key, SIZE)

        def body(i: int, state: object) -> object:
            rows = jax.lax.dynamic_slice_in_dim(order, (i * batch_size) % (SIZE - batch_size + 1), batch_size)
            return loop.update(state, images[rows])[0]

        return jax.lax.fori_loop(0, count, body, state)

    keys = iter(range(10**9))

    def steps(count: int) -> None:
        nonlocal state
        state = jax.block_until_ready(many(state, jax.random.key(next(keys)), count))

    return steps


CONTESTANTS: dict[str, Callable[..., Step]] = {
    "matrix products alone": with_our_settings(matrix_products),
    "captured engine": trainer,
    "captured engine, neither data nor reports": engine_alone,
    "captured engine, binarising": partial(trainer, binarize=True),
    "NumPyro, fori_loop": numpyro_loop,
    "sgvb.py, torch.compile": partial(by_hand, compiled=True),
    "sgvb.py, eager, fused Adam": by_hand,
    "eager engine": partial(trainer, engine="eager"),
    "pytorch/examples style": data_loader,
    "JitTrace_ELBO": partial(svi, estimator=JitTrace_ELBO),
    "pyro.infer.SVI, Trace_ELBO": svi,
    "SVI, validation off": partial(svi, checks=False),
    "SVI, our matrix products": with_our_settings(svi),
    "sgvb.py, eager, our matrix products": with_our_settings(by_hand),
}
if importlib.util.find_spec("numpyro") is None:  # the optional extra 'bench'
    del CONTESTANTS["NumPyro, fori_loop"]
