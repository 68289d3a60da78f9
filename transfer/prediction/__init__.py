"""A trained network applied to other photographs, from Python and the command line."""
