"""What a model says when it is free to: where its answer ends, and whether it is the right one.

Teacher forcing gives away both the answer's beginning and its length. "The Mirage of Model Editing"
(arXiv 2502.11177) therefore lets models speak until they stop by themselves, as its authors do in
EasyEdit: at the end of text, of a line, or of a sentence.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

ANSWER_TOKENS = 20
"""How far an answer may go without an end: as far as GRACE's authors let their models speak."""

_CLOSING = "\"'\u2019\u201d)]"
_OPENING = "\"'\u2018\u201c(["
_END = re.compile(rf"\n|[\u3002\uff01\uff1f]|[.!?]+[{re.escape(_CLOSING)}]*(?=\s)")
_TITLES = ("capt", "col", "dr", "gen", "gov", "jr", "lt", "mr", "mrs", "ms", "prof", "rep", "rev", "sen", "sgt", "sr")
_SHORT = frozenset((*_TITLES, "co", "corp", "ft", "inc", "ltd", "mt", "no", "st", "vol", "vs"))
"""Words that are mostly written with a full stop."""


@dataclass(frozen=True)
class Generation:
    """What was generated to an edit's prompt and to its paraphrases, before and after, up to the natural stop.

    Attributes:
        case_id: the request's.
        prompt: the edit's prompt.
        target_new: its new answer.
        before: the unedited model's answer.
        after: the edited model's.
        match: whether that begins with the whole new answer.
        rephrase: prompt, answer before, answer after and match, for each paraphrase.
    """

    case_id: int | str
    prompt: str
    target_new: str
    before: str
    after: str
    match: bool
    rephrase: tuple[tuple[str, str, str, bool], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON."""
        return {**vars(self), "rephrase": [list(one) for one in self.rephrase]}


def natural_end(text: str, answer: str = "") -> int | None:
    """Return where a free text stops being the answer: behind its sentence, before its line's end.

    A full stop ends a sentence if white space follows it and it doesn't stand behind an initial or an
    abbreviation; one at the very end of the text leaves it open until the next token shows.

    Args:
        text: what the model generated.
        answer: what it might be saying: as long as it does, nothing in it is an end ("Yahoo! Inc.").

    Returns:
        The index, None if the text hasn't come to an end.
    """
    begin = len(text) - len(text.lstrip())
    output, answer = text[begin:], answer.strip()
    if output.startswith(answer) or answer.startswith(output):
        begin += min(len(output), len(answer))
    for found in _END.finditer(text, max(begin - 1, 0)):
        if found.group() == "\n":
            if text[: found.start()].strip():
                return found.start()
        elif found.group() != "." or not _is_short(text[: found.start()]):
            return found.end()
    return None


def natural_answer(text: str, answer: str = "") -> str:
    """Return what was generated up to the natural stop, without the white space around it."""
    end = natural_end(text, answer)
    return text[:end].strip()


def normalise(text: str) -> str:
    """Return a text as question answering compares answers: no case, no punctuation, no articles, single spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", _bare(text)).split())


def _bare(text: str) -> str:
    return "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c) != "Po")


def starts_with_answer(text: str, answer: str) -> bool:
    """Whether a free text begins with the answer (leading space apart)."""
    return text.lstrip().startswith(answer.strip())


def starts_with_whole_answer(text: str, answer: str) -> bool:
    """Whether a free text begins with the answer and its last word or number ends there ("Paris", not "Parisian").

    Where no spaces separate words (Chinese, Japanese, Thai …), anything may follow.
    """
    answer = answer.strip()
    rest = text.lstrip()[len(answer) :]
    if not starts_with_answer(text, answer):
        return False
    if answer[-1:].isdigit() and re.match(r"[.,]?\d", rest):
        return False
    return not (_ends_a_word(answer[-1:]) and rest[:1].isalnum())


def _ends_a_word(character: str) -> bool:
    # Letters without case ("Lo") are those of scripts that mostly run words together.
    return character.isalnum() and unicodedata.category(character) != "Lo"


def exact_match(output: str, answer: str) -> bool:
    """Whether an answer is the right one, and nothing more, but for case, punctuation and articles."""
    output_bare, answer_bare = normalise(output), normalise(answer)
    return output_bare == answer_bare if answer_bare else output.strip() == answer.strip()


def contains_match(output: str, answer: str) -> bool:
    """Whether the right answer stands in what was generated, as whole words where words are set apart."""
    output_bare, answer_bare = normalise(output), normalise(answer)
    if not answer_bare and not _bare(answer).strip():
        return answer.strip() in output
    if not answer_bare:  # it is an article, such as the letter A; case tells the two apart
        return re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", output) is not None
    if any(unicodedata.category(c) == "Lo" for c in answer_bare):  # scripts that mostly run words together
        return answer_bare in output_bare
    return f" {answer_bare} " in f" {output_bare} "


def token_f1(output: str, answer: str) -> float:
    """Return the harmonic mean of the precision and the recall of what was generated, word by word."""
    output_words, answer_words = (normalise(text).split() for text in (output, answer))
    if not output_words or not answer_words:
        return float(output_words == answer_words)
    same = sum((Counter(output_words) & Counter(answer_words)).values())
    return 2 * same / (len(output_words) + len(answer_words))


def _is_short(before: str) -> bool:
    """Whether a full stop behind this text belongs to its last word: "U.S", "J", "St"."""
    words = before.split()
    word = words[-1].lstrip(_OPENING) if words else ""
    single = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    return single or "." in word.strip(".") or word.lower() in _SHORT
