"""How fast deliver is, beside other ways to do the same. Nothing imports this room."""
