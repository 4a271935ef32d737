"""The paper's Appendix F on MNIST, full variational Bayes against MAP: ``python experiments/appendix_f.py``.

The question is what a posterior over the decoder's weights gains over a point. The network is 784-100-3 as in Figure 3,
with the first 1,000 or 50,000 training images. Three methods: maximum likelihood (ML, by a prior so wide that no
gradient sees it); maximum a posteriori (MAP); and a mean-field Gaussian over the decoder's 79,584 weights (VB), the
last two with the prior N(0, I). The encoder's weights are points without a prior, as in Appendix F. The paper has no
such experiment: the rest is our choice. Pixels are binary, drawn once (static), since grey ones have no likelihood. The
estimator is (24); Adam's step size falls from 0.01 to zero. All numbers are in nats per datum. In trial runs with 1,000
images VB's bound on log p(X)/N came to -163.5; to -177.7 from a first step size of 0.003, and with a constant 0.001 to
-250 in 4e5 samples. VB's standard deviations begin at 0.03; from 0.2 more hidden units are pruned, and it is -167.8.

log p(x | X), the log density of an image given the training images, averages over weights from q and latents from
N(0, 1.3^2 I), alike for all images: 3 latents allow it. All values are lower bounds, and with 1,000 images they have
not arrived: four times the draws of weights, as at the end, add 1.1 nats to VB's, 0.5 to ML's and 0.3 to MAP's, and on
training images ML's and MAP's stay 0.4 short of the encoder's bound. So the difference of VB and ML is not decided
there; the errors shown are those by the choice of images alone. Importance sampling from the encoder, with fewer draws,
is there at the end: the encoder is far too sure of new images.

Predictive numbers and the bounds ``train_bound``, ``test_bound`` are of the first 1,000 images of each split; the bound
on log p(X) is of all N, which with 50,000 images are about 5 nats harder than the first 1,000. Every point is kept; a
script begun again goes on with the next.
"""

import json
import math
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import combinations, product
from pathlib import Path

import torch
import torch.distributions as dist
from matplotlib.figure import Figure
from shared import results
from shared.training_runs import RunFailedError, arguments, said

import pyro_aevb as aevb
from pyro_aevb.bayesian import bayesian, draw_model, marginal_likelihood_bound, predictive_log_likelihood
from pyro_aevb.files import replaced
from pyro_aevb.plots import save
from pyro_aevb.plots.style import COLORS, MARKERS, SMALL, WIDEST, in_style, panels_of, plain_numbers

SIZES = {1000: 1.0, 50_000: 1.5}  # training images, and how many times --samples are visited in all
METHODS = {"ML": {"point_mass": True, "prior_scale": 1e6}, "MAP": {"point_mass": True}, "VB": {"initial_scale": 0.03}}
LATENT_DIM = 3
HIDDEN = 100
BATCH = 100
STEP_SIZE = 0.01  # Adam's first
POINTS = (0.05, 0.1, 0.2, 0.5, 1.0)  # of the samples
IMAGES = 1000  # of each split, that are evaluated
DRAWS = 3  # of the weights, for bounds
WEIGHTS = 100  # draws of the weights for log p(x | X), on the way
END_WEIGHTS = 400  # and at the end
LATENTS = 250  # draws of the latents for each of the weights
SPREAD = 1.3  # standard deviation of what latents are drawn from
BY_GUIDE = 10, 100  # draws of weights and latents with the encoder
ALIVE = 0.05  # nats that the average weight out of a hidden unit knows
CURVE = ("size", "method", "seed")
CURVES = {"test_predictive": "o-", "train_predictive": "o--", "log_px_bound": "o:"}


def make(method: str, data: torch.Tensor, seed: int, samples: int, device: str) -> aevb.Trainer:
    """A trainer of one method that has not begun."""
    size, dim = data.shape
    with aevb.seeded(seed):
        likelihood = aevb.likelihoods.Bernoulli(LATENT_DIM, dim, hidden=HIDDEN, activation="tanh")
        q = aevb.guides.DiagonalNormal(dim, LATENT_DIM, hidden=HIDDEN, activation="tanh")
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(LATENT_DIM), likelihood, size)
    pair = bayesian(model, aevb.RecognitionModel(q, size), **METHODS[method])
    optimizer = partial(aevb.optimizers.CosineAdam, lr=STEP_SIZE, total_steps=math.ceil(samples / BATCH))
    estimator = aevb.estimators.SGVBAnalyticKL()
    engine = "captured" if samples > 100_000 else "eager"
    return aevb.Trainer(*pair, data, estimator, optimizer, BATCH, seed, engine, device=device)


def bound(trainer: aevb.Trainer, x: torch.Tensor) -> float:
    """Mean over images of E_q(theta)[L(x; theta)], nats per datum."""
    q = trainer.guide.function.original[0]
    models = (draw_model(trainer.model, trainer.guide, seed=i) for i in range(DRAWS))
    return torch.stack([aevb.evidence.bound(m, q, x, seed=i).bound for i, m in enumerate(models)]).mean().item()


