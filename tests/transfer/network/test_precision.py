"""Precision: the number format in which layers compute."""

from pathlib import Path

import pytest

from transfer.network import precision
from transfer.network.backend import keras

CPUINFO = "processor\t: 0\nmodel name\t: a processor\nflags\t\t: fpu avx2 {flag}\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("flag", "expected"), [("amx_bf16", "bfloat16"), ("avx512_bf16", "bfloat16"), ("avx512f", "float32")]
)
def test_auto_follows_from_the_processor(
    flag: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is bfloat16 on processors with instructions for it, and float32 on others."""
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flag=flag), encoding="utf-8")
    flags = precision.processor_flags(tmp_path / "cpuinfo")
    monkeypatch.setattr(precision, "processor_flags", lambda: flags)
    assert precision.choose("auto") == expected


def test_auto_is_float32_where_the_processor_is_unknown(tmp_path: Path) -> None:
    """Systems without /proc/cpuinfo have no flags, so that `auto` is float32."""
    assert precision.processor_flags(tmp_path / "missing") == frozenset()


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_named_precision_is_used_on_every_processor(
    chosen: precision.Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A precision that params.yaml names does not depend on the processor."""
    monkeypatch.setattr(precision, "processor_flags", frozenset)
    assert precision.choose(chosen) == chosen


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_trained_weights_are_float32(chosen: precision.Precision) -> None:
    """Layers that are trained compute in the precision and keep their weights in float32."""
    policy = keras.DTypePolicy(precision.training_policy(chosen))
    assert (policy.compute_dtype, policy.variable_dtype) == (chosen, "float32")
