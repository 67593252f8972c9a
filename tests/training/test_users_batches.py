"""What people's code does to batches: it renames, changes, pops and adds, and both batches go the same way."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from trainers import AVERAGED, DIM, Toy, config, toy_examples
from transformers import Trainer, default_data_collator

from itra_hf import ITRAConfig, ITRAMixin, ITRATrainer

EITHER = pytest.mark.parametrize("settings", [AVERAGED, {}], ids=["averaged", "own weights"])


def train(kind, folder, data=None, model=None, collate=default_data_collator, **settings):
    args = config(folder, remove_unused_columns=False, **settings)
    trainer = kind(model or Toy(), args, train_dataset=data or toy_examples(12), data_collator=collate)
    trainer.train()
    return trainer


def losses(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class Spied(Toy):
    """Keeps the inputs of each pass."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, labels=None, class_weights=None):
        self.seen.append(x.detach().clone())
        return {"logits": self.head(self.body(x))}


def rows_of(tensor):
    return {tuple(row) for row in tensor.tolist()}


def loss_of(outputs, labels):
    return functional.cross_entropy(outputs["logits"], labels)


# ---- Inputs that compute_loss calls otherwise ----


class Renames(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(x=inputs["image"])
        return (loss_of(outputs, inputs["labels"]), outputs) if return_outputs else loss_of(outputs, inputs["labels"])


class AddsWeights(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs, class_weights=torch.tensor([1.0, 2.0, 3.0]))
        return (loss_of(outputs, labels), outputs) if return_outputs else loss_of(outputs, labels)


class OtherColumn(Trainer):
    """Calls the model with a column of another name than the argument, beside one of that name."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(x=inputs["z"])
        return (loss_of(outputs, inputs["labels"]), outputs) if return_outputs else loss_of(outputs, inputs["labels"])


@EITHER
@pytest.mark.parametrize("base", [Renames, AddsWeights, OtherColumn])
def test_a_compute_loss_may_rename_inputs_and_add_tensors(base, settings, tmp_path):
    kind, data = type("Aligned", (ITRAMixin, base), {}), toy_examples(12)
    wanted = rows_of(torch.stack([row["x"] for row in data]))
    if base is Renames:
        data = [{"image": row["x"], "labels": row["labels"]} for row in data]
    elif base is OtherColumn:
        data = [{"z": row["x"], "x": 0 * row["x"], "labels": row["labels"]} for row in data]
    model = Spied()
    trainer = train(kind, tmp_path, data, model, **settings)
    assert max(losses(trainer, "matching_loss")) > 0
    assert all(rows_of(each) <= wanted for each in model.seen)
    passes = {tuple(sorted(rows_of(each))) for each in model.seen}
    assert len(passes) > 3  # companions are no copies of primary batches
    plain = train(kind, tmp_path, data, Spied(), matching_weight=0.0)
    assert_close(losses(trainer, "task_loss")[0], losses(plain)[0], rtol=1e-3, atol=1e-3)


class Crowded(Spied):
    """Has parts whose names a wrapper might use."""

    def __init__(self):
        super().__init__()
        self.model, self.features, self.rows, self.captured = nn.Linear(4, 4), nn.Identity(), 7, "mine"


class LooksAtParts(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        assert isinstance(model.model, nn.Linear)
        assert isinstance(model.features, nn.Identity)
        assert (model.rows, model.captured) == (7, "mine")
        model.companion = "set"
        outputs = model(x=inputs["x"])
        return (loss_of(outputs, inputs["labels"]), outputs) if return_outputs else loss_of(outputs, inputs["labels"])


@EITHER
def test_a_compute_loss_sees_all_parts_of_the_model(settings, tmp_path):
    model = Crowded()
    trainer = train(type("Aligned", (ITRAMixin, LooksAtParts), {}), tmp_path, model=model, **settings)
    assert max(losses(trainer, "matching_loss")) > 0
    assert vars(model)["companion"] == "set"


# ---- Inputs that people's code changes ----


class Normalises(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs["x"] = inputs["x"] / 100
        outputs = model(x=inputs["x"])
        return (loss_of(outputs, inputs["labels"]), outputs) if return_outputs else loss_of(outputs, inputs["labels"])


class Derives(Trainer):
    """Makes an argument of the model of what is no argument of it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(x=inputs["image"] / 100)
        return (loss_of(outputs, inputs["labels"]), outputs) if return_outputs else loss_of(outputs, inputs["labels"])


class Prepares(Trainer):
    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        inputs["x"] = inputs["x"] / 100
        return inputs


@EITHER
def test_inputs_that_compute_loss_changes_are_told(settings, tmp_path, caplog):
    class Aligned(ITRAMixin, Normalises):
        pass

    train(Aligned, tmp_path, **settings)
    assert sum("compute_loss made x anew of the primary batch" in record.message for record in caplog.records) == 1
    caplog.clear()
    train(Aligned, tmp_path, companion="memory")
    train(ITRATrainer, tmp_path, **settings)
    assert "anew" not in caplog.text


@EITHER
def test_what_only_the_primary_batch_has_is_not_aligned_with_itself(settings, tmp_path, caplog):
    data = [{"image": row["x"], "labels": row["labels"]} for row in toy_examples(12)]
    kind = type("Aligned", (ITRAMixin, Derives), {})
    trainer = train(kind, tmp_path, data, Spied(), **settings)
    assert sum("compute_loss made x anew of the primary batch" in record.message for record in caplog.records) == 1
    assert not losses(trainer, "matching_loss")
    assert losses(train(kind, tmp_path, data, Spied(), companion="memory"), "matching_loss")


@EITHER
def test_both_batches_are_prepared_alike(settings, tmp_path, caplog):
    class Own(Prepares):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(x=inputs["x"])
            loss = loss_of(outputs, inputs["labels"])
            return (loss, outputs) if return_outputs else loss

    class Aligned(ITRAMixin, Own):
        pass

    model = Spied()
    train(Aligned, tmp_path, model=model, **settings)
    assert max(float(each.abs().max()) for each in model.seen) < 1
    assert "anew" not in caplog.text


def evaluated_once(kind, folder, **settings):
    """What evaluation and training with evaluation give, and the largest input that the model saw."""
    model, data = Spied(), toy_examples(12)
    args = config(folder, remove_unused_columns=False, eval_strategy="steps", eval_steps=1, **settings)
    trainer = kind(model, args, train_dataset=data, eval_dataset=data, data_collator=default_data_collator)
    trainer.train()
    return [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line], model.seen


@pytest.mark.parametrize("above", [False, True], ids=["below the mixin", "above"])
def test_measuring_prepares_inputs_once(above, tmp_path):
    class Loss(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(x=inputs["x"])
            loss = loss_of(outputs, inputs["labels"])
            return (loss, outputs) if return_outputs else loss

    class Doubles:
        def _prepare_inputs(self, inputs):
            inputs = super()._prepare_inputs(inputs)
            return {**inputs, "x": inputs["x"] * 2}

    bases = (Doubles, ITRAMixin, Loss) if above else (ITRAMixin, Doubles, Loss)
    kind = type("Aligned", bases, {})
    plain, seen = evaluated_once(kind, tmp_path)
    measured, seen_too = evaluated_once(kind, tmp_path, eval_compactness=True)
    assert measured == plain
    assert max(float(each.abs().max()) for each in seen_too) == max(float(each.abs().max()) for each in seen)


def test_measuring_leaves_what_was_set_on_the_trainer(tmp_path):
    data = toy_examples(12)
    args = config(tmp_path, eval_compactness=True)
    trainer = ITRATrainer(Toy(), args, train_dataset=data, eval_dataset=data, data_collator=default_data_collator)
    stock, calls = trainer._prepare_inputs, []
    trainer._prepare_inputs = lambda inputs: calls.append(1) or stock(inputs)
    trainer.evaluate()
    assert len(calls) == len(trainer.get_eval_dataloader())
    trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader())))
    assert len(calls) == len(trainer.get_eval_dataloader()) + 1


