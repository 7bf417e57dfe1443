"""A record becomes a request, or is refused in one line with its place and field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.data.record_fields import REQUEST_FIELDS
from easyedit_lifelong.data.request import EditRequest, Probe, as_requests
from easyedit_lifelong.errors import DataError

GOOD: dict[str, Any] = {"prompt": "The capital of France is", "target_new": "Rome"}


def _read(**fields: Any) -> EditRequest:
    return EditRequest.from_dict({**GOOD, **fields}, "facts.json, record 3", case_id=3)


def _refusal(record: Any) -> str:
    with pytest.raises(DataError) as caught:
        EditRequest.from_dict(record, "facts.json, record 3", case_id=3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_record_of_prompt_and_target_is_enough() -> None:
    request = _read()
    assert (request.case_id, request.prompt, request.target_new) == (3, GOOD["prompt"], "Rome")
    assert request.subject is request.ground_truth is None
    assert request.rephrase_prompts == ()
    assert dict(request.locality) == dict(request.portability) == {}
    assert request.where == "facts.json, record 3 (case 3)"


def test_every_field_of_a_record_is_read() -> None:
    request = _read(
        case_id="q17",
        subject="France",
        ground_truth="Paris",
        rephrase_prompt=["a", "b"],
        locality={
            "near": {"prompt": "p", "ground_truth": "a"},
            "far": {"prompt": ["q", "r"], "ground_truth": ["b", "c"]},
        },
        portability={"hop": {"prompt": "s", "ground_truth": "d"}},
    )
    assert request.case_id == "q17"
    assert (request.subject, request.ground_truth) == ("France", "Paris")
    assert request.rephrase_prompts == ("a", "b")
    assert request.locality == {"near": (Probe("p", "a"),), "far": (Probe("q", "b"), Probe("r", "c"))}
    assert request.portability == {"hop": (Probe("s", "d"),)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"aliases": "Gaul"}, ("Gaul",)),
        ({"subject": "France", "aliases": [" Gaul", "Hexagone ", "Gaul", "France"]}, ("Gaul", "Hexagone")),
        ({"subject": "France", "aliases": []}, ()),
    ],
)
def test_aliases_are_one_name_or_a_list_each_once(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert _read(**fields).aliases == expected


@pytest.mark.parametrize("value", [3, {"a": "b"}, ["Gaul", 3]])
def test_aliases_must_be_texts(value: Any) -> None:
    assert _refusal({**GOOD, "aliases": value}).startswith("facts.json, record 3, field 'aliases': must be text")


def test_flat_locality_and_portability_fields_become_probes() -> None:
    request = _read(
        locality_prompt="p", locality_ground_truth=" a ", portability_prompt="q", portability_ground_truth="b"
    )
    assert request.locality == {"neighborhood": (Probe("p", "a"),)}
    assert request.portability == {"one_hop": (Probe("q", "b"),)}


def test_a_flat_probe_is_added_to_the_named_sets() -> None:
    named = {"near": {"prompt": "p", "ground_truth": "a"}}
    request = _read(locality=named, locality_prompt="q", locality_ground_truth="b")
    assert request.locality == {"near": (Probe("p", "a"),), "neighborhood": (Probe("q", "b"),)}


@pytest.mark.parametrize(
    "name",
    [
        "relation_specificity",
        "Relation_Specificity",
        "Relation Specificity",
        "RELATION  SPECIFICITY",
        "relationSpecificity",
    ],
)
def test_a_relation_specificity_set_is_not_counted_as_locality(name: str) -> None:
    """KnowEdit has relation specificity among the locality sets."""
    sets = {"near": {"prompt": "p", "ground_truth": "a"}, name: {"prompt": ["q", "r"], "ground_truth": ["b", "c"]}}
    request = _read(locality=sets)
    assert request.locality == {"near": (Probe("p", "a"),)}
    assert request.relation_specificity == (Probe("q", "b"), Probe("r", "c"))


@pytest.mark.parametrize("name", ["relation", "specificity", "Forgetfulness", "relation_specificity_2"])
def test_a_locality_set_of_any_other_name_is_locality(name: str) -> None:
    request = _read(locality={name: {"prompt": "p", "ground_truth": "a"}})
    assert request.locality == {name: (Probe("p", "a"),)}
    assert request.relation_specificity == ()


def test_a_portability_set_may_have_any_name() -> None:
    request = _read(portability={"Relation_Specificity": {"prompt": "p", "ground_truth": "a"}})
    assert request.portability == {"Relation_Specificity": (Probe("p", "a"),)}
    assert request.relation_specificity == ()


def test_a_flat_relation_specificity_question_is_read() -> None:
    flat = {"relation_specificity_prompt": "p", "relation_specificity_ground_truth": " a "}
    assert _read(**flat).relation_specificity == (Probe("p", "a"),)
    assert dict(_read(**flat).locality) == {}
    named = {"Relation_Specificity": {"prompt": "q", "ground_truth": "b"}}
    assert _read(**flat, locality=named).relation_specificity == (Probe("q", "b"),)


def test_a_knowedit_record_with_lists_of_aliases_is_read() -> None:
    """Its files have a list of questions in each set, and lists of answers with lists of their aliases."""
    request = _read(
        locality={
            "Relation_Specificity": [
                {"prompt": "France is in", "ground_truth": [["Europe", "the Old Continent"]]},
                {"prompt": "In France they speak", "ground_truth": [["French"], ["Breton", "Brezhoneg"]]},
                {"prompt": "The French eat", "ground_truth": ["bread"]},
            ],
            "Forgetfulness": [{"prompt": "The capital of France, which is not Rome, is", "ground_truth": "Paris"}],
        },
        portability={"Reasoning": [{"prompt": "hop", "ground_truth": "Tiber"}], "Subject_Aliasing": []},
    )
    assert request.relation_specificity == (
        Probe("France is in", "Europe"),
        Probe("In France they speak", "French"),
        Probe("The French eat", "bread"),
    )
    assert request.locality == {"Forgetfulness": (Probe("The capital of France, which is not Rome, is", "Paris"),)}
    assert request.portability == {"Reasoning": (Probe("hop", "Tiber"),), "Subject_Aliasing": ()}


@pytest.mark.parametrize(
    ("value", "answer"),
    [("Paris", "Paris"), (["Paris", "Paname"], "Paris"), ([], None), (None, None), ("<|endoftext|>", None)],
)
def test_the_first_ground_truth_is_used_and_a_placeholder_means_none(value: Any, answer: str | None) -> None:
    """EasyEdit fills in <|endoftext|> where the true answer is missing."""
    assert _read(ground_truth=value).ground_truth == answer


def test_the_target_is_stripped_and_the_prompt_is_not() -> None:
    """Spaces around an answer don't matter; spaces in a prompt may be intended."""
    request = _read(prompt="Q: x\nA: ", target_new="  Rome ")
    assert (request.prompt, request.target_new) == ("Q: x\nA: ", "Rome")


