"""Keys and values of the tokens so far, one preallocated buffer a layer.

Shape legend: B batch, S new tokens, K tokens so far, M kv heads (of this rank), D head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["Cache", "LayerCache"]


class LayerCache:
    """The keys and values of one layer.

    Args:
        batch_size: B.
        max_length: tokens there is room for.

    `length` is the number of tokens so far, `first_length` that of the first call, the prompt (Qwen v1 keeps the
    rotary base of its prompt). `notes` are what else a model keeps of its prompt, by name: tensors whose first dim is
    the batch (ChatGLM keeps where the prompt ended).
    """

    def __init__(self, batch_size: int, max_length: int) -> None:
        self.length = 0
        self.first_length = 0
        self.notes: dict[str, Tensor] = {}
        self._room = (batch_size, max_length)
        self._k: Tensor | None = None
        self._v: Tensor | None = None

    def update(self, k_BSMD: Tensor, v_BSMD: Tensor) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values, [B, K, M, D]; `length` grows by S.

        The buffers are made at the first call, so they have the heads and the type of this rank's projections.
        Gradients do not flow through the cache.

        Raises:
            ValueError: another batch size than promised, or no room is left.
        """
        batch_size, max_length = self._room
        if k_BSMD.shape[0] != batch_size:
            raise ValueError(f"a cache for {batch_size} samples was given {k_BSMD.shape[0]}")
        if self.length == 0:
            self.first_length = k_BSMD.shape[1]
        end = self.length + k_BSMD.shape[1]
        if end > max_length:
            raise ValueError(f"a cache for {max_length} tokens has no room for {end}")
        with paddle.no_grad():
            if self._k is None or self._v is None:
                self._k = paddle.zeros([batch_size, max_length, *k_BSMD.shape[2:]], dtype=k_BSMD.dtype)
                self._v = paddle.zeros([batch_size, max_length, *v_BSMD.shape[2:]], dtype=v_BSMD.dtype)
            self._k[:, self.length : end] = k_BSMD
            self._v[:, self.length : end] = v_BSMD
            self.length = end
            return self._k[:, :end], self._v[:, :end]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)

    def reorder(self, index_B: Tensor) -> None:
        """Let sample i continue what sample `index_B[i]` (integer, [B]) has said: one step of beam search."""
        with paddle.no_grad():
            if self._k is not None and self._v is not None:
                self._k, self._v = paddle.gather(self._k, index_B), paddle.gather(self._v, index_B)
            self.notes = {name: paddle.gather(note, index_B) for name, note in self.notes.items()}


class Cache:
    """The caches of all layers; `cache[i]` is that of layer i.

    Args:
        num_layers: layers of the model (of this stage).
        batch_size: B.
        max_length: tokens there is room for, prompt included.
    """

    def __init__(self, num_layers: int, batch_size: int, max_length: int) -> None:
        self.max_length = max_length
        self._layers = [LayerCache(batch_size, max_length) for _ in range(num_layers)]

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> LayerCache:
        return self._layers[layer]

    @property
    def length(self) -> int:
        """Tokens so far; to be read before the layers of a step run, for they advance one after the other."""
        return max((layer.length for layer in self._layers), default=0)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens, in every layer."""
        for layer in self._layers:
            layer.truncate(length)

    def reorder(self, index_B: Tensor) -> None:
        """Let sample i continue what sample `index_B[i]` has said, in every layer."""
        for layer in self._layers:
            layer.reorder(index_B)