def test_preparing_may_make_a_batch_no_mapping(tmp_path, caplog):
    class Own(Trainer):
        def _prepare_inputs(self, inputs):
            inputs = super()._prepare_inputs(inputs)
            return inputs["x"], inputs["labels"]

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(x=inputs[0])
            return (loss_of(outputs, inputs[1]), outputs) if return_outputs else loss_of(outputs, inputs[1])

    kind = type("Aligned", (ITRAMixin, Own), {})
    args = ITRAConfig(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        logging_steps=1,
        remove_unused_columns=False,
    )
    trainer = kind(Spied(), args, train_dataset=toy_examples(12), data_collator=default_data_collator)
    trainer.train()
    assert "companion='auto' is 'memory' in this run" in caplog.text
    assert losses(trainer, "matching_loss")


# ---- Labels that compute_loss takes out ----


class Ragged(nn.Module):
    """Classifies bags of tokens, given as one row of tokens with the places where bags begin."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.EmbeddingBag(20, DIM)
        self.head = nn.Linear(DIM, 3)

    def forward(self, tokens, offsets, labels=None):
        return {"logits": self.head(self.body(tokens, offsets))}


def collate_ragged(rows):
    sizes = torch.tensor([0, *(len(row["tokens"]) for row in rows)])
    return {
        "tokens": torch.cat([torch.tensor(row["tokens"]) for row in rows]),
        "offsets": sizes.cumsum(0)[:-1],
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


class Pops(Trainer):
    keeps = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"] if self.keeps else inputs.pop("labels")
        outputs = model(tokens=inputs["tokens"], offsets=inputs["offsets"])
        return (loss_of(outputs, labels), outputs) if return_outputs else loss_of(outputs, labels)


class Keeps(Pops):
    keeps = True


@pytest.mark.parametrize("settings", [{"matching_weight": 0.0}, {}, {"companion": "memory"}, AVERAGED])
def test_batches_of_one_step_count_by_their_examples_whatever_becomes_of_the_labels(settings, tmp_path):
    data = [{"tokens": [(3 * i + j) % 20 for j in range(1 + i % 4)], "labels": i % 3} for i in range(7)]
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4} | settings
    found = []
    for base in (Pops, Keeps):
        kind = type("Aligned", (ITRAMixin, base), {})
        trainer = train(kind, tmp_path, data, Ragged(), collate_ragged, **settings)
        assert trainer._itra_step.mean_rows == 1.5  # of the last step's batches of two and one
        found.append((losses(trainer, "task_loss") or losses(trainer), losses(trainer, "grad_norm")))
    assert found[0] == found[1]
    assert min(found[0][0]) > 0.1


# ---- Collators ----


def prepends(rows):
    """Changes its examples, and returns what can't be cut in two."""
    for row in rows:
        row["tokens"].insert(0, 1)
    return {**collate_ragged(rows), "scale": torch.tensor(1.0)}


