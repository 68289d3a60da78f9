"""The ladder: simpler networks to compare with, on the same split; a pipeline of its own."""
