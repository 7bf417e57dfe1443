"""The editing method Template-Edit, as a plugin to easyedit_lifelong."""

from .config import TemplateEditHyperParams
from .editor import apply_templateedit_to_model

__all__ = ["TemplateEditHyperParams", "apply_templateedit_to_model"]
