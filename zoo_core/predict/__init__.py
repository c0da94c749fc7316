"""Answers to the questions of a file: what is read, how it is written so that a broken run goes on, how models answer.

`questions`, `prompts`, `record` and `answering` need no paddle: whoever can turn rows into tokens can write answers.
"""

from __future__ import annotations
