"""What operators see: metrics now, the console later."""
