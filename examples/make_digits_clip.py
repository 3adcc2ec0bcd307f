"""Train `digits-clip`, the tiny CLIP checkpoint that ships inside the package for demos and tests.

    python examples/make_digits_clip.py [--out FOLDER]

Data: the 1797 handwritten digits of scikit-learn (8x8, values 0..16). Image i is held out when i % 4 == 3: 1348 images
train, 449 test. A pixel is round(value * 255 / 16) as uint8, repeated to RGB: (3, 8, 8).

There are eleven concepts: ten digits, and no digit (a spoiled image; a caption of "noise" or of an unknown word). An
image spoiled by a fraction w belongs to its digit with weight 1 - w and to the eleventh concept with weight w, so that
cosines and features change steadily with image quality instead of jumping at a decision border.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

FOLDER = Path(__file__).resolve().parents[1] / "lightning_imgmetrics" / "models" / "digits_clip"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONCEPTS = [*((word, str(digit)) for digit, word in enumerate(WORDS)), ("noise", "<unk>")]
TEMPLATES = [
    "{}",
    "a {}",
    "the {}",
    "digit {}",
    "number {}",
    "the digit {}",
    "the number {}",
    "a handwritten {}",
    "handwritten {}",
    "the handwritten digit {}",
    "a handwritten number {}",
    "an image of a {}",
    "a photo of a {}",
    "a photo of the digit {}",
    "a photo of the number {}.",
    "a drawing of the number {}",
    "a picture of a {}, by hand",
    "the digit {}, written by hand",
    "a small grey scan of the number {} written by hand on a form",
]
SPECIAL = ["<pad>", "<unk>", "<bos>", "<eos>"]  # <eos> must not be 2: CLIPModel takes that id for an old bug
LENGTH = 16  # the longest template fills it, so that every position is trained
STEPS, BATCH = 2000, 128


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Images uint8 (1797, 3, 8, 8), labels (1797,), and which of them are held out (1797,)."""
    data = load_digits()
    grey = torch.from_numpy(data.images * 255 / 16).round().to(torch.uint8)
    return grey[:, None].repeat(1, 3, 1, 1), torch.from_numpy(data.target), torch.arange(len(grey)) % 4 == 3


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per lower-case word or punctuation mark of the templates; any other word is <unk>."""
    split = pre_tokenizers.Whitespace()
    words = {word for template in TEMPLATES for word, _ in split.pre_tokenize_str(template.replace("{}", ""))}
    words |= {name for names in CONCEPTS for name in names}
    vocab = {word: i for i, word in enumerate([*SPECIAL, *sorted(words - {*SPECIAL})])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), split
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(token, vocab[token]) for token in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=LENGTH,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=32,
        **ids,
    )
    vision = dict(
        image_size=8,
        patch_size=2,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=32,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def augment(images: Tensor) -> Tensor:
    """Move, turn, scale, brighten and roughen a little: (n, 3, 8, 8) in [0, 1] -> the same."""
    n = len(images)
    angle, size = 0.15 * torch.randn(n), 1 + 0.08 * torch.randn(n)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(n, 2, 2) * size[:, None, None]
    grid = F.affine_grid(torch.cat([turn, 0.1 * torch.randn(n, 2, 1)], -1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)  # interpolation also blurs slightly
    moved = torch.where(torch.rand(n, 1, 1, 1) < 0.7, moved, images)
    moved = moved * (1 + 0.1 * torch.randn(n, 1, 1, 1)) + 0.04 * torch.rand(n, 1, 1, 1) * torch.randn_like(images)
    return moved.clamp(0, 1)


def spoil(images: Tensor) -> Tensor:
    """What no digit looks like, one random kind for each image: (n, 3, 8, 8) -> the same."""
    n = len(images)
    noise = torch.rand_like(images)
    noise[::2] = noise[::2, :1]  # every other one is grey
    blobs = F.interpolate(noise[..., :3, :3], size=(8, 8), mode="bicubic").clamp(0, 1)
    blank = noise[..., :1, :1].expand_as(noise)
    blurred = F.interpolate(F.avg_pool2d(images, 4), size=(8, 8), mode="bilinear")
    tiles = F.unfold(images, 2, stride=2)[..., torch.randperm(16)]
    kinds = torch.stack([noise, blobs, blank, blurred, F.fold(tiles, (8, 8), 2, stride=2)])
    return kinds[torch.randint(len(kinds), (n,)), torch.arange(n)]


def train(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, images: Tensor, labels: Tensor, normalize) -> None:
    """Contrastive training; captions of one concept share their target, so no pair of one digit is a negative."""
    texts = [template.format(name) for names in CONCEPTS for name in names for template in TEMPLATES]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    names = torch.tensor(tokenizer.convert_tokens_to_ids([*SPECIAL, *sum(CONCEPTS, ())]))
    per_concept = len(texts) // len(CONCEPTS)
    caption_concept = torch.arange(len(CONCEPTS)).repeat_interleave(3)  # three captions of each concept per step
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        picked = torch.randint(len(images), (BATCH,))
        amount = torch.empty(BATCH, 1).uniform_(-1, 1.5).clamp(0, 1)  # 40 % clean, 40 % blended, 20 % lost
        batch = torch.lerp(augment(images[picked]), spoil(images[picked]), amount[..., None, None])
        weight = torch.cat([F.one_hot(labels[picked], 10) * (1 - amount), amount], 1)[:, caption_concept]

        rows = caption_concept * per_concept + torch.randint(per_concept, caption_concept.shape)
        ids = tokens.input_ids[rows]
        forget = (torch.rand(ids.shape) < 0.1) & ~torch.isin(ids, names)  # users will use words we do not know
        ids = ids.masked_fill(forget, tokenizer.unk_token_id)

        logits = model(ids, normalize(batch), tokens.attention_mask[rows]).logits_per_image
        loss = F.cross_entropy(logits, F.normalize(weight, p=1, dim=1)) + F.cross_entropy(
            logits.T, F.normalize(weight.T, p=1, dim=1)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def report(model: CLIPModel, tokenizer, processor: CLIPImageProcessor) -> str:
    """The figures of a loaded checkpoint on the held-out digits and on uniform noise."""
    images, labels, held_out = digits()
    noise = torch.randint(256, (len(images[held_out]), 3, 8, 8), dtype=torch.uint8)

    def features(batch: Tensor) -> Tensor:  # (n, 3, 8, 8) -> (n, 32)
        pixels = processor(list(batch), return_tensors="pt").pixel_values
        return model.visual_projection(model.vision_model(pixels).pooler_output)

    tokens = tokenizer([f"a handwritten {word}" for word in WORDS], padding=True, return_tensors="pt")
    captions = F.normalize(model.text_projection(model.text_model(**tokens).pooler_output), dim=1)
    test, garbage = features(images[held_out]), features(noise)
    scores, noise_scores = (100 * F.normalize(x, dim=1) @ captions.T for x in (test, garbage))
    own = F.one_hot(labels[held_out], 10).bool()
    some = torch.randperm(len(images[~held_out]))[:500]  # neighbours share a writer: draw from all of them
    near = frechet_distance(features(images[~held_out][some]), test)
    far = frechet_distance(garbage, test)
    return "\n".join(
        [
            f"held-out zero-shot accuracy: {(scores.argmax(1) == labels[held_out]).double().mean():.2%} of {len(test)}",
            f"mean 100 cos: own caption {scores[own].mean():.1f}, wrong caption {scores[~own].mean():.1f}, "
            f"noise with any digit {noise_scores.mean():.1f}",
            f"Frechet distance to held-out: 500 training digits {near:.4g}, noise {far:.4g}, ratio {far / near:.0f}",
        ]
    )


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of the Gaussians fitted to (n, d) and (m, d)."""
    x, y = x.double(), y.double()
    overlap = torch.linalg.svdvals((x - x.mean(0)) @ (y - y.mean(0)).T).sum() / ((len(x) - 1) * (len(y) - 1)) ** 0.5
    return (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * overlap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="checkpoint folder (default: %(default)s)")
    out = parser.parse_args().out

    torch.set_num_threads(1)  # one thread and one seed: the same bytes every time
    torch.manual_seed(0)
    images, labels, held_out = digits()
    images, labels = images[~held_out] / 255, labels[~held_out]
    mean, std = images.mean().item(), images.std().item()
    processor = CLIPImageProcessor(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, image_mean=[mean] * 3, image_std=[std] * 3
    )
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    processor.save_pretrained(out)
    tokenizer.save_pretrained(out)  # before use: the padding of a call sticks to it
    train(model, tokenizer, images, labels, lambda x: (x - mean) / std)
    model.eval().save_pretrained(out)
    print(report(model, tokenizer, processor))


if __name__ == "__main__":
    main()
