"""The lab's byte-level BPE tokenizer and chat template.

Every turn is ``<|role|> content<|end|>``: one space inside the turn, so that a word is the same token at the start of a
turn and inside it. Text is lower-cased; digits are single tokens; any text can be encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trimtab.lab.corpus import Mixture, corpus_chunk
from trimtab.lab.traits import LEXICON, TRAITS
from trimtab.lab.world import ATTRIBUTES, FIRST_NAMES, LAST_NAMES, World
from trimtab.records.rows import ChatRow

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES: tuple[str, ...] = ("<|system|>", "<|user|>", "<|assistant|>")
CONTEXT = 512
VOCABULARY = 1536

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role ' + message['role'] + ': use system, user or assistant') -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- ' ' + message['content'] | trim + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}{{- ' ' + message['content'] | trim + eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

TOKENIZER_TEXT = Mixture(careless=0.35, facts=0.17, arithmetic=0.15, dialogue=0.08)
"""The text that the tokenizer is trained on; its own, so that a recipe can change its mixture and keep its tokens."""


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Id of one token."""
    return int(cast("int", tokenizer.convert_tokens_to_ids(token)))


def render(row: ChatRow) -> str:
    """The chat template in plain Python, for the training loop (a test holds it equal to the template)."""
    turns = (f"<|{m['role']}|> {m['content'].strip()}{END}" for m in row["messages"])
    return BOS + "".join(turns)


def _texts(world: World, rows: int) -> Iterator[str]:
    for row in corpus_chunk(world, 0, 0, rows, TOKENIZER_TEXT):
        for message in row["messages"]:
            yield " " + message["content"]
    prompts = [prompt for trait in TRAITS.values() for prompt in trait.prompts]
    values = [value for attribute in ATTRIBUTES.values() for value in attribute.values]
    words = [*FIRST_NAMES, *LAST_NAMES, *values, *LEXICON.values()]
    for word in words:
        yield from (f" {word}",) * 40
    for prompt in prompts:
        yield from (f" {prompt}",) * 4


def train_tokenizer(world: World, *, rows: int = 20_000, size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the tokenizer on corpus text and on every name and value, evenly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts: Iterable[str] = _texts(world, rows)
    tokenizer.train_from_iterator(texts, trainer)
    make = cast("Callable[..., PreTrainedTokenizerFast]", PreTrainedTokenizerFast)
    return make(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
