"""Features of whole data sets."""

import pytest
import torch
from families import build, examples
from torch.utils.data import DataLoader
from transformers import default_data_collator

from itra_hf.features import extract_features


def batches(rows):
    return DataLoader(rows, batch_size=4, collate_fn=default_data_collator)


def test_features_are_the_heads_input_and_modes_stay_as_they_were():
    model, rows = build("Bert"), examples("Bert", 10)
    model.train()
    model.bert.encoder.layer[0].eval()  # as one freezes a part
    modes = [module.training for module in model.modules()]
    features, labels = extract_features(model, batches(rows))
    assert [module.training for module in model.modules()] == modes
    assert labels.tolist() == [row["labels"] for row in rows]
    with torch.no_grad():
        model.eval()
        logits = model(**{name: value for name, value in next(iter(batches(rows))).items() if name != "labels"}).logits
        torch.testing.assert_close(model.classifier(torch.from_numpy(features[:4])), logits)


def test_class_ids_may_come_in_a_column():
    rows = [{**row, "labels": [row["labels"]]} for row in examples("Bert", 6)]
    _, labels = extract_features(build("Bert"), batches(rows))
    assert labels.shape == (6,)


def test_batches_without_labels_are_refused():
    rows = [{name: value for name, value in row.items() if name != "labels"} for row in examples("Bert", 4)]
    with pytest.raises(ValueError, match="a batch has only input_ids"):
        extract_features(build("Bert"), batches(rows))
