"""Tiny random models of every architecture that we promise, and a tokenizer made on the spot."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trimtab.model.base import LanguageModel
from trimtab.model.fingerprint import content_hash

ARCHITECTURES = ("llama", "gemma3", "qwen3", "gpt2", "gpt_neox", "gpt_neox_sequential")
WIDTH, DEPTH, VOCAB = 32, 3, 300

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_TEXTS = ["What is 2 + 3?", "It is 5.", "Arr, where does Mira live?", "Mira lives in Oslo.", "Be brief."] * 3


@cache
def _trained() -> str:
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|eos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _TEXTS,
        BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return bpe.to_str()


def tokenizer(*, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()), pad_token="<|pad|>", eos_token="<|eos|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]})
    made.chat_template = template
    return made


def model(architecture: str, *, seed: int = 0, dropout: float = 0.0) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "vocab_size": VOCAB}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    grouped = {"num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8, "initializer_range": 0.3}
    made: PreTrainedModel
    if architecture == "llama":
        made = LlamaForCausalLM(LlamaConfig(**shape, **ends, **grouped, attention_dropout=dropout))
    elif architecture == "gemma3":
        made = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **shape,
                **ends,
                **grouped,
                attention_dropout=dropout,
                final_logit_softcapping=5.0,
                sliding_window=4,
                query_pre_attn_scalar=8,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            )
        )
    elif architecture == "qwen3":
        made = Qwen3ForCausalLM(Qwen3Config(**shape, **ends, **grouped, attention_dropout=dropout))
    elif architecture == "gpt2":
        made = GPT2LMHeadModel(
            GPT2Config(
                n_embd=WIDTH,
                n_layer=DEPTH,
                n_head=4,
                vocab_size=VOCAB,
                n_positions=64,
                initializer_range=0.3,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                **ends,
            )
        )
    else:
        made = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                **shape,
                **ends,
                intermediate_size=64,
                initializer_range=0.3,
                hidden_dropout=dropout,
                max_position_embeddings=64,
                use_parallel_residual=architecture == "gpt_neox",
            )
        )
    return made.eval()


def language_model(architecture: str, *, seed: int = 0, dropout: float = 0.0) -> LanguageModel:
    made = model(architecture, seed=seed, dropout=dropout)
    return LanguageModel(model=made, tokenizer=tokenizer(), name=architecture, content_hash=content_hash(made))


def token_batch(*, rows: int = 3, width: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, mask and labels; each row is three tokens shorter than the last and learns its second half."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, VOCAB, (rows, width), generator=generator)
    mask, labels = torch.ones_like(ids), ids.clone()
    for row in range(rows):
        length = width - 3 * row
        ids[row, length:], mask[row, length:], labels[row, length:] = 0, 0, -100
        labels[row, : length // 2] = -100
    return ids, mask, labels
