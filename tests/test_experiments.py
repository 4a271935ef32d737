"""Every experiment runs, in seconds; a new one without an entry here fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SMOKE = {
    "benchmark.py": "captured engine",
    "estimators.py": "estimators trained",
    "priors_likelihoods.py": "cases measured",
    "figure2.py": "curves drawn",
    "figure3.py": "points measured",
    "figure4.py": "manifold drawn",
    "figure5.py": "samples drawn",
    "beyond.py": "parts trained",
    "literature.py": "rows measured",
    "wake_sleep.py": "settings measured",
    "appendix_f.py": "full VB measured",
    "members.py": "ways measured",
    "summary.py": "# Experiments",
}  # and what each must print
PARTS = {"contestants.py", "results.py", "training_runs.py"}  # imported by others


def test_every_experiment_has_a_smoke_run():
    assert {path.name for path in EXPERIMENTS.glob("*.py")} == set(SMOKE) | PARTS


@pytest.mark.parametrize("name", SMOKE)
def test_smoke(name, tmp_path, mnist_root, frey_root):
    before = sorted(EXPERIMENTS.rglob("*"))
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / name, "--smoke"], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert SMOKE[name] in done.stdout
    assert sorted(p for p in EXPERIMENTS.rglob("*") if "__pycache__" not in p.parts) == [
        p for p in before if "__pycache__" not in p.parts
    ]
