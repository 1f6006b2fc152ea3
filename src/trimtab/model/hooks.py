"""Read and write hooks: two Protocols, so that a logger passed as a steering hook is a static error.

All hooks on one module run in one forward hook of ours, placed before anybody else's: first the writes in the order
in which they were attached, then the reads. Reads, later layers and Hugging Face's ``hidden_states`` therefore see
what was written. When the last hook of a module is detached, nothing of ours is left on it.

Under gradient checkpointing a layer runs a second time in the backward pass. Writes run again there, as they must
(so they have to be deterministic); reads do not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import attrgetter
from typing import Literal, Protocol, TypeAlias, cast, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.errors import UsageError
from trimtab.model.sites import module_for
from trimtab.records.site import Site


@runtime_checkable
class ReadHook(Protocol):
    """Looks at an activation. It gets a detached tensor: nothing that it computes can train the model."""

    def __call__(self, activation: Float[Tensor, "batch token d_model"], site: Site) -> None:
        """Read the activation; it must not be changed in place."""
        ...


@runtime_checkable
class WriteHook(Protocol):
    """Replaces an activation (``writing``) or its gradient (``gradient_writing``)."""

    def __call__(
        self, activation: Float[Tensor, "batch token d_model"], site: Site
    ) -> Float[Tensor, "batch token d_model"]:
        """Return the new value, same shape; return the argument itself to change nothing. Never change it in place."""
        ...


_Kind: TypeAlias = Literal["write", "gradient", "read"]
_Hook: TypeAlias = Callable[[Tensor, Site], Tensor | None]
_Entry: TypeAlias = tuple[_Kind, Site, _Hook]


def reading(model: nn.Module, hooks: Mapping[Site, ReadHook]) -> AbstractContextManager[None]:
    """Call each hook with the activation at its site, once per forward pass, until the context ends.

    Raises:
        UsageError: On entry, if the model lacks a site.
    """
    return _attached(model, "read", hooks)


def writing(model: nn.Module, hooks: Mapping[Site, WriteHook]) -> AbstractContextManager[None]:
    """Replace the activation at each site by what its hook returns, cast to the activation's dtype.

    Gradients flow through the hook. A hook that returns its argument leaves the forward pass bit for bit as it is.

    Raises:
        UsageError: On entry, if the model lacks a site; in the forward pass, if a hook returns another shape.
    """
    return _attached(model, "write", hooks)


def gradient_writing(model: nn.Module, hooks: Mapping[Site, WriteHook]) -> AbstractContextManager[None]:
    """Replace dL/dh at each site by what its hook returns; the forward pass is untouched bit for bit.

    The gradient is complete when the hook gets it: residual and block branches are summed.

    Raises:
        UsageError: On entry, if the model lacks a site; in the backward pass, if a hook returns another shape.
    """
    return _attached(model, "gradient", hooks)


_CHAINS: WeakKeyDictionary[nn.Module, _Chain] = WeakKeyDictionary()


class _Chain:
    """All hooks of ours on one module."""

    def __init__(self, module: nn.Module) -> None:
        self.entries: list[_Entry] = []
        self.handle: RemovableHandle = module.register_forward_hook(self, prepend=True)

    def __call__(self, module: nn.Module, args: object, output: object) -> object:
        del module, args
        parts = cast("tuple[Tensor, ...]", output) if isinstance(output, tuple) else None
        given = cast("Tensor", output) if parts is None else parts[0]
        activation = given
        for kind, site, hook in self.entries:
            if kind == "write":
                activation = _checked(hook(activation, site), activation, site)
        for kind, site, hook in self.entries:
            if kind == "gradient" and activation.requires_grad:
                _on_gradient(activation, partial(_edit_gradient, site=site, hook=hook))
        if not _in_backward():
            for kind, site, hook in self.entries:
                if kind == "read":
                    hook(activation.detach(), site)
        if activation is given:
            return None
        return activation if parts is None else (activation, *parts[1:])


@contextmanager
def _attached(model: nn.Module, kind: _Kind, hooks: Mapping[Site, _Hook]) -> Generator[None]:
    placed: list[tuple[nn.Module, _Entry]] = [
        (module_for(model, site), (kind, site, hook)) for site, hook in hooks.items()
    ]
    for module, entry in placed:
        chain = _CHAINS.get(module)
        if chain is None:
            chain = _CHAINS[module] = _Chain(module)
        chain.entries.append(entry)
    try:
        yield
    finally:
        for module, entry in placed:
            chain = _CHAINS[module]
            chain.entries = [other for other in chain.entries if other is not entry]
            if not chain.entries:
                chain.handle.remove()
                del _CHAINS[module]


def _checked(new: Tensor | None, old: Tensor, site: Site) -> Tensor:
    if new is None or new.shape != old.shape:
        raise UsageError(
            f"a hook at {site} returned {'None' if new is None else f'shape {tuple(new.shape)}'}",
            allowed=f"a tensor of shape {tuple(old.shape)}",
            todo="return the activation that you were given, changed or not",
        )
    return new.to(old.dtype)


def _edit_gradient(gradient: Tensor, *, site: Site, hook: _Hook) -> Tensor:
    return _checked(hook(gradient, site), gradient, site)


def _on_gradient(activation: Tensor, edit: Callable[[Tensor], Tensor]) -> None:
    register = cast("Callable[[Callable[[Tensor], Tensor]], object]", activation.register_hook)
    register(edit)


_graph_task: Callable[[], int] = attrgetter("_C._current_graph_task_id")(torch)
"""Identifies the backward pass that is running; no public name exists, ``torch.utils.checkpoint`` uses this one too."""


def _in_backward() -> bool:
    """Whether autograd is running a backward pass, that is, whether a checkpointed layer is being recomputed."""
    return _graph_task() != -1
