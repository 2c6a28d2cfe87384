"""Profile of training rows as requests, and the rules for served requests derived from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from lepton_tasks.codecs.monitored_values import prediction_values, sample_values
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Codec, OutputCodec, Outputs
from lepton_tasks.quality.profile import profile_of
from lepton_tasks.quality.rows import FrameRows

_TYPES = {str(dtype): dtype for dtype in (pl.Int64(), pl.Float64(), pl.String(), pl.Boolean())}


def profile_of_requests(codec: Codec, payloads: Iterable[bytes], ctx: RunContext) -> dict[str, Any]:
    """The profile of what the codec tells of requests; of those that it refuses, nothing.

    Args:
        codec: The input codec of the model.
        payloads: Rows that the model was made with, in the form of requests.
        ctx: The run.
    """
    values = []
    for payload in payloads:
        try:
            values.append(sample_values(codec, payload, codec.decode(payload)))
        except DataError:
            continue
    return _profile(values, ctx)


def profile_of_answers(codec: OutputCodec, outputs: Outputs, ctx: RunContext) -> dict[str, Any]:
    """The profile of what the request log keeps of answers, where all outputs are answered.

    Args:
        codec: The output codec of the model.
        outputs: What the network gives, by name, [N, ...].
        ctx: The run.
    """
    rows = len(next(iter(outputs.values())))
    return _profile([prediction_values(codec.encode(outputs, row)) for row in range(rows)], ctx)


def _profile(values: Sequence[Mapping[str, Any]], ctx: RunContext) -> dict[str, Any]:
    frame = pl.DataFrame(values, infer_schema_length=None) if any(values) else pl.DataFrame()
    frame = frame.select(pl.exclude(pl.Null))  # what never has a value has no type, and no rule would follow
    return profile_of(FrameRows(frame), ctx) if frame.width else {"rows": len(values), "columns": {}}


def values_frame(values: Sequence[Mapping[str, Any]], profile: Mapping[str, Any] | None) -> pl.DataFrame:
    """Values of samples as a table, in the types of the profile; columns that are not in the profile are left out.

    Without a profile, all of them, in the types that they have.
    """
    if profile is None:
        frame = pl.DataFrame(values, infer_schema_length=None) if any(values) else pl.DataFrame()
        return frame.select(pl.exclude(pl.Null))
    schema = {name: _TYPES[about["type"]] for name, about in profile["columns"].items()}
    return pl.DataFrame([{name: one.get(name) for name in schema} for one in values], schema=schema, strict=False)
