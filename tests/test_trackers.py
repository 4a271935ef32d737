"""Trackers: each number, step, parameter and picture read back from where it lies, and no trained bit changed.

Weights & Biases, MLflow and TensorBoard come with the extra docs: without it these tests skip, and with
``--require-docs``, which CI gives, they fail.
"""

import functools
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from matplotlib.figure import Figure

import pyro_aevb as aevb
from pyro_aevb import trackers
from pyro_aevb.runs.folder import Folder
from pyro_aevb.states import digest_of
from pyro_aevb.trackers.base import needed
from tests.commands import SMALL, train
from tests.pairs import binary
from tests.trainings import assert_equal, make, weights

NAMES = ("tensorboard", "wandb", "mlflow")


@pytest.fixture
def library(request, monkeypatch):
    """A function that returns a tracker's library, or skips where it is not installed; none of its settings count."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def found(name):
        try:
            return needed(name, name)
        except aevb.InputError:
            reason = f"{name} is not installed: it comes with the extra docs"
            return pytest.fail(reason) if request.config.getoption("--require-docs") else pytest.skip(reason)

    return found


@pytest.fixture(params=NAMES)
def named(request, library):
    """The name of each tracker whose library is installed."""
    library(request.param)
    return request.param


@functools.cache
def empty_database():
    """The bytes of a database of MLflow's without a run: to make its tables takes seconds."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()


KINDS = {"tensorboard": trackers.TensorBoard, "wandb": trackers.WandB, "mlflow": trackers.MLflow}


def make_tracker(name, folder, **options):
    if name == "mlflow" and not (folder / "mlflow.db").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mlflow.db").write_bytes(empty_database())
    return KINDS[name](folder, **options)


# ---------------------------------------------------------------- what lies on disk, read without our code


class Read:
    """What a tracker's files hold: ``metrics`` by name, (step, value) pairs; ``params``; ``figures``, by name."""

    def __init__(self, name, folder):
        self.metrics, self.params, self.figures = {}, {}, {}
        getattr(self, f"_{name}")(folder)

    def _tensorboard(self, folder):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
        events.Reload()
        tags = events.Tags()
        self.metrics = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
        self.figures = {
            tag: [(e.step, _pixels(e.encoded_image_string)) for e in events.Images(tag)] for tag in tags["images"]
        }
        for tag in tags["tensors"]:
            table = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode().splitlines()[2:]
            self.params |= dict(line.strip("| ").split(" | ") for line in table)

    def _wandb(self, folder):
        for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
            for record in _finished(file):
                for item in record.config.update:
                    self.params[item.key] = json.loads(item.value_json)
                values = {tuple(i.nested_key) or (i.key,): json.loads(i.value_json) for i in record.history.item}
                self._take_line(values, file.parent / "files")

    def _take_line(self, values, files):
        step = values.get(("_step",))
        for key, value in values.items():
            if len(key) == 2 and key[1] == "path":
                self.figures.setdefault(key[0], []).append((step, _pixels((files / value).read_bytes())))
            elif len(key) == 1 and not key[0].startswith("_"):
                self.metrics.setdefault(key[0], []).append((step, value))

    def _mlflow(self, folder):
        import sqlite3

        with sqlite3.connect(folder / "mlflow.db") as base:
            for key, step, value in base.execute("select key, step, value from metrics order by step"):
                self.metrics.setdefault(key, []).append((step, value))
            self.params = dict(base.execute("select key, value from params"))
            self.tags = dict(base.execute("select key, value from tags"))
            self.states = [state for (state,) in base.execute("select status from runs")]
        for file in sorted(folder.glob("artifacts/*/artifacts/figures/*.png")):
            name, _, step = file.stem.rpartition("-")
            self.figures.setdefault(name, []).append((int(step), _pixels(file.read_bytes())))