@pytest.mark.parametrize("answer", [["Paris", "Paname"], [["Paris", "Paname"]], "Paris"])
def test_the_first_alias_is_the_answer_of_a_probe(answer: Any) -> None:
    request = _read(locality={"near": {"prompt": "p", "ground_truth": answer}})
    assert request.locality["near"] == (Probe("p", "Paris"),)


def test_a_request_is_immutable() -> None:
    request = _read(locality_prompt="p", locality_ground_truth="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.prompt = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        request.locality["more"] = ()  # type: ignore[index]


# ------------------------------------------------------------------ invalid records


@pytest.mark.parametrize("record", [None, 5, "text", ["prompt"], True])
def test_a_value_that_is_no_object_is_refused(record: Any) -> None:
    assert _refusal(record).startswith("facts.json, record 3: must be an object")


@pytest.mark.parametrize("name", ["prompt", "target_new"])
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    record = {key: value for key, value in GOOD.items() if key != name}
    assert _refusal(record) == f"facts.json, record 3, field {name!r}: is missing."
    assert _refusal({**GOOD, name: None}) == f"facts.json, record 3, field {name!r}: is missing."


@pytest.mark.parametrize(("typo", "name"), [("promt", "prompt"), ("target", "target_new"), ("taget_new", "target_new")])
def test_a_mistyped_field_is_suggested(typo: str, name: str) -> None:
    record = {typo if key == name else key: value for key, value in GOOD.items()}
    assert f"field {name!r}: is missing. Did you mean {typo!r}?" in _refusal(record)


@pytest.mark.parametrize("name", ["prompt", "target_new"])
@pytest.mark.parametrize("empty", ["", "  ", "\n\t"])
def test_an_empty_text_of_a_required_field_is_refused(name: str, empty: str) -> None:
    assert _refusal({**GOOD, name: empty}) == (
        f"facts.json, record 3, field {name!r}: is empty. Give it text or remove the record."
    )


@pytest.mark.parametrize("absent", ["", "  ", None, float("nan")])
def test_a_missing_value_of_an_optional_field_is_absent(absent: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Tools that write tables have a value in every field; pandas writes NaN."""
    names = [name for name in REQUEST_FIELDS if name not in GOOD and name != "joiner"]  # an empty joiner is a value
    assert len(names) == 14
    assert _read(**dict.fromkeys(names, absent)) == _read()
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"locality_prompt": "", "locality_ground_truth": "a"}, "locality_prompt"),
        ({"portability_prompt": "p", "portability_ground_truth": None}, "portability_ground_truth"),
        ({"relation_specificity_prompt": "p", "relation_specificity_ground_truth": " "}, "relation_specificity_ground"),
        ({"rephrase_prompt": ["", None]}, "rephrase_prompt"),
        ({"portability": {"hop": {"prompt": "", "ground_truth": "a"}}}, "portability.hop.prompt"),
        ({"locality": {"Relation_Specificity": [{"prompt": "p", "ground_truth": [[""]]}]}}, "[0].ground_truth"),
        ({"locality": {"near": [{"prompt": "p", "ground_truth": []}, None]}}, "locality.near[0].ground_truth"),
    ],
)
def test_a_probe_without_prompt_or_answer_is_left_out_with_one_warning(
    fields: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = _read(**fields)
    probes = [*request.locality.values(), *request.portability.values(), request.relation_specificity]
    assert not any(probes)
    assert request.rephrase_prompts == ()
    (message,) = caplog.messages
    assert name in message
    assert "facts.json, record 3" in message


@pytest.mark.parametrize(
    "typo", ["rephrase_prompts", "paraphrase_prompt", "localty_prompt", "Subject", "ground_thruth"]
)
def test_a_misspelt_optional_field_is_reported_once(typo: str, caplog: pytest.LogCaptureFixture) -> None:
    as_requests([{**GOOD, typo: "x"}] * 3)
    (message,) = caplog.messages
    assert f"the field {typo!r} is unknown and isn't read (records with it: 3). Did you mean " in message


def test_an_unknown_field_beside_the_known_one_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    _read(rephrase_prompts="x", rephrase_prompt="y", source="z", domain="d")
    assert caplog.messages == []


def test_a_list_of_probes_is_one_set() -> None:
    """QAEdit and CKnowEdit have lists without names of sets."""
    request = _read(locality=[{"loc": "p", "loc_ans": "a"}], portability=[{"prompt": "q", "answer": "b"}])
    assert request.locality == {"neighborhood": (Probe("p", "a"),)}
    assert request.portability == {"one_hop": (Probe("q", "b"),)}


@pytest.mark.parametrize(
    ("value", "kind"), [(5, "a number"), (2.5, "a number"), (True, "true/false"), ({"a": 1}, "an object")]
)
@pytest.mark.parametrize("name", ["prompt", "target_new", "subject", "ground_truth", "rephrase_prompt"])
def test_a_value_of_another_type_is_refused(name: str, value: Any, kind: str) -> None:
    """Converting a number with ``str`` would hide a wrong column."""
    assert f"field {name!r}: must be text, not {kind}" in _refusal({**GOOD, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, "x\ud83d")
            for name in ("prompt", "target_new", "subject", "ground_truth", "rephrase_prompt", "case_id")
        ),
        ("locality", {"near": {"prompt": "p\udc00", "ground_truth": "a"}}),
        ("locality", {"near\ud83d": {"prompt": "p", "ground_truth": "a"}}),
    ],
)
def test_an_unpaired_surrogate_is_refused(name: str, value: Any) -> None:
    """JSON can hold half of a surrogate pair; tokenizers and UTF-8 files can't."""
    message = _refusal({**GOOD, name: value})
    assert f"field '{name}" in message
    assert "holds an incomplete character (\\ud" in message
    assert message.isascii(), "the message can't be printed on every terminal"


def test_a_list_instead_of_a_text_is_refused() -> None:
    assert "field 'prompt': must be text, not a list" in _refusal({**GOOD, "prompt": ["a"]})
    assert "field 'target_new': must be text, not a list" in _refusal({**GOOD, "target_new": ["a"]})


def test_an_invalid_item_of_a_list_is_refused() -> None:
    assert "field 'rephrase_prompt': must be text, not a number" in _refusal({**GOOD, "rephrase_prompt": ["a", 5]})


@pytest.mark.parametrize("case_id", [True, 1.5, [], {}])
def test_a_case_id_of_another_type_is_refused(case_id: Any) -> None:
    assert "field 'case_id': must be a whole number or text" in _refusal({**GOOD, "case_id": case_id})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"locality": "text"}, "field 'locality': must map names to prompts and answers, not text"),
        ({"locality": [1]}, "field 'locality.neighborhood[0]': needs 'prompt' and 'ground_truth'"),
        ({"locality": 0}, "field 'locality': must map names to prompts and answers, not a number"),
        ({"locality": {"near": "text"}}, "field 'locality.near': needs 'prompt' and 'ground_truth'"),
        ({"locality": {"near": {"prompt": "p"}}}, "field 'locality.near': needs 'prompt' and 'ground_truth'"),
        ({"portability": {"hop": {"prompt": "p", "ground_truth": 4}}}, "'portability.hop.ground_truth': must be text"),
        (
            {"locality": {"near": {"prompt": ["p", "q"], "ground_truth": ["a", "b", "c"]}}},
            "field 'locality.near': has 2 prompts and",
        ),
        ({"locality_prompt": "p"}, "field 'locality_ground_truth': is missing"),
        ({"locality_prompt": 3, "locality_ground_truth": "a"}, "field 'locality_prompt': must be text"),
        ({"relation_specificity_prompt": "p"}, "field 'relation_specificity_ground_truth': is missing"),
        (
            {"locality": {"Relation_Specificity": {"prompt": "p", "ground_truth": 5}}},
            "field 'locality.Relation_Specificity.ground_truth': must be text, not a number",
        ),
        (
            {"locality": {"Relation_Specificity": [{"prompt": "p", "ground_truth": "a"}, {"prompt": "q"}]}},
            "field 'locality.Relation_Specificity[1]': needs 'prompt' and 'ground_truth'",
        ),
        ({"locality": {"near": [[{"prompt": "p", "ground_truth": "a"}]]}}, "field 'locality.near[0]': needs"),
    ],
)
def test_an_invalid_probe_is_refused_with_its_field(fields: dict[str, Any], message: str) -> None:
    assert message in _refusal({**GOOD, **fields})


