"""Where each row's prompt ends, in every kind of pass that a model makes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import DynamicCache, GenerationConfig

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.prompt_positions import PositionTracker, prompt_lengths
from tests.support.thoroughness import examples
from tests.support.tiny_models import build_model

PAD = 0
SHORT, LONG = [5, 6, 7], [8, 9, 10, 11, 12]


class Watched:
    """A tracked model, and what its layers were told in every pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tracker = PositionTracker.attach(model)
        self.seen: list[list[int] | None] = []
        self.handle = model.get_input_embeddings().register_forward_hook(self._record)

    def _record(self, *_: Any) -> None:
        window = self.tracker.window
        self.seen.append(None if window is None else window.ends.tolist())

    def close(self) -> None:
        self.handle.remove()
        self.tracker.detach()


@pytest.fixture
def watched(llama: Any) -> Iterator[Watched]:
    watched = Watched(llama)
    yield watched
    watched.close()


@pytest.fixture
def watched_family(family: str) -> Iterator[Watched]:
    watched = Watched(build_model(family))
    yield watched
    watched.close()


def batch(side: Any, *rows: list[int]) -> dict[str, torch.Tensor]:
    ids, mask = pad_rows(rows or (SHORT, LONG), PAD, side)
    return {"input_ids": ids, "attention_mask": mask}


def greedy(tokens: int, **options: Any) -> GenerationConfig:
    # No end of text: every row runs its full length, so that the number of passes is known.
    return GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=PAD, **options)


# ------------------------------------------------------------------ one plain pass


def test_the_prompt_end_is_the_last_real_token_for_either_padding_side(watched_family: Watched) -> None:
    watched_family.model(**batch("left"))
    watched_family.model(**batch("right"))
    watched_family.model(input_ids=torch.tensor([LONG]))
    assert watched_family.seen == [[4, 4], [2, 4], [4]]


def test_there_is_no_window_outside_a_forward_pass(watched: Watched) -> None:
    assert watched.tracker.window is None
    watched.model(**batch("left"))
    assert watched.tracker.window is None


def test_a_mask_given_by_position_is_used(watched_family: Watched) -> None:
    """``model(ids, mask)`` is as good as keywords, wherever the family puts the mask."""
    import inspect

    names = list(inspect.signature(watched_family.model.forward).parameters)
    inputs = batch("right")
    before_the_mask = names.index("attention_mask") - 1
    watched_family.model(inputs["input_ids"], *[None] * before_the_mask, inputs["attention_mask"])
    assert watched_family.seen == [[2, 4]]


def test_embeddings_given_instead_of_tokens_are_tracked(llama: Any) -> None:
    tracker, seen = PositionTracker.attach(llama), []
    handle = llama.model.layers[0].register_forward_hook(lambda *_: seen.append(tracker.window.ends.tolist()))
    inputs = batch("right")
    llama(inputs_embeds=llama.get_input_embeddings()(inputs["input_ids"]), attention_mask=inputs["attention_mask"])
    handle.remove()
    tracker.detach()
    assert seen == [[2, 4]]


@examples(25)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    extra=st.integers(0, 4),
    side=st.sampled_from(["left", "right"]),
)
def test_the_prompt_end_of_each_row_is_its_last_real_token(lengths: list[int], extra: int, side: Any) -> None:
    """However much padding there is, the column found holds the row's own last token."""
    watched = Watched(_llama())
    width = max(lengths) + extra
    ids, mask = torch.full((len(lengths), width), PAD), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        span = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, span] = torch.arange(10, 10 + length)
        mask[row, span] = 1
    watched.model(input_ids=ids, attention_mask=mask)
    watched.close()
    (ends,) = watched.seen
    assert ends is not None
    assert [ids[row, end].item() for row, end in enumerate(ends)] == [9 + length for length in lengths]


_CACHE: list[Any] = []


def _llama() -> Any:
    if not _CACHE:
        _CACHE.append(build_model("llama"))
    return _CACHE[0]


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("side", "labels", "ends"),
    [
        # SHORT is 5 6 7, LONG is 8 9 10 11 12; the answer is 7 there and 11 12 here
        ("left", [[-100, -100, -100, -100, 7], [-100, -100, -100, 11, 12]], [3, 2]),
        ("right", [[-100, -100, 7, -100, -100], [-100, -100, -100, 11, 12]], [1, 2]),
        # plain language modelling: every real token is a label, there is no prompt
        ("left", [[-100, -100, 5, 6, 7], [8, 9, 10, 11, 12]], [4, 4]),
        ("right", [[5, 6, 7, -100, -100], [8, 9, 10, 11, 12]], [2, 4]),
        # nothing to answer
        ("right", [[-100] * 5, [-100] * 5], [2, 4]),
    ],
)
def test_labels_determine_where_the_prompt_ends(
    watched: Watched, side: Any, labels: list[list[int]], ends: list[int]
) -> None:
    watched.model(**batch(side), labels=torch.tensor(labels))
    assert watched.seen == [ends]


