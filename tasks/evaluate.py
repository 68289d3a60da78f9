"""Evaluate the head and the fine-tuned network on the test split, and write the report."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from transfer.evaluation import (
    answer_rates,
    consistency,
    diagnosis,
    heatmaps,
    learning_curve,
    linear_probe,
    names,
    provenance,
    remedies,
    report,
    results,
    scores,
    suspects,
)
from transfer.evaluation.answer_rates import Answers
from transfer.evaluation.consistency import TrainedNetwork
from transfer.evaluation.diagnosis import Diagnosis
from transfer.evaluation.inputs import HEAD, TUNED, Inputs, load
from transfer.evaluation.learning_curve import Outlook
from transfer.evaluation.linear_probe import Rows
from transfer.evaluation.scores import Comparison, Evaluation, Probabilities
from transfer.evaluation.suspects import Suspect
from transfer.features import dataset, store
from transfer.images import corrections, manifest
from transfer.network import neighbours, saving
from transfer.network.backend import keras
from transfer.runtime import files, params, paths
from transfer.training import history, inference

log = logging.getLogger(__name__)

STAGE = "evaluate"
BATCH = 32  # photographs predicted at once
PICTURES = 12  # photographs in each gallery of the report with heat maps
SUSPECTS = 24  # photographs in the gallery of suspects


class Params(params.Section):
    """How scores are computed."""

    confidence: float = Field(gt=0, lt=1, description="of the intervals")
    bins: int = Field(ge=1, le=100, description="of confidence, in the reliability diagram")
    checked: int = Field(ge=1, le=1000, description="photographs on which the saved network must agree with the cache")


class Networks(NamedTuple):
    """The head for pooled features, the fine-tuned network for pixels, and its part above the boundary."""

    head: keras.Model
    tuned: keras.Model
    top: keras.Model


class Outcome(NamedTuple):
    """The results for each network, by the stage that trained it, their comparison, and all epochs in order.

    `suspects` are photographs of all splits whose class may be wrong, `outlook` what more photographs may bring;
    `answers` are those of the fine-tuned network, if it has thresholds.
    """

    probabilities: dict[str, Probabilities]
    evaluations: dict[str, Evaluation]
    diagnoses: dict[str, Diagnosis]
    comparison: Comparison
    epochs: list[history.CurvePoint]
    suspects: list[Suspect]
    outlook: Outlook | None
    answers: Answers | None


def load_networks(inputs: Inputs) -> Networks:
    """Read both networks.

    Raises:
        DataError: a file is damaged, or the fine-tuned network lacks the layer of the boundary.
    """
    head, tuned = (saving.load(trained.file) for trained in inputs.trained.values())
    return Networks(head, tuned, inference.above(tuned, inputs.recipes[0]["boundary"]))


def predict(networks: Networks, inputs: Inputs, *, checked: int) -> tuple[dict[str, Probabilities], neighbours.Rows]:
    """Predict all test photographs with both networks, from cached activations.

    Args:
        networks: the head and the fine-tuned network.
        inputs: the stage's inputs.
        checked: number of photographs that the fine-tuned network predicts from pixels, too, as a check of the cache.

    Returns:
        The probabilities of each network, by the stage that trained it, and the fine-tuned network's rows.

    Raises:
        DataError: the predictions from pixels and from cached activations differ, or a row of the cache is damaged.
    """
    sample = sorted(inputs.test, key=lambda photograph: photograph.sha256)[:checked]  # arbitrary, but reproducible
    from_pixels = inference.from_pixels(networks.tuned, paths.artifact("subsample"), sample, inputs.recipes[0])
    from_cache, _ = inference.with_rows(
        networks.top, **_cached(sample, inputs, "boundary"), description=f"{STAGE} check"
    )
    consistency.check_agreement(
        sample, from_pixels, from_cache, inputs.trained[TUNED], precision=store.precision(inputs.recipes[0])
    )
    pooled, boundary = (_cached(inputs.test, inputs, part) for part in ("pooled", "boundary"))
    of_head = inference.from_cache(networks.head, **pooled, description=f"{STAGE} {HEAD}")
    of_tuned, rows = inference.with_rows(networks.top, **boundary, description=f"{STAGE} {TUNED}")
    return {HEAD: of_head, TUNED: of_tuned}, rows


def evaluate(
    inputs: Inputs, rows: Rows, probabilities: dict[str, Probabilities], settings: Params, given: Answers | None
) -> Outcome:
    """Score and compare both networks, diagnose their training runs, look for wrong labels, and look ahead.

    Args:
        inputs: the stage's inputs.
        rows: features of the photographs of all splits, as `linear_probe.read_rows` returns them.
        probabilities: the networks' predictions for the test photographs.
        settings: how scores are computed.
        given: the answers on the test split.
    """
    suspected = suspects.find(inputs.photographs, rows, inputs.classes)
    checked = {correction.sha256 for correction in corrections.read(paths.CORRECTIONS)}
    diagnoses = {stage: _diagnosis(stage, inputs) for stage in inputs.trained}
    phases = [
        _phase(stage, trained)._replace(over_fits_from=diagnoses[stage].over_fits_from)
        for stage, trained in inputs.trained.items()
    ]
    return Outcome(
        probabilities=probabilities,
        evaluations={
            stage: scores.score(inputs.labels, predicted, confidence=settings.confidence, bins=settings.bins)
            for stage, predicted in probabilities.items()
        },
        diagnoses=diagnoses,
        comparison=scores.compare(inputs.labels, probabilities[HEAD], probabilities[TUNED]),
        epochs=history.concatenate(phases),
        suspects=[each for each in suspected if each.photograph.sha256 not in checked],
        outlook=learning_curve.look_ahead(inputs.photographs, rows, inputs.classes, confidence=settings.confidence),
        answers=given,
    )


def build_report(inputs: Inputs, top: keras.Model, outcome: Outcome, *, confidence: float) -> report.Report:
    """Return the content of the report; `top` is the fine-tuned network above the boundary."""
    predicted = outcome.probabilities[TUNED]
    errors = scores.most_confident_errors(inputs.labels, predicted)[:PICTURES]
    temperature = inputs.trained[TUNED].card.temperature
    return report.Report(
        classes=inputs.classes,
        photographs=results.split_counts(inputs.photographs, inputs.classes),
        reasons=report.by_reason(inputs.rejected),
        confidence=confidence,
        evaluations=outcome.evaluations,
        comparison=outcome.comparison,
        diagnoses=outcome.diagnoses,
        learning_curves=report.learning_curves(outcome.epochs),
        learning_curve=report.learning_curve(outcome.outlook),
        forecast=learning_curve.sentences(outcome.outlook, confidence=confidence),
        figures=[report.roc(outcome.evaluations), report.reliability(outcome.evaluations, temperature)],
        errors=_pictures(inputs, top, predicted, errors),
        uncertain=_pictures(inputs, top, predicted, scores.least_certain(predicted)[:PICTURES]),
        suspects=[report.suspect_picture(each, paths.artifact("subsample")) for each in outcome.suspects[:SUSPECTS]],
        suspected=len(outcome.suspects),
        answers=outcome.answers,
        params=provenance.parameters(inputs.recipes, inputs.trained),
        hashes=provenance.hashes(inputs.lineage["photographs"], inputs.recipes, inputs.trained),
        versions=provenance.versions(),
    )


def write(folder: Path, inputs: Inputs, outcome: Outcome, page: report.Report) -> None:
    """Write metrics.json, predictions.csv, suspects.csv, plots/ and report.html."""
    metrics = results.metrics(outcome.evaluations, outcome.comparison, inputs.classes, photographs=len(inputs.test))
    if outcome.answers:
        metrics["answers"] = answer_rates.metrics(outcome.answers)
    files.write_json(folder / "metrics.json", metrics)
    predictions = results.predictions(inputs.test, outcome.probabilities, inputs.classes)
    files.write_text(folder / "predictions.csv", predictions)
    files.write_text(folder / "suspects.csv", suspects.table(outcome.suspects))
    plots = results.plots(outcome.epochs, outcome.evaluations, inputs.classes)
    plots["learning_curve"] = learning_curve.plot_rows(outcome.outlook)
    for name, rows in plots.items():
        files.write_json(folder / "plots" / f"{name}.json", rows)
    files.write_text(folder / "report.html", report.render(page))


def main() -> None:
    """Write artifacts/evaluate/: metrics.json, predictions.csv, suspects.csv, plots/ and report.html."""
    settings = params.load(STAGE, Params)
    inputs = load()
    networks = load_networks(inputs)

    probabilities, tuned_rows = predict(networks, inputs, checked=settings.checked)
    given = answer_rates.of_test(inputs, probabilities[TUNED], tuned_rows, confidence=settings.confidence)
    pooled = _cached(inputs.photographs, inputs, "pooled")["batches"]
    rows = linear_probe.read_rows(pooled, description=f"{STAGE} features")
    outcome = evaluate(inputs, rows, probabilities, settings, given)
    page = build_report(inputs, networks.top, outcome, confidence=settings.confidence)

    with files.atomic_folder(paths.artifact(STAGE)) as folder:
        write(folder, inputs, outcome, page)
    _log_summary(inputs, outcome, confidence=settings.confidence)


def _cached(
    photographs: Sequence[manifest.Entry], inputs: Inputs, part: dataset.Part
) -> dict[str, dataset.FeatureDataset]:
    """Return features as the arguments of `inference`'s functions, with those of mirror images if there are any."""
    return inference.cached(
        paths.artifact("extract_features"),
        photographs,
        classes=inputs.classes,
        part=part,
        batch_size=BATCH,
        mirrored=inputs.mirrored,
    )


