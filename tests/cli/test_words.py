"""Words of the command line: in any order, in any case, and what is said of those that do not fit."""

import re
import sys
from importlib.metadata import version

import pyro
import pytest
import torch
import yaml

from pyro_aevb import estimators, guides, likelihoods, priors
from pyro_aevb.cli import COMMANDS, LARGE
from pyro_aevb.cli.listing import families
from pyro_aevb.runs.offered import choices_of, class_named, offered
from pyro_aevb.runs.run import load_run
from pyro_aevb.runs.trust import UNSUITED, check_suited
from pyro_aevb.runs.words import from_the_outside_in, taken_apart, wanted
from tests.commands import train

SMALLEST = ["--hidden=3", "--latent_dim=2", "--samples=200", "--batch_size=100", "--engine=eager"]


def config_of(tmp_path, name):
    return yaml.safe_load((tmp_path / name / "config.yaml").read_text())


def said(cli, *words):
    code, printed, errors = cli(*words)
    assert (code, printed, errors.count("\n")) == (2, "", 1), (printed, errors)
    assert errors.startswith("pyro-aevb")
    return errors.split(": ", 1)[1].strip()


# ---------------------------------------------------------------- order


@pytest.mark.parametrize(
    "words",
    [
        ["--prior.scale", "2", "--prior", "Laplace"],
        ["--prior", "Laplace", "--prior.scale", "2"],
        ["--prior.scale=2", "--seed=0", "--prior=Laplace"],
        ["--prior.scale", "2", "--prior=laplace"],
        ["--prior.scale=2", "--prior", "pyro_aevb.priors.Laplace"],
    ],
)
def test_options_in_any_order(words, cli, tmp_path):
    train(cli, *words)
    train(cli, "--prior=Laplace", "--prior.scale=2", out="expected")
    assert config_of(tmp_path, "run")["prior"] == {"class_path": "pyro_aevb.priors.Laplace", "init_args": {"scale": 2}}
    assert config_of(tmp_path, "run") == config_of(tmp_path, "expected")


def test_a_network_s_options_before_it_and_before_its_part(cli, tmp_path):
    words = ["--guide.network.channels=[3]", "--guide.network=convolutionalencoder", "--guide=fullcovariancenormal"]
    train(cli, *words)
    guide = config_of(tmp_path, "run")["guide"]
    assert guide["class_path"] == "pyro_aevb.guides.FullCovarianceNormal"
    assert guide["init_args"]["network"]["class_path"] == "pyro_aevb.nn.ConvolutionalEncoder"
    assert guide["init_args"]["network"]["init_args"]["channels"] == [3]


def test_the_order_among_equals_stays():
    """The last of an option given twice wins, as ever; the run's folder stays where it was typed."""
    typed = taken_apart(["run", "--a.b=1", "--c", "2", "--c=3", "--a"])
    assert [(each.name, each.value) for each in from_the_outside_in(typed)] == [
        ("", "run"),
        ("c", "2"),
        ("c", "3"),
        ("a", None),
        ("a.b", "1"),
    ]


# ---------------------------------------------------------------- classes


def test_every_class_in_any_case():
    for part in ("prior", "likelihood", "guide", "estimator", "optimizer", "network"):
        for name, kind in offered(part).items():
            for typed in (name, name.lower(), name.upper()):
                module, _, found = class_named(part, typed).rpartition(".")
                assert getattr(__import__(module, fromlist=[found]), found) is kind
        names = [name.lower() for name in offered(part)]
        assert len(names) == len(set(names))


def test_the_families_are_offered_whole():
    for part, module in (("prior", priors), ("likelihood", likelihoods), ("guide", guides), ("estimator", estimators)):
        assert set(module.__all__) <= set(offered(part))


@pytest.mark.parametrize("name", offered("optimizer"))
def test_every_optimizer_offered_trains(name, cli):
    assert cli("train", *SMALLEST, f"--optimizer={name}", "--out=run")[0] == 0


@pytest.mark.parametrize("name", offered("estimator"))
@pytest.mark.filterwarnings("ignore")
def test_every_estimator_offered_trains(name, cli):
    """By one engine at least."""
    fewest = getattr(offered("estimator")[name], "least_particles", 1)
    words = [*SMALLEST, f"--estimator={name}", f"--estimator.num_particles={max(fewest, 2)}", "--out=run"]
    eager = cli("train", *words)
    assert eager[0] == 0 or ("engine='svi'" in eager[2] and cli("train", *words, "--engine=svi")[0] == 0), eager[2]


