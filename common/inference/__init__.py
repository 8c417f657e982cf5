"""From a checkpoint to converted images."""
