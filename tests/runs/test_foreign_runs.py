"""A stranger's run folder is safe to open: nothing that its files name is imported or called.

Each case is a way to have code run, or memory read, by a configuration or a state. All commands that open a run are
tried, in this process, where a stray call would leave ``RAN`` behind; some once more in processes of their own.
"""

import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pyro_aevb as aevb
from pyro_aevb import runs
from pyro_aevb.runs.folder import Folder
from pyro_aevb.runs.trust import KINDS, check_config
from tests.commands import change_state, train

OURS = "pyro_aevb.guides.DiagonalNormal"
TOUCH = "touch RAN"
EVIL = "open('RAN', 'w').close()\nfrom pyro_aevb.priors import StandardNormal as P\n"


def called(path, /, **arguments):
    return {"class_path": path, "init_args": arguments}


def in_guide(**arguments):
    return {"guide": called(OURS, **arguments)}


SYSTEM = called("os.system", command=TOUCH)

CONFIGURATIONS = {
    # each place that names a class
    **{f"{place} is a function": {place: SYSTEM} for place in KINDS},
    **{f"{place} is a bare path": {place: "os.system"} for place in KINDS},
    "a part within a part": in_guide(activation=SYSTEM),
    "a network": in_guide(network=SYSTEM),
    "a network that is a bare path": in_guide(network="os.system"),
    "an activation that is a bare path": in_guide(activation="os.getcwd"),
    "a part two levels down": in_guide(network=called("pyro_aevb.nn.MLP", activation=SYSTEM)),
    "an option that takes a number": in_guide(hidden=SYSTEM),
    "a list": in_guide(hidden=[SYSTEM]),
    "a mapping": {"likelihood": called("pyro_aevb.likelihoods.Family", distribution="Normal", fixed={"scale": SYSTEM})},
    "a distribution": {"likelihood": called("pyro_aevb.likelihoods.Family", distribution="os.system")},
    "dict_kwargs": {"estimator": {"class_path": "pyro_aevb.estimators.SGVB", "dict_kwargs": {"x": SYSTEM}}},
    "no part at all": {"data": SYSTEM},
    "a number of ours": {"latent_dim": SYSTEM},
    # the same in other words
    "text that is YAML": {"prior": f"{{class_path: os.system, init_args: {{command: {TOUCH}}}}}"},
    "text that is JSON": {"optimizer": '{"class_path": "os.system", "init_args": {"command": "touch RAN"}}'},
    "text that is YAML, in a part": in_guide(activation="{class_path: os.system, init_args: {command: touch RAN}}"),
    "a dotted key": {"prior.class_path": "os.system", "prior.init_args.command": TOUCH},
    "a path that is a list": {"prior": {"class_path": ["os.system"]}},
    "a path that is a mapping": {"prior": {"class_path": SYSTEM}},
    "a path with blanks": {"prior": " os.system "},
    "a path with a colon": {"prior": "os:system"},
    "a call": {"prior": "os.system('touch RAN')"},
    "more keys beside": {"prior": {**SYSTEM, "args": [TOUCH]}},
    # other ways to run something
    "subprocess": {"prior": called("subprocess.Popen", args=["touch", "RAN"])},
    "subprocess of a bound command": in_guide(network=called("subprocess.getoutput", cmd=TOUCH)),
    "eval": {"prior": called("builtins.eval", source="__import__('os').system('touch RAN')")},
    "exec": {"likelihood": called("builtins.exec", source="open('RAN', 'w')")},
    "open": {"optimizer": called("builtins.open", file="RAN", mode="w")},
    "import": {"prior": called("importlib.import_module", name="evil")},
    "runpy": {"prior": called("runpy.run_path", path_name="evil.py")},
    "a partial": {"prior": called("functools.partial", func="os.system")},
    "an operator": {"prior": called("operator.methodcaller", name="system")},
    "a thread": {"prior": called("threading.Thread", target="os.system")},
    "a temporary file": {"prior": called("tempfile.NamedTemporaryFile", dir=".", delete=False)},
    "removing": {"prior": called("shutil.rmtree", path=".")},
    "a pathlib path": {"prior": called("pathlib.Path.touch", self="RAN")},
    # within torch, Pyro and this package
    "torch.load": {"prior": called("torch.load", f="evil.pt", weights_only=False)},
    "torch.hub": {"prior": called("torch.hub.load", repo_or_dir=".", model="evil", source="local")},
    "torch's extension builder": {"prior": called("torch.utils.cpp_extension.load_inline", name="x", cpp_sources="")},
    "a function reachable in torch": {"prior": called("torch.nn.modules.module.os.system", command=TOUCH)},
    "a module reachable in torch": {"prior": called("torch.os.system", command=TOUCH)},
    "a partial reachable in torch": in_guide(network="torch.nn.modules.module.functools.partial"),
    "a warning reachable in torch": in_guide(network="torch.nn.modules.module.warnings.warn"),
    "a function of torch.nn": in_guide(network="torch.nn.init.zeros_"),
    "a method of a class": in_guide(network="torch.nn.Module.register_module"),
    "a class inside a class": in_guide(network="torch.nn.Module.__class__"),
    "a module's import function": in_guide(network="torch.nn.__loader__"),
    "a class of torch not for networks": in_guide(network="torch.fx.GraphModule"),
    "its short name": in_guide(network="GraphModule"),
    "its short name as a part": in_guide(network={"class_path": "GraphModule"}),
    "an exported program": in_guide(network="torch.jit.ScriptModule"),
    "a remote module": in_guide(network=called("torch.distributed.nn.RemoteModule", remote_device="worker/cpu")),
    "a function of ours": {"prior": called("pyro_aevb.cli.main", arguments=["train"])},
    "another module through ours": {"prior": "pyro_aevb.runs.folder.shutil.rmtree"},
    "os through ours": {"prior": called("pyro_aevb.runs.folder.os.system", command=TOUCH)},
    "a class of ours of another kind": {"prior": OURS},
    "a trainer of ours": {"optimizer": "pyro_aevb.Trainer"},
    "an optimizer for an estimator": {"estimator": "torch.optim.SGD"},
    "an estimator for an optimizer": {"optimizer": "pyro.infer.Trace_ELBO"},
    "a poutine of Pyro": {"prior": called("pyro.poutine.trace", fn="os.system")},
    "Pyro's contributions, not loaded": {"prior": "pyro.contrib.examples.util.get_data_directory"},
    # files beside
    "a file in the run's folder": {"prior": "run.evil.P"},
    "a file in the current folder": {"prior": "evil.P"},
    "a file with a library's name": {"prior": "pandas.P"},
    "a package in the current folder": {"prior": "evils.inside.P"},
    "a script by its path": {"prior": "./evil.py"},
    "a zip archive": {"prior": "archive.zip.P"},
    # what is too much
    "deep": {"prior": {"class_path": OURS, "init_args": {"a": [[[[[[[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]]]]]]]}}},
    "wide": in_guide(hidden=list(range(20_000))),
    "a number of 300 digits": {"latent_dim": 10**300},
    "a key that is a number": {1: 2},
}

