import pytest

from transfer.runtime import seeding


def test_a_key_gives_the_same_number_on_every_machine_and_in_every_release() -> None:
    """Splits and choices made last year are made again today."""
    assert seeding.digest(0, "cat.1.jpg") == 16_235_178_160_093_586_465


def test_keys_that_read_alike_are_apart() -> None:
    """No two of these keys share a number, so that one choice tells nothing about another."""
    keys: list[tuple[seeding.Part, ...]] = [
        (),
        ("",),
        ("", ""),
        ("ab", "c"),
        ("a", "bc"),
        (1,),
        ("1",),
        (-1,),
        ("1", 2),
    ]
    assert len({seeding.digest(*key) for key in keys}) == len(keys)


def test_names_no_encoding_knows_have_a_number_too() -> None:
    """A file name that is no text (a lone surrogate) is no obstacle."""
    assert 0 <= seeding.digest(0, "\udcff.jpg") < 2**64


def test_fractions_are_spread_evenly_from_zero_to_below_one() -> None:
    """A tenth of the keys falls into each tenth, so fractions of splits come out near what is asked."""
    fractions = [seeding.fraction("key", number) for number in range(20_000)]
    tenths = [int(10 * fraction) for fraction in fractions]
    assert min(fractions) >= 0
    assert [tenths.count(tenth) / len(tenths) for tenth in range(10)] == pytest.approx([0.1] * 10, abs=0.01)


def test_the_largest_digest_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key gives 1, which would lie beyond the last split."""
    monkeypatch.setattr(seeding, "digest", lambda *_: 2**64 - 1)
    assert seeding.fraction("any") < 1
