"""The encoder in OpenVINO: on processors the fastest that keeps the scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tropescan.embedding.files import verified
from tropescan.embedding.graph import PAD, graph
from tropescan.embedding.pooling import Pooling, Window
from tropescan.errors import ModelError
from tropescan.schema import Floats

_STEP = 32


class CompiledEncoder:
    """The encoder that `sentence.SentenceEncoder` holds, without torch: in bf16 where the processor has it, else in float32.

    One window at a time, the shortest first, padded to a multiple of _STEP tokens: batches gain a tenth, but a change of shape costs as much as half a window
    (reports/log.md). The padding is a function of the window alone, so that a score is too. `bf16` None: as the processor is.
    """

    def __init__(
        self,
        reference: dict[str, Any],
        tensors: dict[str, Any],
        threads: int | None = None,
        bf16: bool | None = None,
    ) -> None:
        folder = verified(reference)
        self._pooling = Pooling(folder, reference, tensors)
        self.dimensions = self._pooling.dimensions
        openvino = _silent()
        try:
            core = openvino.Core()
            if bf16 is None:
                bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            options = {
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
                "NUM_STREAMS": 1,
                # pinned, two processes share one core and leave the other idle
                "ENABLE_CPU_PINNING": False,
            } | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
            compiled = core.compile_model(graph(openvino, folder, tensors), "CPU", options)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot run the encoder ({error}): give --backend torch") from None
        self._request = compiled.create_infer_request()
        self.backend = f"openvino-{'bf16' if bf16 else 'f32'}"

    def encode(self, texts: list[str]) -> Floats:
        """See `pooling.Embedding.encode`."""
        return self._pooling.encode(texts, self._states)

    def _states(self, windows: list[Window]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        for i in sorted(range(len(windows)), key=lambda i: len(windows[i])):
            n = len(windows[i])
            ids = np.full((1, -(-n // _STEP) * _STEP), PAD, np.int64)
            ids[0, :n] = windows[i]
            yield i, self._request.infer([ids], share_outputs=True)[0][0, :n]


def _silent() -> Any:
    """The openvino module. Left to itself it tells Google Analytics that it was imported: a scan tells nobody."""
    reporter = "openvino_telemetry"
    hide = reporter not in sys.modules
    if hide:
        sys.modules[reporter] = None  # type: ignore[assignment]  # it is optional to openvino, and not there
    try:
        import openvino
    finally:
        if hide:
            del sys.modules[reporter]
    return openvino
