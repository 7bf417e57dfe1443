"""The commands of saved edits, from the command line on: edit, generate, export, push and pull."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from easyedit_lifelong import load_edits, load_model
from easyedit_lifelong.commands.edit import with_free_ids
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS, read_folder
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from tests.edits.test_edits_on_the_hub import REPO, hub  # noqa: F401  (a fixture)
from tests.methods.coachhook.support import FACTS, requests_for

PROMPT, TARGET, SUBJECT = "who wrote Hamlet", "Peru", "Hamlet"
OTHER = "the capital of France is"


class Desk:
    """A folder with both methods' hyperparameters, and the command line."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.checkpoint, self.capsys = folder, checkpoint, capsys
        common = {"model_name": str(checkpoint), "device": "cpu"}
        grace = {
            "alg_name": "GRACE", "inner_params": ["model.layers[2].mlp.down_proj.weight"], "n_iter": 30, "eps": 0.5,
            "stop_loss": 0.5,
        }  # fmt: skip
        coachhook = {
            "alg_name": "CoachHook", "layers": [1, 2], "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
            "layer_module_tmp": "model.layers.{}", "mom2_dataset": "self-sampled", "mom2_n_tokens": 400,
            "mom2_update_weight": 0.01, "v_num_grad_steps": 25, "clamp_norm_factor": 10, "v_weight_decay": 0.0,
            "context_template_length_params": [[5, 2]], "batch_size": 2, "stats_dir": str(folder / "stats"),
        }  # fmt: skip
        by_subject = {
            **grace, "inner_params": ["model.layers[1].mlp.down_proj"], "dist_fn": "cos", "query_token": "subject_last",
            "whiten": True, "eps": "auto", "key_templates": ["not far . {prompt}"], "gate_eps": 0.5,
            "answer_layer": "model.layers[2].mlp.down_proj", "mom2_dataset": "self-sampled", "mom2_n_tokens": 400,
            "stats_dir": str(folder / "stats"),
        }  # fmt: skip
        self.hparams = {}
        for name, values in (("GRACE", grace), ("GRACE-subject", by_subject), ("CoachHook", coachhook)):
            self.hparams[name] = folder / f"{name.lower()}.yaml"
            self.hparams[name].write_text(yaml.safe_dump({**common, **values}), encoding="utf-8")

    def run(self, *words: Any) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def done(self, *words: Any) -> str:
        code, out, err = self.run(*words)
        assert code == 0, out + err
        return out

    def refused(self, *words: Any) -> str:
        """Run what can't be run; return the one line that says why. Nothing is left behind."""
        before = self._files()
        code, out, err = self.run(*words)
        said = [line for line in err.splitlines() if line.startswith("easyedit-lifelong: ")]
        assert code == 1, out + err
        assert "Traceback" not in out + err
        assert len(said) == 1, err
        assert err.rstrip().splitlines()[-1] == said[0], "the message is one line, and the last"
        assert self._files() == before
        return said[0].removeprefix("easyedit-lifelong: ")

    def edit(self, method: str, out: str, *more: Any) -> str:
        subject = ("--subject", SUBJECT) if method != "GRACE" else ()
        return self.done(
            "edit", "--hparams", self.hparams[method], "--prompt", PROMPT, "--target", TARGET, *subject,
            "--out", self.folder / out, *more,
        )  # fmt: skip

    def records(self, out: str) -> list[dict[str, Any]]:
        return [edit for part in read_folder(self.folder / out)[0]["parts"] for edit in part["edits"]]

    def model(self, out: str | None = None) -> tuple[Any, Any]:
        model, tokenizer = load_model(self.checkpoint, "cpu")
        if out is not None:
            load_edits(model, self.folder / out, tokenizer)
        return model, tokenizer

    def _files(self) -> dict[str, bytes | None]:
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
            if "cache" not in path.relative_to(self.folder).parts  # the Hub's client's
        }


