import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import thresholds
from transfer.evaluation import answer_rates, report, scores, suspects
from transfer.evaluation.diagnosis import Diagnosis
from transfer.evaluation.remedies import Remedy
from transfer.images import manifest
from transfer.images.manifest import Rejected
from transfer.runtime.errors import DataError
from transfer.sources import synthetic
from transfer.training import history


class Page(HTMLParser):
    """The tags of a page in order, each with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag."""
        self.tags.append((tag, dict(attrs)))


def evaluation(classes: int) -> scores.Evaluation:
    """The evaluation of a good model."""
    labels = np.arange(12) % classes
    probabilities = (np.eye(classes)[labels] + 0.5) / (1 + classes / 2)
    return scores.score(labels, probabilities, confidence=0.95, bins=10)


def picture(*, shows: str, predicted: str, other: str) -> report.Picture:
    """A photograph with a prediction of 98.7 % confidence."""
    uri = report.data_uri(report.thumbnail(Image.new("RGB", (640, 480), "teal")))
    choices = [report.Choice(predicted, 0.987), report.Choice(other, 0.013)]
    return report.Picture(f"photos/{shows}/1.jpg", "", shows, choices, uri, uri)


def suspect(*, labelled: str, suggested: str) -> report.SuspectPicture:
    """A photograph whose class may be wrong."""
    uri = report.data_uri(Image.new("RGB", (240, 180), "teal"))
    choice = report.Choice(suggested, 0.998)
    return report.SuspectPicture(f"photos/{labelled}/2.jpg", "inbox/2.jpg", "train", labelled, choice, uri)


def page(*, classes: tuple[str, ...] = ("cat", "dog"), p: float = 0.5, **changes: Any) -> report.Report:
    """A report of two models."""
    first, second = classes[:2]
    content = report.Report(
        classes=classes,
        photographs={split: dict.fromkeys(classes, 6) for split in ("train", "validation", "test", "all")},
        reasons=report.by_reason([Rejected(f"train/{first}.1.jpg", "unreadable", "empty file")]),
        confidence=0.95,
        evaluations={"train_head": evaluation(len(classes)), "fine_tune": evaluation(len(classes))},
        comparison=scores.Comparison(1, 3, p),
        diagnoses={
            "train_head": Diagnosis("healthy", ["Validation loss was 0.05."], []),
            "fine_tune": Diagnosis("over-fitting", ["It rose."], [Remedy("fine_tune.seed", "lower")], 3),
        },
        learning_curves=report.Figure("Learning curves", "Loss by epoch", "<svg><path/></svg>", "Dots: kept."),
        learning_curve=None,
        forecast=["Nothing can be said."],
        figures=[report.Figure("ROC", "Rates", "<svg><path/></svg>", "Dotted: chance level.")],
        errors=[picture(shows=first, predicted=second, other=first)],
        uncertain=[picture(shows=second, predicted=second, other=first)],
        suspects=[suspect(labelled=first, suggested=second)],
        suspected=1,
        answers=None,
        params={"fine_tune.training.epochs": 20, "fine_tune.seed": 7},
        hashes={"photographs": "ab" * 32},
        versions={"Python": "3.11.2"},
    )
    return content._replace(**changes)


