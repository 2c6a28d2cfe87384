"""Deployment target `followers`: servers that follow the model registry, in pods or on machines of their own.

Nobody speaks to their admin APIs: a version is deployed by moving the alias ``champion``, which each of them sees, and
is deployed once each of them says that it serves it.
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

_LOOK_SECONDS = 1.0  # between two looks at the replicas
_ANSWER_SECONDS = 10.0
_SETTLE_SECONDS = 15.0  # a replica that was replaced leaves the name service within a few seconds
_AT_ONCE = 16
_ALIASES = (registry.CHAMPION, registry.PREVIOUS, registry.CHALLENGER)


class FollowersTarget:
    """The servers in the environment's ``serving.replicas``, which follow the model registry at ``tracking_url``."""

    def deploy(self, use_case: UseCase, ctx: RunContext, release: Registered) -> dict[str, Any]:
        """Make the version the registry's champion and wait until every replica serves it; else undo that.

        Raises:
            ArtifactError: a replica refuses the package.
            ConfigError: the rollout is not immediate: each replica would judge a canary by its own requests.
            UnavailableError: a replica does not serve it within ``serving.patience``, or MLflow does not answer.
        """
        if (kind := use_case.deploy.rollout.kind) != "immediate":
            raise ConfigError(
                f"{kind!r} is not possible with servers that follow the registry: each would decide for itself.",
                where=f"{use_case.name}: deploy.rollout.kind",
                fix="Use immediate, or the target process.",
            )
        return _Followers(use_case, ctx).deploy(release.version, release.digest)

    def health(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """What every replica serves; if they do not agree, the registry's champion, without a digest and not ready."""
        return _Followers(use_case, ctx).health()

    def promote(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Raise `ConfigError`: there is no challenger."""
        raise ConfigError(
            "servers that follow the registry have no challenger to promote.",
            where=use_case.name,
            fix=f"`lepton deploy {use_case.name} VERSION` makes a version the champion on all of them.",
        )

    def rollback(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Make the registry's ``previous`` version its champion, and wait until every replica serves it."""
        return _Followers(use_case, ctx).rollback()

    def remove(self, use_case: UseCase, ctx: RunContext) -> None:
        """Take the alias ``champion`` away, and wait until no replica serves the model."""
        _Followers(use_case, ctx).remove()

    def addresses(self, ctx: RunContext) -> list[Address]:
        """Every replica."""
        return replicas_of(ctx.environment.serving)

    def logs(self, ctx: RunContext) -> list[Address]:
        """Every replica."""
        return self.addresses(ctx)


def replicas_of(serving: Serving) -> list[Address]:
    """The replicas that there are now.

    Raises:
        UnavailableError: the host name resolves to none.
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


class _Look(NamedTuple):
    """What a replica says of the model."""

    at: str
    about: dict[str, Any] | None = None
    fault: str = ""

    @property
    def version(self) -> str | None:
        """The version that it serves."""
        return self.about.get("version") if self.about else None

    def serves(self, version: str | None, digest: str | None) -> bool:
        """Whether it serves this version of this package; None: it serves none."""
        return not self.fault and self.version == version and (not version or (self.about or {})["digest"] == digest)

    def __str__(self) -> str:
        served = f"serves version {self.version}" if self.version else "serves none"
        return f"{self.at} {self.fault or served}"


class _Followers:
    """One model on all servers that follow the registry."""

    def __init__(self, use_case: UseCase, ctx: RunContext) -> None:
        environment = ctx.environment
        self._serving, self._url, self._name = environment.serving, environment.tracking_url, use_case.name
        self._address, self._key, self._meter = environment.serving_url, own_key(ctx.root / "serving"), ctx.meter

    def deploy(self, version: str, digest: str) -> dict[str, Any]:
        """Let all serve this version, or as before; see `FollowersTarget.deploy`."""
        before = self._aliases()
        champion = before[registry.CHAMPION]
        changed = champion != version
        known = self._refusals(version, seconds=_SETTLE_SECONDS if changed else 0)
        if changed:
            registry.crown(self._url, self._name, version, champion)
        try:
            self._wait(version, digest, known if changed else [])
        except (LeptonError, KeyboardInterrupt):
            if changed:
                self._put_back(before)
            raise
        previous = champion if changed else before[registry.PREVIOUS]
        return {**self._served(version, digest, previous), "changed": changed}

    def health(self) -> dict[str, Any]:
        """See `FollowersTarget.health`.

        Raises:
            UnavailableError: no replica answers, or MLflow does not.
        """
        until = time.monotonic() + _SETTLE_SECONDS
        while True:
            looks = self._look()
            first = looks[0]
            digest = (first.about or {}).get("digest")
            if all(look.serves(first.version, digest) for look in looks):
                version, ready = first.version, first.version is not None
                break
            if time.monotonic() > until:
                if all(look.fault for look in looks):
                    raise UnavailableError(f"no replica answers: {_listed(looks)}", where=self._address)
                version, digest, ready = self._aliases()[registry.CHAMPION], None, False
                break
            time.sleep(_LOOK_SECONDS)
        return {**self._served(version, digest, self._aliases()[registry.PREVIOUS]), "ready": ready}

    def rollback(self) -> dict[str, Any]:
        """See `FollowersTarget.rollback`; also returns which version was ``undone``, in how many ``seconds``."""
        began, before = time.monotonic(), self._aliases()
        previous = before[registry.PREVIOUS]
        found = registry.version(self._url, self._name, previous) if previous else None
        if previous is None or found is None:
            raise LeptonError(f"{self._name!r} has no previous version to go back to.", where=self._url)
        digest = found["tags"].get("lepton.package_digest", "")
        registry.crown(self._url, self._name, previous, None)
        self._wait(previous, digest, [])
        seconds = round(time.monotonic() - began, 1)
        served = self._served(previous, digest, None)
        return {**served, "changed": True, "undone": before[registry.CHAMPION], "seconds": seconds}

    def remove(self) -> None:
        """See `FollowersTarget.remove`."""
        for alias in (registry.CHAMPION, registry.PREVIOUS):
            registry.set_alias(self._url, self._name, alias, None)
        self._wait(None, None, [])

    def _served(self, version: str | None, digest: str | None, previous: str | None) -> dict[str, Any]:
        about = {"name": self._name, "url": self._address, "version": version, "digest": digest}
        return {**about, "previous": previous, "challenger": None, "ready": version is not None}

    def _refusals(self, version: str, *, seconds: float) -> list[dict[str, Any]]:
        """What is left of earlier refusals of the version once the replicas had time to see that it was given up.

        One that has not seen it would not take the same version for a new one.
        """
        until = time.monotonic() + seconds
        while True:
            refusals = [(look.about or {}).get("refused") for look in self._look()]
            found = [refused for refused in refusals if refused and refused["version"] == version]
            if not found or time.monotonic() > until:
                return found
            time.sleep(_LOOK_SECONDS)

    def _wait(self, version: str | None, digest: str | None, known: list[dict[str, Any]]) -> None:
        """Until every replica serves the version; refusals `known` before are none of this time."""
        until = time.monotonic() + self._serving.patience
        wanted = f"version {version}" if version else "nothing"
        tick, count = self._meter(0, "replicas"), -1
        while True:
            looks = self._look()
            if len(looks) != count:
                tick, count = self._meter(len(looks), "replicas"), len(looks)
            refusals = {look.at: (look.about or {}).get("refused") for look in looks}
            refused = {
                at: r["reason"] for at, r in refusals.items() if r and r["version"] == version and r not in known
            }
            if refused:
                told = "; ".join(f"{at}: {reason}" for at, reason in refused.items())
                raise ArtifactError(
                    f"{len(refused)} of {count} replicas refuse {wanted} of {self._name}: {told}", where=self._address
                )
            missing = [look for look in looks if not look.serves(version, digest)]
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
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> list[_Look]:
        """What each replica serves now; at least one."""
        replicas = replicas_of(self._serving)
        with ThreadPoolExecutor(min(_AT_ONCE, len(replicas))) as threads:
            return list(threads.map(self._ask, replicas))

    def _ask(self, replica: Address) -> _Look:
        import httpx

        headers = bearer(self._key) | ({"host": replica.host} if replica.host else {})
        sni = {"sni_hostname": replica.host.rpartition(":")[0]} if replica.host else {}
        try:
            with httpx.Client(verify=trusted(), timeout=_ANSWER_SECONDS, trust_env=False) as client:
                reply = client.get(f"{replica.url}/v1/models", headers=headers, extensions=sni)
        except httpx.TransportError as error:
            return _Look(replica.url, fault=f"does not answer: {error or type(error).__name__}")
        if reply.status_code == 401:
            raise ConfigError(
                "the API key is missing or unknown.", where=replica.url, fix="Set LEPTON_API_KEY to one of its keys."
            )
        if not reply.is_success:
            return _Look(replica.url, fault=f"answers {reply.status_code}")
        return _Look(replica.url, next((one for one in reply.json()["models"] if one["name"] == self._name), None))

    def _aliases(self) -> dict[str, str | None]:
        found = {alias: registry.alias(self._url, self._name, alias) for alias in _ALIASES}
        return {alias: str(version["version"]) if version else None for alias, version in found.items()}

    def _put_back(self, before: dict[str, str | None]) -> None:
        for alias, version in before.items():
            registry.set_alias(self._url, self._name, alias, version)


def _listed(looks: list[_Look]) -> str:
    return "; ".join(map(str, looks))
