"""The command `dogs-vs-cats`, which starts the project's modules."""
