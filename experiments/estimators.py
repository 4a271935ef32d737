"""Estimators side by side on MNIST: ``python experiments/estimators.py``, about 11 minutes on two cores.

A pair of 784-200-20, dynamically binarised, is looked at untrained, after 2e5 and after 2e6 samples: for one minibatch
of 100, bias, variance and signal-to-noise of each estimator's gradient, for theta and phi. Then each estimator trains
the pair from the same start, for equal numbers of data and for equal seconds. Results are in
``experiments/estimators/``: CSV, JSON and figures.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from shared.results import provenance, read_csv, write_csv
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import estimators
from pyro_aevb.cli.compare import table
from pyro_aevb.diagnostics import gradients as comparison
from pyro_aevb.plots import draw_comparison, save
from pyro_aevb.plots.curves import coinciding
from pyro_aevb.plots.style import WIDEST, blank, entitle, in_style, mark, panels_of, plain_numbers

FOLDER = Path(__file__).parent / "estimators"
HIDDEN = 200
LATENT_DIM = 20
BATCH = 100
STAGES = {"untrained": 0, "half-trained": 200_000, "trained": 2_000_000}
DRAWS = 100  # of each estimator's gradient
REFERENCE_DRAWS = 1000  # of the gradient that biases are measured against
TRAIN_SAMPLES = 200_000  # how far each estimator trains, for equal numbers of data
TRAIN_SECONDS = 8.0  # and for equal times
REPORT_EVERY = 10_000  # data; the seconds are over at a report
MANY = (5, 50)
PERTURB = 0.001
COVERING = estimators.DoublyReparameterized(32, vectorize_particles=True, max_plate_nesting=1)
CLOSER = [  # what brings the guide nearer to the posteriors of one minibatch, and steps
    *((estimators.SGVB(), steps) for steps in (1, 300, 3000)),
    *((COVERING, steps) for steps in (300, 3000)),
]


def chosen() -> list[estimators.Estimator]:
    """Every estimator with the numbers of particles that tell something."""
    e = estimators
    options = {"vectorize_particles": True, "max_plate_nesting": 1}
    singles = [
        e.SGVB,
        e.SGVBAnalyticKL,
        e.StickingTheLanding,
        e.ScoreFunction,
        partial(e.ScoreFunction, baseline="mean"),
    ]
    made = [make(count, **options) for make in singles for count in (1, 5)]
    made.append(e.ScoreFunction(5, baseline="leave_one_out", **options))
    return made + [make(k, **options) for make in (e.IWAE, e.DoublyReparameterized) for k in (1, *MANY)] + [
        e.Renyi(5, alpha=0.5, **options),
        *(e.VIMCO(k, **options) for k in MANY),
    ]  # fmt: skip


def make_trainer(data: aevb.data.DataSet, estimator: estimators.Estimator, engine: str) -> aevb.Trainer:
    """A trainer of the pair, which always begins with the same weights."""
    size = len(data.train)
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Bernoulli(LATENT_DIM, data.dim, hidden=HIDDEN)
        guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(data.dim, LATENT_DIM, hidden=HIDDEN), size)
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(LATENT_DIM), likelihood, size)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    options = {"engine": engine, "device": "cpu", "report_every": REPORT_EVERY}
    return aevb.Trainer(model, guide, data.train, estimator, optimizer, BATCH, **options)


def measure_gradients(data: aevb.data.DataSet, stages: dict[str, int], draws: int, reference_draws: int) -> list[dict]:
    """Rows of the comparison at each stage of one training with estimator A."""
    trainer = make_trainer(data, estimators.SGVB(), "captured" if max(stages.values()) > 10**6 else "eager")
    x = data.evaluation("train")[:BATCH]
    rows = []
    for stage, samples in stages.items():
        for _ in trainer.run(samples - trainer.samples_seen) if samples > trainer.samples_seen else ():
            pass
        found = comparison.compare(
            trainer.model, trainer.guide, x, chosen(), draws=draws, reference_draws=reference_draws
        )
        print(f"\n{stage}, {samples:,} samples\n{table(found)}", flush=True)
        rows += [{"stage": stage, **row._asdict()} for row in found]
    return rows


def measure_training(data: aevb.data.DataSet, samples: int, seconds: float) -> list[dict]:
    """Bound on test after equal data and after equal seconds, eager engine."""
    few = [e for e in chosen() if e.num_particles <= 5]
    make = partial(make_trainer, data, engine="eager")
    found = comparison.compare_training(make, few, data.test[:1000], samples=samples, seconds=seconds)
    print(*found, sep="\n", flush=True)
    return [row._asdict() for row in found]


def few_latents_pair(data: aevb.data.DataSet, samples: int) -> tuple[aevb.GenerativeModel, aevb.RecognitionModel]:
    """A trained pair with three latents and a guide with full covariance."""
    latent_dim = 3
    size = len(data.train)
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Bernoulli(latent_dim, data.dim, hidden=HIDDEN)
        q = aevb.guides.FullCovarianceNormal(data.dim, latent_dim, hidden=HIDDEN)
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(latent_dim), likelihood, size)
    guide = aevb.RecognitionModel(q, size)
    fit(model, guide, data.train, estimators.SGVB(), samples // BATCH)
    return model, guide


def fit(model: nn.Module, guide: nn.Module, x: Any, estimator: estimators.Estimator, steps: int) -> None:
    """Train a pair for so many steps of Adam."""
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    list(aevb.Trainer(model, guide, x, estimator, optimizer, BATCH, engine="eager", device="cpu").run(steps * BATCH))


def measure_few_latents(data: aevb.data.DataSet, samples: int, particles: tuple[int, ...], draws: int) -> list[dict]:
    """What theory says of a guide near the posterior, and of many particles.

    After the training the model is held fixed while the guide alone learns one minibatch: first by the bound, then by
    DReG with 32 particles, which also makes it cover the posterior, so that no weight is extreme. Then its weights are
    moved a little, N(0, 0.001^2), as Rainforth et al. (2018) do, so that there is a signal. With 20 latents, or the
    guide as training left it, few weights have nearly all the mass, and no law of many particles holds.
    """
    x = data.evaluation("train")[:BATCH]
    rows = []
    model, guide = few_latents_pair(data, samples)
    model.requires_grad_(False).eval()
    for estimator, steps in CLOSER if samples > 10_000 else CLOSER[:1]:
        fit(model, guide, x, estimator, steps)
        weights = aevb.evidence.importance_weights(model, guide, x, 1000)
        gap = (weights.log_likelihood - aevb.evidence.bound(model, guide, x, 100).bound).mean().item()
        print(f"gap {gap:.3f}, median k-hat {weights.khat.median().item():.2f}", flush=True)
        for name in (estimators.SGVB, estimators.StickingTheLanding):
            variance = comparison.gradient_moments(model, guide, name(), x, draws)["guide"].variance.sum().item()
            rows.append({"what": "gap", "estimator": name.__name__, "at": gap, "value": variance})
    with torch.no_grad(), aevb.seeded(1):
        for parameter in guide.parameters():
            parameter.add_(PERTURB * torch.randn_like(parameter))
    for name in (estimators.IWAE, estimators.DoublyReparameterized):
        for k in particles:
            found = comparison.gradient_moments(model, guide, name(k), x, draws)["guide"]
            snr = (found.mean.abs() / found.variance.sqrt())[found.variance > 0].mean().item()
            rows.append({"what": "particles", "estimator": name.__name__, "at": k, "value": snr})
    print(*rows, sep="\n", flush=True)
    return rows


@in_style
def draw_few_latents(rows: list[dict]) -> Figure:
    """Signal-to-noise against particles; variance against how far the guide is from the posterior."""
    figure = Figure(figsize=(WIDEST, 3.5), layout="constrained")
    labels = {
        "particles": ("number of particles", "signal-to-noise ratio of\nthe gradient by the guide's φ"),
        "gap": ("log p(x) less the bound, nats per datum", "variance of the gradient\nby the guide's φ"),
    }
    for axes, (what, (x, y)) in zip(panels_of(figure, 1, 2), labels.items(), strict=True):
        for place, name in enumerate(dict.fromkeys(row["estimator"] for row in rows if row["what"] == what)):
            points = [(r["at"], r["value"]) for r in rows if (r["what"], r["estimator"]) == (what, name)]
            style = (
                mark(place) if what == "particles" else {**mark(place), "linestyle": "none"}
            )  # trainings by themselves
            axes.loglog(*zip(*points, strict=True), label=name, **style)
        axes.set(xlabel=x, ylabel=y)
        if what == "particles":
            counts = sorted({row["at"] for row in rows if row["what"] == what})
            axes.set_xticks(counts, map(str, counts))
            axes.set_xticks([], minor=True)
        else:
            plain_numbers(axes.xaxis)
        plain_numbers(axes.yaxis)
        axes.grid()
        axes.legend()
    return figure


@in_style
def draw_stages(rows: list[dict]) -> Figure:
    """Variance of phi's gradient as training goes on, one particle."""
    figure, axes = blank(WIDEST, 4.2)
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    names = list(dict.fromkeys(row["estimator"] for row in rows if row["num_particles"] == 1))
    curves = {}
    for i, name in enumerate(names):
        points = {
            r["stage"]: r["variance"]
            for r in rows
            if (r["estimator"], r["num_particles"], r["part"]) == (name, 1, "guide")
        }
        curves[name] = [(place, points[stage]) for place, stage in enumerate(stages)]
        width = 1 + 2.5 * (1 - i / len(names))  # so that of lines that coincide all are seen
        axes.semilogy(stages, [points[stage] for stage in stages], ms=3 + width, lw=width, label=name, **mark(i))
    same = "; ".join(f"{' and '.join(group)} coincide" for group in coinciding(curves))
    axes.set(xlabel="stage of the training", ylabel="variance of the gradient by the guide's φ")
    entitle(axes, f"one particle, MNIST, {LATENT_DIM} latents\n{same}", WIDEST)
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def keep_few_latents(rows: list[dict]) -> None:
    """Write CSV and figure."""
    FOLDER.mkdir(exist_ok=True)
    write_csv(FOLDER / "few_latents.csv", rows)
    save(draw_few_latents(rows), FOLDER / "few_latents.png")


