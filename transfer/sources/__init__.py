"""Sources of photographs and weights: HTTP, Kaggle, archives and their layouts, synthetic pictures."""
