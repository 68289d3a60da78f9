"""What a trained network is worth: scores, diagnosis, figures and the report."""
