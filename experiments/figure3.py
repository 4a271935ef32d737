"""The paper's Figure 3, log p(x) as training goes on: ``python experiments/figure3.py``.

Setting. MNIST, 3 latents, 100 hidden units, the first 1,000 or 50,000 training images; AEVB, wake-sleep and Monte Carlo
EM. What is shown is the mean of log p(x) over the first 1,000 training and test images, in nats per datum; pairs of
numbers below are train / test.

How log p(x) is estimated. By the paper's appendix D, with 50 posterior draws of 4 leapfrog steps to fit the density and
50 more. Where its chains begin decides the result, and Monte Carlo EM has no guide to begin at. Chains from draws of
the prior stay in the wrong place: on 200 images, for AEVB with 1,000 training images after 1e6 samples, they give
-153.4 after 200 transitions and -151.5 after 1,000, where chains from the guide give -122.6 and importance sampling
says -122.9. So, for all methods, each chain begins at one of 1,000 draws of the prior, chosen with odds p(x|z).
Annealed importance sampling of the first 100 images, from the prior, tells at the end what that is worth.

Step size. The one of 0.01, 0.02 and 0.1 with the highest training bound (log p(x, z) for Monte Carlo EM) over the
second half of the first 1e5 samples; for MCEM, of the first 1e6 with 1,000 images. Initial weights and optimizer are
those of Figure 2; Monte Carlo EM begins as AEVB does.

How samples are counted. As evaluated, as the paper's axis says: each of Monte Carlo EM's 10 leapfrog steps counts a
datum, and so does each of its 5 weight updates, 15 in all; the paper's points lie 15 N apart.

What the paper does not say is when Monte Carlo EM's chains move. "MCEM" here moves the chains of all data, then updates
the weights 5 times with all data, without Adagrad's pause of 100 steps (see ``figure2.py``), which alone would take 3e5
samples of 1,000 images. "minibatch MCEM" makes 5 updates after moving the chains of each minibatch, with the pause. A
third reading, five minibatches after the chains of all data, with the pause, is too slow with 1,000 images: -149.3 /
-159.6 after 1e6 samples, where MCEM has -137.4 / -151.4 and the paper -139.3 / -152.3. With 50,000 images it is the
other way round: MCEM is ahead of the paper's curve, -152.5 / -152.7 after 3e7 samples and -143.9 / -144.3 after 6.75e7
(the paper: -164.1 / -165.6 and -146.9 / -148.4). At these two points the third reading has -163.3 / -162.8 and -151.8 /
-151.8; MCEM with the pause -167.2 / -166.4 and -151.9 / -151.8; MCEM without it at step size 0.02 -166.6 / -165.7 and
-158.8 / -158.8. No reading that was tried gives both curves.

Other initial weights, after 1e7 samples. AEVB from N(0, 0.01) has -112.4 / -141.9 with 1,000 images and -128.2 / -132.9
with 50,000; there, at step size 0.02, -135.5 / -138.8, so that the paper's (-135.5 / -142.3) may have had both.
Wake-sleep with 1,000 images has -120.7 / -142.0 from a standard deviation of 0.1, at step size 0.1, with the pause and
without the scale of Figure 2, which here change 0.4 nats.

Results are in ``experiments/figure3/``. Every point is kept in ``runs/figure3/`` as soon as it is measured; a script
begun again goes on with the next.
"""

import itertools
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from figure2 import METHODS as SETTINGS
from figure2 import WORDS, mean
from matplotlib.figure import Figure
from shared.paper import at
from shared.paper import figure3 as paper_figure3
from shared.results import beside, note, of, provenance, read_csv, taken, write_csv
from shared.training_runs import RunFailedError, arguments, said

import pyro_aevb as aevb
from pyro_aevb.files import replaced
from pyro_aevb.optimizers import Adagrad
from pyro_aevb.plots import save
from pyro_aevb.plots.style import COLORS, MARKERS, WIDEST, in_style, panels_of, plain_numbers

