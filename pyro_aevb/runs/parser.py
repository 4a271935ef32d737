"""The command line's grammar: jsonargparse over dataclasses of options, with errors of one line."""

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from docstring_parser import google
from jsonargparse import ArgumentParser, Namespace

from pyro_aevb.errors import InputError, in_one_line
from pyro_aevb.files import regular_file
from pyro_aevb.runs.trust import check_config

__all__ = ["FLAG", "Parser", "made_by", "read_config", "read_options"]

EXIT_INPUT = 2
LARGEST_FILE = 64_000  # bytes of a configuration; a run's has one or two thousand
LONGEST = 500
FLAG = {"action": "store_true"}
"""Metadata of a field that is true where its option is typed, without a value."""

Options = TypeVar("Options")


def made_by(kind: Any, class_path: str, **arguments: Any) -> dict[str, Any]:
    """Metadata of the field of a part: a class path with arguments, from which the grammar makes an object.

    What a part is when nothing is said stands here, and is not the field's default: jsonargparse would carry the
    default part's settings over to another part of the same names (Adagrad's eps to Adam, measured), which silently
    changes numbers.

    Arguments:
        kind: The type of what is made: a class, or what makes one of it.
        class_path: The part's class when nothing is said.
        **arguments: What that class is made with.
    """
    default = {"class_path": class_path}
    return {"type": kind, "unsaid": {**default, "init_args": arguments} if arguments else default}


class Parser(ArgumentParser):
    """A jsonargparse parser of one dataclass whose errors are one line on standard error, exit code 2."""

    parts: dict[str, Any]

    @classmethod
    def of(cls, options: Any, prog: str) -> "Parser":
        """The parser of a dataclass's fields, a ``run`` among them without its name; their help is in its docstring.

        Arguments:
            options: The dataclass.
            prog: What the user types to get here.
        """
        summary = (options.__doc__ or "").split("\n")[0]
        parser = cls(prog=prog, allow_abbrev=False, description=summary)
        helps = _helps(options)
        group = parser.add_argument_group(summary.rstrip("."))
        for each in fields(options):
            name = each.name if each.name == "run" else f"--{each.name}"
            group.add_argument(name, help=helps[each.name], **_described(each))
        parser.parts = {each.name: each.metadata["unsaid"] for each in fields(options) if "unsaid" in each.metadata}
        return parser

    def parse(self, arguments: Sequence[str], config: Mapping[str, Any] | None = None) -> Namespace:
        """Parse arguments over a configuration; a part named anew keeps nothing of the configuration's part.

        Arguments:
            arguments: Words of the command line.
            config: What stands where nothing is typed, option by option; by default each option's own default.

        Raises:
            InputError: If the configuration does not fit.
        """
        given = {**self.parts, **{key: value for key, value in (config or {}).items() if value is not None}}
        named = {word.split("=")[0].removeprefix("--") for word in arguments if word.startswith("--")}
        self.exit_on_error = False
        try:
            if config is not None:
                self.parse_object(given)  # set_defaults would take any value
            self.set_defaults({k: v for k, v in given.items() if k not in named})
            if not arguments:  # nobody typed anything: what does not fit is the configuration's
                return self.parse_args([])
        except Exception as error:  # jsonargparse raises whatever a value that it did not foresee leads to
            raise InputError(f"the configuration does not fit: {_one_line(str(error))[:LONGEST]}") from error
        finally:
            self.exit_on_error = True
        return self.parse_args(list(arguments))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with 2."""
        if not self.exit_on_error:  # a parser inside jsonargparse, which words the error itself
            super().error(message, ex)
        print(f"{self.prog}: {_one_line(message)}", file=sys.stderr)
        sys.exit(EXIT_INPUT)


def _helps(options: Any) -> dict[str, str]:
    """What the docstrings of a dataclass, and of those that it extends, say of each field."""
    docstrings = [google.parse(each.__doc__ or "") for each in reversed(options.__mro__[:-1])]
    return {said.arg_name: said.description or "" for docstring in docstrings for said in docstring.params}


def _described(option: "Field[Any]") -> dict[str, Any]:
    """What the grammar is told of a field: its type, and its default or that it has none."""
    if "action" in option.metadata:
        return {"action": option.metadata["action"]}
    told = {"type": option.metadata.get("type", option.type)}
    if option.default is not MISSING:
        return {**told, "default": option.default}
    return told if option.name == "run" else {**told, "required": True}


def read_options(options: type[Options], command: str, arguments: Sequence[str]) -> Options:
    """A command's options, as they were typed.

    Arguments:
        options: The dataclass of the command's options.
        command: The command's name.
        arguments: What was typed after it.
    """
    return options(**vars(Parser.of(options, f"pyro-aevb {command}").parse(arguments)))


def read_config(path: Path, trust: Sequence[str] = (), without: Collection[str] = ()) -> dict[str, Any]:
    """A YAML configuration that can be parsed and built without running anything of a stranger's.

    Arguments:
        path: The file.
        trust: Modules whose classes and functions it may name, see :func:`~pyro_aevb.runs.trust.check_config`.
        without: Parts that will not be built, so that it does not matter what it says of them.

    Raises:
        InputError: If it cannot be read, is no mapping, or names what may not be followed.
    """
    regular_file(path)
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} is no configuration: it has more than {LARGEST_FILE} bytes")
    try:
        text = path.read_text()
        if "<<" in text:
            raise ValueError("it has merge keys, <<, which no run writes")
        config = yaml.safe_load(text)
    except Exception as error:  # PyYAML raises whatever a value of an odd form leads to
        raise InputError(f"{path} cannot be read as a configuration: {in_one_line(error)}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is no configuration: it needs lines 'option: value', as in a run's config.yaml")
    check_config(config, path, trust, without)
    if typed := config.keys() & {"out", "trust", "resume", "config"}:
        raise InputError(f"{path} has {min(typed)}, which is not read from a file: type --{min(typed)}")
    return config


def _one_line(message: str) -> str:
    text = re.sub(r"<class '(\w+)'>|typing\.Literal", r"\1", " ".join(message.split()))
    for pattern, replacement in _TRANSLATIONS:
        if match := re.search(pattern, text):
            return match.expand(replacement)
    return text


_TRANSLATIONS = [
    (
        r'Parser key "(\w+)": .*Expected a dot import path string: (\S+)',
        r"unknown \1 '\2': see 'pyro-aevb list', or give an import path such as my_module.MyClass",
    ),
    (
        r'Parser key "(\w+)": .*[Oo]ption \'([\w.]+)\' is not accepted.*class_path=\'([\w.]+)\'',
        r"\3 has no option '\2': see 'pyro-aevb train --\1.help \3'",
    ),
    (r'Parser key "(\w+)": .*Parser key "([\w.]+)": (.*?)\.? Got value: ([^.]*)\. Got', r"--\1.\2: \3, not \4"),
    (
        r"""Parser key "([\w.]+)": .*\[int, \['log'\]\].*Given value: (\S+)""",
        r"--\1: expected an integer or log, not \2",
    ),
    (r'Parser key "([\w.]+)": (.*?)\.? Got value: (.*)', r"--\1: \2, not \3"),
    (r'Parser key "([\w.]+)": (.*)', r"--\1: \2"),
    (r"[Uu]nrecognized arguments: (.*)", r"unknown option \1: see --help"),
]
