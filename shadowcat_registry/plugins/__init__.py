"""Provider types that come from outside: found, authenticated, probed, run.

The way of a plugin is one direction, and its bytes are read once: a declaration (`records`) is looked up and
what stands there is checked (`sources`, with the rules of `trust` and `names`); the bytes that passed are
compiled and run, and nothing else is. Nothing here knows of a manifest, a registry or a runtime. The checks
authenticate a source: they tell whose code runs. They do not confine it: it has the rights of the process.
"""