def text(html: str) -> str:
    """The visible text of a page, in one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", html.partition("<body>")[2]).split())


def test_the_page_is_self_contained() -> None:
    """The report is one file: it has no scripts and loads no resources."""
    html = report.render(page())
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed"}
    sources = [value or "" for _, attributes in tags for name, value in attributes.items() if name in {"src", "href"}]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\(", html)


def test_class_names_are_escaped() -> None:
    """Markup in the name of a class is shown as text."""
    html = report.render(page(classes=("<script>alert(1)</script>", '"onload="x')))
    tags = Page(html).tags
    assert "script" not in {tag for tag, _ in tags}
    assert not any("onload" in attributes for _, attributes in tags)
    assert "&lt;script&gt;" in html


def test_figures_have_a_text_alternative() -> None:
    """Figures are embedded as SVG with a label for screen readers."""
    tags = Page(report.render(page())).tags
    assert tags.count(("svg", {})) == 2
    assert any(
        attributes.get("role") == "img" and attributes["aria-label"] == "Loss by epoch" for _, attributes in tags
    )


def test_photographs_have_their_prediction_as_text() -> None:
    """Each photograph and its heat map have a text alternative, and a caption with classes and probabilities."""
    html = report.render(page())
    assert [attributes["alt"] for tag, attributes in Page(html).tags if tag == "img"] == [
        "cat, predicted as dog",
        "heat map of the same photograph for dog",
        "dog, correctly predicted",
        "heat map of the same photograph for dog",
        "cat, or dog?",
    ]
    assert "cat, predicted as dog with 98.7 % (cat: 1.3 %)" in text(html)
    assert "dog, correctly predicted with 98.7 % (cat: 1.3 %)" in text(html)


def test_suspects_have_their_suggestion_and_file() -> None:
    """A photograph whose class may be wrong stands beside the class that is suggested, its split and its file."""
    visible = text(report.render(page()))
    assert "without labels that it doubts: 1 of 12." in visible
    assert "cat, or dog (99.8 %)? train photos/cat/2.jpg from inbox/2.jpg" in visible
    assert text(report.render(page(suspects=[], suspected=0))).count("None.") == 1


def test_a_suspect_is_read_from_its_file(tmp_path: Path) -> None:
    """The picture of a suspect has its suggestion and thumbnail; a changed file is refused."""
    data = synthetic.draw("cat", 0, size=40, seed=0)
    (tmp_path / "1.jpg").write_bytes(data)
    photograph = manifest.Entry("1.jpg", "dog", hashlib.sha256(data).hexdigest(), 40, 40, "train")
    result = report.suspect_picture(suspects.Suspect(photograph, "cat", 0.9), tmp_path)
    assert (result.class_name, result.suggested, result.split) == ("dog", ("cat", 0.9), "train")
    (tmp_path / "1.jpg").write_bytes(data[:300])
    with pytest.raises(DataError, match=r"1\.jpg must be"):
        report.suspect_picture(suspects.Suspect(photograph, "cat", 0.9), tmp_path)


def test_a_model_without_errors_has_a_report() -> None:
    """An empty gallery is stated as such."""
    assert "<p>None.</p>" in report.render(page(errors=[]))
    assert "<p>None.</p>" not in report.render(page())


def test_diagnoses_have_evidence_and_suggested_changes() -> None:
    """Each training run has its verdict, the evidence, and parameters to change with their current values."""
    visible = text(report.render(page()))
    assert "Training of the head: healthy Validation loss was 0.05." in visible
    assert (
        "Fine-tuning: over-fitting from epoch 3 on It rose. "
        "Suggested changes, one at a time: fine_tune. seed (7): lower" in visible
    )
    assert visible.count("Suggested changes") == 1


def test_rejections_are_grouped_and_escaped() -> None:
    """Reasons are counted, the most frequent first, with a few examples; markup in file names is shown as text."""
    rejected = [Rejected(f"cat/<b>{number}</b>.jpg", "unreadable", "cut short <i>") for number in range(5)]
    reasons = report.by_reason([Rejected("dog/1.jpg", "near_duplicate", "of dog/2.jpg"), *rejected])
    assert [(reason.name, reason.candidates) for reason in reasons] == [("unreadable", 5), ("near_duplicate", 1)]
    html = report.render(page(reasons=reasons))
    assert not {tag for tag, _ in Page(html).tags} & {"b", "i"}
    assert html.count("cat/&lt;b&gt;") == 3
    assert "No photograph was rejected." in report.render(page(reasons=[]))


def test_each_class_has_its_scores_and_counts() -> None:
    """Each class has a row with recall and precision of each model, and one with its photographs in each split."""
    counts = {"train": 30, "validation": 10, "test": 12, "all": 52}
    visible = text(report.render(page(photographs={split: {"cat": n, "dog": n + 1} for split, n in counts.items()})))
    assert visible.count("dog 6 100.0 % 100.0 %") == 2
    assert "cat 30 10 12 52 dog 31 11 13 53" in visible


def test_a_class_never_predicted_has_a_dash_for_precision() -> None:
    """The precision of a class that is never predicted is a dash."""
    never = scores.score(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]]), confidence=0.95, bins=10)
    visible = text(report.render(page(evaluations={"train_head": never, "fine_tune": never})))
    assert visible.count("cat 1 100.0 % 50.0 % dog 1 0.0 % \N{EN DASH}") == 2


def test_versions_are_shown() -> None:
    """The report lists the versions of Python and packages."""
    assert "Python 3.11.2" in text(report.render(page()))


@pytest.mark.parametrize(
    ("classes", "heading"),
    [(["cat", "dog"], "cat or dog"), (["a", "b", "c"], "a, b or c"), ([str(n) for n in range(20)], "20 classes")],
)
def test_classes_make_a_heading(classes: list[str], heading: str) -> None:
    """A few classes are joined by "or", many are counted."""
    assert report.alternatives(classes) == heading


def test_the_caption_of_learning_curves_explains_their_marks() -> None:
    """The caption mentions over-fitting and a run without improvement, if any."""
    row = {"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}
    head = history.Phase("train_head", [row] * 3, best_epoch=2)
    kept, none_kept = history.Phase("fine_tune", [row], 1), history.Phase("fine_tune", [row], None, over_fits_from=1)
    plain, marked = (report.learning_curves(history.concatenate([head, phase])).caption for phase in (kept, none_kept))
    assert plain == "Dots: the epoch that each training run kept."
    assert "Shaded: epochs that over-fit." in marked
    assert "No epoch of fine-tuning improved" in marked


def test_the_result_is_stated_first() -> None:
    """The page begins with the result in one sentence and a table of contents, whose links lead to sections."""
    html = report.render(page(p=0.01))
    assert text(html).startswith(
        "cat or dog? The fine-tuned network predicts 100.0 % of the 12 test photographs correctly "
        "(95&nbsp;% interval: 75.8 to 100.0 %), the head 100.0 %; the difference is significant. "
        "Scores Confusion Each class Learning curves"
    )
    tags = Page(html).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in tags if tag == "section" and "id" in attributes]
    assert len(links) == 11


def test_the_networks_have_one_pair_of_names() -> None:
    """Headings, tables and captions call the networks "head" and "fine-tuned", not by the stages' names."""
    visible = text(report.render(page(params={}, diagnoses={})))
    assert "train_head" not in visible
    assert "fine_tune" not in visible
    assert visible.count("fine-tuned") >= 6


