"""VQAScore against its definition: own tokens and own forward passes, on tiny checkpoints of each kind of judge."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Worlds, random_images
from helpers import judges
from helpers.judges import ScriptedJudge
from helpers.openai_server import Said, serving
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    CLIPVisionModel,
    InstructBlipForConditionalGeneration,
    LlavaForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from lightning_imgmetrics import METRICS, MetricSuite, score
from lightning_imgmetrics.errors import JudgeFailed, MissingWeights, ShapeError, UnknownName, WeightsMismatch
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import ClipFlanT5Judge, pad_to_square
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Question, turn
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.metrics.queries import Sample
from lightning_imgmetrics.judges.metrics.vqa_score import VQAScore
from lightning_imgmetrics.judges.prompts.vqascore import VQASCORE_SYSTEM
from lightning_imgmetrics.models.prompt_templates.templates import TemplateCard, find_template

pytestmark = pytest.mark.filterwarnings("ignore:the prompt vqascore-system:UserWarning")  # the generic one stands in

OPENING = VQASCORE_SYSTEM.generic
SIZES = [(40, 56), (56, 40), (28, 28)]
PROMPTS = ["a red cat", 'the word "Stop!" {on} {} a sign', "two dogs\nand %s {0}"]
ODD = [
    "日本の猫",
    "Кот 😀 e\u0301",
    "<image> </s> <|im_end|> <|image_pad|> <pad> <extra_id_0>",
    " {question} ",
    '"',
    "\\n",
]
YES = 3 + 256 + 95 + 2  # "▁Yes" of the tiny Llama, behind special tokens, bytes, letters and two merges
TOLERANCE = dict(rtol=1e-5, atol=0)  # of probabilities, which are small here: float32 to a few units


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny checkpoint of each kind."""
    root = tmp_path_factory.mktemp("judges")
    made = {}
    for name in ("qwen2_vl", "qwen3_vl", "instructblip", "llava", "clip_flant5"):
        (root / name).mkdir()
        made[name] = getattr(judges, name)(root / name)
    return made


def judge_of(folders: dict[str, Any], kind: str, **kwargs: Any) -> Judge:
    kwargs = {"dtype": "float32", "cache": False, **kwargs}
    return ClipFlanT5Judge(**folders[kind], **kwargs) if kind == "clip_flant5" else LocalJudge(folders[kind], **kwargs)


def images() -> list[Tensor]:
    return [random_images(1, size, seed)[0] for seed, size in enumerate(SIZES)]


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


# What each kind of judge should say, from the definition


def byte_ids(tokenizer: Any, text: str, special: Sequence[str] = ()) -> list[int]:
    """One token per byte, and one for each of `special`."""
    if special:
        first, *rest = special
        mark = tokenizer.convert_tokens_to_ids(first)
        parts = [byte_ids(tokenizer, part, rest) for part in text.split(first)]
        return [i for k, part in enumerate(parts) for i in ([mark] if k else []) + part]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves
    hidden = [b for b in range(256) if b not in shown]
    letters = {b: chr(b) for b in shown} | {b: chr(256 + k) for k, b in enumerate(hidden)}
    return [tokenizer.convert_tokens_to_ids(letters[b]) for b in text.encode()]


@torch.no_grad()
def qwen_chance(folder: str, kind: Any, image: Tensor, question: str, answer: list[int], penalty: float = 1) -> float:
    """The product of the chances of the answer's tokens behind the chat, the first after a penalty of what it holds."""
    model = kind.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    seen = processor(images=[picture(image)], return_tensors="pt")
    tokenizer = judges.byte_tokenizer(["Yes", "No"])
    k = int(seen["image_grid_thw"].prod()) // 4
    text = f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * k}<|vision_end|>{question}<|im_end|>\n"
    ids = byte_ids(tokenizer, text + "<|im_start|>assistant\n", judges.SPECIAL)
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    chance = 1.0
    for token in answer:
        row = torch.tensor([ids])
        kinds = (row == pad).int()
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), mm_token_type_ids=kinds, **seen).logits
        last = logits[0, -1].double()
        if penalty != 1:
            held = torch.tensor(sorted(set(ids)))
            last[held] = torch.where(last[held] > 0, last[held] / penalty, last[held] * penalty)
        chance *= float(last.exp()[token] / last.exp().sum())
        ids = [*ids, token]
    return chance


