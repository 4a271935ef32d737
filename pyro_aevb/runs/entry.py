"""The one way into a training that is kept in a folder: the command line, sweeps and :func:`pyro_aevb.train` go it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pyro_aevb.errors import InputError, function, instance, told
from pyro_aevb.errors import path as path_of
from pyro_aevb.runs.begin import begun, resumed, trust_typed, value_of
from pyro_aevb.runs.options import NOT_KEPT, Config, parser
from pyro_aevb.runs.parser import Parser
from pyro_aevb.runs.run import Run, load_run
from pyro_aevb.runs.step_sizes import OnTrial, choose, is_auto
from pyro_aevb.runs.training import OnReport, Training
from pyro_aevb.runs.trust import importable, modules_needed, modules_of, modules_typed

__all__ = ["RaisingParser", "opened", "train", "words_of"]


@contextmanager
def opened(
    grammar: Parser,
    arguments: Sequence[str],
    source: dict[str, Any] | None = None,
    on_trial: OnTrial | None = None,
) -> Iterator[Training]:
    """The training that typed options want, begun or gone on with, for a block in which nobody else writes its folder.

    Arguments:
        grammar: The parser of ``pyro-aevb train``.
        arguments: Words of the command line.
        source: Options that stand where nothing is typed; by default those of the file that ``--config`` names.
        on_trial: Function that is called with each report of a trial of ``--optimizer.lr auto``.

    Raises:
        InputError: If an option does not fit.
        NonFiniteLossError: If the loss becomes NaN or infinite with each step size that was tried.
    """
    grammar.check_known(arguments)
    if value_of("resume", arguments) is not None:
        block = resumed(grammar, arguments)
    elif is_auto(arguments):
        path = choose(grammar, arguments, source, on_trial)
        block = resumed(grammar, [f"--resume={path}", *trust_typed(arguments, source)])
    else:
        block = begun(grammar, arguments, source)
    with block as training:
        yield training


class RaisingParser(Parser):
    """The parser of a caller in Python, to whom an error is raised."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise :class:`~pyro_aevb.errors.InputError`."""
        if not self.exit_on_error or not self.command:  # a parser inside jsonargparse, which words the error itself
            super().error(message, ex)
        raise InputError(self._reworded(message))


def train(
    config: Config | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    trust: str | Sequence[str] | None = None,
    on_report: OnReport | None = None,
    **options: Any,
) -> Run:
    """Train a model and its guide, and keep the run in a folder: what ``pyro-aevb train`` does, as a function.

    ::

        run = aevb.train(data="digits", latent_dim=2, hidden=[50], prior="Laplace", samples=1e5, out="runs/laplace")
        run = aevb.train(resume="runs/laplace", samples=2e5)
        run = aevb.train(run.config, seed=1, **{"optimizer.lr": 0.01})

    Ctrl-C, and an exception that ``on_report`` raises, save what was done before they end the training; a note on the
    exception says how to go on. With the same options, the same bytes come out as from the command line.

    Arguments:
        config: Options that stand where nothing else is given: a run's configuration, or the path of a ``config.yaml``;
            by default the command line's own.
        out: The run's folder; by default the first free of ``runs/DATA-1``, ``runs/DATA-2``, ...
        resume: Folder of a run to go on with, in place of a new one.
        trust: Modules whose parts the configuration of ``config`` or ``resume`` may name, a list or one text with
            commas.
        on_report: Function that is called with each :class:`~pyro_aevb.training.progress.Progress`, after it was
            written: to watch, and to end the training by an exception, as a search over settings does.
        **options: Options of ``pyro-aevb train`` by their names; a part is a name, or a mapping of ``class_path`` and
            ``init_args``; a part's own option has a dot, ``**{"prior.components": 50}``.

    Returns:
        The run, opened.

    Raises:
        InputError: If an option does not fit, or something is in the run's place.
        NonFiniteLossError: If a loss is NaN or infinite; the last good state stays in the folder.
    """
    if taken := options.keys() & {*NOT_KEPT}:
        raise InputError(f"{min(taken)} is not for this function: call it once for each run, or type 'pyro-aevb sweep'")
    if on_report is not None:
        function("on_report", on_report)
    source = asdict(config) if isinstance(config, Config) else None
    paths: dict[str, Any] = {"out": out, "resume": resume, "config": None if source else config}
    words = [f"--{name}={path_of(name, path)}" for name, path in paths.items() if path is not None]
    words += [f"--trust={','.join(modules_of(trust))}"] if trust else []
    words += words_of(options)
    grammar = parser(RaisingParser)
    with importable(modules_typed(words)), opened(grammar, words, source) as training:
        training.go_on(on_report)
    needed = [*modules_of(trust), *modules_needed(asdict(training.config))]  # of what has just been trained
    return load_run(training.folder.path, device=training.trainer.device, trust=needed)


def words_of(options: dict[str, Any], before: str = "") -> list[str]:
    """Words of the command line for options given in Python.

    Arguments:
        options: Values by the names of options.
        before: What stands before each name, ``prior.`` say.

    Raises:
        InputError: If a value is none that a configuration can hold.

    >>> words_of({"latent_dim": 2, "hidden": [50, 20], "prior": {"class_path": "Flow", "init_args": {"layers": 3}}})
    ['--latent_dim=2', '--hidden=[50, 20]', '--prior=Flow', '--prior.layers=3']
    """
    words = []
    for name, value in options.items():
        if isinstance(value, dict) and "class_path" in value:
            words.append(f"--{before}{name}={value['class_path']}")
            words += words_of(value.get("init_args") or {}, f"{before}{name}.")
        elif value is True and name == "missing":  # the one option that takes no value
            words.append(f"--{name}")
        elif not (value is False and name == "missing"):
            words.append(f"--{before}{name}={_text(f'{before}{name}', value)}")
    return words


def _text(name: str, value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value)) if isinstance(value, float) else repr(int(value))
    if hasattr(value, "item"):  # a number of NumPy's
        return _text(name, instance(name, value.item(), int | float))  # type: ignore[arg-type]
    try:
        return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n...\n").strip()
    except yaml.YAMLError as error:
        raise InputError(f"{name} must be a number, text, or a list or mapping of them, not {told(value)}") from error
