"""Does a commit compute the same bytes as another one? For changes of structure, which should change no number.

A fixed set of trainings (engines by estimators by three pairs), Monte Carlo EM, ensembles, evaluations and pictures is
run in a checkout of each commit, in one process after another on the same machine, with processor settings fixed by
name. After each step of a training the weights enter a digest; results and pictures enter theirs as they are.

``python experiments/same_bytes.py HEAD~20 HEAD`` prints what differs; some ten minutes a commit. A commit may be
``.``, the working tree.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

STEPS = 300
ROOT = Path(__file__).resolve().parent.parent

# ---------------------------------------------------------------- what is run, in a checkout


def everything(smoke: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names, and what computes their digests; the package is that of the checkout, and is imported late."""
    steps = 20 if smoke else STEPS
    for pair in PAIRS:
        for engine in ("eager", "captured", "svi"):
            for name in ("SGVB", "IWAE") if smoke else estimator_names():
                yield f"{pair} {engine} {name}", partial(trained, pair, engine, name, steps)
    for engine in ("eager", "captured"):
        for e_step in ("minibatch", "all"):
            yield f"MonteCarloEM {engine} {e_step}", partial(by_em, engine, e_step, steps // 10)
    yield "Ensemble", partial(by_ensemble, steps)
    for name in EVALUATIONS:
        yield f"evaluation {name}", partial(evaluated, name)
    yield "command line", by_command_line


def estimator_names() -> list[str]:
    """Names of all estimators that the checkout has."""
    from pyro_aevb import estimators

    return list(estimators.__all__)


class OwnModel(nn.Module):
    """Somebody's Pyro program: dropout and batch normalisation, its own names, one plate without a size."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 64))

    def forward(self, pixels: torch.Tensor) -> None:
        """p(code) p(pixels | code)."""
        pyro.module("net", self)
        with pyro.plate("images", len(pixels), dim=-1):
            code = pyro.sample("code", dist.Laplace(torch.zeros(3), torch.ones(3)).to_event(1))
            pyro.sample("pixels", dist.Normal(self.net(code), 0.3).to_event(1), obs=pixels)


class OwnGuide(nn.Module):
    """Its guide, with a parameter of ``pyro.param``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 40), nn.Dropout(0.1), nn.Tanh(), nn.Linear(40, 3))

    def forward(self, pixels: torch.Tensor) -> None:
        """q(code | pixels)."""
        pyro.module("encoder", self)
        scale = pyro.param("scale", torch.full((3,), 0.5), constraint=dist.constraints.positive)
        with pyro.plate("images", len(pixels), dim=-1):
            pyro.sample("code", dist.Laplace(self.net(pixels), scale).to_event(1))


def digits_pair() -> tuple[Any, Any, Any]:
    """Small, on eight by eight digits, dynamically binarised."""
    import pyro_aevb as aevb

    data = aevb.data.load("digits", binarize="dynamic").train
    return (*paper_pair(64, 5, 50, len(data)), data)


def mnist_pair() -> tuple[Any, Any, Any]:
    """The paper's, on MNIST where it is; else on as many random pixels."""
    import pyro_aevb as aevb

    try:
        data = aevb.data.load("mnist", binarize="static").train[:5000]
    except (aevb.InputError, OSError):
        data = (torch.rand(5000, 784, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    return (*paper_pair(784, 20, 500, len(data)), data)


def own_pair() -> tuple[Any, Any, Any]:
    """Somebody's, on the digits' real values."""
    import pyro_aevb as aevb

    with aevb.seeded(0):
        return OwnModel(), OwnGuide(), aevb.data.load("digits", binarize="none").train


def paper_pair(data_dim: int, latent_dim: int, hidden: int, size: int) -> tuple[Any, Any]:
    """Model and guide of the paper."""
    import pyro_aevb as aevb

    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Bernoulli(latent_dim, data_dim, hidden=[hidden])
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(latent_dim), likelihood, size)
        return model, aevb.RecognitionModel(aevb.guides.DiagonalNormal(data_dim, latent_dim, hidden=[hidden]), size)


PAIRS = {"digits": digits_pair, "mnist": mnist_pair, "own": own_pair}


def trainer_of(pair: str, engine: str, name: str, **options: Any) -> Any:
    """A trainer that reports every step, one thread, products in full."""
    import pyro_aevb as aevb

    model, guide, data = PAIRS[pair]()
    estimator = getattr(aevb.estimators, name)(**particles(name))
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    options = {"batch_size": 100, "report_every": 100, "device": "cpu", "engine": engine, **options}
    return fixed(aevb.Trainer(model, guide, data, estimator, optimizer, **options))


def particles(name: str) -> dict[str, Any]:
    """Two particles; one for estimators A and B, as the paper has it."""
    return {} if name in ("SGVB", "SGVBAnalyticKL") else {"num_particles": 2}


def fixed(trainer: Any) -> Any:
    """The trainer, with processor settings that do not depend on the machine."""
    trainer.settings = replace(trainer.settings, matmul="highest", threads=1)
    return trainer


def trained(pair: str, engine: str, name: str, steps: int) -> str:
    """The digest of the weights after each step, and of the reports."""
    trainer = trainer_of(pair, engine, name)
    return digest_of_steps(trainer, steps, lambda: trainer.parameters.values())


def digest_of_steps(training: Any, steps: int, weights: Callable[[], Any]) -> str:
    """The digest of weights and reports after each step of a training."""
    digest = hashlib.sha256()
    for progress in training.run(steps * 100):
        digest.update(repr(progress).encode())
        for tensor in weights():
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def by_em(engine: str, e_step: str, steps: int) -> str:
    """The digest of weights, chains and reports of Monte Carlo EM."""
    import pyro_aevb as aevb

    model, _, data = digits_pair()
    training = fixed(
        aevb.MonteCarloEM(model, data, engine=engine, e_step=e_step, report_every=100, batch_size=100, device="cpu")
    )
    return digest_of_steps(training, steps, lambda: [*model.parameters(), training.chains])


def by_ensemble(steps: int) -> str:
    """The digest of three members' weights, trained as one ensemble."""
    import pyro_aevb as aevb

    members = [trainer_of("digits", "eager", "SGVB", seed=seed) for seed in range(3)]
    ensemble = aevb.Ensemble(members)
    ensemble.settings = members[0].settings
    return digest_of_steps(ensemble, steps, lambda: [p for each in members for p in each.parameters.values()])


EVALUATIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "bound": lambda *of: evidence().bound(*of, num_samples=3),
    "importance sampling": lambda *of: evidence().importance_sampling(*of, num_samples=500),
    "annealed": lambda *of: tuple(evidence().annealed_importance_sampling(*of, steps=20, chains=3)),
    "bidirectional": lambda *of: tuple(evidence().bidirectional(*of, steps=20, chains=3)),
    "activity": lambda _, guide, data: evidence().activity(guide, data),
    "diagnosis": lambda *of: tuple(diagnostics().diagnose(*of, num_samples=3, gap_count=20)),
}


