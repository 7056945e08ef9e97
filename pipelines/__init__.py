"""Which steps, in which order, with what plugged in. The only room that reads flags, names resources or runs anything."""
