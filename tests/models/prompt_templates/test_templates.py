"""Prompt texts of others: where they are looked for, that sources are not run, and what stands in for them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_imgmetrics.errors import MissingWeights, WeightsMismatch
from lightning_imgmetrics.models.prompt_templates.hpsv3 import HPSV3_INSTRUCTION, HPSV3_SUFFIX
from lightning_imgmetrics.models.prompt_templates.templates import (
    Template,
    TemplateCard,
    find_template,
)

SHELF = os.environ.get("IMGMETRICS_WEIGHTS", "")  # each test has none
TEXT = 'Rate {prompt} — from 0 to 10.\nAnswer {"score": 7}.\n'


def card(text: str = TEXT, symbol: str = "PROMPT", **changes: Any) -> TemplateCard:
    digest = hashlib.sha256(text.encode()).hexdigest()
    built = TemplateCard("rating", "http://127.0.0.1:9/p.py", symbol, digest, len(text), "How good is {prompt}?")
    return replace(built, **{"slots": ("prompt",) if "{prompt}" in text else (), **changes})


def written(folder: Path, source: str, name: str = "p.py") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(source.encode())
    return path


def cached(folder: Path, card: TemplateCard) -> Path:
    """Where the source of a card is kept, below a test's own folder."""
    return folder / "cache" / "templates" / f"{hashlib.sha256(card.source.encode()).hexdigest()[:8]}-{card.file}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    served: list[str]

    def do_GET(self) -> None:
        self.served.append(self.path)
        if self.path == "/slow.py":
            time.sleep(1)
        if self.path != "/short.py":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"PROMPT = ")

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine with `p.py`; its address, and the paths it was asked for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    written(tmp_path / "www", f"PROMPT = {TEXT!r}")
    served: list[str] = []
    handler = type("Handler", (_Handler,), {"served": served})
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "www")))
    threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{web.server_address[1]}", served
    web.shutdown()
    web.server_close()


SOURCES = {
    "a constant": ('PROMPT = """one\n two"""', "PROMPT", "one\n two"),
    "an annotated one": ("PROMPT: str = 'é'", "PROMPT", "é"),
    "the last assignment": ("PROMPT = 'old'\nPROMPT = 'new'", "PROMPT", "new"),
    "one of two names": ("A = PROMPT = 'x'", "PROMPT", "x"),
    "implicit concatenation": ("PROMPT = (\n 'a'\n r'\\n'\n u'b')", "PROMPT", "a\\nb"),
    "concatenation by +": ("PROMPT = 'a' + ('b' + 'c') + 'd'", "PROMPT", "abcd"),
    "concatenation by +=": ("PROMPT = 'a'\nPROMPT += 'b' + 'c'\nPROMPT += 'd'", "PROMPT", "abcd"),
    "a name set again with itself": ("PROMPT = 'b'\nPROMPT = 'a' + PROMPT + 'c'", "PROMPT", "abc"),
    "a join of a list": ("A = 'a'\nB = 'b'\nPROMPT = '\\n'.join([A, B, 'c' + A])", "PROMPT", "a\nb\nca"),
    "a join of a tuple": ("PROMPT = ', '.join(('a', 'b'))", "PROMPT", "a, b"),
    "a join of one, of none": ("PROMPT = '-'.join(['a']) + '-'.join([])", "PROMPT", "a"),
    "other names": ("A = 'a'\nB = A + 'b'\nA = 'c'\nPROMPT = A + B", "PROMPT", "cab"),
    "an f-string of other names": ("A = 'a'\nPROMPT = f'{A}, {{A}}' ' and {A}'", "PROMPT", "a, {A} and {A}"),
    "an f-string without fields": ("PROMPT = f'a'", "PROMPT", "a"),
    "a local of a function": ("A = 'a'\ndef g(x):\n  A = 'b'\n  p = A + 'c'\n  return x", "g.p", "bc"),
    "a function's value": ("def g():\n  B = 'b'\n  return A + B\nA = 'a'", "g.return", "ab"),
    "a method's value": (
        "class C:\n def m(self, x=1):\n  'Doc.'\n  x = x()\n  return ('a'\n   'b')",
        "C.m.return",
        "ab",
    ),
    "a method sees the module, not its class": ("A = 'm'\nclass C:\n A = 'c'\n def m(self):\n  p = A", "C.m.p", "m"),
    "a long concatenation": ("PROMPT = " + "+".join(["'ab'"] * 1200), "PROMPT", "ab" * 1200),
    "an attribute of a class": ("class Prompts:\n    SC = 'sc'\n    PQ: str = 'pq'", "Prompts.PQ", "pq"),
    "an attribute of a class in a class": ("class A:\n class B:\n  C = 'c'", "A.B.C", "c"),
    "a key": ("PROMPTS = {**{}, 1: 'one', 'Real-world v1.0': 'a' 'b'}", "PROMPTS.Real-world v1.0", "ab"),
    "a key of a dict of a class": ("class A:\n X = {'b': {'c': 'abc'}}", "A.X.b.c", "abc"),
    "Windows' line ends": ("PROMPT = '''a\r\nb'''\r\n", "PROMPT", "a\nb"),
    "a byte order mark": ("\ufeffPROMPT = 'a'", "PROMPT", "a"),
    "another declared encoding": ("# -*- coding: latin-1 -*-\nPROMPT = 'é'", "PROMPT", "é"),
    "an odd escape": (r"PROMPT = 'a\d'", "PROMPT", r"a\d"),
}


