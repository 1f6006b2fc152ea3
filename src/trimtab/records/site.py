"""Where in the model something is read or written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from typing_extensions import override

from trimtab.errors import UsageError

Stream: TypeAlias = Literal["resid_post", "mlp_out", "attn_out"]
STREAMS: tuple[str, ...] = get_args(Stream)


@dataclass(frozen=True, order=True)
class Site:
    """A layer and a stream, written ``"3.resid_post"``.

    Attributes:
        layer: 0-based decoder layer.
        stream: ``resid_post`` (residual stream after the layer), ``mlp_out`` or ``attn_out`` (what the block adds).
    """

    layer: int
    stream: Stream = "resid_post"

    @override
    def __str__(self) -> str:
        return f"{self.layer}.{self.stream}"

    @staticmethod
    def parse(text: str) -> Site:
        """Read ``"3"`` or ``"3.resid_post"``.

        Raises:
            UsageError: If the text is not of that form.
        """
        match = re.fullmatch(r"(\d+)(?:\.(\w+))?", text.strip())
        if match is None or (match[2] is not None and match[2] not in STREAMS):
            raise UsageError(
                f"site {text!r}",
                allowed=f"LAYER or LAYER.STREAM with STREAM one of {', '.join(STREAMS)}",
                todo='write for example "2.resid_post"',
            )
        return Site(int(match[1]), cast("Stream", match[2] or "resid_post"))
