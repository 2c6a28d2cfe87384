"""Plots for image generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_LEAST_SIDE = 56  # pixels per image in the grid; smaller ones are enlarged


def grid_plot(path: Path, lines: Sequence[np.ndarray]) -> Path:
    """Draw images uint8 [N, H, W, C], one line per array, into the PNG file `path`."""
    from PIL import Image

    height, width, channels = lines[0].shape[1:]
    across = max(len(line) for line in lines)
    page = np.full((len(lines) * (height + 2), across * (width + 2), channels), 128, np.uint8)
    for i, line in enumerate(lines):
        for j, picture in enumerate(line):
            top, left = i * (height + 2) + 1, j * (width + 2) + 1
            page[top : top + height, left : left + width] = picture
    factor = max(1, -(-_LEAST_SIDE // min(height, width)))
    image = Image.fromarray(page.squeeze(-1) if channels == 1 else page)
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(path)
    return path
