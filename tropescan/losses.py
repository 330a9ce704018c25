"""What the encoder is tuned to: the labels, a look at the deciding sentence, and a scene's variants held apart. Torch is imported by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tropescan.detector import LEVELS, POSITIVE
from tropescan.schema import FACETS, FRAMES, Ints

Span = tuple[int, int]
ATTENTION_LOSS = 0.3  # weight of minus log of the attention that falls on the deciding sentence
APART_LOSS, MARGIN = 2.0, 1.0  # weight of scenes' variants apart, and how far a logit shall lie above another
_LEVEL_LOSS, _FACET_LOSS, _FRAME_LOSS, _ADMIRABLE_LOSS = (0.5, 1.0, 2.0, 1.0), 0.5, 0.7, 0.7
_FRAME = slice(len(LEVELS) + len(FACETS), len(LEVELS) + len(FACETS) + len(FRAMES))


@dataclass(frozen=True)
class Goal:
    """What passages, by number, are tuned towards: 0 and 1 for each output, `target` (all, outputs); the deciding sentences as spans of characters, of
    those that are not variants of scenes; and `scene` (all,), the number of a variant's scene, -1 for none."""

    target: Ints
    deciding: Sequence[Sequence[Span]]
    scene: Ints | None = None

    def loss(self, torch: Any, batch: list[int], logits: Any, attention: Any, offsets: Sequence[Sequence[Span]]) -> Any:
        """The loss of a batch (n), of variants of scenes or of other passages, from its `logits` (n, outputs) and `attention` (n, longest, queries);
        `offsets` are the characters of every passage's tokens."""
        positive = self.target[batch, POSITIVE]
        if self.scene is not None and self.scene[batch[0]] >= 0:
            return apart(torch, logits, positive, self.scene[batch])
        goal = torch.tensor(self.target[batch], dtype=torch.float32)
        inside = [[any(a < e and s < b for a, b in self.deciding[i]) and e > s for s, e in offsets[i]] for i in batch]
        return labels(torch, logits, goal) + look(torch, attention, positive, inside)


def labels(torch: Any, logits: Any, goal: Any) -> Any:
    """Of `logits` and `goal` (n, outputs): cross-entropy of the ordinal levels, facets and admirable, and of the frame where the trope is at issue at all."""
    nn = torch.nn.functional
    scale = [*_LEVEL_LOSS, *[_FACET_LOSS] * len(FACETS), *[0.0] * len(FRAMES), _ADMIRABLE_LOSS]
    each = nn.binary_cross_entropy_with_logits(logits, goal, reduction="none") * torch.tensor(scale)
    frame = nn.cross_entropy(logits[:, _FRAME], goal[:, _FRAME].argmax(1), reduction="none")
    return (each.sum(1) + _FRAME_LOSS * goal[:, 1] * frame).mean()


def look(torch: Any, attention: Any, positive: Ints, inside: Sequence[Sequence[bool]]) -> Any:
    """The first query of `attention` (n, longest, queries) shall look at the tokens `inside` the sentence that decides, in positive passages that
    have one marked."""
    loss = attention.sum() * 0.0
    for k, tokens in enumerate(inside):
        if positive[k] and any(tokens):
            seen = attention[k, : len(tokens), 0][torch.tensor(tokens)].sum()
            loss = loss - ATTENTION_LOSS * torch.log(seen + 1e-4) / len(inside)
    return loss


def apart(torch: Any, logits: Any, positive: Ints, scene: Ints) -> Any:
    """From `logits` (n, outputs), `positive` (n,) and `scene` (n,): within each scene every positive variant shall be put above every other by
    MARGIN, on the levels from POSITIVE upwards: the logistic loss of the differences (RankNet, Burges et al. 2005). Differences say nothing of how
    common or how strong the trope is among written scenes, so that calibration on other text is left alone.
    """
    parts = []
    for one in sorted(set(scene.tolist())):
        high, low = ((scene == one) & (positive == value) for value in (1, 0))
        for level in range(POSITIVE, len(LEVELS)):
            gap = logits[torch.from_numpy(high), level][:, None] - logits[torch.from_numpy(low), level][None, :]
            parts.append(torch.nn.functional.softplus(MARGIN - gap).mean())
    return APART_LOSS * torch.stack(parts).mean()
