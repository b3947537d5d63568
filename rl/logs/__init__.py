"""What a run tells its user while it works: figures, samples, progress. Files appear whole or not at all."""
