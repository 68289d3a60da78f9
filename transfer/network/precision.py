"""Precision: the number format in which layers compute, float32 or bfloat16.

bfloat16 has float32's range and 8 instead of 24 bits of precision. Processors with instructions for it compute
convolutions in less time than in float32, see docs/results.md; others are slower in it than in float32.
"""

from pathlib import Path
from typing import Literal

from transfer.network.backend import tf

Precision = Literal["float32", "bfloat16"]
PrecisionChoice = Literal["auto", "float32", "bfloat16"]

PROCESSOR_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})  # of /proc/cpuinfo under Linux
GPU_COMPUTE_CAPABILITY = (8, 0)  # from NVIDIA's Ampere architecture on, tensor cores compute in bfloat16


def choose(choice: PrecisionChoice) -> Precision:
    """Return the precision that a parameter means on this machine.

    `auto` means bfloat16 where the device that computes has instructions for it: the GPU if TensorFlow uses one,
    otherwise the processor.
    """
    if choice != "auto":
        return choice
    gpus = tf.config.list_physical_devices("GPU")
    supported = all(map(_gpu_supports_bfloat16, gpus)) if gpus else bool(PROCESSOR_FLAGS & processor_flags())
    return "bfloat16" if supported else "float32"


def training_policy(precision: Precision) -> str:
    """Return Keras's dtype policy for layers that compute in a precision and keep their weights in float32."""
    return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the flags of the first processor that Linux describes; none where the file is missing."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _gpu_supports_bfloat16(gpu: tf.config.PhysicalDevice) -> bool:
    capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    return tuple(capability) >= GPU_COMPUTE_CAPABILITY
