"""The command line's grammar: jsonargparse over dataclasses of options, with errors of one line."""

import re
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from docstring_parser import google
from jsonargparse import ArgumentParser, Namespace

from pyro_aevb.errors import InputError, did_you_mean, in_one_line
from pyro_aevb.files import regular_file
from pyro_aevb.runs.offered import choices_of, class_named, offered
from pyro_aevb.runs.trust import check_config
from pyro_aevb.runs.words import Typed, from_the_outside_in, key_of, taken_apart, value_words, wanted

__all__ = ["FLAG", "SEVERAL", "Parser", "filled", "made_by", "read_config", "read_options"]

EXIT_INPUT = 2
LARGEST_FILE = 64_000  # bytes of a configuration; a run's has one or two thousand
LONGEST = 500
FLAG = {"action": "store_true"}
"""Metadata of a field that is true where its option is typed, without a value."""

SEVERAL = {"several": True}
"""Metadata of a field ``run`` of a command that takes several."""

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
    """A jsonargparse parser of one dataclass whose errors are one line on standard error, exit code 2.

    Options may stand in any order, a part's before the part, and classes may be named in upper or lower case. What does
    not fit is told in words of this package: an option's nearest name, what it takes, what was typed.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.kinds: dict[str, Any] = {}
        self.flags: set[str] = set()
        self.said: dict[str, str] = {}
        self.parts: dict[str, Any] = {}
        self.command = ""
        self.runs = "RUN"
        self._typed: list[Typed] = []
        self._config: Mapping[str, Any] = {}
        super().__init__(*args, **settings)

    @classmethod
    def of(cls, options: Any, prog: str) -> "Parser":
        """The parser of a dataclass's fields, a ``run`` among them without its name; their help is in its docstring.

        Arguments:
            options: The dataclass.
            prog: What the user types to get here.
        """
        parser = cls(prog=prog, allow_abbrev=False, description=(options.__doc__ or "").split("\n")[0])
        parser.command = prog
        several = any(each.metadata.get("several") for each in fields(options))
        parser.runs = "RUN [RUN ...]" if several else "RUN"
        helps = _helps(options)
        for each in fields(options):
            name = each.name if each.name == "run" else f"--{each.name}"
            parser.option(name, help=helps[each.name], **_described(each))
        parser.parts = {
            each.name: each.metadata.get("unsaid")
            for each in fields(options)
            if "unsaid" in each.metadata or "part" in each.metadata
        }
        return parser

    def option(self, name: str, **settings: Any) -> None:
        """Add an option.

        Arguments:
            name: As it is typed, ``--seed``, or ``run``, which is typed without a name.
            **settings: What ``add_argument`` takes: help, type, default, action.
        """
        self.said[name] = settings["help"]
        self.kinds[name] = settings.get("type", str)
        if settings.get("action") == FLAG["action"]:
            self.flags.add(name)
        self.add_argument(name, **settings)

    def parse(self, arguments: Sequence[str], config: Mapping[str, Any] | None = None) -> Namespace:
        """Parse arguments over a configuration; a part named anew keeps nothing of the configuration's part.

        Arguments:
            arguments: Words of the command line.
            config: What stands where nothing is typed, option by option; by default each option's own default.

        Raises:
            InputError: If there is no such option or class, or the configuration does not fit.
        """
        given = {key: value for key, value in {**self.parts, **(config or {})}.items() if value is not None}
        given = {**{key: value for key, value in self.parts.items() if value is not None}, **given}
        given |= {name: self._with_path(name, given[name]) for name in self.parts.keys() & given.keys()}
        self._config = given
        self._typed = []
        self.check_known(arguments)
        words = self._understood(taken_apart(arguments))
        named = {each.name for each in self._typed}
        self.exit_on_error = False
        try:
            if config is not None:
                self.parse_object(given)  # set_defaults would take any value
            self.set_defaults({k: v for k, v in given.items() if k not in named})
            if config is not None and not arguments:  # nobody typed anything: what does not fit is the configuration's
                return self.parse_args([])
        except Exception as error:  # jsonargparse raises whatever a value that it did not foresee leads to
            raise InputError(f"the configuration does not fit: {self._reworded(str(error))[:LONGEST]}") from error
        finally:
            self.exit_on_error = True
        return self.parse_args(words)

    def check_known(self, arguments: Sequence[str]) -> None:
        """Refuse options that there are not.

        Arguments:
            arguments: Words of the command line.

        Raises:
            InputError: Names the first one, and the nearest that there is.
        """
        known = ["help", *(name.removeprefix("--") for name in self.said if name.startswith("--"))]
        for each in filter(lambda each: each.name, taken_apart(arguments)):
            first, dot, _ = each.name.removesuffix("+").partition(".")
            if first not in (self.parts if dot else known):
                near = did_you_mean(first, known, "--")
                raise InputError(f"unknown option --{each.name}{near or ':'}{self._see()}")

    def _understood(self, typed: Sequence[Typed]) -> list[str]:
        """The words as jsonargparse takes them: parts before their options, and their classes by their import paths."""
        self._typed = [self._with_class(each) for each in from_the_outside_in(typed)]
        return [word for each in self._typed for word in each.words]

    def _see(self) -> str:
        return f" '{self.command} --help' tells all"

    def _with_class(self, typed: Typed) -> Typed:
        """A class that was typed as its import path."""
        last = typed.name.rpartition(".")[2]
        part = typed.name if typed.name in self.parts else "network" if last == "network" else ""
        if not part or typed.value is None or (part == "network" and typed.value == "null"):
            return typed
        path = class_named(part, typed.value)
        others = typed.words[1:] if typed.words[0].endswith(f"={typed.value}") else typed.words[2:]
        return Typed(typed.name, path, (f"--{typed.name}={path}", *others))

    @staticmethod
    def _with_path(part: str, spec: Any) -> Any:
        """A part of a configuration, a name alone as its import path."""
        name = spec.get("class_path") if isinstance(spec, dict) else spec
        if not isinstance(name, str) or not name.isidentifier():
            return spec
        path = class_named(part, name)
        return {**spec, "class_path": path} if isinstance(spec, dict) else path

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with 2."""
        if not self.exit_on_error or not self.command:  # a parser inside jsonargparse, which words the error itself
            super().error(message, ex)
        print(f"{self.prog}: {self._reworded(message)}", file=sys.stderr)
        sys.exit(EXIT_INPUT)

    # ---------------------------------------------------------------- words

    def _reworded(self, message: str) -> str:
        """What jsonargparse says of an option, in words of this package."""
        text = re.sub(r"<class '(\w+)'>|typing\.Literal", r"\1", " ".join(message.split()))
        if match := re.search(r"required: (.*?)(\. Got value|$)", text):
            return self._missing(key_of(text), match[1])
        if match := re.search(r"Option '([\w.]+)' is not accepted", text):
            return self._not_taken(key_of(text), match[1])
        for pattern, words in _PLAIN.items():
            if match := re.search(pattern, text):
                return match.expand(words) + self._see()
        key = key_of(text)
        if not key:
            return text
        if inner := [each.name for each in self._typed if each.name.startswith(f"{key}.")][:1] * (
            key not in self.parts
        ):
            return f"unknown option --{inner[0]}: --{key} has none"
        given = value_words(key, self._typed, self._config)
        if key in self.parts:
            return f"--{key} cannot be {given}: {_reason(text)}"
        kind = self._kind_of(key)
        return f"--{key} must be {wanted(kind)}, not {given}" if kind is not None else f"--{key}: {_reason(text)}"

    def _missing(self, key: str, names: str) -> str:
        if not key:
            return f"give the folder of a {names} that train made: {self.command} {self.runs}"
        part = self._class_of(key)
        if part is object:  # of a class that torchvision, say, names in a default of its own
            return f"--{key} needs {names}, which the command line cannot give"
        return f"--{key} {part.__name__} needs --{key}.{names}: see '{self.command} --{key}.help {part.__name__}'"

    def _not_taken(self, key: str, name: str) -> str:
        part = self._class_of(key)
        near = did_you_mean(name, choices_of(part))
        return f"{part.__name__} has no option {name!r}{near or ':'} see '{self.command} --{key}.help {part.__name__}'"

    def _kind_of(self, key: str) -> Any:
        """The type of an option, a part's own too."""
        outer, _, name = key.rpartition(".")
        if not outer:
            return self.kinds.get(f"--{name}")
        choice = choices_of(self._class_of(outer)).get(name)
        return choice.kind if choice else None

    def _class_of(self, key: str) -> Any:
        """The class that was named for a part, or for its network."""
        typed = [each.value for each in self._typed if each.name == key and each.value]
        found: Any = self._config
        for name in key.split("."):
            found = {**found, **(found.get("init_args") or {})}.get(name) or {} if isinstance(found, dict) else {}
        path = typed[-1] if typed else found if isinstance(found, str) else found.get("class_path", "")
        module, _, name = str(path).rpartition(".")
        return getattr(sys.modules.get(module), name, object)

    # ---------------------------------------------------------------- help

    def format_help(self, *formatter: Any) -> str:
        """What the options are for, what they take, and what they are when nothing is said."""
        if not self.command:  # a parser inside jsonargparse
            return str(super().format_help(*formatter))
        run = f" {self.runs}" if "run" in self.said else ""
        lines = [f"usage: {self.command}{run} [--option value ...]", "", *filled(self.description or "", ""), ""]
        for name, said in self.said.items():
            lines += [f"  {name}", *filled(f"{said.replace('``', '')} ({self.takes(name)})", " " * 6)]
        if self.parts:
            some = "--prior.help tells which priors there are, --prior.help Laplace the options of one"
            lines += ["", *filled(f"{some}; likewise of {', '.join(self.parts)}.", "")]
        return "\n".join(lines) + "\n"

    def takes(self, name: str) -> str:
        """What an option takes, and its default.

        Arguments:
            name: The option as it is typed, ``--seed``, or ``run``.
        """
        option = name.removeprefix("--")
        if option in self.parts:
            names = ", ".join(offered(option))
            unsaid = self.parts[option]
            return names + ("" if unsaid is None else f"; default: {unsaid['class_path'].rpartition('.')[2]}")
        if name in self.flags:
            return "no value"
        default = self.get_defaults().get(option)
        return wanted(self.kinds[name]) + (f"; default: {default}" if default is not None else "")


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
    return told  # "run", or a part, which is never missing: see made_by


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
    if typed := config.keys() & {"out", "trust", "resume", "config", "track", "seeds", "jobs"}:
        raise InputError(f"{path} has {min(typed)}, which is not read from a file: type --{min(typed)}")
    return config


def _reason(text: str) -> str:
    """What jsonargparse says of a part, without the types that it was looked at as and the values that it made."""
    inner = re.split(r"expects a function or a callable class: |Parser key \"[\w.]+\": ", text)[-1]
    return re.split(r"\.? (?:Got value|Given value)", inner)[0].rstrip(".")


def filled(text: str, before: str) -> list[str]:
    """Lines of at most a hundred characters, each after some blanks."""
    return textwrap.wrap(text, 100, initial_indent=before, subsequent_indent=before, break_on_hyphens=False)


_PLAIN = {
    r"argument (--[\w.]+\+?): expected one argument": r"\1 needs a value:",
    r"argument (--[\w.]+\+?): ignored explicit argument": r"\1 takes no value:",
    r"[Uu]nrecognized arguments: (.*)": r"unexpected \1, where options begin with --:",
}
