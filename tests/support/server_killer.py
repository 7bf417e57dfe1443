"""A script that kills processes which change served edits, at any moment, and reports what differs afterwards.

Its process forks for each attempt, so that modules are imported once. A child applies a fixed sequence of changes and
acknowledges each one in a file. It kills itself at one of the calls that write to the disk or edit. The folder must
then hold every acknowledged version, at most one more, and the rest of the sequence must end like one that was not
killed.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.serving.live_model import LiveModel
from tests.support.forks import exit_code_in_fork
from tests.support.run_killer import Points
from tests.support.served_models import live_model, logits, requests

CHANGES: list[Any] = [
    lambda live: live.add(requests(0), "key"),
    lambda live: live.add(requests(1, 2), "key"),
    lambda live: live.delete("f1", "key"),
    lambda live: live.add(requests(4), "key"),
    lambda live: live.roll_back(2, "key"),
    lambda live: live.delete("f0", "key"),
]


def digest_of(live: LiveModel) -> str:
    """Return a digest of the present edits and of the model's logits."""
    digest = hashlib.sha256(json.dumps(live.log.ids_at(live.version)).encode())
    for tensor in logits(live.model):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def apply_changes(folder: Path, acknowledged: Path, points: Points) -> list[str]:
    """Apply the changes that the folder lacks; return the digest at the beginning and after each change."""
    with live_model(folder) as live:
        first = live.version
        digests = [digest_of(live)]
        points.watch("GRACE")
        for change in CHANGES[first:]:
            change(live)
            with acknowledged.open("a") as file:
                file.write(f"{live.version}\n")
            digests.append(digest_of(live))
        return digests


def in_fork(folder: Path, at: int | None = None) -> dict[str, Any] | None:
    """Apply the changes in a forked process; return its digests and number of calls, or None if it was killed."""
    result = folder.with_suffix(".result")

    def run() -> int:
        points = Points(at)
        digests = apply_changes(folder, folder.with_suffix(".acknowledged"), points)
        points.at = None
        result.write_text(json.dumps({"digests": digests, "points": points.count}))
        return 0

    code = exit_code_in_fork(run)
    if code is None:
        return None
    assert code == 0, f"the changes in {folder} failed"
    return dict(json.loads(result.read_text()))


def main(folder: Path, kills: int) -> None:
    """Kill processes at ``kills`` calls (0: at every call), and print what is wrong afterwards."""
    torch.set_num_threads(1)
    with live_model(folder / "warm") as live:  # imports all modules
        CHANGES[0](live)
    expected = in_fork(folder / "whole")
    assert expected is not None
    digests, points = expected["digests"], expected["points"]
    draw, wrong = random.Random(5), []
    count = kills or points
    for part in range(count):
        at = draw.randint(points * part // count + 1, points * (part + 1) // count)
        path = folder / f"killed-{at}"
        assert in_fork(path, at) is None
        log = path.with_suffix(".acknowledged")
        acknowledged = int(log.read_text().splitlines()[-1]) if log.exists() else 0
        resumed = in_fork(path)
        assert resumed is not None
        found = len(digests) - len(resumed["digests"])  # the version at the restart
        if not acknowledged <= found <= acknowledged + 1 or resumed["digests"] != digests[found:]:
            wrong.append({"at": at, "acknowledged": acknowledged, "found": found})
    sys.stdout.write(json.dumps({"points": points, "killed": count, "wrong": wrong}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
