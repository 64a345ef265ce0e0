import numpy as np
import pytest
from PIL import Image

from landbridge.curves import curve_figure, draw_curves
from ranking.metrics import PrecisionRecall

PERFECT = PrecisionRecall(np.array([0.5]), np.array([1.0]), np.array([1.0]))
POOR = PrecisionRecall(np.array([0.9, 0.1]), np.array([0.2, 0.1]), np.array([0.5, 1.0]))
EMPTY = PrecisionRecall(np.zeros(0), np.zeros(0), np.zeros(0))


def test_a_curve_goes_in_steps_whose_area_is_the_area():
    (frame,) = curve_figure({"all": {"poor": POOR, "perfect": PERFECT}}, "Title").axes
    poor, perfect = frame.lines[:2]
    assert poor.get_xydata().tolist() == [[0, 0.2], [0.5, 0.2], [0.5, 0.1], [1, 0.1]]
    assert perfect.get_xydata().tolist() == [[0, 1], [1, 1]]
    for line, curve in ((poor, POOR), (perfect, PERFECT)):
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(curve.area)
    labels = [text.get_text() for text in frame.get_legend().get_texts()]
    assert labels == ["poor: area 15.0", "perfect: area 100.0"]
    assert [line.get_ydata()[0] for line in frame.lines[2:]] == [0.9, 0.95]


def test_a_frame_for_each_protocol_and_nothing_for_an_empty_curve():
    figure = curve_figure({name: {"one": POOR, "none": EMPTY} for name in ("easy", "hard")}, "Title")
    assert [frame.get_title() for frame in figure.axes] == ["easy", "hard"]
    assert all(len(frame.lines[1].get_xdata()) == 0 for frame in figure.axes)


def test_the_same_curves_make_the_same_png(tmp_path):
    for name in ("a.png", "b.png"):
        draw_curves(tmp_path / name, {"all": {"one": POOR}}, "Title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        draw_curves(tmp_path / "nowhere/c.png", {"all": {"one": POOR}}, "Title")
