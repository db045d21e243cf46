"""`reranker-serve calibrate JUDGMENTS`: what a score means on judged queries, and from which on to show an answer.

Writes the file that RERANKER_CALIBRATION names.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from reranker_serve.calibration import Basis, Calibration, Data, Threshold
from reranker_serve.errors import StartupError
from reranker_serve.judgments.calibration import ScoredPairs, Values, above, calibration_error, fit
from reranker_serve.judgments.candidates import Candidates, Stage, candidates
from reranker_serve.judgments.collection import Judgments
from reranker_serve.judgments.extras import require
from reranker_serve.judgments.thresholds import Goal, best_precision, find
from reranker_serve.settings import Settings
from reranker_serve.tools.calibration_report import Report, draw, told
from reranker_serve.tools.in_process import Ask, load_in_process, run_in_process
from reranker_serve.tools.judged import add_data_arguments, check_output, read_arguments
from reranker_serve.types import RerankRequest, Scorer

# Query -> its documents' ids and whether each is relevant.
Labels = dict[str, dict[str, bool]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("judgments", type=Path, help="a BEIR folder, or a file of judgments")
    parser.add_argument(
        "--precision", type=_share, metavar="P", help="find the threshold above which so many answers are relevant: 0.9"
    )
    parser.add_argument(
        "--recall", type=_share, metavar="R", help="find the threshold that lets so many relevant documents through"
    )
    parser.add_argument("--relevant-from", type=int, default=1, metavar="N", help="least relevant grade (default 1)")
    parser.add_argument(
        "--unjudged",
        choices=("skip", "irrelevant"),
        default="skip",
        help="what candidates without a judgment count as: nothing (default), or irrelevant",
    )
    parser.add_argument(
        "--holdout", type=_share, metavar="S", help="fit without that share of the queries, and measure on them: 0.5"
    )
    parser.add_argument("--output", type=Path, default=Path("calibration.json"), help="(default calibration.json)")
    parser.add_argument("--picture", type=Path, help="draw how far probabilities, precision and recall can be trusted")
    add_data_arguments(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Score, fit, print what was found, and write the file. Raises `StartupError` with one line."""
    _check(arguments)
    judgments = read_arguments(arguments.judgments, arguments)
    found = candidates(judgments, arguments.top, _stage(arguments))
    labels = labelled(judgments, found, arguments.relevant_from, arguments.unjudged == "irrelevant")
    scorer = load_in_process(settings)
    pairs = run_in_process(scorer, settings, lambda ask: score(judgments, found, labels, scorer, ask))
    basis = Basis.of(scorer, settings.instruction)
    goals: list[tuple[Goal, float | None]] = [("precision", arguments.precision), ("recall", arguments.recall)]
    report = calibrate(
        pairs,
        basis,
        judgments,
        arguments.relevant_from,
        [(goal, at_least) for goal, at_least in goals if at_least is not None],
        arguments.holdout,
    )
    _write(arguments.output, report.calibration)
    print(told(report, arguments.output))
    if arguments.picture:
        draw(report, arguments.picture)
    return 0


def labelled(judgments: Judgments, found: Candidates, relevant_from: int, unjudged: bool) -> Labels:
    """The candidates that have a label, or with `unjudged` all of them. Raises `StartupError` if there are none."""
    labels: Labels = {}
    for query, ranking in found.run.items():
        grades = judgments.grades[query]
        own = {name: grades.get(name, 0) >= relevant_from for name in ranking if unjudged or name in grades}
        if own:
            labels[query] = own
    if not labels:
        raise StartupError(f"none of the {found.name} is judged: --candidates judged takes what is")
    return labels


