"""Beyond the paper: modern parts on dynamically binarised MNIST, with evidence: ``python experiments/literature.py``.

The networks are those of Burda et al. (2016): 50 latents, two hidden layers of 200 tanh units in encoder and decoder,
pixels drawn anew from their grey values at each visit. Each row changes one thing of the first: the estimator, the
guide, or the networks; the rows of the VampPrior change three, for which see below. All numbers are in nats per datum.

The optimizer is Adam with a step size that falls to 0, with minibatches of 100. Up to 1e6 samples it begins at 3e-3: in
trial runs of the first row 1e-3 gave a bound on test data of -107.7, 3e-3 -101.8, 8e-3 -189. In longer trainings it
begins at 1e-3, without trial runs. Those were trained and measured on a GPU, three of 500 epochs and one of 200 at once
in four minutes: ``--device cuda``.

log p(x) is what the literature reports: importance sampling with 5000 draws from the guide, a lower bound. It is of the
first 1000 test images for every row, and of all 10,000 where a published number stands beside, from 1e6 samples on.
Test pixels are drawn once. Published are the negatives of Burda et al., table 1, after 3280 epochs with minibatches of
20. k-hat is above 0.7 for most images of most rows: there even 5000 draws have not found the largest weights, and
log p(x) may be higher.

The VampPrior is trained from initial weights N(0, 0.1^2) and with the KL's weight annealed over 2e5 samples; a VAE
trained alike stands beside. Without one of the two, the training stays where the decoder has no use for z: at -200.1
after 1e6 samples from PyTorch's own initial weights, and likewise in trial runs of 5e4 to 1.5e5 samples with step sizes
from 3e-4 to 3e-3, with 10 to 500 pseudo-inputs, from N(0, 0.07^2), and with sticking the landing. There the guide's
means, which N(0, I) would hold, have moved to 4 or 5 within 2.5e4 samples, together with the prior's, and differ
between images by a hundredth or less.

Runs are kept in ``runs/literature/``; a script begun again goes on with them. Results are in
``experiments/literature/``.
"""

import json
from pathlib import Path

from shared.results import keep_row, read_csv, write
from shared.training_runs import all_kept, arguments, call, minutes_of, said, train

TRAINING_SIZE = 60_000  # images, an epoch
FIRST_IMAGES = 1000  # of the test set, that are evaluated in every row
TEST_IMAGES = 10_000  # all of it, where a published number stands beside
DRAWS = 5000  # importance samples for each image
WHOLE_FROM = 1_000_000  # samples, from which all test images are worth their five minutes a row
MLP = ["--hidden=[200,200]"]
CONVOLUTIONS = ["--likelihood.network=ConvolutionalDecoder", "--likelihood.network.channels=[32,16]"]
CONVOLUTIONS += ["--guide.network=ConvolutionalEncoder", "--guide.network.channels=[16,32]"]
ANNEALED = ["--estimator=SGVB", "--estimator.warm_up=2e5"]
for network in ("--likelihood.network", "--guide.network"):
    ANNEALED += [f"{network}=MLP", f"{network}.hidden=[200,200]", f"{network}.initial_sd=0.1"]
ROWS: dict[str, tuple[list[str], float | None]] = {  # options; published log p(x)
    "VAE": ([*MLP, "--estimator=SGVBAnalyticKL"], -86.76),
    "IWAE(5)": ([*MLP, "--estimator=IWAE", "--estimator.num_particles=5"], -85.54),
    "IWAE(50)": ([*MLP, "--estimator=IWAE", "--estimator.num_particles=50"], -84.78),
    "DReG(5)": ([*MLP, "--estimator=DoublyReparameterized", "--estimator.num_particles=5"], None),
    "VAE, annealed": (ANNEALED, None),
    "VAE, annealed, VampPrior(500)": ([*ANNEALED, "--prior=VampPrior", "--prior.components=500"], None),
    "VAE, flow guide": ([*MLP, "--estimator=SGVB", "--guide=Flow"], None),
    "VAE, convolutions": ([*CONVOLUTIONS, "--estimator=SGVBAnalyticKL"], None),
}


