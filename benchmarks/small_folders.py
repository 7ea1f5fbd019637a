"""What the default command learns from a small folder of photos, beside a classifier on color histograms.

    pip install scikit-learn
    python benchmarks/small_folders.py IMAGENETTE [--classes 3 10] [--images 30 100 300] [--seeds 3] [--pretrain 300]

IMAGENETTE has train/CLASS/ and val/CLASS/. A small folder holds the first IMAGES photos of the first CLASSES classes of
train, by name, and nothing else, so that a tenth is held out for validation and a tenth for a test. Both methods are
then tested on the photos of val. The baseline is a logistic regression on square roots of color histograms (8 × 8 × 8),
whose regularization is chosen by cross-validation; it learns from all photos of the folder.

With --pretrain N, the network begins with weights trained on N photos of each of the remaining classes, as
`alexnet train PHOTOS --pretrained RUN` does.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV

import alexnet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imagenette", type=Path)
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--images", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", type=int, metavar="N")
    arguments = parser.parse_args()
    print("| classes | photos per class | color histograms | alexnet, ten views | by seed | minutes |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for images in arguments.images:
        for classes in arguments.classes:
            with tempfile.TemporaryDirectory() as folder:
                photos, unseen = Path(folder) / "photos", Path(folder) / "unseen"
                link(arguments.imagenette / "train", photos, slice(classes), images)
                link(arguments.imagenette / "val", unseen, slice(classes))
                pretrained = None
                if arguments.pretrain:
                    others, pretrained = Path(folder) / "others", Path(folder) / "pretrained"
                    link(arguments.imagenette / "train", others, slice(classes, None), arguments.pretrain)
                    trained(others, seed=0).save(pretrained)
                baseline = histogram_accuracy(photos, unseen)
                started = time.perf_counter()
                runs = [trained(photos, seed, pretrained) for seed in range(arguments.seeds)]
                accuracies = [run.evaluate(unseen, verbose=False).all_views.top1 for run in runs]
                minutes = (time.perf_counter() - started) / 60 / arguments.seeds
            by_seed = ", ".join(f"{accuracy:.1%}" for accuracy in accuracies)
            mean = statistics.mean(accuracies)
            print(f"| {classes} | {images} | {baseline:.1%} | {mean:.1%} | {by_seed} | {minutes:.1f} |", flush=True)


def link(source: Path, target: Path, classes: slice, images: int | None = None) -> None:
    """Make a folder of links to the first images of some of the classes."""
    for folder in sorted(source.iterdir())[classes]:
        (target / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:images]:
            os.symlink(file.resolve(), target / folder.name / file.name)


def trained(photos: Path, seed: int, pretrained: Path | None = None) -> alexnet.Classifier:
    """The default training, which is `alexnet train PHOTOS --seed SEED [--pretrained PRETRAINED]`."""
    classifier = alexnet.Classifier()
    classifier.fit(photos, seed=seed, pretrained=pretrained, verbose=False)
    return classifier


def histogram_accuracy(photos: Path, unseen: Path) -> float:
    options = {"l1_ratios": (0,), "scoring": "accuracy", "use_legacy_attributes": False}
    fitted = LogisticRegressionCV(Cs=[0.1, 1, 10, 100], max_iter=2000, **options)
    return fitted.fit(*histograms(photos)).score(*histograms(unseen))


def histograms(folder: Path) -> tuple[np.ndarray, list[str]]:
    """A row per image, and the names of the classes."""
    files = sorted(folder.glob("*/*"))
    rows = []
    for file in files:
        levels = np.asarray(Image.open(file).convert("RGB").resize((64, 64))).astype(int) // 32
        counts = np.bincount((levels @ [64, 8, 1]).ravel(), minlength=512)
        rows.append(np.sqrt(counts / counts.sum()))
    return np.array(rows), [file.parent.name for file in files]


if __name__ == "__main__":
    main()
