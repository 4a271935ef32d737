"""The command line as its users meet it; see test_bad_input.py for wrong use."""

import json
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import yaml

from pyro_aevb import estimators, guides, likelihoods, nn, priors
from pyro_aevb.cli.compare import CompareOptions
from pyro_aevb.cli.diagnose import DiagnoseOptions
from pyro_aevb.cli.evaluate import EvaluateOptions
from pyro_aevb.cli.pictures import PlotOptions, SampleOptions
from pyro_aevb.runs.folder import Folder
from pyro_aevb.runs.options import TrainOptions
from tests.commands import SMALL, change_state, train


def config_of(name):
    return yaml.safe_load((Path(name) / "config.yaml").read_text())


# ---------------------------------------------------------------- good use


def test_bounds_as_a_logarithmic_axis_wants_them(cli):
    train(cli, "--samples=2500", "--evaluate_every=log", "--save_every=log")
    evaluated = [m["samples_seen"] for m in Folder("run").metrics() if "test_bound" in m]
    assert evaluated == [*range(100, 1000, 100), 1000, 2000, 2500]


def test_train_evaluate_plot_sample(cli, tmp_path):
    assert "on test" in train(cli)
    run = Folder("run")
    assert {p.name for p in run.path.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "last.pt",
        "best.pt",
        "figures",
        ".lock",
    }
    assert [m["samples_seen"] for m in run.metrics() if "bound" in m] == [100, 200, 300, 400]
    assert [m["samples_seen"] for m in run.metrics() if "test_bound" in m] == [200, 400]

    code, printed, _ = cli("evaluate", "run", "--num_samples=50", "--json")
    numbers = json.loads(printed)
    assert code == 0
    assert numbers["bound"]["mean"] == pytest.approx(run.metrics()[-1]["test_bound"])
    assert numbers["bound"]["mean"] == pytest.approx(numbers["log_px_given_z"]["mean"] - numbers["kl"]["mean"])
    assert numbers["log_px"]["mean"] > numbers["bound"]["mean"]
    assert (numbers["binarize"], numbers["count"], numbers["unit"]) == ("dynamic", 297, "nats per datum")
    assert 0 <= numbers["active_units"] <= 2

    code, printed, _ = cli("evaluate", "run", "--num_samples=50", "--split=train", "--checkpoint=best", "--count=30")
    assert code == 0
    assert "30 train data" in printed
    assert "binarize=dynamic" in printed

    code, printed, _ = cli("plot", "run", "--side=4")
    names = ["learning_curve", "samples", "reconstructions", "latent_space", "manifold"]
    assert printed.split() == [f"run/figures/{n}.png" for n in names]
    assert all((tmp_path / p).stat().st_size > 1000 for p in printed.split())

    assert cli("sample", "run", "--count=3", "--draw=x", "--out=x.npy")[0] == 0
    values = np.load("x.npy")
    assert values.shape == (3, 8, 8)
    assert set(np.unique(values)) <= {0, 1}


def test_evaluation_does_not_depend_on_chunks_or_on_what_ran_before(cli):
    train(cli)
    printed = [cli("evaluate", "run", "--num_samples=70", f"--chunk_size={c}", "--json")[1] for c in (70, 13, 70)]
    first, second, third = map(json.loads, printed)
    assert first == third
    assert first["log_px"]["mean"] == pytest.approx(second["log_px"]["mean"], rel=1e-6)


def test_config_repeats_a_run(cli):
    train(cli, "--optimizer=Adam", "--optimizer.lr=0.003", "--seed=3")
    assert cli("train", "--config=run/config.yaml", "--out=again")[0] == 0
    one, other = Folder("run").load()["trainer"]["modules"], Folder("again").load()["trainer"]["modules"]
    for part in ("model", "guide"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert config_of("run") == config_of("again")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "svi", "captured"])
