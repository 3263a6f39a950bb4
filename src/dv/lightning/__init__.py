"""Lightning around the network: training step, callbacks, loggers."""
