"""Fine-tunes the upper layers of the encoder, or all, on labelled passages, all outputs at once, and pools by attention.

What lies below the tuned layers stays as it is and is run once: what it gives for every passage is kept. Torch is imported by whoever makes a Bench.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tropescan import checkpoint
from tropescan.detector import OUTPUTS
from tropescan.embedding import SentenceEncoder, processor_has_bf16
from tropescan.errors import InputError
from tropescan.layers import Dropout, State, layer
from tropescan.losses import Goal
from tropescan.pointers import Say
from tropescan.schema import Floats, Ints

EPOCHS, BATCH = 3, 16
RATE, HEAD_RATE, WARM, DECAY = 8e-5, 1e-3, 0.08, 0.01  # of AdamW (Loshchilov and Hutter 2019)
PART_RATE, PART_HEAD_RATE = 5e-5, 2.5e-4  # of the epoch that holds scenes' variants apart
SCENES = 2  # in a batch
LOWER = 0.85  # a layer's rate against that of the one above it (Howard and Ruder 2018, discriminative fine-tuning)
DROPOUT = 0.1
QUERIES = 4  # attention poolings beside the mean; the first is taught to look at the deciding sentence


@dataclass(frozen=True)
class Tuned:
    """A tuned encoder: `tensors` (upper layers in half precision and the pooling's queries, as embedding.SentenceEncoder takes them),
    and linear heads on its vectors, `weights` (dimensions, outputs) and `bias` (outputs,)."""

    tensors: dict[str, Any]
    weights: Floats
    bias: Floats

    def arrays(self) -> dict[str, Any]:
        """All of it by name."""
        named = {f"tensors.{name}": array for name, array in self.tensors.items()}
        return {**named, "weights": self.weights, "bias": self.bias}

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> Tuned:
        """From what `arrays` gives, whatever else is there."""
        tensors = {n.removeprefix("tensors."): a for n, a in arrays.items() if n.startswith("tensors.")}
        return cls(tensors, arrays["weights"], arrays["bias"])


class Bench:
    """The passages' token states below the tuned layers, and the loop that tunes the layers above them.

    `texts` are all passages ever asked for; they go by their number. `reference` is that of the encoder, with `tuned_layers`, how many of the
    uppermost layers are tuned. The file `states`, 768 bytes a token, is made where it is not there (one that is there must be of the same
    texts), and mapped: processes share it. Raises InputError where there is no room for it.
    The layers run in bfloat16 where the processor multiplies it, else in float32 (reports/log.md).
    Results depend on the seed, on the number of threads and on the processor's arithmetic.
    """

    def __init__(
        self, texts: Sequence[str], reference: dict[str, Any], states: Path, threads: int | None = None
    ) -> None:
        import torch

        self._torch = torch
        self._type = torch.bfloat16 if processor_has_bf16() else torch.float32
        encoder = SentenceEncoder(reference, {}, threads=threads)
        self._model, self._tokenizer = encoder.transformer, encoder.tokenizer
        self._first = len(self._model.encoder.layer) - int(reference["tuned_layers"])
        self._base: list[State] = [one.state_dict() for one in self._model.encoder.layer]
        cut = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=int(reference["window_tokens"]),
            return_offsets_mapping=True,
        )
        self.tokens, self.offsets = cut["input_ids"], cut["offset_mapping"]
        self._at = np.concatenate([[0], np.cumsum([len(t) for t in self.tokens])]).tolist()
        known, shape = states.is_file(), (self._at[-1], int(reference["dimensions"]))
        if not known:
            _reserve(states, 2 * shape[0] * shape[1])
        block = np.memmap(states, np.int16, "r+", shape=shape)
        self._states = torch.from_numpy(block).view(torch.bfloat16)
        if not known:
            self._lower()

    def _lower(self) -> None:
        torch = self._torch
        with torch.inference_mode():
            for rows in _batches(np.argsort([len(t) for t in self.tokens], kind="stable"), 32):
                longest = max(len(self.tokens[i]) for i in rows)
                ids = torch.zeros(len(rows), longest, dtype=torch.long)
                for k, i in enumerate(rows):
                    ids[k, : len(self.tokens[i])] = torch.tensor(self.tokens[i])
                h = self._model.embeddings(input_ids=ids, token_type_ids=torch.zeros_like(ids)).to(self._type)
                h = self._run(self._base[: self._first], h, self._mask(rows, longest), Dropout(0.0, 0))
                for k, i in enumerate(rows):
                    self._states[self._at[i] : self._at[i + 1]] = h[k, : len(self.tokens[i])]

    def _mask(self, rows: Sequence[int], longest: int) -> Any:
        lengths = self._torch.tensor([len(self.tokens[i]) for i in rows])
        return self._torch.arange(longest)[None, :] < lengths[:, None]

    def _run(self, states: Sequence[State], h: Any, mask: Any, drop: Dropout) -> Any:
        blocked = (~mask[:, None, None, :]).to(h.dtype) * -1e9
        config = self._model.config
        for state in states:
            h = layer(h, blocked, state, config.num_attention_heads, config.layer_norm_eps, drop)
        return h

    def _upper(self, tuned: Sequence[State], rows: Sequence[int], drop: Dropout) -> tuple[Any, Any]:
        """The tuned layers' token states (n, longest, width) of these passages, and the mask of their real tokens."""
        longest = max(len(self.tokens[i]) for i in rows)
        h = self._torch.zeros(len(rows), longest, self._states.shape[1], dtype=self._type)
        for k, i in enumerate(rows):
            h[k, : len(self.tokens[i])] = self._states[self._at[i] : self._at[i + 1]]
        mask = self._mask(rows, longest)
        return self._run(tuned, h, mask, drop).float(), mask

    def _heads(self) -> Any:
        torch, width = self._torch, self._states.shape[1]
        return torch.nn.ModuleDict(
            {
                "queries": torch.nn.Linear(width, QUERIES, bias=False),
                "out": torch.nn.Linear(width * (1 + QUERIES), len(OUTPUTS)),
            }
        )

    def _judge(self, tuned: Sequence[State], heads: Any, rows: Sequence[int], drop: Dropout) -> tuple[Any, Any]:
        """Logits (n, outputs) and the attention (n, longest, QUERIES)."""
        torch = self._torch
        h, mask = self._upper(tuned, rows, drop)
        attention = heads["queries"](h).masked_fill(~mask[:, :, None], -1e4).softmax(1)
        mean = (h * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        pooled = torch.cat([mean, torch.einsum("btq,btd->bqd", attention, h).flatten(1)], 1)
        return heads["out"](drop(pooled)), attention

    def fit(
        self,
        rows: Ints,
        share: Floats,
        target: Ints,
        deciding: Sequence[Sequence[tuple[int, int]]],
        say: Say,
        seed: int = 0,
        begun: Path | None = None,
    ) -> Tuned:
        """Tunes on the passages `rows`, each in `share` (n,) of the epochs, taken in turns.

        `target` (all, outputs) holds 0 and 1, `deciding` the characters of each passage's deciding sentences. The file `begun` holds what the
        epochs done came to; where it is there, and of the same tuning, the next epoch goes on from it. Raises InputError where it has no room.
        """
        self._torch.manual_seed(seed)
        heads = self._heads()
        tuned = [{k: v.detach().clone() for k, v in state.items()} for state in self._base[self._first :]]
        rng = np.random.default_rng(seed)
        epochs = [self._shuffled(rows[seen], rng) for seen in turns(share, EPOCHS, rng)]
        return self._descend(tuned, heads, (RATE, HEAD_RATE), epochs, Goal(target, deciding), say, seed, begun)

    def part(
        self,
        first: Tuned,
        rows: Ints,
        share: Floats,
        target: Ints,
        deciding: Sequence[Sequence[tuple[int, int]]],
        scene: Ints,
        say: Say,
        seed: int = 0,
    ) -> Tuned:
        """Tunes further, for one epoch: on the passages `rows` as in `fit`, and on scenes whose variants differ in what decides.

        `scene` (all,) is the number of a passage's scene, -1 of those that are in none. A batch of scenes teaches only to tell their variants
        apart (losses.apart); the other passages are there lest what they taught be forgotten.
        """
        heads, tuned = self._restored(first)
        rng = np.random.default_rng(seed)
        batches = self._shuffled(rows[turns(share, EPOCHS + 1, rng)[EPOCHS]], rng)  # the turn after those of `fit`
        numbers = rng.permutation(np.unique(scene[scene >= 0]))
        batches += [np.flatnonzero(np.isin(scene, some)).tolist() for some in _batches(numbers, SCENES)]
        epochs = [[batches[i] for i in rng.permutation(len(batches))]]
        goal = Goal(target, deciding, scene)
        return self._descend(tuned, heads, (PART_RATE, PART_HEAD_RATE), epochs, goal, say, seed)

    def _descend(
        self,
        tuned: list[State],
        heads: Any,
        rates: tuple[float, float],
        epochs: list[list[list[int]]],
        goal: Goal,
        say: Say,
        seed: int,
        begun: Path | None = None,
    ) -> Tuned:
        """Steps of AdamW over the batches of every epoch, from these weights, at these rates of the uppermost layer and of the heads."""
        torch, drop = self._torch, Dropout(DROPOUT, seed)
        for state in tuned:
            for tensor in state.values():
                tensor.requires_grad_()
        groups: list[dict[str, Any]] = [
            {"params": list(state.values()), "lr": rates[0] * LOWER ** (len(tuned) - 1 - i)}
            for i, state in enumerate(tuned)
        ]
        groups.append({"params": list(heads.parameters()), "lr": rates[1]})
        weights = [*heads.parameters(), *(p for state in tuned for p in state.values())]
        optimizer = torch.optim.AdamW(groups, weight_decay=DECAY, fused=True)
        steps, full = sum(map(len, epochs)), [group["lr"] for group in groups]
        done = checkpoint.resume(begun, weights, optimizer, drop) if begun else 0
        step = sum(map(len, epochs[:done]))
        for epoch, batches in enumerate(epochs[done:], done + 1):
            found: list[float] = []
            for number, batch in enumerate(batches, 1):
                now = min((step + 1) / (WARM * steps), max(0.0, (steps - step) / ((1 - WARM) * steps)))
                for group, rate in zip(optimizer.param_groups, full, strict=True):
                    group["lr"] = rate * now
                step += 1
                logits, attention = self._judge(tuned, heads, batch, drop)
                loss = goal.loss(torch, batch, logits, attention, self.offsets)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                found.append(float(loss.detach()))
                if number % -(-len(batches) // 5) == 0 or number == len(batches):
                    of = f"epoch {epoch} of {len(epochs)}, {number / len(batches):.0%}"
                    say(f"{of}: mean loss {np.mean(found):.3f}")
            if begun:
                checkpoint.keep(begun, epoch, weights, optimizer, drop)
        return self._taken(tuned, heads)

    def _shuffled(self, rows: Ints, rng: np.random.Generator) -> list[list[int]]:
        """Batches of passages of like length, in random order: padding costs as much as text does."""
        drawn, batches = rng.permutation(rows), []
        for part in _batches(drawn, 40 * BATCH):
            batches += _batches(np.array(sorted(part, key=lambda i: (len(self.tokens[i]), i))), BATCH)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _taken(self, tuned: Sequence[State], heads: Any) -> Tuned:
        """What was tuned, in half precision: what is judged next is what will be stored."""
        tensors = {
            f"layer.{number}.{k}": v.detach().half().numpy()
            for number, state in enumerate(tuned, self._first)
            for k, v in state.items()
        }
        tensors["queries"] = heads["queries"].weight.detach().numpy().copy()
        out = heads["out"]
        return Tuned(
            tensors, out.weight.detach().numpy().T.astype(np.float64), out.bias.detach().numpy().astype(np.float64)
        )

    def _restored(self, tuned: Tuned) -> tuple[Any, list[State]]:
        """Heads and layers as they were tuned, in single precision."""
        torch, heads = self._torch, self._heads()
        states = [
            {k: torch.tensor(tuned.tensors[f"layer.{number}.{k}"]).float() for k in state}
            for number, state in enumerate(self._base[self._first :], self._first)
        ]
        with torch.no_grad():
            heads["queries"].weight.copy_(torch.tensor(tuned.tensors["queries"]))
            heads["out"].weight.copy_(torch.tensor(tuned.weights.T, dtype=torch.float32))
            heads["out"].bias.copy_(torch.tensor(tuned.bias, dtype=torch.float32))
        return heads, states

    def logits(self, tuned: Tuned, rows: Ints) -> Floats:
        """The outputs (n, outputs) of a tuned encoder for the passages `rows`."""
        torch, out = self._torch, np.zeros((len(rows), len(OUTPUTS)))
        heads, states = self._restored(tuned)
        order = np.array(sorted(range(len(rows)), key=lambda k: len(self.tokens[int(rows[k])])), np.int64)
        none = Dropout(0.0, 0)
        with torch.inference_mode():
            for some in _batches(order, 32):
                out[some] = self._judge(states, heads, [int(rows[k]) for k in some], none)[0].numpy()
        return out


def turns(share: Floats, epochs: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Which passages (n,) each epoch sees: each passage as many, to less than one, as its share (n,) of them, evenly spread."""
    begin = rng.random(len(share))
    return [(begin + epoch * share) % 1 < share for epoch in range(epochs)]


def _reserve(states: Path, size: int) -> None:
    """Takes the room first: a mapped file that finds the disk full kills the process without a word."""
    try:
        with open(states, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise InputError(
            f"{states.parent} has no room for {size / 1e9:.1f} GB of the encoder's states ({error.strerror}): set TMPDIR to a larger folder"
        ) from None


def _batches(rows: Ints, size: int) -> list[list[int]]:
    return [rows[i : i + size].tolist() for i in range(0, len(rows), size)]