@torch.no_grad()
def log_predictive(trainer: aevb.Trainer, x: torch.Tensor, weights: int) -> torch.Tensor:
    r"""log p(x | X) of each image, ``(B,)``, nats: latents r(z) = N(0, 1.3^2 I), low-discrepancy, alike for all images.

    .. math:: \log \frac{1}{RS} \sum_{r=1}^R \sum_{s=1}^S p(x \mid z_{rs}, \theta_r) \frac{p(z_{rs})}{r(z_{rs})}
    """
    x = x.to(trainer.device)
    sums = []
    for seed in range(weights):
        uniform = torch.quasirandom.SobolEngine(LATENT_DIM, True, seed=seed).draw(LATENTS, dtype=torch.float64)
        z = SPREAD * torch.special.ndtri(uniform.clamp(1e-9)).float().to(x.device)  # (S, K)
        log_ratio = (dist.Normal(0, 1).log_prob(z) - dist.Normal(0, SPREAD).log_prob(z)).sum(-1)
        logits = draw_model(trainer.model, trainer.guide, seed=seed).likelihood(z).base_dist.logits  # (S, D)
        off = torch.nn.functional.softplus(logits).sum(-1)  # log p(x | z) = x . logits - off
        sums.append((x @ logits.T + (log_ratio - off)).logsumexp(-1))  # (B,)
    return torch.stack(sums).logsumexp(0).cpu() - math.log(weights * LATENTS)


def of_weights(method: str, trainer: aevb.Trainer, train: torch.Tensor) -> dict:
    """What only MAP or only VB has, nats per datum: log p(theta); the bound on log p(X), KL; hidden units that live."""
    found = dict.fromkeys(("log_prior", "log_px_bound", "log_px_bound_se", "kl", "units"))
    p = trainer.model.prior()
    q = trainer.guide.posterior()
    size = len(train)
    if method == "MAP":
        found["log_prior"] = sum(p[site].log_prob(q[site].mean).item() for site in p) / size
    elif method == "VB":
        result = marginal_likelihood_bound(trainer.model, trainer.guide, train, DRAWS)
        kl = {q[site].event_shape: dist.kl_divergence(q[site].base_dist, p[site].base_dist) for site in p}
        found |= {"log_px_bound": result.per_datum.item(), "log_px_bound_se": result.standard_error.item() / size}
        found["units"] = int((kl[train.shape[1], HIDDEN].mean(0) > ALIVE).sum())
        found["kl"] = sum(part.sum().item() for part in kl.values()) / size
    return found


def measure(method: str, trainer: aevb.Trainer, train: torch.Tensor, test: torch.Tensor) -> dict:
    """The numbers of one point, all in nats per datum, with errors over images."""
    row = {"train_bound": bound(trainer, train[:IMAGES]), "test_bound": bound(trainer, test[:IMAGES])}
    predictive = log_predictive(trainer, torch.cat([train[:IMAGES], test[:IMAGES]]), WEIGHTS).split(IMAGES)
    for split, values in zip(("train", "test"), predictive, strict=True):
        row |= {f"{split}_predictive": values.mean().item(), f"{split}_se": (values.std() / len(values) ** 0.5).item()}
    return row | of_weights(method, trainer, train)


def measure_end(trainer: aevb.Trainer, x: torch.Tensor) -> dict:
    """log p(x | X) of test images with more draws, and by the package's importance sampling from the encoder."""
    images = log_predictive(trainer, x, END_WEIGHTS)
    by_guide = predictive_log_likelihood(trainer.model, trainer.guide, x, *BY_GUIDE).mean().item()
    return {"test_end": images.mean().item(), "test_end_by_guide": by_guide, "images": images.tolist()}


def run_curve(runs: Path, method: str, size: int, seed: int, samples: int, device: str) -> dict:
    """One method and number of data: its record, points kept before and the new ones."""
    mnist = aevb.data.load("mnist", binarize="static")
    train = mnist.train[:size]
    test = mnist.test
    kept = runs / f"{size}-{method}-{seed}-{samples}.pt"
    trainer = make(method, train, seed, samples, device)
    record = {"size": size, "method": method, "seed": seed, "minutes": 0.0, "rows": []}
    record["settings"] = [METHODS[method], LATENT_DIM, HIDDEN, BATCH, STEP_SIZE, IMAGES, DRAWS, LATENTS, SPREAD]
    record["settings"] += [WEIGHTS, END_WEIGHTS, *BY_GUIDE, *POINTS]
    if kept.exists():
        begun, state = torch.load(kept, weights_only=True)
        if begun.get("settings") != record["settings"]:
            raise RunFailedError(f"{kept} was begun with other settings: remove it or give --runs")
        record = begun
        trainer.load_state_dict(state)
    for point in (int(share * samples) for share in POINTS[len(record["rows"]) :]):
        started = time.perf_counter()
        list(trainer.run(point - trainer.samples_seen))
        with trainer.settings.applied():
            row = measure(method, trainer, train, test)
            record |= measure_end(trainer, test[:IMAGES]) if point == samples else {}
        record["minutes"] += (time.perf_counter() - started) / 60
        record["rows"].append({"size": size, "method": method, "seed": seed, "samples": trainer.samples_seen, **row})
        with replaced(kept) as file:
            torch.save((record, trainer.state_dict()), file)
        print(record["rows"][-1], flush=True)
    return record


