"""The feature tap, on real architectures."""

import pytest
import torch
import torch.nn.functional as F
from families import DECODERS, FAMILIES, build, examples
from torch import nn
from trainers import Toy, config, toy_examples
from transformers import default_data_collator

from itra_hf import ITRATrainer
from itra_hf.features import head as features
from itra_hf.features.head import build_tap, pool

CASES = [(family, "right") for family in FAMILIES] + [(family, "left") for family in DECODERS]


def tap_once(model, batch, feature="auto"):
    model.eval()

    def run():
        with torch.no_grad():
            return model(**batch).logits, batch

    tap = build_tap(model, feature, run)
    with tap.recording():
        logits, _ = run()
    return tap, logits


@pytest.mark.parametrize(("family", "side"), CASES)
def test_linear_of_feature_is_logits(family, side):
    model, batch = build(family), default_data_collator(examples(family, 5, side=side))
    tap, logits = tap_once(model, batch)
    assert isinstance(tap.module, nn.Linear)
    features = tap.features(batch)
    assert features.shape == (5, tap.module.in_features)
    torch.testing.assert_close(F.linear(features, tap.module.weight, tap.module.bias), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alignment", ["conditional", "joint", "marginal"])
@pytest.mark.parametrize(("family", "side"), CASES)
def test_two_training_steps(family, side, alignment, tmp_path):
    model = build(family)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    args = config(tmp_path, max_steps=2, per_device_train_batch_size=6, alignment=alignment)
    trainer = ITRATrainer(model, args, train_dataset=examples(family, 12, side=side))
    trainer.train()
    logs = trainer.state.log_history[1]  # the first step's weight is 0
    assert logs["matching_loss"] > 0
    assert logs["matching_weight"] > 0
    assert logs["loss"] == pytest.approx(logs["task_loss"] + logs["matching_weight"] * logs["matching_loss"], rel=1e-5)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("feature", ["cls", "mean", "last"])
def test_pooled_features_follow_the_attention_mask(feature):
    model, batch = build("Bert"), default_data_collator(examples("Bert", 5))
    tap, _ = tap_once(model, batch, feature)
    with torch.no_grad():
        hidden = model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    for row, states, mask in zip(tap.features(batch), hidden, batch["attention_mask"].bool(), strict=True):
        expected = {"cls": states[0], "mean": states[mask].mean(0), "last": states[mask][-1]}[feature]
        torch.testing.assert_close(row, expected)


def test_named_module_gives_its_input_before_or_after_dropout():
    model, batch = build("Bert"), default_data_collator(examples("Bert", 5))
    after, _ = tap_once(model, batch, "classifier")
    before, _ = tap_once(model, batch, "dropout")
    torch.testing.assert_close(after.features(batch), before.features(batch))  # eval mode
    model.train()
    with after.recording(), before.recording():
        model(**batch)
    assert not torch.equal(after.features(batch), before.features(batch))


def test_tap_records_only_when_asked():
    model, batch = build("Bert"), default_data_collator(examples("Bert", 5))
    tap, _ = tap_once(model, batch)
    tap.captured = None
    model(**batch)
    assert tap.captured is None
    with pytest.raises(RuntimeError, match="without the module"):
        tap.features(batch)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("pooler_typo", "neither 'auto', 'cls', 'mean', 'last' nor the name of a module"),
        ("bert.encoder.layer.1.output.dense", "not one feature an example"),
        ("bert.pooler", "not one feature an example"),
        ("bert.encoder.layer.0.attention", "not one feature an example"),
    ],
)
def test_unusable_module_is_refused(feature, message):
    with pytest.raises(ValueError, match=message):
        tap_once(build("Bert"), default_data_collator(examples("Bert", 5)), feature)


def test_model_without_linear_head_is_refused(tmp_path):
    class Scaled(Toy):
        def forward(self, x, labels=None):
            outputs = super().forward(x, labels)
            return {**outputs, "logits": outputs["logits"].tanh()}

    with pytest.raises(ValueError, match="no linear layer whose output is its logits"):
        ITRATrainer(Scaled(), config(tmp_path), train_dataset=toy_examples(8)).train()


def test_mean_refuses_a_mask_that_does_not_fit():
    with pytest.raises(ValueError, match="attention-mask entry"):
        pool(torch.zeros(2, 3, 4), {"attention_mask": torch.ones(2, 9)}, "mean")


def test_the_trial_pass_keeps_the_likely_heads_outputs_only(monkeypatch):
    watched = []
    whole = features._linear_outputs
    monkeypatch.setattr(
        features, "_linear_outputs", lambda modules, run: (watched.append(modules), whole(modules, run))[1]
    )
    model, batch = build("Bert"), default_data_collator(examples("Bert", 5))
    tap_once(model, batch, "auto")
    assert watched == [[model.classifier]]
