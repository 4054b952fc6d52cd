"""Bytes that tensors take while something is computed, counted without computing it.

Fake tensors have sizes and no content, so that a 7B's layers are counted in seconds on any machine.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Live(TorchDispatchMode):
    """Counts what comes into being under it: now, at most, `kept` for a backward pass, `left`."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in given}
        self.now = self.peak = self.kept = self.left = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return found

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def faked(module: nn.Module) -> nn.Module:
    """The module with fake tensors on the CPU for its own; to be called in a FakeTensorMode."""
    for own in module.modules():
        for name, parameter in own._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                own._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in own._buffers.items():
            if buffer is not None:
                own._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return module


def counted(
    module: nn.Module, given: Iterable[Tensor], forward: Callable[[], Tensor], *, half: bool = True
) -> Live:
    """A forward pass, in bfloat16 if `half`, and its backward pass where there are gradients.

    Beside the module's weights and what is given; gradients are counted.
    """
    live = Live([*module.parameters(), *module.buffers(), *given])
    with live:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = forward().float().sum()
        live.kept = live.now
        if loss.requires_grad:
            loss.backward()
    live.left = live.now
    return live