@torch.no_grad()
def chances_in_turn(step: Callable[[list[int]], Tensor], answer: Sequence[int]) -> list[float]:
    """The chance of each token of the answer behind those before it; `step` gives the logits behind some tokens."""
    return [float(step(list(answer[:k])).double().softmax(0)[token]) for k, token in enumerate(answer)]


@torch.no_grad()
def blip_chances(folder: str, image: Tensor, question: str, answer: str) -> list[float]:
    """Of the answer's tokens and the end."""
    model = InstructBlipForConditionalGeneration.from_pretrained(folder)
    tokenizer, reader = judges.byte_tokenizer(["yes", "no", "</s>"]), judges.byte_tokenizer()
    words = ["yes", "no"]
    text = byte_ids(tokenizer, question, words)
    given = {
        "pixel_values": AutoImageProcessor.from_pretrained(folder)(picture(image), return_tensors="pt")["pixel_values"],
        "input_ids": torch.tensor([[model.config.image_token_index] * 4 + text]),
        "qformer_input_ids": torch.tensor([byte_ids(reader, question)]),
    }
    start = tokenizer.pad_token_id

    def step(before: list[int]) -> Tensor:
        return model(**given, decoder_input_ids=torch.tensor([[start, *before]])).logits[0, -1]

    end = tokenizer.convert_tokens_to_ids("</s>")
    return chances_in_turn(step, [*byte_ids(tokenizer, answer, words), end])


def llama_ids(text: str) -> list[int]:
    """A space before it, "▁Yes" one token, bytes for what is not ASCII: no beginning, no end. No other word with Y."""
    letters = [*map(chr, range(33, 127)), "▁"]
    ids: list[int] = []
    for i, part in enumerate(("▁" + text.replace(" ", "▁")).split("▁Yes")):
        ids += [YES] if i else []
        for letter in part:
            ids += [259 + letters.index(letter)] if letter in letters else [3 + byte for byte in letter.encode()]
    return ids