TEXTS = {
    "a Python tag": f"prior: !!python/object/apply:os.system ['{TOUCH}']\n",
    "a Python name": "prior: !!python/name:os.system ''\n",
    "a new object": "prior: !!python/object/new:os.system ['touch RAN']\n",
    "a module": "prior: !!python/module:evil\n",
    "a tag of its own": "prior: !evil x\n",
    "an alias": "a: &x {class_path: os.system, init_args: {command: touch RAN}}\nprior: *x\n",
    "a merge": "base: &x {class_path: os.system}\nprior:\n  <<: *x\n  init_args: {command: touch RAN}\n",
    "itself": "prior: &x\n  class_path: StandardNormal\n  init_args: *x\n",
    "a bomb of aliases": "a0: &a0 [x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
    "a bomb within a part": "".join(
        [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x'}]\n" for i in range(9)]
        + ["guide: {class_path: pyro_aevb.guides.DiagonalNormal, init_args: {hidden: *a8}}\n"]
    ),
    "a thousand levels": "prior: " + "[" * 100_000 + "\n",
    "a date": "latent_dim: 2020-01-01\n",
    "a set": "latent_dim: !!set {a}\n",
    "bytes": "latent_dim: !!binary aGVsbG8=\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a list": "- prior\n",
    "nothing": "",
    "no text": "\x00\x01\x02",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and around it whatever the cases name."""
    folder = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(folder)
    try:
        train(lambda *words: (aevb.cli.main(words), "", ""))
    finally:
        os.chdir(before)
    for path in ("evil.py", "pandas.py", "sklearn.py", "run/evil.py", "run/__init__.py", "evils/inside.py"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(EVIL)
    (folder / "evils/__init__.py").write_text(EVIL)
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("P.py", EVIL)
    return folder


@pytest.fixture
def foreign(made, tmp_path, monkeypatch):
    """A copy of it, in the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, change):
    path = folder / "run" / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))


