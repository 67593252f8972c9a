"""Each rival's formula against a slow version in plain numbers."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from trainers import CLASSES, Toy, toy_examples
from transformers import TrainingArguments

from itra_hf.comparison import rivals
from itra_hf.comparison.propagation import propagate
from itra_hf.comparison.rivals.retargeted import fit_head
from itra_hf.comparison.rivals.staged import StageSampler, pairwise_hinge
from itra_hf.comparison.rivals.transport import KEPT, transport_weights

TAIL = [each for each in toy_examples(60) if each["labels"] == 0] + toy_examples(9, seed=1)
COUNTS = [sum(each["labels"] == label for each in TAIL) for label in range(CLASSES)]


def build(trainer_class, folder, data=TAIL, model=None, arguments=None, **settings):
    given = {"max_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    args = TrainingArguments(output_dir=str(folder), **{**given, **settings})
    return trainer_class(model=model or Toy(), args=args, train_dataset=data, **(arguments or {}))


def batch(rows=7, seed=1):
    examples = toy_examples(rows, seed=seed)
    return {"x": torch.stack([each["x"] for each in examples]), "labels": torch.tensor([e["labels"] for e in examples])}


def probabilities(logits):
    exponentials = [math.exp(each) for each in logits]
    return [each / sum(exponentials) for each in exponentials]


def loss_and_logits(trainer, inputs):
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    return loss.item(), outputs["logits"].tolist(), inputs["labels"].tolist()


# ---- Long tails ----


def test_counts_are_those_of_a_long_tail():
    assert COUNTS[0] > 5 * COUNTS[1] == 5 * COUNTS[2]


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_logit_adjustment_adds_the_logarithm_of_the_priors(strength, tmp_path):
    trainer = build(rivals.LogitAdjustedTrainer, tmp_path, arguments={"strength": strength})
    loss, logits, labels = loss_and_logits(trainer, batch())
    margins = [strength * math.log(count / sum(COUNTS)) for count in COUNTS]
    adjusted = [[a + b for a, b in zip(row, margins, strict=True)] for row in logits]
    expected = [-math.log(probabilities(row)[label]) for row, label in zip(adjusted, labels, strict=True)]
    assert loss == pytest.approx(sum(expected) / len(expected), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_class_balanced_weights_are_the_inverse_of_effective_numbers(beta, tmp_path):
    trainer = build(rivals.ClassBalancedTrainer, tmp_path, arguments={"beta": beta})
    loss, logits, labels = loss_and_logits(trainer, batch())
    effective = [sum(beta**power for power in range(count)) for count in COUNTS]
    weights = [1 / each for each in effective]
    weights = [each * CLASSES / sum(weights) for each in weights]
    parts = [-weights[label] * math.log(probabilities(row)[label]) for row, label in zip(logits, labels, strict=True)]
    assert loss == pytest.approx(sum(parts) / len(parts), rel=1e-4)


@pytest.mark.parametrize("absent", [1, 2])
@pytest.mark.parametrize("kind", ["LogitAdjustedTrainer", "ClassBalancedTrainer"])
def test_classes_without_examples_change_no_weight_of_the_others(kind, absent, tmp_path):
    """One class is known to the model alone, and the loss is as large as with two classes."""
    data = [{**each, "labels": 3 - absent if each["labels"] else 0} for each in TAIL]
    trainer = build(getattr(rivals, kind), tmp_path, data)
    inputs = batch(rows=8)
    inputs["labels"] = (inputs["labels"] > 0) * (3 - absent)
    loss, logits, labels = loss_and_logits(trainer, inputs)
    counts = [sum(each["labels"] == label for each in data) for label in range(CLASSES)]
    assert counts[absent] == 0
    margins, weights = [0.0] * CLASSES, [1.0] * CLASSES
    if kind == "LogitAdjustedTrainer":
        margins = [math.log(max(1, count) / (sum(counts) + 1)) for count in counts]
    else:
        effective = [1 / sum(0.999**power for power in range(count)) if count else 0.0 for count in counts]
        weights = [2 * each / sum(effective) for each in effective]
    parts = [
        -weights[label] * math.log(probabilities([a + b for a, b in zip(row, margins, strict=True)])[label])
        for row, label in zip(logits, labels, strict=True)
    ]
    assert loss == pytest.approx(sum(parts) / len(parts), rel=1e-4)


def test_equalization_sums_the_positive_gradients_of_the_batches_before(tmp_path):
    trainer = build(rivals.EqualizationTrainer, tmp_path, arguments={"strength": 1.5})
    sums = [1.0] * CLASSES
    for seed in (1, 2, 3):
        loss, logits, labels = loss_and_logits(trainer, batch(rows=5 + seed, seed=seed))
        margins = [1.5 * math.log(each / sum(sums)) for each in sums]
        parts = []
        for row, label in zip(logits, labels, strict=True):
            p = probabilities([a + b for a, b in zip(row, margins, strict=True)])[label]
            parts.append(-math.log(p))
            sums[label] += 1 - p
        assert loss == pytest.approx(sum(parts) / len(parts), rel=1e-4)
    assert trainer.gradients.tolist() == pytest.approx(sums, rel=1e-4)


@pytest.mark.parametrize("smoothness", [0.05, 0.5])
def test_transport_weights_are_the_cheapest_entropic_plans(smoothness):
    costs, labels = np.array([0.3, 0.1, 0.7, 0.2, 0.4]), np.array([0, 0, 1, 1, 1])

    def total(plan):
        return float((plan * costs).sum() + smoothness * (plan * np.log(plan)).sum())

    masses = [{"type": "eq", "fun": lambda plan, label=label: plan[labels == label].sum() - 0.5} for label in (0, 1)]
    found = minimize(total, np.full(5, 0.2), bounds=[(1e-9, 1)] * 5, constraints=masses, options={"ftol": 1e-12})
    ours = transport_weights(torch.tensor(costs), torch.tensor(labels), smoothness)
    np.testing.assert_allclose(ours.numpy(), found.x, atol=2e-4)


def test_transport_follows_the_classes_mean_features_and_weighs_by_them(tmp_path):
    trainer = build(rivals.TransportTrainer, tmp_path, arguments={"smoothness": 0.2})
    trainer.model.train()
    means = {}
    for seed in (1, 2):
        inputs = batch(rows=8, seed=seed)
        loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
        features, labels = trainer.model.body(inputs["x"]).detach(), inputs["labels"]
        for label in labels.unique().tolist():
            new = features[labels == label].mean(dim=0)
            means[label] = new if label not in means else KEPT * means[label] + (1 - KEPT) * new
        total = 0.0
        for row, label, logits in zip(features, labels.tolist(), outputs["logits"], strict=True):
            mates = [each for each, other in zip(features, labels.tolist(), strict=True) if other == label]
            scores = [math.exp((nn.functional.cosine_similarity(f, means[label], dim=0) - 1) / 0.2) for f in mates]
            own = math.exp((nn.functional.cosine_similarity(row, means[label], dim=0) - 1) / 0.2)
            total -= own / sum(scores) / CLASSES * math.log(probabilities(logits.tolist())[label])
        assert loss.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("biased", [True, False])
def test_the_retargeted_head_is_the_best_one(biased):
    generator = np.random.default_rng(0)
    rows, labels, classes, negative, penalty = generator.normal(size=(12, 3)), np.arange(12) % 4, 4, 0.7, 0.05

    def objective(flat):
        weight, bias = flat[:12].reshape(4, 3), flat[12:] if biased else np.zeros(4)
        logits = rows @ weight.T + bias
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        targets = np.full((12, classes), negative / classes)
        targets[np.arange(12), labels] += 1 - negative
        return -(targets * log_p).sum(axis=1).mean() + penalty / 2 * (weight**2).sum()

    found = minimize(objective, np.zeros(16 if biased else 12), options={"gtol": 1e-9})
    weight, bias = fit_head(torch.tensor(rows), torch.tensor(labels), classes, negative, penalty, biased)
    np.testing.assert_allclose(weight.numpy(), found.x[:12].reshape(4, 3), atol=1e-4)
    assert (bias is None) == (not biased)


def test_the_second_stage_leaves_the_fitted_head_and_the_first_stages_features(tmp_path):
    trainer = build(rivals.RetargetedTrainer, tmp_path, max_steps=3, arguments={"negative": 0.9, "penalty": 0.01})
    plain = build(rivals.LogitAdjustedTrainer, tmp_path, max_steps=3, arguments={"strength": 0.0})
    for each in (trainer, plain):
        each.train()
    for own, other in zip(trainer.model.body.parameters(), plain.model.body.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    trainer.model.eval()
    features = trainer.model.body(torch.stack([each["x"] for each in TAIL])).detach()
    labels = torch.tensor([each["labels"] for each in TAIL])
    weight, bias = fit_head(features, labels, CLASSES, 0.9, 0.01, True)
    torch.testing.assert_close(trainer.model.head.weight.detach(), weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(trainer.model.head.bias.detach(), bias, atol=1e-4, rtol=1e-3)
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())


# ---- Wrong labels ----


@pytest.mark.parametrize("q", [1e-3, 0.3, 0.7, 1.0])
def test_generalised_cross_entropy_is_the_papers(q, tmp_path):
    trainer = build(rivals.GeneralizedCrossEntropyTrainer, tmp_path, arguments={"q": q})
    loss, logits, labels = loss_and_logits(trainer, batch())
    parts = [(1 - probabilities(row)[label] ** q) / q for row, label in zip(logits, labels, strict=True)]
    assert loss == pytest.approx(sum(parts) / len(parts), rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "step", "kept"), [(10, 0, 10), (10, 1, 9), (10, 2, 8), (10, 7, 8), (4, 2, 4), (4, 8, 4), (5, 8, 4)]
)
def test_the_largest_losses_are_left_out_the_more_the_later(rows, step, kept, tmp_path):
    trainer = build(rivals.SmallLossTrainer, tmp_path, arguments={"wrong": 0.2, "ramp": 0.25})
    trainer.state.global_step, trainer.state.max_steps = step, 8
    loss, logits, labels = loss_and_logits(trainer, batch(rows=rows))
    parts = sorted(-math.log(probabilities(row)[label]) for row, label in zip(logits, labels, strict=True))
    assert loss == pytest.approx(sum(parts[:kept]) / kept, rel=1e-5)


def test_a_share_that_is_no_binary_number_leaves_out_as_many_as_it_says(tmp_path):
    trainer = build(rivals.SmallLossTrainer, tmp_path, arguments={"wrong": 0.7})
    trainer.state.global_step = trainer.state.max_steps = 8
    loss, logits, labels = loss_and_logits(trainer, batch(rows=10))
    parts = sorted(-math.log(probabilities(row)[label]) for row, label in zip(logits, labels, strict=True))
    assert loss == pytest.approx(sum(parts[:3]) / 3, rel=1e-5)


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_what_is_no_whole_example_is_left_out_later(rows, tmp_path):
    trainer = build(rivals.SmallLossTrainer, tmp_path, arguments={"wrong": 0.2})
    trainer.state.global_step = trainer.state.max_steps = 8
    logits, left_out = torch.randn(rows, 3), 0
    for _ in range(30):
        labels = torch.arange(rows) % 3
        losses = nn.functional.cross_entropy(logits, labels, reduction="none").sort().values
        loss = trainer.loss_of(logits, labels, None)
        left_out += min(range(rows), key=lambda count: abs(losses[: rows - count].mean() - loss))
    assert left_out == round(0.2 * rows * 30)
    trainer.start_run()
    assert trainer.due == 0


# ---- Small data ----


def test_extrapolated_steps_are_those_of_a_loop(tmp_path):
    data, rate, distance = toy_examples(4), 0.1, 1.5
    settings = {"optim": "sgd", "learning_rate": rate, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    settings |= {"max_steps": 4, "per_device_train_batch_size": 4}
    trainer = build(rivals.ExtrapolatedTrainer, tmp_path, data, arguments={"distance": distance}, **settings)
    model = Toy()
    inputs = {"x": torch.stack([each["x"] for each in data]), "labels": torch.tensor([e["labels"] for e in data])}
    before = None
    for _ in range(4):
        here = [weight.detach().clone() for weight in model.parameters()]
        with torch.no_grad():
            for weight, now, last in zip(model.parameters(), here, before or here, strict=True):
                weight.copy_(now + distance * (now - last))
        gradients = torch.autograd.grad(model(**inputs)["loss"], list(model.parameters()))
        with torch.no_grad():
            for weight, now, gradient in zip(model.parameters(), here, gradients, strict=True):
                weight.copy_(now - rate * gradient)
        before = here
    trainer.train()
    for own, expected in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]])
def test_the_pairwise_hinge_is_that_of_all_pairs(labels):
    scores = [0.3, -0.2, 1.4, 0.9, 0.1]
    pairs = [(scores[i], scores[j]) for i in range(5) for j in range(5) if labels[i] == 1 and labels[j] == 0]
    expected = sum(max(0.0, 1 - (a - b)) ** 2 for a, b in pairs) / max(1, len(pairs))
    assert pairwise_hinge(torch.tensor(scores), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-5)


def test_a_stage_draws_from_a_part_that_doubles_as_often_as_there_are_rows():
    sampler, seen = StageSampler(40, stages=3, seed=5), []
    for sampler.stage in (0, 1, 2):
        for sampler.epoch in (0, 1):
            rows = list(sampler)
            assert len(rows) == len(sampler) == 40
            assert max(map(rows.count, rows)) == min(map(rows.count, rows))
            assert rows == list(sampler)
        seen.append(set(rows))
    assert [len(each) for each in seen] == [10, 20, 40]
    assert seen[0] < seen[1] < seen[2]
    sampler.epoch = 0
    assert list(sampler) != rows


def test_stages_pull_back_to_where_they_started(tmp_path):
    trainer = build(rivals.StagewiseTrainer, tmp_path, arguments={"stages": 2, "proximity": 3.0})
    weights = dict(trainer.model.named_parameters())
    loss, *_ = loss_and_logits(trainer, batch())
    trainer.start = {name: weight.detach() + 0.1 for name, weight in weights.items()}
    pulled, *_ = loss_and_logits(trainer, batch())
    count = sum(weight.numel() for weight in weights.values())
    assert pulled - loss == pytest.approx(1.5 * 0.01 * count, rel=1e-4)


def test_propagation_is_that_of_the_inverse_matrix():
    rows = np.random.default_rng(3).normal(size=(9, 2))
    squares = np.array([[((a - b) ** 2).sum() for b in rows] for a in rows])
    spread = np.std([squares[i, j] for i in range(9) for j in range(9) if i != j])
    joined = np.array([[0 if i == j else math.exp(-squares[i, j] / spread) for j in range(9)] for i in range(9)])
    degrees = joined.sum(axis=1)
    matrix = np.array([[joined[i, j] / math.sqrt(degrees[i] * degrees[j]) for j in range(9)] for i in range(9)])
    np.testing.assert_allclose(propagate(rows), np.linalg.inv(np.eye(9) - 0.5 * matrix) @ rows)


@pytest.mark.parametrize("rows", [np.ones((4, 2)), np.ones((1, 3)), np.zeros((2, 2))])
def test_propagation_of_points_that_coincide_is_finite(rows):
    assert np.isfinite(propagate(rows)).all()
