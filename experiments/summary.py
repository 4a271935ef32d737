"""Rebuilds ``experiments/README.md`` from the results that are there: ``python experiments/summary.py``."""

import argparse
import csv
from pathlib import Path

HERE = Path(__file__).parent
NAMES = {"AEVB": "AEVB", "WS": "wake-sleep", "mnist": "MNIST", "frey_face": "Frey Face"}
FIGURES = {  # file: what it shows, and the script that made it
    "figure2/figure2.png": (
        "Figure 2: the bound in training; the paper's curves are broad",
        "figure2.py",
    ),
    "figure3/figure3.png": (
        "Figure 3: log p(x) in training; the paper's curves are broad",
        "figure3.py",
    ),
    "figure4/frey_face.png": ("Figure 4: the manifold of two latents, Frey Face", "figure4.py"),
    "figure4/mnist.png": ("Figure 4: the manifold of two latents, MNIST", "figure4.py"),
    "figure5/figure5.png": ("Figure 5: samples, MNIST", "figure5.py"),
    "estimators/gradients.png": ("Estimators compared", "estimators.py"),
    "priors_likelihoods/priors.png": ("Priors compared", "priors_likelihoods.py"),
    "priors_likelihoods/likelihoods.png": ("Likelihoods compared", "priors_likelihoods.py"),
    "benchmark/steps.png": ("What a training step costs", "benchmark.py"),
}


def table(path: Path) -> list[str]:
    """Figure 2 beside the paper, a line a curve and milestone."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    lines = ["| curve | samples | paper | ours | difference | seeds |", "|---|---|---|---|---|---|"]
    for r in rows:
        curve = f"{NAMES[r['data']]}, {r['latent_dim']} latents, {NAMES[r['method']]}"
        numbers = [f"{float(r['samples']):.0e}", r["paper"], r["ours"], f"{float(r['difference']):+.2f}", r["seeds"]]
        lines.append("| " + " | ".join([curve, *numbers]) + " |")
    return lines


def summary(folder: Path) -> str:
    """The page."""
    lines = [
        "# Experiments",
        "",
        "Each script has its settings at the top and its results in the folder of its name; `--smoke` takes seconds.",
        "This page is made by `python experiments/summary.py` from what is there.",
    ]
    if (folder / "figure2" / "table.csv").exists():
        lines += ["", "## Figure 2, test bound in nats per datum", "", *table(folder / "figure2" / "table.csv")]
    for name, (words, script) in FIGURES.items():
        if (folder / name).exists():
            lines += ["", f"## {words}", "", f"`python experiments/{script}`", "", f"![]({name})"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="print, write nothing")
    if parser.parse_args().smoke:
        print(summary(HERE))
    else:
        (HERE / "README.md").write_text(summary(HERE))
