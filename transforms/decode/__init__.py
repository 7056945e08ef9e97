"""Step 1: messages to packs of encoded records. `decoder.py` does the work, `packs.py` is the format of its output."""
