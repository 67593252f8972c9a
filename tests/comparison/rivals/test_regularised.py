"""The regularisers that `itra-hf compare` can set beside alignment."""

import math
from types import SimpleNamespace

import pytest
import torch
from places import load
from torch import nn
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from itra_hf import ITRAMixin
from itra_hf.comparison.rivals import regularised as regularisers

TRAINERS = [regularisers.RDropTrainer, regularisers.SupConTrainer]


def looped_contrast(features, labels, temperature):
    """The loss of Khosla et al. (their equation 2) in plain Python numbers."""
    points = [[value / math.dist(row, [0] * len(row)) for value in row] for row in features.tolist()]
    losses = []
    for i, anchor in enumerate(points):
        others = [j for j in range(len(points)) if j != i]
        similar = {
            j: math.exp(sum(a * b for a, b in zip(anchor, points[j], strict=True)) / temperature) for j in others
        }
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            losses.append(-sum(math.log(similar[j] / sum(similar.values())) for j in positives) / len(positives))
    return sum(losses) / len(losses)


def batch(rows=8, labels=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 12, (rows, 5), generator=generator)
    labels = torch.arange(rows) % 3 if labels is None else torch.tensor(labels)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def build(trainer_class, model_folder, where, dropout=0.0, **arguments):
    settings = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "num_labels": 3}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, **settings)
    args = TrainingArguments(output_dir=str(where), report_to="none", use_cpu=True, disable_tqdm=True, max_steps=3)
    data = [{name: tensor[0] for name, tensor in batch(1, [i % 3], i).items()} for i in range(24)]
    return trainer_class(model=model, args=args, train_dataset=data, eval_dataset=data, **arguments)


# ---- Losses ----


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 3], [5, 5, 5, 5, 5, 5]])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_supervised_contrast_is_the_papers(labels, temperature):
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    found = regularisers.supervised_contrast(features, torch.tensor(labels), temperature)
    assert found.item() == pytest.approx(looped_contrast(features, labels, temperature), rel=1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0]])
def test_supervised_contrast_without_a_positive_is_zero_with_a_gradient_of_zero(labels):
    features = torch.randn(len(labels), 4, requires_grad=True)
    loss = regularisers.supervised_contrast(features, torch.tensor(labels), 0.3)
    loss.backward()
    assert loss.item() == 0
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 2]])
def test_supervised_contrast_has_the_gradient_of_finite_differences(labels):
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    regularisers.supervised_contrast(features, torch.tensor(labels), 0.5).backward()
    step = torch.zeros(4, 3)
    step[1, 2] = 1e-2
    with torch.no_grad():
        ends = [regularisers.supervised_contrast(features + s * step, torch.tensor(labels), 0.5) for s in (1, -1)]
    assert features.grad.isfinite().all()
    assert features.grad[1, 2].item() == pytest.approx((ends[0] - ends[1]).item() / 2e-2, abs=2e-3)


def test_supervised_contrast_pulls_a_class_together_and_is_finite_for_points_that_coincide():
    labels = torch.tensor([0, 0, 1, 1])
    apart, together = torch.eye(4), torch.eye(4)[[0, 0, 1, 1]]
    losses = [regularisers.supervised_contrast(points, labels, 0.1).item() for points in (apart, together)]
    assert losses[1] < losses[0]
    assert regularisers.supervised_contrast(torch.zeros(4, 4), labels, 0.1).isfinite()


def test_symmetric_divergence_is_the_mean_of_both_kullback_leibler_divergences():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(7, 5, generator=generator) for _ in range(2))
    p, q = (torch.distributions.Categorical(logits=each) for each in (first, second))
    expected = (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)).mean() / 2
    found = regularisers.symmetric_divergence(first, second)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert regularisers.symmetric_divergence(second, first).item() == pytest.approx(found.item())
    assert regularisers.symmetric_divergence(first, first + 3).item() == pytest.approx(0, abs=1e-6)


# ---- Trainers ----


def test_rdrop_adds_the_divergence_between_two_passes(model_folder, tmp_path):
    trainer = build(regularisers.RDropTrainer, model_folder, tmp_path, dropout=0.3, strength=2.0)
    trainer.model.train()
    torch.manual_seed(5)
    loss, outputs = trainer.compute_loss(trainer.model, batch(), return_outputs=True)
    assert len(outputs.logits) == 16
    assert not torch.equal(outputs.logits[:8], outputs.logits[8:])
    divergence = regularisers.symmetric_divergence(outputs.logits[:8], outputs.logits[8:])
    cross_entropy = nn.functional.cross_entropy(outputs.logits, batch()["labels"].repeat(2))
    assert loss.item() == pytest.approx((cross_entropy + 2 * divergence).item(), rel=1e-5)


