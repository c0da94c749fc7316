"""The conformance kit: what every plugin must keep to, as functions that a plugin's tests call. Nothing imports it.

Each check takes an `Architecture` (`contract.architecture(plugin)`) and raises `AssertionError`, which says what
differs and where. A new family copies the `tests/` of `plugins/llama` and changes the names in them.

- T0, without paddle: `contract` (hooks, configurations, counts) and `tables` (rows, splitting, fusing, what a
  reference implementation declares).
- T1, on one card: `golden` (another implementation's numbers), `pipeline` (the list is the model), `caches` (cached
  decoding), `folders` (Hugging Face folders), `shards` (the ranks' parts make the whole), and `tables.check_layout`.
"""
