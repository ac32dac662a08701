"""The files around the code: versions agree, pages and completions say what the commands are, the unit is sound."""

import argparse
import dataclasses
import pathlib
import re
import subprocess
import tomllib
from collections.abc import Iterator

import pytest

import tedge_agentd
from tedge_agentd import cli, settings
from tedge_agentd.core import config_keys

TOP = pathlib.Path(__file__).parents[2]
PACKAGING = TOP / "packaging"
UNIT = TOP / "systemd/tedge-agentd.service"
PAGES = sorted((PACKAGING / "man").iterdir())
COMPLETION = PACKAGING / "completions/tedge-agentd"
SCRIPTS = (
    PACKAGING / "build-deb",
    PACKAGING / "install-tools",
    PACKAGING / "debian/tedge-agentd.postrm",
    TOP / "tests/system/base-tree.sh",
)


def run(*command: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def rendered(page: pathlib.Path) -> str:
    done = subprocess.run(
        ["man", "--warnings", "--local-file", page],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MANROFFOPT": "-c"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr, done.stderr
    return re.sub(r".\x08", "", done.stdout)


def words(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield every command as a path of words, with its long options."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from words(child, f"{path} {name}".strip())
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    yield path, [option for option in options if option != "--help"]


COMMANDS = sorted((path, option) for path, options in words(cli._parser()) for option in options or [""])


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    changelog = (PACKAGING / "debian/changelog").read_text()
    found = re.match(r"tedge-agentd \((\S+)\) ", changelog)
    assert found
    assert tedge_agentd.__version__ == project["version"] == found[1]


def test_what_the_package_needs_is_declared_once() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    control = (PACKAGING / "debian/control").read_text()
    assert set(project["dependencies"]) == {"watchdog", "tomli-w", "sdnotify", "pystemd", "structlog"}
    for name in project["dependencies"]:
        assert f"python3-{name}" not in control, "${python3:Depends} brings it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_set_without_a_warning(page: pathlib.Path) -> None:
    assert "NAME" in rendered(page)


def test_the_pages_are_those_the_package_installs() -> None:
    installed = (PACKAGING / "debian/tedge-agentd.manpages").read_text().split()
    assert [f"packaging/man/{page.name}" for page in PAGES] == sorted(installed)


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_the_page_and_the_completions_know_every_command(command: str, option: str) -> None:
    page = " ".join(rendered(PACKAGING / "man/tedge-agentd.8").split())
    for text in (page, COMPLETION.read_text(), (PACKAGING / "completions/_tedge-agentd").read_text()):
        for word in (*command.split(), *([option] if option else [])):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), f"{word} of {command!r}"


def test_every_key_is_completed() -> None:
    script = f'. "{COMPLETION}"; _tedge_agentd_keys'
    printed = run("bash", "-c", script).stdout.split()
    assert sorted(printed) == sorted(name for name in config_keys.KEYS if name.startswith("mqtt."))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "apply certs config plan run secure status --help --version"),
        ("s", "secure status"),
        ("plan --", "--diff --json"),
        ("status --w", "--wait"),
        ("status --wait ", ""),
        ("config ", "get list set unset"),
        ("config get mqtt.bind.", "mqtt.bind.address mqtt.bind.enabled mqtt.bind.port"),
        ("config set mqtt.bind.p", "mqtt.bind.port="),
        ("config list m", ""),
        ("secure m", "mutual"),
        ("secure none ", ""),
        ("certs ", "init issue list renew"),
        ("certs issue ", "child server tedge"),
        ("certs issue server --n", "--name"),
        ("certs init --key-type r", "rsa-2048 rsa-3072"),
    ],
)
def test_the_shell_completes(line: str, expected: str) -> None:
    script = f"""
        . "{COMPLETION}"
        COMP_LINE="tedge-agentd $1"; COMP_POINT=${{#COMP_LINE}}
        read -ra COMP_WORDS <<<"$COMP_LINE"
        case $COMP_LINE in *' ') COMP_WORDS+=('') ;; esac
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        compopt() {{ :; }}
        _tedge_agentd
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = run("bash", "-euc", script, "bash", line)
    assert not done.stderr
    assert sorted(done.stdout.split()) == sorted(expected.split())


def test_the_template_shows_every_setting_with_its_default() -> None:
    template = (PACKAGING / "debian/config.toml").read_text()
    assert settings.parse(template.encode()) == (settings.Settings(), ())
    shown = re.sub(r"^#(?=\w+ = )", "", template, flags=re.MULTILINE)
    assert settings.parse(shown.encode()) == (settings.Settings(), ())
    assert set(tomllib.loads(shown)) == _settings()


def test_the_page_explains_every_setting() -> None:
    page = rendered(PACKAGING / "man/tedge-agentd.toml.5")
    assert {name for name in _settings() if name not in page} == set()


def _settings() -> set[str]:
    return {field.name for field in dataclasses.fields(settings.Settings)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_shell_script_parses(script: pathlib.Path) -> None:
    done = run("dash", "-n", script)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_reads_the_completion_and_the_ci_script() -> None:
    for script in (COMPLETION, TOP / ".ci/run"):
        done = run("bash", "-n", script)
        assert (done.returncode, done.stderr) == (0, "")


def test_systemd_accepts_the_unit() -> None:
    # The command itself comes with the package, and tests/system sees it there.
    done = run("systemd-analyze", "verify", "--man=no", UNIT)
    assert [line for line in done.stderr.splitlines() if "is not executable" not in line] == []


def test_the_unit_is_ordered_to_the_broker_and_bound_to_nothing() -> None:
    unit = UNIT.read_text()
    assert re.search(r"^Before=mosquitto\.service$", unit, re.MULTILINE)
    assert not re.search(r"^(Requires|BindsTo|PartOf|Requisite|Wants|Upholds)=", unit, re.MULTILINE)
