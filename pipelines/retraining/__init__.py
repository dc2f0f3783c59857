"""State of a retraining: new data, the gate's result, recovery after a kill."""