def evidence() -> Any:
    """The checkout's module, imported late."""
    from pyro_aevb import evidence

    return evidence


def diagnostics() -> Any:
    """The checkout's module, imported late."""
    from pyro_aevb import diagnostics

    return diagnostics


def evaluated(name: str) -> str:
    """The digest of one evaluation of a pair that was trained a little."""
    trainer = trainer_of("digits", "eager", "SGVB")
    list(trainer.run(3_000))
    data = torch.bernoulli(torch.full((130, 64), 0.3), generator=torch.Generator().manual_seed(1))
    return digest_of(EVALUATIONS[name](trainer.model, trainer.guide, data))


def digest_of(value: Any) -> str:
    """The digest of a tensor, a number, or a container of them."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, tuple | list):
        return hashlib.sha256("".join(map(digest_of, value)).encode()).hexdigest()
    if isinstance(value, dict):
        return digest_of(sorted(value.items()))
    return hashlib.sha256(repr(value).encode()).hexdigest()


def by_command_line() -> str:
    """A run by the command line: its reports without their seconds, its weights, its pictures, what it prints."""
    from matplotlib import image

    from pyro_aevb.cli import main

    torch.set_num_threads(1)
    digest = hashlib.sha256()
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(printed):
        run = f"{folder}/run"
        words = ["--data=digits", "--latent_dim=2", "--hidden=50", "--samples=20000", f"--out={run}", "--device=cpu"]
        assert main(["train", *words]) == 0
        assert main(["evaluate", run, "--num_samples=100"]) == 0
        assert main(["plot", run]) == 0
        for path in sorted(Path(run).rglob("*.png")):
            digest.update(path.name.encode())
            digest.update(np.ascontiguousarray(image.imread(path)).tobytes())
    digest.update(printed.getvalue().replace(folder, "").encode())
    return digest.hexdigest()


# ---------------------------------------------------------------- commits


def digests_at(commit: str, smoke: bool) -> dict[str, str]:
    """The digests of a commit, taken in a checkout of its own; those of ``.`` where it is."""
    if commit == ".":
        return in_checkout(ROOT, smoke)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", place, commit], cwd=ROOT, check=True)
        try:
            return in_checkout(place, smoke)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", place], cwd=ROOT, check=True)


def in_checkout(place: Path, smoke: bool) -> dict[str, str]:
    """The digests that this file takes in another process, with the checkout's package."""
    environment = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--here", *(["--smoke"] if smoke else [])]
    done = subprocess.run(words, env=environment, cwd=place, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def here(smoke: bool) -> dict[str, str]:
    """All digests, by the package that this process imports; what fails is told by its error."""
    torch.set_num_threads(1)
    found = {}
    for name, compute in everything(smoke):
        try:
            found[name] = compute()
        except Exception as error:  # such as an estimator that a pair does not suit: both commits must say so
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
        print(f"{name:<45}{found[name][:40]}", file=sys.stderr, flush=True)
    return found


def main_script() -> None:
    """Compare commits; see the top of this file."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("commits", nargs="*", default=["."])
    arguments.add_argument("--smoke", action="store_true")
    arguments.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("--keep", type=Path, help="a JSON file that digests are kept in, by commit")
    given = arguments.parse_args()
    if given.here:
        print(json.dumps(here(given.smoke)))
        return
    kept = json.loads(given.keep.read_text()) if given.keep and given.keep.exists() else {}
    for commit in given.commits:
        if commit == "." or commit not in kept:
            kept[commit] = digests_at(commit, given.smoke)
        if given.keep:
            given.keep.write_text(json.dumps(kept, indent=1))
    first, *others = (kept[commit] for commit in given.commits)
    for commit, other in zip(given.commits[1:], others, strict=True):
        differing = [name for name in first if first[name] != other.get(name)]
        print(f"{commit}: {len(first) - len(differing)} of {len(first)} the same bytes as {given.commits[0]}")
        for name in differing:
            print(f"  {name}: {first[name][:60]} / {other.get(name, 'missing')[:60]}")
    print(f"{len(first)} digests taken")


if __name__ == "__main__":
    main_script()
