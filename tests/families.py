"""Tiny classifiers of many families, built from configs, and batches that fit them."""

import torch
import transformers as hf

VOCABULARY, PAD, EOS, LABELS = 50, 0, 2, 3
TEXT = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS, "num_labels": LABELS}
ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 8}

TEXT_FAMILIES = {
    "Bert": ENCODER,
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40},
    "Roberta": ENCODER,
    "Albert": {**ENCODER, "embedding_size": 16},
    "Electra": {**ENCODER, "embedding_size": 16},
    "DebertaV2": ENCODER,
    "MPNet": ENCODER,
    "ModernBert": {**ENCODER, "cls_token_id": 1, "sep_token_id": 2},
    "XLNet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "Llama": DECODER,
    "Qwen2": DECODER,
    "Mistral": DECODER,
    "Gemma": DECODER,
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "Bart": {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 40,
    },
}
DECODERS = ("GPT2", "Llama", "Qwen2", "Mistral", "Gemma")
VISION = {"image_size": 8, "patch_size": 4, "num_labels": LABELS}
SPEECH = {
    "conv_dim": (8, 8),
    "conv_kernel": (4, 4),
    "conv_stride": (4, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "num_labels": LABELS,
}
OTHER_FAMILIES = {
    "ViT": ("ViTConfig", "ViTForImageClassification", {**ENCODER, **VISION}),
    "Wav2Vec2": ("Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", {**ENCODER, **SPEECH}),
}
FAMILIES = (*TEXT_FAMILIES, *OTHER_FAMILIES)


def build(family: str, seed: int = 0, **overrides) -> hf.PreTrainedModel:
    """A tiny classifier with random weights."""
    torch.manual_seed(seed)
    if family in OTHER_FAMILIES:
        config_name, model_name, settings = OTHER_FAMILIES[family]
    else:
        config_name, model_name = f"{family}Config", f"{family}ForSequenceClassification"
        settings = {**TEXT, **TEXT_FAMILIES[family]}
    return getattr(hf, model_name)(getattr(hf, config_name)(**{**settings, **overrides}))


def examples(family: str, count: int, seed: int = 0, side: str = "right") -> list[dict]:
    """Examples with labels 0, 1, 2, 0, ...; text ones of differing lengths, padded on `side`."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        row: dict = {"labels": index % LABELS}
        if family == "ViT":
            row["pixel_values"] = torch.randn(3, 8, 8, generator=generator)
        elif family == "Wav2Vec2":
            row["input_values"] = torch.randn(400, generator=generator)
        else:
            length = 4 + index % 4
            tokens = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
            tokens[-1] = EOS
            padding = [PAD] * (8 - length)
            before, after = (padding, []) if side == "left" else ([], padding)
            row["input_ids"] = before + tokens + after
            row["attention_mask"] = [0] * len(before) + [1] * length + [0] * len(after)
        rows.append(row)
    return rows
