"""The paper's Figure 4, learned manifolds of two latents: ``python experiments/figure4.py``.

Frey Face and MNIST, the settings of Figure 2 with 2 latents, 2e6 samples. Latents lie on a linear grid of the unit
square, mapped through the inverse CDF of the Gaussian; shown is the mean of p(x|z). Results are in
``experiments/figure4/``; about 5 minutes on two cores, interrupted it goes on where it was.
"""

import argparse
import json
import shutil
from pathlib import Path

from figure2 import options_of
from results import provenance
from training_runs import all_of, call, train

FOLDER = Path(__file__).parent / "figure4"
SAMPLES, STEP_SIZE = 2_000_000, 0.02


def run(runs: Path, data: str, samples: int) -> dict:
    """Train with two latents, draw the manifold; the test bound."""
    path = runs / data
    metrics = train(path, options_of(data, 2, "AEVB", STEP_SIZE, 0), samples, samples)
    call("plot", str(path))
    return {"data": data, "samples": samples, "test_bound": [m for m in metrics if "test_bound" in m][-1]["test_bound"]}


def keep(found: list[dict], runs: Path) -> None:
    """Pictures and numbers."""
    FOLDER.mkdir(exist_ok=True)
    for row in found:
        shutil.copy(runs / row["data"] / "figures" / "manifold.png", FOLDER / f"{row['data']}.png")
    settings = provenance(seed=0, step_size=STEP_SIZE, runs=found)
    (FOLDER / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=float, default=SAMPLES)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "figure4", help="where runs are kept")
    parser.add_argument("--smoke", action="store_true", help="500 samples, nothing kept")
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            print(run(Path(temporary), "frey_face", 500), "manifold drawn")
    else:
        cases = [(chosen.runs, data, int(chosen.samples)) for data in ("mnist", "frey_face")]
        keep(all_of(run, cases, 2), chosen.runs)