def test_resume_goes_on_as_if_never_stopped(cli, engine):
    train(cli, f"--engine={engine}", "--samples=1600", out="whole")
    train(cli, f"--engine={engine}", "--samples=800", out="parts")
    assert cli("train", "--resume=parts", "--samples=1600")[0] == 0
    one, other = Folder("whole"), Folder("parts")
    for part in ("model", "guide"):
        a, b = one.load()["trainer"]["modules"][part], other.load()["trainer"]["modules"][part]
        assert all(torch.equal(a[name], b[name]) for name in a)
    drop = {"seconds"}
    assert [{k: v for k, v in m.items() if k not in drop} for m in one.metrics()] == [
        {k: v for k, v in m.items() if k not in drop} for m in other.metrics()
    ]
    assert config_of("parts")["samples"] == 1600


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_two_processes(tmp_path):
    """Seeds hold across processes: no stream depends on an address, a hash or the clock."""
    for name in ("a", "b"):
        calls = [["train", *SMALL, f"--out={name}-{engine}", f"--engine={engine}"] for engine in ("eager", "captured")]
        program = f"from pyro_aevb.cli import main; print([main(words) for words in {calls}])"
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    for engine in ("eager", "captured"):
        one, other = (Folder(tmp_path / f"{name}-{engine}").load()["trainer"]["modules"] for name in ("a", "b"))
        for part in ("model", "guide"):
            assert all(torch.equal(one[part][k], other[part][k]) for k in one[part])


def test_plain_pyro_from_the_command_line(cli):
    train(cli, "--engine=svi", "--estimator=pyro.infer.Trace_ELBO", out="svi")
    train(cli, "--engine=eager", "--estimator=SGVB", out="eager")
    svi, eager = (Folder(name).metrics()[-1]["test_bound"] for name in ("svi", "eager"))
    assert svi == pytest.approx(eager, abs=1e-3)


def test_parts_outside_the_package(cli, tmp_path):
    (tmp_path / "my_module.py").write_text(
        "import pyro.distributions as dist, torch\n"
        "from pyro_aevb.priors import Prior\n\n"
        "class MyPrior(Prior):\n"
        '    """Laplace.\n\n    Args:\n        latent_dim: K.\n        scale: Its scale.\n    """\n\n'
        "    def __init__(self, latent_dim: int, *, scale: float = 1.0):\n"
        "        super().__init__(latent_dim)\n"
        "        self.register_buffer('scale', torch.full((latent_dim,), scale))\n\n"
        "    def forward(self):\n"
        "        return dist.Laplace(0 * self.scale, self.scale).to_event(1)\n"
    )
    train(cli, "--prior=my_module.MyPrior", "--prior.scale=2")
    saved = config_of("run")["prior"]
    assert saved == {"class_path": "my_module.MyPrior", "init_args": {"scale": 2.0}}
    code, _, errors = cli("evaluate", "run", "--num_samples=10")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"would be imported from {tmp_path}: add --trust my_module" in errors
    assert cli("evaluate", "run", "--num_samples=10", "--trust=my_module")[0] == 0
    assert cli("train", "--resume=run", "--samples=800")[0] == 2
    assert cli("train", "--resume=run", "--samples=800", "--trust", "my_module")[0] == 0
    assert "trust" not in config_of("run")


def test_a_part_named_anew_keeps_nothing_of_the_default(cli):
    """jsonargparse would carry Adagrad's eps of 1e-10 over to Adam."""
    train(cli, "--optimizer=Adam")
    arguments = config_of("run")["optimizer"]["init_args"]
    assert (arguments["eps"], arguments["lr"], arguments["weight_decay"]) == (1e-8, 1e-3, 0)
    assert cli("train", "--config=run/config.yaml", "--optimizer=SGD", "--out=other")[0] == 0
    assert config_of("other")["optimizer"]["init_args"]["lr"] == 1e-3


def test_hidden_and_activation_reach_both_networks(cli):
    train(cli, "--hidden=[9,5]", "--activation=ReLU")
    config = config_of("run")
    for part in ("likelihood", "guide"):
        assert config[part]["init_args"]["hidden"] == [9, 5]
        assert config[part]["init_args"]["activation"] == "ReLU"


