"""The package as others get it: sdist and wheel, the wheel installed by itself, used and type checked there."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
STRAY = "somebodys_own.pt"

RIGHT = """
from typing import assert_type

import torch

import pyro_aevb as aevb

data = aevb.data.load("digits", binarize="dynamic")
size = len(data.train)
model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 64, hidden=20), size)
guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(64, 2, hidden=20), size)
trainer = aevb.Trainer(model, guide, data.train, estimator=aevb.estimators.SGVB(), batch_size=100, seed=0)
for progress in trainer.run(samples=2_000):
    assert_type(progress.samples_seen, int)
    assert_type(progress.bound, float)
log_px = aevb.evidence.importance_sampling(model, guide, data.test, num_samples=10)
assert_type(log_px, torch.Tensor)
run = aevb.load_run("run")
assert_type(run.trainer(), aevb.Trainer)
print(aevb.__version__, progress.samples_seen, len(log_px))
"""

WRONG = """
import pyro_aevb as aevb

data = aevb.data.load("digits")
model = aevb.GenerativeModel(aevb.priors.StandardNormal("two"), aevb.likelihoods.Bernoulli(2, 64))  # error
guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(64, 2))
trainer = aevb.Trainer(model, guide, data.train, seed="zero")  # error
print([progress.bond for progress in trainer.run(samples=100)])  # error
print(aevb.evidence.importance_sampling(model, guide, data.test, num_samples=10).uppercase())  # error
print(aevb.evidence.importance_smapling)  # error
"""


def run(*command, folder, fails=False):
    """Run a command in a folder, without this checkout on its path; what it printed."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MYPY"))}
    done = subprocess.run([*map(str, command)], cwd=folder, env=settings, capture_output=True, text=True)
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def index(request, tmp_path_factory):
    """The package index answers; where it does not, nothing can be built or installed by itself."""
    folder = tmp_path_factory.mktemp("index")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--retries=1",
        f"--dest={folder}",
        "hatchling",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    reason = f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}"
    if request.config.getoption("--require-data"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def built(index, tmp_path_factory):
    """The sdist, and the wheel that is built from it alone, of a checkout where somebody has worked."""
    folder = tmp_path_factory.mktemp("built")
    checkout = folder / "checkout"
    unwanted = shutil.ignore_patterns(".git", ".venv", ".*cache", "__pycache__", ".hypothesis", "_build", "*.egg-info")

    def ignored(place, names):
        """What the tools of a developer left, and at the top what somebody trained and built: it may be gigabytes."""
        return unwanted(place, names) | ({"runs", "dist", "build"} if Path(place) == ROOT else set())

    shutil.copytree(ROOT, checkout, ignore=ignored)
    for place in ("runs/mine", "pyro_aevb/runs/mine", "docs/_build", "build"):
        (checkout / place).mkdir(parents=True, exist_ok=True)
        (checkout / place / STRAY).write_text("left by somebody")
    run(sys.executable, "-m", "build", "--outdir", folder, checkout, folder=folder)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "pyro_aevb").rglob("*.py")}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "pyro_aevb").rglob("page/*.*")}
    assert len(pages) > 10  # what the explorer's page and the report are made of
    assert names == sources | pages | {"pyro_aevb/py.typed"}
    told = metadata(built[1])
    assert told["License-Expression"] == "Apache-2.0"
    assert told.get_all("License-File") == ["LICENSE"]


def test_the_sdist_holds_what_runs_the_tests_and_builds_the_documentation(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"LICENSE", "Makefile", "README.md", "CHANGELOG.md", "CITATION.cff", "docs/conf.py", "tests/conftest.py"}
    assert needed <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "experiments").rglob("*.json")} <= names
    assert not [name for name in names if name.endswith(STRAY)]


def test_a_package_index_shows_the_readme_without_broken_links(built):
    told = metadata(built[1])
    assert told["Description-Content-Type"] == "text/markdown"
    shown = told.get_payload(decode=True).decode()
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```.*?```", readme, re.DOTALL)
    assert blocks
    assert all(block in shown for block in blocks)  # code is as it was
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", shown, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=[\"']([^\"']+)", prose)
    assert links
    assert all((link or source).startswith(("https://", "#")) for link, source in links), links
    assert "nowhere:" not in shown
    for text in re.findall(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)", readme):
        assert text in shown


def test_the_wheel_works_by_itself(built, tmp_path):
    """In an environment with nothing else: the command line, a program that uses the public names, and their types."""
    environment = tmp_path / "environment" / "bin"
    run(sys.executable, "-m", "venv", environment.parent, folder=tmp_path)
    run(environment / "python", "-m", "pip", "install", "-q", built[1], "mypy", folder=tmp_path)

    command = environment / "pyro-aevb"
    work = tmp_path / "work"
    work.mkdir()
    settings = ["--data=digits", "--latent_dim=2", "--hidden=20", "--samples=2000", "--out=run"]
    run(command, "train", *settings, folder=work)
    numbers = json.loads(run(command, "evaluate", "run", "--num_samples=50", "--json", folder=work))
    assert (
        -60 < numbers["bound"]["mean"] < -20
    )  # nats per datum; -44.4, the entropy of 64 fair coins, says nothing learnt

    (work / "right.py").write_text(RIGHT)
    (work / "wrong.py").write_text(WRONG)
    version, *counts = run(environment / "python", "right.py", folder=work).split()
    assert f'\nversion = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert counts == ["2000", "297"]

    mypy = [environment / "python", "-m", "mypy", "--strict"]
    run(*mypy, "right.py", folder=work)
    found = re.findall(r"^wrong\.py:(\d+): error", run(*mypy, "wrong.py", folder=work, fails=True), re.MULTILINE)
    meant = [number for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# error")]
    assert [int(number) for number in found] == meant
