"""Commands and graphs: the only package, besides the tools, that parses flags, names resources and runs pipelines."""