def test_a_part_s_own_option_wins_over_the_shorthand(cli):
    """The guide had 9 units, silently."""
    train(cli, "--hidden=9", "--guide.hidden=5")
    config = config_of("run")
    assert config["likelihood"]["init_args"]["hidden"] == 9
    assert config["guide"]["init_args"]["hidden"] == 5


def test_a_shorthand_that_no_part_takes_is_refused(cli):
    """Any activation trained, banana too."""
    networks = [f"--{part}.network=Convolutional{n}" for part, n in (("guide", "Encoder"), ("likelihood", "Decoder"))]
    code, _, errors = cli("train", *networks, "--activation=banana", "--samples=100", "--out=run")
    assert code == 2
    assert "--activation: neither the likelihood nor the guide takes it" in errors


def test_the_summary_says_since_when_the_last_bound_is(cli):
    assert "on train (last 100 samples)" in train(cli, "--hidden=4", out="one")
    assert "on train (last 50 samples)" in train(cli, "--hidden=4", "--samples=250", "--batch_size=50", out="two")


def test_grey_and_real_data(cli, frey_root):
    train(cli, "--likelihood=Bernoulli", "--likelihood.relaxed=true", "--binarize=none", out="grey")
    assert "not a likelihood" in cli("evaluate", "grey", "--num_samples=5")[1]
    train(cli, "--data=frey_face", "--likelihood=Gaussian", "--likelihood.sigmoid_mean=true", out="frey")
    assert config_of("frey")["binarize"] == "none"
    assert cli("plot", "frey")[0] == 0


def test_own_arrays_with_a_linear_likelihood(cli, tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(300, 3, 2)))
    train(cli, "--data=mine.npy", "--likelihood=Gaussian", "--hidden=[]")
    assert cli("evaluate", "run", "--num_samples=10")[0] == 0
    assert cli("plot", "run")[0] == 0


def test_default_folders_are_numbered(cli, tmp_path):
    for _ in range(2):
        assert cli("train", *SMALL)[0] == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["digits-1", "digits-2"]


def test_quiet_when_not_a_terminal(cli):
    _, printed, errors = cli("train", *SMALL)
    assert errors == ""
    assert printed.count("\n") == 1


def test_list_shows_every_name_of_every_family(cli):
    code, printed, _ = cli("list")
    assert code == 0
    for module in (priors, likelihoods, guides, estimators, nn):
        for name in module.__all__:
            assert f"\n  {name} " in printed
    assert "options: relaxed, hidden, activation, network" in printed
    assert "mnist" in cli("list", "data")[1]


def test_help_documents_every_option_of_every_part(cli):
    code, printed, _ = cli("train", "--help")
    assert code == 0
    assert "--prior.help" in printed
    code, printed, _ = cli("train", "--likelihood.help=Gaussian")
    assert "--likelihood.min_scale" in printed
    assert "Floor of the standard deviation" in printed
    assert cli("--help")[0] == 0
    assert cli()[0] == 2


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", TrainOptions),
        ("evaluate", EvaluateOptions),
        ("compare", CompareOptions),
        ("diagnose", DiagnoseOptions),
        ("sample", SampleOptions),
        ("plot", PlotOptions),
    ],
)
def test_help_tells_each_field_of_the_options(command, options, cli):
    """Its name, what a docstring says of it, and its default; ``run`` alone is typed without a name."""
    printed = re.sub(r"\s", "", cli(command, "--help")[1])  # lines are broken within long words too
    said = {name: text for base in options.__mro__[:-1] for name, text in arguments_of(base).items()}
    for each in fields(options):
        name = each.name if each.name == "run" else f"--{each.name}"
        told = re.search(re.escape(name) + "[^.]*?" + re.escape(said[each.name]) + r"\([^)]*?\)", printed)
        assert told, each.name
        if each.default not in (MISSING, None, False):
            assert re.search(rf"default:{re.escape(str(each.default))}[,)]", told[0]), told[
                0
            ]  # a part's classes follow