@pytest.mark.parametrize(("source", "symbol", "text"), SOURCES.values(), ids=SOURCES)
def test_a_text_is_read_from_its_source(source: str, symbol: str, text: str, tmp_path: Path) -> None:
    path = written(tmp_path, source)
    target = card(text, symbol)
    assert find_template(target, path) == Template(text, hashlib.sha256(text.encode()).hexdigest()[:8])
    assert find_template(replace(target, sha256=target.sha256[:6]), str(path)).origin == target.sha256[:8]


FIELDS = {
    "an f-string": ("PROMPT = 'Rate ' f'{prompt}, {{x}}' '.'", "Rate , {x}.", "Rate {prompt}, {x}."),
    "an f-string of an empty name": ("prompt = ''\nPROMPT = f'Rate [{prompt}]'", "Rate []", "Rate [{prompt}]"),
    "an f-string added": ("PROMPT = 'Rate: ' + f'{prompt}\\n'", "Rate: \n", "Rate: {prompt}\n"),
    "a bare name": ("PROMPT = 'Rate: ' + prompt", "Rate: ", "Rate: {prompt}"),
    "an argument": ("def PROMPT(prompt):\n prompt = prompt or ''\n return f'Rate {prompt}'", "Rate ", "Rate {prompt}"),
    "str.format": ("PROMPT = 'Rate {prompt}'", "Rate {prompt}", "Rate {prompt}"),
    "str.replace": ("PROMPT = 'Rate <prompt>, <x>'", "Rate <prompt>, <x>", "Rate {prompt}, <x>"),
    "twice": ("PROMPT = f'{prompt}' ' {prompt} <prompt>'", " {prompt} <prompt>", "{prompt} {prompt} {prompt}"),
    "a name that has it": (
        "A = f'Rate {prompt}'\nPROMPT = '\\n'.join([A, A])",
        "Rate \nRate ",
        "Rate {prompt}\nRate {prompt}",
    ),
}


@pytest.mark.parametrize(("source", "constant", "text"), FIELDS.values(), ids=FIELDS)
def test_placeholders_are_read(source: str, constant: str, text: str, tmp_path: Path) -> None:
    """The digest is that of the constant text: a field is empty there, and what is spelled in a text is not."""
    symbol = "PROMPT.return" if source.startswith("def") else "PROMPT"
    result = find_template(card(constant, symbol, slots=("prompt",)), written(tmp_path, source))
    assert (result.text, result.slots) == (text, ("prompt",))
    assert result.origin == hashlib.sha256(constant.encode()).hexdigest()[:8]
    assert result.fill(prompt="{x}") == text.replace("{prompt}", "{x}")


