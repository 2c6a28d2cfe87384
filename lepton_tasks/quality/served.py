"""Profiles of training rows in the form of requests and responses, to compare served requests with."""

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
    """Profile of the codec's request statistics; skips requests that it rejects.

    Args:
        codec: The input codec of the model.
        payloads: Request bodies of the model's data.
        ctx: Run context.
    """
    values = []
    for payload in payloads:
        try:
            values.append(sample_values(codec, payload, codec.decode(payload)))
        except DataError:
            continue
    return _profile(values, ctx)


def profile_of_answers(codec: OutputCodec, outputs: Outputs, ctx: RunContext) -> dict[str, Any]:
    """Profile of the logged values of the responses to all outputs.

    Args:
        codec: The output codec of the model.
        outputs: Outputs of the network by name, [N, ...].
        ctx: Run context.
    """
    rows = len(next(iter(outputs.values())))
    return _profile([prediction_values(codec.encode(outputs, row)) for row in range(rows)], ctx)


def _profile(values: Sequence[Mapping[str, Any]], ctx: RunContext) -> dict[str, Any]:
    frame = pl.DataFrame(values, infer_schema_length=None) if any(values) else pl.DataFrame()
    frame = frame.select(pl.exclude(pl.Null))  # columns without values have no type and give no rules
    return profile_of(FrameRows(frame), ctx) if frame.width else {"rows": len(values), "columns": {}}


def values_frame(values: Sequence[Mapping[str, Any]], profile: Mapping[str, Any] | None) -> pl.DataFrame:
    """Values of samples as a table, with the columns and types of the profile.

    Without a profile, all columns, with inferred types.
    """
    if profile is None:
        frame = pl.DataFrame(values, infer_schema_length=None) if any(values) else pl.DataFrame()
        return frame.select(pl.exclude(pl.Null))
    schema = {name: _TYPES[about["type"]] for name, about in profile["columns"].items()}
    return pl.DataFrame([{name: one.get(name) for name in schema} for one in values], schema=schema, strict=False)
