"""Lifelong model editing as a plugin for EasyEdit: GRACE, CoachHook, and loops that score them.

Importing this package makes ``import easyeditor`` work on current Python and package versions. As soon as EasyEdit is
imported, the methods of this package are registered with it. Importing has no other effect; public names are loaded
when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyedit_lifelong import bridge
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.lazy_names import lazy_names
from easyedit_lifelong.versions import __version__ as __version__

_LAZY = {
    "GraceHyperParams": "easyedit_lifelong.methods.grace.config",
    "apply_grace_to_model": "easyedit_lifelong.methods.grace.apply",
    "apply_grace_to_module": "easyedit_lifelong.methods.grace.apply",
    "CoachHookHyperParams": "easyedit_lifelong.methods.coachhook.config",
    "apply_coachhook_to_model": "easyedit_lifelong.methods.coachhook.apply",
    "AlphaEditHyperParams": "easyedit_lifelong.methods.alphaedit.config",
    "apply_alphaedit_to_model": "easyedit_lifelong.methods.alphaedit.editor",
    "UltraEditHyperParams": "easyedit_lifelong.methods.ultraedit.config",
    "apply_ultraedit_to_model": "easyedit_lifelong.methods.ultraedit.editor",
    "NativeRomeHyperParams": "easyedit_lifelong.methods.rome.config",
    "apply_rome_to_model": "easyedit_lifelong.methods.rome.editor",
    "FTEWCHyperParams": "easyedit_lifelong.methods.finetune.config",
    "FTHyperParams": "easyedit_lifelong.methods.finetune.config",
    "FTLHyperParams": "easyedit_lifelong.methods.finetune.config",
    "FTRetrainHyperParams": "easyedit_lifelong.methods.finetune.config",
    "LocFTBFHyperParams": "easyedit_lifelong.methods.finetune.config",
    "apply_finetune_to_model": "easyedit_lifelong.methods.finetune.editor",
    "DeferHyperParams": "easyedit_lifelong.methods.trained_adaptors.config",
    "MemoryHyperParams": "easyedit_lifelong.methods.trained_adaptors.config",
    "apply_adaptor_to_model": "easyedit_lifelong.methods.trained_adaptors.editor",
    "NeuralDBHyperParams": "easyedit_lifelong.methods.neuraldb.config",
    "apply_neuraldb_to_model": "easyedit_lifelong.methods.neuraldb.make_edits",
    "IKEHyperParams": "easyedit_lifelong.methods.retrieval.config",
    "SERACHyperParams": "easyedit_lifelong.methods.retrieval.config",
    "train_scope_classifier": "easyedit_lifelong.methods.retrieval.train_classifier",
    "apply_retrieval_to_model": "easyedit_lifelong.methods.retrieval.make_edits",
    "MendHyperParams": "easyedit_lifelong.methods.mend.config",
    "apply_mend_to_model": "easyedit_lifelong.methods.mend.editor",
    "KEHyperParams": "easyedit_lifelong.methods.ke.config",
    "apply_ke_to_model": "easyedit_lifelong.methods.ke.editor",
    "ENNHyperParams": "easyedit_lifelong.methods.enn.config",
    "apply_enn_to_model": "easyedit_lifelong.methods.enn.editor",
    "NativeMemitHyperParams": "easyedit_lifelong.methods.memit.config",
    "apply_memit_to_model": "easyedit_lifelong.methods.memit.editor",
    "SecondMoment": "easyedit_lifelong.covariance",
    "collect_covariance": "easyedit_lifelong.covariance",
    "PluginHyperParams": "easyedit_lifelong.hyperparams",
    "EditMethod": "easyedit_lifelong.methods.base",
    "AppendableEditStore": "easyedit_lifelong.methods.edit_stores",
    "BatchRemoval": "easyedit_lifelong.methods.base",
    "CaseRemoval": "easyedit_lifelong.methods.base",
    "Conflict": "easyedit_lifelong.methods.base",
    "EditsPart": "easyedit_lifelong.methods.edit_stores",
    "EditStore": "easyedit_lifelong.methods.edit_stores",
    "ExtendableEditStore": "easyedit_lifelong.methods.edit_stores",
    "Explain": "easyedit_lifelong.methods.base",
    "ExplainedPass": "easyedit_lifelong.methods.base",
    "InspectedPart": "easyedit_lifelong.methods.base",
    "LayerExplanation": "easyedit_lifelong.methods.base",
    "MergedEdits": "easyedit_lifelong.methods.base",
    "MergeSource": "easyedit_lifelong.methods.base",
    "PlainWeights": "easyedit_lifelong.methods.base",
    "Renamed": "easyedit_lifelong.methods.base",
    "WatchAnswers": "easyedit_lifelong.methods.base",
    "ScopeStudy": "easyedit_lifelong.evaluation.scope",
    "StateKeeper": "easyedit_lifelong.methods.edit_stores",
    "EditRecord": "easyedit_lifelong.methods.shared.records",
    "editors_on": "easyedit_lifelong.methods.shared.editors",
    "register_editor": "easyedit_lifelong.methods.shared.editors",
    "unregister_editor": "easyedit_lifelong.methods.shared.editors",
    "internal_pass": "easyedit_lifelong.methods.shared.editors",
    "SeparateEdit": "easyedit_lifelong.methods.shared.separate_edit",
    "SeparateEditor": "easyedit_lifelong.methods.shared.separate_edits",
    "separate_edit_ports": "easyedit_lifelong.methods.shared.separate_edits",
    "hparams_values": "easyedit_lifelong.hparams_files",
    "ModelMethod": "easyedit_lifelong.registry",
    "Calibrator": "easyedit_lifelong.methods.calibrator",
    "SearchSpace": "easyedit_lifelong.methods.search_space",
    "SearchStage": "easyedit_lifelong.methods.search_space",
    "TrainedEditor": "easyedit_lifelong.methods.trained_editor",
    "Training": "easyedit_lifelong.methods.trained_editor",
    "TrainingSchedule": "easyedit_lifelong.methods.trained_editor",
    "read_artefact": "easyedit_lifelong.methods.artefacts",
    "Snapshots": "easyedit_lifelong.snapshots",
    "RecordLoader": "easyedit_lifelong.registry",
    "CovarianceEngine": "easyedit_lifelong.registry",
    "ReportPlot": "easyedit_lifelong.methods.report_sections",
    "ReportSection": "easyedit_lifelong.methods.report_sections",
    "RunRecord": "easyedit_lifelong.methods.report_sections",
    "Series": "easyedit_lifelong.methods.report_sections",
    "DatasetReader": "easyedit_lifelong.registry",
    "DeferredMethod": "easyedit_lifelong.registry",
    "TrackerType": "easyedit_lifelong.registry",
    "JudgeType": "easyedit_lifelong.registry",
    "JudgedAnswer": "easyedit_lifelong.evaluation.judges",
    "Verdict": "easyedit_lifelong.evaluation.judges",
    "EditRequest": "easyedit_lifelong.data.request",
    "Probe": "easyedit_lifelong.data.request",
    "read_requests": "easyedit_lifelong.data.readers",
    "load_model": "easyedit_lifelong.models.load",
    "save_edits": "easyedit_lifelong.edits",
    "load_edits": "easyedit_lifelong.edits",
    "export_model": "easyedit_lifelong.edits",
    "push_edits": "easyedit_lifelong.edits",
    "pull_edits": "easyedit_lifelong.edits",
    "explain": "easyedit_lifelong.edits",
    "in_chat_form": "easyedit_lifelong.evaluation.chat_requests",
    "inspect_edits": "easyedit_lifelong.edits",
    "merge_edits": "easyedit_lifelong.edits",
    "rollback_case": "easyedit_lifelong.edits",
    "rollback_folder": "easyedit_lifelong.edits",
    "rollback_to_batch": "easyedit_lifelong.edits",
    "run_lifelong": "easyedit_lifelong.runs.api",
    "run_consecutive": "easyedit_lifelong.runs.api",
    "rescore_run": "easyedit_lifelong.runs.rescore",
    "train_editor": "easyedit_lifelong.runs.training",
    "FactTrace": "easyedit_lifelong.locate.trace",
    "trace_fact": "easyedit_lifelong.locate.trace",
    "KnownFact": "easyedit_lifelong.locate.known_facts",
    "read_known_facts": "easyedit_lifelong.locate.known_facts",
    "TraceSettings": "easyedit_lifelong.locate.trace_settings",
    "trace_facts": "easyedit_lifelong.locate.trace_facts",
    "attribute": "easyedit_lifelong.locate.attribution",
    "record_states": "easyedit_lifelong.locate.state_changes",
    "compare_states": "easyedit_lifelong.locate.state_changes",
    "prompt_lengths": "easyedit_lifelong.models.prompt_positions",
    "PositionTracker": "easyedit_lifelong.models.prompt_positions",
    "Rollback": "easyedit_lifelong.methods.shared.rollback",
    "EditResult": "easyedit_lifelong.methods.shared.results",
    "EditError": "easyedit_lifelong.errors",
    "DataError": "easyedit_lifelong.errors",
    "HyperParameterError": "easyedit_lifelong.errors",
    "ModelError": "easyedit_lifelong.errors",
    "NotLearnedWarning": "easyedit_lifelong.errors",
    "PluginError": "easyedit_lifelong.errors",
    "RunError": "easyedit_lifelong.errors",
    "get_plugins": "easyedit_lifelong.plugins",
    "hookimpl": "easyedit_lifelong.hookspecs",
}

if TYPE_CHECKING:
    from easyedit_lifelong.covariance import SecondMoment, collect_covariance
    from easyedit_lifelong.data.readers import read_requests
    from easyedit_lifelong.data.request import EditRequest, Probe
    from easyedit_lifelong.edits import (
        explain,
        export_model,
        inspect_edits,
        load_edits,
        merge_edits,
        pull_edits,
        push_edits,
        rollback_case,
        rollback_folder,
        rollback_to_batch,
        save_edits,
    )
    from easyedit_lifelong.errors import (
        DataError,
        EditError,
        HyperParameterError,
        ModelError,
        NotLearnedWarning,
        PluginError,
        RunError,
    )
    from easyedit_lifelong.evaluation.chat_requests import in_chat_form
    from easyedit_lifelong.evaluation.judges import JudgedAnswer, Verdict
    from easyedit_lifelong.evaluation.scope import ScopeStudy
    from easyedit_lifelong.hookspecs import hookimpl
    from easyedit_lifelong.hparams_files import hparams_values
    from easyedit_lifelong.hyperparams import PluginHyperParams
    from easyedit_lifelong.locate.attribution import attribute
    from easyedit_lifelong.locate.known_facts import KnownFact, read_known_facts
    from easyedit_lifelong.locate.state_changes import compare_states, record_states
    from easyedit_lifelong.locate.trace import FactTrace, trace_fact
    from easyedit_lifelong.locate.trace_facts import trace_facts
    from easyedit_lifelong.locate.trace_settings import TraceSettings
    from easyedit_lifelong.methods.alphaedit.config import AlphaEditHyperParams
    from easyedit_lifelong.methods.alphaedit.editor import apply_alphaedit_to_model
    from easyedit_lifelong.methods.artefacts import read_artefact
    from easyedit_lifelong.methods.base import (
        BatchRemoval,
        CaseRemoval,
        Conflict,
        EditMethod,
        Explain,
        ExplainedPass,
        InspectedPart,
        LayerExplanation,
        MergedEdits,
        MergeSource,
        PlainWeights,
        Renamed,
        WatchAnswers,
    )
    from easyedit_lifelong.methods.calibrator import Calibrator
    from easyedit_lifelong.methods.coachhook.apply import apply_coachhook_to_model
    from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
    from easyedit_lifelong.methods.edit_stores import (
        AppendableEditStore,
        EditsPart,
        EditStore,
        ExtendableEditStore,
        StateKeeper,
    )
    from easyedit_lifelong.methods.enn.config import ENNHyperParams
    from easyedit_lifelong.methods.enn.editor import apply_enn_to_model
    from easyedit_lifelong.methods.finetune.config import (
        FTEWCHyperParams,
        FTHyperParams,
        FTLHyperParams,
        FTRetrainHyperParams,
        LocFTBFHyperParams,
    )
    from easyedit_lifelong.methods.finetune.editor import apply_finetune_to_model
    from easyedit_lifelong.methods.grace.apply import apply_grace_to_model, apply_grace_to_module
    from easyedit_lifelong.methods.grace.config import GraceHyperParams
    from easyedit_lifelong.methods.ke.config import KEHyperParams
    from easyedit_lifelong.methods.ke.editor import apply_ke_to_model
    from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
    from easyedit_lifelong.methods.memit.editor import apply_memit_to_model
    from easyedit_lifelong.methods.mend.config import MendHyperParams
    from easyedit_lifelong.methods.mend.editor import apply_mend_to_model
    from easyedit_lifelong.methods.neuraldb.config import NeuralDBHyperParams
    from easyedit_lifelong.methods.neuraldb.make_edits import apply_neuraldb_to_model
    from easyedit_lifelong.methods.report_sections import ReportPlot, ReportSection, RunRecord, Series
    from easyedit_lifelong.methods.retrieval.config import IKEHyperParams, SERACHyperParams
    from easyedit_lifelong.methods.retrieval.make_edits import apply_retrieval_to_model
    from easyedit_lifelong.methods.retrieval.train_classifier import train_scope_classifier
    from easyedit_lifelong.methods.rome.config import NativeRomeHyperParams
    from easyedit_lifelong.methods.rome.editor import apply_rome_to_model
    from easyedit_lifelong.methods.search_space import SearchSpace, SearchStage
    from easyedit_lifelong.methods.shared.editors import editors_on, internal_pass, register_editor, unregister_editor
    from easyedit_lifelong.methods.shared.records import EditRecord
    from easyedit_lifelong.methods.shared.results import EditResult
    from easyedit_lifelong.methods.shared.rollback import Rollback
    from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
    from easyedit_lifelong.methods.shared.separate_edits import SeparateEditor, separate_edit_ports
    from easyedit_lifelong.methods.trained_adaptors.config import DeferHyperParams, MemoryHyperParams
    from easyedit_lifelong.methods.trained_adaptors.editor import apply_adaptor_to_model
    from easyedit_lifelong.methods.trained_editor import TrainedEditor, Training, TrainingSchedule
    from easyedit_lifelong.methods.ultraedit.config import UltraEditHyperParams
    from easyedit_lifelong.methods.ultraedit.editor import apply_ultraedit_to_model
    from easyedit_lifelong.models.load import load_model
    from easyedit_lifelong.models.prompt_positions import PositionTracker, prompt_lengths
    from easyedit_lifelong.plugins import get_plugins
    from easyedit_lifelong.registry import (
        CovarianceEngine,
        DatasetReader,
        DeferredMethod,
        JudgeType,
        ModelMethod,
        RecordLoader,
        TrackerType,
    )
    from easyedit_lifelong.runs.api import run_consecutive, run_lifelong
    from easyedit_lifelong.runs.rescore import rescore_run
    from easyedit_lifelong.runs.training import train_editor
    from easyedit_lifelong.snapshots import Snapshots

__all__ = [
    "AlphaEditHyperParams",
    "AppendableEditStore",
    "BatchRemoval",
    "Calibrator",
    "CaseRemoval",
    "CoachHookHyperParams",
    "Conflict",
    "CovarianceEngine",
    "DataError",
    "DatasetReader",
    "DeferHyperParams",
    "DeferredMethod",
    "ENNHyperParams",
    "EditError",
    "EditMethod",
    "EditRecord",
    "EditRequest",
    "EditResult",
    "EditStore",
    "EditsPart",
    "Explain",
    "ExplainedPass",
    "ExtendableEditStore",
    "FTEWCHyperParams",
    "FTHyperParams",
    "FTLHyperParams",
    "FTRetrainHyperParams",
    "FactTrace",
    "GraceHyperParams",
    "HyperParameterError",
    "IKEHyperParams",
    "InspectedPart",
    "JudgeType",
    "JudgedAnswer",
    "KEHyperParams",
    "KnownFact",
    "LayerExplanation",
    "LifelongError",
    "LocFTBFHyperParams",
    "MemoryHyperParams",
    "MendHyperParams",
    "MergeSource",
    "MergedEdits",
    "ModelError",
    "ModelMethod",
    "NativeMemitHyperParams",
    "NativeRomeHyperParams",
    "NeuralDBHyperParams",
    "NotLearnedWarning",
    "PlainWeights",
    "PluginError",
    "PluginHyperParams",
    "PositionTracker",
    "Probe",
    "RecordLoader",
    "Renamed",
    "ReportPlot",
    "ReportSection",
    "Rollback",
    "RunError",
    "RunRecord",
    "SERACHyperParams",
    "ScopeStudy",
    "SearchSpace",
    "SearchStage",
    "SecondMoment",
    "SeparateEdit",
    "SeparateEditor",
    "Series",
    "Snapshots",
    "StateKeeper",
    "TraceSettings",
    "TrackerType",
    "TrainedEditor",
    "Training",
    "TrainingSchedule",
    "UltraEditHyperParams",
    "Verdict",
    "WatchAnswers",
    "apply_adaptor_to_model",
    "apply_alphaedit_to_model",
    "apply_coachhook_to_model",
    "apply_enn_to_model",
    "apply_finetune_to_model",
    "apply_grace_to_model",
    "apply_grace_to_module",
    "apply_ke_to_model",
    "apply_memit_to_model",
    "apply_mend_to_model",
    "apply_neuraldb_to_model",
    "apply_retrieval_to_model",
    "apply_rome_to_model",
    "apply_ultraedit_to_model",
    "attribute",
    "collect_covariance",
    "compare_states",
    "editors_on",
    "explain",
    "export_model",
    "get_plugins",
    "hookimpl",
    "hparams_values",
    "in_chat_form",
    "inspect_edits",
    "internal_pass",
    "load_edits",
    "load_model",
    "merge_edits",
    "prompt_lengths",
    "pull_edits",
    "push_edits",
    "read_artefact",
    "read_known_facts",
    "read_requests",
    "record_states",
    "register_editor",
    "rescore_run",
    "rollback_case",
    "rollback_folder",
    "rollback_to_batch",
    "run_consecutive",
    "run_lifelong",
    "save_edits",
    "separate_edit_ports",
    "trace_fact",
    "trace_facts",
    "train_editor",
    "train_scope_classifier",
    "unregister_editor",
]

__getattr__, __dir__ = lazy_names(__name__, _LAZY)

bridge.install()
