"""How an hour is judged: what publishers told, what files and tables hold, and what follows from that."""
