"""What is left of a run when it is killed, told to end, or out of disk: always a run that goes on, bit for bit.

Children train and are ended from outside: by ``kill -9`` after a random number of reports, or as soon as a file that is
being written shows itself; by the signals to end; by a file size that they may not pass; by a full disk. After each end
the run must open, and be as far as before or farther. At last it goes on to its end, and must be equal to one that was
left alone: states, reports, configuration. ``soak`` is the other kind of reliability: what many steps, trainers and
evaluations leave behind in one process.

``python experiments/reliability.py`` takes some 25 minutes; ``--parts kills --kills 1000`` tries more of one kind.
"""

import argparse
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # children are forked: no helpers of their own

import sklearn.datasets  # noqa: F401  # imported late by what runs below: once here, not in each child
import torch
from shared.results import HERE, provenance, write

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.cli import main
from pyro_aevb.runs import options
from pyro_aevb.runs.folder import Folder

torch.compiler.reset()  # imports the compiler: once here, not in each child

NAME = "reliability"
OPTIONS = [
    "--hidden=200",
    "--latent_dim=2",
    "--batch_size=20",
    "--report_every=40",
    "--save_every=120",
    "--evaluate_every=480",
]
FAR = 10**7  # samples that no child lives to see
SIGNALS = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}

# ---------------------------------------------------------------- children


def begin(arguments, limit=None):
    """Train in a forked process, which has everything imported; returns its number."""
    if (pid := os.fork()) != 0:
        return pid
    code = 3
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        for number in (signal.SIGTERM, signal.SIGHUP):  # nohup ignores one, a shell in the background another
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = main(["train", *arguments])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid):
    """Wait until a child has ended; its exit code, or a signal's number made negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def alive(pid):
    """Whether a child still runs; an end that nobody asked for is an error."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        raise RuntimeError(f"a child ended by itself, with {status}: {Path('stderr').read_text()[-2000:]}")
    return True


def after_reports(pid, run, count):
    """Wait until a child has made so many more reports."""
    file = run.path / "metrics.jsonl"
    began = file.stat().st_size
    size = 90 * count  # a report is a line of some 90 bytes
    while alive(pid) and file.stat().st_size < began + size:
        time.sleep(0.0005)


def at_a_temporary_file(pid, run, count):
    """Wait until the n-th file that is being written shows itself."""
    seen = set()
    while len(seen) < count and alive(pid):
        seen |= {(entry.name, entry.inode()) for entry in os.scandir(run.path) if entry.name.count(".") > 1}


# ---------------------------------------------------------------- ends


def kill(pid, run, rng, aimed):
    """``kill -9``; returns whether it left a file half written."""
    (at_a_temporary_file if aimed else after_reports)(pid, run, rng.randint(1, 8))
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    return any(entry.name.count(".") > 1 for entry in os.scandir(run.path))


def stop(pid, run, rng, name):
    """Send a signal to end; check that the run was saved and that a line says so."""
    after_reports(pid, run, rng.randint(1, 8))
    os.kill(pid, getattr(signal, name))
    assert ended(pid) == SIGNALS[name], Path("stderr").read_text()
    told("samples are saved, go on with: pyro-aevb train --resume")
    assert run.load()["samples_seen"] >= run.metrics()[-1]["samples_seen"]


def told(what):
    """Check that a child told why it ended, in one line on standard error; only its words tell which end it was."""
    said = Path("stderr").read_text().splitlines()
    lines = [line for line in said if "recorded the step" not in line and line.startswith(("pyro-aevb", "Traceback"))]
    assert len(lines) == 1, lines
    assert what in lines[0], lines


def kept(run, before):
    """Check that a run opens after an end, and that nothing is gone that was saved; its state."""
    state = run.load()
    assert state["samples_seen"] >= before["samples_seen"]
    assert state["best_bound"] >= before["best_bound"]
    run.metrics()
    return state


