"""The matrix as Markdown, for documents: a table of tasks, one of strategies, a legend, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo_core.capabilities import CELLS, STRATEGIES, TASKS, Cell
from zoo_core.matrix.reasons import Note, notes
from zoo_core.matrix.standing import Standing, State
from zoo_core.registry import Architecture

__all__ = ["family_markdown", "markdown"]

_MARKS: dict[State, str] = {
    "verified": "✅", "stale": "🕓", "declared": "🔶", "refused": "❌", "not applicable": "–", "untested": "❔",
}  # fmt: skip
_ENGLISH: dict[str, str] = {
    "family": "family",
    "verified": "verified: recorded tests proved it",
    "stale": "stale: recorded tests proved it, and what they exercised changed since",
    "declared": "declared: the plugin says so, and the proof lacks what is below",
    "refused": "refused before anything starts",
    "not applicable": "not applicable",
    "untested": "untested: the plugin says nothing of it",
    "every": "every family",
    "missing": "missing: ",
    "changed": "changed since: ",
    "head": "| task or strategy | state | shown by, or why |",
    "and": ", ",
    "also": "; ",
    "stop": ".",
}
_CHINESE: dict[str, str] = {
    "family": "系列",
    "verified": "已验证:有测试记录为证",
    "stale": "已过期:曾有测试记录为证,但所涉源码此后有改动",
    "declared": "已声明:插件声明支持,尚缺下述条件来证明",
    "refused": "在启动之前即被拒绝",
    "not applicable": "不适用",
    "untested": "未测试:插件未作声明",
    "every": "所有系列",
    "missing": "尚缺:",
    "changed": "此后有改动:",
    "head": "| 任务或策略 | 状态 | 依据或原因 |",
    "and": "、",
    "also": ";",
    "stop": "。",
}


def markdown(matrix: Mapping[Architecture, Mapping[str, Standing]], chinese: Mapping[str, str] | None = None) -> str:
    """Return the tables of several families.

    Args:
        matrix: how the cells of each family stand.
        chinese: reasons in Chinese, by what the plugin says, for a document in Chinese; `None` is English.
    """
    words = _ENGLISH if chinese is None else _CHINESE
    used = dict.fromkeys(one.state for row in matrix.values() for one in row.values())
    legend = words["also"].join(f"{_MARKS[state]} {words[state]}" for state in _MARKS if state in used) + words["stop"]
    parts = [_table(matrix, cells, words) for cells in (TASKS, STRATEGIES)]
    said = "\n".join(_said(note, words, chinese) for note in notes(matrix))
    return "\n\n".join(part for part in (*parts, legend, said) if part)


def _table(
    matrix: Mapping[Architecture, Mapping[str, Standing]], cells: Sequence[Cell], words: Mapping[str, str]
) -> str:
    titles = [cell.title if words is _ENGLISH else cell.chinese for cell in cells]
    lines = [f"| {' | '.join([words['family'], *titles])} |", "|---" * (len(cells) + 1) + "|"]
    for architecture, row in matrix.items():
        lines.append(f"| {' | '.join([architecture.family, *(_MARKS[row[cell.name].state] for cell in cells)])} |")
    return "\n".join(lines)


def _said(note: Note, words: Mapping[str, str], chinese: Mapping[str, str] | None) -> str:
    titles = [CELLS[cell].title if words is _ENGLISH else CELLS[cell].chinese for cell in note.cells]
    whom = words["and"].join(note.whom) or words["every"]
    before = {"declared": words["missing"], "stale": words["changed"]}.get(note.state, "")
    why = note.why if chinese is None else chinese.get(note.why, note.why)
    return f"- {_MARKS[note.state]} {words['and'].join(titles)} ({whom}): {before}{why}"


def family_markdown(row: Mapping[str, Standing]) -> str:
    """Return a table of one family's cells, a line each."""
    lines = [_ENGLISH["head"], "|---|---|---|"]
    for cell, one in row.items():
        shown = f"{one.record.tier}, `{one.record.test}`" if one.record is not None else one.why
        lines.append(
            f"| `{cell}` | {_MARKS[one.state]} {one.state} | {'missing: ' * (one.state == 'declared')}{shown} |"
        )
    return "\n".join(lines)
