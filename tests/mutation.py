"""Break the package in small ways, one at a time, and see whether a test notices: ``python tests/mutation.py``.

A mutant is one edit of the source: a comparison turned round, a keyword dropped, a ``.detach()`` removed. It is made in
a copy of the repository, and only the tests that cover its line run on it, the fastest first. One that survives shows
what no test looks at, or code that does nothing. First comes a map from lines to tests, which takes as long as the
tests do, but can be built in parts::

    python tests/mutation.py --count 0 --tests tests/estimators              # adds these tests to the map
    python tests/mutation.py --count 0 --tests tests/evidence -n 2           # whatever pytest takes
    python tests/mutation.py --count 40 --seed 0                            # the first 40 mutants of this seed's order
    python tests/mutation.py --count 80 --seed 0                            # the next 40: results are kept
    python tests/mutation.py --count 9 --covered                            # nothing that the map has no tests for

What runs in another process, or inside ``torch.compile``, is covered by no test here: its lines are "not covered".
"""

import argparse
import contextlib
import difflib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script it would find its own folder only

from tests.mutants import digest, in_order

ROOT = Path(__file__).parents[1]
PARTS = (
    *("pyro_aevb", "tests", "experiments", "docs", "README.md", "Makefile", "pyproject.toml", ".ci"),
    *("LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
)
MUTATED = ("traces/*.py", "estimators/*.py", "evidence/*.py", "recording.py", "capture.py")  # in pyro_aevb
START = 60  # seconds that a run of pytest may take before its first test


def sources(root):
    """The files to mutate, by path from the root."""
    found = [path for pattern in MUTATED for path in sorted((root / "pyro_aevb").glob(pattern))]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


# ---------------------------------------------------------------- pytest, in a copy of the repository


def pytest_runtest_logreport(report):
    """This file is also a plugin of the runs below (``-p tests.mutation``): it notes each test's end and seconds."""
    if (path := os.environ.get("MUTATION_REPORT")) and (report.when == "call" or not report.passed):
        with open(path, "a") as file:
            file.write(json.dumps([report.nodeid, report.outcome, report.duration]) + "\n")


def pytest_sessionfinish():
    found = sys.modules.get("pyro_aevb")
    if "MUTATION_REPORT" in os.environ and found and not Path(found.__file__).is_relative_to(Path.cwd()):
        raise RuntimeError(f"the tests imported {found.__file__}, not the copy that was to be tested")


@contextlib.contextmanager
def copied():
    """A copy of the repository in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder).resolve() / "copy"
        copy.mkdir()
        for name in PARTS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, copy / name)
        yield copy


def run_pytest(copy, arguments, timeout):
    """Run pytest; returns its exit code, None after a timeout, its output, and for each test: outcome and seconds."""
    report, output = copy.parent / "report", copy.parent / "output"
    report.write_text("")
    root = os.environ.get("PYRO_AEVB_DATA")
    environment = {**os.environ, "PYTHONPATH": str(copy), "MUTATION_REPORT": str(report), "COVERAGE_CORE": "ctrace"}
    environment |= {"PYRO_AEVB_DATA": str(Path(root).resolve())} if root else {}
    options = ["-q", "-p", "tests.mutation", "-p", "no:cacheprovider"]
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=copy,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a timeout ends the processes of its tests too
        )
        try:
            code = process.wait(timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = None
    ends = {test: (outcome, seconds) for test, outcome, seconds in map(json.loads, report.read_text().splitlines())}
    return code, output.read_text(), ends


# ---------------------------------------------------------------- the map from lines to tests


class Map:
    """Which tests cover a line, and how long each takes.

    ``tests`` are seconds by name, ``lines`` sets of tests by path and line, ``sources`` the digests of the files then.
    """

    def __init__(self, path):
        self.path, self.tests, self.lines, self.sources = path, {}, {}, {}

    def read(self):
        kept = json.loads(self.path.read_text())
        names = list(kept["tests"])
        self.tests, self.sources = kept["tests"], kept["sources"]
        self.lines = {
            path: {int(line): {names[i] for i in tests} for line, tests in lines.items()}
            for path, lines in kept["lines"].items()
        }

    def write(self):
        number = {name: i for i, name in enumerate(self.tests)}
        lines = {
            path: {line: sorted(number[test] for test in tests) for line, tests in lines.items()}
            for path, lines in self.lines.items()
        }
        self.path.write_text(json.dumps({"sources": self.sources, "tests": self.tests, "lines": lines}))

    def collect(self, arguments):
        """Add the tests that pytest runs for these arguments."""
        with copied() as copy:
            (copy / "covered").write_text(f"[run]\ninclude = {','.join(f'{copy}/pyro_aevb/{p}' for p in MUTATED)}\n")
            options = ["--cov", "--cov-context=test", "--cov-config=covered", "--cov-report=", *arguments]
            code, output, ends = run_pytest(copy, options, None)
            print(output.strip().splitlines()[-1])
            passed = {test: seconds for test, (outcome, seconds) in ends.items() if outcome == "passed"}
            if code not in (0, 1) or not passed:
                sys.exit(output)
            for test in sorted(ends.keys() - passed.keys()):
                print(f"{ends[test][0]} without a mutant, not used: {test}")
            self.add(copy, passed)

    def add(self, copy, passed):
        from coverage import CoverageData  # only the map needs it

        data = CoverageData(str(copy / ".coverage"))
        data.read()
        for path in sources(copy):
            if self.sources.setdefault(path, now := digest((copy / path).read_bytes())) != now:
                print(f"{path} has changed since the map was begun: only the tests of this part cover it now")
                self.sources[path], self.lines[path] = now, {}
            lines = self.lines.setdefault(path, {})
            for line, contexts in data.contexts_by_lineno(str(copy / path)).items():
                lines.setdefault(line, set()).update({c.rsplit("|", 1)[0] for c in contexts} & passed.keys())
        self.tests |= passed

    def covering(self, mutant):
        """Tests that cover a mutant, the fastest first."""
        lines = self.lines.get(mutant.path, {})
        found = set().union(*(lines.get(line, ()) for line in mutant.lines))
        return sorted(found, key=lambda test: (self.tests[test], test))


# ---------------------------------------------------------------- running mutants


def judged(code, output, ends):
    """What became of a mutant, and the test that noticed."""
    failed = [test for test, (outcome, _) in ends.items() if outcome == "failed"]
    if code is None:
        return "timeout", None
    if code == 0:
        return "survived", None
    if failed:
        return "killed", failed[0]
    imports = "found no collectors" in output or "ImportError while loading conftest" in output
    return ("killed", "import") if code == 2 or imports else ("error", output[-2000:])


def run(mutant, tests, copy, options, known):
    """Apply a mutant in the copy, run its tests, take it back."""
    file = copy / mutant.path
    source, affordable = file.read_bytes(), list(itertools.accumulate(known.tests[test] for test in tests))
    chosen = [test for test, total in zip(tests, affordable, strict=True) if total <= options.budget] or tests[:1]
    (copy.parent / "tests").write_text("\n".join(chosen))
    limit = START + options.timeout * sum(known.tests[test] for test in chosen)
    compiled = Path(importlib.util.cache_from_source(str(file)))
    try:
        file.write_bytes(mutant.applied(source))
        compiled.unlink(missing_ok=True)  # an edit of equal length in the same second would not be seen
        outcome, killer = judged(*run_pytest(copy, ["-x", f"@{copy.parent / 'tests'}"], limit))
    finally:
        file.write_bytes(source)
        compiled.unlink(missing_ok=True)
    return {"outcome": outcome, "killer": killer, "run": len(chosen)}


def diff(mutant, source):
    before, after = (text.decode().splitlines() for text in (source, mutant.applied(source)))
    return "\n".join(difflib.unified_diff(before, after, mutant.path, mutant.path, lineterm="", n=0))


def record(mutant, source, copy, options, known):
    """A mutant's line in the file of results."""
    began, tests = time.perf_counter(), known.covering(mutant)
    ended = run(mutant, tests, copy, options, known) if tests else {"outcome": "not-covered", "killer": None, "run": 0}
    seconds = round(time.perf_counter() - began, 1)
    found = {"mutant": mutant.name, "source": digest(source), **ended, "tests": len(tests), "seconds": seconds}
    return found | {"diff": diff(mutant, source)}


def stands(found, tests):
    """Whether a result is kept: one that no test noticed is not, once the map has other tests for it."""
    return found["outcome"] in ("killed", "timeout") or (found["outcome"] != "error" and found["tests"] == len(tests))


def mutate(options, known):
    """Run the first mutants of the seed's order that have no result yet; returns the results of them all."""
    kept = options.results.read_text().splitlines() if options.results.exists() else []
    done = {(found["mutant"], found["source"]): found for found in map(json.loads, kept)}
    with copied() as copy:
        texts = sources(copy)
        for path in [path for path, text in texts.items() if known.sources.get(path) != digest(text)]:
            print(f"{path} has changed since the map was built, or is new: no mutants of it; see --remap")
            del texts[path]
        drawn = in_order(texts, options.seed)
        drawn = [mutant for mutant in drawn if known.covering(mutant) or not options.covered][: options.count]
        for i, mutant in enumerate(drawn):
            key = mutant.name, digest(texts[mutant.path])
            if key not in done or not stands(done[key], known.covering(mutant)):
                done[key] = found = record(mutant, texts[mutant.path], copy, options, known)
                with options.results.open("a") as file:
                    file.write(json.dumps(found, ensure_ascii=False) + "\n")
                print(
                    f"{i + 1}/{len(drawn)} {found['outcome']} in {found['seconds']} s: {short(mutant.name)}", flush=True
                )
        return [done[mutant.name, digest(texts[mutant.path])] for mutant in drawn]


def short(text, width=100):
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


def show(results):
    """How many of each outcome, and a table of what no test noticed."""
    print(dict(Counter(found["outcome"] for found in results)))
    print("\n| outcome | tests run | mutant |\n|---|---|---|")
    for found in sorted(results, key=lambda found: (found["outcome"], found["mutant"])):
        if found["outcome"] != "killed":
            mutant = short(found["mutant"], 160).replace("|", "\\|")
            print(f"| {found['outcome']} | {found['run']} of {found['tests']} | {mutant} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="how many mutants, those with results included")
    parser.add_argument("--seed", type=int, default=0, help="of the mutants' order")
    parser.add_argument("--results", type=Path, default=ROOT / ".mutation.jsonl", help="a line for each mutant")
    parser.add_argument("--map", type=Path, default=ROOT / ".mutation-map.json", help="tests by line; built if missing")
    parser.add_argument("--remap", action="store_true", help="build the map anew")
    parser.add_argument("--tests", nargs="+", default=[], help="add these of pytest's arguments to the map")
    parser.add_argument("--covered", action="store_true", help="draw only mutants that the map has tests for")
    parser.add_argument("--budget", type=float, default=600, help="seconds of tests for one mutant, the fastest first")
    parser.add_argument("--timeout", type=float, default=5, help=f"times what the tests took, and {START} s")
    options, more = parser.parse_known_args()
    known = Map(options.map)
    if more and not (options.tests or options.remap or not options.map.exists()):
        parser.error(f"unknown: {' '.join(more)}; pytest's own options go with --tests or --remap")
    if fresh := options.remap or not options.map.exists():
        known.collect([*(options.tests or ["tests", "pyro_aevb"]), *more])
    else:
        known.read()
    if options.tests and not fresh:
        known.collect([*options.tests, *more])
    known.write()
    if options.count:
        show(mutate(options, known))


if __name__ == "__main__":
    main()
