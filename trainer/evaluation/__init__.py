"""What is measured of a trained model, in training and by `trainer.evaluate`: a study of samples, and its measures."""
