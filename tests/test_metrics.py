import math

import numpy as np
import pytest
import torch

from alexnet.evaluation.ensembles import EnsembleEvaluation
from alexnet.evaluation.evaluation import Evaluation
from alexnet.evaluation.metrics import Metrics, top_k_credit


def brute_force_credit(scores, label, k):
    """Mean over all orders in which tied classes may be sorted, estimated from many draws."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        order = sorted(range(len(scores)), key=lambda c: (-scores[c], generator.random()))
        hits += label in order[:k]
    return hits / 4000


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("scores", [[4, 3, 2, 1], [2, 2, 2, 2], [5, 2, 2, 2], [1, 3, 3, 0]])
def test_ties_share_the_ranks_left(scores, k):
    credits = top_k_credit(torch.tensor([scores] * 4, dtype=torch.float32), torch.arange(4), k)
    for label in range(4):
        assert credits[label].item() == pytest.approx(brute_force_credit(scores, label, k), abs=0.03)
    assert credits.sum().item() == pytest.approx(k)


def test_a_tie_as_counted_in_2012():
    # Two ranks, one of them taken; three classes tie for the other: a third each.
    assert top_k_credit(torch.tensor([[9.0, 5.0, 5.0, 5.0]]), torch.tensor([2]), 2).item() == pytest.approx(1 / 3)


def test_scores_that_are_no_numbers_earn_nothing():
    assert top_k_credit(torch.tensor([[float("nan")] * 3]), torch.tensor([1]), 1).item() == 0


def test_numbers_of_a_table_by_hand():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    metrics = Metrics.of(probabilities, torch.tensor([0, 1, 1]))
    assert metrics.top1 == pytest.approx(2 / 3)
    assert metrics.top5 == 1
    assert metrics.loss == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.5)) / 3)
    assert metrics.confusion.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert metrics.summary()["top1_error"] == pytest.approx(1 / 3)
    assert metrics.in_percent() == {"top-1 error": "33.3%", "top-1 accuracy": "66.7%", "loss": "0.751"}
    six = torch.eye(6)[[0, 1]]
    assert list(Metrics.of(six, torch.tensor([0, 1])).in_percent())[1] == "top-5 error"


def test_former_names_still_work():
    metrics = Metrics.of(torch.tensor([[0.7, 0.3]]), torch.tensor([0]))
    evaluation = Evaluation(metrics, metrics, 10, None, np.arange(1))
    with pytest.warns(FutureWarning, match="mean is now called all_views"):
        assert evaluation.mean is metrics
    with pytest.warns(FutureWarning, match="each is now called members"):
        assert EnsembleEvaluation((evaluation,), evaluation, (1.0,)).each == (evaluation,)
