"""Input codec of image generation: label and seed -> latent vector, identical in training and serving."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Annotated, Any

import numpy as np
import pydantic

from lepton_tasks.codecs.fields import Field
from lepton_tasks.codecs.json_rows import JsonRequests, json_object
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.registry import did_you_mean

_SEEDS = 2**32


@dataclasses.dataclass(frozen=True)
class LatentCodec(JsonRequests):
    """Label and seed for image generation: ``{"label": "3", "seed": 1}``. Equal seeds give equal images.

    Args:
        latent: Length of the noise vector.
        labels: Classes of a conditional generator; otherwise empty.
    """

    latent: Annotated[int, pydantic.Field(ge=1)]
    labels: list[str]

    def decode(self, payload: bytes) -> np.ndarray:
        """Noise and one-hot label, float32 [latent + labels]; without a seed, a random one is used.

        Raises:
            DataError: a field or label is unknown, or the seed is not an integer from 0 to 2**32 - 1.
        """
        request = json_object(payload)
        for name in request:
            if name not in ("label", "seed"):
                raise DataError(f"there is no field {name!r}.", where=name, fix='Send {"label": ..., "seed": 1}.')
        return self.code(self._seed(request.get("seed")), self._label(request.get("label")))

    def fields(self) -> list[Field]:
        """Label, if the generator is conditional, and seed."""
        label = [Field("label", "text", required=True, choices=tuple(self.labels))] if self.labels else []
        return [*label, Field("seed", "int")]

    def code(self, seed: int, label: int | None) -> np.ndarray:
        """The code of a seed and a label index, float32 [latent + labels]."""
        code = np.zeros(self.latent + len(self.labels), np.float32)
        # The only NumPy generator whose numbers are guaranteed not to change between versions.
        code[: self.latent] = np.random.RandomState(seed).standard_normal(self.latent)
        if label is not None:
            code[self.latent + label] = 1
        return code

    def _seed(self, value: Any) -> int:
        if value is None:
            return secrets.randbelow(_SEEDS)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _SEEDS:
            raise DataError(f"{value!r} is not a whole number from 0 to {_SEEDS - 1:,}.", where="seed")
        return value

    def _label(self, value: Any) -> int | None:
        if not self.labels:
            if value is not None:
                raise DataError("the generator takes no label.", where="label", fix="Leave it out.")
            return None
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if text not in self.labels:
            what = "a label is missing." if value is None else f"no label {value!r}."
            raise DataError(what, where="label", fix=did_you_mean(str(text or ""), self.labels))
        return self.labels.index(text)
