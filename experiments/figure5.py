"""The paper's Figure 5, samples of MNIST models with 2, 5, 10 and 20 latents: ``python experiments/figure5.py``.

The runs of Figures 2 and 4 are used where they are there, as long as they are; else trained first, 2e6 samples each at
step size 0.02. Shown is the mean of p(x|z) with z from N(0, I); a few samples of 5 and 20
latents are inverted, and why was not measured. Results are in ``experiments/figure5/``.
"""

import json
from pathlib import Path

import numpy as np
import torch
from figure2 import options_of
from matplotlib.figure import Figure
from shared.results import provenance, shorter, write
from shared.training_runs import all_of, arguments, call, said, train

from pyro_aevb.plots import save
from pyro_aevb.plots.style import WIDEST, in_style, panels_of
from pyro_aevb.runs.folder import Folder

SAMPLES = 2_000_000
STEP_SIZE = 0.02
LATENT_DIMS = (2, 5, 10, 20)
COUNT = 100  # samples shown of each model, a square number


def run(runs: Path, latent_dim: int, seed: int, samples: int, device: str, values: Path) -> dict:
    """A trained run of so many latents, and its samples as values."""
    name = f"figure4/mnist-{seed}" if latent_dim == 2 else f"figure2/mnist-{latent_dim}-AEVB-{seed}"
    known = runs.parent / name
    path = known if known.exists() else runs / f"mnist-{latent_dim}-{seed}"
    if path != known:
        options = options_of("mnist", latent_dim, "AEVB", STEP_SIZE, seed)
        train(path, [*options, f"--device={device}"], samples, max(1, samples // 10))
    call("sample", str(path), f"--count={COUNT}", f"--out={values / f'{latent_dim}-{seed}.npy'}")
    return {"latent_dim": latent_dim, "seed": seed, "samples": Folder(path).metrics()[-1]["samples_seen"]}


@in_style
def plot(found: list[dict], values: Path) -> Figure:
    """The samples of all models, two in a line."""
    lines = -(-len(found) // 2)
    figure = Figure(figsize=(WIDEST, 3.75 * lines), layout="constrained")
    side = int(COUNT**0.5)
    for axes, row in zip(panels_of(figure, lines, 2), found, strict=False):
        images = torch.from_numpy(np.load(values / f"{row['latent_dim']}-{row['seed']}.npy")).view(side, side, 28, 28)
        axes.imshow(images.transpose(1, 2).reshape(28 * side, 28 * side), cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{row['latent_dim']} latents, {row['samples']:,} samples")
        axes.axis("off")
    return figure


if __name__ == "__main__":
    import tempfile

    parser = arguments(__doc__, "figure5", SAMPLES, "500 samples with 2 and 5 latents, nothing kept", redraw=False)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        values = Path(temporary)
        if chosen.smoke:
            LATENT_DIMS = (2, 5)
            chosen.runs = values / "figure5"
            chosen.samples = 500
        for seed in range(chosen.seeds):
            cases = [(chosen.runs, dim, seed, int(chosen.samples), chosen.device, values) for dim in LATENT_DIMS]
            with said():
                rows = all_of(run, cases, chosen.jobs)
            folder = values if chosen.smoke else chosen.results / "figure5"
            folder.mkdir(parents=True, exist_ok=True)
            name = "figure5" if seed == 0 else f"figure5_{seed}"
            about = folder / f"{name}.json"
            if about.exists() and shorter(rows, json.loads(about.read_text())["runs"], "latent_dim", "seed"):
                continue
            save(plot(rows, values), folder / f"{name}.png")
            write(about, json.dumps(provenance(1, chosen.device, runs=rows), indent=1) + "\n")
    print("samples drawn")
