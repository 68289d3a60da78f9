import re

import numpy as np

from transfer.evaluation import learning_curve, learning_curve_figure
from transfer.evaluation.learning_curve import Curve, Outlook


def test_measured_and_continued_losses_are_drawn() -> None:
    """The figure has a legend for dots and both lines, numbers with commas, and the same bytes each time."""
    sizes = [25, 50, 100, 200, 400, 800, 1600]
    losses = np.tile(np.array(sizes, float) ** -0.5, (learning_curve.FOLDS, 1))
    curve = Curve(sizes, losses, losses)
    outlook = Outlook(curve, learning_curve.forecast(curve, 1500, confidence=0.95))
    svg = learning_curve_figure.draw(outlook)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"measured", "fitted", "continued", "photographs to train on", "log loss", "1,600"} <= {*texts}
    assert learning_curve_figure.draw(outlook) == svg
