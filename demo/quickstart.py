# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""`make demo`: the whole system on its embedded default, from generated data to a page with images and numbers.

Steps: generate ShapeWorld, train the tiny decoder on seen categories, evaluate zero-shot on seen and unseen ones,
segment images with free words, write output/demo/index.html. A second run reuses what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CONFIG = "configs/shapes/cmpf_tiny.yaml"
TRAIN_IMAGES, VAL_IMAGES = 4000, 1000
EXAMPLES = 6
EXTRA_WORDS = 4  # words of each example that are not in the image
STEPS = 4
PANOPTIC, SEMANTIC, INSTANCE, RECALL = "panoptic", "sem_seg", "segm", "mask_recall"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--words", default="", help='classes for the example images: "red circle; sky; ..."')
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY VALUE", help="of the config")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    make_data()
    train_and_evaluate(arguments.output, arguments.overrides)
    results = json.loads((arguments.output / "results.json").read_text(encoding="utf-8"))["shapes_val"]
    page = segment_and_write_page(arguments.output, arguments.words, results)
    summary(results, page, time.monotonic() - start)
    return 0


def step(number: int, text: str) -> None:
    """One headline a step, so that the terminal always says what is going on."""
    print(f"\n[{number}/{STEPS}] {text}", flush=True)


def run(*command: str) -> None:
    """Shows a command as a user would type it, runs it in the checkout, and ends the demo if it fails."""
    print("  $ python " + " ".join(command), flush=True)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def data_root() -> Path:
    return Path(os.environ.get("DETECTRON2_DATASETS", ROOT / "datasets")) / "shapeworld"


def make_data() -> None:
    """ShapeWorld on disk; the generator reuses a whole one."""
    step(
        1,
        f"ShapeWorld: {TRAIN_IMAGES} training images (seen categories), {VAL_IMAGES} for validation (all)",
    )
    sizes = ["--train", str(TRAIN_IMAGES), "--val", str(VAL_IMAGES), "--hard-val", "200", "--seed", "0"]
    run("-m", "cmpf.shapeworld", "--out", str(data_root()), *sizes)


def train_and_evaluate(output: Path, overrides: Sequence[str]) -> None:
    """Trains the decoder; train_net.py evaluates at the end. Nothing to do when the results are there."""
    step(2, "Training the decoder on seen categories (about 4 minutes on 2 cores), then zero-shot evaluation")
    if (output / "results.json").exists():
        print(f"  {output}/results.json is there: reusing it (remove {output} to train again)")
        return
    run("tools/train_net.py", "--config-file", CONFIG, "--resume", "OUTPUT_DIR", str(output), *overrides)


def segment_and_write_page(output: Path, words: str, results: dict[str, dict[str, float]]) -> Path:
    """Segments validation images and photographs and writes the page; returns its path."""
    from skimage import data as photographs

    import cmpf
    from cmpf.data import get_dataset
    from cmpf.visualization import training_curve
    from demo.page import Example, write_page

    step(3, "Segmenting images with free words")
    predictor = cmpf.load(str(ROOT / CONFIG), weights=str(output / "model_final.safetensors"))
    dataset = get_dataset("shapes_val")
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    seen_words = {word for synonyms in predictor.model.train_vocabulary.classes for word in synonyms}
    generator = np.random.default_rng(0)

    def example(name: str, image: np.ndarray, vocabulary: Sequence[str]) -> Example:
        prediction = predictor.predict(image, list(vocabulary))
        Image.fromarray(image).save(images / f"{name}_input.png")
        for task in ("panoptic", "semantic", "instance"):
            prediction.plot(task).save(images / f"{name}_{task}.png")
        found = ", ".join(f"{n} {w}" for w, n in prediction.summary().items())
        print(f"  {name}: {found}", flush=True)
        unseen = frozenset(word for word in vocabulary if word not in seen_words)
        return Example(name=name, words=vocabulary, unseen=unseen, size=image.shape[:2])

    own = [word.strip() for word in words.split(";") if word.strip()]
    shapes = []
    for sample in dataset.samples[:EXAMPLES]:
        image = np.asarray(Image.open(sample["file_name"]).convert("RGB"))
        present = {dataset.vocabulary.names[s["category_id"]] for s in sample["segments_info"]}
        others = [name for name in dataset.vocabulary.names if name not in present]
        extra = generator.choice(others, size=EXTRA_WORDS, replace=False)
        vocabulary = own or [*sorted(present), *(str(word) for word in extra)]
        shapes.append(example(Path(sample["file_name"]).stem, image, vocabulary))
    words_for_photographs = own or ["red circle", "blue triangle", "sky", "wood", "grass", "snow"]
    real = [
        example(name, getattr(photographs, name)(), words_for_photographs) for name in ("astronaut", "coffee")
    ]

    step(4, "Writing the page")
    lines = (output / "metrics.json").read_text(encoding="utf-8").splitlines()
    page = output / "index.html"
    write_page(
        page,
        lead="Frozen CLIP says what things are, frozen SAM says where they end, and a small decoder, trained here on "
        "seen categories only, turns both into masks for any words.",
        tiles=_tiles(results),
        examples=shapes,
        photographs=real,
        evaluation_text=f"{VAL_IMAGES} validation images, all 54 categories as vocabulary, 33 of them unseen in "
        "training. Values in percent; a class counts in the mean if it occurs in the ground truth.",
        metrics=_metrics(results),
        curve=training_curve([json.loads(line) for line in lines]),
        commands=_commands(output),
        footer="Tiny models on generated images: a check that the system works, not a claim about photographs.",
    )
    return page


def _tiles(results: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    return [
        (f"{results[PANOPTIC]['S_PQ']:.1f}", "PQ, seen categories"),
        (f"{results[SEMANTIC]['S_mIoU']:.1f}", "mIoU, seen categories"),
        (f"{results[SEMANTIC]['U_mIoU']:.1f}", "mIoU, unseen categories"),
        (f"{results[RECALL]['U_recall_50']:.1f}", "mask recall at IoU 0.5, unseen"),
    ]


def _metrics(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    panoptic, semantic, instance, recall = (results[k] for k in (PANOPTIC, SEMANTIC, INSTANCE, RECALL))
    rows = {}
    for title, prefix in (("all categories", ""), ("seen", "S_"), ("unseen", "U_")):
        rows[title] = {
            **{name: panoptic[prefix + name] for name in ("PQ", "SQ", "RQ")},
            "mIoU": semantic[prefix + "mIoU"],
            "AP": instance[prefix + "AP"],
            "recall 0.5": recall[prefix + "recall_50"],
            "recall 0.75": recall[prefix + "recall_75"],
        }
    return rows


def _commands(output: Path) -> str:
    weights = output / "model_final.safetensors"
    return (
        f'cmpf predict image.jpg --weights {weights} --vocabulary "red circle; striped ring; sky"\n'
        f"python tools/train_net.py --config-file {CONFIG} --eval-only MODEL.WEIGHTS {weights}\n"
        "make ablation      # five configurations, three seeds, a table"
    )


def summary(results: dict[str, dict[str, float]], page: Path, seconds: float) -> None:
    """A few lines at the end of the terminal output."""
    print(f"\nDone in {seconds / 60:.1f} minutes.")
    for value, meaning in _tiles(results):
        print(f"  {meaning:34s} {value:>6s} %")
    print(f"\nOpen {page.resolve()}")


if __name__ == "__main__":
    sys.exit(main())
