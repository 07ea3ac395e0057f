"""Where members run: one package for each backend; they never import each other, only what is shared below them."""
