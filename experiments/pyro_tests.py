"""Pyro's own tests with our estimators in Pyro's place: ``python experiments/pyro_tests.py --pyro CHECKOUT``.

``CHECKOUT`` is a clone of https://github.com/pyro-ppl/pyro, whose tests no package contains. In ``pyro.infer`` our
``SGVB`` stands for ``Trace_ELBO`` and, with ``downstream=True``, for ``TraceGraph_ELBO``, ``SGVBAnalyticKL`` for
``TraceMeanField_ELBO``, ``Renyi`` for ``RenyiELBO``. The tests that use one of them run, first with Pyro's classes and
then with ours. ``experiments/pyro_tests/table.md`` has how many passed with each, and the first line of each failure
with ours of a test that passes with Pyro's. 20 minutes.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from shared import in_pyros_place
from shared.in_pyros_place import OURS
from shared.results import write

FOLDER = Path(__file__).parent / "pyro_tests"
TESTS = ("test_gradient", "test_valid_models", "test_conjugate_gradients", "test_multi_sample_elbos", "test_inference")


def main() -> None:
    """Run them, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pyro", type=Path, help="folder of a clone of Pyro")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="names of files in its tests/infer")
    parser.add_argument("--smoke", action="store_true", help="a test of one line, results in the current folder")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.pyro = _made_up(Path("clone"))
        chosen.tests = ["test_smoke"]
    if chosen.pyro is None:
        parser.error("give --pyro, the folder of a clone of https://github.com/pyro-ppl/pyro")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        theirs = {name: outcomes(chosen.pyro, name, report, "--theirs") for name in chosen.tests}
        ours = {name: outcomes(chosen.pyro, name, report) for name in chosen.tests}
    results = Path("pyro_tests") if chosen.smoke else FOLDER
    print(f"{sum(map(len, ours.values()))} of Pyro's tests run")
    write(results / "table.md", "\n".join([*counts(theirs, ours), "", *failures(theirs, ours), ""]))


def _made_up(clone: Path) -> Path:
    """A clone with one test."""
    tests = clone / "tests" / "infer"
    tests.mkdir(parents=True)
    (tests / "test_smoke.py").write_text(
        "from pyro.infer import Trace_ELBO\n\n\ndef test_smoke():\n    assert Trace_ELBO(2).num_particles == 2\n"
    )
    return clone


def outcomes(pyro: Path, name: str, report: Path, *options: str) -> dict[str, str]:
    """What became of each test of a file: ``passed``, ``skipped`` or the first line of its failure.

    Arguments:
        pyro: Folder of the clone of Pyro.
        name: Name of a file in its ``tests/infer``.
        report: File for pytest's report, overwritten.
        options: ``--theirs`` for Pyro's own classes.
    """
    command = [sys.executable, str(Path(in_pyros_place.__file__).resolve()), "-q", "-p", "no:cacheprovider"]
    subprocess.run([*command, *options, f"--junitxml={report}", f"tests/infer/{name}.py"], cwd=pyro, check=False)
    return dict(_read(report))


def counts(theirs: dict[str, dict[str, str]], ours: dict[str, dict[str, str]]) -> Iterator[str]:
    """Lines of a table: how many tests of each file passed, were skipped and failed."""
    yield "| file | tests | passed with Pyro's | passed with ours | of these |"
    yield "|---|---|---|---|---|"
    for name, found in ours.items():
        known = {test for test, outcome in theirs[name].items() if outcome == "passed"}
        both = sum(outcome == "passed" for test, outcome in found.items() if _theirs(test) in known)
        passed = sum(outcome == "passed" for outcome in found.values())
        yield f"| `{name}.py` | {len(found)} | {len(known)} | {passed} | {both} |"


def failures(theirs: dict[str, dict[str, str]], ours: dict[str, dict[str, str]]) -> Iterator[str]:
    """A line for each test that passes with Pyro's classes and fails with ours."""
    for name, found in ours.items():
        for test, outcome in found.items():
            if outcome not in ("passed", "skipped") and theirs[name].get(_theirs(test)) == "passed":
                yield f"* `{name}.py::{test}`: {outcome}"


def _theirs(test: str) -> str:
    """The name of the same test with Pyro's class: pytest names a test's parameters by their classes' names."""
    name, bracket, parameters = test.partition("[")
    for pyros, own in OURS.items():
        parameters = re.sub(rf"\b{own.__name__}\b", pyros, parameters)
    return name + bracket + parameters


def _read(report: Path) -> Iterator[tuple[str, str]]:
    for case in ElementTree.parse(report).iter("testcase"):
        failure = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        skipped = case.find("skipped") is not None
        words = "passed" if failure is None else failure.get("message", "").splitlines()[0]
        yield case.get("name", ""), "skipped" if skipped else words


if __name__ == "__main__":
    main()
