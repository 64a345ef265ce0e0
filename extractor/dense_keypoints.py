"""Where the cells of a feature map look: receptive-field geometry from the network's own layers.

Pixel i is the point i, as in `LocalFeatures.keypoints`: its edges are i - 1/2 and i + 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layer:
    """What a convolution or a pooling does to places; a residual branch does the same as the trunk.

    Attributes:
        kernel: side of the window.
        stride: pixels from one window to the next.
        padding: pixels added on both sides; None for TensorFlow's SAME, which puts the odd one behind.
    """

    kernel: int
    stride: int = 1
    padding: int | None = 0


@dataclass(frozen=True)
class ReceptiveField:
    """What the cells along one axis of a feature map see of the input.

    Attributes:
        start: centre of the first cell's receptive field, in input pixels.
        step: pixels from one cell's centre to the next.
        size: pixels that a cell sees.
        cells: how many there are.
    """

    start: float
    step: int
    size: int
    cells: int

    @classmethod
    def of(cls, layers: Sequence[Layer], length: int) -> ReceptiveField:
        """Geometry of an axis of `length` pixels behind these layers.

        Raises:
            ValueError: the input is too small for the layers.
        """
        field = cls(0.0, 1, 1, length)
        for layer in layers:
            field = _behind(field, layer)
            if field.cells < 1:
                raise ValueError(f"{length} pixels are too few for layers that see {field.size} at a time")
        return field

    @property
    def centres(self) -> NDArray[np.float32]:
        """Centres of all cells, float32 [cells]."""
        return (self.start + self.step * np.arange(self.cells)).astype(np.float32)


def _behind(before: ReceptiveField, layer: Layer) -> ReceptiveField:
    kernel, stride = layer.kernel, layer.stride
    if layer.padding is None:
        cells = -(-before.cells // stride)
        ahead = max((cells - 1) * stride + kernel - before.cells, 0) // 2
    else:
        cells = (before.cells + 2 * layer.padding - kernel) // stride + 1
        ahead = layer.padding
    return ReceptiveField(
        before.start + before.step * ((kernel - 1) / 2 - ahead),
        before.step * stride,
        before.size + before.step * (kernel - 1),
        cells,
    )


def cell_centres(layers: Sequence[Layer], height: int, width: int) -> NDArray[np.float32]:
    """Centres (x, y) of the receptive fields of all cells of a feature map, row by row.

    Args:
        layers: from the input to the map.
        height: rows of the input.
        width: columns of the input.

    Returns:
        float32 [rows * columns of the map, 2], in input pixels; near the border they may lie outside.

    Raises:
        ValueError: the input is too small for the layers.
    """
    x, y = ReceptiveField.of(layers, width).centres, ReceptiveField.of(layers, height).centres
    return np.stack(np.meshgrid(x, y), axis=2).reshape(-1, 2)
