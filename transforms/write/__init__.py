"""Step 2: packs to data files in staging. `stage.py` does the work."""
