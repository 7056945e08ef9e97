"""How one step works. Knows no flag, no environment and no resource name."""
