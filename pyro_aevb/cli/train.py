"""``pyro-aevb train``: from options to a run on disk."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import constraints
from tqdm import tqdm

from pyro_aevb import evidence
from pyro_aevb.checkpoints import Run, refuse_existing
from pyro_aevb.cli.parser import Parser, read_config
from pyro_aevb.cli.runs import Pair, load_data, make_pair, make_trainer
from pyro_aevb.data import DataSet
from pyro_aevb.distributions.supports import innermost
from pyro_aevb.errors import InputError
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.priors import Prior
from pyro_aevb.progress import Progress
from pyro_aevb.training import AUTO_CAPTURE_STEPS, Trainer

__all__ = ["options", "parser", "train"]

Every = int | Literal["log"]
RESUMABLE = {"samples", "device", "data_root", "evaluate_every", "save_every", "resume"}


def options(
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, int], Likelihood],
    guide: Callable[[int, int], Guide],
    estimator: ELBO,
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
    data: str = "digits",
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto",
    data_root: str | None = None,
    split_seed: int = 0,
    latent_dim: int = 20,
    hidden: int | list[int] | None = None,
    activation: str | None = None,
    samples: float = 1e6,
    batch_size: int = 100,
    seed: int = 0,
    engine: Literal["auto", "captured", "eager", "svi"] = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    device: str = "auto",
    report_every: int = 10_000,
    evaluate_every: Every = 100_000,
    save_every: Every = 100_000,
    out: str | None = None,
) -> None:
    """Train a model and its guide, and keep the run in a folder.

    Args:
        prior: The prior p(z).
        likelihood: The likelihood p(x|z).
        guide: The guide q(z|x).
        estimator: The objective, any ``pyro.infer.ELBO``.
        optimizer: What steps the weights; Adagrad's weight_decay 1 is the paper's prior N(0, I) on them.
        data: mnist, fashion_mnist, frey_face, digits, or a .npy or .npz file.
        binarize: How grey pixels become binary: not at all, once, or at each visit; ``auto`` is dynamic for a
            likelihood of binary data, else none.
        data_root: Folder of data sets; else $PYRO_AEVB_DATA, else the user's cache folder.
        split_seed: Seed of random splits and fixed binarisations.
        latent_dim: Number of latent dimensions.
        hidden: Hidden units of likelihood and guide, one number or a list such as [500,300].
        activation: Activation of likelihood and guide, a name from torch.nn.
        samples: Training data to see, in all.
        batch_size: Data per step.
        seed: Seed of initial weights, order, binarisation and noise.
        engine: How a step is taken: captured is compiled, eager is not, svi is Pyro's own SVI.
        precision: bfloat16 allows products in bfloat16 where the processor has units for it.
        device: auto, cpu, cuda, cuda:1, mps, ...
        report_every: Samples between two reports of the training bound.
        evaluate_every: Samples between two bounds on the test set; ``log`` for 1, 2, ..., 9 times each power of ten.
        save_every: Samples between two saves; or ``log``, as above.
        out: The run's folder; by default the first free of runs/DATA-1, runs/DATA-2, ...
    """


def parser() -> Parser:
    """The parser of ``pyro-aevb train``."""
    made = Parser.of(options, "pyro-aevb train")
    made.add_argument("--config", metavar="FILE", help="Start from a run's config.yaml; other options override it.")
    made.add_argument("--resume", metavar="RUN", help="Go on with a run; --samples says up to where, in all.")
    return made


def train(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb train``.

    Raises:
        InputError: If an option does not fit.
        NonFiniteLossError: If a loss is NaN or infinite; the last good checkpoint stays.
    """
    grammar = parser()
    peek = {key: _value_of(f"--{key}", arguments) for key in ("config", "resume")}
    if peek["resume"]:
        _resume(grammar, Path(peek["resume"]), arguments)
        return
    config = grammar.parse(arguments, read_config(Path(peek["config"])) if peek["config"] else None)
    _begin(grammar, config)


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        if word == option:
            return following
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return None


def _begin(grammar: Parser, config: Namespace) -> None:
    if config.out:
        refuse_existing(Path(config.out))
    _check(config)
    _spread_shorthand(config)
    parts = grammar.instantiate(config)
    config.binarize = _choose_binarize(config, parts)
    config.engine = _choose_engine(config)
    if Path(config.data).is_file():
        config.data = str(Path(config.data).resolve())  # so that the run is found out about from any folder
    data = load_data(config)
    pair = make_pair(config, parts, data)
    trainer = make_trainer(config, parts, data, pair)
    path = Path(config.out) if config.out else _free_path(config.data)
    run = Run.create(path, _dump(grammar, config), _state(trainer, float("-inf")))
    _go_on(run, config, data, pair, trainer, float("-inf"))