def test_a_placeholder_that_is_not_there(tmp_path: Path) -> None:
    """The digest of a text does not tell what its fields are called."""
    target = card("Rate []", slots=("prompt",))
    assert find_template(target, written(tmp_path, "PROMPT = f'Rate [{prompt}]'")).fill(prompt="x") == "Rate [x]"
    path = written(tmp_path, "caption = ''\nPROMPT = f'Rate [{caption}]'")
    with pytest.raises(WeightsMismatch, match=rf"{path} has no placeholder 'prompt' in the prompt rating"):
        find_template(target, path)
    with pytest.raises(WeightsMismatch, match=r"'caption', which is neither a text nor one of the .*\['prompt'\]"):
        find_template(target, written(tmp_path, "PROMPT = f'Rate [{caption}]'"))


def test_doubled_braces_of_a_text_for_str_format(tmp_path: Path) -> None:
    """What would be left after `format` stays, though it looks like a placeholder."""
    source = '{{\n  "{{level2}}": {{"{{level3}}": {{"score": 0|1}}}}\n}} of {dim}, {{{dim}}}, {{dim2}}'
    target = card(source, slots=("dim",), escaped=True)
    for dim in ("Quality", "{{level2}} {level3} {dim}", '{"a": 1}'):
        result = find_template(target, written(tmp_path, f"PROMPT = {source!r}"))
        assert result.fill(dim=dim) == source.format(dim=dim)
    plain = find_template(replace(target, escaped=False), tmp_path / "p.py")
    assert plain.text == source


def test_several_symbols_are_joined_by_newlines(tmp_path: Path) -> None:
    source = "A = 'Judge.\\n'\nclass C:\n  B = 'Text: <prompt>'\n"
    text = "Judge.\n\nText: <prompt>\nJudge.\n"
    target = card(text, slots=("prompt",), symbol=("A", "C.B", "A"))
    assert find_template(target, written(tmp_path, source)).fill(prompt="x") == text.replace("<prompt>", "x")
    with pytest.raises(WeightsMismatch, match=r"has no 'D'; its texts are A, C.B$"):
        find_template(replace(target, symbol=("A", "D")), tmp_path / "p.py")


def test_a_folder_of_sources(tmp_path: Path) -> None:
    written(tmp_path / "copies", f"PROMPT = {TEXT!r}")
    assert find_template(card(), tmp_path / "copies").text == TEXT
    elsewhere = card(source="http://127.0.0.1:9/a/b/q.py")
    with pytest.raises(MissingWeights, match=rf"`path` for rating .* a folder with q.py, got '{tmp_path}/copies'"):
        find_template(elsewhere, str(tmp_path / "copies"))
    written(tmp_path / "copies", f"PROMPT = {TEXT!r}", "q.py")
    assert find_template(elsewhere, str(tmp_path / "copies")).text == TEXT


