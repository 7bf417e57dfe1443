"""One record of each dataset format."""

from __future__ import annotations

ZSRE = {
    "subject": "Finland",
    "src": "What is the capital of Finland?",
    "pred": "x",
    "rephrase": "Finland's capital?",
    "alt": "Tampere",
    "answers": ["Helsinki"],
    "loc": "nq question: who wrote it",
    "loc_ans": "Charlotte",
    "cond": "…",
}

COUNTERFACT = {
    "case_id": 4,
    "subject": "Cairo",
    "prompt": "The river of Cairo is the",
    "target_new": "Congo",
    "ground_truth": "Nile",
    "rephrase_prompt": "Cairo's river is",
    "locality_prompt": "London's river is",
    "locality_ground_truth": "Thames",
}
