"""The paper's Figure 4, learned manifolds of two latents: ``python experiments/figure4.py``.

Latents lie on a linear grid of the unit square, mapped through the inverse CDF of the Gaussian; shown is the mean of
p(x|z). MNIST has the settings of Figure 2 and 2e6 samples. With these Frey Face's picture is noise in its larger part
from PyTorch's initial weights and from N(0, 0.1^2) (824 and 796 nats on test), and one dark mouth from N(0, 0.01^2)
(784). Of the last it was seen why: the guide puts its faces into a part of the prior (their means are from 0.3 to 2.6
in one latent, from -2 to 7 in the other), and the decoder has never seen the rest. So Frey Face is trained as
``beyond.py`` does, Adam whose step size falls, half as many samples (about 875): faces almost everywhere.

Results are in ``experiments/figure4/``; about 5 minutes on two cores, interrupted it goes on where it was.
"""

import json
import shutil
from pathlib import Path

import beyond
import figure2
import torch
from shared.results import beside, provenance, taken, write
from shared.training_runs import all_of, arguments, minutes_of, said, train

from pyro_aevb import load_run, plots

SAMPLES = 2_000_000  # of MNIST; Frey Face has half as many
DATA = ("mnist", "frey_face")
SIDE = 20  # pictures in a row, as in the paper
STEP_SIZE = 0.02  # for MNIST, as Figure 2 chooses with few latents


def run(runs: Path, data: str, seed: int, samples: int, device: str) -> dict:
    """Train with two latents, draw the manifold; the test bound."""
    path = runs / f"{data}-{seed}"
    if data == "mnist":
        options = [*figure2.options_of(data, 2, "AEVB", STEP_SIZE, seed), f"--device={device}"]
    else:
        samples //= 2
        options = beyond.options_of(data, 2, beyond.MAIN, samples, seed, device)
    train(path, options, samples, max(1, samples // 10))
    trained = load_run(path)  # which may have been trained for longer before
    z = plots.latent_grid(SIDE)
    with torch.no_grad():
        means = trained.model.likelihood(z.to(trained.device)).mean.cpu()
    title = f"{figure2.WORDS[data]}, two latents, trained on {trained.samples_seen:,} samples"
    plots.save(plots.manifold(means, trained.data.shape, title, z), path / "manifold.png")
    last = [m for m in trained.metrics if "test_bound" in m][-1]
    row = {"data": data, "seed": seed, "samples": last["samples_seen"]}
    return {**row, "test_bound": last["test_bound"], "minutes": minutes_of(trained.metrics)}


def keep(found: list[dict], runs: Path, folder: Path, device: str) -> None:
    """Write pictures of the first seed and numbers of all, beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "settings.json"
    curve = ("data", "seed")
    known = json.loads(about.read_text())["runs"] if about.exists() else []
    if not (new := taken(found, known, *curve)):
        return
    for row in new:
        if row["seed"] == 0:
            shutil.copy(runs / f"{row['data']}-0" / "manifold.png", folder / f"{row['data']}.png")
    write(about, json.dumps(provenance(1, device, runs=beside(known, new, *curve)), indent=1) + "\n")


if __name__ == "__main__":
    parser = arguments(__doc__, "figure4", SAMPLES, "500 samples, nothing kept", redraw=False)
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            print(run(Path(temporary), "frey_face", 0, 500, "cpu"), "manifold drawn")
    else:
        settings = [(data, seed) for seed in range(chosen.seeds) for data in DATA]
        cases = [(chosen.runs, *setting, int(chosen.samples), chosen.device) for setting in settings]
        with said():
            keep(all_of(run, cases, chosen.jobs), chosen.runs, chosen.results / "figure4", chosen.device)
