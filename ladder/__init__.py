"""The ladder: what each idea from logistic regression to fine-tuning is worth, on one split; a pipeline of its own."""
