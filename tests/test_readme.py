"""The text of the README and of the pages in ``docs/`` is run as it stands."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.cli import main

ROOT = Path(__file__).parent.parent


def code_of(page):
    """The blocks of Python on a page, in their order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


README = (ROOT / "README.md").read_text()
FIRST, OPENED, SVI, PRIOR = code_of("README.md")
*OWN_PARTS, CHECKS = code_of("docs/own_parts.md")


def test_the_first_example_prints_what_it_says_and_the_rest_goes_on_from_there(capsys):
    names = {"pyro": pyro}
    exec(FIRST, names)
    promised = re.search(r"It prints `bound on train (\S+), log p\(x\) on test (\S+)`", README)
    printed = re.search(r"bound on train (\S+), log p\(x\) on test (\S+)", capsys.readouterr().out)
    for ours, theirs in zip(promised.groups(), printed.groups(), strict=True):
        assert float(theirs) == pytest.approx(float(ours), abs=0.3)  # other machines round otherwise
    assert len([line for line in FIRST.splitlines() if line and not line.startswith("import")]) <= 12

    exec(SVI, names)
    assert float(capsys.readouterr().out) == pytest.approx(float(printed[1]), abs=1)

    expectation_maximisation, full_bayes = code_of("docs/algorithms.md")
    exec(full_bayes, names)
    assert -80 < float(capsys.readouterr().out) < float(printed[1])
    assert names["images"].shape == (16, 64)
    exec(expectation_maximisation, names)
    assert 0.5 < float(capsys.readouterr().out.split()[-1]) <= 1


def test_the_page_on_training(capsys):
    names = {}
    first, scheduled, clipped, stopped, annealed, averaged = code_of("docs/training.md")
    exec(first, names)
    exec(scheduled, names)
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(0, abs=1e-12)
    exec(clipped, names)
    capsys.readouterr()
    exec(stopped, names)
    held_out = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(held_out) == 5
    assert held_out[-1] > held_out[0]
    exec(annealed, names)
    betas = [float(beta) for beta in re.findall(r"[\d.]+", capsys.readouterr().out)]
    assert betas[0] < betas[1] < betas[2] == 1
    assert betas[4] < 1
    assert betas[-1] == 1
    exec(averaged, names)
    assert "tensor(-" in capsys.readouterr().out


def test_a_run_opens_as_an_object(tmp_path, monkeypatch):
    """The command beside it, with fewer samples, keeps the run where the code looks for it."""
    monkeypatch.chdir(tmp_path)
    command = re.search(r"`pyro-aevb (train --latent_dim 10 .*?)`", README)[1].split()
    assert main([*command, "--samples=200"]) == 0
    names = {"aevb": aevb}
    exec(OPENED, names)
    assert names["images"].shape == (16, 64)
    assert names["trainer"].samples_seen == names["run"].samples_seen == 200


def test_add_your_own(tmp_path, monkeypatch, capsys):
    """Exactly that text: four parts, each in a file of its own outside the package, of ten lines or so."""
    for name, text in zip(("prior", "likelihood", "guide", "estimator"), OWN_PARTS, strict=True):
        (tmp_path / f"my_{name}.py").write_text(text)
        assert len([line for line in text.splitlines() if line and "import" not in line]) <= 10
    monkeypatch.chdir(tmp_path)
    assert OWN_PARTS[0] == PRIOR
    page = (ROOT / "docs/own_parts.md").read_text()
    command = re.search(r"pyro-aevb (train --prior my_prior.*)", page)[1].split()
    assert main([*command, "--samples=200", "--likelihood.hidden=8", "--out=run"]) == 0
    assert "on test" in capsys.readouterr().out
    command = (
        re.search(r"pyro-aevb (evaluate runs/digits-1 --trust.*)", page)[1].replace("runs/digits-1", "run").split()
    )
    assert main([*command, "--num_samples=3"]) == 0
    assert main(["evaluate", "run", "--num_samples=3"]) == 2


