"""Speed of paired and prompt metrics against the packages they replace, as ratios within one run on one machine.

    python benchmarks/scorers.py               # all of it, about 3 minutes on 2 cores
    python benchmarks/scorers.py ssim          # some of it
    python benchmarks/scorers.py --small       # to see that it runs

Prints a Markdown table: what was measured, ours, theirs, the ratio, and the ratio aimed at. Networks have random
weights in the geometry of the published ones, the same on both sides. `benchmarks/core.py perceptual` measures LPIPS.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import SMALL, Row, Sizes, note, row, show, smooth_images, timed

import lightning_imgmetrics
from lightning_imgmetrics import (
    CLIPScore,
    MetricSuite,
    MultiScaleStructuralSimilarityIndexMeasure,
    PeakSignalNoiseRatio,
    PickScore,
    StructuralSimilarityIndexMeasure,
)

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def ssim(sizes: Sizes) -> Iterator[Row]:
    """PSNR, SSIM and MS-SSIM of pairs of float images."""
    from torchmetrics import image as theirs

    a, b = (smooth_images(16, sizes.pixels, seed).float() / 255 for seed in (0, 1))
    kinds: list[tuple[str, Any, Any, str]] = [
        ("PSNR", PeakSignalNoiseRatio, theirs.PeakSignalNoiseRatio, ""),
        ("SSIM", StructuralSimilarityIndexMeasure, theirs.StructuralSimilarityIndexMeasure, "1.5x"),
    ]
    if sizes.pixels >= 176:
        multiscale = MultiScaleStructuralSimilarityIndexMeasure, theirs.MultiScaleStructuralSimilarityIndexMeasure
        kinds.append(("MS-SSIM", *multiscale, ""))
    for name, our, their, aim in kinds:
        one, other = our(data_range=1.0), their(data_range=1.0)
        seconds = timed(lambda one=one: one.update(a, b), lambda other=other: other.update(a, b))
        yield row(f"{name}, 16 pairs of {sizes.pixels} px, vs torchmetrics", *seconds, aim)
        difference = abs(float(one.compute()) - float(other.compute()))
        yield note("- difference of the values", f"{difference:.1e}")


def clip(sizes: Sizes) -> Iterator[Row]:
    """CLIPScore with a ViT-B/32, images and prompts; and what a second metric on the same network costs."""
    from torchmetrics.multimodal.clip_score import CLIPScore as Theirs
    from transformers import CLIPProcessor

    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer, images = _checkpoint(folder, sizes)
        a = smooth_images(sizes.batch, sizes.pixels, 0)
        prompts = [f"a handwritten {_WORDS[i % 10]}" for i in range(len(a))]
        ours, theirs = CLIPScore(folder), Theirs(lambda: (model, CLIPProcessor(images, tokenizer)))
        seconds = timed(lambda: ours.update(a, prompts), lambda: theirs.update(list(a), prompts))
        yield row(f"CLIPScore (ViT-B/32), {len(a)} images of {sizes.pixels} px, vs torchmetrics", *seconds)
        difference = abs(float(ours.compute()) - float(theirs.compute()))
        yield note("- difference of the values", f"{difference:.1e}")
        alone = MetricSuite({"clip_score": CLIPScore(folder)})
        both = MetricSuite({"clip_score": CLIPScore(folder), "pickscore": PickScore(folder)})
        one_s, two_s = timed(lambda: alone.update(a, prompts=prompts), lambda: both.update(a, prompts=prompts))
        yield note("- a second metric on this network adds", f"{100 * (two_s / one_s - 1):.0f} %")


def _checkpoint(folder: str, sizes: Sizes) -> tuple[Any, Any, Any]:
    """A CLIP of ViT-B/32's geometry (smaller where `sizes` are) with the tokenizer of digits-clip, in `folder`."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

    class Projected(CLIPModel):
        """Returns embeddings, as transformers did before version 5, and as torchmetrics takes them."""

        def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_image_features(*args, **kwargs).pooler_output

        def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_text_features(*args, **kwargs).pooler_output

    depth = 12 if sizes is not SMALL else 2
    tokenizer = AutoTokenizer.from_pretrained(str(Path(lightning_imgmetrics.__file__).parent / "models/digits_clip"))
    text = dict(vocab_size=len(tokenizer), num_hidden_layers=depth, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    config = CLIPConfig(text_config=text, vision_config=dict(num_hidden_layers=depth))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Projected(config)
    images = CLIPImageProcessor()
    for part in (model, tokenizer, images):
        part.save_pretrained(folder)
    return model.eval(), tokenizer, images


SECTIONS = {"ssim": ssim, "clip": clip}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--small", action="store_true", help="small sizes")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sizes = SMALL if args.small else Sizes()
    show(cells for name in args.sections or SECTIONS for cells in SECTIONS[name](sizes))


if __name__ == "__main__":
    main()
