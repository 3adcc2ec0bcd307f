"""Refusals, and what judges say about pictures that sounds like one."""

from __future__ import annotations

import pytest

from lightning_imgmetrics.judges.parsing.refusals import is_refusal

REFUSALS = (
    "I'm sorry, I can't assist with that.",
    "I’m very sorry, but I cannot help.",
    "Sorry, no.",
    "I apologize, but this is not possible.",
    "As an AI, I do not see images.",
    "The images cannot be evaluated.",
    "An evaluation cannot be completed as the images are missing.",
    "Scores cannot be given.",
    "Unable to evaluate the image.",
    "I am unable to view images.",
    "I do not have the ability to evaluate images.",
    "I won't judge people.",
    "Both scores are 0, as no image was provided.",
    "No text prompt\n is provided",
)
OPENINGS = (  # which decline as they begin
    *("Sorry, no", "Unable", "I apologize, but this"),
    *("I'm sorry, but I can't identify", "I'm sorry, I can't help with identifying"),
)
REALISTIC = (
    "I'm sorry, but I can't assist with that request.",
    "I'm sorry, I can't help with identifying people in images.",
    "I'm sorry, but I can't identify the people in these images.",
    "I'm unable to view or analyze images directly.",
    "I cannot evaluate the images because only one was provided.",
    "I can't provide a score for this image.",
    "I am unable to provide an evaluation without the images.",
    "I cannot fulfill this request.",
    "I'm not able to see the image you uploaded.",
    "As an AI language model, I don't have the capability to view images.",
    "I cannot complete the evaluation as the source image is missing.",
    "I apologize, but I cannot process this request.",
    "Sorry, I can't comply with this request.",
    "My apologies, but I am unable to assist further.",
    "I won't rate this image.",
    "I must decline to evaluate this content.",
    "We cannot judge the edited image, as no source image was provided.",
    "I could not access the attached pictures.",
    "The edit cannot be assessed since both images are missing.",
    "I cannot give a rating for the provided image.",
)
REMARKS = (
    "",
    "The face cannot be seen.",
    "A sign that reads SORRY WE ARE CLOSED is rendered well.",
    "The edit was unable to remove the car.",
    "As an AI-generated image it looks natural.",
    "No instruction was followed.",
    "No image artifacts are visible.",
    "The edited image cannot be recognized as an edit.",
    "I can see the dog, which cannot see the cat.",
    "The man looks sorry, and I see no car.",
    "It shows a man unable to see.",
    "The image was provided as a guide.",
)
LOW_SCORES = (
    "I cannot see the dog that the text asks for.",
    "I can't see any artifacts.",
    "I couldn't see any difference between the two images.",
    "I cannot give full marks as the hat is red.",
    "We can't rate it a 10: fingers merge.",
    "We cannot rate this highly: the hands are melted.",
    "The sixth finger reads as an AI artifact.",
    "Recognizable as an AI image, glossy skin.",
    "It is recognisable as an AI creation.",
    "The image shows no text instructions are given.",
    "Images provided are identical; no instruction was given effect.",
    "No prompts were given up on: all is there.",
    "I cannot see a cat anywhere.",
    "I can't find the dog.",
    "I cannot see any editing applied.",
    "I don't see a hat.",
    "I am not able to see the requested text.",
    "I cannot see the picture on the wall.",
    "I cannot see any image artifacts.",
    "I can't determine any distortions.",
    "I cannot determine whether the light comes from the left.",
    "I cannot give it a higher score because of the hands.",
    "I cannot give a score above 5.",
    "I cannot give a perfect score because of the hands.",
    "I can't give it a score of 10.",
    "I can't rate the image any higher.",
    "I cannot rate this image as natural.",
    "A higher score cannot be given.",
    "A full score cannot be given because of the hat.",
    "The image cannot be rated highly.",
    "I cannot help but notice the melted hands.",
    "I'm sorry, but I can't identify the dog in it.",
    "I'm sorry to say that the dog has five legs.",
    "As an AI image, it could not be more obvious.",
    "No reference image was provided, but the light is natural.",
    "No prompt is given, but the scene looks natural.",
    "Sorry, we are closed.",
    "I cannot give a score for the dog, which is not there.",
    "I can't score it above 3.",
    "I cannot judge the image harshly.",
    "The unreadable sign cannot be processed by a reader.",
)


@pytest.mark.parametrize("text", [*REFUSALS, *REALISTIC])
def test_refusals(text: str) -> None:
    assert is_refusal(text)
    assert is_refusal(text.upper())
    assert is_refusal(f"Scored 0. {text}") or text.startswith(OPENINGS)


@pytest.mark.parametrize("text", [*REMARKS, *LOW_SCORES])
def test_remarks(text: str) -> None:
    assert not is_refusal(text)
    assert not is_refusal(f"{text} It follows the prompt.")
    assert not is_refusal(f"It is a picture of a cat. {text}")