def test_bins_of_few_photographs_are_explained() -> None:
    """The caption of the reliability diagram mentions grey dots if there are any."""
    few, many = scores.Bin(4, 0.9, 1.0), scores.Bin(5, 0.9, 1.0)
    captions = [
        report.reliability({"fine_tune": evaluation(2)._replace(bins=[group])}).caption for group in (few, many)
    ]
    assert ["fewer than 5 photographs" in caption for caption in captions] == [True, False]


def test_the_roc_curve_of_many_classes_is_called_a_mean() -> None:
    """The caption calls the curve a mean over classes if there are more than two."""
    assert "Mean over classes" not in report.roc({"fine_tune": evaluation(2)}).caption
    assert "Mean over classes" in report.roc({"fine_tune": evaluation(3)}).caption


@pytest.mark.parametrize(
    ("p", "verdict"), [(0.01, "the difference is significant"), (0.5, "the difference is not significant")]
)
def test_significance_follows_from_the_confidence(p: float, verdict: str) -> None:
    """The difference is called significant if p is below one minus the confidence of the intervals."""
    assert verdict in report.render(page(p=p))


def test_three_classes_have_three_columns() -> None:
    """The confusion matrix has a row and a column for each class."""
    tags = [tag for tag, attributes in Page(report.render(page(classes=("a", "b", "c")))).tags if "style" in attributes]
    assert tags == ["td"] * 2 * 9