def test_a_source_is_not_run(tmp_path: Path) -> None:
    """Importing it would leave a file behind and then end the process."""
    mark = tmp_path / "was run"
    effects = f"open({str(mark)!r}, 'w').close()\nimport a_module_that_nobody_has\nraise SystemExit(3)\n"
    source = f"{effects}PROMPT = {TEXT!r}\nclass C:\n    {effects.splitlines()[0]}\n    P = {TEXT!r}\n"
    path = written(tmp_path, source)
    assert find_template(card(), path).text == TEXT
    assert find_template(card(symbol="C.P"), path).text == TEXT
    assert not mark.exists()
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        exec(source, {})
    assert mark.exists()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("f'Rate {x}'", "line 3 has 'x', which is neither a text nor"),
        ("'a' f'{OTHER}' f'{NUMBER}'", "line 3 has 'NUMBER', which is neither a text nor"),
        ("f'{OTHER!r}'", "line 3 has a field that is no bare name"),
        ("f'{OTHER:>9}'", "line 3 has a field that is no bare name"),
        ("f'{OTHER.lower()}'", "line 3 has a field that is no bare name"),
        ("f'{OTHER[0]}'", "line 3 has a field that is no bare name"),
        ("textwrap.dedent('a')", "line 3 has a call"),
        ("' a '.strip()", "line 3 has a call"),
        ("'a' + str(1)", "line 3 has a call"),
        ("OTHER.join(['a', 'b'])", "line 3 has a call"),
        ("' '.join(x for x in 'ab')", "line 3 has a call"),
        ("' '.join([*OTHER])", "line 3 has a Starred node"),
        ("' '.join(['a', 1])", "line 3 has a Constant node"),
        ("NUMBER + 'a'", "line 3 has 'NUMBER', which is neither a text nor"),
        ("LATER + 'a'", "line 3 has 'LATER', which is neither a text nor"),
        ("OTHER.lower + 'a'", "line 3 has a Attribute node"),
        ("'%s' % 1", "line 3 has a BinOp node"),
        ("'a' * 2", "line 3 has a BinOp node"),
        ("'a' if OTHER else 'b'", "line 3 has a IfExp node"),
        ("b'a'", "line 3 has a Constant node"),
        ("{'a': 'b'}", "line 3 has a Dict node"),
    ],
)
def test_a_text_that_only_running_the_source_would_make(value: str, found: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"OTHER = 'x'\nNUMBER = 1\nPROMPT = {value}\nLATER = 'y'\n")
    with pytest.raises(WeightsMismatch, match=rf"'PROMPT' in {path} must be constant texts.*not run.*{found}"):
        find_template(card(), path)


def test_an_argument_hides_a_text_of_the_module_with_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a = 'x'\ndef g(a, *, b='y'):\n    return a + b\n")
    with pytest.raises(WeightsMismatch, match="line 3 has 'a', which is neither a text nor"):
        find_template(card("xy", "g.return"), path)
    path = written(tmp_path, "a = 'x'\na -= 'y'\n")
    with pytest.raises(WeightsMismatch, match="line 2 has a BinOp node"):
        find_template(card("x", "a"), path)


def test_a_missing_symbol_lists_what_is_there(tmp_path: Path) -> None:
    source = "A = 'a'\nB = f'{x}'\nN = 1\nclass C:\n D = 'd'\nE = {'f': 'f'}\ndef g():\n    PROMPT = 'local'\n"
    with pytest.raises(WeightsMismatch, match=r"p.py has no 'PROMPT'; its texts are A, E.f, C.D, g.PROMPT$"):
        find_template(card(), written(tmp_path, source))
    with pytest.raises(WeightsMismatch, match="its texts are none"):
        find_template(card(), written(tmp_path, "PROMPT: str\n"))


@pytest.mark.parametrize("content", [b"print 'Python 2'\n", b"PROMPT = 'a\n", b"PROMPT = '\x00'\n", b"x = '\xff'\n"])
def test_a_file_that_is_no_source(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.py"
    path.write_bytes(content)
    with pytest.raises(WeightsMismatch, match=rf"{path} (cannot be read as Python|is not UTF-8)"):
        find_template(card(), path)


@pytest.mark.parametrize("place", ["path", "shelf", "cache"])
def test_another_text_is_an_error_wherever_it_lies(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]
) -> None:
    """The text could be downloaded, and the generic template is there."""
    target = card(source=f"{server[0]}/p.py")
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path / "shelf"))
    entry = cached(tmp_path, target)
    entry.parent.mkdir(parents=True)
    other = TEXT.replace("7", "8")
    path = {
        "path": written(tmp_path, f"PROMPT = {other!r}"),
        "shelf": written(tmp_path / "shelf", f"PROMPT = {other!r}"),
        "cache": written(entry.parent, f"PROMPT = {other!r}", entry.name),
    }[place]
    if place != "shelf":
        (tmp_path / "shelf" / "p.py").unlink()
    digest = hashlib.sha256(other.encode()).hexdigest()
    with pytest.raises(WeightsMismatch) as caught:
        find_template(target, path if place == "path" else None)
    for part in (
        str(path),
        target.sha256,
        digest,
        f"expected {len(TEXT)} characters",
        f"found {len(other)} characters",
    ):
        assert part in str(caught.value)
    assert server[1] == []


