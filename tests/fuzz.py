"""Files that were damaged or made up: refused by ``InputError``, or the same numbers as before. Nothing else.

``python tests/fuzz.py --seconds 3600 --seed 1`` goes on for an hour; ``make test`` runs some seconds of it. Everything
is drawn from the seed, target by target, so that a failure is found again: the message tells target and number, and
``--target NAME --only NUMBER`` runs that one alone.
"""

import argparse
import copy
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.cli import main
from pyro_aevb.data import load
from pyro_aevb.runs import build, load_run, options, parser
from pyro_aevb.runs.folder import Folder
from pyro_aevb.states import sealed

NASTY = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, math.inf, -math.inf, math.nan, "",
    "a", "nan", "1e400", "\x00", "é" * 50, "x" * 5000, "os.system", "torch.load", "../..", "/dev/zero", [], {}, [[]],
    [None], {"a": 1}, {1: 2}, {"class_path": "os.system"}, {"class_path": None}, (), (1, 2), b"bytes", {1, 2},
]  # fmt: skip

# ---------------------------------------------------------------- mutations


def damaged(content, rng):
    """Bytes as a disk, a network or an editor may leave them."""
    data, where = bytearray(content), rng.randrange(len(content) or 1)
    length = min(rng.choice([1, 1, 2, 4, 16, 100, 1000]), len(data) - where)
    kind = rng.choice(["bit", "bit", "bit", "bit", "byte", "zeros", "cut", "hole", "repeat", "swap", "insert"])
    if kind == "bit" and data:
        data[where] ^= 1 << rng.randrange(8)
    elif kind == "byte" and data:
        data[where] = rng.randrange(256)
    elif kind == "zeros":
        data[where : where + length] = bytes(length)
    elif kind == "cut":
        del data[where:]
    elif kind == "hole":
        del data[where : where + length]
    elif kind == "repeat":
        data[where:where] = data[where : where + length]
    elif kind == "swap":
        other = rng.randrange(len(data) or 1)
        one, two = data[where : where + length], data[other : other + length]
        data[where : where + length], data[other : other + length] = two, one
    else:
        data[where:where] = rng.randbytes(length)
    return bytes(data)


def places(value, path=()):
    """Every place in nested containers."""
    yield path
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed(value, rng, tensors=True):
    """A copy with one place taken away, made another, or added to."""
    value = copy.deepcopy(value)
    path = rng.choice([p for p in places(value) if p])
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    key = path[-1]
    kind = rng.choice(["delete", "nasty", "nasty", "nasty", "add", "copy"])
    if kind == "delete":
        del inside[key]
    elif kind == "add" and isinstance(inside, dict):
        inside[rng.choice(["new", 99, "class_path", "init_args", key])] = copy.deepcopy(rng.choice(NASTY))
    elif kind == "copy":
        inside[key] = copy.deepcopy(value)
    elif tensors and isinstance(inside[key], torch.Tensor):
        inside[key] = another_tensor(inside[key], rng)
    else:
        inside[key] = copy.deepcopy(rng.choice(NASTY))
    return value