def pops(rows):
    labels = torch.tensor([row.pop("labels") for row in rows])
    return {**collate_ragged([{**row, "labels": 0} for row in rows]), "labels": labels}


class Fresh(torch.utils.data.Dataset):
    """Makes its examples anew each time."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"tokens": [5 + (index + j) % 10 for j in range(1 + index % 3)], "labels": index % 3}


@pytest.mark.parametrize("collate", [prepends, pops])
def test_a_collator_that_changes_its_examples_sees_them_fresh(collate, tmp_path):
    class Counted(Ragged):
        counts = ()

        def forward(self, tokens, offsets):
            self.counts = (*self.counts, int((tokens == 1).sum()) == (len(offsets) if collate is prepends else 0))
            return super().forward(tokens, offsets)

    model = Counted()
    train(type("Aligned", (ITRAMixin, Keeps), {}), tmp_path, Fresh(), model, collate, **AVERAGED)
    assert len(model.counts) >= 6
    assert all(model.counts)


def test_a_collator_of_tuples_leaves_auto_a_memory(tmp_path, caplog):
    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            x, labels = inputs
            outputs = model(x=x)
            return (loss_of(outputs, labels), outputs) if return_outputs else loss_of(outputs, labels)

    def collate(rows):
        return torch.stack([row["x"] for row in rows]), torch.tensor([row["labels"] for row in rows])

    kind = type("Aligned", (ITRAMixin, Own), {})
    args = ITRAConfig(
        str(tmp_path), max_steps=6, per_device_train_batch_size=4, report_to="none", use_cpu=True, logging_steps=1
    )
    trainer = kind(Toy(), args, train_dataset=toy_examples(12), data_collator=collate)
    trainer.train()
    assert "companion='auto' is 'memory' in this run" in caplog.text
    assert losses(trainer, "matching_loss")
    with pytest.raises(ValueError, match="came without its companion"):
        train(kind, tmp_path, collate=collate, companion="sample")


def test_a_sampler_of_keys_is_told_what_to_do(tmp_path):
    rows = {f"row {index}": row for index, row in enumerate(toy_examples(12))}

    class Keyed(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, key):
            return rows[key]

    class Own(ITRATrainer):
        def _get_train_sampler(self, *args):
            return list(rows)

    with pytest.raises(ValueError, match="The sampler gives 'row 0', and companions are drawn by number"):
        train(Own, tmp_path, Keyed())
    assert losses(train(Own, tmp_path, Keyed(), companion="memory"), "matching_loss")


# ---- Labels ----


def test_labels_that_are_not_found_are_told(tmp_path, caplog):
    class Named(Toy):
        def forward(self, x, y=None):
            logits = self.head(self.body(x))
            return {"loss": functional.cross_entropy(logits, y), "logits": logits}

    data = [{"x": row["x"], "y": row["labels"]} for row in toy_examples(12)]
    trainer = train(ITRATrainer, tmp_path, data, Named())
    assert "no labels (looked for labels, which the model does not take), so it is aligned by its" in caplog.text
    assert trainer._itra_aligner.matching_loss.alignment == "marginal"
    caplog.clear()
    trainer = train(ITRATrainer, tmp_path, data, Named(), label_names=["y"])
    assert "no labels" not in caplog.text
    assert trainer._itra_aligner.alignment == "conditional"


def test_integers_that_a_model_learns_as_numbers_are_numbers(tmp_path):
    class Number(Toy):
        def __init__(self):
            super().__init__(outputs=1)
            self.config = type("Config", (), {"num_labels": 1})()

        def forward(self, x, labels=None):
            logits = self.head(self.body(x))
            return {"loss": functional.mse_loss(logits[:, 0], labels.float()), "logits": logits}

    data = [{"x": row["x"], "labels": 7 * index} for index, row in enumerate(toy_examples(12))]
    trainer = train(ITRATrainer, tmp_path, data, Number())
    assert trainer._itra_aligner.alignment == "joint"
    assert min(losses(trainer, "matching_loss")) > 0
    given = trainer._itra_labels_of({"labels": torch.tensor([3, -100])})
    assert_close(given, torch.tensor([3.0, torch.nan]), equal_nan=True)  # which joint alignment leaves out
    by_class = train(ITRATrainer, tmp_path, data, Number(), alignment="conditional")
    assert by_class._itra_labels_of({"labels": torch.tensor([3, -100])}).dtype == torch.int64


@pytest.mark.parametrize(
    "settings",
    [AVERAGED, {}, {"companion": "memory"}, {"companion": "split"}],
    ids=["averaged", "own", "memory", "split"],
)
def test_a_model_that_stays_in_eval_mode_trains(settings, tmp_path):
    class Still(Toy):
        def train(self, mode=True):
            return super().train(False)

    assert max(losses(train(ITRATrainer, tmp_path, model=Still(), **settings), "matching_loss")) > 0


class TakesLabelsOut(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        return (loss_of(outputs, labels), outputs) if return_outputs else loss_of(outputs, labels)


@pytest.mark.parametrize("base", [Trainer, TakesLabelsOut])
def test_two_passes_are_told_where_there_are_two(base, tmp_path, caplog):
    model, passes = Toy(), []
    model.register_forward_pre_hook(lambda module, args: passes.append(1) if module.training else None)
    data = toy_examples(12)
    args = config(tmp_path, eval_compactness=True, eval_strategy="steps", eval_steps=1, remove_unused_columns=False)
    kind = type("Mine", (ITRAMixin, base), {})
    kind(model, args, train_dataset=data, eval_dataset=data, data_collator=default_data_collator).train()
    assert len(passes) == (6 if base is Trainer else 3)
    told = ["may compute a loss of its own" in record.message for record in caplog.records]
    assert sum(told) == (1 if base is Trainer else 0)


class LogProbabilities(Toy):
    def forward(self, x, labels=None):
        scores = self.head(self.body(x)).log_softmax(-1)
        return {"loss": functional.nll_loss(scores, labels), "logits": scores}


def test_a_head_may_return_log_probabilities(tmp_path):
    assert max(losses(train(ITRATrainer, tmp_path, model=LogProbabilities()), "matching_loss")) > 0


# ---- What is said ----


def test_a_compute_loss_that_hides_alignment_is_told_so_for_any_model(tmp_path):
    class Mine(ITRATrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    with pytest.raises(ValueError, match=r"Mine\.compute_loss hides the one that aligns"):
        train(Mine, tmp_path)

    class Stumbles(ITRATrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            raise TypeError("before it calls the one that aligns")

    with pytest.raises(TypeError, match="before it calls"):
        train(Stumbles, tmp_path)

    class Broken(Toy):
        def forward(self, x, labels=None):
            raise TypeError("of the model's own")

    with pytest.raises(TypeError, match="of the model's own"):
        train(
            type("Aligned", (ITRAMixin, Renames), {}), tmp_path, [{"image": r["x"]} for r in toy_examples(8)], Broken()
        )


def test_one_batch_without_a_common_class_is_no_reason_to_warn(tmp_path, caplog):
    data = [{**row, "labels": 0 if index < 20 else index % 3} for index, row in enumerate(toy_examples(24))]
    train(ITRATrainer, tmp_path, data, per_device_train_batch_size=1, max_steps=40, num_train_epochs=2)
    assert "exactly 0" not in caplog.text


@pytest.mark.parametrize(("steps", "every"), [(3, 1), (3, 500), (13, 9), (30, 5)])
def test_runs_that_align_nothing_say_so_however_short(steps, every, tmp_path, caplog):
    settings = {"per_device_train_batch_size": 1, "estimator": "unbiased", "gradient_accumulation_steps": 3}
    train(ITRATrainer, tmp_path, max_steps=steps, logging_steps=every, **settings)
    assert sum("has been exactly 0 for" in record.message for record in caplog.records) == 1


def test_a_loss_of_nan_is_not_blamed_on_the_features(tmp_path):
    class Breaks(Toy):
        calls = 0

        def forward(self, x, labels=None):
            self.calls += 1
            found = super().forward(x, labels)
            return {**found, "loss": found["loss"] * (float("nan") if self.calls > 4 else 1.0)}

    with pytest.raises(FloatingPointError, match="The task loss is not finite"):
        train(ITRATrainer, tmp_path, model=Breaks(), companion="memory", max_steps=12)