def begun(engine, name):
    """A new run that has been saved once."""
    assert ended(begin([*OPTIONS, f"--engine={engine}", "--samples=480", f"--out={name}"])) == 0, _said()
    return Folder(name)


def _said():
    return Path("stderr").read_text()


def resumed(run):
    return [f"--resume={run.path}", f"--samples={FAR}"]


def goes_on_to_its_end(run, engine):
    """Check that a run, gone on with to its end, equals one that was left alone; the samples of both."""
    samples = run.load()["samples_seen"] + 400
    assert ended(begin([f"--resume={run.path}", f"--samples={samples}"])) == 0, _said()
    alone = f"{run.path}-alone"
    assert ended(begin([*OPTIONS, f"--engine={engine}", f"--samples={samples}", f"--out={alone}"])) == 0, _said()
    for name in ("last", "best"):
        one, other = (each.load(name) for each in (Folder(alone), run))
        assert one["trainer"]["digest"] == other["trainer"]["digest"], name
        assert one["best_bound"] == other["best_bound"], name
    assert without_clock(Folder(alone)) == without_clock(run)
    files = [sorted(p.name for p in path.iterdir()) for path in (Path(alone), run.path)]
    assert files[0] == files[1], files
    return samples


def without_clock(run):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in run.metrics()]


# ---------------------------------------------------------------- parts


def kills(engine, count, seed=0):
    """Kill a run many times: half at a random report, half while a file is being written; a row of what was seen."""
    rng = random.Random(seed)
    run = begun(engine, f"kills-{engine}")
    halves = 0
    state = run.load()
    for i in range(count):
        halves += kill(begin(resumed(run)), run, rng, aimed=i % 2 == 1)
        state = kept(run, state)
    row = {"end": "kill -9", "engine": engine, "tried": count, "left half a file": halves}
    return [{**row, "opened": count, "equal at": goes_on_to_its_end(run, engine)}]


def stops(engine, count, seed=0):
    """Send a run the signals to end, in turn; a row of what was seen."""
    rng = random.Random(seed)
    run = begun(engine, f"stops-{engine}")
    state = run.load()
    for i in range(count):
        stop(begin(resumed(run)), run, rng, list(SIGNALS)[i % 3])
        state = kept(run, state)
    row = {"end": ", ".join(SIGNALS), "engine": engine, "tried": count, "left half a file": 0}
    return [{**row, "opened": count, "equal at": goes_on_to_its_end(run, engine)}]


def limits(count, seed=0):
    """Train where no file may become as large as a state is; a row of what was seen."""
    rng = random.Random(seed)
    run = begun("eager", "limits")
    state = run.load()
    size = (run.path / "last.pt").stat().st_size
    for _ in range(count):
        assert ended(begin(resumed(run), limit=rng.randrange(100, size))) == 2, _said()
        told("File too large")
        state = kept(run, state)
    row = {"end": "ulimit -f", "engine": "eager", "tried": count, "left half a file": 0}
    return [{**row, "opened": count, "equal at": goes_on_to_its_end(run, "eager")}]


def full_disks(count, seed=0):
    """Train on a file system of 4 MB, filled up to a random rest; a row of what was seen."""
    folder = Path("disk").resolve()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        return [{"end": "full disk", "engine": "not tried: needs the right to mount"}]
    try:
        rng = random.Random(seed)
        run = begun("eager", "disk/run")
        state = run.load()
        for _ in range(count):
            free = os.statvfs(folder)
            (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - rng.randrange(50_000)))
            assert ended(begin(resumed(run))) == 2, _said()
            told("No space left on device")
            (folder / "filler").unlink()
            state = kept(run, state)
        row = {"end": "full disk", "engine": "eager", "tried": count, "left half a file": 0}
        return [{**row, "opened": count, "equal at": goes_on_to_its_end(run, "eager")}]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# ---------------------------------------------------------------- soak


