import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transfer.evaluation import report, scores
from transfer.evaluation.diagnosis import Diagnosis, Remedy
from transfer.images.manifest import Rejected
from transfer.training import history


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
    return scores.score(labels, probabilities, confidence=0.95, bins=10)


def picture(*, shows: str, likeliest: str, other: str) -> report.Picture:
    """A photograph that a model is 98.7 % sure of."""
    drawn = report.data_uri(report.thumbnail(Image.new("RGB", (640, 480), "teal")))
    choices = [report.Choice(likeliest, 0.987), report.Choice(other, 0.013)]
    return report.Picture(f"photos/{shows}/1.jpg", shows, choices, drawn, drawn)


def page(*, classes: tuple[str, ...] = ("cat", "dog"), p: float = 0.5, **changes: Any) -> report.Report:
    """A report of two models."""
    first, second = classes[:2]
    whole = report.Report(
        classes=classes,
        photographs={split: dict.fromkeys(classes, 6) for split in ("train", "validation", "test", "all")},
        reasons=report.by_reason([Rejected(f"train/{first}.1.jpg", "unreadable", "empty file")]),
        confidence=0.95,
        findings={"train_head": findings(len(classes)), "fine_tune": findings(len(classes))},
        comparison=scores.Comparison(1, 3, p),
        diagnoses={
            "train_head": Diagnosis("healthy", ["Validation loss was 0.05."], []),
            "fine_tune": Diagnosis("over-fitting", ["It rose."], [Remedy("fine_tune.seed", "lower")], 3),
        },
        learning_curves=report.Figure("Learning curves", "Loss by epoch", "<svg><path/></svg>", "Dots: kept."),
        figures=[report.Figure("ROC", "Rates", "<svg><path/></svg>", "Dotted: guessing.")],
        mistakes=[picture(shows=first, likeliest=second, other=first)],
        uncertain=[picture(shows=second, likeliest=second, other=first)],
        params=report.flat({"fine_tune": {"training": {"epochs": 20}, "seed": 7}}),
        hashes={"photographs": "ab" * 32},
        versions={"Python": "3.11.2"},
    )
    return whole._replace(**changes)