def differences(records: list[dict]) -> list[dict]:
    """Of each two methods' log p(x | X) at the end, image by image: mean and standard error."""
    rows = []
    images = {(r["size"], r["seed"], r["method"]): torch.tensor(r["images"]) for r in records}
    for (size, seed), (a, b) in product(sorted({key[:2] for key in images}), combinations(reversed(METHODS), 2)):
        gain = images[size, seed, a] - images[size, seed, b]
        found = {"test_predictive": gain.mean().item(), "se": (gain.std() / len(gain) ** 0.5).item()}
        rows.append({"size": size, "seed": seed, "difference": f"{a} - {b}", **found})
    return rows


@in_style
def plot(rows: list[dict], paired: list[dict]) -> Figure:
    """log p(x | X) of training and test images, and VB's bound on log p(X); paired differences at the end in words."""
    words = {
        "test_predictive": "log p(x | X), test images",
        "train_predictive": "log p(x | X), training images",
        "log_px_bound": "bound on log p(X) / N",
    }
    figure = Figure(figsize=(WIDEST, 5.4), layout="constrained")
    panels = dict(zip(SIZES, panels_of(figure, 1, 2), strict=True))
    curves = dict.fromkeys(results.of(row, CURVE) for row in rows)
    for (size, method, seed), (column, style) in product(curves, CURVES.items()):
        own = [row for row in rows if results.of(row, CURVE) == (size, method, seed)]
        points = {row["samples"]: row[column] for row in own if row[column] is not None}
        name = f"{method}, {words[column]}" if points and seed == 0 else None
        place = [*METHODS].index(method)
        drawn = {"color": COLORS[place], "marker": MARKERS[place], "linestyle": style.strip("o"), "ms": 4, "lw": 1.3}
        panels[size].plot([*points], [*points.values()], label=name, **drawn)
    for size, axes in panels.items():
        differences = [row for row in paired if (row["size"], row["seed"]) == (size, 0)]
        at_end = [f"{r['difference']}: {r['test_predictive']:+.1f} ± {r['se']:.1f}" for r in differences]
        said = ["test images at the end, paired:" * bool(at_end), *at_end]
        axes.set_title("\n".join([f"N = {size:,} training images", *said]), fontsize=SMALL)
        axes.set(xlabel="training samples seen", xscale="log")
        plain_numbers(axes.xaxis)
        axes.grid()
    figure.axes[0].set_ylabel("nats per datum")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def keep(records: list[dict], folder: Path, device: str) -> None:
    """Write CSV, JSON and figure, unless longer results are there."""
    rows = [row for record in records for row in record["rows"]]
    path = folder / "points.csv"
    if results.shorter(rows, results.read_csv(path), *CURVE):
        return
    results.write_csv(path, rows)
    results.write_csv(folder / "differences.csv", differences(records))
    about = [{k: v for k, v in record.items() if k not in ("rows", "images", "settings")} for record in records]
    results.write(folder / "settings.json", json.dumps(results.provenance(1, device, runs=about), indent=1) + "\n")
    draw(folder)


def draw(folder: Path) -> None:
    """The figure of what is there."""
    figure = plot(results.read_csv(folder / "points.csv"), results.read_csv(folder / "differences.csv"))
    save(figure, folder / "appendix_f.png")


def run(runs: Path, samples: float, seeds: int, device: str, jobs: int) -> list[dict]:
    """All curves, so many at once, each in a process with one thread."""
    runs.mkdir(parents=True, exist_ok=True)
    cases = [(runs, m, n, s, int(samples * SIZES[n]), device) for s, n, m in product(range(seeds), SIZES, METHODS)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(run_curve, *zip(*cases, strict=True)))


if __name__ == "__main__":
    parser = arguments(__doc__, "appendix_f", 1e6, "a thousand samples of 1000 images, nothing kept")
    chosen = parser.parse_args()
    if chosen.smoke:
        IMAGES = 20
        WEIGHTS = 3
        END_WEIGHTS = 5
        LATENTS = 50
        BY_GUIDE = (2, 5)
        POINTS = (0.5, 1.0)
        with tempfile.TemporaryDirectory() as temporary:
            records = [run_curve(Path(temporary), m, 1000, 0, 1000, "cpu") for m in METHODS]
            keep(records, Path(temporary), "cpu")
        print(f"full VB measured in {len(records)} curves")
    elif chosen.redraw:
        draw(chosen.results / "appendix_f")
    else:
        with said():
            records = run(chosen.runs, chosen.samples, chosen.seeds, chosen.device, chosen.jobs)
        keep(records, chosen.results / "appendix_f", chosen.device)
