import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from transfer import report, scores


class Page(HTMLParser):
    """What a browser would see: the tags in order, each with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.tags.append((tag, dict(attrs)))


def findings(classes: int) -> scores.Findings:
    """What a good model of so many classes is found to be."""
    labels = np.arange(12) % classes
    probabilities = (np.eye(classes)[labels] + 0.5) / (1 + classes / 2)
    return scores.find(labels, probabilities, confidence=0.95, bins=10)


def page(*, classes: tuple[str, ...] = ("cat", "dog"), p: float = 0.5, mistakes: bool = True) -> report.Report:
    """A report of two models."""
    picture = report.thumbnail(Image.new("RGB", (640, 480), "teal"))
    mistake = report.Mistake(f"photos/{classes[0]}/1.jpg", classes[0], classes[1], 0.987, picture)
    return report.Report(
        photographs=12,
        classes=classes,
        confidence=0.95,
        findings={"train_head": findings(len(classes)), "fine_tune": findings(len(classes))},
        comparison=scores.Comparison(1, 3, p),
        figures=[report.Figure("Learning curves", "Loss by epoch", "<svg><path/></svg>", "Dots: kept.")],
        mistakes=[mistake] if mistakes else [],
        params=report.flat({"fine_tune": {"training": {"epochs": 20}, "seed": 0}}),
        hashes={"photographs": "ab" * 32},
    )


def test_page_needs_nothing_besides_itself() -> None:
    """The report is one file: no script, no link, nothing fetched."""
    html = report.render(page())
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed"}
    sources = [value or "" for _, attributes in tags for name, value in attributes.items() if name in {"src", "href"}]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"@import|url\(", html)


def test_names_cannot_become_markup() -> None:
    """A class may be called anything: its name is shown, not obeyed."""
    html = report.render(page(classes=("<script>alert(1)</script>", '"onload="x')))
    tags = Page(html).tags
    assert "script" not in {tag for tag, _ in tags}
    assert not any("onload" in attributes for _, attributes in tags)
    assert "&lt;script&gt;" in html


def test_drawings_are_in_the_page_with_words_for_them() -> None:
    """A figure is drawn, and described for those who cannot see it."""
    tags = Page(report.render(page())).tags
    assert ("svg", {}) in tags
    assert any(
        attributes.get("role") == "img" and attributes["aria-label"] == "Loss by epoch" for _, attributes in tags
    )


def test_mistakes_are_shown_with_words_for_them() -> None:
    """A mistaken photograph is shown small, says what was taken for what, and how surely."""
    html = report.render(page())
    [image] = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert image["alt"] == "cat, taken for dog"
    assert "98.7\N{NO-BREAK SPACE}%" in html


def test_no_mistakes_are_said_to_be_none() -> None:
    """A model without a mistake has a report too."""
    assert "<p>None.</p>" in report.render(page(mistakes=False))


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "they differ"), (0.5, "no difference")])
def test_verdict_follows_from_the_confidence(p: float, verdict: str) -> None:
    """Whether the models differ is said in words, by the confidence the intervals have."""
    assert verdict in report.render(page(p=p))


def test_three_classes_have_three_columns() -> None:
    """The confusion table has a row and a column a class."""
    tags = [tag for tag, attributes in Page(report.render(page(classes=("a", "b", "c")))).tags if "style" in attributes]
    assert tags == ["td"] * 2 * 9


def test_same_findings_same_bytes() -> None:
    """A report changes only when what it tells does."""
    assert report.render(page()) == report.render(page())


def test_thumbnail_is_small_and_in_proportion() -> None:
    """A photograph is shown whole, at most 240 pixels long."""
    kind, data = report.thumbnail(Image.new("RGB", (640, 480))).split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (240, 180)


def test_params_are_named_as_in_params_yaml() -> None:
    """Nested params are shown by the name that an error message would give them."""
    assert report.flat({"a": {"b": {"c": 1}, "d": [2]}}) == {"a.b.c": 1, "a.d": [2]}
