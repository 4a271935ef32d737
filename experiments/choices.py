"""What the paper leaves open, one choice changed at a time: ``python experiments/choices.py``.

Every case has the settings of Figure 2 (see ``figure2.py``), with the step size that it chose for each panel, but for
one: the estimator, A of equation (6) in place of B of (7); the initial weights, normal with a small standard deviation
as the paper states, or PyTorch's own; the pause, in which Adagrad sums squares for 100 steps and does not move, as in
the public code of the paper's author; or the scale of wake-sleep's log-variance, as in that code. What is measured is
the bound on test data after 1e6 samples, in nats per datum, beside the paper's.

Results are in ``experiments/choices/``: ``bounds.csv``, ``table.md``; about 20 minutes on two cores.
"""

from pathlib import Path

from figure2 import WORDS, options_of
from shared.paper import at, figure2
from shared.results import keep_row, read_csv, write
from shared.training_runs import all_kept, arguments, minutes_of, said, train

PANELS = {  # step sizes
    "AEVB": {("mnist", 10): 0.02, ("mnist", 200): 0.02, ("frey_face", 10): 0.01},
    "WS": {("mnist", 3): 0.01, ("mnist", 20): 0.02, ("mnist", 200): 0.02},
}
CHOICES: dict[str, dict[str, dict]] = {
    "AEVB": {
        "as in Figure 2": {},
        "estimator A, (6)": {"estimator": "SGVB"},
        "initial weights N(0, 0.1²)": {"initial_sd": 0.1},
        "initial weights N(0, 0.01²)": {"initial_sd": 0.01},
        "no pause": {"pause": 0},
    },
    "WS": {
        "as in Figure 2": {},
        "a pause": {"pause": 100},
        "log-variance not scaled": {"log_variance_scale": 1.0},
        "a pause, and not scaled": {"pause": 100, "log_variance_scale": 1.0},
        "PyTorch's own initial weights": {"initial_sd": None},
        "PyTorch's own initial weights, a pause, and not scaled": {
            **{"initial_sd": None, "pause": 100, "log_variance_scale": 1.0}
        },
    },
}
CASE = ("method", "choice", "data", "latent_dim", "seed")


def cases(seeds: int) -> list[tuple]:
    """All cases, tuples of what ``CASE`` names."""
    return [
        (method, choice, *panel, seed)
        for seed in range(seeds)
        for method, panels in PANELS.items()
        for panel in panels
        for choice in CHOICES[method]
    ]


def run(runs: Path, case: tuple, samples: int, device: str) -> dict:
    """One training, or going on with it: its last test bound."""
    method, choice, data, latent_dim, seed = case
    step_size = PANELS[method][data, latent_dim]
    options = options_of(data, latent_dim, method, step_size, seed, **CHOICES[method][choice])
    number = [*CHOICES[method]].index(choice)
    path = runs / f"{method}-{data}-{latent_dim}-{number}-{seed}-{samples}"  # a longer run has no value there
    found = train(path, [*options, f"--device={device}"], samples, max(1, samples // 5))
    last = [m for m in found if "test_bound" in m][-1]
    row = dict(zip(CASE, case, strict=True)) | {"step_size": step_size, "samples": last["samples_seen"]}
    row |= {"test_bound": round(last["test_bound"], 4), "se": round(last["test_se"], 4), "minutes": minutes_of(found)}
    print(row, flush=True)
    return row


def table(rows: list[dict]) -> str:
    """For each method a line a choice, a column a panel; the paper's at the end."""
    lines = []
    for method, panels in PANELS.items():
        # Rows of one case are sorted by length: the longest stays.
        known = {(r["choice"], r["data"], r["latent_dim"]): r for r in rows if (r["method"], r["seed"]) == (method, 0)}
        heads = " | ".join(f"{WORDS[data]}, {latent_dim}" for data, latent_dim in panels)
        lines += [f"| {WORDS[method]} | {heads} |", "|---" * (1 + len(panels)) + "|"]
        for choice in CHOICES[method]:
            found = [known.get((choice, *panel)) for panel in panels]
            lines.append(f"| {choice} | " + " | ".join(f"{r['test_bound']:.1f}" if r else "" for r in found) + " |")
        samples = max((r["samples"] for r in known.values()), default=0)
        theirs = [at(figure2(*panel, method, "test"), samples) for panel in panels]
        lines += ["| the paper | " + " | ".join("" if t is None else f"{t:.1f}" for t in theirs) + " |", ""]
    return "\n".join(lines)


def keep(row: dict, folder: Path, device: str) -> None:
    """Write a row into CSV, JSON and a table to read, beside the rows that are there."""
    keep_row(row, folder / "bounds.csv", CASE, order, device, draw)


def order(row: dict) -> tuple:
    """What rows are sorted by: seed, method, panel, choice, length."""
    method = row["method"]
    panel = [*PANELS[method]].index((row["data"], row["latent_dim"]))
    choice = [*CHOICES[method]].index(row["choice"])
    return row["seed"], [*PANELS].index(method), panel, choice, row["samples"]


def draw(folder: Path) -> None:
    """The table of what is there."""
    write(folder / "table.md", table(read_csv(folder / "bounds.csv")))


def run_all(runs: Path, some: list[tuple], samples: int, device: str, jobs: int, folder: Path) -> int:
    """All cases, each kept as it ends; their number."""
    each = [(runs, case, samples, device) for case in some]
    return len(all_kept(run, lambda row: keep(row, folder, device), each, jobs))


if __name__ == "__main__":
    parser = arguments(__doc__, "choices", 1e6, "a few hundred samples of two choices, nothing kept")
    parser.add_argument("only", nargs="*", help="AEVB, WS; both by default")
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            some = [(*case[:2], "frey_face", 10, 0) for case in cases(1)[:2]]
            print(run_all(Path(temporary), some, 300, "cpu", 1, Path(temporary) / "kept"), "choices measured")
            print((Path(temporary) / "kept" / "table.md").read_text())
    elif chosen.redraw:
        draw(chosen.results / "choices")
    else:
        some = [case for case in cases(chosen.seeds) if not chosen.only or case[0] in chosen.only]
        with said():
            run_all(chosen.runs, some, int(chosen.samples), chosen.device, chosen.jobs, chosen.results / "choices")
