"""How a conversation opens that CLIP-FlanT5 and LLaVA-1.5 were trained on (Lin et al. 2024, after Liu et al. 2023)."""

from __future__ import annotations

from lightning_imgmetrics.models.prompt_templates.templates import TemplateCard

VQASCORE_SYSTEM = TemplateCard(
    "vqascore-system",
    "https://raw.githubusercontent.com/linzhiqiu/t2v_metrics/6ecb74f92028f42c7e64546d3a71e98c8c73068f"
    "/t2v_metrics/constants.py",
    "SYSTEM_MSG",
    "1fa69e2371b762d1882b0bd98d284f312a36c27add732016e12e52586f98a9f5",
    154,
    "Someone asks a model about what can be seen. The model looks closely, and its answers are true and to the point.",
    license="Apache-2.0",
)
