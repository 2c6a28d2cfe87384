"""Deployment target `followers`: servers that follow the model registry, in pods or on separate machines.

A version is deployed by moving the alias ``champion``, which all servers poll, and waiting until every replica reports
that it serves the version. The admin APIs are not used.
"""

from __future__ import annotations

import socket
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from lepton_tasks.core.access import bearer, own_key, trusted
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import Serving
from lepton_tasks.core.errors import ArtifactError, ConfigError, LeptonError, UnavailableError
from lepton_tasks.core.release_protocols import Address, Registered
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.tracking import registry

_POLL_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0
_SETTLE_SECONDS = 15.0  # a replaced replica disappears from DNS within a few seconds
_MAX_THREADS = 16
_ALIASES = (registry.CHAMPION, registry.PREVIOUS, registry.CHALLENGER)


class FollowersTarget:
    """The servers in the environment's ``serving.replicas``, which follow the model registry at ``tracking_url``."""

    def deploy(self, use_case: UseCase, ctx: RunContext, release: Registered) -> dict[str, Any]:
        """Make the version the champion and wait until every replica serves it; restore the aliases on error.

        Raises:
            ArtifactError: a replica refuses the package.
            ConfigError: the rollout is not immediate: each replica would judge a canary by its own requests.
            UnavailableError: a replica does not serve it within ``serving.patience``, or MLflow does not respond.
        """
        if (kind := use_case.deploy.rollout.kind) != "immediate":
            raise ConfigError(
                f"{kind!r} is not possible with servers that follow the registry: each would decide for itself.",
                where=f"{use_case.name}: deploy.rollout.kind",
                fix="Use immediate, or the target process.",
            )
        return _ModelOnFollowers(use_case, ctx).deploy(release.version, release.digest)

    def health(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """What all replicas serve; if they differ, the registry's champion without a digest, not ready."""
        return _ModelOnFollowers(use_case, ctx).health()

    def promote(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Raise `ConfigError`: there is no challenger."""
        raise ConfigError(
            "servers that follow the registry have no challenger to promote.",
            where=use_case.name,
            fix=f"`lepton deploy {use_case.name} VERSION` makes a version the champion on all of them.",
        )

    def rollback(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Make the registry's ``previous`` version its champion, and wait until every replica serves it."""
        return _ModelOnFollowers(use_case, ctx).rollback()

    def remove(self, use_case: UseCase, ctx: RunContext) -> None:
        """Delete the alias ``champion``, and wait until no replica serves the model."""
        _ModelOnFollowers(use_case, ctx).remove()

    def addresses(self, ctx: RunContext) -> list[Address]:
        """The addresses of all replicas."""
        return replicas_of(ctx.environment.serving)

    def logs(self, ctx: RunContext) -> list[Address]:
        """Every replica."""
        return self.addresses(ctx)


def replicas_of(serving: Serving) -> list[Address]:
    """The current replicas.

    Raises:
        UnavailableError: the host name has no addresses.
    """
    if not isinstance(serving.replicas, str):
        return [Address(url) for url in serving.replicas]
    url = urllib.parse.urlsplit(serving.replicas)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UnavailableError(
            f"no replica is ready: {error.strerror}.", where=serving.replicas, fix="Start the servers."
        ) from error
    hosts = sorted({str(address[0]) for *_, address in found})
    plain = (f"[{host}]" if ":" in host else host for host in hosts)
    return [Address(f"{url.scheme}://{host}:{port}", f"{url.hostname}:{port}") for host in plain]


class _ReplicaState(NamedTuple):
    """What a replica reports about the model."""

    url: str
    model: dict[str, Any] | None = None
    fault: str = ""

    @property
    def version(self) -> str | None:
        """The served version."""
        return self.model.get("version") if self.model else None

    def serves(self, version: str | None, digest: str | None) -> bool:
        """Whether it serves this version with this digest; None means no version."""
        return not self.fault and self.version == version and (not version or (self.model or {})["digest"] == digest)

    def __str__(self) -> str:
        served = f"serves version {self.version}" if self.version else "serves none"
        return f"{self.url} {self.fault or served}"


class _ModelOnFollowers:
    """One model on all replicas."""

    def __init__(self, use_case: UseCase, ctx: RunContext) -> None:
        environment = ctx.environment
        self._serving, self._url, self._name = environment.serving, environment.tracking_url, use_case.name
        self._address, self._key, self._meter = environment.serving_url, own_key(ctx.root / "serving"), ctx.meter

    def deploy(self, version: str, digest: str) -> dict[str, Any]:
        """See `FollowersTarget.deploy`."""
        before = self._aliases()
        champion = before[registry.CHAMPION]
        changed = champion != version
        known = self._refusals(version, seconds=_SETTLE_SECONDS if changed else 0)
        if changed:
            registry.set_champion(self._url, self._name, version, champion)
        try:
            self._wait_until_served(version, digest, known if changed else [])
        except (LeptonError, KeyboardInterrupt):
            if changed:
                self._restore_aliases(before)
            raise
        previous = champion if changed else before[registry.PREVIOUS]
        return {**self._served(version, digest, previous), "changed": changed}

    def health(self) -> dict[str, Any]:
        """See `FollowersTarget.health`.

        Raises:
            UnavailableError: no replica responds, or MLflow does not.
        """
        until = time.monotonic() + _SETTLE_SECONDS
        while True:
            states = self._poll()
            first = states[0]
            digest = (first.model or {}).get("digest")
            if all(state.serves(first.version, digest) for state in states):
                version, ready = first.version, first.version is not None
                break
            if time.monotonic() > until:
                if all(state.fault for state in states):
                    raise UnavailableError(f"no replica answers: {_listed(states)}", where=self._address)
                version, digest, ready = self._aliases()[registry.CHAMPION], None, False
                break
            time.sleep(_POLL_SECONDS)
        return {**self._served(version, digest, self._aliases()[registry.PREVIOUS]), "ready": ready}

    def rollback(self) -> dict[str, Any]:
        """See `FollowersTarget.rollback`; also returns the version ``undone`` and the ``seconds`` it took."""
        began, before = time.monotonic(), self._aliases()
        previous = before[registry.PREVIOUS]
        found = registry.version(self._url, self._name, previous) if previous else None
        if previous is None or found is None:
            raise LeptonError(f"{self._name!r} has no previous version to go back to.", where=self._url)
        digest = found["tags"].get("lepton.package_digest", "")
        registry.set_champion(self._url, self._name, previous, None)
        self._wait_until_served(previous, digest, [])
        seconds = round(time.monotonic() - began, 1)
        served = self._served(previous, digest, None)
        return {**served, "changed": True, "undone": before[registry.CHAMPION], "seconds": seconds}

    def remove(self) -> None:
        """See `FollowersTarget.remove`."""
        for alias in (registry.CHAMPION, registry.PREVIOUS):
            registry.set_alias(self._url, self._name, alias, None)
        self._wait_until_served(None, None, [])

    def _served(self, version: str | None, digest: str | None, previous: str | None) -> dict[str, Any]:
        model = {"name": self._name, "url": self._address, "version": version, "digest": digest}
        return {**model, "previous": previous, "challenger": None, "ready": version is not None}

    def _refusals(self, version: str, *, seconds: float) -> list[dict[str, Any]]:
        """Earlier refusals of the version that remain after the replicas had time to notice the alias had moved back.

        A replica that has not noticed it would not treat the same version as new.
        """
        until = time.monotonic() + seconds
        while True:
            refusals = [(state.model or {}).get("refused") for state in self._poll()]
            found = [refused for refused in refusals if refused and refused["version"] == version]
            if not found or time.monotonic() > until:
                return found
            time.sleep(_POLL_SECONDS)

    def _wait_until_served(self, version: str | None, digest: str | None, known: list[dict[str, Any]]) -> None:
        """Wait until every replica serves the version; refusals in `known` are from an earlier attempt."""
        until = time.monotonic() + self._serving.patience
        wanted = f"version {version}" if version else "nothing"
        tick, count = self._meter(0, "replicas"), -1
        while True:
            states = self._poll()
            if len(states) != count:
                tick, count = self._meter(len(states), "replicas"), len(states)
            refusals = {state.url: (state.model or {}).get("refused") for state in states}
            refused = {
                at: r["reason"] for at, r in refusals.items() if r and r["version"] == version and r not in known
            }
            if refused:
                reasons = "; ".join(f"{at}: {reason}" for at, reason in refused.items())
                raise ArtifactError(
                    f"{len(refused)} of {count} replicas refuse {wanted} of {self._name}: {reasons}",
                    where=self._address,
                )
            missing = [state for state in states if not state.serves(version, digest)]
            tick(count - len(missing))
            if not missing:
                return
            if time.monotonic() > until:
                raise UnavailableError(
                    f"after {self._serving.patience:g} s, {len(missing)} of {count} replicas do not serve {wanted} of "
                    f"{self._name}: {_listed(missing)}",
                    where=self._address,
                    fix=f"See their logs; they must follow the registry at {self._url}.",
                )
            time.sleep(_POLL_SECONDS)

    def _poll(self) -> list[_ReplicaState]:
        """The state of each replica; at least one."""
        replicas = replicas_of(self._serving)
        with ThreadPoolExecutor(min(_MAX_THREADS, len(replicas))) as threads:
            return list(threads.map(self._query, replicas))

    def _query(self, replica: Address) -> _ReplicaState:
        import httpx

        headers = bearer(self._key) | replica.headers
        try:
            with httpx.Client(verify=trusted(), timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
                reply = client.get(f"{replica.url}/v1/models", headers=headers, extensions=replica.extensions)
        except httpx.TransportError as error:
            return _ReplicaState(replica.url, fault=f"does not answer: {error or type(error).__name__}")
        if reply.status_code == 401:
            raise ConfigError(
                "the API key is missing or unknown.", where=replica.url, fix="Set LEPTON_API_KEY to one of its keys."
            )
        if not reply.is_success:
            return _ReplicaState(replica.url, fault=f"answers {reply.status_code}")
        models = reply.json()["models"]
        return _ReplicaState(replica.url, next((model for model in models if model["name"] == self._name), None))

    def _aliases(self) -> dict[str, str | None]:
        found = {alias: registry.alias(self._url, self._name, alias) for alias in _ALIASES}
        return {alias: str(version["version"]) if version else None for alias, version in found.items()}

    def _restore_aliases(self, before: dict[str, str | None]) -> None:
        for alias, version in before.items():
            registry.set_alias(self._url, self._name, alias, version)


def _listed(states: list[_ReplicaState]) -> str:
    return "; ".join(map(str, states))
