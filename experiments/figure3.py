"""The paper's Figure 3, log p(x) as training goes on: ``python experiments/figure3.py``.

MNIST, 3 latents, 100 hidden units, 1000 or 50000 training images; AEVB, wake-sleep and Monte Carlo EM. log p(x) is the
mean over the first 1000 training and test images by appendix D: 50 and 50 posterior draws of 4 leapfrog steps, chains
that begin at the prior and take 200 transitions first, alike for all methods, since Monte Carlo EM has no guide. At the
end annealed importance sampling of the first 100, from the prior, tells what that estimate is worth. The step size is
that of 0.01, 0.02 and 0.1 with the highest training bound (log p(x, z) for Monte Carlo EM) in the first 1e5 samples.

Initial weights and optimizer are Figure 2's; Monte Carlo EM begins as AEVB does. A sample is a visit of a datum: Monte
Carlo EM takes 10 leapfrog steps and 5 weight updates in each. Results are in ``experiments/figure3/``; every point is
kept as it is measured, and a script begun again goes on with the next.
"""

import argparse
import csv
import json
from functools import partial
from pathlib import Path

import torch
from figure2 import INITIAL_SD, WORDS
from matplotlib.figure import Figure
from results import provenance, write_csv

import pyro_aevb as aevb
from pyro_aevb.checkpoints import replaced
from pyro_aevb.optimizers import Adagrad

FOLDER = Path(__file__).parent / "figure3"
PAPER = Path(__file__).parent / "paper_curves" / "figure3.csv"
SIZES, LATENT_DIM, HIDDEN, BATCH, SEED = (1000, 50_000), 3, 100, 100, 0
METHODS = {"AEVB": aevb.estimators.SGVBAnalyticKL, "WS": aevb.estimators.WakeSleep, "MCEM": None}
STEP_SIZES, FIRST = (0.01, 0.02, 0.1), 100_000
POINTS = (300_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)
DRAWS, BURN_IN, IMAGES, ANNEALED_IMAGES = 50, 200, 1000, 100


