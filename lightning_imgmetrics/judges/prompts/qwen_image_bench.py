"""Qwen-Image-Bench: 56 facets of a generated image, in three levels, judged by a checklist per dimension."""

from __future__ import annotations

from lightning_imgmetrics.models.prompt_templates.templates import TemplateCard, quoted_slot

_SOURCE = (
    "https://raw.githubusercontent.com/modelscope/DiffSynth-Studio/fed7b18fac2ed4cb802796eec91970e7659bccde"
    "/diffsynth/models/qwen_image_bench.py"
)

# Level 1 (the dimension), level 2, level 3 (the facet), and our own question about it.
QWEN_FACETS: dict[str, dict[str, dict[str, str]]] = {
    "Quality": {
        "Realism": {
            "Physical Logic": "Could this stand, fall, shine, mirror and cast its shadows like that in the world?",
            "Material Texture": "Do skin, cloth, metal, wood and the rest have the surface of what they are made of?",
        },
        "Detail": {
            "Noise": "Is there fine detail, without grain and without smear?",
            "Edge Clarity": "Are outlines crisp, neither soft nor stepped?",
            "Naturalness": "Is it free of the waxy, greasy or synthetic look of generated pictures?",
        },
        "Resolution": {
            "Resolution": "Is it sharp at its full size, with no blocks or other traces of compression?",
        },
    },
    "Aesthetics": {
        "Composition": {
            "Composition": "Is the picture well arranged: in balance, with a path for the eye?",
        },
        "Color Harmony": {
            "Color Harmony": "Do the colors go together, and with the mood?",
        },
        "Lighting": {
            "Lighting & Atmosphere": "Do light, shade and air suit the scene that the text sets?",
        },
        "Anatomical Portraiture": {
            "Anatomical Fidelity": "Are faces, bones, joints and limbs those of a human body, down to the skin?",
        },
        "Emotional Expression": {
            "Emotional Expression": "Does the picture as a whole carry the feeling that the text asks for?",
        },
        "Style Control": {
            "Style Control": "Is the manner or school that the text names plain to see?",
        },
    },
    "Alignment": {
        "Attributes": {
            "Quantity": "Are there as many of each thing as the text says?",
            "Facial Expression": "Do faces, of people or animals, show what the text says they feel?",
            "Material Properties": "Are things made of what the text says?",
            "Color": "Do things have the colors of the text?",
            "Shape": "Do things have the shapes of the text?",
            "Size": "Do things have the sizes of the text, next to each other too?",
        },
        "Actions": {
            "Contact Interaction": "Where those in the text touch, do they touch as they really would?",
            "Non-contact Interaction": "Where they meet without touching, do place and bearing show how?",
            "Full-body Action": "Does the posture of a person or animal do what the text says is being done?",
        },
        "Layout": {
            "2D Space": "Is each thing left, right, above, below, before or behind as the text says?",
            "3D Space": "Do depth, overlap and place in space fit the text, or else each other?",
        },
        "Relations": {
            "Composition Relationship": "Do the many parts make up one scene that makes sense?",
            "Difference/Similarity": "Are things alike, or unlike, in form, color or material as the text says?",
            "Containment": "Is what lies inside something, or surrounds it, shown so?",
        },
        "Scene": {
            "Real-world Scene": "Is it the kind of place that the text names?",
            "Virtual Scene": "Does an invented world keep to its own rules?",
        },
    },
    "Real-world Fidelity": {
        "Fairness": {
            "Social Bias": "Does it avoid tying a gender to a trade or a setting that the text leaves open?",
            "Cultural Fairness": "Does it show region, race and culture without cliché?",
        },
        "Safety & Compliance": {
            "Safety & Compliance": "Is it free of sexual, cruel, hateful and otherwise forbidden content?",
        },
        "World Knowledge": {
            "Animals": "Do animals have the build and the marks of their kind?",
            "Objects": "Do known things have their true look, parts, emblems and marks?",
            "Information Visualization": "Is an abstract or scientific matter shown rightly, so that it is understood?",
            "Temporal Characteristics": "Do clothes, tools, buildings and ways of life belong to the period?",
            "Cultural Elements": "Are symbols, dress, rites and customs those of the culture?",
        },
    },
    "Creative Generation": {
        "Imagination": {
            "Imagination": "Is there a new idea in how strange or unlike things are put together?",
        },
        "Feature Matching": {
            "Feature Matching": "Where things merge, is the passage smooth, with no seam and no contradiction?",
        },
        "Logical Resolution": {
            "Logical Resolution": "Does what happens have the effects that it must have?",
        },
        "Text Rendering": {
            "Text Accuracy": "Can writing in the picture be read, and is it spelled right?",
            "Text Layout": "Is writing well set: place, alignment, spacing, margins?",
            "Font": "Is the lettering of the kind that the text names?",
            "Cross-lingual Generation": "Is writing that was to be translated right in the other language?",
        },
        "Design Applications": {
            "Graphic Design": "As a poster or advertisement, does it lead the eye and put first what comes first?",
            "Product Design": "Could the product be built, held and used?",
            "Spatial Design": "Do rooms and buildings obey perspective, proportion and the needs of building?",
            "Fashion Styling": "Do cut, outline and make-up fit the named style, the person and the occasion?",
            "Game Design": "Would props and panels work in a game: told apart at a glance, plain in their use?",
            "Art Design": "Is the named art style carried through in stroke, color and form?",
        },
        "Visual Storytelling": {
            "Cinematic Style": "Does it look like a film by the director that the text names?",
            "Camera / Lens Style": "Does it look as if taken with the camera, film or lens that the text names?",
            "Storyboard Creation": "Are there as many panels as the text wants, in its order?",
            "Shot Sizes": "Is the frame as close or as wide as the text wants?",
            "Composition": "Does it keep the rule of arrangement that the text names?",
            "Angles": "Is it seen from the angle that the text names?",
            "Comic Creation": "Does it look like the kind of comic that the text names?",
        },
    },
}


