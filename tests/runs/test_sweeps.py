"""What a sweep's grid comes to, what its folders are called, and what its folder refuses; nothing is trained here."""

from pathlib import Path

import pytest
import yaml

from pyro_aevb.errors import InputError
from pyro_aevb.runs.grid import Grid, canonical, seeds_of, split_values
from pyro_aevb.runs.sweeps import Sweep, minutes_of


def names(*arguments, varied=()):
    return [each.name for each in Grid(arguments, varied).points()]


def sweep(*arguments, threads=1):
    made = Sweep(Path("runs"), arguments, lambda count: threads)
    with made.locked():
        made.write_table(made.rows())
    return made


@pytest.fixture
def _empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- the grid


def test_all_combinations_a_seed_at_a_time():
    assert names("--prior=StandardNormal,Laplace", "--latent_dim", "2,10", "--seeds=0-1", "--samples=1e6") == [
        f"prior={prior},latent_dim={latent_dim},seed={seed}"
        for seed in (0, 1)
        for prior in ("StandardNormal", "Laplace")
        for latent_dim in (2, 10)
    ]


def test_what_a_run_is_trained_with():
    grid = Grid(
        ["--prior=laplace,vampprior", "--samples=1e6", "--missing", "--trust=mine", "--seed=3", "--hidden=[9,8]"]
    )
    assert grid.base == {"samples": "1000000", "hidden": "[9,8]"}
    assert grid.points()[1].words == (
        "--samples=1000000",
        "--hidden=[9,8]",
        "--prior=VampPrior",
        "--seed=3",
        "--missing",
        "--trust=mine",
    )


def test_an_option_of_a_part_is_for_the_values_that_take_it():
    """By hand: one run without components, two with them; and momentum where there is one."""
    options = ["--prior=StandardNormal,GaussianMixture", "--prior.components=10,50"]
    assert names(*options) == [
        "prior=StandardNormal,seed=0",
        "prior=GaussianMixture,prior.components=10,seed=0",
        "prior=GaussianMixture,prior.components=50,seed=0",
    ]
    assert names("--prior.components=3", "--prior=GaussianMixture,StandardNormal") == [
        "prior.components=3,prior=GaussianMixture,seed=0",
        "prior=StandardNormal,seed=0",
    ]
    points = Grid(["--optimizer=Adam,SGD", "--optimizer.init_args.momentum=0.9"]).points()
    assert ["--optimizer.momentum=0.9" in each.words for each in points] == [False, True]
    assert all("--prior.components=3" in each.words for each in Grid(["--prior.components=3", "--seeds=0-1"]).points())


def test_what_no_value_takes_stays_to_be_refused_by_name():
    points = Grid(["--prior=StandardNormal,Laplace", "--prior.components=10"]).points()
    assert all("--prior.components=10" in each.words for each in points)


def test_brackets_keep_a_value_whole():
    assert split_values("hidden", "50,[500,300]") == ["50", "[500,300]"]
    assert split_values("columns", "[a,b],c") == ["a,b", "c"]
    assert split_values("optimizer.lr", "auto[0.1,0.2],0.3") == ["auto[0.1,0.2]", "0.3"]
    assert split_values("likelihood.fixed", "{a: 1, b: 2}") == ["{a: 1, b: 2}"]


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("samples", "1e6", "1000000"),
        ("seed", "123456789012345678", "123456789012345678"),
        ("optimizer.lr", "0.0100", "0.01"),
        ("optimizer.lr", "1e-5", "1e-05"),
        ("prior", "gaussianmixture", "GaussianMixture"),
        ("prior", "pyro_aevb.priors.Laplace", "Laplace"),
        ("optimizer", "Adagrad", "Adagrad"),
        ("optimizer", "torch.optim.Adagrad", "torch.optim.Adagrad"),
        ("columns", "007", "007"),
        ("device", "cuda:1", "cuda:1"),
    ],
)
def test_one_value_is_told_in_one_way(name, typed, expected):
    assert canonical(name, typed) == expected


def test_names_that_any_file_system_takes():
    long = "x" * 300
    found = names("--data=/home/me/my table.csv,b.csv", "--hidden=[500,300],[],2", "--labels=../up,CON*")
    assert len(set(found)) == len(found) == 12
    assert all(
        set(each) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,=+-") for each in found
    )
    assert "hidden=500-300" in found[0]
    assert all(len(each) <= 255 for each in names(f"--labels={long},{long}y", f"--index={long}z,{long}w"))
    assert len(set(names(f"--labels={long},{long}y", f"--index={long}z,{long}w"))) == 4
    with pytest.raises(InputError, match="the same name"):
        names("--data=a.csv,A.csv")


def test_seeds():
    assert seeds_of("0-3") == [0, 1, 2, 3]
    assert seeds_of("0, 3,7-8") == [0, 3, 7, 8]
    assert names("--seed=4,2") == ["seed=4", "seed=2"]
    assert names("--seeds=7") == ["seed=7"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=3-1"], "smaller seed first"),
        (["--seeds=0,0"], "twice"),
        (["--seeds=a"], "whole numbers"),
        (["--seeds=-1"], "whole numbers"),
        (["--seeds=0-99999999"], "at most"),
        (["--seeds=0-1", "--seed=3"], "both given"),
        (["--latent_dim=2,"], "--latent_dim needs a value"),
        (["--latent_dim"], "--latent_dim needs a value"),
        (["--latent_dim=2,2.0"], "2 twice"),
        (["--prior=Laplace,laplace"], "Laplace twice"),
        (["--prior=Laplace,Laplas"], "unknown prior 'Laplas'"),
        (["run"], "unexpected run"),
    ],
)
def test_a_grid_that_cannot_be_meant(arguments, message):
    with pytest.raises(InputError, match=message):
        Grid(arguments).points()


