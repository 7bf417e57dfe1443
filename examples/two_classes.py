"""GRACE on a small classifier of points: the paper's illustration (arXiv 2211.11031, section 4.1).

A network of three layers, two of them 100 wide, learns to tell two clouds of points. Then the labels in one region
are flipped. Fine-tuning on the flipped points moves the border everywhere; GRACE, at the second layer, mends them
with one key and leaves all else as it was.

    python examples/two_classes.py PICTURE.png
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong import GraceHyperParams, apply_grace_to_module

CENTRES, SPREAD, POINTS = ((-1.5, 0.0), (1.5, 0.0)), 0.6, 100
REGION, RADIUS = (1.6, 0.6), 0.5


@dataclass
class Illustration:
    """What was done and what came of it.

    Attributes:
        points: shape ``(100, 2)``.
        labels: what the network was trained on, shape ``(100,)``.
        flipped: which points' labels were flipped afterwards.
        networks: by what was done to them: ``trained``, ``fine-tuned``, ``GRACE``.
        keys: how many keys GRACE needed.
    """

    points: Tensor
    labels: Tensor
    flipped: Tensor
    networks: dict[str, nn.Module]
    keys: int

    def accuracy(self, name: str) -> tuple[float, float]:
        """Return a network's accuracy on the flipped labels, and on the labels of all other points."""
        with torch.no_grad():
            said = self.networks[name](self.points).argmax(dim=1)
        right = said == torch.where(self.flipped, 1 - self.labels, self.labels)
        return float(right[self.flipped].float().mean()), float(right[~self.flipped].float().mean())


def illustrate(seed: int = 0) -> Illustration:
    """Train the network, flip labels, and mend them in both ways."""
    torch.manual_seed(seed)
    clouds = [torch.randn(POINTS // 2, 2) * SPREAD + torch.tensor(centre) for centre in CENTRES]
    points, labels = torch.cat(clouds), torch.arange(2).repeat_interleave(POINTS // 2)
    network = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))
    train(network, points, labels, steps=300)
    flipped = (points - torch.tensor(REGION)).norm(dim=1) < RADIUS
    # Both ways see one flipped point after the other.
    tuned = copy.deepcopy(network)
    for point in points[flipped]:
        train(tuned, point.unsqueeze(0), 1 - labels[flipped][:1], steps=40)
    hparams = GraceHyperParams(model_name="two classes", inner_params=["2.weight"], eps=0.75)
    edited, rollback = apply_grace_to_module(copy.deepcopy(network), points[flipped], 1 - labels[flipped], hparams)
    networks = {"trained": network, "fine-tuned": tuned, "GRACE": edited}
    return Illustration(points, labels, flipped, networks, rollback.results[-1].detail["n_keys"])


def train(network: nn.Module, points: Tensor, labels: Tensor, steps: int) -> None:
    """Train all of a network's weights."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(points), labels).backward()
        optimizer.step()


def draw(what: Illustration, path: Path) -> None:
    """Draw the four panels: before, the flipped labels, after fine-tuning, after GRACE."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    new = torch.where(what.flipped, 1 - what.labels, what.labels)
    panels = [
        ("Trained", "trained", what.labels),
        ("Labels flipped in a region", "trained", new),
        ("Fine-tuned on them, one by one", "fine-tuned", new),
        (f"GRACE, {what.keys} key", "GRACE", new),
    ]
    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.6), sharex=True, sharey=True, layout="constrained")
    for axis, (title, name, labels) in zip(axes, panels, strict=True):
        _regions(axis, what.networks[name])
        for label, colour in enumerate(("tab:blue", "tab:orange")):
            shown = what.points[labels == label]
            axis.scatter(shown[:, 0], shown[:, 1], s=14, color=colour, edgecolor="white", linewidth=0.4)
        axis.add_patch(pyplot.Circle(REGION, RADIUS, fill=False, linestyle="--", linewidth=1))
        if labels is not what.labels:
            mended, kept = what.accuracy(name)
            title += f"\nflipped {mended:.0%}, others {kept:.0%} right"
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal")
    figure.savefig(path, dpi=120)


def _regions(axis: Any, network: nn.Module) -> None:
    across, up = torch.linspace(-3.5, 3.5, 240), torch.linspace(-2.4, 2.8, 200)
    grid = torch.cartesian_prod(across, up)
    with torch.no_grad():
        said = network(grid).argmax(dim=1).reshape(len(across), len(up)).T
    axis.contourf(across, up, said, levels=[-0.5, 0.5, 1.5], colors=["tab:blue", "tab:orange"], alpha=0.2)


if __name__ == "__main__":
    shown = illustrate()
    for way in shown.networks:
        print("{:11} flipped labels right: {:4.0%}, others: {:4.0%}".format(way, *shown.accuracy(way)))
    print(f"GRACE's keys: {shown.keys}")
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else "two-classes.png")
    draw(shown, picture)
    print(picture)