def another_tensor(tensor, rng):
    """Of another shape, precision, layout, or with other values."""
    shape, flat = tensor.shape, tensor.detach().reshape(-1)
    return rng.choice(
        [
            lambda: torch.zeros(()),
            lambda: torch.zeros(3),
            lambda: torch.zeros(0),
            lambda: tensor.unsqueeze(0),
            lambda: flat[: len(flat) // 2].clone(),
            lambda: torch.zeros(1).expand(10**6, 10**6),
            lambda: torch.zeros(()).expand(shape),
            lambda: tensor.to(torch.int64),
            lambda: tensor.to(torch.float16),
            lambda: tensor.to(torch.complex64),
            lambda: tensor.bool(),
            lambda: torch.full(shape, math.nan),
            lambda: torch.full(shape, math.inf),
            lambda: torch.full(shape, 1e38),
            lambda: torch.zeros(shape).to_sparse(),
            lambda: torch.empty(shape, device="meta"),
            lambda: torch.nn.Parameter(torch.zeros(shape)),
            lambda: rng.choice(NASTY),
        ]
    )()


def resealed(state):
    """With a right digest, if one can be made."""
    try:
        return sealed(state)
    except Exception:  # of a tensor without memory, or with a layout of its own
        return state


# ---------------------------------------------------------------- targets


def equal(one, other):
    """Whether two values are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


class Fuzz:
    """A run and data in the current folder, and what to do to them."""

    def __init__(self):
        words = ("--hidden=4", "--latent_dim=2", "--samples=400", "--report_every=100", "--save_every=200")
        rows = np.random.default_rng(0).random((40, 5)).round().astype(np.float32)
        np.save("data.npy", rows)
        np.savez("data.npz", train=rows[:30], test=rows[30:], labels_train=np.arange(30), labels_test=np.arange(10))
        assert main(["train", *words, "--data=data.npz", "--batch_size=10", "--engine=eager", "--out=run"]) == 0
        self.run = Folder("run")
        self.bytes = {path.name: path.read_bytes() for path in [*Path("run").glob("[!.]*.*"), *Path().glob("data.*")]}
        self.state, self.records = self.run.load(), self.run.metrics()
        self.config = yaml.safe_load(self.bytes["config.yaml"])
        self.numbers = self.evaluated()
        self.rows = [torch.from_numpy(rows[:30]), torch.from_numpy(rows[30:])]
        self.trainers = {"adagrad": self.trainer(aevb.optimizers.Adagrad), "adam": self.trainer(torch.optim.Adam)}
        self.trainers["svi"] = self.trainer(torch.optim.Adam, engine="svi")
        self.states = {name: trainer.state_dict() for name, trainer in self.trainers.items()}
        loaded = load_run("run", device="cpu")
        self.em = aevb.MonteCarloEM(loaded.model, self.rows[0], batch_size=10, device="cpu", engine="eager")
        list(self.em.run(40))
        self.em_state = self.em.state_dict()
        self.pair = loaded.model, loaded.guide, loaded.data.test
        self.kept = evidence.importance_weights(*self.pair, 3, keep="kept.pt").log_likelihood
        self.bytes["kept.pt"] = Path("kept.pt").read_bytes()

    def trainer(self, optimizer, engine="eager"):
        """Of the run's parts, some steps on."""
        loaded = load_run("run", device="cpu")
        made = partial(optimizer, lr=0.01)
        trainer = aevb.Trainer(
            loaded.model, loaded.guide, loaded.data.train, optimizer=made, batch_size=10, engine=engine, device="cpu"
        )
        list(trainer.run(50))
        return trainer

    def evaluated(self):
        """The run's weights and data, as evaluation reads them."""
        loaded = load_run("run", device="cpu")
        data = [loaded.data.evaluation(split) for split in ("train", "test")]
        return [loaded.model.state_dict(), loaded.guide.state_dict(), *data]

    def with_file(self, name, content, look):
        """Look at what a file of other content gives; it is put back."""
        path = Path(name) if Path(name).exists() else Path("run") / name
        path.write_bytes(content)
        try:
            return look()
        finally:
            path.write_bytes(self.bytes[name])

    # -------- each takes a random generator; returns what must equal what

    def state_bytes(self, rng):
        """``last.pt``, damaged."""
        content = damaged(self.bytes["last.pt"], rng)
        return self.with_file("last.pt", content, self.run.load), self.state

    def state_of_run(self, rng):
        """``last.pt`` with one value another, and no other digest."""
        state = changed(self.state, rng)
        torch.save(state, "changed.pt")
        return self.with_file("last.pt", Path("changed.pt").read_bytes(), self.run.load), self.state

    def metrics_bytes(self, rng):
        """``metrics.jsonl``, damaged: at its end it may be cut."""
        found = self.with_file("metrics.jsonl", damaged(self.bytes["metrics.jsonl"], rng), self.run.metrics)
        return found, self.records[: len(found)]

    def metrics_values(self, rng):
        """A line with another value."""
        lines = [json.loads(line) for line in self.bytes["metrics.jsonl"].decode().splitlines()]
        i = rng.randrange(len(lines))
        try:
            lines[i] = json.dumps(changed(lines[i], rng))
        except TypeError:  # bytes and sets are not JSON
            lines[i] = "{"
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
        return self.with_file("metrics.jsonl", text.encode(), self.run.metrics), self.records

    def config_bytes(self, rng):
        """``config.yaml``, damaged, as far as its check; the whole way is ``evaluation``'s."""
        content = damaged(self.bytes["config.yaml"], rng)
        self.with_file("config.yaml", content, lambda: parser.read_config(Path("run/config.yaml")))
        return 0, 0

    def config_values(self, rng):
        """``config.yaml`` with another value somewhere."""
        text = yaml.dump(changed(self.config, rng, tensors=False))
        self.with_file("config.yaml", text.encode(), lambda: parser.read_config(Path("run/config.yaml")))
        return 0, 0

    def parsed_config(self, rng):
        """A changed configuration that passed the check, parsed and built as far as data and a trainer are not."""
        Path("changed.yaml").write_text(yaml.dump(changed(self.config, rng, tensors=False)))
        grammar = options.parser()
        config = grammar.parse([], parser.read_config(Path("changed.yaml")))
        build.make_parts(grammar, config)
        return 0, 0

    def evaluation(self, rng):
        """Any file of a run, damaged: what evaluation reads."""
        name = rng.choice(["config.yaml", "config.yaml", "last.pt", "data.npz"])
        return self.with_file(name, damaged(self.bytes[name], rng), self.evaluated), self.numbers

    def sealed_state(self, rng):
        """A training state made up by somebody who knows of digests: refused, or trained on."""
        name = rng.choice(list(self.trainers))
        trainer, state = self.trainers[name], changed(self.states[name], rng)
        return self._loaded(trainer, state, self.states[name])

    def sealed_em_state(self, rng):
        """The same of a Monte Carlo EM."""
        return self._loaded(self.em, changed(self.em_state, rng), self.em_state)

    def _loaded(self, trainer, state, whole):
        before = trainer.state_dict()
        try:
            trainer.load_state_dict(resealed(state))
            list(trainer.run(20))
        except aevb.InputError:
            assert equal(before, trainer.state_dict()), "a refused state left something behind"
            raise
        except aevb.NonFiniteLossError:
            pass  # a plausible state of numbers too large, said so
        trainer.load_state_dict(whole)
        return 0, 0

    def npy_bytes(self, rng):
        """A data file without checksums: any other numbers, whole and finite."""
        found = self.with_file("data.npy", damaged(self.bytes["data.npy"], rng), lambda: load("data.npy"))
        return bool(torch.isfinite(found.train).all() and len(found.test)), True

    def npz_bytes(self, rng):
        """A data file with checksums."""
        found = self.with_file("data.npz", damaged(self.bytes["data.npz"], rng), lambda: load("data.npz"))
        return [found.train, found.test], self.rows

    def npz_arrays(self, rng):
        """Arrays of other shapes, types and names."""
        shape = tuple(rng.choice([0, 1, 2, 5, 30]) for _ in range(rng.randrange(4)))
        kind = rng.choice(["f2", "f4", "f8", "u1", "i8", "b1", "c8", "S3", "U3", "M8[s]", "V4", ">f4"])
        values = np.zeros(shape, np.dtype(kind))
        names = rng.choice([("train", "test"), ("a",), ("train",), ("train", "test", "labels_train"), ("x", "y")])
        np.savez("made.npz", **dict.fromkeys(names, values))
        load("made.npz", binarize=rng.choice(["none", "static", "dynamic"]))
        return 0, 0

    def kept_bytes(self, rng):
        """What a long evaluation keeps."""
        Path("kept.pt").write_bytes(damaged(self.bytes["kept.pt"], rng))
        try:
            return evidence.importance_weights(*self.pair, 3, keep="kept.pt").log_likelihood, self.kept
        finally:
            Path("kept.pt").write_bytes(self.bytes["kept.pt"])


TARGETS = {
    "state_bytes": 8,
    "state_of_run": 6,
    "metrics_bytes": 20,
    "metrics_values": 8,
    "config_bytes": 8,
    "config_values": 8,
    "parsed_config": 1,
    "evaluation": 1,
    "sealed_state": 6,
    "sealed_em_state": 2,
    "npy_bytes": 10,
    "npz_bytes": 8,
    "npz_arrays": 4,
    "kept_bytes": 2,
}
"""Targets, and of how many mutations each gets: the quick ones more."""


def mutate(fuzz, target, seed, number):
    """One mutation; returns whether it was refused."""
    rng = random.Random(f"{seed} {target} {number}")
    try:
        found, right = getattr(fuzz, target)(rng)
    except aevb.InputError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than a line: {error}") from error
        return True
    assert equal(found, right), "another number, without a word"
    return False


def go_through(seed, seconds=math.inf, count=math.inf, target=None, begin=0):
    """Mutations until time or count is up; returns how many of each target were tried and refused."""
    fuzz, end = Fuzz(), time.monotonic() + seconds
    tried = {name: [0, 0] for name in ([target] if target else TARGETS)}
    number = begin
    while time.monotonic() < end and number < begin + count:
        for name in tried:
            for i in range(TARGETS[name]):
                with_number = number * TARGETS[name] + i
                try:
                    tried[name][1] += mutate(fuzz, name, seed, with_number)
                except Exception as error:
                    raise AssertionError(f"--seed {seed} --target {name} --only {with_number}: {error!r}") from error
                tried[name][0] += 1
        number += 1
    return tried


def table(tried):
    """In Markdown, a line a target."""
    rows = [(getattr(Fuzz, name).__doc__.splitlines()[0], *counts) for name, counts in tried.items()]
    rows.append(("all", *(sum(counts) for counts in zip(*tried.values(), strict=True))))
    lines = [
        "| what was damaged or made up | tried | refused by name | the same, or plausible |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {what} | {total} | {refused} | {total - refused} |" for what, total, refused in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--target", choices=TARGETS)
    arguments.add_argument("--only", type=int)
    arguments.add_argument("--begin", type=int, default=0)
    arguments.add_argument("--out", type=Path, help="a file for the table")
    given = arguments.parse_args()
    given.out = given.out and given.out.resolve()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # a disk takes ten times as long
    os.chdir(folder)
    try:
        if given.only is None:
            found = table(go_through(given.seed, given.seconds, target=given.target, begin=given.begin))
            print(found)
            if given.out:
                given.out.write_text(found)
        else:
            print("refused" if mutate(Fuzz(), given.target, given.seed, given.only) else "the same")
    finally:
        shutil.rmtree(folder)
    sys.exit(0)