def arguments_of(documented):
    """What a docstring says of each argument, without blanks."""
    text = (documented.__doc__ or "").partition("Arguments:\n")[2]
    lines = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s|``", "", words) for name, words in lines}


def test_the_numbers_of_evaluate_by_their_definition(cli):
    """Means and standard errors over data, recomputed from values per datum."""
    from pyro_aevb import evidence, runs

    train(cli)
    numbers = json.loads(cli("evaluate", "run", "--num_samples=20", "--json")[1])
    run = runs.load_run("run", device="cpu")
    x = run.data.test
    bound = evidence.bound(run.model, run.guide, x).bound.double()
    weights = evidence.importance_weights(run.model, run.guide, x, 20)
    assert numbers["bound"]["se"] == pytest.approx(bound.std().item() / 297**0.5, rel=1e-4)
    assert numbers["log_px"]["mean"] == pytest.approx(weights.log_likelihood.mean().item(), rel=1e-5)
    monte_carlo = sum(e**2 for e in weights.standard_error.tolist()) ** 0.5 / 297
    assert numbers["log_px"]["monte_carlo_se"] == pytest.approx(monte_carlo, rel=1e-4)
    assert Folder("run").metrics()[-1]["test_se"] == pytest.approx(numbers["bound"]["se"], rel=1e-4)


def test_evidence_by_several_methods_side_by_side(cli, tmp_path):
    """They agree within their error bars; kept results are used again; a wrong name is refused."""
    assert cli("train", "--data=digits", "--latent_dim=2", "--hidden=20", "--samples=30000", "--out=run")[0] == 0
    words = (
        "--evidence=importance,appendix_d,ais",
        "--steps=30",
        "--chains=8",
        "--draws=40",
        "--count=20",
        "--keep=kept",
    )
    numbers = json.loads(cli("evaluate", "run", *words, "--json")[1])
    for name in ("log_px_appendix_d", "log_px_ais"):
        gap = numbers[name]["mean"] - numbers["log_px"]["mean"]
        assert abs(gap) < 5 * numbers[name]["monte_carlo_se"] + 0.05
    assert numbers["log_px_ais"]["acceptance"] > 0.5
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["ais.pt", "appendix_d.pt", "importance.pt"]
    assert json.loads(cli("evaluate", "run", *words, "--json")[1]) == numbers
    printed = cli("evaluate", "run", *words, "--out=each.csv")[1]
    columns = set((tmp_path / "each.csv").read_text().splitlines()[0].split(","))
    told = {name for name, number in numbers.items() if isinstance(number, dict) and "mean" in number}
    assert told == {"bound", "log_px_given_z", "kl", "log_px", "log_px_appendix_d", "log_px_ais"} == told & columns
    assert "appendix D, 40 + 40 draws" in printed
    assert "AIS, 30 steps, 8 chains" in printed
    double = json.loads(cli("evaluate", "run", *words[:-1], "--float64=true", "--json")[1])
    assert double["log_px_ais"]["mean"] == pytest.approx(numbers["log_px_ais"]["mean"], abs=0.2)
    code, _, errors = cli("evaluate", "run", *words, "--seed=1")
    assert (code, "other data, weights or settings" in errors) == (2, True)
    code, _, errors = cli("evaluate", "run", "--evidence=harmonic")
    assert (code, "'harmonic'" in errors) == (2, True)


def test_a_method_that_is_refused_loses_no_other(cli):
    """Appendix D needs more draws than latents."""
    train(cli, "--latent_dim=9")
    few = "--num_samples=20", "--count=10", "--draws=5"
    code, printed, errors = cli("evaluate", "run", "--evidence=importance,appendix_d", *few)
    assert code == 0
    assert "log p(x), appendix D, 5 + 5 draws" in printed
    assert "refused" in printed
    assert "log_px_appendix_d was not estimated: " in errors
    numbers = json.loads(cli("evaluate", "run", "--evidence=importance,appendix_d", *few, "--json")[1])
    assert numbers["log_px"]["mean"] < 0
    assert "draws" in numbers["log_px_appendix_d"]["refused"]
    assert cli("evaluate", "run", "--evidence=appendix_d", *few)[0] == 2


