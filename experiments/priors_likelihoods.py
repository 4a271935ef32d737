"""Every prior and every suitable likelihood on MNIST and Frey Face: ``python experiments/priors_likelihoods.py``.

All cases have one network (D-200-10, with a diagonal Gaussian guide), one budget (5e5 samples, Adam, estimator A) and
one seed; what is compared is log p(x) of the first 1000 test images by importance sampling, in nats per datum. Priors
are compared under one likelihood: Bernoulli on MNIST, binarised at each visit, a Gaussian on Frey Face. Likelihoods are
compared under the prior N(0, I), in one unit: the log-probability of an image of 256 grey levels. A mass function over
levels or counts has it at once; a density has it on dequantised pixels, (level + u) / 256 with u uniform, less log 256
for each pixel; a mass function over 16 levels has it less log 16 for each pixel.

About 50 minutes on two cores. Each case is kept as it ends; a script begun again goes on with the next.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from shared.results import provenance, read_csv, write_csv
from torch import Tensor, nn

import pyro_aevb as aevb
from pyro_aevb import likelihoods, priors
from pyro_aevb.evidence import importance_weights
from pyro_aevb.plots import save
from pyro_aevb.plots.style import SMALL, WIDEST, entitle, in_style, panels_of

FOLDER = Path(__file__).parent / "priors_likelihoods"
HIDDEN = 200
LATENT_DIM = 10
BATCH = 100
SAMPLES = 500_000
SEED = 0
IMAGES = 1000  # of the test set, that are evaluated
DRAWS = 500  # importance samples for each image
SHOWN = 12  # pictures of each case

PRIORS: dict[str, Callable[..., priors.Prior]] = {
    "StandardNormal": priors.StandardNormal,
    "LearnedNormal": priors.LearnedNormal,
    "Laplace": priors.Laplace,
    "StudentT": priors.StudentT,
    "Family(Logistic)": partial(priors.Family, distribution="Logistic"),
    "GaussianMixture(50)": partial(priors.GaussianMixture, components=50),
    "VampPrior(50)": partial(priors.VampPrior, components=50),
    "Flow(coupling)": priors.Flow,
    "Flow(spline)": partial(priors.Flow, kind="spline"),
}
LIKELIHOODS: dict[str, tuple[str, Callable[..., likelihoods.Likelihood]]] = {  # and which form of the data it is of
    "Gaussian(network)": ("density", likelihoods.Gaussian),
    "Gaussian(pixel)": ("density", partial(likelihoods.Gaussian, scale="pixel")),
    "Gaussian(shared)": ("density", partial(likelihoods.Gaussian, scale="shared")),
    "Gaussian(0.1)": ("density", partial(likelihoods.Gaussian, scale=0.1)),
    "Laplace(network)": ("density", likelihoods.Laplace),
    "ContinuousBernoulli": ("density", likelihoods.ContinuousBernoulli),
    "Beta": ("density", likelihoods.Beta),
    "Family(Logistic)": ("density", partial(likelihoods.Family, distribution="Logistic")),
    "Categorical(16)": ("16 levels", partial(likelihoods.Categorical, steps=15)),
    "DiscretizedLogistic(1)": ("256 levels", likelihoods.DiscretizedLogistic),
    "DiscretizedLogistic(5)": ("256 levels", partial(likelihoods.DiscretizedLogistic, components=5)),
    "Poisson": ("counts", likelihoods.Poisson),
    "NegativeBinomial": ("counts", likelihoods.NegativeBinomial),
}


class Form(NamedTuple):
    """The same images in the form that a family of likelihoods is of."""

    train: Tensor
    test: Tensor
    unit: float
    """Its values divided by this lie in [0, 1]."""
    nats_per_pixel: float
    """What a log-probability in this form exceeds that of 256 levels by."""


class Divided(nn.Module):
    """Values in [0, 1] for a network, whatever the data's unit."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return x / self.unit


def forms(data: aevb.data.DataSet) -> dict[str, Form]:
    """Each form of an image set of 256 levels."""
    steps = 256 if data.name == "frey_face" else 255
    levels = [(x * steps).round() for x in (data.train, data.test)]
    generator = torch.Generator().manual_seed(SEED)
    noisy = [(x + torch.rand(x.shape, generator=generator)) / 256 for x in levels]
    return {
        "density": Form(*noisy, 1.0, math.log(256)),
        "256 levels": Form(*(x / 255 for x in levels), 1.0, 0.0),
        "16 levels": Form(*((x / 16).floor() / 15 for x in levels), 1.0, math.log(16)),
        "counts": Form(*levels, 255.0, 0.0),
    }