def score(judgments: Judgments, found: Candidates, labels: Labels, scorer: Scorer, ask: Ask) -> ScoredPairs:
    """The model's score of each labelled pair, a query a request."""
    raw: list[float] = []
    unit: list[float] = []
    for query, own in require("tqdm").tqdm(labels.items(), desc=judgments.name, unit="query"):
        texts = tuple(found.texts[name] for name in own)
        ranking = ask(RerankRequest(judgments.queries[query], texts, raw_scores=True)).ranking
        in_order = sorted(ranking, key=lambda ranked: ranked.index)
        raw += [ranked.score for ranked in in_order if ranked.score is not None]
        unit += [ranked.unit for ranked in in_order]
    scores = (np.array(raw) / np.array(unit)).astype(np.float32)
    return ScoredPairs(
        scores.astype(np.float64),
        scorer.family.activate(scores).astype(np.float64),
        np.array([label for own in labels.values() for label in own.values()], np.bool_),
        np.repeat(np.arange(len(labels)), [len(own) for own in labels.values()]),
    )


def calibrate(
    pairs: ScoredPairs,
    basis: Basis,
    judgments: Judgments,
    relevant_from: int,
    goals: list[tuple[Goal, float]],
    holdout: float | None,
) -> Report:
    """Fit to all, or to what is not held out; what is measured, is so on queries that the curve was not fitted to."""
    fitted_to, others = pairs.split(holdout) if holdout else (pairs, None)
    if others is not None and not others.relevant.any():
        raise StartupError("no query that is held out has a relevant document: hold out more, or judge more")
    fitted = fit(fitted_to)
    probabilities = fitted.curve.probability(fitted_to.scores)
    measured_on, unseen = fitted_to, fitted.probabilities
    if others is not None:
        measured_on, unseen = others, fitted.curve.probability(others.scores)
    thresholds = [_threshold(goal, at_least, probabilities, fitted_to) for goal, at_least in goals]
    calibration = Calibration(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        basis=basis,
        data=Data(
            name=judgments.name,
            digest=f"sha256:{judgments.digest}",
            queries=fitted_to.queries,
            pairs=len(fitted_to.scores),
            relevant=int(fitted_to.relevant.sum()),
            relevant_from=relevant_from,
        ),
        curve=fitted.curve,
        error_before=calibration_error(measured_on.relevance, measured_on),
        error=calibration_error(unseen, measured_on),
        thresholds=tuple(threshold for threshold in thresholds if threshold),
    )
    missed = tuple(goal for goal, threshold in zip(goals, thresholds, strict=True) if threshold is None)
    return Report(
        calibration,
        fitted.brier,
        measured_on,
        unseen,
        others is not None,
        missed,
        best_precision(probabilities, fitted_to),
    )


def _threshold(goal: Goal, at_least: float, probabilities: Values, pairs: ScoredPairs) -> Threshold | None:
    found = find(goal, at_least, probabilities, pairs)
    if found is None:
        return None
    reached = above(found.probability, probabilities, pairs)
    if reached.precision is None:
        return None
    return Threshold(
        goal=goal,
        at_least=at_least,
        min_score=found.relevance,
        min_probability=found.probability,
        interval=found.interval,
        pairs=reached.pairs,
        precision=reached.precision,
        recall=reached.recall,
    )


def _stage(arguments: argparse.Namespace) -> Stage | None:
    """What is judged, where nothing else counts; else what a first stage finds, where there is one."""
    chosen: Stage | None = arguments.candidates
    return chosen or (None if arguments.run_file or arguments.unjudged == "irrelevant" else "judged")


def _check(arguments: argparse.Namespace) -> None:
    """Before a model is loaded and run for minutes. Raises `StartupError`."""
    for needed in ("sklearn", "tqdm", *(["matplotlib"] if arguments.picture else [])):
        require(needed)
    check_output(arguments.output)
    check_output(arguments.picture, (".png", ".svg", ".pdf"))


def _write(path: Path, calibration: Calibration) -> None:
    try:
        path.write_text(calibration.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise StartupError(f"{path} cannot be written: {error.strerror}") from None


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("should be a number between 0 and 1, such as 0.9")
    return value
