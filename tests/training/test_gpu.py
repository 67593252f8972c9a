"""What only a GPU shows: half precision, gradient scaling, TF32, compiled kernels, NCCL."""

import pytest
import torch
from families import build, examples
from launched import WITHOUT_DROPOUT, assert_same, launch, train
from trainers import config

from itra_hf import ITRATrainer, MatchingLoss

pytestmark = pytest.mark.gpu
LOGGED = ("task_loss", "matching_loss", "matching_weight")


def series(folder, **settings):
    """The logged series of ten steps."""
    arguments = {"max_steps": 10, "learning_rate": 1e-3, "matching_weight": 0.5, "use_cpu": False, **settings}
    trainer = ITRATrainer(
        build("Bert", **WITHOUT_DROPOUT), config(folder, **arguments), train_dataset=examples("Bert", 48)
    )
    trainer.train()
    assert trainer.args.device.type == "cuda"
    return {key: [row[key] for row in trainer.state.log_history if key in row] for key in LOGGED}


@pytest.mark.parametrize("settings", [{"bf16": True}, {"fp16": True}, {"tf32": True}, {"torch_compile": True}])
def test_trajectory_is_near_that_of_float32(settings, tmp_path):
    whole, other = series(tmp_path / "whole"), series(tmp_path / "other", **settings)
    for key in LOGGED:
        assert other[key] == pytest.approx(whole[key], rel=0.1, abs=0.02), key
    assert max(other["matching_weight"]) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alignment", ["conditional", "joint", "marginal"])
def test_matching_loss_of_large_half_precision_features(dtype, alignment):
    generator = torch.Generator().manual_seed(0)
    rows = [(torch.randn(16, 32, generator=generator) * 1e4 / 32**0.5).to(dtype) for _ in range(2)]
    labels = torch.arange(16) % 3
    loss = MatchingLoss(alignment=alignment)
    features = [row.cuda().requires_grad_() for row in rows]
    with torch.autocast("cuda", dtype=dtype):
        value = loss(features[0], labels.cuda(), features[1], labels.cuda())
    value.backward()
    assert value.item() == pytest.approx(loss(rows[0].double(), labels, rows[1].double(), labels).item(), rel=1e-3)
    assert all(torch.isfinite(feature.grad).all() for feature in features)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_follow_the_trajectory_of_one(tmp_path):
    arguments = {"use_cpu": False, "matching_weight": 1.0, "accelerator_config": {"even_batches": False}}
    runs = {"two": {"arguments": {**arguments, "per_device_train_batch_size": 4}}}
    ranks = launch(tmp_path, runs, 2)["two"]
    assert_same(ranks, train(tmp_path, {**arguments, "per_device_train_batch_size": 8, "use_cpu": True}))