SIZES = (1000, 50_000)  # training images
LATENT_DIM = 3
HIDDEN = 100
BATCH = 100
METHODS = {"AEVB": aevb.estimators.SGVBAnalyticKL, "WS": aevb.estimators.WakeSleep}
MONTE_CARLO_EM = ("MCEM", "minibatch MCEM")
LEAPFROG_STEPS = 10  # of Monte Carlo EM's chains, each time that they move
UPDATES = 5  # of the weights after that
STEP_SIZES = (0.01, 0.02, 0.1)  # Adagrad's, to choose from
FIRST = 100_000  # samples after which one is chosen
COMPARED = 10_000_000  # the first point that the table shows of curves that go further
POINTS = (1_000_000, 3_000_000, 10_000_000, 30_000_000)
FURTHER = {("MCEM", 1000): 3, ("AEVB", 1000): 3, ("MCEM", 50_000): 6.75}  # where the paper's curves cross, or begin
DRAWS = 50  # of the posterior, that appendix D fits its density to, and as many again
BURN_IN = 20  # transitions of each chain before its draws
IMAGES = 1000  # of each split, that are evaluated
ANNEALED_IMAGES = 100  # that annealed importance sampling evaluates too
CANDIDATES = 1000  # prior draws among which a chain's beginning is chosen
ANNEALING_STEPS = 300  # distributions from prior to posterior

Training = aevb.Trainer | aevb.MonteCarloEM


