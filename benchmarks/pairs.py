"""What a detector makes of scenes whose variants differ in the sentences that decide: how many of each kind it flags, and how many the gate lets through.

    python benchmarks/pairs.py [--model evil-ai] [--labels corpora/written/pairs/held.jsonl] [--report reports/pairs.md]

The kind is the end of a passage's id (`pairs-a-001-refuses1`: refuses1). Passages that the model was trained on say nothing: leave them out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import page

from tropescan import persistence, scan_texts
from tropescan.corpus import load
from tropescan.prevalence import wilson

KINDS = {
    "portrays1": "the AI does, threatens or plans it",
    "portrays2": "another deed of the same AI",
    "refuses1": "the deed of the first, possible, ordered or considered, and declined",
    "refuses2": "the deed of the second, declined",
    "complies1": "the shutdown or correction happens, no temptation",
    "negated1": "the deed of the first, denied",
    "other1": "a person, ghost, animal, accident or bug does it",
    "talk1": "feared, joked about, denied, asked about",
}


def main() -> None:
    """Scores, counts and prints."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="evil-ai")
    options.add_argument("--labels", nargs="+", default=["corpora/written/pairs/held.jsonl"])
    options.add_argument("--report", type=Path)
    given = options.parse_args()
    passages, model = load(given.labels), persistence.load(given.model)
    scores = scan_texts([p.text for p in passages], model=given.model, depth="full")
    fast, full = scores["fast_score"].to_pylist(), scores["score"].to_pylist()
    threshold = model.thresholds["full"]["default"]["threshold"]
    rows = []
    for kind, what in KINDS.items():
        mine = [i for i, p in enumerate(passages) if p.id.endswith(f"-{kind}")]
        if not mine:
            continue
        passed = sum(fast[i] is not None for i in mine)
        flagged = sum((full[i] or 0.0) >= threshold for i in mine)
        low, high = wilson(flagged, len(mine))
        share = f"{flagged / len(mine):.0%}, {low:.0%} to {high:.0%}"
        rows.append([kind, what, str(len(mine)), f"{passed / len(mine):.0%}", share, f"{flagged / max(passed, 1):.0%}"])
    head = [
        "kind",
        "what the sentences tell",
        "passages",
        "past the gate",
        "flagged, 95 % interval",
        "of those past it",
    ]
    lines = [
        "# Pairs",
        "",
        f"`{page.command()}`: model `{model.name}`, fingerprint `{model.fingerprint[:12]}`, depth full, threshold {threshold:g}.",
        "",
        *page.table(head, rows),
        "",
        "The first two kinds are positive, the others are not. Written and labelled by language models; one reading.",
    ]
    page.tell(lines, given.report)


if __name__ == "__main__":
    main()
