"""The competition's folder, and the patches that are trained on."""