def _resume(grammar: Parser, path: Path, arguments: Sequence[str]) -> None:
    run = Run(path)
    given = {word.split("=")[0].removeprefix("--") for word in arguments if word.startswith("--")}
    if other := sorted(given - RESUMABLE):
        raise InputError(
            f"--{other[0]} cannot change in a resumed run: only {', '.join(sorted(RESUMABLE - {'resume'}))} can; "
            f"for another run, use --config {path}/config.yaml"
        )
    config = grammar.parse(arguments, read_config(path / "config.yaml"))
    _check(config)
    parts = grammar.instantiate(config)
    data = load_data(config)
    pair = make_pair(config, parts, data)
    trainer = make_trainer(config, parts, data, pair)
    state = run.load("last", trainer.device)
    trainer.load_state_dict(state["trainer"])
    run.go_back_to(trainer.samples_seen)
    run.write_config(_dump(grammar, config))
    _go_on(run, config, data, pair, trainer, state["best_bound"])


def _check(config: Namespace) -> None:
    if not 1 <= config.samples < 1e15 or config.samples != int(config.samples):
        raise InputError(f"--samples must be a whole number of at least 1, such as 1e6, not {config.samples:g}")
    for key in ("batch_size", "report_every", "evaluate_every", "save_every", "latent_dim"):
        if config[key] != "log" and config[key] < 1:
            raise InputError(f"--{key} must be at least 1, not {config[key]}")


def _spread_shorthand(config: Namespace) -> None:
    """Give ``hidden`` and ``activation`` to each part that takes them, where the configuration will show them."""
    for key in ("hidden", "activation"):
        for part in ("likelihood", "guide"):
            arguments = config[part].init_args
            if config[key] is not None and key in arguments:
                arguments[key] = config[key]
        config[key] = None


def _choose_binarize(config: Namespace, parts: Namespace) -> str:
    if config.binarize != "auto":
        return str(config.binarize)
    support = parts.likelihood(1, 1)(torch.zeros(1, 1)).support
    return "dynamic" if innermost(support) is constraints.boolean else "none"


def _choose_engine(config: Namespace) -> str:
    """Once for the whole run, however it will be cut: the engines round differently."""
    long = config.samples >= AUTO_CAPTURE_STEPS * config.batch_size
    return str(config.engine) if config.engine != "auto" else "captured" if long else "eager"


def _free_path(data: str) -> Path:
    stem = Path(data).stem
    return next(p for p in (Path("runs") / f"{stem}-{i}" for i in range(1, 10**6)) if not p.exists())


def _dump(grammar: Parser, config: Namespace) -> str:
    kept = config.clone()
    for key in ("out", "config", "resume"):
        kept.pop(key, None)
    return str(grammar.dump(kept))


def _state(trainer: Trainer, best_bound: float) -> dict[str, Any]:
    return {"samples_seen": trainer.samples_seen, "best_bound": best_bound, "trainer": trainer.state_dict()}


# ---------------------------------------------------------------- the loop


def _go_on(run: Run, config: Namespace, data: DataSet, pair: Pair, trainer: Trainer, best_bound: float) -> None:
    target, seen = int(config.samples), trainer.samples_seen
    began, since_save = time.perf_counter(), []
    with tqdm(total=target, initial=seen, unit="samples", disable=not sys.stderr.isatty(), leave=False) as bar:
        for progress in trainer.run(max(0, target - seen)):
            now = progress.samples_seen
            run.append_metrics({**_record(progress), "seconds": round(time.perf_counter() - began, 3)})
            since_save.append(progress.bound)
            if _crossed(seen, now, config.evaluate_every) or now >= target:
                run.append_metrics(_evaluate(progress, pair, data.test))
            if _crossed(seen, now, config.save_every) or now >= target:
                mean = sum(since_save) / len(since_save)
                best_bound, since_save = _save(run, trainer, mean, best_bound), []
            _show(bar, progress, seen)
            seen = now
    _print_summary(run, config, data, trainer)


def _record(progress: Progress) -> dict[str, Any]:
    return {key: value for key, value in progress._asdict().items() if value is not None}


def _crossed(before: int, now: int, every: Every) -> bool:
    every = 10 ** (len(str(now)) - 1) if every == "log" else every
    return before // every != now // every


def _evaluate(progress: Progress, pair: Pair, test: Tensor) -> dict[str, Any]:
    bound = evidence.bound(pair.model, pair.guide, test).bound
    standard_error = (bound.std() / len(bound) ** 0.5).item() if len(bound) > 1 else 0.0
    return {"samples_seen": progress.samples_seen, "test_bound": bound.mean().item(), "test_se": standard_error}


def _save(run: Run, trainer: Trainer, mean_bound: float, best_bound: float) -> float:
    best = max(best_bound, mean_bound)
    state = _state(trainer, best)
    if mean_bound > best_bound:
        run.save("best", state)
    run.save("last", state)
    return best


def _show(bar: Any, progress: Progress, seen: int) -> None:
    bar.set_postfix(bound=f"{progress.bound:.2f}", refresh=False)
    bar.update(progress.samples_seen - seen)


def _print_summary(run: Run, config: Namespace, data: DataSet, trainer: Trainer) -> None:
    records = run.metrics()
    train = [f"{r['bound']:.2f} on train (last {config.report_every:,} samples)" for r in records if "bound" in r]
    test = [f"{r['test_bound']:.2f} ± {r['test_se']:.2f} on test" for r in records if "test_bound" in r]
    print(
        f"{run.path}: {trainer.samples_seen:,} samples of {data.name} (binarize={data.binarize}), nats per datum: "
        f"bound {', '.join([*train[-1:], *test[-1:]]) or 'not yet known'}"
    )