def _phase(stage: str, trained: TrainedNetwork) -> history.Phase:
    best_epoch = trained.card.scores.get("best_epoch")
    return history.Phase(stage, trained.history, None if best_epoch is None else int(best_epoch))


def _diagnosis(stage: str, inputs: Inputs) -> Diagnosis:
    diagnosed = diagnosis.diagnose(_phase(stage, inputs.trained[stage]), classes=len(inputs.classes))
    used = provenance.parameters(inputs.recipes, inputs.trained)
    return diagnosed._replace(remedies=remedies.applicable(diagnosed.remedies, used))


def _pictures(
    inputs: Inputs, top: keras.Model, predicted: Probabilities, indices: Sequence[int]
) -> list[report.Picture]:
    """Return test photographs with heat maps for their most probable class, from cached activations.

    Args:
        inputs: the stage's inputs.
        top: the fine-tuned network above the boundary.
        predicted: its predictions for all test photographs.
        indices: which test photographs to return.
    """
    if not indices:
        return []
    photographs, probabilities = [inputs.test[index] for index in indices], predicted[indices]
    activations = _cached(photographs, inputs, "boundary")["batches"][0][0]
    heats = heatmaps.grad_cam(top, activations, probabilities.argmax(axis=1).tolist())
    folder, resizing = paths.artifact("subsample"), inputs.recipes[0]["resizing"]
    return [
        report.picture(*parts, classes=inputs.classes, folder=folder, resizing=resizing)
        for parts in zip(photographs, probabilities, heats, strict=True)
    ]


def _log_summary(inputs: Inputs, outcome: Outcome, *, confidence: float) -> None:
    log.info(
        "%s",
        results.table(
            {stage: evaluation.scores for stage, evaluation in outcome.evaluations.items()}, confidence=confidence
        ),
    )
    log.info("%d test photographs; McNemar's p for the difference: %.3g", len(inputs.test), outcome.comparison.p)
    verdicts = {names.training_run(stage): diagnosis.verdict_text(each) for stage, each in outcome.diagnoses.items()}
    log.info("%s", "; ".join(f"{run}: {verdict}" for run, verdict in verdicts.items()))
    log.info("%-8s %s", "report", paths.displayed(paths.artifact(STAGE, "report.html")))
    log.info("%-8s %s", "model", paths.displayed(inputs.trained[TUNED].file))
    log.info("%-8s %s", "scores", paths.displayed(paths.artifact(STAGE, "metrics.json")))
