"""What a monitor keeps between two checks: how far it has looked, and earlier figures."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.book import home_of
from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER, read_requests

_SHOWN = 60  # checks that are kept for the plot


def plot_path(ctx: RunContext, use_case: UseCase, monitor: str) -> Path:
    """The picture that a monitor draws of its checks; not every one draws."""
    return home_of(ctx.root, use_case.name) / f"{monitor}.png"


class Notebook:
    """The notes of one monitor about one use case.

    Args:
        ctx: The run.
        use_case: The use case.
        monitor: Name of the monitor.
        endpoint: What is watched. Notes about another version do not count.

    Attributes:
        version: The version that is watched; empty if nobody knows.
        mark: What the last check wrote down; empty before the first one of this version.
    """

    def __init__(self, ctx: RunContext, use_case: UseCase, monitor: str, endpoint: EndpointRef) -> None:
        self._folder, self._monitor = home_of(ctx.root, use_case.name), monitor
        self.version = str(endpoint.facts.get("version") or "")
        found = self._read(f"{monitor}.json", {})
        self.mark: dict[str, Any] = found if found.get("version") == self.version else {}
        self.plot = plot_path(ctx, use_case, monitor)

    def remember(self, mark: Mapping[str, Any]) -> None:
        """Write down how far was looked, in the place of what `mark` was."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / f"{self._monitor}.json", {**mark, "version": self.version})

    def add(self, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Keep the figures of a check; returns those of the latest ones, oldest first, of all versions."""
        history = self._read(f"{self._monitor}_history.json", [])
        history = [*history, {**figures, "version": self.version}][-_SHOWN:]
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / f"{self._monitor}_history.json", history)
        return list(history)

    def draw_course(self, figures: Mapping[str, Any], lines: Mapping[str, str]) -> None:
        """Keep the figures of a check, and draw those of `lines`, titles by key, once there are two checks."""
        history = self.add(figures)
        if len(history) > 1:
            from lepton_tasks.monitoring.plots import plot_course

            plot_course(self.plot, history, lines)

    def _read(self, name: str, default: Any) -> Any:
        path = self._folder / name
        return json.loads(path.read_text()) if path.exists() else default


def requests_since(
    ctx: RunContext, use_case: UseCase, version: str, since: float, columns: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Records of real requests to a version, to any if it is empty, after `since` (Unix time); oldest first.

    A million of them with their values take 3 GB, so keep only what is looked at, or read no more than `columns`.
    """
    folder = ctx.root / "serving" / REQUESTS_FOLDER
    read = None if columns is None else {"probe", "version", *columns}
    for record in read_requests(folder, use_case.name, since=since, columns=read):
        if not record.get("probe") and version in ("", record.get("version")):
            yield record


def package_folder(ctx: RunContext, endpoint: EndpointRef) -> Path | None:
    """The package that is deployed; None if it is not in this store."""
    uri = endpoint.facts.get("package_uri")
    folder = ctx.store.folder_at(str(uri)) if uri else None
    return folder if folder is not None and folder.is_dir() else None


def package_json(ctx: RunContext, endpoint: EndpointRef, name: str) -> dict[str, Any]:
    """A JSON file of the package that is deployed; empty if it has none."""
    folder = package_folder(ctx, endpoint)
    path = folder / name if folder is not None else None
    found: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}
    return found