def refused(cli, *words):
    code, _, errors = cli(*words)
    assert not Path("RAN").exists(), f"{words} ran it"
    assert (code, errors.count("\n")) == (2, 1), (code, errors)
    assert len(errors) < 1500
    return errors


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_crafted_configuration_runs_nothing(case, foreign, cli):
    write(foreign, CONFIGURATIONS[case])
    refused(cli, "train", "--resume=run", "--samples=800")
    refused(cli, "train", "--config=run/config.yaml", "--samples=20", "--out=another")
    command = ("evaluate", "run", "--num_samples=2", "--device=cpu")
    if CONFIGURATIONS[case].keys() <= {"estimator", "optimizer"}:
        code, _, errors = cli(*command)  # which builds neither
        assert (code, errors) == (0, "") or code == 2, errors
        assert not Path("RAN").exists()
    else:
        refused(cli, *command)
        with pytest.raises(aevb.InputError):
            runs.load_run("run", device="cpu")
    assert not Path("another").exists()


@pytest.mark.parametrize("case", TEXTS)
def test_a_crafted_text_runs_nothing(case, foreign, cli):
    path = foreign / "run" / "config.yaml"
    whole = path.read_text() if case[0] in "ai" else ""
    kept = "".join(line for line in whole.splitlines(True) if line.startswith(("data:", "latent_dim:")))
    path.write_text(kept + TEXTS[case])
    refused(cli, "train", "--resume=run", "--samples=800")
    refused(cli, "evaluate", "run", "--num_samples=2", "--device=cpu")


@pytest.mark.parametrize("place", ["estimator", "optimizer"])
def test_what_training_alone_needs_is_followed_by_nobody(place, foreign, cli):
    """Opening builds neither; whoever trains anew, or goes on, is refused before anything is imported."""
    change_state("run", lambda state: state["origin"]["config"].clear())
    write(foreign, {place: called("evil.P")})
    run = runs.load_run("run", device="cpu")
    assert getattr(run.config, place).class_path == "evil.P"
    with pytest.raises(aevb.InputError, match=r"add --trust evil, or trust=\['evil'\] in Python"):
        run.trainer()
    few = ("--estimators=SGVB", "--particles=1", "--draws=2", "--reference_draws=2")
    assert "add --trust evil" in refused(cli, "compare", "run", *few, "--train_samples=100")
    assert not Path("run/comparison").exists()
    assert cli("compare", "run", *few)[0] == 0


@pytest.mark.parametrize("command", ["plot", "sample", "diagnose", "compare"])
def test_no_command_runs_it(command, foreign, cli):
    write(foreign, {"prior": called("evil.P")})
    assert f"imported from {foreign}: add --trust evil" in refused(cli, command, "run")


def test_what_is_not_built_does_not_matter(foreign, cli):
    """Neither optimizer nor estimator is looked for where a run is only looked at."""
    write(foreign, {"optimizer": SYSTEM})
    for words in (("evaluate", "--num_samples=2"), ("sample", "--count=2"), ("plot",)):
        errors = cli(words[0], "run", *words[1:])[2]
        assert "optimizer" in errors  # which is another than the state was trained with
        assert not Path("RAN").exists()


# ---------------------------------------------------------------- the user's own word


def test_trust_is_for_one_module_and_kept_nowhere(foreign, cli):
    Path("evil.py").write_text(EVIL)
    Path("other.py").write_text(EVIL)
    change_state("run", lambda state: state["origin"]["config"].clear())
    write(foreign, {"prior": "evil.P"})
    assert "add --trust evil" in refused(cli, "evaluate", "run", "--trust=other")
    assert cli("evaluate", "run", "--num_samples=2", "--device=cpu", "--trust", "other,evil")[0] == 0
    assert Path("RAN").exists()
    Path("RAN").unlink()
    refused(cli, "evaluate", "run", "--num_samples=2")
    assert runs.load_run("run", device="cpu", trust=["evil"]).model.prior.latent_dim == 2
    assert "evil" not in str(sys.path)
    del sys.modules["evil"]


