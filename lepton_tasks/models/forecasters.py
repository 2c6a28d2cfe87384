"""Forecasting networks: from a window of a time series to the following values.

Each has an additional linear path, ``direct``, from the last row to the forecast: persistence is a good estimate for
the first steps, which the layers alone learn slowly.

Source of the linear path: Lai et al., "Modeling long- and short-term temporal patterns with deep neural networks",
2018.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.models.rnn import CELLS, Cell


class TemporalCNN(nn.Module):
    """Dilated causal convolutions over the window.

    Args:
        window: Input rows.
        inputs: Values per row.
        horizon: Rows to forecast.
        width: Channels.
        kernel: Kernel size, in rows.
        dropout: Dropout rate.

    The number of layers makes the receptive field of the last row cover the whole window.

    Source: Bai, Kolter and Koltun, "An empirical evaluation of generic convolutional and recurrent networks for
    sequence modeling", 2018.
    """

    prunable: ClassVar[bool] = True

    def __init__(
        self, window: int, inputs: int, horizon: int, *, width: int = 32, kernel: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        seen, reach = 1, 1
        while not layers or seen < window:
            layers.append(_Causal(width if layers else inputs, width, kernel, reach, dropout))
            seen, reach = seen + 2 * (kernel - 1) * reach, 2 * reach
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, horizon)
        self.direct = nn.Linear(inputs, horizon, bias=False)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Scaled forecasts float32 [N, horizon] of windows float32 [N, window, inputs]."""
        foretold: torch.Tensor = self.head(self.layers(series.transpose(1, 2))[:, :, -1]) + self.direct(series[:, -1])
        return foretold


class RNNForecaster(nn.Module):
    """Recurrent network over the window that predicts the whole horizon from its last state.

    Args:
        window: Input rows.
        inputs: Values per row.
        horizon: Rows to forecast.
        cell: ``elman``, ``gru`` or ``lstm``.
        width: Size of the hidden state.
        layers: Number of stacked recurrent layers.
        dropout: Dropout rate between layers and before the output.

    Source: LSTM by Hochreiter and Schmidhuber, 1997; GRU by Cho et al., 2014.
    """

    def __init__(
        self,
        window: int,
        inputs: int,
        horizon: int,
        *,
        cell: Cell = "gru",
        width: int = 64,
        layers: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        del window  # any length works
        sizes = [inputs, *[width] * (layers - 1)]
        self.readers = nn.ModuleList(CELLS[cell](size, width, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, horizon)
        self.direct = nn.Linear(inputs, horizon, bias=False)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Scaled forecasts float32 [N, horizon] of windows float32 [N, window, inputs]."""
        states = series
        for index, reader in enumerate(self.readers):
            states = reader(self.dropout(states) if index else states)[0]
        foretold: torch.Tensor = self.head(self.dropout(states[:, -1])) + self.direct(series[:, -1])
        return foretold


class Forecast(nn.Module):
    """Serving graph: windows -> forecasts in the unit of the target.

    Args:
        network: Windows float32 [N, window, inputs] -> scaled values [N, horizon].
        mean: Mean of the target.
        std: Standard deviation of the target.
    """

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network, self._mean, self._std = network, mean, std

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Forecasts float32 [N, horizon]."""
        foretold: torch.Tensor = self.network(series) * self._std + self._mean
        return foretold


class _Causal(nn.Module):
    """Two causal convolutions with a residual connection."""

    def __init__(self, inputs: int, width: int, kernel: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, width, kernel, dilation=reach)
        self.second = nn.Conv1d(width, width, kernel, dilation=reach)
        self.past = nn.Conv1d(inputs, width, 1) if inputs != width else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self._before = (kernel - 1) * reach

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N, width, T] of float32 [N, inputs, T]."""
        y = self.dropout(torch.relu(self.first(functional.pad(x, (self._before, 0)))))
        y = self.dropout(torch.relu(self.second(functional.pad(y, (self._before, 0)))))
        return torch.relu(y + self.past(x))