def memory():
    """Resident memory in MB, and open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))


def small_pair(seed=0):
    with aevb.seeded(seed):
        prior = aevb.priors.StandardNormal(2)
        likelihood = aevb.likelihoods.Bernoulli(2, 64, hidden=20)
        guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(64, 2, hidden=20), 1500)
    return aevb.GenerativeModel(prior, likelihood, 1500), guide


def soak(steps, trainers, evaluations, data):
    """Memory and open files at a tenth of the way and at its end; whether all weights are finite."""
    rows = []
    x = aevb.data.load("digits", binarize="static").train
    for optimizer in (aevb.optimizers.Adagrad, torch.optim.Adam):
        model, guide = small_pair()
        trainer = aevb.Trainer(
            model, guide, x, optimizer=partial(optimizer, lr=0.01), batch_size=20, engine="captured", device="cpu"
        )
        first = None
        for progress in trainer.run(20 * steps):
            if first is None and progress.samples_seen >= 2 * steps:
                first = memory()
        finite = all(torch.isfinite(p).all() for p in trainer.parameters.values())
        rows.append(_soaked(f"{steps:,} steps of {optimizer.__name__}", first, finite=bool(finite)))
    rows.append(_repeated(f"{trainers} trainers made and dropped", trainers, partial(_train_a_little, x)))
    model, guide = small_pair()
    many = x.repeat(-(-data // len(x)), 1)[:data]
    evaluate = partial(evidence.importance_sampling, model, guide, many, 5)
    rows.append(_repeated(f"{data:,} data evaluated {evaluations} times", evaluations, evaluate))
    return rows


def _train_a_little(x):
    list(aevb.Trainer(*small_pair(), x, batch_size=20, engine="eager", device="cpu").run(60))


def _repeated(what, count, function):
    for i in range(count):
        function()
        if i == max(1, count // 10):
            first = memory()
    return _soaked(what, first)


def _soaked(what, first, **more):
    before, files_before = first
    after, files_after = memory()
    files = files_after - files_before
    return {"soak": what, "MB at a tenth": round(before), "MB": round(after), "files": files, **more}


# ---------------------------------------------------------------- script


PARTS = ("kills", "stops", "limits", "disks", "soak")


def measure(parts, count, smoke):
    """Rows of ends, and rows of the soak."""
    ends = []
    engines = ("eager",) if smoke else ("eager", "captured")
    for engine in engines:
        # A captured run takes ten seconds to begin: a quarter of the kills, where both engines are there.
        share = count if smoke else count // 4 if engine == "captured" else count - count // 4
        ends += told_of(kills(engine, share) if "kills" in parts else [])
        ends += told_of(stops(engine, max(3, count // 10)) if "stops" in parts else [])
    ends += told_of(limits(max(2, count // 10)) if "limits" in parts else [])
    ends += told_of(full_disks(max(2, count // 10)) if "disks" in parts else [])
    sizes = (2000, 5, 2, 200) if smoke else (200_000, 500, 20, 10_000)
    return ends, told_of(soak(*sizes) if "soak" in parts else [])


def told_of(rows):
    """Print rows as they come, for all of it takes long; the same rows."""
    for row in rows:
        print(row, flush=True)
    return rows


def main_script():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--results", type=Path, default=HERE)
    arguments.add_argument("--smoke", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    options.parser().parse(OPTIONS)  # fills the parser's caches, so that children need not
    results = given.results.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ends, soaked = measure(given.parts.split(","), 20 if given.smoke else given.kills, given.smoke)
        os.chdir(results)
    for rows in filter(None, (ends, soaked)):
        print(table(rows))
    if not given.smoke:
        for name, rows in (("ends", ends), ("soak", soaked)):
            if rows:
                write(results / NAME / f"{name}.md", table(rows))
        settings = provenance(threads=1, kills=given.kills, parts=given.parts)
        write(results / NAME / "settings.json", json.dumps(settings, indent=2) + "\n")
    print("ends tried")


def table(rows):
    """In Markdown, a line a row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(key, "")) for key in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    sys.exit(main_script())