@pytest.mark.parametrize("name", UNSUITED)
def test_what_suits_no_run_is_not_offered_and_says_why(name, cli):
    part = "estimator" if "ELBO" in name or name in ("Trace_MMD", "ReweightedWakeSleep") else "optimizer"
    assert name not in offered(part)
    assert f"{name} {UNSUITED[name]}: choose another" in said(cli, "train", f"--{part}={name}")
    assert name not in cli("list")[1].split()
    assert name not in cli("train", "--help")[1]


def test_a_class_of_ones_own_may_be_called_as_torch_s_unsuited_one():
    check_suited("my_parts.Muon")
    with pytest.raises(ValueError, match="Muon"):
        check_suited("torch.optim.Muon")


def test_a_configuration_with_what_suits_no_run(cli, tmp_path):
    train(cli, "--optimizer=Adam")
    text = (tmp_path / "run/config.yaml").read_text()
    sparse = re.sub(
        r"class_path: torch.optim.Adam\n  init_args:(\n    .*)*", "class_path: torch.optim.SparseAdam", text
    )
    (tmp_path / "sparse.yaml").write_text(sparse)
    assert "SparseAdam takes sparse gradients alone" in said(cli, "train", "--config=sparse.yaml", "--out=other")


# ---------------------------------------------------------------- what does not fit

WRONG = {
    "--prior Laplas": "unknown prior 'Laplas': did you mean Laplace? see 'pyro-aevb list priors'",
    "--estimator iwea": "unknown estimator 'iwea': did you mean IWAE?",
    "--optimizer Adem": "unknown optimizer 'Adem': did you mean Adam?",
    "--prior=": "unknown prior ''",
    "--guide.network convencoder": "unknown network 'convencoder': did you mean ConvolutionalEncoder?",
    "--data mnst": "unknown data 'mnst': did you mean mnist?",
    "--lattent_dim 3": "unknown option --lattent_dim: did you mean --latent_dim?",
    "--latent-dim 3": "unknown option --latent-dim: did you mean --latent_dim?",
    "--liklihood.hidden 3": "unknown option --liklihood.hidden: did you mean --likelihood?",
    "--xyz": "unknown option --xyz: 'pyro-aevb train --help' tells all",
    "--seed.x 3": "unknown option --seed.x",
    "--optimizer.lr.x 3": "unknown option --optimizer.lr.x",
    "--prior Laplace --prior.scal 2": "Laplace has no option 'scal': did you mean scale? see 'pyro-aevb train",
    "5": "unexpected 5, where options begin with --",
    "--latent_dim": "--latent_dim needs a value",
    "--latent_dim --seed 3": "--latent_dim needs a value",
    "--latent_dim=": "--latent_dim must be a whole number, not ''",
    "--latent_dim two --seed 3": "--latent_dim must be a whole number, not 'two'",
    "--seed 1.5": "--seed must be a whole number, not '1.5'",
    "--samples many": "--samples must be a number, not 'many'",
    "--engine warp": "--engine must be auto, captured, eager or svi, not 'warp'",
    "--hidden x": "--hidden must be a whole number or whole numbers in brackets, such as [500,300], not 'x'",
    "--likelihood.hidden x": "--likelihood.hidden must be a whole number or whole numbers in brackets",
    "--likelihood.relaxed maybe": "--likelihood.relaxed must be true or false, not 'maybe'",
    "--likelihood Gaussian --likelihood.scale pix": "--likelihood.scale must be network, pixel or shared or a number",
    "--optimizer Adam --optimizer.lr x": "--optimizer.lr must be a number, not 'x'",
    "--optimizer Adam --optimizer.betas 3": "--optimizer.betas must be 2 numbers in brackets, such as [0.9,0.9]",
    "--guide.network MLP --guide.network.hidden x": "--guide.network.hidden must be a whole number or whole",
    "--likelihood Family": "--likelihood Family needs --likelihood.distribution: see",
    "--prior my_parts.Own": "there is no module my_parts here: cd to the folder of my_parts.py, or put that folder on",
    "--prior pyro_aevb.priors.Laplas": "pyro_aevb.priors has no Laplas: did you mean Laplace?",
    "--prior math.sqrt": "--prior cannot be 'math.sqrt': ",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_does_not_fit_is_told_in_our_words(words, cli):
    found = said(cli, "train", *words.split())
    assert WRONG[words] in found
    assert not re.search(r"Namespace|Union|subtypes|Parser key|NoneType|class_path|Callable|Errno|typing\.", found)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("evalute run", "unknown command 'evalute': did you mean evaluate?"),
        ("list optimiser", "unknown family 'optimiser': did you mean optimizers?"),
        ("evaluate", "give the folder of a run that train made: pyro-aevb evaluate RUN"),
        ("evaluate run --json=3", "--json takes no value"),
        ("evaluate run --num_sample 3", "unknown option --num_sample: did you mean --num_samples?"),
        ("evaluate run more", "unexpected more"),
        ("plot run --count x", "--count must be a whole number, not 'x'"),
    ],
)
def test_words_of_other_commands(words, expected, cli):
    assert expected in said(cli, *words.split())