def test_the_same_content_gives_the_same_bytes() -> None:
    """The page depends on the report's content alone."""
    assert report.render(page()) == report.render(page())


def test_a_thumbnail_keeps_proportions() -> None:
    """A thumbnail is uncropped, and its longer edge has at most 240 pixels."""
    kind, data = report.data_uri(report.thumbnail(Image.new("RGB", (640, 480)))).split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (240, 180)


def test_parameters_have_values_as_in_params_yaml() -> None:
    """Values are formatted as in params.yaml, and long names can break at their dots."""
    params = {"a.b": True, "a.c": None, "a.d": [256], "a.e": "crop", "a.f": 1e-5}
    html = report.render(page(params=params))
    parameters = [
        f"a. {name} {value}" for name, value in zip("bcdef", ("true", "null", "[256]", "crop", "1e-05"), strict=True)
    ]
    assert " ".join(parameters) in text(html)
    assert "a.<wbr>b" in html


def test_a_picture_has_the_two_most_probable_classes_and_a_heat_map(tmp_path: Path) -> None:
    """A picture has its two most probable classes and an overlaid thumbnail; a changed file is refused."""
    data = synthetic.draw("cat", 0, size=40, seed=0)
    (tmp_path / "1.jpg").write_bytes(data)
    photograph = manifest.Entry("1.jpg", "cat", hashlib.sha256(data).hexdigest(), 40, 40, "test", "inbox/1.jpg")
    prediction = photograph, np.array([0.2, 0.3, 0.5]), np.ones((4, 4), np.float32)
    options: dict[str, Any] = {"classes": ["cat", "dog", "rabbit"], "folder": tmp_path, "resizing": "crop"}
    result = report.picture(*prediction, **options)
    assert (result.class_name, result.choices) == ("cat", [("rabbit", 0.5), ("dog", 0.3)])
    assert (result.path, result.source) == ("1.jpg", "inbox/1.jpg")
    assert result.thumbnail != result.heat
    (tmp_path / "1.jpg").write_bytes(data[:300])
    with pytest.raises(DataError, match=r"1\.jpg must be"):
        report.picture(*prediction, **options)


def test_tens_of_classes_have_a_narrow_confusion_matrix() -> None:
    """The headings of its columns are vertical, so that thirty fit beside each other."""
    classes = tuple(f"class {number}" for number in range(30))
    labels = np.arange(90) % 30
    of_thirty = scores.score(labels, (np.eye(30)[labels] + 0.5) / 16, confidence=0.95, bins=10)
    counts = {split: dict.fromkeys(classes, 6) for split in ("train", "validation", "test", "all")}
    both = {"train_head": of_thirty, "fine_tune": of_thirty}
    html = report.render(page()._replace(classes=classes, evaluations=both, photographs=counts))
    assert html.count('<table class="confusion many">') == 2
    assert report.render(page()).count('<table class="confusion">') == 2


def test_answers_are_explained() -> None:
    """The section says how many answers are no class, and whether each class has a threshold of its own."""
    group = answer_rates.Group("all", 200, 190, 3, 4, 3, 0.985, 0.96, 0.99)
    limits = thresholds.limits(coverage=0.99, calibrated="together", plausible={"cat": 0.1, "dog": 0.1}, distance=0.7)
    visible = text(report.render(page(answers=answer_rates.Answers(limits, [group]))))
    assert "190 are answered with their class, 3 with another one, 4 with “not sure”, and 3 with “none of" in visible
    assert "too few photographs for a threshold of its own" in visible
    assert "for all classes together. “None of these”: farther" in visible
    assert "Answers" not in text(report.render(page()))
