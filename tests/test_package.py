"""What holds for the package as a whole: its files, its requirements, its import."""

import re
from pathlib import Path

import pyro_aevb as aevb
from tests.commands import run_alone

PACKAGE = Path(aevb.__file__).parent


def test_no_file_needs_pickle():
    """Kills, resumption and crafted files have tests of their own in tests/runs."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"weights_only\s*=\s*False|import pickle|pickle\.load|allow_pickle\s*=\s*True", text), path
        assert text.count("torch.load(") == len(re.findall(r"torch\.load\([^)]*weights_only=True", text)), path


def test_versions_are_ranges():
    """``assert pyro.__version__ == ...`` breaks on every release."""
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"__version__\)?\s*[=!]=", path.read_text()), path
    text = (PACKAGE.parent / "pyproject.toml").read_text().split("dependencies = [")[1].split("]\n")[0]
    requirements = re.findall(r'^    "([^"]+)",$', text, re.MULTILINE)
    assert len(requirements) >= 10
    assert all(">=" in r and "==" not in r for r in requirements), requirements


def test_importing_seeds_nothing_sets_nothing_and_downloads_nothing():
    """What does download, when asked to, is tested in tests/data."""
    check = (
        "import socket, torch, random, numpy as np\n"
        "def refuse(*a, **k): raise AssertionError('network on import')\n"
        "socket.socket.connect = refuse\n"
        "import pyro\n"
        "states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()\n"
        "settings = lambda: (torch.get_default_dtype(), torch.get_num_threads(),\n"
        "    torch.get_float32_matmul_precision(), torch.is_grad_enabled(),\n"
        "    pyro.infer.is_validation_enabled(), len(pyro.get_param_store()))\n"
        "before = settings()\n"
        "import pyro_aevb, pyro_aevb.cli\n"
        "assert settings() == before\n"
        "assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()\n"
        "assert (states[2] == np.random.get_state()[1]).all()\n"
    )
    run_alone(check)