def _finished(file):
    """The records of a run of Weights & Biases, whose own process writes the last of them after the run was closed."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits for that process
    records = [Record.FromString(data) for data in _of_leveldb(file.read_bytes())]
    assert records[-1].HasField("exit"), f"{file} is not finished"
    return records


def _of_leveldb(data):
    """The records of a file in LevelDB's format for logs, after the 7 bytes that Weights & Biases begins with."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


def _pixels(png):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def half_dark():
    """A picture that is red on the left, and blue on the right."""
    figure = Figure(figsize=(2, 1), dpi=50)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.axvspan(0, 0.5, color="red", lw=0)
    axes.axvspan(0.5, 1, color="blue", lw=0)
    axes.set_xlim(0, 1)
    return figure


# ---------------------------------------------------------------- what is kept


def test_metrics_params_and_figures_are_kept(named, tmp_path):
    with make_tracker(named, tmp_path) as tracker:
        assert isinstance(tracker, trackers.Tracker)
        tracker.log_params({"latent_dim": 2, "prior": "Laplace", "averaging": None})
        tracker.log_metrics({"bound": -31.25}, step=100)
        tracker.log_metrics({"test_bound": -32.5, "test_se": 0.125}, step=100)
        tracker.log_metrics({"bound": -0.1}, step=250)
        tracker.add_figure("two halves", half_dark(), step=250)
    read = Read(named, tmp_path)
    tenth = float(np.float32(-0.1)) if named == "tensorboard" else -0.1  # which keeps single precision
    assert read.metrics == {
        "bound": [(100, -31.25), (250, tenth)],
        "test_bound": [(100, -32.5)],
        "test_se": [(100, 0.125)],
    }
    nothing = None if named == "wandb" else "None"
    assert {str(key): str(value) for key, value in read.params.items()} == {
        "latent_dim": "2",
        "prior": "Laplace",
        "averaging": str(nothing),
    }
    [(step, picture)] = read.figures["two halves"]
    assert step == 250
    height, width, _ = picture.shape
    assert width == 2 * height
    assert (picture[height // 2, width // 4] == [255, 0, 0]).all()
    assert (picture[height // 2, -width // 4] == [0, 0, 255]).all()


def test_a_table_of_params_survives_signs_of_tables(library, tmp_path):
    library("tensorboard")
    with trackers.TensorBoard(tmp_path) as tracker:
        tracker.log_params({"kinds": "a=real|b=count", "columns": "a\nb"})
    assert Read("tensorboard", tmp_path).params == {"kinds": "a=real\\|b=count", "columns": "a b"}


def test_reports_are_on_disk_before_the_end(library, tmp_path):
    """Somebody who watches sees them, and a kill loses none."""
    library("tensorboard")
    tracker = trackers.TensorBoard(tmp_path)
    tracker.log_metrics({"bound": -3.0}, step=100)
    assert Read("tensorboard", tmp_path).metrics == {"bound": [(100, -3.0)]}
    tracker.close()


def test_a_run_is_gone_on_with(named, tmp_path):
    """A training that was killed at 300 samples, after its last save at 200, passes 300 a second time."""
    for first, last, samples in ((100, 300, 300), (300, 400, 400)):
        seen = {"seen": first - 100 or None} if named == "tensorboard" else {}
        with make_tracker(named, tmp_path, **seen) as tracker:
            tracker.log_params({"samples": samples, "seed": 0})
            for step in range(first, last + 100, 100):
                tracker.log_metrics({"bound": -step / 4}, step)
    read = Read(named, tmp_path)
    steps = [step for step, _ in read.metrics["bound"]]
    # Offline, Weights & Biases begins another file of the same run, and does not look into the first one.
    assert steps == ([100, 200, 300, 300, 400] if named == "wandb" else [100, 200, 300, 400])
    assert all(value == -step / 4 for step, value in read.metrics["bound"])
    if named == "wandb":
        runs = [file.stem.removeprefix("run-") for file in (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")]
        assert len(runs) == 2
        assert set(runs) == {(tmp_path / "wandb" / "run_id.txt").read_text().strip()}
    if named == "mlflow":
        assert read.states == ["FINISHED"]
        assert (read.params["samples"], read.tags["samples"]) == ("300", "400")
        assert "seed" not in read.tags


def test_mlflow_begins_anew_in_another_database(library, tmp_path, monkeypatch):
    library("mlflow")
    for place in ("one", "other"):
        (tmp_path / f"{place}.db").write_bytes(empty_database())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / place}.db")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
        with trackers.MLflow(tmp_path / "run") as tracker:
            tracker.log_metrics({"bound": -3.0}, 100)
            assert tracker.client.get_experiment_by_name("elsewhere") is not None
            assert tracker.client.get_run(tracker.run_id).info.run_name == "run"
    assert not (tmp_path / "run" / "mlflow.db").exists()


def test_failed_runs_are_told_from_finished_ones(library, tmp_path):
    library("mlflow")
    with pytest.raises(ZeroDivisionError), trackers.Several(make_tracker("mlflow", tmp_path / "failed")):
        1 / 0  # noqa: B018
    with pytest.raises(KeyboardInterrupt), trackers.Several(make_tracker("mlflow", tmp_path / "stopped")):
        raise KeyboardInterrupt
    assert [Read("mlflow", tmp_path / name).states for name in ("failed", "stopped")] == [["FAILED"], ["FINISHED"]]


def test_wandb_leaves_the_process_and_a_run_of_the_callers_alone(library, tmp_path, monkeypatch):
    wandb = library("wandb")
    monkeypatch.chdir(tmp_path)
    own = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return wandb.run, sys.stdout, sys.stderr, os.getcwd(), handlers

    before = state()
    try:
        with trackers.WandB(tmp_path / "watched") as tracker:
            tracker.log_metrics({"bound": -3.0}, 100)
            assert tracker.run is not own
            assert state() == before
        assert state() == before
    finally:
        own.finish()


# ---------------------------------------------------------------- no network


def _listen(connections):
    """A port of this machine that notes who connects, and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection.recv(200))
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return server


PROGRAM = """
import socket, sys
from pathlib import Path
connect = socket.socket.connect
def watched(self, address):
    if self.family != socket.AF_UNIX and address[:2] != ('127.0.0.1', int(sys.argv[3])):
        print('CONNECT', address)
    return connect(self, address)
socket.socket.connect = watched
if sys.argv[1] == 'control':
    import urllib.request
    try: urllib.request.urlopen('https://example.invalid/')
    except OSError: sys.exit()
from pyro_aevb import trackers
from matplotlib.figure import Figure
folder = Path(sys.argv[2])
kinds = {'tensorboard': trackers.TensorBoard, 'wandb': trackers.WandB, 'mlflow': trackers.MLflow}
with kinds[sys.argv[1]](folder) as tracker:
    tracker.log_params({'a': 1})
    tracker.log_metrics({'bound': -3.0}, 100)
    tracker.add_figure('empty', Figure(), 100)
"""


@pytest.mark.parametrize("name", [*NAMES, "control"])
def test_no_network_is_used(name, library, tmp_path):
    """What they would send goes through a proxy that the environment names, which is here; the control tries to."""
    if name != "control":
        library(name)
    connections = []
    server = _listen(connections)
    port = server.getsockname()[1]
    ci = {"CI", "PYTEST_CURRENT_TEST", "GITHUB_ACTIONS"}  # under which some of them are quieter than at a user's
    settings = {key: value for key, value in os.environ.items() if key not in ci}
    for key in [key for key in settings if key.startswith(("WANDB_", "MLFLOW_")) or key.lower().endswith("_proxy")]:
        del settings[key]
    proxy = f"http://127.0.0.1:{port}"
    settings |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
    command = [sys.executable, "-c", PROGRAM, name, str(tmp_path / "run"), str(port)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=tmp_path)
    server.close()
    assert done.returncode == 0, done.stderr
    assert "CONNECT" not in done.stdout
    assert bool(connections) == (name == "control"), connections
    if name != "control":
        assert Read(name, tmp_path / "run").metrics == {"bound": [(100, -3.0)]}


# ---------------------------------------------------------------- a training that is followed


class Told:
    """A tracker that remembers what it was told, and draws from every global source of chance."""

    def __init__(self):
        self.calls = []

    def _note(self, *call):
        self.calls.append(call)
        random.random()
        np.random.rand()
        torch.rand(1)

    def log_params(self, params):
        self._note("params", dict(params))

    def log_metrics(self, metrics, step):
        self._note("metrics", step, dict(metrics))

    def add_figure(self, name, figure, step):
        self._note("figure", step, name, figure)

    def close(self):
        self._note("close")


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_reports_pass_through_and_are_logged():
    tracker = Told()
    reports = list(make().run(300))
    assert list(trackers.follow(make().run(300), tracker)) == reports
    assert tracker.calls == [("metrics", each.samples_seen, {"bound": each.bound}) for each in reports]


def test_the_loop_stays_the_callers():
    """Each report is logged before the caller has it; no step is taken after the caller ends."""
    trainer = make()
    tracker = Told()
    for progress in trackers.follow(trainer.run(300), tracker):
        assert [call[1] for call in tracker.calls] == [progress.samples_seen]
        break
    assert trainer.samples_seen == progress.samples_seen == tracker.calls[-1][1]
    assert sum(each.samples_seen for each in trackers.follow(trainer.run(100), tracker)) > 100


def test_what_is_measured_and_drawn_now_and_then():
    tracker = Told()
    figure = Figure()
    measure, draw = (lambda progress: {"twice": 2.0 * progress.samples_seen}), (lambda progress: {"empty": figure})
    reports = list(trackers.follow(make().run(700), tracker, measure=measure, draw=draw, every=250))
    assert [each.samples_seen for each in reports] == [110, 205, 300, 410, 505, 600, 710]
    steps = [300, 505, 710]  # a multiple of 250 each, but the last, which is the end
    assert [call for call in tracker.calls if "twice" in call[2]] == [("metrics", s, {"twice": 2.0 * s}) for s in steps]
    assert [call for call in tracker.calls if call[0] == "figure"] == [("figure", s, "empty", figure) for s in steps]


def test_the_bound_of_other_data_is_the_evidences():
    trainer, tracker = make(), Told()
    test = binary(40)
    *_, progress = trackers.follow(trainer.run(100), tracker, measure=trackers.bound_on(trainer, test, "other"))
    bound = aevb.evidence.bound(trainer.model, trainer.guide, test).bound.double()
    [(_, step, found)] = [call for call in tracker.calls if "other_bound" in call[2]]
    assert step == progress.samples_seen
    assert found == {"other_bound": bound.mean().item(), "other_se": (bound.std() / 40**0.5).item()}


def test_the_bound_of_other_data_is_that_of_averaged_weights():
    """As test bounds of the command line are."""
    trainer = make(averaging=0.5)
    *_, progress = trainer.run(300)
    found = trackers.bound_on(trainer, binary(40))(progress)["test_bound"]
    with trainer.averaged():
        averaged = aevb.evidence.bound(trainer.model, trainer.guide, binary(40)).bound.double().mean().item()
    assert found == averaged
    assert found != aevb.evidence.bound(trainer.model, trainer.guide, binary(40)).bound.double().mean().item()


def test_one_datum_has_no_standard_error():
    trainer = make()
    *_, progress = trainer.run(100)
    assert trackers.bound_on(trainer, binary(1))(progress)["test_se"] == 0.0


@pytest.mark.parametrize("engine", ["eager", "captured", "svi"])
def test_tracking_changes_no_trained_bit(engine):
    """With test bounds, figures and a tracker that draws from every global source of chance."""
    options = {"optimizer": pyro.optim.Adam({"lr": 1e-3})} if engine == "svi" else {}
    alone, watched = (make(engine=engine, **options) for _ in range(2))
    reports = list(alone.run(600))
    states = random_states()
    measure = trackers.bound_on(watched, binary(40))
    tracker = Told()
    draw = lambda progress: {"curve": aevb.plots.learning_curve([progress._asdict()])}  # noqa: E731
    with trackers.Several(tracker) as several:
        assert list(trackers.follow(watched.run(600), several, measure=measure, draw=draw)) == reports
    assert random_states() == states
    assert_equal(weights(alone), weights(watched))
    assert alone.noise.states["cpu"].equal(watched.noise.states["cpu"])
    assert {call[0] for call in tracker.calls} == {"metrics", "figure", "close"}


def test_each_real_tracker_changes_no_trained_bit(named, tmp_path):
    alone, watched = make(), make()
    reports = list(alone.run(600))
    states = random_states()
    with make_tracker(named, tmp_path) as tracker:
        assert random_states() == states
        tracker.log_params({"seed": 0})
        assert list(trackers.follow(watched.run(600), tracker)) == reports
    assert random_states() == states
    assert_equal(weights(alone), weights(watched))
    kept = Read(named, tmp_path).metrics["bound"]
    single = np.float32 if named == "tensorboard" else float
    assert kept == [(each.samples_seen, float(single(each.bound))) for each in reports]


def test_early_stopping_and_em_can_be_followed():
    tracker = Told()
    trainer = make()
    early = aevb.EarlyStopping(trainer, binary(40), patience=3)
    [first, *_] = trackers.follow(early.run(200), tracker)
    assert tracker.calls[0] == (
        "metrics",
        first.samples_seen,
        {"bound": first.bound, "held_out_bound": first.held_out_bound},
    )
    em = aevb.Progress(100, float("nan"), log_joint=-40.0)  # what a MonteCarloEM reports
    list(trackers.follow([em], tracker))
    assert tracker.calls[-1] == ("metrics", 100, {"log_joint": -40.0})


# ---------------------------------------------------------------- trackers that fail


class Failing(Told):
    """A tracker whose disk is full from its second report on."""

    def log_metrics(self, metrics, step):
        super().log_metrics(metrics, step)
        if len(self.calls) > 1:
            raise OSError("no space left on device")


def test_a_tracker_that_raises_is_left_out_and_the_training_goes_on():
    alone, watched = make(), make()
    reports = list(alone.run(600))
    failing, other = Failing(), Told()
    with pytest.warns(trackers.TrackerWarning) as said:
        assert list(trackers.follow(watched.run(600), [failing, other])) == reports
    [warning] = said
    assert str(warning.message) == (
        "the tracker Failing raised OSError: no space left on device; the training goes on without it"
    )
    assert [call[0] for call in failing.calls] == ["metrics", "metrics", "close"]
    assert [call[1] for call in other.calls] == [each.samples_seen for each in reports]
    assert_equal(weights(alone), weights(watched))


def test_a_tracker_that_cannot_be_closed_hides_no_error():
    class Stuck(Told):
        def close(self):
            raise TimeoutError("the server does not answer")

    warned = pytest.warns(trackers.TrackerWarning, match="Stuck raised TimeoutError")
    with warned, pytest.raises(ZeroDivisionError), trackers.Several(Stuck()):
        1 / 0  # noqa: B018


def test_an_interruption_goes_through_a_tracker():
    class Interrupted(Told):
        def log_metrics(self, metrics, step):
            raise KeyboardInterrupt

    trainer = make()
    with pytest.raises(KeyboardInterrupt):
        list(trackers.follow(trainer.run(300), Interrupted()))
    assert trainer.samples_seen == 110
    list(trainer.run(300))  # nothing is torn


def test_bad_arguments_are_refused_before_the_training():
    trainer = make()
    for wrong, words in (
        ({"tracker": object()}, "has no log_params"),
        ({"tracker": Told}, "give an instance"),
        ({"tracker": [Told(), None]}, "a tracker must be as pyro_aevb.trackers.Tracker says, not None"),
        ({"every": 0}, "every must be at least 1"),
        ({"measure": 3}, "measure must be a function"),
        ({"draw": Figure}, "draw must be a function"),
        ({"reports": trainer}, "reports must be what trainer.run"),
    ):
        given = {"reports": trainer.run(100), "tracker": Told(), **wrong}
        with pytest.raises(aevb.InputError, match=words):
            trackers.follow(given.pop("reports"), given.pop("tracker"), **given)
    assert trainer.samples_seen == 0
    with pytest.raises(aevb.InputError, match="trainer must be a Trainer"):
        trackers.bound_on(trainer.model, binary(4))


def test_a_report_of_something_else_is_refused():
    with pytest.raises(aevb.InputError, match="progress must be a Progress, not 3"):
        list(trackers.follow([3], Told()))


# ---------------------------------------------------------------- what is not installed


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_is_named_with_how_to_install_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    install = 'pip install "pyro_aevb\\[tensorboard\\]"' if name == "tensorboard" else f"pip install {name}"
    with pytest.raises(aevb.InputError, match=f"{name} is not installed.*{install}$"):
        KINDS[name](tmp_path / "run")
    with pytest.raises(aevb.InputError, match=f"{name} is not installed"):
        trackers.check_tools(name)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_runs_is_not_taken_for_the_library(tmp_path, monkeypatch):
    """``wandb`` is also the folder that the library writes to, which Python would import as an empty package."""
    (tmp_path / "wandb").mkdir()
    found = [path for path in sys.path if path and "site-packages" not in path]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *found])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    for name in [name for name in sys.modules if name.startswith("wandb.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(aevb.InputError, match="wandb is not installed"):
        trackers.WandB(tmp_path / "run")
    with pytest.raises(aevb.InputError, match="wandb is not installed"):
        trackers.check_tools("wandb")


def test_importing_trackers_imports_none_of_the_libraries():
    program = "import sys; from pyro_aevb import trackers as t; print(sorted(set(t.TOOLS) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------- of a run's folder


def test_names_of_tools_are_checked():
    for names, words in (
        ("tensorbord", "there is no tracker 'tensorbord': did you mean tensorboard"),
        ("", "there is no tracker '', only tensorboard, wandb, mlflow"),
        ("tensorboard,tensorboard", "names tensorboard twice"),
    ):
        with pytest.raises(aevb.InputError, match=words):
            trackers.check_tools(names)


def test_trackers_of_a_run_lie_in_its_folder(library, tmp_path):
    for name in NAMES:
        library(name)
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(empty_database())
    with trackers.of_run("tensorboard,wandb,mlflow", tmp_path) as several:
        several.log_metrics({"bound": -3.0}, 100)
        [board, run, flow] = several.trackers
        assert run.run.name == tmp_path.name == flow.client.get_run(flow.run_id).info.run_name
        assert board.folder == tmp_path / "tensorboard"
    for name, folder in (("tensorboard", "tensorboard"), ("wandb", ""), ("mlflow", "mlflow")):
        assert Read(name, tmp_path / folder).metrics == {"bound": [(100, -3.0)]}


def test_a_link_is_not_written_through(library, tmp_path):
    library("tensorboard")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(aevb.InputError, match="tensorboard is a link"):
        trackers.of_run("tensorboard", tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_run_identifier_that_is_none_is_refused(name, library, tmp_path):
    library(name)
    (tmp_path / name).mkdir()
    (tmp_path / name / "run_id.txt").write_text("../../somebody/else")
    with pytest.raises(aevb.InputError, match=r"run_id\.txt does not hold the name"):
        trackers.of_run(name, tmp_path)


def test_a_tracker_that_cannot_begin_is_told_and_the_others_are_closed(library, tmp_path, monkeypatch):
    library("mlflow")
    library("tensorboard")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://to/be/found")
    closed = []
    monkeypatch.setattr(trackers.TensorBoard, "close", lambda self: closed.append(self.folder))
    with pytest.raises(aevb.InputError, match=r"mlflow cannot begin: .*--resume"):
        trackers.of_run("tensorboard,mlflow", tmp_path)
    assert closed == [tmp_path / "tensorboard"]


# ---------------------------------------------------------------- pyro-aevb train --track


def records(path):
    """The lines of a run's metrics without what no two runs share."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in Folder(path).metrics()]


def as_records(read):
    """Metrics that were read back as the lines of a run."""
    lines = {}
    for name, values in read.metrics.items():
        for step, value in values:
            lines.setdefault(step, {})[name] = value
    return {step: {key: value for key, value in line.items() if key != "seconds"} for step, line in lines.items()}


def assert_same_run(one, other):
    """Everything but seconds: configuration, weights, optimizer, noise."""
    assert (Path(one) / "config.yaml").read_bytes() == (Path(other) / "config.yaml").read_bytes()
    assert records(one) == records(other)
    states = [Folder(path).load("last") for path in (one, other)]
    assert digest_of(states[0]["trainer"]) == digest_of(states[1]["trainer"])


def test_a_tracked_run_is_the_run_that_nobody_tracks(cli, library):
    for name in NAMES:
        library(name)
    train(cli, out="alone")
    train(cli, "--track=tensorboard,wandb,mlflow", out="run")
    assert_same_run("alone", "run")
    steps = {}
    for record in records("run"):
        steps.setdefault(record.pop("samples_seen"), {}).update(record)
    assert [*steps] == [100, 200, 300, 400]
    params = trackers.params_of(aevb.load_run("run").config)
    assert params["latent_dim"] == 2
    for name, folder in (("tensorboard", "run/tensorboard"), ("wandb", "run"), ("mlflow", "run/mlflow")):
        read = Read(name, Path(folder))
        if name == "tensorboard":
            rounded = {s: {k: float(np.float32(v)) for k, v in line.items()} for s, line in steps.items()}
            assert as_records(read) == rounded
        else:
            assert as_records(read) == steps
        assert set(read.figures) == {"learning_curve", "samples", "reconstructions", "latent_space", "manifold"}
        assert all([step for step, _ in pictures] == [400] for pictures in read.figures.values())
        assert all(picture.std() > 1 for [(_, picture)] in read.figures.values())
        kept = {key: value for key, value in read.params.items() if not key.startswith("_")}
        assert {key: str(value) for key, value in kept.items()} == {key: str(value) for key, value in params.items()}


def test_a_resumed_run_goes_on_in_the_same_places(cli, library):
    """After a kill, too, whose last report came after the last save: the state of 200 is put back under 400."""
    for name in ("tensorboard", "mlflow"):
        library(name)
    train(cli, out="alone")
    track = "--track=tensorboard,mlflow"
    train(cli, "--samples=200", track)
    shutil.copytree("run", "before")
    for killed in (True, False):
        code, _, errors = cli("train", "--resume=run", "--samples=400", track)
        assert code == 0, errors
        for name in ("last.pt", "best.pt", "config.yaml", "metrics.jsonl") if killed else ():
            shutil.copy(Path("before") / name, Path("run") / name)
    assert_same_run("alone", "run")
    expected = {}
    for record in records("alone"):
        expected.setdefault(record.pop("samples_seen"), {}).update(record)
    for name in ("tensorboard", "mlflow"):
        read = Read(name, Path("run") / name)
        assert [step for step, _ in read.metrics["bound"]] == [100, 200, 300, 400]
        digits = 1e-5 if name == "tensorboard" else 0
        for step, line in as_records(read).items():
            assert line == pytest.approx(expected[step], rel=digits, abs=0)
    assert len(Read("mlflow", Path("run/mlflow")).states) == 1


def test_tracking_may_change_when_a_run_is_resumed(cli, library):
    library("tensorboard")
    train(cli, "--samples=200")
    code, _, errors = cli("train", "--resume=run", "--samples=400", "--track=tensorboard")
    assert code == 0, errors
    assert [step for step, _ in Read("tensorboard", Path("run/tensorboard")).metrics["bound"]] == [300, 400]
    code, _, errors = cli("train", "--resume=run", "--samples=500")
    assert code == 0, errors
    assert "track" not in Path("run/config.yaml").read_text()


def test_no_configuration_switches_tracking_on(cli, monkeypatch):
    """It could open a network: what a stranger's file says of it is not followed."""

    def refuse(*arguments):
        raise AssertionError("a tracker was made")

    train(cli)
    monkeypatch.setattr(trackers.of_run, "__code__", refuse.__code__)
    text = Path("run/config.yaml").read_text() + "track: tensorboard,wandb\n"
    Path("stranger.yaml").write_text(text)
    cli("train", "--config=stranger.yaml", "--samples=100", "--out=copy")
    Path("run/config.yaml").write_text(text)
    cli("train", "--resume=run", "--samples=500")
    made = {path.name for path in Path().rglob("*")}
    assert not {"tensorboard", "wandb", "mlflow"} & made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--track=tensorbord"], "did you mean tensorboard"),
        (["--track="], "--track needs a value"),
        (["--track"], "--track needs a value"),
        (["--track=mlflow,"], "there is no tracker ''"),
        (["--track=tensorboard", "--seeds=0,1"], "--track is for one run"),
    ],
)
def test_wrong_words_are_refused_before_a_folder_is_made(cli, library, words, said):
    library("mlflow")
    library("tensorboard")
    code, _, errors = cli("train", "--out=run", *words)
    assert code == 2
    assert said in errors
    assert "Traceback" not in errors
    assert not Path("run").exists()


def test_a_tracker_that_fails_loses_no_run(cli, library, monkeypatch):
    library("tensorboard")
    train(cli, out="alone")

    def full(self, metrics, step):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers.TensorBoard, "log_metrics", full)
    code, _, errors = cli("train", *SMALL, "--out=run", "--track=tensorboard")
    assert code == 0
    said = [line for line in errors.splitlines() if "warning" in line]
    assert len(said) == 1
    assert re.match(r"pyro-aevb: warning: the tracker TensorBoard raised OSError.*No space left", said[0])
    assert_same_run("alone", "run")


def test_an_interrupted_run_keeps_its_trackers_whole(cli, library, monkeypatch):
    """Ctrl-C in the middle of a report to the tracker: the run is saved, the tracker closed, and both go on."""
    library("tensorboard")
    train(cli, out="alone")
    told = trackers.TensorBoard.log_metrics

    def interrupted(self, metrics, step):
        told(self, metrics, step)
        if step == 300:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(trackers.TensorBoard, "log_metrics", interrupted)
    code, _, errors = cli("train", *SMALL, "--out=run", "--track=tensorboard")
    assert code == 130
    assert "go on with" in errors
    assert [step for step, _ in Read("tensorboard", Path("run/tensorboard")).metrics["bound"]] == [100, 200, 300]
    monkeypatch.setattr(trackers.TensorBoard, "log_metrics", told)
    code, _, errors = cli("train", "--resume=run", "--track=tensorboard")
    assert code == 0, errors
    assert [step for step, _ in Read("tensorboard", Path("run/tensorboard")).metrics["bound"]] == [100, 200, 300, 400]
    assert_same_run("alone", "run")


def test_options_have_their_names_on_the_command_line(cli):
    train(cli, "--prior=GaussianMixture", "--prior.components=3")
    params = trackers.params_of(aevb.load_run("run").config)
    assert params["prior"] == "pyro_aevb.priors.GaussianMixture"
    assert params["prior.components"] == 3
    assert params["likelihood.hidden"] == params["guide.hidden"] == 8
    assert params["scheduler"] is None
    assert params["samples"] == 400
    assert all(value is None or isinstance(value, (str, int, float, bool, list)) for value in params.values())
