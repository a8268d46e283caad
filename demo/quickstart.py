# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""`make demo`: trains and evaluates the tiny model on generated data, and writes a page with images and metrics.

Steps: generate ShapeWorld, train the decoder on seen classes, evaluate it zero-shot on seen and unseen classes,
segment images with free vocabularies, write output/demo/index.html. A second run reuses existing files.
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
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cmpf import Predictor
    from demo.page import Example

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CONFIG = "configs/shapes/cmpf_tiny.yaml"
PHOTO_MODEL = "fcclip_convnext_large"
TRAIN_IMAGES, VAL_IMAGES = 4000, 1000
ITERATIONS = 240  # of the config's 300: about one point of PQ less, 40 s sooner
EXAMPLES = 6
EXAMPLE_SIZE = 384  # pixels per side; the images of the datasets have 128
EXAMPLE_SEED = 1  # the datasets have seed 0
EXTRA_WORDS = 4  # words of each example that do not occur in the image
NUM_STEPS = 5
PANOPTIC, SEMANTIC, INSTANCE, RECALL = "panoptic", "sem_seg", "segm", "mask_recall"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--words", default="", help='classes for the example images: "red circle; sky; ..."')
    parser.add_argument(
        "--photo", default="", help=f"a photograph to segment with --words by {PHOTO_MODEL}; needs network"
    )
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY VALUE", help="of the config")
    arguments = parser.parse_args(argv)
    if arguments.photo and not arguments.words:
        parser.error('--photo needs words to look for: --words "cup; spoon; table"')
    from cmpf.common.cpu import limit_spinning

    limit_spinning()
    start = time.monotonic()
    make_data()
    train_and_evaluate(arguments.output, arguments.overrides)
    results = json.loads((arguments.output / "results.json").read_text(encoding="utf-8"))["shapes_val"]
    words = [word.strip() for word in arguments.words.split(";") if word.strip()]
    page = segment_and_write_page(arguments.output, words, arguments.photo, results)
    summary(results, page, time.monotonic() - start)
    return 0


def step(number: int, text: str) -> None:
    """Prints the title of a step."""
    print(f"\n[{number}/{NUM_STEPS}] {text}", flush=True)


def run(*command: str) -> None:
    """Prints a command as a user would type it, runs it in the checkout, and exits if it fails."""
    print("  $ python " + " ".join(command), flush=True)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def data_root() -> Path:
    """The folder of the dataset."""
    return Path(os.environ.get("DETECTRON2_DATASETS", ROOT / "datasets")) / "shapeworld"


def make_data() -> None:
    """Generates ShapeWorld; the generator reuses a complete dataset."""
    step(
        1,
        f"ShapeWorld: {TRAIN_IMAGES} training images (seen classes), {VAL_IMAGES} for validation (all)",
    )
    sizes = ["--train", str(TRAIN_IMAGES), "--val", str(VAL_IMAGES), "--hard-val", "200", "--seed", "0"]
    run("-m", "cmpf.shapeworld", "--out", str(data_root()), *sizes)


def train_and_evaluate(output: Path, overrides: Sequence[str]) -> None:
    """Trains the decoder and evaluates it, unless the results exist."""
    step(2, "Training the decoder on seen classes (about 3 minutes on 2 cores)")
    if (output / "results.json").exists():
        print(f"  {output}/results.json is there: reusing it (remove {output} to train again)")
        return
    tool = ["tools/train_net.py", "--config-file", CONFIG]
    schedule = ["SOLVER.MAX_ITER", str(ITERATIONS)]
    run(*tool, "--resume", "OUTPUT_DIR", str(output), "DATASETS.TEST", "[]", *schedule, *overrides)
    step(3, f"Zero-shot evaluation on {VAL_IMAGES} images")
    weights = ["MODEL.WEIGHTS", str(output / "model_final.safetensors")]
    run(
        *tool,
        "--eval-only",
        *_processes(),
        "OUTPUT_DIR",
        str(output),
        *weights,
        "NUM_THREADS",
        "1",
        *overrides,
    )


def _processes() -> list[str]:
    """Options for the evaluation: on CPUs, one process per core, which for small images is faster than threads."""
    import torch

    from cmpf.common.cpu import usable_cores

    return [] if torch.cuda.is_available() else ["--num-processes", str(min(usable_cores(), 8))]


