"""Every kind of bad input: one line, an exit code, nothing written over."""

import numpy as np
import pytest
import torch

from pyro_aevb.runs.folder import Folder
from tests.commands import SMALL, change_state, train

# ---------------------------------------------------------------- bad input: one line, exit code 2, nothing written


BAD = [
    (["trian"], "unknown command 'trian'"),
    (["train", "--prior=Foo"], "unknown prior 'Foo'"),
    (["train", "--guide=math.sqrt"], "guide"),
    (["train", "--estimator=Foo"], "unknown estimator 'Foo'"),
    (["train", "--bogus=3"], "--bogus"),
    (["train", "--prior=StandardNormal", "--prior.foo=3"], "has no option 'foo'"),
    (["train", "--likelihood.relaxed=maybe"], "--likelihood.relaxed"),
    (["train", "--latent_dim=two"], "--latent_dim"),
    (["train", "--latent_dim=0"], "--latent_dim"),
    (["train", "--samples=0"], "--samples"),
    (["train", "--evaluate_every=often"], "--evaluate_every must be a whole number or log, not 'often'"),
    (["train", "--samples=1.5"], "--samples"),
    (["train", "--samples=nan"], "--samples"),
    (["train", "--hidden=0"], "hidden must be at least 1"),
    (["train", "--activation=tanhh"], "unknown activation"),
    (["train", "--batch_size=1501"], "between 1 and the 1500"),
    (["train", "--device=cuda:77"], "cuda:77"),
    (["train", "--device=warp"], "warp"),
    (["train", "--engine=warp"], "--engine"),
    (["train", "--binarize=none"], "relaxed=True"),
    (["train", "--data=nothing.npy"], "no file nothing.npy"),
    (["train", "--data=mnst"], "unknown data 'mnst'"),
    (["train", "--data=nan.npy"], "NaN"),
    (["train", "--data=beyond.npy"], "cannot be binarised"),
    (["train", "--data=beyond.npy", "--binarize=none", "--likelihood.relaxed=true"], "support"),
    (["train", "--data=empty.npy"], "empty"),
    (["train", "--data=text.npy"], "dtype"),
    (["train", "--data=cut.npy"], "truncated"),
    (["train", "--out=taken"], "exists already"),
    (["train", "--config=nothing.yaml"], "nothing.yaml"),
    (["train", "--config=list.yaml"], "no configuration"),
    (["train", "--config=foreign.yaml"], "does not fit"),
    (["train", "--config"], "--config"),
    (["train", "--resume=taken"], "no run at taken"),
    (["evaluate", "taken"], "no run at taken"),
    (["evaluate"], "run"),
    (["evaluate", "taken", "--num_samples=-1"], "--num_samples"),
    (["plot", "nothing"], "no run at nothing"),
    (["sample", "nothing", "--count=0"], "--count"),
    (["sample", "nothing", "--out=a.jpg"], ".npy or .png"),
    (["sample", "nothing", "--out=nan.npy"], "exists already"),
    (["train", "--seed=-1"], "at least 0"),
    (["train", "--split_seed=-1"], "at least 0"),
    (["train", "--activation=MultiheadAttention"], "cannot be made"),
    (["train", "--optimizer=Adam", "--optimizer.lr=-1"], "cannot be made"),
    (["train", "--optimizer=LBFGS"], "LBFGS"),
    (["train", "--latent_dim=1000000000000"], "cannot be built"),
    (["train", "--estimator=pyro.infer.RenyiELBO", "--estimator.num_particles=2"], "engine='svi'"),
    (["train", "--device=meta"], "meta"),
    (["train", "--precision=half"], "--precision"),
    (["train", "--conf=list.yaml"], "--conf"),
    (["train", "--resum=taken"], "--resum"),
    (["train", "--config=wrong.yaml"], "--latent_dim"),
    (["train", "--data=archive.npy"], "archive.npy"),
    (["train", "--data=large.npy"], "NaN or infinite"),
    (["train", "--data=labels.npz"], "labels has 4 rows, the data 9"),
    (["list", "pirors"], "unknown family 'pirors'"),
]


