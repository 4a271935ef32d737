"""The page as one file: sources put together, the payload inside, every connection forbidden."""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pyro_aevb.errors import InputError
from pyro_aevb.errors import path as path_of
from pyro_aevb.files import check_place, replaced

__all__ = ["MARK", "check_page", "make_page", "script", "write_page"]

MARK = "<!-- made by pyro-aevb explore -->"
"""What a page begins with after its document type, by which a later call knows that it may replace it."""

ENTRY = "app.js"
"""The source that begins what the page does; it comes last."""

IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./([\w.]+)";?[ \t]*\n?', re.MULTILINE)
EXPORT = re.compile(r"^export\s+(?=(?:async\s+)?function\b|const\b|let\b|class\b)", re.MULTILINE)
EXPORTED = re.compile(r"^export\s*\{[^}]*\};?[ \t]*\n?", re.MULTILINE)
DECLARED = re.compile(
    r"^(?:export\s+)?(?:(?:async\s+)?function\s*\*?|const|let|var|class)\s+(\w+|\{[^}]*\}|\[[^\]]*\])", re.MULTILINE
)
PLACES = ("<!--STYLE-->", "<!--SCRIPT-->", "<!--PAYLOAD-->")


def sources() -> dict[str, str]:
    """The page's sources by name: ``page.html``, ``page.css`` and the modules."""
    folder = resources.files("pyro_aevb.explorer").joinpath("page")
    files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.name)
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def script(modules: Mapping[str, str]) -> str:
    """Modules as one script, what is imported before what imports it, the entry last.

    Arguments:
        modules: Source of each module by its file's name; they import by ``import {a, b} from "./name.js"`` alone, and
            have no two top-level names alike.

    Raises:
        ValueError: If one imports another that is not there, or in a circle; if two declare the same name; if an import
            or export has another form.
    """
    ordered = list(_ordered(modules))
    _check_names({name: modules[name] for name in ordered})
    return "\n".join(f"// {name}\n{_stripped(name, modules[name])}" for name in ordered)


def _ordered(modules: Mapping[str, str]) -> Iterator[str]:
    done: list[str] = []
    begun: list[str] = []

    def visit(name: str, by: str) -> None:
        """Put a module after those that it imports."""
        if name not in modules:
            raise ValueError(f"{by} imports {name}, which is not there")
        if name in begun:
            raise ValueError(f"{name} imports itself in a circle: {' -> '.join([*begun, name])}")
        if name in done:
            return
        begun.append(name)
        for other in IMPORT.findall(modules[name]):
            visit(other, name)
        begun.remove(name)
        done.append(name)

    for name in sorted(modules, key=lambda name: (name == ENTRY, name)):
        visit(name, "the page")
    yield from done


def _check_names(modules: Mapping[str, str]) -> None:
    """Refuse a top-level name that two modules declare: in one script there is one of each."""
    found: dict[str, str] = {}
    for module, text in modules.items():
        declared = {name for group in DECLARED.findall(text) for name in re.findall(r"\w+", group)}
        for name in declared:
            if name in found:
                raise ValueError(f"{module} and {found[name]} both declare {name}")
            found[name] = module


def _stripped(name: str, text: str) -> str:
    """A module without its imports and exports."""
    plain = EXPORTED.sub("", EXPORT.sub("", IMPORT.sub("", text)))
    if other := re.search(r"^(?:import|export)\b.*", plain, re.MULTILINE):
        raise ValueError(f"{name} has {other[0]!r}: write import {{a}} from './b.js', and export before a declaration")
    if "</script" in plain.lower() or "<!--" in plain:
        raise ValueError(f"{name} holds what ends a script of a page")
    return plain


def make_page(payload: Mapping[str, Any]) -> str:
    """The page as one text, which needs no other file and no connection.

    Arguments:
        payload: What it shows, as :func:`~pyro_aevb.explorer.make_payload` makes it.
    """
    files = sources()
    code = script({name: text for name, text in files.items() if name.endswith(".js")})
    data = json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "<!--STYLE-->": f"<style>\n{files['page.css']}</style>",
        "<!--SCRIPT-->": f'<script type="module">{code}</script>',
        "<!--PAYLOAD-->": f'<script type="application/json" id="payload">{data}</script>',
    }
    page = files["page.html"]
    for place in PLACES:
        if page.count(place) != 1:
            raise ValueError(f"page.html must have {place} once")
    whole = re.compile("|".join(map(re.escape, PLACES))).sub(lambda match: parts[match[0]], page)
    head = re.compile(r"<!doctype html>\s*", re.IGNORECASE).sub("", whole, count=1)
    return f"<!doctype html>\n{MARK}\n{_with_policy(head, code)}"


def _with_policy(page: str, code: str) -> str:
    """The page with the browser told, before all else, to run this script alone and to connect to nothing."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy, quote=False)}">'
    charset = re.search(r'<meta charset="utf-8"\s*/?>', page, re.IGNORECASE)
    if charset is None:
        raise ValueError('page.html must have <meta charset="utf-8">')
    return f"{page[: charset.end()]}\n{meta}{page[charset.end() :]}"


def check_page(out: Path) -> None:
    """See that a page can be written: where nothing is, or where an earlier page of this command is.

    Arguments:
        out: Its path.

    Raises:
        InputError: If it does not end in ``.html``, something else is there, or no file can be made there.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out}: give a file that ends in .html")
    check_place("out", out)
    if (out.exists() or out.is_symlink()) and not _is_ours(out):
        raise InputError(f"{out} exists already, and was not made by explore: remove it, or give another --out")


def _is_ours(path: Path) -> bool:
    """Whether a page of this command is there, itself and no link to it."""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return MARK.encode() in file.read(200)


def write_page(payload: Mapping[str, Any], out: str | os.PathLike[str]) -> Path:
    """Write a page, whole or not at all; an earlier one is replaced, nothing else.

    Arguments:
        payload: What it shows.
        out: Its path, which ends in ``.html``.

    Raises:
        InputError: As :func:`pyro_aevb.explorer.build.check_page`.
    """
    place = path_of("out", out)
    check_page(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with replaced(place) as file:
        file.write(make_page(payload).encode())
    return place
