"""Protocols of release components: compressions, package formats, deployment targets, monitors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from lepton_tasks.core.artifacts import EndpointRef
    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.finding import Finding
    from lepton_tasks.core.use_case import UseCase


class Uncompressed(NamedTuple):
    """What a compression begins with."""

    graph: Path
    """The exported network, an ONNX file with one input."""
    samples: Callable[[int], np.ndarray]
    """At most so many training rows, decoded from requests by the codec, as the graph takes them, [N, ...]; they are
    from all over the split."""
    teach: Callable[..., None]
    """``teach(student, made, share=, temperature=, epochs=)`` trains another network of the catalogue to answer as this
    one does, and writes its graph to `made`. ``teach(None, made, ..., prune=, rate=)`` does so with this one itself,
    without a share of its channels, at a part of its learning rate."""


@runtime_checkable
class Compression(Protocol):
    """A way to make a graph smaller or faster. Built with the YAML's params."""

    def compress(self, model: Uncompressed, made: Path) -> None:
        """Write `made`, an ONNX file with the inputs and outputs of `model.graph`.

        Whatever it raises is the reason why there is no such candidate; no run fails by it.
        """


class Address(NamedTuple):
    """The address of a server."""

    url: str
    host: str = ""
    """The name, with its port, that it answers to and its certificate is for, where the URL has another."""


class Registered(NamedTuple):
    """A version in the model registry."""

    version: str
    digest: str
    """Of its model package."""
    package: Callable[[], Path]
    """The folder of the package; only who calls it has it fetched."""


@runtime_checkable
class DeployTarget(Protocol):
    """A place that serves model packages.

    Of a use case it reads the `name` and `deploy`: a version that was registered by others has no more.
    """

    def deploy(self, use_case: UseCase, ctx: RunContext, release: Registered) -> dict[str, Any]:
        """Load and warm up the version, then let it answer as ``deploy.rollout`` says; returns what `health` does.

        The old version serves until then, and as the champion while the new one is its challenger.
        """

    def health(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """What is served now: ``{"url", "version", "digest", "previous", "ready"}``, and beside the champion
        ``"challenger": {"version", "digest"}`` or None; raises `UnavailableError` if nothing answers."""

    def promote(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Let the challenger be the champion; returns what is served then.

        Raises `ConfigError`, with the way out, where there can be no challenger.
        """

    def rollback(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Take the challenger away, or without one serve the version before this one; returns what is served then."""

    def remove(self, use_case: UseCase, ctx: RunContext) -> None:
        """Stop serving the use case."""

    def addresses(self, ctx: RunContext) -> list[Address]:
        """Every server that serves what is deployed; the smoke test asks each."""


@runtime_checkable
class PackageFormat(Protocol):
    """A form in which other servers take a model. Built with params of the command line."""

    def write(self, package: Path, output: Path) -> Path:
        """Write the model of a package's folder into the folder `output`; returns the folder that was written."""


@runtime_checkable
class Monitor(Protocol):
    """Checks one aspect of the deployed model."""

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[Finding]:
        """What was found since the last check; at least one finding, which says so if there was too little to judge."""