# ---------------------------------------------------------------- the folder


@pytest.mark.usefixtures("_empty")
class TestFolder:
    """One folder after several commands."""

    def test_what_is_written(self):
        sweep("--prior=StandardNormal,Laplace", "--samples=400", threads=3)
        told = yaml.safe_load(Path("runs/sweep.yaml").read_text())
        assert told["base"] == {"samples": "400"}
        assert told["varied"] == ["prior", "seed"]
        assert told["threads"] == 3
        assert told["runs"]["prior=Laplace,seed=0"] == {"prior": "Laplace", "seed": "0"}
        lines = Path("runs/table.csv").read_text().splitlines()
        assert lines[0] == "run,prior,seed,state,samples,bound,test_bound,test_se,minutes,message"
        assert lines[2] == '"prior=Laplace,seed=0",Laplace,0,waiting,0,,,,0.0,'

    def test_another_grid_adds_runs(self):
        """One value of an option that varies here names the folder, whatever the order of options."""
        sweep("--prior=StandardNormal,Laplace", "--latent_dim=2,3", "--samples=400", threads=3)
        added = sweep("--latent_dim=2", "--samples=4e2", "--prior=VampPrior", "--seeds=0-1", threads=1)
        expected = ["prior=VampPrior,latent_dim=2,seed=0", "prior=VampPrior,latent_dim=2,seed=1"]
        assert [each.name for each in added.points] == expected
        assert added.threads == 3
        assert len(Path("runs/table.csv").read_text().splitlines()) == 1 + 4 + 2
        assert len(yaml.safe_load(Path("runs/sweep.yaml").read_text())["runs"]) == 6

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--samples=500", "--hidden=3"], "--samples is 500, and the runs in runs have 400"),
            (["--samples=400"], "--hidden is not given, and the runs in runs have 3"),
            (
                ["--samples=400", "--hidden=3", "--batch_size=7"],
                "--batch_size is 7, and the runs in runs have not given",
            ),
            (["--samples=400", "--hidden=3,4"], "--hidden is 3 in all runs of runs"),
        ],
    )
    def test_other_options_in_common_are_refused_by_name(self, arguments, message):
        sweep("--prior=StandardNormal,Laplace", "--samples=400", "--hidden=3")
        before = Path("runs/sweep.yaml").read_bytes()
        with pytest.raises(InputError, match=message):
            sweep("--prior=VampPrior", *arguments)
        assert Path("runs/sweep.yaml").read_bytes() == before

    def test_an_option_that_earlier_runs_do_not_know_may_vary(self):
        """Those have what stands where nothing is said."""
        sweep("--samples=400")
        added = sweep("--samples=400", "--prior=Laplace,GaussianMixture", "--prior.components=3")
        assert [each.name for each in added.points] == [
            "prior=Laplace,seed=0",
            "prior=GaussianMixture,prior.components=3,seed=0",
        ]
        more = sweep("--samples=400", "--prior.components=10", "--prior=GaussianMixture")
        assert [each.name for each in more.points] == ["prior=GaussianMixture,prior.components=10,seed=0"]

    def test_what_is_there_already_is_left_alone(self):
        Path("runs").mkdir()
        with pytest.raises(InputError, match="runs exists already: it is no folder of a sweep"):
            sweep("--latent_dim=2,3")
        Path("runs").rmdir()
        sweep("--latent_dim=2,3")
        Path("runs/latent_dim=4,seed=0").mkdir()
        with pytest.raises(InputError, match="latent_dim=4,seed=0 exists already: it is no run of this sweep"):
            sweep("--latent_dim=4")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "format: pyro_aevb sweep 1",
            "format: pyro_aevb sweep 1\nbase: []\nvaried: []\nthreads: 1\nruns: {}",
            "format: pyro_aevb sweep 1\nbase: {}\nvaried: []\nthreads: 0\nruns: {}",
            "format: pyro_aevb sweep 1\nbase: {}\nvaried: []\nthreads: 1\nruns: {a: b}",
            "format: pyro_aevb sweep 1\nbase: &a {}\nvaried: []\nthreads: 1\nruns: {a: *a}",
            "!!python/object/apply:os.system ['touch pwned']",
            "[" * 10_000,
        ],
    )
    def test_a_damaged_or_foreign_file_is_refused(self, text):
        sweep("--latent_dim=2,3")
        Path("runs/sweep.yaml").write_text(text)
        with pytest.raises(InputError, match="was changed or damaged"):
            sweep("--latent_dim=2,3")
        assert not Path("pwned").exists()

    def test_two_commands_at_once(self):
        made = sweep("--latent_dim=2,3")
        with made.locked(), pytest.raises(InputError, match="is being written by process"):
            sweep("--latent_dim=2,3")


def test_minutes_of_all_sessions():
    """By hand: 60 s of the first session, 30 s of the second."""
    assert minutes_of([{"seconds": 30.0}, {"test_bound": 1}, {"seconds": 60.0}, {"seconds": 30.0}]) == 1.5
    assert minutes_of([]) == 0
