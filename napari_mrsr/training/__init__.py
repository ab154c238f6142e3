"""Training and fine-tuning: recipes, data, loop, checkpoints."""
