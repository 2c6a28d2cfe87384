"""Put a table's feature transformation into the graph, before the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lepton_tasks.codecs.tabular import FIRST_CODE, MISSING_CODE, TabularColumn
from lepton_tasks.data.feature_tables import table_columns

Values = dict[str, torch.Tensor]


class TableFeatures(nn.Module):
    """Features of the extractor ``table``, equivalent to `TableColumns.express`.

    Args:
        fitted: Fitted values of the extractor: ``request``, ``operations``, ``features``.

    Attributes:
        numbers: Names of the numeric columns, in order.
        codes: Names of the categorical columns, in order.
    """

    def __init__(self, fitted: Mapping[str, Any]) -> None:
        super().__init__()
        self._request: list[dict[str, Any]] = list(fitted["request"])
        self._operations: list[dict[str, Any]] = list(fitted["operations"])
        self._features: list[dict[str, Any]] = list(fitted["features"])
        self._by_name = {feature["name"]: feature for feature in self._features}
        self.numbers, self.codes = table_columns(fitted)

    def forward(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers float32 [N, numbers] and codes int32 [N, codes] of rows float64 [N, columns] of `TabularCodec`."""
        values = {column["name"]: row[:, index] for index, column in enumerate(self._request)}
        columns = {column["name"]: column for column in self._request}
        for operation in self._operations:
            if operation["column"] in values:
                _operate(values, operation, columns.get(operation["column"], {}))
        numbers = [number for f in self._features for number in self._numbers_of(f, values)]
        codes = [self._code_of(f, values) for f in self._features if f["name"] in self.codes]
        empty = row.new_zeros((row.shape[0], 0))
        return (
            torch.stack(numbers, dim=1).float() if numbers else empty.float(),
            torch.stack(codes, dim=1).int() if codes else empty.int(),
        )

    def _numbers_of(self, feature: Mapping[str, Any], values: Values) -> list[torch.Tensor]:
        kind = feature["kind"]
        if kind == "number":
            x = values[feature["column"]]
            x = torch.where(torch.isfinite(x), x, _double(x, feature["fill"]))
            return [(_curve(feature, x) - _double(x, feature["shift"])) / _double(x, feature["scale"])]
        if kind == "cycle":
            seconds = values[feature["column"]]
            turns = seconds / _double(seconds, feature["period"])
            angle = (turns - torch.floor(turns)) * _double(seconds, 2 * math.pi)
            known = torch.isfinite(seconds)
            return [torch.where(known, circle, torch.zeros_like(angle)) for circle in (angle.sin(), angle.cos())]
        if kind == "target":
            code = values[feature["column"]].long()
            return [_double(code, rates)[code] for rates in feature["rates"]]
        return []

    def _code_of(self, feature: Mapping[str, Any], values: Values) -> torch.Tensor:
        if feature["kind"] == "bin":
            x = values[feature["column"]]
            place = (x[:, None] >= _double(x, feature["edges"])[None, :]).sum(dim=1) + FIRST_CODE
            return torch.where(torch.isfinite(x), place, torch.full_like(place, MISSING_CODE))
        if feature["kind"] != "cross":
            return values[feature["column"]].long()
        first, second = (self._by_name[name] for name in feature["of"])
        pair = self._code_of(first, values) * second["size"] + self._code_of(second, values)
        return torch.remainder(pair, feature["size"])


class StoredTable(nn.Module):
    """Table network on stored rows.

    Args:
        network: Takes numbers float32 [N, numbers] and codes int32 [N, codes].
        numbers: Number of numeric columns.
        answer: Applied to the network's outputs.
    """

    def __init__(self, network: nn.Module, numbers: int, answer: nn.Module) -> None:
        super().__init__()
        self.network, self.answer, self._numbers = network, answer, numbers

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Predictions for stored rows float32 [N, numbers + codes]."""
        outputs: torch.Tensor = self.answer(self.network(rows[:, : self._numbers], rows[:, self._numbers :].int()))
        return outputs


class ServedTable(nn.Module):
    """Serving graph: table network on request rows.

    Args:
        network: Takes numbers float32 [N, numbers] and codes int32 [N, codes].
        fitted: Fitted values of the extractor ``table``.
        answer: Applied to the network's outputs.
    """

    def __init__(self, network: nn.Module, fitted: Mapping[str, Any], answer: nn.Module) -> None:
        super().__init__()
        self.features, self.network, self.answer = TableFeatures(fitted), network, answer

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """Predictions for rows float64 [N, columns] of `TabularCodec`."""
        outputs: torch.Tensor = self.answer(self.network(*self.features(row)))
        return outputs


class Scaled(nn.Module):
    """Convert to the target's unit: ``x * scale + shift``, without the last axis if it has length 1.

    Args:
        shift: Mean of the target.
        scale: Standard deviation of the target.
    """

    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N] of float32 [N, 1]."""
        return x[:, 0] * self.scale + self.shift


def _operate(values: Values, operation: Mapping[str, Any], column: Mapping[str, Any]) -> None:
    """Apply one `Operation` to the values of a column."""
    x, kind = values[operation["column"]], operation["kind"]
    category = "values" in column or "buckets" in column
    missing = x == MISSING_CODE if category else torch.isnan(x)
    low, high = (_double(x, operation.get(end, math.nan)) for end in ("low", "high"))
    if kind == "fill":
        value = TabularColumn(**column).encode(operation["value"]) if category else float(operation["value"])
        values[operation["column"]] = torch.where(missing, _double(x, value), x)
    elif kind == "missing":
        values[operation["into"]] = missing.to(x.dtype)
    elif kind == "clip":
        values[operation["column"]] = torch.where(missing, x, x.clamp(low, high))
    else:
        outside = (x < low) | (x > high)
        values[operation["into"]] = (outside & ~missing).to(x.dtype)


def _curve(feature: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    curve = feature["curve"]
    if curve == "log":
        return torch.sign(x) * torch.log1p(torch.abs(x))
    if curve == "power":
        exponent = feature["exponent"]
        above, below = torch.log1p(torch.relu(x)), torch.log1p(torch.relu(-x))
        return torch.where(x >= 0, _power(above, exponent), -_power(below, 2 - exponent))
    return _line(feature["knots"], feature["levels"], x) if curve == "quantile" else x


def _power(logs: torch.Tensor, exponent: float) -> torch.Tensor:
    if abs(exponent) < 1e-9:
        return logs
    by = _double(logs, exponent)
    return (torch.exp(logs * by) - 1) / by


def _double(like: torch.Tensor, value: float | Sequence[float]) -> torch.Tensor:
    """Float64 constant: the exporter would round a Python number to float32."""
    return torch.tensor(value, dtype=torch.float64, device=like.device)


def _line(knots: Sequence[float], levels: Sequence[float], x: torch.Tensor) -> torch.Tensor:
    """Piecewise linear interpolation, constant beyond the ends."""
    at, level = _double(x, knots), _double(x, levels)
    if len(knots) == 1:
        return level.expand(x.shape[0])
    right = (x[:, None] >= at[None, :]).sum(dim=1).clamp(1, len(knots) - 1)
    share = ((x - at[right - 1]) / (at[right] - at[right - 1])).clamp(0, 1)
    return level[right - 1] + share * (level[right] - level[right - 1])
