"""A page to try a network in a browser, and the same predictions for programs, over HTTP on this machine."""