def make_guide(data_dim: int, unit: float) -> aevb.guides.Guide:
    """The guide that all cases have."""

    def network(in_dim: int, out_dim: int) -> nn.Module:
        return nn.Sequential(Divided(unit), aevb.nn.MLP(in_dim, out_dim, HIDDEN))

    return aevb.guides.DiagonalNormal(data_dim, LATENT_DIM, network=network)


def run_case(
    train: Tensor | aevb.data.DynamicBinarization, test: Tensor, unit: float, prior: Callable, likelihood: Callable
) -> tuple[dict, Tensor, Tensor]:
    """Train and evaluate a pair: numbers, per-datum evidence, means of p(x|z) with z from the prior, in [0, 1]."""
    started = time.perf_counter()
    dim = test.shape[1]
    size = len(train)
    with aevb.seeded(SEED):
        q = make_guide(dim, unit)
        p = prior(LATENT_DIM, guide=q) if getattr(prior, "func", None) is priors.VampPrior else prior(LATENT_DIM)
        model = aevb.GenerativeModel(p, likelihood(LATENT_DIM, dim, hidden=HIDDEN), size)
    guide = aevb.RecognitionModel(q, size)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    trainer = aevb.Trainer(model, guide, train, None, optimizer, BATCH, SEED, "eager", device="cpu")
    list(trainer.run(SAMPLES))
    minutes = (time.perf_counter() - started) / 60
    test = test[:IMAGES]
    bound = aevb.evidence.bound(model, guide, test, 10).bound
    weights = importance_weights(model, guide, test, DRAWS)
    with torch.no_grad(), aevb.seeded(SEED):
        samples = model.likelihood(model.prior().expand((SHOWN,)).sample()).mean / unit
    numbers = {
        "bound": bound.mean().item(),
        "evidence": weights.log_likelihood.mean().item(),
        "monte_carlo_se": (weights.standard_error**2).sum().sqrt().item() / len(test),
        "minutes": round(minutes, 2),
    }
    return numbers, weights.log_likelihood, samples.clamp(0, 1)


def cases() -> list[tuple[str, str]]:
    """(what is compared, its name), the references first."""
    return [("prior", name) for name in PRIORS] + [("likelihood", name) for name in LIKELIHOODS]


def measure(data_name: str, what: str, name: str) -> tuple[dict, Tensor, Tensor, tuple[int, ...]]:
    """One case's row, evidence per datum, and pictures."""
    data = aevb.data.load(data_name)
    if what == "prior" and data_name == "mnist":
        binary = aevb.data.load(data_name, binarize="dynamic")
        train = binary.train
        test = binary.test
        unit = 1.0
        excess = 0.0
        likelihood: Callable = likelihoods.Bernoulli
    else:
        kind, likelihood = LIKELIHOODS[name if what == "likelihood" else "Gaussian(network)"]
        train, test, unit, excess = forms(data)[kind]
    prior = PRIORS[name if what == "prior" else "StandardNormal"]
    numbers, values, pictures = run_case(train, test, unit, prior, likelihood)
    shift = excess * data.dim
    for key in ("bound", "evidence"):
        numbers[key] -= shift
    return {"data": data_name, "what": what, "name": name, **numbers}, values - shift, pictures, data.shape


def run(names: list[str], folder: Path) -> list[dict]:
    """Train all cases that are not there yet; the rows of all."""
    for data_name in names:
        for what, name in cases():
            stem = folder / "cases" / f"{data_name}-{what}-{name}"
            if not stem.with_name(f"{stem.name}.json").exists():
                row, values, pictures, shape = measure(data_name, what, name)
                keep_case(stem, row, values, pictures, shape)
                print(row, flush=True)
    return [json.loads(path.read_text()) for path in sorted((folder / "cases").glob("*.json"))]


