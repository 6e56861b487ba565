"""What would have to change in the picture's meaning? Exact edits of attributes under which a head changes its mind.

python examples/counterfactual_head.py
"""

from __future__ import annotations

import argparse

from unfooled import load_shapes
from unfooled.counterfactuals import (
    AffineHead,
    Cost,
    fit_head,
    flip_attributes,
    flip_edit,
    pinv_attackability,
    radii,
    radius,
    targeted_edit,
    within_covariance,
)
from unfooled.data.made.shapes import ATTRIBUTES, FACTORS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=300, help="scenes")
    parser.add_argument("--epochs", type=int, default=100, help="iterations of the fit")
    options = parser.parse_args()

    shapes = load_shapes(options.n, rho=0.9)
    fitted = fit_head(shapes.attributes, shapes.y, decay=1e-3, steps=options.epochs)
    head = AffineHead(fitted.weight, fitted.bias, shapes.classes, ATTRIBUTES)
    scene = shapes.attributes[:1]
    print(f"predicted: {head.classes[int(head.logits(scene).argmax())]}")

    shape = [name for name in ATTRIBUTES if name.startswith("shape=")]
    for title, cost in (("anything", Cost()), ("not the shape", Cost(immutable=shape))):
        edit = flip_edit(head, scene, norm=1, cost=cost)
        f = int(edit.delta[0].abs().argmax())
        print(f"{title}: {ATTRIBUTES[f]} by {edit.delta[0, f]:+.2f} makes it {head.classes[int(edit.target)]}")

    groups = [[k for k, name in enumerate(ATTRIBUTES) if name.startswith(f"{factor}=")] for factor in FACTORS]
    whole = flip_attributes(head, scene, cost=Cost(groups=groups))
    turned = [ATTRIBUTES[f] for f in whole.delta[0].clamp(min=0).nonzero().flatten().tolist()]
    print(f"binary attributes: {int(whole.cost)} exchange, {', '.join(turned)}")
    for k, name in enumerate(head.classes):
        found = targeted_edit(head, scene, k)
        print(f"to {name}: {found.bound[0]}, {found.cost.item():.3f}")

    r = radii(radius(head, shapes.attributes, within_covariance(shapes.attributes, shapes.y)))
    print(f"radius: {r.median.text(2)} within-class standard deviations")
    print(f"published: {pinv_attackability(head, shapes.attributes)}")


if __name__ == "__main__":
    main()