def segment_and_write_page(
    output: Path, words: Sequence[str], photo: str, results: dict[str, dict[str, float]]
) -> Path:
    """Segments new scenes and an optional photograph, and writes the page.

    Args:
        words: vocabulary of all images; empty = words that occur in each scene, and some that do not.
    Returns:
        The path of the page.
    """
    from cmpf.cli.deferred_import import import_libraries

    import_libraries()
    import cmpf
    from cmpf.shapeworld.categories import CATEGORIES
    from cmpf.shapeworld.scene import generate_scene
    from cmpf.shapeworld.writer import scene_seed
    from cmpf.visualization import training_curve
    from demo.page import VIEWS, write_figure, write_page

    step(4, "Segmenting images into named classes")
    predictor = cmpf.load(str(ROOT / CONFIG), weights=str(output / "model_final.safetensors"))
    names = [category.name for category in CATEGORIES]
    generator = np.random.default_rng(0)
    shapes = []
    for number in range(1, EXAMPLES + 1):
        seed = scene_seed(EXAMPLE_SEED, split="val", number=number)
        scene = generate_scene(seed, size=EXAMPLE_SIZE, seen_only=False, hard=False)
        present = {names[segment.category_id] for segment in scene.segments}
        extra = generator.choice([n for n in names if n not in present], size=EXTRA_WORDS, replace=False)
        scene_words = words or [*sorted(present), *(str(word) for word in extra)]
        shapes.append(_example(predictor, output, f"scene_{number}", scene.image, scene_words))
    write_figure(output / "example.png", output / "images", shapes[:3], VIEWS[:3])
    photographs = [_photograph(output, photo, words)] if photo else []

    step(5, "Writing the page")
    lines = (output / "metrics.json").read_text(encoding="utf-8").splitlines()
    page = output / "index.html"
    write_page(
        page,
        lead="A frozen CLIP classifies masks, a frozen SAM knows object boundaries, and a small decoder, trained here "
        "on seen classes only, predicts masks for any class names.",
        tiles=_tiles(results),
        examples=shapes,
        photographs=photographs,
        evaluation_text=f"{VAL_IMAGES} validation images, all {len(names)} classes as vocabulary, "
        f"{sum(not category.seen for category in CATEGORIES)} of them unseen in training. Values in percent; means are "
        "over the classes in the ground truth.",
        metrics=_metrics(results),
        curve=training_curve([json.loads(line) for line in lines]),
        commands=_commands(output),
        footer="Tiny models on generated images: this checks the system and says nothing about photographs.",
    )
    return page


def _example(
    predictor: Predictor, output: Path, name: str, image: NDArray[np.uint8], words: Sequence[str]
) -> Example:
    """Segments an image and saves its views; see demo.page.VIEWS."""
    from cmpf.formats.image import write_image
    from demo.page import Example

    seen = {word for synonyms in predictor.model.train_vocabulary.classes for word in synonyms}
    prediction = predictor.predict(image, list(words))
    decoder_only = predictor.predict(image, list(words), task="panoptic", ensemble=False)
    views = {task: prediction.plot(task) for task in ("panoptic", "semantic", "instance")}
    views |= {"input": Image.fromarray(image), "decoder": decoder_only.plot("panoptic")}
    folder = output / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for view, view_image in views.items():
        write_image(folder / f"{name}_{view}.png", view_image, compress_level=1)  # half the time, 1/8 larger
    counts = ", ".join(f"{number} {word}" for word, number in prediction.summary().items())
    print(f"  {name}: {counts}", flush=True)
    unseen = frozenset(word for word in words if word not in seen)
    return Example(name=name, words=words, unseen=unseen, size=(image.shape[0], image.shape[1]))


def _photograph(output: Path, photo: str, words: Sequence[str]) -> Example:
    """Segments a photograph with a full-size model, whose weights are downloaded."""
    import cmpf
    from cmpf.formats.image import read_image

    image = read_image(photo)
    return _example(cmpf.load(PHOTO_MODEL), output, Path(photo).stem, image, words)


def _tiles(results: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    return [
        (f"{results[PANOPTIC]['S_PQ']:.1f}", "PQ, seen classes"),
        (f"{results[SEMANTIC]['S_mIoU']:.1f}", "mIoU, seen classes"),
        (f"{results[SEMANTIC]['U_mIoU']:.1f}", "mIoU, unseen classes"),
        (f"{results[RECALL]['U_recall_50']:.1f}", "mask recall at IoU 0.5, unseen"),
    ]


def _metrics(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    panoptic, semantic, instance, recall = (results[k] for k in (PANOPTIC, SEMANTIC, INSTANCE, RECALL))
    rows = {}
    for title, prefix in (("all classes", ""), ("seen", "S_"), ("unseen", "U_")):
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
        "make ablation      # all configurations with three seeds, as a table"
    )


def summary(results: dict[str, dict[str, float]], page: Path, seconds: float) -> None:
    """Prints the main metrics and the path of the page."""
    print(f"\nDone in {seconds / 60:.1f} minutes.")
    for value, meaning in _tiles(results):
        print(f"  {meaning:34s} {value:>6s} %")
    print(f"\nOpen {page.resolve()}")


if __name__ == "__main__":
    sys.exit(main())
