"""What all tests share: the data root, and guards on the process's global state."""

import gc
import os
import signal
from pathlib import Path

# Before torch reads it: else each process that compiles begins with helpers, each with a torch of its own, to wait for.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import pyro
import pytest
import torch

from pyro_aevb.cli import main


def pytest_addoption(parser):
    parser.addoption(
        "--require-data", action="store_true", help="fail, rather than skip, where MNIST or Frey Face is missing"
    )
    parser.addoption("--require-docs", action="store_true", help="fail, rather than skip, where the site is not built")
    parser.addoption("--require-browser", action="store_true", help="fail, rather than skip, without Chromium")
    parser.addoption("--random-pairs", type=int, default=500, help="how many random pairs, see test_random_pairs.py")
    parser.addoption("--random-seed", type=int, default=0, help="which random pairs")
    parser.addoption("--sample", type=int, help="so many cases of each parametrised test, evenly spread, no slow test")


def pytest_configure():
    """A relative data root must survive a test's change of folder."""
    if root := os.environ.get("PYRO_AEVB_DATA"):
        os.environ["PYRO_AEVB_DATA"] = str(Path(root).resolve())


def pytest_collection_modifyitems(config, items):
    """With ``--sample`` deselect slow tests, and most cases of those that have many: all take 15 minutes, in CI."""
    most = config.getoption("--sample")
    if most is None:
        return
    cases = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    spread = (item for each in cases.values() for item in each[:: -(-len(each) // most)])
    kept = {id(item) for item in spread if item.get_closest_marker("slow") is None}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]


def pytest_collection_finish():
    """What is loaded by now stays: to look through it for garbage again and again took a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


def _needs(request, path):
    root = os.environ.get("PYRO_AEVB_DATA")
    if root and (Path(root) / path).exists():
        return Path(root)
    message = f"{path} is not under PYRO_AEVB_DATA={root!r}"
    if request.config.getoption("--require-data"):
        pytest.fail(message)
    return pytest.skip(message)  # the reason is the missing file; CI passes --require-data, and skips nothing here


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """Whatever runs the tests may ignore some: ``nohup`` does, and a shell in the background."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def mnist_root(request):
    return _needs(request, "MNIST/raw/train-images-idx3-ubyte")


@pytest.fixture
def frey_root(request):
    return _needs(request, "frey_face/frey_rawface.mat")


@pytest.fixture(autouse=True)
def _clean_process():
    """Each test begins with an empty parameter store, known noise, and leaves torch's and Pyro's defaults alone."""
    pyro.get_param_store().clear()
    torch.manual_seed(0)
    validates = torch.distributions.Distribution._validate_args, pyro.infer.is_validation_enabled()
    yield
    assert (torch.distributions.Distribution._validate_args, pyro.infer.is_validation_enabled()) == validates
    assert torch.get_default_dtype() == torch.float32
    assert torch.empty(0).device.type == "cpu"


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
