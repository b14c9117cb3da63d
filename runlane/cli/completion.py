"""``runlane completion``: what a shell offers at TAB, and the script that asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from runlane.cli import show
from runlane.cli.program import Program
from runlane.registry import Registry

#: The environment variable by which the script asks; its value is such as ``bash_complete``.
VARIABLE = "_RUNLANE_COMPLETE"

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class _Bash(BashComplete):
    """Bash cuts words at every colon; ``--app shop.jobs:app`` has one."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that."""
        words, current = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
        now = words[current] if current < len(words) else ""
        before = [_unquoted(word) for word in joined(words[1:current])]
        if before and (now == ":" or before[-1].endswith(":")):
            return before[:-1], before[-1] + now
        return before, _unquoted(now)


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}


def joined(words: Iterable[str]) -> list[str]:
    """Words as they were typed, of pieces that were cut around colons."""
    found: list[str] = []
    for word in words:
        if found and (word == ":" or found[-1].endswith(":")):
            found[-1] += word
        else:
            found.append(word)
    return found


def _unquoted(word: str) -> str:
    return " ".join(split_arg_string(word))


def answer(group: click.Group, asked: str) -> int:
    """Print what fits what was typed so far; the exit code.

    Args:
        asked: the value of the environment variable ``VARIABLE``, such as ``bash_complete``.
    """
    shell = asked.removesuffix("_complete")
    if shell not in _SHELLS:
        return 1
    show.write(_SHELLS[shell](group, {"obj": Program()}, "runlane", VARIABLE).complete())
    return 0


@click.command(short_help="The script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(sorted(_SHELLS)))
@click.pass_context
def completion(context: click.Context, /, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, statuses, and the names in your program.

    \b
    bash:  eval "$(runlane completion bash)"            in ~/.bashrc
    zsh:   eval "$(runlane completion zsh)"             in ~/.zshrc
    fish:  runlane completion fish | source             in ~/.config/fish/config.fish

    Tasks, queues and schedules are those of RUNLANE_APP, of pyproject.toml, or of the --app that was typed before.
    """
    made = _SHELLS[shell](context.find_root().command, {}, "runlane", VARIABLE)
    show.write(made.source_template % made.source_vars(), nl=False)


def _names(of: Callable[[Registry], Iterable[str]]) -> Completer:
    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        found: Iterable[str] = ()
        # What importing a program prints, or how it fails, is no answer to a TAB.
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            with suppress(Exception):
                found = of(context.ensure_object(Program).runtime(tasks=True).registry)
        return [CompletionItem(name) for name in sorted(found) if name.startswith(typed)]

    return complete


tasks = _names(lambda registry: registry.tasks)
queues = _names(lambda registry: registry.queues)
schedules = _names(lambda registry: [entry.id for task in registry.tasks.values() for entry in task.schedules])
