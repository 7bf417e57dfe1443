"""The answer at the beginning of a generated text is found, normalised and compared with the target."""

from __future__ import annotations

import pytest

from easyedit_lifelong.evaluation.answer_matching import (
    Generation,
    contains_match,
    exact_match,
    natural_answer,
    natural_end,
    normalise,
    starts_with_answer,
    starts_with_whole_answer,
    token_f1,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Paris. It is", "Paris."),
        (" Paris\nRome", "Paris"),
        ("\n\n Paris\nRome", "Paris"),
        (" Paris, and so on", "Paris, and so on"),
        (" Paris! He", "Paris!"),
        (' "Paris." He', '"Paris."'),
        (" 5.5 million. More", "5.5 million."),
        (" U.S. army. Then", "U.S. army."),
        (" St. Petersburg. Then", "St. Petersburg."),
        (" J. K. Rowling. She", "J. K. Rowling."),
        (" what he and I. Then", "what he and I."),
        ("巴黎。他", "巴黎。"),
        ("", ""),
        ("\n", ""),
    ],
)
def test_an_answer_ends_with_its_first_sentence_or_line(text: str, expected: str) -> None:
    assert natural_answer(text) == expected


def test_a_full_stop_ends_the_answer_only_if_a_space_follows() -> None:
    """In "U.S.A", only the text after the full stop shows whether the sentence is complete."""
    assert natural_end(" Paris.") is None
    assert natural_end(" Paris. ") == len(" Paris.")


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" Yahoo! Inc and more. No", "Yahoo! Inc", "Yahoo! Inc and more."),
        (" Yahoo! In", "Yahoo! Inc", "Yahoo! In"),
        (" Yahoo! is", "Yahoo! Inc", "Yahoo!"),
        (" He came. He saw. He went. So", "He came. He saw.", "He came. He saw."),
        (" He came. She saw. He", "He came. He saw.", "He came."),
    ],
)
def test_the_end_of_a_sentence_within_the_target_does_not_end_the_answer(text: str, target: str, expected: str) -> None:
    assert natural_answer(text, target) == expected


def test_normalisation_ignores_case_punctuation_articles_and_spaces() -> None:
    assert normalise(" The  U.S., an  Ally! ") == "us ally"
    assert normalise("Łódź") == "łódź"
    assert normalise("巴黎。") == "巴黎"


@pytest.mark.parametrize(
    ("answer", "target", "exact", "contains", "f1"),
    [
        ("Paris.", "Paris", True, True, 1.0),
        ("the paris", "Paris", True, True, 1.0),
        ("Paris, France", "Paris", False, True, 2 / 3),
        ("It is Paris, of course", "Paris", False, True, 2 / 6),
        ("Parisian", "Paris", False, False, 0.0),
        ("Rome", "Paris", False, False, 0.0),
        ("", "Paris", False, False, 0.0),
        ("old and old king", "old old king", False, False, 2 * 3 / 7),
        ("king old", "old king", False, False, 1.0),  # F1 ignores the order of words
        ("是巴黎", "巴黎", False, True, 0.0),
        ("!!", "!!", True, True, 1.0),
        ("?", "!!", False, False, 1.0),
        ("The", "The", True, True, 1.0),
        ("Apple", "A", False, False, 0.0),  # the target is a letter that is also an article
        ("Vitamin A.", "A", False, True, 0.0),
        ("It is an A", "A", False, True, 0.0),
    ],
)
def test_matches_and_f1_equal_values_computed_by_hand(
    answer: str, target: str, exact: bool, contains: bool, f1: float
) -> None:
    assert exact_match(answer, target) is exact
    assert contains_match(answer, target) is contains
    assert token_f1(answer, target) == pytest.approx(f1)


def test_a_generation_is_written_as_a_record() -> None:
    generation = Generation("fr", "p", "Rome", "Paris", "Rome", True, (("q", "Paris", "Peru", False),))
    assert generation.to_dict() == {
        "case_id": "fr",
        "prompt": "p",
        "target_new": "Rome",
        "before": "Paris",
        "after": "Rome",
        "match": True,
        "rephrase": [["q", "Paris", "Peru", False]],
    }


@pytest.mark.parametrize(
    ("text", "answer", "matches"),
    [
        (" Paris, of course", "Paris", True),
        ("Paris", "Paris", True),
        ("\nParis", " Paris ", True),
        ("Par", "Paris", False),
        ("It is Paris", "Paris", False),
        ("paris", "Paris", False),
        ("", "Paris", False),
        ("Paris.", "Paris", True),
        ("Paris, France", "Paris", True),
        ("Paris\n", "Paris", True),
        ("Parisian", "Paris", False),
        ("Paris2", "Paris", False),
        ("5", "5", True),
        ("5 years", "5", True),
        ("50", "5", False),
        ("5th", "5", False),
        ("the old king", "the old", True),
        ("the older king", "the old", False),
        ("Zürichs", "Zürich", False),
        ("U.S. army", "U.S.", True),
        ("C++ and", "C++", True),
    ],
)
def test_an_answer_matches_only_as_complete_words(text: str, answer: str, matches: bool) -> None:
    assert starts_with_whole_answer(text, answer) is matches


@pytest.mark.parametrize(
    ("text", "answer", "begins"),
    [
        (" 5 million", "5", True),
        ("5.5", "5", False),
        ("5,000", "5", False),
        ("5. It is", "5", True),
        ("巴黎是法国的首都", "巴黎", True),
        ("パリです", "パリ", True),
        ("Łódź jest", "Łódź", True),
        ("Łódźki", "Łódź", False),
    ],
)
def test_numbers_and_words_of_other_scripts_end_where_they_should(text: str, answer: str, begins: bool) -> None:
    assert starts_with_whole_answer(text, answer) is begins


def test_starts_with_answer_also_accepts_part_of_a_word() -> None:
    assert starts_with_answer(" Parisian life", "Paris")
    assert not starts_with_whole_answer(" Parisian life", "Paris")
    assert not starts_with_answer("In Paris", "Paris")
