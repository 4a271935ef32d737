"""The reference of the command line, made from its own parsers: what ``--help`` says, as entries to link to."""

import importlib
import re
from collections.abc import Iterator

from pyro_aevb.cli import COMMANDS
from pyro_aevb.runs import options
from pyro_aevb.runs.parser import Parser

MODULES = (
    options,
    *(importlib.import_module(f"pyro_aevb.cli.{place.split(':')[0]}") for place, _ in COMMANDS.values()),
)

INTRODUCTION = """\
The command line
================

What each command and each option is for, made from the command line's own parser, so that it says what
``pyro-aevb COMMAND --help`` says. Options may stand in any order, and names of classes in upper or lower case; an
option of a part stands behind the part's name, as in ``--prior.components 50``.

``pyro-aevb --version`` prints the versions; ``pyro-aevb list`` shows all parts with their options, and
``pyro-aevb train --prior.help Laplace`` those of one (likewise of any likelihood, guide, estimator, optimizer and
scheduler).

A command's exit code is 0 for success; 1 where training met a loss that is not finite, with the last good state kept,
or where a run of a sweep failed; 2 for input that cannot be used, told in one line; 130 for Ctrl-C, 143 for SIGTERM and
129 for SIGHUP, which save the run first. ``PYRO_AEVB_DEBUG=1`` shows where an error arose.
"""


def _options_of(command: str) -> type | None:
    """The dataclass of a command's options, by its name."""
    name = f"{command.title()}Options"
    return next((getattr(module, name) for module in MODULES if hasattr(module, name)), None)


def _escaped(text: str) -> str:
    """Text as reStructuredText reads it, with code in double backticks left as it is."""
    pieces = re.split(r"(``.*?``)", text)
    return "".join(piece if piece.startswith("``") else re.sub(r"([*|\\`_])", r"\\\1", piece) for piece in pieces)


def _entries(parser: Parser) -> Iterator[str]:
    """One entry for each option: its name, what it is for, what it takes, and its default."""
    for name, said in parser.said.items():
        shown = "RUN" if name == "run" else name
        purpose = _escaped(" ".join(said.split()))
        yield f".. option:: {shown}\n\n   {purpose}\n\n   Takes {_escaped(parser.takes(name))}.\n"


def _section(command: str, summary: str) -> str:
    title = f"pyro-aevb {command}"
    head = f"{title}\n{'-' * len(title)}\n\n.. program:: {title}\n\n{_escaped(summary[0].upper() + summary[1:])}.\n"
    kind = _options_of(command)
    if kind is None:  # list, which takes names of families
        return head
    return "\n".join([head, *_entries(Parser.of(kind, title))])


def page() -> str:
    """The whole page, as reStructuredText."""
    sections = [_section(command, summary) for command, (*_, summary) in COMMANDS.items()]
    return "\n".join([INTRODUCTION, *sections])