def options_of(name: str, samples: int, seed: int, device: str) -> list[str]:
    """Options of ``pyro-aevb train`` for a row."""
    return [
        *("--data=mnist", "--binarize=dynamic", "--latent_dim=50", f"--seed={seed}", f"--device={device}"),
        *("--optimizer=pyro_aevb.optimizers.CosineAdam", f"--optimizer.lr={'3e-3' if samples <= 1e6 else '1e-3'}"),
        f"--optimizer.total_steps={max(1, samples // 100)}",
        *ROWS[name][0],
    ]


def run(runs: Path, name: str, samples: int, seed: int, device: str) -> dict:
    """Train a row, or go on with it; its evidence."""
    path = runs / f"{name}-{samples}-{seed}"
    metrics = train(path, options_of(name, samples, seed, device), samples, max(1, samples // 5))
    first = evidence(path, FIRST_IMAGES, device)
    whole = evidence(path, TEST_IMAGES, device) if ROWS[name][1] and samples >= WHOLE_FROM else None
    row = {
        **{"name": name, "seed": seed, "samples": samples, "epochs": round(samples / TRAINING_SIZE, 1)},
        "bound": first["bound"]["mean"],
        **{"log_likelihood": first["log_px"]["mean"], "se": first["log_px"]["se"]},
        **{"all_images": whole and whole["log_px"]["mean"], "all_se": whole and whole["log_px"]["se"]},
        **{"khat_above_0.7": first["log_px"]["khat_above_0.7"], "published": ROWS[name][1]},
        "minutes": minutes_of(metrics),
    }
    print(row, flush=True)
    return row


def evidence(path: Path, images: int, device: str) -> dict:
    """What ``evaluate`` says of so many test images."""
    options = [
        f"--num_samples={DRAWS}",
        f"--count={images}",
        f"--keep={path / f'evidence_{images}'}",
        "--json",
        f"--device={device}",
    ]
    return json.loads(call("evaluate", str(path), *options))


def keep(row: dict, folder: Path, device: str) -> None:
    """Write a row into CSV, JSON and a table to read, beside those there; rows of other lengths stay."""
    keep_row(row, folder / "evidence.csv", ("name", "seed"), order, device, draw)


def order(row: dict) -> tuple:
    """What rows are sorted by: length, then place in the table, then seed."""
    return row["samples"], [*ROWS].index(row["name"]), row["seed"]


def draw(folder: Path) -> None:
    """The table of what is there."""
    write(folder / "table.md", table(read_csv(folder / "evidence.csv")))


def table(rows: list[dict]) -> str:
    """The rows in Markdown, in the form that the literature uses."""
    head = "| | seed | epochs | bound, 1000 images | log p(x), 1000 images | all 10,000 | published, 3280 epochs |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for r in rows:
        whole = "" if r["all_images"] is None else f"{r['all_images']:.2f} ± {r['all_se']:.2f}"
        numbers = [f"{r['bound']:.2f}", f"{r['log_likelihood']:.2f} ± {r['se']:.2f}", whole, str(r["published"] or "")]
        lines.append("| " + " | ".join([r["name"], str(r["seed"]), f"{r['epochs']:g}", *numbers]) + " |")
    return "\n".join(lines) + "\n"


def run_all(cases: list[tuple], jobs: int, folder: Path) -> int:
    """All rows, each kept as it ends; their number."""
    device = cases[0][-1]
    return len(all_kept(run, lambda row: keep(row, folder, device), cases, jobs))


if __name__ == "__main__":
    parser = arguments(__doc__, "literature", 1e6, "400 samples of two rows, nothing kept")
    parser.add_argument("only", nargs="*", help=f"some of {', '.join(ROWS)}; all by default")
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        FIRST_IMAGES = 5
        TEST_IMAGES = 6
        DRAWS = 20
        WHOLE_FROM = 0
        with tempfile.TemporaryDirectory() as temporary:
            cases = [(Path(temporary), name, 400, 0, "cpu") for name in ("VAE", "VAE, flow guide")]
            print(run_all(cases, 1, Path(temporary)), "rows measured")
    elif chosen.redraw:
        draw(chosen.results / "literature")
    else:
        wanted = [name for name in ROWS if not chosen.only or name in chosen.only]
        seeds = range(chosen.seeds)
        samples = int(chosen.samples)
        turned = wanted[::-1]  # convolutions, half of the time at 1e5 samples, would leave a core idle at the end
        cases = [(chosen.runs, name, samples, seed, chosen.device) for seed in seeds for name in turned]
        with said():
            run_all(cases, chosen.jobs, chosen.results / "literature")
