"""Promote canaries or roll them back based on their figures; report on shadows."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable

from lepton_tasks.serving.versions.live import Served
from lepton_tasks.serving.versions.rollout import judge
from lepton_tasks.serving.versions.routing import ModelTable
from lepton_tasks.serving.versions.tally import Figures

_BY = "rollout"

_log = logging.getLogger("lepton.serving.rollout")


class Controller:
    """Periodically judges the canaries of a table.

    Args:
        table: The models.
        clock: Monotonic seconds.
    """

    def __init__(self, table: ModelTable, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._table, self._clock = table, clock
        self._steps: dict[str, tuple[Served, float]] = {}
        self._references: dict[str, tuple[str, Figures]] = {}

    async def run(self, *, every: float = 1.0) -> None:
        """Judge every `every` seconds until cancelled."""
        while True:
            await asyncio.sleep(every)
            if self._table.is_leader():
                await self.tick()

    async def tick(self) -> None:
        """Judge each canary once and act on the verdict."""
        for served in self._table.models():
            if served.state.challenger is None:
                continue
            name, kind = served.champion.model, served.state.challenger.plan.kind
            try:
                if kind == "shadow":
                    found = await self._table.shadow_figures(name)
                    details = {"verdict": "wait", "reason": found.summary(), **found.to_dict()}
                    await self._table.publish_status(name, "progress", details)
                elif kind == "canary":
                    await self._judge(name, served)
            except Exception:  # noqa: BLE001  # e.g. rolled back meanwhile, or the disk is full; retried at the next tick
                _log.exception("the rollout of %s was not judged", name)

    async def _judge(self, name: str, served: Served) -> None:
        challenge, challenger = served.state.challenger, served.challenger
        if challenge is None or challenger is None:
            return
        now = self._clock()
        if self._steps.get(name, (None, 0.0))[0] is not served:  # a new step, with empty tallies
            self._steps[name] = served, now
        figures = await self._table.figures(name)
        if self._table.served(name) is not served:  # changed while the figures were collected
            return
        reference = self._reference(name, served, figures[served.champion.release.version])
        verdict = judge(challenge.plan, now - self._steps[name][1], reference, figures[challenge.release.version])
        percent = served.weight * 100
        await self._table.publish_status(
            name, "progress", {"verdict": verdict.action, "reason": verdict.reason, **verdict.figures}
        )
        if verdict.action == "wait":
            return
        details = {"weight": served.weight, "reason": verdict.reason, "figures": verdict.figures}
        version = challenge.release.version
        if verdict.action == "back":
            await self._table.rollback(name, by=_BY, only=version, **details)
            _log.warning("version %s of %s is rolled back at %g %%: %s", version, name, percent, verdict.reason)
        elif challenge.step + 1 < len(challenge.plan.steps):
            await self._table.step(name, challenge.step + 1, by=_BY, only=version, **details)
            _log.info("version %s of %s continues from %g %%: %s", version, name, percent, verdict.reason)
        else:
            await self._table.promote(name, by=_BY, only=version, **details)
            _log.info("version %s of %s is the champion: %s", version, name, verdict.reason)

    def _reference(self, name: str, served: Served, figures: Figures) -> Figures:
        """The champion's figures of this step, or of the last with enough requests: at 100 % it gets none.

        Times of an earlier step are omitted, because they depend on the load of the machine.
        """
        champion, challenge = served.champion, served.state.challenger
        kept = self._references.get(name)
        least = challenge.plan.min_requests if challenge else 0
        if figures.requests < least and kept is not None and kept[0] == champion.release.digest:
            return dataclasses.replace(kept[1], times=())
        if figures.requests >= least:
            self._references[name] = champion.release.digest, figures
        return figures