# ------------------------------------------------------------------ lengths that the caller gives


@pytest.mark.parametrize(("side", "ends"), [("left", [3, 2]), ("right", [1, 2])])
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_given_lengths_count_real_tokens_and_last_for_their_context(
    watched_family: Watched, side: Any, ends: list[int], kind: Any
) -> None:
    with prompt_lengths(watched_family.model, kind([2, 3])):
        watched_family.model(**batch(side))
    watched_family.model(**batch(side))
    assert watched_family.seen[0] == ends
    assert watched_family.seen[1] == ([4, 4] if side == "left" else [2, 4]), "lengths outlived their context"


def test_given_lengths_take_precedence_over_labels_and_nest(watched: Watched) -> None:
    inputs = batch("right")
    labels = torch.tensor([[-100, 6, 7, -100, -100], [-100, 9, 10, 11, 12]])
    with prompt_lengths(watched.model, [3, 5]):
        with prompt_lengths(watched.model, [1, 1]):
            watched.model(**inputs, labels=labels)
        watched.model(**inputs, labels=labels)
    assert watched.seen == [[0, 0], [2, 4]]


def test_a_given_length_beyond_the_row_has_no_prompt_end(watched: Watched) -> None:
    with prompt_lengths(watched.model, [4, 4]):
        watched.model(**batch("right"))
    assert watched.seen == [[-1, 3]]


def test_given_lengths_count_cached_tokens(watched: Watched) -> None:
    """The prompt's end may lie in the part that is cached (then not here) or in the new part."""
    cache = DynamicCache(config=watched.model.config)
    ids = torch.tensor([LONG, LONG])
    watched.model(input_ids=ids[:, :2], past_key_values=cache)
    with prompt_lengths(watched.model, [2, 4]):
        watched.model(input_ids=ids[:, 2:], past_key_values=cache)
    assert watched.seen[1] == [-1, 1]


def test_given_lengths_change_nothing_on_a_model_without_a_tracker(llama: Any) -> None:
    inputs = batch("right")
    plain = llama(**inputs).logits
    with prompt_lengths(llama, [1, 1]):
        assert torch.equal(llama(**inputs).logits, plain)
    with prompt_lengths(object(), [1]):
        pass


# ------------------------------------------------------------------ generate


def test_generate_with_a_cache_sees_the_prompt_end_in_the_first_pass_only(watched_family: Watched) -> None:
    watched_family.model.generate(**batch("left"), generation_config=greedy(3))
    assert watched_family.seen == [[4, 4], [-1, -1], [-1, -1]]


def test_generate_without_a_cache_finds_the_same_column_in_every_pass(watched_family: Watched) -> None:
    watched_family.model.generate(**batch("left"), generation_config=greedy(3, use_cache=False))
    assert watched_family.seen == [[4, 4], [4, 4], [4, 4]]


@pytest.mark.parametrize(
    ("side", "options", "behind"),
    [
        ("left", {}, [False, True, True]),
        ("right", {}, [False, True, True]),
        ("left", {"use_cache": False}, [False, False, False]),
        ("left", {"prefill_chunk_size": 2}, [False, False, False, True, True]),
    ],
)
def test_passes_after_the_prompts_are_marked_as_behind(
    llama: Any, side: Any, options: dict[str, Any], behind: list[bool]
) -> None:
    tracker, seen = PositionTracker.attach(llama), []
    handle = llama.lm_head.register_forward_hook(lambda *_: seen.append(tracker.window.behind))
    llama.generate(**batch(side), generation_config=greedy(3, **options))
    handle.remove()
    tracker.detach()
    assert seen == behind


def test_generate_without_a_mask_uses_the_padding_token(watched: Watched) -> None:
    watched.model.generation_config.eos_token_id, watched.model.generation_config.pad_token_id = 2, PAD
    watched.model.generate(batch("right")["input_ids"], generation_config=greedy(1))
    assert watched.seen == [[2, 4]]


def test_chunked_prefill_finds_the_prompt_end_in_the_last_chunk(watched: Watched) -> None:
    watched.model.generate(torch.tensor([LONG]), generation_config=greedy(2, prefill_chunk_size=2))
    assert watched.seen == [[-1], [-1], [0], [-1]]


