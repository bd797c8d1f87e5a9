"""What every family is made with: reading configs and tensor names, and making plans of them."""