def test_length_and_digest_are_both_checked(tmp_path: Path) -> None:
    path = written(tmp_path, f"PROMPT = {TEXT!r}")
    with pytest.raises(WeightsMismatch, match=f"expected {len(TEXT) + 1} characters"):
        find_template(card(length=len(TEXT) + 1), path)
    with pytest.raises(WeightsMismatch, match="begins with 00000000"):
        find_template(card(sha256="00000000"), path)
    with pytest.raises(WeightsMismatch, match="does not hold the prompt rating"):
        find_template(card(), written(tmp_path, r"PROMPT = '\ud800'"))  # half a surrogate pair has no UTF-8


def test_lookup_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]) -> None:
    """Each place in turn has the only whole file; an earlier one would raise, a later one would too."""
    url, served = server
    target = card(source=f"{url}/p.py")
    mine = written(tmp_path / "mine", f"PROMPT = {TEXT!r}")
    shelf = written(tmp_path / "shelf", "PROMPT = 'other'")
    entry = cached(tmp_path, target)
    entry.parent.mkdir(parents=True)
    entry.write_text("PROMPT = 'other'")
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path / "shelf"))
    assert find_template(target, mine).text == TEXT
    mine.unlink()
    with pytest.raises(MissingWeights, match=rf"`path` for rating must be an existing file, or a .* got '{mine}'"):
        find_template(target, mine)
    shelf.write_text(f"PROMPT = {TEXT!r}")
    assert find_template(target).text == TEXT
    shelf.unlink()
    entry.write_text(f"PROMPT = {TEXT!r}")
    assert find_template(target).text == TEXT
    assert served == []
    entry.unlink()
    assert find_template(target).text == TEXT
    assert served == ["/p.py"]


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, f"PROMPT = {TEXT!r}")
    assert find_template(card(), "~/p.py").text == TEXT
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", "~")
    assert find_template(card()).text == TEXT


def test_one_download_for_all_and_none_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]
) -> None:
    url, served = server
    target = card(source=f"{url}/p.py")
    with ThreadPoolExecutor(4) as pool:
        result = set(pool.map(lambda _: find_template(target), range(4)))
    expected = Template(TEXT, target.sha256[:8], ("prompt",))
    assert result == {expected}
    (tmp_path / "www" / "p.py").unlink()
    monkeypatch.setenv("IMGMETRICS_OFFLINE", "1")
    assert find_template(target) == expected
    assert find_template(replace(target, name="another of this source")) == expected
    assert served == ["/p.py"]
    entry = [path for path in (tmp_path / "cache" / "templates").iterdir() if path.suffix != ".lock"]
    assert entry == [cached(tmp_path, target)]
    assert entry[0].read_text() == f"PROMPT = {TEXT!r}"


def test_a_download_of_another_text_is_an_error_and_leaves_nothing(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    target = card(source=f"{server[0]}/p.py", sha256="00000000")
    with pytest.raises(WeightsMismatch, match=rf"{server[0]}/p.py does not hold the prompt rating"):
        find_template(target)
    assert [path for path in (tmp_path / "cache").rglob("*.py") if path.is_file()] == []


@pytest.mark.parametrize(("file", "reason"), [("gone.py", "404"), ("short.py", "IncompleteRead")])
def test_a_failed_download_is_an_error(file: str, reason: str, tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """On one rank of several it must not lead to another prompt than on the others."""
    with pytest.raises(MissingWeights, match=rf"{reason}.*Fetch {server[0]}/{file} .*`template`.*IMGMETRICS_OFFLINE=1"):
        find_template(card(source=f"{server[0]}/{file}"))
    assert [path for path in (tmp_path / "cache").rglob("*.py") if path.is_file()] == []


def test_waiting_for_a_download_that_fails_is_not_followed_by_another(server: tuple[str, list[str]]) -> None:
    target = card(source=f"{server[0]}/slow.py")
    with ThreadPoolExecutor(4) as pool:
        failed = [pool.submit(find_template, target) for _ in range(4)]
    reasons = sorted(str(future.exception()) for future in failed)
    assert server[1] == ["/slow.py"]
    assert all(isinstance(future.exception(), MissingWeights) for future in failed)
    assert ["another process tried and failed" in reason for reason in reasons].count(True) == 3
    with pytest.raises(MissingWeights, match="404"):  # later, one tries again
        find_template(target)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "IMGMETRICS_OFFLINE"])
