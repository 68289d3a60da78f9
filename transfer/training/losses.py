"""Losses: what training minimizes and what a history reports, for one head and for several.

A network of several heads is trained by the log odds of each, see `heads.above_pooling`: each head has its own loss, so
that it learns as it would alone, and the scores are those of the averaged log odds, which the saved network predicts.
"""

from collections.abc import Callable, Sequence
from typing import Any

from transfer.network.backend import keras

Shape = tuple[int | None, ...]
Loss = Callable[[Any, Any], Any]  # of labels, numbers of classes of shape (photographs, 1), and a network's output


def build(shape: Shape, *, label_smoothing: float, weights: Sequence[float] | None = None) -> Loss:
    """Return the log loss with smoothed labels, for several heads the sum of each one's.

    Args:
        shape: of the network's output: (photographs, units), probabilities, or (photographs, heads, units), log odds.
        label_smoothing: how far labels are moved towards their mean.
        weights: of the photographs of each class; None: all count the same.
    """
    units = shape[-1]
    loss = (
        keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing)
        if units == 1
        else _categorical_crossentropy(units, label_smoothing)
    )
    if weights is not None:
        loss = _weighted(units, label_smoothing, weights)
    return loss if len(shape) == 2 else _SumOverHeads(loss)


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Return weights by which every class has the same sum, and whose mean over all photographs is 1.

    Args:
        counts: the number of training photographs of each class, one or more.
    """
    return [sum(counts) / (len(counts) * count) for count in counts]


def metrics(shape: Shape) -> list[keras.metrics.Metric]:
    """Return the metrics `accuracy` and `log_loss`, without smoothed labels, for a network's output as in `build`."""
    accuracy, log_loss = (
        (keras.metrics.BinaryAccuracy, keras.metrics.BinaryCrossentropy)
        if shape[-1] == 1
        else (keras.metrics.SparseCategoricalAccuracy, keras.metrics.SparseCategoricalCrossentropy)
    )
    scores = [accuracy("accuracy"), log_loss("log_loss")]
    return scores if len(shape) == 2 else [_OfAverage(score) for score in scores]


def _categorical_crossentropy(units: int | None, label_smoothing: float) -> Loss:
    def categorical_crossentropy(numbers: Any, probabilities: Any) -> Any:
        labels = keras.ops.one_hot(keras.ops.cast(numbers[..., 0], "int32"), units)
        return keras.losses.categorical_crossentropy(labels, probabilities, label_smoothing=label_smoothing)

    return categorical_crossentropy


def _weighted(units: int | None, label_smoothing: float, weights: Sequence[float]) -> Loss:
    """Return the loss of each photograph, times the weight of its class.

    Keras's `class_weight` would do the same for one head, but not for the log odds of several.
    """

    def weighted_crossentropy(numbers: Any, probabilities: Any) -> Any:
        if units == 1:
            losses = keras.losses.binary_crossentropy(numbers, probabilities, label_smoothing=label_smoothing)
        else:
            losses = _categorical_crossentropy(units, label_smoothing)(numbers, probabilities)
        table = keras.ops.convert_to_tensor(weights, dtype=losses.dtype)
        return losses * keras.ops.take(table, keras.ops.cast(numbers[..., 0], "int32"))

    return weighted_crossentropy


class _SumOverHeads(keras.losses.Loss):  # type: ignore[misc]
    """The sum of the losses of several heads, so that each gets the gradients that it would get alone."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(name="sum_over_heads")
        self._loss = loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the sum for labels and log odds of shape (photographs, heads, units)."""
        return sum(self._loss(y_true, _activate(log_odds)) for log_odds in keras.ops.unstack(y_pred, axis=1))


class _OfAverage(keras.metrics.Metric):  # type: ignore[misc]
    """A metric of the probabilities that follow from the mean log odds of several heads."""

    def __init__(self, score: keras.metrics.Metric) -> None:
        super().__init__(name=score.name)
        self._score = score

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add photographs, with log odds of shape (photographs, heads, units)."""
        self._score.update_state(y_true, _activate(keras.ops.mean(y_pred, axis=1)), sample_weight)

    def result(self) -> Any:
        """Return the score of all photographs since the last reset."""
        return self._score.result()

    def reset_state(self) -> None:
        """Forget all photographs."""
        self._score.reset_state()


def _activate(log_odds: Any) -> Any:
    return keras.activations.sigmoid(log_odds) if log_odds.shape[-1] == 1 else keras.activations.softmax(log_odds)
