"""Rebuilds ``experiments/README.md`` from the results that are there: ``python experiments/summary.py``."""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

from figure2 import WORDS
from shared.results import HERE, write


def columns(path: Path, *names: str) -> list[str]:
    """A table of some columns of a CSV file, all of them where none is named."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    names = names or tuple(rows[0])
    head = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    return head + ["| " + " | ".join(shown(row[name]) for name in names) + " |" for row in rows]


def shown(value: str) -> str:
    """A word as people write it; a number with as many digits as matter."""
    try:
        number = float(value)
    except ValueError:
        return WORDS.get(value, value)
    return f"{number:.3g}" if abs(number) >= 1e5 else f"{number:.5g}"


def compared(curve: str, paper: str = "paper", **more: str) -> Callable[[Path], list[str]]:
    """A table of curves beside the paper's: their names, filled in from a row's words, and ``more`` columns at the end.

    Arguments:
        curve: A name with columns in braces, as ``"{data}, {latent_dim} latents"``.
        paper: The column of the paper's value.
        more: Heading and column of what else is shown.
    """

    def made(path: Path) -> list[str]:
        with path.open() as file:
            rows = list(csv.DictReader(file))
        heads = ["curve", "samples", paper.replace("_", " at "), "ours", "difference", *more]
        lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for r in rows:
            words = {column: WORDS.get(value, value) for column, value in r.items()}
            numbers = [shown(r["samples"]), f"{float(r[paper]):.2f}" if r[paper] else ""]
            numbers += [f"{float(r['ours']):.2f} ± {float(r['se']):.2f}"]
            numbers += [f"{float(r['difference']):+.2f}" if r["difference"] else ""]
            lines.append(
                "| " + " | ".join([curve.format(**words), *numbers, *(shown(r[c]) for c in more.values())]) + " |"
            )
        return lines

    return made


def annealed(path: Path) -> list[str]:
    """Appendix D beside annealed importance sampling, on the same images, with the error of their difference."""
    heads = ["curve", "images", "appendix D", "annealed importance sampling", "difference"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, r in json.loads(path.read_text()).items():
        size, method, seed = name.rsplit("-", 1)[0].split("-", 1) + name.rsplit("-", 1)[1:]
        for split in ("train", "test") if "train_annealed" in r else ():
            density, other, se = (r[f"{split}_{part}"] for part in ("appendix_d", "annealed", "difference_se"))
            curve = f"N = {size}, {WORDS.get(method, method)}, seed {seed}"
            lines.append(f"| {curve} | {split} | {density:.2f} | {other:.2f} | {density - other:+.2f} ± {se:.2f} |")
    return lines


def as_is(path: Path) -> list[str]:
    """A table that is one already."""
    return path.read_text().splitlines()


SECTIONS: list[tuple[str, str, list[str], dict[str, Callable[[Path], list[str]]]]] = [
    # heading, script, pictures, tables
    (
        "Figure 2: the bound in training; the paper's curves are broad",
        "figure2.py",
        ["figure2/figure2.png"],
        {"figure2/table.csv": compared("{data}, {latent_dim} latents, {method}", seeds="seeds")},
    ),
    ("Where the paper leaves a choice open", "choices.py", [], {"choices/table.md": as_is}),
    ("What decides how far wake-sleep gets", "wake_sleep.py", [], {"wake_sleep/table.md": as_is}),
    (
        "Figure 3: log p(x) in training; the paper's curves are broad",
        "figure3.py",
        ["figure3/figure3.png"],
        {
            "figure3/table.csv": compared("N = {size}, {method}, {split}", seeds="seeds"),
            "figure3/settings.json": annealed,
        },
    ),
    (
        "Figure 4: the manifold of two latents",
        "figure4.py",
        ["figure4/frey_face.png", "figure4/mnist.png"],
        {},
    ),
    ("Figure 5: samples, MNIST", "figure5.py", ["figure5/figure5.png"], {}),
    (
        "Appendix F: full variational Bayes",
        "appendix_f.py",
        ["appendix_f/appendix_f.png"],
        {"appendix_f/differences.csv": columns},
    ),
    (
        "Beyond the paper: Figure 2 with modern parts",
        "beyond.py",
        ["beyond/beyond.png"],
        {
            "beyond/table.csv": compared(
                "{data}, {latent_dim} latents, {part}, seed {seed}", "paper_1e8", **{"passed at": "passed_at"}
            )
        },
    ),
    ("Beyond the paper: binary MNIST", "literature.py", [], {"literature/table.md": as_is}),
    ("Estimators compared", "estimators.py", ["estimators/gradients.png"], {}),
    (
        "Priors and likelihoods compared",
        "priors_likelihoods.py",
        ["priors_likelihoods/priors.png", "priors_likelihoods/likelihoods.png"],
        {},
    ),
    ("What a training step costs", "benchmark.py", ["benchmark/steps.png", "benchmark/cuda/steps.png"], {}),
    ("Several trainings at once", "members.py", [], {"members/table.md": as_is}),
    ("Data larger than memory", "larger_than_memory.py", [], {"larger_than_memory/table.md": as_is}),
    (
        "What is left of a run that was killed, told to end, out of disk, or damaged; and a long life",
        "reliability.py",
        [],
        {f"reliability/{name}.md": as_is for name in ("ends", "damages", "soak")},
    ),
]


def summary(folder: Path) -> str:
    """The page: each section of which there is something."""
    lines = [
        "# Experiments",
        "",
        "Each script has its settings at the top and its results in the folder of its name, with seeds, commit,",
        "versions, device and minutes in JSON; `--smoke` takes seconds. `make figures` runs the paper's; all numbers",
        "are nats per datum. This page is made by `python experiments/summary.py` from what is there.",
    ]
    for heading, script, pictures, tables in SECTIONS:
        shown_tables = [made(folder / name) for name, made in tables.items() if (folder / name).exists()]
        shown_pictures = [f"![]({name})" for name in pictures if (folder / name).exists()]
        if shown_tables or shown_pictures:
            lines += ["", f"## {heading}", "", f"`python experiments/{script}`"]
            lines += [line for table in shown_tables for line in ("", *table)]
            lines += [line for picture in shown_pictures for line in ("", picture)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="print, write nothing")
    parser.add_argument("--results", type=Path, default=HERE, help="where they are; the page is written there")
    chosen = parser.parse_args()
    if chosen.smoke:
        print(summary(chosen.results))
    else:
        write(chosen.results / "README.md", summary(chosen.results))