def test_offline_gives_the_generic_template_with_one_warning(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    monkeypatch.setenv(variable, "1")
    target = card(source=f"{server[0]}/p.py")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert find_template(target) == Template("How good is {prompt}?", "generic", ("prompt",))
        monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path / "shelf"))
        find_template(target)
    assert server[1] == []
    assert [(w.category, w.filename) for w in caught] == [(UserWarning, __file__)] * 2
    for warning, place in zip(caught, ("$IMGMETRICS_WEIGHTS/p.py", f"{tmp_path}/shelf/p.py"), strict=True):
        for part in (target.source, f"put it at {place}", "template=generic", "OFFLINE is set"):
            assert part in str(warning.message)


def test_placeholders_are_filled_literally() -> None:
    """No value is expanded again, neither as a placeholder nor as a group of a pattern, and other braces stay."""
    template = Template('{a} and {b}, {a}: {"score": {b}} {c} { a } {} {0} {a.b} {a!r} %s', "generic", ("a", "b"))
    expected = r'{b} and \1{a}, {b}: {"score": \1{a}} {c} { a } {} {0} {a.b} {a!r} %s'
    assert template.fill(a="{b}", b=r"\1{a}") == expected
    assert template.fill(b=r"\1{a}", a="{b}") == expected
    assert Template('{"score": [1]} {x}', "generic").fill() == '{"score": [1]} {x}'
    assert Template("of {self}", "generic", ("self",)).fill(self="me") == "of me"


@pytest.mark.parametrize("values", [{}, {"prompt": "x", "other": "y"}, {"text": "x"}, {"prompt": None}])
def test_values_that_do_not_fit_the_placeholders(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"placeholders \['prompt'\], got \[|`prompt` must be a text, got None"):
        Template(TEXT, "generic", ("prompt",)).fill(**values)


def test_the_generic_template_of_hpsv3_has_its_structure() -> None:
    with pytest.warns(UserWarning, match="modelscope/DiffSynth-Studio/fed7b18fac2ed4cb802796eec91970e7659bccde"):
        instruction, suffix = find_template(HPSV3_INSTRUCTION), find_template(HPSV3_SUFFIX)
    assert instruction.origin == suffix.origin == "generic"
    quality = ["Reasonableness", "Clarity", "Detail Richness", "Aesthetic and Creativity", "Safety"]
    alignment = ["Subject Relevance", "Style Relevance", "Contextual Consistency", "Attribute Fidelity"]
    names = ["Visual Quality", *quality, "Text Alignment", *alignment, "Semantic Coherence"]
    at = [instruction.text.index(f"**{name}**") for name in names]
    assert at == sorted(at)
    assert instruction.text.count("**") == 2 * len(names)
    prompt = "a {cat}, {text_prompt}"
    assert instruction.fill(text_prompt=prompt).count(prompt) == 1
    assert suffix.fill().endswith("<|Reward|>")
    assert suffix.text.count("<|Reward|>") == 1
    for built, expected in ((HPSV3_INSTRUCTION, instruction), (HPSV3_SUFFIX, suffix)):
        assert len(expected.text) != built.length
        assert len(built.sha256) == 64


@pytest.mark.skipif(
    not (SHELF and (Path(SHELF).expanduser() / HPSV3_INSTRUCTION.file).is_file()),
    reason=f"needs {HPSV3_INSTRUCTION.source} as $IMGMETRICS_WEIGHTS/{HPSV3_INSTRUCTION.file}",
)
def test_the_published_texts_of_hpsv3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", SHELF)
    instruction, suffix = find_template(HPSV3_INSTRUCTION), find_template(HPSV3_SUFFIX)
    assert (instruction.origin, suffix.origin) == ("0393599d", "2471faca")
    assert instruction.fill(text_prompt="a {cat}") == instruction.text.replace("{text_prompt}", "a {cat}")
    assert suffix.fill().count("<|Reward|>") == 1
