"""Accuracy of simpler methods on the bundled drawings: majority class, nearest neighbor, HOG.

    pip install scikit-image scikit-learn
    python benchmarks/emoji_baselines.py

The regularization of the logistic regression is chosen on val; test is evaluated once.
"""

from __future__ import annotations

import numpy as np
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from alexnet.data.pack.packing import make_pack
from alexnet.data.sources.detection import open_source


def main() -> None:
    packed = make_pack(open_source("emoji"), 64)
    training, validation, test = (packed.indices(split) for split in ("train", "val", "test"))
    labels, images = packed.labels, np.asarray(packed.images)
    majority = np.bincount(labels[training]).argmax()
    print(f"always {packed.classes[majority]}: {(labels[test] == majority).mean():.1%}", flush=True)
    pixels = images.reshape(len(images), -1).astype(np.float32)
    nearest = KNeighborsClassifier(1, algorithm="brute").fit(pixels[training], labels[training])
    print(f"nearest neighbor by pixels: {nearest.score(pixels[test], labels[test]):.1%}", flush=True)
    gradients = np.stack([hog(image, 9, (8, 8), (2, 2), channel_axis=-1) for image in images])
    fitted = {
        strength: LogisticRegression(C=strength, max_iter=300).fit(gradients[training], labels[training])
        for strength in (0.01, 0.03, 0.1, 0.3, 1.0)
    }
    best = max(fitted, key=lambda strength: fitted[strength].score(gradients[validation], labels[validation]))
    score = fitted[best].score(gradients[test], labels[test])
    print(f"histograms of gradients, logistic regression with C {best}: {score:.1%}", flush=True)


if __name__ == "__main__":
    main()
