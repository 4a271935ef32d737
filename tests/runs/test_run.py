"""A run as an object: opened from Python, looked at, and trained further, as the command line would."""

import json
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pyro_aevb as aevb
from pyro_aevb.data import DataSet
from pyro_aevb.runs import Run, load_run
from pyro_aevb.runs.folder import Folder
from pyro_aevb.runs.options import Config, Part
from pyro_aevb.runs.origin import VersionsWarning, versions
from tests.commands import change_state, run_alone, train

FIXTURES = Path(__file__).parent.parent / "fixtures"
PARTS = (
    "from pyro_aevb.estimators import SGVB\n"
    "from pyro_aevb.priors import StandardNormal as P\n"
    "class Mine(SGVB):\n    pass\n"
    "class Own(P):\n    pass\n"
)


@pytest.fixture
def opened(cli):
    """A run of this version in the current folder, its last report begun and not yet whole."""
    train(cli, "--report_every=300", "--save_every=200", "--engine=eager")
    return load_run("run", device="cpu")


def refused(path="run", **options):
    with pytest.raises(aevb.InputError) as error:
        load_run(path, **{"device": "cpu", **options})
    assert "\n" not in str(error.value)
    return str(error.value)


def is_plain(value):
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def files_of(folder):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what is in it


@pytest.mark.parametrize("name", ["eager", "captured", "svi", "grey"])
def test_what_an_earlier_version_saved_opens(name, tmp_path):
    """Weights, data, options and metrics; nothing is said of versions that such a state does not tell."""
    shutil.copytree(FIXTURES / name, tmp_path / name)
    before = files_of(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", VersionsWarning)
        run = aevb.load_run(tmp_path / name, device="cpu")
    assert isinstance(run, Run)
    state = torch.load(FIXTURES / name / "last.pt", weights_only=True)
    for part in ("model", "guide"):
        module = getattr(run, part)
        saved = state["trainer"]["modules"][part]
        assert isinstance(module, torch.nn.Module)
        assert not any(each.training for each in module.modules())
        assert module.state_dict().keys() == saved.keys()
        assert all(torch.equal(value, saved[key]) for key, value in module.state_dict().items())
    assert isinstance(run.data, DataSet)
    assert len(run.data.train) == 1500
    assert (run.samples_seen, run.device, run.path) == (state["samples_seen"], torch.device("cpu"), tmp_path / name)
    lines = [json.loads(line) for line in (FIXTURES / name / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics == [{key: value for key, value in line.items() if key != "crc32"} for line in lines]
    assert run.title == f"{name}: digits, binarize={run.config.binarize}, trained on {run.samples_seen:,} samples"
    assert run.title in repr(run)
    assert files_of(tmp_path) == before


def test_the_options_are_plain_values(opened):
    """Those of ``config.yaml``, readable, and not to be changed in place."""
    config = opened.config
    known = yaml.safe_load(Path("run/config.yaml").read_text())
    plain = asdict(config)
    assert is_plain(plain)
    assert {key: value for key, value in plain.items() if value is not None} == {
        key: {"init_args": {}, **value} if isinstance(value, dict) else value for key, value in known.items()
    }
    assert config.guide == Part("pyro_aevb.guides.DiagonalNormal", known["guide"]["init_args"])
    assert config.estimator.class_path == "pyro_aevb.estimators.SGVB"
    assert config.optimizer.init_args["lr"] == 0.02
    assert repr(config).startswith("Config(prior=Part(class_path='pyro_aevb.priors.StandardNormal', init_args={}), ")
    assert eval(repr(config).replace("inf", "float('inf')"), {"Config": Config, "Part": Part}) == config
    assert yaml.safe_load(str(config)) == plain
    with pytest.raises(AttributeError):
        config.seed = 3


def test_metrics_are_read_anew(opened, cli):
    before = opened.metrics
    assert cli("train", "--resume=run", "--samples=800")[0] == 0
    assert len(opened.metrics) > len(before)
    assert opened.metrics[: len(before)] == before


def test_its_numbers_are_those_of_the_command_line(opened, cli):
    told = json.loads(cli("evaluate", "run", "--num_samples=0", "--device=cpu", "--json")[1])
    bound = aevb.evidence.bound(opened.model, opened.guide, opened.data.evaluation("test")).bound
    assert bound.double().mean().item() == told["bound"]["mean"]


def test_the_best_and_the_latest(cli):
    train(cli, "--optimizer=Adam", "--optimizer.lr=0.01", "--samples=2000")
    change_state("run", lambda state: state["trainer"]["optimizer"]["param_groups"][0].update(lr=3.0))
    assert cli("train", "--resume=run", "--samples=2400")[0] == 0
    best, last = (load_run("run", checkpoint, device="cpu") for checkpoint in ("best", "last"))
    assert (best.samples_seen, last.samples_seen) == (2000, 2400)
    assert best.trainer().samples_seen == 2000
    weights = (run.model.likelihood.network[0].weight for run in (best, last))
    assert not torch.equal(*weights)


def test_a_moved_run_opens(opened, tmp_path, monkeypatch):
    shutil.move("run", "elsewhere")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    moved = load_run(Path("..") / "elsewhere", device="cpu")
    assert torch.equal(moved.model.likelihood.network[0].weight, opened.model.likelihood.network[0].weight)
    assert moved.title.startswith("elsewhere: ")
    assert moved.trainer().samples_seen == 400


def test_a_run_on_the_users_own_array(cli, tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(300, 3, 2)).astype(np.float32)
    np.save("mine.npy", values)
    train(cli, "--data=mine.npy", "--likelihood=Gaussian")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    run = load_run("../run", device="cpu")
    assert (run.data.shape, run.data.dim, run.config.data) == ((3, 2), 6, str(tmp_path / "mine.npy"))
    assert run.trainer().samples_seen == run.samples_seen >= 400
    (tmp_path / "mine.npy").rename("mine.npy")
    gone = load_run("../run", device="cpu")
    with pytest.raises(aevb.InputError, match=r"mine.npy is not there: put the data back, or give new ones"):
        gone.evaluate()
    with pytest.raises(aevb.InputError, match="not there"):
        gone.trainer()
    assert len(gone.encode(values[:3])) == 3
    assert load_run("../run", device="cpu", data_root=".").trainer().samples_seen == run.samples_seen
    np.save("mine.npy", values + 1)
    assert "put the original data back" in refused("../run", data_root=".")


# ---------------------------------------------------------------- going on


def tail(folder, after):
    return [
        record["bound"] for record in Folder(folder).metrics() if record["samples_seen"] > after and "bound" in record
    ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "captured", "svi"])
def test_its_trainer_goes_on_as_the_command_line_does(engine, cli):
    """Bit for bit: every tensor, the noise, the losses since the last report, and what is reported."""
    train(cli, "--report_every=300", "--save_every=200", f"--engine={engine}")
    run = load_run("run", device="cpu")
    before, weights = files_of("run"), run.model.likelihood.network[0].weight.clone()
    trainer = run.trainer()
    assert trainer.state_dict()["digest"] == Folder("run").load()["trainer"]["digest"]
    assert len(trainer.state_dict()["gathered"]["sizes"]) == 1  # a report is begun, which the next one goes on with
    bounds = [progress.bound for progress in trainer.run(500)]
    assert files_of("run") == before
    assert torch.equal(run.model.likelihood.network[0].weight, weights)
    assert not torch.equal(trainer.model.likelihood.network[0].weight, weights)
    assert cli("train", "--resume=run", "--samples=900", "--device=cpu")[0] == 0
    assert trainer.state_dict()["digest"] == Folder("run").load()["trainer"]["digest"]
    assert bounds == tail("run", 400)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eager", "captured", "svi"])
def test_what_an_earlier_version_saved_goes_on(name, cli):
    shutil.copytree(FIXTURES / name, "run")
    trainer = load_run("run", device="cpu").trainer()
    bounds = [progress.bound for progress in trainer.run(500)]
    assert cli("train", "--resume=run", "--samples=4500")[0] == 0
    assert trainer.state_dict()["digest"] == Folder("run").load()["trainer"]["digest"]
    assert bounds == tail("run", 4000)


def test_two_trainers_share_nothing(opened):
    one, two = opened.trainer(), opened.trainer()
    list(one.run(200))
    assert two.samples_seen == 400
    list(two.run(200))
    assert one.state_dict()["digest"] == two.state_dict()["digest"]


def test_a_run_that_went_on_meanwhile_is_to_be_opened_anew(opened, cli):
    assert cli("train", "--resume=run", "--samples=800")[0] == 0
    with pytest.raises(aevb.InputError, match="is another than when the run was opened: open it anew"):
        opened.trainer()
    assert load_run("run", device="cpu").trainer().samples_seen == 800


# ---------------------------------------------------------------- parts of the user's own


def test_parts_of_the_users_own_need_their_word(cli, tmp_path):
    Path("my_parts.py").write_text(PARTS)
    train(cli, "--prior=my_parts.Own")
    said = refused()
    assert f"module my_parts would be imported from {tmp_path}" in said
    assert "trust=['my_parts']" in said
    run = load_run("run", device="cpu", trust=["my_parts"])
    assert type(run.model.prior).__module__ == "my_parts"
    assert run.trainer().samples_seen == 400
    del sys.modules["my_parts"]


def test_an_estimator_of_the_users_own_is_needed_by_the_trainer_alone(cli, tmp_path):
    Path("my_parts.py").write_text(PARTS)
    train(cli, "--estimator=my_parts.Mine")
    run = load_run("run", device="cpu")
    assert run.config.estimator.class_path == "my_parts.Mine"
    with pytest.raises(aevb.InputError, match=r"my_parts would be imported from .*trust=\['my_parts'\]"):
        run.trainer()
    assert type(load_run("run", device="cpu", trust="my_parts").trainer().estimator).__name__ == "Mine"
    del sys.modules["my_parts"]


@pytest.mark.parametrize("trust", [3, [3], ["a b"], {"my_parts": 1}])
def test_trust_is_names_of_modules(trust, opened):
    assert "module" in refused(trust=trust)


# ---------------------------------------------------------------- versions


def test_a_state_says_its_versions(opened):
    state = Folder("run").load()
    assert state["versions"] == versions()
    assert state["versions"].keys() == {"pyro_aevb", "torch", "pyro"}
    assert state["versions"]["torch"] == torch.__version__
    with warnings.catch_warnings():
        warnings.simplefilter("error", VersionsWarning)
        load_run("run", device="cpu")


def test_other_versions_are_told_once(opened, cli):
    """By Python's warning, or in one line; what is saved from here on has the versions from here on."""
    change_state("run", lambda state: state["versions"].update(torch="1.13.0", pyro="1.8.0"))
    with pytest.warns(VersionsWarning, match=r"run/last\.pt was saved with torch 1\.13\.0, pyro 1\.8\.0, and") as told:
        load_run("run", device="cpu")
    assert [warning.filename for warning in told] == [__file__]
    commands = (("evaluate", "run", "--num_samples=0"), ("sample", "run"), ("train", "--resume=run", "--samples=800"))
    for words in commands:
        code, _, errors = cli(*words)
        assert (code, errors.count("\n")) == (0, 1), errors
        assert errors.startswith(
            "pyro-aevb: warning: run/last.pt was saved with torch 1.13.0, pyro 1.8.0, and this is "
        )
        assert errors.endswith(": numbers may differ in rounding\n")
    assert Folder("run").load()["versions"] == versions()
    code, _, errors = cli("evaluate", "run", "--num_samples=0")
    assert (code, errors) == (0, "")
    assert cli("train", "--config=run/config.yaml", "--out=again")[0] == 0


@pytest.mark.parametrize("damaged", [3, {"torch": 2}, {2: "2"}, ["torch"], {"torch": torch.zeros(1)}])
def test_versions_that_are_none_are_damage(damaged, opened, cli):
    change_state("run", lambda state: state.update(versions=damaged))
    assert "damaged" in refused()
    code, _, errors = cli("train", "--resume=run", "--samples=800")
    assert (code, errors.count("\n")) == (2, 1)


# ---------------------------------------------------------------- what is no run


def cut(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def folder_instead(path):
    Path(path).unlink()
    Path(path).mkdir()


HALF = {
    "no folder": (lambda: shutil.rmtree("run"), "no run at run"),
    "a file": (lambda: (shutil.rmtree("run"), Path("run").write_text("")), "no run at run"),
    "an empty folder": (lambda: (shutil.rmtree("run"), Path("run").mkdir()), "it has no config.yaml"),
    "no configuration": (lambda: Path("run/config.yaml").unlink(), "it has no config.yaml"),
    "no state": (lambda: Path("run/last.pt").unlink(), "last.pt does not exist: give a run that 'train' made"),
    "half a state": (lambda: cut("run/last.pt"), "last.pt is damaged"),
    "an empty state": (lambda: Path("run/last.pt").write_bytes(b""), "last.pt is damaged"),
    "a folder for a state": (lambda: folder_instead("run/last.pt"), "last.pt is a folder"),
    "half a configuration": (lambda: cut("run/config.yaml"), "config.yaml"),
    "no YAML": (lambda: Path("run/config.yaml").write_text("{"), "cannot be read as a configuration"),
    "a word": (lambda: Path("run/config.yaml").write_text("digits"), "is no configuration"),
    "a folder for a configuration": (lambda: folder_instead("run/config.yaml"), "it has no config.yaml"),
}


@pytest.mark.parametrize("case", HALF)
def test_what_is_no_whole_run_is_named(case, opened):
    damage, words = HALF[case]
    damage()
    assert words in refused()


def test_a_run_without_metrics_opens(opened):
    Path("run/metrics.jsonl").unlink()
    assert load_run("run", device="cpu").metrics == []
    Path("run/metrics.jsonl").write_text("{}\n")
    with pytest.raises(aevb.InputError, match=r"line 1 of run/metrics\.jsonl was changed or damaged"):
        _ = load_run("run", device="cpu").metrics


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checkpoint": "newest"}, "unknown checkpoint 'newest': give one of last, best"),
        ({"device": "nowhere"}, "device 'nowhere' is not on this machine"),
        ({"data_root": 3}, "data_root must be a path"),
        ({"path": 3}, "path must be a path"),
    ],
)
def test_wrong_arguments_are_named(options, words, opened):
    assert words in refused(**options)


def test_an_option_that_was_edited_is_named(opened):
    text = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(text.replace("seed: 0\nengine", "seed: 1\nengine"))
    assert "config.yaml has seed: 1, and the state beside it was trained with 0" in refused()


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [("likelihood", "network", {"class_path": "pyro_aevb.nn.MLP", "init_args": {"hidden": 8}}), (None, "hidden", 30)],
)
def test_an_option_that_was_added_is_named(part, option, value, opened):
    """Of what was null only the state's side was compared: another network opened, with other numbers."""
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    (config[part]["init_args"] if part else config)[option] = value
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    assert f"{option}" in (words := refused())
    assert "and the state beside it was trained with None: put the original config.yaml back" in words


# ---------------------------------------------------------------- what it costs who opens none


def test_the_package_imports_no_parser():
    check = (
        "import sys, pyro_aevb as aevb\n"
        "assert not {'jsonargparse', 'pyro_aevb.runs', 'pyro_aevb.cli'} & set(sys.modules)\n"
        "assert 'load_run' in dir(aevb)\n"
        "assert aevb.load_run.__module__ == 'pyro_aevb.runs.run'\n"
    )
    run_alone(check)