@pytest.fixture
def desk(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("COLUMNS", "100")
    return Desk(tmp_path, checkpoint, capsys)


def said_by(model: Any, tokenizer: Any, prompt: str, count: int) -> str:
    return Scorer(tokenizer).generate(model, [prompt], count)[0]


# ------------------------------------------------------------------ edit


@pytest.mark.parametrize("method", ["GRACE", "GRACE-subject", "CoachHook"])
def test_an_edit_is_made_shown_and_saved(desk: Desk, method: str) -> None:
    out = desk.edit(method, "edits")
    assert f"{method.removesuffix('-subject')} on {desk.checkpoint}: 1 edit" in out
    assert "1/1 edits" in out, "progress, where nobody watches"
    assert "learned: 1 of 1" in out
    before, after = said_by(*desk.model(), PROMPT, 8), said_by(*desk.model("edits"), PROMPT, 8)
    assert after.split()[0] == TARGET
    assert before != after
    row = " ".join(out[out.index("before and after") :].split())
    for text in (before, after):
        assert all(word in row for word in text.split())
    (record,) = desk.records("edits")
    assert (record["case_id"], record["prompt"], record["target_new"]) == (0, PROMPT, TARGET)


def test_several_facts_in_step(desk: Desk) -> None:
    words = [word for prompt, target, subject in FACTS[:3]
             for word in ("--prompt", prompt, "--target", target, "--subject", subject)]  # fmt: skip
    out = desk.done("edit", "--hparams", desk.hparams["CoachHook"], *words, "--out", desk.folder / "edits")
    assert "3/3 edits" in out
    assert [(r["prompt"], r["target_new"], r["subject"]) for r in desk.records("edits")] == FACTS[:3]
    assert [batch["edits"] for batch in read_folder(desk.folder / "edits")[0]["parts"][0]["state"]["batches"]] == [2, 1]


def test_edits_by_subjects_go_on_upon_others_and_are_shown(desk: Desk) -> None:
    desk.edit("GRACE-subject", "first")
    fact = ["--prompt", OTHER, "--target", "London", "--subject", "France"]
    words = ["edit", "--hparams", desk.hparams["GRACE-subject"], *fact, "--edits", desk.folder / "first"]
    desk.done(*words, "--out", desk.folder / "second")
    assert [record["prompt"] for record in desk.records("second")] == [PROMPT, OTHER]
    for prompt, target in ((PROMPT, TARGET), (OTHER, "London")):
        said = desk.done("generate", "--edits", desk.folder / "second", "--prompt", prompt, "--json")
        assert json.loads(said)[0]["edited"].split()[0] == target
    shown = " ".join(desk.done("inspect", desk.folder / "second").split())
    assert "eps auto" in shown
    assert "query_token subject_last" in shown
    assert "answer_layer model.layers[2].mlp.down_proj, gate_eps 0.5" in shown


def test_edits_go_on_upon_others_in_their_folder_or_a_new_one(desk: Desk) -> None:
    desk.edit("CoachHook", "first")
    first = desk.folder / "first"
    words = ["edit", "--hparams", desk.hparams["CoachHook"], "--edits", first]
    fact = ["--prompt", FACTS[0][0], "--target", FACTS[0][1], "--subject", FACTS[0][2]]
    out = desk.done(*words, *fact, "--out", desk.folder / "second")
    assert f"1 edit, upon 1 edit from {first}" in out
    assert "2 edits saved" in out
    assert [record["case_id"] for record in desk.records("second")] == [0, 1]
    assert len(desk.records("first")) == 1
    desk.done(*words, *fact, "--out", first)
    assert desk.records("first")[1]["prompt"] == FACTS[0][0]
    states = [coachhook_editor(desk.model(out)[0]).state for out in ("first", "second")]
    for path in states[0].paths:
        assert torch.equal(states[0].delta(path), states[1].delta(path))  # type: ignore[arg-type]


def test_second_moments_are_those_of_the_unedited_model(desk: Desk) -> None:
    """They are collected where they are missing, and the edits that a run begins with must not be in them."""
    desk.edit("GRACE", "grace")
    desk.edit("CoachHook", "plain")
    stats = {path.name: path.read_bytes() for path in (desk.folder / "stats").rglob("*.npz")}
    for path in (desk.folder / "stats").rglob("*.npz"):
        path.unlink()
    desk.edit("CoachHook", "both", "--edits", desk.folder / "grace")
    again = {path.name: path for path in (desk.folder / "stats").rglob("*.npz")}
    import numpy as np

    assert again.keys() == stats.keys()
    for name, path in again.items():
        (desk.folder / "before.npz").write_bytes(stats[name])
        with np.load(desk.folder / "before.npz") as one, np.load(path) as other:
            assert np.array_equal(one["mom2.mom2"], other["mom2.mom2"])
    assert {part["method"] for part in read_folder(desk.folder / "both")[0]["parts"]} == {"GRACE", "CoachHook"}


def test_a_file_of_facts(desk: Desk) -> None:
    facts = [{"case_id": n, "prompt": prompt, "target_new": target} for n, (prompt, target, _) in enumerate(FACTS)]
    (desk.folder / "facts.json").write_text(json.dumps(facts))
    desk.edit("GRACE", "edits")
    edits = desk.folder / "edits"
    desk.done(
        "edit", "--hparams", desk.hparams["GRACE"], "--data", desk.folder / "facts.json", "--limit", 3,
        "--edits", edits, "--out", edits,
    )  # fmt: skip
    assert [record["case_id"] for record in desk.records("edits")] == [0, 3, 1, 2], "0 was taken; 3 is the next"
    assert len({record["prompt"] for record in desk.records("edits")}) == 4


def test_ids_that_are_taken() -> None:
    requests = requests_for()  # 0 to 3
    assert [one.case_id for one in with_free_ids(requests, [])] == [0, 1, 2, 3]
    assert [one.case_id for one in with_free_ids(requests, [1, "x", 7])] == [0, 8, 2, 3]
    assert [one.case_id for one in with_free_ids(requests, ["1"])] == [0, 1, 2, 3], "text is another id"


def test_other_edits_are_never_overwritten(desk: Desk) -> None:
    desk.edit("GRACE", "edits")
    words = ["edit", "--hparams", desk.hparams["GRACE"], "--prompt", OTHER, "--target", TARGET]
    edits = desk.folder / "edits"
    told = desk.refused(*words, "--out", edits)
    assert told.startswith(f"{edits}: holds other edits ({INDEX}, {TENSORS}), which won't be overwritten.")
    assert f"--edits {edits}" in told
    desk.edit("GRACE", "more")
    assert "won't be overwritten" in desk.refused(*words, "--edits", desk.folder / "more", "--out", edits)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "there is nothing to edit: give a --prompt with its --target, or --data FILE"),
        (["--prompt", "a"], "--target: there are 0 for 1 --prompt"),
        (["--prompt", "a", "--target", "b", "--target", "c"], "--target: there are 2 for 1 --prompt"),
        (["--prompt", "a", "--prompt", "b", "--target", "x", "--target", "y", "--subject", "a"],
         "--subject: there are 1 for 2 --prompt"),
        (["--prompt", "a", "--target", "b", "--data", "x.json"], "--data: a file has its own prompts"),
        (["--prompt", "a", "--target", " "], "--prompt 'a', field 'target_new': is empty"),
        (["--prompt", OTHER, "--target", TARGET],
         "field 'subject': is missing; the edit is kept at its subject's token. Name it as the prompt spells it. "
         "Give each --prompt its --subject."),
        (["--prompt", OTHER, "--target", TARGET, "--subject", "Spain"], "field 'subject': 'Spain' isn't in the prompt"),
        (["--prompt", OTHER, "--target", TARGET, "--subject", "France", "--edits", "nowhere"],
         "nowhere/edits.json: no such file"),
    ],
)  # fmt: skip
def test_what_can_not_be_edited(desk: Desk, words: list[str], told: str) -> None:
    assert told in desk.refused("edit", "--hparams", desk.hparams["CoachHook"], *words, "--out", desk.folder / "edits")


