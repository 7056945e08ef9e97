"""The flex template of the deliver pipeline."""
