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


class CompressionInput(NamedTuple):
    """Input of a compression."""

    graph: Path
    """The exported network, an ONNX file with one input."""
    samples: Callable[[int], np.ndarray]
    """``samples(n)``: at most `n` training rows as the codec decodes them, [N, ...], spread over the split."""
    teach: Callable[..., None]
    """``teach(student, output, share=, temperature=, epochs=)`` distils this network into another network of the
    catalogue and writes its graph to `output`. ``teach(None, output, ..., prune=, rate=)`` distils it into itself with
    a fraction of its channels removed, at a fraction of its learning rate."""


@runtime_checkable
class Compression(Protocol):
    """A way to make a graph smaller or faster. Built with the YAML's params."""

    def compress(self, model: CompressionInput, output: Path) -> None:
        """Write `output`, an ONNX file with the inputs and outputs of `model.graph`.

        An exception drops the candidate, with its message as the reason; the run goes on.
        """


class Address(NamedTuple):
    """The address of a server."""

    url: str
    host: str = ""
    """Host name and port of its certificate, if they differ from the URL's."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of requests to it."""
        return {"host": self.host} if self.host else {}

    @property
    def extensions(self) -> dict[str, str]:
        """Extensions of requests to it, of httpx: the name that its certificate is for."""
        return {"sni_hostname": self.host.rpartition(":")[0]} if self.host else {}


class Registered(NamedTuple):
    """A version in the model registry."""

    version: str
    digest: str
    """Digest of its model package."""
    package: Callable[[], Path]
    """Returns the package folder; downloads it on the first call."""


@runtime_checkable
class DeployTarget(Protocol):
    """Serves model packages.

    It reads only `name` and `deploy` of a use case: externally registered versions have nothing else.
    """

    def deploy(self, use_case: UseCase, ctx: RunContext, release: Registered) -> dict[str, Any]:
        """Load and warm up the version, then route requests to it according to ``deploy.rollout``; returns `health`.

        The old version serves until then, and remains champion while the new one is challenger.
        """

    def health(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """The served versions: ``{"url", "version", "digest", "previous", "ready"}`` of the champion, and
        ``"challenger": {"version", "digest"}`` or None; raises `UnavailableError` if no server answers."""

    def promote(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Make the challenger the champion; returns `health`.

        Raises `ConfigError` if the target does not support challengers.
        """

    def rollback(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Remove the challenger or, without one, serve the previous version; returns `health`."""

    def remove(self, use_case: UseCase, ctx: RunContext) -> None:
        """Stop serving the use case."""

    def addresses(self, ctx: RunContext) -> list[Address]:
        """Every server that serves the deployment; the smoke test checks each."""

    def logs(self, ctx: RunContext) -> list[Address]:
        """The servers whose request logs are not in the state folder, and are gathered before they are read."""


@runtime_checkable
class PackageFormat(Protocol):
    """A model format of other servers. Built with params of the command line."""

    def write(self, package: Path, output: Path) -> Path:
        """Convert the package in a folder and write it into the folder `output`; returns the written folder."""


@runtime_checkable
class Monitor(Protocol):
    """Checks one aspect of the deployed model."""

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[Finding]:
        """Findings since the last check; at least one, which says so if there was too little data."""
