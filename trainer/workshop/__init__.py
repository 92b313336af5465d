"""What is done with a trained generator to make it faster: passes, fine-tuning, measuring, and a search of all three."""
