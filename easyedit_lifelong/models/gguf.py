"""Read GGUF files, and convert them to checkpoints.

Reading GGUF takes much longer than reading safetensors, and transformers can't save a model that it loaded from GGUF.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import struct
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import atomic_folder
from easyedit_lifelong.errors import ModelError

LOG = logging.getLogger(__name__)

_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def read_gguf(gguf: Path) -> tuple[Any, Any]:
    """Return the model (float32) and the tokenizer of a GGUF file.

    Raises:
        ModelError: the file can't be read as GGUF, or ``gguf`` isn't installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{gguf}: reading GGUF files needs the package gguf. Run: pip install gguf")
    source = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)  # nosec B615 # a local file
        model = AutoModelForCausalLM.from_pretrained(  # nosec B615 # a local file
            gguf.parent, dtype=torch.float32, **source
        )
    except (OSError, ValueError, KeyError, IndexError, NotImplementedError, struct.error) as error:
        raise ModelError(f"{gguf}: not a GGUF file that transformers can read: {error}") from error
    return model, tokenizer


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert the model and tokenizer of a GGUF file to a checkpoint folder.

    The files are written to another folder, which is then renamed, so that an interrupted conversion leaves no
    incomplete folder. If two processes convert at the same time, the folder of the first to finish remains.

    Raises:
        ModelError: the file can't be read as GGUF, or ``gguf`` isn't installed.
    """
    LOG.info("converting %s to %s (once)", gguf.name, folder)
    model, tokenizer = read_gguf(gguf)
    try:
        with atomic_folder(folder) as work:
            # A model from GGUF refuses save_pretrained; a new model with its config and weights doesn't.
            config = model.config
            config.architectures = [type(model).__name__]
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            plain = type(model)(config).to(model.dtype)
            plain.load_state_dict(model.state_dict())
            plain.save_pretrained(work)
            tokenizer.save_pretrained(work)
            if not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:  # also raised if another process has created the folder meanwhile
        if not is_complete(folder):
            raise _unwritable(folder, error) from error
        LOG.debug("another process converted %s first", gguf.name)


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint folder has all files."""
    return all((folder / file).is_file() for file in _FILES)


def _unwritable(folder: Path, error: OSError) -> ModelError:
    """Return the error for a cache folder that can't be written."""
    return ModelError(f"{folder}: can't be written: {error.strerror}. Set EASYEDIT_LIFELONG_CACHE to another folder.")