@pytest.fixture
def bad_files(tmp_path):
    np.save(tmp_path / "nan.npy", np.full((200, 3), np.nan))
    np.save(tmp_path / "beyond.npy", np.full((200, 3), 1.5))
    np.save(tmp_path / "empty.npy", np.ones((0, 3)))
    np.save(tmp_path / "text.npy", np.array([["a"]] * 200))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "beyond.npy").read_bytes()[:150])
    np.save(tmp_path / "large.npy", np.full((200, 3), 1e300))
    np.savez(tmp_path / "labels.npz", train=np.ones((9, 2)), test=np.ones((9, 2)), labels_test=np.ones(4, dtype=int))
    np.savez(tmp_path / "archive.npz", a=np.ones((200, 3)), b=np.ones(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "wrong.yaml").write_text("samples: null\nlatent_dim: two\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "foreign.yaml").write_text("learning_rate: 3\n")
    return sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input(cli, bad_files, tmp_path, arguments, message):
    before = {path: path.read_bytes() for path in bad_files if path.is_file()}
    code, printed, errors = cli(*arguments)
    assert code == 2
    assert message in errors
    assert errors.startswith("pyro-aevb")
    assert errors.count("\n") == 1
    assert printed == ""
    assert sorted(tmp_path.rglob("*")) == bad_files
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "last.pt").write_bytes(b"no"), "last.pt is damaged"),
        (lambda run: torch.save({"a": torch.zeros(3)}, run / "last.pt"), "no checkpoint of this package"),
        (lambda run: (run / "last.pt").unlink(), "does not exist"),
        (lambda run: torch.save({"trainer": "x"}, run / "last.pt"), "no checkpoint of this package"),
        (lambda run: torch.save([1], run / "last.pt"), "no checkpoint of this package"),
        (lambda run: _drop(run, "optimizer"), "lacks optimizer"),
        (lambda run: (run / "metrics.jsonl").write_text("[]\n"), "changed or damaged"),
        (lambda run: _edit(run, "hidden: 8", "hidden: 9"), "has likelihood.init_args.hidden: 9"),
        (lambda run: _edit(run, "split_seed: 0", "split_seed: 1"), "has split_seed: 1"),
        (lambda run: _edit(run, "seed: 0", "seed: 1"), "seed: 1"),
        (lambda run: _edit(run, "class_path: pyro_aevb.optimizers.Adagrad", "class_path: torch.optim.LBFGS"), ""),
    ],
)
def test_resuming_a_damaged_or_changed_run(cli, damage, message, tmp_path):
    train(cli)
    damage(tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").glob("[!.]*.*")}
    code, _, errors = cli("train", "--resume=run", "--samples=800")
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert all(p.read_bytes() == content for p, content in before.items())


def _drop(run, key):
    change_state(run, lambda state: state["trainer"].pop(key))


def _edit(run, old, new):
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "option", ["--latent_dim=3", "--data=mnist", "--hidden=9", "--seed=4", "--prior=StandardNormal"]
)
def test_resuming_with_other_options(cli, option):
    train(cli)
    code, _, errors = cli("train", "--resume=run", option)
    assert code == 2
    assert "cannot change in a resumed run" in errors


def test_resuming_with_other_data_of_the_same_name(cli, tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random((300, 4)))
    train(cli, "--data=mine.npy")
    np.save(tmp_path / "mine.npy", np.random.default_rng(1).random((300, 4)))
    code, _, errors = cli("train", "--resume=run", "--samples=800")
    assert code == 2
    assert "is not what run was trained on" in errors


def test_evaluating_with_other_data_of_the_same_name(cli, tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random((300, 4)))
    train(cli, "--data=mine.npy")
    np.save(tmp_path / "mine.npy", np.random.default_rng(1).random((300, 4)))
    for command in ("evaluate", "plot", "sample"):
        code, _, errors = cli(command, "run")
        assert code == 2
        assert "is not what run was trained on" in errors


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_weights_that_break_at_once_leave_the_first_state(cli, engine):
    code, _, errors = cli(
        "train",
        *SMALL,
        "--out=run",
        f"--engine={engine}",
        "--optimizer.lr=1e38",
        "--report_every=100",
        "--save_every=100",
    )
    assert code == 1
    assert errors.count("\n") == 1
    state = Folder("run").load()
    assert state["samples_seen"] == 0
    assert all(value.isfinite().all() for value in state["trainer"]["modules"]["guide"].values())


def test_a_run_that_exists_is_not_written_over(cli, tmp_path):
    train(cli)
    before = (tmp_path / "run" / "last.pt").read_bytes()
    code, _, errors = cli("train", *SMALL, "--out=run", "--seed=5")
    assert code == 2
    assert "exists already" in errors
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(cli):
    """Exit code 1 and one line."""
    code, _, errors = cli(
        "train", *SMALL, "--samples=100000", "--out=run", "--optimizer=SGD", "--optimizer.lr=1e6", "--report_every=500",
        "--likelihood=Gaussian", "--likelihood.min_scale=1e-30",
    )  # fmt: skip
    assert code == 1
    assert "at step" in errors
    assert "last good checkpoint is kept" in errors
    assert errors.count("\n") == 1
    state = Folder("run").load()
    for part in ("model", "guide"):
        assert all(value.isfinite().all() for value in state["trainer"]["modules"][part].values())
