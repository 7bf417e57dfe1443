"""GRACE on a small classifier of points: the paper's illustration (arXiv 2211.11031, section 4.1).

A network of three layers, two of them 100 wide, learns to tell two clouds of points. Then the labels in one region
are flipped. Fine-tuning on the flipped points moves the border everywhere. GRACE, at the second layer, corrects them
with one key and changes nothing else.

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
    """The data of the illustration, and the networks.

    Attributes:
        points: shape ``(100, 2)``.
        labels: the labels that the network was trained on, shape ``(100,)``.
        flipped: mask of the points whose labels were flipped afterwards, shape ``(100,)``.
        networks: by name: ``trained``, ``fine-tuned``, ``GRACE``.
        keys: the number of keys that GRACE needed.
    """

    points: Tensor
    labels: Tensor
    flipped: Tensor
    networks: dict[str, nn.Module]
    keys: int

    def accuracy(self, name: str) -> tuple[float, float]:
        """Return a network's accuracy on the flipped labels, and on the labels of all other points."""
        with torch.no_grad():
            predicted = self.networks[name](self.points).argmax(dim=1)
        correct = predicted == torch.where(self.flipped, 1 - self.labels, self.labels)
        return float(correct[self.flipped].float().mean()), float(correct[~self.flipped].float().mean())


def illustrate(seed: int = 0) -> Illustration:
    """Train the network, flip labels, and correct the network by fine-tuning and by GRACE."""
    torch.manual_seed(seed)
    clouds = [torch.randn(POINTS // 2, 2) * SPREAD + torch.tensor(centre) for centre in CENTRES]
    points, labels = torch.cat(clouds), torch.arange(2).repeat_interleave(POINTS // 2)
    network = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))
    train(network, points, labels, steps=300)
    flipped = (points - torch.tensor(REGION)).norm(dim=1) < RADIUS
    # Fine-tuning and GRACE both get the flipped points one by one.
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


def draw(illustration: Illustration, path: Path) -> None:
    """Draw the four panels: before, the flipped labels, after fine-tuning, after GRACE."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    new_labels = torch.where(illustration.flipped, 1 - illustration.labels, illustration.labels)
    panels = [
        ("Trained", "trained", illustration.labels),
        ("Labels flipped in a region", "trained", new_labels),
        ("Fine-tuned on them, one by one", "fine-tuned", new_labels),
        (f"GRACE, {illustration.keys} key", "GRACE", new_labels),
    ]
    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.6), sharex=True, sharey=True, layout="constrained")
    for axis, (title, name, labels) in zip(axes, panels, strict=True):
        _draw_regions(axis, illustration.networks[name])
        for label, colour in enumerate(("tab:blue", "tab:orange")):
            points = illustration.points[labels == label]
            axis.scatter(points[:, 0], points[:, 1], s=14, color=colour, edgecolor="white", linewidth=0.4)
        axis.add_patch(pyplot.Circle(REGION, RADIUS, fill=False, linestyle="--", linewidth=1))
        if labels is not illustration.labels:
            flipped, others = illustration.accuracy(name)
            title += f"\nflipped {flipped:.0%}, others {others:.0%} right"
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal")
    figure.savefig(path, dpi=120)


def _draw_regions(axis: Any, network: nn.Module) -> None:
    x, y = torch.linspace(-3.5, 3.5, 240), torch.linspace(-2.4, 2.8, 200)
    grid = torch.cartesian_prod(x, y)
    with torch.no_grad():
        predicted = network(grid).argmax(dim=1).reshape(len(x), len(y)).T
    axis.contourf(x, y, predicted, levels=[-0.5, 0.5, 1.5], colors=["tab:blue", "tab:orange"], alpha=0.2)


if __name__ == "__main__":
    result = illustrate()
    for name in result.networks:
        print("{:11} flipped labels right: {:4.0%}, others: {:4.0%}".format(name, *result.accuracy(name)))
    print(f"GRACE's keys: {result.keys}")
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else "two-classes.png")
    draw(result, picture)
    print(picture)
