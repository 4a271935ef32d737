"""Small runs of the command line, and of Python in a process of its own."""

import subprocess
import sys

from pyro_aevb.runs.folder import Folder
from pyro_aevb.states import sealed

SMALL = [
    "--hidden=8",
    "--latent_dim=2",
    "--samples=400",
    "--report_every=100",
    "--save_every=200",
    "--evaluate_every=200",
]


def train(cli, *arguments, out="run"):
    code, printed, errors = cli("train", *SMALL, f"--out={out}", *arguments)
    assert code == 0, errors
    return printed


def change_state(path, change, name="last"):
    """Change a saved state as somebody would who knows of its digests."""
    run = Folder(path)
    state = run.load(name)
    change(state)
    state["trainer"] = sealed(state["trainer"])
    run.save(name, state)


def run_alone(program):
    """Run lines of Python in a process that has imported nothing before."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
