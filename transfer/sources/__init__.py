"""Where photographs and weights come from: HTTP, Kaggle, archives and their layouts, synthetic pictures."""
