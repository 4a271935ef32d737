"""Points of the paper's Figure 2, on this project's own command line: ``python experiments/paper_point.py mnist_10``.

For each point: the test bound at 1e6 and at 1e7 training samples, beside the paper's. Interrupted, it goes on where it
was. Results are in ``experiments/paper_point/``: a JSON file and the run's figures.

Where the paper leaves a choice open, ours: initial weights are PyTorch's own rather than N(0, 0.01) (see README.md for
what that is worth); minibatches are drawn without replacement; Adagrad steps from the first minibatch on.
"""

import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path

from results import provenance
from training_runs import minutes_of

from pyro_aevb.checkpoints import Run
from pyro_aevb.cli import main

FOLDER = Path(__file__).parent / "paper_point"

MNIST = ["--data=mnist", "--likelihood=Bernoulli", "--likelihood.relaxed=true", "--hidden=500", "--optimizer.lr=0.02"]
FREY = [
    "--data=frey_face",
    "--likelihood=Gaussian",
    "--likelihood.sigmoid_mean=true",
    "--hidden=200",
    "--optimizer.lr=0.01",
]
COMMON = ["--estimator=SGVBAnalyticKL", "--batch_size=100", "--evaluate_every=100000", "--save_every=500000"]

POINTS = {
    "mnist_10": [*MNIST, "--latent_dim=10"],
    "mnist_20": [*MNIST, "--latent_dim=20"],
    "frey_10": [*FREY, "--latent_dim=10"],
}
PAPER = {  # test bound at 1e6 and 1e7 samples, read off the vector graphics of Figure 2
    "mnist_10": (-128.34, -108.51),
    "mnist_20": (-124.22, -104.76),
    "frey_10": (792, 1171),
}


def run(point: str, samples: int, runs: Path) -> dict:
    """Train a point, or go on with it, and read its numbers."""
    path = runs / f"{point}-{samples:.0e}"
    begin = [f"--out={path}", "--binarize=none", *POINTS[point], *COMMON]
    arguments = [f"--resume={path}"] if path.exists() else begin
    call(["train", *arguments, f"--samples={samples}"])
    numbers = json.loads(call(["evaluate", str(path), "--num_samples=0", "--json"]))
    call(["plot", str(path)])
    metrics = Run(path).metrics()
    return {
        "point": point,
        "command": ["pyro-aevb", "train", *begin[1:], f"--samples={samples}"],
        "test_bound": {
            f"{m['samples_seen']:.0e}": m["test_bound"] for m in metrics if "test_bound" in m and round_number(m)
        },
        "paper": dict(zip(("1e+06", "1e+07"), PAPER[point], strict=True)),
        "final": {key: numbers[key] for key in ("bound", "log_likelihood", "kl", "active_units")},
        "minutes": minutes_of(metrics),
        **provenance(seed=0),
    }


def round_number(record: dict) -> bool:
    """Whether a record is at 1e5, 1e6, 1e7, ... samples."""
    return str(record["samples_seen"]).strip("0") == "1"


def call(arguments: list[str]) -> str:
    """Run the command line; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if code := main(arguments):
            raise SystemExit(code)
    return printed.getvalue()


def keep(result: dict, path: Path) -> None:
    """Write a point's JSON and its figures into ``experiments/paper_point/``."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{result['point']}.json").write_text(json.dumps(result, indent=2) + "\n")
    for name in ("learning_curve", "samples", "reconstructions", "latent_space"):
        shutil.copy(path / "figures" / f"{name}.png", FOLDER / f"{result['point']}_{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("points", nargs="*", default=list(POINTS), help=f"of {', '.join(POINTS)}; all by default")
    parser.add_argument("--samples", type=float, default=1e7)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are kept")
    parser.add_argument("--smoke", action="store_true", help="3000 samples of each point, nothing kept")
    options = parser.parse_args()
    samples = 3000 if options.smoke else int(options.samples)
    for point in options.points:
        result = run(point, samples, options.runs)
        if not options.smoke:
            keep(result, options.runs / f"{point}-{samples:.0e}")
        print(json.dumps(result, indent=2))
