"""What holds for the package as a whole: its files, its requirements, its import."""

import re
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path

import yaml

import pyro_aevb as aevb
from tests.commands import run_alone

PACKAGE = Path(aevb.__file__).parent
ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
    extras = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    requirements = [each for each in (*PROJECT["dependencies"], *extras) if not each.startswith("pyro_aevb[")]
    assert len(requirements) >= 40
    assert all(re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+(,!=[\d.]+)*", r) for r in requirements), requirements


def test_lists_of_requirements_are_sorted():
    for found in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        names = [re.split(r"[\[>]", requirement)[0].lower() for requirement in found]
        assert names == sorted(names)


def test_one_version_everywhere():
    """``pyproject.toml`` has it; what is installed and what is cited say the same."""
    assert metadata.version("pyro_aevb") == aevb.__version__ == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{PROJECT['version']}]" in changelog or f"To become {PROJECT['version']}," in changelog


def test_the_example_of_the_docstring_runs(capsys):
    lines = aevb.__doc__.partition("::\n")[2].splitlines()
    code = [line for line in lines[: next(n for n, line in enumerate(lines) if line[:1].strip())] if line]
    names = {}
    exec(textwrap.dedent("\n".join(code)), names)
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[0] == "100000"
    assert -44.4 < float(last[1]) < -20  # nats per datum; 64 fair coins would give -44.4
    assert names["log_px"].shape == (297,)


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
        "import importlib, pkgutil, pyro_aevb\n"
        "rooms = [room.name for room in pkgutil.walk_packages(pyro_aevb.__path__, 'pyro_aevb.')]\n"
        "assert len(rooms) > 100\n"
        "for room in rooms: importlib.import_module(room)\n"
        "assert settings() == before\n"
        "assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()\n"
        "assert (states[2] == np.random.get_state()[1]).all()\n"
    )
    run_alone(check)
