"""From the weights of a checkpoint to packed ones: recipes, balancing and calibration."""