def test_rdrop_without_dropout_is_the_plain_loss(model_folder, tmp_path):
    losses = []
    for trainer_class in (regularisers.RDropTrainer, Trainer):
        trainer = build(trainer_class, model_folder, tmp_path)
        trainer.model.train()
        losses.append(trainer.compute_loss(trainer.model, batch()).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_supcon_weighs_contrast_against_cross_entropy(weight, model_folder, tmp_path):
    trainer = build(regularisers.SupConTrainer, model_folder, tmp_path, weight=weight, temperature=0.2)
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, batch(), return_outputs=True)
    features = trainer.model.bert(**{k: v for k, v in batch().items() if k != "labels"}).pooler_output
    contrast = regularisers.supervised_contrast(features, batch()["labels"], 0.2)
    cross_entropy = nn.functional.cross_entropy(outputs.logits, batch()["labels"])
    assert loss.item() == pytest.approx(((1 - weight) * cross_entropy + weight * contrast).item(), rel=1e-4)


@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize("labels", [[0, 1, 2, 0], [1, 1, 1, 1], [0, 1, 2], [2]])
def test_gradients_reach_every_layer_and_are_finite(trainer_class, labels, model_folder, tmp_path):
    trainer = build(trainer_class, model_folder, tmp_path, dropout=0.1)
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch(len(labels), labels)).backward()
    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert trainer.model.bert.embeddings.word_embeddings.weight.grad.abs().max() > 0


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_evaluation_is_the_stock_one_also_after_training(trainer_class, model_folder, tmp_path):
    trainer = build(trainer_class, model_folder, tmp_path, dropout=0.3)
    trainer.train()
    plain = Trainer(trainer.model, trainer.args, eval_dataset=trainer.eval_dataset)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    assert (trainer.predict(trainer.eval_dataset)[0] == plain.predict(trainer.eval_dataset)[0]).all()


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_training_honours_label_smoothing_as_the_plain_trainer_does(trainer_class, model_folder, tmp_path):
    """Without the regulariser's own part, the loss is the plain Trainer's."""
    losses = []
    nothing = {"strength": 0.0} if trainer_class is regularisers.RDropTrainer else {"weight": 0.0}
    for each, arguments in ((trainer_class, nothing), (Trainer, {})):
        trainer = build(each, model_folder, tmp_path, **arguments)
        trainer.label_smoother = LabelSmoother(epsilon=0.4)
        trainer.model.train()
        losses.append(trainer.compute_loss(trainer.model, batch()).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ---- Averaged weights ----


def test_averaged_weights_are_the_average_over_the_steps(model_folder, tmp_path):
    class Noting(TrainerCallback):
        def __init__(self):
            self.weights = []

        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.weights.append([weight.detach().clone() for weight in model.parameters()])

    trainer = build(regularisers.AveragedTrainer, model_folder, tmp_path, decay=0.6)
    noting = Noting()
    trainer.add_callback(noting)
    trainer.train()
    first, second, third = noting.weights
    for found, *steps in zip(trainer.model.parameters(), first, second, third, strict=True):
        wanted = 0.36 * steps[0] + 0.24 * steps[1] + 0.4 * steps[2]
        torch.testing.assert_close(found.detach(), wanted)
    assert not torch.equal(next(trainer.model.parameters()), third[0])


def test_the_old_path_still_names_them():
    old = load("regularisers.py")
    for name in ("RDropTrainer", "SupConTrainer", "AveragedTrainer"):
        assert getattr(old, name) is getattr(regularisers, name)


def test_rdrop_can_not_be_aligned_and_says_so(model_folder, tmp_path):
    class Both(ITRAMixin, regularisers.RDropTrainer):
        pass

    with pytest.raises(ValueError, match="runs a batch twice in one pass"):
        build(Both, model_folder, tmp_path)


def test_an_average_of_half_precision_weights_does_not_lag_by_rounding():
    torch.manual_seed(0)
    model, exact = nn.Linear(40, 40).to(torch.bfloat16), None
    averaging = regularisers.WeightAverage(0.99)
    averaging.on_train_begin(None, None, None)
    for step in range(1, 200):
        with torch.no_grad():
            model.weight += 0.02 * torch.randn(40, 40)
        exact = model.weight.double() if exact is None else 0.99 * exact + 0.01 * model.weight.double()
        averaging.on_step_end(None, SimpleNamespace(global_step=step, max_steps=200), None, model=model)
    averaging.on_train_end(None, None, None, model=model)
    torch.testing.assert_close(model.weight, exact.to(torch.bfloat16), atol=1e-3, rtol=1e-2)