def test_an_error_counts_the_prompts_and_answers_of_a_set() -> None:
    probes = {"near": {"prompt": ["p", "q"], "ground_truth": ["a", "b", "c"]}}
    assert "has 2 prompts and 3 answers" in _refusal({**GOOD, "locality": probes})


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_FIELDS = ["case_id", "prompt", "target_new", "subject", "ground_truth", "rephrase_prompt", "locality", "portability"]
_FIELDS += ["locality_prompt", "locality_ground_truth"]
_FIELDS += ["relation_specificity_prompt", "relation_specificity_ground_truth"]


@given(st.dictionaries(st.sampled_from(_FIELDS), _VALUES) | _VALUES)
def test_any_json_value_is_either_a_valid_request_or_a_data_error(record: Any) -> None:
    """No value of JSON raises another error or gives an invalid request."""
    if isinstance(record, dict):
        record = {**GOOD, **record}
    try:
        request = EditRequest.from_dict(record, "here", case_id=0)
    except DataError as error:
        if not str(error).startswith("here"):
            pytest.fail(f"the message doesn't begin with the place: {error}")
        return
    assert request.prompt.strip()
    assert request.target_new.strip() == request.target_new != ""
    probes = [p for sets in (request.locality, request.portability) for group in sets.values() for p in group]
    probes += request.relation_specificity
    assert all(isinstance(p.prompt, str) and isinstance(p.answer, str) for p in probes)


# ------------------------------------------------------------------ lists of an apply function


def test_a_list_may_mix_records_and_requests() -> None:
    existing = _read(case_id=9)
    first, second, third = as_requests([GOOD, existing, {**GOOD, "case_id": "x"}])
    assert (first.case_id, third.case_id) == (0, "x")
    assert second is existing


def test_an_invalid_record_of_a_list_is_refused_with_its_number() -> None:
    with pytest.raises(DataError, match="request 1, field 'target_new': is missing"):
        as_requests([GOOD, {"prompt": "p"}])
