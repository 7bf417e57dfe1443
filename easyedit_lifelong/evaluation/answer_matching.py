"""Generated answers: find where an answer ends, and compare it with the right one.

Teacher forcing shows the model the beginning and the length of the answer. "The Mirage of Model Editing"
(arXiv 2502.11177) therefore lets the model generate until it stops by itself, as its authors do in EasyEdit: at the end
of the text, of a line, or of a sentence. This place is called the natural stop here.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

ANSWER_TOKENS = 20
"""The limit of new tokens for an answer without a natural stop, as in the GRACE authors' code."""

_CLOSING = "\"'\u2019\u201d)]"
_OPENING = "\"'\u2018\u201c(["
_END = re.compile(rf"\n|[\u3002\uff01\uff1f]|[.!?]+[{re.escape(_CLOSING)}]*(?=\s)")
_TITLES = ("capt", "col", "dr", "gen", "gov", "jr", "lt", "mr", "mrs", "ms", "prof", "rep", "rev", "sen", "sgt", "sr")
_ABBREVIATIONS = frozenset((*_TITLES, "co", "corp", "ft", "inc", "ltd", "mt", "no", "st", "vol", "vs"))
"""Words that are mostly written with a full stop."""


@dataclass(frozen=True)
class Generation:
    """The generated answers to an edit's prompt and paraphrases, before and after editing, up to the natural stop.

    Attributes:
        case_id: the case_id of the request.
        prompt: the prompt of the request.
        target_new: the target of the request.
        before: the unedited model's answer.
        after: the edited model's answer.
        match: whether the edited model's text begins with the target, and the target's last word ends there.
        rephrase: prompt, answer before, answer after and match, for each paraphrase.
        continuation_before: the unedited model's continuation of the prompt, if the self-consistency is measured.
        continuation_after: the edited model's.
    """

    case_id: int | str
    prompt: str
    target_new: str
    before: str
    after: str
    match: bool
    rephrase: tuple[tuple[str, str, str, bool], ...] = ()
    continuation_before: str | None = None
    continuation_after: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON; without continuations if there are none."""
        fields = {**vars(self), "rephrase": [list(row) for row in self.rephrase]}
        return {name: value for name, value in fields.items() if value is not None}


def natural_end(text: str, answer: str = "") -> int | None:
    """Find the natural stop of a generated text: the end of its first sentence, or of its first line.

    A full stop ends a sentence if white space follows it and the word before it is no initial or abbreviation. A full
    stop at the end of the text does not count yet: the next token decides.

    Args:
        text: the generated text.
        answer: the right answer; while the text repeats it, punctuation in it is no stop ("Yahoo! Inc.").

    Returns:
        The index after the answer; None if the text has no natural stop yet.
    """
    begin = len(text) - len(text.lstrip())
    output, answer = text[begin:], answer.strip()
    if output.startswith(answer) or answer.startswith(output):
        begin += min(len(output), len(answer))
    for stop in _END.finditer(text, max(begin - 1, 0)):
        if stop.group() == "\n":
            if text[: stop.start()].strip():
                return stop.start()
        elif stop.group() != "." or not _ends_in_abbreviation(text[: stop.start()]):
            return stop.end()
    return None


def natural_answer(text: str, answer: str = "") -> str:
    """Return the generated text up to its natural stop, without the white space around it."""
    end = natural_end(text, answer)
    return text[:end].strip()


def normalise(text: str) -> str:
    """Return a text in lower case without punctuation and articles, with single spaces, as SQuAD compares answers."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", _without_punctuation(text)).split())


def _without_punctuation(text: str) -> str:
    """Return a text in lower case without punctuation."""
    return "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c) != "Po")


def without_joiner(text: str, joiner: str | None) -> str:
    """Return a generated text without the visible text that stands between its prompt and the answer, if it has any."""
    visible = joiner.strip() if joiner is not None else ""
    return text.lstrip().removeprefix(visible) if visible else text


def starts_with_answer(text: str, answer: str) -> bool:
    """Return whether a generated text begins with the answer, leading white space ignored."""
    return text.lstrip().startswith(answer.strip())


def starts_with_whole_answer(text: str, answer: str) -> bool:
    """Return whether a generated text begins with the answer, and the answer's last word or number ends there.

    "Paris" is no whole answer in "Parisian". In scripts that do not separate words with spaces (Chinese, Japanese,
    Thai …), anything may follow.
    """
    answer = answer.strip()
    rest = text.lstrip()[len(answer) :]
    if not starts_with_answer(text, answer):
        return False
    if answer[-1:].isdigit() and re.match(r"[.,]?\d", rest):
        return False
    return not (_continues_in_words(answer[-1:]) and rest[:1].isalnum())


def _continues_in_words(character: str) -> bool:
    """Return whether a letter or digit directly after this character would belong to the same word."""
    # Letters without case ("Lo") are those of scripts that mostly do not separate words.
    return character.isalnum() and unicodedata.category(character) != "Lo"


def exact_match(output: str, answer: str) -> bool:
    """Return whether an output equals the answer, apart from case, punctuation and articles."""
    normal_output, normal_answer = normalise(output), normalise(answer)
    return normal_output == normal_answer if normal_answer else output.strip() == answer.strip()


def contains_match(output: str, answer: str) -> bool:
    """Return whether an output contains the answer; as whole words, if the script separates words with spaces."""
    normal_output, normal_answer = normalise(output), normalise(answer)
    if not normal_answer and not _without_punctuation(answer).strip():
        return answer.strip() in output
    if not normal_answer:  # the answer looks like an article, for example the letter A: compare with case
        return re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", output) is not None
    if any(unicodedata.category(c) == "Lo" for c in normal_answer):  # scripts that mostly do not separate words
        return normal_answer in normal_output
    return f" {normal_answer} " in f" {normal_output} "


def token_f1(output: str, answer: str) -> float:
    """Return the F1 of an output's words: the harmonic mean of their precision and recall."""
    output_words, answer_words = (normalise(text).split() for text in (output, answer))
    if not output_words or not answer_words:
        return float(output_words == answer_words)
    common = sum((Counter(output_words) & Counter(answer_words)).values())
    return 2 * common / (len(output_words) + len(answer_words))


def _ends_in_abbreviation(text: str) -> bool:
    """Return whether a full stop after this text would belong to its last word: "U.S", "J", "St"."""
    words = text.split()
    word = words[-1].lstrip(_OPENING) if words else ""
    initial = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    return initial or "." in word.strip(".") or word.lower() in _ABBREVIATIONS
