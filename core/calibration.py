"""How sure retrieval is: candidates' signals -> probability, and where answering begins and ends.

One logistic model says for each candidate how likely it is what was asked for. What the best few
sum up to decides between an answer, "did you mean …?" and a refusal. Both are fitted to a
knowledge base on questions whose entry is known. Questions without an answer are made from the same
questions by hiding that entry, and may be given as well.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from core.errors import DataError

log = structlog.get_logger()
Matrix = NDArray[np.float64]

# One question in so many is kept from training the embedder, so that its cosines are honest here.
_SHARE = 5
# Every answerable question also comes with its entry hidden; people ask such questions less often.
_WORTH = {"known": 1.0, "hidden": 0.2, "foreign": 1.0}


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known of one candidate, each about 0 to 1 whatever the size of the knowledge base.

    `overlap` is BM25 over the best possible score, `coverage` the worth of the question's terms
    that occur in it, `cosine` the dense leg's, `lead` how far it is ahead of its best rival (below
    0: behind) relative to the best and times `coverage`, so that the one passage that shares a
    word with a foreign question is no winner; `reranked` a cross-encoder's score less 1/2.
    `central` is the question's own (see `lexical.Match`): without any word that the passages
    share, it is likely to be about something else.
    """

    overlap: float
    coverage: float
    cosine: float
    lead: float
    reranked: float = 0.0
    central: float = 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A question of the fit: its candidates' signals, best first, and which is right (or none).

    `asked` says whether its entry could be found, was hidden, or there never was one.
    """

    signals: tuple[Signals, ...]
    right: int | None
    asked: Literal["known", "hidden", "foreign"]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What the thresholds do on the questions of the fit, as shares of 0 to 1.

    `answered` of the answerable questions get an answer, `clarified` a choice of titles; of the
    questions without an answer `wrong` are answered all the same and `refused` are refused.
    """

    answered: float
    clarified: float
    wrong: float
    refused: float
    questions: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Weights of the logistic model and the two thresholds on the summed probability.

    `knowledge` is the digest of the index it was fitted to, "" for the shipped default.
    """

    weights: tuple[float, ...]
    bias: float
    answer_from: float
    clarify_from: float
    knowledge: str = ""
    point: OperatingPoint | None = None

    def probability(self, signals: Signals) -> float:
        """How likely this candidate is what was asked for."""
        total = self.bias + sum(
            weight * value for weight, value in zip(self.weights, _row(signals), strict=True)
        )
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))


# Fitted to the shipped knowledge base, without and with the shipped embedder: they serve any other
# until `solemate kb calibrate` has run on it.
DEFAULT_LEXICAL = Calibration((2.21, 1.72, 0.0, 9.57, 4.0, 1.28), -4.32, 0.684, 0.267)
DEFAULT = Calibration((1.01, 3.00, 1.48, 9.30, 4.0, 1.16), -5.34, 0.655, 0.203)


def fit(judged: Sequence[Judged], knowledge: str, wrong: float, refused: float) -> Calibration:
    """Fit weights and thresholds.

    Of the questions without an answer, a share `wrong` may be answered and `refused` is refused;
    the others are asked back.

    Raises `DataError` without at least ten questions of both kinds.
    """
    positives = [one for one in judged if one.asked == "known"]
    negatives = [one for one in judged if one.asked != "known"]
    if min(len(positives), len(negatives)) < 10:
        raise DataError(
            f"Calibration needs 10 questions with and 10 without an answer or more, not "
            f"{len(positives)} and {len(negatives)}: add to the question file."
        )
    rows = np.array([_row(signals) for one in judged for signals in one.signals])
    labels = np.array([place == one.right for one in judged for place in range(len(one.signals))])
    worth = np.array([_WORTH[one.asked] for one in judged for _ in one.signals])
    weights, bias = _logistic(rows, labels.astype(np.float64), worth)
    loose = Calibration(tuple(map(float, weights)), float(bias), 1.0, 1.0, knowledge)
    sure, unsure = _confidences(loose, positives), _confidences(loose, negatives)
    answer_from = float(np.quantile(unsure, 1 - wrong))
    clarify_from = min(answer_from, float(np.quantile(unsure, refused)))
    point = OperatingPoint(
        answered=float(np.mean(sure >= answer_from)),
        clarified=float(np.mean((sure < answer_from) & (sure >= clarify_from))),
        wrong=float(np.mean(unsure >= answer_from)),
        refused=float(np.mean(unsure < clarify_from)),
        questions=len(judged),
    )
    return Calibration(loose.weights, loose.bias, answer_from, clarify_from, knowledge, point)


def confidence(probabilities: Sequence[float]) -> float:
    """How likely the right passage is among these: only one is, so their chances add up."""
    return min(1.0, sum(probabilities))


def kept_for_calibration(question: str) -> bool:
    """Whether a question is kept from training, so that calibration sees it as new."""
    return hashlib.sha256(question.encode()).digest()[0] % _SHARE == 0


def to_json(calibration: Calibration) -> bytes:
    """The calibration as its file holds it."""
    return json.dumps(asdict(calibration), indent=1).encode()


def calibration_for(path: Path, knowledge: str, *, dense: bool) -> Calibration:
    """The stored calibration if it was fitted to this knowledge (an index digest), or a default.

    A damaged file is passed over, or `solemate kb calibrate` could not replace it.
    """
    if path.exists():
        try:
            stored = load_calibration(path)
        except DataError as exc:
            log.warning("calibration_unused", problem=str(exc))
        else:
            if stored.knowledge == knowledge:
                return stored
            log.warning("calibration_outdated", advice="run `solemate kb calibrate`")
    return DEFAULT if dense else DEFAULT_LEXICAL


def load_calibration(path: Path) -> Calibration:
    """Read what `to_json` made. Raises `DataError` when the file is damaged."""
    try:
        values = json.loads(path.read_bytes())
        point = OperatingPoint(**values.pop("point")) if values["point"] else values.pop("point")
        loaded = Calibration(**{**values, "weights": tuple(values["weights"])}, point=point)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataError(
            f"{str(path)!r} is damaged ({exc!r}): run `solemate kb calibrate`."
        ) from exc
    if len(loaded.weights) != len(fields(Signals)):
        raise DataError(f"{str(path)!r} is of another version: run `solemate kb calibrate`.")
    return loaded


def _confidences(calibration: Calibration, judged: Sequence[Judged]) -> Matrix:
    return np.array(
        [confidence([calibration.probability(one) for one in each.signals]) for each in judged]
    )


def _row(signals: Signals) -> tuple[float, ...]:
    return (
        signals.overlap,
        signals.coverage,
        signals.cosine,
        signals.lead,
        signals.reranked,
        signals.central,
    )


def _logistic(
    rows: Matrix, labels: Matrix, worth: Matrix, ridge: float = 1.0
) -> tuple[Matrix, float]:
    """Weights and bias by Newton's method on the weighted, ridge-penalised log-likelihood."""
    design = np.column_stack([rows, np.ones(len(rows))])
    penalty = ridge * np.eye(design.shape[1])
    penalty[-1, -1] = 1e-6
    found = np.zeros(design.shape[1])
    for _ in range(50):
        chances = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
        gradient = design.T @ (worth * (labels - chances)) - penalty @ found
        hessian = (design * (worth * chances * (1 - chances))[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        found = found + step
        if float(np.abs(step).max()) < 1e-8:
            break
    return found[:-1], float(found[-1])
