"""What a newcomer types first: the overview, help, version, guesses, the look at the machine, and completion."""

import importlib.metadata
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from commands import call
from json_schemas import check_schema

import equimu
from equimu.cli._doctor import Doctor, _excluded, _extras, _lines, findings
from equimu.cli._help import _sentence
from equimu.cli._main import _COMMANDS, _parse, commands


def test_the_overview_has_every_command_and_fits_80_columns(capsys):
    code, out, _ = call(capsys)
    assert code == 0 and call(capsys, "--help")[1] == call(capsys, "help")[1] == out
    assert max(map(len, out.splitlines())) <= 80
    assert re.findall(r"^  (\S+)  +\S", out, flags=re.M)[-len(commands()) :] == list(commands())
    assert out.count("  equimu ") == 3  # examples


def test_help_of_a_command_is_asked_for_either_way(capsys):
    assert call(capsys, "help", "doctor")[:2] == call(capsys, "doctor", "--help")[:2]
    assert call(capsys, "show", "lion", "--help")[:2] == call(capsys, "show", "-h")[:2]
    code, _, err = call(capsys, "help", "swep")
    assert code == 2 and "did you mean 'sweep'?" in err


@pytest.mark.parametrize("name", commands())
def test_every_flag_has_a_sentence_and_help_fits_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = call(capsys, name, "--help")[1].splitlines()
    assert max(map(len, lines)) <= 80
    flag, texts, before = "", dict[str, str](), ""
    for line in lines[lines.index("") + 1 :]:
        if re.match(r"  ([\w\[{]|--?\w)", line):
            # The text stands in a column of its own, or in the lines below.
            flag, _, text = line.strip().partition("  ")
            texts[flag] = text
        elif line.startswith("   "):
            if texts.get(flag):  # a sentence goes on only where the line is full
                assert not line.strip() or len(f"{before} {line.split()[0]}") > 78, (before, line)
            texts[flag] = f"{texts.get(flag, '')} {line.strip()}"
        before = line.rstrip()
    # Defaults are values, and words of a command have names.
    assert not [flag for flag, text in texts.items() if "(default: )" in text]
    assert not [flag for flag in texts if re.match(r"[\[\s]*STR\b", flag)]
    if name == "show":
        assert "what it changes" in texts["[GROUP ...]"] and "cpu, gpu or paper" in texts["--scale {None}|STR"]
    flags = {flag: text for flag, text in texts.items() if flag.startswith("--")}
    assert flags or name in ("doctor", "completion")
    assert not [flag for flag, text in flags.items() if not re.sub(r"\((default|required).*", "", text).strip()]


