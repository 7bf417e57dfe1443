"""Where the prompt of each row ends in the passes of ``generate``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.windows import Generation
from tests.support.position_recorder import LONG, PAD, SHORT, PositionRecorder, greedy_config, padded_batch
from tests.support.tiny_models import build_model


def test_generate_with_a_cache_sees_the_prompt_end_in_the_first_pass_only(family_recorder: PositionRecorder) -> None:
    family_recorder.model.generate(**padded_batch("left"), generation_config=greedy_config(3))
    assert family_recorder.ends == [[4, 4], [-1, -1], [-1, -1]]


def test_generate_without_a_cache_finds_the_same_column_in_every_pass(family_recorder: PositionRecorder) -> None:
    family_recorder.model.generate(**padded_batch("left"), generation_config=greedy_config(3, use_cache=False))
    assert family_recorder.ends == [[4, 4], [4, 4], [4, 4]]


@pytest.mark.parametrize(
    ("side", "options", "expected"),
    [
        ("left", {}, [False, True, True]),
        ("right", {}, [False, True, True]),
        ("left", {"use_cache": False}, [False, False, False]),
        ("left", {"prefill_chunk_size": 2}, [False, False, False, True, True]),
    ],
)
def test_passes_after_the_prompts_are_marked_as_behind(
    llama: Any, side: Any, options: dict[str, Any], expected: list[bool]
) -> None:
    tracker, behind = PositionTracker.attach(llama), []
    handle = llama.lm_head.register_forward_hook(lambda *_: behind.append(tracker.window.behind))
    llama.generate(**padded_batch(side), generation_config=greedy_config(3, **options))
    handle.remove()
    tracker.detach()
    assert behind == expected


def test_generate_without_a_mask_uses_the_padding_token(recorder: PositionRecorder) -> None:
    recorder.model.generation_config.eos_token_id, recorder.model.generation_config.pad_token_id = 2, PAD
    recorder.model.generate(padded_batch("right")["input_ids"], generation_config=greedy_config(1))
    assert recorder.ends == [[2, 4]]


def test_chunked_prefill_finds_the_prompt_end_in_the_last_chunk(recorder: PositionRecorder) -> None:
    recorder.model.generate(torch.tensor([LONG]), generation_config=greedy_config(2, prefill_chunk_size=2))
    assert recorder.ends == [[-1], [-1], [0], [-1]]


@pytest.mark.parametrize("use_cache", [True, False])
def test_beam_search_repeats_the_prompt_end_for_each_beam(family_recorder: PositionRecorder, use_cache: bool) -> None:
    # Padding on the right, so that the two prompts end in different columns.
    config = greedy_config(2, num_beams=2, num_return_sequences=2, use_cache=use_cache)
    output = family_recorder.model.generate(**padded_batch("right"), generation_config=config)
    assert len(output) == 4
    assert family_recorder.ends[0] == [2, 2, 4, 4]
    assert family_recorder.ends[1:] == [[-1] * 4 if use_cache else [2, 2, 4, 4]]


def test_sampling_repeats_the_prompt_end_for_each_returned_sequence(recorder: PositionRecorder) -> None:
    config = GenerationConfig(max_new_tokens=1, do_sample=True, num_return_sequences=3, pad_token_id=PAD)
    recorder.model.generate(**padded_batch("right"), generation_config=config)
    assert recorder.ends == [[2, 2, 2, 4, 4, 4]]


def test_a_pass_with_another_number_of_rows_than_prompts_is_refused(recorder: PositionRecorder) -> None:
    with (
        recorder.tracker.generating(Generation(torch.ones(2, 2, dtype=torch.bool))),
        pytest.raises(EditError, match="3 rows for 2 prompts"),
    ):
        recorder.model(input_ids=torch.tensor([LONG] * 3))
    recorder.ends.clear()
    recorder.model(input_ids=torch.tensor([LONG]))
    assert recorder.ends == [[4]], "the refused pass changed the position of the next one"
    assert recorder.tracker.window is None


def test_generate_from_a_filled_cache_reads_the_prompt_again(family_recorder: PositionRecorder) -> None:
    model, ids = family_recorder.model, torch.tensor([LONG])
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:, :3], past_key_values=cache, use_cache=True)
    continued = model.generate(ids, past_key_values=cache, generation_config=greedy_config(3))
    assert family_recorder.ends[1:] == [[4], [-1], [-1]], "the first pass of generate doesn't read the whole prompt"
    assert torch.equal(continued, model.generate(ids, generation_config=greedy_config(3)))


def test_a_pass_that_continues_a_cache_has_no_prompt_end(recorder: PositionRecorder) -> None:
    cache = DynamicCache(config=recorder.model.config)
    recorder.model(input_ids=torch.tensor([SHORT]), past_key_values=cache)
    recorder.model(input_ids=torch.tensor([[9]]), past_key_values=cache)
    assert recorder.ends == [[2], [-1]]


def test_tracking_does_not_change_what_generate_returns(family: str) -> None:
    model = build_model(family)
    inputs, config = padded_batch("left"), greedy_config(4)
    untracked = model.generate(**inputs, generation_config=config)
    recorder = PositionRecorder(model)
    assert torch.equal(model.generate(**inputs, generation_config=config), untracked)
    recorder.close()


def test_a_plain_pass_after_generate_is_tracked_as_a_plain_pass(recorder: PositionRecorder) -> None:
    recorder.model.generate(**padded_batch("left"), generation_config=greedy_config(2))
    recorder.ends.clear()
    recorder.model(**padded_batch("right"))
    assert recorder.ends == [[2, 4]]


def test_each_call_of_generate_has_one_generation_object(recorder: PositionRecorder) -> None:
    """Layers keep decisions for each call of ``generate``; two calls must not share them."""
    generations = []

    def record(*_: Any) -> None:
        assert recorder.tracker.window is not None
        generations.append(recorder.tracker.window.generation)

    handle = recorder.model.model.layers[0].register_forward_hook(record)
    for _ in range(2):
        recorder.model.generate(**padded_batch("left"), generation_config=greedy_config(2))
    recorder.model(**padded_batch("left"))
    handle.remove()
    assert generations[0] is generations[1] is not None
    assert generations[2] is generations[3] is not generations[0]
    assert generations[4] is None
