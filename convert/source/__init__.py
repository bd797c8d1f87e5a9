"""Where models come from: folders and the hub, checkpoints and the archives they are saved in."""
