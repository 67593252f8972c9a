"""Tiny models with heads that are no sequence classifiers, and examples for them."""

import torch
import transformers as hf
from families import DECODER, ENCODER, EOS, PAD, TEXT_FAMILIES, VOCABULARY

TOKENS, CHOICES = 8, 2
TEXT = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS}
HEADS = {  # the model's class: its config's settings, and what its labels are
    "LlamaForCausalLM": (DECODER, "tokens"),
    "GPT2LMHeadModel": (TEXT_FAMILIES["GPT2"], "tokens"),
    "BertForMaskedLM": (ENCODER, "tokens"),
    "BertForTokenClassification": ({**ENCODER, "num_labels": 3}, "tags"),
    "LlamaForTokenClassification": ({**DECODER, "num_labels": 3}, "tags"),
    "BertForQuestionAnswering": (ENCODER, "answers"),
    "LlamaForQuestionAnswering": (DECODER, "answers"),
    "BertForMultipleChoice": (ENCODER, "choices"),
    "T5ForConditionalGeneration": (TEXT_FAMILIES["T5"], "tokens"),
}


def build_head(name: str) -> hf.PreTrainedModel:
    """A model with random weights and no dropout."""
    settings, _ = HEADS[name]
    family = next(family for family in ("Llama", "GPT2", "Bert", "T5") if name.startswith(family))
    torch.manual_seed(0)
    model = getattr(hf, name)(getattr(hf, f"{family}Config")(**{**TEXT, **settings}))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def head_examples(name: str, count: int) -> list[dict]:
    """Examples of one length; of those with a label a token, a varying number have one."""
    _, kind = HEADS[name]
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, *shape: int) -> list:
        return torch.randint(low, high, shape, generator=generator).tolist()

    rows = []
    for index in range(count):
        shape = (CHOICES, TOKENS) if kind == "choices" else (TOKENS,)
        row = {"input_ids": draw(3, VOCABULARY, *shape), "attention_mask": torch.ones(shape, dtype=torch.long).tolist()}
        unlabelled = [-100] * (index % 5)
        if kind == "tokens":
            row["labels"] = unlabelled + draw(3, VOCABULARY, TOKENS)[len(unlabelled) :]
        elif kind == "tags":
            row["labels"] = unlabelled + draw(0, 3, TOKENS)[len(unlabelled) :]
        elif kind == "answers":
            row |= {"start_positions": index % TOKENS, "end_positions": (index + 1) % TOKENS}
        else:
            row["labels"] = index % CHOICES
        rows.append(row)
    return rows
