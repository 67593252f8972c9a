"""Our series in the trackers that run offline, through the stock callbacks."""

import pytest
from trainers import Toy, config, toy_examples

from itra_hf import ITRATrainer

SERIES = {
    "train": ["task_loss", "matching_loss", "matching_weight", "gradient_variance", "held_out_loss_change"],
    "eval": ["compactness_scatter_ratio", "compactness_class_separation", "compactness_effective_rank"],
}


def train(folder, tracker):
    data = toy_examples(24)
    settings = {"report_to": [tracker], "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2}
    args = config(folder, eval_compactness=True, gradient_noise_steps=2, **settings)
    trainer = ITRATrainer(Toy(), args, train_dataset=data, eval_dataset=data)
    trainer.train()
    return trainer.state.log_history


def values(log_history, name):
    return [(entry["step"], pytest.approx(entry[name], rel=1e-6)) for entry in log_history if name in entry]


def test_tensorboard(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    log_history = train(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    for group, names in SERIES.items():
        for name in names:
            seen = [(event.step, event.value) for event in events.Scalars(f"{group}/{name}")]
            expected = values(log_history, name if group == "train" else f"eval_{name}")
            assert len(expected) >= 2
            assert seen == expected


@pytest.mark.slow
def test_mlflow(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    log_history = train(tmp_path, "mlflow")
    mlflow.flush_async_logging()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    for group, names in SERIES.items():
        for name in names:
            key = name if group == "train" else f"eval_{name}"
            history = client.get_metric_history(run.info.run_id, key)
            assert sorted((metric.step, metric.value) for metric in history) == values(log_history, key)