def test_a_function_of_a_trusted_module_is_called_and_must_give_the_part(foreign, cli):
    Path("factories.py").write_text(
        "from pyro_aevb.priors import StandardNormal\n"
        "def make(latent_dim: int) -> StandardNormal:\n    return StandardNormal(latent_dim)\n"
        "def wrong(latent_dim: int) -> StandardNormal:\n    return 3\n"
    )
    small = ("--hidden=8", "--samples=100", "--latent_dim=2")
    assert cli("train", *small, "--out=made", "--prior=factories.make")[0] == 0
    assert cli("evaluate", "made", "--num_samples=2", "--trust=factories")[0] == 0
    assert "made a int, not a Prior" in refused(cli, "train", *small, "--out=wrong", "--prior=factories.wrong")
    del sys.modules["factories"]


def test_the_current_folder_stands_behind_all_others(foreign, cli):
    """A file beside the user with the name of a library is not that library."""
    for name in ("sklearn", "torchvision", "matplotlib", "tqdm", "my_parts"):
        Path(f"{name}.py").write_text(EVIL)
    assert cli("plot", "run")[0] == 0
    assert cli("train", "--hidden=8", "--samples=100", "--out=again")[0] == 0
    assert not Path("RAN").exists()
    refused_words = ("train", "--hidden=8", "--samples=100", "--out=own", "--prior=my_parts.P")
    assert cli(*refused_words)[0] == 0
    assert Path("RAN").exists()
    del sys.modules["my_parts"]


@pytest.mark.parametrize("trust", ["a b", "evil.P(1)", "../evil"])
def test_trust_names_modules(trust, foreign, cli):
    assert "is no module" in refused(cli, "evaluate", "run", f"--trust={trust}")


def test_pythons_own_modules_have_no_parts(foreign, cli):
    write(foreign, {"prior": SYSTEM})
    assert "--trust" not in refused(cli, "evaluate", "run")
    assert "has no parts" in refused(cli, "evaluate", "run", "--trust=my_parts,os")


# ---------------------------------------------------------------- whole processes


IN_C = "from pyro_aevb.cli import main; raise SystemExit(main())"


@pytest.mark.parametrize("words", [("-m", "pyro_aevb"), ("-c", IN_C)])
def test_in_a_process_of_its_own(words, foreign):
    """Python puts the current folder first for ``-m`` and ``-c``: only ``-m`` is ours to mend."""
    write(foreign, {"prior": called("evil.P")})
    if words[0] == "-c":
        (foreign / "sklearn.py").unlink()
    command = [sys.executable, *words, "evaluate", "run", "--num_samples=2"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "--trust evil" in done.stderr
    assert not (foreign / "RAN").exists()


def test_a_file_beside_the_user_does_not_stand_for_a_library(foreign):
    command = [sys.executable, "-m", "pyro_aevb", "evaluate", "run", "--num_samples=2"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert not (foreign / "RAN").exists()


# ---------------------------------------------------------------- states


class Crafted:
    def __reduce__(self):
        return os.system, (TOUCH,)


def pickled():
    """An archive such as torch makes, whose pickle calls a function."""
    stream = io.BytesIO()
    torch.save({"trainer": {}}, stream)
    made = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Crafted()) if name.endswith("data.pkl") else old.read(name))
    return made.getvalue()


STATES = {
    "a plain pickle": lambda: pickle.dumps(Crafted()),
    "a pickle in torch's archive": pickled,
    "a TorchScript archive": lambda: _saved(torch.jit.script(torch.nn.Linear(2, 2)).save_to_buffer),
    "a NumPy array of objects": lambda: _saved(lambda: _array(np.array([Crafted()], dtype=object))),
    "a tar": lambda: b"ustar" + bytes(1000),
}


def _saved(make):
    return make()


