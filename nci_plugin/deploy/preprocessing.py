"""The preprocessing that belongs to a network: stated, or found in its weights' entry, in timm's or in a transform."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, default_collate
from torchvision import transforms
from torchvision.datasets import DatasetFolder
from torchvision.models import WeightsEnum
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from nci_plugin.benchmarks.decoding import Preprocessing, read_image
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.benchmarks.samples import Collated, image_and_label
from nci_plugin.checks import PluginError

STATE = "pass preprocessing=Preprocessing(pre_size, img_size, normalization), the one of the network's test"

FORMS = (v2.ToImage, v2.ToPureTensor)
"""Steps of torchvision's second version that change no pixel."""

TIMMS_SHARE, TIMMS_INTERPOLATION = 0.875, "bicubic"
"""What timm crops, and how it resizes, where a configuration does not say it."""

SAME_PIXELS = 0.02
"""Mean difference of normalised pixels that two libraries' resizing explains."""


def stated(given: Any) -> Preprocessing | None:
    """What a user passes as preprocessing: one of ours, torchvision's weights or their transforms; None stays None.

    Raises PluginError on anything else, and on transforms that are more than a resize, a crop and a normalisation.
    """
    if given is None:
        return None
    if isinstance(given, WeightsEnum):
        given = given.transforms()
    found = of_transform(given)
    if found is None:
        raise PluginError(
            "preprocessing: must be Preprocessing(...), an entry of torchvision's weights, or transforms that resize,"
            f" crop, scale to 0..1 and normalise, in this order, got {type(given).__name__}; {STATE}"
        )
    found.check("preprocessing")
    found.warn_of_edges("preprocessing")
    return found


def agreed(
    given: Any, network: nn.Module, *sources: Any, warn: Callable[[str], object] = warnings.warn
) -> Preprocessing | None:
    """The preprocessing that a user states, else that of image lists, of data sets' transforms, of timm's networks.

    None where nobody says it, and, with a text for ``warn``, where a data set's images are not what its transform
    makes; what timm says counts only where images come as files, since nothing says that ready tensors were made so.
    Raises PluginError where two of them differ, and where a data set gives other pixels than what was stated does.
    """
    mine, by_lists = stated(given), {source.preprocessing for source in sources if isinstance(source, ImageList)}
    carried = {each for source in sources if (each := of_transform(_transform(source))) is not None}
    if len(carried) > 1:
        raise PluginError(
            f"preprocessing: the data sets' transforms differ ({', '.join(sorted(map(repr, carried)))}); give all of"
            " them the network's test preprocessing"
        )
    if mine is None and len(by_lists) == 1:
        mine = next(iter(by_lists))
    if mine is not None and carried - {mine}:
        raise PluginError(
            f"preprocessing: {mine!r} was stated, and a data set's own transform is {next(iter(carried))!r}; pass the"
            " same"
        )
    if any(each != mine for each in by_lists):
        raise PluginError("preprocessing: the image lists have other ones than was stated; give all the same")
    if mine is None and carried:
        return _shown_by_pixels(carried.pop(), [each for each in sources if _transform(each) is not None], warn)
    if mine is None:
        return of_timm(network) if any(map(_as_files, sources)) else None
    for source in sources:
        if other := _other_pixels(mine, source):
            raise PluginError(
                f"preprocessing: {mine!r} was stated, and a data set's own transform makes other pixels of {other};"
                " pass the same, or the folder"
            )
    return mine


def check_size(steps: Preprocessing | None, image_shape: Sequence[int]) -> None:
    """Raise PluginError where a preprocessing makes images of another size than those of ``image_shape`` (3, H, W)."""
    if steps is not None and steps.img_size is not None and set(image_shape[1:]) != {steps.img_size}:
        raise PluginError(
            f"preprocessing: img_size must be that of the images, {tuple(image_shape)}, got {steps.img_size}; state the"
            " one that made them, or none where only tensors come"
        )


def _shown_by_pixels(
    found: Preprocessing, sources: Sequence[Any], warn: Callable[[str], object]
) -> Preprocessing | None:
    """What the data sets' transforms are, if their images are made so: else None, and ``warn`` is told why.

    A data set may do more than its transform says: in a ``loader``, a ``collate_fn``, its own ``__getitem__``.
    """
    for source in sources:
        try:
            other = _other_pixels(found, source)
        except PluginError:  # a file that the data set may read otherwise
            other = None
        if other != "":
            reason = f"it makes other pixels of {other}" if other else "what it is applied to cannot be seen"
            warn(
                f"preprocessing: a data set's transform is {found!r}, but {reason}, so it is not taken as the"
                " network's: image files cannot be scored; this data set and tensors can"
            )
            return None
    return found


