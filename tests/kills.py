"""A run that kill -9 ends again and again, at places that are counted and never timed: ``python tests/kills.py``.

Each child trains with watched file operations and kills itself where it is told to: in the middle of a file, between
a file's sync and its rename, between the rename and the folder's sync, in the middle of a line of metrics, of a step,
or at the n-th line of code that it runs. Nothing depends on how fast the machine is. It works in the current folder,
which should be empty.
"""

import builtins
import os
import random
import signal
import stat
import sys
import traceback
from pathlib import Path

import sklearn.datasets  # noqa: F401  # these two are imported late by what runs below: once here, not in each child
import torch
import torch._dynamo

from pyro_aevb import files
from pyro_aevb.cli import main, train
from pyro_aevb.engines import eager as engines
from pyro_aevb.runs import folder as checkpoints
from pyro_aevb.runs import options
from pyro_aevb.runs.folder import Folder
from pyro_aevb.training import trainer as training

EVERY = ["--batch_size=20", "--report_every=40", "--save_every=40", "--evaluate_every=80"]
OPTIONS = ["--hidden=16", "--latent_dim=2", *EVERY]
QUIET = 800  # samples after which reports of so few data fall as well as rise, so that not every save is the best
MORE = 4_000  # samples within which a child comes to its place; one that does not ends by itself, and that is an error
TRACED = {module.__file__ for module in (checkpoints, engines, files, train, training)}

# A place is what has just happened, to which file, and how many times a child lets it happen.
BEGINNING = [
    ("synced", "config.yaml", 1),
    ("half written", "last.pt", 5),
    ("folder synced", "last.pt", 1),
    ("complete", "run", 1),  # all its files are there, under a temporary name
    ("renamed", "run", 1),
]
WRITING = ("half written", "written", "synced", "renamed", "folder synced")
AT_ONCE = [(moment, file, 1) for file in ("config.yaml", "metrics.jsonl") for moment in WRITING]  # as a child resumes


def places(rng):
    """All places after the beginning in a random order; saves, lines and steps after a random number of them."""
    saves = [(moment, file, rng.randint(1, 3)) for file in ("last.pt", "best.pt") for moment in WRITING[1:]]
    halves = [("half written", file, rng.randint(1, 60)) for file in ("last.pt", "best.pt") for _ in range(2)]
    lines = [(moment, "metrics.jsonl", rng.randint(1, 6)) for moment in ("half a line", "line")]
    steps = [("gradients", "step", rng.randint(1, 9)) for _ in range(2)]
    code = [("run", "line of code", rng.randint(1, 600)) for _ in range(8)]
    drawn = [*AT_ONCE, *saves, *halves, *lines, *steps, *code]
    return rng.sample(drawn, len(drawn))


class Watch:
    """Kills its own process at a place; installed in a child, whose functions it wraps."""

    def __init__(self, place):
        *self.place, self.left = place
        self.file = None  # the one that was opened last

    def at(self, moment, file=None):
        if [moment, file or self.file] == self.place:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self):
        checkpoints.open = files.open = self.open
        os.fsync, os.replace, os.rename = self.fsync(os.fsync), self.replace(os.replace), self.rename(os.rename)
        engines.EagerGradients.__call__ = self.step(engines.EagerGradients.__call__)
        if self.place == ["run", "line of code"]:
            sys.settrace(self.trace)

    def open(self, path, mode):
        name = Path(path).name
        self.file = name if mode == "a" else name.removeprefix(".").rsplit(".", 1)[0]  # .last.pt.4711
        return Watched(builtins.open(path, mode), self, lines=mode == "a")

    def fsync(self, original):
        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                original(descriptor)
                self.at("folder synced")
            else:
                self.at("written")
                original(descriptor)
                self.at("synced")

        return fsync

    def replace(self, original):
        def replace(source, target):
            original(source, target)
            self.at("renamed")

        return replace

    def rename(self, original):
        def rename(source, target):
            self.at("complete", "run")
            original(source, target)
            self.at("renamed", "run")

        return rename

    def step(self, original):
        def loss_and_gradients(*args):
            loss = original(*args)
            self.at("gradients", "step")
            return loss

        return loss_and_gradients

    def trace(self, frame, event, _):
        if event == "line":
            self.at("run", "line of code")
        return self.trace if frame.f_code.co_filename in TRACED else None


class Watched:
    """A file whose writes reach the disk in halves."""

    def __init__(self, file, watch, lines):
        self.file, self.watch = file, watch
        self.half, self.whole = ("half a line", "line") if lines else ("half written", "grown")

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        middle = len(data) // 2
        for part, moment in ((data[:middle], self.half), (data[middle:], self.whole)):
            self.file.write(part)
            self.file.flush()
            self.watch.at(moment)
        return len(data)


def child(*arguments, place=None):
    """Train in a forked process, which has everything imported; returns how it ended."""
    if (pid := os.fork()) == 0:
        code = 3
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if place:
                Watch(place).install()
            code = main(["train", *arguments])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def begin(samples, out, place=None):
    return child(*OPTIONS, "--engine=eager", f"--samples={samples}", f"--out={out}", place=place)


def resume(samples, out, place=None):
    return child(f"--resume={out}", f"--samples={samples}", place=place)


def killed(status, place):
    assert os.WIFSIGNALED(status), f"a child ended with status {status} and never came to {place}"
    assert os.WTERMSIG(status) == signal.SIGKILL, (place, status)


def equal(one, other):
    """Whether two states are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def without_clock(run):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in run.metrics()]


def begin_and_kill():
    """Kill a run that begins: its folder is there with its last rename, and not before."""
    for place in BEGINNING:
        killed(begin(MORE, "killed", place), place)
        assert os.path.exists("killed") == (place[:2] == ("renamed", "run")), place


def resume_and_kill(rng):
    """Kill a run at all places, and look at what each kill leaves; returns the samples that it has seen."""
    state = Folder("killed").load()
    for place in places(rng):
        killed(resume(state["samples_seen"] + MORE, "killed", place), place)
        run, before = Folder("killed"), state
        state = run.load()
        assert all(state[key] >= before[key] for key in ("samples_seen", "best_bound")), place
        assert run.metrics() or not state["samples_seen"], place
        print(*place, "seen", state["samples_seen"])
    return state["samples_seen"]


def compare(one, other):
    """A run left alone and one that was killed are the same, but for the clock."""
    for name in ("last", "best"):
        assert equal(one.load(name), other.load(name)), name
    assert without_clock(one) == without_clock(other)
    assert (one.path / "config.yaml").read_text() == (other.path / "config.yaml").read_text()
    assert {p.name for p in one.path.iterdir()} == {p.name for p in other.path.iterdir()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    options.parser().parse(OPTIONS)  # fills the parser's caches, so that children need not
    begin_and_kill()
    assert resume(QUIET, "killed") == 0
    seen = resume_and_kill(random.Random(0))
    assert seen > QUIET + 400, seen
    assert resume(seen + 400, "killed") == 0
    assert begin(seen + 400, "whole") == 0
    compare(Folder("whole"), Folder("killed"))
    print("equal bit for bit")
