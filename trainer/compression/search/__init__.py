"""What is done with a trained generator to make it faster: passes, fine-tuning, measuring, a search of all three."""