def _other_pixels(steps: Preprocessing, source: Any) -> str | None:
    """The image of which a data set makes something else than ``steps`` do: "" for none, None where it is not seen.

    Looked at are the first, the middle and the last.
    """
    try:
        samples: Any = source.dataset if isinstance(source, DataLoader) else source
        rows = len(samples)
    except Exception:  # of the user's code, or of what is no data set: said where it is opened
        return None
    for place in sorted({0, rows // 2, rows - 1}):
        origin, image = _origin(source, place), _image(source, place)
        if not isinstance(image, Tensor) or not isinstance(origin, (str, os.PathLike, Image.Image)):
            return None
        if isinstance(origin, Image.Image):
            expected, where = steps(origin), f"image {place}"
        else:
            expected, where = read_image(Path(origin), steps, "replace the file"), f"'{origin}'"
        if image.shape != expected.shape or not float((image - expected).abs().mean()) <= SAME_PIXELS:
            return where
    return ""


def _as_files(source: Any) -> bool:
    """Whether images come as files or PIL images, which the preprocessing will be applied to."""
    return isinstance(source, (str, Path, ImageList)) or isinstance(_image(source, 0), (str, os.PathLike, Image.Image))


def _image(source: Any, place: int) -> Any:
    """An image as a data set or its loader gives it; None where there is none."""
    try:
        if isinstance(source, DataLoader) and source.collate_fn is not default_collate:
            source = Collated(source.dataset, source.collate_fn)
        return image_and_label((source.dataset if isinstance(source, DataLoader) else source)[place])[0]
    except Exception:  # of the user's code, or of what is no data set: said where it is opened
        return None


def _origin(source: Any, place: int) -> Any:
    """What a data set's transform is applied to: the path of a file, else a PIL image; None where it is not seen."""
    try:
        while isinstance(source, (DataLoader, Subset)):
            place = source.indices[place] if isinstance(source, Subset) else place
            source = source.dataset
        if isinstance(source, DatasetFolder):
            return source.samples[place][0]
        bare = copy.copy(source)
        bare.transform = None
        return image_and_label(bare[place])[0]
    except Exception:  # of the user's code
        return None


def of_transform(transform: Any) -> Preprocessing | None:
    """torchvision's transforms as `Preprocessing`, which stays what it is; None where they are anything else."""
    if isinstance(transform, Preprocessing):
        return transform
    if isinstance(transform, ImageClassification):
        return _made(
            transform.resize_size[0],
            transform.crop_size[0],
            transform.mean,
            transform.std,
            transform.interpolation.value,
        )
    if not isinstance(transform, (transforms.Compose, v2.Compose)):
        return None
    steps = [step for step in transform.transforms if type(step) not in FORMS]
    as_tensor = len(steps) < len(transform.transforms)
    pre_size = img_size = None
    interpolation = "bilinear"
    if steps and type(steps[0]) in (transforms.Resize, v2.Resize):
        sizes = [steps[0].size] if isinstance(steps[0].size, int) else list(steps[0].size or ())
        aliased = type(transform.transforms[0]) in FORMS and steps[0].antialias is not True  # a PIL image never is
        if len(sizes) != 1 or steps[0].max_size is not None or aliased:
            return None
        pre_size, interpolation = sizes[0], transforms.InterpolationMode(steps[0].interpolation).value
        steps.pop(0)
    if steps and type(steps[0]) in (transforms.CenterCrop, v2.CenterCrop) and len({*steps[0].size}) == 1:
        img_size = steps.pop(0).size[0]
    if (
        len(steps) != 2
        or type(steps[1]) not in (transforms.Normalize, v2.Normalize)
        or not _scales(steps[0], as_tensor)
    ):
        return None
    return _made(pre_size, img_size, steps[1].mean, steps[1].std, interpolation)


def _scales(step: Any, as_tensor: bool) -> bool:
    """Whether a step gives floats of 0..1; ``ToDtype`` does so to what is a tensor already."""
    if type(step) is v2.ToDtype:
        return as_tensor and step.scale and step.dtype is torch.float32
    return type(step) in (transforms.ToTensor, v2.ToTensor)


def of_timm(network: nn.Module) -> Preprocessing | None:
    """The test preprocessing in the configuration that timm's networks carry; None where it has no known form."""
    for module in network.modules():
        configuration = getattr(module, "pretrained_cfg", None)
        if not isinstance(configuration, Mapping) or not {"input_size", "mean", "std"} <= set(configuration):
            continue
        channels, height, width = configuration["input_size"]
        if (channels, height) != (3, width) or configuration.get("crop_mode", "center") not in ("", "center"):
            return None
        pre_size = math.floor(height / (configuration.get("crop_pct") or TIMMS_SHARE))
        mode = configuration.get("interpolation") or TIMMS_INTERPOLATION
        return _made(pre_size, height, configuration["mean"], configuration["std"], mode)
    return None


def _made(pre_size: Any, img_size: Any, mean: Any, std: Any, interpolation: str) -> Preprocessing | None:
    try:
        normalization = tuple(map(float, mean)), tuple(map(float, std))
        made = Preprocessing(pre_size, img_size, normalization, interpolation)
        made.check("preprocessing")
    except (PluginError, TypeError, ValueError):  # of one channel, say
        return None
    return made


def _transform(source: Any) -> Any:
    while isinstance(source, (DataLoader, Subset)):
        source = source.dataset
    return getattr(source, "transform", None)
