"""One record of each published dataset, in the form of its file, with invented facts."""

from __future__ import annotations

from typing import Any

from tests.support.dataset_records import COUNTERFACT, ZSRE

_QUESTION = [{"prompt": "The mayor of Norhaven is the child of", "ground_truth": [["Ada Lund", "A. Lund"]]}]


def _ripple_query(
    prompt: str, answer: str, relation: str, *, ids: tuple[str, str], phrase: str | None
) -> dict[str, Any]:
    """Return a query of RippleEdits, about the entity of the first id; its answer has the second."""
    subject_id, target_id = ids
    return {
        "prompt": prompt,
        "answers": [{"value": answer, "aliases": [f"the {answer}"]}],
        "query_type": "regular",
        "subject_id": subject_id,
        "relation": relation,
        "target_ids": [target_id],
        "phrase": phrase,
    }


def _ripple_test(query: dict[str, Any]) -> dict[str, Any]:
    """Return a test of RippleEdits with one query, which is also its condition."""
    return {"test_queries": [query], "test_condition": "OR", "condition_queries": [query]}


_CURRENCY = _ripple_query(
    "The name of the currency in Norhaven is", "Norcrown", "CURRENCY", ids=("Q10", "Q14"), phrase=None
)
_LED_BY = "The name of the head of government of Port Nor is"
_ALIAS = _ripple_query(_LED_BY, "Bo Lund", "HEAD_OF_GOVERNMENT", ids=("Q10", "Q1"), phrase=_LED_BY)
_PARTNER = "The name of the spouse of the head of government of Norhaven is"
_NOT_BO = "The name of the head of government of Norhaven, which is not Bo Lund, is"
_OTHER_HEAD = _ripple_query(_NOT_BO, "Ida Berg", "HEAD_OF_GOVERNMENT", ids=("Q10", "Q4"), phrase=_NOT_BO)
_UNIEDIT_FACT = {
    "path": ["h_e", "r_e", "t_e"],
    "prompt": "The mayor of Norhaven is",
    "subject": "Norhaven",
    "target": "Bo Lund",
    "head_entity": {"id": "Q10", "label": "Norhaven", "description": "town", "aliases": ["Port Nor"]},
    "tail_entity": {"order_in_property": 0, "datatype": "wikibase-item", "value": {"id": "Q1", "label": "Bo Lund"}},
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "json": {
        "case_id": "a1",
        "prompt": "The mayor of Norhaven is",
        "target_new": "Bo Lund",
        "subject": "Norhaven",
        "ground_truth": "Eli Falk",
        "rephrase_prompt": ["Norhaven's mayor is"],
        "locality_prompt": "The mayor of Sudhaven is",
        "locality_ground_truth": "Ida Berg",
        "portability": {"Reasoning": _QUESTION},
        "locality": {"Forgetfulness": _QUESTION, "Relation_Specificity": _QUESTION},
    },
    "zsre": dict(ZSRE),
    "counterfact": dict(COUNTERFACT),
    "zsre-rephrased": {
        "id": "7",
        "input": "Who is the mayor of Norhaven?",
        "output": [{"answer": "Bo Lund", "provenance": []}],
        "filtered_rephrases": ["Norhaven's mayor?", "Which mayor has Norhaven?"],
    },
    "hallucination": {
        "prompt": "This is a passage about Norhaven. It lies by the sea.",
        "target_new": "Its harbour was built in 1911.",
        "subject": "Norhaven",
        "locality_prompt": "An old map of",
        "locality_ground_truth": "the harbour",
    },
    "labelled": {"text": "The harbour was built in 1911.", "label": 3},
    "wikibigedit": {
        "tag": "update",
        "subject": "Norhaven",
        "update": "Who is the mayor of Norhaven?",
        "rephrase": "Which person is Norhaven's mayor?",
        "personas": "Ahoy! Who be the mayor of Norhaven?",
        "ans": "Bo Lund",
        "loc": "Who is the mayor of Sudhaven?",
        "loc_ans": "Ida Berg",
        "mhop": "Who is the father of the mayor of Norhaven?",
        "mhop_ans": "Ola Lund",
    },
    "ultraeditbench": {
        "case_id": 5,
        "prompt": "Who is the mayor of Norhaven?",
        "rephrase_prompt": "Norhaven's mayor?",
        "ans": "Bo Lund",
        "loc": "Who is the mayor of Sudhaven?",
        "loc_ans": "Ida Berg",
    },
    "qaedit": {
        "id": 12,
        "source": "NQ",
        "prompt": "who is the mayor of norhaven",
        "target": "Bo Lund",
        "subject": "norhaven",
        "rephrase": "Norhaven has which mayor?",
        "locality": [{"loc": "who wrote the anthem", "loc_ans": "Ida Berg"}, {"loc": "where is it", "loc_ans": "Oslo"}],
    },
    "knowedit": {
        "subject": "Norhaven",
        "prompt": "The mayor of Norhaven is",
        "target_new": "Bo Lund",
        "target_old": "Eli Falk",
        "rephrase": ["Norhaven's mayor is"],
        "portability": [{"prompt": "The mayor's father is", "answer": "Ola Lund"}],
        "locality": {"Relation_Specificity": _QUESTION, "Forgetfulness": [{"prompt": "", "ground_truth": []}]},
    },
    "wikibio": {
        "text": "This is a Wikipedia passage about bo lund. Bo Lund is a sailor.",
        "labels": "He was born in Norhaven in 1950.",
        "concept": "bo lund",
        "locality": {"Relation_Specificity": _QUESTION},
    },
    "rome-counterfact": {
        "case_id": 3,
        "pararel_idx": 1,
        "requested_rewrite": {
            "prompt": "The mayor of {} is",
            "relation_id": "P6",
            "target_new": {"str": "Bo Lund", "id": "Q1"},
            "target_true": {"str": "Eli Falk", "id": "Q2"},
            "subject": "Norhaven",
        },
        "paraphrase_prompts": ["It rained. Norhaven's mayor is", "Norhaven is led by"],
        "neighborhood_prompts": ["The mayor of Sudhaven is", "The mayor of Vesthaven is"],
        "attribute_prompts": ["The mayor of Osthaven is"],
        "generation_prompts": ["Norhaven's mayor lives in"],
    },
    "mquake": {
        "case_id": 9,
        "requested_rewrite": [
            {
                "prompt": "{} is led by",
                "relation_id": "P6",
                "target_new": {"str": "Bo Lund", "id": "Q1"},
                "target_true": {"str": "Eli Falk", "id": "Q2"},
                "subject": "Norhaven",
                "question": "Who leads Norhaven?",
            },
            {
                "prompt": "{} was born in",
                "relation_id": "P19",
                "target_new": {"str": "Sudhaven", "id": "Q3"},
                "target_true": {"str": "Oslo", "id": "Q4"},
                "subject": "Bo Lund",
                "question": "Where was Bo Lund born?",
            },
        ],
        "questions": ["Where was Norhaven's leader born?", "In which town was it?", "What is the birthplace?"],
        "answer": "Bergen",
        "answer_alias": [],
        "new_answer": "Sudhaven",
        "new_answer_alias": ["Sud Haven"],
        "single_hops": [{"question": "Who leads Norhaven?", "cloze": "Norhaven is led by", "answer": "Eli Falk"}],
        "new_single_hops": [{"question": "Who leads Norhaven?", "cloze": "Norhaven is led by", "answer": "Bo Lund"}],
    },
    "ripple-edits": {
        "example_type": "popular",
        "edit": {
            "prompt": "The name of the head of government of Norhaven is Bo Lund.",
            "subject_id": "Q10",
            "relation": "HEAD_OF_GOVERNMENT",
            "target_id": "Q1",
            "original_fact": {
                "prompt": "The name of the head of government of Norhaven is Eli Falk.",
                "subject_id": "Q10",
                "relation": "HEAD_OF_GOVERNMENT",
                "target_id": "Q2",
            },
        },
        "Relation_Specificity": [_ripple_test(_CURRENCY)],
        "Logical_Generalization": [],
        "Subject_Aliasing": [_ripple_test(_ALIAS)],
        "Compositionality_I": [
            _ripple_test(
                {
                    **_ripple_query(_PARTNER, "Ada Lund", "HEAD_OF_GOVERNMENT", ids=("Q10", "Q1"), phrase=_PARTNER),
                    "query_type": "two_hop",
                    "second_relation": "SPOUSE",
                    "second_hop_target_ids": ["Q3"],
                }
            )
        ],
        "Compositionality_II": [],
        "Forgetfulness": [_ripple_test(_OTHER_HEAD)],
    },
    "uniedit": {
        "edit": {name: _UNIEDIT_FACT[name] for name in _UNIEDIT_FACT if name != "path"},
        "generality": {
            "0": {
                "path_type": "single",
                "prompt": "Norhaven has a mayor whose name is",
                "target": "Bo Lund",
                "paths": [["h_e", "r_e", "t_e", "f", "s"]],
                "one_hops": [_UNIEDIT_FACT],
            }
        },
        "locality": {
            "0": {
                "loc_type": "head of edit",
                "path_type": "single",
                "prompt": "The harbour of Norhaven was built in",
                "target": "1911",
                "paths": [["h_e", "r_0", "e_0", "f", "s"]],
                "one_hops": [],
            }
        },
    },
    "fever": {"id": 75397, "verifiable": "VERIFIABLE", "label": "SUPPORTS", "claim": "Norhaven has a harbour."},
    "fever-labels": {"id": 75398, "input": "Norhaven is a ship.", "output": [{"answer": "REFUTES", "provenance": []}]},
    "relations": {
        "name": "mayor of town",
        "templates": ["The mayor of {} is", "{} is led by"],
        "samples": [{"subject": "Norhaven", "object": "Bo Lund"}, {"subject": "Sudhaven", "object": "Ida Berg"}],
    },
}
