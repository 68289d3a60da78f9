import json
import shutil
from pathlib import Path

import pytest

from tests import networks
from tests.tasks.conftest import write_photographs
from transfer.evaluation import judgement
from transfer.evaluation.promotion_rule import Verdict
from transfer.images import manifest
from transfer.runtime.errors import DataError

MANIFEST = Path("artifacts/split/manifest.csv")
PARAMS = """\
promote: {minimum_accuracy: 0.9, accuracy_margin: 0.01, confidence: 0.95, resamples: 1000, seed: 0}
"""


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[manifest.Entry]:
    """The manifest of drawn pictures in the current folder; eight of them are in the test split."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    return write_photographs(tmp_path, numbers=range(20))


def network(name: str, entries: list[manifest.Entry], *, logit: float) -> Path:
    """Write a network's files; return their folder."""
    test = [entry for entry in entries if entry.split == "test"]
    folder = networks.write(Path(name), Path("artifacts/subsample"), test, logit=logit, trained_on=MANIFEST).parent
    shutil.copy(MANIFEST, folder / "manifest.csv")
    return folder


def judge(candidate: Path, champion: Path | None = None) -> Verdict:
    """Judge as the command does, in this process; return the verdict that it writes."""
    options = ["--champion", str(champion)] if champion else []
    judgement.main([str(candidate), *options, "--verdict", "verdict.json"])
    content = json.loads(Path("verdict.json").read_text())
    assert content.pop("test_photographs") == 8
    assert len(content.pop("test_split")) == 64
    return Verdict(**content)


def test_both_networks_are_scored_on_the_test_photographs(entries: list[manifest.Entry]) -> None:
    """Accuracy and log loss are those of the networks; the better one is promoted, a tie and a worse one are not."""
    good, better = network("good", entries, logit=2), network("better", entries, logit=3)
    first = judge(good)
    assert first.promoted
    assert first.accuracy == 1
    assert first.log_loss == pytest.approx(0.1269, abs=1e-3)
    second = judge(better, good)
    assert second.promoted
    assert second.log_loss == pytest.approx(0.0486, abs=1e-3)
    assert second.champion_log_loss == first.log_loss
    assert not judge(good, good).promoted
    assert not judge(good, better).promoted
    assert not judge(network("wrong", entries, logit=-1)).promoted


def test_a_network_that_saw_test_photographs_is_not_scored(entries: list[manifest.Entry]) -> None:
    """If today's test photographs were in training or validation, the verdict says so, for whichever network."""
    seen, fresh = network("seen", entries, logit=3), network("fresh", entries, logit=2)
    swapped = {"train": "test", "test": "train", "validation": "validation"}
    manifest.write(MANIFEST, [entry._replace(split=swapped[entry.split]) for entry in entries])
    shutil.copy(MANIFEST, fresh / "manifest.csv")
    card = json.loads((fresh / "model.json").read_text())
    test = judgement.read_test_split(MANIFEST)
    card["trained_on"]["photographs"] = judgement.files.sha256(MANIFEST)
    (fresh / "model.json").write_text(json.dumps(card))
    for candidate, champion, role in ((seen, None, "candidate"), (fresh, seen, "champion")):
        settings = judgement.params.load("promote", judgement.promotion_rule.Params)
        verdict = judgement.judge(candidate, champion, test, settings)
        assert not verdict.promoted
        assert verdict.accuracy is None
        assert f"The {role} must not have been trained on test photographs. Received: 24 of 24" in verdict.reason
        assert "`split.seed`" in verdict.reason


def test_another_manifest_is_not_believed(entries: list[manifest.Entry]) -> None:
    """The list of training photographs must be the one that the card names, so a forged one raises."""
    folder = network("good", entries, logit=2)
    manifest.write(folder / "manifest.csv", entries[:-1])
    with pytest.raises(DataError, match="must be the manifest that the network was trained on"):
        judge(folder)


def test_other_classes_are_refused(entries: list[manifest.Entry]) -> None:
    """A network of other classes is not scored."""
    folder = network("good", entries, logit=2)
    renamed = [entry._replace(class_name=entry.class_name.replace("cat", "rabbit")) for entry in entries]
    manifest.write(MANIFEST, renamed)
    verdict = judge(folder)
    assert not verdict.promoted
    assert "dog, rabbit. Received: cat, dog" in verdict.reason


def test_a_test_split_has_a_digest(entries: list[manifest.Entry]) -> None:
    """The digest follows from the test photographs and their classes alone, so that its uses can be counted."""
    digest = judgement.read_test_split(MANIFEST).digest
    manifest.write(MANIFEST, [entry for entry in reversed(entries) if entry.split != "train"])
    assert judgement.read_test_split(MANIFEST).digest == digest
    manifest.write(MANIFEST, entries[:-1])
    assert judgement.read_test_split(MANIFEST).digest != digest
    manifest.write(MANIFEST, [entry for entry in entries if entry.split != "test"])
    with pytest.raises(DataError, match="must have test photographs"):
        judgement.read_test_split(MANIFEST)