def text(html: str) -> str:
    """What a reader reads of a page, in one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", html.partition("<body>")[2]).split())


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
    assert tags.count(("svg", {})) == 2
    assert any(
        attributes.get("role") == "img" and attributes["aria-label"] == "Loss by epoch" for _, attributes in tags
    )


def test_pictures_are_shown_with_words_for_them() -> None:
    """Each photograph stands beside its heat map, and is said to be taken for what, rightly or not, and how surely."""
    html = report.render(page())
    assert [attributes["alt"] for tag, attributes in Page(html).tags if tag == "img"] == [
        "cat, taken for dog",
        "the same, with the places that spoke for dog",
        "dog, rightly told",
        "the same, with the places that spoke for dog",
    ]
    assert "cat, taken for dog with 98.7 % (cat: 1.3 %)" in text(html)
    assert "dog, rightly told with 98.7 % (cat: 1.3 %)" in text(html)


def test_no_mistakes_are_said_to_be_none() -> None:
    """A model without a mistake has a report too."""
    assert "<p>None.</p>" in report.render(page(mistakes=[]))
    assert "<p>None.</p>" not in report.render(page())


def test_diagnoses_are_told_with_what_to_try() -> None:
    """Each training has its verdict, the evidence, and the params to change with the values they have."""
    shown = text(report.render(page()))
    assert "train_head: healthy Validation loss was 0.05." in shown
    assert (
        "fine_tune: over-fitting from epoch 3 on It rose. What to try, one at a time: fine_tune. seed (7): lower"
        in shown
    )
    assert shown.count("What to try") == 1


def test_what_was_rejected_is_shown_and_not_obeyed() -> None:
    """Reasons are counted, the commonest first, with a few examples; names of files stay names."""
    rejected = [Rejected(f"cat/<b>{number}</b>.jpg", "unreadable", "cut short <i>") for number in range(5)]
    reasons = report.by_reason([Rejected("dog/1.jpg", "near_duplicate", "of dog/2.jpg"), *rejected])
    assert [(reason.name, reason.candidates) for reason in reasons] == [("unreadable", 5), ("near_duplicate", 1)]
    html = report.render(page(reasons=reasons))
    assert not {tag for tag, _ in Page(html).tags} & {"b", "i"}
    assert html.count("cat/&lt;b&gt;") == 3
    assert "None of those looked at." in report.render(page(reasons=[]))


def test_each_class_has_its_scores_and_photographs() -> None:
    """Recall and precision of both models stand in a line a class, and so do the photographs of each split."""
    counts = {"train": 30, "validation": 10, "test": 12, "all": 52}
    shown = text(report.render(page(photographs={split: {"cat": n, "dog": n + 1} for split, n in counts.items()})))
    assert shown.count("dog 6 100.0 % 100.0 %") == 2
    assert "cat 30 10 12 52 dog 31 11 13 53" in shown


def test_a_class_never_predicted_is_said_to_be() -> None:
    """Precision is a number only where there is something to be right about."""
    never = scores.score(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]]), confidence=0.95, bins=10)
    shown = text(report.render(page(findings={"train_head": never, "fine_tune": never})))
    assert shown.count("cat 1 100.0 % 50.0 % dog 1 0.0 % \N{EN DASH}") == 2


def test_versions_are_shown() -> None:
    """A reader can see what the report was made with."""
    assert "Python 3.11.2" in text(report.render(page()))


@pytest.mark.parametrize(
    ("classes", "heading"),
    [(["cat", "dog"], "cat or dog"), (["a", "b", "c"], "a, b or c"), ([str(n) for n in range(20)], "20 classes")],
)
def test_classes_make_a_heading(classes: list[str], heading: str) -> None:
    """Classes are named as a choice, and counted where there are many."""
    assert report.alternatives(classes) == heading


def test_learning_curves_say_what_is_marked() -> None:
    """The caption speaks of over-fitting, of the second training's first epoch and of none kept where there is any."""
    row = {"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}
    head = history.Phase("train_head", [row] * 3, best_epoch=2)
    kept, none_kept = history.Phase("fine_tune", [row], 1), history.Phase("fine_tune", [row], None, over_fits_from=1)
    plain, marked = (report.learning_curves(history.concatenate([head, phase])).caption for phase in (kept, none_kept))
    assert plain == "Dots: the epoch each training kept. Epochs count on: the first of fine_tune is 4."
    assert "Shaded: epochs that over-fit." in marked
    assert "No epoch of fine_tune was better" in marked
    assert "count on" not in report.learning_curves(history.concatenate([head])).caption


def test_the_area_of_many_classes_is_said_to_be_a_mean() -> None:
    """Of two classes there is one curve; of more a reader is told what the one drawn is."""
    assert "Mean over classes" not in report.roc({"fine_tune": findings(2)}).caption
    assert "Mean over classes" in report.roc({"fine_tune": findings(3)}).caption


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
    kind, data = report.data_uri(report.thumbnail(Image.new("RGB", (640, 480)))).split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (240, 180)


def test_params_have_values_as_in_params_yaml() -> None:
    """A reader finds the values that can be written into params.yaml, and long names that break at their dots."""
    params = {"a.b": True, "a.c": None, "a.d": [256], "a.e": "crop", "a.f": 1e-5}
    html = report.render(page(params=params))
    shown = [
        f"a. {name} {value}" for name, value in zip("bcdef", ("true", "null", "[256]", "crop", "1e-05"), strict=True)
    ]
    assert " ".join(shown) in text(html)
    assert "a.<wbr>b" in html


def test_params_are_named_as_in_params_yaml() -> None:
    """Nested params are shown by the name that an error message would give them."""
    assert report.flat({"a": {"b": {"c": 1}, "d": [2]}}) == {"a.b.c": 1, "a.d": [2]}
