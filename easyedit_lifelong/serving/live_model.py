"""A model with versioned edits: add and remove edits durably, and run the model as of any version.

One thread at a time may use it; :class:`~easyedit_lifelong.serving.engine.Engine` has a worker thread for that.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from easyedit_lifelong.data.joiners import joiner_of, joiners_by_prompt, with_joiner
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits.explain_prompt import Explanation, explain
from easyedit_lifelong.edits.remove import remove_all_edits
from easyedit_lifelong.edits.state_folder import StateFolder
from easyedit_lifelong.errors import NotLearnedWarning
from easyedit_lifelong.evaluation.context_fit import check_fit
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.editors import without_edits
from easyedit_lifelong.models.edits_by_row import edits_by_row
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.plain_models import is_plain
from easyedit_lifelong.models.row_cache import can_cache_rows
from easyedit_lifelong.models.shared_weights import copy_sharing_weights
from easyedit_lifelong.serving.earlier_versions import EarlierVersions
from easyedit_lifelong.serving.edit_errors import NoSuchEditError, NotRemovableError
from easyedit_lifelong.serving.edit_log import DELETE, ROLLBACK, EditLog, Version, entry_of
from easyedit_lifelong.serving.measured_edits import AddedEdits, MeasuredEdit, MeasuredEdits, measured_edit
from easyedit_lifelong.serving.present_model import MAX_COPIED_EDITS, PresentModel
from easyedit_lifelong.serving.recent_edits import RECENT, RecentEdits
from easyedit_lifelong.serving.servable import check_generates, check_servable


class LiveModel:
    """A model whose edits are those of the present version of a folder.

    Args:
        model: the base model, a causal language model without edits.
        tokenizer: its tokenizer.
        hparams: the hyperparameters of further edits.
        method: their method.
        log: the folder; its present version is loaded onto the model.

    Attributes:
        present: holds the model of the present version.
        base: a copy of the model without edits, which shares its weights.
        tokenizer: its tokenizer.
        log: the folder.
        name: the name of the model.

    Raises:
        PluginError: the method can't write edits one by one, or can't remove them.
        ModelError: the model is of another kind, or the method can't edit it.
        RunError: the folder is damaged, or its edits were made on another model or with other settings.
    """

    def __init__(self, model: Any, tokenizer: Any, hparams: Any, method: EditMethod, log: EditLog) -> None:
        check_servable(method)
        check_generates(model)
        if method.check is not None:
            method.check(model, tokenizer, hparams)
        self.tokenizer, self.log = tokenizer, log
        self._hparams, self._method = hparams, method
        self.name = model_label(model)
        assert isinstance(method.state, StateFolder)
        self._state: StateFolder = method.state
        self._measured = MeasuredEdits(tokenizer, joiner_of(hparams))
        self._recent = RecentEdits(model, tokenizer, method, self._measured)
        self.base = copy_sharing_weights(model)
        self._fingerprint = model_fingerprint(model) if self.mixes_versions else None  # else edits may change it
        self._earlier = EarlierVersions(self.base, self._load_onto)
        self.present = PresentModel(model, self.base, self._load_onto, lambda edited: remove_all_edits(edited, method))
        if method.prepare is not None:
            method.prepare(model, tokenizer, hparams, None)
        self._load(self.version)

    @property
    def model(self) -> Any:
        """The model, as of the present version."""
        return self.present.model

    @property
    def version(self) -> int:
        """The number of the present version."""
        return self.log.present.number

    @contextlib.contextmanager
    def at(self, version: int) -> Iterator[Any]:
        """Yield the model as of a version.

        The present version and the base model cost nothing. Any other version is loaded from the folder: onto a copy
        that shares the weights, which is kept, if the method's edits act by row; otherwise in place of the present
        version, which is loaded again after it.

        Args:
            version: the number of the version.

        Raises:
            NotServableError: the model could not be restored after an earlier failure.
        """
        self.present.check_usable()
        if version == self.version:
            yield self.model
        elif not self.log.ids_at(version):
            with without_edits(self.model):  # methods that write into weights restore them
                yield self.base
        elif self.mixes_versions:
            yield self.of_version(version)
        else:
            try:
                self._load(version)
                yield self.model
            finally:
                self.present.restore(self.version)

    @property
    def mixes_versions(self) -> bool:
        """Whether one batch can have rows of different versions."""
        return self._method.edits_by_row and not self._hparams.writes_weights

    def caches_rows(self, model: Any) -> bool:
        """Return whether the keys and values of texts can be kept while the model of a version generates them."""
        return (self.mixes_versions or is_plain(model)) and can_cache_rows(self.base)

    def can_change_while_running(self, running: Collection[Any]) -> bool:
        """Return whether the edits can be changed between two passes of answers that run on these models.

        The edits must act by row. If the present model is among these models, it is copied: see
        :data:`MAX_COPIED_EDITS`.
        """
        is_free = all(model is not self.model for model in running)
        return self.mixes_versions and (is_free or self.log.present.count <= MAX_COPIED_EDITS)

    def of_version(self, version: int) -> Any:
        """Return the model of a version, which shares the weights of :attr:`base`; only if :attr:`mixes_versions`.

        Raises:
            NotServableError: the model could not be restored after an earlier failure.
            RunError: the version can't be loaded.
        """
        self.present.check_usable()
        state, count = self.log.versions[version].state, self.log.versions[version].count
        if not count:
            return self.base
        return self.model if version == self.version else self._earlier.model((state, count), version)

    def of_rows(self, versions: Sequence[int]) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a model whose rows have these versions; only if :attr:`mixes_versions`.

        Args:
            versions: the version of each row; no more different ones than
                :data:`~easyedit_lifelong.serving.earlier_versions.MAX_VERSIONS`.

        Raises:
            NotServableError: the model could not be restored after an earlier failure.
            RunError: a version can't be loaded.
        """
        models = {version: self.of_version(version) for version in set(versions)}
        if len(models) == 1:
            return contextlib.nullcontext(models[versions[0]])
        return edits_by_row(self.base, [models[version] for version in versions])

    def add(self, requests: Sequence[EditRequest], who: str) -> AddedEdits:
        """Edit the model with all requests, or with none if one fails. The edits are on disk when this returns.

        Args:
            requests: each ``case_id`` is the id of an edit.
            who: the name of the key, for the journal.

        Raises:
            DataError: a request can't be used.
            EditError: an edit failed.
            RunError: the folder can't be written.
            NotServableError: the model could not be restored after an earlier failure.
        """
        self.present.check_usable()
        requests = with_joiner(requests, joiner_of(self._hparams))
        self.check(requests)
        recent = [measured_edit(self.log.edits[name]) for name in self.log.ids_at(self.version)[-RECENT:]]
        new = [MeasuredEdit(str(r.case_id), r.prompt, r.target_new, r.joiner) for r in requests]
        self._copy_if_in_use()
        before = self._recent.given(recent)
        state = self.log.present.state or self.log.new_state()
        try:
            self._apply(requests)
            texts, known = self._measured.texts(self.model, new, in_one_pass=self.caches_rows(self.model))
            answered = self._recent.measure([*recent, *new], known)
            entries = [entry_of(r, answered[str(r.case_id)], text) for r, text in zip(requests, texts, strict=True)]
            self._state.save(self.model, self.log.state_folder(state), fingerprint=self._fingerprint)
            version = self.log.record_edits(entries, who, state)
        except BaseException:
            self._recent.forget()
            self.present.restore(self.version)
            raise
        return AddedEdits(version, [edit.id for edit in recent if before[edit.id] and not answered[edit.id]])

    def delete(self, edit_id: str, who: str) -> Version:
        """Remove one edit, as if it had never been made. The rest is on disk when this returns.

        Raises:
            NoSuchEditError: there is no such edit now.
            NotRemovableError: the method can't remove single edits.
            EditError: this edit can't be removed.
            RunError: the folder can't be written.
            NotServableError: the model could not be restored after an earlier failure.
        """
        self.present.check_usable()
        live = self.log.ids_at(self.version)
        if edit_id not in live:
            removed = edit_id in self.log.edits
            raise NoSuchEditError(f"edit {edit_id!r} {'has been removed already' if removed else 'does not exist'}")
        removal = self._method.remove
        if removal is None:
            reason = self._method.reasons.get("remove", f"{self._method.name} can't remove single edits.")
            instead = "Roll back to a version without it instead (POST /v1/edits/rollback)."
            raise NotRemovableError(f"{reason.rstrip('.')}. {instead}")

        def remove(*, check_only: bool = False) -> None:
            records = [record for record in removal.records(self.model) if record.case_id == edit_id]
            removal.remove(self.model, records, check_only=check_only)

        remove(check_only=True)
        self._copy_if_in_use()
        remaining = [name for name in live if name != edit_id]
        try:
            remove()
            return self._save_removal(DELETE, [edit_id], remaining, who)
        except BaseException:
            self.present.restore(self.version)
            raise

    def roll_back(self, to: int, who: str) -> Version:
        """Restore the edits of an earlier version, bitwise, as a new version. It is on disk when this returns.

        Raises:
            RunError: the folder can't be read or written.
            NotServableError: the model could not be restored after an earlier failure.
        """
        self.present.check_usable()
        remaining = self.log.ids_at(to)
        kept = set(remaining)
        removed = [name for name in self.log.ids_at(self.version) if name not in kept]
        try:
            self._load(to)
            return self._save_removal(ROLLBACK, removed, remaining, who, to)
        except BaseException:
            self.present.restore(self.version)
            raise

    def explain(self, prompt: str, version: int) -> Explanation | None:
        """Explain which edits act on a prompt; None if the version has no edits.

        Raises:
            EditError: the method can't explain its edits.
            DataError: the prompt has no tokens.
            NotServableError: the model could not be restored after an earlier failure.
        """
        if not self.log.ids_at(version):
            return None
        with self.at(version) as model:
            return explain(model, self.tokenizer, prompt)

    def check(self, requests: Sequence[EditRequest]) -> None:
        """Check that requests fit the model's context, and that the method can edit them.

        Raises:
            DataError: a request can't be used; the message names it and the field.
        """
        check_fit(requests, self._measured.scorer(joiners_by_prompt(requests)), self.model)
        if self._method.check_requests is not None:
            self._method.check_requests(self.model, self.tokenizer, self._hparams, requests)

    def _apply(self, requests: Sequence[EditRequest]) -> None:
        """Edit the model, in the batches that the hyperparameters ask for."""
        size = self._hparams.batch_size
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotLearnedWarning)  # the caller measures what was learned
                edited, _ = self._method.apply(self.model, self.tokenizer, batch, self._hparams)
            assert edited is self.model

    def _save_removal(
        self, action: str, ids: Sequence[str], remaining: Sequence[str], who: str, to: int | None = None
    ) -> Version:
        """Write the remaining edits to a new state folder, and record the new version."""
        state = self.log.new_state()
        self._state.save(self.model, self.log.state_folder(state), fingerprint=self._fingerprint)
        version = self.log.record_removal(action, ids, remaining, who, state, to)
        self._recent.forget()
        return version

    def _load(self, version: int) -> None:
        """Replace the edits of the present model by those of a version."""
        self.present.load(version)
        self._recent.use(self.model)

    def _copy_if_in_use(self) -> None:
        """Continue on a copy of the present model if running answers need it."""
        if self.present.is_running:
            self._load(self.version)

    def _load_onto(self, model: Any, version: int) -> None:
        """Put the edits of a version on a model without edits."""
        if ids := self.log.ids_at(version):
            folder = self.log.state_folder(self.log.versions[version].state)
            self._state.load(model, self.tokenizer, self._hparams, folder, ids, self._fingerprint)