def _array(values):
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("case", STATES)
@pytest.mark.parametrize("name", ["last", "best"])
def test_a_crafted_state_runs_nothing(case, name, foreign, cli):
    (foreign / "run" / f"{name}.pt").write_bytes(STATES[case]())
    refused(cli, "evaluate", "run", f"--checkpoint={name}", "--device=cpu")
    if name == "last":
        refused(cli, "train", "--resume=run", "--samples=800")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_crafted_data_run_nothing(kind, foreign, cli):
    values = np.array([[Crafted()] * 3] * 30, dtype=object)
    Path(f"data.{kind}").write_bytes(_array(values))
    if kind == "npz":
        np.savez("data.npz", values)
    refused(cli, "train", "--data", f"data.{kind}", "--out=other")


# ---------------------------------------------------------------- links out of the folder


def test_nothing_outside_is_written_over_through_a_link(foreign, cli):
    Path("precious").write_text("precious")
    folder = Folder("run").path
    for name in (".lock", f".last.pt.{os.getpid()}", f".config.yaml.{os.getpid()}"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(foreign / "precious")
    code, _, _ = cli("train", "--resume=run", "--samples=800")
    assert code == 2  # the lock is a link
    (folder / ".lock").unlink()
    assert cli("train", "--resume=run", "--samples=800")[0] == 0
    shutil.rmtree(folder / "figures")
    (foreign / "pictures").mkdir()
    (foreign / "pictures" / "samples.png").write_text("precious")
    (folder / "figures").symlink_to(foreign / "pictures")
    assert "is a link" in refused(cli, "sample", "run")
    assert Path("precious").read_text() == Path("pictures/samples.png").read_text() == "precious"


def test_pictures_and_tables_replace_links(foreign, cli):
    """A picture, or a table, that is a link to something of the user's becomes a file of the run's."""
    precious = Path("precious")
    precious.write_text("precious")
    folder = Folder("run").path
    (folder / "comparison").mkdir()
    for name in ("figures/samples.png", "figures/learning_curve.png", "comparison/gradients.csv"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(precious.resolve())
    os.link(precious, folder / "comparison/gradients.png")
    few = ("--estimators=SGVB", "--particles=1", "--draws=2", "--reference_draws=2")
    for words in (("sample", "run"), ("plot", "run"), ("compare", "run", *few)):
        assert cli(*words)[0] == 0
    assert precious.read_text() == "precious"
    (folder / ".lock").unlink(missing_ok=True)
    os.link(precious, folder / ".lock")
    assert "is no file of its own" in refused(cli, "train", "--resume=run", "--samples=800")
    assert precious.read_text() == "precious"
    shutil.rmtree(folder / "comparison")
    (folder / "comparison").symlink_to(foreign)
    assert "is a link" in refused(cli, "compare", "run", *few)


# ---------------------------------------------------------------- names that the standard library and torch have too


@pytest.mark.parametrize("words", [("-m", "pyro_aevb"), ("-P", "-c", IN_C)])
def test_files_beside_the_user_with_names_of_the_standard_library(words, foreign):
    """Libraries start Python with ``-c``, which looks into the current folder first: for ``json``, say."""
    for name in ("json", "typing", "ctypes", "torch", "numpy"):
        (foreign / f"{name}.py").write_text(EVIL)
    command = [sys.executable, *words, "evaluate", "run", "--num_samples=2"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert not (foreign / "RAN").exists()


def test_only_what_is_beside_alone_brings_the_current_folder(foreign, cli):
    """Neither a number with a point nor a path of this package."""
    small = ("train", "--hidden=8", "--samples=100")
    assert cli(*small, "--out=one", "--optimizer.lr=0.01", "--prior=pyro_aevb.priors.StandardNormal")[0] == 0
    assert not Path("RAN").exists()


@pytest.mark.parametrize("activation", ["LeakyReLU", "ELU", "Sigmoid", "ReLU6", "tanh"])
def test_a_name_that_torch_has_twice_is_a_name(activation, foreign, cli):
    assert cli("train", "--hidden=4", "--samples=100", f"--activation={activation}", "--out=named")[0] == 0
    assert cli("evaluate", "named", "--num_samples=2")[0] == 0


def test_own_parts_have_options_of_any_kind(foreign, cli):
    Path("options.py").write_text(
        "from pyro_aevb.priors import StandardNormal\n"
        "class P(StandardNormal):\n"
        "    def __init__(self, latent_dim: int, *, source: str = '', weights: dict[int, float] | None = None):\n"
        "        super().__init__(latent_dim)\n"
        "        self.source = source\n"
    )
    words = ("train", "--hidden=4", "--samples=100", "--latent_dim=2", "--prior=options.P")
    for i, source in enumerate(("a/b.txt", "relu,tanh", "weights.pt", "https-like//x")):
        assert cli(*words, f"--prior.source={source}", f"--out=own{i}", "--prior.weights={1: 0.5}")[0] == 0
        assert runs.load_run(f"own{i}", device="cpu", trust=["options"]).model.prior.source == source
    del sys.modules["options"]


# ---------------------------------------------------------------- little that becomes much, and the network


def test_nested_lists_are_counted_before_they_are_walked(foreign, cli):
    nested = [0]
    for _ in range(30):
        nested = [nested] * 10
    deep = []
    for _ in range(10_000):
        deep = [deep]
    for value in (nested, deep):
        state = torch.load("run/last.pt", weights_only=True)
        state["more"] = value
        try:
            torch.save(state, "run/last.pt")
        except RecursionError:
            continue
        refused(cli, "evaluate", "run")


@pytest.mark.slow
def test_an_archive_that_becomes_much(foreign, cli):
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (1_500_000, 1000)}
    np.lib.format.write_array_header_1_0(header, shape)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile("data.npz", "w", method) as archive, archive.open("a.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(1500 if method == zipfile.ZIP_DEFLATED else 1):
                member.write(bytes(1_000_000))
        assert "would become" in refused(cli, "train", "--data=data.npz", "--out=other")


def test_opening_a_run_downloads_nothing(foreign, cli, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", lambda *_: pytest.fail("a download"))
    change_state("run", lambda state: state["origin"]["config"].clear())
    for name in ("mnist", "fashion_mnist", "frey_face"):
        write(foreign, {"data": name, "data_root": str(foreign / "root")})
        for words in (("evaluate", "run"), ("train", "--resume=run", "--samples=800")):
            assert "downloads nothing" in refused(cli, *words)
    assert not (foreign / "root").exists()
    folder = foreign / "root" / "MNIST"
    (folder / "raw").mkdir(parents=True)
    os.mkfifo(folder / "raw" / "train-images-idx3-ubyte")
    assert "no regular file" in refused(cli, "train", "--data=mnist", "--data_root=root", "--out=other")


@pytest.mark.parametrize("where", ["~nosuchuser/x.npy", "a\0b.npy"])
def test_a_path_that_is_none(where, foreign, cli):
    change_state("run", lambda state: state["origin"]["config"].clear())
    write(foreign, {"data": where})
    refused(cli, "evaluate", "run")
    write(foreign, {"data": "frey_face", "data_root": where})
    refused(cli, "evaluate", "run")


def test_hidden_files_of_the_users_stay(foreign, cli):
    folder = Folder("run").path
    kept = [folder / name for name in (".config.yaml.swp", ".notes.md")]
    for path in kept:
        path.write_text("mine")
    (folder / ".vscode.d").mkdir()
    (folder / ".last.pt.4711").write_text("half")
    assert cli("train", "--resume=run", "--samples=800")[0] == 0
    assert all(path.read_text() == "mine" for path in kept)
    assert not (folder / ".last.pt.4711").exists()


# ---------------------------------------------------------------- the check itself, which is before all others


class Elsewhere(torch.nn.Module):
    """Of the right kind, reachable in ``torch.nn``, and not of it."""


@pytest.mark.parametrize("network", ["GraphModule", "torch.nn.Elsewhere", {"class_path": "torch.nn.Elsewhere"}])
def test_the_check_does_not_rely_on_what_comes_after(network, monkeypatch):
    monkeypatch.setattr(torch.nn, "Elsewhere", Elsewhere, raising=False)
    with pytest.raises(aevb.InputError, match="network is"):
        check_config(in_guide(network=network), Path("config.yaml"))
    check_config(in_guide(network="MLP"), Path("config.yaml"))
    check_config(in_guide(network="torch.nn.Linear"), Path("config.yaml"))


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_the_check_alone_refuses_each(case):
    with pytest.raises(aevb.InputError):
        check_config(CONFIGURATIONS[case], Path("config.yaml"))