@pytest.mark.parametrize("use_cache", [True, False])
def test_beam_search_repeats_the_prompt_end_for_each_beam(watched_family: Watched, use_cache: bool) -> None:
    # Padding on the right, so that the two prompts end in different columns.
    config = greedy(2, num_beams=2, num_return_sequences=2, use_cache=use_cache)
    output = watched_family.model.generate(**batch("right"), generation_config=config)
    assert len(output) == 4
    assert watched_family.seen[0] == [2, 2, 4, 4]
    assert watched_family.seen[1:] == [[-1] * 4 if use_cache else [2, 2, 4, 4]]


def test_sampling_repeats_the_prompt_end_for_each_returned_sequence(watched: Watched) -> None:
    config = GenerationConfig(max_new_tokens=1, do_sample=True, num_return_sequences=3, pad_token_id=PAD)
    watched.model.generate(**batch("right"), generation_config=config)
    assert watched.seen == [[2, 2, 2, 4, 4, 4]]


def test_a_pass_with_another_number_of_rows_than_prompts_is_refused(watched: Watched) -> None:
    with (
        watched.tracker.generating(torch.ones(2, 2, dtype=torch.bool)),
        pytest.raises(EditError, match="3 rows for 2 prompts"),
    ):
        watched.model(input_ids=torch.tensor([LONG] * 3))
    watched.seen.clear()
    watched.model(input_ids=torch.tensor([LONG]))
    assert watched.seen == [[4]], "the refused pass left its state behind"
    assert watched.tracker.window is None


def test_generate_from_a_filled_cache_reads_the_prompt_again(watched_family: Watched) -> None:
    model, ids = watched_family.model, torch.tensor([LONG])
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:, :3], past_key_values=cache, use_cache=True)
    continued = model.generate(ids, past_key_values=cache, generation_config=greedy(3))
    assert watched_family.seen[1:] == [[4], [-1], [-1]], "the prompt is read anew, as a whole"
    assert torch.equal(continued, model.generate(ids, generation_config=greedy(3)))


def test_a_pass_that_continues_a_cache_has_no_prompt_end(watched: Watched) -> None:
    cache = DynamicCache(config=watched.model.config)
    watched.model(input_ids=torch.tensor([SHORT]), past_key_values=cache)
    watched.model(input_ids=torch.tensor([[9]]), past_key_values=cache)
    assert watched.seen == [[2], [-1]]


def test_tracking_does_not_change_what_generate_returns(family: str) -> None:
    model = build_model(family)
    inputs, config = batch("left"), greedy(4)
    before = model.generate(**inputs, generation_config=config)
    watched = Watched(model)
    assert torch.equal(model.generate(**inputs, generation_config=config), before)
    watched.close()


def test_a_plain_pass_after_generate_is_tracked_as_a_plain_pass(watched: Watched) -> None:
    watched.model.generate(**batch("left"), generation_config=greedy(2))
    watched.seen.clear()
    watched.model(**batch("right"))
    assert watched.seen == [[2, 4]]


def test_each_call_of_generate_has_one_generation_object(watched: Watched) -> None:
    """Layers remember decisions per call of generate; two calls must not share them."""
    calls = []

    def record(*_: Any) -> None:
        assert watched.tracker.window is not None
        calls.append(watched.tracker.window.generation)

    handle = watched.model.model.layers[0].register_forward_hook(record)
    for _ in range(2):
        watched.model.generate(**batch("left"), generation_config=greedy(2))
    watched.model(**batch("left"))
    handle.remove()
    assert calls[0] is calls[1] is not None
    assert calls[2] is calls[3] is not calls[0]
    assert calls[4] is None


# ------------------------------------------------------------------ the inner model, and what goes wrong


def test_a_pass_of_the_inner_model_is_tracked(watched_family: Watched) -> None:
    watched_family.model.base_model(**batch("right"))
    assert watched_family.seen == [[2, 4]]
    assert watched_family.tracker.window is None


def test_the_window_of_an_outer_pass_is_kept_by_the_inner_model(watched_family: Watched) -> None:
    labels = torch.tensor([[-100, 6, 7, -100, -100], [-100, 9, 10, 11, 12]])
    watched_family.model(**batch("right"), labels=labels)
    assert watched_family.seen == [[0, 0]]


class Interrupt(Exception):
    """Raised inside a forward pass."""


def _raise(*_: Any, **__: Any) -> None:
    raise Interrupt


