"""The `deploy.rollout` section: immediate, canary, shadow or hold."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lepton_tasks.core.spec import Section

Percent = Annotated[float, pydantic.Field(gt=0, le=100)]


class Rollout(Section):
    """How a new version takes over from the champion, if there is one.

    A canary goes on to its next step, and in the end becomes the champion, when the step's time is over, enough
    requests were answered and nothing speaks against it; it is taken back as soon as something does.
    """

    kind: Literal["immediate", "canary", "shadow", "hold"] = "immediate"
    """``immediate`` swaps it in; ``canary`` gives it a growing share of the requests; ``shadow`` gives it copies of
    requests that the champion has answered, until somebody promotes it; ``hold`` loads it for those who ask for it by
    its number."""
    steps: tuple[Percent, ...] = pydantic.Field((1, 10, 50, 100), min_length=1)
    """Percent of the requests that a canary answers, step by step; equal `lepton-key` headers meet the same version."""
    step_seconds: float = pydantic.Field(300.0, ge=0)
    """Least time of a step."""
    min_requests: int = pydantic.Field(200, ge=1)
    """Least requests that the canary answers in a step."""
    max_error_increase: float = pydantic.Field(0.01, ge=0, lt=1)
    """How much larger than the champion's its share of failed requests may be."""
    max_latency_ratio: float = pydantic.Field(1.5, ge=1)
    """How much longer than the champion's its 95th percentile of the time to answer may be."""
    max_drift: float = pydantic.Field(0.25, gt=0)
    """Largest population stability index of its answers beside the champion's: labels, and probabilities or numbers."""
    share: Percent = 10.0
    """Percent of the requests that a shadow gets copies of."""

    @pydantic.model_validator(mode="after")
    def _upwards(self) -> Rollout:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"the steps {list(self.steps)} do not grow")
        return self