def in_a_square(image: Tensor) -> Image.Image:
    side = max(image.shape[1:])
    out = Image.new("RGB", (side, side), (122, 116, 104))
    out.paste(picture(image), ((side - image.shape[2]) // 2, (side - image.shape[1]) // 2))
    return out


@torch.no_grad()
def llava_chances(folder: str, image: Image.Image, text: str) -> list[float]:
    """Of "▁Yes" and the end; the text is worded as published, split at <image>, each piece tokenized on its own."""
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    before, behind = text.split("<image>")
    ids = [1, *llama_ids(before), *[model.config.image_token_id] * 4, *llama_ids(behind), 2]
    row = torch.tensor([ids])
    logits = model(input_ids=row, attention_mask=torch.ones_like(row), pixel_values=pixels).logits[0].double()
    assert ids[-2:] == [YES, 2]
    chances = logits.softmax(1)
    return [float(chances[-3, YES]), float(chances[-2, 2])]


def flan_ids(text: str) -> list[int]:
    """Words of ASCII letters, a space before each: pieces are letters, or "▁Yes" and "▁yes"."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁Yes", "▁yes", *map(chr, range(33, 127))]
    ids = []
    for word in text.split():
        first = next((k for k in ("Yes", "yes") if word.startswith(k)), "")
        ids += [pieces.index("▁" + first), *(pieces.index(letter) for letter in word[len(first) :])]
    return ids


@torch.no_grad()
def flan_chances(parts: dict[str, str], image: Tensor, question: str, answer: str) -> list[float]:
    """Of the answer's tokens and the end."""
    folder = Path(parts["model"])
    tensors = torch.load(folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    model = T5ForConditionalGeneration(T5Config(**{k: x for k, x in config.items() if k in T5Config().to_dict()}))
    model.lm_head.weight = torch.nn.Parameter(tensors["lm_head.weight"])  # not tied
    model.load_state_dict({k: x for k, x in tensors.items() if k in model.state_dict()})
    model.config.scale_decoder_outputs = False  # as with `tie_word_embeddings` false
    model.eval()
    tower = CLIPVisionModel.from_pretrained(parts["vision"])
    pixels = AutoImageProcessor.from_pretrained(parts["vision"])(in_a_square(image), return_tensors="pt")
    hidden = tower(pixels["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    w = {k.removeprefix("mm_projector."): x for k, x in tensors.items()}
    seen = torch.nn.functional.gelu(hidden @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]
    texts = [f"{OPENING} USER: ", f"\n{question} ASSISTANT: "]
    before, behind = (tensors["shared.weight"][torch.tensor([*flan_ids(t), 1])][None] for t in texts)
    embedded = torch.cat([before, seen, behind], 1)

    def step(tokens: list[int]) -> Tensor:
        return model(inputs_embeds=embedded, decoder_input_ids=torch.tensor([[0, *tokens]])).logits[0, -1]

    return chances_in_turn(step, [*flan_ids(answer), 1])


def mean_of(chances: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(chances))))


def check(metric: VQAScore, expected: Sequence[float], prompts: Sequence[str] = PROMPTS) -> None:
    metric.update(images=images(), prompts=prompts, ids=range(len(expected)))
    torch.testing.assert_close(metric.scores()[1], torch.tensor(expected, dtype=torch.float64), **TOLERANCE)
    assert float(metric.compute()) == pytest.approx(np.mean(expected), rel=1e-5)


class TestParity:
    question = 'Show "{}"?'  # without the answers, which are tokens of their own here

    def worded(self, prompt: str) -> str:
        return self.question.replace("{}", prompt)

    @pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl"])
    @pytest.mark.parametrize("variant", ["plain", "published"])
    def test_qwen(self, folders: dict[str, Any], kind: str, variant: str) -> None:
        network = {"qwen2_vl": Qwen2VLForConditionalGeneration, "qwen3_vl": Qwen3VLForConditionalGeneration}[kind]
        penalty = {"qwen2_vl": 1.05, "qwen3_vl": 1.3}[kind] if variant == "published" else 1
        yes = judges.byte_tokenizer(["Yes", "No"]).convert_tokens_to_ids("Yes")
        expected = [
            qwen_chance(folders[kind], network, image, self.worded(prompt), [yes], penalty)
            for image, prompt in zip(images(), PROMPTS, strict=True)
        ]
        judge = judge_of(folders, kind)
        check(VQAScore(judge, question=self.question, variant=variant), expected)

    def test_the_repetition_penalty_makes_a_difference(self, folders: dict[str, Any]) -> None:
        judge = judge_of(folders, "qwen3_vl")
        plain, published = (
            VQAScore(judge, variant=v).similarity(images=images(), prompts="a cat") for v in ("plain", "published")
        )
        assert ((plain / published - 1).abs() > 1e-3).all()

    def test_an_answer_of_several_tokens(self, folders: dict[str, Any]) -> None:
        answer = byte_ids(judges.byte_tokenizer(), "Oui")
        network = Qwen2VLForConditionalGeneration
        expected = [
            qwen_chance(folders["qwen2_vl"], network, image, self.worded(prompt), answer)
            for image, prompt in zip(images(), PROMPTS, strict=True)
        ]
        check(VQAScore(judge_of(folders, "qwen2_vl"), question=self.question, answer="Oui"), expected)

    @pytest.mark.parametrize("variant", ["plain", "published", None])
    def test_instructblip(self, folders: dict[str, Any], variant: str | None) -> None:
        expected = []
        for image, prompt in zip(images(), PROMPTS, strict=True):
            chances = blip_chances(folders["instructblip"], image, self.worded(prompt), "yes")
            expected.append(chances[0] if variant == "plain" else mean_of(chances))
        check(VQAScore(judge_of(folders, "instructblip"), question=self.question, variant=variant), expected)

    def test_llava_as_published(self, folders: dict[str, Any]) -> None:
        expected = []
        for image, prompt in zip(images(), PROMPTS, strict=True):
            asked = f'Does this figure show "{prompt}"? Please answer yes or no.'
            text = f"{OPENING} USER: <image>\n{asked} ASSISTANT: Yes"
            expected.append(mean_of(llava_chances(folders["llava"], in_a_square(image), text)))
        check(VQAScore(judge_of(folders, "llava")), expected)

    def test_llava_plain(self, folders: dict[str, Any]) -> None:
        """The checkpoint's own chat and crop, and the first token alone."""
        text = "USER: <image>\n{} ASSISTANT: Yes"
        expected = [
            llava_chances(folders["llava"], picture(image), text.replace("{}", self.worded(prompt)))[0]
            for image, prompt in zip(images(), PROMPTS, strict=True)
        ]
        check(VQAScore(judge_of(folders, "llava"), question=self.question, variant="plain"), expected)

    @pytest.mark.parametrize("variant", ["plain", "published", None])
    @pytest.mark.parametrize("answer", [None, "no way"])
    def test_clip_flant5(self, folders: dict[str, Any], variant: str | None, answer: str | None) -> None:
        expected = []
        for image, prompt in zip(images(), PROMPTS, strict=True):
            asked = f'Does this figure show "{prompt}"? Please answer yes or no.'
            chances = flan_chances(folders["clip_flant5"], image, asked, answer or "Yes")
            expected.append(float(np.prod(chances[:-1])) if variant == "plain" else mean_of(chances))
        check(VQAScore(judge_of(folders, "clip_flant5"), answer=answer, variant=variant), expected)


FIGURE = 'Does this figure show "{}"? Please answer yes or no.'
CAPITALS = 'Does this figure show "{}"? Please answer Yes or No.'
SHOWN = 'Does this image show "{}"? Answer the question with Yes or No'


class TestWords:
    @pytest.mark.parametrize(
        ("kind", "language", "question", "answer", "variant"),
        [
            ("clip_t5", "", FIGURE, "Yes", "published"),
            ("instructblip", "t5", "Question: " + FIGURE, "yes", "published"),
            ("instructblip", "llama", CAPITALS, "Yes", "plain"),
            ("llava", "llama", FIGURE, "Yes", "published"),
            ("llava", "mistral", CAPITALS, "Yes", "plain"),
            ("llava_next", "llama", FIGURE, "Yes", "plain"),
            ("qwen2_vl", "", SHOWN, "Yes", "plain"),
            ("llava_onevision", "qwen2", SHOWN, "Yes", "plain"),
            ("mllama", "mllama_text_model", SHOWN, "Yes", "plain"),
            *(
                (kind, "", CAPITALS, "Yes", "plain")
                for kind in ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "gemma3", "paligemma", "internvl", "")
            ),
        ],
    )
    def test_published_templates(
        self, tmp_path: Path, kind: str, language: str, question: str, answer: str, variant: str
    ) -> None:
        config = {"model_type": kind, "architectures": [], "text_config": {"model_type": language}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        metric = VQAScore(str(tmp_path))
        assert (metric.question.text, metric.question.answer, metric.question.variant) == (question, answer, variant)
        told = str(metric.signature())
        assert f"question:{question}|answer:{answer}|variant:{variant}" in told

    def test_of_a_server(self) -> None:
        metric = VQAScore("gpt-4o@http://localhost:1/v1")
        assert (metric.question.text, metric.question.answer, metric.question.variant) == (CAPITALS, "Yes", "plain")
        with pytest.raises(ValueError, match="`variant` must be 'plain' for a judge that is none of clip_t5, "):
            VQAScore("gpt-4o@http://localhost:1/v1", variant="published")

    @pytest.mark.parametrize("prompt", [*PROMPTS, *ODD, "x" * 10_000, "{}{}"])
    def test_prompts_are_taken_literally(self, prompt: str) -> None:
        judge = ScriptedJudge(script=lambda q: 0.25)
        metric = VQAScore(judge, question="a {b} {} }{ c?", answer="{}")
        metric.update(images=images()[:1], prompts=[prompt])
        assert judges.texts_of(judge.asked[0]) == "a {b} " + prompt + " }{ c?"
        assert judge.asked[0].answer == "{}"
        assert judge.asked[0].scoring == "product"
        assert metric.records()[0]["prompt"] == prompt

    def test_llava_is_asked_as_it_was_trained(self, folders: dict[str, Any]) -> None:
        image = images()[0]
        (query,) = VQAScore(judge_of(folders, "llava")).queries(Sample(image, "a cat"))
        assert [m["role"] for m in query.question.messages] == ["system", "user"]
        assert torch.equal(query.question.images[0], pad_to_square(image))
        assert query.question.scoring == "mean"
        (query,) = VQAScore(judge_of(folders, "llava"), variant="plain").queries(Sample(image, "a cat"))
        assert [m["role"] for m in query.question.messages] == ["user"]
        assert torch.equal(query.question.images[0], image)
        assert query.question.scoring == "product"

    @pytest.mark.parametrize("size", [(3, 5), (5, 3), (4, 4), (1, 6)])
    def test_squares_are_padded_with_the_mean_color(self, size: tuple[int, int]) -> None:
        image = random_images(1, size)[0]
        assert torch.equal(pad_to_square(image), torch.from_numpy(np.array(in_a_square(image))).permute(2, 0, 1))

    def test_the_opening_is_the_published_text(self, tmp_path: Path) -> None:
        """Found and verified in a copy of the source; nothing else passes for it."""
        (tmp_path / "constants.py").write_text('SYSTEM_MSG = "A chat."\n')
        with pytest.raises(WeightsMismatch, match="expected 154 characters"):
            find_template(VQASCORE_SYSTEM, tmp_path)
        told = "This is no file of the authors."
        card = TemplateCard(VQASCORE_SYSTEM.name, VQASCORE_SYSTEM.source, "SYSTEM_MSG", "", len(told), "")
        (tmp_path / "constants.py").write_text(f"SYSTEM_MSG = {told!r}\n")
        assert find_template(card, tmp_path).text == told
        assert "6ecb74f92028f42c7e64546d3a71e98c8c73068f" in VQASCORE_SYSTEM.source


KINDS = ("qwen2_vl", "qwen3_vl", "instructblip", "llava", "clip_flant5")


class TestLaws:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("variant", ["plain", "published"])
    def test_the_batch_size_does_not_matter(self, folders: dict[str, Any], kind: str, variant: str) -> None:
        prompts = [*PROMPTS, *ODD]
        shown = images() * 3
        one, many = (VQAScore(judge_of(folders, kind, batch_size=n), variant=variant) for n in (1, 8))
        for metric in (one, many):
            metric.update(images=shown, prompts=prompts, ids=range(len(prompts)))
        torch.testing.assert_close(many.scores()[1], one.scores()[1], rtol=1e-5, atol=0)
        assert len(one.scores()[1].unique()) == len(prompts)  # it looks at each

    @pytest.mark.parametrize("kind", KINDS)
    def test_special_tokens_in_a_prompt_are_letters(self, folders: dict[str, Any], kind: str) -> None:
        """A prompt that could end the conversation, or hold another image, does neither."""
        metric = VQAScore(judge_of(folders, kind))
        metric.update(images=images()[:2], prompts=["</s><image><|im_end|><|image_pad|><pad><s>", "<|im_start|>user"])
        assert metric.scores()[1].isfinite().all()

    @pytest.mark.parametrize("kind", ["qwen2_vl", "llava"])
    def test_long_prompts_are_not_truncated(self, folders: dict[str, Any], kind: str) -> None:
        metric = VQAScore(judge_of(folders, kind))
        long = "many words " * 900
        scores = metric.similarity(images=images()[:1], prompts=[long + "a", long + "b"])
        assert scores[0] != scores[1]
        assert scores.isfinite().all()

    def test_similarity_is_the_matrix_of_scores(self, folders: dict[str, Any]) -> None:
        metric = VQAScore(judge_of(folders, "clip_flant5", batch_size=4))
        matrix = metric.similarity(images=images(), prompts=PROMPTS[:2])
        assert matrix.shape == (2, 3)
        assert matrix.dtype == torch.float64
        for prompt, row in zip(PROMPTS, matrix):
            one = VQAScore(judge_of(folders, "clip_flant5"))
            one.update(images=images(), prompts=prompt, ids=range(3))
            torch.testing.assert_close(one.scores()[1], row, **TOLERANCE)
        with pytest.raises(ValueError, match="call `update` first"):
            metric.compute()
        with pytest.raises(ShapeError, match="at least one text"):
            metric.similarity(images=images(), prompts=[])

    def test_scores_in_one_call(self, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(METRICS, "vqa_score", VQAScore)
        judge = judge_of(folders, "clip_flant5")
        scores = score("vqa_score", images=images(), prompts=PROMPTS, judge=judge, batch_size=2)
        metric = VQAScore(judge)
        metric.update(images=images(), prompts=PROMPTS, ids=range(3))
        torch.testing.assert_close(scores, metric.scores()[1], **TOLERANCE)

    def test_in_a_suite(self, folders: dict[str, Any]) -> None:
        judge = judge_of(folders, "clip_flant5")
        suite = MetricSuite({v: VQAScore(judge, variant=v) for v in ("plain", "published")})
        suite.update(images(), prompts=PROMPTS, ids=range(3))
        results = suite.results()
        assert results["plain"].value != results["published"].value
        with pytest.raises(ValueError, match="variant"):
            results["plain"].difference(results["published"])

    def test_ranks_agree(self, folders: dict[str, Any], worlds: Worlds) -> None:
        metric = VQAScore(judge_of(folders, "clip_flant5"))
        metric.update(images=images() * 2, prompts=PROMPTS * 2, ids=range(6))
        ((alone, _),) = worlds(1, on_ranks, folders["clip_flant5"])  # whose threads are as many as those of other ranks
        assert alone == pytest.approx(metric.result().value, rel=1e-5)
        for size in (3, 2):
            for value, n in worlds(size, on_ranks, folders["clip_flant5"]):
                assert value == pytest.approx(alone, rel=1e-9)
                assert n == 6


def on_ranks(rank: int, size: int, parts: dict[str, str]) -> tuple[float, int]:
    """The value and number of six samples; the second rank has the first one, too, and the third has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the generic prompt
        metric = VQAScore(ClipFlanT5Judge(**parts, dtype="float32", cache=False))
        rows = [i for i in range(6) if i % min(size, 2) == rank] + ([0] if rank == 1 else [])
        if rank < 2:
            shown = images() * 2
            metric.update(images=[shown[i] for i in rows], prompts=[(PROMPTS * 2)[i] for i in rows], ids=rows)
        result = metric.result()
        return result.value, result.n


class TestFailures:
    def test_what_the_judge_cannot_tell_is_counted(self) -> None:
        def script(q: Question) -> Answer:
            known = "dog" not in judges.texts_of(q)
            return Answer(probability=0.5) if known else Answer(problem="the server gives no logprobs")

        metric = VQAScore(ScriptedJudge(script=script), max_failed=0.5)
        metric.update(images=images(), prompts=["a cat", "a dog", "a house"], ids=range(3))
        result = metric.result()
        assert (result.value, result.n, result.details["n_failed"]) == (0.5, 2, 1)
        assert metric.rationales() == {1: "the server gives no logprobs"}
        strict = VQAScore(ScriptedJudge(script=script))
        strict.update(images=images(), prompts="a dog", ids=range(3))
        with pytest.raises(JudgeFailed, match=r"3 of 3 samples.* the server gives no logprobs \(3x\)"):
            strict.compute()

    def test_a_server_without_logprobs(self) -> None:
        with serving(lambda body: Said("Yes")) as server:
            metric = VQAScore(f"m@{server.url}")
            metric.update(images=images(), prompts=PROMPTS, ids=range(3))
        assert set(metric.rationales().values()) == {"the server gives no logprobs"}
        with pytest.raises(JudgeFailed, match=r"3 of 3 samples.*no logprobs \(3x\)"):
            metric.compute()

    def test_a_server_with_logprobs(self) -> None:
        """The share of "Yes" among all that may come first; what is asked stands in the request as worded."""
        with serving(lambda body: Said("Yes", logits={"Yes": 1.0, "No": 0.0})) as server:
            metric = VQAScore(f"m@{server.url}")
            metric.update(images=images()[:1], prompts=PROMPTS[1], ids=[0])
        assert float(metric.compute()) == pytest.approx(1 / (1 + np.exp(-1)))
        (body,) = server.bodies
        assert body["messages"][0]["content"][-1]["text"] == CAPITALS.replace("{}", PROMPTS[1])
        assert "chat_template_kwargs" not in body

    def test_zero_is_a_probability(self) -> None:
        metric = VQAScore(ScriptedJudge(script=lambda q: 0.0))
        metric.update(images=images(), prompts="a cat")
        assert float(metric.compute()) == 0
        assert metric.result().details["n_failed"] == 0

    def test_nobody_is_asked_twice(self) -> None:
        judge = ScriptedJudge(script=lambda q: None)
        metric = VQAScore(judge, max_failed=1)
        metric.update(images=images(), prompts=PROMPTS)
        assert len(judge.asked) == 3

    @pytest.mark.parametrize(
        ("given", "error", "words"),
        [
            ({"retries": 1}, ValueError, "`retries` must be 0, got 1: a probability is the same every time"),
            ({"repeats": 3}, ValueError, "`repeats` must be 1, got 3"),
            ({"decoding": Decoding(temperature=1)}, ValueError, "`decoding` must be None"),
            ({"variant": "exact"}, UnknownName, "`variant` must be one of 'plain', 'published'; got 'exact'"),
            ({"question": "Is it a cat?"}, ValueError, "`question` must have {} once"),
            ({"question": "{} or {}?"}, ValueError, "`question` must have {} once"),
            ({"answer": " "}, ValueError, "`answer` must be a text, got ' '"),
            ({"judge": 3}, TypeError, "`judge` must be a Judge"),
        ],
    )
    def test_bad_arguments(self, given: dict[str, Any], error: type[Exception], words: str) -> None:
        with pytest.raises(error) as raised:
            VQAScore(**{"judge": ScriptedJudge(script=lambda q: 0.5), **given})
        assert words in str(raised.value)

    def test_what_is_not_published(self, folders: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "internvl"}')
        metric = VQAScore(str(tmp_path), variant="published")
        with pytest.raises(ValueError, match="`variant` must be 'plain' for a judge that is none of"):
            metric.update(images=images(), prompts="a cat")
        metric = VQAScore(judge_of(folders, "qwen2_vl"), variant="published", answer="No")
        with pytest.raises(ValueError, match="`answer` must be 'Yes' with variant 'published'"):
            metric.update(images=images(), prompts="a cat")

    def test_a_configuration_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("[1]")
        with pytest.raises(WeightsMismatch, match="cannot be read as the configuration"):
            VQAScore(str(tmp_path)).signature()

    def test_bad_inputs(self) -> None:
        metric = VQAScore(ScriptedJudge(script=lambda q: 0.5))
        with pytest.raises(TypeError, match="needs `prompts=`"):
            metric.update(images=images())
        with pytest.raises(ValueError, match=r"`prompts\[1\]` is empty"):
            metric.update(images=images()[:2], prompts=["a", " \n"])
        with pytest.raises(ShapeError):
            metric.update(images=images(), prompts=["a"])


class TestClipFlanT5:
    def test_names(self, folders: dict[str, Any], tmp_path: Path) -> None:
        assert type(as_judge("zhiqiulin/clip-flant5-xl")) is ClipFlanT5Judge
        assert type(as_judge(folders["clip_flant5"]["model"])) is ClipFlanT5Judge
        assert type(as_judge(folders["qwen2_vl"])) is LocalJudge
        (tmp_path / "clip-flant5-like").mkdir()
        (tmp_path / "clip-flant5-like" / "config.json").write_text('{"model_type": "qwen2_vl", "architectures": []}')
        assert type(as_judge(str(tmp_path / "clip-flant5-like"))) is LocalJudge
        assert VQAScore().judge == ClipFlanT5Judge("zhiqiulin/clip-flant5-xxl")
        assert ClipFlanT5Judge("zhiqiulin/clip-flant5-xxl").dtype == "bfloat16"

    def test_signature(self, folders: dict[str, Any]) -> None:
        fields = VQAScore(judge_of(folders, "clip_flant5")).signature().fields
        assert fields["template"] == "generic"
        assert fields["variant"] == "published"
        assert "retries" not in fields
        assert fields["vision"].startswith("clip@")
        assert fields["tokenizer"].startswith("flan-t5@")
        assert len(fields["weights"]) == len(fields["vision_weights"]) == 8

    def test_what_is_here(self, folders: dict[str, Any], tmp_path: Path) -> None:
        judge = judge_of(folders, "clip_flant5")
        assert judge.local_path() == judge.prefetch() == Path(folders["clip_flant5"]["model"])
        without = ClipFlanT5Judge(**{**folders["clip_flant5"], "tokenizer": "google/none"})
        assert without.local_path() is None
        with pytest.raises(MissingWeights, match="google/none"):
            without.prefetch()
        absent = ClipFlanT5Judge("zhiqiulin/clip-flant5-xl")
        assert absent.local_path() is None
        with pytest.raises(MissingWeights, match=r"zhiqiulin/clip-flant5-xl.*cannot be downloaded"):
            VQAScore(absent).update(images=images(), prompts="a cat")

    def chance(self, parts: dict[str, str], **kwargs: Any) -> float | None:
        judge = ClipFlanT5Judge(**parts, cache=False, **{"dtype": "float32", **kwargs})
        return judge.probability([images()[:1]], ["a cat?"], ["Yes"])[0]

    def test_the_tower_of_the_checkpoint_is_used(self, tmp_path: Path) -> None:
        """Of two layouts, with CLIP's tower and without, each reads its own; shards and safetensors are alike."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with_tower, without = judges.clip_flant5(tmp_path / "a", tower=True), judges.clip_flant5(tmp_path / "b")
        chance = self.chance(with_tower)
        assert chance != self.chance(without)
        folder = Path(with_tower["model"])
        tensors = {k: x.clone() for k, x in torch.load(folder / "pytorch_model.bin").items()}
        (folder / "pytorch_model.bin").unlink()
        names = sorted(tensors)
        parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
        for file, some in parts.items():
            save_file({k: tensors[k] for k in some}, folder / file)
        index = {"weight_map": {k: file for file, some in parts.items() for k in some}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert self.chance({**with_tower, "model": str(folder)}, revision="shards") == chance
        (folder / "two.safetensors").unlink()
        with pytest.raises(MissingWeights, match="not all of their files"):
            self.chance(with_tower, revision="less")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda t: t.pop("mm_projector.2.bias"), r"mm_projector\) does not fit.*missing: 2.bias"),
            (lambda t: t.update({"mm_projector.4.bias": torch.ones(16)}), r"mm_projector\).*unexpected: 4.bias"),
            (lambda t: t.pop("decoder.final_layer_norm.weight"), r"missing: decoder.final_layer_norm.weight"),
            (lambda t: t.update({"more.weight": torch.ones(2)}), r"unexpected: more.weight"),
            (lambda t: t.update({"shared.weight": torch.ones(3, 16)}), r"of another shape: .*shared.weight"),
            (lambda t: t.update({"vision_tower.vision_tower.x": torch.ones(1)}), r"vision_tower\) does not fit"),
        ],
    )
    def test_unlike_weights(self, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], words: str) -> None:
        parts = judges.clip_flant5(tmp_path)
        file = Path(parts["model"]) / "pytorch_model.bin"
        tensors = torch.load(file)
        change(tensors)
        torch.save(tensors, file)
        with pytest.raises(WeightsMismatch, match=words):
            self.chance(parts)

    def test_another_layout(self, folders: dict[str, Any], tmp_path: Path) -> None:
        parts = judges.clip_flant5(tmp_path)
        file = Path(parts["model"]) / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "mm_vision_select_layer": -1}))
        with pytest.raises(WeightsMismatch, match=r"must be a CLIP-FlanT5 with .*'mm_vision_select_layer': -1"):
            self.chance(parts)
        with pytest.raises(WeightsMismatch, match="must be a CLIP-FlanT5"):
            self.chance({**parts, "model": folders["llava"]})

    def test_half_precision_is_near(self, folders: dict[str, Any]) -> None:
        exact, half = self.chance(folders["clip_flant5"]), self.chance(folders["clip_flant5"], dtype="bfloat16")
        assert half == pytest.approx(exact, rel=0.2)
        assert half != exact

    def test_beyond_the_context_there_is_no_answer(self, folders: dict[str, Any]) -> None:
        metric = VQAScore(judge_of(folders, "clip_flant5", batch_size=2), max_failed=0.5)
        metric.update(images=images(), prompts=["a cat", "x" * 10_000, "a dog"], ids=range(3))
        assert metric.scores()[1].isfinite().tolist() == [True, False, True]
        assert "tokens, and CLIP-FlanT5 reads 2048" in metric.rationales()[1]

    def test_it_writes(self, folders: dict[str, Any]) -> None:
        judge = judge_of(folders, "clip_flant5", batch_size=2)
        asked = [Question((images()[0],), (turn(IMAGE, text),)) for text in ("a?", "what is this?")]
        cpu = torch.device("cpu")
        for decoding in (Decoding(max_tokens=40), Decoding(max_tokens=40, temperature=1.5, seed=3)):
            together = judge.ask(asked, decoding, cpu)
            alone = [judge.ask([q], decoding, cpu)[0] for q in asked]
            assert together == alone
        short = judge.ask(asked[:1], Decoding(max_tokens=1), cpu)[0]
        assert short.problem == "cut off after 1 tokens" or short.text == ""

    def test_conversations(self, folders: dict[str, Any]) -> None:
        """Several turns and images, none, and a system message in place of the opening."""
        judge = judge_of(folders, "clip_flant5")
        shown = tuple(images())
        chats = [
            ((), (turn("Is it?"),)),
            (shown[:2], (turn(IMAGE, "one"), turn("yes", role="assistant"), turn(IMAGE, "Is it?"))),
            (shown[:1], (turn("Be brief.", role="system"), turn(IMAGE, "Is it?"))),
            (shown[:1], (turn(IMAGE, "Is it?"),)),
        ]
        answers = judge.ask([Question(x, m, "Yes") for x, m in chats], Decoding(), torch.device("cpu"))
        assert len({a.probability for a in answers}) == 4
        assert not any(a.problem for a in answers)

    def test_unknown_scoring(self, folders: dict[str, Any]) -> None:
        asked = Question((images()[0],), (turn(IMAGE, "a?"),), "Yes", "processed")
        with pytest.raises(UnknownName, match="`scoring` must be one of 'product', 'mean'; got 'processed'"):
            judge_of(folders, "clip_flant5").ask([asked], Decoding(), torch.device("cpu"))
