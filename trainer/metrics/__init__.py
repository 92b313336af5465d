"""Functions over features and images: distances, manifolds, scores, text match, similarity; sums over ranks."""
