"""Where generated images come from: any callable, with randomness keyed by the sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from lightning_imgmetrics._images import Images, ImageSets
from lightning_imgmetrics.errors import SamplerError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch.utils.data import Dataset


class PairedImages(NamedTuple):
    """What a sampler returns for paired metrics (PSNR, SSIM, LPIPS, rFID): images and what each should have become.

    Args:
        images: (n, 3, h, w), uint8 or float in the callback's `value_range`, or a list of images of mixed sizes.
        target: n images in the same form.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import PairedImages
        >>> images = torch.rand(4, 3, 8, 8)
        >>> PairedImages(images * 0.9, target=images).target.shape
        torch.Size([4, 3, 8, 8])
    """

    images: Images
    target: Images


class EditedImages(NamedTuple):
    """What a sampler returns for judges of edits: images and what each was made from.

    Args:
        images: (n, 3, h, w), uint8 or float in the callback's `value_range`, or a list of images of mixed sizes.
        source: for each of the n, one image or a list of them.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import EditedImages
        >>> photos = torch.rand(4, 3, 8, 8)
        >>> EditedImages(1 - photos, source=photos).images.shape
        torch.Size([4, 3, 8, 8])
    """

    images: Images
    source: ImageSets


class ImageSampler(Protocol):
    """The interface of `sampler`, and of the method `sample` of a module: images for the samples `ids`.

    A callable names those arguments that it needs and may leave out the others.

    Args:
        module: the module that is trained, in eval mode and with the weights that are evaluated.
        ids: the n sample ids of this batch.
        prompts: n strings, or None where the callback has no prompts.
        generators: n CPU generators, seeded by (seed, id) alone: with noise from them (see `noise`) the samples are the
            same at any batch size and number of ranks.

    Returns:
        n images, (n, 3, h, w), uint8 or float in the callback's `value_range`, or a list of tensors and PIL images of
        mixed sizes; or `PairedImages` or `EditedImages`.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import noise
        >>> def sampler(generators):
        ...     return noise(generators, (3, 8, 8)).sigmoid()
        >>> sampler([torch.Generator().manual_seed(i) for i in range(4)]).shape
        torch.Size([4, 3, 8, 8])
    """

    def __call__(
        self,
        module: LightningModule,
        ids: list[int],
        prompts: list[str] | None,
        generators: list[torch.Generator],
    ) -> Images | PairedImages | EditedImages: ...


class PairedSampler:
    """A sampler for reconstruction, super-resolution and editing: `module.<method>(inputs)` over known targets.

    Sample id i is item i of the dataset, so `num_samples` is at most its length.

    Args:
        dataset: items are an input or `(input,)`, which is then its own target, or `(input, target)`; inputs have one
            size, and so have targets.
        method: the method of the module that is called with a batch of inputs.

    Raises:
        SamplerError: when it is called for an id that the dataset does not have.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import PairedSampler
        >>> class Identity(torch.nn.Identity):
        ...     device = torch.device("cpu")  # as a LightningModule has one
        >>> sampler = PairedSampler(list(torch.rand(10, 3, 8, 8)))
        >>> images, target = sampler(Identity(), ids=[2, 5])
        >>> torch.equal(images, target)
        True
    """

    def __init__(self, dataset: Dataset, method: str = "forward"):
        self.dataset = dataset
        self.method = method

    def __call__(self, module: LightningModule, ids: list[int]) -> PairedImages:
        size = len(self.dataset)  # type: ignore[arg-type]
        if max(ids) >= size:
            raise SamplerError(
                f"`num_samples` must be at most the {size} items of the paired dataset, got id {max(ids)}"
            )
        items = [self.dataset[i] for i in ids]
        pairs = [item if isinstance(item, tuple | list) else (item,) for item in items]
        inputs, targets = (torch.stack([pair[k] for pair in pairs]).to(module.device) for k in (0, -1))
        return PairedImages(getattr(module, self.method)(inputs), targets)
