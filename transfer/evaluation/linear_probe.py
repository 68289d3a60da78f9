"""Linear probe: logistic regression on the cached features, which trains in a tenth of a second.

On the features of a pre-trained base it is nearly as good as the networks (Kornblith, Shlens and Le, 2019, "Do Better
ImageNet Models Transfer Better?"), so it can answer questions that need many training runs.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from transfer.evaluation.scores import Labels, Probabilities
from transfer.features import dataset
from transfer.features.dataset import FeatureDataset

Rows = NDArray[np.float32]  # shape (photographs, channels)

_ITERATIONS = 1000  # at most; a tenth of them is enough


def read_rows(batches: FeatureDataset, *, description: str) -> Rows:
    """Read the last feature map of photographs, and return the maximum of each channel.

    Args:
        batches: the part `pooled` of the photographs' features.
        description: text of the progress bar.

    Raises:
        DataError: a row of the cache is damaged.
    """
    return np.concatenate([each.max(axis=(1, 2)) for each in dataset.activations(batches, description=description)])


def predict(train: Rows, labels: Labels, rows: Rows, *, classes: int, strength: float, balanced: bool) -> Probabilities:
    """Train on some photographs and predict others.

    Args:
        train: the rows to train on.
        labels: their class numbers, of two classes or more.
        rows: the rows to predict.
        classes: number of classes.
        strength: inverse of the L2 penalty, scikit-learn's `C`; the smaller, the less single photographs count.
        balanced: whether each class has the same weight, however many photographs it has.

    Returns:
        Array of shape (photographs, classes); a class without a row to train on has zeros.
    """
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=strength, class_weight="balanced" if balanced else None, max_iter=_ITERATIONS),
    ).fit(train, labels)
    probabilities = np.zeros((len(rows), classes))
    probabilities[:, model.classes_] = model.predict_proba(rows)
    return probabilities