def test_the_parts_of_add_your_own_keep_their_contracts():
    names = {}
    for text in OWN_PARTS:
        exec(text, names)
    assert "testing.check_estimator(Halfway)" in CHECKS
    exec(CHECKS, names)


def test_the_network_for_images():
    names = {}
    (text,) = code_of("docs/parts.md")
    exec(text, names)
    assert names["guide"](torch.rand(2, 784)).event_shape == (20,)


def plants(path):
    """The table that the pages speak of."""
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
            "hours": np.round(generator.uniform(1, 9, size), 1),
        }
    )
    table.loc[generator.random(size) < 0.2, "length"] = None
    table.to_csv(path / "plants.csv", index=False)
    table.iloc[:5].drop(columns="species").to_csv(path / "new.csv", index=False)


def shell_of(page):
    """The commands of a page's blocks of shell, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = (line.partition("#")[0].split() for block in blocks for line in block.splitlines())
    return [line[1:] for line in lines if line and line[0] == "pyro-aevb"]


def test_the_page_on_your_own_data(tmp_path, monkeypatch):
    """Its commands and its code, one after another, with a small table where it expects the reader's."""
    monkeypatch.chdir(tmp_path)
    plants(tmp_path)
    quick = ["--hidden=20", "--device=cpu"]
    for command in shell_of("docs/data.md"):
        words = [word if word != "1e5" else "2000" for word in command]
        assert main([*words, *(quick if words[0] == "train" else [])]) == 0, command
    assert pd.read_csv("imputed.csv").notna().all().all()
    assert sorted(pd.read_csv("per_row.csv")["anomaly_rank"]) == [1, 2, 3, 4, 5]
    names = {"aevb": aevb}
    for block in code_of("docs/data.md"):
        exec(block, names)
    assert len(names["drawn"]) == 1000
    assert names["threes"].shape == (16, 64)
    assert len(names["filled"].mean) == 500


def test_the_readmes_commands_on_own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plants(tmp_path)
    commands = [command for command in shell_of("README.md") if "runs/plants" in command]
    assert [command[0] for command in commands] == ["train", "encode", "evaluate", "impute"]
    for command in commands:
        assert main([*command, *(["--hidden=20", "--samples=500"] if command[0] == "train" else [])]) == 0
    assert len(pd.read_csv("codes.csv")) == 5


def test_data_larger_than_memory(tmp_path, monkeypatch, capsys):
    """The page's blocks one after another, with small files where it expects its own."""
    monkeypatch.chdir(tmp_path)
    grey = np.random.default_rng(0).integers(0, 256, (600, 28, 28), np.uint8)
    np.save("bytes.npy", grey)
    np.save("images.npy", (grey > 127).reshape(600, -1).astype(np.float32))
    mapped, by_bytes, streamed = code_of("docs/large_data.md")
    names = {}
    exec(mapped, names)
    first = capsys.readouterr().out.splitlines()
    exec(by_bytes, names)
    assert capsys.readouterr().out == "540 60 torch.Size([2, 784])\n"
    assert sum(1 for _ in names["trainer"].run(540)) == 1
    exec(streamed, names)
    assert capsys.readouterr().out.split()[0] == first[0].split()[0] == "2000"


def test_the_command_of_the_real_run_parses(mnist_root, tmp_path, monkeypatch):
    """With so few samples and units that it takes seconds."""
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^pyro-aevb (.*runs/mnist20.*)$", README, re.MULTILINE)
    assert [c.split()[0] for c in commands] == ["train", "evaluate", "plot"]
    for command in commands:
        small = ["--samples=200", "--hidden=4"] if command.startswith("train") else []
        small = ["--num_samples=2"] if command.startswith("evaluate") else small
        assert main([*command.split(), *small]) == 0


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))])
def test_every_link_leads_to_a_file(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in target or ((ROOT / page).parent / target).exists(), target
