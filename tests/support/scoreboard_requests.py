"""Two requests and two held-out facts whose scores are computed by hand."""

from __future__ import annotations

from easyedit_lifelong.data.request import EditRequest, Probe

FRANCE = EditRequest(
    "fr",
    "the capital of France is",
    "Rome",
    rephrase_prompts=("capital of France",),
    locality={"near": (Probe("the capital of Peru is", "London city"), Probe("who plays piano", "Shakespeare"))},
    portability={"hop": (Probe("language spoken in France", "Spanish"),)},
)
HAMLET = EditRequest("ha", "who wrote Hamlet", "old king", rephrase_prompts=("Hamlet is made", "Hamlet from"))
RETENTION = [Probe("moon made from", "green cheese"), Probe("the sea is", "blue")]
