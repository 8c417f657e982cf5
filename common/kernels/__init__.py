"""What networks and losses are computed with: function nodes, and behind them oneDNN, CUDA or NumPy."""
