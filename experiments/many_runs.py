"""Five priors, three seeds each, side by side: ``python experiments/many_runs.py``.

Three commands for each data set, which this script prints as it runs them: a sweep trains the runs, a report compares
them, and a page shows those of the first seed. The runs are small, so that the whole takes minutes; what the priors are
worth after long training stands in ``beyond.py``.

Results are in ``experiments/many_runs/``; about 8 minutes on two cores, interrupted it goes on where it was.
"""

import json
import shlex
import time
from pathlib import Path

from shared.results import provenance, write
from shared.training_runs import arguments, call, said

PRIORS = ("StandardNormal", "Laplace", "StudentT", "GaussianMixture", "VampPrior")
SEEDS = "0-2"
SAMPLES = 200_000
SHOWN = {"digits": PRIORS, "mnist": ("StandardNormal", "VampPrior")}  # in the page, which would be large with more
OPTIONS = {
    "digits": ("--latent_dim=5", "--hidden=100"),
    "mnist": ("--latent_dim=10", "--hidden=200"),
}
COUNT = {"digits": 297, "mnist": 500}  # test data in report and page


def commands(data: str, runs: Path, folder: Path, samples: int, jobs: int) -> list[list[str]]:
    """The three commands, as words."""
    sweep = ["sweep", f"--data={data}", f"--prior={','.join(PRIORS)}", f"--seeds={SEEDS}", *OPTIONS[data]]
    sweep += ["--optimizer=Adam", "--optimizer.lr=0.002", "--engine=eager"]
    shown = [str(path_of(runs / data, prior)) for prior in SHOWN[data]]
    count = f"--count={COUNT[data]}"
    return [
        [*sweep, f"--samples={samples}", f"--jobs={jobs}", f"--out={runs / data}"],
        ["report", str(runs / data), count, f"--out={folder / data}-report.html"],
        ["explore", *shown, count, f"--out={folder / data}-explore.html"],
    ]


def path_of(runs: Path, prior: str) -> Path:
    """The run of a prior's first seed."""
    return runs / f"prior={prior},seed=0"


def run(data: str, runs: Path, folder: Path, samples: int, jobs: int) -> dict:
    """Train, report and show; what was run, and how long it took."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    done = commands(data, runs, folder, samples, jobs)
    for words in done:
        for page in (Path(word.removeprefix("--out=")) for word in words if word.endswith(".html")):
            for made in (page, *folder.glob(f"{page.stem}*.csv")):
                made.unlink(missing_ok=True)  # of an earlier call: these commands overwrite nothing
        print(shlex.join(["pyro-aevb", *words]), flush=True)
        call(*words)
    told = [shlex.join(["pyro-aevb", *words]) for words in commands(data, Path("runs"), Path("pages"), samples, jobs)]
    return {"data": data, "samples": samples, "commands": told, "minutes": round((time.monotonic() - begun) / 60, 2)}


if __name__ == "__main__":
    parser = arguments(__doc__, "many_runs", SAMPLES, "200 steps a run on digits, nothing kept", redraw=False)
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            print(run("digits", place / "runs", place / "pages", 20_000, chosen.jobs), "runs compared")
    else:
        place = chosen.results / "many_runs"
        with said():
            found = [run(data, chosen.runs, place, int(chosen.samples), chosen.jobs) for data in OPTIONS]
        write(place / "settings.json", json.dumps(provenance(1, chosen.device, runs=found), indent=1) + "\n")