def test_what_does_not_fit_in_a_configuration(cli, tmp_path):
    (tmp_path / "wrong.yaml").write_text("prior:\n  class_path: pyro_aevb.priors.Laplace\n  init_args:\n    scale: x\n")
    assert said(cli, "train", "--config=wrong.yaml") == (
        "the configuration does not fit: --prior.scale must be a number, not 'x'"
    )


def test_what_must_be_typed_for_a_type():
    assert wanted(tuple[float, float]) == "2 numbers in brackets, such as [0.9,0.9]"
    assert wanted(dict[str, float] | None) == "names and values in braces, such as {scale: 2}"
    assert wanted(float | torch.Tensor) == "a number"


# ---------------------------------------------------------------- parts of one's own

OWN = """
import pyro.distributions as dist
from pyro_aevb.priors import Prior


class Own(Prior):
    def __init__(self, latent_dim: int, *, scale: float = 1.0):
        super().__init__(latent_dim)
        self.scale = scale

    def forward(self):
        return dist.Laplace(0.0, self.scale).expand([self.latent_dim]).to_event(1)
"""


@pytest.fixture
def project(cli, tmp_path, monkeypatch):
    """A run with a part of its own, and another folder to open it from."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project/own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path / "project")
    train(cli, "--prior.scale=2", "--prior=own_parts.Own")
    assert "own_parts has no Owm: did you mean Own?" in said(cli, "train", "--prior=own_parts.Owm")
    assert "Own has no option 'scal': did you mean scale?" in said(
        cli, "train", "--prior=own_parts.Own", "--prior.scal=2"
    )
    del sys.modules["own_parts"]
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


@pytest.mark.parametrize("command", [["evaluate"], ["sample"], ["train", "--samples=800", "--resume"]])
def test_a_part_of_ones_own_from_elsewhere(command, project, cli, monkeypatch):
    """Which module is missing, where it lies, and that it must be trusted; then it works."""
    words = [*command, "../project/run"]
    found = said(cli, *words)
    assert f"there is no module own_parts here: cd to {project}, which has one, or put that folder on PYTHON" in found
    assert "and add --trust own_parts" in found
    trusted = said(cli, *words, "--trust=own_parts")
    assert trusted.endswith("or put that folder on PYTHONPATH")
    monkeypatch.syspath_prepend(str(project))
    assert f"would be imported from {project}: add --trust own_parts" in said(cli, *words)
    assert cli(*words, "--trust=own_parts")[0] == 0
    del sys.modules["own_parts"]


def test_a_part_whose_file_is_nowhere_near(project, cli):
    (project / "own_parts.py").unlink()
    assert "here: cd to the folder of own_parts.py, or put that folder on PYTHONPATH, and add" in said(
        cli, "evaluate", "../project/run"
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("samples: -5", "samples must be a whole number of at least 1, such as 1e6, not -5"),
        ("samples: 1.5", "samples must be a whole number of at least 1, such as 1e6, not 1.5"),
        ("evaluate_every: 0", "evaluate_every must be at least 1, not 0"),
        ("save_every: -1", "save_every must be at least 1, not -1"),
    ],
)
def test_numbers_of_a_configuration_that_none_can_be(line, words, cli, tmp_path):
    """It opened: these may be other ones than the state was trained with."""
    train(cli)
    path = tmp_path / "run/config.yaml"
    name = line.split(":")[0]
    path.write_text(re.sub(rf"^{name}: .*$", line, path.read_text(), flags=re.MULTILINE))
    for command in (["evaluate", "run"], ["train", "--config=run/config.yaml"]):
        assert words in said(cli, *command)
    with pytest.raises(ValueError, match=re.escape(words)):
        load_run("run")


# ---------------------------------------------------------------- help and versions


def test_help_of_a_part_is_its_options_and_no_more(cli):
    for option in ("--likelihood.help=Gaussian", "--likelihood.help=gaussian"):
        code, printed, _ = cli("train", option)
        assert code == 0
        assert set(re.findall(r"--likelihood\.(\w+)", printed)) == set(choices_of(likelihoods.Gaussian))
        assert len(printed.splitlines()) < 50
    assert "MLP" in cli("train", "--guide.network.help")[1]
    assert "--guide.network.initial_sd" in cli("train", "--guide.network.help", "MLP")[1]
    assert "weight_decay" in cli("train", "--optimizer.help", "adam")[1]
    assert "did you mean Laplace?" in said(cli, "train", "--prior.help", "Laplas")


@pytest.mark.parametrize("part", ["prior", "likelihood", "guide", "estimator", "optimizer"])
def test_help_without_a_name_tells_the_parts(part, cli):
    printed = cli("train", f"--{part}.help")[1]
    assert all(f"\n  {name} " in printed for name in offered(part))


def test_help_of_every_part_is_told(cli):
    for part in ("prior", "likelihood", "guide", "estimator", "optimizer"):
        for name, kind in offered(part).items():
            code, printed, _ = cli("train", f"--{part}.help", name)
            assert code == 0
            assert all(f"--{part}.{option}\n" in printed for option in choices_of(kind))


def test_no_part_is_said_to_be_required(cli):
    printed = cli("train", "--help")[1]
    assert "required" not in printed
    assert "StudentT, VampPrior; default: StandardNormal)" in re.sub(r"\s+", " ", printed)


def test_optimizers_are_listed(cli):
    printed = cli("list", "optimizers")[1]
    assert all(f"\n  {name} " in printed for name in ("Adagrad", "CosineAdam", "Adam", "SGD"))
    assert "optimizers" in families()
    assert all(name in cli("list", "--help")[1] for name in families())


def test_versions(cli):
    code, printed, _ = cli("--version")
    assert code == 0
    assert printed == f"pyro {pyro.__version__}, pyro_aevb {version('pyro_aevb')}, torch {version('torch')}\n"


def test_an_unknown_option_of_a_resumed_run(cli):
    train(cli)
    assert said(cli, "train", "--resume=run", "--sampels=800").startswith(
        "unknown option --sampels: did you mean --samples?"
    )
    assert said(cli, "train", "--resume", "--samples=800") == "--resume needs a value"
    assert said(cli, "train", "--config=") == "--config needs a value: was a variable of the shell not set?"


def test_a_configuration_may_name_classes_in_any_case(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("prior: laplace\noptimizer: adagrad\nestimator: {class_path: sgvb}\n")
    train(cli, "--config=mine.yaml")
    config = config_of(tmp_path, "run")
    assert config["prior"]["class_path"] == "pyro_aevb.priors.Laplace"
    assert config["optimizer"]["class_path"] == "pyro_aevb.optimizers.Adagrad"
    assert config["estimator"]["class_path"] == "pyro_aevb.estimators.SGVB"
    (tmp_path / "mine.yaml").write_text("prior: laplas\n")
    assert "unknown prior 'laplas': did you mean Laplace?" in said(cli, "train", "--config=mine.yaml")


def test_a_number_of_plates_may_be_typed(cli):
    """jsonargparse makes a float of it, for infinity may be typed too."""
    train(cli, "--estimator.max_plate_nesting=1", out="ours")
    particles = ("--estimator.num_particles=2", "--estimator.vectorize_particles=true")
    train(cli, "--estimator=trace_elbo", "--estimator.max_plate_nesting=1", *particles, out="pyros")
    assert "max_plate_nesting must be a whole number" in said(cli, "train", "--estimator.max_plate_nesting=1.5")


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - LARGE.keys()))
def test_too_little_memory_for_a_command_without_such_options(command, cli, monkeypatch):
    def fails(arguments):
        raise MemoryError

    monkeypatch.setattr(f"pyro_aevb.cli.{COMMANDS[command][0].replace(':', '.')}", fails)
    assert said(cli, command) == "there is not enough memory"


@pytest.mark.parametrize("command", LARGE)
def test_too_little_memory_names_the_command_s_own_options(command, cli, monkeypatch):
    def fails(arguments):
        raise MemoryError

    monkeypatch.setattr(f"pyro_aevb.cli.{COMMANDS[command][0].replace(':', '.')}", fails)
    assert said(cli, command) == f"there is not enough memory: is {LARGE[command]} too large?"
    monkeypatch.undo()
    printed = cli(command, "--help")[1]
    assert all(f"--{option}\n" in printed for option in re.findall(r"--(\w+)", LARGE[command]))