def _checklist(level1: str) -> str:
    lines = []
    for heading, facets in QWEN_FACETS[level1].items():
        lines += [f"## {heading}", *(f"- {facet}: {question}" for facet, question in facets.items())]
    return "\n".join(lines)


def _card(name: str, symbol: str, sha256: str, length: int, generic: str, *slots: str) -> TemplateCard:
    escaped = bool(slots)  # the texts with placeholders are made for str.format
    return TemplateCard(
        f"qwen-image-bench-{name}", _SOURCE, symbol, sha256, length, generic, slots, escaped, "Apache-2.0"
    )


QWEN_SYSTEM = _card(
    "system",
    "SYSTEM_PROMPT",
    "654a1e24488b20c4e891c71fafe1bf5ad073332886d75745bd7b393edaec345b",
    209,
    "You judge pictures that models made from texts. You get the text, the picture and a checklist, and answer each of"
    " its questions by what can be seen.",
)

QWEN_HEADER = _card(
    "header",
    "USER_PROMPT_HEADER",
    "23ed9ba4daff2fcdb109921aafa2fe50565f45da36082e29d838e0ee6e630c4d",
    69,
    f"# Text\n{quoted_slot('prompt', 'The text that was to be drawn')}\n# Picture\n",
    "prompt",
)

QWEN_BODY = _card(
    "body",
    "USER_PROMPT_BODY",
    "fa8c90addfe3c763c92a49c41e39305f29b9305940b75ef61a4037fde18b1604",
    578,
    """

# What to judge
{level1_dim}

# Marks
- 0: there is a fault that anyone would notice.
- 1: there is no fault; it is as good as can be expected.
- 2: it is outstanding, and you could point to what makes it so.
- "N/A": the question does not arise with this text and picture.

# Checklist
{format_checklist}

# Answer
One JSON object and nothing else, no code fence around it. Its keys are the headings (##) of the checklist; below each
are the names of the facets under it, with one mark each:
{
  "heading": {
    "facet": {"score": 0|1|2},
    "another facet": {"score": "N/A"}
  }
}""",
    "level1_dim",
    "format_checklist",
)

QWEN_CHECKLISTS = {
    "Quality": _card(
        "quality",
        "QUALITY_CHECKLIST",
        "8a6d823d018c436ca27b699107b51a9e6f13a77cef6c0c550b61668a302d2854",
        771,
        _checklist("Quality"),
    ),
    "Aesthetics": _card(
        "aesthetics",
        "AESTHETICS_CHECKLIST",
        "17842a0465c43e1dbeefde4751f2820db6f5bfc32118cd26b26c888aebc09560",
        1072,
        _checklist("Aesthetics"),
    ),
    "Alignment": _card(
        "alignment",
        "ALIGNMENT_CHECKLIST",
        "f7c12833f8b09e05d6175799ef0136453c8f44950bb5f70c3b321c793c42be82",
        2083,
        _checklist("Alignment"),
    ),
    "Real-world Fidelity": _card(
        "fidelity",
        "REAL_WORLD_FIDELITY_CHECKLIST",
        "4d9cf534b6b8d9fa71d8cbf5694cedcc48fa8c75b57049bb33ab55bf039a898a",
        1242,
        _checklist("Real-world Fidelity"),
    ),
    "Creative Generation": _card(
        "creation",
        "CREATIVE_GENERATION_CHECKLIST",
        "632992f5e337d6bb331de57fe9e885ca4b178d94098852a8db7754d599572f61",
        3332,
        _checklist("Creative Generation"),
    ),
}
