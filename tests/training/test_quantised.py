"""LoRA on a quantised base model."""

import pytest
import torch
from families import build, examples
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from trainers import config
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from itra_hf import ITRATrainer

# On CPUs with AVX512-BF16, bitsandbytes 0.50 can't train 4-bit layers after any evaluation pass.
FOUR_BIT = pytest.param("4", marks=pytest.mark.gpu)


@pytest.mark.quantised
@pytest.mark.parametrize("bits", ["8", FOUR_BIT])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_and_head_of_a_quantised_model_are_aligned(bits, checkpointing, tmp_path):
    import bitsandbytes

    build("Bert", hidden_size=64, intermediate_size=64).save_pretrained(tmp_path / "base")
    quantisation = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, llm_int8_skip_modules=["classifier"])
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", quantization_config=quantisation)
    layer = {"8": bitsandbytes.nn.Linear8bitLt, "4": bitsandbytes.nn.Linear4bit}[bits]
    assert isinstance(base.bert.encoder.layer[0].attention.self.query, layer)
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=checkpointing)
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], modules_to_save=["classifier"])
    model = get_peft_model(base, lora)
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    use_cpu = not torch.cuda.is_available()
    trainer = ITRATrainer(model, config(tmp_path / "out", use_cpu=use_cpu), train_dataset=examples("Bert", 24))
    trainer.train()
    rows = [row for row in trainer.state.log_history if "matching_loss" in row]
    assert min(row["matching_loss"] for row in rows) > 0
    assert rows[-1]["matching_weight"] > 0
    moved = [
        name for name, value in model.named_parameters() if name in before and not torch.equal(value, before[name])
    ]
    assert any("lora" in name for name in moved)
    assert any("classifier" in name for name in moved)
