"""How far single trainings differ: ``python tests/benchmarks/seed_spread.py [RECIPE] --data FOLDER [--steps N] [--seeds 0 1 2]``.

The recipe is trained with each seed for the same number of steps, everything else alike, and scored on its test people without noise (PSNR in dB
inside the mask of ``mrsr-1``). Printed: each seed's scores, and mean, standard deviation and range over the seeds. Weights lie in a folder that is
removed at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

RECIPE = Path(__file__).parents[2] / "resources" / "recipes" / "cftn_x2_compact.yaml"


def scores(recipe_file: Path, data: Path, steps: int | None, seed: int) -> dict[str, float]:
    """Train with a seed; PSNR by test person."""
    from napari_mrsr.training.evaluate import evaluate_model
    from napari_mrsr.training.jobs import train_to_files
    from napari_mrsr.training.parallel import Machines
    from napari_mrsr.training.recipe import load_recipe
    from napari_mrsr.zoo import get_card

    recipe = load_recipe(recipe_file, root=data, steps=steps, seed=seed)
    name = f"{recipe.name}-seed{seed}"
    recipe = recipe.model_copy(update={"name": name})
    train_to_files(recipe, None, resume=False, machines=Machines("cpu", 1, 1, "auto"), overwrite=True, say=lambda line: print(line, file=sys.stderr))
    for line in evaluate_model(name, [data], [0.0], "tests/benchmarks/seed_spread.py"):
        print(line, file=sys.stderr)
    return {line.subject: line.psnr[name] for line in get_card(name).quality}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=RECIPE)
    parser.add_argument("--data", type=Path, required=True, help="folder of the volumes")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    data, recipe = args.data.resolve(), args.recipe.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder
        os.chdir(folder)
        found = {seed: scores(recipe, data, args.steps, seed) for seed in args.seeds}
        os.chdir("/")
    for seed, by_person in found.items():
        print(f"seed {seed}: " + ", ".join(f"{person} {value:.2f}" for person, value in by_person.items()))
    for person in next(iter(found.values())):
        values = np.array([by_person[person] for by_person in found.values()])
        spread = f", standard deviation {values.std(ddof=1):.2f}" if len(values) > 1 else ""
        print(f"{person}: mean {values.mean():.2f} dB{spread}, {values.min():.2f} to {values.max():.2f}")


if __name__ == "__main__":
    main()