@pytest.mark.parametrize(
    ("subject", "told"),
    [([], "is missing; the edit is kept at its subject's token. Name it as the prompt spells it. Give each"),
     (["--subject", "Spain"], "'Spain' isn't in the prompt")],
)  # fmt: skip
def test_edits_by_subjects_need_them(desk: Desk, subject: list[str], told: str) -> None:
    words = ["edit", "--hparams", desk.hparams["GRACE-subject"], "--prompt", OTHER, "--target", TARGET, *subject]
    assert f"field 'subject': {told}" in desk.refused(*words, "--out", desk.folder / "edits")
    assert not (desk.folder / "stats").exists(), "second moments would have been collected in vain"


def test_what_fits_no_model_is_not_blamed_on_a_subject(desk: Desk) -> None:
    words = ["--prompt", " ".join(["sea"] * 64), "--target", TARGET, "--out", desk.folder / "x"]
    told = desk.refused("edit", "--hparams", desk.hparams["CoachHook"], *words)
    assert told.endswith("it has 65 tokens, the model's context is 64. Shorten it or leave the record out.")


def test_edits_of_another_model_are_refused_before_anything_takes_long(desk: Desk, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(desk.checkpoint)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other.save_pretrained(tmp_path / "other")
    for file in desk.checkpoint.glob("tokenizer*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    desk.edit("GRACE", "edits")
    fact = ["--prompt", PROMPT, "--target", TARGET, "--subject", SUBJECT, "--model", tmp_path / "other"]
    told = desk.refused(
        "edit", "--hparams", desk.hparams["CoachHook"], *fact, "--edits", desk.folder / "edits", "--out", tmp_path / "x"
    )
    assert "the fingerprints differ" in told
    assert not (desk.folder / "stats").exists(), "second moments would have been collected in vain"


def test_an_edit_that_fails_saves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.errors import EditError
    from easyedit_lifelong.methods.grace import editor

    desk.edit("GRACE", "edits")

    def fail(_: Any, __: Any, learners: Any, ___: Any) -> Any:
        raise EditError(f"{learners[0].where}: the loss is NaN")

    monkeypatch.setattr(editor, "train_together", fail)
    edits = desk.folder / "edits"
    words = ["--prompt", OTHER, "--target", TARGET, "--edits", edits, "--out", edits]
    told = desk.refused("edit", "--hparams", desk.hparams["GRACE"], *words)
    assert f"--prompt '{OTHER}'" in told
    assert "the loss is NaN" in told


def test_interrupted_nothing_was_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.methods.grace import editor

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(editor, "train_together", interrupt)
    code, _, err = desk.run(
        "edit", "--hparams", desk.hparams["GRACE"], "--prompt", OTHER, "--target", TARGET, "--out", desk.folder / "x"
    )
    assert code == 130
    assert err.rstrip().endswith("easyedit-lifelong: interrupted; nothing was written")
    assert not (desk.folder / "x").exists()


# ------------------------------------------------------------------ generate


@pytest.mark.parametrize("method", ["GRACE", "CoachHook"])
def test_what_the_edited_model_says_beside_the_base(desk: Desk, method: str) -> None:
    desk.edit(method, "edits")
    ask = ["generate", "--edits", desk.folder / "edits", "--device", "cpu", "--prompt", PROMPT, "--prompt", OTHER]
    (base, tokenizer), (edited, _) = desk.model(), desk.model("edits")
    out = desk.done(*ask, "--compare", "--max-new-tokens", 3)
    expected = [
        line for prompt in (PROMPT, OTHER)
        for line in (f"base    {prompt} → {said_by(base, tokenizer, prompt, 3)}",
                     f"edited  {prompt} → {said_by(edited, tokenizer, prompt, 3)}", "")
    ]  # fmt: skip
    assert out.splitlines() == expected[:-1]
    assert desk.done(*ask, "--max-new-tokens", 3).splitlines() == [expected[1].removeprefix("edited  "), "",
                                                                   expected[4].removeprefix("edited  ")]  # fmt: skip
    rows = json.loads(desk.done(*ask, "--compare", "--json"))
    assert rows == [
        {"prompt": prompt, **{name: said_by(model, tokenizer, prompt, 20)
                              for name, model in (("edited", edited), ("base", base))}}
        for prompt in (PROMPT, OTHER)
    ]  # fmt: skip
    assert json.loads(desk.done(*ask, "--json"))[0].keys() == {"prompt", "edited"}


def test_sampled_text_depends_on_the_seed_and_the_prompt_alone(desk: Desk) -> None:
    desk.edit("GRACE", "edits")
    ask = ["generate", "--edits", desk.folder / "edits", "--json", "--temperature", 5, "--prompt", OTHER]
    texts = [
        json.loads(desk.done(*ask, *more))[0]["edited"]
        for more in ((), ("--seed", 1), ("--prompt", PROMPT), ("--top-p", 0.01), ("--temperature", 0))
    ]
    assert texts[0] != texts[1]
    assert texts[0] == texts[2]
    greedy = said_by(*desk.model("edits"), OTHER, 20)
    assert texts[0] != greedy
    assert texts[3:] == [greedy, greedy]


def test_the_model_is_the_one_that_the_edits_name_in_their_dtype(desk: Desk) -> None:
    values = yaml.safe_load(desk.hparams["GRACE"].read_text())
    desk.hparams["GRACE"].write_text(yaml.safe_dump({**values, "dtype": "bfloat16"}))
    desk.edit("GRACE", "edits")
    ask = ["generate", "--edits", desk.folder / "edits", "--prompt", PROMPT, "--max-new-tokens", 1]
    assert desk.done(*ask).split()[-1] == TARGET
    assert "fingerprints differ" in desk.refused(*ask, "--dtype", "float32")


def test_what_can_not_be_asked(desk: Desk, tmp_path: Path) -> None:
    desk.edit("GRACE", "edits")
    edits = desk.folder / "edits"
    assert "no such file; this folder holds no saved edits" in desk.refused(
        "generate", "--edits", desk.folder / "x", "--prompt", PROMPT
    )
    assert "--prompt '': is empty" in desk.refused("generate", "--edits", edits, "--prompt", "")
    assert "has 65 tokens, the model's context is 64" in desk.refused(
        "generate", "--edits", edits, "--prompt", " ".join(["sea"] * 65)
    )
    other = AutoModelForCausalLM.from_pretrained(desk.checkpoint)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other.save_pretrained(tmp_path / "other")
    for file in desk.checkpoint.glob("tokenizer*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    told = desk.refused("generate", "--edits", edits, "--prompt", PROMPT, "--model", tmp_path / "other")
    assert "the fingerprints differ" in told
    for words in (["--temperature", "-1"], ["--top-p", "2"], ["--temperature", "nan"]):
        code, _, err = desk.run("generate", "--edits", edits, "--prompt", PROMPT, *words)
        assert code == 2
        assert "is not a number from 0" in err


def test_a_model_that_is_not_here_is_asked_for(desk: Desk) -> None:
    desk.edit("GRACE", "edits")
    moved = desk.checkpoint.rename(desk.checkpoint.with_name("moved"))
    try:
        told = desk.refused("generate", "--edits", desk.folder / "edits", "--prompt", PROMPT)
        assert f"these edits were made on '{desk.checkpoint}', which can't be had here" in told
        assert "--model" in told
        desk.done("generate", "--edits", desk.folder / "edits", "--prompt", PROMPT, "--model", moved)
    finally:
        moved.rename(desk.checkpoint)


def test_code_of_a_checkpoint_is_not_run_because_edits_say_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.commands import saved_edits as saved

    values = yaml.safe_load(desk.hparams["GRACE"].read_text())
    desk.hparams["GRACE"].write_text(yaml.safe_dump({**values, "trust_remote_code": True}))
    desk.edit("GRACE", "edits")
    asked: list[dict[str, Any]] = []
    real = saved.load_model
    monkeypatch.setattr(saved, "load_model", lambda *a, **more: asked.append(more) or real(*a, **more))  # type: ignore[func-returns-value]
    desk.done("generate", "--edits", desk.folder / "edits", "--prompt", PROMPT)
    assert len(asked) == 1
    assert not asked[0].get("trust_remote_code")


# ------------------------------------------------------------------ export, push, pull


def test_exported(desk: Desk) -> None:
    desk.edit("CoachHook", "edits")
    out = desk.done("export", "--edits", desk.folder / "edits", "--out", desk.folder / "model")
    assert "(CoachHook 1)" in out
    assert "Lost: CoachHook's hook layers" in out
    loaded = AutoModelForCausalLM.from_pretrained(desk.folder / "model")
    state = coachhook_editor(desk.model("edits")[0]).state
    base = desk.model()[0]
    for path in state.paths:
        delta = state.delta(path)
        assert delta is not None
        assert torch.equal(loaded.get_submodule(path).weight, base.get_submodule(path).weight + delta)
    told = desk.refused("export", "--edits", desk.folder / "edits", "--out", desk.folder / "model")
    assert "nothing will be overwritten" in told


def test_a_codebook_is_not_exported(desk: Desk) -> None:
    desk.edit("GRACE", "edits")
    told = desk.refused("export", "--edits", desk.folder / "edits", "--out", desk.folder / "model")
    assert told.startswith("GRACE's edits can't be put into plain weights")


def test_pushed_pulled_and_used_from_there(desk: Desk, hub: Any) -> None:  # noqa: F811
    desk.edit("GRACE", "edits")
    out = desk.done("push", desk.folder / "edits", REPO)
    assert f"Pushed: {hub.url}/{REPO}/commit/" in out
    assert hub.repositories[REPO].private
    out = desk.done("pull", REPO, "--out", desk.folder / "pulled")
    assert f"1 edit of {desk.checkpoint}, checked" in out
    assert (desk.folder / "pulled" / INDEX).read_bytes() == (desk.folder / "edits" / INDEX).read_bytes()
    ask = ["--prompt", PROMPT, "--max-new-tokens", 1]
    assert desk.done("generate", "--edits", f"hub:{REPO}", *ask).split()[-1] == TARGET
    desk.done("push", desk.folder / "edits", "owner/open", "--public", "--revision", "two", "--message", "hello")
    assert not hub.repositories["owner/open"].private
    assert hub.repositories["owner/open"].messages[-1] == "hello"
    desk.done("pull", "owner/open", "--revision", "two", "--out", desk.folder / "two")
    assert "holds no saved edits" in desk.refused("pull", "owner/open", "--out", desk.folder / "three")
    assert "holds no saved edits" in desk.refused("generate", "--edits", "hub:owner/open", *ask)
