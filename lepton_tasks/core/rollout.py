"""The `deploy.rollout` section: immediate, canary, shadow or hold."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lepton_tasks.core.spec import Section

Percent = Annotated[float, pydantic.Field(gt=0, le=100)]


class Rollout(Section):
    """How a new version takes over from the champion, if there is one.

    A canary advances to its next step, and finally becomes the champion, when the step's time has passed, enough
    requests were answered and all limits are met; it is rolled back as soon as a limit is exceeded.
    """

    kind: Literal["immediate", "canary", "shadow", "hold"] = "immediate"
    """``immediate`` replaces the champion; ``canary`` routes a growing share of requests; ``shadow`` mirrors requests
    until it is promoted manually; ``hold`` loads it for requests that name its version."""
    steps: tuple[Percent, ...] = pydantic.Field((1, 10, 50, 100), min_length=1)
    """Percent of requests routed to a canary per step; equal `lepton-key` headers get the same version."""
    step_seconds: float = pydantic.Field(300.0, ge=0)
    """Minimum seconds per step."""
    min_requests: int = pydantic.Field(200, ge=1)
    """Minimum requests to the canary per step."""
    max_error_increase: float = pydantic.Field(0.01, ge=0, lt=1)
    """Largest increase of the error rate over the champion's."""
    max_latency_ratio: float = pydantic.Field(1.5, ge=1)
    """Largest 95th percentile of latency, relative to the champion's."""
    max_drift: float = pydantic.Field(0.25, gt=0)
    """Largest population stability index between its answers and the champion's."""
    share: Percent = 10.0
    """Percent of requests mirrored to a shadow."""

    @pydantic.model_validator(mode="after")
    def _upwards(self) -> Rollout:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"the steps {list(self.steps)} do not grow")
        return self