def make(method: str, data: torch.Tensor, rate: float, samples: int) -> aevb.Trainer | aevb.MonteCarloEM:
    """A training from the start."""
    sd, size, dim = INITIAL_SD.get(method), len(data), data.shape[1]
    network = partial(aevb.nn.MLP, hidden=HIDDEN, initial_sd=sd)
    with aevb.seeded(SEED):
        likelihood = aevb.likelihoods.Bernoulli(LATENT_DIM, dim, relaxed=True, network=network)
        q = aevb.guides.DiagonalNormal(dim, LATENT_DIM, network=network)
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(LATENT_DIM), likelihood, size)
    optimizer = partial(Adagrad, lr=rate, weight_decay=1.0)
    options = {"device": "cpu", "report_every": max(BATCH, samples // 10)}
    if method == "MCEM":
        return aevb.MonteCarloEM(model, data, optimizer, BATCH, SEED, **options)
    guide = aevb.RecognitionModel(q, size)
    engine = "captured" if samples > FIRST else "eager"
    return aevb.Trainer(model, guide, data, METHODS[method](), optimizer, BATCH, SEED, engine, **options)


def choose_rate(method: str, data: torch.Tensor, samples: int) -> float:
    """The step size with the highest objective over the second half of the first samples."""
    found = {}
    for rate in STEP_SIZES:
        try:
            reports = list(make(method, data, rate, min(FIRST, samples)).run(min(FIRST, samples)))
            values = [r.bound if r.log_joint is None else r.log_joint for r in reports]
            found[rate] = sum(values[len(values) // 2 :])
        except aevb.NonFiniteLossError:
            found[rate] = float("-inf")
    return max(found, key=lambda r: found[r])


def measure(model: aevb.GenerativeModel, train: torch.Tensor, test: torch.Tensor) -> dict:
    """Mean log p(x) of the first train and test images, with errors."""
    found = {}
    for split, x in (("train", train), ("test", test)):
        density = aevb.evidence.appendix_d(model, x[:IMAGES], DRAWS, burn_in=BURN_IN, leapfrog_steps=4)
        found[split] = density.log_likelihood.mean().item()
        found[f"{split}_se"] = (density.log_likelihood.std() / len(density.log_likelihood) ** 0.5).item()
    return found


def anneal(model: aevb.GenerativeModel, train: torch.Tensor, test: torch.Tensor) -> dict:
    """The same images by both methods, the first hundred."""
    found = {}
    for split, x in (("train", train), ("test", test)):
        few = x[:ANNEALED_IMAGES]
        density = aevb.evidence.appendix_d(model, few, DRAWS, burn_in=BURN_IN, leapfrog_steps=4)
        annealed = aevb.evidence.annealed_importance_sampling(model, None, few, steps=300, start="prior")
        found[f"{split}_appendix_d"] = density.log_likelihood.mean().item()
        found[f"{split}_annealed"] = annealed.log_likelihood.mean().item()
    return found


def run_curve(runs: Path, method: str, data: aevb.data.DataSet, size: int, points: tuple[int, ...]) -> list[dict]:
    """One method and number of data: rows of all points, those kept before and the new ones."""
    name, train = f"{size}-{method}", data.train[:size]
    kept, state = runs / f"{name}.json", runs / f"{name}.pt"
    record = (
        json.loads(kept.read_text()) if kept.exists() else {"rate": choose_rate(method, train, points[-1]), "rows": []}
    )
    trainer = make(method, train, record["rate"], points[-1])
    if state.exists():
        trainer.load_state_dict(torch.load(state, weights_only=True))
    for point in points:
        if any(row["samples"] >= point for row in record["rows"]):
            continue
        list(trainer.run(point - trainer.samples_seen))
        row = {
            "size": size,
            "method": method,
            "samples": trainer.samples_seen,
            **measure(trainer.model, train, data.test),
        }
        record["rows"].append(row)
        if point == points[-1]:
            record["annealed"] = anneal(trainer.model, train, data.test)
        runs.mkdir(parents=True, exist_ok=True)
        with replaced(state) as file:
            torch.save(trainer.state_dict(), file)
        kept.write_text(json.dumps(record) + "\n")
        print(row, record.get("annealed", ""), flush=True)
    return record["rows"]


def plot(rows: list[dict]) -> Figure:
    """The paper's curves behind ours."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    with PAPER.open() as file:
        paper = list(csv.DictReader(file))
    for axes, size in zip(figure.subplots(1, 2), SIZES, strict=True):
        for color, method in zip(("C3", "C2", "C0"), METHODS, strict=True):
            for split, style in (("train", "--"), ("test", "-")):
                wanted = (str(size), f"{method}_{split}")
                some = [r for r in paper if (r["size"], r["curve"]) == wanted]
                theirs = [(float(r["samples"]), float(r["log_likelihood"])) for r in some]
                axes.plot(*zip(*sorted(theirs), strict=True), style, color=color, lw=3.5, alpha=0.22)
                ours = [(r["samples"], r[split]) for r in rows if (r["size"], r["method"]) == (size, method)]
                if ours:
                    name = f"{WORDS.get(method, 'Monte Carlo EM')}, {split}"
                    axes.plot(*zip(*ours, strict=True), style, marker="o", ms=3, color=color, lw=1.2, label=name)
        axes.set(title=f"N = {size:,}", xlabel="training samples seen", ylabel="log p(x), nats per datum")
        axes.set(ylim=(-180, -95), xscale="log", xlim=(2e5, 7e7))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="x-small")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=float, default=1e7)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "figure3", help="where runs are kept")
    parser.add_argument("--smoke", action="store_true", help="600 samples of 1000 images, nothing kept")
    chosen = parser.parse_args()
    mnist = aevb.data.load("mnist")
    if chosen.smoke:
        import tempfile

        IMAGES, ANNEALED_IMAGES, DRAWS, BURN_IN, STEP_SIZES = 5, 3, 10, 5, (0.02,)
        with tempfile.TemporaryDirectory() as temporary:
            rows = [row for m in METHODS for row in run_curve(Path(temporary), m, mnist, 1000, (600,))]
            plot(rows).savefig(Path(temporary) / "figure3.png")
        print(len(rows), "points measured")
    else:
        points = (*(p for p in POINTS if p < chosen.samples), int(chosen.samples))
        rows = []
        for size in SIZES:
            for method in METHODS:
                rows += run_curve(chosen.runs, method, mnist, size, points)
                FOLDER.mkdir(exist_ok=True)
                write_csv(FOLDER / "points.csv", rows)
                plot(rows).savefig(FOLDER / "figure3.png", dpi=100)
        records = {path.stem: json.loads(path.read_text()) for path in sorted(chosen.runs.glob("*.json"))}
        about = {name: {"step_size": r["rate"], **r.get("annealed", {})} for name, r in records.items()}
        (FOLDER / "settings.json").write_text(json.dumps(provenance(seed=SEED, runs=about), indent=1) + "\n")
