"""What happens around training steps: averages, logs, samples, measurements, checkpoints, and the end of a run."""
