"""Serving: a thread that owns the model, and OpenAI's HTTP API before it."""

from __future__ import annotations