def keep(rows: list[dict], training: list[dict], settings: dict) -> None:
    """Write CSV, JSON and figures."""
    FOLDER.mkdir(exist_ok=True)
    write_csv(FOLDER / "gradients.csv", rows)
    write_csv(FOLDER / "training.csv", training)
    (FOLDER / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    draw(rows)


def draw(rows: list[dict]) -> None:
    """Figures of the gradients' statistics."""
    trained = [
        comparison.GradientStatistics(**{k: v for k, v in row.items() if k != "stage"})
        for row in rows
        if row["stage"] == "trained"
    ]
    title = f"MNIST, {HIDDEN} hidden units, {LATENT_DIM} latents, one minibatch of {BATCH}, after 2,000,000 samples"
    save(draw_comparison(trained, title), FOLDER / "gradients.png")
    save(draw_stages(rows), FOLDER / "stages.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few draws, nothing kept")
    parser.add_argument("--only_few_latents", action="store_true", help="this part alone")
    parser.add_argument("--redraw", action="store_true", help="figures from the results there")
    options = parser.parse_args()
    if options.redraw:
        draw(read_csv(FOLDER / "gradients.csv"))
        save(draw_few_latents(read_csv(FOLDER / "few_latents.csv")), FOLDER / "few_latents.png")
        raise SystemExit
    started = time.perf_counter()
    mnist = aevb.data.load("mnist", binarize="dynamic")
    if options.smoke:
        MANY = (5,)
        REPORT_EVERY = 500
        measure_gradients(mnist, {"untrained": 0}, 3, 4)
        measure_few_latents(mnist, 1000, (2,), 3)
        print(len(measure_training(mnist, 1000, 0.0)), "estimators trained")
        raise SystemExit
    if not options.only_few_latents:
        gradients = measure_gradients(mnist, STAGES, DRAWS, REFERENCE_DRAWS)
        trainings = measure_training(mnist, TRAIN_SAMPLES, TRAIN_SECONDS)
        keep(gradients, trainings, provenance(seed=0, minutes=round((time.perf_counter() - started) / 60, 1)))
    keep_few_latents(measure_few_latents(mnist, 500_000, (1, 5, 25, 125), 200))
