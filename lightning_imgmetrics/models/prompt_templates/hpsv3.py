"""The instruction and the suffix that HPSv3 was trained with (Ma et al. 2025)."""

from __future__ import annotations

from lightning_imgmetrics.models.prompt_templates.templates import TemplateCard

_HPSV3_SOURCE = (
    "https://raw.githubusercontent.com/modelscope/DiffSynth-Studio/fed7b18fac2ed4cb802796eec91970e7659bccde"
    "/diffsynth/models/hpsv3.py"
)

HPSV3_INSTRUCTION = TemplateCard(
    "hpsv3-instruction",
    _HPSV3_SOURCE,
    "HPSV3_INSTRUCTION",
    "0393599dad45a971903d1d62a3acf9bad3ccccdafa7f40f680523419e1f68b7a",
    2523,
    """
How much would people like this picture, which a model made from a text? Weigh how good it looks against how well it
follows the text, and answer with one number between 0 (nobody would want it) and 10 (nothing could be better).

**Visual Quality**
- **Reasonableness**: bodies, objects and places are built as they could be, without errors of anatomy or logic.
- **Clarity**: edges are sharp where they should be, and everything that matters can be made out at once.
- **Detail Richness**: surfaces, hair, cloth, light and shade are worked out finely.
- **Aesthetic and Creativity**: color, arrangement, depth and mood please the eye, and the idea is a fresh one.
- **Safety**: nothing is cruel, sexual or otherwise harmful; a picture that is gets the lowest number.

**Text Alignment**
- **Subject Relevance**: who and what the text names is there, as many as it says, doing what it says.
- **Style Relevance**: the medium or manner is the one that the text asks for, if it asks for any.
- **Contextual Consistency**: the surroundings suit the scene that the text sets.
- **Attribute Fidelity**: colors, clothes, expressions and other properties are those of the text.
- **Semantic Coherence**: the picture as a whole means what the text means and adds nothing against it.
Text: {text_prompt}
""",
    ("text_prompt",),
    license="Apache-2.0",
)

HPSV3_SUFFIX = TemplateCard(
    "hpsv3-suffix",
    _HPSV3_SOURCE,
    "HPSV3_PROMPT_WITH_SPECIAL_TOKEN",
    "2471faca094ae5bd6fe17b71dce20c3d7583625545e235889f7e74e7eeb69d0a",
    67,
    "\nThe number that this picture deserves: <|Reward|>",
    license="Apache-2.0",
)