def test_best_is_the_state_with_the_best_training_bound(cli, tmp_path):
    """After the step size has been ruined, last.pt moves on and best.pt stays."""
    train(cli, "--optimizer=Adam", "--optimizer.lr=0.01", "--samples=2000")
    best = (tmp_path / "run" / "best.pt").read_bytes()
    change_state("run", lambda state: state["trainer"]["optimizer"]["param_groups"][0].update(lr=3.0))
    assert cli("train", "--resume=run", "--samples=2400")[0] == 0
    assert (tmp_path / "run" / "best.pt").read_bytes() == best
    seen = [
        json.loads(cli("evaluate", "run", f"--checkpoint={c}", "--num_samples=0", "--json")[1])
        for c in ("best", "last")
    ]
    assert [n["samples_seen"] for n in seen] == [2000, 2400]
    assert seen[0]["bound"]["mean"] > seen[1]["bound"]["mean"] + 1


def test_static_binarisation_follows_the_split_seed():
    from pyro_aevb import data

    for seed in (0, 3):
        static, dynamic = (data.load("digits", binarize=b, split_seed=seed) for b in ("static", "dynamic"))
        assert torch.equal(static.train, dynamic.evaluation("train"))
    assert not torch.equal(static.train, data.load("digits", binarize="static").train)


def test_a_run_is_found_out_about_from_any_folder(cli, tmp_path, monkeypatch):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random((300, 4)))
    train(cli, "--data=mine.npy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli("evaluate", "../run", "--num_samples=5")[0] == 0
    (tmp_path / "mine.npy").rename(tmp_path / "elsewhere" / "mine.npy")
    assert cli("evaluate", "../run", "--num_samples=5")[0] == 2
    assert cli("evaluate", "../run", "--num_samples=5", "--data_root=.")[0] == 0


def test_one_row_to_test_on(cli, tmp_path):
    np.savez(tmp_path / "one.npz", train=np.ones((200, 4)), test=np.ones((1, 4)))
    train(cli, "--data=one.npz", "--binarize=static", "--latent_dim=3")
    code, printed, errors = cli("evaluate", "run", "--num_samples=5", "--json")
    assert (code, errors) == (0, "")
    assert json.loads(printed)["bound"]["se"] is None
    assert cli("plot", "run")[0] == 0
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("samples", ["400", "100"])
def test_resuming_a_run_that_is_already_there(cli, samples):
    train(cli)
    code, printed, errors = cli("train", "--resume=run", f"--samples={samples}")
    assert (code, errors) == (0, "")
    assert "400 samples" in printed
    assert config_of("run")["samples"] == 400


def test_samples_come_from_the_models_own_prior(tmp_path, monkeypatch):
    from pyro_aevb import runs
    from pyro_aevb.cli import train
    from pyro_aevb.predictions import sample
    from pyro_aevb.priors import Prior

    class Far(Prior):
        def forward(self):
            return dist.Normal(torch.full((self.latent_dim,), 5.0), 0.01).to_event(1)

    monkeypatch.chdir(tmp_path)
    train.train(["--samples=100", "--hidden=[]", "--latent_dim=1", "--out=run"])
    loaded = runs.load_run("run", device="cpu")
    loaded.model.prior = Far(1)
    torch.nn.init.ones_(loaded.model.likelihood.network[0].weight)
    torch.nn.init.zeros_(loaded.model.likelihood.network[0].bias)
    samples = sample(loaded.model, 10, mean=True)
    torch.testing.assert_close(samples, torch.full_like(samples, torch.sigmoid(torch.tensor(5.0))), atol=1e-3, rtol=0)
