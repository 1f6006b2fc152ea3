"""Load any Hugging Face causal language model by id or folder, safely: pinned, safetensors only, no remote code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab.errors import ModelError
from trimtab.model.base import LanguageModel
from trimtab.model.fingerprint import content_hash
from trimtab.model.selfcheck import self_check as check_hooks

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16"]
Device: TypeAlias = str | torch.device

LAB: Final = "lab"
"""The name of the model inside the package."""

_ALLOWED: Final = "a Hugging Face id, a folder written by save_pretrained, or `lab`"
_GENERATIVE: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_log = logging.getLogger(__name__)


def load_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    device: Device | None = None,
    self_check: bool = True,
) -> LanguageModel:
    """Load a causal language model and its tokenizer, and check our hooks on it.

    Configuration, tokenizer and weights all come from one commit: ``revision``, or the newest one where it is not
    given (a warning then names the commit to pin). Remote code is never run, pickled weights are never opened.

    Args:
        name_or_path: Hugging Face id, folder, or ``lab``.
        revision: Branch, tag or commit of a Hugging Face id.
        dtype: ``auto`` keeps the dtype of the file.
        device: Default: the GPU where there is one, else the CPU.
        self_check: Whether to prove the hooks (DESIGN, principle 8).

    Raises:
        ModelError: If it is missing, gated, not in the cache while offline, not a causal language model, needs remote
            code, has no safetensors, or its weights are incomplete.
        SelfCheckError: If a hook does not do what it claims on this model.
    """
    source = _source(name_or_path)
    config = _config(name_or_path, source, revision)
    commit = cast("str | None", getattr(config, "_commit_hash", None)) or revision
    if revision is None and commit is not None:
        _log.warning("%s is not pinned: loading revision %s; pass it as `revision`", name_or_path, commit)
    tokenizer = _tokenizer(name_or_path, source, commit)
    model = _model(name_or_path, source, commit, config, dtype)
    _check_vocabulary(name_or_path, model, tokenizer)
    nn.Module.to(model, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    nn.Module.eval(model)
    lm = LanguageModel(model=model, tokenizer=tokenizer, name=name_or_path, content_hash=content_hash(model))
    if self_check:
        check_hooks(lm)
    return lm


def _source(name: str) -> str:
    """The folder or id behind a name."""
    if name == LAB:
        return str(resources.files("trimtab") / "lab" / "weights")
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_pickles(name, path)
        return str(path)
    if path.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelError(
            f"model {name!r}: {'not a folder' if path.exists() else 'no such folder'}",
            allowed=_ALLOWED,
            todo="check the path; it is the folder that holds config.json",
        )
    return name


def _refuse_pickles(name: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"model {name!r} has only pickled weights ({', '.join(pickles[:3])}), and those can run code when opened",
            allowed="safetensors weights",
            todo="if you trust the files, convert them once: "
            f'AutoModelForCausalLM.from_pretrained("{name}").save_pretrained("NEW_FOLDER"), '
            "and save the tokenizer there too",
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model {name!r}: the folder has no config.json",
            allowed=_ALLOWED,
            todo="pass the folder that holds config.json, model.safetensors and the tokenizer",
        )


def _config(name: str, source: str, revision: str | None) -> PretrainedConfig:
    try:
        config = cast(
            "PretrainedConfig", AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        )
    except (OSError, ValueError, KeyError, HFValidationError) as error:
        raise _explained(name, error) from error
    architectures = config.architectures or []
    generative = not architectures or any(kind.endswith(_GENERATIVE) for kind in architectures)
    if config.is_encoder_decoder or not generative:
        raise ModelError(
            f"model {name!r} is a {', '.join(architectures) or config.model_type}",
            allowed="decoder-only causal language models (…ForCausalLM)",
            todo="choose a causal language model",
        )
    return config


def _tokenizer(name: str, source: str, commit: str | None) -> PreTrainedTokenizerBase:
    try:
        return cast(
            "PreTrainedTokenizerBase",
            AutoTokenizer.from_pretrained(source, revision=commit, trust_remote_code=False),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the tokenizer of {name!r} cannot be loaded: {_first_line(error)}",
            allowed="a tokenizer beside the weights (tokenizer.json)",
            todo="save it there with tokenizer.save_pretrained",
        ) from error


def _model(name: str, source: str, commit: str | None, config: PretrainedConfig, dtype: Dtype) -> PreTrainedModel:
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            revision=commit,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _explained(name, error) from error
    model, info = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
    missing = sorted(str(key) for key in info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {name!r}: {len(missing)} weights are not in its files ({', '.join(missing[:3])}, …)",
            allowed="complete weights of a causal language model, head included",
            todo="save the whole model again; an adapter folder is loaded with its base model by `trimtab verify`",
        )
    return model


def _check_vocabulary(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    embeddings = model.get_input_embeddings()
    rows = int(cast("nn.Embedding", embeddings).num_embeddings)
    if len(tokenizer) > rows:
        raise ModelError(
            f"model {name!r}: the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}",
            allowed="a tokenizer that fits the model",
            todo="use the model's own tokenizer, or call model.resize_token_embeddings and save both",
        )


def _explained(name: str, error: Exception) -> ModelError:
    """What went wrong, from the chain of causes that the Hugging Face libraries leave."""
    kinds: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
        ((GatedRepoError,), "is gated", "accept its licence on huggingface.co, then `hf auth login`"),
        ((RevisionNotFoundError,), "has no such revision", "pass a branch, tag or commit that exists"),
        (
            (OfflineModeIsEnabled, LocalEntryNotFoundError),
            "is not in the local cache, and the Hub cannot be reached",
            f"connect (unset HF_HUB_OFFLINE) or `hf download {name}` first, or pass a folder",
        ),
        ((RepositoryNotFoundError, HFValidationError), "is neither a folder nor a Hugging Face id", "check the name"),
    )
    chain = list(_causes(error))
    for types, reason, todo in kinds:
        if any(isinstance(cause, types) for cause in chain):
            return ModelError(f"model {name!r} {reason}", allowed=_ALLOWED, todo=todo)
    text = str(error)
    if "safetensors" in text or isinstance(error, SafetensorError):
        return ModelError(
            f"model {name!r} cannot be read: {_first_line(error)}",
            allowed="whole safetensors weights",
            todo="if it has only pytorch_model.bin and you trust it, convert it once with save_pretrained",
        )
    if "trust_remote_code" in text or "execute the" in text:
        return ModelError(
            f"model {name!r} needs code from its repository",
            allowed="architectures that the installed transformers knows; remote code is never run",
            todo="choose a model with built-in support, or upgrade transformers",
        )
    return ModelError(f"model {name!r} cannot be loaded: {_first_line(error)}", allowed=_ALLOWED, todo="check the name")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
