"""Deployment target `process`: the inference server, through its admin API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.access import TOKEN_FILE, bearer, own_key, trusted
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError, LeptonError, UnavailableError
from lepton_tasks.core.release_protocols import Address, Registered
from lepton_tasks.core.use_case import UseCase

if TYPE_CHECKING:
    import httpx

_TIMEOUT_SECONDS = 120.0  # a large package is copied, verified and warmed up during the request


class ProcessTarget:
    """The inference server at ``serving_url``, with its state in ``<state root>/serving``."""

    def deploy(self, use_case: UseCase, ctx: RunContext, release: Registered) -> dict[str, Any]:
        """Load and warm up the version, then roll it out as in ``deploy.rollout``; the old one serves until then.

        Returns:
            The served model: ``url, version, digest, previous, challenger`` and ``changed``, False if it was already
            served like this.

        Raises:
            ArtifactError: the server refuses the package; serving is unchanged.
            UnavailableError: the server does not respond.
        """
        wanted = {
            "package": str(release.package()),
            "version": release.version,
            "digest": release.digest,
            "by": ctx.run_id,
            "rollout": use_case.deploy.rollout.model_dump(mode="json"),
        }
        return self._admin(use_case, ctx, "POST", "", json=wanted)

    def health(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """The served model: ``version, digest, previous, challenger, ready``; ``ready`` is False if there is none."""
        url = ctx.environment.serving_url
        headers = bearer(own_key(ctx.root / "serving"))
        reply = _request("GET", f"{url}/v1/models/{use_case.name}", headers=headers)
        if reply.status_code in (404, 503):
            return {"url": url, "version": None, "digest": None, "previous": None, "challenger": None, "ready": False}
        return _served(reply, url)

    def promote(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Make the challenger the champion; returns the served model."""
        return self._admin(use_case, ctx, "POST", "/promote", params={"by": ctx.run_id})

    def rollback(self, use_case: UseCase, ctx: RunContext) -> dict[str, Any]:
        """Remove the challenger, or without one restore the previous version; returns the served model."""
        return self._admin(use_case, ctx, "POST", "/rollback", params={"by": ctx.run_id})

    def remove(self, use_case: UseCase, ctx: RunContext) -> None:
        """Stop serving the use case."""
        self._admin(use_case, ctx, "DELETE", "", params={"by": ctx.run_id})

    def addresses(self, ctx: RunContext) -> list[Address]:
        """The address of the server."""
        return [Address(ctx.environment.serving_url)]

    def logs(self, ctx: RunContext) -> list[Address]:
        """None: the server writes into the state folder."""
        return []

    def _admin(self, use_case: UseCase, ctx: RunContext, method: str, path: str, **request: Any) -> dict[str, Any]:
        url = ctx.environment.serving_url
        headers = bearer(_token(ctx.root / "serving", url))
        reply = _request(method, f"{url}/admin/models/{use_case.name}{path}", headers=headers, **request)
        return _served(reply, url)


def _token(home: Path, url: str) -> str:
    try:
        return (home / TOKEN_FILE).read_text().strip()
    except FileNotFoundError as error:
        raise UnavailableError(
            f"no admin token in {home}, so no serving process was started with this state folder.",
            where=url,
            fix="Start it with `lepton up`.",
        ) from error


def _request(method: str, url: str, **request: Any) -> httpx.Response:
    import httpx

    try:
        return httpx.request(method, url, timeout=_TIMEOUT_SECONDS, verify=trusted(), trust_env=False, **request)
    except httpx.TransportError as error:
        raise UnavailableError(
            f"the serving process does not answer: {error or type(error).__name__}.",
            where=url,
            fix="Start it with `lepton up`.",
        ) from error


def _served(reply: httpx.Response, url: str) -> dict[str, Any]:
    if reply.is_success:
        return {"url": url, **reply.json()}
    try:
        reason = str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        reason = f"it answered {reply.status_code}."
    at = str(reply.url)
    if reply.status_code >= 500:
        raise UnavailableError(reason, where=at, fix="See its log.")
    if reply.status_code == 401:
        raise ConfigError(
            reason, where=at, fix="Check that LEPTON_SERVING_URL is the server of this state folder (LEPTON_HOME)."
        )
    kind: type[LeptonError] = ArtifactError if reply.status_code == 422 else LeptonError
    raise kind(reason, where=at)
