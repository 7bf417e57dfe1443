"""Names that were in one file; see :mod:`.prompt_positions` and :mod:`.windows`."""

from easyedit_lifelong.models.prompt_positions import PositionTracker as PositionTracker
from easyedit_lifelong.models.prompt_positions import prompt_lengths as prompt_lengths
from easyedit_lifelong.models.windows import Window as Window
from easyedit_lifelong.models.windows import repeated as repeated
