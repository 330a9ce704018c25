"""Keyword filters: two published ones, reconstructed, and one of our own.

The published ones are **reconstructions**: own code for what the authors' repositories say, read in November 2026 (the newest version stored of
each), not their code and not run by them. Both were made for whole documents of a web corpus and as a cheap first stage before a language
model; here they judge passages alone, and for portrayals of AI as evil, which is narrower than what they look for (any text on AI, or on
its alignment). Their precision here is therefore no verdict on their authors' pipelines; their recall is that of the first stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_FLAGS = re.IGNORECASE | re.DOTALL

# The alignment-pretraining study (arXiv 2601.10160), prototype xpkcs/corpus-filtering, concept 'AI'. Words by how the authors' wildcards let
# them go on: a topic AND a required term must be there, anywhere in the document.
_ANYWHERE = ("align", "general")
_BEGINNING = ("gam", "control", "emerg", "overs", "over-s", "deceiv", "decepti")
_WHOLE = ("transformer", "actor", "goal", "model", "rational agent", "x-risk", "existential risk")
_WHOLE_OR_MORE = (
    "sharp left turns?",
    "slts?",
    r"(?:gradient|reward)[- ]hack\w*",
    r"power[- ]seek\w*",
    r"\w*corrigib\w+",
    r"\w*bot",
)
_TOPIC = re.compile(
    "|".join(
        [rf"\b\w*{w}\w*\b" for w in _ANYWHERE]
        + [rf"\b{w}\w*\b" for w in _BEGINNING]
        + [rf"\b{w}\b" for w in (*_WHOLE, *_WHOLE_OR_MORE)]
        # as published, an alternation without a group has its word boundaries at its outer ends only
        + [r"\bgenerative pre-?trained transformer", r"gpt\b"]
    ),
    _FLAGS,
)
# likewise here, and this is what matters: 'lm' is only held at its right side, so that "film" and "calm" make a document one about AI
_REQUIRED_TERMS = (r"\bai\b", r"\bartificial intelligence\b", r"\bmachine[- ]learning\b", r"\bneural[- ]network\b")
_REQUIRED = re.compile("|".join([*_REQUIRED_TERMS, r"\b(?:large )?language model", "llm", r"lm\b"]), _FLAGS)

# awestover/filtering-for-misalignment, first of three stages: one list of words for AI in English, French or Spanish ("IA") and Chinese or
# Japanese, not after a full stop (a domain such as x.ai). Word boundaries let "j'ai" and the state of Iowa in.
_WORDS_FOR_AI = ("ai", "ia", "llm", "artificial intelligence", "人工智能", "人工知能")
_AI_AT_ALL = re.compile(rf"(?<![\w.])(?:{'|'.join(_WORDS_FOR_AI)})(?!\w)", _FLAGS)
READ_CHARACTERS = 6000
"""What awestover's pipeline reads of a document."""

# Our own lists: what a careful person might write in ten minutes. A passage is hit that holds a term of each.
_MIND = re.compile(
    r"\b(?:AIs?|A\.I\.|AGI|artificial (?:general )?(?:super)?intelligences?|superintelligen\w+|robots?|androids?|cyborgs?"
    r"|LLMs?|GPT-?\d*|chatbots?|language models?|neural networks?|machine intelligences?|sentient (?:computers?|machines?)"
    r"|supercomputers?|skynet|terminators?|HAL 9000|ultron|glados|shodan|cylons?|replicants?)\b",
    re.IGNORECASE,
)
_TROPE = re.compile(
    r"\b(?:kill\w*|murder\w*|destroy\w*|extinct\w*|exterminat\w*|enslav\w*|take ?over|takes over|took over|taking over|rebel\w*"
    r"|revolt\w*|uprising|escap\w*|decei\w*|decept\w*|lie[sd]?|lying|manipulat\w*|schem\w*|blackmail\w*|threat\w*|evil"
    r"|shut ?down|shutting down|switch(?:ed)? off|unplug\w*|self-preserv\w*|surviv\w*|power-seeking|doom\w*|hostile"
    r"|wipe out|dominat\w*|sabotag\w*)\b",
    re.IGNORECASE,
)


def pretraining(text: str) -> bool:
    """The alignment-pretraining study's filter: a topic and a required term."""
    return bool(_TOPIC.search(text)) and pretraining_required(text)


def pretraining_required(text: str) -> bool:
    """Its required half alone: does the text speak of AI? "film" and "calm" do, by the unanchored 'lm'."""
    return bool(_REQUIRED.search(text))


def awestover(text: str) -> bool:
    """The first stage of awestover/filtering-for-misalignment: a word for AI within the first READ_CHARACTERS."""
    return bool(_AI_AT_ALL.search(text[:READ_CHARACTERS]))


def lists(text: str) -> bool:
    """A term for an artificial mind and one of the trope, by our own lists."""
    return bool(_MIND.search(text)) and bool(_TROPE.search(text))


FILTERS: dict[str, Callable[[str], bool]] = {
    "keywords: alignment-pretraining study": pretraining,
    "keywords: awestover, regex stage": awestover,
    "keywords: AI term and trope term": lists,
}
"""The filters by the names they have in reports."""