def keep_case(stem: Path, row: dict, values: Tensor, pictures: Tensor, shape: tuple[int, ...]) -> None:
    """Write a case, pictures first: where its JSON is there, it is whole."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    strip = torch.cat(list(pictures.view(-1, *shape)), dim=1).numpy()
    imsave(stem.with_name(f"{stem.name}.png"), strip, cmap="gray", vmin=0, vmax=1)
    record = {**row, "values": [round(v, 3) for v in values.tolist()]}
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(record) + "\n")


def table(rows: list[dict], folder: Path) -> list[dict]:
    """Evidence with its standard error over data, and the paired difference from the reference with its own."""
    known = {(r["data"], r["what"], r["name"]): r for r in rows}
    out = []
    for data_name in dict.fromkeys(row["data"] for row in rows):
        for what, name in cases():
            if (data_name, what, name) not in known:
                continue
            row = known[data_name, what, name]
            reference = known[data_name, what, "StandardNormal" if what == "prior" else "Gaussian(network)"]
            values, base = (torch.tensor(r["values"], dtype=torch.float64) for r in (row, reference))
            root = math.sqrt(len(values))
            out.append(
                {
                    **{key: row[key] for key in ("data", "what", "name", "bound", "evidence")},
                    "se": values.std().item() / root,
                    "difference": (values - base).mean().item(),
                    "difference_se": (values - base).std().item() / root,
                    "monte_carlo_se": row["monte_carlo_se"],
                    "minutes": row["minutes"],
                }
            )
    write_csv(folder / "evidence.csv", out)
    return out


@in_style
def plot(rows: list[dict], folder: Path, what: str) -> Figure:
    """For each data set a column: samples of each case, its name and evidence above, and the paired difference."""
    words = {"mnist": "MNIST", "frey_face": "Frey Face"}
    names = list(dict.fromkeys(r["data"] for r in rows))
    chosen = [[r for r in rows if (r["data"], r["what"]) == (name, what)] for name in names]
    lines = max(map(len, chosen))
    figure = Figure(figsize=(WIDEST, 0.8 * lines + 1.1), layout="constrained")
    panels = panels_of(figure, lines, len(names))
    for column, (data_name, some) in enumerate(zip(names, chosen, strict=True)):
        for line, row in enumerate(some):
            axes = panels[line * len(names) + column]
            axes.imshow(imread(folder / "cases" / f"{data_name}-{what}-{row['name']}.png"))
            axes.set_title(about(row, "" if line else f"{words[data_name]}\n"), fontsize=SMALL, loc="left", pad=2)
            axes.axis("off")
    first = chosen[0][0]["name"]
    entitle(
        figure,
        "log p(x) of test images, nats per datum, ± its standard error over images; paired: the mean difference to "
        f"{first} over the same images ± its standard error. Below: means of p(x|z), z from the prior.",
        WIDEST,
    )
    return figure


def about(row: dict, before: str) -> str:
    """What stands above a case's pictures: its evidence, and how far it is from the reference, image by image."""
    paired = f"; paired {row['difference']:+.1f} ± {row['difference_se']:.1f}" if row["difference_se"] else ""
    return f"{before}{row['name']}\n{row['evidence']:.1f} ± {row['se']:.1f}{paired}"


def draw(found: list[dict]) -> None:
    """Pictures of all cases, with their numbers."""
    for compared in ("prior", "likelihood"):
        save(plot(found, FOLDER, compared), FOLDER / f"{compared}s.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="300 samples of each case, nothing kept")
    parser.add_argument("--redraw", action="store_true", help="pictures from the results there")
    options = parser.parse_args()
    if options.redraw:
        draw(read_csv(FOLDER / "evidence.csv"))
    elif options.smoke:
        import tempfile

        SAMPLES = 300
        IMAGES = 20
        DRAWS = 3
        with tempfile.TemporaryDirectory() as temporary:
            found = table(run(["frey_face"], Path(temporary)), Path(temporary))
            save(plot(found, Path(temporary), "likelihood"), Path(temporary) / "samples.png")
        print(len(found), "cases measured")
    else:
        found = table(run(["mnist", "frey_face"], FOLDER), FOLDER)
        draw(found)
        settings = {"samples": SAMPLES, "images": IMAGES, "draws": DRAWS, "seed": SEED}
        (FOLDER / "settings.json").write_text(json.dumps(provenance(**settings), indent=1) + "\n")
