"""UnifiedReward 2.0, which rates generated images, and UnifiedReward-Edit, which rates edits (Wang et al. 2025)."""

from __future__ import annotations

from lightning_imgmetrics.models.prompt_templates.templates import TemplateCard, quoted_slot

_COMMIT = "ff6f520247a2d36e2aff7b2ba53a935afd437f66"
_REPOSITORY = f"https://raw.githubusercontent.com/CodeGoat24/UnifiedReward/{_COMMIT}"
_IMAGES = f"{_REPOSITORY}/inference_qwen/UnifiedReward-2.0-inference"
_EDITS = f"{_REPOSITORY}/UnifiedReward-Edit"
_CAPTION = quoted_slot("prompt", "The text that was to be drawn")
_INSTRUCTION = quoted_slot("instruction", "What the editor was told to do")

_AXES = """- Alignment: is what the text asks for in the picture, and nothing against it?
- Coherence: does the picture hold together, without glitches, twisted bodies or objects that could not be?
- Style: is it good to look at? Leave the text aside for this one."""

_POINT = f"""A model made this picture from a text. Rate it on three axes, each with a number from 1 (worst) to 5
(best); fractions are welcome.
{_AXES}

Answer with these three lines, numbers in place of the letters, and write nothing else:

Alignment Score (1-5): X
Coherence Score (1-5): Y
Style Score (1-5): Z

{_CAPTION}"""

_PAIR = f"""Models made these two pictures from one text; the first is Image 1, the second Image 2. Weigh them
against each other on three axes.
{_AXES}

On each axis share out 1.0 between the two, with fractions from 0 to 1: the better picture gets the larger part, and
0.5 each means that they are equal.

Answer with these lines, numbers in place of the letters, and write nothing else:

Alignment Score:
 Image 1: X
 Image 2: Y

Coherence Score:
 Image 1: X
 Image 2: Y

Style Score:
 Image 1: X
 Image 2: Y

{_CAPTION}"""

UNIFIED_REWARD_POINT = TemplateCard(
    "unified-reward-point",
    f"{_IMAGES}/point_score_ACS_image_generation.py",
    "problem",
    "0f2e89e0e4b34195cd7302274244f75407031d55028c71256df569400d637175",
    725,
    _POINT,
    ("prompt",),
    license="MIT",
)

UNIFIED_REWARD_POINT_DIFFSYNTH = TemplateCard(  # with a sentence more, which the network was not trained on
    "unified-reward-point-diffsynth",
    "https://raw.githubusercontent.com/modelscope/DiffSynth-Studio/fed7b18fac2ed4cb802796eec91970e7659bccde"
    "/diffsynth/models/unified_reward_2.py",
    "UnifiedReward2Model._build_prompt.return",
    "706a5b0e56a0b52c792b61f58b4e6a540776844dc0519a485a420e5ad5d2b9e5",
    829,
    _POINT,
    ("prompt",),
    license="Apache-2.0",
)

UNIFIED_REWARD_PAIR = TemplateCard(
    "unified-reward-pair",
    f"{_IMAGES}/pair_score_image_generation.py",
    "problem",
    "cda153f0855fa20960153aa773d0c188b68344a74ce694d63c31288c367af607",
    1125,
    _PAIR,
    ("prompt",),
    license="MIT",
)

_LIST = """Answer with one JSON object and nothing else. Give the reason in a sentence or two, then the two numbers:
{
"reasoning" : "...",
"score" : [...]
}"""

_EDIT_POINT = f"""You see two pictures: one before an edit, then the same after it. Judge the edit. Where both look
alike, the edit has failed.

{_LIST}

The numbers go from 0 to 25, in this order:
1. success: 0 where nothing of what was told has been done, 25 where all of it has, just as told;
2. restraint: 0 where the second picture has little left of the first, 25 where no more has changed than had to.

{_INSTRUCTION}"""

_EDIT_QUALITY = f"""You see one picture that a model made. Judge how well it is made, whatever it shows.

{_LIST}

The numbers go from 0 to 25, in this order:
1. naturalness: 0 where distances, shadows or light are plainly wrong, 25 where all looks as it would in the world;
2. cleanness: 0 where much is distorted, blurred, scratched, watermarked, misshapen or out of place, 25 where nothing.
"""

_EDIT_CRITERIA = """You see three pictures: one before an edit, then two edits of it by different editors, Image 1 and
Image 2, in this order.

Weigh two things:
1. Fidelity: what was told has been done to the right things, all of it, and nothing else has changed.
2. Quality: light, shadow and perspective fit the scene, no blur, seam or strange surface shows, and the result pleases.
"""

_EDIT_RANK = f"""{_EDIT_CRITERIA}
Which edit is better? Answer with one of these three lines and nothing else:
Image 1 is better.
Image 2 is better.
Both images are equally good.

{_INSTRUCTION}"""

_EDIT_PAIR = f"""{_EDIT_CRITERIA}
Give each edit a number, with one decimal or more: the better the edit the higher, and below zero where faults, missing
parts or needless changes spoil it. The scale is yours; it is the same for both.

Answer with these two lines, numbers in place of the letters, and write nothing else:
Image 1: X
Image 2: Y

{_INSTRUCTION}"""


def _edit(task: str, file: str, sha256: str, length: int, generic: str, slots: tuple[str, ...]) -> TemplateCard:
    name = f"unified-reward-edit-{task.replace('_', '-')}"
    return TemplateCard(name, f"{_EDITS}/{file}", "problem", sha256, length, generic, slots, license="MIT")


UNIFIED_REWARD_EDIT = {
    "pointwise_score": _edit(
        "pointwise_score",
        "edit_pointwise_instruction_following.py",
        "1263912a99e0f153e97867a457f98b251a14e96eefb01eabb9df4e4a229914ef",
        1512,
        _EDIT_POINT,
        ("instruction",),
    ),
    "pointwise_quality": _edit(
        "pointwise_quality",
        "edit_pointwise_quality.py",
        "ddb40baa511dbf2fd619474e5a0fcd043c6325f976bfc8fd1f8b9fbf4c521113",
        1198,
        _EDIT_QUALITY,
        (),
    ),
    "pairwise_rank": _edit(
        "pairwise_rank",
        "edit_pairwise_rank.py",
        "9c5fa669679e55d54225bf56b04bc7e6348770c7a6f5da2742f33f250303cff9",
        1973,
        _EDIT_RANK,
        ("instruction",),
    ),
    "pairwise_score": _edit(
        "pairwise_score",
        "edit_paiwise_score.py",
        "1bc110ff4c14c8b7dd35d5c05bf5d5e4966350af996dd32534939ee7db650575",
        2413,
        _EDIT_PAIR,
        ("instruction",),
    ),
}
