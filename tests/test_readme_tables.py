"""The tables of docs/figures.md have the numbers that the experiments keep."""

import csv
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "figures.md").read_text().replace("*", "").replace("\u2212", "-")
DATA = {"MNIST": "mnist", "Frey Face": "frey_face"}


def rows_of(path):
    with (ROOT / "experiments" / path).open() as file:
        return list(csv.DictReader(file))


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def table(head):
    """Cells of the page's table with that first line, without it."""
    lines = PAGE.split(head + "\n")[1].split("\n\n")[0].splitlines()[1:]
    return [cells_of(line) for line in lines]


def number(text, decimals=1):
    return f"{float(text):.{decimals}f}"


def test_figure_2():
    rows = {(r["data"], r["latent_dim"], r["method"], float(r["samples"])): r for r in rows_of("figure2/table.csv")}
    found = table("| | AEVB, 1e6 samples | paper | 1e7 | paper | wake-sleep, 1e6 | paper | 1e7 | paper |")
    assert len(found) == 9
    for name, *cells in found:
        data, latent_dim = re.fullmatch(r"(.*), (\d+) latents", name).groups()
        own = [rows[DATA[data], latent_dim, method, samples] for method in ("AEVB", "WS") for samples in (1e6, 1e7)]
        decimals = 1 if data == "MNIST" else 0
        assert cells == [number(row[column], decimals) for row in own for column in ("ours", "paper")]


@pytest.mark.parametrize("name", ["choices", "wake_sleep"])
def test_what_the_paper_leaves_open(name):
    kept = (ROOT / "experiments" / name / "table.md").read_text()
    kept = kept.split("Test bound after 10,000,000")[0]  # of which the page tells in words
    lines = [line for line in kept.splitlines() if line.startswith("|")]
    assert len(lines) > 10
    assert not set(lines) - set(PAGE.splitlines())


def test_figure_3():
    rows = {
        (r["size"], r["method"], float(f"{int(r['samples']):.0e}"), r["split"]): r for r in rows_of("figure3/table.csv")
    }
    methods = {"AEVB": "AEVB", "wake-sleep": "WS", "Monte Carlo EM": "MCEM", "minibatch by minibatch": "minibatch MCEM"}
    columns = [("1000", 1e7), ("1000", 3e7), ("50000", 1e7)]
    found = table("| | N = 1000, 1e7 samples | paper | 3e7 | paper | N = 50,000, 1e7 | paper |")
    assert [name for name, *_ in found] == [*methods]
    for name, *cells in found:
        expected = []
        for size, samples in columns:
            both = [rows.get((size, methods[name], samples, split)) for split in ("train", "test")]
            expected += [" / ".join(number(r[of]) for r in both if r and r[of]) for of in ("ours", "paper")]
        expected = ["below -167" if (name, i) == ("Monte Carlo EM", 5) else cell for i, cell in enumerate(expected)]
        assert cells == expected  # the paper's curve of Monte Carlo EM begins later
    for line, samples in (("the paper", "paper"), ("updates of all data, step size 0.1 (ours above)", "ours")):
        both = [[rows["50000", "MCEM", at, split][samples] for split in ("train", "test")] for at in (3e7, 7e7)]
        cells = [" / ".join(map(number, pair)) for pair in both]
        assert [line, *cells] in table("| | 3e7 | 6.75e7 |")


def test_beyond_the_paper():
    rows = {(r["data"], r["latent_dim"]): r for r in rows_of("beyond/table.csv") if r["part"] == "Adam"}
    found = table("| | paper, 1e8 | ours | samples |")
    assert len(found) == len(rows) == 9
    for name, paper, ours, samples in found:
        data, latent_dim = re.fullmatch(r"(.*), (\d+) latents", name).groups()
        row = rows[DATA[data], latent_dim]
        if data == "MNIST":
            assert (paper, ours) == (number(row["paper_1e8"]), number(row["ours"]))
        else:
            assert paper == number(row["paper_1e8"], 0)
            assert ours == f"{number(row['ours'], 0)} ± {number(row['se'], 0)}"
        assert float(samples) == float(row["samples"])


def test_beyond_the_papers_parts_side_by_side():
    rows = {(r["data"], r["part"]): r["ours"] for r in rows_of("beyond/table.csv")}
    told = " ".join(PAGE.split("Other parts\nside by side")[1].split("\n\n")[0].split())
    words = ["Adam alone", "DReG with 5 particles", "VampPrior", "a guide of autoregressive flows", "networks"]
    parts = ["Adam alone", "DReG(5)", "VampPrior(500)", "flow guide", "convolutions"]
    for word, part in zip(words, parts, strict=True):
        assert f"{word} {number(rows['mnist', part])} and {number(rows['frey_face', part], 0)}" in told


def test_the_literature():
    rows = {(r["name"], r["epochs"]): r for r in rows_of("literature/evidence.csv") if r["seed"] == "0"}
    found = table("| | epochs | bound, 1000 images | log p(x), 1000 images | all 10,000 | published |")
    assert len(found) == len(rows)
    for name, epochs, *cells in found:
        row = rows[name, f"{float(epochs):.1f}"]
        pairs = [("log_likelihood", "se"), ("all_images", "all_se")]
        log_likelihoods = [f"{number(row[v])} ± {number(row[se])}" if row[v] else "" for v, se in pairs]
        published = number(row["published"], 2) if row["published"] and float(epochs) > 100 else ""
        assert cells == [number(row["bound"]), *log_likelihoods, published]


def test_appendix_f():
    last = {(r["method"], r["size"]): r for r in rows_of("appendix_f/points.csv")}  # the last point stays
    runs = json.loads((ROOT / "experiments" / "appendix_f" / "settings.json").read_text())["runs"]
    ends = {(run["method"], str(run["size"])): run["test_end"] for run in runs}
    found = {name: cells for name, *cells in table("| | N = 1000 | N = 50,000 |")}
    for method, name in {"ML": "maximum likelihood", "MAP": "MAP", "VB": "full VB"}.items():
        keys = [(method, size) for size in ("1000", "50000")]
        assert found[name] == [f"{number(last[key]['train_predictive'])} / {number(ends[key])}" for key in keys]
    assert found["bound on log p(X) / N"] == [number(last["VB", size]["log_px_bound"]) for size in ("1000", "50000")]
