"""What the documents say exists: finding codes, links, make targets, commands and their options."""

import argparse
import ast
import dataclasses
import fnmatch
import functools
import pathlib
import re
from collections.abc import Iterator

import pytest

from tedge_agentd import cli, settings

TOP = pathlib.Path(__file__).parents[2]
PACKAGE = TOP / "tedge_agentd"
FINDINGS = TOP / "docs/findings.md"
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/*.md"), TOP / "tests/system/README.md"])


# Finding codes ----------------------------------------------------------------------------------------------
#
# A code gets into a finding by `Finding(code=...)`, or by way of a Problem, whose code a finding takes over. Where it
# is a parameter of the function around that call, the function is a maker, and the calls to it are followed.

_SINKS = frozenset({"Finding", "Problem"})


class _Function:
    """A function with its parameters in order; the module's own statements are a function without a name."""

    def __init__(self, module: str, node: ast.FunctionDef | ast.Module) -> None:
        self.module = module
        self.name = node.name if isinstance(node, ast.FunctionDef) else ""
        self.node = node
        arguments = node.args if isinstance(node, ast.FunctionDef) else None
        self.parameters = [arg.arg for arg in (*arguments.posonlyargs, *arguments.args)] if arguments else []
        self.all = [*self.parameters, *(arg.arg for arg in (arguments.kwonlyargs if arguments else ()))]
        if self.parameters[:1] in (["self"], ["cls"]):
            self.parameters = self.parameters[1:]

    @functools.cached_property
    def calls(self) -> tuple[ast.Call, ...]:
        """The calls in its body, those of functions within it apart."""
        found = []
        waiting: list[ast.AST] = list(ast.iter_child_nodes(self.node))
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.FunctionDef):
                continue
            if isinstance(node, ast.Call):
                found.append(node)
            waiting += ast.iter_child_nodes(node)
        return tuple(found)

    @functools.cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """Where each name comes from that a module takes from the package: (module, name), by its name there."""
        found: dict[str, tuple[str, str]] = {}
        for node in ast.walk(self.node):
            if isinstance(node, ast.ImportFrom) and node.level:
                package = self.module.split(".")[: -node.level]
                base = ".".join([*package, *([node.module] if node.module else [])])
                found |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
        return found

    def assigned(self, name: str) -> list[ast.expr]:
        """What is assigned to a name anywhere in the function."""
        values: list[ast.expr] = []
        for node in ast.walk(self.node):
            for target in node.targets if isinstance(node, ast.Assign) else ():
                assert isinstance(node, ast.Assign)
                if isinstance(target, ast.Name) and target.id == name:
                    values.append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=True)
                    values += [value for one, value in pairs if isinstance(one, ast.Name) and one.id == name]
        return values


class _Collector:
    def __init__(self, functions: list[_Function]) -> None:
        self.functions = functions
        self.modules = {one.module: one for one in functions if not one.name}
        self.makers: dict[tuple[str, str], tuple[_Function, str]] = {}
        self.codes: set[str] = set()
        self.unclear: list[str] = []
        self.called: set[tuple[str, str]] = set()

    def run(self) -> None:
        known = -1
        while known != len(self.makers):  # until no more makers turn up
            known = len(self.makers)
            self.codes.clear()
            self.unclear.clear()
            self.called.clear()
            for function in self.functions:
                for call in function.calls:
                    value = self._code_of(call, function)
                    if value is not None:
                        self._take(value, function)
        self.unclear += [f"{module}.{name} is called by nobody" for module, name in self.makers.keys() - self.called]

    def _code_of(self, call: ast.Call, function: _Function) -> ast.expr | None:
        """The expression a call passes on as a code, None where it is no such call."""
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if name in _SINKS:
            return keywords.get("code")
        target = self._resolved(call.func, function.module)
        if target not in self.makers:
            return None
        self.called.add(target)
        maker, parameter = self.makers[target]
        if parameter in keywords:
            return keywords[parameter]
        return call.args[maker.parameters.index(parameter)]

    def _resolved(self, called: ast.expr, module: str) -> tuple[str, str]:
        """The module and the name of what is called by `name(...)` or `module.name(...)`."""
        imported = self.modules[module].imports
        match called:
            case ast.Name(id=name):
                return imported.get(name, (module, name))
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                return module, name
            case ast.Attribute(value=ast.Name(id=alias), attr=name) if alias in imported:
                package, inner = imported[alias]
                return f"{package}.{inner}", name
        return "", ""

    def _take(self, value: ast.expr, function: _Function) -> None:
        match value:
            case ast.Constant(value=str(code)):
                self.codes.add(code)
            case ast.IfExp(body=body, orelse=orelse):
                self._take(body, function)
                self._take(orelse, function)
            case ast.Attribute(attr="code"):
                pass  # taken over from a Problem, whose making is a sink of its own
            case ast.JoinedStr():
                self._take_pattern(value, function)
            case ast.Name(id=name) if name in function.all:
                self.makers[function.module, function.name] = function, name
            case ast.Name(id=name) if values := function.assigned(name) or self.modules[function.module].assigned(
                name
            ):
                for one in values:
                    self._take(one, function)
            case _:
                self.unclear.append(f"{function.module}:{value.lineno}: {ast.unparse(value)}")

    def _take_pattern(self, value: ast.JoinedStr, function: _Function) -> None:
        """An f-string with names in it: each of the constants assigned to a name makes a code."""
        texts = [""]
        for part in value.values:
            if isinstance(part, ast.Constant):
                texts = [text + str(part.value) for text in texts]
                continue
            assert isinstance(part, ast.FormattedValue)
            assert isinstance(part.value, ast.Name)
            choices = [text for one in function.assigned(part.value.id) for text in _constants(one)]
            if not choices:
                self.unclear.append(f"{function.module}:{value.lineno}: {ast.unparse(value)}")
            texts = [text + choice for text in texts for choice in choices]
        self.codes |= set(texts)


def _constants(value: ast.expr) -> list[str]:
    if isinstance(value, ast.IfExp):
        return _constants(value.body) + _constants(value.orelse)
    return [value.value] if isinstance(value, ast.Constant) and isinstance(value.value, str) else []


@functools.cache
def _collected() -> _Collector:
    functions = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(path.relative_to(TOP).with_suffix("").parts)
        functions.append(_Function(module, tree))
        functions += [_Function(module, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    collector = _Collector(functions)
    collector.run()
    return collector


def _documented() -> set[str]:
    return set(re.findall(r"^\| `([a-z0-9-]+)` \|", FINDINGS.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_code_can_be_told_from_the_source() -> None:
    assert _collected().unclear == []


def test_every_finding_is_documented() -> None:
    missing = _collected().codes - _documented()
    assert missing == set(), f"docs/findings.md lacks {sorted(missing)}"


def test_every_documented_finding_exists() -> None:
    gone = _documented() - _collected().codes
    assert gone == set(), f"docs/findings.md tells of {sorted(gone)}, which nothing says any more"


# Links, targets, commands -----------------------------------------------------------------------------------


def _text(document: pathlib.Path) -> str:
    return document.read_text(encoding="utf-8")


def _code(document: pathlib.Path) -> Iterator[str]:
    """The lines of code blocks and the code spans, comments apart."""
    text = _text(document)
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [*"\n".join(blocks).replace("\\\n", " ").splitlines(), *re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    yield from (line.partition(" # ")[0].strip().replace("\\|", "|") for line in (*lines, *spans))


def _anchors(document: pathlib.Path) -> set[str]:
    """The names that headings have on the sites that show Markdown."""
    titles = re.findall(r"^#+ (.*)$", _text(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_link_leads_somewhere(document: pathlib.Path) -> None:
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", _text(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_make_target_that_is_named_exists(document: pathlib.Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", _text(TOP / "Makefile"), re.MULTILINE))
    named = {found for code in _code(document) for found in re.findall(r"(?:^|sudo |&& )make ([a-z-]+)", code)}
    assert named - targets == set()


# `tedge-agentd` as a command: at the beginning, after a prompt, `sudo`, or what joins commands.
_COMMAND = re.compile(r"(?:^|\$ |sudo |[;&|] ?)tedge-agentd ((?:-|[a-z])[^;&>]*)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_command_and_option_that_is_named_exists(document: pathlib.Path) -> None:
    wrong = [problem for code in _code(document) for line in _COMMAND.findall(code) for problem in _unknown(line)]
    assert wrong == []


def _unknown(line: str) -> Iterator[str]:
    """What of a command line the parser does not have. `a|b` in it are alternatives, `...` is left out."""
    parsers = [cli._parser()]
    for word in line.replace("[", " ").replace("]", " ").split():
        if word.startswith("-"):
            known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
            if word.partition("=")[0] not in known:
                yield f"{line}: {word}"
            continue
        choices = [table for parser in parsers if (table := _commands(parser))]
        if not choices or word == "...":
            continue
        deeper = [table[one] for table in choices for one in word.split("|") if one in table]
        if len(deeper) < len(word.split("|")):
            yield f"{line}: {word}"
            return
        parsers = deeper


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def test_the_map_shows_what_is_there() -> None:
    text = _text(TOP / "ARCHITECTURE.md")
    rooms = text.partition("\n## Rooms\n")[2].partition("\n```\n")[2].partition("\n```\n")[0]
    shown = re.findall(r"(?<![\w/])([a-z_*]+\.py)\b", rooms.partition("core/")[0])
    there = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert [pattern for pattern in shown if not fnmatch.filter(there, pattern)] == []
    files = re.findall(r"`((?:core|host)/[a-z_]+\.py)\b", text)
    assert [name for name in files if not (PACKAGE / name).exists()] == []


def test_the_readme_names_every_setting() -> None:
    section = _text(TOP / "README.md").partition("\n## Configuration\n")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = [name for cell in first_cells for name in re.findall(r"`([a-z_]+)`", cell)]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(settings.Settings))


def test_the_check_of_commands_sees_what_is_wrong() -> None:
    assert list(_unknown("status --wait 20")) == []
    assert list(_unknown("certs issue child sensor-1 --out DIR")) == []
    assert list(_unknown("config get|set ...")) == []
    assert list(_unknown("stats")) == ["stats: stats"]
    assert list(_unknown("status --json --weit 20")) == ["status --json --weit 20: --weit"]
    assert _COMMAND.findall("sudo tedge-agentd plan --diff; journalctl -u tedge-agentd -e") == ["plan --diff"]
