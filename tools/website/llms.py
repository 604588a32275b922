"""Writes llms.txt: the index of the documentation for programs that read Markdown (llmstxt.org)."""

from __future__ import annotations

import re

from website.index import page_of, sections


def llms(index: str) -> str:
    """The text of llms.txt, from that of `docs/index.md`: title, summary, the command, a list of pages for each part.

    Paths lead to the pages in Markdown, which are beside their HTML on the site.
    """
    title, _, rest = index.partition("\n")
    summary = " ".join(rest.strip().partition("\n\n")[0].split())
    command = re.search(r"^```sh\n.*?^```$", rest, re.MULTILINE | re.DOTALL)
    lines = [title, "", f"> {summary}", "", *([command[0], ""] if command else [])]
    for heading, entries in sections(index):
        lines += [f"## {heading}", ""]
        lines += [f"- [{name}]({page_of(path)}.md){more}" for name, path, more in entries]
        lines.append("")
    return "\n".join(lines)
