"""Precision-recall curves drawn as a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ranking.metrics import PrecisionRecall

_GUIDES = (0.9, 0.95)


def draw_curves(path: Path, curves: Mapping[str, Mapping[str, PrecisionRecall]], title: str) -> None:
    """Write `curve_figure` as a PNG; the same curves make the same bytes.

    Raises:
        OSError: the file cannot be written.
    """
    curve_figure(curves, title).savefig(
        path, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None}
    )


def curve_figure(curves: Mapping[str, Mapping[str, PrecisionRecall]], title: str) -> Figure:
    """Draw a frame for each protocol, side by side, and in each a curve for each method.

    Precision is drawn over recall, both from 0 to 100 %, in the steps whose area is `PrecisionRecall.area`.
    Dashed lines stand at 90 and 95 % of precision.

    Args:
        curves: protocol -> method -> curve; there is at least one of each.
        title: what stands above.
    """
    figure = Figure(figsize=(4.6 * len(curves) + 0.4, 6.0), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left")
    frames = figure.subplots(1, len(curves), squeeze=False)[0]
    for frame, (protocol, methods) in zip(frames, curves.items(), strict=True):
        _draw(frame, protocol, methods)
    return figure


def _draw(frame: Axes, protocol: str, methods: Mapping[str, PrecisionRecall]) -> None:
    for method, curve in methods.items():
        recall = np.repeat(np.append(0.0, curve.recall), 2)[1:-1]
        precision = np.repeat(curve.precision, 2)
        frame.plot(recall, precision, label=f"{method}: area {100 * curve.area:.1f}")
    for guide in _GUIDES:
        frame.axhline(guide, color="0.7", linestyle="--", linewidth=1, zorder=0)
    frame.set(
        title=protocol, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01), aspect="equal"
    )
    frame.xaxis.set_major_formatter(PercentFormatter(1.0))
    frame.yaxis.set_major_formatter(PercentFormatter(1.0))
    frame.grid(color="0.92")
    frame.legend(loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False)
