"""Why wake-sleep collapsed on the paper's Frey Face: ``python experiments/wake_sleep.py``.

In the paper's Figure 2 wake-sleep stays at 569 nats with any number of latents: what a Gaussian for each pixel scores
without any latent. The settings are Figure 2's; varied are the step size and Adagrad's pause, the first 100 steps in
which the author's code sums squares and does not move, and which the paper does not tell of. Test bound after 5e5
samples. At step size 0.1 it diverges, as Figure 2's ``settings.json`` shows.

Results are in ``experiments/wake_sleep/``: ``frey_face.csv``, ``table.md``; about 4 minutes on two cores.
"""

import itertools
import json
from pathlib import Path

from figure2 import options_of
from results import provenance, write_csv
from training_runs import all_of, arguments, minutes_of, train

FOLDER = Path(__file__).parent / "wake_sleep"
LATENT_DIMS, STEP_SIZES, PAUSES = (2, 5, 10, 20), (0.01, 0.02), (100, 0)
SAMPLES, COLLAPSED = 500_000, 569  # the paper's test bound


def run(runs: Path, latent_dim: int, step_size: float, pause: int, seed: int, samples: int, device: str) -> dict:
    """One training, or going on with it: its last test bound."""
    options = [*options_of("frey_face", latent_dim, "WS", step_size, seed), f"--optimizer.warm_up={pause}"]
    name = f"{latent_dim}-{step_size}-{pause}-{seed}"
    metrics = train(runs / name, [*options, f"--device={device}", "--engine=captured"], samples, samples // 5)
    last = [m for m in metrics if "test_bound" in m][-1]
    row = {"latent_dim": latent_dim, "step_size": step_size, "pause": pause, "seed": seed, "samples": samples}
    row |= {"test_bound": round(last["test_bound"], 2), "se": round(last["test_se"], 2), "minutes": minutes_of(metrics)}
    print(row, flush=True)
    return row


def table(rows: list[dict]) -> str:
    """A line for each setting, a column for each number of latents."""
    known = {(r["step_size"], r["pause"], r["latent_dim"]): r["test_bound"] for r in rows if r["seed"] == 0}
    lines = ["| step size | pause | " + " | ".join(f"{k} latents" for k in LATENT_DIMS) + " |", "|---" * 6 + "|"]
    for step_size, pause in itertools.product(STEP_SIZES, PAUSES):
        cells = [f"{known[step_size, pause, k]:.0f}" for k in LATENT_DIMS]
        lines.append(f"| {step_size} | {pause or 'none'} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, f"| the paper | | {' | '.join([str(COLLAPSED)] * len(LATENT_DIMS))} |", ""])


if __name__ == "__main__":
    parser = arguments(__doc__, "wake_sleep", SAMPLES, "a thousand samples of one setting, nothing kept")
    chosen = parser.parse_args()
    if chosen.smoke:
        import tempfile

        LATENT_DIMS, STEP_SIZES, PAUSES, chosen.samples = (2,), (0.02,), (100,), 1000
    settings = itertools.product(LATENT_DIMS, STEP_SIZES, PAUSES, range(chosen.seeds))
    if chosen.smoke:
        with tempfile.TemporaryDirectory() as temporary:
            rows = [run(Path(temporary), *setting, int(chosen.samples), "cpu") for setting in settings]
        print(table(rows), len(rows), "settings measured")
    else:
        cases = [(chosen.runs, *setting, int(chosen.samples), chosen.device) for setting in settings]
        rows = all_of(run, cases, chosen.jobs)
        FOLDER.mkdir(exist_ok=True)
        write_csv(FOLDER / "frey_face.csv", rows)
        (FOLDER / "table.md").write_text(table(rows))
        (FOLDER / "settings.json").write_text(json.dumps(provenance(1, samples=int(chosen.samples)), indent=1) + "\n")
