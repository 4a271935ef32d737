"""The text of the README is run as it stands; the pages in ``docs/`` are run by their own build."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pyro_aevb as aevb
from pyro_aevb import testing
from pyro_aevb.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FIRST, PRIOR, OPENED = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BYTES = 8000


def commands():
    """The words behind ``pyro-aevb`` in the blocks of shell, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = (line.partition("#")[0].split() for block in blocks for line in block.splitlines())
    return [line[1:] for line in lines if line and line[0] == "pyro-aevb"]


def test_it_is_short():
    assert len(README.encode()) < BYTES


def test_the_first_example_prints_what_it_says(capsys):
    exec(FIRST, {})
    promised = re.search(r"It prints `bound on train (\S+), log p\(x\) on test (\S+)`", README)
    printed = re.search(r"bound on train (\S+), log p\(x\) on test (\S+)", capsys.readouterr().out)
    for ours, theirs in zip(promised.groups(), printed.groups(), strict=True):
        assert float(theirs) == pytest.approx(float(ours), abs=0.3)  # other machines round otherwise
    assert len([line for line in FIRST.splitlines() if line and not line.startswith("import")]) <= 12


def plants(path):
    """The table that the README speaks of, and five new rows of it."""
    generator = np.random.default_rng(0)
    size = 200
    z = generator.normal(size=size)
    table = pd.DataFrame(
        {
            "plant": [f"p{i:03d}" for i in range(size)],
            "length": np.round(1000 + 50 * z, 1),
            "seeds": generator.poisson(np.exp(2 + 0.3 * z)),
            "colour": generator.choice(["red", "blue", "white"], size),
            "species": generator.choice(["setosa", "virginica"], size),
        }
    )
    table.loc[generator.random(size) < 0.2, "length"] = None
    table.to_csv(path / "plants.csv", index=False)
    table.iloc[:5].drop(columns="species").to_csv(path / "new.csv", index=False)


def test_the_commands_on_own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plants(tmp_path)
    own = [command for command in commands() if "runs/plants" in command]
    assert [command[0] for command in own] == ["train", "encode", "evaluate", "impute", "plot"]
    for command in own:
        assert main([*command, *(["--hidden=20", "--samples=500"] if command[0] == "train" else [])]) == 0
    assert len(pd.read_csv("codes.csv")) == 5
    assert sorted(pd.read_csv("per_row.csv")["anomaly_rank"]) == [1, 2, 3, 4, 5]
    assert pd.read_csv("imputed.csv").notna().all().all()
    assert list((tmp_path / "runs/plants/figures").glob("*.png"))


def test_the_prior_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_prior.py").write_text(PRIOR)
    assert len([line for line in PRIOR.splitlines() if line and "import" not in line]) <= 10
    monkeypatch.chdir(tmp_path)
    command = re.search(r"pyro-aevb (train --prior my_prior[^`]*)", README)[1].split()
    assert main([*command, "--samples=200", "--likelihood.hidden=8", "--out=run"]) == 0
    assert "on test" in capsys.readouterr().out
    names = {}
    exec(PRIOR, names)
    testing.check_prior(names["Logistic"])


def test_estimators_are_compared_and_the_run_opens(tmp_path, monkeypatch, capsys):
    """The commands, with fewer samples and draws, keep the run where the code looks for it."""
    monkeypatch.chdir(tmp_path)
    quick = {"train": ["--samples=200"], "compare": ["--draws=3", "--reference_draws=5"], "explore": ["--count=10"]}
    compared = [command for command in commands() if "runs/digits" in command]
    assert [command[0] for command in compared] == ["train", "compare", "compare", "explore"]
    for command in compared:
        assert main([*command, *quick[command[0]]]) == 0
    assert "ScoreFunction" in capsys.readouterr().out
    names = {"aevb": aevb}
    exec(OPENED, names)
    assert names["images"].shape == (16, 64)
    assert names["trainer"].samples_seen == names["run"].samples_seen == 200


def test_runs_are_put_side_by_side(tmp_path, monkeypatch, capsys):
    """A sweep with fewer samples, and its report."""
    monkeypatch.chdir(tmp_path)
    quick = {"sweep": ["--samples=200"], "report": ["--count=20", "--num_samples=5"]}
    side_by_side = [command for command in commands() if "runs/priors" in command]
    assert [command[0] for command in side_by_side] == ["sweep", "report"]
    for command in side_by_side:
        assert main([*command, *quick[command[0]]]) == 0
    assert len(list((tmp_path / "runs" / "priors").glob("prior=*,seed=*"))) == 6
    assert "Laplace" in capsys.readouterr().out
    assert "Laplace" in (tmp_path / "priors.html").read_text()


def test_the_time_of_a_step_is_that_of_the_benchmark():
    steps = json.loads((ROOT / "experiments" / "benchmark" / "results.json").read_text())["steps"]
    ratios = [by["captured engine"]["ms"] / by["sgvb.py, eager, fused Adam"]["ms"] for by in steps.values()]
    assert len(ratios) == 8
    assert f"took {min(ratios):.2f} to {max(ratios):.2f} of the time" in README


def test_every_link_leads_to_a_file():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert "://" in target or (ROOT / target).exists(), target