@pytest.mark.parametrize("name", commands())
def test_examples_of_the_help_are_commands(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(
        "import dataclasses, equimu\n@dataclasses.dataclass(frozen=True)\nclass NextByte(equimu.LanguageModel): ...\n"
    )
    text = call(capsys, name, "--help")[1]
    assert ("--config FILE" in text) == _COMMANDS[name].has_config
    examples = re.findall(r"^  equimu (.*)$", text, flags=re.M)
    assert examples
    for example in examples:
        assert callable(_parse(shlex.split(example.partition(" > ")[0])))


def test_the_version_is_that_of_the_package(capsys):
    assert call(capsys, "--version")[:2] == (0, f"equimu {equimu.__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", equimu.__version__)


@pytest.mark.parametrize(
    "guess, words", [("resume", "same command again"), ("generate", "'sample'"), ("fit", "'train'")]
)
def test_guesses_are_answered_with_the_name_here(guess, words, capsys):
    code, out, err = call(capsys, guess)
    assert code == 2 and out == "" and words in err and len(err.splitlines()) == 1


def test_the_overview_needs_no_jax():
    code = "import sys; from equimu.cli import main\ntry: main([])\nexcept SystemExit: print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_an_interrupt_that_python_drops_is_not_lost():
    # As the run begins to listen for signals, one that came in a finalizer is raised after all.
    code = """
import os, signal
from equimu._interrupt import remember_interrupts
remember_interrupts()
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
Finalized()
print("dropped")
from equimu.processes import handle_signals
try:
    with handle_signals():
        print("lost")
except KeyboardInterrupt:
    print("raised")
with handle_signals() as stop:
    print(stop.signum)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dropped", "raised", "0"]


def test_an_interrupt_is_answered_while_the_main_thread_hears_nothing():
    # As in a compiler: no signal comes to the main thread. The first one is answered, the second one ends the process.
    code = """
import signal, threading, time
from equimu._interrupt import remember_interrupts
remember_interrupts()
threading.Timer(1, lambda: print("ready", flush=True)).start()  # while this thread sleeps
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # of this thread
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        assert child.stderr.readline() == (
            "equimu: stopping after the step or compilation under way; Ctrl-C again: at once\n"
        )
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130


def test_the_doctor_looks_at_this_machine(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIMU_CACHE", str(tmp_path / "none" / "yet"))
    code, out, _ = call(capsys, "doctor", "--json")
    found = check_schema("doctor", out)
    assert code == 0 and found["equimu"] == equimu.__version__
    assert found["devices"]["count"] == 8 and found["devices"]["platform"] == "cpu"
    assert found["attention"]["auto"] == "blockwise" and "not on cpu" in found["attention"]["others"]["splash"]
    assert found["cache"]["bytes"] == 0 and found["cache"]["free"] > 0
    assert found["excluded"] == []
    assert max(len(line) for line in _lines(found) if str(tmp_path) not in line) <= 80
    Doctor()()
    assert "attention: auto takes blockwise" in capsys.readouterr().out


def test_versions_that_the_package_leaves_out_are_told():
    installed = findings()["libraries"]["jax"]
    assert _excluded([f"jax!=0.0.1,!={installed},>=0.1", "numpy>=2"]) == [
        f"jax {installed}",
        *([f"jaxlib {installed}"] if findings()["libraries"]["jaxlib"] == installed else []),
    ]
    found = {**findings(), "excluded": ["jaxlib 0.11.0"]}
    assert "WRONG NUMBERS: jaxlib 0.11.0" in "\n".join(_lines(found))


def test_an_extra_is_there_if_all_its_packages_are(monkeypatch):
    known = {"one": ["two[more] ; extra == 'gpu'", "absent ; extra == 'tpu'"], "two": ["far-off>=1 ; extra == 'more'"]}
    requires = importlib.metadata.requires
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: known[name] if name in known else requires(name))
    requirements = [
        "jax>=0.1",
        "pytest>=9 ; extra == 'mine'",
        "surely-not-there>=1 ; python_version >= '3' and extra == 'mine'",
        "numpy>=2 ; extra == 'whole'",
        "surely-not-there ; extra == 'test'",
        "one[gpu]>=0.1 ; extra == 'nested'",
        "one ; extra == 'less'",
    ]
    assert _extras(requirements) == {"mine": ["surely-not-there"], "whole": [], "nested": ["far-off"], "less": []}


def test_bash_completes_commands_flags_and_files(capsys, tmp_path):
    script = tmp_path / "complete.bash"
    script.write_text(call(capsys, "completion", "bash")[1])
    (tmp_path / "my.toml").touch()

    def completed(*words):
        typed = f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}"
        shell = f"source {script}; cd {tmp_path}; {typed}; _equimu; echo ${{COMPREPLY[@]}}"
        return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.split()

    assert completed("equimu", "sw") == ["sweep"]
    assert completed("equimu", "sample", "--te") == ["--temperature"]
    assert completed("equimu", "train", "my") == ["my.toml"]


@pytest.mark.parametrize("shell, words", [("zsh", "bashcompinit"), ("fish", "complete -c equimu")])
def test_other_shells_have_scripts(shell, words, capsys, monkeypatch):
    from equimu.cli import _completion

    monkeypatch.setattr(_completion, "_printed", lambda name: f"--flag-of-{name} 1")
    code, out, _ = call(capsys, "completion", shell)
    assert code == 0 and words in out and "flag-of-train" in out


def test_a_mistake_is_one_line_without_boxes_too(capsys):
    # What is captured is in ASCII, where a box has a title and lines of dashes.
    code, _, err = call(capsys, "doctor", "--jsn")
    assert code == 2 and err == "equimu: Unrecognized options: --jsn; did you mean --json?\n"


SENTENCES = '''
import dataclasses

@dataclasses.dataclass
class Words:
    above: int = 1
    """Of two lines
    (of which the second begins with no letter)."""
    # What stands
    # in two comments.
    below: int = 2
    beside: int = 3  # a comment
    none: int = 4
'''


def test_sentences_of_flags_are_docstrings_or_comments(tmp_path, monkeypatch):
    (tmp_path / "words_of_flags.py").write_text(SENTENCES)
    monkeypatch.syspath_prepend(tmp_path)
    words = importlib.import_module("words_of_flags").Words
    assert [_sentence(words, name) for name in ("above", "below", "beside", "none")] == [
        "Of two lines (of which the second begins with no letter).",
        "What stands in two comments.",
        "a comment",
        None,
    ]


@pytest.mark.parametrize("own", [None, "0"])
def test_xla_is_quiet_where_the_user_has_not_said_otherwise(own):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {} if own is None else {"TF_CPP_MIN_LOG_LEVEL": own}
    code = (
        "import atexit, os, sys; sys.argv[1:] = ['--version']; import equimu.__main__ as program; "
        "assert 'jax' not in sys.modules; atexit.register(lambda: print(os.environ['TF_CPP_MIN_LOG_LEVEL'])); program.main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.splitlines()[1:] == [own or "3"], ran.stderr
