"""What decides how far the paper's wake-sleep gets: ``python experiments/wake_sleep.py``.

In the paper's Figure 2 wake-sleep on Frey Face stays at 569 nats per datum with any number of latents, which is what a
Gaussian for each pixel scores without any latent, while on MNIST it learns. Every case has the settings of Figure 2 but
for three: the step size; the pause, in which Adagrad sums squares for 100 steps and does not move, as the author's
public code has it and the paper does not tell; and the scale of the guide's log-variance, for which see ``figure2.py``.
What is measured is the bound on test data after 5e5 samples; of some Frey Face runs also after 1e7, by ``--samples``.

Results are in ``experiments/wake_sleep/``: ``bounds.csv``, ``table.md``; about 15 minutes on two cores.
"""

import itertools
from pathlib import Path

from figure2 import WORDS, options_of
from shared.paper import at, figure2
from shared.results import keep_row, of, read_csv, write
from shared.training_runs import RunFailedError, all_kept, arguments, minutes_of, said, train

PANELS = {"frey_face": (2, 5, 10, 20), "mnist": (20,)}
STEP_SIZES = (0.01, 0.02)
PAUSES = (100, 0)  # of Adagrad's first steps, in which it does not move
LOG_VARIANCE_SCALES = (1.0, 0.1)  # of the guide
SAMPLES = 500_000
CASE = ("data", "latent_dim", "step_size", "pause", "log_variance_scale", "seed")


def cases(seeds: int) -> list[tuple]:
    """Every panel with every setting, as ``CASE`` names them."""
    panels = [(data, latent_dim) for data, dims in PANELS.items() for latent_dim in dims]
    settings = itertools.product(panels, STEP_SIZES, PAUSES, LOG_VARIANCE_SCALES, range(seeds))
    return [(*panel, *setting) for panel, *setting in settings]


def name_of(case: tuple) -> str:
    """The name of a case's run."""
    return "-".join(map(str, case))


def run(runs: Path, case: tuple, samples: int, device: str) -> dict:
    """One training, or going on with it: its last test bound, none where a loss was not finite."""
    data, latent_dim, step_size, pause, scale, seed = case
    options = options_of(data, latent_dim, "WS", step_size, seed, pause=pause, log_variance_scale=scale)
    row = dict(zip(CASE, case, strict=True)) | {"samples": samples, "test_bound": None, "se": None, "minutes": None}
    try:
        path = runs / f"{name_of(case)}-{samples}"  # a longer run has no value there
        found = train(path, [*options, f"--device={device}", "--engine=captured"], samples, samples // 5)
    except RunFailedError as error:
        if error.code != 1:
            raise
        return row
    last = [m for m in found if "test_bound" in m][-1]
    row |= {"samples": last["samples_seen"], "test_bound": round(last["test_bound"], 4)}
    return row | {"se": round(last["test_se"], 4), "minutes": minutes_of(found)}


def table(rows: list[dict]) -> str:
    """For each number of samples: a line a setting, a column a number of latents; the paper's at the end."""
    panels = [(data, latent_dim) for data, dims in PANELS.items() for latent_dim in dims]
    heads = " | ".join(f"{WORDS[data]}, {latent_dim}" for data, latent_dim in panels)
    lines = []
    for samples in sorted({r["samples"] for r in rows}):
        lines += [f"Test bound after {samples:,} samples:", "", f"| step size | pause | log-variance times | {heads} |"]
        lines += ["|---" * (3 + len(panels)) + "|"]
        known: dict[tuple, list[dict]] = {}
        for row in (row for row in rows if row["samples"] == samples):
            known.setdefault(of(row, CASE[:-1]), []).append(row)
        for setting in itertools.product(STEP_SIZES, PAUSES, LOG_VARIANCE_SCALES):
            found = [known.get((*panel, *setting), []) for panel in panels]
            if any(found):
                step_size, pause, scale = setting
                cells = " | ".join(map(cell, found))
                lines.append(f"| {step_size} | {pause or 'none'} | {scale:g} | {cells} |")
        paper = " | ".join(cell([{"test_bound": at(figure2(*panel, "WS", "test"), samples)}]) for panel in panels)
        lines += [f"| the paper | | | {paper} |", ""]
    return "\n".join(lines)


def cell(rows: list[dict]) -> str:
    """A bound, the mean over seeds; nothing where it is not known, or one was not finite."""
    bounds = [row["test_bound"] for row in rows]
    return f"{sum(bounds) / len(bounds):.0f}" if bounds and None not in bounds else ""


def keep(row: dict, folder: Path, device: str) -> None:
    """Write a row into CSV, JSON and a table to read, beside the rows that are there."""
    print(row, flush=True)
    keep_row(row, folder / "bounds.csv", CASE, lambda r: of(r, (*CASE, "samples")), device, draw)


def draw(folder: Path) -> None:
    """The table of what is there."""
    write(folder / "table.md", table(read_csv(folder / "bounds.csv")))


def run_all(runs: Path, some: list[tuple], samples: int, device: str, jobs: int, folder: Path) -> int:
    """All cases, each kept as it ends; their number."""
    each = [(runs, case, samples, device) for case in some]
    return len(all_kept(run, lambda row: keep(row, folder, device), each, jobs))


if __name__ == "__main__":
    parser = arguments(__doc__, "wake_sleep", SAMPLES, "a thousand samples of one setting, nothing kept")
    parser.add_argument("only", nargs="*", help="how names of runs begin, as mnist or frey_face-2-0.01; all by default")
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        PANELS = {"frey_face": (2,)}
        STEP_SIZES = (0.02,)
        PAUSES = (100,)
        LOG_VARIANCE_SCALES = (0.1,)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            print(run_all(folder, cases(1), 1000, "cpu", 1, folder), "settings measured")
            print((folder / "table.md").read_text())
    elif chosen.redraw:
        draw(chosen.results / "wake_sleep")
    else:
        starts = tuple(chosen.only) or ("",)
        some = [case for case in cases(chosen.seeds) if name_of(case).startswith(starts)]
        with said():
            run_all(chosen.runs, some, int(chosen.samples), chosen.device, chosen.jobs, chosen.results / "wake_sleep")
