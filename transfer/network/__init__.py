"""The network: VGG16's base, its weights, heads, and networks as files."""