def _press_control_c(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("called", ["inner model", "outer model"])
@pytest.mark.parametrize("where", ["block", "inner model", "outer model"])
@pytest.mark.parametrize("hook", [_raise, _press_control_c])
def test_an_exception_inside_a_pass_leaves_no_state(watched: Watched, called: str, where: str, hook: Any) -> None:
    """Nor does an impatient hand in a notebook, which goes on with the same model."""
    model = watched.model
    modules = {"block": model.model.layers[1], "inner model": model.model, "outer model": model}
    handle = modules[where].register_forward_pre_hook(hook)
    if (called, where) != ("inner model", "outer model"):  # then it isn't called at all
        with pytest.raises((Interrupt, KeyboardInterrupt)):
            modules[called](**batch("left"))
    handle.remove()
    _assert_sound(watched)


@pytest.mark.parametrize("inner", [True, False])
def test_an_exception_in_an_earlier_hook_leaves_no_state(llama: Any, inner: bool) -> None:
    """Somebody else's hook, registered before ours, raises: ours never saw the pass begin."""
    handle = (llama.model if inner else llama).register_forward_pre_hook(_raise)
    watched = Watched(llama)
    with pytest.raises(Interrupt):
        llama(**batch("left"))
    handle.remove()
    _assert_sound(watched)
    watched.close()


def test_an_exception_inside_generate_leaves_no_state(watched: Watched) -> None:
    handle = watched.model.model.layers[1].register_forward_pre_hook(_raise)
    with pytest.raises(Interrupt):
        watched.model.generate(**batch("left"), generation_config=greedy(2))
    handle.remove()
    _assert_sound(watched)


def test_an_exception_inside_given_lengths_leaves_no_state(watched: Watched) -> None:
    with pytest.raises(Interrupt), prompt_lengths(watched.model, [1, 1]):
        raise Interrupt
    _assert_sound(watched)


def _assert_sound(watched: Watched) -> None:
    assert watched.tracker.window is None
    watched.seen.clear()
    labels = torch.tensor([[-100, 6, 7, -100, -100], [-100, 9, 10, 11, 12]])
    watched.model.base_model(**batch("right"))
    watched.model(**batch("right"))
    watched.model(**batch("right"), labels=labels)
    watched.model.generate(**batch("right"), generation_config=greedy(1))
    assert watched.seen == [[2, 4], [2, 4], [0, 0], [2, 4]]
    assert watched.tracker.window is None


# ------------------------------------------------------------------ coming and going


def _traces(model: nn.Module) -> dict[str, Any]:
    """Everything on the modules that a tracker could leave behind."""
    return {
        f"{path}.{name}": dict(value) if isinstance(value, dict) else value
        for path, module in model.named_modules()
        for name, value in module.__dict__.items()
        if name not in {"_parameters", "_buffers", "_modules"}
    }


def test_detaching_restores_every_attribute_of_the_model(family: str) -> None:
    model = build_model(family)
    before = _traces(model)
    tracker = PositionTracker.attach(model)
    assert _traces(model) != before
    tracker.detach()
    assert _traces(model) == before


def test_attachments_share_one_tracker_that_the_last_detach_removes(llama: Any) -> None:
    first, second = PositionTracker.attach(llama), PositionTracker.attach(llama)
    assert first is second is PositionTracker.of(llama)
    first.detach()
    assert PositionTracker.of(llama) is second
    second.detach()
    assert PositionTracker.of(llama) is None


def test_other_models_of_the_same_class_have_no_tracker(watched: Watched) -> None:
    other = build_model("llama")
    assert PositionTracker.of(other) is None
    assert other.generate.__func__ is type(other).generate


def test_a_copied_model_has_an_independent_tracker(watched: Watched) -> None:
    model, twin = watched.model, copy.deepcopy(watched.model)
    tracker = PositionTracker.of(twin)
    assert tracker is not None
    assert tracker is not watched.tracker
    assert tracker.model is twin
    seen: list[Any] = []

    def record(*_: Any) -> None:
        window, elsewhere = tracker.window, watched.tracker.window
        seen.append((None if window is None else window.ends.tolist(), elsewhere))

    handle = twin.model.layers[0].register_forward_hook(record)
    twin(**batch("right"))
    with prompt_lengths(twin, [1, 1]):
        twin(**batch("right"))
    with prompt_lengths(model, [1, 1]):
        twin(**batch("right"))
    twin.generate(**batch("right"), generation_config=greedy(2))
    assert seen == [([2, 4], None), ([0, 0], None), ([2, 4], None), ([2, 4], None), ([-1, -1], None)]

    # The original goes its own way, and the copy's tracker comes off without it.
    watched.seen.clear()
    model(**batch("left"))
    assert watched.seen == [[4, 4]]
    tracker.detach()
    assert PositionTracker.of(twin) is None
    assert "generate" not in twin.__dict__
    handle.remove()
    assert not twin._forward_hooks
    assert not twin._forward_pre_hooks
    assert PositionTracker.of(model) is watched.tracker
