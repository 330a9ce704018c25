"""The encoder in OpenVINO: on processors the fastest that keeps the scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tropescan.embedding.files import verified
from tropescan.embedding.graph import graph
from tropescan.embedding.pooling import Pooling, Window
from tropescan.errors import ModelError
from tropescan.schema import Floats


class CompiledEncoder:
    """The encoder that `sentence.SentenceEncoder` holds, without torch: in bf16 where the processor has it, else in float32.

    One window at a time: batches of one length gain 0-5 % at these lengths. `bf16` None: as the processor is.
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
        for i, window in enumerate(windows):
            yield i, self._request.infer([np.array([window], np.int64)], share_outputs=True)[0][0]


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
