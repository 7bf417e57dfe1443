"""The scope study of a model with CoachHook edits: which tokens of a prompt are in scope."""

from __future__ import annotations

from easyedit_lifelong.evaluation.scope import PROMPT
from easyedit_lifelong.methods.coachhook.scope import study_scope
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from tests.support.coachhook_edits import editor_on, hparams_for, requests_for
from tests.support.tiny_models import build_model, build_tokenizer


def test_the_study_has_the_tokens_and_scores_of_each_prompt_in_the_last_hook_layer() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests = requests_for(0, 1)
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    editor.edit(requests)
    scope = study_scope(model, tokenizer, requests)
    assert scope.module == "model.layers.2.mlp.down_proj", "the last hook layer"
    assert scope.alpha == editor.alphas[scope.module]
    assert [(row.case_id, row.kind, row.subject) for row in scope.rows] == [(0, PROMPT, 3), (1, PROMPT, 0)]
    assert scope.rows[0].tokens == ("the", "capital", "of", "France", "is")
    expected = z_scores(model, tokenizer, [requests[0].prompt])[scope.module][0]
    assert list(scope.rows[0].z) == expected.tolist()
    assert scope.alpha - 0.01 < scope.threshold < scope.alpha, "the threshold is α minus the rounding error"
