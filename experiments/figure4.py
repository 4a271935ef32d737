"""The paper's Figure 4, learned manifolds of two latents: ``python experiments/figure4.py``.

Frey Face and MNIST, the settings of Figure 2 with 2 latents, 2e6 samples. Latents lie on a linear grid of the unit
square, mapped through the inverse CDF of the Gaussian; shown is the mean of p(x|z). Results are in
``experiments/figure4/``; about 5 minutes on two cores, interrupted it goes on where it was.
"""

import json
import shutil
from pathlib import Path

from figure2 import options_of
from results import beside, provenance, taken, write
from training_runs import all_of, arguments, call, minutes_of, said, train

from pyro_aevb.checkpoints import Run

SAMPLES, STEP_SIZES = 2_000_000, {"mnist": 0.02, "frey_face": 0.01}  # as Figure 2 chooses with few latents


def run(runs: Path, data: str, seed: int, samples: int, device: str) -> dict:
    """Train with two latents, draw the manifold; the test bound."""
    path = runs / f"{data}-{seed}"
    options = [*options_of(data, 2, "AEVB", STEP_SIZES[data], seed), f"--device={device}"]
    train(path, options, samples, max(1, samples // 10))
    call("plot", str(path))
    metrics = Run(path).metrics()  # of what is drawn, which may have been trained for longer before
    last = [m for m in metrics if "test_bound" in m][-1]
    row = {"data": data, "seed": seed, "step_size": STEP_SIZES[data], "samples": last["samples_seen"]}
    return {**row, "test_bound": last["test_bound"], "minutes": minutes_of(metrics)}


def keep(found: list[dict], runs: Path, folder: Path, device: str) -> None:
    """Pictures of the first seed, numbers of all, beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    about, curve = folder / "settings.json", ("data", "seed")
    known = json.loads(about.read_text())["runs"] if about.exists() else []
    if not (new := taken(found, known, *curve)):
        return
    for row in new:
        if row["seed"] == 0:
            shutil.copy(runs / f"{row['data']}-0" / "figures" / "manifold.png", folder / f"{row['data']}.png")
    write(about, json.dumps(provenance(1, device, runs=beside(known, new, *curve)), indent=1) + "\n")


if __name__ == "__main__":
    parser = arguments(__doc__, "figure4", SAMPLES, "500 samples, nothing kept", redraw=False)
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            print(run(Path(temporary), "frey_face", 0, 500, "cpu"), "manifold drawn")
    else:
        settings = [(data, seed) for seed in range(chosen.seeds) for data in STEP_SIZES]
        cases = [(chosen.runs, *setting, int(chosen.samples), chosen.device) for setting in settings]
        with said():
            keep(all_of(run, cases, chosen.jobs), chosen.runs, chosen.results / "figure4", chosen.device)
