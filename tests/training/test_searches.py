"""Searches: for hyperparameters, and for the largest batch that fits."""

import copy

import optuna
import pytest
from families import build, examples
from measuring import hook_count
from recording import SGD, logged, plain, train
from torch.testing import assert_close
from trainers import config
from transformers import TrainerCallback

from itra_hf import ITRATrainer


class CountHooks(TrainerCallback):
    def __init__(self):
        self.counts = set()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.counts.add(hook_count(model))


def test_a_search_uses_its_values_and_no_trial_leaks_into_the_next(tmp_path):
    data, common, trials, models = examples("Bert", 26), {"weight_mode": "constant", "max_steps": 6}, [], []
    count = CountHooks()
    given = {"model_init": lambda: build("Bert"), "train_dataset": data}
    search = ITRATrainer(args=config(tmp_path, **common), eval_dataset=data[:8], callbacks=[count], **given)

    def space(trial):
        return {
            "matching_weight": trial.suggest_float("matching_weight", 0.1, 0.9),
            "alignment": trial.suggest_categorical("alignment", ["conditional", "joint", "marginal"]),
        }

    def objective(metrics):
        trials.append((search._trial.params, logged(search)))
        models.append(search.model)
        return metrics["eval_loss"]

    search.hyperparameter_search(
        space, objective, n_trials=3, backend="optuna", sampler=optuna.samplers.RandomSampler(seed=2)
    )
    assert len({settings["alignment"] for settings, _ in trials}) > 1
    assert count.counts == {1}  # the feature's tap, on the new model
    assert [hook_count(model) for model in models] == [0, 0, 0]
    for index, (settings, log) in enumerate(trials):
        assert log["matching_weight"] == pytest.approx([settings["matching_weight"]] * 6)
        fresh = ITRATrainer(args=config(tmp_path / str(index), **common, **settings), **given)
        fresh.train()
        assert logged(fresh) == log


def test_a_trial_may_leave_settings_behind_that_do_nothing_in_the_next(tmp_path):
    seen, data = [], examples("Bert", 26)
    given = {"model_init": lambda: build("Bert"), "train_dataset": data, "eval_dataset": data[:8]}
    search = ITRATrainer(args=config(tmp_path), **given)

    def space(trial):
        return {"companion": "memory", "memory_size": 16} if trial.number == 0 else {"companion": "sample"}

    def objective(metrics):
        seen.append((search.args.companion, search._itra_companion))
        return metrics["eval_loss"]

    search.hyperparameter_search(space, objective, n_trials=2, backend="optuna")
    assert seen == [("memory", "memory"), ("sample", "sample")]


@pytest.mark.slow
def test_auto_find_batch_size_ends_like_a_run_of_that_size(tmp_path):
    model, common = plain(), {"max_steps": 5, **SGD}
    expected = train(tmp_path, copy.deepcopy(model), per_device_train_batch_size=10, **common)

    def refuse(module, args, kwargs):
        if len(args[0] if args else kwargs["input_ids"]) > 20:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    handle = model.bert.register_forward_pre_hook(refuse, with_kwargs=True)
    found = train(tmp_path, model, per_device_train_batch_size=16, auto_find_batch_size=True, **common)
    handle.remove()
    assert found.state.train_batch_size == 10  # twice that, both batches, is what fits
    assert logged(found) == logged(expected)
    assert_close(model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)
    assert hook_count(model) == 0
