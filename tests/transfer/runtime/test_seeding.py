import pytest

from transfer.runtime import seeding


def test_a_key_gives_the_same_number_on_every_machine_and_in_every_release() -> None:
    """A split made by an earlier release can be made again."""
    assert seeding.digest(0, "cat.1.jpg") == 16_235_178_160_093_586_465


def test_similar_keys_have_different_numbers() -> None:
    """Keys that differ only in how they are divided, or in a type, make independent choices."""
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


def test_a_name_that_cannot_be_encoded_has_a_number() -> None:
    """A file name with a lone surrogate is a valid key."""
    assert 0 <= seeding.digest(0, "\udcff.jpg") < 2**64


def test_fractions_are_uniform_from_zero_to_below_one() -> None:
    """A tenth of the keys falls into each tenth, so splits have nearly the sizes that params.yaml names."""
    fractions = [seeding.fraction("key", number) for number in range(20_000)]
    tenths = [int(10 * fraction) for fraction in fractions]
    assert min(fractions) >= 0
    assert [tenths.count(tenth) / len(tenths) for tenth in range(10)] == pytest.approx([0.1] * 10, abs=0.01)


def test_the_largest_digest_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key gives 1, which would be beyond the last split."""
    monkeypatch.setattr(seeding, "digest", lambda *_: 2**64 - 1)
    assert seeding.fraction("any") < 1
