"""The context that all stages share: settings, device, data, run, resume folder."""