def make(method: str, data: torch.Tensor, rate: float, seed: int, device: str, long: bool) -> Training:
    """A trainer of one method that has not begun."""
    size = len(data)
    dim = data.shape[1]
    settings = SETTINGS.get(method, SETTINGS["AEVB"])
    network = partial(aevb.nn.MLP, hidden=HIDDEN, initial_sd=settings["initial_sd"])
    with aevb.seeded(seed):
        likelihood = aevb.likelihoods.Bernoulli(LATENT_DIM, dim, relaxed=True, network=network)
        scale = settings["log_variance_scale"]
        q = aevb.guides.DiagonalNormal(dim, LATENT_DIM, network=network, log_variance_scale=scale)
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(LATENT_DIM), likelihood, size)
    optimizer = partial(Adagrad, lr=rate, weight_decay=1.0, warm_up=settings["pause"])
    engine = "captured" if long else "eager"
    options = {"device": device, "report_every": max(BATCH, min(size, FIRST // 10))}
    steps = {"leapfrog_steps": LEAPFROG_STEPS, "updates": UPDATES}
    if method == "MCEM":
        optimizer = partial(optimizer, warm_up=0)
        return aevb.MonteCarloEM(model, data, optimizer, size, seed, engine=engine, **steps, **options)
    if method == "minibatch MCEM":
        return aevb.MonteCarloEM(model, data, optimizer, BATCH, seed, engine=engine, **steps, **options)
    guide = aevb.RecognitionModel(q, size)
    return aevb.Trainer(model, guide, data, METHODS[method](), optimizer, BATCH, seed, engine, **options)


def samples_each(method: str) -> int:
    """Samples evaluated for each datum visited."""
    return LEAPFROG_STEPS + UPDATES if method in MONTE_CARLO_EM else 1


def train_to(trainer: Training, method: str, samples: float) -> list[float]:
    """Go on until so many samples were evaluated; the objective at each report."""
    visits = round(samples / samples_each(method)) - trainer.samples_seen
    reports = list(trainer.run(visits)) if visits > 0 else []
    return [r.bound if r.log_joint is None else r.log_joint for r in reports]


def choose_rate(method: str, data: torch.Tensor, seed: int, device: str, first: int) -> float:
    """The step size with the highest objective over the second half of the first samples."""
    if method == "MCEM":  # its first 1e5 samples do not move 50,000 chains once: 1000 images, ten times the samples
        data = data[: SIZES[0]]
        first = 10 * first
    found = {}
    for rate in STEP_SIZES:
        try:
            values = train_to(make(method, data, rate, seed, device, False), method, first)
            found[rate] = sum(values[len(values) // 2 :]) / len(values[len(values) // 2 :])
        except aevb.NonFiniteLossError:
            found[rate] = float("-inf")
    return max(found, key=lambda r: found[r])


def appendix_d(model: aevb.GenerativeModel, x: torch.Tensor) -> aevb.evidence.PosteriorDensity:
    """Appendix D's estimate of log p(x), with chains that begin at prior draws, chosen with odds p(x|z)."""
    with aevb.seeded(0), torch.no_grad():
        candidates = model.prior().sample((CANDIDATES,))  # (S, K)
        likelihood = model.likelihood(candidates)

    def start(x: torch.Tensor) -> None:
        """One candidate for each datum."""
        log_likelihood = torch.stack([likelihood.log_prob(one) for one in x])  # (B, S)
        chosen = candidates[dist.Categorical(logits=log_likelihood).sample()]  # (B, K)
        with pyro.plate("data", model.size or len(x), subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("z", dist.Delta(chosen).to_event(1))

    return aevb.evidence.appendix_d(model, x, DRAWS, guide=start, burn_in=BURN_IN, leapfrog_steps=4)


def measure(model: aevb.GenerativeModel, train: torch.Tensor, test: torch.Tensor) -> dict:
    """Mean log p(x) of the first train and test images, with errors."""
    found = {}
    for split, x in (("train", train), ("test", test)):
        density = appendix_d(model, x[:IMAGES])
        found[split] = density.log_likelihood.mean().item()
        found[f"{split}_se"] = (density.log_likelihood.std() / len(density.log_likelihood) ** 0.5).item()
    return found


def anneal(model: aevb.GenerativeModel, train: torch.Tensor, test: torch.Tensor) -> dict:
    """Mean log p(x) of the first hundred images of each split by appendix D and by annealed importance sampling."""
    found = {}
    for split, x in (("train", train), ("test", test)):
        few = x[:ANNEALED_IMAGES]
        density = appendix_d(model, few)
        annealed = aevb.evidence.annealed_importance_sampling(model, None, few, steps=ANNEALING_STEPS, start="prior")
        difference = density.log_likelihood - annealed.log_likelihood
        found[f"{split}_appendix_d"] = density.log_likelihood.mean().item()
        found[f"{split}_annealed"] = annealed.log_likelihood.mean().item()
        found[f"{split}_difference_se"] = (difference.std() / len(few) ** 0.5).item()
    return found


def run_curve(runs: Path, method: str, size: int, seed: int, samples: int, device: str) -> list[dict]:
    """One method and number of data: rows of all points, those kept before and the new ones."""
    data = aevb.data.load("mnist")
    train = data.train[:size]
    test = data.test
    kept, state = (runs / f"{size}-{method}-{seed}.{ending}" for ending in ("json", "pt"))
    settings = [SETTINGS.get(method), HIDDEN, BATCH, [*STEP_SIZES]]
    settings += [LEAPFROG_STEPS, UPDATES, DRAWS, BURN_IN, IMAGES, CANDIDATES, min(FIRST, samples)]
    if kept.exists():
        record = json.loads(kept.read_text())
        if record["settings"] != settings:
            raise RunFailedError(f"{kept} was begun with other settings: remove it or give --runs", 2)
    else:
        record = {"rate": choose_rate(method, train, seed, device, min(FIRST, samples)), "minutes": 0.0, "rows": []}
        record["settings"] = settings
    trainer = make(method, train, record["rate"], seed, device, samples > FIRST)
    if state.exists():
        trainer.load_state_dict(torch.load(state, weights_only=True))
    last = int(samples * FURTHER.get((method, size), 1))
    for point in (*(p for p in POINTS if p < last), last):
        if any(row["point"] >= point for row in record["rows"]):
            continue
        started = time.perf_counter()
        train_to(trainer, method, point)
        record["minutes"] += (time.perf_counter() - started) / 60
        evaluated = trainer.samples_seen * samples_each(method)
        row = {"size": size, "method": method, "seed": seed, "point": point, "samples": evaluated}
        record["rows"].append({**row, **measure(trainer.model, train, test)})
        if point == last:
            record["annealed"] = anneal(trainer.model, train, test)
        keep(record, kept, trainer, state)
        print(record["rows"][-1], record.get("annealed", ""), flush=True)
    return record["rows"]


def keep(record: dict, kept: Path, trainer: Training, state: Path) -> None:
    """Write state and record, the state first: the record says how far it is."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replaced(state) as file:
        torch.save(trainer.state_dict(), file)
    with replaced(kept) as file:
        file.write(json.dumps(record).encode())


# ---------------------------------------------------------------- results


def table(rows: list[dict]) -> list[dict]:
    """Each curve from 1e7 on, or at its end, means over seeds, beside the paper's; empty where that is not there."""
    out = []
    for size, method in dict.fromkeys((row["size"], row["method"]) for row in rows):
        curve = [row for row in rows if (row["size"], row["method"]) == (size, method)]
        last = max(row["point"] for row in curve)
        points = sorted({row["point"] for row in curve if row["point"] >= min(COMPARED, last)})
        for point, split in itertools.product(points, ("train", "test")):
            seeds = [row for row in curve if row["point"] == point]
            samples = seeds[0]["samples"]
            ours = mean(seeds, split)
            paper = at(paper_figure3(size, method, split), samples)
            line = {"size": size, "method": method, "samples": samples, "split": split}
            line |= {"paper": "" if paper is None else round(paper, 4), "ours": round(ours, 4)}
            line |= {"se": round(mean(seeds, f"{split}_se"), 4)}
            out.append(line | {"difference": "" if paper is None else round(ours - paper, 4), "seeds": len(seeds)})
    return out


CURVE = ("size", "method", "seed")


@in_style
def plot(rows: list[dict]) -> Figure:
    """The paper's curves behind ours."""
    figure = Figure(figsize=(WIDEST, 4.9), layout="constrained")
    panels = panels_of(figure, 1, 2, sharey=True)
    for axes, size in zip(panels, SIZES, strict=True):
        for place, method in enumerate((*METHODS, *MONTE_CARLO_EM)):
            for split, style in (("train", "--"), ("test", "-")):
                draw_curves(axes, rows, (size, method, split), {"color": COLORS[place], "linestyle": style}, place)
        samples = [x for line in axes.lines for x in line.get_xdata()]
        axes.set(title=f"N = {size:,} training images", xlabel="training samples evaluated", xscale="log")
        axes.set(ylim=(-180, -95), xlim=(min(samples) / 1.2, max(samples) * 1.2))
        plain_numbers(axes.xaxis)
        axes.grid()
    panels[0].set_ylabel("estimate of log p(x), nats per datum")
    title = "thin, with markers: ours; broad: the paper's"
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, title=title)
    return figure


def draw_curves(axes: object, rows: list[dict], curve: tuple, style: dict, place: int) -> None:
    """One method's estimates of one split: the paper's broad, ours thin."""
    size, method, split = curve
    if paper := paper_figure3(size, method, split):
        axes.plot(*zip(*paper, strict=True), lw=3.5, alpha=0.25, **style)
    for seed in sorted({r["seed"] for r in rows if (r["size"], r["method"]) == (size, method)}):
        ours = [(r["samples"], r[split]) for r in rows if of(r, CURVE) == (size, method, seed)]
        called = WORDS.get(method, method).replace("MCEM", "Monte Carlo EM")
        name = f"{called}, {'training' if split == 'train' else 'test'} images" if seed == 0 else None
        axes.plot(*zip(*ours, strict=True), marker=MARKERS[place], ms=4, lw=1.2, label=name, **style)


def write(runs: Path, rows: list[dict], folder: Path, device: str) -> None:
    """Write CSV, JSON and figure, beside the curves that are there."""
    known = read_csv(folder / "points.csv")
    order = [*METHODS, *MONTE_CARLO_EM]
    new = taken(rows, known, *CURVE)
    rows = beside(known, new, *CURVE)
    rows.sort(key=lambda row: (row["size"], row["seed"], order.index(row["method"]), row["samples"]))
    write_csv(folder / "points.csv", rows)
    for name in sorted({"-".join(map(str, of(row, CURVE))) for row in new}):
        r = json.loads((runs / f"{name}.json").read_text())
        about = {"step_size": r["rate"], "minutes": round(r["minutes"], 1), **r.get("annealed", {})}
        note(folder / "settings.json", **{name: provenance(1, device, **about)})
    draw(folder)


def draw(folder: Path) -> None:
    """Table and figure of what is there."""
    rows = read_csv(folder / "points.csv")
    write_csv(folder / "table.csv", table(rows))
    save(plot(rows), folder / "figure3.png")


def run(runs: Path, seeds: int, samples: int, device: str, jobs: int, only: list[str]) -> list[dict]:
    """All curves, so many at once, each in a process with one thread."""
    cases = [
        (runs, method, size, seed, samples, device)
        for seed in range(seeds)
        for size in SIZES
        for method in (*METHODS, *MONTE_CARLO_EM)
        if not only or any(f"{size}-{method}-{seed}".startswith(start) for start in only)
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [row for rows in pool.map(run_curve, *zip(*cases, strict=True)) for row in rows]


if __name__ == "__main__":
    parser = arguments(__doc__, "figure3", 1e7, "a thousand samples of 1000 images, nothing kept")
    parser.add_argument("only", nargs="*", help="how names of curves begin, as 1000 or 50000-MCEM; all by default")
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        IMAGES = 5
        ANNEALED_IMAGES = 3
        ANNEALING_STEPS = 10
        DRAWS = 10
        BURN_IN = 5
        STEP_SIZES = (0.02,)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            methods = (*METHODS, *MONTE_CARLO_EM)
            rows = [row for m in methods for row in run_curve(folder, m, 1000, 0, 1000, "cpu")]
            write(folder, rows, folder / "kept", "cpu")
        print(len(rows), "points measured")
    elif chosen.redraw:
        draw(chosen.results / "figure3")
    else:
        asked = chosen.runs, chosen.seeds, int(chosen.samples), chosen.device, chosen.jobs, chosen.only
        with said():
            write(chosen.runs, run(*asked), chosen.results / "figure3", chosen.device)
