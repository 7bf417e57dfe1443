"""Where the prompt of each row ends: from masks, labels, and lengths that the caller gives."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from easyedit_lifelong.models.prompt_positions import PositionTracker, prompt_lengths
from tests.support.position_recorder import LONG, PAD, PositionRecorder, padded_batch
from tests.support.thoroughness import examples
from tests.support.tiny_models import build_model


def test_the_prompt_end_is_the_last_real_token_for_either_padding_side(family_recorder: PositionRecorder) -> None:
    family_recorder.model(**padded_batch("left"))
    family_recorder.model(**padded_batch("right"))
    family_recorder.model(input_ids=torch.tensor([LONG]))
    assert family_recorder.ends == [[4, 4], [2, 4], [4]]


def test_there_is_no_window_outside_a_forward_pass(recorder: PositionRecorder) -> None:
    assert recorder.tracker.window is None
    recorder.model(**padded_batch("left"))
    assert recorder.tracker.window is None


def test_a_mask_given_by_position_is_used(family_recorder: PositionRecorder) -> None:
    """``model(ids, mask)`` works like keywords, at whichever position the family has the mask."""
    names = list(inspect.signature(family_recorder.model.forward).parameters)
    inputs = padded_batch("right")
    before_the_mask = names.index("attention_mask") - 1
    family_recorder.model(inputs["input_ids"], *[None] * before_the_mask, inputs["attention_mask"])
    assert family_recorder.ends == [[2, 4]]


def test_embeddings_given_instead_of_tokens_are_tracked(llama: Any) -> None:
    tracker, ends = PositionTracker.attach(llama), []
    handle = llama.model.layers[0].register_forward_hook(lambda *_: ends.append(tracker.window.ends.tolist()))
    inputs = padded_batch("right")
    llama(inputs_embeds=llama.get_input_embeddings()(inputs["input_ids"]), attention_mask=inputs["attention_mask"])
    handle.remove()
    tracker.detach()
    assert ends == [[2, 4]]


@examples(25)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    extra=st.integers(0, 4),
    side=st.sampled_from(["left", "right"]),
)
def test_the_prompt_end_of_each_row_is_its_last_real_token(lengths: list[int], extra: int, side: Any) -> None:
    """The found column holds the last token of the row for any amount of padding."""
    recorder = PositionRecorder(_shared_llama())
    width = max(lengths) + extra
    ids, mask = torch.full((len(lengths), width), PAD), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        span = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, span] = torch.arange(10, 10 + length)
        mask[row, span] = 1
    recorder.model(input_ids=ids, attention_mask=mask)
    recorder.close()
    (ends,) = recorder.ends
    assert ends is not None
    assert [ids[row, end].item() for row, end in enumerate(ends)] == [9 + length for length in lengths]


@functools.cache
def _shared_llama() -> Any:
    """Return one model for all examples of a property."""
    return build_model("llama")


@pytest.mark.parametrize(
    ("side", "labels", "ends"),
    [
        # the answers are 7 of SHORT (5 6 7) and 11 12 of LONG (8 9 10 11 12)
        ("left", [[-100, -100, -100, -100, 7], [-100, -100, -100, 11, 12]], [3, 2]),
        ("right", [[-100, -100, 7, -100, -100], [-100, -100, -100, 11, 12]], [1, 2]),
        # plain language modelling: every real token is a label, there is no prompt
        ("left", [[-100, -100, 5, 6, 7], [8, 9, 10, 11, 12]], [4, 4]),
        ("right", [[5, 6, 7, -100, -100], [8, 9, 10, 11, 12]], [2, 4]),
        # no labels
        ("right", [[-100] * 5, [-100] * 5], [2, 4]),
    ],
)
def test_labels_determine_where_the_prompt_ends(
    recorder: PositionRecorder, side: Any, labels: list[list[int]], ends: list[int]
) -> None:
    recorder.model(**padded_batch(side), labels=torch.tensor(labels))
    assert recorder.ends == [ends]


@pytest.mark.parametrize(("side", "ends"), [("left", [3, 2]), ("right", [1, 2])])
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_given_lengths_count_real_tokens_and_last_for_their_context(
    family_recorder: PositionRecorder, side: Any, ends: list[int], kind: Any
) -> None:
    with prompt_lengths(family_recorder.model, kind([2, 3])):
        family_recorder.model(**padded_batch(side))
    family_recorder.model(**padded_batch(side))
    assert family_recorder.ends[0] == ends
    assert family_recorder.ends[1] == ([4, 4] if side == "left" else [2, 4]), (
        "the given lengths are used after their context"
    )


def test_given_lengths_take_precedence_over_labels_and_nest(recorder: PositionRecorder) -> None:
    inputs = padded_batch("right")
    labels = torch.tensor([[-100, 6, 7, -100, -100], [-100, 9, 10, 11, 12]])
    with prompt_lengths(recorder.model, [3, 5]):
        with prompt_lengths(recorder.model, [1, 1]):
            recorder.model(**inputs, labels=labels)
        recorder.model(**inputs, labels=labels)
    assert recorder.ends == [[0, 0], [2, 4]]


def test_a_given_length_beyond_the_row_has_no_prompt_end(recorder: PositionRecorder) -> None:
    with prompt_lengths(recorder.model, [4, 4]):
        recorder.model(**padded_batch("right"))
    assert recorder.ends == [[-1, 3]]


def test_given_lengths_count_cached_tokens(recorder: PositionRecorder) -> None:
    """A prompt that ends in the cached part has no end in this pass; one that ends in the new part has."""
    cache = DynamicCache(config=recorder.model.config)
    ids = torch.tensor([LONG, LONG])
    recorder.model(input_ids=ids[:, :2], past_key_values=cache)
    with prompt_lengths(recorder.model, [2, 4]):
        recorder.model(input_ids=ids[:, 2:], past_key_values=cache)
    assert recorder.ends[1] == [-1, 1]


def test_given_lengths_change_nothing_on_a_model_without_a_tracker(llama: Any) -> None:
    inputs = padded_batch("right")
    plain = llama(**inputs).logits
    with prompt_lengths(llama, [1, 1]):
        assert torch.equal(llama(**inputs).logits, plain)
    with prompt_lengths(object(), [1]):
        pass
