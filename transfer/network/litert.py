"""LiteRT: a network in the format of LiteRT, formerly TensorFlow Lite, which runs on phones and small devices."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.network.backend import keras, quiet_stderr, tf
from transfer.runtime.errors import DataError


def convert(network: keras.Model, *, samples: Iterable[NDArray[np.uint8]] = ()) -> bytes:
    """Return a network as a LiteRT model, which takes one photograph at a time; the same bytes for the same network.

    Args:
        network: a network whose input is RGB pixels as uint8.
        samples: photographs of shape (height, width, 3). If there are any, weights and activations become 8-bit
            integers, whose ranges are those of these photographs (post-training quantization). Input and output keep
            their types, but probabilities are multiples of 1/256.
    """
    samples = list(samples)
    quantization = {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([sample[np.newaxis]] for sample in samples),
    }
    with tempfile.TemporaryDirectory() as folder, quiet_stderr():
        file = Path(folder, "model.tflite")
        network.export(
            file,
            format="litert",
            verbose=False,
            input_signature=[tf.TensorSpec((1, *network.inputs[0].shape[1:]), tf.uint8, name="photograph")],
            target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},  # what every runtime has
            **(quantization if samples else {}),
        )
        return file.read_bytes()


def function(content: bytes) -> Callable[..., NDArray[Any]]:
    """Return a LiteRT model as a function from one photograph, shape (1, height, width, 3), to the network's output.

    The result has the call of a network.

    Raises:
        DataError: LiteRT does not run it.
    """
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is announced to move to a package of its own
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=os.cpu_count())
        try:
            interpreter.allocate_tensors()
        except RuntimeError as error:
            raise DataError(f"LiteRT must run the network. Received: {error}. Export it without LiteRT.") from None
    [received], [returned] = interpreter.get_input_details(), interpreter.get_output_details()

    def run(photograph: NDArray[np.uint8], *, training: bool = False) -> NDArray[Any]:  # noqa: ARG001 - of the call of Keras
        interpreter.set_tensor(received["index"], photograph)
        interpreter.invoke()
        output: NDArray[Any] = interpreter.get_tensor(returned["index"])
        return output

    return run
