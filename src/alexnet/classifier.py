"""`Classifier`: from labeled images to predictions, in a few lines.

classifier = Classifier()
history = classifier.fit("photos")
history.plot("curves.png")
classifier.predict_n("cat.jpg", 3)  # [("cat", 0.91), ("dog", 0.05), ("fox", 0.02)]
classifier.save("pets")
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, Unpack, get_args, overload

import numpy as np
import torch

from . import session
from .analysis.comparison import Comparison, Member
from .analysis.comparison import compare as compare_members
from .analysis.explaining import Explanation, Method, explain
from .analysis.features import Extraction, FeatureSettings, activations, last_hidden
from .analysis.patches import Patches, find_patches
from .analysis.search import Metric, Neighbors, chance, precision, search
from .analysis.shift import Shift, measure_shift
from .compat import renamed
from .console import TrainingBar, print_facts, print_text, progress_bar
from .data.labels.class_names import readable_class_name
from .data.pack.reading import Images, Pack
from .data.source import Data
from .data.sources.memory import hold
from .device import describe_device, pick_device, pick_precision, set_threads
from .evaluation.ensembles import EnsembleEvaluation, evaluate_average
from .evaluation.evaluation import Evaluation, evaluate
from .evaluation.inference import Inference
from .evaluation.prediction import Prediction, predict_each
from .files import cache_folder
from .interchange import huggingface
from .model.bundle import FILE as MODEL_FILE
from .model.bundle import ModelBundle
from .model.network import AlexNet
from .model.quantization import FcPrecision
from .notebook import html_table
from .parallel.group import Group
from .preprocessing.images import ImageLike, each_image, holds_many, stored_image
from .runs.history import History
from .runs.run import Run, is_run
from .specs.architecture import Architecture
from .specs.names import listed
from .specs.operations import Activation
from .specs.overrides import Overrides
from .specs.reading import settings_with
from .specs.settings import LabelMaps, TrainSettings, option
from .specs.variants import variant as find_variant
from .training.loop import Epoch, Step
from .training.range_test import RangeTest


class Classifier(huggingface.HubMixin):
    """A network that learns from labeled images and classifies others.

    Args:
        variant: one of `alexnet.variants()`, or an architecture of your own; if None, the variant that suits the size
            of the images in `fit`.
        device: "auto", or as torch names it: "cpu", "cuda", "cuda:1", "mps".
        precision: "auto", "fp32" or "bf16".

    Raises:
        ValueError: there is no such variant, device or precision.
    """

    def __init__(self, variant: str | Architecture | None = None, device: str = "auto", precision: str = "auto"):
        set_threads()
        self._architecture = find_variant(variant) if variant else None
        self.device = pick_device(device)
        self._asked_precision = precision
        self.precision = pick_precision(precision, self.device)
        self._bundle: ModelBundle | None = None
        self.run: Path | None = None
        """Folder of the run that it was trained in or loaded from."""
        self.evaluation: Evaluation | None = None
        """Final evaluation of a training with an output folder."""
        self.report: Path | None = None
        """The report of that training, an HTML file."""
        self._fitted: tuple[str, Pack] | None = None  # what this object was trained on

    def __repr__(self) -> str:
        return f"Classifier({', '.join(self._facts().values())})"

    def _repr_html_(self) -> str:
        return html_table(list(self._facts().items()))

    def _facts(self) -> dict[str, str]:
        if self._bundle is None:
            return {"network": getattr(self._architecture, "name", "any network"), "classes": "not trained yet"}
        classes = self._bundle.classes
        named = f"{len(classes)} classes: {listed([*map(readable_class_name, classes)], 5)}"
        facts = {"network": self._bundle.network.architecture.name, "classes": named}
        return facts | ({"run": str(self.run)} if self.run else {}) | {"device": str(self.device)}

    @property
    def classes(self) -> tuple[str, ...]:
        return self._ready().classes

    @property
    def network(self) -> AlexNet:
        """The network itself; whatever is changed in it changes the predictions."""
        return self._ready().set_private(False).network

    @property
    def bundle(self) -> ModelBundle | None:
        """The network, the preprocessing of its images and the names of its classes; None before training."""
        return self._bundle and self._bundle.set_private(False)

    @bundle.setter
    def bundle(self, bundle: ModelBundle | None) -> None:
        self._bundle = bundle

    @property
    def trained(self) -> ModelBundle | None:
        warnings.warn("Classifier.trained is now called bundle", FutureWarning, stacklevel=2)
        return self.bundle

    @renamed(mirror="flip", layer_scale="lr_scale")
    def fit(
        self,
        data: Data,
        settings: TrainSettings | None = None,
        *,
        verbose: bool = True,
        **overrides: Unpack[Overrides],
    ) -> History:
        """Train on labeled images, validating after every epoch, from scratch or from a pretrained network.

        The result is the weights of the epoch with the lowest validation error if there are a test split and at least
        200 validation images, else those of the last epoch. With an output folder, weights, history, results and report
        are written there, as by `alexnet train`.

        Args:
            data: "emoji"; the path or URL of a folder, a list or an archive of labeled images; or data in memory:
                arrays (X, y), a list of (image, label), a data frame, a data set of PyTorch or of Hugging Face, or a
                dict of these by split (docs/data.md).
            settings: as in `TrainSettings`.
            verbose: whether to print facts, progress and results.
            overrides: settings by name, such as `epochs=5`.

        Raises:
            ValueError: a setting or the data set does not fit; the message says which, and what it must be.
            TypeError: there is no setting of a name.
            Diverged: the loss is not finite.
            Interrupted: on Ctrl-C; the classifier then has the weights so far.
            OutOfMemory: a step does not fit into memory, and micro_batch is not "auto".
            NotSaved: a checkpoint cannot be written; those before it are unchanged.
        """
        with contextlib.ExitStack() as stack:
            events = stack.enter_context(contextlib.closing(self._events(data, settings, overrides, verbose)))
            for event in events:
                match event:
                    case session.Start(plan, resolved, _, run):
                        verbose = verbose and Group.current().is_first
                        bar = TrainingBar(plan.recipe.epochs, plan.training_images, verbose)
                        if verbose:
                            started = resolved.processes if Group.current().size == 1 else 1
                            device = describe_device(self.device, self.precision, started)
                            facts = plan.facts(resolved.data) | {"seed": f"{resolved.seed}", "device": device}
                            facts |= session.facts_of_processes(resolved, plan)
                            if run:
                                facts["output"] = f"{run} (Ctrl-C saves; {option('resume', True)} continues)"
                            print_facts(facts)
                        stack.enter_context(bar.progress)
                    case Step():
                        bar.step(event)
                    case Epoch(row):
                        bar.epoch(row)
                    case session.Finish(history=history):
                        return history
        raise AssertionError("training ends with Finish")

    def fit_events(
        self, data: Data, settings: TrainSettings | None = None, **overrides: Unpack[Overrides]
    ) -> Generator[session.Event, None, None]:
        """Train as `fit` does, one event at a time, printing nothing: `Start`, then each `Step` and `Epoch`, `Finish`.

            with contextlib.closing(classifier.fit_events("photos", epochs=5)) as events:
                for event in events:
                    match event:
                        case alexnet.Step(): print(event.step, event.loss)
                        case alexnet.Epoch(row): print(row["val_error"])

        A loop may stop after any event; closing the iterator saves a checkpoint if there is an output folder.
        """
        return self._events(data, settings, overrides, verbose=False)

    def _events(
        self, data: Data, settings: TrainSettings | None, overrides: dict, verbose: bool
    ) -> Generator[session.Event, None, None]:
        settings = settings_with(settings, overrides)
        own = {"variant": self._architecture, "device": str(self.device), "precision": self._asked_precision}
        defaults = {name: value for name, value in own.items() if getattr(settings, name) in (None, "auto")}
        notify = print_text if verbose else lambda text: None
        track = progress_bar if verbose else None
        with contextlib.closing(session.fit(data, replace(settings, **defaults), notify, track)) as events:
            for event in events:
                match event:
                    case session.Start(plan, resolved, bundle, run):
                        self._bundle, self.run = bundle, run and run.folder
                        self.device, self.precision = torch.device(resolved.device), resolved.precision
                        self._fitted = resolved.data, plan.packed
                    case session.Finish(bundle, _, evaluation, report):
                        self._bundle, self.evaluation, self.report = bundle, evaluation, report
                yield event

    def evaluate(
        self,
        data: Data | None = None,
        split: str | None = None,
        all_views: bool = True,
        verbose: bool = True,
        labels: str | Path | None = None,
        label_indices: str | Path | None = None,
        csv: str | Path | None = None,
        keep_probabilities: bool | None = None,
    ) -> Evaluation:
        """Top-1 and top-5 errors on labeled images, in memory that hardly depends on the number of classes.

        Args:
            data: as for `fit`; what it was trained on if None.
            split: "train", "val" or "test"; if None, test if there is one, else val; all images of a folder without
                splits on which it was not trained.
            all_views: whether to average over ten views (ten-crop) as well.
            labels, label_indices: as for `fit`; those of the run for what it was trained on, if None.
            csv: file to write with the probability of every class for every image, over ten views if there are.
            keep_probabilities: whether the result has these, too (`evaluation.all_views.probabilities`); if None, up
                to 16 million of them.

        Raises:
            ValueError: the data or the split does not exist, or has classes that the network does not know.
        """
        packed, indices = self._images(data, split, LabelMaps(labels, label_indices), verbose)
        how = {"progress": progress_bar("evaluating") if verbose else None, "group": Group.current()}
        how |= {"csv": csv and Path(csv), "keep_probabilities": keep_probabilities}
        return evaluate(self._ready(), packed, indices, all_views, self.precision, **how)

    def _images(self, data: Data | None, split: str | None, maps: LabelMaps, verbose: bool) -> tuple[Pack, np.ndarray]:
        """The images to evaluate on, and their indices in the pack."""
        run, track = self.run and Run(self.run), progress_bar if verbose else None
        return session.images_to_evaluate(self._ready(), data, split, maps, run, self._fitted, track)

    def predict(self, image: ImageLike | Iterable[ImageLike], all_views: bool = True) -> np.ndarray:
        """Probabilities of all classes, in the order of `classes`.

        Args:
            image: a path, an http(s) URL, the bytes of a file, a file object, a Pillow image, or pixels: an array or
                tensor, (height, width), (height, width, channels) or (channels, height, width), uint8 or floats of
                0 … 1. Or many: a folder, for all images below it, sorted by path; a pattern such as `photos/*.jpg`; a
                batch, with four dimensions; a list or any other iterable of all these.
            all_views: average over ten views (ten-crop), as in section 4.1, or use the center crop only.

        Returns:
            (classes,), or (images, classes) for many.

        Raises:
            ValueError: an image cannot be read; `predict_each` returns the others.
        """
        many, rows = holds_many(image), []
        for prediction in self.predict_each(image, all_views):
            if prediction.error:
                raise prediction.error
            rows.append(prediction.probabilities)
        if not many:
            return rows[0]
        return np.stack(rows) if rows else np.empty((0, len(self.classes)), np.float32)

    def inputs(self, image: ImageLike | Iterable[ImageLike]) -> torch.Tensor:
        """What the network sees of images: their center crops, normalized, for tools that look into `network`.

            x = classifier.inputs("cat.jpg")
            classifier.network.features(x, "conv5")
            captum.attr.Saliency(classifier.network).attribute(x, target=3)

        Args:
            image: as for `predict`.

        Returns:
            (N, 3, side, side), float32, on the classifier's device; N is 1 for one image. The softmax of the network's
            scores for it is what `predict` gives with `all_views=False`.

        Raises:
            ValueError: an image cannot be read.
        """
        preprocessing = self._ready().preprocessing
        how = preprocessing.stored_size, preprocessing.squares
        stored = [stored_image(each, *how) for _, each in each_image(image, is_run)]
        side = preprocessing.crop_size
        if not stored:
            return torch.empty(0, 3, side, side, device=self.device)
        return preprocessing.center_crop(torch.from_numpy(np.stack(stored)).to(self.device)).contiguous()

    def features(
        self,
        images: Data | ImageLike | Iterable[ImageLike] | None = None,
        layers: str | Sequence[str] | None = None,
        output: str | Path | None = None,
        views: Literal["center", "ten"] = "center",
        pool: Literal["mean", "max"] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        split: str | None = None,
        verbose: bool = True,
    ) -> dict[str, np.ndarray]:
        """Activations by layer, (images, …), for images in the order of `predict` or, with an output, of a data set.

            fc7 = classifier.features(["cat.jpg", "dog.jpg"], "fc7")["fc7"]  # in memory, (2, 4096)
            classifier.features("photos", ["fc7", "conv5"], output="features")  # files of any size, mapped into memory

        The numbers are those of `network.features` and of a forward hook, in float32.

        Args:
            images: as for `predict`. With an output: a data set as for `fit`, or a folder of images without labels;
                what it was trained on if None.
            layers: names of layers; the last hidden one (relu7) if None.
            output: folder to write to: a file per layer, images.csv and features.json. An interrupted call is resumed
                by the same call.
            views: of the center crop, or the mean over the ten views.
            pool: of each feature map keep its mean or its maximum.
            split: with an output, of "train", "val" or "test" alone; of all images if None.
            verbose: whether to print how large it becomes, and show progress.

        Raises:
            ValueError: there is no such layer or split, an image cannot be read, or the output holds something else.
        """
        bundle = self._ready()
        layers = (layers,) if isinstance(layers, str) else tuple(layers or [last_hidden(bundle.network)])
        settings = FeatureSettings(layers, views, pool, dtype)
        if output is not None:
            images = self.images(images, split, verbose)
            extraction = Extraction(bundle, images, settings, Path(output))
            if verbose:
                print_text(extraction.in_words())
            return extraction.run(progress_bar("features") if verbose else None)
        if images is None or split is not None:
            raise ValueError("output must be given for the images of a data set; without it, images are as for predict")
        inputs, parts = bundle.preprocessing, []
        named = iter(each_image(images, is_run))
        while batch := [stored_image(each, inputs.stored_size, inputs.squares) for _, each in islice(named, 50)]:
            parts.append(activations(bundle, torch.from_numpy(np.stack(batch)).to(self.device), settings))
        return {layer: np.concatenate([part[layer].cpu().numpy() for part in parts]) for layer in parts[0]}

    def patches(
        self,
        data: Data | None = None,
        layer: str | None = None,
        units: Sequence[int] | None = None,
        count: int = 9,
        split: str | None = None,
        verbose: bool = True,
        maps: LabelMaps = LabelMaps(),
    ) -> Patches:
        """The patches of images that make each unit of a layer most active, and their deconvolutions.

        Args:
            data: a data set as for `fit`, or a folder of images without labels; what it was trained on if None.
            layer: the last convolution if None.
            units: feature maps, counted from 0; all if None.
            count: patches of each unit, at most one of an image.
            split: "train", "val" or "test"; all images if None.

        Raises:
            ValueError: there is no such layer, unit or split.
        """
        images, track = self.images(data, split, verbose, maps), progress_bar("patches") if verbose else None
        return find_patches(self._ready(), images, layer, units, count, track)

    def explain(
        self,
        images: ImageLike | Iterable[ImageLike],
        by: Method = "gradcam",
        target: str | None = None,
        layer: str | None = None,
        window: int | None = None,
    ) -> list[Explanation]:
        """Which pixels of images speak for a class; needs captum (`pip install 'alexnet[inside]'`).

        Args:
            images: as for `predict`.
            by: "gradcam", "occlusion" or "gradients"; see `analysis.explaining.explain`.
            target: name of the class; the likeliest of each image if None.
            layer: for Grad-CAM; the last ReLU of feature maps, such as relu5, if None.
            window: for occlusion, side of the square that hides pixels; an eighth of the image if None.

        Raises:
            ValueError: there is no such method, class or layer, or an image cannot be read.
            ImportError: captum is missing.
        """
        bundle, inputs = self._ready(), self._ready().preprocessing
        named = (
            (name, stored_image(each, inputs.stored_size, inputs.squares)) for name, each in each_image(images, is_run)
        )
        return [explain(bundle, stored, name, by, target, layer, window) for name, stored in named]

    def search(
        self,
        images: ImageLike | Iterable[ImageLike],
        among: Data | None = None,
        layer: str | None = None,
        metric: Metric = "euclidean",
        k: int = 6,
        split: str | None = None,
        verbose: bool = True,
        maps: LabelMaps = LabelMaps(),
    ) -> list[Neighbors]:
        """The images whose features are nearest to those of each image, exactly (Figure 4, right).

        Args:
            images: as for `predict`.
            among: images to search: a data set as for `fit`, or a folder of images without labels; what it was trained
                on if None. Their features are kept in the cache, and used again.
            layer: the last hidden one, as relu7, if None.
            metric: "euclidean" or "cosine".
            k: images to find; the image itself is not among them.
            split: "train", "val" or "test"; all images if None.

        Raises:
            ValueError: there is no such layer, metric or split, or an image cannot be read.
        """
        searched, inputs = self.images(among, split, verbose, maps), self._ready().preprocessing
        layer = layer or last_hidden(self._ready().network)
        features = self._index(searched, layer, verbose)
        names, stored = [], []
        for name, image in each_image(images, is_run):
            names.append(name)
            stored.append(stored_image(image, inputs.stored_size, inputs.squares))
        queries = self.features(stored, layer)[layer]
        return search(queries, np.stack(stored), names, features, searched, k, metric)

    def shift(
        self,
        data: Data | None = None,
        images: int = 100,
        split: str | None = None,
        verbose: bool = True,
        maps: LabelMaps = LabelMaps(),
    ) -> Shift:
        """What happens while images move, grow and turn, and how often two random crops get the same class.

        Args:
            data, split: as for `evaluate`.
            images: images of which the curves are means; the consistency is measured on all of the split.

        Raises:
            ValueError: as for `evaluate`, or images is below 1.
        """
        bundle, run, track = self._ready(), self.run and Run(self.run), progress_bar if verbose else None
        packed, indices = session.images_to_evaluate(bundle, data, split, maps, run, self._fitted, track)
        return measure_shift(bundle, packed, indices, images, track and track("shift"))

    def compare_retrieval(
        self, among: Data | None = None, split: str | None = None, queries: int = 500, maps: LabelMaps = LabelMaps()
    ) -> tuple[list[dict[str, str]], int]:
        """Precision at 10 of the hidden layers by either distance, beside raw pixels and chance, and queries asked.

        Args:
            among, split: as for `search`, with labels.
            queries: how many images are searched for among all others, evenly spread.
        """
        searched, network = self.images(among, split, maps=maps), self._ready().network
        labels = searched.packed.labels[searched.indices]
        rows = np.unique(np.linspace(0, len(labels) - 1, min(queries, len(labels))).astype(int))
        hidden = [step.name for step in network.placed if isinstance(step.operation, Activation)][-2:]
        by_name = {layer: self._index(searched, layer, True) for layer in reversed(hidden)}
        by_name["pixels"] = searched.packed.images[searched.indices].reshape(len(labels), -1)
        table = [
            {"": name} | {metric: f"{precision(each, labels, rows, 10, metric):.1%}" for metric in get_args(Metric)}
            for name, each in by_name.items()
        ]
        return [*table, {"": "chance", **dict.fromkeys(get_args(Metric), f"{chance(labels, rows):.1%}")}], len(rows)

    def _index(self, images: Images, layer: str, verbose: bool) -> np.ndarray:
        """Features of images from the cache, where they are put if they are missing."""
        bundle, settings = self._ready(), FeatureSettings((layer,))
        (folder := cache_folder() / "features").mkdir(parents=True, exist_ok=True)
        extraction = Extraction.kept(bundle, images, settings, folder)
        return extraction.run(progress_bar(f"features of {layer}") if verbose else None)[layer]

    def images(
        self, data: Data | None, split: str | None = None, verbose: bool = True, maps: LabelMaps = LabelMaps()
    ) -> Images:
        """The images of a data set, with or without labels."""
        run, track = self.run and Run(self.run), progress_bar if verbose else None
        return session.open_images(self._ready(), data, split, maps, run, self._fitted, track)

    @overload
    def predict_n(self, image: ImageLike, n: int = 5, all_views: bool = True) -> list[tuple[str, float]]: ...

    @overload
    def predict_n(
        self, image: Iterable[ImageLike], n: int = 5, all_views: bool = True
    ) -> list[list[tuple[str, float]]]: ...

    def predict_n(self, image, n=5, all_views=True):
        """The n most likely classes with their probabilities, most likely first; for many images, a list of these.

        Args:
            image: as for `predict`.

        Raises:
            ValueError: n is below 1, or an image cannot be read.
        """
        many = holds_many(image)
        best = [prediction.top(n) for prediction in self.predict_each(image, all_views)]
        return best if many else best[0]

    def predict_each(
        self, images: ImageLike | Iterable[ImageLike], all_views: bool = True, batch_size: int | None = None
    ) -> Generator[Prediction, None, None]:
        """A `Prediction` for each image, in order, also for those that cannot be read, which have an `error`.

            for prediction in classifier.predict_each("photos"):
                print(prediction)

        Images are decoded ahead, by as many threads as there are processors, and predicted in batches.

        Args:
            images: as for `predict`; an iterable is read as predictions are taken, one batch ahead.
            batch_size: images predicted at a time (default: 50, or 200 with the center crop alone); small for a camera.
        """
        named = each_image(images, is_run)
        return predict_each(self._ready(), named, all_views, self.precision, batch_size)

    def save(self, folder: str | Path) -> Path:
        """Write network, preprocessing and class names into a folder; `alexnet.load` reads it.

        An earlier saved classifier in the folder is replaced; other files beside it stay. Which images it was trained
        on is not saved; the folder of a run knows.

        Raises:
            ValueError: the folder is that of a run, which has weights of its own, or holds something else; or the
                network was altered, so that its architecture does not describe it.
        """
        folder, bundle = Path(folder), self._ready()
        if Run(folder).record():
            raise ValueError(f"{folder} is the folder of a run; save to another one")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"folder must be a new or an empty folder, got the file {folder}")
        if names := sorted(path.name for path in folder.glob("*")):
            try:
                ModelBundle.load(folder / MODEL_FILE)
            except ValueError as error:
                must_be = "folder must be new, empty, or hold a saved classifier to replace"
                raise ValueError(f"{must_be}, but {folder} holds {listed(names, 1)}") from error
        bundle.check_unaltered()
        folder.mkdir(parents=True, exist_ok=True)
        bundle.save(folder / MODEL_FILE)
        return folder

    @classmethod
    @renamed(connected="fc_precision")
    def load(
        cls, path: str | Path, device: str = "auto", precision: str = "auto", fc_precision: FcPrecision = "same"
    ) -> Classifier:
        """A classifier from weights: a run, a saved folder, a file, or public ones, which are downloaded once.

        "torchvision", "caffe" and "caffenet" are the public weights of these networks; an https URL and
        hf://OWNER/REPO[/FILE] are downloaded, too. Files of other frameworks are read if they leave no doubt;
        `import_weights` reports more, and takes more.

        Args:
            fc_precision: precision of the fully connected layers, which hold most of the weights: the "same" as the
                others, "bf16", or "int8" (quantized, with a scale for each output). Smaller is faster for few images;
                `alexnet evaluate RUN --fc-precision int8` measures what it changes.

        Raises:
            ValueError: there is nothing to load, or `fc_precision` is another word.
        """
        classifier = cls(device=device, precision=precision)
        bundle, file = session.load(path, progress_bar("downloading"))
        bundle = replace(bundle.to(classifier.device), fc_precision=fc_precision)
        classifier._bundle = bundle.set_private(True)
        classifier._architecture = bundle.network.architecture
        classifier.run = file.parent
        return classifier

    def _save_pretrained(self, save_directory: Path) -> None:
        huggingface.write(self._ready(), save_directory)

    @classmethod
    @renamed(connected="fc_precision")
    def _from_pretrained(
        cls, *, model_id: str, device: str = "auto", precision: str = "auto", fc_precision: FcPrecision = "same", **how
    ) -> Classifier:
        return cls.load(huggingface.local_folder(model_id, **how), device, precision, fc_precision)

    def _ready(self) -> ModelBundle:
        if self._bundle is None:
            raise ValueError("this classifier is not trained yet; call fit, or load one with alexnet.load(folder)")
        return self._bundle


@renamed(connected="fc_precision")
def load(
    path: str | Path, device: str = "auto", precision: str = "auto", fc_precision: FcPrecision = "same"
) -> Classifier:
    """The classifier of a run, a saved folder, a file, "torchvision", a URL …; see `Classifier.load`."""
    return Classifier.load(path, device, precision, fc_precision)


def evaluate_together(
    networks: Sequence[Classifier | str | Path],
    data: Data | None = None,
    split: str | None = None,
    weights: Literal["equal", "search"] = "equal",
    verbose: bool = True,
    csv: str | Path | None = None,
    keep_probabilities: bool | None = None,
) -> EnsembleEvaluation:
    """Errors of several networks, alone and as an ensemble: the mean of their probabilities over ten views.

    Every network has its own preprocessing and image size; images and classes are matched by name.

    Args:
        networks: classifiers, or what `load` takes.
        data, split: as for `Classifier.evaluate`, the same for all.
        weights: "equal", or the coordinate search of 2012 on val, whose images are then not evaluated on.
        csv, keep_probabilities: as for `Classifier.evaluate`; the file has the averages.

    Raises:
        ValueError: networks, data and split do not fit together; the message says which.
    """
    if not networks:
        raise ValueError("networks must have at least one, got none")
    if weights not in ("equal", "search"):
        raise ValueError(f"weights must be 'equal' or 'search', got {weights!r}")
    data = data if data is None else hold(data)
    classifiers = [each if isinstance(each, Classifier) else load(each) for each in networks]

    def members(split: str | None) -> list[Inference]:
        images = (each._images(data, split, LabelMaps(), verbose) for each in classifiers)
        ready = ((each._ready(), each.precision) for each in classifiers)
        return [Inference(bundle, *of, precision=how) for (bundle, how), of in zip(ready, images, strict=True)]

    how = {"progress": progress_bar("evaluating") if verbose else None, "group": Group.current()}
    how |= {"csv": csv and Path(csv), "keep_probabilities": keep_probabilities}
    return evaluate_average(members(split), members("val") if weights == "search" else None, **how)


def compare(
    networks: Sequence[Classifier | str | Path],
    data: Data | None = None,
    layers: Sequence[str] | None = None,
    images: int = 300,
    split: str | None = None,
    verbose: bool = True,
) -> Comparison:
    """Compare networks layer by layer: debiased CKA and RSA, with intervals, and the untrained network as the baseline.

    Runs of the same network and recipe are a group: its seeds.

    Args:
        networks: two or more classifiers, or what `load` takes.
        data: a data set as for `fit`, or a folder of images without labels; what the first was trained on if None.
        layers: layers that all networks have; all activation functions and the scores if None.
        images: images on which they are compared, evenly spread.
        split: "train", "val" or "test"; all images if None.

    Raises:
        ValueError: there are fewer than two networks or eight images, or they have no such layer in common.
    """
    classifiers = [each if isinstance(each, Classifier) else load(each) for each in networks]
    if data is None and classifiers and classifiers[0].run:
        data = Run(classifiers[0].run).record().get("data")
    data = data if data is None else hold(data)
    members = []
    for index, each in enumerate(classifiers):
        opened, record = each.images(data, split, verbose), Run(each.run).record() if each.run else {}
        rows = np.unique(np.linspace(0, len(opened) - 1, min(images, len(opened))).astype(int))
        recipe = record.get("recipe", {}).get("name")
        variant = each.network.architecture.name
        group = variant if recipe in (None, variant) else f"{variant} {recipe}"
        name = each.run.name if each.run else f"network {index + 1}"
        members.append(Member(name, group, each.bundle, replace(opened, indices=opened.indices[rows])))
    return compare_members(members, layers, progress_bar("comparing") if verbose else None)


def find_lr(
    data: Data,
    settings: TrainSettings | None = None,
    *,
    steps: int = 100,
    verbose: bool = True,
    **overrides: Unpack[Overrides],
) -> RangeTest:
    """A learning-rate range test: train while the learning rate grows, from 1/1000 to 100 times that of the recipe.

        test = alexnet.find_lr("photos", variant="small")
        test.suggestion  # a tenth of the learning rate at which the smoothed loss is lowest
        test.plot("find-lr.png")

    Nothing is kept of the training. The test ends early when the smoothed loss is four times as high as at best.

    Args:
        data, settings, overrides: as for `Classifier.fit`.
        steps: how many to take.

    Raises:
        ValueError: a setting or the data set does not fit, or steps is below 10.
    """
    set_threads()
    notify = print_text if verbose else lambda text: None
    settings = settings_with(settings, overrides)
    return session.find_lr(data, settings, steps, notify, progress_bar if verbose else None)
