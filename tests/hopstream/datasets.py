"""A little data set on disk: shoppers who each keep to one corner of the shop."""

from pathlib import Path

import numpy as np

CORNERS = ("tea", "paint", "garden", "music", "bread", "cloth")


def write_shop(folder: Path, users: int = 300, items_per_corner: int = 60, seed: int = 0) -> Path:
    """Write shop.inter and shop.item; every basket has a dozen things of one corner."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = [f"{corner}-{number}" for corner in CORNERS for number in range(items_per_corner)]
    described = [f"{item}\tthing number {item.split('-')[1]} for {item.split('-')[0]}" for item in items]
    (folder / "shop.item").write_text("\n".join(["item_id:token\tname:token_seq", *described]) + "\n")
    lines = ["user_id:token\titem_id:token\tbehavior:token"]
    for user in range(users):
        corner = user % len(CORNERS)
        basket = rng.choice(items_per_corner, 12, replace=False)
        lines += [f"u{user}\t{CORNERS[corner]}-{item}\t{rng.choice(['buy', 'cart'])}" for item in basket]
    (folder / "shop.inter").write_text("\n".join(lines) + "\n")
    return folder
