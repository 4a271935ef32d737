"""Pieces of one stream are put together as they came: ``%%bash`` sends a hundred bytes at a time."""

from typing import Any

from myst_nb.core import render
from sphinx.application import Sphinx

merged = render.coalesce_streams  # which ends a line after each piece


def whole_streams(outputs: list[Any]) -> list[Any]:
    """The outputs of a cell, each stream's pieces in one."""
    kept: list[Any] = []
    streams: dict[str, Any] = {}
    for output in outputs:
        name = output.get("name") if output["output_type"] == "stream" else None
        if name in streams:
            streams[name]["text"] += output["text"]
            continue
        if name is not None:
            streams[name] = output
        kept.append(output)
    return merged(kept)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    render.coalesce_streams = whole_streams
    return {"parallel_read_safe": True, "parallel_write_safe": True}
