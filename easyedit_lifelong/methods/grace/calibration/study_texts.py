"""The texts of the records of a calibration, encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.grace.calibration.usable_records import subject_of
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.shared.subject_keys.key_texts import key_texts
from easyedit_lifelong.methods.shared.subject_positions import subject_span
from easyedit_lifelong.models.encoding import encode_text


@dataclass
class StudyTexts:
    """The encoded texts of some records. All are rows of token ids.

    Attributes:
        subjects: each record's subject.
        keys: rows that end at the subject's last token: all key texts of the first record, then of the second, ….
        contexts: for each record, rows that end at the subject's last token: its prompt and its context templates.
        paraphrases: paraphrases, cut off after the subject's last token.
        paraphrase_records: the index of each paraphrase's record.
        locality: locality prompts, in full.
        subject_absent: whether a locality prompt does not name a record's subject, ``(locality prompts, records)``.
        same_subject: whether two records have the same subject, ``(records, records)``.
    """

    subjects: list[str]
    keys: list[list[int]]
    contexts: list[list[list[int]]]
    paraphrases: list[list[int]]
    paraphrase_records: list[int]
    locality: list[list[int]]
    subject_absent: Tensor
    same_subject: Tensor

    @classmethod
    def of(cls, requests: Sequence[EditRequest], tokenizer: Any, hparams: GraceHyperParams) -> StudyTexts:
        """Encode the texts of usable records.

        Paraphrases that do not name the subject are left out, since no subject token could match.

        Args:
            requests: records that :func:`.usable_records` returned.
            tokenizer: the model's.
            hparams: GRACE's hyperparameters, for their templates.
        """
        subjects = [subject_of(request) for request in requests]
        names = [subject.casefold() for subject in subjects]
        prompts = [(request.prompt, subject_span(request)) for request in requests]
        paraphrases = [
            (number, key_texts(tokenizer, text, span, []))
            for number, request in enumerate(requests)
            for text in request.rephrase_prompts
            if (span := find_subject(text, subjects[number])) is not None
        ]
        locality = dict.fromkeys(
            probe.prompt for request in requests for probes in request.locality.values() for probe in probes
        )
        return cls(
            subjects=subjects,
            keys=[row for prompt in prompts for row in key_texts(tokenizer, *prompt, hparams.key_templates)],
            contexts=[key_texts(tokenizer, *prompt, hparams.context_templates) for prompt in prompts],
            paraphrases=[row for _, rows in paraphrases for row in rows],
            paraphrase_records=[number for number, _ in paraphrases],
            locality=[encode_text(tokenizer, text) for text in locality],
            subject_absent=torch.tensor([[name not in text for name in names] for text in map(str.casefold, locality)]),
            same_subject=torch.tensor([[name == other for other in names] for name in names]),
        )
