import base64
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest

from flows import masking

SECRET = "wJalr/XUtn+FEMI=K7 MDENG"  # noqa: S105 - nobody's


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("user abc, key abcdef", "user ********, key ********"),
        ("first and second", "******** and ********"),
        ("no secret", "no secret"),
    ],
)
def test_each_part_of_a_secret_is_masked(line: str, masked: str) -> None:
    """Secrets are masked if one begins with another, has several lines or is empty."""
    assert masking.masked(line, ["abc", "abcdef", "first\nsecond\n", "", " "]) == masked


@pytest.mark.parametrize(
    "written",
    [
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        quote(SECRET, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"me:{SECRET}".encode()).decode(),
        base64.b64encode(f"user:{SECRET}\n".encode()).decode(),
        base64.urlsafe_b64encode(f"somebody:{SECRET}".encode()).decode(),
        repr(SECRET),
        quote(quote(SECRET, safe=""), safe=""),
        SECRET.encode().hex(),
        SECRET.replace("/", r"\/"),
    ],
)
def test_an_encoded_secret_is_masked(written: str) -> None:
    """A secret is masked as it is written in URLs, JSON, hexadecimal digits and base64, also after a user's name."""
    line = masking.masked(f"before {written} after", [SECRET])
    assert line.startswith("before ")
    assert line.endswith(" after")
    assert "********" in line
    for part in ("wJalr", "XUtn", "MDENG", written[8:-8]):
        assert part not in line


def test_a_secret_over_two_lines_is_masked() -> None:
    """A secret that a program has wrapped is masked in both lines, also with spaces before the second part."""
    lines = ["the key is abcdefgh", "  ijklmnop, and more", "last"]
    found = list(masking.masked_lines(iter(lines), ["abcdefghijklmnop"]))
    assert found == ["the key is ********", "  ********, and more", "last"]


def test_an_encoded_secret_over_two_lines_is_masked() -> None:
    """The same for a secret in base64."""
    written = base64.b64encode(SECRET.encode()).decode()
    found = list(masking.masked_lines(iter([f"x {written[:12]}", f"{written[12:]} y"]), [SECRET]))
    assert found == ["x ********", "******** y"]


def test_words_that_begin_a_secret_are_not_masked() -> None:
    """The beginning of a secret at the end of a line is kept if the next line has not the rest."""
    lines = ["see a", "b", "abcdefgh", "other", "abcdefgh"]
    assert list(masking.masked_lines(iter(lines), ["abcdefghijklmnop"])) == lines


def test_lines_are_not_delayed() -> None:
    """A line is given on at once unless it ends with the beginning of a secret."""
    given: list[str] = []

    def lines() -> Iterator[str]:
        for line in ("one", "two"):
            yield line
            given.append(line)

    for line in masking.masked_lines(lines(), ["secret"]):
        assert line not in given
