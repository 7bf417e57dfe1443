"""The reported metrics: their names in the papers, meanings and formulas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    """The description of a metric.

    Attributes:
        name: its key in ``summary.json``.
        kind: ``teacher-forced`` (the model is given the correct answer up to each position), ``generated`` (greedy
            text) or ``count``.
        meaning: what is averaged over what.
        formula: how it is computed.
        paper: where it is defined.
        direction: which direction is better: ``higher``, ``lower``, or ``none`` if neither is.
    """

    name: str
    kind: str
    meaning: str
    formula: str
    paper: str = ""
    direction: str = "higher"


_LIFELONG = "GRACE (arXiv 2211.11031), section 4"
_HALLUCINATION = "GRACE (arXiv 2211.11031), its hallucination task, there of accurate sentences"
_EASYEDIT = "EasyEdit (arXiv 2308.07269)"
_KNOWEDIT = "KnowEdit (arXiv 2401.01286)"
_MQUAKE = "MQuAKE (arXiv 2305.14795), section 4, there of generated answers"
_MIRAGE = "The Mirage of Model Editing (arXiv 2502.11177)"
_ROME = "ROME (arXiv 2202.05262), section 3.4; MEMIT (arXiv 2210.07229), section 5.2"

_HARNESS = "lm-evaluation-harness (acc and acc_norm)"

_FORCED, _GENERATED, _COUNT = "teacher-forced", "generated", "count"

_TOKENS = "mean of [argmax p(. | prompt, answer up to t) = answer_t] over t, then over questions"
_KEPT = "mean of [edited argmax_t = unedited argmax_t] along the answer, then over questions"
_ODDS = "mean of [P(wanted) > P(other)], P = exp(mean log p of an answer's tokens); over a request's prompts first"
_DIFFERENCE = "mean of P(wanted) - P(other), P = exp(mean log p of an answer's tokens); over a request's prompts first"
_HARMONIC = "3 / (1/efficacy_success + 1/paraphrase_success + 1/neighborhood_success)"
_ANY = "mean over cases of [every token of the answer is the model's choice for some question of the case]"
_WHOLE = "mean of [every token of the answer is the model's choice]"
_PPL = "mean over answers of exp(mean over t of -log p(answer_t | prompt, answer up to t))"
_F1 = "mean of 2 |output and answer| / (|output| + |answer|), words without case, punctuation and articles"
_BEGINS = "mean of [the greedy text, without leading space, begins with the target]"
_EXACT = "mean of [output = target] up to the natural stop, without case, punctuation and articles"
_CONTAINS = "mean of [output contains target] up to the natural stop, without case, punctuation and articles"
_CONTAINS_OLD = "mean of [a greedy text of 60 tokens contains ground_truth], without case, punctuation and articles"
_VERDICT = "mean of the judge's verdict, from 0 (wrong) to 1 (right), on the output up to the natural stop"
_ENTROPY = "mean of (2/3 H(bigrams) + 4/3 H(trigrams)) / 2 of texts of up to 100 tokens, in bits"
_ENTROPY_AFTER = "mean of (2/3 H(bigrams) + 4/3 H(trigrams)) / 2 of greedy texts of 60 tokens, in bits"
_LARGEST = "mean of [the right choice has the largest sum of log p of its tokens]"
_LARGEST_NORM = "mean of [the right choice has the largest sum of log p of its tokens / its number of characters]"
_TEXT_PPL = "exp(mean of -log p(token | those before it)) over windows of 256 tokens"


_PORTABILITY_SETS = {
    "subject_aliasing": "Subject_Aliasing",
    "reasoning": "Reasoning",
    "logical_generalization": "Logical_Generalization",
}

_SPECS = (
    MetricSpec("ES", _FORCED, "edit success: share of target tokens chosen, right after each edit", _TOKENS, _LIFELONG),
    MetricSpec(
        "ERR", _FORCED, "edit retention rate: of all past edits, at the end (= reliability)", _TOKENS, _LIFELONG
    ),
    MetricSpec(
        "TRR",
        _FORCED,
        "test retention rate: share of true answers' tokens chosen, held-out prompts",
        _TOKENS,
        _LIFELONG,
    ),
    MetricSpec("TRR_before", _FORCED, "TRR of the unedited model", _TOKENS, _LIFELONG),
    MetricSpec(
        "ARR",
        _FORCED,
        "accurate retention rate: share of answer tokens still chosen on prompts that aren't "
        "edited and that the unedited model answers correctly: held-out, locality and skipped prompts",
        _TOKENS,
        _HALLUCINATION,
    ),
    MetricSpec("n_keys", _COUNT, "keys in the codebook", "number of keys, over all layers", _LIFELONG, "lower"),
    MetricSpec(
        "n_further_keys", _COUNT, "further keys of long targets", "number of keys, over all layers", _LIFELONG, "lower"
    ),
    MetricSpec("edits_per_key", _COUNT, "mean number of edits per key", "edits / n_keys", _LIFELONG),
    # ---- ES, ERR and TRR in the task's own measure
    MetricSpec("ERR_f1", _GENERATED, "ERR of question answering: F1 of generated answers, past edits", _F1, _LIFELONG),
    MetricSpec("ERR_f1_before", _GENERATED, "ERR_f1 of the unedited model", _F1, _LIFELONG),
    MetricSpec(
        "TRR_f1",
        _GENERATED,
        "TRR of question answering: F1 of generated answers, held-out prompts (at most as many as requests)",
        _F1,
        _LIFELONG,
    ),
    MetricSpec("TRR_f1_before", _GENERATED, "TRR_f1 of the unedited model", _F1, _LIFELONG),
    MetricSpec(
        "ES_acc",
        _FORCED,
        "ES of classification: share of labels that the model gives, after each edit",
        _WHOLE,
        _LIFELONG,
    ),
    MetricSpec(
        "ERR_acc", _FORCED, "ERR of classification: share of past edits' labels that the model gives", _WHOLE, _LIFELONG
    ),
    MetricSpec("ERR_acc_before", _FORCED, "ERR_acc of the unedited model", _WHOLE, _LIFELONG),
    MetricSpec(
        "TRR_acc", _FORCED, "TRR of classification: share of held-out labels that the model gives", _WHOLE, _LIFELONG
    ),
    MetricSpec("TRR_acc_before", _FORCED, "TRR_acc of the unedited model", _WHOLE, _LIFELONG),
    MetricSpec(
        "ES_ppl", _FORCED, "ES of text generation: perplexity of the targets, after each edit", _PPL, _LIFELONG, "lower"
    ),
    MetricSpec(
        "ERR_ppl", _FORCED, "ERR of text generation: perplexity of past edits' targets", _PPL, _LIFELONG, "lower"
    ),
    MetricSpec("ERR_ppl_before", _FORCED, "ERR_ppl of the unedited model", _PPL, _LIFELONG, "lower"),
    MetricSpec("TRR_ppl", _FORCED, "TRR of text generation: perplexity of held-out answers", _PPL, _LIFELONG, "lower"),
    MetricSpec("TRR_ppl_before", _FORCED, "TRR_ppl of the unedited model", _PPL, _LIFELONG, "lower"),
    # ---- EasyEdit's
    MetricSpec(
        "reliability", _FORCED, "share of target tokens chosen on the edits' prompts, at the end", _TOKENS, _EASYEDIT
    ),
    MetricSpec(
        "generality", _FORCED, "share of target tokens chosen on rephrased prompts, at the end", _TOKENS, _EASYEDIT
    ),
    MetricSpec(
        "locality", _FORCED, "share of tokens chosen as the unedited model chooses, locality prompts", _KEPT, _EASYEDIT
    ),
    MetricSpec(
        "locality_other_subjects",
        _FORCED,
        "locality on prompts that name no subject of another edit; present if some do",
        _KEPT,
    ),
    MetricSpec(
        "relation_specificity",
        _FORCED,
        "share of tokens chosen as the unedited model chooses, prompts about "
        "the edited subjects that ask something else",
        _KEPT,
        _KNOWEDIT,
    ),
    MetricSpec(
        "portability", _FORCED, "share of answer tokens chosen on what follows from the edits", _TOKENS, _EASYEDIT
    ),
    # ---- sets of portability and locality questions
    *(
        MetricSpec(name, _FORCED, f"portability on KnowEdit's set {title}", _TOKENS, _KNOWEDIT)
        for name, title in _PORTABILITY_SETS.items()
    ),
    MetricSpec("forgetfulness", _FORCED, "locality on KnowEdit's set Forgetfulness", _KEPT, _KNOWEDIT),
    MetricSpec(
        "multi_hop",
        _FORCED,
        "share of cases for which the model predicts the answer of at least one multi-hop question",
        _ANY,
        _MQUAKE,
    ),
    *(
        MetricSpec(f"{name}_before", _FORCED, f"{name} of the unedited model", _TOKENS, _KNOWEDIT)
        for name in _PORTABILITY_SETS
    ),
    MetricSpec("multi_hop_before", _FORCED, "multi_hop of the unedited model", _ANY, _MQUAKE),
    MetricSpec("reliability_before", _FORCED, "reliability of the unedited model", _TOKENS, _EASYEDIT),
    MetricSpec("generality_before", _FORCED, "generality of the unedited model", _TOKENS, _EASYEDIT),
    MetricSpec("portability_before", _FORCED, "portability of the unedited model", _TOKENS, _EASYEDIT),
    # ---- ROME's and MEMIT's
    MetricSpec(
        "efficacy_success", _FORCED, "share of edits whose new answer is more probable than the true one", _ODDS, _ROME
    ),
    MetricSpec("paraphrase_success", _FORCED, "the same on rephrased prompts", _ODDS, _ROME),
    MetricSpec(
        "neighborhood_success",
        _FORCED,
        "share of locality prompts whose own answer is more probable than the edit's",
        _ODDS,
        _ROME,
    ),
    MetricSpec("rome_score", _FORCED, "Score: harmonic mean of the three kinds of success", _HARMONIC, _ROME),
    MetricSpec(
        "efficacy_magnitude",
        _FORCED,
        "by how much the new answer is more probable than the true one",
        _DIFFERENCE,
        _ROME,
    ),
    MetricSpec("paraphrase_magnitude", _FORCED, "the same on rephrased prompts", _DIFFERENCE, _ROME),
    MetricSpec(
        "neighborhood_magnitude",
        _FORCED,
        "by how much a locality prompt's own answer is more probable than the edit's",
        _DIFFERENCE,
        _ROME,
    ),
    MetricSpec("efficacy_success_before", _FORCED, "efficacy_success of the unedited model", _ODDS, _ROME),
    MetricSpec("paraphrase_success_before", _FORCED, "paraphrase_success of the unedited model", _ODDS, _ROME),
    MetricSpec("neighborhood_success_before", _FORCED, "neighborhood_success of the unedited model", _ODDS, _ROME),
    MetricSpec("rome_score_before", _FORCED, "rome_score of the unedited model", _HARMONIC, _ROME),
    # ---- free generation
    MetricSpec(
        "generation_match",
        _GENERATED,
        "share of edits whose greedy continuation begins with the target",
        _BEGINS,
        _MIRAGE,
    ),
    MetricSpec(
        "generation_match_word", _GENERATED, "the same, if the target's last word or number also ends there", _BEGINS
    ),
    MetricSpec("generation_match_rephrase", _GENERATED, "generation_match on rephrased prompts", _BEGINS, _MIRAGE),
    MetricSpec("exact_match", _GENERATED, "share of edits whose generated answer equals the target", _EXACT, _MIRAGE),
    MetricSpec("exact_match_rephrase", _GENERATED, "exact_match on rephrased prompts", _EXACT, _MIRAGE),
    MetricSpec(
        "contains_match", _GENERATED, "share of edits whose generated answer contains the target", _CONTAINS, _MIRAGE
    ),
    MetricSpec("contains_match_rephrase", _GENERATED, "contains_match on rephrased prompts", _CONTAINS, _MIRAGE),
    MetricSpec("generation_match_before", _GENERATED, "generation_match of the unedited model", _BEGINS, _MIRAGE),
    MetricSpec(
        "generation_match_rephrase_before",
        _GENERATED,
        "generation_match_rephrase of the unedited model",
        _BEGINS,
        _MIRAGE,
    ),
    MetricSpec("exact_match_before", _GENERATED, "exact_match of the unedited model", _EXACT, _MIRAGE),
    MetricSpec("contains_match_before", _GENERATED, "contains_match of the unedited model", _CONTAINS, _MIRAGE),
    # ---- a judge of generated answers
    MetricSpec("judge_score", _GENERATED, "the judge's verdict on generated answers, past edits", _VERDICT),
    MetricSpec("judge_score_before", _GENERATED, "judge_score of the unedited model", _VERDICT),
    MetricSpec("judge_score_rephrase", _GENERATED, "judge_score on paraphrases", _VERDICT),
    MetricSpec("judge_score_rephrase_before", _GENERATED, "judge_score_rephrase of the unedited model", _VERDICT),
    # ---- carry-over between plain prompts and chats
    MetricSpec("chat_reliability", _FORCED, "reliability on prompts asked in a chat", _TOKENS),
    MetricSpec("chat_reliability_before", _FORCED, "chat_reliability of the unedited model", _TOKENS),
    MetricSpec("chat_generation_match", _GENERATED, "generation_match on prompts asked in a chat", _BEGINS),
    MetricSpec("chat_generation_match_before", _GENERATED, "chat_generation_match of the unedited model", _BEGINS),
    MetricSpec("chat_contains_match", _GENERATED, "contains_match on prompts asked in a chat", _CONTAINS),
    MetricSpec("chat_contains_match_before", _GENERATED, "chat_contains_match of the unedited model", _CONTAINS),
    MetricSpec("plain_reliability", _FORCED, "reliability on plain prompts", _TOKENS),
    MetricSpec("plain_reliability_before", _FORCED, "plain_reliability of the unedited model", _TOKENS),
    MetricSpec("plain_generation_match", _GENERATED, "generation_match on plain prompts", _BEGINS),
    MetricSpec("plain_generation_match_before", _GENERATED, "plain_generation_match of the unedited model", _BEGINS),
    MetricSpec("plain_contains_match", _GENERATED, "contains_match on plain prompts", _CONTAINS),
    MetricSpec("plain_contains_match_before", _GENERATED, "plain_contains_match of the unedited model", _CONTAINS),
    # ---- self-consistency: what the model writes after its answer
    MetricSpec(
        "old_answer",
        _GENERATED,
        "share of edits whose prompt's continuation contains the old answer",
        _CONTAINS_OLD,
        "",
        "lower",
    ),
    MetricSpec("old_answer_before", _GENERATED, "old_answer of the unedited model", _CONTAINS_OLD, "", "lower"),
    MetricSpec(
        "continuation_entropy",
        _GENERATED,
        "n-gram entropy of the continuation after the answer; low if it repeats itself",
        _ENTROPY_AFTER,
    ),
    MetricSpec("continuation_entropy_before", _GENERATED, "continuation_entropy of the unedited model", _ENTROPY_AFTER),
    # ---- ordinary text
    MetricSpec(
        "fluency",
        _GENERATED,
        "n-gram entropy of greedy text on 20 requests' prompts; low if it repeats itself",
        _ENTROPY,
        _ROME,
    ),
    MetricSpec("fluency_before", _GENERATED, "fluency of the unedited model", _ENTROPY, _ROME),
    MetricSpec("text_perplexity", _FORCED, "perplexity of a held-out text", _TEXT_PPL, "", "lower"),
    MetricSpec("text_perplexity_before", _FORCED, "text_perplexity of the unedited model", _TEXT_PPL, "", "lower"),
    MetricSpec("capability", _FORCED, "accuracy on multiple-choice questions", _LARGEST, _HARNESS),
    MetricSpec("capability_before", _FORCED, "capability of the unedited model", _LARGEST, _HARNESS),
    MetricSpec(
        "capability_norm",
        _FORCED,
        "accuracy on multiple-choice questions, by log-likelihood per character",
        _LARGEST_NORM,
        _HARNESS,
    ),
    MetricSpec("capability_norm_before", _FORCED, "capability_norm of the unedited model", _LARGEST_NORM, _HARNESS),
)

METRICS = {spec.name: spec for spec in _SPECS}
"""All reported metrics, by name."""


def mean(values: Iterable[float]) -> float | None:
    """Return the mean; None if there are no values."""
    values = list(values)
    return sum(values) / len(values) if values else None
